//! The socket's file: made privately, never taken from somebody who uses it, removed at the end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("API socket {}: another process answers on it: choose another path or end that process", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else.
    #[error("API socket {}: there is a file of another kind: choose another path or remove it", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The host refused.
    #[error("API socket {}: cannot {attempt}: {error}", path.display())]
    Host {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        attempt: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

/// A file of a socket that this process listens on; removed when dropped, unless it has been replaced.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let identity = std::fs::symlink_metadata(&self.path).map(|file| (file.dev(), file.ino()));
        if identity.is_ok_and(|identity| identity == self.identity) {
            // Nobody is left to tell; the next VMM replaces a socket on which nobody answers.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens on a new socket at `path`, which only this user may use.
///
/// # Errors
/// Something at `path` that must not be replaced, or the host's refusal.
pub(super) fn listen(path: &Path) -> Result<(OwnedFd, SocketFile), SocketError> {
    let failed = |attempt| {
        move |error: Errno| SocketError::Host { path: path.to_owned(), attempt, error: error.into() }
    };
    let address = SocketAddrUnix::new(path).map_err(failed("use this path"))?;
    clear(path, &address)?;
    let socket = new_socket().map_err(failed("make a socket"))?;
    // The file that bind makes gets the socket's own mode (unix(7) and unix_bind in Linux): no moment when it is open
    // to others, and no dependence on the umask of this process.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("set its mode"))?;
    rustix::net::bind(&socket, &address).map_err(failed("make it"))?;
    let file = std::fs::symlink_metadata(path)
        .map(|file| SocketFile { path: path.to_owned(), identity: (file.dev(), file.ino()) })
        .map_err(|error| SocketError::Host { path: path.to_owned(), attempt: "find it again", error })?;
    rustix::net::listen(&socket, BACKLOG).map_err(failed("listen on it"))?;
    Ok((socket, file))
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket on which nobody answers.
fn clear(path: &Path, address: &SocketAddrUnix) -> Result<(), SocketError> {
    let failed = |attempt, error| SocketError::Host { path: path.to_owned(), attempt, error };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at it", error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = new_socket().map_err(|error| failed("make a socket", error.into()))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(|error| failed("remove the stale one", error))
        }
        // EAGAIN: somebody listens and has more connections waiting than fit.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed("find out whether somebody answers on it", error.into())),
    }
}
