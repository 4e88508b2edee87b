//! Interfaces that are made for another process to open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::control::{self, IFF_TUN_EXCL};
use super::{fail, flags_for, open_device};
use crate::backend::NetError;

/// A TAP interface that has just been made, with no queue that carries anything. It is gone when this is dropped, and also when
/// the process is killed, until it is [kept](Self::keep): it can be set up and marked before anybody has to remember it.
#[derive(Debug)]
pub struct NewTap {
    fd: OwnedFd,
    name: String,
}

impl NewTap {
    /// Makes an interface for so many queue pairs, by whose `name` none exists yet; "%d" in it becomes a number that is free.
    ///
    /// # Errors
    /// Of kind `AlreadyExists` when there is an interface with that name, `PermissionDenied` without CAP_NET_ADMIN.
    pub fn create(name: &str, queue_pairs: u16) -> Result<Self, NetError> {
        let flags = flags_for(name, queue_pairs)? | IFF_TUN_EXCL;
        let fd = open_device().map_err(|source| fail(name, "cannot open /dev/net/tun", source))?;
        let made = control::attach(fd.as_fd(), name, flags).map_err(|error| {
            let error = match Errno::from_io_error(&error) {
                Some(Errno::BUSY | Errno::EXIST) => {
                    io::Error::new(io::ErrorKind::AlreadyExists, "an interface with this name exists")
                }
                _ => error,
            };
            fail(name, "cannot make it", error)
        })?;
        Ok(Self { fd, name: made })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the interface to be opened by name, by this user and whoever has CAP_NET_ADMIN, until somebody removes it.
    pub fn keep(self) -> Result<(), NetError> {
        let user = rustix::process::geteuid().as_raw();
        control::set_owner(self.fd.as_fd(), user)
            .map_err(|source| fail(&self.name, "cannot set its owner", source))?;
        control::set_persistent(self.fd.as_fd())
            .map_err(|source| fail(&self.name, "cannot make it persistent", source))
    }
}
