//! The one place that talks to io_uring (io_uring_setup(2), io_uring_enter(2), io_uring_register(2)).
//!
//! A [`Ring`] belongs to one queue. Its files are registered, completions ring the queue's eventfd. The submission ring is
//! small (what does not fit is submitted at once), the completion ring holds everything that may be in flight, so that it
//! can't overflow.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use super::transfer::{Direction, Next, Transfer};
use super::{Done, Target, ring_bell};

/// Entries of the submission ring, 64 bytes each: a batch.
const SUBMISSION_ENTRIES: u32 = 64;
/// Completion entries, 16 bytes each, whatever depth is asked for: bounds the memory that a queue pins.
const MOST_COMPLETION_ENTRIES: u32 = 4096;

struct InFlight {
    token: u64,
    file: usize,
    transfer: Transfer,
}

/// A submission engine over one io_uring. Dropping it waits until the kernel has let go of every request's memory.
pub(super) struct Ring {
    uring: IoUring,
    /// Keeps the files open as long as the ring; they are registered in this order.
    targets: Arc<[Target]>,
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
    /// Taken, but not in the ring, because that is full of requests in flight.
    waiting: VecDeque<InFlight>,
    bell: Arc<OwnedFd>,
}

impl Ring {
    pub(super) fn open(targets: Arc<[Target]>, depth: u32, bell: Arc<OwnedFd>) -> io::Result<Self> {
        let completions = depth.clamp(SUBMISSION_ENTRIES, MOST_COMPLETION_ENTRIES).next_power_of_two();
        let entries = SUBMISSION_ENTRIES.min(depth.max(1).next_power_of_two());
        // Cooperative task running (5.19) saves interrupts to the vCPU's neighbours; older kernels do without.
        let uring = IoUring::builder().setup_cqsize(completions).setup_coop_taskrun().build(entries);
        let uring = uring.or_else(|_| IoUring::builder().setup_cqsize(completions).build(entries))?;
        let files: Vec<_> = targets.iter().map(|target| target.file.as_raw_fd()).collect();
        uring.submitter().register_files(&files)?;
        uring.submitter().register_eventfd(bell.as_raw_fd())?;
        Ok(Self { uring, targets, slots: Vec::new(), free: Vec::new(), waiting: VecDeque::new(), bell })
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn start(&mut self, token: u64, file: usize, transfer: Transfer, ended: &mut Vec<Done>) {
        self.start_one(InFlight { token, file, transfer }, ended);
    }

    fn start_one(&mut self, operation: InFlight, ended: &mut Vec<Done>) {
        if self.in_flight() >= self.uring.params().cq_entries() as usize {
            self.waiting.push_back(operation);
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(operation);
        self.push(slot, ended);
    }

    /// Puts what is left of a slot's transfer into the submission ring.
    #[expect(unsafe_code, reason = "the kernel will access memory that is named by pointers")]
    fn push(&mut self, slot: usize, ended: &mut Vec<Done>) {
        let Some(InFlight { file, transfer, .. }) = &self.slots[slot] else { return };
        let entry = entry_for(*file, transfer).user_data(slot as u64);
        if self.uring.submission().is_full() {
            self.submit();
        }
        // SAFETY: the entry names the transfer's boxed array of pieces, which stays where it is until the slot is emptied
        // by the request's completion (`Drop` waits for that too); the pieces' memory is promised until the completion
        // has been reaped (`Segment::new`).
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            // The kernel took nothing from a full ring although asked to: it is out of memory.
            self.end(slot, Err(Errno::NOMEM), ended);
        }
    }

    fn end(&mut self, slot: usize, result: Result<(), Errno>, ended: &mut Vec<Done>) {
        if let Some(in_flight) = self.slots[slot].take() {
            self.free.push(slot);
            ended.push((in_flight.token, result));
        }
    }

    /// Gives the kernel what is in the submission ring. What it does not take now stays there for the next call.
    pub(super) fn submit(&mut self) {
        while !self.uring.submission().is_empty() {
            match self.uring.submit() {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Out of memory for requests, or completions to be reaped first: the owner reaps, which tries again.
                Err(_) => return ring_bell(&self.bell),
            }
        }
    }

    pub(super) fn reap(&mut self, done: &mut Vec<Done>) {
        loop {
            let Some(completion) = self.uring.completion().next() else { break };
            // The kernel gives back the slot number that we gave it.
            let slot = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            let Some(Some(in_flight)) = self.slots.get_mut(slot) else { continue };
            let result = usize::try_from(completion.result())
                .map_err(|_| Errno::from_raw_os_error(completion.result().saturating_neg()));
            match in_flight.transfer.answer(result, self.targets[in_flight.file].zeroes_beyond_end) {
                Next::Again => self.push(slot, done),
                Next::Ended(result) => self.end(slot, result, done),
            }
        }
        while self.in_flight() < self.uring.params().cq_entries() as usize
            && let Some(operation) = self.waiting.pop_front()
        {
            self.start_one(operation, done);
        }
        self.submit();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight() > 0 {
            // Errors are transient (interrupted, busy): the loop ends when the kernel has answered every request.
            let _ = self.uring.submit_and_wait(1);
            self.reap(&mut done);
        }
        // The kernel takes a ring apart some time after its last descriptor is closed; the file, and with it the disk's
        // lock, must not stay open that long.
        let _ = self.uring.submitter().unregister_files();
    }
}

fn entry_for(file: usize, transfer: &Transfer) -> squeue::Entry {
    // A disk has few files: its own and those of its backing chain.
    let file = types::Fixed(u32::try_from(file).unwrap_or(u32::MAX));
    let pieces = transfer.pieces();
    // At most 1024 pieces.
    let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    // One piece needs no list of pieces, which the kernel would have to copy. Pieces of 4 GiB and more do.
    if let [piece] = pieces
        && let Ok(bytes) = u32::try_from(piece.iov_len)
    {
        let (start, offset) = (piece.iov_base.cast::<u8>(), transfer.offset());
        match transfer.direction() {
            Direction::Read => return opcode::Read::new(file, start, bytes).offset(offset).build(),
            Direction::Write { durable } => {
                return opcode::Write::new(file, start, bytes)
                    .offset(offset)
                    .rw_flags(flags_of(durable))
                    .build();
            }
            Direction::Sync => {}
        }
    }
    match transfer.direction() {
        Direction::Read => opcode::Readv::new(file, pieces.as_ptr(), count).offset(transfer.offset()).build(),
        Direction::Write { durable } => opcode::Writev::new(file, pieces.as_ptr(), count)
            .offset(transfer.offset())
            .rw_flags(flags_of(durable))
            .build(),
        Direction::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
    }
}

fn flags_of(durable: bool) -> i32 {
    if durable { libc::RWF_DSYNC } else { 0 }
}
