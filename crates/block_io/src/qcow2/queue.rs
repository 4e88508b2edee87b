//! A queue of a qcow2 disk: requests whose mapping is in memory go to the ring, the rest to threads.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::chain::Extent;
use super::image::{Image, Lookup};
use crate::backend::{BlockGeometry, BlockOperation, BlockQueue, BlockRequest, Completion, QueueFull};
use crate::engine::{Done, EngineChoice, FileEngine, FileOperation};
use crate::file::CacheMode;
use crate::request::{Limits, check};
use crate::segment::{Cursor, Segment, total_bytes};

/// Most pieces that a request is cut into for the ring; one that is more scattered is left to a thread.
const MOST_PIECES: usize = 64;

#[derive(Debug)]
struct Slot {
    tag: u64,
    /// The epoch that the request is in, unless it needs none or its thread leaves it.
    epoch: Option<usize>,
    /// Operations of the engine that have not ended.
    pieces: usize,
    result: Result<(), Errno>,
}

/// A request's time in an epoch, which ends when this is dropped.
struct InEpoch {
    image: Arc<Image>,
    epoch: Option<usize>,
}

impl Drop for InEpoch {
    fn drop(&mut self) {
        if let Some(epoch) = self.epoch {
            self.image.epochs.leave(epoch);
        }
    }
}

/// One stream of requests to an image.
pub(super) struct Qcow2Queue {
    image: Arc<Image>,
    geometry: BlockGeometry,
    engine: FileEngine,
    depth: usize,
    /// What is in flight, by the engine's token.
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Kept for its memory.
    done: Vec<Done>,
}

impl Qcow2Queue {
    pub(super) fn open(
        image: Arc<Image>,
        geometry: BlockGeometry,
        depth: u32,
        choice: EngineChoice,
    ) -> std::io::Result<Self> {
        let engine = FileEngine::new(image.targets(), depth, choice)?;
        let depth = usize::try_from(depth.max(1)).unwrap_or(usize::MAX);
        Ok(Self { image, geometry, engine, depth, slots: Vec::new(), free: Vec::new(), done: Vec::new() })
    }

    /// Leaves the request to a thread.
    fn start_waiting(
        &mut self,
        slot: usize,
        durable: bool,
        work: impl FnOnce(&Image) -> Result<(), Errno> + Send + 'static,
    ) {
        self.expect(slot, 1);
        let epoch = self.slots.get_mut(slot).and_then(Option::as_mut).and_then(|slot| slot.epoch.take());
        let request = InEpoch { image: Arc::clone(&self.image), epoch };
        let work = move || {
            work(&request.image)?;
            // A flush can release what the request itself let go of only if that is over.
            let image = Arc::clone(&request.image);
            drop(request);
            if durable { image.flush() } else { Ok(()) }
        };
        self.engine.start(slot as u64, FileOperation::Blocking(Box::new(work)));
    }

    fn expect(&mut self, slot: usize, pieces: usize) {
        if let Some(Some(slot)) = self.slots.get_mut(slot) {
            slot.pieces = pieces;
        }
    }

    fn finish(&mut self, slot: usize, result: Result<(), Errno>) {
        self.expect(slot, 1);
        self.engine.finish(slot as u64, result);
    }

    /// What a range is made of, if all of that is in memory and nothing has to be decompressed.
    fn extents(&self, mut guest: u64, mut bytes: u64) -> Result<Option<Vec<(Extent, u64)>>, Errno> {
        let mut extents = Vec::new();
        while bytes > 0 {
            match self.image.resolve(guest, bytes, Lookup::Cached)? {
                None | Some((Extent::Compressed { .. }, _)) => return Ok(None),
                Some(_) if extents.len() == MOST_PIECES => return Ok(None),
                Some((extent, run)) => {
                    extents.push((extent, run));
                    guest += run;
                    bytes -= run;
                }
            }
        }
        Ok(Some(extents))
    }

    /// Whether memory has to be bounced, or blocks of a file would be split, which only threads do. Places on the disk and in
    /// the files are multiples of the same blocks: clusters consist of whole ones.
    fn is_misaligned(&self, offset: u64, bytes: u64, segments: &[Segment]) -> bool {
        let below = self.image.backing.iter().map(|layer| &layer.file().access);
        std::iter::once(&self.image.data().access)
            .chain(below)
            .any(|access| access.needs_bounce(segments) || access.splits_blocks(offset, bytes))
    }

    fn start_read(
        &mut self,
        slot: usize,
        offset: u64,
        segments: Vec<Segment>,
        bytes: u64,
    ) -> Result<(), Errno> {
        let extents =
            if self.is_misaligned(offset, bytes, &segments) { None } else { self.extents(offset, bytes)? };
        let Some(extents) = extents else {
            self.start_waiting(slot, false, move |image| image.read_now(offset, &segments));
            return Ok(());
        };
        let mut cursor = Cursor::new(&segments);
        let mut reads = Vec::with_capacity(extents.len());
        for (extent, run) in extents {
            match extent {
                Extent::Data { layer, offset, .. } => {
                    let bytes = usize::try_from(run).map_err(|_| Errno::INVAL)?;
                    reads.push(FileOperation::Read { file: layer, offset, segments: cursor.take(bytes) });
                }
                Extent::Zero | Extent::Compressed { .. } => cursor.fill_zeroes(run),
            }
        }
        if reads.is_empty() {
            self.finish(slot, Ok(()));
            return Ok(());
        }
        self.expect(slot, reads.len());
        for read in reads {
            self.engine.start(slot as u64, read);
        }
        Ok(())
    }

    fn start_write(
        &mut self,
        slot: usize,
        offset: u64,
        segments: Vec<Segment>,
        bytes: u64,
        durable: bool,
    ) -> Result<(), Errno> {
        let durable = self.image.file.access.durable(durable);
        // A mapping that a crash would lose makes durable data worthless.
        let mapping_may_be_lost = durable && self.image.unflushed.load(Ordering::Acquire);
        let misaligned = self.is_misaligned(offset, bytes, &segments);
        if misaligned && self.image.splits_blocks(offset, bytes) {
            // From now on writes wait for each other, cluster by cluster: a block is read, changed and written back.
            self.image.blocks_are_split.store(true, Ordering::Release);
        }
        let needs_thread = mapping_may_be_lost
            || misaligned
            || self.image.is_corrupt()
            || self.image.blocks_are_split.load(Ordering::Acquire);
        let extents = if needs_thread { None } else { self.extents(offset, bytes)? };
        let writable = |(extent, _): &(Extent, u64)| matches!(extent, Extent::Data { writable: true, .. });
        let Some(extents) = extents.filter(|extents| extents.iter().all(writable)) else {
            self.start_waiting(slot, durable, move |image| image.write_now(offset, &segments));
            return Ok(());
        };
        let mut cursor = Cursor::new(&segments);
        self.expect(slot, extents.len());
        for (extent, run) in extents {
            let Extent::Data { layer, offset, .. } = extent else { continue };
            let bytes = usize::try_from(run).map_err(|_| Errno::INVAL)?;
            let segments = cursor.take(bytes);
            self.engine.start(slot as u64, FileOperation::Write { file: layer, offset, segments, durable });
        }
        Ok(())
    }

    fn start(&mut self, slot: usize, operation: BlockOperation) -> Result<(), Errno> {
        let write_through = self.image.file.options.cache.write_through();
        match operation {
            BlockOperation::Read { offset, segments } => {
                let bytes = total_bytes(&segments).ok_or(Errno::INVAL)?;
                self.start_read(slot, offset, segments, bytes)
            }
            BlockOperation::Write { offset, segments, durable } => {
                let bytes = total_bytes(&segments).ok_or(Errno::INVAL)?;
                self.start_write(slot, offset, segments, bytes, durable)
            }
            BlockOperation::Flush => {
                if self.image.flush_has_work() {
                    self.start_waiting(slot, false, Image::flush);
                } else if self.image.file.options.cache == CacheMode::Unsafe {
                    self.finish(slot, Ok(()));
                } else {
                    self.expect(slot, 1);
                    self.engine.start(slot as u64, FileOperation::Sync { file: 0 });
                }
                Ok(())
            }
            BlockOperation::Discard { offset, bytes } => {
                self.start_waiting(slot, write_through, move |image| image.discard_now(offset, bytes));
                Ok(())
            }
            BlockOperation::WriteZeroes { offset, bytes, may_unmap } => {
                self.start_waiting(slot, write_through, move |image| {
                    image.write_zeroes_now(offset, bytes, may_unmap)
                });
                Ok(())
            }
        }
    }
}

impl BlockQueue for Qcow2Queue {
    fn submit(&mut self, request: BlockRequest) -> Result<(), QueueFull> {
        if self.in_flight() >= self.depth {
            return Err(QueueFull(request));
        }
        let BlockRequest { tag, operation } = request;
        // Before the mapping is looked at: clusters that it names now stay what they are until the request has ended. A flush
        // uses none, and would wait for itself if it were to release some.
        let epoch = (!matches!(operation, BlockOperation::Flush)).then(|| self.image.epochs.enter());
        let slot = Some(Slot { tag, epoch, pieces: 0, result: Ok(()) });
        let index = if let Some(index) = self.free.pop() {
            self.slots[index] = slot;
            index
        } else {
            self.slots.push(slot);
            self.slots.len() - 1
        };
        let limits = Limits {
            geometry: self.geometry,
            capacity: self.image.capacity(),
            read_only: self.image.file.options.read_only,
        };
        let result = check(&operation, &limits).and_then(|_| self.start(index, operation));
        if let Err(error) = result {
            self.finish(index, Err(error));
        }
        Ok(())
    }

    fn kick(&mut self) {
        self.engine.kick();
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        self.engine.reap(&mut self.done);
        for (token, result) in self.done.drain(..) {
            let index = usize::try_from(token).unwrap_or(usize::MAX);
            let Some(entry) = self.slots.get_mut(index) else { continue };
            let Some(slot) = entry else { continue };
            slot.result = slot.result.and(result);
            slot.pieces = slot.pieces.saturating_sub(1);
            if slot.pieces > 0 {
                continue;
            }
            if let Some(epoch) = slot.epoch {
                self.image.epochs.leave(epoch);
            }
            completions.push(Completion { tag: slot.tag, result: slot.result });
            *entry = None;
            self.free.push(index);
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.engine.ready_fd()
    }
}

impl Drop for Qcow2Queue {
    fn drop(&mut self) {
        // Every request has to leave its epoch.
        let mut completions = Vec::new();
        self.kick();
        while self.in_flight() > 0 {
            let _ = poll(&mut [PollFd::new(&self.engine, PollFlags::IN)], None);
            self.reap(&mut completions);
        }
    }
}
