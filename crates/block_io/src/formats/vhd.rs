//! Virtual PC and Hyper-V disk images (VHD 1.0), fixed and dynamic; not differencing images.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0 (2006). A fixed image is the disk and a footer. A
//! dynamic one has a copy of the footer at its start, a header, a block allocation table (BAT), and blocks: each a bitmap
//! that says which sectors were ever written, then the sectors. All numbers are big-endian.

use super::error::{ImageError, require};
use super::map::{BlockMap, Extent};
use super::source::{CHECKSUMS_COUNT, ImageSource, Numbers, fits, read_array};
use super::tables::{Lookup, Tables};

pub(super) const FOOTER_COOKIE: &[u8; 8] = b"conectix";
const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
pub(super) const FOOTER_BYTES: usize = 512;
const HEADER_BYTES: usize = 1024;
const FOOTER_CHECKSUM_AT: usize = 64;
const HEADER_CHECKSUM_AT: usize = 36;
const VERSION: u32 = 0x0001_0000;
const KIND_FIXED: u32 = 2;
const KIND_DYNAMIC: u32 = 3;
const KIND_DIFFERENCING: u32 = 4;
const SECTOR_BYTES: u64 = 512;
const UNALLOCATED: u32 = 0xffff_ffff;
/// Largest block that is accepted, bytes: keeps sums small (the usual block has 2 MiB).
const MOST_BLOCK_BYTES: u32 = 256 << 20;

#[derive(Debug)]
pub(super) enum Vhd {
    Fixed { capacity: u64 },
    Dynamic(Dynamic),
}

#[derive(Debug)]
pub(super) struct Dynamic {
    capacity: u64,
    block_bytes: u64,
    /// Size of the bitmap before each block's data, bytes.
    bitmap_bytes: u64,
    table_offset: u64,
}

/// One's complement of the sum of all bytes but the checksum's own ("Hard Disk Footer Format", "Checksum").
pub(super) fn checksum(structure: &[u8], checksum_at: usize) -> u32 {
    let sum = structure
        .iter()
        .enumerate()
        .filter(|(at, _)| !(checksum_at..checksum_at + 4).contains(at))
        .fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)));
    !sum
}

/// Whether a footer is one.
fn is_intact(footer: &[u8; FOOTER_BYTES]) -> bool {
    footer.starts_with(FOOTER_COOKIE)
        && (!CHECKSUMS_COUNT || checksum(footer, FOOTER_CHECKSUM_AT) == footer.be32(FOOTER_CHECKSUM_AT))
}

/// The footer at the end or, when that is damaged, its copy at the start, which is there for that.
fn footer(source: &dyn ImageSource) -> Result<Box<[u8; FOOTER_BYTES]>, ImageError> {
    let offset = source.bytes().saturating_sub(FOOTER_BYTES as u64);
    let last = read_array::<FOOTER_BYTES>(source, "the VHD footer", offset)?;
    if is_intact(&last) {
        return Ok(last);
    }
    let first = read_array::<FOOTER_BYTES>(source, "the VHD footer", 0)?;
    if is_intact(&first) && first.be32(60) != KIND_FIXED {
        return Ok(first);
    }
    if last.starts_with(FOOTER_COOKIE) || first.starts_with(FOOTER_COOKIE) {
        return Err(ImageError::Checksum { what: "the VHD footer", offset });
    }
    Err(ImageError::Magic { format: "VHD", field: "the footer's cookie \"conectix\"" })
}

/// Checks the footer, the header and that the allocation table lies within the file.
pub(super) fn open(source: &dyn ImageSource) -> Result<Vhd, ImageError> {
    let footer = footer(source)?;
    let version = footer.be32(12);
    require(version >> 16 == VERSION >> 16, "File Format Version", version, "only version 1 is supported")?;
    let capacity = footer.be64(48);
    let kind = footer.be32(60);
    match kind {
        KIND_FIXED => {
            let held = source.bytes() - FOOTER_BYTES as u64;
            let rule = format!("the file holds {held} bytes before its footer");
            require(capacity <= held, "Current Size", capacity, rule)?;
            Ok(Vhd::Fixed { capacity })
        }
        KIND_DYNAMIC => open_dynamic(source, capacity, footer.be64(16)).map(Vhd::Dynamic),
        KIND_DIFFERENCING => Err(ImageError::Unsupported(
            "Disk Type is 4: differencing disks are not supported, merge it into its parent first".into(),
        )),
        _ => Err(ImageError::field("Disk Type", kind, "only fixed (2) and dynamic (3) disks are supported")),
    }
}

fn open_dynamic(source: &dyn ImageSource, capacity: u64, offset: u64) -> Result<Dynamic, ImageError> {
    let header = read_array::<HEADER_BYTES>(source, "the dynamic disk header", offset)?;
    if !header.starts_with(HEADER_COOKIE) {
        return Err(ImageError::Magic { format: "VHD", field: "the header's cookie \"cxsparse\"" });
    }
    if CHECKSUMS_COUNT && checksum(&*header, HEADER_CHECKSUM_AT) != header.be32(HEADER_CHECKSUM_AT) {
        return Err(ImageError::Checksum { what: "the dynamic disk header", offset });
    }
    let version = header.be32(24);
    require(version == VERSION, "Header Version", version, "only version 1.0 (65536) is supported")?;
    let block = header.be32(32);
    let rule = format!("must be a power of two between 512 and {MOST_BLOCK_BYTES}");
    let allowed = block.is_power_of_two() && (512..=MOST_BLOCK_BYTES).contains(&block);
    require(allowed, "Block Size", block, rule)?;
    let block_bytes = u64::from(block);
    let (entries, needed) = (header.be32(28), capacity.div_ceil(block_bytes));
    require(
        u64::from(entries) >= needed,
        "Max Table Entries",
        entries,
        format!("the disk has {needed} blocks"),
    )?;
    let table_offset = header.be64(16);
    require(
        table_offset.is_multiple_of(SECTOR_BYTES),
        "Table Offset",
        table_offset,
        "must be a multiple of 512",
    )?;
    if !fits(table_offset, needed * 4, source.bytes()) {
        let what = "the block allocation table";
        return Err(ImageError::Cut { what, offset: table_offset, bytes: source.bytes() });
    }
    let bitmap_bytes = block_bytes.div_ceil(SECTOR_BYTES * 8).next_multiple_of(SECTOR_BYTES);
    Ok(Dynamic { capacity, block_bytes, bitmap_bytes, table_offset })
}

impl Dynamic {
    /// How many of `bytes` bytes from `within` a block on are alike, and whether they were ever written.
    fn written(
        &self,
        tables: &Tables,
        bitmap: u64,
        within: u64,
        bytes: u64,
        how: Lookup,
    ) -> Result<Option<(bool, u64)>, ImageError> {
        let end = within + bytes;
        let (mut at, mut first) = (within, None);
        while at < end {
            let sector = at / SECTOR_BYTES;
            // Most significant bit first; the eight sectors of a byte are often alike.
            let Some([bits]) = tables.entry::<1>(0, bitmap + sector / 8, how)? else { return Ok(None) };
            let bit = bits & (0x80 >> (sector % 8)) != 0;
            if *first.get_or_insert(bit) != bit {
                break;
            }
            let alike = if matches!(bits, 0 | 0xff) { 8 - sector % 8 } else { 1 };
            at = (sector + alike) * SECTOR_BYTES;
        }
        Ok(Some((first.unwrap_or(false), at.min(end) - within)))
    }
}

impl BlockMap for Vhd {
    fn capacity(&self) -> u64 {
        match self {
            Self::Fixed { capacity } | Self::Dynamic(Dynamic { capacity, .. }) => *capacity,
        }
    }

    fn block_bytes(&self) -> Option<u64> {
        match self {
            Self::Fixed { .. } => None,
            Self::Dynamic(dynamic) => Some(dynamic.block_bytes),
        }
    }

    fn map(
        &self,
        tables: &Tables,
        offset: u64,
        bytes: u64,
        how: Lookup,
    ) -> Result<Option<(Extent, u64)>, ImageError> {
        let Self::Dynamic(dynamic) = self else {
            return Ok(Some((Extent::Data { source: 0, offset }, bytes)));
        };
        let (block, within) = (offset / dynamic.block_bytes, offset % dynamic.block_bytes);
        let run = bytes.min(dynamic.block_bytes - within);
        let Some(entry) = tables.entry(0, dynamic.table_offset + block * 4, how)? else { return Ok(None) };
        let entry = u32::from_be_bytes(entry);
        if entry == UNALLOCATED {
            return Ok(Some((Extent::Zero, run)));
        }
        let bitmap = u64::from(entry) * SECTOR_BYTES;
        let Some((written, run)) = dynamic.written(tables, bitmap, within, run, how)? else {
            return Ok(None);
        };
        let extent = if written {
            Extent::Data { source: 0, offset: bitmap + dynamic.bitmap_bytes + within }
        } else {
            Extent::Zero
        };
        Ok(Some((extent, run)))
    }
}
