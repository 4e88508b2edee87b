//! Hyper-V disk images (VHDX 1), fixed and dynamic; not differencing images.
//!
//! Source: Microsoft, \[MS-VHDX\] "Virtual Hard Disk v2 (VHDX) File Format". Two headers (the newer valid one counts), two
//! copies of the region table, which says where the metadata (`metadata`) and the block allocation table (BAT) are, and a
//! log of changes to those. A log that was not written back is replayed in memory (`log`, `overlay`): the file is never
//! changed. Both kinds of images read alike: a fixed image's table names all blocks.

mod crc32c;
mod log;
mod metadata;
mod overlay;

use std::sync::Arc;

use self::metadata::Metadata;
use self::overlay::Overlay;
use super::error::{ImageError, require};
use super::map::{BlockMap, Extent};
use super::source::{CHECKSUMS_COUNT, ImageSource, Numbers, SharedSource, fits, read_array, read_vec};
use super::tables::{Lookup, Tables};

/// The file type identifier's signature, section 2.2.1.
pub(super) const SIGNATURE: &[u8; 8] = b"vhdxfile";
const MIB: u64 = 1 << 20;
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER_BYTES: usize = 4096;
const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
const REGION_TABLE_BYTES: usize = 64 << 10;
/// Most entries of a region table, section 2.2.3.1.
const MOST_REGIONS: u32 = 2047;
/// Sections 2.2.3.2: GUIDs as they are in the file.
const REGION_BAT: u128 = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
const REGION_METADATA: u128 = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
/// Largest log, bytes: it is held in memory while it is replayed (Hyper-V's has 1 MiB).
const MOST_LOG_BYTES: u32 = 16 << 20;
/// Payload block states, section 2.5.1.1.
const STATE_PRESENT: u64 = 6;
const STATE_PARTIAL: u64 = 7;

/// A GUID as a little-endian number of the 16 bytes that stand in a file.
const fn guid(first: u32, second: u16, third: u16, rest: u64) -> u128 {
    first as u128 | (second as u128) << 32 | (third as u128) << 48 | (rest.swap_bytes() as u128) << 64
}

/// Whether a structure with its CRC-32C at byte 4 is intact.
fn is_intact(structure: &[u8]) -> bool {
    !CHECKSUMS_COUNT || crc32c::without_field(structure, 4) == structure.le32(4)
}

/// The checksum that a structure should have at byte 4.
#[cfg(test)]
pub(super) fn checksum(structure: &[u8]) -> u32 {
    crc32c::without_field(structure, 4)
}

#[derive(Debug)]
struct Vhdx {
    capacity: u64,
    sector_bytes: u32,
    block_bytes: u64,
    /// Payload blocks between two sector bitmap blocks.
    chunk_ratio: u64,
    table_offset: u64,
}

/// Checks headers, regions and metadata, and replays the log if there is one.
pub(super) fn open(source: SharedSource) -> Result<(Box<dyn BlockMap>, Vec<SharedSource>), ImageError> {
    let identifier = read_array::<8>(&*source, "the file type identifier", 0)?;
    if *identifier != *SIGNATURE {
        return Err(ImageError::Magic { format: "VHDX", field: "the signature \"vhdxfile\"" });
    }
    let header = newest_header(&*source)?;
    let version = u64::from(header.le16(66));
    require(version == 1, "Version", version, "only version 1 is supported")?;
    let source: SharedSource = match read_log(&*source, &header)? {
        None => source,
        Some(changes) => Arc::new(Overlay::new(source, changes)),
    };
    let regions = regions(&*source)?;
    let metadata = Metadata::read(&*source, regions.metadata)?;
    let block_bytes = u64::from(metadata.block_bytes);
    // Section 2.5: 2^23 sectors have one sector bitmap block. Both are powers of two and the quotient is at least 16.
    let chunk_ratio = (u64::from(metadata.sector_bytes) << 23) / block_bytes;
    let blocks = metadata.capacity.div_ceil(block_bytes);
    let entries = blocks + blocks.saturating_sub(1) / chunk_ratio;
    let (table_offset, table_bytes) = regions.table;
    let rule = format!("the disk's {entries} blocks need {} bytes", entries * 8);
    require(entries * 8 <= table_bytes, "the length of the BAT region", table_bytes, rule)?;
    let vhdx = Vhdx {
        capacity: metadata.capacity,
        sector_bytes: metadata.sector_bytes,
        block_bytes,
        chunk_ratio,
        table_offset,
    };
    Ok((Box::new(vhdx), vec![source]))
}

/// The valid header with the larger sequence number, section 2.2.2.
fn newest_header(source: &dyn ImageSource) -> Result<Box<[u8; HEADER_BYTES]>, ImageError> {
    let mut newest: Option<Box<[u8; HEADER_BYTES]>> = None;
    for offset in HEADERS {
        let header = read_array::<HEADER_BYTES>(source, "a VHDX header", offset)?;
        let valid = header.starts_with(b"head") && is_intact(&*header);
        if valid && newest.as_ref().is_none_or(|newest| newest.le64(8) < header.le64(8)) {
            newest = Some(header);
        }
    }
    newest.ok_or(ImageError::Checksum { what: "each of both VHDX headers", offset: HEADERS[0] })
}

/// What the log changes, if anything.
fn read_log(
    source: &dyn ImageSource,
    header: &[u8; HEADER_BYTES],
) -> Result<Option<overlay::Changes>, ImageError> {
    let log_guid: [u8; 16] = header.array(48);
    if log_guid == [0; 16] {
        return Ok(None);
    }
    let version = u64::from(header.le16(64));
    require(version == 0, "LogVersion", version, "only version 0 is supported")?;
    let (bytes, offset) = (header.le32(68), header.le64(72));
    let rule = format!("must be a multiple of 1 MiB, at most {MOST_LOG_BYTES}");
    let aligned = u64::from(bytes).is_multiple_of(MIB) && bytes <= MOST_LOG_BYTES && bytes > 0;
    require(aligned, "LogLength", bytes, rule)?;
    require(
        offset.is_multiple_of(MIB) && offset >= MIB,
        "LogOffset",
        offset,
        "must be a multiple of 1 MiB, at least that",
    )?;
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let content = read_vec(source, "the log", offset, length)?;
    log::replay(&content, log_guid, source.bytes()).map(Some)
}

/// Where the regions are: offset and length, bytes.
struct Regions {
    table: (u64, u64),
    metadata: (u64, u64),
}

fn regions(source: &dyn ImageSource) -> Result<Regions, ImageError> {
    for offset in REGION_TABLES {
        let table = read_array::<REGION_TABLE_BYTES>(source, "a region table", offset)?;
        if table.starts_with(b"regi") && is_intact(&*table) {
            return parse_regions(&*table, source.bytes());
        }
    }
    Err(ImageError::Checksum { what: "each of both region tables", offset: REGION_TABLES[0] })
}

fn parse_regions(table: &[u8], file_bytes: u64) -> Result<Regions, ImageError> {
    let count = table.le32(8);
    require(
        count <= MOST_REGIONS,
        "EntryCount of the region table",
        count,
        format!("must be at most {MOST_REGIONS}"),
    )?;
    let (mut bat, mut metadata) = (None, None);
    for entry in table.get(16..).unwrap_or_default().chunks_exact(32).take(count as usize) {
        let (offset, length) = (entry.le64(16), u64::from(entry.le32(24)));
        let place = match u128::from_le_bytes(entry.array(0)) {
            REGION_BAT => &mut bat,
            REGION_METADATA => &mut metadata,
            _ if entry.le32(28) & 1 == 0 => continue,
            _ => return Err(ImageError::Unsupported("the image requires a region that is not known".into())),
        };
        let rule = "must be a multiple of 1 MiB, at least that";
        require(offset.is_multiple_of(MIB) && offset >= MIB, "FileOffset of a region", offset, rule)?;
        require(length.is_multiple_of(MIB) && length > 0, "Length of a region", length, rule)?;
        if !fits(offset, length, file_bytes) {
            return Err(ImageError::Cut { what: "a region", offset, bytes: file_bytes });
        }
        if place.replace((offset, length)).is_some() {
            return Err(ImageError::field("FileOffset of a region", offset, "the region is there twice"));
        }
    }
    let missing = |name: &str| ImageError::Unsupported(format!("the region table names no {name} region"));
    let (table, metadata) =
        (bat.ok_or_else(|| missing("BAT"))?, metadata.ok_or_else(|| missing("metadata"))?);
    let apart = table.0 + table.1 <= metadata.0 || metadata.0 + metadata.1 <= table.0;
    require(apart, "FileOffset of the BAT region", table.0, "the region overlaps the metadata region")?;
    Ok(Regions { table, metadata })
}

impl BlockMap for Vhdx {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    fn block_bytes(&self) -> Option<u64> {
        Some(self.block_bytes)
    }

    fn map(
        &self,
        tables: &Tables,
        offset: u64,
        bytes: u64,
        how: Lookup,
    ) -> Result<Option<(Extent, u64)>, ImageError> {
        let (block, within) = (offset / self.block_bytes, offset % self.block_bytes);
        let run = bytes.min(self.block_bytes - within);
        let index = block + block / self.chunk_ratio;
        let Some(entry) = tables.entry(0, self.table_offset + index * 8, how)? else { return Ok(None) };
        let entry = u64::from_le_bytes(entry);
        match entry & 7 {
            // Not present, undefined, zero, unmapped: all may read as zeroes in a disk without a parent.
            0..=3 => Ok(Some((Extent::Zero, run))),
            STATE_PRESENT => {
                // Bits 20 to 63 are the place in units of 1 MiB, so that clearing the others gives it in bytes.
                let place = entry & !(MIB - 1);
                let offset = place.checked_add(within).filter(|_| place >= MIB);
                let wrong =
                    || ImageError::field("FileOffsetMB of a BAT entry", place / MIB, "is not in the file");
                Ok(Some((Extent::Data { source: 0, offset: offset.ok_or_else(wrong)? }, run)))
            }
            STATE_PARTIAL => Err(ImageError::field(
                "State of a BAT entry",
                STATE_PARTIAL,
                "only disks with a parent have that",
            )),
            state => Err(ImageError::field("State of a BAT entry", state, "is not one of 0, 1, 2, 3, 6, 7")),
        }
    }
}
