//! Numbers that a device counts on its worker and that anybody may read at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows (and wraps around after 2^64). Each counter is exact; a set of them is not read in one instant.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `amount` more.
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Counts one more.
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
