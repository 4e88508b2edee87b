//! Sparse extents ("Hosted Sparse Extents", "Stream-Optimized Compressed Sparse Extents" in Virtual Disk Format 5.0).
//!
//! A header, a grain directory of sector numbers of grain tables, which hold sector numbers of grains. Each table is looked
//! up when it is needed; the directory must lie within the file. In a streamOptimized extent a grain is compressed and has
//! a marker before it, and the header that counts is a copy near the end of the file, the footer.

use super::SECTOR_BYTES;
use crate::formats::error::{ImageError, require};
use crate::formats::map::{Extent, Grain};
use crate::formats::source::{ImageSource, Numbers, fits, read_array};
use crate::formats::tables::{Lookup, Tables};

/// `KDMV`.
pub(in crate::formats) const MAGIC: &[u8; 4] = b"KDMV";
/// Delta disks of ESXi, for messages.
pub(in crate::formats) const MAGIC_COWD: &[u8; 4] = b"COWD";
/// The first 64-bit number of an SESparse extent, little-endian, for messages.
pub(in crate::formats) const MAGIC_SESPARSE: [u8; 8] = 0x0000_0000_cafe_babe_u64.to_le_bytes();
const HEADER_BYTES: usize = 512;
/// Flag bits of the header.
const FLAG_NEWLINE_TEST: u32 = 1 << 0;
const FLAG_ZERO_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
/// What the four bytes of the newline test must be: a transfer as text changes them.
const NEWLINES: [u8; 4] = *b"\n \r\n";
const COMPRESSION_DEFLATE: u16 = 1;
/// `GD_AT_END`: the directory's place is in the footer.
const DIRECTORY_AT_END: u64 = u64::MAX;
/// The last three sectors of a streamOptimized extent: the footer's marker, the footer, the end-of-stream marker.
const FOOTER_FROM_END: u64 = 1024;
const MARKER_END_OF_STREAM: u32 = 0;
const MARKER_FOOTER: u32 = 3;
/// Largest grain, sectors (4 MiB; all known writers use 128): what expanding one may cost of memory.
const MOST_GRAIN_SECTORS: u64 = 8192;
/// Most entries of a grain table: the specification's number.
const MOST_TABLE_ENTRIES: u32 = 512;
/// An entry that means zeroes if the header says so.
const ZERO_GRAIN: u32 = 1;

/// A sparse extent in a source.
#[derive(Debug)]
pub(super) struct Sparse {
    source: usize,
    capacity: u64,
    grain_bytes: u64,
    /// Entries of each grain table.
    table_entries: u64,
    /// Where the grain directory is, bytes.
    directory: u64,
    zero_grains: bool,
    compressed: bool,
    descriptor: Option<(u64, u64)>,
}

impl Sparse {
    /// Reads the header; `None` if the source is no sparse extent.
    pub(super) fn probe(source: &dyn ImageSource, number: usize) -> Result<Option<Self>, ImageError> {
        if source.bytes() < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let header = read_array::<HEADER_BYTES>(source, "the VMDK header", 0)?;
        if header.starts_with(MAGIC_COWD) || header.starts_with(&MAGIC_SESPARSE) {
            let advice =
                "it is a delta disk of ESXi: consolidate the snapshots, or export the machine as OVA";
            return Err(ImageError::Unsupported(advice.into()));
        }
        if !header.starts_with(MAGIC) {
            return Ok(None);
        }
        let header = if header.le64(56) == DIRECTORY_AT_END { footer(source)? } else { header };
        Self::parse(&header, source.bytes(), number).map(Some)
    }

    fn parse(header: &[u8; HEADER_BYTES], file_bytes: u64, source: usize) -> Result<Self, ImageError> {
        let version = header.le32(4);
        require((1..=3).contains(&version), "version", version, "versions 1 to 3 are supported")?;
        let flags = header.le32(8);
        if flags & FLAG_NEWLINE_TEST != 0 && header.array(73) != NEWLINES {
            let rule = "the file was changed by a transfer as text: transfer it again as binary";
            return Err(ImageError::field("the newline test", u32::from_be_bytes(header.array(73)), rule));
        }
        let compressed = flags & FLAG_COMPRESSED != 0;
        if compressed {
            require(
                flags & FLAG_MARKERS != 0,
                "flags",
                flags,
                "compressed grains without markers are not supported",
            )?;
            let algorithm = header.le16(77);
            require(
                algorithm == COMPRESSION_DEFLATE,
                "compressAlgorithm",
                algorithm,
                "only deflate (1) is supported",
            )?;
        }
        let sectors = header.le64(12);
        let capacity = sectors.checked_mul(SECTOR_BYTES).filter(|bytes| i64::try_from(*bytes).is_ok());
        let capacity =
            capacity.ok_or_else(|| ImageError::field("capacity", sectors, "must be below 2^54 sectors"))?;
        let grain = header.le64(20);
        let rule = format!("must be a power of two between 8 and {MOST_GRAIN_SECTORS}");
        require(
            grain.is_power_of_two() && (8..=MOST_GRAIN_SECTORS).contains(&grain),
            "grainSize",
            grain,
            rule,
        )?;
        let entries = header.le32(44);
        let rule = format!("must be between 1 and {MOST_TABLE_ENTRIES}");
        require((1..=MOST_TABLE_ENTRIES).contains(&entries), "numGTEsPerGT", entries, rule)?;
        let grain_bytes = grain * SECTOR_BYTES;
        let table_entries = u64::from(entries);
        let tables = capacity.div_ceil(grain_bytes * table_entries);
        let sector = header.le64(56);
        let directory = sector
            .checked_mul(SECTOR_BYTES)
            .filter(|offset| *offset > 0 && fits(*offset, tables * 4, file_bytes))
            .ok_or_else(|| {
                let rule = format!("{tables} entries there are not within the file's {file_bytes} bytes");
                ImageError::field("gdOffset", sector, rule)
            })?;
        let (offset, bytes) = (header.le64(28), header.le64(36));
        let descriptor = if offset == 0 || bytes == 0 {
            None
        } else {
            let overflow = || ImageError::field("descriptorOffset", offset, "is beyond the file");
            let range = offset.checked_mul(SECTOR_BYTES).zip(bytes.checked_mul(SECTOR_BYTES));
            Some(range.ok_or_else(overflow)?)
        };
        let zero_grains = flags & FLAG_ZERO_GRAINS != 0;
        Ok(Self {
            source,
            capacity,
            grain_bytes,
            table_entries,
            directory,
            zero_grains,
            compressed,
            descriptor,
        })
    }

    /// Size of the extent, bytes.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Size of a grain, bytes.
    pub(super) fn grain_bytes(&self) -> u64 {
        self.grain_bytes
    }

    /// Whether grains are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Where the descriptor is, if it has one, and its size, bytes.
    pub(super) fn descriptor(&self) -> Option<(u64, u64)> {
        self.descriptor
    }

    /// What the extent is from `offset` on.
    pub(super) fn map(
        &self,
        tables: &Tables,
        offset: u64,
        bytes: u64,
        how: Lookup,
    ) -> Result<Option<(Extent, u64)>, ImageError> {
        let table_span = self.grain_bytes * self.table_entries;
        let entry = self.directory + offset / table_span * 4;
        let Some(table) = tables.entry(self.source, entry, how)? else { return Ok(None) };
        let table = u64::from(u32::from_le_bytes(table)) * SECTOR_BYTES;
        if table == 0 {
            return Ok(Some((Extent::Zero, bytes.min(table_span - offset % table_span))));
        }
        let within = offset % self.grain_bytes;
        let run = bytes.min(self.grain_bytes - within);
        let entry = table + offset % table_span / self.grain_bytes * 4;
        let Some(place) = tables.entry(self.source, entry, how)? else { return Ok(None) };
        let place = u32::from_le_bytes(place);
        if place == 0 || (place == ZERO_GRAIN && self.zero_grains) {
            return Ok(Some((Extent::Zero, run)));
        }
        let place = u64::from(place) * SECTOR_BYTES;
        let extent = if self.compressed {
            let start = offset - within;
            let grain = Grain {
                source: self.source,
                marker: place,
                sector: start / SECTOR_BYTES,
                bytes: self.grain_bytes,
                needed: self.grain_bytes.min(self.capacity.saturating_sub(start)),
            };
            Extent::Compressed { grain, within }
        } else {
            Extent::Data { source: self.source, offset: place + within }
        };
        Ok(Some((extent, run)))
    }
}

/// The header at the end of a streamOptimized extent.
fn footer(source: &dyn ImageSource) -> Result<Box<[u8; HEADER_BYTES]>, ImageError> {
    let cut = || ImageError::Cut { what: "the footer", offset: 0, bytes: source.bytes() };
    let offset = source.bytes().checked_sub(FOOTER_FROM_END).ok_or_else(cut)?;
    let before = offset.checked_sub(SECTOR_BYTES).ok_or_else(cut)?;
    let marker = read_array::<HEADER_BYTES>(source, "the footer's marker", before)?;
    let footer = read_array::<HEADER_BYTES>(source, "the footer", offset)?;
    let end = read_array::<HEADER_BYTES>(source, "the end-of-stream marker", offset + SECTOR_BYTES)?;
    // Each marker: a number of sectors (u64), a size that is 0 (u32), the kind (u32).
    let intact = marker.le32(8) == 0
        && marker.le32(12) == MARKER_FOOTER
        && footer.starts_with(MAGIC)
        && end.le32(8) == 0
        && end.le32(12) == MARKER_END_OF_STREAM;
    if !intact {
        let advice =
            "gdOffset says that the footer counts, but the file does not end with one: the file is cut";
        return Err(ImageError::Unsupported(advice.into()));
    }
    let directory = footer.le64(56);
    require(directory != DIRECTORY_AT_END, "gdOffset of the footer", directory, "must be a place")?;
    Ok(footer)
}
