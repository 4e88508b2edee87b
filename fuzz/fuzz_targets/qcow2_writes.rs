//! A sound qcow2 image of any kind, with and without snapshots and a backing file: written to, compressed, zeroed,
//! discarded, resized, closed and opened again, abandoned in mid-work, its counts damaged and repaired.
//!
//! Held true: the disk is what an array of bytes would be; a check finds neither corruption nor leak once it is closed, and
//! no corruption in what a killed process leaves behind, which holds what was flushed; snapshots stay what they were; a
//! repair of counts makes them right and changes nothing else.
#![no_main]

mod sound_image;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use block_io::conformance::{Buffer, Driver};
use block_io::qcow2::{Qcow2Disk, Repair};
use block_io::{BlockBackend as _, BlockOperation};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sound_image::{SNAPSHOT, content, images, options, refcount_blocks};
use vireo_fuzz::file_in_memory;

const SECTOR: usize = 512;
/// Largest disk.
const MOST_BYTES: u64 = 2 << 20;

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let sound = &images()[input.int_in_range(0..=images().len() - 1)?];
    let (_file, path) = file_in_memory(&sound.image);
    let mut model = sound.content.clone();
    let mut snapshots = Vec::new();
    if sound.snapshot {
        snapshots.push((SNAPSHOT.to_owned(), model.clone()));
    }
    for session in 0..input.int_in_range(1..=3)? {
        let disk = Qcow2Disk::open(&path, &options(false)).expect("a sound image");
        let mut driver = Driver::open(&disk, 4);
        let mut flushed = Some(model.clone());
        for _ in 0..input.int_in_range(1..=12)? {
            step(&disk, &mut driver, &mut model, &mut flushed, input)?;
        }
        if input.ratio(1, 4)? {
            abandoned(&path, flushed.as_deref());
        }
        drop((driver, disk));
        assert_sound(&path, &model);
        manage(&path, session, sound.wide_counts, &mut model, &mut snapshots, input)?;
        assert_sound(&path, &model);
    }
    let image = std::fs::read(&path).expect("the image");
    for (name, held) in &snapshots {
        let (_file, copy) = file_in_memory(&image);
        match Qcow2Disk::apply_snapshot(&copy, name) {
            Ok(()) => assert_sound(&copy, held),
            Err(error) => {
                assert!(!sound.wide_counts, "{error}");
                assert_sound(&copy, &model);
            }
        }
    }
    if input.arbitrary()? {
        repaired(image, &model, input)?;
    }
    Ok(())
}

/// Takes, applies or deletes a snapshot.
fn manage(
    path: &Path,
    session: u32,
    wide_counts: bool,
    model: &mut Vec<u8>,
    snapshots: &mut Vec<(String, Vec<u8>)>,
    input: &mut Unstructured<'_>,
) -> Result<()> {
    let kind = input.int_in_range(0..=5u8)?;
    if kind < 2 {
        let name = format!("after session {session}");
        match Qcow2Disk::take_snapshot(path, &name, Duration::from_secs(1)) {
            Ok(()) => snapshots.push((name, model.clone())),
            // Narrow counts have no room for more.
            Err(error) => assert!(!wide_counts, "{error}"),
        }
    } else if kind < 4 && !snapshots.is_empty() {
        let chosen = input.int_in_range(0..=snapshots.len() - 1)?;
        let name = &snapshots[chosen].0;
        if kind == 2 {
            match Qcow2Disk::apply_snapshot(path, name) {
                Ok(()) => model.clone_from(&snapshots[chosen].1),
                Err(error) => assert!(!wide_counts, "{error}"),
            }
        } else {
            Qcow2Disk::delete_snapshot(path, name).expect("a snapshot to delete");
            snapshots.remove(chosen);
        }
    }
    Ok(())
}

/// A range of whole sectors of a disk, short or long.
fn range(capacity: usize, input: &mut Unstructured<'_>) -> Result<Range<usize>> {
    let first = input.int_in_range(0..=capacity / SECTOR - 1)?;
    let most = if input.arbitrary()? { 9 } else { 700 };
    let sectors = input.int_in_range(1..=most)?.min(capacity / SECTOR - first);
    Ok(first * SECTOR..(first + sectors) * SECTOR)
}

/// Does one thing; `flushed` is what survives a crash, if that is known.
fn step(
    disk: &Qcow2Disk,
    driver: &mut Driver,
    model: &mut Vec<u8>,
    flushed: &mut Option<Vec<u8>>,
    input: &mut Unstructured<'_>,
) -> Result<()> {
    let range = range(model.len(), input)?;
    let (offset, bytes) = (range.start as u64, range.len() as u64);
    let mut buffer = Buffer::patterned(range.len(), input.arbitrary::<u8>()?.into());
    let kind = input.int_in_range(0..=9u8)?;
    if kind < 8 {
        *flushed = None;
    }
    match kind {
        0..=2 => {
            let segments = buffer.pieces(&[range.len()]);
            driver.run(BlockOperation::Write { offset, segments, durable: false }).expect("a write");
            model[range].copy_from_slice(buffer.bytes());
        }
        3..=4 => {
            let zeroes = BlockOperation::WriteZeroes { offset, bytes, may_unmap: input.arbitrary()? };
            driver.run(zeroes).expect("zeroes");
            model[range].fill(0);
        }
        5..=6 => {
            driver.run(BlockOperation::Discard { offset, bytes }).expect("a discard");
            driver.read(offset, buffer.pieces(&[range.len()])).expect("a read");
            for (found, before) in buffer.bytes().chunks(SECTOR).zip(model[range.clone()].chunks(SECTOR)) {
                assert!(found == before || found == [0; SECTOR], "a discarded sector holds something new");
            }
            model[range].copy_from_slice(buffer.bytes());
        }
        7 if input.arbitrary()? => {
            let cluster = disk.cluster_bytes() as usize;
            let start = range.start / cluster * cluster;
            let end = model.len().min(start + cluster);
            let data = &buffer.bytes()[..(end - start).min(range.len())];
            // Some that can be compressed, some that can't.
            let data: Vec<u8> = data.iter().copied().chain(std::iter::repeat(9)).take(end - start).collect();
            disk.write_compressed(start as u64, &data).expect("a compressed cluster");
            model[start..end].copy_from_slice(&data);
        }
        7 => {
            let bytes = input.int_in_range(1..=MOST_BYTES / SECTOR as u64)? * SECTOR as u64;
            disk.resize(bytes).expect("a new size");
            model.resize(bytes as usize, 0);
        }
        _ => {
            driver.run(BlockOperation::Flush).expect("a flush");
            *flushed = Some(model.clone());
        }
    }
    Ok(())
}

fn assert_sound(path: &Path, model: &[u8]) {
    let report = Qcow2Disk::check(path, Repair::Nothing).expect("a check");
    assert!((report.corruptions, report.leaked_clusters) == (0, 0), "{report:?}");
    let image = std::fs::read(path).expect("the image");
    assert!(content(&image) == model, "the disk holds something else");
}

/// What a process that is killed now leaves behind.
fn abandoned(path: &Path, flushed: Option<&[u8]>) {
    let image = std::fs::read(path).expect("the image");
    let (_file, copy) = file_in_memory(&image);
    let report = Qcow2Disk::check(&copy, Repair::Nothing).expect("a check");
    assert!(report.corruptions == 0, "{report:?}");
    if let Some(flushed) = flushed {
        assert!(content(&image) == flushed, "what was flushed is lost");
    }
    Qcow2Disk::check(&copy, Repair::Leaks).expect("a repair");
    let report = Qcow2Disk::check(&copy, Repair::Nothing).expect("a check");
    assert!((report.corruptions, report.leaked_clusters) == (0, 0), "{report:?}");
}

/// Wrong counts are put right, and nothing else is changed.
fn repaired(mut image: Vec<u8>, model: &[u8], input: &mut Unstructured<'_>) -> Result<()> {
    let blocks = refcount_blocks(&image);
    for _ in 0..input.int_in_range(1..=4)? {
        let block = *input.choose(&blocks)?;
        let at = block + input.int_in_range(0..=511usize)?;
        image[at] = input.arbitrary()?;
    }
    let (_file, path) = file_in_memory(&image);
    Qcow2Disk::check(&path, Repair::All).expect("a repair");
    assert_sound(&path, model);
    Ok(())
}
