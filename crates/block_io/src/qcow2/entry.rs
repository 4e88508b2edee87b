//! Entries of L1 and L2 tables and the arithmetic of clusters. Pure.
//!
//! Source: docs/interop/qcow2.rst of QEMU, sections "Cluster mapping" and "Extended L2 Entries". A standard entry is
//! treated as a cluster with a single subcluster, so that one code serves both kinds.

use rustix::io::Errno;

use super::header::{Header, INCOMPATIBLE_DATA_FILE};

/// Refcount is exactly one: the cluster may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
/// The entry describes compressed data.
const COMPRESSED: u64 = 1 << 62;
/// Reads as zeroes (standard entries of version 3).
const ZERO: u64 = 1;
/// Where a cluster lies in the file: bits 9 to 55.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Largest piece of an L2 table or refcount block that is read, cached and written at once, bytes.
const SLICE_BYTES: u64 = 4096;

/// Sizes that follow from the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) cluster_bits: u32,
    pub(super) extended: bool,
    /// Whether entries may say "zeroes" (version 3).
    pub(super) has_zero_clusters: bool,
    /// Whether guest data is in a file of its own, each cluster at the offset that it has for the guest.
    pub(super) external: bool,
}

impl Layout {
    pub(super) fn of(header: &Header) -> Self {
        Self {
            cluster_bits: header.cluster_bits,
            extended: header.extended_l2(),
            has_zero_clusters: header.version >= 3,
            external: header.incompatible & INCOMPATIBLE_DATA_FILE != 0,
        }
    }

    pub(super) fn cluster_bytes(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Words of 64 bits that make an L2 entry.
    pub(super) fn entry_words(self) -> usize {
        if self.extended { 2 } else { 1 }
    }

    pub(super) fn subclusters(self) -> u32 {
        if self.extended { 32 } else { 1 }
    }

    pub(super) fn subcluster_bytes(self) -> u64 {
        self.cluster_bytes() / u64::from(self.subclusters())
    }

    /// Bytes of a table that are cached together.
    pub(super) fn slice_bytes(self) -> u64 {
        self.cluster_bytes().min(SLICE_BYTES)
    }

    pub(super) fn slice_entries(self) -> u64 {
        self.slice_bytes() / (8 * self.entry_words() as u64)
    }

    /// Guest bytes that a slice maps.
    pub(super) fn slice_covers(self) -> u64 {
        self.slice_entries() << self.cluster_bits
    }

    pub(super) fn slices_per_table(self) -> u64 {
        self.cluster_bytes() / self.slice_bytes()
    }

    /// Guest bytes that an L2 table maps.
    pub(super) fn table_covers(self) -> u64 {
        self.slice_covers() * self.slices_per_table()
    }

    /// Number of the slice that maps a guest offset.
    pub(super) fn slice_of(self, guest: u64) -> u64 {
        guest / self.slice_covers()
    }

    /// Place of a guest offset's entry in its slice.
    pub(super) fn entry_in_slice(self, guest: u64) -> usize {
        // Less than 512 entries of a slice.
        usize::try_from((guest >> self.cluster_bits) % self.slice_entries()).unwrap_or(0)
    }

    /// Place of a guest offset's entry in the L1 table.
    pub(super) fn l1_index(self, guest: u64) -> usize {
        usize::try_from(guest / self.table_covers()).unwrap_or(usize::MAX)
    }

    pub(super) fn cluster_start(self, offset: u64) -> u64 {
        offset & !(self.cluster_bytes() - 1)
    }

    /// The subcluster of a guest offset in its cluster.
    pub(super) fn subcluster_of(self, guest: u64) -> u32 {
        // Less than 32.
        u32::try_from((guest & (self.cluster_bytes() - 1)) / self.subcluster_bytes()).unwrap_or(0)
    }

    /// The subclusters of a range that lies in one cluster, as a mask.
    pub(super) fn subcluster_mask(self, guest: u64, bytes: u64) -> u32 {
        let first = self.subcluster_of(guest);
        let last = self.subcluster_of(guest + bytes.max(1) - 1);
        let up_to_last = if last == 31 { u32::MAX } else { (1 << (last + 1)) - 1 };
        up_to_last & !((1u32 << first) - 1)
    }
}

/// What a subcluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// As in the backing file, or zeroes where there is none.
    Unallocated,
    /// Zeroes.
    Zero,
    /// Bytes at the cluster's place in the file.
    Data,
    /// Part of a compressed cluster.
    Compressed,
}

/// Width of the offset in the descriptor of a compressed cluster.
fn compressed_offset_bits(layout: Layout) -> u32 {
    62 - (layout.cluster_bits - 8)
}

/// An L2 entry. `bitmap` is 0 in standard ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) descriptor: u64,
    pub(super) bitmap: u64,
}

/// Where a compressed cluster lies: any byte offset, and how many bytes there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompressedRange {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Entry {
    /// A cluster of our own at `host`, all of it data.
    #[cfg(test)]
    pub(super) fn data(host: u64) -> Self {
        Self { descriptor: host | COPIED, bitmap: 0xffff_ffff }
    }

    pub(super) fn is_compressed(self) -> bool {
        self.descriptor & COMPRESSED != 0
    }

    /// Whether it is known that nobody else uses the cluster.
    pub(super) fn is_copied(self) -> bool {
        self.descriptor & COPIED != 0 && !self.is_compressed()
    }

    /// The cluster's place in the file; `None` if it has none. `EIO` if that is no place for a cluster.
    pub(super) fn host(self, layout: Layout) -> Result<Option<u64>, Errno> {
        if self.is_compressed() {
            return Ok(None);
        }
        let host = self.descriptor & OFFSET_MASK;
        // In an external file, the first cluster lies at offset 0; the flag tells that it is there.
        if host == 0 && !(layout.external && self.descriptor & COPIED != 0) {
            return Ok(None);
        }
        if layout.cluster_start(host) == host { Ok(Some(host)) } else { Err(Errno::IO) }
    }

    /// What a subcluster is; `EIO` if the entry contradicts itself.
    pub(super) fn state(self, layout: Layout, subcluster: u32) -> Result<State, Errno> {
        if self.is_compressed() {
            return Ok(State::Compressed);
        }
        let host = self.host(layout)?;
        if !layout.extended {
            let zero = layout.has_zero_clusters && self.descriptor & ZERO != 0;
            return Ok(match host {
                _ if zero => State::Zero,
                Some(_) => State::Data,
                None => State::Unallocated,
            });
        }
        let allocated = self.bitmap >> subcluster & 1 != 0;
        let zero = self.bitmap >> (32 + subcluster) & 1 != 0;
        match (allocated, zero, host) {
            (true, true, _) | (true, false, None) => Err(Errno::IO),
            (true, false, Some(_)) => Ok(State::Data),
            (false, true, _) => Ok(State::Zero),
            (false, false, _) => Ok(State::Unallocated),
        }
    }

    /// The entry once the subclusters in `mask` hold data at `host`, which is ours alone.
    pub(super) fn with_data(self, layout: Layout, host: u64, mask: u32) -> Self {
        let descriptor = host | COPIED;
        if !layout.extended {
            return Self { descriptor, bitmap: 0 };
        }
        let mask = u64::from(mask);
        let bitmap = if self.is_compressed() { 0 } else { self.bitmap };
        Self { descriptor, bitmap: (bitmap | mask) & !(mask << 32) }
    }

    /// The entry once all of the cluster reads as zeroes; `keep` its place in the file or give it up.
    pub(super) fn zeroed(self, layout: Layout, keep: bool) -> Self {
        let kept = if keep && !self.is_compressed() { self.descriptor & (OFFSET_MASK | COPIED) } else { 0 };
        if layout.extended {
            return Self { descriptor: kept, bitmap: 0xffff_ffff << 32 };
        }
        Self { descriptor: kept | ZERO, bitmap: 0 }
    }

    /// The entry of an uncompressed cluster of an extended table once the subclusters in `mask` read as zeroes; `keep` the
    /// cluster's place even if nothing else is in it.
    pub(super) fn with_zeroes(self, mask: u32, keep: bool) -> Self {
        let mask = u64::from(mask);
        let bitmap = self.bitmap & !mask | mask << 32;
        let empty = bitmap & 0xffff_ffff == 0;
        Self { descriptor: if empty && !keep { 0 } else { self.descriptor }, bitmap }
    }

    /// The same with the knowledge that nobody else uses the cluster.
    pub(super) fn with_copied(self) -> Self {
        Self { descriptor: self.descriptor | COPIED, ..self }
    }

    /// A cluster whose compressed data, at least one byte, lies at `offset`; `None` if that is too far behind for the format
    /// (section "Compressed Clusters Descriptor").
    pub(super) fn packed(layout: Layout, offset: u64, bytes: u64) -> Option<Self> {
        let offset_bits = compressed_offset_bits(layout);
        let last = offset.checked_add(bytes.checked_sub(1)?).filter(|last| last >> offset_bits == 0)?;
        let further_sectors = last / 512 - offset / 512;
        Some(Self { descriptor: COMPRESSED | further_sectors << offset_bits | offset, bitmap: 0 })
    }

    /// Where the compressed data is (section "Compressed Clusters Descriptor"). Bounded by the format to two clusters.
    pub(super) fn compressed(self, layout: Layout) -> CompressedRange {
        let offset_bits = compressed_offset_bits(layout);
        let offset = self.descriptor & ((1 << offset_bits) - 1);
        let sectors = (self.descriptor & !(COPIED | COMPRESSED)) >> offset_bits;
        CompressedRange { offset, bytes: (sectors + 1) * 512 - (offset & 511) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: Layout =
        Layout { cluster_bits: 16, extended: false, has_zero_clusters: true, external: false };
    const EXTENDED: Layout =
        Layout { cluster_bits: 16, extended: true, has_zero_clusters: true, external: false };

    #[test]
    fn sizes_follow_from_the_cluster_size() {
        assert_eq!(STANDARD.table_covers(), 512 << 20);
        assert_eq!(STANDARD.slice_covers(), 32 << 20);
        assert_eq!(EXTENDED.table_covers(), 256 << 20);
        let small = Layout { cluster_bits: 9, extended: false, has_zero_clusters: true, external: false };
        assert_eq!((small.slices_per_table(), small.table_covers()), (1, 32 << 10));
        assert_eq!(STANDARD.entry_in_slice(33 << 20), 16);
        assert_eq!(STANDARD.l1_index(513 << 20), 1);
    }

    #[test]
    fn standard_entries_are_data_zeroes_or_nothing() {
        let state = |descriptor, layout| Entry { descriptor, bitmap: 0 }.state(layout, 0);
        assert_eq!(state(0, STANDARD), Ok(State::Unallocated));
        assert_eq!(state(1, STANDARD), Ok(State::Zero));
        assert_eq!(state(0x50001, STANDARD), Ok(State::Zero));
        assert_eq!(state(0x50000 | COPIED, STANDARD), Ok(State::Data));
        assert_eq!(state(0x50000 | COMPRESSED, STANDARD), Ok(State::Compressed));
        assert_eq!(state(0x50200, STANDARD), Err(Errno::IO), "not on a cluster");
        let old = Layout { has_zero_clusters: false, ..STANDARD };
        assert_eq!(state(0x50001, old), Ok(State::Data), "version 2 has no zero flag");
    }

    #[test]
    fn subclusters_have_their_own_states() {
        let entry = Entry { descriptor: 0x50000, bitmap: 0b01 | 0b10 << 32 };
        assert_eq!(entry.state(EXTENDED, 0), Ok(State::Data));
        assert_eq!(entry.state(EXTENDED, 1), Ok(State::Zero));
        assert_eq!(entry.state(EXTENDED, 2), Ok(State::Unallocated));
        assert_eq!(Entry { descriptor: 0x50000, bitmap: 1 | 1 << 32 }.state(EXTENDED, 0), Err(Errno::IO));
        assert_eq!(Entry { descriptor: 0, bitmap: 1 }.state(EXTENDED, 0), Err(Errno::IO));
        let written = entry.with_data(EXTENDED, 0x50000, 0b110);
        assert_eq!(written, Entry { descriptor: 0x50000 | COPIED, bitmap: 0b111 });
    }

    #[test]
    fn zeroed_subclusters_leave_the_others_alone() {
        let entry = Entry { descriptor: 0x50000 | COPIED, bitmap: 0b0110 | 0b1000 << 32 };
        let zeroed = entry.with_zeroes(0b0011, false);
        assert_eq!(zeroed, Entry { bitmap: 0b0100 | 0b1011 << 32, ..entry });
        assert_eq!(zeroed.with_zeroes(0b0100, true), Entry { bitmap: 0b1111 << 32, ..entry });
        assert_eq!(zeroed.with_zeroes(0b0100, false), Entry { descriptor: 0, bitmap: 0b1111 << 32 });
    }

    #[test]
    fn masks_cover_every_subcluster_that_is_touched() {
        assert_eq!(EXTENDED.subcluster_mask(0, 512), 1);
        assert_eq!(EXTENDED.subcluster_mask(2048 - 512, 1024), 0b11);
        assert_eq!(EXTENDED.subcluster_mask(65536 + 31 * 2048, 2048), 1 << 31);
        assert_eq!(EXTENDED.subcluster_mask(0, 65536), u32::MAX);
        assert_eq!(STANDARD.subcluster_mask(512, 512), 1);
    }

    #[test]
    fn compressed_descriptors_are_taken_apart() {
        // Offset 0x12345 in the lower 54 bits, 3 further sectors.
        let entry = Entry { descriptor: COMPRESSED | 3 << 54 | 0x12345, bitmap: 0 };
        let expected = CompressedRange { offset: 0x12345, bytes: 4 * 512 - 0x145 };
        assert_eq!(entry.compressed(STANDARD), expected);
        let most = Entry { descriptor: !COPIED, bitmap: 0 }.compressed(STANDARD);
        assert!(most.bytes <= 2 * 65536);
    }

    #[test]
    fn compressed_descriptors_cover_what_was_packed_up_to_the_end_of_its_last_sector() {
        for (offset, bytes) in [(0x50000, 1), (0x501ff, 1), (0x501ff, 2), (0x50003, 65535), (0x50200, 512)] {
            let entry = Entry::packed(STANDARD, offset, bytes).unwrap();
            let range = entry.compressed(STANDARD);
            assert_eq!(range.offset, offset);
            assert_eq!(offset + range.bytes, (offset + bytes).next_multiple_of(512), "{offset:#x} {bytes}");
            assert!(entry.is_compressed() && !entry.is_copied());
        }
        let large = Layout { cluster_bits: 21, ..STANDARD };
        assert!(Entry::packed(large, (1 << 49) - 1, 1).is_some());
        assert_eq!(Entry::packed(large, (1 << 49) - 1, 2), None);
        assert_eq!(Entry::packed(large, u64::MAX, 2), None);
    }

    #[test]
    fn zeroed_entries_keep_their_place_only_when_asked_to() {
        let entry = Entry::data(0x50000);
        assert_eq!(entry.zeroed(STANDARD, false), Entry { descriptor: 1, bitmap: 0 });
        assert_eq!(entry.zeroed(STANDARD, true).host(STANDARD), Ok(Some(0x50000)));
        assert_eq!(entry.zeroed(STANDARD, true).state(STANDARD, 0), Ok(State::Zero));
        assert_eq!(entry.zeroed(EXTENDED, true).state(EXTENDED, 31), Ok(State::Zero));
    }
}
