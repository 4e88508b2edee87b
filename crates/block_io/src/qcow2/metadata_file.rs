//! An image's file as its metadata sees it: through the page cache, with sizes of any kind, waiting.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::file::{CacheMode, HostFile};

/// What a test records of a file's life.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Write { offset: u64, bytes: Vec<u8> },
    Sync,
}

/// The file. Clones are the same file.
#[derive(Debug, Clone)]
pub(super) struct MetadataFile {
    file: Arc<File>,
    cache: CacheMode,
    #[cfg(test)]
    journal: Arc<parking_lot::Mutex<Option<Vec<Event>>>>,
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl MetadataFile {
    /// The same file without O_DIRECT. The kernel keeps both views coherent.
    pub(super) fn of(file: &HostFile) -> std::io::Result<Self> {
        let through_page_cache = if file.options.cache.direct() {
            let access = if file.options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.access.file.as_raw_fd()));
            Arc::new(File::from(rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())?))
        } else {
            Arc::clone(&file.access.file)
        };
        Ok(Self {
            file: through_page_cache,
            cache: file.options.cache,
            #[cfg(test)]
            journal: Arc::default(),
        })
    }

    /// Reads as much as there is; the rest is zeroes, as beyond the end of every image file.
    pub(super) fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; bytes];
        let mut done = 0;
        while done < bytes {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
        Ok(buffer)
    }

    /// Whether a range is known to lie in a hole of the file, and so to read as zeroes (lseek(2), SEEK_DATA).
    pub(super) fn is_hole(&self, offset: u64, bytes: u64) -> bool {
        match rustix::fs::seek(&*self.file, SeekFrom::Data(offset)) {
            Ok(data) => data >= offset.saturating_add(bytes),
            Err(errno) => errno == Errno::NXIO,
        }
    }

    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        #[cfg(test)]
        if let Some(journal) = &mut *self.journal.lock() {
            journal.push(Event::Write { offset, bytes: bytes.to_vec() });
        }
        self.file.write_all_at(bytes, offset).map_err(|error| errno(&error))
    }

    /// Overwrites a range with zeroes.
    pub(super) fn write_zeroes(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        const CHUNK: u64 = 64 << 10;
        let zeroes = vec![0; usize::try_from(bytes.min(CHUNK)).map_err(|_| Errno::FBIG)?];
        let mut done = 0;
        while done < bytes {
            let chunk = (bytes - done).min(CHUNK);
            self.write(&zeroes[..usize::try_from(chunk).map_err(|_| Errno::FBIG)?], offset + done)?;
            done += chunk;
        }
        Ok(())
    }

    /// Makes what was written to the file in any way durable, unless the cache mode says never.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        #[cfg(test)]
        if let Some(journal) = &mut *self.journal.lock() {
            journal.push(Event::Sync);
        }
        if self.cache == CacheMode::Unsafe {
            return Ok(());
        }
        rustix::fs::fdatasync(&*self.file)
    }

    /// Records writes and syncs from now on.
    #[cfg(test)]
    pub(super) fn start_journal(&self) {
        *self.journal.lock() = Some(Vec::new());
    }

    /// Records that a range lost its content.
    #[cfg(test)]
    pub(super) fn note_punch(&self, offset: u64, bytes: u64) {
        if let Some(journal) = &mut *self.journal.lock() {
            journal.push(Event::Write { offset, bytes: vec![0; usize::try_from(bytes).unwrap_or(0)] });
        }
    }

    /// Events recorded so far.
    #[cfg(test)]
    pub(super) fn journal_length(&self) -> usize {
        self.journal.lock().as_ref().map_or(0, Vec::len)
    }

    #[cfg(test)]
    pub(super) fn take_journal(&self) -> Vec<Event> {
        self.journal.lock().take().unwrap_or_default()
    }
}
