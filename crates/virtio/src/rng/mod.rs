//! An entropy source (virtio 1.2, section 5.4).
//!
//! An [`Rng`] fills the driver's buffers from a file, by default [`DEFAULT_SOURCE`]. The file is opened when the device is
//! built, because a sandboxed process can't open it later, and so that a wrong path is reported to whoever made it.
//!
//! Trust: the guest chooses number and length of its buffers, so both are bounded: [`MAX_BYTES_PER_REQUEST`],
//! [`BATCH`]. The source is trusted for content; it may have nothing to give for a while, and is waited for.
//!
//! Threads: none of its own.

mod device;
mod task;
#[cfg(test)]
mod tests;

pub use device::{Rng, RngConfig, RngCounters, RngHandle};

/// Virtio device ID (5.4.1).
pub const DEVICE_ID: u16 = 4;

/// The kernel's generator, which never blocks once it is seeded.
pub const DEFAULT_SOURCE: &str = "/dev/urandom";

/// The most bytes that one request is given; the driver asks again for more (5.4.6.1 allows less than was asked for).
/// Stops a guest from keeping the worker in the source for seconds with one buffer of gigabytes.
const MAX_BYTES_PER_REQUEST: u32 = 4096;

/// The most requests in one go. Stops a guest that never ceases to ask from keeping the worker from other devices.
const BATCH: usize = 16;
