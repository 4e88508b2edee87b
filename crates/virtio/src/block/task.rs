//! One queue of a disk at work.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use block_io::{BlockOperation, BlockQueue, BlockRequest, Completion};
use platform::guest_warn;
use platform::worker::{Interest, Poller, Task};
use zerocopy::FromZeros as _;

use super::MAX_RANGES;
use super::device::Shared;
use super::request::{Header, Limits, RANGE_BYTES, Range, RawRange, Request, Status, parse_ranges};
use crate::device::{ActiveQueue, DeviceEvents, GuestMemory};
use crate::queue::{Buffers, Chain, QueueFault, Readable};
use crate::running::wake;

/// The driver has made requests available.
const KICK: u16 = 0;
/// The disk has completed operations.
const DONE: u16 = 1;

/// Length of the serial number.
const SERIAL_WRITTEN: u32 = 20;
const _: () = assert!(SERIAL_WRITTEN as usize == super::SERIAL_BYTES);

/// Requests that are taken in one go, so that a busy disk does not keep its worker from other devices.
const BATCH: usize = 64;

/// A request whose operation is with the disk. A request has one operation there at any time.
struct InFlight {
    chain: Chain,
    work: Work,
    /// When it was taken from the queue.
    since: Instant,
}

enum Work {
    Read {
        bytes: u32,
    },
    Write {
        bytes: u32,
    },
    Flush,
    /// The ranges that are still to come, last one first.
    Discard {
        rest: Vec<Range>,
    },
    WriteZeroes {
        rest: Vec<Range>,
        /// A flush is still to come: the driver expects what is completed to be stable (5.2.6.2).
        durable: bool,
    },
}

pub(super) struct BlockTask {
    // Declared, and so dropped, before the memory: operations in flight point into it.
    io: Box<dyn BlockQueue>,
    memory: Arc<GuestMemory>,
    shared: Arc<Shared>,
    limits: Limits,
    active: ActiveQueue,
    events: Arc<dyn DeviceEvents>,
    /// By tag. As long as the most requests that were ever in flight, at most the queue's size.
    in_flight: Vec<Option<InFlight>>,
    free_tags: Vec<usize>,
    completions: Vec<Completion>,
    /// Operations were submitted and not started yet.
    submitted: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    /// Takes no new requests.
    Leaving,
    /// The guest broke the queue: it is not touched any more.
    Broken,
}

/// What to do about a request.
enum Next {
    Submit(Work, BlockOperation),
    /// It is done, and so many bytes were written from the start of the writable part.
    Done {
        written: u32,
    },
}

impl BlockTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        limits: Limits,
        active: ActiveQueue,
        io: Box<dyn BlockQueue>,
        memory: Arc<GuestMemory>,
        events: Arc<dyn DeviceEvents>,
    ) -> Self {
        Self {
            io,
            memory,
            shared,
            limits,
            active,
            events,
            in_flight: Vec::new(),
            free_tags: Vec::new(),
            completions: Vec::new(),
            submitted: false,
            state: State::Working,
        }
    }

    pub(super) fn into_queue(self) -> ActiveQueue {
        self.active
    }

    fn take_requests(&mut self) -> Result<(), QueueFault> {
        self.active.queue.disable_notifications(&self.memory)?;
        // One look at the clock for all of them: they are taken at once.
        let now = Instant::now();
        for _ in 0..BATCH {
            match self.active.queue.pop(&self.memory)? {
                Some(chain) => self.begin(chain, now)?,
                None if self.active.queue.enable_notifications(&self.memory)? => {}
                None => return Ok(()),
            }
        }
        wake(&self.active.kick);
        Ok(())
    }

    /// Understands a request and hands it to the disk, or answers it at once.
    fn begin(&mut self, chain: Chain, since: Instant) -> Result<(), QueueFault> {
        match self.understand(&chain)? {
            Ok(Next::Submit(work, operation)) => self.submit(InFlight { chain, work, since }, operation),
            Ok(Next::Done { written }) => self.answer(chain, Status::Ok, written),
            Err(status) => self.refuse(chain, status),
        }
    }

    /// What to do about the request, or the status that refuses it. The outer error is for a chain without room for a status.
    fn understand(&self, chain: &Chain) -> Result<Result<Next, Status>, QueueFault> {
        let mut writable = chain.writable();
        writable.take_last(1)?;
        let mut readable = chain.readable();
        let header = match readable.read_object::<Header>(&self.memory) {
            Ok(header) => header,
            Err(QueueFault::TooShort { .. }) => return Ok(Err(Status::IoError)),
            Err(fault) => return Err(fault),
        };
        let (read, write) = (readable.bytes(), writable.bytes());
        let request = match Request::parse(&header, read, write, &self.limits) {
            Ok(request) => request,
            Err(status) => return Ok(Err(status)),
        };
        let mut segments = Vec::new();
        let all_written = Next::Done { written: chain.writable_bytes() };
        let next = match request {
            Request::Read { .. } if write == 0 => all_written,
            Request::Write { .. } if read == 0 => all_written,
            Request::Read { offset } => {
                #[expect(unsafe_code, reason = "the disk fills the guest's buffers")]
                // SAFETY: `io` and `memory` are both owned by this task and `io` is dropped first.
                unsafe {
                    writable.segments(&self.memory, &mut segments)?;
                }
                Next::Submit(Work::Read { bytes: write }, BlockOperation::Read { offset, segments })
            }
            Request::Write { offset } => {
                #[expect(unsafe_code, reason = "the disk stores the guest's buffers")]
                // SAFETY: as above.
                unsafe {
                    readable.segments(&self.memory, &mut segments)?;
                }
                let durable = self.shared.durable_writes.load(Ordering::Relaxed);
                Next::Submit(Work::Write { bytes: read }, BlockOperation::Write { offset, segments, durable })
            }
            Request::Flush => Next::Submit(Work::Flush, BlockOperation::Flush),
            Request::GetId => {
                writable.write(&self.memory, &self.shared.serial)?;
                // A longer buffer has a gap before the status.
                if writable.is_empty() { all_written } else { Next::Done { written: SERIAL_WRITTEN } }
            }
            Request::Discard { ranges } | Request::WriteZeroes { ranges } => {
                match self.read_ranges(readable, ranges, request)? {
                    Ok(mut rest) => {
                        rest.reverse();
                        let mut work = match request {
                            Request::Discard { .. } => Work::Discard { rest },
                            _ => {
                                let durable = self.shared.durable_writes.load(Ordering::Relaxed);
                                Work::WriteZeroes { rest, durable }
                            }
                        };
                        work.next_operation().map_or(all_written, |operation| Next::Submit(work, operation))
                    }
                    Err(status) => return Ok(Err(status)),
                }
            }
        };
        Ok(Ok(next))
    }

    fn read_ranges(
        &self,
        mut readable: Buffers<'_, Readable>,
        ranges: u32,
        request: Request,
    ) -> Result<Result<Vec<Range>, Status>, QueueFault> {
        let mut raw = [RawRange::new_zeroed(); MAX_RANGES as usize];
        // The parser has bounded the number.
        let raw = &mut raw[..ranges as usize];
        let mut each = readable.take(ranges * RANGE_BYTES)?;
        for range in raw.iter_mut() {
            *range = each.read_object(&self.memory)?;
        }
        let mut ranges = parse_ranges(raw, request, &self.limits);
        if !self.shared.discard
            && let Ok(ranges) = &mut ranges
        {
            ranges.iter_mut().for_each(|range| range.may_unmap = false);
        }
        Ok(ranges)
    }

    fn submit(&mut self, request: InFlight, operation: BlockOperation) -> Result<(), QueueFault> {
        let tag = self.free_tags.pop().unwrap_or(self.in_flight.len());
        match self.io.submit(BlockRequest { tag: tag as u64, operation }) {
            Ok(()) => {
                self.submitted = true;
                match self.in_flight.get_mut(tag) {
                    Some(slot) => *slot = Some(request),
                    None => self.in_flight.push(Some(request)),
                }
                Ok(())
            }
            // The disk's queue is as deep as ours, whose chains in flight are bounded: the backend is wrong.
            Err(_) => {
                self.free_tags.extend((tag < self.in_flight.len()).then_some(tag));
                tracing::error!(queue = self.active.index, "the disk takes fewer requests than promised");
                self.refuse(request.chain, Status::IoError)
            }
        }
    }

    /// Answers what the disk has completed.
    fn reap(&mut self) -> Result<(), QueueFault> {
        let mut completions = std::mem::take(&mut self.completions);
        self.io.reap(&mut completions);
        let now = Instant::now();
        let mut outcome = Ok(());
        for Completion { tag, result } in completions.drain(..) {
            let tag = usize::try_from(tag).unwrap_or(usize::MAX);
            let Some(request) = self.in_flight.get_mut(tag).and_then(Option::take) else { continue };
            self.free_tags.push(tag);
            // Once the queue is broken, the other requests are forgotten: their tags must be free all the same.
            if outcome.is_ok() && self.state != State::Broken {
                outcome = self.finish(request, result, now);
            }
        }
        self.completions = completions;
        outcome
    }

    fn finish(
        &mut self,
        mut request: InFlight,
        result: Result<(), rustix::io::Errno>,
        now: Instant,
    ) -> Result<(), QueueFault> {
        if let Err(error) = result {
            guest_warn!(queue = self.active.index, %error, "disk request failed");
            return self.refuse(request.chain, Status::IoError);
        }
        if let Some(operation) = request.work.next_operation() {
            return self.submit(request, operation);
        }
        let InFlight { chain, work, since } = request;
        let took = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX);
        let counters = &self.shared.counters;
        match work {
            Work::Read { bytes } => {
                counters.reads.increment();
                counters.read_bytes.add(u64::from(bytes));
                counters.read_nanoseconds.add(took);
            }
            Work::Write { bytes } => {
                counters.writes.increment();
                counters.write_bytes.add(u64::from(bytes));
                counters.write_nanoseconds.add(took);
            }
            Work::Flush => {
                counters.flushes.increment();
                counters.flush_nanoseconds.add(took);
            }
            Work::Discard { .. } => counters.discards.increment(),
            Work::WriteZeroes { .. } => counters.write_zeroes.increment(),
        }
        let written = chain.writable_bytes();
        self.answer(chain, Status::Ok, written)
    }

    fn refuse(&mut self, chain: Chain, status: Status) -> Result<(), QueueFault> {
        self.shared.counters.errors.increment();
        // The used length counts from the first writable byte (2.7.8.2), and before the status nothing is sure to be
        // written.
        let written = if chain.writable_bytes() == 1 { 1 } else { 0 };
        self.answer(chain, status, written)
    }

    fn answer(&mut self, chain: Chain, status: Status, written: u32) -> Result<(), QueueFault> {
        chain.writable().take_last(1)?.write(&self.memory, &[status as u8])?;
        self.active.queue.complete(&self.memory, chain, written)
    }

    fn work(&mut self, token: u16) -> Result<(), QueueFault> {
        if token == DONE {
            self.reap()?;
        }
        if self.state == State::Broken {
            return Ok(());
        }
        if token == KICK && self.state == State::Working {
            self.take_requests()?;
        }
        if self.active.queue.wants_interrupt(&self.memory)? {
            self.active.interrupt.signal();
        }
        Ok(())
    }
}

impl Work {
    /// The next operation of a request that has several.
    fn next_operation(&mut self) -> Option<BlockOperation> {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Flush => None,
            Self::Discard { rest } => {
                rest.pop().map(|Range { offset, bytes, .. }| BlockOperation::Discard { offset, bytes })
            }
            Self::WriteZeroes { rest, durable } => match rest.pop() {
                Some(Range { offset, bytes, may_unmap }) => {
                    Some(BlockOperation::WriteZeroes { offset, bytes, may_unmap })
                }
                None => std::mem::take(durable).then_some(BlockOperation::Flush),
            },
        }
    }
}

impl Task for BlockTask {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&self.active.kick, KICK, Interest::ReadEdge)?;
        poller.watch(self.io.ready_fd(), DONE, Interest::Read)?;
        wake(&self.active.kick);
        Ok(())
    }

    fn ready(&mut self, token: u16, poller: &mut Poller<'_>) {
        let outcome = self.work(token);
        if std::mem::take(&mut self.submitted) {
            self.io.kick();
        }
        if let Err(fault) = outcome {
            guest_warn!(queue = self.active.index, %fault, "disk queue is broken");
            self.state = State::Broken;
            poller.unwatch(&self.active.kick);
            self.events.needs_reset();
        }
    }

    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        if self.state == State::Working {
            self.state = State::Leaving;
        }
        self.io.in_flight() == 0
    }
}
