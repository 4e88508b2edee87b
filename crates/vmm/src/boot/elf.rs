//! The few parts of an ELF file that loading takes: segments and one note.
//!
//! Source: System V ABI, chapter 4 "ELF header" and chapter 5 "Program header", "Note section" (gabi 4.1).
//! Every number is checked against the file and against bounds of this module before it is used.

use std::ops::Range;

use super::image::ImageFile;
use super::{FileFault, KernelFault};

pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";

const HEADER_LENGTH: usize = 64;
const PROGRAM_HEADER_LENGTH: usize = 56;
/// Kernels have about five; the bound keeps a hostile table small.
const MAXIMUM_PROGRAM_HEADERS: u16 = 128;
/// Kernels have a few hundred bytes; the bound keeps a hostile note segment from being read into this process.
const MAXIMUM_NOTES_LENGTH: u64 = 1 << 20;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;

/// A part of the file and its place in guest-physical memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bytes in the file; the rest of `memory` is zero.
    pub(super) file: Range<u64>,
    /// Guest-physical addresses.
    pub(super) memory: Range<u64>,
}

/// What an ELF file says about loading it.
#[derive(Debug)]
pub(super) struct ElfImage {
    /// Segments in the order of their addresses; none is empty and none overlaps another.
    pub(super) segments: Vec<Segment>,
    notes: Vec<NoteSegment>,
}

#[derive(Debug)]
struct NoteSegment {
    bytes: Vec<u8>,
    alignment: usize,
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

impl ElfImage {
    pub(super) fn read(image: &ImageFile) -> Result<Self, KernelFault> {
        let table = program_headers(image)?;
        let mut segments = Vec::new();
        let mut notes = Vec::new();
        for header in table.chunks_exact(PROGRAM_HEADER_LENGTH) {
            let damaged = KernelFault::BadHeader("an ELF program header is cut off");
            let Some(((kind, offset), (address, (file_length, memory_length)))) = u32_at(header, 0)
                .zip(u64_at(header, 8))
                .zip(u64_at(header, 24).zip(u64_at(header, 32).zip(u64_at(header, 40))))
            else {
                return Err(damaged);
            };
            match kind {
                SEGMENT_LOAD if memory_length > 0 => {
                    if file_length > memory_length {
                        return Err(KernelFault::BadHeader(
                            "an ELF segment is longer in the file than in memory",
                        ));
                    }
                    image.check(offset, file_length)?;
                    let end = address
                        .checked_add(memory_length)
                        .ok_or(KernelFault::BadHeader("an ELF segment wraps around the end of memory"))?;
                    segments.push(Segment { file: offset..offset + file_length, memory: address..end });
                }
                SEGMENT_NOTE => notes.push(read_notes(image, offset, file_length, u64_at(header, 48))?),
                _ => {}
            }
        }
        segments.sort_by_key(|segment| segment.memory.start);
        if let Some(pair) = segments.windows(2).find(|pair| pair[0].memory.end > pair[1].memory.start) {
            return Err(KernelFault::SegmentsOverlap(pair[1].memory.start));
        }
        if segments.is_empty() {
            return Err(KernelFault::BadHeader("an ELF file without anything to load"));
        }
        Ok(Self { segments, notes })
    }

    /// The contents of the first note with this name (without its terminating zero) and type.
    pub(super) fn note(&self, name: &[u8], kind: u32) -> Option<&[u8]> {
        self.notes
            .iter()
            .flat_map(|segment| Notes { bytes: &segment.bytes, alignment: segment.alignment })
            .find(|note| note.kind == kind && note.name.strip_suffix(&[0]) == Some(name))
            .map(|note| note.contents)
    }
}

/// Checks the file header and reads the table that it points to.
fn program_headers(image: &ImageFile) -> Result<Vec<u8>, KernelFault> {
    let mut header = [0; HEADER_LENGTH];
    image.read_at(&mut header, 0)?;
    if header[4] != CLASS_64 || header[5] != LITTLE_ENDIAN || u16_at(&header, 18) != Some(MACHINE_X86_64) {
        return Err(KernelFault::Not64Bit);
    }
    if !matches!(u16_at(&header, 16), Some(TYPE_EXECUTABLE | TYPE_SHARED)) {
        return Err(KernelFault::BadHeader("an ELF file that is no executable"));
    }
    if u16_at(&header, 54).map(usize::from) != Some(PROGRAM_HEADER_LENGTH) {
        return Err(KernelFault::BadHeader("ELF program headers of an unknown length"));
    }
    let offset = u64_at(&header, 32).unwrap_or(u64::MAX);
    let count = u16_at(&header, 56).unwrap_or(0);
    if count == 0 || count > MAXIMUM_PROGRAM_HEADERS {
        return Err(KernelFault::BadHeader("an impossible number of ELF program headers"));
    }
    let mut table = vec![0; usize::from(count) * PROGRAM_HEADER_LENGTH];
    image.read_at(&mut table, offset)?;
    Ok(table)
}

fn read_notes(
    image: &ImageFile,
    offset: u64,
    length: u64,
    alignment: Option<u64>,
) -> Result<NoteSegment, KernelFault> {
    image.check(offset, length)?;
    if length > MAXIMUM_NOTES_LENGTH {
        return Err(KernelFault::BadHeader("an ELF note segment of more than 1 MiB"));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| FileFault::Empty)?];
    image.read_at(&mut bytes, offset)?;
    // Notes are aligned to 4 bytes unless their segment says 8.
    Ok(NoteSegment { bytes, alignment: if alignment == Some(8) { 8 } else { 4 } })
}

/// The notes of a segment. Ends at the first that is cut off; every step consumes at least its 12 bytes of header.
struct Notes<'a> {
    bytes: &'a [u8],
    alignment: usize,
}

struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    contents: &'a [u8],
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let bytes = self.bytes;
        let name_length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let contents_length = usize::try_from(u32_at(bytes, 4)?).ok()?;
        let kind = u32_at(bytes, 8)?;
        let name_end = 12usize.checked_add(name_length)?;
        let contents_start = name_end.checked_next_multiple_of(self.alignment)?;
        let contents_end = contents_start.checked_add(contents_length)?;
        let note =
            Note { name: bytes.get(12..name_end)?, kind, contents: bytes.get(contents_start..contents_end)? };
        let next = contents_end.checked_next_multiple_of(self.alignment)?;
        self.bytes = bytes.get(next..).unwrap_or_default();
        Some(note)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A note as a linker writes it.
    fn note(name: &[u8], kind: u32, contents: &[u8], alignment: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
        bytes.extend(u32::try_from(contents.len()).unwrap().to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
        bytes.extend(contents);
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
        bytes
    }

    #[test]
    fn a_note_is_found_by_name_and_type_behind_others() {
        for alignment in [4, 8] {
            let bytes = [
                note(b"GNU\0", 3, b"build identifier", alignment),
                note(b"Xen\0", 6, b"linux\0", alignment),
                note(b"Xenon\0", 18, b"no", alignment),
                note(b"Xen\0", 18, &[1, 2, 3, 4], alignment),
            ]
            .concat();
            let image = ElfImage { segments: vec![], notes: vec![NoteSegment { bytes, alignment }] };
            assert_eq!(image.note(b"Xen", 18), Some(&[1, 2, 3, 4][..]));
            assert_eq!(image.note(b"Xen", 19), None);
            assert_eq!(image.note(b"Xe", 18), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_as_notes_come_to_an_end(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(4), Just(0xff), any::<u8>()], 0..400),
            eight in any::<bool>(),
        ) {
            let notes = Notes { bytes: &bytes, alignment: if eight { 8 } else { 4 } };
            prop_assert!(notes.count() <= bytes.len() / 12 + 1);
        }
    }
}
