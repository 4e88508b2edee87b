//! How a function interrupts: MSI-X, or INTx with the ISR status (virtio 1.2, 4.1.4.5 and 4.1.5).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::Mutex;
use platform::InterruptLine;
use platform::pci::{Msix, Notified};

use super::NO_VECTOR;
use crate::transport::events::Interrupts;

/// ISR status: a queue has used buffers.
const ISR_QUEUE: u8 = 1;
/// ISR status: the configuration changed.
const ISR_CONFIG: u8 = 2;

/// The interrupts of one function; shared by its registers and the workers of its device.
pub(super) struct PciInterrupts {
    msix: Msix,
    /// A vector for each queue.
    queues: Box<[AtomicU16]>,
    config: AtomicU16,
    intx: Mutex<Intx>,
    line: Arc<dyn InterruptLine>,
}

/// The level-triggered line: high while there is a cause and the guest lets it through.
#[derive(Debug, Default)]
struct Intx {
    isr: u8,
    /// Turned off in the command register, or replaced by MSI-X.
    off: bool,
    high: bool,
}

impl PciInterrupts {
    pub(super) fn new(msix: Msix, queues: u16, line: Arc<dyn InterruptLine>) -> Self {
        Self {
            msix,
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            config: AtomicU16::new(NO_VECTOR),
            intx: Mutex::new(Intx::default()),
            line,
        }
    }

    /// Vector of queue `index`.
    pub(super) fn queue_vector(&self, index: u16) -> u16 {
        self.queues.get(usize::from(index)).map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst))
    }

    /// Sets it; a vector that does not exist becomes [`NO_VECTOR`], which tells the driver (4.1.5.1.2).
    pub(super) fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(slot) = self.queues.get(usize::from(index)) {
            slot.store(self.existing(vector), Ordering::SeqCst);
        }
    }

    /// Vector of configuration changes.
    pub(super) fn config_vector(&self) -> u16 {
        self.config.load(Ordering::SeqCst)
    }

    /// Sets it, as [`PciInterrupts::set_queue_vector`].
    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), Ordering::SeqCst);
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    /// Reads the ISR status, which takes the line down (4.1.4.5).
    pub(super) fn take_isr(&self) -> u8 {
        let mut intx = self.intx.lock();
        let isr = std::mem::take(&mut intx.isr);
        self.drive(&mut intx);
        isr
    }

    /// Whether the line has a cause: interrupt status in configuration space (PCI Local Bus 3.0, 6.2.3).
    pub(super) fn intx_pending(&self) -> bool {
        self.intx.lock().isr != 0
    }

    /// Follows the command register's interrupt disable bit and the enable bit of MSI-X.
    pub(super) fn set_intx_off(&self, off: bool) {
        let mut intx = self.intx.lock();
        intx.off = off;
        self.drive(&mut intx);
    }

    /// The device was reset: no vectors, no cause. Called when no worker interrupts any more.
    pub(super) fn reset(&self) {
        let Self { msix: _, queues, config, intx, line: _ } = self;
        queues.iter().for_each(|vector| vector.store(NO_VECTOR, Ordering::SeqCst));
        config.store(NO_VECTOR, Ordering::SeqCst);
        let mut intx = intx.lock();
        intx.isr = 0;
        self.drive(&mut intx);
    }

    /// Brings the line in accordance. Called with the state locked, so that levels reach it in the right order.
    fn drive(&self, intx: &mut Intx) {
        let high = intx.isr != 0 && !intx.off;
        if intx.high != high {
            intx.high = high;
            self.line.set_level(high);
        }
    }

    fn raise(&self, vector: u16, isr: u8) {
        let disabled = match vector {
            NO_VECTOR => !self.msix.enabled(),
            vector => self.msix.notify(vector) == Notified::Disabled,
        };
        if disabled {
            let mut intx = self.intx.lock();
            intx.isr |= isr;
            self.drive(&mut intx);
        }
    }
}

impl Interrupts for PciInterrupts {
    fn queue(&self, index: u16) {
        self.raise(self.queue_vector(index), ISR_QUEUE);
    }

    fn config(&self) {
        self.raise(self.config_vector(), ISR_CONFIG);
    }
}
