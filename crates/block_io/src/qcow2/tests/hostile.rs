//! Images that want to read the host's files, write over their own metadata, or take memory.

use super::*;

fn overlay(directory: &Path, name: &str, backing: &str, format: &str) -> PathBuf {
    let path = directory.join(name);
    let backing = Some(BackingName { name: backing.to_owned(), format: format.to_owned() });
    Qcow2Disk::create(&path, &Qcow2Parameters { backing, ..Qcow2Parameters::new(MIB) }).unwrap();
    path
}

fn within(directory: &Path) -> Qcow2Options {
    Qcow2Options { backing: BackingAccess::Within(vec![directory.to_owned()]), ..Qcow2Options::default() }
}

#[track_caller]
fn refusal(path: &Path, options: &Qcow2Options) -> String {
    Qcow2Disk::open(path, options).unwrap_err().to_string()
}

#[test]
fn backing_files_are_opened_only_where_that_is_allowed() {
    let (directory, elsewhere) = (directory(), super::directory());
    std::fs::write(elsewhere.path().join("secret"), [1; 512]).unwrap();
    let secret = elsewhere.path().join("secret");
    let direct = overlay(directory.path(), "direct.qcow2", text(&secret), "raw");
    std::os::unix::fs::symlink(&secret, directory.path().join("link")).unwrap();
    let linked = overlay(directory.path(), "linked.qcow2", "link", "raw");
    let dotted = format!("../{}/secret", elsewhere.path().file_name().unwrap().to_str().unwrap());
    let dotted = overlay(directory.path(), "dotted.qcow2", &dotted, "raw");
    for path in [&direct, &linked, &dotted] {
        let message = refusal(path, &within(directory.path()));
        assert!(message.contains("in no directory that is allowed"), "{message}");
        let message = refusal(path, &Qcow2Options::default());
        assert!(message.contains("not allowed here"), "{message}");
        let both = BackingAccess::Within(vec![directory.path().to_owned(), elsewhere.path().to_owned()]);
        Qcow2Disk::open(path, &Qcow2Options { backing: both, ..Qcow2Options::default() }).unwrap();
    }
    let device = overlay(directory.path(), "device.qcow2", "/dev/zero", "raw");
    let message = refusal(&device, &within(Path::new("/dev")));
    assert!(message.contains("neither a file nor a block device"), "{message}");
    let protocol = overlay(directory.path(), "json.qcow2", "json:{\"file\":{}}", "raw");
    let message = refusal(&protocol, &within(directory.path()));
    assert!(message.contains("protocol"), "{message}");
}

#[test]
fn a_chain_that_is_a_loop_is_refused() {
    let directory = directory();
    let one = overlay(directory.path(), "one.qcow2", "two.qcow2", "qcow2");
    overlay(directory.path(), "two.qcow2", "one.qcow2", "qcow2");
    let mut options = within(directory.path());
    options.file.read_only = true;
    let message = refusal(&one, &options);
    assert!(message.contains("loop"), "{message}");
    let own = overlay(directory.path(), "own.qcow2", "own.qcow2", "qcow2");
    assert!(refusal(&own, &options).contains("loop"));
}

#[test]
fn a_chain_without_end_is_refused() {
    let directory = directory();
    for number in 0..70 {
        overlay(directory.path(), &format!("{number}.qcow2"), &format!("{}.qcow2", number + 1), "qcow2");
    }
    let message = refusal(&directory.path().join("0.qcow2"), &within(directory.path()));
    assert!(message.contains("longer than 64"), "{message}");
}

#[test]
fn a_backing_file_without_a_recorded_format_is_refused() {
    let directory = directory();
    std::fs::write(directory.path().join("base"), [1; 4096]).unwrap();
    let path = overlay(directory.path(), "top.qcow2", "base", "raw");
    // The extension's type becomes one that nobody knows.
    File::options().write(true).open(&path).unwrap().write_all_at(&[1; 4], 112).unwrap();
    let message = refusal(&path, &within(directory.path()));
    assert!(message.contains("not recorded"), "{message}");
}

#[test]
fn images_that_are_marked_corrupt_are_opened_for_reading_only_and_dirty_ones_are_repaired() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    for (bit, word) in [(1u8, "dirty"), (2, "corrupt")] {
        let _ = std::fs::remove_file(&path);
        Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB)).unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(&[bit], 79).unwrap();
        if word == "corrupt" {
            let message = refusal(&path, &Qcow2Options::default());
            assert!(message.contains(word) && message.contains("repair"), "{message}");
        }
        let mut options = Qcow2Options::default();
        options.file.read_only = true;
        Qcow2Disk::open(&path, &options).unwrap();
        let info = Qcow2Disk::info(&path).unwrap();
        assert_eq!((info.dirty, info.corrupt), (word == "dirty", word == "corrupt"));
        if word == "dirty" {
            Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
            assert!(!Qcow2Disk::info(&path).unwrap().dirty);
        }
    }
}

/// An image with one written cluster, a change made to its bytes, and what comes of reading and writing it.
fn after(change: impl Fn(&File, u64, u64)) -> (Result<(), Errno>, Result<(), Errno>) {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB)).unwrap();
    let mut buffer = Buffer::filled(4096, 1);
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    Driver::open(&disk, 1).write(0, buffer.pieces(&[4096]), true).unwrap();
    let l1 = disk.image.meta.lock().header.l1_offset;
    let l2 = disk.image.tables.read().l1[0] & entry::OFFSET_MASK;
    drop(disk);
    change(&File::options().write(true).open(&path).unwrap(), l1, l2);
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let mut driver = Driver::open(&disk, 1);
    let read = driver.read(0, buffer.pieces(&[4096]));
    let write = driver.write(4096, buffer.pieces(&[4096]), false);
    (read, write)
}

#[test]
fn entries_that_name_impossible_places_are_errors() {
    let put =
        |offset: u64, entry: u64| move |file: &File| file.write_all_at(&entry.to_be_bytes(), offset).unwrap();
    let failed = Err(Errno::IO);
    // L2 tables: not on a cluster, on the header, on the L1 table itself.
    assert_eq!(after(|file, l1, _| put(l1, 0x10200)(file)), (failed, failed));
    assert_eq!(after(|file, l1, _| put(l1, l1 | 1 << 63)(file)), (failed, failed));
    // Data: not on a cluster; on the refcount table, which may be read but not written.
    assert_eq!(after(|file, _, l2| put(l2, 0x50200 | 1 << 63)(file)), (failed, failed));
    assert_eq!(after(|file, _, l2| put(l2, 0x10000 | 1 << 63)(file)), (Ok(()), failed));
    // Behind the end of the file, just so or far: zeroes, as in any sparse file, and no place to write to. That the
    // cluster is not marked as the disk's own makes no difference.
    for flag in [1 << 63, 0] {
        for place in [0x0007_0000, 0x00f0_0000_0000_0000] {
            assert_eq!(after(|file, _, l2| put(l2, place | flag)(file)), (Ok(()), failed), "{place:#x}");
            assert_eq!(after(|file, l1, _| put(l1, place | flag)(file)), (Ok(()), failed), "{place:#x}");
        }
    }
    // Compressed data that is none.
    assert_eq!(after(|file, _, l2| put(l2, 1 << 62 | 0x10000)(file)).0, failed);
}

#[test]
fn an_image_of_holes_with_the_largest_tables_is_checked_in_seconds() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 65536, ..Qcow2Parameters::new(1 << 40) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    // Every L2 table is somewhere in a hole of a file of 1 TiB, and some share a place.
    for index in 0..2048u64 {
        let entry = (index % 2000 + 1) << 29 | 1 << 63;
        file.write_all_at(&entry.to_be_bytes(), (3 << 16) + index * 8).unwrap();
    }
    file.set_len(1 << 40).unwrap();
    drop(file);
    let start = std::time::Instant::now();
    let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
    assert!(report.corruptions >= 2000, "{}", report.corruptions);
    assert!(start.elapsed() < Duration::from_secs(20), "it took {:?}", start.elapsed());
}

#[test]
fn snapshots_whose_l1_tables_overlap_are_a_corruption_and_are_not_read() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 512, ..Qcow2Parameters::new(MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let end = file.metadata().unwrap().len().next_multiple_of(512);
    // Each names 32 MiB from another cluster on.
    let number = 20_000u32;
    let mut table = Vec::new();
    for snapshot in 0..u64::from(number) {
        let mut entry = [0u8; 40];
        entry[..8].copy_from_slice(&((snapshot + 1) * 512).to_be_bytes());
        entry[8..12].copy_from_slice(&(4u32 << 20).to_be_bytes());
        table.extend(entry);
    }
    file.write_all_at(&table, end).unwrap();
    file.set_len(100 << 20).unwrap();
    let mut fields = number.to_be_bytes().to_vec();
    fields.extend(end.to_be_bytes());
    file.write_all_at(&fields, 60).unwrap();
    drop(file);
    let start = std::time::Instant::now();
    let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
    assert!(report.problems.iter().any(|problem| problem.contains("overlaps")), "{:?}", report.problems);
    assert!(start.elapsed() < Duration::from_secs(20), "it took {:?}", start.elapsed());
}

#[test]
fn refcounts_of_zero_do_not_make_tables_into_data() {
    // All counts become zero: what is in use looks free.
    let (read, write) = after(|file, _, _| file.write_all_at(&[0; 65536], 2 << 16).unwrap());
    assert_eq!(read, Ok(()));
    // The cluster in use is known to be ours alone, so it is written in place.
    assert_eq!(write, Ok(()));
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB)).unwrap();
    let before = std::fs::read(&path).unwrap();
    File::options().write(true).open(&path).unwrap().write_all_at(&[0; 65536], 2 << 16).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let mut driver = Driver::open(&disk, 1);
    let mut buffer = Buffer::filled(65536, 0xcc);
    for number in 0..10 {
        driver.write(number * 65536, buffer.pieces(&[65536]), true).unwrap();
    }
    drop(driver);
    drop(disk);
    let now = std::fs::read(&path).unwrap();
    assert!(now[..65536] == before[..65536], "the header was given out as a cluster");
    assert!(now[65536..131_072] == before[65536..131_072], "the refcount table was given out as a cluster");
    assert!(now[2 << 16..3 << 16] != [0xcc; 65536], "the refcount block was given out as a cluster");
    assert!(now[3 << 16..4 << 16] != [0xcc; 65536], "the L1 table was given out as a cluster");
}

#[test]
fn any_damage_is_an_error_at_worst() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 4096, ..Qcow2Parameters::new(MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let mut buffer = Buffer::patterned(65536, 1);
    Driver::open(&disk, 1).write(0, buffer.pieces(&[65536]), true).unwrap();
    drop(disk);
    let whole = std::fs::read(&path).unwrap();
    let damage = prop::collection::vec((0..whole.len().min(40_000), any::<u8>()), 1..30);
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let result = runner.run(&damage, |damage| {
        let mut image = whole.clone();
        for (at, byte) in damage {
            image[at] ^= byte;
        }
        std::fs::write(&path, &image).unwrap();
        if let Ok(disk) = Qcow2Disk::open(&path, &Qcow2Options::default()) {
            let capacity = disk.capacity();
            let mut driver = Driver::open(&disk, 4);
            let mut buffer = Buffer::filled(65536, 2);
            for offset in [0, 512, 4096, 65536, capacity.saturating_sub(65536) / 512 * 512] {
                let _ = driver.read(offset, buffer.pieces(&[65536]));
                let _ = driver.write(offset, buffer.pieces(&[512]), false);
                let _ = driver.run(BlockOperation::Discard { offset, bytes: 65536 });
                let _ = driver.run(BlockOperation::Flush);
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
