//! What is not written at once, or not as data: postponed counts, zeroed subclusters, dirty bitmaps.

use super::*;
use crate::qcow2::entry::Entry;

#[track_caller]
fn sound(path: &Path) {
    let report = Qcow2Disk::check(path, Repair::Nothing).unwrap();
    assert_eq!((report.leaked_clusters, report.corruptions), (0, 0), "{:?}", report.problems);
    assert_sound(path);
}

#[test]
fn lazy_counts_are_written_when_the_image_is_closed_and_repaired_when_it_is_not() {
    let directory = directory();
    let (path, killed) = (directory.path().join("disk.qcow2"), directory.path().join("killed.qcow2"));
    let parameters =
        Qcow2Parameters { cluster_bytes: 4096, lazy_refcounts: true, ..Qcow2Parameters::new(16 * MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    assert!(!Qcow2Disk::info(&path).unwrap().dirty, "nothing has been written yet");
    let mut driver = Driver::open(&disk, 4);
    let mut model = vec![0; 16 * MIB as usize];
    apply(&mut driver, &mut model, Step::Write { at: 5, sectors: 9000, seed: 1 });
    apply(&mut driver, &mut model, Step::Discard { at: 3000, sectors: 900 });
    apply(&mut driver, &mut model, Step::Flush);
    std::fs::copy(&path, &killed).unwrap();
    assert!(Qcow2Disk::info(&killed).unwrap().dirty);
    let report = Qcow2Disk::check(&killed, Repair::Nothing).unwrap();
    assert!(report.corruptions > 1000, "the counts were not postponed: {report:?}");
    drop((driver, disk));
    assert!(!Qcow2Disk::info(&path).unwrap().dirty);
    sound(&path);
    let disk = Qcow2Disk::open(&killed, &Qcow2Options::default()).unwrap();
    assert!(content_of(&disk) == model, "flushed data is lost");
    let mut driver = Driver::open(&disk, 4);
    apply(&mut driver, &mut model, Step::Write { at: 20_000, sectors: 3000, seed: 2 });
    drop(driver);
    assert!(content_of(&disk) == model);
    drop(disk);
    sound(&killed);
}

#[test]
fn lazy_counts_that_only_went_down_are_written_when_the_image_is_closed() {
    let directory = directory();
    for flushes in 0..3 {
        let path = directory.path().join(format!("{flushes}.qcow2"));
        let parameters = Qcow2Parameters { lazy_refcounts: true, ..Qcow2Parameters::new(16 * MIB) };
        Qcow2Disk::create(&path, &parameters).unwrap();
        let mut model = vec![0; 16 * MIB as usize];
        for step in [Step::Write { at: 0, sectors: 9000, seed: 1 }, Step::Discard { at: 0, sectors: 9000 }] {
            let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
            let mut driver = Driver::open(&disk, 4);
            apply(&mut driver, &mut model, step);
            (0..flushes).for_each(|_| apply(&mut driver, &mut model, Step::Flush));
            drop((driver, disk));
            sound(&path);
        }
    }
}

#[test]
fn single_subclusters_are_zeroed_by_their_bits() {
    let directory = directory();
    for (unmap, discard) in [(false, false), (true, false), (true, true)] {
        let path = directory.path().join(format!("{unmap}-{discard}.qcow2"));
        let parameters = Qcow2Parameters { extended_l2: true, ..Qcow2Parameters::new(MIB) };
        Qcow2Disk::create(&path, &parameters).unwrap();
        let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
        let mut driver = Driver::open(&disk, 4);
        let mut model = vec![0; MIB as usize];
        apply(&mut driver, &mut model, Step::Write { at: 0, sectors: 256, seed: 1 });
        let zero = |at: u64, sectors: u64| match discard {
            false => Step::Zero { at, sectors, may_unmap: unmap },
            true => Step::Discard { at, sectors },
        };
        let before = disk.image.entry(0).unwrap();
        assert_eq!(before.bitmap, 0xffff_ffff);
        // Subclusters of four sectors: parts of the first and the last one, and the two between.
        apply(&mut driver, &mut model, zero(2, 13));
        let entry = disk.image.entry(0).unwrap();
        assert_eq!(entry.bitmap, 0xffff_fff9 | 0b0110 << 32, "{:#x}", entry.bitmap);
        assert_eq!(entry.descriptor, before.descriptor);
        // From the middle of one cluster into the next.
        apply(&mut driver, &mut model, zero(124, 8));
        assert_eq!(disk.image.entry(0).unwrap().bitmap, 0x7fff_fff9 | 0x8000_0006 << 32);
        assert_eq!(disk.image.entry(65536).unwrap().bitmap, 0xffff_fffe | 1 << 32);
        // Piece by piece, all of it: the cluster has no more use.
        for at in (0..128).step_by(4) {
            apply(&mut driver, &mut model, zero(at, 4));
        }
        let entry = disk.image.entry(0).unwrap();
        assert_eq!((entry.bitmap, entry.descriptor == 0), (0xffff_ffff << 32, unmap));
        assert!(content_of(&disk) == model);
        drop((driver, disk));
        sound(&path);
        if has_qemu() {
            assert!(as_qemu_sees(&path) == model);
        }
    }
}

#[test]
fn zeroed_subclusters_hide_what_is_below() {
    let directory = directory();
    let base = raw_base(&directory.path().join("base.raw"), MIB);
    let path = directory.path().join("disk.qcow2");
    let backing = Some(BackingName { name: "base.raw".to_owned(), format: "raw".to_owned() });
    let parameters = Qcow2Parameters { extended_l2: true, backing, ..Qcow2Parameters::new(MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let backing = BackingAccess::Within(vec![directory.path().to_owned()]);
    let disk = Qcow2Disk::open(&path, &Qcow2Options { backing, ..Qcow2Options::default() }).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut model = base;
    apply(&mut driver, &mut model, Step::Zero { at: 8, sectors: 4, may_unmap: true });
    apply(&mut driver, &mut model, Step::Discard { at: 140, sectors: 8 });
    assert_eq!(disk.image.entry(0).unwrap(), Entry { descriptor: 0, bitmap: 0b100 << 32 });
    assert!(model[140 * 512..148 * 512].iter().all(|byte| *byte == 0), "the discard did nothing");
    assert!(content_of(&disk) == model);
    drop((driver, disk));
    sound(&path);
}

#[test]
fn dirty_bitmaps_are_kept_by_a_repair_and_declared_out_of_date_by_a_writer() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "64M"]);
    for name in ["one", "another"] {
        run("qemu-img", &["bitmap", "--add", text(&path), name]);
    }
    run("qemu-io", &["-c", "write 1M 20M", text(&path)]);
    sound(&path);
    let before = std::fs::read(&path).unwrap();
    Qcow2Disk::check(&path, Repair::All).unwrap();
    assert!(std::fs::read(&path).unwrap() == before, "a repair changed a sound image");
    assert!(run("qemu-img", &["info", text(&path)]).contains("another"));
    // A writer that knows nothing of bitmaps clears their bit (section "Header", autoclear_features).
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let autoclear = || std::fs::read(&path).unwrap()[88..96].to_vec();
    assert_eq!(autoclear(), [0; 8]);
    drop(disk);
    let report = Qcow2Disk::check(&path, Repair::Leaks).unwrap();
    assert!(report.leaked_clusters > 0 && report.corruptions == 0, "{report:?}");
    assert_eq!(check_code(&path).0, 0);
}
