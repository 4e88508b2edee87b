//! The power fails at any moment: of what was written since the last sync, any part may be on the disk.

use super::compressing::{change, changes};
use super::*;
use crate::qcow2::metadata_file::Event;

/// The image as it may be found: everything up to the last sync before `end`, and of the rest what `chance` lets through.
pub(super) fn after_failure(start: &[u8], events: &[Event], end: usize, mut chance: u64) -> Vec<u8> {
    let mut image = start.to_vec();
    let synced = events[..end].iter().rposition(|event| *event == Event::Sync).unwrap_or(0);
    for (number, event) in events[..end].iter().enumerate() {
        let Event::Write { offset, bytes } = event else { continue };
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if number > synced && chance >> 63 == 0 {
            continue;
        }
        let at = *offset as usize;
        image.resize(image.len().max(at + bytes.len()), 0);
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

fn leaks_at_worst(parameters: &Qcow2Parameters, snapshot: bool) {
    if !has_qemu() {
        return;
    }
    let moments = prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 4);
    let mut runner = TestRunner::new(Config { cases: 5, failure_persistence: None, ..Config::default() });
    let result =
        runner.run(&(changes(4 * MIB / 512), changes(4 * MIB / 512), moments), |(before, steps, moments)| {
            let directory = directory();
            let path = directory.path().join("disk.qcow2");
            Qcow2Disk::create(&path, parameters).unwrap();
            let open = || Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
            let mut model = vec![0; 4 * MIB as usize];
            let disk = open();
            let mut driver = Driver::open(&disk, 4);
            before.into_iter().for_each(|step| change(&disk, &mut driver, &mut model, step));
            drop((driver, disk));
            if snapshot {
                run("qemu-img", &["snapshot", "-c", "before", text(&path)]);
            }
            let start = std::fs::read(&path).unwrap();
            let disk = open();
            disk.image.metadata_file.start_journal();
            let mut driver = Driver::open(&disk, 4);
            steps.into_iter().for_each(|step| change(&disk, &mut driver, &mut model, step));
            driver.run(BlockOperation::Flush).unwrap();
            let events = disk.image.metadata_file.take_journal();
            drop((driver, disk));
            // Just before a sync, everything that it was to make durable is at stake.
            let is_sync = |number: &usize| events[*number] == Event::Sync;
            let syncs: Vec<usize> = (0..events.len()).filter(is_sync).chain([events.len()]).collect();
            let length = std::fs::metadata(&path).unwrap().len();
            for (moment, chance) in moments {
                let mut image = after_failure(&start, &events, *moment.get(&syncs), chance);
                let found = directory.path().join("found.qcow2");
                // Guest data is not in the journal: without it, the file would end too soon.
                image.resize(image.len().max(length as usize), 0);
                std::fs::write(&found, image).unwrap();
                if Qcow2Disk::info(&found).unwrap().dirty {
                    // Who opens it next repairs it.
                    drop(Qcow2Disk::open(&found, &Qcow2Options::default()).unwrap());
                }
                let (code, text) = check_code(&found);
                prop_assert!(code == 0 || code == 3, "{}", text);
            }
            Ok(())
        });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn a_power_failure_leaks_clusters_at_worst() {
    leaks_at_worst(&Qcow2Parameters { cluster_bytes: 4096, ..Qcow2Parameters::new(4 * MIB) }, false);
}

#[test]
fn a_power_failure_while_tables_grow_leaks_clusters_at_worst() {
    let parameters =
        Qcow2Parameters { cluster_bytes: 512, refcount_bits: 64, ..Qcow2Parameters::new(4 * MIB) };
    leaks_at_worst(&parameters, false);
}

#[test]
fn a_power_failure_while_counts_are_postponed_is_repaired() {
    let parameters =
        Qcow2Parameters { cluster_bytes: 4096, lazy_refcounts: true, ..Qcow2Parameters::new(4 * MIB) };
    leaks_at_worst(&parameters, false);
}

#[test]
fn a_power_failure_after_a_snapshot_leaks_clusters_at_worst() {
    leaks_at_worst(&Qcow2Parameters { cluster_bytes: 4096, ..Qcow2Parameters::new(4 * MIB) }, true);
}

#[test]
fn a_power_failure_costs_no_compressed_cluster_that_was_flushed() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 4096, ..Qcow2Parameters::new(MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let start = std::fs::read(&path).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    disk.image.metadata_file.start_journal();
    let mut driver = Driver::open(&disk, 4);
    // Each round writes a third of the clusters again, so that places become free and are used again.
    let cluster = |round: u64, number: u64| {
        let mut cluster = vec![(round + number) as u8; 4096];
        cluster[..200].copy_from_slice(Buffer::patterned(200, round << 8 | number).bytes());
        cluster
    };
    let mut written = vec![Vec::new(); 256];
    let mut flushes = Vec::new();
    for round in 0..12u64 {
        for number in (round % 3..256).step_by(3) {
            disk.write_compressed(number * 4096, &cluster(round, number)).unwrap();
            written[number as usize].push(round);
        }
        driver.run(BlockOperation::Flush).unwrap();
        flushes.push(disk.image.metadata_file.journal_length());
    }
    let events = disk.image.metadata_file.take_journal();
    drop((driver, disk));
    let found = directory.path().join("found.qcow2");
    for (number, chance) in (flushes[1]..events.len()).step_by(7).zip(0u64..) {
        // What had been flushed by then must be there, or what came later.
        let flushed = flushes.iter().rposition(|end| *end <= number).unwrap() as u64;
        let image = after_failure(&start, &events, number, chance.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        std::fs::write(&found, image).unwrap();
        let mut options = Qcow2Options::default();
        options.file.read_only = true;
        let content = content_of(&Qcow2Disk::open(&found, &options).unwrap());
        for (place, rounds) in written.iter().enumerate() {
            let at_least = rounds.iter().rposition(|round| *round <= flushed);
            let here = &content[place * 4096..(place + 1) * 4096];
            let acceptable =
                rounds[at_least.unwrap_or(0)..].iter().any(|round| here == cluster(*round, place as u64));
            let never = at_least.is_none() && here.iter().all(|byte| *byte == 0);
            assert!(acceptable || never, "cluster {place} after event {number}");
        }
    }
}
