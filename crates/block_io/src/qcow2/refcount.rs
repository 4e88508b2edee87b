//! Reference counts of host clusters, and the allocation of clusters by them.
//!
//! Source: docs/interop/qcow2.rst of QEMU, section "Host cluster management". Counts are cached in slices of refcount
//! blocks and written when the image is flushed ([`Refcounts::write_blocks`] before [`Refcounts::write_table`], before any
//! mapping that relies on them). Owned by the image's metadata lock.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use rustix::io::Errno;

use super::entry::Layout;
use super::header::{Header, MOST_REFCOUNT_TABLE_BYTES};
use super::metadata_file::MetadataFile;

/// Slices of refcount blocks that are kept, 4 KiB each.
const MOST_SLICES: usize = 256;
/// Where a refcount block lies, in an entry of the table.
const BLOCK_OFFSET_MASK: u64 = 0xffff_ffff_ffff_fe00;

#[derive(Debug)]
struct Slice {
    bytes: Vec<u8>,
    dirty: bool,
    last_used: u64,
}

/// A run of host clusters that was allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) clusters: u64,
    /// Never used before and beyond the end of the file: reads as zeroes.
    pub(super) fresh: bool,
}

/// The counts of an image.
#[derive(Debug)]
pub(super) struct Refcounts {
    file: MetadataFile,
    layout: Layout,
    order: u32,
    table: Vec<u64>,
    table_offset: u64,
    dirty_table: BTreeSet<usize>,
    /// Clusters that are refcount blocks.
    blocks: HashSet<u64>,
    slices: HashMap<u64, Slice>,
    clock: u64,
    /// No cluster below this number is free.
    first_free: u64,
    /// First cluster beyond everything that was ever used.
    end: u64,
    /// Clusters that the file may have (a block device's size), if it is bounded.
    most_clusters: u64,
    /// Next free byte of the cluster that compressed data is packed into; its cluster is in use, and not full.
    packing: Option<u64>,
    /// More clusters that must never be given out, whatever their counts say: the L1 table and the snapshot table.
    reserved: Vec<Range<u64>>,
}

impl Refcounts {
    /// Reads the table. `file_bytes` is the file's length; `most_bytes` what it may grow to.
    pub(super) fn open(
        file: MetadataFile,
        header: &Header,
        file_bytes: u64,
        most_bytes: u64,
    ) -> Result<Self, Errno> {
        let layout = Layout::of(header);
        let bytes = u64::from(header.refcount_table_clusters) << header.cluster_bits;
        // Bounded by the header's check (8 MiB).
        let bytes = usize::try_from(bytes).map_err(|_| Errno::FBIG)?;
        let raw = file.read(header.refcount_table_offset, bytes)?;
        let table: Vec<u64> = raw.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect();
        let block_numbers = table.iter().map(|entry| (entry & BLOCK_OFFSET_MASK) >> header.cluster_bits);
        let blocks = block_numbers.filter(|number| *number != 0).collect();
        Ok(Self {
            file,
            layout,
            order: header.refcount_order,
            table,
            table_offset: header.refcount_table_offset,
            dirty_table: BTreeSet::new(),
            blocks,
            slices: HashMap::new(),
            clock: 0,
            first_free: 0,
            end: file_bytes.div_ceil(layout.cluster_bytes()),
            most_clusters: most_bytes >> layout.cluster_bits,
            packing: None,
            reserved: Vec::new(),
        })
    }

    /// Names clusters that must never be given out. Replaces what was named before.
    pub(super) fn reserve(&mut self, ranges: Vec<Range<u64>>) {
        self.reserved = ranges;
    }

    pub(super) fn is_reserved(&self, cluster: u64) -> bool {
        cluster == 0
            || self.table_clusters().contains(&cluster)
            || self.blocks.contains(&cluster)
            || self.reserved.iter().any(|range| range.contains(&cluster))
    }

    /// Where everything ends that was ever used, bytes.
    pub(super) fn end_bytes(&self) -> u64 {
        self.end.checked_shl(self.layout.cluster_bits).unwrap_or(u64::MAX)
    }

    /// The refcount table's clusters.
    pub(super) fn table_clusters(&self) -> Range<u64> {
        let first = self.table_offset >> self.layout.cluster_bits;
        first..first + (self.table.len() as u64 * 8).div_ceil(self.layout.cluster_bytes())
    }

    fn slice_entries(&self) -> u64 {
        (self.layout.slice_bytes() * 8) >> self.order
    }

    /// Clusters that one refcount block counts.
    pub(super) fn block_entries(&self) -> u64 {
        (self.layout.cluster_bytes() * 8) >> self.order
    }

    /// Largest count that fits.
    fn most(&self) -> u64 {
        if self.order == 6 { u64::MAX } else { (1 << (1u32 << self.order)) - 1 }
    }

    /// Place of the refcount block that counts a cluster; `None` if there is none (every count in it is 0).
    fn block_of(&self, cluster: u64) -> Result<Option<u64>, Errno> {
        let index = usize::try_from(cluster / self.block_entries()).map_err(|_| Errno::FBIG)?;
        let offset = self.table.get(index).copied().unwrap_or(0) & BLOCK_OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        if self.layout.cluster_start(offset) != offset || offset >= 1 << 56 {
            return Err(Errno::IO);
        }
        Ok(Some(offset))
    }

    /// Makes the slice that counts a cluster be in the cache. False if the cluster has no refcount block.
    fn load(&mut self, cluster: u64) -> Result<bool, Errno> {
        let number = cluster / self.slice_entries();
        self.clock += 1;
        if let Some(slice) = self.slices.get_mut(&number) {
            slice.last_used = self.clock;
            return Ok(true);
        }
        let Some(block) = self.block_of(cluster)? else { return Ok(false) };
        let within = (number % self.layout.slices_per_table()) * self.layout.slice_bytes();
        let bytes = usize::try_from(self.layout.slice_bytes()).map_err(|_| Errno::FBIG)?;
        let bytes = self.file.read(block + within, bytes)?;
        self.make_room()?;
        self.slices.insert(number, Slice { bytes, dirty: false, last_used: self.clock });
        Ok(true)
    }

    fn make_room(&mut self) -> Result<(), Errno> {
        if self.slices.len() < MOST_SLICES {
            return Ok(());
        }
        if self.slices.values().all(|slice| slice.dirty) {
            // Counts may reach the disk at any time before the mappings that rely on them; a count that is too high only
            // wastes space.
            self.write_blocks()?;
            self.blocks_are_clean();
        }
        let oldest =
            self.slices.iter().filter(|(_, slice)| !slice.dirty).min_by_key(|(_, slice)| slice.last_used);
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.slices.remove(&number);
        }
        Ok(())
    }

    /// The first cluster that another refcount block counts, if there is none for this one (every count in it is 0).
    pub(super) fn behind_uncounted(&self, cluster: u64) -> Result<Option<u64>, Errno> {
        let behind = (cluster / self.block_entries() + 1) * self.block_entries();
        Ok(if self.block_of(cluster)?.is_none() { Some(behind) } else { None })
    }

    /// How many mappings use a cluster.
    pub(super) fn get(&mut self, cluster: u64) -> Result<u64, Errno> {
        if !self.load(cluster)? {
            return Ok(0);
        }
        let (entries, order) = (self.slice_entries(), self.order);
        let slice = self.slices.get(&(cluster / entries)).ok_or(Errno::IO)?;
        read_count(&slice.bytes, order, cluster % entries)
    }

    fn set(&mut self, cluster: u64, count: u64) -> Result<(), Errno> {
        if count > self.most() {
            return Err(Errno::OVERFLOW);
        }
        if !self.load(cluster)? {
            return Err(Errno::IO);
        }
        let (entries, order) = (self.slice_entries(), self.order);
        let slice = self.slices.get_mut(&(cluster / entries)).ok_or(Errno::IO)?;
        slice.dirty = true;
        write_count(&mut slice.bytes, order, cluster % entries, count)
    }

    /// One mapping less uses a cluster. Returns how many are left; a count of 0 that goes down is `EIO`.
    pub(super) fn decrement(&mut self, cluster: u64) -> Result<u64, Errno> {
        let count = self.get(cluster)?.checked_sub(1).ok_or(Errno::IO)?;
        self.set(cluster, count)?;
        if count == 0 {
            self.first_free = self.first_free.min(cluster);
            if self.packing.is_some_and(|place| place >> self.layout.cluster_bits == cluster) {
                self.packing = None;
            }
        }
        Ok(count)
    }

    /// One mapping more uses a cluster. `EOVERFLOW` if the count has no room for it.
    pub(super) fn increment(&mut self, cluster: u64) -> Result<(), Errno> {
        let count = self.get(cluster)?.checked_add(1).ok_or(Errno::OVERFLOW)?;
        self.set(cluster, count)
    }

    /// Places of the refcount blocks, as the table has them.
    pub(super) fn block_offsets(&self) -> impl Iterator<Item = u64> {
        self.table.iter().map(|entry| entry & BLOCK_OFFSET_MASK).filter(|offset| *offset != 0)
    }

    /// Sets a count that was found to be wrong. A block that is missing is made of clusters from `beyond` on, which nobody
    /// uses.
    pub(super) fn correct(&mut self, cluster: u64, count: u64, beyond: u64) -> Result<(), Errno> {
        if self.block_of(cluster)?.is_none() {
            self.first_free = self.first_free.max(beyond);
            let index = usize::try_from(cluster / self.block_entries()).map_err(|_| Errno::FBIG)?;
            if index >= self.table.len() {
                self.grow_table(index)?;
            }
            if self.block_of(cluster)?.is_none() {
                let block = self.find_free()?;
                self.file.write_zeroes(block << self.layout.cluster_bits, self.layout.cluster_bytes())?;
                self.set(block, 1)?;
                self.first_free = block + 1;
                self.end = self.end.max(block + 1);
                self.table[index] = block << self.layout.cluster_bits;
                self.dirty_table.insert(index);
                self.blocks.insert(block);
            }
        }
        self.set(cluster, count)
    }

    /// Takes up to `most` free clusters that lie side by side, at least one.
    pub(super) fn allocate(&mut self, most: u64) -> Result<Run, Errno> {
        let first = self.find_free()?;
        let fresh = first >= self.end;
        let mut clusters = 0;
        while clusters < most.max(1) && first + clusters < self.most_clusters {
            let cluster = first + clusters;
            if clusters > 0 {
                // Goes on only as far as the counts are there already: what follows is the next allocation's business.
                if self.is_reserved(cluster)
                    || self.block_of(cluster)?.is_none()
                    || self.get(cluster)? != 0
                    || (cluster >= self.end) != fresh
                {
                    break;
                }
            }
            self.set(cluster, 1)?;
            clusters += 1;
        }
        self.first_free = first + clusters;
        self.end = self.end.max(first + clusters);
        Ok(Run { offset: first << self.layout.cluster_bits, clusters, fresh })
    }

    /// Takes `bytes` bytes (at most a cluster) for compressed data and counts one use of each cluster that they lie in. They
    /// follow the bytes taken before wherever the counts and what lies behind allow that.
    pub(super) fn allocate_bytes(&mut self, bytes: u64) -> Result<u64, Errno> {
        let (bits, cluster_bytes) = (self.layout.cluster_bits, self.layout.cluster_bytes());
        if let Some(start) = self.packing {
            let cluster = start >> bits;
            let left = cluster_bytes - (start & (cluster_bytes - 1));
            if self.get(cluster)? < self.most() {
                if bytes <= left {
                    self.increment(cluster)?;
                    self.packing = (bytes < left).then_some(start + bytes);
                    return Ok(start);
                }
                let run = self.allocate(1)?;
                if run.offset == (cluster + 1) << bits {
                    self.increment(cluster)?;
                    self.packing = Some(run.offset + (bytes - left));
                    return Ok(start);
                }
                self.packing = (bytes < cluster_bytes).then_some(run.offset + bytes);
                return Ok(run.offset);
            }
        }
        let run = self.allocate(1)?;
        self.packing = (bytes < cluster_bytes).then_some(run.offset + bytes);
        Ok(run.offset)
    }

    /// Takes clusters that lie side by side, more than one refcount block counts: such a run never comes about by itself,
    /// because the blocks lie in its way. They are put before it, beyond everything that is in use. Returns where it begins.
    pub(super) fn allocate_large(&mut self, clusters: u64) -> Result<u64, Errno> {
        let per_block = self.block_entries();
        // Counts a block's clusters, the blocks themselves among them.
        let blocks = clusters.div_ceil(per_block - 1);
        let used = blocks + clusters;
        let base = loop {
            let base = self.end.next_multiple_of(per_block);
            if base + used > self.most_clusters {
                return Err(Errno::NOSPC);
            }
            let last = usize::try_from((base + used) / per_block).map_err(|_| Errno::FBIG)?;
            if last < self.table.len() {
                break base;
            }
            self.grow_table(last)?;
        };
        for number in 0..blocks {
            let index = usize::try_from(base / per_block + number).map_err(|_| Errno::FBIG)?;
            if self.table[index] & BLOCK_OFFSET_MASK == 0 {
                let offset = (base + number) << self.layout.cluster_bits;
                self.file.write_zeroes(offset, self.layout.cluster_bytes())?;
                self.table[index] = offset;
                self.dirty_table.insert(index);
                self.blocks.insert(base + number);
                self.end = self.end.max(base + number + 1);
                self.set(base + number, 1)?;
            }
        }
        let first = base + blocks;
        for cluster in first..first + clusters {
            if self.is_reserved(cluster) || self.get(cluster)? != 0 {
                // Counted, beyond the end of the file: no image of ours.
                return Err(Errno::IO);
            }
        }
        for cluster in first..first + clusters {
            self.set(cluster, 1)?;
        }
        self.end = self.end.max(first + clusters);
        Ok(first << self.layout.cluster_bits)
    }

    /// Clusters that a refcount block counts.
    pub(super) fn clusters_per_block(&self) -> u64 {
        self.block_entries()
    }

    /// A free cluster whose count can be set, made so if need be.
    fn find_free(&mut self) -> Result<u64, Errno> {
        let mut cluster = self.first_free;
        loop {
            if cluster >= self.most_clusters {
                return Err(Errno::NOSPC);
            }
            if self.is_reserved(cluster) {
                cluster += 1;
                continue;
            }
            if self.block_of(cluster)?.is_none() {
                let index = usize::try_from(cluster / self.block_entries()).map_err(|_| Errno::FBIG)?;
                if index >= self.table.len() {
                    self.grow_table(index)?;
                } else {
                    self.add_block(index, cluster)?;
                    cluster += 1;
                }
                continue;
            }
            if self.get(cluster)? == 0 {
                return Ok(cluster);
            }
            cluster += 1;
        }
    }

    /// Makes `cluster` the refcount block `index`, which counts itself.
    fn add_block(&mut self, index: usize, cluster: u64) -> Result<(), Errno> {
        let offset = cluster << self.layout.cluster_bits;
        self.file.write_zeroes(offset, self.layout.cluster_bytes())?;
        self.table[index] = offset;
        self.dirty_table.insert(index);
        self.blocks.insert(cluster);
        self.set(cluster, 1)?;
        self.end = self.end.max(cluster + 1);
        Ok(())
    }

    /// Moves the table to where it has room for `index` and half as much again: new blocks, which count themselves and the
    /// new table, then the table, all of it beyond everything that is in use. The header follows last.
    fn grow_table(&mut self, index: usize) -> Result<(), Errno> {
        let (cluster_bytes, per_block) = (self.layout.cluster_bytes(), self.block_entries());
        let per_cluster = cluster_bytes / 8;
        let base = (self.table.len() as u64 * per_block).max(self.end).next_multiple_of(per_block);
        let mut entries = ((index as u64 + 1) * 3 / 2).next_multiple_of(per_cluster);
        let (table_clusters, blocks) = loop {
            let table_clusters = entries / per_cluster;
            // Each block counts `per_block` clusters, of which the blocks are some themselves.
            let blocks = table_clusters.div_ceil(per_block - 1);
            let needed = base / per_block + blocks + 1;
            if needed <= entries {
                break (table_clusters, blocks);
            }
            entries = needed.next_multiple_of(per_cluster);
        };
        if entries * 8 > MOST_REFCOUNT_TABLE_BYTES {
            return Err(Errno::FBIG);
        }
        let used = blocks + table_clusters;
        if base + used > self.most_clusters {
            return Err(Errno::NOSPC);
        }
        let mut table = self.table.clone();
        table.resize(usize::try_from(entries).map_err(|_| Errno::FBIG)?, 0);
        for block in 0..blocks {
            let mut bytes = vec![0; usize::try_from(cluster_bytes).map_err(|_| Errno::FBIG)?];
            for place in 0..per_block.min(used.saturating_sub(block * per_block)) {
                write_count(&mut bytes, self.order, place, 1)?;
            }
            let offset = (base + block) << self.layout.cluster_bits;
            self.file.write(&bytes, offset)?;
            table[usize::try_from(base / per_block + block).map_err(|_| Errno::FBIG)?] = offset;
            self.blocks.insert(base + block);
        }
        let table_offset = (base + blocks) << self.layout.cluster_bits;
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.file.write(&bytes, table_offset)?;
        // The new table names blocks that were added since the last flush: what they count, themselves first of all.
        self.write_blocks()?;
        self.file.sync()?;
        let mut fields = table_offset.to_be_bytes().to_vec();
        fields.extend(u32::try_from(table_clusters).map_err(|_| Errno::FBIG)?.to_be_bytes());
        self.file.write(&fields, REFCOUNT_TABLE_FIELDS_AT)?;
        self.file.sync()?;

        let old = self.table_clusters();
        self.table = table;
        self.table_offset = table_offset;
        self.dirty_table.clear();
        self.end = self.end.max(base + used);
        for cluster in old {
            self.decrement(cluster)?;
        }
        Ok(())
    }

    /// Writes the counts that were changed. Call [`Refcounts::all_clean`] once they are on stable storage.
    pub(super) fn write_blocks(&self) -> Result<(), Errno> {
        for (number, slice) in self.slices.iter().filter(|(_, slice)| slice.dirty) {
            let first = number * self.slice_entries();
            let block = self.block_of(first)?.ok_or(Errno::IO)?;
            let within = (number % self.layout.slices_per_table()) * self.layout.slice_bytes();
            self.file.write(&slice.bytes, block + within)?;
        }
        Ok(())
    }

    fn blocks_are_clean(&mut self) {
        for slice in self.slices.values_mut() {
            slice.dirty = false;
        }
    }

    /// All that was written is on stable storage. Nothing may have been changed meanwhile.
    pub(super) fn all_clean(&mut self) {
        self.blocks_are_clean();
        self.dirty_table.clear();
    }

    /// Whether there are blocks that the table on disk does not know.
    pub(super) fn table_is_dirty(&self) -> bool {
        !self.dirty_table.is_empty()
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.table_is_dirty() || self.slices.values().any(|slice| slice.dirty)
    }

    /// Writes the places of new blocks, which must be on stable storage.
    pub(super) fn write_table(&self) -> Result<(), Errno> {
        for index in &self.dirty_table {
            self.file.write(&self.table[*index].to_be_bytes(), self.table_offset + *index as u64 * 8)?;
        }
        Ok(())
    }
}

/// Place of `refcount_table_offset` and `refcount_table_clusters` in the header.
const REFCOUNT_TABLE_FIELDS_AT: u64 = 48;

/// The count at a place of a block. Counts of less than a byte begin at the least significant bit.
fn read_count(bytes: &[u8], order: u32, place: u64) -> Result<u64, Errno> {
    let place = usize::try_from(place).map_err(|_| Errno::FBIG)?;
    if order < 3 {
        let per_byte = 8 >> order;
        let byte = bytes.get(place / per_byte).ok_or(Errno::IO)?;
        let mask = (1u8 << (1 << order)) - 1;
        return Ok(u64::from(byte >> ((place % per_byte) << order) & mask));
    }
    let width = 1 << (order - 3);
    let field = bytes.get(place * width..(place + 1) * width).ok_or(Errno::IO)?;
    Ok(field.iter().fold(0, |count, byte| count << 8 | u64::from(*byte)))
}

/// Sets the count at a place of a block; it must fit.
fn write_count(bytes: &mut [u8], order: u32, place: u64, count: u64) -> Result<(), Errno> {
    let place = usize::try_from(place).map_err(|_| Errno::FBIG)?;
    if order < 3 {
        let per_byte = 8 >> order;
        let byte = bytes.get_mut(place / per_byte).ok_or(Errno::IO)?;
        let shift = (place % per_byte) << order;
        let mask = (1u8 << (1 << order)) - 1;
        *byte = *byte & !(mask << shift) | (count.to_le_bytes()[0] & mask) << shift;
        return Ok(());
    }
    let width = 1 << (order - 3);
    let field = bytes.get_mut(place * width..(place + 1) * width).ok_or(Errno::IO)?;
    field.copy_from_slice(&count.to_be_bytes()[8 - width..]);
    Ok(())
}

/// The start of a block whose first `clusters` counts are one.
pub(super) fn ones(order: u32, clusters: u64) -> Vec<u8> {
    let bits = clusters << order;
    let mut bytes = vec![0; usize::try_from(bits.div_ceil(8)).unwrap_or(0)];
    for place in 0..clusters {
        // Every place is inside: the buffer was made for them.
        let _ = write_count(&mut bytes, order, place, 1);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_are_kept_apart() {
        for order in 0..=6u32 {
            let mut bytes = [0u8; 64];
            let places = 512u64 >> order;
            let most = if order == 6 { u64::MAX } else { (1 << (1u32 << order)) - 1 };
            let value = |place: u64| place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7 & most;
            for place in 0..places {
                write_count(&mut bytes, order, place, value(place)).unwrap();
            }
            for place in 0..places {
                assert_eq!(
                    read_count(&bytes, order, place),
                    Ok(value(place)),
                    "order {order}, place {place}"
                );
            }
            assert_eq!(read_count(&bytes, order, places), Err(Errno::IO));
        }
    }

    #[test]
    fn narrow_counts_begin_at_the_least_significant_bit() {
        let mut byte = [0];
        write_count(&mut byte, 0, 3, 1).unwrap();
        assert_eq!(byte, [0b1000]);
        write_count(&mut byte, 2, 1, 0xa).unwrap();
        assert_eq!(byte, [0xa8]);
    }
}
