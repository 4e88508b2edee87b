//! Virtio 1.2 devices: the queue, one transport core, the PCI transport, one folder per device.
//!
//! Division of labour: the transport core keeps status, feature negotiation, queue registers, reset and activation for
//! every device alike; a device ([`device::VirtioDevice`]) declares what it is and works on the queues that it is given.
//! Queues are moved to a worker's thread when the driver is ready and moved back when the device stops.
//!
//! Trust: rings, descriptors, buffers and registers belong to the guest and may change at any moment. Each field is read
//! once; lengths and counts are bounded; a broken ring is a [`queue::QueueFault`], which the core turns into
//! DEVICE_NEEDS_RESET (2.1.2). No guest input panics, blocks a worker or logs without a limit.

pub mod balloon;
pub mod block;
mod build;
mod config_space;
pub mod console;
mod counter;
pub mod device;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rng;
mod running;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;

pub use build::{BuildError, MIN_QUEUE_SIZE};
pub use counter::Counter;
