//! The host's end of a device: the slave of a pseudo-terminal, or a connection to the machine's socket.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, OutputModes, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// How much is read at a time, bytes.
const CHUNK: usize = 32 << 10;

/// How long the machine's process may take to take a connection.
const CONNECTING: Duration = Duration::from_secs(5);

/// Major numbers of the slaves of pseudo-terminals (Linux, admin-guide/devices.txt).
const TERMINAL_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// An open host's end.
#[derive(Debug)]
pub(crate) struct Line(AsyncFd<OwnedFd>);

impl Line {
    /// Opens the slave at `path`, which has to be that of a pseudo-terminal of the user `owner`.
    pub(crate) fn terminal(path: &Path, owner: u32) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let number = path.as_os_str().as_bytes().strip_prefix(b"/dev/pts/");
        if !number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit)) {
            return Err(wrong("its path is not that of a pseudo-terminal"));
        }
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let file =
            File::options().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let metadata = file.metadata()?;
        let terminal = metadata.file_type().is_char_device()
            && TERMINAL_MAJORS.contains(&rustix::fs::major(metadata.rdev()));
        if !terminal || metadata.uid() != owner {
            return Err(wrong("it is not a pseudo-terminal of the machine"));
        }
        // Somebody may have used it as a terminal of their own.
        let mut settings = tcgetattr(&file)?;
        settings.make_raw();
        settings.output_modes -= OutputModes::OPOST;
        tcsetattr(&file, OptionalActions::Now, &settings)?;
        watched(file.into())
    }

    /// Connects to the socket at `path`.
    pub(crate) async fn socket(path: &Path) -> io::Result<Self> {
        let connected = tokio::time::timeout(CONNECTING, UnixStream::connect(path)).await;
        let socket = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        watched(socket.into_std()?.into())
    }

    /// Sends all of `bytes` to the guest.
    ///
    /// # Errors
    /// `TimedOut`: for as long as `patience` the guest has taken nothing; some may have gone. All others: the machine is gone.
    pub(crate) async fn write(&self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            let writing = self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?));
            let written = tokio::time::timeout(patience, writing).await;
            match written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }

    /// What the guest has sent; empty when the machine is gone. Nothing is lost when the waiting is given up.
    pub(crate) async fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; CHUNK];
        let reading = self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut bytes)?));
        let count = match reading.await {
            // The master of a pseudo-terminal is gone.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => 0,
            read => read?,
        };
        bytes.truncate(count);
        Ok(bytes)
    }
}

#[expect(unsafe_code, reason = "the registration relies on the descriptor staying the same")]
fn watched(fd: OwnedFd) -> io::Result<Line> {
    // SAFETY: an OwnedFd is one descriptor, open until it is dropped, and nobody takes it out of the registration.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::WRITABLE) };
    Ok(Line(watched?))
}
