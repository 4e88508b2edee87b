//! Ranges of the virtual disk whose mapping is being changed, and requests whose memory of a mapping may be old.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

/// Lets one thread at a time change the mapping of a range. Only an engine's threads wait here.
#[derive(Debug, Default)]
pub(super) struct RangeLocks {
    held: Mutex<Vec<(u64, u64)>>,
    released: Condvar,
}

impl RangeLocks {
    /// Waits until nobody holds any of `start..end`, then holds it.
    pub(super) fn lock(&self, start: u64, end: u64) -> RangeGuard<'_> {
        let mut held = self.held.lock();
        while held.iter().any(|(from, to)| start < *to && *from < end) {
            self.released.wait(&mut held);
        }
        held.push((start, end));
        RangeGuard { locks: self, start, end }
    }
}

/// Holds a range until dropped.
#[derive(Debug)]
pub(super) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    start: u64,
    end: u64,
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock();
        if let Some(at) = held.iter().position(|range| *range == (self.start, self.end)) {
            held.swap_remove(at);
        }
        drop(held);
        self.locks.released.notify_all();
    }
}

/// Counts requests in two epochs. A host cluster that lost its mapping may be used again once every request that began
/// before has ended: after two turns.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    current: AtomicUsize,
    inside: [AtomicUsize; 2],
}

impl Epochs {
    /// A request begins; the answer is to be given to [`Epochs::leave`].
    pub(super) fn enter(&self) -> usize {
        loop {
            let epoch = self.current.load(Ordering::SeqCst);
            self.inside[epoch].fetch_add(1, Ordering::SeqCst);
            if self.current.load(Ordering::SeqCst) == epoch {
                return epoch;
            }
            self.inside[epoch].fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A request has ended.
    pub(super) fn leave(&self, epoch: usize) {
        self.inside[epoch & 1].fetch_sub(1, Ordering::SeqCst);
    }

    /// Begins the next epoch if nobody is left in the one before. Called by one thread at a time.
    pub(super) fn turn(&self) -> bool {
        let current = self.current.load(Ordering::SeqCst);
        if self.inside[1 - current].load(Ordering::SeqCst) != 0 {
            return false;
        }
        self.current.store(1 - current, Ordering::SeqCst);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_range_waits_for_what_overlaps_it_and_for_nothing_else() {
        let locks = Arc::new(RangeLocks::default());
        let first = locks.lock(0, 100);
        drop(locks.lock(100, 200));
        let (sender, receiver) = mpsc::channel();
        let theirs = Arc::clone(&locks);
        let thread = std::thread::Builder::new()
            .spawn(move || {
                let _overlaps = theirs.lock(50, 150);
                sender.send(()).unwrap();
            })
            .unwrap();
        assert!(receiver.try_recv().is_err());
        drop(first);
        receiver.recv().unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn two_turns_outlast_every_request_that_began_before() {
        let epochs = Epochs::default();
        let old = epochs.enter();
        assert!(epochs.turn());
        assert!(!epochs.turn(), "a request of the epoch before is still there");
        let young = epochs.enter();
        epochs.leave(old);
        assert!(epochs.turn());
        assert!(!epochs.turn());
        epochs.leave(young);
        assert!(epochs.turn());
    }
}
