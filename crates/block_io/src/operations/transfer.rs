//! Buffers of our own that queues of disks fill and empty, and waiting for them.

use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::backend::{BlockBackend, BlockError, BlockOperation, BlockQueue, BlockRequest, Completion};
use crate::file::AlignedBuffer;
use crate::segment::Segment;

/// Length of a buffer: large enough for a device's full speed.
pub(super) const BUFFER_BYTES: usize = 1 << 20;
/// Buffers that are in use at the same time, for each disk: with their length, the memory that an operation takes.
pub(super) const DEPTH: usize = 8;
/// Alignment that direct I/O accepts everywhere.
const ALIGNMENT: usize = 4096;

/// What a piece of work does with a part of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

#[derive(Debug)]
struct Piece {
    disk: usize,
    buffer: usize,
    part: Range<usize>,
    offset: u64,
    direction: Direction,
}

/// A piece of work that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    /// Number of the disk.
    pub(super) disk: usize,
    /// Start of the buffer's work on the disk, bytes.
    pub(super) offset: u64,
    pub(super) errno: Errno,
}

/// A buffer, and the work on it that has not ended.
#[derive(Debug)]
struct Slot {
    memory: AlignedBuffer,
    /// Its start; made anew when it is given to requests, which must be the only ones to use it from then on.
    start: Option<NonNull<u8>>,
    offset: u64,
    unfinished: usize,
}

/// Queues of one or two disks with a fixed number of buffers.
pub(super) struct Transfer {
    // Dropped before the buffers: a queue waits for what uses them.
    queues: Vec<Box<dyn BlockQueue>>,
    slots: Vec<Slot>,
    waiting: VecDeque<Piece>,
    completions: Vec<Completion>,
}

impl Transfer {
    /// Opens a queue of each disk. `buffers` of them are made.
    pub(super) fn open(disks: &[&dyn BlockBackend], buffers: usize) -> Result<Self, BlockError> {
        let depth = u32::try_from(DEPTH).unwrap_or(1);
        let queues = disks.iter().map(|disk| disk.open_queue(depth)).collect::<Result<_, _>>()?;
        let slot = || Slot {
            memory: AlignedBuffer::new(BUFFER_BYTES, ALIGNMENT),
            start: None,
            offset: 0,
            unfinished: 0,
        };
        let slots = std::iter::repeat_with(slot).take(buffers).collect();
        Ok(Self { queues, slots, waiting: VecDeque::new(), completions: Vec::new() })
    }

    /// Adds work on a part of a buffer, which must lie inside it. It starts when the disk's queue has room.
    pub(super) fn add(
        &mut self,
        disk: usize,
        buffer: usize,
        part: Range<usize>,
        offset: u64,
        direction: Direction,
    ) {
        let slot = &mut self.slots[buffer];
        assert!(part.start <= part.end && part.end <= BUFFER_BYTES, "work beyond a buffer");
        if slot.unfinished == 0 {
            slot.offset = offset;
            slot.start = NonNull::new(slot.memory.bytes().as_mut_ptr());
        }
        slot.unfinished += 1;
        self.waiting.push_back(Piece { disk, buffer, part, offset, direction });
    }

    /// Whether no work on a buffer is left.
    pub(super) fn is_idle(&self, buffer: usize) -> bool {
        self.slots[buffer].unfinished == 0
    }

    /// What is in an idle buffer.
    pub(super) fn content(&self, buffer: usize) -> &[u8] {
        let slot = &self.slots[buffer];
        assert!(slot.unfinished == 0, "the buffer belongs to a request");
        slot.memory.content()
    }

    /// Starts what has room.
    #[expect(unsafe_code, reason = "names buffers of our own")]
    fn start(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some(piece) = self.waiting.pop_front() else { break };
            let queue = &mut self.queues[piece.disk];
            if queue.in_flight() >= DEPTH {
                self.waiting.push_back(piece);
                continue;
            }
            let Some(start) = self.slots[piece.buffer].start else { continue };
            // SAFETY: `add` has checked that the part lies inside the buffer, whose memory is never moved or freed before the
            // queues are dropped. It is borrowed by `add` and `content` only when no request for it is unfinished.
            let segment = unsafe { Segment::new(start.add(piece.part.start), piece.part.len()) };
            let segments = vec![segment];
            let operation = match piece.direction {
                Direction::Read => BlockOperation::Read { offset: piece.offset, segments },
                Direction::Write => BlockOperation::Write { offset: piece.offset, segments, durable: false },
            };
            if queue.submit(BlockRequest { tag: piece.buffer as u64, operation }).is_err() {
                self.waiting.push_back(piece);
            }
        }
        for queue in &mut self.queues {
            queue.kick();
        }
    }

    /// Starts what has room and waits until something has ended, or a signal has come.
    pub(super) fn wait(&mut self) -> Result<(), Failed> {
        self.start();
        if self.queues.iter().all(|queue| queue.in_flight() == 0) {
            return Ok(());
        }
        let mut set: Vec<_> = self
            .queues
            .iter()
            .map(|queue| PollFd::from_borrowed_fd(queue.ready_fd(), PollFlags::IN))
            .collect();
        match poll(&mut set, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Failed { disk: 0, offset: 0, errno }),
        }
        for (disk, queue) in self.queues.iter_mut().enumerate() {
            queue.reap(&mut self.completions);
            for completion in self.completions.drain(..) {
                let buffer = usize::try_from(completion.tag).unwrap_or(usize::MAX);
                let Some(slot) = self.slots.get_mut(buffer) else { continue };
                slot.unfinished = slot.unfinished.saturating_sub(1);
                if let Err(errno) = completion.result {
                    return Err(Failed { disk, offset: slot.offset, errno });
                }
            }
        }
        Ok(())
    }

    /// Makes a disk's writes durable. Nothing may be unfinished.
    pub(super) fn flush(&mut self, disk: usize) -> Result<(), Failed> {
        self.run_alone(disk, 0, BlockOperation::Flush)
    }

    /// Makes a range of a disk read as zeroes. Nothing may be unfinished.
    pub(super) fn write_zeroes(&mut self, disk: usize, offset: u64, bytes: u64) -> Result<(), Failed> {
        self.run_alone(disk, offset, BlockOperation::WriteZeroes { offset, bytes, may_unmap: true })
    }

    fn run_alone(&mut self, disk: usize, offset: u64, operation: BlockOperation) -> Result<(), Failed> {
        let fail = |errno| Failed { disk, offset, errno };
        let queue = &mut self.queues[disk];
        let request = BlockRequest { tag: 0, operation };
        queue.submit(request).map_err(|_| fail(Errno::BUSY))?;
        queue.kick();
        loop {
            match poll(&mut [PollFd::from_borrowed_fd(queue.ready_fd(), PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(fail(errno)),
            }
            queue.reap(&mut self.completions);
            if let Some(completion) = self.completions.pop() {
                return completion.result.map_err(fail);
            }
        }
    }
}
