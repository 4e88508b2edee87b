//! How devices interrupt the guest and how the guest's doorbells reach devices, without naming a hypervisor.

use std::io;
use std::os::fd::BorrowedFd;

/// A failure of the host to deliver or wire an interrupt or a doorbell.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct InterruptError {
    /// What was being done, on what.
    pub what: String,
    /// Why the host refused.
    pub source: io::Error,
}

/// One input pin of the interrupt controllers (an ISA IRQ or a PCI INTx line).
pub trait InterruptLine: Send + Sync {
    /// Drives the line. Edge-triggered users raise and lower it at once; level-triggered ones lower it when the
    /// guest has acknowledged the cause at the device. Called from any thread, must not block.
    fn set_level(&self, high: bool);

    /// Raises and lowers the line.
    fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

/// The address and data that a PCI function writes to send one message signalled interrupt (PCI 3.0, section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message address, low and high dword joined.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// The message signalled interrupts of one PCI function. Created by the machine, one a function.
///
/// Host resources of a vector (a route and an interrupt descriptor) are taken when it is first programmed, so that a
/// function that is never used costs nothing at start.
pub trait MsiSink: Send + Sync {
    /// Sets what `vector` sends from now on; `None` while it is masked or disabled. Called by the MSI-X table under the
    /// function's lock when the guest changes a vector.
    fn program(&self, vector: u16, message: Option<MsiMessage>) -> Result<(), InterruptError>;

    /// Sends `vector` as last programmed. Called from any thread; never for a vector that is masked.
    fn signal(&self, vector: u16);

    /// The descriptor that sends `vector` when written as an eventfd, for devices in the kernel (vhost).
    /// `None` when the vector has no route yet.
    fn event(&self, vector: u16) -> Option<BorrowedFd<'_>>;
}

/// Guest-physical addresses whose writes wake a device without an exit to this process (ioeventfd).
pub trait Doorbells: Send + Sync {
    /// From now on any write to the guest-physical `address`, of any width, is signalled on `event` (an eventfd).
    /// Until it is bound, such a write arrives at the device's [`crate::RegisterFile`] as usual: a doorbell is only faster.
    fn bind(&self, address: u64, event: BorrowedFd<'_>) -> Result<(), InterruptError>;

    /// Undoes one `bind` with the same arguments.
    fn unbind(&self, address: u64, event: BorrowedFd<'_>) -> Result<(), InterruptError>;
}
