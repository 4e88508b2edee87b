//! Moving ranges of a disk from one image to the same place in another: a batch of pieces at a time, which are all read,
//! looked at, and written.

use std::num::NonZeroU64;
use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use super::transfer::{BUFFER_BYTES, DEPTH, Direction, Failed, Transfer};
use super::{OperationError, Progress};
use crate::backend::BlockBackend;

/// How often work that waits for its rate looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(100);

/// A piece of the disk.
#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: u64,
    bytes: usize,
}

/// What is to be written of a piece.
pub(super) type Parts = Vec<(Range<usize>, PartKind)>;

/// How a part of a piece is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartKind {
    /// As it was read from the first disk.
    Data,
    /// As zeroes, which may take no storage.
    Zeroes,
}

/// Decides what of a piece is to be written. Told where it begins, and its content on each disk that is read; a disk that
/// has ended is filled up with zeroes.
pub(super) type Decide<'a> = &'a dyn Fn(u64, &[&[u8]]) -> Parts;

/// Moves pieces.
pub(super) struct Mover<'a> {
    transfer: Transfer,
    /// Sizes of the disks that are read, which come first; bytes.
    sources: Vec<u64>,
    target: usize,
    pieces: Vec<Piece>,
    decide: Decide<'a>,
    progress: Progress<'a>,
    /// Size of the disk, bytes.
    total: u64,
    /// Most bytes a second, and how many there were since the start.
    rate: Option<NonZeroU64>,
    start: Instant,
    moved: u64,
}

impl<'a> Mover<'a> {
    /// Reads the first `sources` of the disks; `target` is the number of the one to write to, perhaps one of them.
    pub(super) fn open(
        disks: &[&dyn BlockBackend],
        sources: usize,
        target: usize,
        decide: Decide<'a>,
        progress: Progress<'a>,
    ) -> Result<Self, OperationError> {
        Ok(Self {
            transfer: Transfer::open(disks, sources * DEPTH)?,
            sources: disks.iter().take(sources).map(|disk| disk.capacity()).collect(),
            target,
            pieces: Vec::new(),
            decide,
            progress,
            total: disks.first().map_or(0, |disk| disk.capacity()),
            rate: None,
            start: Instant::now(),
            moved: 0,
        })
    }

    /// Moves at most so many bytes a second.
    pub(super) fn at_rate(self, rate: Option<NonZeroU64>) -> Self {
        Self { rate, ..self }
    }

    /// To be called when everything before `offset` has been looked at.
    pub(super) fn reached(&mut self, offset: u64) -> Result<(), OperationError> {
        match (self.progress)(offset, self.total) {
            ControlFlow::Break(()) => Err(OperationError::Interrupted),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// Adds a range, and moves what is complete.
    pub(super) fn add(&mut self, mut offset: u64, mut bytes: u64) -> Result<(), OperationError> {
        while bytes > 0 {
            let part = usize::try_from(bytes).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            self.pieces.push(Piece { offset, bytes: part });
            offset += part as u64;
            bytes -= part as u64;
            if self.pieces.len() == DEPTH {
                self.run()?;
            }
        }
        Ok(())
    }

    /// Makes a range of the target read as zeroes.
    pub(super) fn zero(&mut self, offset: u64, bytes: u64) -> Result<(), OperationError> {
        self.run()?;
        self.transfer.write_zeroes(self.target, offset, bytes).map_err(written)
    }

    /// Moves what is left and makes the target durable.
    pub(super) fn finish(mut self) -> Result<(), OperationError> {
        self.run()?;
        self.transfer.flush(self.target).map_err(written)
    }

    fn run(&mut self) -> Result<(), OperationError> {
        let pieces = std::mem::take(&mut self.pieces);
        let disks = self.sources.len();
        for (number, piece) in pieces.iter().enumerate() {
            for (disk, size) in self.sources.iter().enumerate() {
                let there = size.saturating_sub(piece.offset).min(piece.bytes as u64);
                let there = usize::try_from(there).unwrap_or(0);
                if there > 0 {
                    let buffer = number * disks + disk;
                    self.transfer.add(disk, buffer, 0..there, piece.offset, Direction::Read);
                }
            }
        }
        self.wait(pieces.len() * disks, |failed| failure("read the disk", failed))?;
        let mut zeroes = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            for part in self.parts(number, *piece) {
                let (range, kind) = part;
                let offset = piece.offset + range.start as u64;
                match kind {
                    PartKind::Data => {
                        self.transfer.add(self.target, number * disks, range, offset, Direction::Write);
                    }
                    PartKind::Zeroes => zeroes.push((offset, range.len() as u64)),
                }
            }
        }
        self.wait(pieces.len() * disks, written)?;
        for (offset, bytes) in zeroes {
            self.transfer.write_zeroes(self.target, offset, bytes).map_err(written)?;
        }
        let Some(last) = pieces.last() else { return Ok(()) };
        self.moved += pieces.iter().map(|piece| piece.bytes as u64).sum::<u64>();
        self.reached(last.offset)?;
        self.keep_to_rate(last.offset)
    }

    fn keep_to_rate(&mut self, offset: u64) -> Result<(), OperationError> {
        let Some(rate) = self.rate else { return Ok(()) };
        let nanoseconds = u128::from(self.moved) * 1_000_000_000 / u128::from(rate.get());
        let due = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        loop {
            let wait = due.saturating_sub(self.start.elapsed());
            if wait.is_zero() {
                return Ok(());
            }
            std::thread::sleep(wait.min(PATIENCE));
            self.reached(offset)?;
        }
    }

    fn parts(&self, number: usize, piece: Piece) -> Parts {
        let disks = self.sources.len();
        // What an earlier piece left in a buffer is no content of a disk that has ended.
        let ends = |size: &u64| size.saturating_sub(piece.offset) < piece.bytes as u64;
        let filled: Vec<Option<Vec<u8>>> = (0..disks)
            .map(|disk| {
                ends(&self.sources[disk]).then(|| {
                    let there = self.sources[disk].saturating_sub(piece.offset);
                    let there = usize::try_from(there).unwrap_or(0);
                    let mut content = self.transfer.content(number * disks + disk)[..there].to_vec();
                    content.resize(piece.bytes, 0);
                    content
                })
            })
            .collect();
        let contents: Vec<&[u8]> = filled
            .iter()
            .enumerate()
            .map(|(disk, filled)| match filled {
                Some(content) => content.as_slice(),
                None => &self.transfer.content(number * disks + disk)[..piece.bytes],
            })
            .collect();
        (self.decide)(piece.offset, &contents)
    }

    fn wait(
        &mut self,
        buffers: usize,
        failed: impl Fn(Failed) -> OperationError,
    ) -> Result<(), OperationError> {
        while (0..buffers).any(|buffer| !self.transfer.is_idle(buffer)) {
            self.transfer.wait().map_err(&failed)?;
        }
        Ok(())
    }
}

fn failure(operation: &'static str, failed: Failed) -> OperationError {
    OperationError::Transfer { operation, offset: failed.offset, source: failed.errno.into() }
}

fn written(failed: Failed) -> OperationError {
    failure("write to the image", failed)
}
