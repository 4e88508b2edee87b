//! The seam between a disk's users (virtio-blk, the image tool) and what stores its blocks.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::segment::Segment;

/// Why a disk could not be opened, resized or given another queue.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {operation}: {source}", path = path.display())]
pub struct BlockError {
    /// The disk.
    pub path: PathBuf,
    /// What was tried, as in "cannot open for writing".
    pub operation: String,
    /// Why it failed.
    pub source: std::io::Error,
}

/// The sizes in which a disk likes to be accessed, in bytes; all are powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGeometry {
    /// Smallest unit of a read or write: every request's offset and length is a multiple of it.
    pub logical_block_bytes: u32,
    /// Smallest unit that the storage writes without a read-modify-write.
    pub physical_block_bytes: u32,
    /// Unit in which discards free storage; 0 when discards are not supported.
    pub discard_bytes: u32,
}

/// What a request does. Offsets and lengths are in bytes.
#[derive(Debug)]
pub enum BlockOperation {
    /// Fills the segments from `offset`.
    Read {
        /// Start on the disk.
        offset: u64,
        /// Destination, in order.
        segments: Vec<Segment>,
    },
    /// Stores the segments at `offset`.
    Write {
        /// Start on the disk.
        offset: u64,
        /// Source, in order.
        segments: Vec<Segment>,
        /// Complete only once the data is on stable storage (force unit access).
        durable: bool,
    },
    /// Makes every write that was completed before durable.
    Flush,
    /// Gives the storage of a range back; it reads as anything afterwards, zeroes preferred.
    Discard {
        /// Start on the disk.
        offset: u64,
        /// Length.
        bytes: u64,
    },
    /// Makes a range read as zeroes.
    WriteZeroes {
        /// Start on the disk.
        offset: u64,
        /// Length.
        bytes: u64,
        /// Whether the storage may be given back as by a discard.
        may_unmap: bool,
    },
}

/// An operation with the tag that its completion will carry.
#[derive(Debug)]
pub struct BlockRequest {
    /// Chosen by the caller; need not be unique.
    pub tag: u64,
    /// What to do.
    pub operation: BlockOperation,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The request's tag.
    pub tag: u64,
    /// Done in full, or the reason why not; after an error the range of a write holds old or new data, block by block.
    pub result: Result<(), Errno>,
}

/// The queue holds as many requests as it was opened for; reap, then submit again.
#[derive(Debug)]
pub struct QueueFull(pub BlockRequest);

/// A disk.
pub trait BlockBackend: Send + Sync {
    /// The sizes in which the disk likes to be accessed. Constant.
    fn geometry(&self) -> BlockGeometry;

    /// Size in bytes, a multiple of the logical block size. Changes only by [`BlockBackend::resize`].
    fn capacity(&self) -> u64;

    /// Whether writes are refused (with `Errno::ROFS`).
    fn read_only(&self) -> bool;

    /// Whether completed writes may be lost on power failure unless flushed (a volatile write cache).
    fn write_cache(&self) -> bool;

    /// Opens a stream of requests, of which at most `depth` are in flight. Called once for each of a device's queues.
    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError>;

    /// Changes the size. Requests in flight see the old or the new one.
    fn resize(&self, bytes: u64) -> Result<(), BlockError>;
}

/// One stream of requests to a disk. Dropping it waits until nothing is in flight.
pub trait BlockQueue: Send {
    /// Takes a request; it may start now or with [`BlockQueue::kick`]. A request that is invalid is taken as well: its
    /// completion says so.
    fn submit(&mut self, request: BlockRequest) -> Result<(), QueueFull>;

    /// Starts everything that was submitted: called once after a batch.
    fn kick(&mut self);

    /// Appends what has been completed and makes [`BlockQueue::ready_fd`] unreadable until there is more.
    fn reap(&mut self, completions: &mut Vec<Completion>);

    /// Requests that were taken and whose completions have not been reaped.
    fn in_flight(&self) -> usize;

    /// Readable (poll, epoll; level-triggered) while there are completions to reap.
    fn ready_fd(&self) -> BorrowedFd<'_>;
}
