//! The control queue at work (5.1.6.5).
//!
//! A change that concerns the pairs is written to the shared settings; each pair applies it on its own worker and says so.
//! The command is acknowledged when all have, which is when the driver may rely on it. Commands are answered in order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use platform::guest_warn;
use platform::worker::{Interest, Poller, Task};

use super::device::{Settings, Shared};
use super::request::{ACK_ERROR, ACK_OK, Command, Limits, MAX_COMMAND_BYTES};
use crate::device::{ActiveQueue, DeviceEvents, GuestMemory};
use crate::queue::{Chain, QueueFault};
use crate::running::wake;

const KICK: u16 = 0;

/// Commands that are answered in one go.
const BATCH: usize = 16;

pub(super) struct ControlTask {
    shared: Arc<Shared>,
    limits: Limits,
    active: ActiveQueue,
    memory: Arc<GuestMemory>,
    events: Arc<dyn DeviceEvents>,
    /// A command and the version of the settings that it made, until every pair has applied it.
    pending: Option<(Chain, u64)>,
    /// The guest broke the queue, or the task is leaving.
    quiet: bool,
}

impl ControlTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        limits: Limits,
        active: ActiveQueue,
        memory: Arc<GuestMemory>,
        events: Arc<dyn DeviceEvents>,
    ) -> Self {
        Self { shared, limits, active, memory, events, pending: None, quiet: false }
    }

    pub(super) fn into_queue(self) -> ActiveQueue {
        self.active
    }

    fn take_commands(&mut self) -> Result<(), QueueFault> {
        self.active.queue.disable_notifications(&self.memory)?;
        for _ in 0..BATCH {
            if let Some((chain, version)) = self.pending.take() {
                match self.outcome(version) {
                    Some(ack) => self.answer(chain, ack)?,
                    None => {
                        self.pending = Some((chain, version));
                        return Ok(());
                    }
                }
            }
            match self.active.queue.pop(&self.memory)? {
                Some(chain) => self.execute(chain)?,
                None if self.active.queue.enable_notifications(&self.memory)? => {}
                None => return Ok(()),
            }
        }
        wake(&self.active.kick);
        Ok(())
    }

    fn execute(&mut self, chain: Chain) -> Result<(), QueueFault> {
        // Without room for the answer the command must not take effect.
        chain.writable().take(1)?;
        match self.read_command(&chain)? {
            Some(Command::Filter) => self.answer(chain, ACK_OK),
            Some(Command::SetMac(mac)) => {
                self.shared.set_mac(mac);
                self.answer(chain, ACK_OK)
            }
            Some(Command::SetPairs(pairs)) => {
                self.change(chain, |settings| settings.pairs = pairs);
                Ok(())
            }
            Some(Command::SetGuestOffloads(offloads)) => {
                self.change(chain, |settings| settings.offloads = offloads);
                Ok(())
            }
            None => self.answer(chain, ACK_ERROR),
        }
    }

    fn read_command(&self, chain: &Chain) -> Result<Option<Command>, QueueFault> {
        if chain.readable_bytes() > MAX_COMMAND_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; chain.readable_bytes() as usize];
        chain.readable().read(&self.memory, &mut bytes)?;
        Ok(Command::parse(&bytes, &self.limits))
    }

    fn change(&mut self, chain: Chain, change: impl FnOnce(&mut Settings)) {
        let version = {
            let mut settings = self.shared.settings.lock();
            change(&mut settings);
            settings.version += 1;
            settings.version
        };
        self.pending = Some((chain, version));
        self.shared.wake_pairs();
    }

    /// The answer to a command, once every pair has applied it.
    fn outcome(&self, version: u64) -> Option<u8> {
        let peers = self.shared.peers.lock();
        if peers.iter().any(|peer| peer.applied.load(Ordering::Acquire) < version) {
            return None;
        }
        let failed = peers.iter().any(|peer| peer.failed.load(Ordering::Relaxed));
        Some(if failed { ACK_ERROR } else { ACK_OK })
    }

    fn answer(&mut self, chain: Chain, ack: u8) -> Result<(), QueueFault> {
        chain.writable().write(&self.memory, &[ack])?;
        self.active.queue.complete(&self.memory, chain, 1)
    }

    fn work(&mut self) -> Result<(), QueueFault> {
        self.take_commands()?;
        self.interrupt()
    }

    fn interrupt(&mut self) -> Result<(), QueueFault> {
        if self.active.queue.wants_interrupt(&self.memory)? {
            self.active.interrupt.signal();
        }
        Ok(())
    }

    fn broken(&mut self, fault: QueueFault) {
        guest_warn!(%fault, "network control queue is broken");
        self.quiet = true;
        self.events.needs_reset();
    }
}

impl Task for ControlTask {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&self.active.kick, KICK, Interest::ReadEdge)?;
        wake(&self.active.kick);
        Ok(())
    }

    fn ready(&mut self, _token: u16, _poller: &mut Poller<'_>) {
        if !self.quiet
            && let Err(fault) = self.work()
        {
            self.broken(fault);
        }
    }

    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        self.quiet = true;
        // The pairs are leaving too. They apply the settings when they start again, before they touch a frame.
        if let Some((chain, _)) = self.pending.take()
            && let Err(fault) = self.answer(chain, ACK_OK).and_then(|()| self.interrupt())
        {
            self.broken(fault);
        }
        true
    }
}
