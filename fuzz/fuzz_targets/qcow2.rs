//! A qcow2 image that is damaged, or any bytes: looked at, checked, read, written and repaired.
//!
//! Held true: nothing panics; every request is answered; what the file takes on its disk is bounded by what was
//! written and its tables; a check comes to an end.
#![no_main]

mod mutation;
#[expect(dead_code, reason = "some of it is for the target that keeps images sound")]
mod sound_image;

use std::os::unix::fs::MetadataExt as _;

use block_io::conformance::{Buffer, Driver};
use block_io::qcow2::{Qcow2Disk, Qcow2Options, Repair};
use block_io::{BlockBackend as _, BlockOperation, EngineChoice, Locking, RawOptions};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sound_image::images;
use vireo_fuzz::file_in_memory;

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let images = images();
    let mut image = match input.int_in_range(0..=images.len())? {
        any if any == images.len() => input.bytes(input.len().min(4096))?.to_vec(),
        index => images[index].image.clone(),
    };
    if !image.is_empty() {
        let span = if input.arbitrary()? { 128 } else { image.len() };
        mutation::damage(&mut image, span, input)?;
    }
    let (file, path) = file_in_memory(&image);
    let _ = Qcow2Disk::info(&path);
    let _ = Qcow2Disk::check(&path, Repair::Nothing);
    let options = Qcow2Options {
        file: RawOptions {
            read_only: input.ratio(1, 8)?,
            locking: Locking::Shared,
            engine: EngineChoice::Threads,
            ..RawOptions::default()
        },
        metadata_cache_bytes: 64 << 10,
        ..Qcow2Options::default()
    };
    if let Ok(disk) = Qcow2Disk::open(&path, &options) {
        requests(&disk, input)?;
        drop(disk);
        // Not its length: an image may name clusters far behind its end.
        let stored = file.metadata().expect("a file").blocks() * 512;
        assert!(stored < image.len() as u64 + (64 << 20), "the file takes {stored} bytes");
    }
    let repair = *input.choose(&[Repair::Nothing, Repair::Leaks, Repair::All]).unwrap_or(&Repair::All);
    let _ = Qcow2Disk::check(&path, repair);
    Ok(())
}

fn requests(disk: &Qcow2Disk, input: &mut Unstructured<'_>) -> Result<()> {
    let capacity = disk.capacity();
    let mut driver = Driver::open(disk, 8);
    let mut buffer = Buffer::patterned(128 << 10, 1);
    for _ in 0..input.int_in_range(0..=6)? {
        let unit = input.int_in_range(0..=3)?;
        let place = u64::from(input.arbitrary::<u16>()?) * 512;
        let offset = [place, place, capacity.saturating_sub(place), place << 24][unit];
        let bytes = 512usize << input.int_in_range(0..=8)?;
        let mut segments = buffer.pieces(&[bytes]);
        let bytes = bytes as u64;
        let operation = match input.int_in_range(0..=5u8)? {
            0 | 1 => BlockOperation::Read { offset, segments: std::mem::take(&mut segments) },
            2 | 3 => BlockOperation::Write { offset, segments, durable: input.arbitrary()? },
            4 => BlockOperation::WriteZeroes { offset, bytes, may_unmap: input.arbitrary()? },
            _ => BlockOperation::Discard { offset, bytes },
        };
        let _ = driver.run(operation);
    }
    let _ = driver.run(BlockOperation::Flush);
    Ok(())
}
