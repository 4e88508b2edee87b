//! A memory balloon (virtio 1.2, section 5.5).
//!
//! A [`Balloon`] asks the driver for pages that the guest can do without, and returns them to the host through the
//! [`HostPages`] that it is built with. The host sets a target; the driver follows as far and as fast as it can and says how
//! far it has come. Beside that the driver may report pages that happen to be free (VIRTIO_BALLOON_F_PAGE_REPORTING), and
//! tells figures about the guest's memory when asked (VIRTIO_BALLOON_F_STATS_VQ): every so often by a timer, or when
//! [`BalloonHandle::request_statistics`] is called.
//!
//! The driver that resets the device has its pages again: the balloon is empty after that, the target stays.
//!
//! Trust: the guest chooses which pages it gives, so it can only lose its own: a page number that is not of its memory is
//! counted and ignored, one that comes twice is returned twice, which is harmless. A request of any length is worked on in
//! pieces ([`PIECE_PAGES`], [`BATCH`]). One buffer with figures is looked at for each time that the host asks. What the
//! driver says about the balloon's size and the guest's memory is what it says, and nothing here relies on it.
//!
//! Threads: none of its own; [`BalloonHandle`] may be used from any.

mod device;
mod request;
mod statistics;
mod task;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;

pub use device::{Balloon, BalloonConfig, BalloonCounters, BalloonHandle};
pub use statistics::{STATISTICS, Statistics};

/// Virtio device ID (5.5.1).
pub const DEVICE_ID: u16 = 5;

/// Unit of the balloon in bytes, whatever the guest's pages are (5.5.6).
pub const PAGE_BYTES: u64 = 4096;

/// VIRTIO_BALLOON_F_STATS_VQ: the driver tells figures.
const FEATURE_STATISTICS: u64 = 1 << 1;
/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM: the driver takes pages out when the guest runs out of memory.
const FEATURE_DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_PAGE_REPORTING: the driver reports free pages. It does so only if it does not rely on what is in them,
/// because VIRTIO_BALLOON_F_PAGE_POISON is not offered.
const FEATURE_REPORTING: u64 = 1 << 5;

/// Entries of every queue.
const QUEUE_SIZE: u16 = 128;
/// Page numbers that are read at once: what Linux sends in one request.
const PIECE_PAGES: usize = 256;
/// Pieces or reports in one go. Stops a guest that fills its balloon from keeping the worker from other devices.
const BATCH: usize = 16;

/// Queues (5.5.2).
const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATISTICS_QUEUE: u16 = 2;
/// Free page hinting, which is not offered. Linux before 6.11 leaves no gap for queues that there are not, so reports come
/// here; QEMU expects them here as well.
const HINTING: u16 = 3;
const REPORTING: u16 = 4;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Pages go into the balloon.
    Inflate,
    /// Pages come out of it.
    Deflate,
    /// Figures.
    Statistics,
    /// Pages that are free now.
    Reporting,
}

/// What queue `index` is for with these negotiated features.
fn role(index: u16, features: u64) -> Option<Role> {
    let has = |feature| features & feature != 0;
    match index {
        INFLATE => Some(Role::Inflate),
        DEFLATE => Some(Role::Deflate),
        STATISTICS_QUEUE if has(FEATURE_STATISTICS) => Some(Role::Statistics),
        STATISTICS_QUEUE | HINTING | REPORTING if has(FEATURE_REPORTING) => Some(Role::Reporting),
        _ => None,
    }
}

/// Guest memory as the host's: what the balloon needs of whoever has mapped it. All ranges are of guest physical addresses,
/// inside guest memory, of whole pages of [`PAGE_BYTES`]; they may reach from one region into the next.
///
/// Called on the device's worker; must not block.
pub trait HostPages: Send + Sync {
    /// The guest has put `pages` into the balloon: the host can have them. Their content is lost.
    ///
    /// # Errors
    /// The host does not take them.
    fn give_back(&self, pages: Range<u64>) -> io::Result<()>;

    /// The guest uses `pages`, which were in the balloon, again.
    fn take_again(&self, pages: Range<u64>);

    /// The guest has nothing in `pages` now, and may use them without a word: the host can have them if whoever touches
    /// them is sure to get others.
    ///
    /// # Errors
    /// As [`HostPages::give_back`].
    fn give_back_free(&self, pages: Range<u64>) -> io::Result<()>;

    /// The guest has every page again.
    fn take_all_again(&self);
}
