//! The board without the hypervisor: how devices are addressed, how they ask for things, and the devices that every board has.
//!
//! Nothing here knows KVM, virtio or files of disks. Devices receive the few capabilities they need as trait objects
//! ([`InterruptLine`], [`MsiSink`], [`Doorbells`]) and hand effects back instead of holding the machine ([`Effect`]),
//! so a device can neither deadlock against the machine nor reach past its own registers.
//!
//! - Contracts: [`register_file`], [`bus`], [`interrupt`], [`worker`].
//! - PCI Express: [`pci`].
//! - Board devices: [`uart`] (on a [`character`] backend), [`rtc`], [`i8042`], [`power`], [`system_ports`],
//!   [`firmware_configuration`], [`flash`]; where they
//!   are is in [`board`].
//! - Logging that a guest can trigger: [`guest_warn!`].
//!
//! Trust: every offset, width and value that arrives here was chosen by the guest. Nothing a guest writes may panic,
//! allocate without bound or log without a rate limit.

pub mod board;
pub mod bus;
pub mod character;
pub mod firmware_configuration;
pub mod flash;
pub mod i8042;
pub mod interrupt;
pub mod pci;
pub mod power;
pub mod rate_limit;
pub mod register_file;
pub mod rtc;
pub mod system_ports;
pub mod timer;
pub mod uart;
pub mod worker;

#[doc(hidden)]
pub use tracing;

pub use bus::{Bus, BusError, SharedDevice};
pub use interrupt::{Doorbells, InterruptError, InterruptLine, MsiMessage, MsiSink};
pub use register_file::{Effect, RegisterFile, VmRequest};
