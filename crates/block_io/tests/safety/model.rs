//! What a disk holds, as far as that is known.

use std::collections::HashMap;
use std::ops::Range;

use block_io::conformance::{Buffer, Driver};
use block_io::qcow2::Qcow2Disk;
use block_io::{BlockBackend, BlockOperation};
use rustix::io::Errno;

use crate::random::{Random, SECTOR};

/// The content, which sectors may read as zeroes instead because they were discarded, and what others may hold instead
/// because a write to them has not ended well.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) content: Vec<u8>,
    loose: Vec<bool>,
    perhaps: HashMap<usize, Vec<Vec<u8>>>,
}

impl Model {
    pub(crate) fn new(content: Vec<u8>) -> Self {
        Self { loose: vec![false; content.len() / SECTOR], content, perhaps: HashMap::new() }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.content.len()
    }

    pub(crate) fn resize(&mut self, bytes: usize) {
        self.content.resize(bytes, 0);
        self.loose.resize(bytes / SECTOR, false);
    }

    /// A write that has not ended well: each sector holds what it did, or this.
    fn perhaps(&mut self, range: &Range<usize>, bytes: &[u8]) {
        for (number, bytes) in bytes.chunks(SECTOR).enumerate() {
            self.perhaps.entry(range.start / SECTOR + number).or_default().push(bytes.to_vec());
        }
    }

    /// The range holds what `content` says.
    fn settle(&mut self, range: &Range<usize>) {
        for sector in range.start / SECTOR..range.end / SECTOR {
            self.loose[sector] = false;
            self.perhaps.remove(&sector);
        }
    }

    pub(crate) fn write(&mut self, range: &Range<usize>, bytes: &[u8]) {
        self.content[range.clone()].copy_from_slice(bytes);
        self.settle(range);
    }

    pub(crate) fn fill(&mut self, range: &Range<usize>, value: u8) {
        self.content[range.clone()].fill(value);
        self.settle(range);
    }

    pub(crate) fn discard(&mut self, range: &Range<usize>) {
        self.loose[range.start / SECTOR..range.end / SECTOR].fill(true);
    }

    /// Compares with what was read; what a discard has left there is known from then on.
    #[track_caller]
    pub(crate) fn assert_is(&mut self, found: &[u8], who: &str) {
        assert_eq!(found.len(), self.content.len(), "size of the disk, {who}");
        for (sector, found) in found.chunks(SECTOR).enumerate() {
            let known = &mut self.content[sector * SECTOR..(sector + 1) * SECTOR];
            if found == known {
                continue;
            }
            let discarded = self.loose[sector] && found.iter().all(|byte| *byte == 0);
            let unfinished =
                self.perhaps.get(&sector).is_some_and(|all| all.iter().any(|bytes| bytes == found));
            assert!(
                discarded || unfinished,
                "sector {sector} is wrong, {who}: {:x?}, not {:x?}",
                &found[..8],
                &known[..8]
            );
            known.copy_from_slice(found);
        }
        self.loose.fill(false);
        self.perhaps.clear();
    }
}

/// Everything that a disk holds.
pub(crate) fn content_of(disk: &dyn BlockBackend) -> Vec<u8> {
    let mut driver = Driver::open(disk, 4);
    let mut content = Vec::new();
    while (content.len() as u64) < disk.capacity() {
        let bytes = (disk.capacity() - content.len() as u64).min(1 << 20) as usize;
        let mut buffer = Buffer::filled(bytes, 0xee);
        driver.read(content.len() as u64, buffer.pieces(&[bytes])).unwrap();
        content.extend(buffer.bytes());
    }
    content
}

/// Something that is done to a range of a disk.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Write {
        range: Range<usize>,
        seed: u64,
        durable: bool,
    },
    Zero {
        range: Range<usize>,
        may_unmap: bool,
    },
    Discard {
        range: Range<usize>,
    },
    /// Of one cluster, by [`Qcow2Disk::write_compressed`].
    Compress {
        range: Range<usize>,
        seed: u64,
    },
    Flush,
}

impl Step {
    /// A cluster of a disk, compressed.
    pub(crate) fn compressing(random: &mut Random, bytes: usize, cluster: usize) -> Self {
        let start = random.below(bytes.div_ceil(cluster)) * cluster;
        Self::Compress { range: start..(start + cluster).min(bytes), seed: random.next() }
    }

    /// Does a [`Step::Compress`] at once; any other is left to a queue.
    pub(crate) fn compress(&self, disk: &Qcow2Disk) -> Option<Result<(), Errno>> {
        let Self::Compress { range, seed } = self else { return None };
        Some(disk.write_compressed(range.start as u64, &Random::new(*seed).content(range.len())))
    }

    /// A step on a disk of `bytes` bytes.
    pub(crate) fn random(random: &mut Random, bytes: usize, most_sectors: usize) -> Self {
        let range = random.range(bytes, most_sectors);
        match random.below(10) {
            0..5 => Self::Write { range, seed: random.next(), durable: random.once_in(6) },
            5 | 6 => Self::Zero { range, may_unmap: random.once_in(2) },
            7 | 8 => Self::Discard { range },
            _ => Self::Flush,
        }
    }

    /// What it touches.
    pub(crate) fn range(&self) -> Range<usize> {
        match self {
            Self::Write { range, .. }
            | Self::Zero { range, .. }
            | Self::Discard { range }
            | Self::Compress { range, .. } => range.clone(),
            Self::Flush => 0..0,
        }
    }

    /// The request, with the memory that it needs until it has ended.
    pub(crate) fn request(&self) -> (BlockOperation, Buffer) {
        let range = self.range();
        let (offset, bytes) = (range.start as u64, range.len() as u64);
        let mut buffer = Buffer::shifted(range.len(), if bytes % 1024 == 0 { 0 } else { 3 });
        let operation = match self {
            Self::Write { seed, durable, .. } => {
                buffer.fill_pattern(*seed);
                let first = range.len() / 3;
                let segments = buffer.pieces(&[first, range.len() - first]);
                BlockOperation::Write { offset, segments, durable: *durable }
            }
            Self::Zero { may_unmap, .. } => {
                BlockOperation::WriteZeroes { offset, bytes, may_unmap: *may_unmap }
            }
            Self::Discard { .. } => BlockOperation::Discard { offset, bytes },
            // Not by a queue: the flush is not submitted.
            Self::Compress { .. } | Self::Flush => BlockOperation::Flush,
        };
        (operation, buffer)
    }

    /// What is known once it has ended well.
    pub(crate) fn note(&self, model: &mut Model, buffer: &Buffer) {
        match self {
            Self::Write { range, .. } => model.write(range, buffer.bytes()),
            Self::Zero { range, .. } => model.fill(range, 0),
            Self::Discard { range } => model.discard(range),
            Self::Compress { range, seed } => model.write(range, &Random::new(*seed).content(range.len())),
            Self::Flush => {}
        }
    }

    /// What is known if it has not ended, or not well.
    pub(crate) fn note_unfinished(&self, model: &mut Model, buffer: &Buffer) {
        match self {
            Self::Write { range, .. } => model.perhaps(range, buffer.bytes()),
            Self::Zero { range, .. } => model.perhaps(range, &vec![0; range.len()]),
            Self::Discard { range } => model.discard(range),
            Self::Compress { range, seed } => {
                model.perhaps(range, &Random::new(*seed).content(range.len()));
            }
            Self::Flush => {}
        }
    }
}
