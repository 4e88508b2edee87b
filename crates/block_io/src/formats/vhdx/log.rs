//! The log: finding the entries that count and what they change ([MS-VHDX] 2.3).
//!
//! The log is a ring of entries, each of whole sectors of 4 KiB, that begin anywhere in it. The newest entry names the
//! oldest one that has not been written back (its tail); from there to it is the active sequence. Pure: works on the log's
//! content. Time is bounded: each place is looked at once, and checksums are computed over a few times the log at most.

use super::overlay::{Changes, SECTOR_BYTES};
use super::{MIB, is_intact};
use crate::formats::error::{ImageError, require};
use crate::formats::source::Numbers;

const SECTOR: usize = 4096;
const HEADER_BYTES: usize = 64;
const DESCRIPTOR_BYTES: usize = 32;
/// Bytes of entries that are checksummed, as a multiple of the log's size: an honest log needs less than two. Stops entries
/// that overlap each other from taking time quadratic in the log's size.
const MOST_WORK: usize = 8;
/// Largest file that a log may make, bytes: all offsets below it keep sums small.
const MOST_FILE_BYTES: u64 = 1 << 50;

/// An entry whose header is plausible and whose checksum is right.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Its first sector in the log, and how many it has.
    sector: usize,
    sectors: usize,
    sequence: u64,
    /// First sector of the sequence's oldest entry.
    tail: usize,
    descriptors: usize,
    flushed_bytes: u64,
    last_bytes: u64,
}

/// A log's sectors as a ring.
struct Ring<'a> {
    content: &'a [u8],
    sectors: usize,
}

impl Ring<'_> {
    fn sector(&self, number: usize) -> &[u8] {
        let start = number % self.sectors * SECTOR;
        self.content.get(start..start + SECTOR).unwrap_or(&[0; SECTOR])
    }

    /// The entry that begins at a sector, if there is one that can be. `work` is what may still be checksummed, bytes.
    fn entry(&self, sector: usize, guid: [u8; 16], work: &mut usize) -> Result<Option<Entry>, ImageError> {
        let header = self.sector(sector);
        let sequence = header.le64(16);
        if !header.starts_with(b"loge") || header.array(32) != guid || sequence == 0 {
            return Ok(None);
        }
        let (length, tail) = (header.le32(8) as usize, header.le32(12) as usize);
        let descriptors = header.le32(24) as usize;
        let sectors = length / SECTOR;
        let shaped = length.is_multiple_of(SECTOR)
            && tail.is_multiple_of(SECTOR)
            && (1..=self.sectors).contains(&sectors)
            && tail / SECTOR < self.sectors
            && descriptor_sectors(descriptors) <= sectors;
        if !shaped {
            return Ok(None);
        }
        *work = work.checked_sub(length).ok_or_else(|| {
            ImageError::Unsupported("the log is damaged: its entries overlap each other too often".into())
        })?;
        let mut bytes = Vec::with_capacity(length);
        (sector..sector + sectors).for_each(|number| bytes.extend_from_slice(self.sector(number)));
        if !is_intact(&bytes) {
            return Ok(None);
        }
        Ok(Some(Entry {
            sector,
            sectors,
            sequence,
            tail: tail / SECTOR,
            descriptors,
            flushed_bytes: header.le64(48),
            last_bytes: header.le64(56),
        }))
    }
}

/// Sectors that an entry's header and descriptors take.
fn descriptor_sectors(descriptors: usize) -> usize {
    // At most 2^32 descriptors.
    (HEADER_BYTES + descriptors * DESCRIPTOR_BYTES).div_ceil(SECTOR)
}

/// What is changed by a log, which must have an active sequence.
pub(super) fn replay(content: &[u8], guid: [u8; 16], file_bytes: u64) -> Result<Changes, ImageError> {
    let ring = Ring { content, sectors: (content.len() / SECTOR).max(1) };
    let mut work = content.len().saturating_mul(MOST_WORK);
    let mut entries = Vec::with_capacity(ring.sectors);
    for sector in 0..ring.sectors {
        entries.push(ring.entry(sector, guid, &mut work)?);
    }
    let active = active_sequence(&entries, ring.sectors).ok_or_else(|| {
        let advice = "the log is damaged (LogGuid is set, but no sequence of entries is whole): \
                      attach the disk to its own hypervisor once, or restore the image";
        ImageError::Unsupported(advice.into())
    })?;
    let mut changes = Changes::default();
    for entry in &active {
        let flushed = entry.flushed_bytes;
        let rule = format!("the file has {file_bytes} bytes: it was cut");
        require(flushed <= file_bytes, "FlushedFileOffset of a log entry", flushed, rule)?;
        let last = entry.last_bytes;
        require(last <= MOST_FILE_BYTES, "LastFileOffset of a log entry", last, "is too large")?;
        changes.bytes = changes.bytes.max(last);
    }
    let bytes = changes.bytes.max(file_bytes);
    for entry in &active {
        apply(&ring, entry, bytes, &mut changes)?;
    }
    Ok(changes)
}

/// The entries from the tail to the newest entry whose sequence is whole, oldest first.
fn active_sequence(entries: &[Option<Entry>], sectors: usize) -> Option<Vec<Entry>> {
    let mut heads: Vec<&Entry> = entries.iter().flatten().collect();
    heads.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
    // One walk visits each entry at most once, as sequence numbers ascend; stale heads are few in an honest log.
    let mut steps = entries.len().saturating_mul(MOST_WORK);
    heads.into_iter().find_map(|head| {
        let mut sequence = Vec::new();
        let mut sector = head.tail;
        let mut length = 0;
        loop {
            steps = steps.checked_sub(1)?;
            let entry = (*entries.get(sector)?)?;
            if sequence
                .last()
                .is_some_and(|last: &Entry| last.sequence.checked_add(1) != Some(entry.sequence))
            {
                return None;
            }
            length += entry.sectors;
            if length > sectors || entry.sequence > head.sequence {
                return None;
            }
            sequence.push(entry);
            if entry.sector == head.sector {
                return Some(sequence);
            }
            sector = (entry.sector + entry.sectors) % sectors;
        }
    })
}

/// Takes one entry's descriptors and data sectors (sections 2.3.1.2 to 2.3.1.4).
fn apply(ring: &Ring<'_>, entry: &Entry, file_bytes: u64, changes: &mut Changes) -> Result<(), ImageError> {
    let mut data = entry.sector + descriptor_sectors(entry.descriptors);
    let end = entry.sector + entry.sectors;
    let per_sector = SECTOR / DESCRIPTOR_BYTES;
    for number in 0..entry.descriptors {
        // The header has the size of two descriptors.
        let place = number + HEADER_BYTES / DESCRIPTOR_BYTES;
        let sector = ring.sector(entry.sector + place / per_sector);
        let start = place % per_sector * DESCRIPTOR_BYTES;
        let descriptor = sector.get(start..start + DESCRIPTOR_BYTES).unwrap_or_default();
        let sequence = descriptor.le64(24);
        let rule = format!("its entry's is {}", entry.sequence);
        require(sequence == entry.sequence, "SequenceNumber of a log descriptor", sequence, rule)?;
        let offset = descriptor.le64(16);
        let bytes = if descriptor.starts_with(b"zero") { descriptor.le64(8) } else { SECTOR_BYTES };
        let aligned = offset.is_multiple_of(SECTOR_BYTES) && bytes.is_multiple_of(SECTOR_BYTES);
        // Headers and region tables are written without the log.
        let inside = offset >= MIB && offset.checked_add(bytes).is_some_and(|end| end <= file_bytes);
        let rule = format!("{bytes} bytes there are not whole sectors of the file");
        require(aligned && inside, "FileOffset of a log descriptor", offset, rule)?;
        if descriptor.starts_with(b"zero") {
            if bytes > 0 {
                changes.zero(offset, offset + bytes);
            }
        } else if descriptor.starts_with(b"desc") {
            require(
                data < end,
                "DescriptorCount",
                entry.descriptors as u64,
                "the log entry has fewer data sectors",
            )?;
            changes.write(offset, data_sector(ring.sector(data), descriptor, entry.sequence)?);
            data += 1;
        } else {
            return Err(ImageError::field(
                "Signature of a log descriptor",
                descriptor.le32(0),
                "is not known",
            ));
        }
    }
    Ok(())
}

/// The sector of the file: its first 8 and last 4 bytes are in the descriptor.
fn data_sector(sector: &[u8], descriptor: &[u8], sequence: u64) -> Result<Box<[u8; SECTOR]>, ImageError> {
    let found = u64::from(sector.le32(4)) << 32 | u64::from(sector.le32(SECTOR - 4));
    require(
        sector.starts_with(b"data"),
        "Signature of a log data sector",
        sector.le32(0),
        "must be \"data\"",
    )?;
    require(
        found == sequence,
        "SequenceNumber of a log data sector",
        found,
        format!("its entry's is {sequence}"),
    )?;
    let mut content = Box::new(sector.array::<SECTOR>(0));
    content[..8].copy_from_slice(&descriptor.array::<8>(8));
    content[SECTOR - 4..].copy_from_slice(&descriptor.array::<4>(4));
    Ok(content)
}
