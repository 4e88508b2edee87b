//! Measuring a disk as `qemu-img bench` does: requests of one size at regular distances, so many in flight.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{OpenImage, OperationError};
use crate::backend::{BlockOperation, BlockQueue, BlockRequest, Completion};
use crate::file::AlignedBuffer;
use crate::segment::Segment;

/// Alignment that direct I/O accepts everywhere.
const ALIGNMENT: usize = 4096;
/// Most memory for buffers, bytes.
pub const MOST_BENCH_BYTES: u64 = 1 << 30;
/// Tag of flushes, which have no buffer.
const FLUSH: u64 = u64::MAX;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchOptions {
    /// Requests in all.
    pub count: u64,
    /// Requests in flight.
    pub depth: u32,
    /// Bytes of a request. Together with the depth at most [`MOST_BENCH_BYTES`].
    pub bytes: u32,
    /// Where the first request begins.
    pub offset: u64,
    /// From the start of one request to that of the next; the disk's end is followed by its start.
    pub step: u64,
    /// Writes this byte instead of reading.
    pub pattern: Option<u8>,
    /// Flushes after so many writes.
    pub flush_interval: Option<u32>,
    /// Waits for all writes before each flush.
    pub drain: bool,
}

/// Sends the requests; how long that took.
pub fn bench(image: &OpenImage, options: &BenchOptions) -> Result<Duration, OperationError> {
    let bytes = usize::try_from(options.bytes).unwrap_or(usize::MAX);
    let depth = usize::try_from(options.depth).unwrap_or(usize::MAX);
    let wanted = u64::from(options.depth) * u64::from(options.bytes);
    if wanted > MOST_BENCH_BYTES {
        return Err(OperationError::Transfer {
            operation: "use so much memory for requests in flight",
            offset: options.offset,
            source: std::io::ErrorKind::InvalidInput.into(),
        });
    }
    let mut memory = AlignedBuffer::new(depth * bytes, ALIGNMENT);
    memory.bytes().fill(options.pattern.unwrap_or(0));
    let start = NonNull::from(memory.bytes()).cast();
    // A flush has a place of its own. The queue is dropped, and has let go of the memory, before the memory.
    let queue = image.disk().open_queue(options.depth.saturating_add(1))?;
    let mut run = Run {
        queue,
        options,
        start,
        capacity: image.disk().capacity(),
        free: (0..u64::from(options.depth)).rev().collect(),
        places: vec![0; depth],
        next: options.offset,
        left: options.count,
        since_flush: 0,
        completions: Vec::new(),
    };
    let begin = Instant::now();
    let result = run.all();
    let time = begin.elapsed();
    drop(run);
    drop(memory);
    result.map(|()| time)
}

struct Run<'a> {
    queue: Box<dyn BlockQueue>,
    options: &'a BenchOptions,
    /// The first of the buffers, which belong to requests as long as the queue exists.
    start: NonNull<u8>,
    capacity: u64,
    /// Buffers that no request uses, and where on the disk the others' requests are.
    free: Vec<u64>,
    places: Vec<u64>,
    next: u64,
    left: u64,
    since_flush: u32,
    completions: Vec<Completion>,
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), OperationError> {
        while self.left > 0 || self.queue.in_flight() > 0 {
            self.submit();
            self.queue.kick();
            self.queue.reap(&mut self.completions);
            if self.completions.is_empty() {
                match poll(&mut [PollFd::from_borrowed_fd(self.queue.ready_fd(), PollFlags::IN)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(self.failed(0, errno)),
                }
                self.queue.reap(&mut self.completions);
            }
            for Completion { tag, result } in std::mem::take(&mut self.completions) {
                let place = usize::try_from(tag).ok().and_then(|tag| self.places.get(tag));
                let place = place.copied().unwrap_or(0);
                result.map_err(|errno| self.failed(place, errno))?;
                if tag != FLUSH {
                    self.free.push(tag);
                }
            }
        }
        Ok(())
    }

    fn failed(&self, offset: u64, errno: Errno) -> OperationError {
        let operation = if self.options.pattern.is_some() { "write" } else { "read" };
        OperationError::Transfer { operation, offset, source: errno.into() }
    }

    /// Fills the queue as far as flushes let it.
    fn submit(&mut self) {
        while self.left > 0 {
            if self.options.flush_interval.is_some_and(|interval| self.since_flush >= interval) {
                if self.options.drain && self.queue.in_flight() > 0 {
                    return;
                }
                let request = BlockRequest { tag: FLUSH, operation: BlockOperation::Flush };
                if self.queue.submit(request).is_err() {
                    return;
                }
                self.since_flush = 0;
                if self.options.drain {
                    return;
                }
            }
            let Some(buffer) = self.free.pop() else { return };
            let request = self.request(buffer);
            if self.queue.submit(request).is_err() {
                self.free.push(buffer);
                return;
            }
            if let Some(place) = usize::try_from(buffer).ok().and_then(|at| self.places.get_mut(at)) {
                *place = self.next;
            }
            self.left -= 1;
            self.since_flush += u32::from(self.options.flush_interval.is_some());
            self.next = self.next.wrapping_add(self.options.step) % self.capacity.max(1);
            if self.next > self.capacity.saturating_sub(u64::from(self.options.bytes)) {
                // It would cross the end.
                self.next = 0;
            }
        }
    }

    #[expect(unsafe_code, reason = "names buffers of our own")]
    fn request(&self, buffer: u64) -> BlockRequest {
        let bytes = usize::try_from(self.options.bytes).unwrap_or(0);
        let at = usize::try_from(buffer).unwrap_or(0) * bytes;
        // SAFETY: numbers of buffers are below the depth, for which there is memory; it is not looked at before the queue
        // has been dropped.
        let segments = vec![unsafe { Segment::new(self.start.add(at), bytes) }];
        let operation = match self.options.pattern {
            None => BlockOperation::Read { offset: self.next, segments },
            Some(_) => BlockOperation::Write { offset: self.next, segments, durable: false },
        };
        BlockRequest { tag: buffer, operation }
    }
}
