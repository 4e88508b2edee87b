//! All queues of a console at work.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use platform::guest_warn;
use platform::worker::{Interest, Poller, Task};

use super::port::{Port, pending};
use super::request::{DriverMessage, RawMessage};
use super::{BATCH, PIECE_BYTES, Role, role};
use crate::device::{ActiveQueue, DeviceEvents, GuestMemory};
use crate::queue::{Chain, QueueFault};
use crate::running::wake;

/// Works on every queue: a console is slow, and its queues belong together.
pub(super) struct ConsoleTask {
    ports: Arc<[Arc<Port>]>,
    /// The driver wants to know window sizes.
    size: bool,
    memory: Arc<GuestMemory>,
    events: Arc<dyn DeviceEvents>,
    /// By number, ascending; a queue's token is its place here.
    queues: Vec<Work>,
    /// The guest broke a queue, or the task is leaving.
    quiet: bool,
}

/// A queue and what is in progress on it.
struct Work {
    active: ActiveQueue,
    /// Output that the backend has taken in part, and how much of it.
    partial: Option<(Chain, u32)>,
}

impl ConsoleTask {
    pub(super) fn new(
        ports: Arc<[Arc<Port>]>,
        size: bool,
        memory: Arc<GuestMemory>,
        events: Arc<dyn DeviceEvents>,
        queues: Vec<ActiveQueue>,
    ) -> Self {
        let queues = queues.into_iter().map(|active| Work { active, partial: None }).collect();
        Self { ports, size, memory, events, queues, quiet: false }
    }

    pub(super) fn into_queues(self) -> impl Iterator<Item = ActiveQueue> {
        self.queues.into_iter().map(|work| work.active)
    }

    fn work(&mut self, token: u16) -> Result<(), QueueFault> {
        let Self { ports, size, memory, events: _, queues, quiet: _ } = self;
        let Some(work) = queues.get_mut(usize::from(token)) else { return Ok(()) };
        work.active.queue.disable_notifications(memory)?;
        let outcome = match role(work.active.index) {
            Role::ControlRx => work.send_messages(ports, memory)?,
            Role::ControlTx => work.take_messages(ports, *size, memory)?,
            Role::Input(port) => match ports.get(port) {
                Some(port) => work.give_input(port, memory)?,
                None => Progress::Waiting,
            },
            Role::Output(port) => match ports.get(port) {
                Some(port) => work.take_output(port, memory)?,
                None => Progress::Waiting,
            },
        };
        let more = match outcome {
            Progress::Waiting => false,
            Progress::QueueEmpty => work.active.queue.enable_notifications(memory)?,
            Progress::TurnOver => true,
        };
        if more {
            wake(&work.active.kick);
        }
        if work.active.queue.wants_interrupt(memory)? {
            work.active.interrupt.signal();
        }
        Ok(())
    }
}

/// Why work on a queue has stopped.
enum Progress {
    /// Something other than the driver has to happen first.
    Waiting,
    /// The driver has to make buffers available.
    QueueEmpty,
    /// There is more to do; others are next.
    TurnOver,
}

impl Work {
    /// Input goes to the guest as far as it has buffers.
    fn give_input(&mut self, port: &Port, memory: &GuestMemory) -> Result<Progress, QueueFault> {
        let mut bytes = [0; PIECE_BYTES];
        for _ in 0..BATCH {
            if !port.is_guest_open() || !port.has_input() {
                return Ok(Progress::Waiting);
            }
            let Some(chain) = self.active.queue.pop(memory)? else { return Ok(Progress::QueueEmpty) };
            let room = bytes.len().min(chain.writable_bytes() as usize);
            if room == 0 {
                return Err(QueueFault::TooShort { needed: 1, available: 0 });
            }
            let (count, was_full) = port.take_input(&mut bytes[..room]);
            chain.writable().write(memory, &bytes[..count])?;
            // At most a piece.
            self.active.queue.complete(memory, chain, u32::try_from(count).unwrap_or(0))?;
            port.counters.input_bytes.add(count as u64);
            if was_full {
                port.output.input_wanted();
            }
        }
        Ok(Progress::TurnOver)
    }

    /// Output goes to the backend as far as it takes it.
    fn take_output(&mut self, port: &Port, memory: &GuestMemory) -> Result<Progress, QueueFault> {
        let mut bytes = [0; PIECE_BYTES];
        for _ in 0..BATCH {
            let (chain, done) = match self.partial.take() {
                Some(partial) => partial,
                None => match self.active.queue.pop(memory)? {
                    Some(chain) => {
                        let skip = port.take_skip().min(chain.readable_bytes());
                        (chain, skip)
                    }
                    None => return Ok(Progress::QueueEmpty),
                },
            };
            let mut rest = chain.readable();
            rest.take(done)?;
            let piece = bytes.len().min(rest.bytes() as usize);
            let piece = &mut bytes[..piece];
            rest.read(memory, piece)?;
            let taken = port.output.write(piece);
            port.counters.output_bytes.add(taken as u64);
            // At most a piece, and `done` and the piece are inside the chain.
            let now_done = done.saturating_add(u32::try_from(taken).unwrap_or(0));
            if now_done >= chain.readable_bytes() {
                self.active.queue.complete(memory, chain, 0)?;
                continue;
            }
            let held_up = taken < piece.len();
            self.partial = Some((chain, now_done));
            if held_up {
                return Ok(Progress::Waiting);
            }
        }
        Ok(Progress::TurnOver)
    }

    /// Messages go to the guest as far as it has buffers.
    fn send_messages(&mut self, ports: &[Arc<Port>], memory: &GuestMemory) -> Result<Progress, QueueFault> {
        for (number, port) in ports.iter().enumerate() {
            while let Some(bit) = port.next_message() {
                let Some(chain) = self.active.queue.pop(memory)? else { return Ok(Progress::QueueEmpty) };
                port.clear_message(bit);
                let bytes = port.message(bit).encode(number);
                let written = u32::try_from(bytes.len()).unwrap_or(0);
                if written > chain.writable_bytes() {
                    return Err(QueueFault::TooShort {
                        needed: bytes.len(),
                        available: chain.writable_bytes(),
                    });
                }
                chain.writable().write(memory, &bytes)?;
                self.active.queue.complete(memory, chain, written)?;
            }
        }
        Ok(Progress::Waiting)
    }

    /// Deals with the guest's messages.
    fn take_messages(
        &mut self,
        ports: &[Arc<Port>],
        size: bool,
        memory: &GuestMemory,
    ) -> Result<Progress, QueueFault> {
        for _ in 0..BATCH {
            let Some(chain) = self.active.queue.pop(memory)? else { return Ok(Progress::QueueEmpty) };
            let raw: RawMessage = chain.readable().read_object(memory)?;
            self.active.queue.complete(memory, chain, 0)?;
            match DriverMessage::parse(&raw, ports.len()) {
                Some(DriverMessage::DeviceReady(true)) => {
                    ports.iter().for_each(|port| port.announce(pending::ADD));
                }
                Some(DriverMessage::PortReady { port, ready }) => {
                    if let Some(port) = ports.get(port) {
                        port.ready.store(ready, Ordering::Relaxed);
                        if ready {
                            port.introduce(size);
                        }
                    }
                }
                Some(DriverMessage::PortOpen { port, open }) => {
                    if let Some(port) = ports.get(port) {
                        port.set_guest_open(open);
                    }
                }
                Some(DriverMessage::DeviceReady(false)) | None => {
                    let (id, event, value) = (raw.id.get(), raw.event.get(), raw.value.get());
                    guest_warn!(id, event, value, "console control message ignored");
                }
            }
        }
        Ok(Progress::TurnOver)
    }

    /// Puts output that is done in part back; the port remembers how much.
    fn put_back(&mut self, ports: &[Arc<Port>]) {
        let Some((chain, done)) = self.partial.take() else { return };
        self.active.queue.undo_pop(chain);
        if let Role::Output(port) = role(self.active.index)
            && let Some(port) = ports.get(port)
        {
            port.set_skip(done);
        }
    }
}

impl Task for ConsoleTask {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        for (token, work) in (0u16..).zip(&self.queues) {
            poller.watch(&work.active.kick, token, Interest::ReadEdge)?;
            wake(&work.active.kick);
        }
        Ok(())
    }

    fn ready(&mut self, token: u16, poller: &mut Poller<'_>) {
        if self.quiet {
            return;
        }
        if let Err(fault) = self.work(token) {
            guest_warn!(queue = token, %fault, "console queue is broken");
            self.quiet = true;
            for work in &self.queues {
                poller.unwatch(&work.active.kick);
            }
            self.events.needs_reset();
        }
    }

    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        self.quiet = true;
        for work in &mut self.queues {
            work.put_back(&self.ports);
        }
        true
    }
}
