//! Where a queue lies in guest memory (virtio 1.2, 2.7).

use vm_memory::{GuestAddress, GuestMemory as _, Permissions};

use super::QueueFault;
use crate::device::GuestMemory;

/// Length of a descriptor (2.7.5).
pub(super) const DESCRIPTOR_BYTES: u64 = 16;
/// Flags and index, which both rings start with (2.7.6, 2.7.8).
const RING_HEADER_BYTES: u64 = 4;
const AVAILABLE_ENTRY_BYTES: u64 = 2;
const USED_ENTRY_BYTES: u64 = 8;
/// The event field that both rings end with.
const EVENT_BYTES: u64 = 2;
/// The largest split virtqueue (2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// Size and place of a queue, as the driver asked for them. A value of this type is not checked yet: see
/// [`super::Queue::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLayout {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table ("descriptor area").
    pub descriptors: GuestAddress,
    /// Available ring ("driver area").
    pub available: GuestAddress,
    /// Used ring ("device area").
    pub used: GuestAddress,
}

impl QueueLayout {
    /// Checks the rules of 2.7 that make every later access to the rings safe: the size is a power of two of at most
    /// `most`, the areas are aligned and lie in guest memory.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, most: u16, memory: &GuestMemory) -> Result<(), QueueFault> {
        let Self { size, descriptors, available, used } = *self;
        if !size.is_power_of_two() || size > most.min(MAX_QUEUE_SIZE) {
            return Err(QueueFault::Size { size, most: most.min(MAX_QUEUE_SIZE) });
        }
        let size = u64::from(size);
        let areas = [
            ("descriptor table", descriptors, 16, DESCRIPTOR_BYTES * size),
            ("available ring", available, 2, RING_HEADER_BYTES + AVAILABLE_ENTRY_BYTES * size + EVENT_BYTES),
            ("used ring", used, 4, RING_HEADER_BYTES + USED_ENTRY_BYTES * size + EVENT_BYTES),
        ];
        for (area, address, alignment, bytes) in areas {
            if address.0 % alignment != 0 {
                return Err(QueueFault::Alignment { area, address, alignment });
            }
            check_range(memory, area, address, bytes)?;
        }
        Ok(())
    }

    /// Slot of a free-running ring index.
    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.size - 1))
    }

    pub(super) fn available_flags(&self) -> GuestAddress {
        self.available
    }

    pub(super) fn available_index(&self) -> GuestAddress {
        GuestAddress(self.available.0 + 2)
    }

    pub(super) fn available_entry(&self, index: u16) -> GuestAddress {
        GuestAddress(self.available.0 + RING_HEADER_BYTES + AVAILABLE_ENTRY_BYTES * self.slot(index))
    }

    /// `used_event`: the used index at which the driver wants an interrupt.
    pub(super) fn used_event(&self) -> GuestAddress {
        GuestAddress(self.available.0 + RING_HEADER_BYTES + AVAILABLE_ENTRY_BYTES * u64::from(self.size))
    }

    pub(super) fn used_flags(&self) -> GuestAddress {
        self.used
    }

    pub(super) fn used_index(&self) -> GuestAddress {
        GuestAddress(self.used.0 + 2)
    }

    pub(super) fn used_entry(&self, index: u16) -> GuestAddress {
        GuestAddress(self.used.0 + RING_HEADER_BYTES + USED_ENTRY_BYTES * self.slot(index))
    }

    /// `avail_event`: the available index at which the device wants a notification.
    pub(super) fn available_event(&self) -> GuestAddress {
        GuestAddress(self.used.0 + RING_HEADER_BYTES + USED_ENTRY_BYTES * u64::from(self.size))
    }
}

/// Checks that `bytes` bytes at `address` are guest memory.
pub(super) fn check_range(
    memory: &GuestMemory,
    what: &'static str,
    address: GuestAddress,
    bytes: u64,
) -> Result<(), QueueFault> {
    let fault = QueueFault::OutsideMemory { what, address, bytes };
    let end = address.0.checked_add(bytes).ok_or(fault)?;
    let count = usize::try_from(bytes).map_err(|_| fault)?;
    // The end must be an address as well: the ring accessors add to `address` without a check.
    if end > address.0 && memory.check_range(address, count, Permissions::ReadWrite) {
        Ok(())
    } else {
        Err(fault)
    }
}
