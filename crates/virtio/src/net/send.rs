//! Frames from the guest to the backend.

use std::io::ErrorKind;

use net_io::NetBackend;

use super::device::NetCounters;
use super::{BATCH, HEADER_BYTES, MAX_FRAME_BYTES};
use crate::device::{ActiveQueue, GuestMemory};
use crate::queue::{Chain, QueueFault};
use crate::running::wake;

/// The transmit queue of a pair.
pub(super) struct Sender {
    pub(super) active: ActiveQueue,
    /// The frame that the backend could not take; no other is taken before it.
    blocked: Option<Chain>,
}

/// What becomes of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    /// They are thrown away.
    Down,
}

impl Sender {
    pub(super) fn new(active: ActiveQueue) -> Self {
        Self { active, blocked: None }
    }

    /// Whether a frame waits for the backend to become writable.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Sends until there is nothing more, the backend is full, or it is other tasks' turn.
    pub(super) fn run(
        &mut self,
        backend: &mut dyn NetBackend,
        link: Link,
        memory: &GuestMemory,
        counters: &NetCounters,
    ) -> Result<(), QueueFault> {
        self.active.queue.disable_notifications(memory)?;
        for _ in 0..BATCH {
            let next = match self.blocked.take() {
                Some(chain) => Some(chain),
                None => self.active.queue.pop(memory)?,
            };
            match next {
                Some(chain) => {
                    if let Some(chain) = self.send_one(chain, backend, link, memory, counters)? {
                        self.blocked = Some(chain);
                        return Ok(());
                    }
                }
                None if self.active.queue.enable_notifications(memory)? => {}
                None => return Ok(()),
            }
        }
        wake(&self.active.kick);
        Ok(())
    }

    /// Sends a frame and completes its chain. Returns the chain if the backend is full.
    fn send_one(
        &mut self,
        chain: Chain,
        backend: &mut dyn NetBackend,
        link: Link,
        memory: &GuestMemory,
        counters: &NetCounters,
    ) -> Result<Option<Chain>, QueueFault> {
        let bytes = chain.readable_bytes();
        if !(HEADER_BYTES + 1..=MAX_FRAME_BYTES).contains(&bytes) {
            counters.tx_errors.increment();
        } else if link == Link::Down {
            counters.tx_dropped.increment();
        } else {
            let mut slices = Vec::new();
            chain.readable().slices(memory, &mut slices)?;
            match backend.send(&slices) {
                Ok(()) => {
                    counters.tx_frames.increment();
                    counters.tx_bytes.add(u64::from(bytes - HEADER_BYTES));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(chain)),
                // The frame is lost, as frames may be; a backend that is gone shows in the counter, not in a log that
                // grows with every frame.
                Err(_) => counters.tx_errors.increment(),
            }
        }
        self.active.queue.complete(memory, chain, 0)?;
        Ok(None)
    }

    /// Puts a frame that waits back, so that the queue can move elsewhere.
    pub(super) fn put_back(&mut self) {
        if let Some(chain) = self.blocked.take() {
            self.active.queue.undo_pop(chain);
        }
    }
}
