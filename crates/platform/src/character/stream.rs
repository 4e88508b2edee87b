//! One end of a byte stream that never blocks the caller, whatever the descriptor is and whoever shares it.
//!
//! `O_NONBLOCK` belongs to the open file description, which standard output shares with the shell and with every
//! program that it started. So a description of our own is opened through `/proc/self/fd` where that gives one; a
//! socket is asked call by call (`MSG_DONTWAIT`); what remains is written only when `poll` says that it has room, and
//! then no more than surely fits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{RecvFlags, SendFlags};

/// What a pipe takes at once when it says that it has room (PIPE_BUF, one page).
const PIPE_CHUNK: usize = 4096;
/// What a terminal takes at once when it says that it has room.
const TERMINAL_CHUNK: usize = 1;

/// Major number of /dev/null, /dev/zero and their like, which never make anybody wait (Linux admin-guide/devices.rst).
const MEMORY_DEVICES: u32 = 1;

/// How a descriptor is used without blocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// The description is ours alone and has `O_NONBLOCK`.
    NonBlocking,
    /// A socket.
    Socket,
    /// Shared: at most so many bytes when `poll` says that it is ready.
    Cautious(usize),
    /// A file or a device that is always ready.
    AlwaysReady,
}

/// One end of a byte stream.
#[derive(Debug)]
pub(super) struct Stream {
    fd: OwnedFd,
    access: Access,
}

/// Which way a shared descriptor is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Input,
    Output,
}

impl Stream {
    /// A descriptor whose description is ours and has `O_NONBLOCK` already.
    pub(super) fn own(fd: OwnedFd) -> Self {
        Self { fd, access: Access::NonBlocking }
    }

    /// A connected socket.
    pub(super) fn socket(fd: OwnedFd) -> Self {
        Self { fd, access: Access::Socket }
    }

    /// A file.
    pub(super) fn file(fd: OwnedFd) -> Self {
        Self { fd, access: Access::AlwaysReady }
    }

    /// A descriptor that others may share, whose flags are left alone.
    pub(super) fn shared(fd: OwnedFd, direction: Direction) -> io::Result<Self> {
        let status = rustix::fs::fstat(&fd)?;
        let kind = FileType::from_raw_mode(status.st_mode);
        let chunk = match kind {
            FileType::Socket => return Ok(Self::socket(fd)),
            // A second description of a file would have an offset of its own and overwrite what others write.
            FileType::RegularFile | FileType::BlockDevice => return Ok(Self::file(fd)),
            FileType::CharacterDevice if rustix::fs::major(status.st_rdev) == MEMORY_DEVICES => {
                return Ok(Self::file(fd));
            }
            // Some devices can be open once only, for example the ports of a virtio console.
            FileType::CharacterDevice if !rustix::termios::isatty(&fd) => {
                return Ok(Self { fd, access: Access::Cautious(PIPE_CHUNK) });
            }
            FileType::CharacterDevice => TERMINAL_CHUNK,
            _ => PIPE_CHUNK,
        };
        let flags = match direction {
            Direction::Input => OFlags::RDONLY,
            Direction::Output => OFlags::WRONLY,
        };
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(own) => Self::own(own),
            // A terminal of another user, or no /proc.
            Err(_) => Self { fd, access: Access::Cautious(chunk) },
        })
    }

    /// Whether readiness can be waited for; if not, the stream is always ready and may wait for a disk.
    pub(super) fn pollable(&self) -> bool {
        self.access != Access::AlwaysReady
    }

    fn ready(&self, flags: PollFlags) -> io::Result<bool> {
        let mut entry = [PollFd::new(&self.fd, flags)];
        poll(&mut entry, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(!entry[0].revents().is_empty())
    }

    /// Whether the other side has hung up.
    pub(super) fn hung_up(&self) -> bool {
        let mut entry = [PollFd::new(&self.fd, PollFlags::empty())];
        let polled = poll(&mut entry, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        polled.is_ok() && entry[0].revents().contains(PollFlags::HUP)
    }

    /// Writes some of `bytes`; `WouldBlock` when there is no room.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match self.access {
                Access::NonBlocking | Access::AlwaysReady => rustix::io::write(&self.fd, bytes),
                Access::Socket => {
                    rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                Access::Cautious(chunk) => {
                    if !self.ready(PollFlags::OUT)? {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    rustix::io::write(&self.fd, &bytes[..bytes.len().min(chunk)])
                }
            };
            match result {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Reads into `bytes`; 0 at the end, `WouldBlock` when nothing has arrived.
    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self.access {
                Access::NonBlocking | Access::AlwaysReady => rustix::io::read(&self.fd, &mut *bytes),
                Access::Socket => {
                    rustix::net::recv(&self.fd, &mut *bytes, RecvFlags::DONTWAIT).map(|(read, _)| read)
                }
                Access::Cautious(_) => {
                    if !self.ready(PollFlags::IN)? {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                    rustix::io::read(&self.fd, &mut *bytes)
                }
            };
            match result {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The same end under another descriptor, so that each direction can be waited for by itself.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, access: self.access })
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn would_block(result: io::Result<usize>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn a_description_that_cannot_be_opened_anew_is_never_waited_for() {
        let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let input = Stream { fd: read_end, access: Access::Cautious(PIPE_CHUNK) };
        let output = Stream { fd: write_end, access: Access::Cautious(PIPE_CHUNK) };
        assert!(would_block(input.read(&mut [0; 8])));
        let mut written = 0;
        loop {
            match output.write(&[7; 10_000]) {
                Ok(count) => {
                    assert!((1..=PIPE_CHUNK).contains(&count));
                    written += count;
                }
                other => {
                    assert!(would_block(other));
                    break;
                }
            }
        }
        let mut read = 0;
        while let Ok(count) = input.read(&mut [0; 5000]) {
            read += count;
        }
        assert_eq!(read, written);
    }

    #[test]
    fn every_kind_of_shared_descriptor_refuses_instead_of_blocking() {
        let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let input = Stream::shared(read_end, Direction::Input).unwrap();
        assert_eq!(input.access, Access::NonBlocking);
        for output in [write_end, socket.into()] {
            let output = Stream::shared(output, Direction::Output).unwrap();
            while output.write(&[0; 4096]).is_ok() {}
            assert!(would_block(output.write(&[0])));
        }
        drop(input);
    }
}
