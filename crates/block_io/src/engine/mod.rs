//! File I/O without waiting: one submission engine a queue, over io_uring where the kernel allows it, over threads where not.
//!
//! A [`FileEngine`] takes [`FileOperation`]s with tokens and gives tokens back with results. Reads, writes and syncs go to
//! the ring; what a ring can't do (discards, bounced or compressed data: anything that is a closure) goes to a small pool
//! of threads, as does everything when there is no ring. Neither exists until something needs it: an idle disk costs one
//! eventfd.
//!
//! Trust: offsets and lengths have been checked by the caller; memory is the caller's promise ([`Segment::new`]).
//! Threads: the pool's, joined on drop. One eventfd, the bell, tells of completions from everywhere.

mod threads;
mod transfer;
mod uring;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use self::threads::Pool;
pub(crate) use self::transfer::{Direction, Transfer};
use self::uring::Ring;
use crate::segment::Segment;

/// How file I/O is submitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring if the kernel, its `io_uring_disabled` setting and the process's seccomp filter allow it, else threads.
    #[default]
    Automatic,
    /// Threads, even where io_uring would work.
    Threads,
}

/// One step on one of the engine's files.
pub(crate) enum FileOperation {
    /// Fills the segments from `offset`.
    Read { file: usize, offset: u64, segments: Vec<Segment> },
    /// Stores the segments at `offset`, on stable storage if `durable`.
    Write { file: usize, offset: u64, segments: Vec<Segment>, durable: bool },
    /// fdatasync(2).
    Sync { file: usize },
    /// Anything that waits; runs on a thread of the pool.
    Blocking(Box<dyn FnOnce() -> Result<(), Errno> + Send>),
}

/// A token and how its operation ended.
pub(crate) type Done = (u64, Result<(), Errno>);

/// A file that an engine works on.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) file: Arc<File>,
    /// Whether bytes beyond the end of the file read as zeroes (a regular file) or are an error (a device).
    pub(crate) zeroes_beyond_end: bool,
}

enum RingState {
    Untried,
    Open(Box<Ring>),
    Unavailable,
}

/// Threads a queue may have at most: enough to keep a disk busy without io_uring, few enough to be cheap.
const POOL_THREADS: usize = 4;

/// A stream of file operations. Dropping it waits until none is in flight.
pub(crate) struct FileEngine {
    targets: Arc<[Target]>,
    depth: u32,
    ring: RingState,
    pool: Pool,
    bell: Arc<OwnedFd>,
    /// Ended without ever having been in flight.
    ended: Vec<Done>,
}

impl FileEngine {
    /// An engine on some files, which operations name by their places. Prepares for about `depth` operations in flight (more are taken, but may wait).
    pub(crate) fn new(targets: Vec<Target>, depth: u32, choice: EngineChoice) -> std::io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let ring = match choice {
            EngineChoice::Automatic => RingState::Untried,
            EngineChoice::Threads => RingState::Unavailable,
        };
        let pool = Pool::new(POOL_THREADS, Arc::clone(&bell));
        Ok(Self { targets: targets.into(), depth, ring, pool, bell, ended: Vec::new() })
    }

    /// Takes an operation; it starts now or with [`FileEngine::kick`].
    pub(crate) fn start(&mut self, token: u64, operation: FileOperation) {
        let (file, transfer) = match operation {
            FileOperation::Blocking(work) => return self.pool.start(token, work),
            FileOperation::Read { file, offset, segments } => {
                (file, Transfer::new(Direction::Read, offset, &segments))
            }
            FileOperation::Write { file, offset, segments, durable } => {
                (file, Transfer::new(Direction::Write { durable }, offset, &segments))
            }
            FileOperation::Sync { file } => (file, Transfer::new(Direction::Sync, 0, &[])),
        };
        if transfer.is_done() {
            return self.finish(token, Ok(()));
        }
        if matches!(self.ring, RingState::Untried) {
            self.ring = match Ring::open(Arc::clone(&self.targets), self.depth, Arc::clone(&self.bell)) {
                Ok(ring) => RingState::Open(Box::new(ring)),
                Err(error) => {
                    tracing::info!(%error, "io_uring is not available: disk requests use threads");
                    RingState::Unavailable
                }
            };
        }
        match &mut self.ring {
            RingState::Open(ring) => ring.start(token, file, transfer, &mut self.ended),
            RingState::Untried | RingState::Unavailable => {
                let target = self.targets[file].clone();
                let mut transfer = transfer;
                self.pool.start(token, Box::new(move || transfer.run(&target)));
            }
        }
        if !self.ended.is_empty() {
            ring_bell(&self.bell);
        }
    }

    /// Ends an operation that needs no I/O.
    pub(crate) fn finish(&mut self, token: u64, result: Result<(), Errno>) {
        self.ended.push((token, result));
        ring_bell(&self.bell);
    }

    /// Hands everything that was taken to the kernel.
    pub(crate) fn kick(&mut self) {
        if let RingState::Open(ring) = &mut self.ring {
            ring.submit();
        }
    }

    /// Appends what has ended since the last call.
    pub(crate) fn reap(&mut self, done: &mut Vec<Done>) {
        // Before looking: what ends from now on rings again.
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
        done.append(&mut self.ended);
        self.pool.reap(done);
        if let RingState::Open(ring) = &mut self.ring {
            ring.reap(done);
        }
    }

    /// Readable while there is something to reap. May become readable once too often, never too seldom.
    pub(crate) fn ready_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Whether the kernel let us have a ring; `None` before the first operation.
    #[cfg(test)]
    pub(crate) fn has_ring(&self) -> Option<bool> {
        match self.ring {
            RingState::Untried => None,
            RingState::Open(_) => Some(true),
            RingState::Unavailable => Some(false),
        }
    }
}

impl AsFd for FileEngine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready_fd()
    }
}

fn ring_bell(bell: &OwnedFd) {
    // The only failure is a full counter: the bell rings already.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests;
