//! Frames from the backend to the guest.

use std::collections::VecDeque;
use std::io::ErrorKind;

use net_io::{NetBackend, VNET_HEADER_BYTES};
use platform::guest_warn;
use vm_memory::VolatileSlice;

use super::device::NetCounters;
use super::{BATCH, HEADER_BYTES, MAX_FRAME_BYTES};
use crate::device::{ActiveQueue, GuestMemory};
use crate::queue::{Chain, QueueFault};

/// Where `num_buffers` is in the virtio-net header (5.1.6).
const NUM_BUFFERS_OFFSET: u32 = 10;
const _: () = assert!(NUM_BUFFERS_OFFSET as usize + 2 == VNET_HEADER_BYTES);

/// Why [`Receiver::run`] has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// There may be more frames: the backend's descriptor tells.
    Waiting,
    /// The guest has no buffers; it notifies when it has.
    Starved,
    /// The backend is broken.
    Failed,
    /// What carried the frames is gone for good.
    Gone,
}

impl Received {
    fn failed(error: &std::io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Gone } else { Self::Failed }
    }
}

/// The end of a frame for which the guest had too few buffers.
struct Spilled {
    /// Length of the frame.
    frame_bytes: u32,
    /// How much of it is in the chains that were held then.
    in_chains: u32,
}

/// The receive queue of a pair.
///
/// How long a frame is, is known only once it has been received. So the device holds chains for the longest possible frame
/// (with mergeable buffers; otherwise a frame has to fit the one chain that it gets), the backend scatters the frame over
/// them, and those that were not needed wait for the next frame. A piece of our own memory follows the guest's: when it
/// is touched, the frame was longer than the buffers. The guest may just have been short of buffers; then the rest of the
/// frame waits there for more. With enough buffers it is one byte.
pub(super) struct Receiver {
    pub(super) active: ActiveQueue,
    mergeable: bool,
    longest: u32,
    /// Chains that were taken and not completed, oldest first.
    held: VecDeque<Chain>,
    /// Sum of their lengths.
    held_bytes: u32,
    spill: Vec<u8>,
    spilled: Option<Spilled>,
}

impl Receiver {
    /// `longest` is the longest frame to expect, header included.
    pub(super) fn new(active: ActiveQueue, mergeable: bool, longest: u32) -> Self {
        let longest = longest.min(MAX_FRAME_BYTES);
        Self {
            active,
            mergeable,
            longest,
            held: VecDeque::new(),
            held_bytes: 0,
            spill: Vec::new(),
            spilled: None,
        }
    }

    /// Receives until there is nothing more, the guest has no buffers, or it is other tasks' turn.
    pub(super) fn run(
        &mut self,
        backend: &mut dyn NetBackend,
        memory: &GuestMemory,
        counters: &NetCounters,
    ) -> Result<Received, QueueFault> {
        self.active.queue.disable_notifications(memory)?;
        for _ in 0..BATCH {
            if !self.gather(memory)? {
                if self.active.queue.enable_notifications(memory)? {
                    continue;
                }
                return Ok(Received::Starved);
            }
            if let Some(spilled) = self.spilled.take() {
                self.write_spilled(&spilled, memory)?;
                self.deliver(spilled.frame_bytes, memory, counters)?;
                continue;
            }
            match self.receive_one(backend, memory)? {
                Ok(None) => return Ok(Received::Waiting),
                Ok(Some(frame)) => self.take_in(frame, memory, counters)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    guest_warn!(queue = self.active.index, %error, "network backend failed to receive");
                    counters.rx_errors.increment();
                    return Ok(Received::failed(&error));
                }
            }
        }
        Ok(Received::Waiting)
    }

    /// Takes frames and throws them away, because the link is down.
    pub(super) fn discard(&mut self, backend: &mut dyn NetBackend, counters: &NetCounters) -> Received {
        for _ in 0..BATCH {
            let mut byte = [0u8; VNET_HEADER_BYTES];
            match backend.receive(&[VolatileSlice::from(&mut byte[..])]) {
                Ok(None) => return Received::Waiting,
                Ok(Some(_)) => counters.rx_dropped.increment(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    counters.rx_errors.increment();
                    return Received::failed(&error);
                }
            }
        }
        Received::Waiting
    }

    /// Holds as many chains as a frame may need. False when the guest has none (or, for a frame that has come already,
    /// not enough).
    fn gather(&mut self, memory: &GuestMemory) -> Result<bool, QueueFault> {
        let wanted = match &self.spilled {
            Some(Spilled { frame_bytes, .. }) => *frame_bytes,
            None if self.mergeable => self.longest,
            None => 1,
        };
        while self.held_bytes < wanted {
            let Some(chain) = self.active.queue.pop(memory)? else { break };
            let bytes = chain.writable_bytes();
            if bytes < HEADER_BYTES {
                // The driver must leave room for the header in every buffer (5.1.6.3.1).
                return Err(QueueFault::TooShort { needed: VNET_HEADER_BYTES, available: bytes });
            }
            self.held_bytes = self.held_bytes.checked_add(bytes).ok_or(QueueFault::ChainBytes)?;
            self.held.push_back(chain);
        }
        Ok(if self.spilled.is_some() { self.held_bytes >= wanted } else { !self.held.is_empty() })
    }

    /// Receives a frame into the chains that are held and, if it is longer, into our own memory. The inner result is the
    /// backend's.
    fn receive_one(
        &mut self,
        backend: &mut dyn NetBackend,
        memory: &GuestMemory,
    ) -> Result<std::io::Result<Option<u32>>, QueueFault> {
        let spill = self.spill_bytes();
        if self.spill.len() < spill {
            self.spill.resize(spill, 0);
        }
        let mut slices = Vec::with_capacity(self.held.len() + 1);
        for chain in &self.held {
            chain.writable().slices(memory, &mut slices)?;
        }
        slices.push(VolatileSlice::from(&mut self.spill[..spill]));
        let received = backend.receive(&slices);
        Ok(received.map(|frame| frame.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX))))
    }

    /// How much memory of our own follows the guest's: what the longest frame lacks, and one byte more to tell that a
    /// frame was too long. A frame can't continue in another chain without mergeable buffers.
    fn spill_bytes(&self) -> usize {
        let lacking = if self.mergeable { self.longest.saturating_sub(self.held_bytes) } else { 0 };
        lacking as usize + 1
    }

    /// Deals with a frame of `bytes` bytes that is in the chains and perhaps in our own memory.
    fn take_in(
        &mut self,
        bytes: u32,
        memory: &GuestMemory,
        counters: &NetCounters,
    ) -> Result<(), QueueFault> {
        let room = u64::from(self.held_bytes) + self.spill_bytes() as u64;
        if bytes < HEADER_BYTES || u64::from(bytes) >= room {
            // Too long, or nothing that a backend may hand over: the chains serve for the next one.
            counters.rx_dropped.increment();
        } else if bytes > self.held_bytes {
            self.spilled = Some(Spilled { frame_bytes: bytes, in_chains: self.held_bytes });
        } else {
            self.deliver(bytes, memory, counters)?;
        }
        Ok(())
    }

    /// Copies the end of a frame into the chains that have come since.
    fn write_spilled(&mut self, spilled: &Spilled, memory: &GuestMemory) -> Result<(), QueueFault> {
        let Spilled { frame_bytes, in_chains } = *spilled;
        let mut skip = in_chains;
        let mut rest = &self.spill[..frame_bytes.saturating_sub(in_chains) as usize];
        for chain in &self.held {
            let mut writable = chain.writable();
            let before = skip.min(writable.bytes());
            skip -= before;
            writable.take(before)?;
            let (here, later) = rest.split_at(rest.len().min(writable.bytes() as usize));
            writable.write(memory, here)?;
            rest = later;
        }
        // Shortages are rare and short; the memory is not kept for the next one.
        self.spill = Vec::new();
        Ok(())
    }

    /// Gives the driver a frame that lies in the chains from the first on.
    fn deliver(
        &mut self,
        frame_bytes: u32,
        memory: &GuestMemory,
        counters: &NetCounters,
    ) -> Result<(), QueueFault> {
        let mut count = 0u16;
        let mut covered = 0u32;
        for chain in &self.held {
            if covered >= frame_bytes {
                break;
            }
            covered = covered.saturating_add(chain.writable_bytes());
            count += 1;
        }
        if let Some(first) = self.held.front() {
            let mut header = first.writable();
            header.take(NUM_BUFFERS_OFFSET)?;
            header.write(memory, &count.to_le_bytes())?;
        }
        let mut left = frame_bytes;
        let chains = self.held.drain(..usize::from(count)).map(|chain| {
            let written = left.min(chain.writable_bytes());
            left -= written;
            (chain, written)
        });
        self.active.queue.complete_all(memory, chains)?;
        self.held_bytes = self.held_bytes.saturating_sub(covered);
        counters.rx_frames.increment();
        counters.rx_bytes.add(u64::from(frame_bytes - HEADER_BYTES));
        Ok(())
    }

    /// Puts the chains that are held back, so that the queue can move elsewhere. A frame that waited for buffers is lost.
    pub(super) fn put_back(&mut self, counters: &NetCounters) {
        while let Some(chain) = self.held.pop_back() {
            self.active.queue.undo_pop(chain);
        }
        self.held_bytes = 0;
        if self.spilled.take().is_some() {
            counters.rx_dropped.increment();
        }
    }
}
