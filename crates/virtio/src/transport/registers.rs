//! What the driver can write, apart from what it sets in motion.

use vm_memory::GuestAddress;

use crate::device::DeviceTraits;
use crate::queue::QueueLayout;

/// Bits of the device status (virtio 1.2, 2.1).
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// Features are negotiated.
    pub const FEATURES_OK: u8 = 8;
    /// The device can't go on (set by the device only).
    pub const NEEDS_RESET: u8 = 64;
    /// The guest has given up.
    pub const FAILED: u8 = 128;

    /// What the driver may set. Anything else that it writes is dropped, NEEDS_RESET included, which drivers write back
    /// with what they have read.
    pub(in crate::transport) const DRIVER_OWNED: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

    /// Whether the driver may go from `current` to `wanted`: it clears nothing (2.1.1) and skips no step of 3.1.1. Several
    /// steps at once are fine.
    pub(in crate::transport) fn follows(current: u8, wanted: u8) -> bool {
        let steps = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];
        let in_order = steps.windows(2).all(|pair| wanted & pair[1] == 0 || wanted & pair[0] != 0);
        current & !wanted == 0 && in_order
    }
}

/// Which 32 of the 64 feature bits a select register names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeatureHalf {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
    /// Bits that do not exist: zero, and can't be set.
    None,
}

impl FeatureHalf {
    /// What `select` names.
    pub fn selected(select: u32) -> Self {
        match select {
            0 => Self::Low,
            1 => Self::High,
            _ => Self::None,
        }
    }

    pub(super) fn of(self, features: u64) -> u32 {
        let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
        match self {
            Self::Low => u32::from_le_bytes([a, b, c, d]),
            Self::High => u32::from_le_bytes([e, f, g, h]),
            Self::None => 0,
        }
    }

    pub(super) fn set(self, features: &mut u64, value: u32) {
        let value = u64::from(value);
        match self {
            Self::Low => *features = *features & !0xffff_ffff | value,
            Self::High => *features = *features & 0xffff_ffff | value << 32,
            Self::None => {}
        }
    }
}

/// The registers of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRegisters {
    /// The most entries that the device allows.
    pub(super) most: u16,
    /// Entries that the driver wants; checked when the queue is enabled.
    pub size: u16,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring.
    pub available: u64,
    /// Address of the used ring.
    pub used: u64,
    /// The driver has enabled the queue: everything above is checked and stays as it is until a reset.
    pub(super) enabled: bool,
}

impl QueueRegisters {
    /// Whether the driver has enabled the queue.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn layout(&self) -> QueueLayout {
        QueueLayout {
            size: self.size,
            descriptors: GuestAddress(self.descriptors),
            available: GuestAddress(self.available),
            used: GuestAddress(self.used),
        }
    }
}

/// All registers. A reset makes new ones, so that it can't forget any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Registers {
    /// Without NEEDS_RESET, which the device sets from any thread: see [`super::events::Events`].
    pub(super) status: u8,
    pub(super) driver_features: u64,
    pub(super) queues: Vec<QueueRegisters>,
}

impl Registers {
    pub(super) fn new(traits: &DeviceTraits) -> Self {
        let queue = |&most| QueueRegisters {
            most,
            size: most,
            descriptors: 0,
            available: 0,
            used: 0,
            enabled: false,
        };
        let queues = traits.queue_sizes.iter().take(usize::from(u16::MAX)).map(queue).collect();
        Self { status: 0, driver_features: 0, queues }
    }
}
