//! The power fails at any moment: of what was written since the last sync, any part may be on the disk.

use super::*;
use crate::qcow2::metadata_file::Event;

/// The image as it may be found: everything up to the last sync before `end`, and of the rest what `chance` lets through.
fn after_failure(start: &[u8], events: &[Event], end: usize, mut chance: u64) -> Vec<u8> {
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
        runner.run(&(steps(4 * MIB / 512), steps(4 * MIB / 512), moments), |(before, steps, moments)| {
            let directory = directory();
            let path = directory.path().join("disk.qcow2");
            Qcow2Disk::create(&path, parameters).unwrap();
            let open = || Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
            let mut model = vec![0; 4 * MIB as usize];
            let disk = open();
            let mut driver = Driver::open(&disk, 4);
            before.into_iter().for_each(|step| apply(&mut driver, &mut model, step));
            drop((driver, disk));
            if snapshot {
                run("qemu-img", &["snapshot", "-c", "before", text(&path)]);
            }
            let start = std::fs::read(&path).unwrap();
            let disk = open();
            disk.image.metadata_file.start_journal();
            let mut driver = Driver::open(&disk, 4);
            steps.into_iter().for_each(|step| apply(&mut driver, &mut model, step));
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
fn a_power_failure_after_a_snapshot_leaks_clusters_at_worst() {
    leaks_at_worst(&Qcow2Parameters { cluster_bytes: 4096, ..Qcow2Parameters::new(4 * MIB) }, true);
}
