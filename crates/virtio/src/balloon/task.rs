//! All queues of a balloon at work.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use platform::worker::{Interest, Poller, Task};
use platform::{guest_warn, timer};
use vm_memory::{GuestAddress, GuestMemoryBackend as _};

use super::device::Shared;
use super::request::{NUMBER_BYTES, numbers, ranges, whole_pages};
use super::statistics::{MAX_BYTES, Statistics};
use super::{BATCH, HostPages, PAGE_BYTES, PIECE_PAGES, Role};
use crate::device::{ActiveQueue, DeviceEvents, GuestMemory};
use crate::queue::{Chain, QueueFault};
use crate::running::wake;

/// Token of the timer; others are the places of queues.
const TIMER: u16 = u16::MAX;
/// Bytes of a piece of a request.
const PIECE_BYTES: usize = PIECE_PAGES * NUMBER_BYTES as usize;

/// Works on every queue.
pub(super) struct BalloonTask {
    common: Common,
    /// By number, ascending; a queue's token is its place here.
    queues: Vec<Work>,
    events: Arc<dyn DeviceEvents>,
    /// Runs out when figures are wanted again.
    timer: Option<Arc<OwnedFd>>,
    /// The guest broke a queue, or the task is leaving.
    quiet: bool,
}

/// What work on each queue needs.
struct Common {
    shared: Arc<Shared>,
    pages: Arc<dyn HostPages>,
    memory: Arc<GuestMemory>,
}

/// A queue and what is in progress on it.
struct Work {
    active: ActiveQueue,
    role: Role,
    /// A request that is done in part, and how many of its bytes; or the driver's figures, which stay here until new ones
    /// are wanted.
    held: Option<(Chain, u32)>,
}

/// Why work on a queue has stopped.
enum Progress {
    /// The host has to ask first.
    Waiting,
    /// The driver has to make buffers available.
    QueueEmpty,
    /// There is more to do; others are next.
    TurnOver,
}

impl BalloonTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        pages: Arc<dyn HostPages>,
        memory: Arc<GuestMemory>,
        events: Arc<dyn DeviceEvents>,
        queues: Vec<(ActiveQueue, Role)>,
        timer: Option<Arc<OwnedFd>>,
    ) -> Self {
        let queues = queues.into_iter().map(|(active, role)| Work { active, role, held: None }).collect();
        Self { common: Common { shared, pages, memory }, queues, events, timer, quiet: false }
    }

    pub(super) fn into_queues(self) -> impl Iterator<Item = ActiveQueue> {
        self.queues.into_iter().map(|work| work.active)
    }

    fn work(&mut self, token: u16) -> Result<(), QueueFault> {
        if let Some(timer) = self.timer.as_ref().filter(|_| token == TIMER) {
            if timer::expired(timer) {
                self.common.shared.request_statistics();
            }
            return Ok(());
        }
        let Self { common, queues, .. } = self;
        let Some(work) = queues.get_mut(usize::from(token)) else { return Ok(()) };
        work.active.queue.disable_notifications(&common.memory)?;
        let progress = match work.role {
            Role::Inflate | Role::Deflate => work.take_pages(common)?,
            Role::Statistics => work.exchange_statistics(common)?,
            Role::Reporting => work.take_reports(common)?,
        };
        let more = match progress {
            Progress::Waiting => false,
            Progress::QueueEmpty => work.active.queue.enable_notifications(&common.memory)?,
            Progress::TurnOver => true,
        };
        if more {
            wake(&work.active.kick);
        }
        if work.active.queue.wants_interrupt(&common.memory)? {
            work.active.interrupt.signal();
        }
        Ok(())
    }
}

impl Work {
    /// Pages go into the balloon or come out of it.
    fn take_pages(&mut self, common: &Common) -> Result<Progress, QueueFault> {
        let mut bytes = [0; PIECE_BYTES];
        for _ in 0..BATCH {
            let (chain, done) = match self.held.take() {
                Some(partial) => partial,
                None => match self.active.queue.pop(&common.memory)? {
                    Some(chain) => (chain, 0),
                    None => return Ok(Progress::QueueEmpty),
                },
            };
            let available = chain.readable_bytes();
            if available < NUMBER_BYTES {
                return Err(QueueFault::TooShort { needed: NUMBER_BYTES as usize, available });
            }
            let mut rest = chain.readable();
            rest.take(done)?;
            let piece = bytes.len().min(rest.bytes() as usize);
            rest.read(&common.memory, &mut bytes[..piece])?;
            common.move_pages(self.role, &bytes[..piece]);
            // At most a piece, and `done` and the piece are inside the chain.
            let done = done.saturating_add(u32::try_from(piece).unwrap_or(u32::MAX));
            if done < available {
                self.held = Some((chain, done));
            } else {
                self.active.queue.complete(&common.memory, chain, 0)?;
            }
        }
        Ok(Progress::TurnOver)
    }

    /// The host can have pages that the guest has no use for now.
    fn take_reports(&mut self, common: &Common) -> Result<Progress, QueueFault> {
        for _ in 0..BATCH {
            let Some(chain) = self.active.queue.pop(&common.memory)? else { return Ok(Progress::QueueEmpty) };
            for buffer in chain.writable().iter() {
                if let Some(pages) = whole_pages(buffer.address.0, buffer.bytes) {
                    common.shared.counters.reported_bytes.add(pages.end - pages.start);
                    common.check(common.pages.give_back_free(pages));
                }
            }
            self.active.queue.complete(&common.memory, chain, 0)?;
        }
        Ok(Progress::TurnOver)
    }

    /// Takes the driver's figures, and hands its buffer back for new ones when they are wanted.
    fn exchange_statistics(&mut self, common: &Common) -> Result<Progress, QueueFault> {
        let Common { shared, memory, .. } = common;
        // Twice, for what was taken before a pause and is asked for after it.
        for _ in 0..2 {
            if let Some((chain, done)) = self.held.take() {
                if !shared.statistics_wanted.swap(false, Ordering::Relaxed) {
                    self.held = Some((chain, done));
                    break;
                }
                self.active.queue.complete(memory, chain, 0)?;
            }
            let Some(chain) = self.active.queue.pop(memory)? else { return Ok(Progress::QueueEmpty) };
            if !shared.statistics_known.swap(false, Ordering::Relaxed) {
                let mut bytes = [0; MAX_BYTES];
                let length = bytes.len().min(chain.readable_bytes() as usize);
                chain.readable().read(memory, &mut bytes[..length])?;
                *shared.statistics.lock() = Some(Statistics::parse(&bytes[..length], Instant::now()));
                shared.statistics_wanted.store(false, Ordering::Relaxed);
            }
            self.held = Some((chain, 0));
        }
        Ok(Progress::Waiting)
    }

    /// Puts what is in progress back: a request is begun anew later, figures are known already then.
    fn put_back(&mut self, shared: &Shared) {
        let Some((chain, _)) = self.held.take() else { return };
        self.active.queue.undo_pop(chain);
        if self.role == Role::Statistics {
            shared.statistics_known.store(true, Ordering::Relaxed);
        }
    }
}

impl Common {
    /// Moves the pages whose numbers are in `bytes`.
    fn move_pages(&self, role: Role, bytes: &[u8]) {
        let counters = &self.shared.counters;
        let mut pages = [0; PIECE_PAGES];
        let mut count = 0;
        let address = |page: u32| GuestAddress(u64::from(page) * PAGE_BYTES);
        let (mut refused, mut moved) = (0, 0);
        for page in numbers(bytes) {
            // Regions are made of whole pages.
            if self.memory.address_in_range(address(page)) {
                pages[count] = page;
                count += 1;
                moved += 1;
            } else {
                refused += 1;
            }
        }
        for range in ranges(&mut pages[..count]) {
            self.move_range(role, range);
        }
        match role {
            Role::Inflate => counters.inflated_pages.add(moved),
            _ => counters.deflated_pages.add(moved),
        }
        if refused != 0 {
            counters.refused_pages.add(refused);
            guest_warn!(pages = refused, "balloon: page numbers outside of guest memory were ignored");
        }
    }

    fn move_range(&self, role: Role, range: Range<u64>) {
        match role {
            Role::Inflate => self.check(self.pages.give_back(range)),
            _ => self.pages.take_again(range),
        }
    }

    /// A page that the host does not take is one that it does not gain; the guest is not to suffer from it.
    fn check(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.shared.counters.errors.increment();
            guest_warn!(%error, "balloon: the host did not take pages back");
        }
    }
}

impl Task for BalloonTask {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        for (token, work) in (0u16..).zip(&self.queues) {
            poller.watch(&work.active.kick, token, Interest::ReadEdge)?;
            wake(&work.active.kick);
        }
        if let Some(timer) = &self.timer {
            poller.watch(timer, TIMER, Interest::Read)?;
        }
        Ok(())
    }

    fn ready(&mut self, token: u16, poller: &mut Poller<'_>) {
        if self.quiet {
            return;
        }
        if let Err(fault) = self.work(token) {
            guest_warn!(queue = token, %fault, "balloon queue is broken");
            self.quiet = true;
            for work in &self.queues {
                poller.unwatch(&work.active.kick);
            }
            if let Some(timer) = &self.timer {
                poller.unwatch(timer);
            }
            self.events.needs_reset();
        }
    }

    fn quiesce(&mut self, poller: &mut Poller<'_>) -> bool {
        self.quiet = true;
        if let Some(timer) = &self.timer {
            poller.unwatch(timer);
        }
        for work in &mut self.queues {
            work.put_back(&self.common.shared);
        }
        true
    }
}
