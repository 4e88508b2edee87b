//! A log that is read while it is written, across the times when it is full, put aside and begun anew.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{OFlags, inotify};
use tokio::io::unix::AsyncFd;

use crate::machine_process::watched;

/// How much is read at a time, bytes.
const CHUNK: usize = 32 << 10;

/// How often to look where the kernel can't tell: a user has a limited number of watches.
const LOOK: Duration = Duration::from_millis(100);

/// Reads a log from some place on, and waits for more.
#[derive(Debug)]
pub(crate) struct LogTail {
    path: PathBuf,
    /// `None` while there is no log.
    open: Option<Part>,
    changes: Option<AsyncFd<OwnedFd>>,
}

/// One of the files that are the log.
#[derive(Debug)]
struct Part {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// How much has been read, bytes.
    read: u64,
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Part {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        // A pipe in its place is not waited for.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
        let file = match File::options().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(Some(Self { file, identity: identity(&metadata), read: 0 }))
    }

    fn begin_at(&mut self, position: u64) -> io::Result<()> {
        self.read = self.file.seek(SeekFrom::Start(position))?;
        Ok(())
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        if self.file.metadata()?.len() < self.read {
            // It could not be put aside and was emptied.
            self.begin_at(0)?;
        }
        let mut bytes = vec![0; CHUNK];
        let count = self.file.read(&mut bytes)?;
        bytes.truncate(count);
        self.read += count as u64;
        Ok(bytes)
    }
}

impl LogTail {
    /// Reads the log at `path`, which need not be there yet, from `history` bytes before its end on.
    pub(crate) fn open(path: &Path, history: u64) -> io::Result<Self> {
        // Before the first look at the files, so that no change falls between.
        let changes = watch(path);
        let mut tail = Self { path: path.to_owned(), open: Part::open(path)?, changes };
        let length = |part: &Option<Part>| -> io::Result<u64> {
            part.as_ref().map_or(Ok(0), |part| Ok(part.file.metadata()?.len()))
        };
        let present = length(&tail.open)?;
        let before = if history > present { Part::open(&former(&tail.path))? } else { None };
        let former = length(&before)?;
        if former > 0 {
            tail.open = before;
        }
        if let Some(part) = &mut tail.open {
            let end = if former > 0 { former } else { present };
            let wanted = if former > 0 { history - present } else { history };
            part.begin_at(end.saturating_sub(wanted))?;
        }
        Ok(tail)
    }

    /// What comes next; waits until there is something. Nothing is lost when the waiting is given up.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let bytes = self.available()?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            let Some(changes) = &self.changes else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let mut ready = changes.readable().await?;
            let mut rubbish = [MaybeUninit::<u8>::uninit(); 4096];
            match rustix::io::read(changes.get_ref(), &mut rubbish) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is there already, a piece of it; empty at the end.
    pub(crate) fn available(&mut self) -> io::Result<Vec<u8>> {
        // At most: the rest of the file that is open, the one that was put aside after it, the present one.
        for _ in 0..3 {
            let Some(part) = &mut self.open else {
                self.open = Part::open(&self.path)?;
                if self.open.is_none() {
                    return Ok(Vec::new());
                }
                continue;
            };
            let bytes = part.read()?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            let Some(next) = self.next_part()? else { return Ok(Vec::new()) };
            // What was written between the last look and the change of files.
            if let Some(part) = &mut self.open {
                let bytes = part.read()?;
                if !bytes.is_empty() {
                    return Ok(bytes);
                }
            }
            self.open = Some(next);
        }
        Ok(Vec::new())
    }

    /// The file after the one that is open. One who is more than a file behind goes on with the oldest that is left.
    fn next_part(&self) -> io::Result<Option<Part>> {
        let ours = self.open.as_ref().map(|part| part.identity);
        let there = |path: &Path| std::fs::symlink_metadata(path).ok().map(|found| identity(&found));
        let present = there(&self.path);
        if present.is_none() || present == ours {
            return Ok(None);
        }
        let former = former(&self.path);
        let follows = there(&former).is_none_or(|found| Some(found) == ours);
        Part::open(if follows { &self.path } else { &former })
    }
}

/// Empties the log at `path`, and removes what was put aside of it; nothing happens when there is none. Blocks.
pub(crate) fn empty_log(path: &Path) -> io::Result<()> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot empty the log '{}': {error}", path.display()))
    };
    // A pipe in its place is not waited for.
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY).bits().cast_signed();
    match File::options().write(true).custom_flags(flags).open(path) {
        Ok(file) if !file.metadata().map_err(failed)?.is_file() => {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        Ok(file) => file.set_len(0).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    match std::fs::remove_file(former(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Where the machine's process puts a full log.
fn former(path: &Path) -> PathBuf {
    path.with_added_extension("1")
}

/// Tells of changes in the directory of the log, which is there before the first log.
fn watch(path: &Path) -> Option<AsyncFd<OwnedFd>> {
    let directory = path.parent()?;
    let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    inotify::add_watch(&changes, directory, flags).ok()?;
    watched(changes).ok()
}
