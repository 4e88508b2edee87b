//! The tasks of a device that is running: attached to workers when the driver is ready, taken back when the device stops.
//!
//! Every device is stopped in the same way, so it lives here once: ask each task to wind down, collect those that the
//! workers have handed back, answer when none is missing.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use platform::worker::{Attached, Task, WorkerHandle};

/// Tasks on workers.
#[derive(Debug)]
pub(crate) struct Running<T: Task> {
    attached: Vec<Attached<T>>,
    taken: Vec<T>,
}

impl<T: Task> Running<T> {
    pub(crate) fn new() -> Self {
        Self { attached: Vec::new(), taken: Vec::new() }
    }

    /// Moves `task` onto `worker`. When that fails the task is kept, to come back with the others.
    pub(crate) fn attach(&mut self, worker: &WorkerHandle, task: T) -> io::Result<()> {
        match worker.attach(task) {
            Ok(attached) => self.attached.push(attached),
            Err((task, error)) => {
                self.taken.push(task);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Asks every task to wind down. Idempotent.
    pub(crate) fn request_stop(&mut self) {
        for attached in &mut self.attached {
            attached.request_detach();
        }
    }

    /// All tasks, once every one of them has been handed back; `None` if that takes longer than `patience`.
    pub(crate) fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<T>> {
        let Self { attached, taken } = self;
        let deadline = Instant::now() + patience;
        attached.retain_mut(|attached| match attached.take_within(deadline.duration_since(Instant::now())) {
            Some(task) => {
                taken.push(task);
                false
            }
            None => true,
        });
        self.attached.is_empty().then(|| std::mem::take(&mut self.taken))
    }
}

/// Wakes the task that waits for `kick`, as a driver's notification would. A task calls it for itself when it stops with
/// work left, so that the others on its worker get on, and when it starts, because the driver's notification may be older.
pub(crate) fn wake(kick: &OwnedFd) {
    // A full counter means that the task is awake already.
    let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
}
