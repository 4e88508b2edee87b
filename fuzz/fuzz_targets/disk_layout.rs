//! The partition tables of a disk and the beginnings of what it holds. What is told lies on the disk, in bounded number, and was found
//! with bounded reading.
#![no_main]

use std::cell::Cell;
use std::io;

use guest_identity::disk_layout::{Content, MOST_PARTITIONS, ReadDisk, survey};
use libfuzzer_sys::fuzz_target;

/// Far more than both tables of both sizes of sectors, all logical partitions, and the beginning of every partition.
const MOST_READ: u64 = 32 << 20;

/// A disk of any size that begins with what it was given, and is zero after that.
struct Disk<'a> {
    begin: &'a [u8],
    bytes: u64,
    read: Cell<u64>,
}

impl ReadDisk for Disk<'_> {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length = buffer.len() as u64;
        assert!(offset.is_multiple_of(512) && length.is_multiple_of(512), "{offset} {length}");
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.bytes), "{offset} {length}");
        self.read.set(self.read.get() + length);
        buffer.fill(0);
        let from = usize::try_from(offset).ok().and_then(|offset| self.begin.get(offset..));
        if let Some(from) = from {
            let count = from.len().min(buffer.len());
            buffer[..count].copy_from_slice(&from[..count]);
        }
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((size, begin)) = input.split_first_chunk() else { return };
    // Whole sectors; tables at the end are found in small disks.
    let bytes = u64::from_le_bytes(*size) / 512 * 512;
    let disk = Disk { begin, bytes, read: Cell::new(0) };
    let found = survey(&disk).expect("reading does not fail");
    assert!(!found.is_empty() && found.len() <= MOST_PARTITIONS);
    assert!(disk.read.get() <= MOST_READ, "{}", disk.read.get());
    for partition in found {
        let end = partition.start.checked_add(partition.bytes);
        assert!(end.is_some_and(|end| end <= bytes), "{partition:?}");
        if let Content::Ext { bytes } = partition.content {
            assert!(bytes <= partition.bytes, "{partition:?}");
        }
    }
});
