//! The core that every virtio device shares: device status, feature negotiation, queue registers, activation, reset, pause.
//!
//! A transport (PCI) decodes the guest's register accesses and calls [`Transport`], which alone decides what they do. The
//! device behind it ([`crate::device::VirtioDevice`]) is told to start and to stop and learns nothing of registers.
//!
//! Where the queues are:
//!
//! ```text
//!            DRIVER_OK               start                 request_stop
//!   Absent ────────────▶ Held ───────────────▶ Running ──────────────────▶ Stopping
//!     ▲                  │  ▲                                                 │
//!     └── reset is over ─┘  └───────────── poll_stopped ──────────────────────┘
//! ```
//!
//! Reset and pause are both "stop, then …": the driver's reset throws the held queues away, a pause keeps them until it is
//! resumed. Neither waits for the device: the status register answers non-zero, and [`Transport::poll_paused`] false, until
//! the device has given its queues back.
//!
//! Trust: none in what is written. An access that the specification forbids in the present state is ignored or makes the
//! device ask for a reset; it never panics. Registers of queues can't change once the device may be using them.
//!
//! Threads: called by vCPUs and the VM driver with the function's lock held. [`events::Events`] is what workers reach: atomics
//! only. Specification: virtio 1.2, sections 2.1 (status), 2.2 (features), 2.4 (reset), 2.5 (configuration), 3.1 (initialization).

pub mod events;
mod lifecycle;
mod registers;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use platform::guest_warn;

use crate::device::{DeviceEvents, DeviceTraits, GuestMemory, VirtioDevice};
use crate::queue::{FEATURE_EVENT_INDEX, FEATURE_INDIRECT_DESCRIPTORS, MAX_QUEUE_SIZE};
use events::{Events, Interrupts};
use lifecycle::Lifecycle;
use registers::Registers;
pub use registers::{FeatureHalf, QueueRegisters, status};

/// VIRTIO_F_VERSION_1 (6): the driver follows virtio 1.0 or later. Required: there is no legacy interface.
pub const FEATURE_VERSION_1: u64 = 1 << 32;

/// What the core offers on behalf of every device.
const CORE_FEATURES: u64 = FEATURE_VERSION_1 | FEATURE_INDIRECT_DESCRIPTORS | FEATURE_EVENT_INDEX;

/// A virtio device with everything that its transport and the device share.
pub struct Transport {
    registers: Registers,
    lifecycle: Lifecycle,
    events: Arc<Events>,
    memory: Arc<GuestMemory>,
    offered: u64,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("device_id", &self.traits().device_id)
            .field("registers", &self.registers)
            .field("lifecycle", &self.lifecycle)
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// Puts `device` behind registers as after a reset. Its interrupts go out through `interrupts`.
    ///
    /// # Panics
    /// When the device declares a queue size that is no power of two up to 32768: a bug of the device.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        interrupts: Arc<dyn Interrupts>,
    ) -> Self {
        let offered = device.traits().features | CORE_FEATURES;
        let registers = Registers::new(device.traits());
        let sizes = &device.traits().queue_sizes;
        assert!(
            sizes.iter().all(|size| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE),
            "queue sizes {sizes:?}"
        );
        Self {
            registers,
            offered,
            lifecycle: Lifecycle::new(device),
            events: Arc::new(Events::new(interrupts)),
            memory,
        }
    }

    /// What the device is.
    pub fn traits(&self) -> &DeviceTraits {
        self.lifecycle.device.traits()
    }

    /// The way to tell the driver of a change that comes from outside (a resized disk) for the whole life of the device.
    pub fn events(&self) -> Arc<dyn DeviceEvents> {
        Arc::clone(&self.events) as Arc<dyn DeviceEvents>
    }

    /// The device's status (2.1). Not 0 before a reset is over.
    pub fn read_status(&mut self) -> u8 {
        self.settle();
        self.registers.status | if self.events.needs_reset_pending() { status::NEEDS_RESET } else { 0 }
    }

    /// Changes the device's status: 0 resets, DRIVER_OK starts. Writes that clear bits or skip a step (3.1.1) are ignored.
    pub fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.request_reset();
            return;
        }
        if !self.ready_for_write() {
            return;
        }
        let wanted = value & status::DRIVER_OWNED;
        let current = self.registers.status;
        if !status::follows(current, wanted) {
            guest_warn!(
                device = self.traits().device_id,
                current,
                wanted,
                "the driver's status write is out of order"
            );
            return;
        }
        let added = wanted & !current;
        if added & status::FEATURES_OK != 0 && !self.features_acceptable() {
            // The driver reads the status back to learn that its choice was refused (3.1.1, step 6).
            self.registers.status |= added & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
            return;
        }
        self.registers.status |= added;
        if added & status::DRIVER_OK != 0 {
            self.driver_ok();
        }
    }

    fn features_acceptable(&self) -> bool {
        let wanted = self.registers.driver_features;
        wanted & !self.offered == 0 && wanted & FEATURE_VERSION_1 != 0
    }

    /// Half of the features that the device offers.
    pub fn device_features(&self, half: FeatureHalf) -> u32 {
        half.of(self.offered)
    }

    /// Half of the features that the driver has accepted so far.
    pub fn driver_features(&self, half: FeatureHalf) -> u32 {
        half.of(self.registers.driver_features)
    }

    /// Accepts features, until FEATURES_OK.
    pub fn write_driver_features(&mut self, half: FeatureHalf, value: u32) {
        if self.ready_for_write() && self.registers.status & status::FEATURES_OK == 0 {
            half.set(&mut self.registers.driver_features, value);
        }
    }

    /// Number of queues.
    pub fn queue_count(&self) -> u16 {
        // `Registers::new` made at most 65535 of them.
        u16::try_from(self.registers.queues.len()).unwrap_or(u16::MAX)
    }

    /// The registers of a queue; `None` when there is no such queue.
    pub fn queue(&self, index: u16) -> Option<&QueueRegisters> {
        self.registers.queues.get(usize::from(index))
    }

    /// Changes the registers of a queue by `change`, unless the queue is enabled or the device runs: what the device uses
    /// can't be moved under it.
    pub fn configure_queue(&mut self, index: u16, change: impl FnOnce(&mut QueueRegisters)) {
        if !self.queues_open() {
            return;
        }
        if let Some(queue) = self.registers.queues.get_mut(usize::from(index))
            && !queue.enabled
        {
            change(queue);
        }
    }

    /// Enables a queue, after checking where it lies. A queue that can't be is left disabled and the device asks for a reset.
    pub fn enable_queue(&mut self, index: u16) {
        if !self.queues_open() {
            return;
        }
        let Some(queue) = self.registers.queues.get_mut(usize::from(index)) else { return };
        match queue.layout().check(queue.most, &self.memory) {
            Ok(()) => queue.enabled = true,
            Err(fault) => {
                guest_warn!(device = self.lifecycle.device.traits().device_id, index, %fault, "a queue can't be enabled");
                self.events.needs_reset();
            }
        }
    }

    /// Whether queue registers can still change (before DRIVER_OK).
    fn queues_open(&mut self) -> bool {
        self.ready_for_write() && self.registers.status & status::DRIVER_OK == 0
    }

    /// Counts changes of the device-specific configuration (2.5.1), modulo 256.
    pub fn config_generation(&self) -> u8 {
        self.events.generation()
    }

    /// Reads the device-specific configuration; bytes past its end read as zero.
    pub fn read_config(&self, offset: u32, data: &mut [u8]) {
        data.fill(0);
        let inside = self.config_bytes_at(offset, data.len());
        if inside != 0 {
            self.lifecycle.device.read_config(offset, &mut data[..inside]);
        }
    }

    /// Writes the device-specific configuration; bytes past its end are dropped.
    pub fn write_config(&mut self, offset: u32, data: &[u8]) {
        let inside = self.config_bytes_at(offset, data.len());
        if inside != 0 && self.ready_for_write() {
            self.lifecycle.device.write_config(offset, &data[..inside]);
        }
    }

    fn config_bytes_at(&self, offset: u32, wanted: usize) -> usize {
        let left = self.traits().config_bytes.saturating_sub(offset);
        wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
    }
}
