//! Where a device's queues are: activation, reset, pause and resume.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use platform::guest_warn;
use rustix::event::{EventfdFlags, eventfd};

use super::Transport;
use super::registers::Registers;
use crate::device::{Activation, ActiveQueue, DeviceEvents as _, StartError, VirtioDevice};
use crate::queue::Queue;

/// How long a driver that goes on without waiting for its reset makes its vCPU wait for the device. Once a reset: a guest
/// can't keep the function's lock busy by writing again.
const RESET_PATIENCE: Duration = Duration::from_millis(100);

/// Who has the queues.
#[derive(Default)]
pub(super) enum Queues {
    /// Nobody: the driver is not ready, or the device could not start.
    #[default]
    Absent,
    /// We do: the device is stopped.
    Held(Vec<ActiveQueue>),
    /// The device.
    Running,
    /// The device, which was asked to give them back.
    Stopping,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Held(_) => "Held",
            Self::Running => "Running",
            Self::Stopping => "Stopping",
        })
    }
}

/// The device and what is going on with it.
pub(super) struct Lifecycle {
    pub(super) device: Box<dyn VirtioDevice>,
    queues: Queues,
    /// Descriptors of the enabled queues, by number, from DRIVER_OK to the end of the reset.
    kicks: Vec<(u16, Arc<OwnedFd>)>,
    /// The driver has asked for a reset that is not over.
    resetting: bool,
    /// A write may still wait for that reset.
    patient: bool,
    /// A reset is over of which the transport has not been told.
    reset_done: bool,
    /// The VM driver wants the device to stand still.
    paused: bool,
}

impl std::fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lifecycle")
            .field("queues", &self.queues)
            .field("resetting", &self.resetting)
            .field("paused", &self.paused)
            .finish_non_exhaustive()
    }
}

impl Lifecycle {
    pub(super) fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self {
            device,
            queues: Queues::Absent,
            kicks: Vec::new(),
            resetting: false,
            patient: false,
            reset_done: false,
            paused: false,
        }
    }

    fn request_stop(&mut self) {
        if matches!(self.queues, Queues::Running) {
            self.device.request_stop();
            self.queues = Queues::Stopping;
        }
    }

    fn collect(&mut self, patience: Duration) {
        if matches!(self.queues, Queues::Stopping)
            && let Some(mut queues) = self.device.poll_stopped(patience)
        {
            queues.sort_unstable_by_key(|queue| queue.index);
            self.queues = Queues::Held(queues);
        }
    }
}

impl Transport {
    /// Descriptors that wake the device, by queue number: those of the enabled queues between DRIVER_OK and reset. A
    /// transport binds them to its doorbells.
    pub fn kicks(&self) -> &[(u16, Arc<OwnedFd>)] {
        &self.lifecycle.kicks
    }

    /// The driver made buffers of queue `index` available. Ignored when the queue is not in use.
    pub fn kick(&self, index: u16) {
        if let Ok(at) = self.lifecycle.kicks.binary_search_by_key(&index, |(index, _)| *index) {
            ring(&self.lifecycle.kicks[at].1);
        }
    }

    /// Whether a reset came to its end since this was last asked: the transport then resets the registers that it keeps itself.
    pub fn take_reset_done(&mut self) -> bool {
        std::mem::take(&mut self.lifecycle.reset_done)
    }

    /// Brings everything up to date with a device that may have stopped meanwhile.
    pub(super) fn settle(&mut self) {
        self.settle_within(Duration::ZERO);
    }

    fn settle_within(&mut self, patience: Duration) {
        self.lifecycle.collect(patience);
        if self.lifecycle.resetting && matches!(self.lifecycle.queues, Queues::Absent | Queues::Held(_)) {
            self.finish_reset();
        }
    }

    /// Whether registers take writes now. A driver that writes while its reset is under way has not waited for it: it waits
    /// here, for a bounded time. Every method that writes asks this itself; a transport asks for registers of its own.
    pub fn ready_for_write(&mut self) -> bool {
        if self.lifecycle.resetting {
            let patient = std::mem::take(&mut self.lifecycle.patient);
            self.settle_within(if patient { RESET_PATIENCE } else { Duration::ZERO });
        }
        !self.lifecycle.resetting
    }

    pub(super) fn request_reset(&mut self) {
        if !self.lifecycle.resetting {
            self.lifecycle.resetting = true;
            self.lifecycle.patient = true;
            self.lifecycle.request_stop();
        }
        self.settle();
    }

    /// The device has stopped: everything is as new, except for a pause, which is not the driver's.
    fn finish_reset(&mut self) {
        let Self { registers, lifecycle, events, memory: _, offered: _ } = self;
        let Lifecycle { device, queues, kicks, resetting, patient, reset_done, paused: _ } = lifecycle;
        device.reset();
        *registers = Registers::new(device.traits());
        *queues = Queues::Absent;
        kicks.clear();
        *resetting = false;
        *patient = false;
        *reset_done = true;
        events.reset();
    }

    /// The driver is ready: makes the queues that it has enabled and starts the device.
    pub(super) fn driver_ok(&mut self) {
        self.events.go_live();
        match self.build_queues() {
            Ok(queues) => {
                self.lifecycle.kicks =
                    queues.iter().map(|queue| (queue.index, Arc::clone(&queue.kick))).collect();
                self.lifecycle.queues = Queues::Held(queues);
                // The error has been logged, and the driver told.
                let _ = self.start_held();
            }
            Err(reason) => {
                guest_warn!(device = self.traits().device_id, reason, "a virtio device can't be activated");
                self.events.needs_reset();
            }
        }
    }

    fn build_queues(&self) -> Result<Vec<ActiveQueue>, String> {
        let mut queues = Vec::new();
        for (index, registers) in (0u16..).zip(&self.registers.queues) {
            if !registers.enabled {
                continue;
            }
            let queue = Queue::new(registers.layout(), self.registers.driver_features, &self.memory)
                .map_err(|fault| format!("queue {index}: {fault}"))?;
            let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|error| format!("queue {index}: cannot create an eventfd: {error}"))?;
            let interrupt = self.events.queue_interrupt(index);
            queues.push(ActiveQueue { index, queue, kick: Arc::new(kick), interrupt });
        }
        Ok(queues)
    }

    /// Starts the device if its queues wait for that and nothing speaks against it.
    fn start_held(&mut self) -> Result<(), StartError> {
        let lifecycle = &mut self.lifecycle;
        if lifecycle.paused || lifecycle.resetting {
            return Ok(());
        }
        let Queues::Held(queues) = std::mem::take(&mut lifecycle.queues) else { return Ok(()) };
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            features: self.registers.driver_features,
            queues,
            events: self.events(),
        };
        let started = self.lifecycle.device.start(activation);
        match &started {
            Ok(()) => self.lifecycle.queues = Queues::Running,
            Err(error) => {
                guest_warn!(device = self.traits().device_id, %error, "a virtio device could not start");
                self.events.needs_reset();
            }
        }
        started
    }

    /// Asks the device to stand still; returns at once. Idempotent. Called by the VM driver; the driver in the guest notices
    /// nothing.
    pub fn request_pause(&mut self) {
        self.lifecycle.paused = true;
        self.lifecycle.request_stop();
    }

    /// Whether the pause has come into effect: nothing is in flight and no guest memory is touched until
    /// [`Transport::resume`].
    pub fn poll_paused(&mut self) -> bool {
        self.settle();
        self.lifecycle.paused && matches!(self.lifecycle.queues, Queues::Absent | Queues::Held(_))
    }

    /// Ends a pause. Returns false while the device still winds down from a pause that had not come into effect: then call
    /// again. Idempotent.
    ///
    /// # Errors
    /// The device could not start again; its driver sees DEVICE_NEEDS_RESET.
    pub fn resume(&mut self) -> Result<bool, StartError> {
        self.lifecycle.paused = false;
        self.settle();
        match self.lifecycle.queues {
            Queues::Absent | Queues::Running => Ok(true),
            // The device is on its way to a reset, which ends by itself.
            Queues::Stopping => Ok(self.lifecycle.resetting),
            Queues::Held(_) => {
                self.start_held()?;
                // A notification from before or during the pause may have been consumed with the old start.
                self.lifecycle.kicks.iter().for_each(|(_, kick)| ring(kick));
                Ok(true)
            }
        }
    }
}

/// Adds one to an eventfd. The only failure is a counter that is full, which wakes the reader as well.
fn ring(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

impl Drop for Transport {
    fn drop(&mut self) {
        // The device joins or detaches its workers itself when it is dropped; asking all of its queues first lets them
        // wind down side by side.
        self.lifecycle.request_stop();
    }
}

#[cfg(test)]
impl Transport {
    /// Everything that a reset brings back, for comparison.
    pub(super) fn is_as_new(&self) -> bool {
        let Lifecycle { device, queues, kicks, resetting, patient, reset_done: _, paused: _ } =
            &self.lifecycle;
        self.registers == Registers::new(device.traits())
            && matches!(queues, Queues::Absent)
            && kicks.is_empty()
            && !resetting
            && !patient
            && !self.events.needs_reset_pending()
    }
}
