//! The disk on top: requests, engines, the contract.

use proptest::prelude::*;

use super::*;
use crate::backend::{BlockBackend, BlockOperation};
use crate::conformance::{self, Buffer, Driver, Subject};
use crate::{EngineChoice, MemoryDisk};

/// Reads a range, whole sectors, by one request.
pub(super) fn read_range(disk: &FormatDisk, offset: u64, bytes: usize) -> Vec<u8> {
    let mut driver = Driver::open(disk, 4);
    let mut buffer = Buffer::filled(bytes, 0xee);
    driver.read(offset, buffer.pieces(&[bytes])).unwrap();
    buffer.bytes().to_vec()
}

/// Reads all of a disk by requests of different sizes, many in flight.
pub(super) fn read_through_queue(disk: &FormatDisk, engine: EngineChoice) -> Vec<u8> {
    let disk = disk.clone_with_engine(engine);
    let mut driver = Driver::open(&disk, 64);
    let (mut content, mut at) = (Vec::new(), 0);
    let sizes = [512usize, 65536, 4096, 1_048_576 + 512, 12288];
    while at < disk.capacity() {
        let mut buffers = Vec::new();
        for (tag, size) in (0..20u64).zip(sizes.iter().cycle()) {
            let left = usize::try_from(disk.capacity() - at).unwrap();
            let size = (*size).min(left);
            if size == 0 {
                break;
            }
            let mut buffer = Buffer::shifted(size, usize::try_from(tag % 3).unwrap());
            let segments = buffer.pieces(&[size / 3, size - size / 3]);
            driver.submit(tag, BlockOperation::Read { offset: at, segments }).unwrap();
            buffers.push(buffer);
            at += size as u64;
        }
        for completion in driver.drain() {
            assert_eq!(completion.result, Ok(()), "before {at}");
        }
        buffers.iter().for_each(|buffer| content.extend_from_slice(buffer.bytes()));
    }
    content
}

impl FormatDisk {
    fn clone_with_engine(&self, engine: EngineChoice) -> Self {
        Self { engine, ..self.clone() }
    }
}

#[test]
fn both_engines_read_every_kind() {
    for (kind, options, format) in KINDS {
        let content = content(5 * MIB + 512, 8);
        let Some((_directory, path)) = make(kind, options, &content) else { return };
        let disk = FormatDisk::open(&path, format, &allowed()).unwrap();
        for engine in [EngineChoice::Automatic, EngineChoice::Threads] {
            for round in ["tables not in memory", "tables in memory"] {
                let read = read_through_queue(&disk, engine);
                assert!(read[..content.len()] == content, "{kind} {options}, {engine:?}, {round}");
            }
        }
    }
}

/// A read-only image of zeroes, or where one must be writable a disk in RAM.
fn zeroes(kind: &'static str, options: &'static str, format: Format) -> Subject {
    Subject::new(move |bytes, read_only| {
        if !read_only {
            return Box::new(MemoryDisk::new(bytes).unwrap());
        }
        let (_directory, path) = make(kind, options, &vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        Box::new(FormatDisk::open(&path, format, &allowed()).unwrap())
    })
}

/// The other way round for checks that ask for a writable disk and only read.
fn zeroes_only_read(kind: &'static str, options: &'static str, format: Format) -> Subject {
    Subject::new(move |bytes, _| {
        let (_directory, path) = make(kind, options, &vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        Box::new(FormatDisk::open(&path, format, &allowed()).unwrap())
    })
}

#[test]
fn the_contract_of_read_only_disks_is_kept() {
    if !run("qemu-img", &["--version"]) {
        return;
    }
    for (kind, options, format) in KINDS {
        // A geometry would change the size that the checks expect.
        if options == "subformat=dynamic" && kind == "vpc" {
            continue;
        }
        conformance::a_read_only_disk_refuses_every_change(&zeroes(kind, options, format));
        let subject = zeroes_only_read(kind, options, format);
        conformance::geometry_is_made_of_powers_of_two(&subject);
        conformance::completions_carry_their_tags(&subject);
        conformance::a_full_queue_gives_the_request_back(&subject);
        conformance::the_ready_descriptor_tells_of_completions(&subject);
        let disk = subject.disk(MIB as u64);
        let mut driver = Driver::open(&*disk, 4);
        let mut buffer = Buffer::filled(512, 0xaa);
        for offset in [1, 511, MIB as u64, u64::MAX - 511, u64::MAX] {
            assert_eq!(
                driver.read(offset, buffer.pieces(&[512])),
                Err(rustix::io::Errno::INVAL),
                "{kind} {offset}"
            );
        }
        assert!(buffer.bytes().iter().all(|byte| *byte == 0xaa), "a refused read touched memory");
    }
}

#[test]
fn reads_of_any_shape_give_what_the_image_holds() {
    for (kind, options, format) in [KINDS[0], KINDS[4], KINDS[6], KINDS[10], KINDS[12]] {
        let content = content(4 * MIB, 21);
        let Some((_directory, path)) = make(kind, options, &content) else { return };
        let disk = FormatDisk::open(&path, format, &allowed()).unwrap();
        let mut runner = proptest::test_runner::TestRunner::new(proptest::test_runner::Config {
            cases: 40,
            failure_persistence: None,
            ..Default::default()
        });
        let read = (0usize..8192, 1usize..600, 0usize..600);
        let result = runner.run(&proptest::collection::vec(read, 1..16), |reads| {
            let mut driver = Driver::open(&disk, 16);
            let mut buffers = Vec::new();
            for (tag, (sector, sectors, split)) in (0..).zip(&reads) {
                let mut buffer = Buffer::shifted(sectors * 512, split % 5);
                let first = (split * 7).min(sectors * 512);
                let segments = buffer.pieces(&[first, sectors * 512 - first]);
                driver.submit(tag, BlockOperation::Read { offset: *sector as u64 * 512, segments }).unwrap();
                buffers.push(buffer);
            }
            for completion in driver.drain() {
                let index = usize::try_from(completion.tag).unwrap();
                let (sector, sectors, _) = reads[index];
                let expected = content.get(sector * 512..(sector + sectors) * 512);
                prop_assert_eq!(completion.result.is_ok(), expected.is_some());
                if let Some(expected) = expected {
                    prop_assert!(buffers[index].bytes() == expected, "sector {}", sector);
                }
            }
            Ok(())
        });
        if let Err(error) = result {
            panic!("{kind} {options}: {error}");
        }
    }
}

#[test]
fn a_file_that_shrinks_under_the_disk_is_an_error_and_not_zeroes() {
    let Some((_directory, path)) = make("vpc", "subformat=fixed,force_size=on", &vec![7; MIB]) else {
        return;
    };
    let disk = FormatDisk::open(&path, Format::Vhd, &allowed()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut buffer = Buffer::filled(512, 0);
    assert_eq!(driver.read(0, buffer.pieces(&[512])), Ok(()));
    assert_eq!(driver.read(512 << 10, buffer.pieces(&[512])), Err(rustix::io::Errno::IO));
}
