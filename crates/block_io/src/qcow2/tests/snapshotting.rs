//! Snapshots that we take, apply and delete, beside those of qemu-img, and when the power fails meanwhile.

use super::compressing::{Change, change, changes};
use super::power_loss::after_failure;
use super::*;
use crate::qcow2::metadata_file::Event;

const NOW: Duration = Duration::new(1_700_000_000, 5);

#[track_caller]
fn sound(path: &Path) {
    let report = Qcow2Disk::check(path, Repair::Nothing).unwrap();
    assert_eq!((report.leaked_clusters, report.corruptions), (0, 0), "{:?}", report.problems);
    assert_sound(path);
}

fn names(path: &Path) -> Vec<(String, String)> {
    let snapshots = Qcow2Disk::info(path).unwrap().snapshots;
    snapshots.into_iter().map(|snapshot| (snapshot.id, snapshot.name)).collect()
}

fn content_at(path: &Path) -> Vec<u8> {
    let mut options = Qcow2Options::default();
    options.file.read_only = true;
    content_of(&Qcow2Disk::open(path, &options).unwrap())
}

/// What a snapshot holds, as seen after applying it to a copy.
fn content_in(path: &Path, name: &str, by_qemu: bool) -> Vec<u8> {
    let copy = path.with_extension("applied");
    std::fs::copy(path, &copy).unwrap();
    if by_qemu {
        run("qemu-img", &["snapshot", "-a", name, text(&copy)]);
    } else {
        Qcow2Disk::apply_snapshot(&copy, name).unwrap();
    }
    sound(&copy);
    let content = content_at(&copy);
    std::fs::remove_file(copy).unwrap();
    content
}

fn work(path: &Path, model: &mut [u8], steps: &[Change]) {
    let mut options = Qcow2Options::default();
    options.file.cache = CacheMode::Unsafe;
    let disk = Qcow2Disk::open(path, &options).unwrap();
    let mut driver = Driver::open(&disk, 4);
    steps.iter().for_each(|step| change(&disk, &mut driver, model, *step));
}

fn life_of_snapshots(cases: u32, create: impl Fn(&Path)) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let rounds = prop::collection::vec((changes(2 * MIB / 512), 0u8..6), 2..7);
    let result = runner.run(&rounds, |rounds| {
        let directory = directory();
        let path = directory.path().join("disk.qcow2");
        create(&path);
        let mut model = vec![0; 2 * MIB as usize];
        let mut taken: Vec<(String, Vec<u8>)> = Vec::new();
        for (number, (steps, then)) in rounds.iter().enumerate() {
            work(&path, &mut model, steps);
            match *then {
                0 if !taken.is_empty() => {
                    let (name, content) = &taken[number % taken.len()];
                    Qcow2Disk::apply_snapshot(&path, name).unwrap();
                    model.clone_from(content);
                }
                1 if !taken.is_empty() => {
                    let (name, _) = taken.remove(number % taken.len());
                    Qcow2Disk::delete_snapshot(&path, &name).unwrap();
                }
                2 if has_qemu() => {
                    run("qemu-img", &["snapshot", "-c", &format!("theirs {number}"), text(&path)]);
                    taken.push((format!("theirs {number}"), model.clone()));
                }
                _ => {
                    Qcow2Disk::take_snapshot(&path, &format!("ours {number}"), NOW).unwrap();
                    taken.push((format!("ours {number}"), model.clone()));
                }
            }
            sound(&path);
            prop_assert!(content_at(&path) == model, "round {}", number);
        }
        let found: Vec<String> = names(&path).into_iter().map(|(_, name)| name).collect();
        prop_assert_eq!(found, taken.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
        for (number, (name, content)) in taken.iter().enumerate() {
            prop_assert!(content_in(&path, name, has_qemu() && number % 2 == 0) == *content, "{}", name);
        }
        for (name, _) in &taken {
            Qcow2Disk::delete_snapshot(&path, name).unwrap();
        }
        sound(&path);
        prop_assert!(content_at(&path) == model, "after all snapshots were deleted");
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn snapshots_keep_what_the_disk_was() {
    for (cluster_bytes, refcount_bits, extended_l2) in
        [(65536, 16, false), (512, 64, false), (4096, 8, false), (16384, 16, true)]
    {
        let parameters =
            Qcow2Parameters { cluster_bytes, refcount_bits, extended_l2, ..Qcow2Parameters::new(2 * MIB) };
        life_of_snapshots(2, |path| Qcow2Disk::create(path, &parameters).unwrap());
    }
}

#[test]
fn snapshots_of_old_images_keep_what_the_disk_was() {
    if !has_qemu() {
        return;
    }
    life_of_snapshots(4, |path| {
        let options = "compat=0.10,cluster_size=4096";
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(path), "2M"]);
    });
}

#[test]
fn snapshots_are_listed_as_qemu_img_lists_them() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB)).unwrap();
    for name in ["one", "two", "two", "Schnappschu\u{df}"] {
        Qcow2Disk::take_snapshot(&path, name, NOW).unwrap();
    }
    Qcow2Disk::delete_snapshot(&path, "two").unwrap();
    run("qemu-img", &["snapshot", "-c", "theirs", text(&path)]);
    let expected = [("1", "one"), ("3", "two"), ("4", "Schnappschu\u{df}"), ("5", "theirs")];
    assert_eq!(names(&path), expected.map(|(id, name)| (id.to_owned(), name.to_owned())));
    let listed = run("qemu-img", &["snapshot", "-l", text(&path)]);
    for (id, name) in expected {
        let line = listed.lines().find(|line| line.starts_with(id) && line.contains(name));
        assert!(line.is_some_and(|line| line.contains("2023-11-14") == (name != "theirs")), "{listed}");
    }
}

#[test]
fn a_snapshot_has_the_size_that_the_disk_had() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 512, ..Qcow2Parameters::new(MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let mut small = vec![0; MIB as usize];
    work(&path, &mut small, &[Change::Plain(Step::Write { at: 0, sectors: 2048, seed: 1 })]);
    Qcow2Disk::take_snapshot(&path, "small", NOW).unwrap();
    Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap().resize(40 * MIB).unwrap();
    let mut large = small.clone();
    large.resize(40 * MIB as usize, 0);
    work(&path, &mut large, &[Change::Plain(Step::Write { at: 70_000, sectors: 700, seed: 2 })]);
    Qcow2Disk::take_snapshot(&path, "large", NOW).unwrap();
    sound(&path);
    assert!(content_in(&path, "small", has_qemu()) == small);
    Qcow2Disk::apply_snapshot(&path, "small").unwrap();
    sound(&path);
    assert!(content_at(&path) == small);
    Qcow2Disk::apply_snapshot(&path, "large").unwrap();
    sound(&path);
    assert!(content_at(&path) == large);
}

#[test]
fn refusals_say_why_and_change_nothing() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { refcount_bits: 1, ..Qcow2Parameters::new(MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let mut model = vec![0; MIB as usize];
    work(&path, &mut model, &[Change::Plain(Step::Write { at: 0, sectors: 2048, seed: 1 })]);
    let message = Qcow2Disk::take_snapshot(&path, "one", NOW).unwrap_err().to_string();
    assert!(message.contains("refcounts have too few bits"), "{message}");
    sound(&path);
    assert!(content_at(&path) == model && names(&path).is_empty() && !Qcow2Disk::info(&path).unwrap().dirty);
    for name in ["", "a\nb", "x".repeat(256).as_str()] {
        let message = Qcow2Disk::take_snapshot(&path, name, NOW).unwrap_err().to_string();
        assert!(message.contains("1 to 255 bytes"), "{message}");
    }
    for result in [Qcow2Disk::apply_snapshot(&path, "no"), Qcow2Disk::delete_snapshot(&path, "no")] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("no snapshot \"no\""), "{message}");
    }
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let message = Qcow2Disk::take_snapshot(&path, "one", NOW).unwrap_err().to_string();
    assert!(message.contains("has it open"), "{message}");
    drop(disk);
}

/// Changes snapshots while everything that is written is recorded. Returns the file before and the record.
fn recorded(
    path: &Path,
    act: impl Fn(&Image, &mut image::Meta) -> Result<(), snapshot_changes::SnapshotError>,
) -> (Vec<u8>, Vec<Event>) {
    let start = std::fs::read(path).unwrap();
    let mut file = None;
    snapshot_changes::change(path, "test", |image, meta| {
        image.metadata_file.start_journal();
        file = Some(image.metadata_file.clone());
        act(image, meta)
    })
    .unwrap();
    (start, file.unwrap().take_journal())
}

#[test]
fn a_power_failure_costs_neither_the_disk_nor_a_snapshot() {
    for cluster_bytes in [512, 4096] {
        let directory = directory();
        let path = directory.path().join("disk.qcow2");
        let parameters = Qcow2Parameters { cluster_bytes, ..Qcow2Parameters::new(MIB) };
        Qcow2Disk::create(&path, &parameters).unwrap();
        let mut model = vec![0; MIB as usize];
        work(&path, &mut model, &[Change::Plain(Step::Write { at: 3, sectors: 1500, seed: 1 })]);
        work(
            &path,
            &mut model,
            &(0..9).map(|number| Change::Compressed { number, seed: 3 }).collect::<Vec<_>>(),
        );
        let first = model.clone();
        Qcow2Disk::take_snapshot(&path, "first", NOW).unwrap();
        work(&path, &mut model, &[Change::Plain(Step::Write { at: 700, sectors: 200, seed: 2 })]);
        for step in 0..4 {
            let before = (content_at(&path), names(&path));
            let (start, events) = recorded(&path, |image, meta| match step {
                0 => image.take_snapshot(meta, "second", NOW),
                1 => image.apply_snapshot(meta, "first"),
                2 => image.delete_snapshot(meta, "second"),
                _ => image.delete_snapshot(meta, "first"),
            });
            sound(&path);
            let after = (content_at(&path), names(&path));
            let is_sync = |number: &usize| events[*number] == Event::Sync;
            let moments = (0..events.len()).filter(is_sync).chain([events.len()]);
            let found = directory.path().join("found.qcow2");
            for (moment, chance) in moments.flat_map(|moment| (0..3u64).map(move |chance| (moment, chance))) {
                let seed = (chance + 3 * moment as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                std::fs::write(&found, after_failure(&start, &events, moment, seed)).unwrap();
                drop(Qcow2Disk::open(&found, &Qcow2Options::default()).unwrap());
                let report = Qcow2Disk::check(&found, Repair::Nothing).unwrap();
                assert_eq!(report.corruptions, 0, "step {step}, event {moment}: {:?}", report.problems);
                let state = (content_at(&found), names(&found));
                assert!(state.0 == before.0 || state.0 == after.0, "step {step}, event {moment}: the disk");
                assert!(
                    state.1 == before.1 || state.1 == after.1,
                    "step {step}, event {moment}: {:?}",
                    state.1
                );
                for (_, name) in &state.1 {
                    Qcow2Disk::apply_snapshot(&found, name).unwrap();
                    let expected = if name == "first" { &first } else { &model };
                    assert!(content_at(&found) == *expected, "step {step}, event {moment}: snapshot {name}");
                }
            }
        }
    }
}
