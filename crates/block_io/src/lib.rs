//! Block storage behind one completion-based interface: raw files, block devices, qcow2 images, images of other
//! hypervisors (read-only), RAM, null.
//!
//! A [`BlockBackend`] is the disk, shared by all of a device's queues; a [`BlockQueue`] is one stream of requests, owned
//! by one thread. A request names memory by [`Segment`]s and is answered by a [`Completion`] that carries the caller's
//! tag. Nothing here knows virtio or guests; the caller is trusted for memory, never for ranges.
//!
//! Contract, kept by every backend and checked by one suite: the *backend* validates the range of a request against the
//! current capacity (which may change by a resize) and answers `Err(Errno::INVAL)` in the completion; the caller promises
//! only that a request's segments live until its completion has been reaped. Memory may have any alignment: a backend whose
//! storage is particular about it copies. Completions come in any order. A write that
//! was completed before a flush was submitted is on stable storage when the flush completes. Dropping a queue waits for
//! what is in flight.

pub mod backend;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod engine;
mod file;
pub mod formats;
pub mod memory;
pub mod operations;
pub mod qcow2;
pub mod raw;
mod request;
mod segment;
mod status;

pub use backend::{
    BlockBackend, BlockError, BlockGeometry, BlockOperation, BlockQueue, BlockRequest, Completion, QueueFull,
};
pub use engine::EngineChoice;
pub use file::{CacheMode, FileLock, Locking, RawOptions};
pub use formats::{FormatDisk, FormatOptions};
pub use memory::{MemoryDisk, NullDisk};
pub use qcow2::{Qcow2Disk, Qcow2Options};
pub use raw::RawDisk;
pub use segment::Segment;
pub use status::RangeStatus;
