//! Programs of the host that do what only they can: mount, make file systems, LVM.
//!
//! No shell is involved and no argument is made from anything but checked values, each its own argument. Programs get an empty
//! environment, no input, and their messages in English.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::error::StorageError;

/// Most that an error repeats of what a program said, characters.
const MOST_OUTPUT: usize = 400;

/// Where programs of the host are found.
#[derive(Debug, Clone)]
pub struct Commands {
    directories: Vec<PathBuf>,
}

impl Default for Commands {
    /// The directories of the system; not PATH, which whoever starts a program chooses.
    fn default() -> Self {
        Self::within(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from).to_vec())
    }
}

impl Commands {
    /// Programs in these directories only, the first that has one.
    pub fn within(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    /// Whether the host has a program.
    pub fn has(&self, program: &str) -> bool {
        self.find(program).is_some()
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        self.directories.iter().map(|directory| directory.join(program)).find(|path| path.is_file())
    }

    /// Refuses if a program is not there.
    pub(crate) fn require(&self, program: &str) -> Result<PathBuf, StorageError> {
        self.find(program).ok_or_else(|| StorageError::ProgramMissing {
            program: program.to_owned(),
            package: package(program),
        })
    }

    /// Runs a program and waits for it, whatever becomes of it.
    pub(crate) fn output<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: &[S],
    ) -> Result<Output, StorageError> {
        let path = self.require(program)?;
        let search = std::env::join_paths(&self.directories).unwrap_or_default();
        tracing::debug!("{}", spelled(program, arguments));
        Command::new(&path)
            .args(arguments)
            .env_clear()
            .env("PATH", search)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| StorageError::system("run", &path, source))
    }

    /// Runs a program that has to succeed; what it wrote.
    pub(crate) fn run<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: &[S],
    ) -> Result<String, StorageError> {
        let output = self.output(program, arguments)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(failed(program, arguments, &output))
    }
}

/// The error that a program ended badly.
pub(crate) fn failed<S: AsRef<OsStr>>(program: &str, arguments: &[S], output: &Output) -> StorageError {
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let said = String::from_utf8_lossy(said);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = said.join("; ");
    let skipped = said.chars().count().saturating_sub(MOST_OUTPUT);
    StorageError::ProgramFailed {
        command: spelled(program, arguments),
        status: output.status.to_string(),
        output: said.chars().skip(skipped).filter(|character| !character.is_control()).collect(),
    }
}

fn spelled<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    let words = arguments.iter().map(|argument| argument.as_ref().to_string_lossy().into_owned());
    std::iter::once(program.to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Debian's package with a program.
fn package(program: &str) -> &'static str {
    match program {
        "mount" | "umount" => "mount",
        "blkid" => "util-linux",
        "showmount" | "mount.nfs" => "nfs-common",
        "mount.cifs" => "cifs-utils",
        "mount.glusterfs" => "glusterfs-client",
        "mkfs.xfs" => "xfsprogs",
        "mkfs.btrfs" => "btrfs-progs",
        "mkfs.vfat" => "dosfstools",
        "mkfs.ocfs2" => "ocfs2-tools",
        "mkfs.ext2" | "mkfs.ext3" | "mkfs.ext4" => "e2fsprogs",
        "mkfs.udf" => "udftools",
        _ => "lvm2",
    }
}
