use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use platform::worker::Worker;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};

use super::Rng;
use super::*;
use crate::BuildError;
use crate::testing::{FakeDriver, Piece};

const ALL: u64 = u64::MAX;

struct Rig {
    driver: FakeDriver,
    handle: RngHandle,
    _worker: Worker,
}

fn rig(source: &Path) -> Rig {
    let worker = Worker::spawn("rng").unwrap();
    let config = RngConfig { source: source.to_owned(), queue_size: 128, worker: worker.handle() };
    let rng = Rng::build(config).unwrap();
    let handle = rng.handle();
    let mut driver = FakeDriver::new(Box::new(rng));
    driver.initialize(ALL);
    Rig { driver, handle, _worker: worker }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// A source with these bytes.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A source that gives what is written to the returned file.
fn fifo() -> (tempfile::TempDir, PathBuf, File) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    // Opened both ways, so that the device never finds it without a writer.
    let writer = File::options().read(true).write(true).open(&path).unwrap();
    (folder, path, writer)
}

#[test]
fn buffers_are_filled_from_the_source_up_to_the_limit() {
    let data = pattern(10_000);
    let source = file(&data);
    let mut rig = rig(source.path());
    let used = rig.driver.request(0, &[Piece::In(10), Piece::In(54)]);
    assert_eq!((used.written, &used.data[..]), (64, &data[..64]));
    let used = rig.driver.request(0, &[Piece::Out(&[1; 7]), Piece::In(9000)]);
    assert_eq!(used.written, MAX_BYTES_PER_REQUEST);
    let limit = MAX_BYTES_PER_REQUEST as usize;
    assert_eq!(used.data[..limit], data[64..64 + limit]);
    assert!(used.data[limit..].iter().all(|byte| *byte == 0xa5), "nothing beyond the limit is touched");
    assert_eq!(rig.handle.counters().requests.get(), 2);
    assert_eq!(rig.handle.counters().bytes.get(), 64 + u64::from(MAX_BYTES_PER_REQUEST));
}

#[test]
fn more_requests_than_one_batch_are_all_answered() {
    let mut rig = rig(Path::new(DEFAULT_SOURCE));
    for _ in 0..5 * BATCH {
        rig.driver.add(0, &[Piece::In(64)]);
    }
    rig.driver.kick(0);
    let mut seen = Vec::new();
    for _ in 0..5 * BATCH {
        let used = rig.driver.wait_used(0);
        assert_eq!(used.written, 64);
        assert!(!seen.contains(&used.data), "the kernel's generator does not repeat itself");
        seen.push(used.data);
    }
}

#[test]
fn a_source_that_is_dry_is_waited_for_also_over_a_pause() {
    let (_folder, path, mut writer) = fifo();
    let mut rig = rig(&path);
    writer.write_all(&[1; 8]).unwrap();
    let used = rig.driver.request(0, &[Piece::In(64)]);
    assert_eq!((used.written, &used.data[..8]), (8, &[1; 8][..]));
    rig.driver.add(0, &[Piece::In(64)]);
    rig.driver.kick(0);
    for _ in 0..20 {
        rig.driver.pause();
        assert_eq!(rig.driver.ring(0).take_used(), None);
        rig.driver.resume();
    }
    writer.write_all(&[2; 8]).unwrap();
    let used = rig.driver.wait_used(0);
    assert_eq!((used.written, &used.data[..8]), (8, &[2; 8][..]));
}

#[test]
fn a_source_at_its_end_answers_nothing_and_the_device_can_still_be_reset() {
    let source = file(&[3; 10]);
    let mut rig = rig(source.path());
    assert_eq!(rig.driver.request(0, &[Piece::In(64)]).written, 10);
    rig.driver.add(0, &[Piece::In(64)]);
    rig.driver.kick(0);
    rig.driver.pause();
    rig.driver.resume();
    rig.driver.pause();
    assert_eq!(rig.driver.ring(0).take_used(), None, "no bytes are better than none that are random");
    rig.driver.resume();
    rig.driver.reset();
}

#[test]
fn a_request_without_room_breaks_the_queue_until_reset() {
    let mut rig = rig(Path::new(DEFAULT_SOURCE));
    rig.driver.add(0, &[Piece::Out(&[0; 64])]);
    rig.driver.kick(0);
    rig.driver.wait_needs_reset();
    rig.driver.initialize(ALL);
    assert_eq!(rig.driver.request(0, &[Piece::In(64)]).written, 64);
}

#[test]
fn a_source_that_does_not_exist_is_reported_when_the_device_is_built() {
    let worker = Worker::spawn("rng").unwrap();
    let config = RngConfig { source: "/does/not/exist".into(), queue_size: 128, worker: worker.handle() };
    let error = Rng::build(config).unwrap_err();
    assert!(matches!(&error, BuildError::Source { .. }));
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
    for queue_size in [0, 1, 2, 100, 32769] {
        let source = PathBuf::from(DEFAULT_SOURCE);
        let config = RngConfig { source, queue_size, worker: worker.handle() };
        assert!(matches!(Rng::build(config), Err(BuildError::QueueSize(_))), "{queue_size} entries");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_request_with_room_gets_as_much_as_fits(
        requests in prop::collection::vec((0..20usize, prop::collection::vec(1..3000u32, 1..6)), 1..20),
    ) {
        let mut rig = rig(Path::new(DEFAULT_SOURCE));
        for (readable, writable) in requests {
            let bytes = vec![0; readable + 1];
            let mut pieces = vec![Piece::Out(&bytes)];
            pieces.extend(writable.iter().map(|bytes| Piece::In(*bytes)));
            let room: u32 = writable.iter().sum();
            prop_assert_eq!(rig.driver.request(0, &pieces).written, room.min(MAX_BYTES_PER_REQUEST));
        }
    }
}
