//! A raw disk and requests with any ranges and lengths, on a file that may be empty, odd, or changed in size meanwhile.
//!
//! Held true: a request within the disk does what an array of bytes would do, every other one is refused and changes
//! nothing; a header of another format in its first sector stays data.
#![no_main]

use block_io::conformance::{Buffer, Driver};
use block_io::{BlockBackend as _, BlockOperation, EngineChoice, Locking, RawDisk, RawOptions};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use vireo_fuzz::file_in_memory;

const MOST_BYTES: usize = 256 << 10;

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let bytes = input.int_in_range(0..=MOST_BYTES)?;
    let mut start = vec![0x5a; bytes];
    let head = input.bytes(input.len().min(64).min(bytes))?;
    start[..head.len()].copy_from_slice(head);
    let (_file, path) = file_in_memory(&start);
    let read_only = input.ratio(1, 8)?;
    let options = RawOptions {
        read_only,
        locking: Locking::Shared,
        engine: if input.arbitrary()? { EngineChoice::Threads } else { EngineChoice::Automatic },
        ..RawOptions::default()
    };
    let Ok(disk) = RawDisk::open(&path, &options) else { return Ok(()) };
    let capacity = disk.capacity();
    let unit = u64::from(disk.geometry().logical_block_bytes);
    assert!(capacity.is_multiple_of(unit));
    assert!(capacity <= (bytes as u64).next_multiple_of(unit), "a disk larger than its file");
    start.resize(capacity as usize, 0);
    let mut driver = Driver::open(&disk, 8);
    for _ in 0..input.int_in_range(0..=10)? {
        request(&disk, &mut driver, &mut start, read_only, input)?;
    }
    let mut buffer = Buffer::filled(start.len(), 0xee);
    driver.read(0, buffer.pieces(&[start.len()])).expect("the whole disk is read");
    assert!(buffer.bytes() == start, "the disk holds something else");
    Ok(())
}

fn request(
    disk: &RawDisk,
    driver: &mut Driver,
    model: &mut Vec<u8>,
    read_only: bool,
    input: &mut Unstructured<'_>,
) -> Result<()> {
    let any: u64 = input.arbitrary()?;
    let near = any % (MOST_BYTES as u64 + 4096);
    let offset = *input.choose(&[near & !511, near & !511, near, any, u64::MAX - near])?;
    let length = input.int_in_range(0..=64 << 10)?;
    let length = if input.ratio(7, 8)? { length & !511 } else { length };
    let bytes = *input.choose(&[length as u64, length as u64, any, u64::MAX - offset])?;
    let within = |bytes: u64| {
        let end = offset.checked_add(bytes)?;
        let whole = offset % 512 == 0 && bytes % 512 == 0;
        (whole && end <= model.len() as u64).then_some(offset as usize..end as usize)
    };
    let mut buffer = Buffer::patterned(length, any);
    let first = input.int_in_range(0..=length)?;
    let segments = buffer.pieces(&[first, length - first]);
    match input.int_in_range(0..=5u8)? {
        0 => {
            let range = within(length as u64);
            let result = driver.read(offset, segments);
            assert_eq!(result.is_ok(), range.is_some(), "a read at {offset:#x}");
            if let Some(range) = range {
                assert!(buffer.bytes() == &model[range], "a read gave something else");
            }
        }
        1 | 2 => {
            let range = within(length as u64).filter(|_| !read_only);
            let result = driver.write(offset, segments, input.arbitrary()?);
            assert_eq!(result.is_ok(), range.is_some(), "a write at {offset:#x}");
            if let Some(range) = range {
                model[range].copy_from_slice(buffer.bytes());
            }
        }
        3 => {
            let range = within(bytes).filter(|_| !read_only);
            let may_unmap = input.arbitrary()?;
            let result = driver.run(BlockOperation::WriteZeroes { offset, bytes, may_unmap });
            assert_eq!(result.is_ok(), range.is_some(), "zeroes at {offset:#x}");
            if let Some(range) = range {
                model[range].fill(0);
            }
        }
        4 => {
            let range = within(bytes).filter(|_| !read_only);
            let result = driver.run(BlockOperation::Discard { offset, bytes });
            // A file system without holes may refuse.
            assert!(range.is_some() || result.is_err(), "a discard at {offset:#x}");
            if let Some(range) = range {
                let mut buffer = Buffer::filled(range.len(), 0xee);
                driver.read(offset, buffer.pieces(&[range.len()])).expect("a read");
                for (found, before) in buffer.bytes().chunks(512).zip(model[range.clone()].chunks(512)) {
                    assert!(found == before || found.iter().all(|byte| *byte == 0), "a discard changed data");
                }
                model[range].copy_from_slice(buffer.bytes());
            }
        }
        _ => {
            let bytes = (near & !511).max(512);
            if disk.resize(bytes).is_ok() {
                assert!(!read_only && disk.capacity() == bytes);
                model.resize(bytes as usize, 0);
            }
        }
    }
    Ok(())
}
