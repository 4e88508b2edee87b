//! The log of a character device: a file that everything the guest prints is added to, whoever is at the other end.
//!
//! The file at `PATH` has at most [`LOG_BYTES`]: then it becomes `PATH.1`, which it replaces, and a new one is begun. What
//! a guest can make of a host's disk is bounded by twice that. What can't be written (a full disk) is lost: the guest
//! goes on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::guest_warn;

/// How large a log becomes before a new one is begun.
pub const LOG_BYTES: u64 = 1 << 20;

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// How much is in the file.
    length: u64,
}

impl Log {
    /// Opens the file at `path` to add to it, and makes it (mode 0600) when there is none.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(Self { path: path.to_owned(), file, length: metadata.len() })
    }

    /// One whose writes fail, as on a full disk.
    #[cfg(test)]
    pub(super) fn unwritable(path: &Path) -> Self {
        Self { path: path.to_owned(), file: File::open(path).unwrap(), length: 0 }
    }

    /// Adds `bytes`, as far as the host takes them.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.length >= LOG_BYTES {
                self.begin_anew();
            }
            let room = usize::try_from(LOG_BYTES.saturating_sub(self.length)).unwrap_or(usize::MAX);
            match rustix::io::write(&self.file, &bytes[..bytes.len().min(room)]) {
                Ok(written @ 1..) => {
                    self.length = self.length.saturating_add(written as u64);
                    bytes = &bytes[written..];
                }
                Err(rustix::io::Errno::INTR) => {}
                refused => {
                    let error = refused.err().map(io::Error::from);
                    let (path, lost) = (self.path.display(), bytes.len());
                    guest_warn!(%path, lost, ?error, "the log of a character device can't be written");
                    return;
                }
            }
        }
    }

    /// Puts the full file aside; where that can't be done, it is emptied: it must not grow.
    fn begin_anew(&mut self) {
        let renamed = std::fs::rename(&self.path, self.path.with_added_extension("1"));
        match renamed.and_then(|()| open(&self.path)) {
            Ok(file) => self.file = file,
            Err(error) => {
                let path = self.path.display();
                guest_warn!(%path, %error, "the log of a character device can't be put aside and is emptied");
                if let Err(error) = self.file.set_len(0) {
                    guest_warn!(%path, %error, "the log of a character device can't be emptied");
                }
            }
        }
        // Also when it could not be emptied, so that the next attempt is a whole log away.
        self.length = 0;
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Without NONBLOCK, a pipe that nobody reads would be waited for.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(path)
}
