//! What a device's workers tell the driver, from any thread and without the function's lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::device::{DeviceEvents, QueueInterrupt};

/// The interrupts of one device, as its transport sends them. Any thread; must not block, and must not take the lock under
/// which the function's registers are accessed.
pub trait Interrupts: Send + Sync {
    /// Used buffer notification of queue `index` (2.3).
    fn queue(&self, index: u16);

    /// Configuration change notification (2.3).
    fn config(&self);
}

/// The device's side of the status and of the configuration generation.
pub struct Events {
    interrupts: Arc<dyn Interrupts>,
    needs_reset: AtomicBool,
    /// DRIVER_OK is set: the driver may be interrupted.
    live: AtomicBool,
    generation: AtomicU8,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("needs_reset", &self.needs_reset)
            .field("live", &self.live)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(interrupts: Arc<dyn Interrupts>) -> Self {
        let (needs_reset, live, generation) =
            (AtomicBool::new(false), AtomicBool::new(false), AtomicU8::new(0));
        Self { interrupts, needs_reset, live, generation }
    }

    pub(super) fn needs_reset_pending(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The driver is ready for interrupts. What was reported before is told now.
    pub(super) fn go_live(&self) {
        self.live.store(true, Ordering::SeqCst);
        if self.needs_reset_pending() {
            self.interrupts.config();
        }
    }

    /// The driver has reset the device. The generation goes on: a driver that was reading the configuration while another
    /// one reset the device has to read it again.
    pub(super) fn reset(&self) {
        let Self { interrupts: _, needs_reset, live, generation: _ } = self;
        live.store(false, Ordering::SeqCst);
        needs_reset.store(false, Ordering::SeqCst);
    }

    fn interrupt_if_live(&self) {
        if self.live.load(Ordering::SeqCst) {
            self.interrupts.config();
        }
    }

    pub(super) fn queue_interrupt(&self, index: u16) -> Arc<dyn QueueInterrupt> {
        Arc::new(OneQueue { interrupts: Arc::clone(&self.interrupts), index })
    }
}

impl DeviceEvents for Events {
    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.interrupt_if_live();
    }

    fn needs_reset(&self) {
        // Once is enough: a broken device may report every request that it can't serve.
        if !self.needs_reset.swap(true, Ordering::SeqCst) {
            self.interrupt_if_live();
        }
    }
}

struct OneQueue {
    interrupts: Arc<dyn Interrupts>,
    index: u16,
}

impl QueueInterrupt for OneQueue {
    fn signal(&self) {
        self.interrupts.queue(self.index);
    }
}
