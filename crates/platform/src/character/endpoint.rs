//! What can be at the other end, and how it is opened.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify;
use rustix::pty::OpenptFlags;

use super::Route;
use super::stream::{Direction, Stream};
use super::terminal::{RawMode, make_raw};

/// What becomes of a file that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Output is added at its end.
    Append,
    /// It is emptied first.
    Truncate,
}

/// What is to be at the other end of a character device.
#[derive(Debug)]
pub enum Endpoint {
    /// Nothing: output is discarded and there is no input.
    Null,
    /// Two descriptors, usually duplicates of standard input and output. A terminal is put into raw mode until the
    /// backend is dropped. Neither descriptor's flags are changed.
    Stdio {
        /// Where input comes from.
        input: OwnedFd,
        /// Where output goes.
        output: OwnedFd,
    },
    /// A new pseudo-terminal.
    Pty,
    /// A file, created (mode 0600) when there is none.
    File {
        /// Its path.
        path: PathBuf,
        /// What becomes of what is there.
        existing: Existing,
    },
    /// A unix stream socket on which this process listens; one client at a time. The path is removed at the end, and a
    /// socket that nobody listens on any more is replaced.
    Socket {
        /// Its path.
        path: PathBuf,
    },
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Stdio { .. } => f.write_str("standard input and output"),
            Self::Pty => f.write_str("pseudo-terminal"),
            Self::File { path, .. } => write!(f, "file {}", path.display()),
            Self::Socket { path } => write!(f, "socket {}", path.display()),
        }
    }
}

/// The live other end: what the pump works on.
pub(super) enum Ends {
    /// None: there is only a log.
    Nothing,
    /// Two descriptors that stay.
    Fixed { input: Option<Stream>, output: Arc<Stream>, _terminal: Option<RawMode> },
    /// A pseudo-terminal's master, and what tells that its slave has been opened.
    Pty { master: Arc<Stream>, opened: OwnedFd },
    /// A listening socket.
    Socket { listener: UnixListener, _path: SocketPath },
}

impl Ends {
    /// Whether readers and clients come and go, and output is kept for them in between.
    pub(super) fn come_and_go(&self) -> bool {
        matches!(self, Self::Pty { .. } | Self::Socket { .. })
    }
}

/// A socket's path, removed when dropped.
pub(super) struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) struct Opened {
    pub(super) route: Route,
    pub(super) ends: Option<Ends>,
    pub(super) pty: Option<PathBuf>,
}

type Failure = (&'static str, io::Error);

fn doing<T, E: Into<io::Error>>(what: &'static str, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| (what, error.into()))
}

impl Endpoint {
    /// This process's standard input and output.
    pub fn stdio() -> io::Result<Self> {
        let input = rustix::stdio::stdin().try_clone_to_owned()?;
        let output = rustix::stdio::stdout().try_clone_to_owned()?;
        Ok(Self::Stdio { input, output })
    }

    pub(super) fn open(self) -> Result<Opened, Failure> {
        match self {
            Self::Null => Ok(Opened { route: Route::Discard, ends: None, pty: None }),
            Self::Stdio { input, output } => {
                let terminal = doing("put the terminal into raw mode", RawMode::enter(&input))?;
                let input = doing("use the input", Stream::shared(input, Direction::Input))?;
                let output = doing("use the output", Stream::shared(output, Direction::Output))?;
                Ok(Opened::fixed(Some(input), output, terminal))
            }
            Self::File { path, existing } => {
                let mut options = OpenOptions::new();
                options.create(true).mode(0o600);
                // O_APPEND also after truncating: a log that is rotated by truncation goes on at its new end.
                options.append(true);
                let file = doing("open it for writing", options.open(path))?;
                if existing == Existing::Truncate {
                    doing("empty it", file.set_len(0))?;
                }
                let output = doing("use it", Stream::shared(file.into(), Direction::Output))?;
                Ok(Opened::fixed(None, output, None))
            }
            Self::Pty => open_pty(),
            Self::Socket { path } => {
                let listener = doing("listen on it", listen(&path))?;
                let ends = Ends::Socket { listener, _path: SocketPath(path) };
                Ok(Opened { route: Route::Nobody, ends: Some(ends), pty: None })
            }
        }
    }
}

impl Opened {
    fn fixed(input: Option<Stream>, output: Stream, _terminal: Option<RawMode>) -> Self {
        let output = Arc::new(output);
        let route = if output.pollable() { Route::Direct(Arc::clone(&output)) } else { Route::Queued };
        Self { route, ends: Some(Ends::Fixed { input, output, _terminal }), pty: None }
    }
}

fn open_pty() -> Result<Opened, Failure> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = doing("create it", rustix::pty::openpt(flags))?;
    doing("make it non-blocking", rustix::io::ioctl_fionbio(&master, true))?;
    doing("grant access to it", rustix::pty::grantpt(&master))?;
    doing("unlock it", rustix::pty::unlockpt(&master))?;
    let path = doing("find its path", rustix::pty::ptsname(&master, Vec::new()))?;
    let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
    let slave_flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = doing("open its slave", rustix::pty::ioctl_tiocgptpeer(&master, slave_flags))?;
    doing("turn echo off", make_raw(&slave))?;
    // Once opened and closed, the master reports a hang-up for as long as nobody has the slave open.
    drop(slave);
    let opened = doing("watch for readers", watch_opens(&path))?;
    let ends = Ends::Pty { master: Arc::new(Stream::own(master)), opened };
    Ok(Opened { route: Route::Nobody, ends: Some(ends), pty: Some(path) })
}

/// How often to look for a reader where the kernel can't tell.
const LOOK_FOR_READER: Duration = Duration::from_secs(1);

/// A descriptor that is readable after the file at `path` has been opened: inotify, so that a pseudo-terminal that
/// nobody reads costs no wake-ups. The number of inotify instances of a user is limited (128 by default): beyond it a
/// timer has to do.
fn watch_opens(path: &Path) -> io::Result<OwnedFd> {
    let by_inotify = || -> rustix::io::Result<OwnedFd> {
        let watcher = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watcher, path, inotify::WatchFlags::OPEN)?;
        Ok(watcher)
    };
    by_inotify().or_else(|_| crate::timer::periodic(LOOK_FOR_READER))
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    rustix::io::ioctl_fionbio(listener.as_fd(), true)?;
    Ok(listener)
}

/// Whether `path` is a socket that nobody listens on: what a process that was killed leaves behind.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused =
        || UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    is_socket && refused()
}
