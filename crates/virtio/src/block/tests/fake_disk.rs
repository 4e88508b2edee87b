//! A disk in memory that fails, dawdles and keeps a record when told to.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use block_io::{
    BlockBackend, BlockError, BlockGeometry, BlockOperation, BlockQueue, BlockRequest, Completion, QueueFull,
    Segment,
};
use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Read { offset: u64, bytes: usize },
    Write { offset: u64, bytes: usize, durable: bool },
    Flush,
    Discard { offset: u64, bytes: u64 },
    WriteZeroes { offset: u64, bytes: u64, may_unmap: bool },
}

#[derive(Default)]
struct State {
    data: Vec<u8>,
    records: Vec<Record>,
    fail: Option<Errno>,
    held: bool,
    waiting: VecDeque<(usize, BlockRequest)>,
    done: Vec<(Arc<OwnedFd>, Vec<Completion>)>,
}

pub(super) struct FakeDisk {
    state: Mutex<State>,
    changed: Condvar,
    pub(super) geometry: BlockGeometry,
    pub(super) read_only: bool,
    pub(super) write_cache: bool,
}

impl FakeDisk {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            state: Mutex::new(State { data: vec![0; bytes], ..State::default() }),
            changed: Condvar::new(),
            geometry: BlockGeometry {
                logical_block_bytes: 512,
                physical_block_bytes: 4096,
                discard_bytes: 4096,
            },
            read_only: false,
            write_cache: true,
        }
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.state.lock().records.clone()
    }

    pub(super) fn data(&self) -> Vec<u8> {
        self.state.lock().data.clone()
    }

    pub(super) fn fail(&self, errno: Errno) {
        self.state.lock().fail = Some(errno);
    }

    /// Completes nothing until `release`.
    pub(super) fn hold(&self) {
        self.state.lock().held = true;
    }

    pub(super) fn wait_for_held(&self, requests: usize) {
        let mut state = self.state.lock();
        let patience = crate::testing::PATIENCE;
        let timeout = self.changed.wait_while_for(&mut state, |s| s.waiting.len() < requests, patience);
        assert!(!timeout.timed_out(), "the disk gets its requests");
    }

    pub(super) fn release(&self) {
        let mut state = self.state.lock();
        state.held = false;
        state.run();
    }
}

impl State {
    fn run(&mut self) {
        while !self.held
            && let Some((queue, request)) = self.waiting.pop_front()
        {
            let result = self.execute(&request.operation);
            let (bell, done) = &mut self.done[queue];
            done.push(Completion { tag: request.tag, result });
            rustix::io::write(bell.as_ref(), &1u64.to_ne_bytes()).unwrap();
        }
    }

    fn range(&self, offset: u64, bytes: u64) -> Result<std::ops::Range<usize>, Errno> {
        let end = offset.checked_add(bytes).ok_or(Errno::INVAL)?;
        if end > self.data.len() as u64 {
            return Err(Errno::INVAL);
        }
        Ok(usize::try_from(offset).unwrap()..usize::try_from(end).unwrap())
    }

    fn execute(&mut self, operation: &BlockOperation) -> Result<(), Errno> {
        let total = |segments: &[Segment]| segments.iter().map(Segment::bytes).sum::<usize>();
        let record = match operation {
            BlockOperation::Read { offset, segments } => {
                Record::Read { offset: *offset, bytes: total(segments) }
            }
            BlockOperation::Write { offset, segments, durable } => {
                Record::Write { offset: *offset, bytes: total(segments), durable: *durable }
            }
            BlockOperation::Flush => Record::Flush,
            BlockOperation::Discard { offset, bytes } => Record::Discard { offset: *offset, bytes: *bytes },
            BlockOperation::WriteZeroes { offset, bytes, may_unmap } => {
                Record::WriteZeroes { offset: *offset, bytes: *bytes, may_unmap: *may_unmap }
            }
        };
        self.records.push(record);
        if let Some(errno) = self.fail {
            return Err(errno);
        }
        match operation {
            BlockOperation::Read { offset, segments } => {
                let mut range = self.range(*offset, total(segments) as u64)?;
                for segment in segments {
                    let here = &self.data[range.start..range.start + segment.bytes()];
                    #[expect(unsafe_code, reason = "a disk writes to guest memory")]
                    // SAFETY: the device keeps the segment's memory mapped until the completion is reaped.
                    unsafe {
                        segment.pointer().as_ptr().copy_from_nonoverlapping(here.as_ptr(), here.len());
                    }
                    range.start += segment.bytes();
                }
            }
            BlockOperation::Write { offset, segments, .. } => {
                let mut range = self.range(*offset, total(segments) as u64)?;
                for segment in segments {
                    let here = &mut self.data[range.start..range.start + segment.bytes()];
                    #[expect(unsafe_code, reason = "a disk reads guest memory")]
                    // SAFETY: as above.
                    unsafe {
                        segment.pointer().as_ptr().copy_to_nonoverlapping(here.as_mut_ptr(), here.len());
                    }
                    range.start += segment.bytes();
                }
            }
            BlockOperation::Flush => {}
            BlockOperation::Discard { offset, bytes } | BlockOperation::WriteZeroes { offset, bytes, .. } => {
                let range = self.range(*offset, *bytes)?;
                self.data[range].fill(0);
            }
        }
        Ok(())
    }
}

/// The disk as the device sees it: shared with the test.
pub(super) struct Shared(pub(super) Arc<FakeDisk>);

impl BlockBackend for Shared {
    fn geometry(&self) -> BlockGeometry {
        self.0.geometry
    }

    fn capacity(&self) -> u64 {
        self.0.state.lock().data.len() as u64
    }

    fn read_only(&self) -> bool {
        self.0.read_only
    }

    fn write_cache(&self) -> bool {
        self.0.write_cache
    }

    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bell = Arc::new(eventfd(0, flags).unwrap());
        let mut state = self.0.state.lock();
        state.done.push((Arc::clone(&bell), Vec::new()));
        let number = state.done.len() - 1;
        let depth = depth as usize;
        Ok(Box::new(FakeQueue {
            disk: Arc::clone(&self.0),
            number,
            bell,
            depth,
            in_flight: 0,
            new: Vec::new(),
        }))
    }

    fn resize(&self, bytes: u64) -> Result<(), BlockError> {
        self.0.state.lock().data.resize(usize::try_from(bytes).unwrap(), 0);
        Ok(())
    }
}

struct FakeQueue {
    disk: Arc<FakeDisk>,
    number: usize,
    bell: Arc<OwnedFd>,
    depth: usize,
    in_flight: usize,
    new: Vec<BlockRequest>,
}

impl BlockQueue for FakeQueue {
    fn submit(&mut self, request: BlockRequest) -> Result<(), QueueFull> {
        if self.in_flight >= self.depth {
            return Err(QueueFull(request));
        }
        self.in_flight += 1;
        self.new.push(request);
        Ok(())
    }

    fn kick(&mut self) {
        let mut state = self.disk.state.lock();
        let number = self.number;
        state.waiting.extend(self.new.drain(..).map(|request| (number, request)));
        state.run();
        self.disk.changed.notify_all();
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        let _ = rustix::io::read(self.bell.as_ref(), &mut [0u8; 8]);
        let done = std::mem::take(&mut self.disk.state.lock().done[self.number].1);
        self.in_flight -= done.len();
        // The last one first: a driver must not rely on any order.
        completions.extend(done.into_iter().rev());
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for FakeQueue {
    fn drop(&mut self) {
        assert_eq!(self.in_flight, 0, "the device drains its queue before it drops it");
    }
}
