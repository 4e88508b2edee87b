//! Discarded clusters: their storage goes back to the file system while the disk is open, and no sooner than it may.

use std::sync::atomic::Ordering;

use super::*;

/// Storage of the file, bytes.
fn stored(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// A disk that holds 8 MiB at its start, all of it flushed.
fn filled(path: &Path, cache: CacheMode) -> (Qcow2Disk, Driver) {
    Qcow2Disk::create(path, &Qcow2Parameters::new(64 * MIB)).unwrap();
    let mut options = Qcow2Options::default();
    options.file.cache = cache;
    let disk = Qcow2Disk::open(path, &options).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut data = Buffer::patterned(8 * MIB as usize, 1);
    driver.write(0, data.pieces(&[8 * MIB as usize]), false).unwrap();
    driver.run(BlockOperation::Flush).unwrap();
    assert!(stored(path) >= 8 * MIB);
    (disk, driver)
}

const ALL: BlockOperation = BlockOperation::Discard { offset: 0, bytes: 8 * MIB };

#[test]
fn discarded_clusters_are_used_again_and_their_storage_is_given_back() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(64 * MIB)).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut data = Buffer::patterned(8 * MIB as usize, 1);
    for round in 0..10u64 {
        driver.write(round % 4 * 8 * MIB, data.pieces(&[8 * MIB as usize]), false).unwrap();
        driver.run(BlockOperation::Discard { offset: round % 4 * 8 * MIB, bytes: 8 * MIB }).unwrap();
        driver.run(BlockOperation::Flush).unwrap();
    }
    drop(driver);
    drop(disk);
    let length = std::fs::metadata(&path).unwrap().len();
    assert!(length < 10 * MIB, "the file grew to {length} bytes");
    assert!(stored(&path) < MIB, "{} bytes are allocated", stored(&path));
    assert_sound(&path);
}

#[test]
fn a_flush_gives_the_storage_of_discarded_clusters_back() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let (disk, mut driver) = filled(&path, CacheMode::Writeback);
    driver.run(ALL).unwrap();
    assert!(stored(&path) >= 8 * MIB, "a crash could bring the mapping back");
    driver.run(BlockOperation::Flush).unwrap();
    assert!(stored(&path) < MIB, "{} bytes are allocated", stored(&path));
    drop((driver, disk));
    assert_sound(&path);
}

#[test]
fn a_discard_gives_storage_back_by_itself_where_there_are_no_flushes() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let (disk, mut driver) = filled(&path, CacheMode::Writethrough);
    driver.run(ALL).unwrap();
    assert!(stored(&path) < MIB, "{} bytes are allocated", stored(&path));
    drop((driver, disk));
    assert_sound(&path);
}

#[test]
fn clusters_that_a_request_may_still_use_stay_until_a_later_flush() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let (disk, mut driver) = filled(&path, CacheMode::Writeback);
    // As a read does that has found its places and not ended yet.
    let epoch = disk.image.epochs.enter();
    driver.run(ALL).unwrap();
    for _ in 0..4 {
        driver.run(BlockOperation::Flush).unwrap();
        assert!(stored(&path) >= 8 * MIB, "the request would read zeroes, or another's data");
    }
    disk.image.epochs.leave(epoch);
    assert!(!disk.image.unflushed.load(Ordering::Acquire), "nothing but the waiting clusters");
    driver.run(BlockOperation::Flush).unwrap();
    assert!(stored(&path) < MIB, "{} bytes are allocated", stored(&path));
    drop((driver, disk));
    assert_sound(&path);
}
