//! The seam between a format and everything that reads images: what a range of the disk is made of.

use super::error::ImageError;
use super::tables::{Lookup, Tables};

/// A compressed piece of the disk and the part of it that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grain {
    /// Number of the source that holds it.
    pub(super) source: usize,
    /// Where its marker is in the source, bytes.
    pub(super) marker: u64,
    /// The first sector of its extent that it holds: what its marker must say too.
    pub(super) sector: u64,
    /// Its size when expanded, bytes.
    pub(super) bytes: u64,
    /// How much of it the disk has, bytes: it may stop there.
    pub(super) needed: u64,
}

/// What a range of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Zeroes.
    Zero,
    /// Bytes of a source; whether they lie within it is checked by who reads them.
    Data { source: usize, offset: u64 },
    /// Bytes from `within` on of a compressed grain.
    Compressed { grain: Grain, within: u64 },
}

/// How a format lays a disk out in its sources.
pub(super) trait BlockMap: Send + Sync + std::fmt::Debug {
    /// Size of the disk, bytes.
    fn capacity(&self) -> u64;

    /// Size of the disk's sectors, bytes.
    fn sector_bytes(&self) -> u32 {
        512
    }

    /// Size of the pieces in which the disk is allocated, bytes, if it is in pieces of one size.
    fn block_bytes(&self) -> Option<u64>;

    /// Whether what is not stored is said to be zero, not just nowhere to be found.
    fn says_zero(&self) -> bool {
        true
    }

    /// What the disk is from `offset`, which is within the capacity, and for how many bytes: at least one, at most `bytes`,
    /// which does not reach beyond the capacity. `None` if that is not in memory and must not be loaded.
    fn map(
        &self,
        tables: &Tables,
        offset: u64,
        bytes: u64,
        how: Lookup,
    ) -> Result<Option<(Extent, u64)>, ImageError>;
}
