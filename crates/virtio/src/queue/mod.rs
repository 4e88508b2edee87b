//! A split virtqueue (virtio 1.2, section 2.7) as the device sees it.
//!
//! A [`Queue`] owns the device's side of the rings: it takes [`Chain`]s of buffers that the driver made available and
//! gives them back as used. It is moved to the thread that works on it, holds no lock and keeps no reference to guest
//! memory; each call is handed the memory.
//!
//! Trust: none. Everything in the rings belongs to the guest and may change at any moment, so each field is read once
//! and checked after it was read. A broken rule is a [`QueueFault`], never a panic; a chain is bounded in descriptors and
//! bytes, and the number of chains in flight by the queue's size.

mod chain;
mod fault;
mod layout;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes as _, GuestAddress};

pub use chain::{Buffer, Buffers, Chain, Readable, Writable};
pub use fault::QueueFault;
pub use layout::{MAX_QUEUE_SIZE, QueueLayout};
pub use walk::MAX_INDIRECT_DESCRIPTORS;

use crate::device::GuestMemory;

/// VIRTIO_F_INDIRECT_DESC (6): chains may go through a table of their own.
pub const FEATURE_INDIRECT_DESCRIPTORS: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX (6): both sides say at which index they want to hear from the other.
pub const FEATURE_EVENT_INDEX: u64 = 1 << 29;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.6).
const AVAILABLE_NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY (2.7.8).
const USED_NO_NOTIFY: u16 = 1;

/// What is kept of chains that are done, so that taking the next one allocates nothing: at most this many of them, each of
/// at most this many buffers. Bounds the memory that a burst of the guest leaves behind.
const SPARE_CHAINS: usize = 64;
const SPARE_BUFFERS: usize = 64;

/// A queue's place and progress: what has to be kept to continue it later or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Size and place.
    pub layout: QueueLayout,
    /// Index of the next entry to take from the available ring, free running.
    pub next_available: u16,
    /// Index of the next entry to fill in the used ring, free running.
    pub next_used: u16,
}

/// A virtqueue, the device's side.
#[derive(Debug)]
pub struct Queue {
    layout: QueueLayout,
    indirect: bool,
    event_index: bool,
    /// The available index as it was last read: entries before it can be taken without looking again.
    seen_available: u16,
    next_available: u16,
    next_used: u16,
    /// `next_used` when the driver was last considered for an interrupt; unknown after a restore.
    signalled_used: Option<u16>,
    spare: Vec<Vec<Buffer>>,
}

impl Queue {
    /// A queue at `layout` that has not been used yet. `features` are the negotiated ones.
    ///
    /// # Errors
    /// The rule that `layout` breaks: size, alignment, or an area outside guest memory.
    pub fn new(layout: QueueLayout, features: u64, memory: &GuestMemory) -> Result<Self, QueueFault> {
        let state = QueueState { layout, next_available: 0, next_used: 0 };
        let mut queue = Self::from_state(state, features, memory)?;
        queue.signalled_used = Some(0);
        Ok(queue)
    }

    /// Continues a queue.
    ///
    /// # Errors
    /// As [`Queue::new`], and [`QueueFault::State`] for indices that can't be.
    pub fn from_state(state: QueueState, features: u64, memory: &GuestMemory) -> Result<Self, QueueFault> {
        let QueueState { layout, next_available, next_used } = state;
        layout.check(MAX_QUEUE_SIZE, memory)?;
        if next_available.wrapping_sub(next_used) > layout.size {
            return Err(QueueFault::State { next_available, next_used, size: layout.size });
        }
        Ok(Self {
            layout,
            indirect: features & FEATURE_INDIRECT_DESCRIPTORS != 0,
            event_index: features & FEATURE_EVENT_INDEX != 0,
            seen_available: next_available,
            next_available,
            next_used,
            signalled_used: None,
            spare: Vec::new(),
        })
    }

    /// Place and progress. Complete only while [`Queue::in_flight`] is 0: chains in flight are not part of it.
    pub fn state(&self) -> QueueState {
        QueueState { layout: self.layout, next_available: self.next_available, next_used: self.next_used }
    }

    /// Size and place.
    pub fn layout(&self) -> &QueueLayout {
        &self.layout
    }

    /// Chains that were taken and neither completed nor put back.
    pub fn in_flight(&self) -> u16 {
        self.next_available.wrapping_sub(self.next_used)
    }

    /// Whether there is a chain to take.
    ///
    /// # Errors
    /// The driver's index is more than the queue's size ahead.
    pub fn has_available(&mut self, memory: &GuestMemory) -> Result<bool, QueueFault> {
        if self.seen_available != self.next_available {
            return Ok(true);
        }
        self.look(memory)
    }

    /// Reads the available index; whether it is ahead of us.
    fn look(&mut self, memory: &GuestMemory) -> Result<bool, QueueFault> {
        // Acquire: what the driver wrote before the index (entries, descriptors, buffers) is visible after it.
        let index = load(memory, self.layout.available_index(), Ordering::Acquire)?;
        let size = self.layout.size;
        if index.wrapping_sub(self.next_available) > size {
            return Err(QueueFault::AvailableIndex { index, next: self.next_available, size });
        }
        self.seen_available = index;
        Ok(index != self.next_available)
    }

    /// Takes the next chain that the driver made available, if there is one.
    ///
    /// # Errors
    /// The rule that the ring or the chain breaks; nothing was taken.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, QueueFault> {
        if !self.has_available(memory)? {
            return Ok(None);
        }
        if self.in_flight() >= self.layout.size {
            return Err(QueueFault::TooManyInFlight { size: self.layout.size });
        }
        let head = load(memory, self.layout.available_entry(self.next_available), Ordering::Relaxed)?;
        let mut buffers = self.spare.pop().unwrap_or_default();
        let found = walk::walk(memory, &self.layout, self.indirect, head, &mut buffers)?;
        let chain = Chain::new(head, self.next_available, buffers, &found);
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts back the chain that was taken last, as if it had never been taken. Several are put back in the reverse of the
    /// order in which they were taken.
    ///
    /// # Panics
    /// When `chain` is not the one that was taken last: a bug of the device, no guest can cause it.
    pub fn undo_pop(&mut self, chain: Chain) {
        let previous = self.next_available.wrapping_sub(1);
        assert_eq!(chain.position(), previous, "chains are put back in reverse order");
        self.next_available = previous;
        self.recycle(chain);
    }

    /// Gives `chain` back to the driver with `written` bytes written to it, counted from the start of its writable part
    /// and cut to that part's length. The driver is not interrupted: see [`Queue::wants_interrupt`], once a batch.
    ///
    /// # Errors
    /// The used ring can't be written.
    #[must_use = "a chain that could not be completed means that the queue is broken"]
    pub fn complete(&mut self, memory: &GuestMemory, chain: Chain, written: u32) -> Result<(), QueueFault> {
        self.complete_all(memory, [(chain, written)])
    }

    /// As [`Queue::complete`] for several chains that the driver has to see all at once (a frame in several buffers,
    /// 5.1.6.4).
    ///
    /// # Errors
    /// The used ring can't be written; the driver sees none of the chains.
    #[must_use = "a chain that could not be completed means that the queue is broken"]
    pub fn complete_all(
        &mut self,
        memory: &GuestMemory,
        chains: impl IntoIterator<Item = (Chain, u32)>,
    ) -> Result<(), QueueFault> {
        let mut index = self.next_used;
        for (chain, written) in chains {
            let entry = self.layout.used_entry(index);
            let mut raw = [0; 8];
            raw[..4].copy_from_slice(&u32::from(chain.head()).to_le_bytes());
            raw[4..].copy_from_slice(&written.min(chain.writable_bytes()).to_le_bytes());
            memory.write_slice(&raw, entry).map_err(|_| outside("used ring entry", entry, 8))?;
            index = index.wrapping_add(1);
            self.recycle(chain);
        }
        // Release: the buffers' content and the entries are visible before the index.
        store(memory, index, self.layout.used_index(), Ordering::Release)?;
        self.next_used = index;
        Ok(())
    }

    /// Whether the driver wants to be interrupted for what was completed since this was last asked (2.7.7, 2.7.10).
    ///
    /// # Errors
    /// The available ring can't be read.
    pub fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, QueueFault> {
        let before = self.signalled_used.replace(self.next_used);
        if before == Some(self.next_used) {
            return Ok(false);
        }
        // The used index must be visible before the driver's wish is read: a driver that asks for an interrupt looks at
        // the used index afterwards, with the same fence between.
        fence(Ordering::SeqCst);
        if !self.event_index {
            let flags = load(memory, self.layout.available_flags(), Ordering::Relaxed)?;
            return Ok(flags & AVAILABLE_NO_INTERRUPT == 0);
        }
        let event = load(memory, self.layout.used_event(), Ordering::Relaxed)?;
        Ok(before.is_none_or(|before| crossed(event, before, self.next_used)))
    }

    /// Asks the driver for a notification when it makes the next chain available. Returns whether there is one already:
    /// then no notification may come, and the caller takes it.
    ///
    /// # Errors
    /// As [`Queue::has_available`].
    #[must_use = "no notification comes for what is available already"]
    pub fn enable_notifications(&mut self, memory: &GuestMemory) -> Result<bool, QueueFault> {
        if self.event_index {
            store(memory, self.next_available, self.layout.available_event(), Ordering::Relaxed)?;
        } else {
            store(memory, 0, self.layout.used_flags(), Ordering::Relaxed)?;
        }
        // The wish must be visible before the index is read: pairs with the driver's fence between both.
        fence(Ordering::SeqCst);
        self.look(memory)
    }

    /// Tells the driver that notifications are not needed for now. A hint: some may still come.
    ///
    /// # Errors
    /// The used ring can't be written.
    pub fn disable_notifications(&mut self, memory: &GuestMemory) -> Result<(), QueueFault> {
        if self.event_index {
            // The driver has passed the event index already and is silent until it is set anew.
            return Ok(());
        }
        store(memory, USED_NO_NOTIFY, self.layout.used_flags(), Ordering::Relaxed)
    }

    fn recycle(&mut self, chain: Chain) {
        let mut buffers = chain.into_buffers();
        if self.spare.len() < SPARE_CHAINS && buffers.capacity() <= SPARE_BUFFERS {
            buffers.clear();
            self.spare.push(buffers);
        }
    }
}

/// Whether an index that moved from `before` to `now` passed `event` (2.7.10, `vring_need_event`).
fn crossed(event: u16, before: u16, now: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

fn outside(what: &'static str, address: GuestAddress, bytes: u64) -> QueueFault {
    QueueFault::OutsideMemory { what, address, bytes }
}

fn load(memory: &GuestMemory, address: GuestAddress, order: Ordering) -> Result<u16, QueueFault> {
    memory.load::<u16>(address, order).map(u16::from_le).map_err(|_| outside("ring field", address, 2))
}

fn store(memory: &GuestMemory, value: u16, address: GuestAddress, order: Ordering) -> Result<(), QueueFault> {
    memory.store(value.to_le(), address, order).map_err(|_| outside("ring field", address, 2))
}
