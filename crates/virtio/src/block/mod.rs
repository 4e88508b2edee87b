//! A disk (virtio 1.2, section 5.2).
//!
//! A [`Block`] offers a [`block_io::BlockBackend`] to the guest: each virtqueue is one stream of requests
//! ([`block_io::BlockQueue`]), worked on by a task of its own on a worker's thread. Requests are taken in batches, parsed
//! ([`request`], pure), handed to the backend with the guest's own memory as buffers, and completed in whatever order the
//! backend finishes them. Ranges are checked against the capacity by the backend, because the capacity may change.
//!
//! Trust: none in the guest. A request that is malformed is answered with a status wherever it has room for one; without
//! room the queue is broken. A request costs at most one operation in flight and bounded memory ([`MAX_RANGES`]).
//!
//! Threads: none of its own; [`BlockHandle`] may be used from any.

mod device;
#[cfg(fuzzing)]
pub mod fuzzing;
mod request;
mod task;
#[cfg(test)]
mod tests;

pub use device::{Block, BlockConfig, BlockCounters, BlockHandle};

/// Virtio device ID (5.2.1).
pub const DEVICE_ID: u16 = 2;

/// VIRTIO_BLK_F_SEG_MAX: the most data segments of a request are told.
const FEATURE_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO: the disk is read-only.
const FEATURE_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE: the logical block size is told.
const FEATURE_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH: there is a volatile write cache and a command to flush it.
const FEATURE_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_TOPOLOGY: physical block size and preferred sizes are told.
const FEATURE_TOPOLOGY: u64 = 1 << 10;
/// VIRTIO_BLK_F_CONFIG_WCE: the driver may switch the write cache.
const FEATURE_CONFIG_WCE: u64 = 1 << 11;
/// VIRTIO_BLK_F_MQ: there are several request queues.
const FEATURE_MQ: u64 = 1 << 12;
/// VIRTIO_BLK_F_DISCARD: ranges can be given back.
const FEATURE_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES: ranges can be zeroed without data.
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

/// Unit of every position and length in requests and configuration space, in bytes (5.2.2).
const SECTOR_BYTES: u64 = 512;
/// Length of the serial number (5.2.6, VIRTIO_BLK_T_GET_ID).
pub const SERIAL_BYTES: usize = 20;
/// The most request queues.
pub const MAX_QUEUES: u16 = 64;
/// The most data segments of a request that are announced; preadv and pwritev take 1024 in all.
const MAX_SEGMENTS: u16 = 1022;

/// The largest physical block that a guest is told, in bytes: what disks have.
const MAX_PHYSICAL_BLOCK_BYTES: u32 = 4096;

/// The most ranges in one discard or write-zeroes request. Stops a guest from making the device copy and keep megabytes of
/// ranges with one request.
const MAX_RANGES: u32 = 32;
/// The most sectors in one such range (2 GiB). Stops one request from keeping the storage busy without end: a guest that
/// wants more sends more requests, between which others get on.
const MAX_RANGE_SECTORS: u32 = 1 << 22;
