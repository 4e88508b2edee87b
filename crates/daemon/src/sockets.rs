//! The sockets at which clients find the daemon: made privately, never taken from a daemon that answers, removed at the end.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use libvirt_rpc::server::Access;

use crate::instance::{Instance, Settings};

/// Members of this group may do everything, as with libvirt.
const GROUP: &str = "libvirt";

/// Why nobody could reach the daemon.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("{path}: another daemon answers there: stop it, or listen elsewhere", path = path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else.
    #[error("{path}: not a socket: remove it, or listen elsewhere", path = path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The host refused.
    #[error("{path}: cannot {operation}: {source}", path = path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl SocketError {
    pub(crate) fn host(path: &Path, operation: &'static str, source: io::Error) -> Self {
        Self::Host { path: path.to_owned(), operation, source }
    }
}

/// A socket, with its file.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    listener: UnixListener,
    access: Access,
    /// Device and inode of the file, so that a successor's is not removed.
    identity: (u64, u64),
}

impl Drop for Socket {
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path).map(|file| (file.dev(), file.ino()));
        if now.is_ok_and(|now| now == self.identity) {
            // The next daemon replaces what is left behind.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// All sockets of a daemon.
#[derive(Debug)]
pub(crate) struct Sockets(Vec<Socket>);

impl Sockets {
    /// Makes the sockets of a daemon with these settings.
    pub(crate) fn open(settings: &Settings) -> Result<Self, SocketError> {
        let mut sockets = Vec::new();
        let directories = [Some(&settings.runtime_directory), settings.further_sockets.as_ref()];
        for directory in directories.into_iter().flatten() {
            make_directory(directory, settings.instance)?;
            for (name, read_only) in [("libvirt-sock", false), ("libvirt-sock-ro", true)] {
                sockets.push(open(&directory.join(name), settings.instance, read_only)?);
            }
        }
        Ok(Self(sockets))
    }

    /// Where everything can be asked.
    pub(crate) fn first(&self) -> &Path {
        self.0.first().map_or(Path::new(""), |socket| &socket.path)
    }

    /// What to accept clients from.
    pub(crate) fn listeners(&self) -> Result<Vec<(UnixListener, Access)>, SocketError> {
        let copy = |socket: &Socket| {
            let listener = socket.listener.try_clone();
            let listener =
                listener.map_err(|source| SocketError::host(&socket.path, "listen on it", source))?;
            Ok((listener, socket.access))
        };
        self.0.iter().map(copy).collect()
    }
}

fn make_directory(path: &Path, instance: Instance) -> Result<(), SocketError> {
    // Others pass through the host's directory to the sockets; a user's own is private.
    let mode = if instance == Instance::System { 0o755 } else { 0o700 };
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|source| SocketError::host(path, "make the directory", source))
}

fn open(path: &Path, instance: Instance, read_only: bool) -> Result<Socket, SocketError> {
    let failed = |operation| move |source| SocketError::host(path, operation, source);
    clear(path)?;
    // Made under a name that nobody looks for, and moved once only the right users may connect.
    let private = path.with_extension(format!("new{}", std::process::id()));
    let _ = std::fs::remove_file(&private);
    let listener = UnixListener::bind(&private).map_err(failed("make it"))?;
    let group = if instance == Instance::System { group_id(GROUP) } else { None };
    let mode = match (instance, read_only, group) {
        (Instance::System, true, _) => 0o666,
        (Instance::System, false, Some(_)) => 0o660,
        _ => 0o600,
    };
    let finish = || {
        if !read_only && group.is_some() {
            chown(&private, None, group)?;
        }
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&private, path)?;
        std::fs::symlink_metadata(path)
    };
    let file = finish().map_err(|source| {
        let _ = std::fs::remove_file(&private);
        SocketError::host(path, "give it to its users", source)
    })?;
    let identity = (file.dev(), file.ino());
    Ok(Socket { path: path.to_owned(), listener, access: crate::access(read_only), identity })
}

/// Removes a socket on which nobody answers.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |operation| move |source| SocketError::host(path, operation, source);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at it")(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove a daemon's that is gone"))
        }
        // Also while it has more clients waiting than fit.
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed("find out whether a daemon answers")(error)),
    }
}

/// The number of a group, from /etc/group (group(5)).
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(directory: &Path) -> Settings {
        Settings {
            instance: Instance::of_user(rustix::process::geteuid().as_raw()),
            state_directory: directory.join("state"),
            runtime_directory: directory.join("run"),
            further_sockets: Some(directory.join("more")),
            machine_program: "/nowhere".into(),
            services_program: "/nowhere".into(),
            default_network: false,
        }
    }

    #[test]
    fn sockets_are_there_while_the_daemon_is() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let sockets = Sockets::open(&settings).unwrap();
        for path in ["run/libvirt-sock", "run/libvirt-sock-ro", "more/libvirt-sock", "more/libvirt-sock-ro"] {
            UnixStream::connect(directory.path().join(path)).unwrap();
        }
        let mode = |path: &str| directory.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("run/libvirt-sock") & 0o007, 0);
        assert_eq!(sockets.listeners().unwrap().len(), 4);
        drop(sockets);
        assert_eq!(std::fs::read_dir(settings.runtime_directory).unwrap().count(), 0);
    }

    #[test]
    fn a_daemon_that_answers_keeps_its_socket_and_a_dead_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        let first = Sockets::open(&settings).unwrap();
        assert!(matches!(Sockets::open(&settings), Err(SocketError::InUse { .. })));
        // As a kill leaves it: the file without anybody behind it.
        let path = directory.path().join("run/libvirt-sock");
        let kept = directory.path().join("run/kept");
        std::fs::hard_link(&path, &kept).unwrap();
        drop(first);
        std::fs::rename(kept, &path).unwrap();
        let second = Sockets::open(&settings).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
    }

    #[test]
    fn another_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        std::fs::create_dir(&settings.runtime_directory).unwrap();
        let path = settings.runtime_directory.join("libvirt-sock");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(Sockets::open(&settings), Err(SocketError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
    }
}
