//! A queue of an image's disk: reads whose mapping is in memory go to the file engine, the rest to its threads.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::error::ImageError;
use super::image::Image;
use super::map::Extent;
use super::tables::Lookup;
use crate::backend::{BlockGeometry, BlockOperation, BlockQueue, BlockRequest, Completion, QueueFull};
use crate::engine::{Done, EngineChoice, FileEngine, FileOperation, Target};
use crate::request::{Limits, check};
use crate::segment::{Cursor, Segment, total_bytes};

/// Most pieces that a request is cut into for the engine; one that is more scattered is left to a thread.
const MOST_PIECES: usize = 64;
/// Buffer of a read that is left to a thread, bytes.
const BUFFER_BYTES: u64 = 1 << 20;

struct Slot {
    tag: u64,
    /// Operations of the engine that have not ended.
    pieces: usize,
    result: Result<(), Errno>,
}

/// What the queue's threads share.
struct Shared {
    path: PathBuf,
    image: Arc<Image>,
    /// A guest can read a damaged place as often as it likes: it is logged once.
    reported: AtomicBool,
}

impl Shared {
    fn errno(&self, error: &ImageError) -> Errno {
        if !self.reported.swap(true, Ordering::Relaxed) {
            tracing::warn!(path = %self.path.display(), %error, "the image cannot be read here (told once a queue)");
        }
        match error {
            ImageError::Read { source, .. } => Errno::from_io_error(source).unwrap_or(Errno::IO),
            _ => Errno::IO,
        }
    }

    /// Fills the segments from `offset` on. Waits.
    fn read_now(&self, mut offset: u64, segments: &[Segment]) -> Result<(), Errno> {
        let mut left = total_bytes(segments).ok_or(Errno::INVAL)?;
        let most = usize::try_from(left.min(BUFFER_BYTES)).map_err(|_| Errno::INVAL)?;
        let mut buffer = vec![0; most];
        let mut cursor = Cursor::new(segments);
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(most).min(most);
            let part = &mut buffer[..length];
            self.image.read_at(part, offset).map_err(|error| self.errno(&error))?;
            cursor.scatter(part);
            offset += length as u64;
            left -= length as u64;
        }
        Ok(())
    }
}

/// One stream of requests to an image.
pub(super) struct FormatQueue {
    shared: Arc<Shared>,
    engine: FileEngine,
    /// Where each source begins in its file, bytes.
    starts: Vec<u64>,
    depth: usize,
    /// What is in flight, by the engine's token.
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Kept for its memory.
    done: Vec<Done>,
}

impl FormatQueue {
    pub(super) fn open(
        path: &Path,
        image: Arc<Image>,
        targets: Vec<(Target, u64)>,
        depth: u32,
        choice: EngineChoice,
    ) -> std::io::Result<Self> {
        let (targets, starts) = targets.into_iter().unzip();
        let engine = FileEngine::new(targets, depth, choice)?;
        let depth = usize::try_from(depth.max(1)).unwrap_or(usize::MAX);
        let shared = Arc::new(Shared { path: path.to_owned(), image, reported: AtomicBool::new(false) });
        Ok(Self { shared, engine, starts, depth, slots: Vec::new(), free: Vec::new(), done: Vec::new() })
    }

    fn expect(&mut self, slot: usize, pieces: usize) {
        if let Some(Some(slot)) = self.slots.get_mut(slot) {
            slot.pieces = pieces;
        }
    }

    /// What a range is made of, neighbours joined, if that is in memory and is all zeroes and plain bytes of files.
    fn extents(&self, mut offset: u64, mut bytes: u64) -> Result<Option<Vec<(Extent, u64)>>, ImageError> {
        let image = &self.shared.image;
        let mut extents: Vec<(Extent, u64)> = Vec::new();
        while bytes > 0 {
            let Some((extent, run)) = image.resolve(offset, bytes, Lookup::Cached)? else { return Ok(None) };
            let plain = match extent {
                Extent::Zero => true,
                Extent::Compressed { .. } => false,
                Extent::Data { source, offset } => {
                    image.sources().get(source).is_some_and(|source| source.is_plain(offset, run))
                }
            };
            if !plain {
                return Ok(None);
            }
            let full = extents.len() == MOST_PIECES;
            match extents.last_mut() {
                Some((last, length)) if follows(*last, *length, extent) => *length += run,
                _ if full => return Ok(None),
                _ => extents.push((extent, run)),
            }
            offset += run;
            bytes -= run;
        }
        Ok(Some(extents))
    }

    fn start_read(&mut self, slot: usize, offset: u64, segments: Vec<Segment>) -> Result<(), Errno> {
        let bytes = total_bytes(&segments).ok_or(Errno::INVAL)?;
        let extents = self.extents(offset, bytes).map_err(|error| self.shared.errno(&error))?;
        let Some(extents) = extents else {
            let shared = Arc::clone(&self.shared);
            let work = move || shared.read_now(offset, &segments);
            self.expect(slot, 1);
            self.engine.start(slot as u64, FileOperation::Blocking(Box::new(work)));
            return Ok(());
        };
        let mut cursor = Cursor::new(&segments);
        let mut reads = Vec::with_capacity(extents.len());
        for (extent, run) in extents {
            match extent {
                Extent::Data { source, offset } => {
                    let bytes = usize::try_from(run).map_err(|_| Errno::INVAL)?;
                    let start = self.starts.get(source).copied().ok_or(Errno::IO)?;
                    let offset = start.checked_add(offset).ok_or(Errno::IO)?;
                    reads.push(FileOperation::Read { file: source, offset, segments: cursor.take(bytes) });
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

    fn finish(&mut self, slot: usize, result: Result<(), Errno>) {
        self.expect(slot, 1);
        self.engine.finish(slot as u64, result);
    }
}

/// Whether an extent goes on where another one of so many bytes ends.
fn follows(last: Extent, bytes: u64, next: Extent) -> bool {
    match (last, next) {
        (Extent::Zero, Extent::Zero) => true,
        (Extent::Data { source, offset }, Extent::Data { source: other, offset: next }) => {
            source == other && offset.checked_add(bytes) == Some(next)
        }
        _ => false,
    }
}

impl BlockQueue for FormatQueue {
    fn submit(&mut self, request: BlockRequest) -> Result<(), QueueFull> {
        if self.in_flight() >= self.depth {
            return Err(QueueFull(request));
        }
        let BlockRequest { tag, operation } = request;
        let slot = Some(Slot { tag, pieces: 1, result: Ok(()) });
        let index = if let Some(index) = self.free.pop() {
            self.slots[index] = slot;
            index
        } else {
            self.slots.push(slot);
            self.slots.len() - 1
        };
        let image = &self.shared.image;
        let logical = image.sector_bytes();
        let geometry =
            BlockGeometry { logical_block_bytes: logical, physical_block_bytes: logical, discard_bytes: 0 };
        let limits = Limits { geometry, capacity: image.capacity(), read_only: true };
        let result = check(&operation, &limits).and_then(|_| match operation {
            BlockOperation::Read { offset, segments } => self.start_read(index, offset, segments),
            // Nothing was written.
            BlockOperation::Flush => {
                self.finish(index, Ok(()));
                Ok(())
            }
            BlockOperation::Write { .. }
            | BlockOperation::Discard { .. }
            | BlockOperation::WriteZeroes { .. } => Err(Errno::ROFS),
        });
        if let Err(errno) = result {
            self.finish(index, Err(errno));
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
            if slot.pieces == 0 {
                completions.push(Completion { tag: slot.tag, result: slot.result });
                *entry = None;
                self.free.push(index);
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.engine.ready_fd()
    }
}
