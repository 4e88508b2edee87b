//! Raw disks: a regular file or a block device whose bytes are the disk's.
//!
//! Trusts the host's kernel and the one who opens the disk; offsets and lengths of requests are checked here. Requests run
//! on a [`FileEngine`] a queue; memory that O_DIRECT can't take goes through a bounce buffer on the engine's threads, so that
//! callers need not care about alignment of memory.

mod waiting;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::backend::{
    BlockBackend, BlockError, BlockGeometry, BlockOperation, BlockQueue, BlockRequest, Completion, QueueFull,
};
use crate::engine::{Done, FileEngine, FileOperation};
use crate::file::{CacheMode, HostFile, Kind, RawOptions, error};
use crate::request::{Limits, check};
use crate::segment::total_bytes;

#[derive(Debug)]
struct Shared {
    file: HostFile,
    capacity: AtomicU64,
    /// Held while the size of the file changes.
    resizing: Mutex<()>,
}

/// A raw disk, locked for as long as it or one of its queues exists.
#[derive(Debug, Clone)]
pub struct RawDisk {
    shared: Arc<Shared>,
}

impl RawDisk {
    /// Opens the file or device at `path`.
    pub fn open(path: &Path, options: &RawOptions) -> Result<Self, BlockError> {
        Self::over(HostFile::open(path, options)?)
    }

    /// Takes an open file or device; `path` is what messages call it.
    pub fn adopt(path: &Path, fd: OwnedFd, options: &RawOptions) -> Result<Self, BlockError> {
        Self::over(HostFile::adopt(path, fd, options)?)
    }

    /// Whether the disk is known to read as zeroes from `offset` on (a hole of the file), and for how many of `bytes` bytes
    /// that holds. The range lies within the disk.
    pub(crate) fn zero_run(&self, offset: u64, bytes: u64) -> Result<(bool, u64), Errno> {
        self.shared.file.access.zero_run(offset, bytes)
    }

    /// Reserves storage for a range, which has to be beyond everything that was ever written and read as zeroes: as the file
    /// system reserves it, or by writing zeroes (`written`), which some storage needs. Waits.
    pub fn preallocate(&self, offset: u64, bytes: u64, written: bool) -> Result<(), BlockError> {
        let access = &self.shared.file.access;
        let result =
            if written { access.write_zero_bytes(offset, bytes) } else { access.reserve(offset, bytes) };
        result.map_err(|errno| error(&self.shared.file.path, "cannot reserve storage", errno.into()))
    }

    /// The file or device.
    pub(crate) fn path(&self) -> &Path {
        &self.shared.file.path
    }

    fn over(file: HostFile) -> Result<Self, BlockError> {
        let layout = &file.access.layout;
        layout.check_raw().map_err(|source| error(&file.path, "not usable as a raw disk", source))?;
        let capacity = AtomicU64::new(layout.bytes);
        Ok(Self { shared: Arc::new(Shared { file, capacity, resizing: Mutex::new(()) }) })
    }
}

impl BlockBackend for RawDisk {
    fn geometry(&self) -> BlockGeometry {
        self.shared.file.access.layout.geometry
    }

    fn capacity(&self) -> u64 {
        self.shared.capacity.load(Ordering::Acquire)
    }

    fn read_only(&self) -> bool {
        self.shared.file.options.read_only
    }

    fn write_cache(&self) -> bool {
        !self.shared.file.options.cache.write_through()
    }

    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        let engine = FileEngine::new(vec![self.shared.file.target()], depth, self.shared.file.options.engine)
            .map_err(|source| error(&self.shared.file.path, "cannot open a queue", source))?;
        let depth = usize::try_from(depth.max(1)).unwrap_or(usize::MAX);
        Ok(Box::new(RawQueue {
            shared: Arc::clone(&self.shared),
            engine,
            depth,
            slots: Vec::new(),
            free: Vec::new(),
            done: Vec::new(),
        }))
    }

    fn resize(&self, bytes: u64) -> Result<(), BlockError> {
        let shared = &self.shared;
        let fail = |source| error(&shared.file.path, &format!("cannot resize to {bytes} bytes"), source);
        if shared.file.options.read_only {
            return Err(fail(Errno::ROFS.into()));
        }
        if shared.file.access.layout.kind == Kind::BlockDevice {
            let advice = "a block device's size is changed by whoever provides it (lvextend, for example)";
            return Err(fail(io::Error::new(io::ErrorKind::Unsupported, advice)));
        }
        let block = shared.file.access.layout.geometry.logical_block_bytes;
        if bytes == 0 || !bytes.is_multiple_of(u64::from(block)) {
            let advice = format!("the size must be a positive multiple of {block} bytes");
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, advice)));
        }
        let _one_at_a_time = shared.resizing.lock();
        let before = shared.capacity.load(Ordering::Acquire);
        // Requests must never be admitted beyond the end of the file: shrink what they see first, grow it last.
        if bytes < before {
            shared.capacity.store(bytes, Ordering::Release);
        }
        if let Err(errno) = rustix::fs::ftruncate(&*shared.file.access.file, bytes) {
            shared.capacity.store(before, Ordering::Release);
            return Err(fail(errno.into()));
        }
        shared.capacity.store(bytes, Ordering::Release);
        Ok(())
    }
}

impl Shared {
    fn limits(&self) -> Limits {
        Limits {
            geometry: self.file.access.layout.geometry,
            capacity: self.capacity.load(Ordering::Acquire),
            read_only: self.file.options.read_only,
        }
    }

    /// Undoes what a write did that was admitted before the disk shrank: it made the file longer again.
    fn after_write(&self, end: u64) {
        if end > self.capacity.load(Ordering::Acquire) && self.file.access.layout.kind == Kind::RegularFile {
            let _one_at_a_time = self.resizing.lock();
            let capacity = self.capacity.load(Ordering::Acquire);
            if end > capacity
                && let Err(error) = rustix::fs::ftruncate(&*self.file.access.file, capacity)
            {
                tracing::warn!(path = %self.file.path.display(), %error, "cannot cut the disk to its size");
            }
        }
    }
}

struct Slot {
    tag: u64,
    /// Where a write ends on the disk; 0 for everything else.
    write_end: u64,
}

struct RawQueue {
    shared: Arc<Shared>,
    engine: FileEngine,
    depth: usize,
    /// What is in flight, by the engine's token.
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Kept for its memory.
    done: Vec<Done>,
}

impl RawQueue {
    fn start(&mut self, token: u64, operation: BlockOperation) {
        let access = &self.shared.file.access;
        match operation {
            BlockOperation::Flush if self.shared.file.options.cache == CacheMode::Unsafe => {
                self.engine.finish(token, Ok(()));
            }
            BlockOperation::Flush => self.engine.start(token, FileOperation::Sync { file: 0 }),
            BlockOperation::Read { offset, segments } => {
                if access.needs_bounce(&segments) {
                    let access = access.clone();
                    let work = move || access.read_bounced(offset, &segments);
                    self.engine.start(token, FileOperation::Blocking(Box::new(work)));
                } else {
                    self.engine.start(token, FileOperation::Read { file: 0, offset, segments });
                }
            }
            BlockOperation::Write { offset, segments, durable } => {
                let durable = access.durable(durable);
                if access.needs_bounce(&segments) {
                    let access = access.clone();
                    let work = move || access.write_bounced(offset, &segments, durable);
                    self.engine.start(token, FileOperation::Blocking(Box::new(work)));
                } else {
                    self.engine.start(token, FileOperation::Write { file: 0, offset, segments, durable });
                }
            }
            BlockOperation::Discard { offset, bytes } => {
                let access = access.clone();
                let work = move || access.discard(offset, bytes);
                self.engine.start(token, FileOperation::Blocking(Box::new(work)));
            }
            BlockOperation::WriteZeroes { offset, bytes, may_unmap } => {
                let access = access.clone();
                let work = move || access.write_zeroes(offset, bytes, may_unmap);
                self.engine.start(token, FileOperation::Blocking(Box::new(work)));
            }
        }
    }
}

impl BlockQueue for RawQueue {
    fn submit(&mut self, request: BlockRequest) -> Result<(), QueueFull> {
        if self.in_flight() >= self.depth {
            return Err(QueueFull(request));
        }
        let BlockRequest { tag, operation } = request;
        let verdict = check(&operation, &self.shared.limits());
        let write_end = match (&operation, verdict) {
            (BlockOperation::Write { .. } | BlockOperation::WriteZeroes { .. }, Ok(end)) => end,
            _ => 0,
        };
        let slot = Some(Slot { tag, write_end });
        let index = if let Some(index) = self.free.pop() {
            self.slots[index] = slot;
            index
        } else {
            self.slots.push(slot);
            self.slots.len() - 1
        };
        let token = index as u64;
        let empty = match &operation {
            BlockOperation::Read { segments, .. } | BlockOperation::Write { segments, .. } => {
                total_bytes(segments) == Some(0)
            }
            BlockOperation::Discard { bytes, .. } | BlockOperation::WriteZeroes { bytes, .. } => *bytes == 0,
            BlockOperation::Flush => false,
        };
        match verdict {
            Err(errno) => self.engine.finish(token, Err(errno)),
            Ok(_) if empty => self.engine.finish(token, Ok(())),
            Ok(_) => self.start(token, operation),
        }
        Ok(())
    }

    fn kick(&mut self) {
        self.engine.kick();
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        self.engine.reap(&mut self.done);
        for (token, result) in self.done.drain(..) {
            let index = usize::try_from(token).unwrap_or(usize::MAX);
            let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { continue };
            self.free.push(index);
            if slot.write_end > 0 {
                self.shared.after_write(slot.write_end);
            }
            completions.push(Completion { tag: slot.tag, result });
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.engine.ready_fd()
    }
}

impl Drop for RawQueue {
    fn drop(&mut self) {
        // A write that was admitted before a shrink may still be in flight, and nobody reaps its completion.
        let mut completions = Vec::new();
        self.kick();
        while self.in_flight() > 0 {
            let ready = rustix::event::PollFd::new(&self.engine, rustix::event::PollFlags::IN);
            let _ = rustix::event::poll(&mut [ready], None);
            self.reap(&mut completions);
        }
    }
}

#[cfg(test)]
mod tests;
