//! Plays a device: memory to transfer and a queue to wait on.

use std::ptr::NonNull;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::backend::{BlockBackend, BlockOperation, BlockQueue, BlockRequest, Completion, QueueFull};
use crate::segment::Segment;

/// Beyond this, a request is taken to be lost.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
const PAGE_BYTES: usize = 4096;

/// Memory for requests; begins on a page or so many bytes after one.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl Buffer {
    /// `bytes` zero bytes, `shift` after a page's start.
    pub fn shifted(bytes: usize, shift: usize) -> Self {
        let memory = vec![0u8; bytes + shift + PAGE_BYTES];
        let start = memory.as_ptr().align_offset(PAGE_BYTES) + shift;
        Self { memory, start, bytes }
    }

    /// A page-aligned buffer of one byte value.
    pub fn filled(bytes: usize, value: u8) -> Self {
        let mut buffer = Self::shifted(bytes, 0);
        buffer.memory.fill(value);
        buffer
    }

    /// A page-aligned buffer with bytes that follow from `seed` and their place.
    pub fn patterned(bytes: usize, seed: u64) -> Self {
        let mut buffer = Self::shifted(bytes, 0);
        buffer.fill_pattern(seed);
        buffer
    }

    /// Fills the buffer with bytes that follow from `seed` and their place.
    pub fn fill_pattern(&mut self, seed: u64) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for byte in &mut self.memory[self.start..self.start + self.bytes] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
    }

    /// What is in it. Only while no request is in flight that names it.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }

    /// Its first bytes as segments of these lengths, which must fit.
    #[expect(unsafe_code, reason = "names the buffer's own memory")]
    pub fn pieces(&mut self, lengths: &[usize]) -> Vec<Segment> {
        let mut at = self.start;
        let base = NonNull::new(self.memory.as_mut_ptr()).expect("a vector's pointer");
        lengths
            .iter()
            .map(|length| {
                assert!(at + length <= self.start + self.bytes, "pieces longer than their buffer");
                // SAFETY: inside the vector, which the checks keep until the request has been reaped or its queue has
                // been dropped, and which they do not look at meanwhile.
                let piece = unsafe { Segment::new(base.add(at), *length) };
                at += length;
                piece
            })
            .collect()
    }
}

/// A queue and what a device does with it.
pub struct Driver {
    queue: Box<dyn BlockQueue>,
    block_bytes: usize,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("in_flight", &self.queue.in_flight()).finish_non_exhaustive()
    }
}

impl Driver {
    /// Opens a queue of `disk`.
    pub fn open(disk: &dyn BlockBackend, depth: u32) -> Self {
        let queue = disk.open_queue(depth).expect("a queue");
        Self { queue, block_bytes: disk.geometry().logical_block_bytes as usize }
    }

    /// The disk's logical block size.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Submits without kicking.
    pub fn submit(&mut self, tag: u64, operation: BlockOperation) -> Result<(), QueueFull> {
        self.queue.submit(BlockRequest { tag, operation })
    }

    /// Starts what was submitted.
    pub fn kick(&mut self) {
        self.queue.kick();
    }

    /// Requests not reaped.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    /// What has been completed now.
    pub fn reap(&mut self) -> Vec<Completion> {
        let mut completions = Vec::new();
        self.queue.reap(&mut completions);
        completions
    }

    /// Whether the descriptor is readable.
    pub fn is_ready(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::from_borrowed_fd(self.queue.ready_fd(), PollFlags::IN)], Some(&now)).expect("poll")
            > 0
    }

    /// Waits until the descriptor is readable.
    pub fn wait(&self) {
        let mut set = [PollFd::from_borrowed_fd(self.queue.ready_fd(), PollFlags::IN)];
        let ready = loop {
            match poll(&mut set, Some(&PATIENCE)) {
                Err(Errno::INTR) => {}
                result => break result.expect("poll"),
            }
        };
        assert!(ready > 0, "{} requests were never completed", self.queue.in_flight());
    }

    /// Kicks and waits until nothing is in flight.
    pub fn drain(&mut self) -> Vec<Completion> {
        self.queue.kick();
        let mut completions = Vec::new();
        while self.queue.in_flight() > 0 {
            self.wait();
            self.queue.reap(&mut completions);
        }
        completions
    }

    /// Does one request on an idle queue.
    pub fn run(&mut self, operation: BlockOperation) -> Result<(), Errno> {
        self.submit(0, operation).expect("an idle queue takes a request");
        let completions = self.drain();
        assert_eq!(completions.len(), 1, "one request, one completion");
        completions[0].result
    }

    /// Reads into the segments.
    pub fn read(&mut self, offset: u64, segments: Vec<Segment>) -> Result<(), Errno> {
        self.run(BlockOperation::Read { offset, segments })
    }

    /// Writes the segments.
    pub fn write(&mut self, offset: u64, segments: Vec<Segment>, durable: bool) -> Result<(), Errno> {
        self.run(BlockOperation::Write { offset, segments, durable })
    }
}
