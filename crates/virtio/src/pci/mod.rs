//! Virtio over PCI (virtio 1.2, section 4.1): the modern interface only, of which every register is in one memory BAR.
//!
//! [`VirtioPciFunction`] decodes; what a register does is decided by [`crate::transport::Transport`]. Each queue has a
//! notification address of its own, so that the host's kernel can wake the device's worker without an exit to us
//! ([`platform::Doorbells`]): the binding follows the BAR and the device's activation, and is a matter of speed only.
//! Interrupts are MSI-X; a driver without it gets the INTx line and the ISR status.
//!
//! Trust: offsets, widths and values are the guest's. Registers may be accessed in any width and alignment; the
//! specification asks drivers for the natural ones (4.1.3.1).
//!
//! Threads: registers under the function's lock, by vCPUs; `interrupts` by any worker, under the locks of [`platform::pci::Msix`]
//! or the INTx state, held for one call into the host.

mod common;
mod doorbells;
mod function;
mod interrupts;
#[cfg(test)]
mod tests;
mod window;

pub use function::{MAX_QUEUES, PciPlace, PciWires, VirtioPciError, VirtioPciFunction};

/// A vector register's value for "no vector" (4.1.4.3).
pub const NO_VECTOR: u16 = 0xffff;

/// The BAR, and where the structures lie in it. Each has pages of its own, so that a guest can map them apart.
pub(crate) mod place {
    /// The base address register.
    pub(crate) const BAR: u8 = 0;
    /// Size of its range.
    pub(crate) const BAR_BYTES: u64 = 0x8000;
    /// Common configuration (4.1.4.3).
    pub(crate) const COMMON: u64 = 0;
    /// Its length: up to and with `queue_device`; the fields after it belong to features that are not offered.
    pub(crate) const COMMON_BYTES: u64 = 0x38;
    /// ISR status (4.1.4.5).
    pub(crate) const ISR: u64 = 0x1000;
    /// Its length.
    pub(crate) const ISR_BYTES: u64 = 1;
    /// Device-specific configuration (4.1.4.6).
    pub(crate) const DEVICE: u64 = 0x2000;
    /// The most that it may have.
    pub(crate) const DEVICE_BYTES: u64 = 0x1000;
    /// Notifications (4.1.4.4).
    pub(crate) const NOTIFY: u64 = 0x3000;
    /// The most that they may have.
    pub(crate) const NOTIFY_BYTES: u64 = 0x1000;
    /// Distance of the notification addresses of two queues.
    pub(crate) const NOTIFY_MULTIPLIER: u32 = 4;
    /// MSI-X table.
    pub(crate) const MSIX_TABLE: u64 = 0x4000;
    /// The most that it may have.
    pub(crate) const MSIX_TABLE_BYTES: u64 = 0x3000;
    /// MSI-X pending bits.
    pub(crate) const MSIX_PENDING: u64 = 0x7000;
}
