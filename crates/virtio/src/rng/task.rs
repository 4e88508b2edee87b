//! The entropy queue at work.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::sync::Arc;

use platform::guest_warn;
use platform::worker::{Interest, Poller, Task};

use super::device::RngCounters;
use super::{BATCH, MAX_BYTES_PER_REQUEST};
use crate::device::{ActiveQueue, DeviceEvents, GuestMemory};
use crate::queue::QueueFault;
use crate::running::wake;

/// The driver has made buffers available.
const KICK: u16 = 0;
/// The source has bytes again.
const SOURCE: u16 = 1;

pub(super) struct RngTask {
    source: Arc<File>,
    counters: Arc<RngCounters>,
    active: ActiveQueue,
    memory: Arc<GuestMemory>,
    events: Arc<dyn DeviceEvents>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    /// The source has nothing now and is watched.
    Dry,
    /// The guest broke the queue, the source failed, or the task is leaving.
    Quiet,
}

/// What became of a request.
enum Outcome {
    Filled,
    /// Put back: nothing to fill it with.
    Later(Wait),
}

/// Why there are no bytes.
enum Wait {
    /// There will be.
    Dry,
    /// The source is at its end or broken: there won't be.
    Failed(io::Error),
}

impl RngTask {
    pub(super) fn new(
        source: Arc<File>,
        counters: Arc<RngCounters>,
        active: ActiveQueue,
        memory: Arc<GuestMemory>,
        events: Arc<dyn DeviceEvents>,
    ) -> Self {
        Self { source, counters, active, memory, events, state: State::Working }
    }

    pub(super) fn into_queue(self) -> ActiveQueue {
        self.active
    }

    fn take_requests(&mut self, poller: &mut Poller<'_>) -> Result<(), QueueFault> {
        self.active.queue.disable_notifications(&self.memory)?;
        for _ in 0..BATCH {
            match self.answer_one()? {
                Some(Outcome::Filled) => {}
                Some(Outcome::Later(wait)) => {
                    self.wait(wait, poller);
                    return Ok(());
                }
                None if self.active.queue.enable_notifications(&self.memory)? => {}
                None => return Ok(()),
            }
        }
        wake(&self.active.kick);
        Ok(())
    }

    fn answer_one(&mut self) -> Result<Option<Outcome>, QueueFault> {
        let Some(chain) = self.active.queue.pop(&self.memory)? else { return Ok(None) };
        let most = chain.writable_bytes().min(MAX_BYTES_PER_REQUEST);
        if most == 0 {
            return Err(QueueFault::TooShort { needed: 1, available: 0 });
        }
        let mut bytes = [0; MAX_BYTES_PER_REQUEST as usize];
        let wanted = &mut bytes[..most as usize];
        let wait = match self.source.as_ref().read(wanted) {
            Ok(0) => Wait::Failed(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                chain.writable().write(&self.memory, &wanted[..read])?;
                self.counters.requests.increment();
                self.counters.bytes.add(read as u64);
                // `read` is at most `most`.
                let written = u32::try_from(read).unwrap_or(most);
                self.active.queue.complete(&self.memory, chain, written)?;
                return Ok(Some(Outcome::Filled));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Wait::Dry,
            Err(error) => Wait::Failed(error),
        };
        self.active.queue.undo_pop(chain);
        Ok(Some(Outcome::Later(wait)))
    }

    /// Goes quiet until the source has bytes, or for good: a driver that gets no entropy waits, and one that got zeroes
    /// or a repetition would be worse off.
    fn wait(&mut self, wait: Wait, poller: &mut Poller<'_>) {
        let failed = match wait {
            Wait::Dry => match poller.watch(&*self.source, SOURCE, Interest::Read) {
                Ok(()) => {
                    self.state = State::Dry;
                    return;
                }
                Err(error) => error,
            },
            Wait::Failed(error) => error,
        };
        guest_warn!(error = %failed, "entropy source failed: the guest gets no more random bytes");
        self.state = State::Quiet;
    }

    fn work(&mut self, token: u16, poller: &mut Poller<'_>) -> Result<(), QueueFault> {
        if token == SOURCE && self.state == State::Dry {
            poller.unwatch(&*self.source);
            self.state = State::Working;
        }
        if self.state == State::Working {
            self.take_requests(poller)?;
            if self.active.queue.wants_interrupt(&self.memory)? {
                self.active.interrupt.signal();
            }
        }
        Ok(())
    }
}

impl Task for RngTask {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&self.active.kick, KICK, Interest::ReadEdge)?;
        wake(&self.active.kick);
        Ok(())
    }

    fn ready(&mut self, token: u16, poller: &mut Poller<'_>) {
        if let Err(fault) = self.work(token, poller) {
            guest_warn!(%fault, "entropy queue is broken");
            self.state = State::Quiet;
            poller.unwatch(&self.active.kick);
            self.events.needs_reset();
        }
    }

    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        self.state = State::Quiet;
        true
    }
}
