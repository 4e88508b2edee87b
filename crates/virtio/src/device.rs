//! The contract between the transport core and a device.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::queue::Queue;

/// Guest memory as every device sees it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// What a device is: constant over its life.
#[derive(Debug, Clone)]
pub struct DeviceTraits {
    /// Virtio device ID (virtio 1.2, section 5), for example 2 for block.
    pub device_id: u16,
    /// Features that the device offers beyond those that the transport core adds: VERSION_1, indirect descriptors and
    /// event index.
    pub features: u64,
    /// The most entries that each queue may have, a power of two; one entry a queue.
    pub queue_sizes: Vec<u16>,
    /// Length of the device-specific configuration space in bytes.
    pub config_bytes: u32,
}

/// Sends a queue's used-buffer notification to the driver.
pub trait QueueInterrupt: Send + Sync {
    /// Interrupts the driver; the queue has decided already that the driver wants it. Any thread, never blocks.
    fn signal(&self);
}

/// Tells the transport core what happened behind the vCPUs' back.
pub trait DeviceEvents: Send + Sync {
    /// The configuration space changed (2.5): the driver is interrupted and the generation moves on.
    fn config_changed(&self);

    /// A queue is broken by the guest: DEVICE_NEEDS_RESET is set and the driver told (2.1.2).
    fn needs_reset(&self);
}

/// A queue that the driver has enabled, with its wires.
pub struct ActiveQueue {
    /// Its number.
    pub index: u16,
    /// The rings.
    pub queue: Queue,
    /// An eventfd that is written when the driver makes buffers available.
    pub kick: Arc<OwnedFd>,
    /// How the driver is interrupted.
    pub interrupt: Arc<dyn QueueInterrupt>,
}

/// Everything that a device gets when the driver is ready.
pub struct Activation {
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// Negotiated features, transport ones included.
    pub features: u64,
    /// The enabled queues, by ascending number.
    pub queues: Vec<ActiveQueue>,
    /// The way back to the transport core.
    pub events: Arc<dyn DeviceEvents>,
}

/// Why a device could not start.
#[derive(Debug, thiserror::Error)]
#[error("virtio device {device_id}: {what}: {source}")]
pub struct StartError {
    /// Virtio device ID.
    pub device_id: u16,
    /// What was tried.
    pub what: String,
    /// Why it failed.
    pub source: std::io::Error,
}

/// A virtio device. Every method is called with the function's lock held, by a vCPU or by the VM driver.
pub trait VirtioDevice: Send {
    /// What the device is.
    fn traits(&self) -> &DeviceTraits;

    /// Reads the device-specific configuration space; `offset + data.len()` is at most `config_bytes`.
    fn read_config(&self, offset: u32, data: &mut [u8]);

    /// Writes it, under the same conditions.
    fn write_config(&mut self, offset: u32, data: &[u8]);

    /// Begins to work on the queues. The device is stopped. Returns without waiting for its workers.
    fn start(&mut self, activation: Activation) -> Result<(), StartError>;

    /// Asks the device to finish what is in flight and give its queues back; returns at once. Idempotent.
    fn request_stop(&mut self);

    /// The queues, all of those that it was started with, once nothing is in flight any more after
    /// [`VirtioDevice::request_stop`]; `None` until then. Waits for `patience` at most, which is usually zero: a worker
    /// that hands back in time is waited for with `platform::worker::Attached::take_within`. A device that is not started
    /// answers with no queues. Having given them back, the device neither works nor calls [`DeviceEvents::needs_reset`].
    fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<ActiveQueue>>;

    /// Forgets all state of the driver (the device is stopped): back to as built.
    fn reset(&mut self);
}
