//! Control groups (cgroup v2): a group a machine, what it may use and what it has used.
//!
//! Everything is below a place that is the daemon's own ([`place`]); nothing else of the host's tree is touched, and systemd's
//! least of all:
//!
//! | the daemon runs | its place |
//! |---|---|
//! | as a unit of systemd, the system's or a user's, with `Delegate=` and `DelegateSubgroup=` | `machines` beside itself in the unit's group |
//! | as root without systemd | `vireo-run-vireo` in the root of the tree, after its runtime directory |
//! | alone in a container's group without systemd | `machines` in that group; it moves itself beside it |
//! | otherwise | none: [`Unavailable`] says why, and documents that ask for limits are refused |
//!
//! A unit of the daemon says
//!
//! ```text
//! [Service]
//! Delegate=yes
//! DelegateSubgroup=daemon
//! KillMode=process
//! ```
//!
//! : the second (systemd 254) so that nothing but groups is in the unit's own group, else the next daemon could not be started
//! while machines run (no group with processes has controllers for those below); the third so that machines outlive the daemon.
//!
//! ```text
//! machines/                  cpu, memory
//!   NAME/                    the process; cpu.weight, cpu.max, memory.*
//!     vcpu0/ vcpu1/ …        the thread of a vCPU (threaded), when vCPUs or other threads have a bandwidth of their own
//!     emulator/              all other threads (threaded), at the same time
//! ```
//!
//! The files are the kernel's, which this module trusts; the processes in the groups may be taken over by guests. They can't
//! leave their group without write access to the tree. Calls block, as writing a limit waits until memory above it is given back.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst of Linux; systemd's CGROUP_DELEGATION. The meaning of the numbers is libvirt's
//! with cgroup v2: shares are cpu.weight.

mod group;
mod place;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub use self::group::{Group, GroupUsage};
#[cfg(test)]
pub(crate) use self::place::take_own_group;
use crate::machine_process::ThreadError;

/// Why there are no groups for machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(String);

impl Unavailable {
    #[cfg(test)]
    pub(crate) fn because(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// Why something about a group failed.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// A file of it.
    #[error("{path}: cannot {operation}: {source}", path = path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A limit that can't be had.
    #[error("{0}")]
    Limit(String),
    /// Processes in it do not end.
    #[error("{path}: processes of an earlier machine are still there", path = .0.display())]
    Occupied(PathBuf),
    /// The threads of the process.
    #[error(transparent)]
    Threads(#[from] ThreadError),
}

/// Which limits groups can have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controllers {
    /// Weight and bandwidth of processors.
    pub cpu: bool,
    /// Memory.
    pub memory: bool,
}

/// The place of the machines' groups.
#[derive(Debug, Clone)]
pub struct ControlGroups {
    directory: PathBuf,
    controllers: Controllers,
}

impl ControlGroups {
    /// Takes the daemon's place in this host's tree; moves the daemon within its own group when that must be empty. No other
    /// daemon has the runtime directory.
    ///
    /// # Errors
    /// Why there is no place.
    pub fn find(runtime_directory: &Path) -> Result<Self, Unavailable> {
        place::take(runtime_directory).map_err(Unavailable)
    }

    /// Groups in `directory`, which is made and whose controllers are handed to what is below.
    fn at(directory: &Path) -> Result<Self, GroupError> {
        make_directory(directory)?;
        let available = read(&directory.join("cgroup.controllers"))?;
        let mut controllers = Controllers::default();
        for (name, there) in [("cpu", &mut controllers.cpu), ("memory", &mut controllers.memory)] {
            *there = available.split_whitespace().any(|found| found == name)
                && write(&directory.join("cgroup.subtree_control"), &format!("+{name}")).is_ok();
        }
        Ok(Self { directory: directory.to_owned(), controllers })
    }

    /// Which limits machines can have.
    pub fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// A new, empty group. What an earlier machine of the name left is ended and removed.
    pub fn make(&self, name: &str) -> Result<Group, GroupError> {
        let group = self.group(name)?;
        if group.directory().exists() {
            group.remove()?;
        }
        make_directory(group.directory())?;
        Ok(group)
    }

    /// The group that another daemon has made.
    pub fn reopen(&self, name: &str) -> Result<Group, GroupError> {
        let group = self.group(name)?;
        let path = group.directory();
        std::fs::metadata(path).map_err(host(path, "find the group"))?;
        Ok(group)
    }

    /// Ends what is still in a group, and removes it; nothing happens when there is none.
    pub fn remove(&self, name: &str) -> Result<(), GroupError> {
        self.group(name)?.remove()
    }

    fn group(&self, name: &str) -> Result<Group, GroupError> {
        // The kernel's own files have a point in their names.
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(harmless) {
            return Err(GroupError::Limit(format!("{name:?} can't be the name of a control group")));
        }
        Ok(Group::new(self.directory.join(name), self.controllers))
    }
}

fn host(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> GroupError {
    let path = path.to_owned();
    move |source| GroupError::Host { path, operation, source }
}

/// Makes a group, or leaves it as it is.
fn make_directory(path: &Path) -> Result<(), GroupError> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(host(path, "make the group")(error))
        }
        _ => Ok(()),
    }
}

/// Reads a file of the kernel's.
fn read(path: &Path) -> Result<String, GroupError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    read.map_err(host(path, "read it"))?;
    Ok(text)
}

/// Writes a value, which the kernel takes or refuses as a whole.
fn write(path: &Path, value: &str) -> Result<(), GroupError> {
    let written =
        File::options().write(true).open(path).and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(host(path, "write it"))
}
