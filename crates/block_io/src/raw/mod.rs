//! Raw disks: a regular file or a block device whose bytes are the disk's.
//!
//! Trusts the host's kernel and the one who opens the disk; offsets and lengths of requests are checked here. An open disk
//! holds a lock on its file (`lock`). Requests run on a [`FileEngine`] a queue; memory that O_DIRECT can't take goes
//! through a bounce buffer on the engine's threads (`access`), so that callers need not care about alignment of memory.

mod access;
mod layout;
mod lock;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use self::access::Access;
use self::layout::{Kind, Layout};
use crate::backend::{
    BlockBackend, BlockError, BlockGeometry, BlockOperation, BlockQueue, BlockRequest, Completion, QueueFull,
};
use crate::engine::{Done, EngineChoice, FileEngine, FileOperation, Target};
use crate::request::{Limits, check};
use crate::segment::total_bytes;

/// How the host's page cache and the disk's own cache are used; the names are those of QEMU and libvirt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Through the page cache; durable when flushed.
    #[default]
    Writeback,
    /// Past the page cache (O_DIRECT); durable when flushed.
    None,
    /// Through the page cache; durable when completed.
    Writethrough,
    /// Past the page cache; durable when completed.
    Directsync,
    /// Through the page cache; never flushed. A host crash loses the disk.
    Unsafe,
}

impl CacheMode {
    fn direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    fn write_through(self) -> bool {
        matches!(self, Self::Writethrough | Self::Directsync)
    }
}

/// Whether an open disk keeps others from opening it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Locking {
    /// One writer or many readers (open file description locks, which QEMU heeds too).
    #[default]
    Enforced,
    /// Nobody is kept out: for disks with a cluster file system on them.
    Shared,
}

/// How to open a [`RawDisk`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawOptions {
    /// Refuse writes; the file is opened for reading only.
    pub read_only: bool,
    /// Use of caches.
    pub cache: CacheMode,
    /// Protection against a second user.
    pub locking: Locking,
    /// How I/O is submitted.
    pub engine: EngineChoice,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    access: Access,
    options: RawOptions,
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
        let access = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let purpose = if options.read_only { "cannot open for reading" } else { "cannot open for writing" };
        // Not blocking: a FIFO would wait for a writer. `adopt` takes the flag away again.
        let mut flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        if options.cache.direct() {
            flags |= OFlags::DIRECT;
        }
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| error(path, purpose, advice_for_open(path, errno, options)))?;
        Self::adopt(path, fd, options)
    }

    /// Takes an open file or device; `path` is what messages call it.
    pub fn adopt(path: &Path, fd: OwnedFd, options: &RawOptions) -> Result<Self, BlockError> {
        prepare_flags(&fd, options).map_err(|source| error(path, "cannot use the open file", source))?;
        let layout = Layout::of(&fd, options.cache.direct())
            .map_err(|source| error(path, "not usable as a raw disk", source))?;
        if options.locking == Locking::Enforced {
            let purpose =
                if options.read_only { "cannot lock for reading" } else { "cannot lock for writing" };
            lock::lock(&fd, options.read_only).map_err(|source| error(path, purpose, source))?;
        }
        let capacity = AtomicU64::new(layout.bytes);
        let access = Access { file: Arc::new(File::from(fd)), layout, cache: options.cache };
        let shared =
            Shared { path: path.to_owned(), access, options: *options, capacity, resizing: Mutex::new(()) };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl BlockBackend for RawDisk {
    fn geometry(&self) -> BlockGeometry {
        self.shared.access.layout.geometry
    }

    fn capacity(&self) -> u64 {
        self.shared.capacity.load(Ordering::Acquire)
    }

    fn read_only(&self) -> bool {
        self.shared.options.read_only
    }

    fn write_cache(&self) -> bool {
        !self.shared.options.cache.write_through()
    }

    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        let access = &self.shared.access;
        let target = Target {
            file: Arc::clone(&access.file),
            zeroes_beyond_end: access.layout.kind == Kind::RegularFile,
        };
        let engine = FileEngine::new(target, depth, self.shared.options.engine)
            .map_err(|source| error(&self.shared.path, "cannot open a queue", source))?;
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
        let fail = |source| error(&shared.path, &format!("cannot resize to {bytes} bytes"), source);
        if shared.options.read_only {
            return Err(fail(Errno::ROFS.into()));
        }
        if shared.access.layout.kind == Kind::BlockDevice {
            let advice = "a block device's size is changed by whoever provides it (lvextend, for example)";
            return Err(fail(io::Error::new(io::ErrorKind::Unsupported, advice)));
        }
        let block = shared.access.layout.geometry.logical_block_bytes;
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
        if let Err(errno) = rustix::fs::ftruncate(&*shared.access.file, bytes) {
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
            geometry: self.access.layout.geometry,
            capacity: self.capacity.load(Ordering::Acquire),
            read_only: self.options.read_only,
        }
    }

    /// Undoes what a write did that was admitted before the disk shrank: it made the file longer again.
    fn after_write(&self, end: u64) {
        if end > self.capacity.load(Ordering::Acquire) && self.access.layout.kind == Kind::RegularFile {
            let _one_at_a_time = self.resizing.lock();
            let capacity = self.capacity.load(Ordering::Acquire);
            if end > capacity
                && let Err(error) = rustix::fs::ftruncate(&*self.access.file, capacity)
            {
                tracing::warn!(path = %self.path.display(), %error, "cannot cut the disk to its size");
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
        let access = &self.shared.access;
        match operation {
            BlockOperation::Flush if self.shared.options.cache == CacheMode::Unsafe => {
                self.engine.finish(token, Ok(()));
            }
            BlockOperation::Flush => self.engine.start(token, FileOperation::Sync),
            BlockOperation::Read { offset, segments } => {
                if access.needs_bounce(&segments) {
                    let access = access.clone();
                    let work = move || access.read_bounced(offset, &segments);
                    self.engine.start(token, FileOperation::Blocking(Box::new(work)));
                } else {
                    self.engine.start(token, FileOperation::Read { offset, segments });
                }
            }
            BlockOperation::Write { offset, segments, durable } => {
                let durable = access.durable(durable);
                if access.needs_bounce(&segments) {
                    let access = access.clone();
                    let work = move || access.write_bounced(offset, &segments, durable);
                    self.engine.start(token, FileOperation::Blocking(Box::new(work)));
                } else {
                    self.engine.start(token, FileOperation::Write { offset, segments, durable });
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

impl AsFd for FileEngine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready_fd()
    }
}

fn error(path: &Path, operation: &str, source: io::Error) -> BlockError {
    BlockError { path: path.to_owned(), operation: operation.to_owned(), source }
}

/// Says more than the kernel's error where that is known to puzzle people.
fn advice_for_open(path: &Path, errno: Errno, options: &RawOptions) -> io::Error {
    let advice = match errno {
        Errno::ISDIR => "it is a directory, not a disk image",
        Errno::INVAL if options.cache.direct() => {
            "its file system does not support direct I/O (use cache mode writeback)"
        }
        Errno::NXIO if path.exists() => "it is a FIFO, a socket or a device that is not there",
        Errno::NOENT => "it does not exist: check the path, or make the image first",
        Errno::ACCESS | Errno::PERM if !options.read_only => {
            "permission denied: give this user write access, or open it read-only"
        }
        Errno::ACCESS | Errno::PERM => "permission denied: give this user access",
        Errno::TXTBSY => "it is in use as a program or as swap space",
        _ => return errno.into(),
    };
    io::Error::new(io::Error::from(errno).kind(), advice)
}

/// Checks how the file was opened and sets the status flags that the engine needs.
fn prepare_flags(fd: &OwnedFd, options: &RawOptions) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    let refuse = |advice: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, advice));
    match flags & OFlags::RWMODE {
        _ if flags.contains(OFlags::PATH) => return refuse("it was opened with O_PATH: open it for I/O"),
        OFlags::WRONLY => return refuse("it is open for writing only: open it for reading too"),
        OFlags::RDONLY if !options.read_only => return refuse("it is open for reading only"),
        _ => {}
    }
    if flags.contains(OFlags::APPEND) {
        return refuse("it is open for appending, where writes ignore their offset");
    }
    // Without waiting, buffered I/O would fail with EAGAIN whenever a page is not in memory.
    let mut wanted = flags - OFlags::NONBLOCK;
    wanted.set(OFlags::DIRECT, options.cache.direct());
    if wanted != flags {
        rustix::fs::fcntl_setfl(fd, wanted)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
