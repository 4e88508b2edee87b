//! What is on a disk: its partitions, and what kind of content each begins with.
//!
//! Disks are hostile. Memory and time are bounded whatever the tables say: a table of the GPT has at most [`MOST_TABLE_BYTES`], a chain of
//! extended partitions at most [`MOST_LOGICAL`] links. What lies outside of the disk is no partition. Nothing here follows what file systems say,
//! beyond the few fields that tell what they are.
//!
//! Sources: UEFI specification 2.10, 5 (GPT); the layout of master boot records that Linux reads (block/partitions/msdos.c);
//! Documentation/filesystems/ext4/super.rst, the on-disk formats of XFS, Btrfs, LVM2 and LUKS for their magic numbers.

use std::io;

/// Bytes of a sector where nothing says otherwise.
const SECTOR: u64 = 512;
/// Most bytes of a table of the GPT: 16 KiB is usual.
const MOST_TABLE_BYTES: u64 = 1 << 20;
/// Most links of a chain of extended partitions.
const MOST_LOGICAL: usize = 128;
/// Most partitions that are told.
pub const MOST_PARTITIONS: usize = 1024;

/// A disk that can be read.
pub trait ReadDisk {
    /// Its size, bytes.
    fn bytes(&self) -> u64;

    /// Fills `buffer` from `offset` on; the range lies within the disk and is made of whole sectors of 512 bytes.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// What a range of a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// ext2, ext3 or ext4, and how many bytes the file system has.
    Ext {
        /// Bytes.
        bytes: u64,
    },
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// A physical volume of LVM.
    Lvm,
    /// An encrypted volume.
    Luks,
    /// Something else, or nothing.
    Other,
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ext { .. } => "ext4",
            Self::Xfs => "XFS",
            Self::Btrfs => "Btrfs",
            Self::Lvm => "LVM",
            Self::Luks => "LUKS encryption",
            Self::Other => "something unknown",
        })
    }
}

/// A partition, or the whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// The place in its table, from 1; 0 for the whole disk.
    pub number: u32,
    /// Where it begins, bytes.
    pub start: u64,
    /// Its size, bytes.
    pub bytes: u64,
    /// What it holds.
    pub content: Content,
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.number {
            0 => f.write_str("the whole disk"),
            number => write!(f, "partition {number}"),
        }
    }
}

/// The partitions of a disk in the order of its table; without a table, the disk itself.
///
/// # Errors
/// The disk can't be read.
pub fn survey(disk: &dyn ReadDisk) -> io::Result<Vec<Partition>> {
    let ranges = match guid_table(disk)? {
        Some(ranges) => ranges,
        None => boot_record(disk)?,
    };
    let whole = Range { number: 0, start: 0, bytes: disk.bytes() };
    let ranges = if ranges.is_empty() { vec![whole] } else { ranges };
    ranges
        .into_iter()
        .take(MOST_PARTITIONS)
        .map(|Range { number, start, bytes }| {
            Ok(Partition { number, start, bytes, content: content(disk, start, bytes)? })
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    number: u32,
    start: u64,
    bytes: u64,
}

impl Range {
    /// A range that lies on the disk and is not empty.
    fn within(disk: &dyn ReadDisk, number: u32, start: Option<u64>, bytes: Option<u64>) -> Option<Self> {
        let (start, bytes) = (start?, bytes.filter(|bytes| *bytes > 0)?);
        start.checked_add(bytes).filter(|end| *end <= disk.bytes())?;
        Some(Self { number, start, bytes })
    }
}

/// Reads `bytes` bytes, or nothing where the disk has none.
fn read(disk: &dyn ReadDisk, offset: u64, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    if offset.checked_add(bytes).is_none_or(|end| end > disk.bytes()) {
        return Ok(None);
    }
    let mut buffer = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    disk.read(offset, &mut buffer)?;
    Ok(Some(buffer))
}

fn number<const BYTES: usize>(from: &[u8], at: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide.get_mut(..BYTES)?.copy_from_slice(from.get(at..at.checked_add(BYTES)?)?);
    Some(u64::from_le_bytes(wide))
}

/// Whether a checksum is right. A fuzzer can't guess them: its builds do not compare.
fn is_sum(data: &[u8], sum: u64) -> bool {
    cfg!(fuzzing) || u64::from(checksum(data)) == sum
}

/// CRC-32 of IEEE 802.3, bit by bit: tables are small.
fn checksum(data: &[u8]) -> u32 {
    !data.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 },
        )
    })
}

/// The partitions of a GPT, if there is one whose checksums are right: the first, or the copy at the end.
fn guid_table(disk: &dyn ReadDisk) -> io::Result<Option<Vec<Range>>> {
    for sector in [SECTOR, 4096] {
        let last = (disk.bytes() / sector).saturating_sub(1);
        for header in [1, last] {
            if let Some(found) = guid_table_at(disk, sector, header)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn guid_table_at(disk: &dyn ReadDisk, sector: u64, header: u64) -> io::Result<Option<Vec<Range>>> {
    let Some(block) = read(disk, header.saturating_mul(sector), sector)? else { return Ok(None) };
    let Some((table, count, size, sum)) = guid_header(&block, header, sector) else { return Ok(None) };
    let bytes = count * size;
    let Some(content) = read(disk, table, bytes.next_multiple_of(sector))? else { return Ok(None) };
    let entries = content.get(..usize::try_from(bytes).unwrap_or(usize::MAX)).unwrap_or_default();
    if !is_sum(entries, sum) {
        return Ok(None);
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let ranges = entries.chunks_exact(size).zip(1..).filter_map(|(entry, place)| {
        // An entry without type is unused (5.3.3).
        if entry.get(..16)?.iter().all(|byte| *byte == 0) {
            return None;
        }
        let (first, last) = (number::<8>(entry, 32)?, number::<8>(entry, 40)?);
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        Range::within(disk, place, first.checked_mul(sector), sectors.checked_mul(sector))
    });
    Ok(Some(ranges.take(MOST_PARTITIONS).collect()))
}

/// Offset of the table, number and size of its entries, and their checksum (5.3.2).
fn guid_header(block: &[u8], own: u64, sector: u64) -> Option<(u64, u64, u64, u64)> {
    let size = number::<4>(block, 12).filter(|size| (92..=sector).contains(size))?;
    let mut header = block.get(..usize::try_from(size).ok()?)?.to_vec();
    header.get_mut(16..20)?.fill(0);
    let right = block.starts_with(b"EFI PART")
        && is_sum(&header, number::<4>(block, 16)?)
        && number::<8>(block, 24)? == own;
    let (count, size) = (number::<4>(block, 80)?, number::<4>(block, 84)?);
    let bounded = count.checked_mul(size).is_some_and(|bytes| bytes <= MOST_TABLE_BYTES);
    if !right || !bounded || size < 128 || !size.is_power_of_two() {
        return None;
    }
    Some((number::<8>(block, 72)?.checked_mul(sector)?, count, size, number::<4>(block, 88)?))
}

/// The partitions of a master boot record and its extended partitions.
fn boot_record(disk: &dyn ReadDisk) -> io::Result<Vec<Range>> {
    let Some(entries) = entries(disk, 0)? else { return Ok(Vec::new()) };
    // A file system's boot sector ends like a record of partitions, and has code where those have entries.
    if entries.iter().any(|entry| !matches!(entry.flag, 0 | 0x80)) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (entry, place) in entries.into_iter().zip(1..) {
        if entry.is_extended() {
            logical(disk, entry, &mut found)?;
        } else if entry.kind != 0 {
            found.extend(entry.range(disk, place, 0));
        }
    }
    found.sort_by_key(|range| range.number);
    Ok(found)
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    flag: u8,
    kind: u8,
    first: u64,
    sectors: u64,
}

impl Entry {
    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    fn range(self, disk: &dyn ReadDisk, place: u32, base: u64) -> Option<Range> {
        // Numbers of 32 bits times 512.
        Range::within(disk, place, base.checked_add(self.first * SECTOR), Some(self.sectors * SECTOR))
    }
}

/// The four entries of the record at `offset`, if it is one.
fn entries(disk: &dyn ReadDisk, offset: u64) -> io::Result<Option<[Entry; 4]>> {
    let Some(block) = read(disk, offset, SECTOR)? else { return Ok(None) };
    if block.get(510..) != Some(&[0x55, 0xaa]) {
        return Ok(None);
    }
    let entry = |place: usize| {
        let at = 446 + 16 * place;
        Entry {
            flag: block.get(at).copied().unwrap_or(0),
            kind: block.get(at + 4).copied().unwrap_or(0),
            first: number::<4>(&block, at + 8).unwrap_or(0),
            sectors: number::<4>(&block, at + 12).unwrap_or(0),
        }
    };
    Ok(Some([0, 1, 2, 3].map(entry)))
}

/// Logical partitions: a chain of records, each with a partition relative to itself and a link relative to the first.
fn logical(disk: &dyn ReadDisk, extended: Entry, found: &mut Vec<Range>) -> io::Result<()> {
    let base = extended.first * SECTOR;
    let mut link = 0;
    for place in (5..).take(MOST_LOGICAL) {
        if found.len() >= MOST_LOGICAL {
            break;
        }
        let own = base.saturating_add(link);
        let Some(entries) = entries(disk, own)? else { break };
        let part = entries.iter().find(|entry| entry.kind != 0 && !entry.is_extended());
        found.extend(part.and_then(|entry| entry.range(disk, place, own)));
        let next = entries.iter().find(|entry| entry.is_extended()).map(|entry| entry.first * SECTOR);
        // Chains go forwards only, so that none is endless.
        match next.filter(|next| *next > link) {
            Some(next) => link = next,
            None => break,
        }
    }
    Ok(())
}

/// What a range begins with.
fn content(disk: &dyn ReadDisk, start: u64, bytes: u64) -> io::Result<Content> {
    let at = |offset: u64, length: u64| match start.checked_add(offset) {
        Some(place) if offset + length <= bytes => read(disk, place, length),
        _ => Ok(None),
    };
    let head = at(0, 4096.min(bytes))?.unwrap_or_default();
    let has = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if has(0, b"LUKS\xba\xbe") {
        return Ok(Content::Luks);
    }
    if has(0, b"XFSB") {
        return Ok(Content::Xfs);
    }
    if (0..4).any(|sector| has(sector * 512, b"LABELONE") && has(sector * 512 + 24, b"LVM2 001")) {
        return Ok(Content::Lvm);
    }
    if at(0x10000, 512)?.is_some_and(|block| block.get(0x40..0x48) == Some(b"_BHRfS_M")) {
        return Ok(Content::Btrfs);
    }
    let ext = ext_bytes(&head).filter(|size| *size <= bytes);
    Ok(ext.map_or(Content::Other, |bytes| Content::Ext { bytes }))
}

/// The size of the ext file system whose first bytes these are.
fn ext_bytes(head: &[u8]) -> Option<u64> {
    const INCOMPAT_JOURNAL_DEV: u64 = 0x8;
    const INCOMPAT_64BIT: u64 = 0x80;
    let superblock = head.get(1024..2048)?;
    let features = number::<4>(superblock, 0x60)?;
    if number::<2>(superblock, 0x38)? != 0xef53 || features & INCOMPAT_JOURNAL_DEV != 0 {
        return None;
    }
    let high = if features & INCOMPAT_64BIT == 0 { 0 } else { number::<4>(superblock, 0x150)? };
    let blocks = high << 32 | number::<4>(superblock, 0x4)?;
    // Blocks of 1 to 64 KiB.
    let shift = number::<4>(superblock, 0x18).filter(|shift| *shift <= 6)?;
    blocks.checked_mul(1024 << shift).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests;
