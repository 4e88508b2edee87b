//! Checks, repairs and information, compared with what qemu-img finds and says.

use super::*;

/// Leaked and corrupt clusters as qemu-img counts them.
fn found_by_qemu(path: &Path) -> (u64, u64) {
    let output =
        Command::new("qemu-img").args(["check", "-f", "qcow2", "--output=json"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let number = |name: &str| {
        let after = text.split_once(&format!("\"{name}\": "));
        let digits = after.map_or("0", |(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap());
        digits.parse().unwrap()
    };
    (number("leaks"), number("corruptions"))
}

fn sound(path: &Path) {
    let report = Qcow2Disk::check(path, Repair::Nothing).unwrap();
    assert_eq!((report.leaked_clusters, report.corruptions), (0, 0), "{:?}", report.problems);
}

#[test]
fn leaks_are_found_and_repaired() {
    let directory = directory();
    for (cluster_bytes, refcount_bits) in [(512, 16), (4096, 1), (65536, 64)] {
        let path = directory.path().join(format!("{cluster_bytes}.qcow2"));
        let copy = directory.path().join("copy.qcow2");
        let parameters = Qcow2Parameters { cluster_bytes, refcount_bits, ..Qcow2Parameters::new(8 * MIB) };
        Qcow2Disk::create(&path, &parameters).unwrap();
        sound(&path);
        let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
        let mut driver = Driver::open(&disk, 4);
        let mut data = Buffer::patterned(MIB as usize, 1);
        driver.write(0, data.pieces(&[MIB as usize]), true).unwrap();
        driver.run(BlockOperation::Discard { offset: 0, bytes: 512 << 10 }).unwrap();
        driver.run(BlockOperation::Flush).unwrap();
        std::fs::copy(&path, &copy).unwrap();
        drop((driver, disk));
        sound(&path);
        let report = Qcow2Disk::check(&copy, Repair::Nothing).unwrap();
        assert_eq!(report.leaked_clusters, (512 << 10) / cluster_bytes);
        assert_eq!((report.corruptions, report.repaired), (0, 0), "{:?}", report.problems);
        if has_qemu() {
            assert_eq!(found_by_qemu(&copy), (report.leaked_clusters, 0));
        }
        let report = Qcow2Disk::check(&copy, Repair::Leaks).unwrap();
        assert_eq!(report.repaired, report.leaked_clusters);
        sound(&copy);
        assert_sound(&copy);
    }
}

#[test]
fn a_dirty_image_of_a_killed_qemu_is_repaired() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let options = "lazy_refcounts=on,cluster_size=4096";
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(&path), "64M"]);
    // Writes without counting, then dies.
    let script = ["-c", "write -P 5 1M 20M", "-c", "flush", "-c", "abort"];
    let output = Command::new("qemu-io").args(script).arg(&path).output().unwrap();
    assert!(!output.status.success());
    let copy = directory.path().join("copy.qcow2");
    std::fs::copy(&path, &copy).unwrap();
    let before = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
    assert!(before.corruptions > 100, "{before:?}");
    assert_eq!(found_by_qemu(&path).1, before.corruptions);
    let report = Qcow2Disk::check(&path, Repair::All).unwrap();
    assert_eq!(report.repaired, report.corruptions + report.leaked_clusters);
    sound(&path);
    assert_sound(&path);
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let content = content_of(&disk);
    assert!(content[MIB as usize..21 * MIB as usize].iter().all(|byte| *byte == 5));
    // Whoever opens it for writing needs no repair of his own.
    let disk = Qcow2Disk::open(&copy, &Qcow2Options::default()).unwrap();
    assert!(content_of(&disk) == content);
    drop(disk);
    assert!(!Qcow2Disk::info(&copy).unwrap().dirty);
    sound(&copy);
    assert_sound(&copy);
}

#[test]
fn marks_that_do_not_agree_with_counts_are_found_and_repaired() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB)).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let mut data = Buffer::patterned(MIB as usize, 1);
    Driver::open(&disk, 4).write(0, data.pieces(&[MIB as usize]), true).unwrap();
    let l1 = disk.image.meta.lock().header.l1_offset;
    let l1_entry = disk.image.tables.read().l1[0];
    let entry = disk.image.entry(65536).unwrap().descriptor;
    drop(disk);
    let l2 = l1_entry & entry::OFFSET_MASK;
    for (offset, entry) in [(l1, l1_entry), (l2 + 8, entry)] {
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&(entry ^ 1 << 63).to_be_bytes(), offset).unwrap();
        drop(file);
        let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
        assert_eq!((report.leaked_clusters, report.corruptions), (0, 1), "{:?}", report.problems);
        if has_qemu() {
            assert_eq!(found_by_qemu(&path), (0, 1));
        }
        assert_eq!(Qcow2Disk::check(&path, Repair::All).unwrap().repaired, 1);
        sound(&path);
        assert_sound(&path);
    }
}

#[test]
fn images_of_qemu_with_snapshots_and_compression_are_sound() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let (base, path) = (directory.path().join("base.raw"), directory.path().join("disk.qcow2"));
    raw_base(&base, 4 * MIB);
    run("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", text(&base), text(&path)]);
    for name in ["one", "a much longer name of a snapshot", "three"] {
        run("qemu-img", &["snapshot", "-c", name, text(&path)]);
        run("qemu-io", &["-c", "write -P 3 100k 700k", text(&path)]);
    }
    assert_sound(&path);
    sound(&path);
}

#[test]
fn what_is_used_and_not_counted_is_a_corruption() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    // The count of the L1 table, the fourth cluster.
    file.write_all_at(&0u16.to_be_bytes(), (2 << 16) + 6).unwrap();
    drop(file);
    let report = Qcow2Disk::check(&path, Repair::Leaks).unwrap();
    assert_eq!((report.corruptions, report.repaired), (1, 0));
    assert!(report.problems[0].contains("cluster 3 is counted 0 times and used 1 times"), "{report:?}");
    assert_eq!(Qcow2Disk::check(&path, Repair::All).unwrap().repaired, 1);
    sound(&path);
}

#[test]
fn an_image_whose_tables_are_damaged_is_not_repaired() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB)).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let l1 = 3 << 16;
    for entry in [0x10200u64, 1 << 50] {
        let mut image = whole.clone();
        image[l1..l1 + 8].copy_from_slice(&entry.to_be_bytes());
        // Something to repair, if that were safe.
        image[(2 << 16) + 20] = 7;
        std::fs::write(&path, &image).unwrap();
        let report = Qcow2Disk::check(&path, Repair::All).unwrap();
        assert!(report.corruptions > 0 && report.repaired == 0, "{report:?}");
        assert!(std::fs::read(&path).unwrap() == image, "it was written to");
    }
}

#[test]
fn an_image_is_described_without_opening_what_it_names() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let backing = Some(BackingName { name: "/nowhere/base.raw".to_owned(), format: "raw".to_owned() });
    let parameters = Qcow2Parameters {
        backing,
        cluster_bytes: 16384,
        refcount_bits: 8,
        extended_l2: true,
        compression: Compression::Zstd,
        ..Qcow2Parameters::new(5 * MIB)
    };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let info = Qcow2Disk::info(&path).unwrap();
    assert_eq!((info.version, info.virtual_bytes, info.cluster_bytes), (3, 5 * MIB, 16384));
    assert_eq!((info.refcount_bits, info.extended_l2, info.compression), (8, true, Compression::Zstd));
    assert_eq!(info.backing.as_deref(), Some("/nowhere/base.raw"));
    assert_eq!(info.backing_format.as_deref(), Some("raw"));
    assert!(!info.dirty && !info.corrupt && !info.lazy_refcounts && info.data_file.is_none());
    assert!(info.allocated_bytes > 0 && info.snapshots.is_empty());
}

#[test]
fn a_disk_in_use_and_its_snapshots_are_described() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", text(&path), "7M"]);
    for name in ["one", "a snapshot with spaces"] {
        run("qemu-img", &["snapshot", "-c", name, text(&path)]);
    }
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let info = Qcow2Disk::info(&path).unwrap();
    assert!(info.lazy_refcounts);
    let described: Vec<_> = info.snapshots.iter().map(|one| (one.id.as_str(), one.name.as_str())).collect();
    assert_eq!(described, [("1", "one"), ("2", "a snapshot with spaces")]);
    assert!(info.snapshots.iter().all(|one| one.disk_bytes == Some(7 * MIB) && one.vm_state_bytes == 0));
    assert!(info.snapshots.iter().all(|one| one.taken_seconds > 1_500_000_000));
    drop(disk);
}

#[test]
fn an_image_with_an_external_data_file_is_described() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let (path, data) = (directory.path().join("disk.qcow2"), directory.path().join("data.raw"));
    let options = format!("data_file={}", text(&data));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&path), "7M"]);
    assert_eq!(Qcow2Disk::info(&path).unwrap().data_file.as_deref(), Some(text(&data)));
    sound(&path);
    run("qemu-io", &["-c", "write -P 5 0 3M", text(&path)]);
    sound(&path);
}
