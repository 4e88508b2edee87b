//! Compressed clusters that we write: among ordinary writes, by several threads, packed without gaps, and over old content.

use super::*;

/// Content by a seed; the seed also says how well it can be compressed.
fn squeezable(bytes: usize, seed: u64) -> Vec<u8> {
    let mut buffer = Buffer::patterned(bytes, seed);
    buffer.pieces(&[]);
    let mut content = buffer.bytes().to_vec();
    // Some can't be compressed at all, some nearly to nothing.
    let random = content.len() * (seed % 17) as usize / 16;
    content[random.min(bytes)..].fill(seed as u8);
    content
}

fn write_cluster(disk: &Qcow2Disk, model: &mut [u8], number: u64, seed: u64) {
    let cluster = disk.cluster_bytes();
    let start = number * cluster % disk.capacity().next_multiple_of(cluster);
    let bytes = cluster.min(disk.capacity() - start) as usize;
    let content = squeezable(bytes, seed);
    disk.write_compressed(start, &content).unwrap();
    model[start as usize..start as usize + bytes].copy_from_slice(&content);
}

/// A change of either kind.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Plain(Step),
    Compressed { number: u64, seed: u64 },
}

pub(super) fn changes(sectors: u64) -> impl Strategy<Value = Vec<Change>> {
    let compressed = (0u64..8192, any::<u64>(), 1u64..12).prop_map(|(number, seed, run)| {
        (0..run)
            .map(|more| Change::Compressed { number: number + more, seed: seed.wrapping_add(more) })
            .collect()
    });
    let plain = steps(sectors).prop_map(|steps| steps.into_iter().take(4).map(Change::Plain).collect());
    prop::collection::vec(prop_oneof![3 => compressed.boxed(), 1 => plain.boxed()], 1..30)
        .prop_map(|groups: Vec<Vec<Change>>| groups.concat())
}

pub(super) fn change(disk: &Qcow2Disk, driver: &mut Driver, model: &mut [u8], change: Change) {
    match change {
        Change::Plain(step) => apply(driver, model, step),
        Change::Compressed { number, seed } => write_cluster(disk, model, number, seed),
    }
}

fn agrees(cases: u32, parameters: &Qcow2Parameters) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let bytes = parameters.bytes;
    let result = runner.run(&changes(bytes / 512), |changes| {
        let directory = directory();
        let path = directory.path().join("disk.qcow2");
        Qcow2Disk::create(&path, parameters).unwrap();
        let mut options = Qcow2Options::default();
        options.file.cache = CacheMode::Unsafe;
        let disk = Qcow2Disk::open(&path, &options).unwrap();
        let mut model = vec![0; bytes as usize];
        let mut driver = Driver::open(&disk, 4);
        for step in changes {
            change(&disk, &mut driver, &mut model, step);
        }
        prop_assert!(content_of(&disk) == model, "as we see it");
        drop(driver);
        drop(disk);
        let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
        prop_assert_eq!((report.leaked_clusters, report.corruptions), (0, 0), "{:?}", report.problems);
        if has_qemu() {
            let (code, text) = check_code(&path);
            prop_assert_eq!(code, 0, "{}", text);
            prop_assert!(as_qemu_sees(&path) == model, "as QEMU sees it");
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn compressed_clusters_among_ordinary_ones_agree_with_qemu() {
    for compression in [Compression::Zlib, Compression::Zstd] {
        for (cluster_bytes, refcount_bits, extended_l2) in
            [(65536, 16, false), (512, 16, false), (4096, 1, false), (4096, 2, false), (16384, 64, true)]
        {
            let bytes = 3 * MIB + 7 * 512;
            let parameters = Qcow2Parameters {
                cluster_bytes,
                refcount_bits,
                extended_l2,
                compression,
                ..Qcow2Parameters::new(bytes)
            };
            agrees(2, &parameters);
        }
    }
    agrees(1, &Qcow2Parameters { cluster_bytes: 2 * MIB, ..Qcow2Parameters::new(9 * MIB) });
}

#[test]
fn compressed_clusters_are_packed_byte_by_byte() {
    for compression in [Compression::Zlib, Compression::Zstd] {
        let directory = directory();
        let path = directory.path().join("disk.qcow2");
        Qcow2Disk::create(&path, &Qcow2Parameters { compression, ..Qcow2Parameters::new(32 * MIB) }).unwrap();
        let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
        for number in 0..512u64 {
            // Compressed to about 150 bytes.
            let mut content = vec![7; 65536];
            content[..8].copy_from_slice(&number.to_ne_bytes());
            disk.write_compressed(number * 65536, &content).unwrap();
        }
        drop(disk);
        let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
        assert_eq!((report.compressed_clusters, report.corruptions, report.leaked_clusters), (512, 0, 0));
        // Header, refcount table and block, L1, one L2: the data takes no more than three clusters.
        assert!(report.used_clusters <= 8, "{report:?}");
        assert_sound(&path);
    }
}

#[test]
fn threads_that_compress_at_the_same_time_do_not_get_in_each_others_way() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 4096, ..Qcow2Parameters::new(8 * MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..2 {
                    for number in (thread..2048).step_by(4) {
                        let content = squeezable(4096, number * 2 + round);
                        disk.write_compressed(number * 4096, &content).unwrap();
                    }
                }
            });
        }
    });
    let content = content_of(&disk);
    for (number, cluster) in content.chunks(4096).enumerate() {
        assert!(cluster == squeezable(4096, number as u64 * 2 + 1), "cluster {number}");
    }
    drop(disk);
    let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
    assert_eq!((report.leaked_clusters, report.corruptions), (0, 0), "{:?}", report.problems);
    assert_sound(&path);
}

#[test]
fn what_was_expanded_before_is_not_taken_for_new_data_at_its_place() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB)).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut buffer = Buffer::filled(65536, 0);
    let mut entries = std::collections::HashSet::new();
    let mut repeated = false;
    for round in 1..20u8 {
        disk.write_compressed(0, &[round; 65536]).unwrap();
        repeated |= !entries.insert(disk.image.entry(0).unwrap().descriptor);
        driver.read(0, buffer.pieces(&[65536])).unwrap();
        assert!(buffer.bytes().iter().all(|byte| *byte == round), "round {round}");
        driver.run(BlockOperation::Discard { offset: 0, bytes: 65536 }).unwrap();
        for _ in 0..3 {
            driver.run(BlockOperation::Flush).unwrap();
            driver.write(MIB - 4096, Buffer::filled(4096, round).pieces(&[4096]), false).unwrap();
            driver.run(BlockOperation::Discard { offset: MIB - 65536, bytes: 65536 }).unwrap();
        }
    }
    assert!(repeated, "no place was used twice: the test tests nothing");
    drop(driver);
    drop(disk);
    assert_sound(&path);
}

#[test]
fn ranges_and_images_that_can_not_be_compressed_are_refused() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    Qcow2Disk::create(&path, &Qcow2Parameters::new(MIB + 512)).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let cluster = [1; 65536];
    assert_eq!(disk.write_compressed(MIB, &cluster[..512]), Ok(()), "the last cluster is short");
    for (offset, bytes) in
        [(512, 65536), (0, 512), (MIB, 65536), (2 * MIB, 65536), (0, 0), (u64::MAX - 65535, 65536)]
    {
        assert_eq!(disk.write_compressed(offset, &cluster[..bytes]), Err(Errno::INVAL), "{offset} {bytes}");
    }
    drop(disk);
    let mut options = Qcow2Options::default();
    options.file.read_only = true;
    let disk = Qcow2Disk::open(&path, &options).unwrap();
    assert_eq!(disk.write_compressed(0, &cluster), Err(Errno::ROFS));
}
