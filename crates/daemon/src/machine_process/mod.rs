//! The process of a running machine, `vireo-vmm`: started, found again, asked, watched, ended.
//!
//! A machine's process outlives the daemon. It is known by its process number and the time at which it started (a number alone
//! may be somebody else's tomorrow), and everything that belongs to it lies in a directory of its own:
//!
//! | file | what |
//! |---|---|
//! | `api` | the control socket (HTTP, Cloud Hypervisor's API v1) |
//! | `events` | the machine's life, one line of JSON an event |
//! | `log` | messages of the process |
//!
//! The process may have been taken over by its guest: what it answers is bounded and checked, and nothing waits for it without
//! an end. Its end is seen on a pidfd, by a new daemon as well as by the one that started it.

pub mod confinement;
mod control;
mod events;
mod identity;
mod launch;
#[cfg(test)]
pub(crate) mod stand_in;
pub mod threads;
pub mod usage;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use self::control::{ControlClient, ControlError};
pub use self::events::{Cause, EventTail, MachineEvent};
pub use self::identity::ProcessIdentity;
pub use self::launch::{LaunchError, launch};
pub use self::threads::ThreadError;

/// A process that runs a machine. Dropping it leaves the process alone.
#[derive(Debug)]
pub struct MachineProcess {
    identity: ProcessIdentity,
    pidfd: AsyncFd<OwnedFd>,
    directory: PathBuf,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It was not a child of this daemon, so nobody can say; its last events may.
    Unknown,
}

impl MachineProcess {
    /// The process that works in `directory` and is `identity`, if it still runs.
    pub fn find(directory: &Path, identity: ProcessIdentity) -> io::Result<Option<Self>> {
        let Some(pidfd) = identity.open()? else { return Ok(None) };
        Ok(Some(Self { identity, pidfd: watched(pidfd)?, directory: directory.to_owned() }))
    }

    /// Who it is, for the next daemon.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// The user that it runs as.
    pub fn owner(&self) -> io::Result<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.identity.pid))?;
        // Real, effective, saved, of file systems (proc(5)).
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let user = users.and_then(|users| users.split_ascii_whitespace().nth(3)?.parse().ok());
        user.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has no user"))
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A client of its control socket.
    pub fn control(&self) -> ControlClient {
        ControlClient::new(self.directory.join("api"))
    }

    /// Its events, from the first that its file still has.
    pub fn events(&self) -> io::Result<EventTail> {
        EventTail::open(&self.directory.join("events"))
    }

    /// The end of its log, as one line.
    pub fn last_words(&self) -> String {
        match std::fs::File::open(self.directory.join("log")) {
            Ok(log) => launch::said(&log),
            Err(error) => format!("its log can't be read: {error}"),
        }
    }

    /// Waits for its end; can be asked again.
    pub async fn ended(&self) -> Ending {
        // A pidfd is readable from the end on; an error here means that there is nothing left to wait for.
        let _ = self.pidfd.readable().await;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ending::Exited(code),
                (None, Some(signal)) => Ending::Killed(signal),
                (None, None) => Ending::Unknown,
            },
            Ok(None) | Err(_) => Ending::Unknown,
        }
    }

    /// Ends it at once; nothing happens when it has ended.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Asks it to end; nothing happens when it has ended.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.as_fd(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for MachineProcess {
    fn drop(&mut self) {
        // Takes the entry of a child that has ended out of the kernel's table; fails harmlessly for all others.
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// A descriptor whose readability can be waited for.
#[expect(unsafe_code, reason = "the registration relies on the descriptor staying the same")]
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one descriptor, open until it is dropped, and nobody takes it out of the registration.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watched?)
}

#[cfg(test)]
mod tests;
