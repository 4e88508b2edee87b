//! qcow2 against the contract, against qemu-img and qemu-io, and against images that want to do harm.

#![expect(clippy::cast_possible_truncation, reason = "offsets in disks of a few MiB index their models")]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::backend::BlockOperation;
use crate::conformance::{Buffer, Driver, Subject};
use crate::engine::EngineChoice;
use crate::file::CacheMode;

const MIB: u64 = 1 << 20;

/// A directory for images: in RAM where there is one, since nothing here asks what a real disk does.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in("/var/tmp")).unwrap()
}

/// A directory where direct I/O works.
fn directory_on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

/// Whether QEMU's tools are there to compare with.
fn has_qemu() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found =
            ["qemu-img", "qemu-io"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
        if !found {
            eprintln!("skipped: comparisons with qemu-img and qemu-io, which are not installed");
        }
        found
    })
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// What qemu-img finds wrong with an image: 0 nothing, 3 leaked clusters, anything else is worse.
fn check_code(path: &Path) -> (i32, String) {
    let output = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(path).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text)
}

#[track_caller]
fn assert_sound(path: &Path) {
    if has_qemu() {
        let (code, text) = check_code(path);
        assert_eq!(code, 0, "{}: {text}", path.display());
    }
}

/// The content of the disk as QEMU sees it.
fn as_qemu_sees(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("as-raw");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", path.to_str().unwrap(), raw.to_str().unwrap()]);
    let content = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    content
}

fn content_of(disk: &dyn BlockBackend) -> Vec<u8> {
    let mut driver = Driver::open(disk, 4);
    let mut content = Vec::new();
    while (content.len() as u64) < disk.capacity() {
        let bytes = (disk.capacity() - content.len() as u64).min(MIB) as usize;
        let mut buffer = Buffer::filled(bytes, 0xee);
        driver.read(content.len() as u64, buffer.pieces(&[bytes])).unwrap();
        content.extend(buffer.bytes());
    }
    content
}

/// A disk whose image is checked by qemu-img once it has been closed.
struct Checked {
    disk: Option<Qcow2Disk>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Checked {
    fn disk(&self) -> &Qcow2Disk {
        self.disk.as_ref().unwrap()
    }
}

impl BlockBackend for Checked {
    fn geometry(&self) -> BlockGeometry {
        self.disk().geometry()
    }
    fn capacity(&self) -> u64 {
        self.disk().capacity()
    }
    fn read_only(&self) -> bool {
        self.disk().read_only()
    }
    fn write_cache(&self) -> bool {
        self.disk().write_cache()
    }
    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        self.disk().open_queue(depth)
    }
    fn resize(&self, bytes: u64) -> Result<(), BlockError> {
        self.disk().resize(bytes)
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        self.disk = None;
        if !std::thread::panicking() {
            assert_sound(&self.path);
        }
    }
}

fn subject(change: impl Fn(&mut Qcow2Parameters, &mut Qcow2Options) + 'static) -> Subject {
    Subject::new(move |bytes, read_only| {
        let mut parameters = Qcow2Parameters::new(bytes);
        let mut options = Qcow2Options::default();
        change(&mut parameters, &mut options);
        let directory = if options.file.cache.direct() { directory_on_disk() } else { directory() };
        let path = directory.path().join("disk.qcow2");
        if let Some(backing) = &parameters.backing {
            let base = File::create(directory.path().join(&backing.name)).unwrap();
            base.set_len(bytes / 2).unwrap();
            options.backing = BackingAccess::Within(vec![directory.path().to_owned()]);
        }
        Qcow2Disk::create(&path, &parameters).unwrap();
        options.file.read_only = read_only;
        let disk = Qcow2Disk::open(&path, &options).unwrap();
        Box::new(Checked { disk: Some(disk), path, _directory: directory })
    })
}

crate::block_conformance!(standard, subject(|_, _| {}));
crate::block_conformance!(smallest_clusters, subject(|p, _| (p.cluster_bytes, p.refcount_bits) = (512, 64)));
crate::block_conformance!(largest_clusters, subject(|p, _| p.cluster_bytes = 2 << 20));
crate::block_conformance!(subclusters, subject(|p, _| (p.cluster_bytes, p.extended_l2) = (16384, true)));
crate::block_conformance!(narrow_refcounts, subject(|p, _| (p.cluster_bytes, p.refcount_bits) = (4096, 1)));
crate::block_conformance!(small_cache, subject(|p, o| (p.cluster_bytes, o.metadata_cache_bytes) = (512, 0)));
crate::block_conformance!(
    over_raw_zeroes,
    subject(|p, _| {
        p.backing = Some(BackingName { name: "base.raw".to_owned(), format: "raw".to_owned() });
    })
);
crate::block_conformance!(direct, subject(|_, o| o.file.cache = CacheMode::None));
crate::block_conformance!(threads, subject(|_, o| o.file.engine = EngineChoice::Threads));
crate::block_conformance!(
    postponed_counts,
    subject(|p, _| (p.lazy_refcounts, p.cluster_bytes) = (true, 4096))
);
crate::block_conformance!(writethrough, subject(|_, o| o.file.cache = CacheMode::Writethrough));

/// Random writes, zeroes and discards in units of 512 bytes, on a disk and on its model.
#[derive(Debug, Clone, Copy)]
enum Step {
    Write { at: u64, sectors: u64, seed: u64 },
    Zero { at: u64, sectors: u64, may_unmap: bool },
    Discard { at: u64, sectors: u64 },
    Flush,
}

fn steps(sectors: u64) -> impl Strategy<Value = Vec<Step>> {
    // Short and long ones: parts of clusters, and many clusters.
    let length = prop_oneof![1u64..9, 1u64..700];
    let range = (0..sectors, length).prop_map(move |(at, length)| (at, length.min(sectors - at)));
    let step = prop_oneof![
        4 => (range.clone(), any::<u64>()).prop_map(|((at, sectors), seed)| Step::Write { at, sectors, seed }),
        1 => (range.clone(), any::<bool>())
            .prop_map(|((at, sectors), may_unmap)| Step::Zero { at, sectors, may_unmap }),
        1 => range.prop_map(|(at, sectors)| Step::Discard { at, sectors }),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..40)
}

fn apply(driver: &mut Driver, model: &mut [u8], step: Step) {
    let range = |at: u64, sectors: u64| (at * 512) as usize..((at + sectors) * 512) as usize;
    match step {
        Step::Flush => driver.run(BlockOperation::Flush).unwrap(),
        Step::Write { at, sectors, seed } => {
            let mut buffer = Buffer::patterned((sectors * 512) as usize, seed);
            let half = (sectors / 2 * 512) as usize;
            let pieces = buffer.pieces(&[half, (sectors * 512) as usize - half]);
            driver.write(at * 512, pieces, seed % 5 == 0).unwrap();
            model[range(at, sectors)].copy_from_slice(buffer.bytes());
        }
        Step::Zero { at, sectors, may_unmap } => {
            let zeroes = BlockOperation::WriteZeroes { offset: at * 512, bytes: sectors * 512, may_unmap };
            driver.run(zeroes).unwrap();
            model[range(at, sectors)].fill(0);
        }
        Step::Discard { at, sectors } => {
            driver.run(BlockOperation::Discard { offset: at * 512, bytes: sectors * 512 }).unwrap();
            let mut buffer = Buffer::filled((sectors * 512) as usize, 0xee);
            driver.read(at * 512, buffer.pieces(&[(sectors * 512) as usize])).unwrap();
            model[range(at, sectors)].copy_from_slice(buffer.bytes());
        }
    }
}

/// Applies random steps to images that `make` prepares (with the content that it returns) and compares with QEMU's view.
fn agrees_with_qemu(cases: u32, make: impl Fn(&Path) -> (PathBuf, Vec<u8>)) {
    if !has_qemu() {
        return;
    }
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&steps(4 * MIB / 512), |steps| {
        let directory = directory();
        let (path, mut model) = make(directory.path());
        let backing = BackingAccess::Within(vec![directory.path().to_owned()]);
        let mut options = Qcow2Options { backing, ..Qcow2Options::default() };
        // Nothing here asks what survives a power failure.
        options.file.cache = CacheMode::Unsafe;
        let disk = Qcow2Disk::open(&path, &options).unwrap();
        prop_assert!(content_of(&disk) == model, "before anything was changed");
        let mut driver = Driver::open(&disk, 4);
        for step in steps {
            apply(&mut driver, &mut model, step);
        }
        prop_assert!(content_of(&disk) == model, "as we see it");
        drop(driver);
        drop(disk);
        let (code, text) = check_code(&path);
        prop_assert_eq!(code, 0, "{}", text);
        prop_assert!(as_qemu_sees(&path) == model, "as QEMU sees it");
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// A raw file with data, zeroes and holes.
fn raw_base(path: &Path, bytes: u64) -> Vec<u8> {
    let mut buffer = Buffer::patterned(bytes as usize, 42);
    buffer.pieces(&[]);
    let mut content = buffer.bytes().to_vec();
    content[300_000..700_000].fill(0);
    content[1_000_000..1_000_512].fill(0);
    std::fs::write(path, &content).unwrap();
    content
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_empty_image_agrees_with_qemu() {
    for (cluster_bytes, extended_l2) in [(65536, false), (512, false), (16384, true)] {
        agrees_with_qemu(6, |directory| {
            let path = directory.join("disk.qcow2");
            let parameters = Qcow2Parameters { cluster_bytes, extended_l2, ..Qcow2Parameters::new(4 * MIB) };
            Qcow2Disk::create(&path, &parameters).unwrap();
            (path, vec![0; 4 * MIB as usize])
        });
    }
}

#[test]
fn an_old_image_agrees_with_qemu() {
    agrees_with_qemu(6, |directory| {
        let path = directory.join("disk.qcow2");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", text(&path), "4M"]);
        (path, vec![0; 4 * MIB as usize])
    });
}

#[test]
fn an_old_image_with_a_backing_file_agrees_with_qemu() {
    agrees_with_qemu(6, |directory| {
        let (base, path) = (directory.join("base.raw"), directory.join("disk.qcow2"));
        let mut content = raw_base(&base, 3 * MIB);
        let options = format!("compat=0.10,cluster_size=4096,backing_file={},backing_fmt=raw", text(&base));
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&path), "4M"]);
        content.resize(4 * MIB as usize, 0);
        (path, content)
    });
}

#[test]
fn an_overlay_of_an_overlay_of_a_raw_file_agrees_with_qemu() {
    for extended_l2 in [false, true] {
        agrees_with_qemu(6, |directory| {
            let base = directory.join("base.raw");
            let mut content = raw_base(&base, 3 * MIB);
            let middle = directory.join("middle.qcow2");
            let options = format!("cluster_size=4096,backing_file={},backing_fmt=raw", text(&base));
            run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&middle), "3584K"]);
            run("qemu-io", &["-c", "write -P 7 5000 100000", "-c", "write -z 2M 64k", text(&middle)]);
            content.resize(4 * MIB as usize, 0);
            content[5000..105_000].fill(7);
            content[2 << 20..(2 << 20) + 65536].fill(0);
            let path = directory.join("top.qcow2");
            let backing = BackingName { name: "middle.qcow2".to_owned(), format: "qcow2".to_owned() };
            let cluster_bytes = if extended_l2 { 32768 } else { 65536 };
            let parameters = Qcow2Parameters {
                backing: Some(backing),
                extended_l2,
                cluster_bytes,
                ..Qcow2Parameters::new(4 * MIB)
            };
            Qcow2Disk::create(&path, &parameters).unwrap();
            (path, content)
        });
    }
}

#[test]
fn compressed_images_agree_with_qemu() {
    for kind in ["zlib", "zstd"] {
        agrees_with_qemu(6, |directory| {
            let (base, path) = (directory.join("base.raw"), directory.join("disk.qcow2"));
            let mut content = raw_base(&base, 4 * MIB);
            // Half of it can be compressed.
            for block in content.chunks_mut(8192) {
                block[..4096].fill(b'v');
            }
            std::fs::write(&base, &content).unwrap();
            let options = format!("compression_type={kind}");
            let arguments =
                ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, text(&base), text(&path)];
            run("qemu-img", &arguments);
            (path, content)
        });
    }
}

#[test]
fn an_image_with_a_snapshot_agrees_with_qemu() {
    agrees_with_qemu(6, |directory| {
        let (base, path) = (directory.join("base.raw"), directory.join("disk.qcow2"));
        let content = raw_base(&base, 4 * MIB);
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&base), text(&path)]);
        run("qemu-img", &["snapshot", "-c", "before", text(&path)]);
        (path, content)
    });
}

#[test]
fn an_image_with_an_external_data_file_agrees_with_qemu() {
    for options in ["", ",extended_l2=on,cluster_size=16384"] {
        agrees_with_qemu(6, |directory| {
            let path = directory.join("disk.qcow2");
            let options = format!("data_file={}{options}", text(&directory.join("data.raw")));
            run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&path), "4M"]);
            run("qemu-io", &["-c", "write -P 9 0 100k", "-c", "write -z 1M 64k", text(&path)]);
            let mut content = vec![0; 4 * MIB as usize];
            content[..100 << 10].fill(9);
            (path, content)
        });
    }
}

#[test]
fn a_raw_external_data_file_is_the_disk_at_any_time() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let (path, data) = (directory.path().join("disk.qcow2"), directory.path().join("data.raw"));
    let options = format!("data_file={},data_file_raw=on", text(&data));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&path), "4M"]);
    let backing = BackingAccess::Within(vec![directory.path().to_owned()]);
    let disk = Qcow2Disk::open(&path, &Qcow2Options { backing, ..Qcow2Options::default() }).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut model = vec![0; 4 * MIB as usize];
    for step in [
        Step::Write { at: 3, sectors: 1000, seed: 1 },
        Step::Zero { at: 100, sectors: 300, may_unmap: true },
        Step::Write { at: 5000, sectors: 1, seed: 2 },
        Step::Discard { at: 0, sectors: 256 },
        Step::Zero { at: 700, sectors: 1, may_unmap: false },
        Step::Flush,
    ] {
        apply(&mut driver, &mut model, step);
        assert!(std::fs::read(&data).unwrap() == model, "after {step:?}");
    }
    drop(driver);
    disk.resize(5 * MIB).unwrap();
    disk.resize(MIB).unwrap();
    assert_eq!(std::fs::metadata(&data).unwrap().len(), MIB);
    drop(disk);
    assert_sound(&path);
    assert!(as_qemu_sees(&path) == model[..MIB as usize]);
}

#[test]
fn an_external_data_file_is_opened_only_where_that_is_allowed() {
    if !has_qemu() {
        return;
    }
    let (directory, elsewhere) = (directory(), directory());
    let (path, data) = (directory.path().join("disk.qcow2"), elsewhere.path().join("data.raw"));
    let options = format!("data_file={}", text(&data));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&path), "4M"]);
    for backing in [BackingAccess::Refused, BackingAccess::Within(vec![directory.path().to_owned()])] {
        let error = Qcow2Disk::open(&path, &Qcow2Options { backing, ..Qcow2Options::default() }).unwrap_err();
        assert!(error.to_string().contains("allowed"), "{error}");
    }
}

#[test]
fn a_snapshot_survives_everything_that_is_done_to_the_disk() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let (base, path) = (directory.path().join("base.raw"), directory.path().join("disk.qcow2"));
    let content = raw_base(&base, 4 * MIB);
    run("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", text(&base), text(&path)]);
    run("qemu-io", &["-c", "write -P 3 0 512k", text(&path)]);
    run("qemu-img", &["snapshot", "-c", "before", text(&path)]);
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut model = content.clone();
    model[..512 << 10].fill(3);
    let before = model.clone();
    for (number, at) in (0..4 * MIB / 512).step_by(100).enumerate() {
        let number = number as u64;
        apply(&mut driver, &mut model, Step::Write { at, sectors: 1 + number % 40, seed: number });
    }
    apply(&mut driver, &mut model, Step::Discard { at: 2000, sectors: 1000 });
    apply(&mut driver, &mut model, Step::Zero { at: 100, sectors: 1000, may_unmap: true });
    drop(driver);
    drop(disk);
    assert_sound(&path);
    assert!(as_qemu_sees(&path) == model);
    run("qemu-img", &["snapshot", "-a", "before", text(&path)]);
    assert!(as_qemu_sees(&path) == before, "the snapshot was changed");
    assert_sound(&path);
}

#[test]
fn resized_disks_agree_with_qemu() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let (base, path) = (directory.path().join("base.raw"), directory.path().join("disk.qcow2"));
    let content = raw_base(&base, 4 * MIB);
    let backing = Some(BackingName { name: "base.raw".to_owned(), format: "raw".to_owned() });
    let parameters = Qcow2Parameters { backing, cluster_bytes: 512, ..Qcow2Parameters::new(MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let backing = BackingAccess::Within(vec![directory.path().to_owned()]);
    let disk = Qcow2Disk::open(&path, &Qcow2Options { backing, ..Qcow2Options::default() }).unwrap();
    disk.resize(2 * MIB).unwrap();
    let mut expected = content[..MIB as usize].to_vec();
    expected.resize(2 * MIB as usize, 0);
    assert!(content_of(&disk) == expected, "the backing file came to light");
    let mut driver = Driver::open(&disk, 4);
    apply(&mut driver, &mut expected, Step::Write { at: 4000, sectors: 90, seed: 5 });
    drop(driver);
    disk.resize(512 * 1001).unwrap();
    disk.resize(256 * MIB).unwrap();
    expected.truncate(512 * 1001);
    expected.resize(256 * MIB as usize, 0);
    assert!(content_of(&disk) == expected, "what was cut off came back");
    assert!(disk.resize(1 << 60).unwrap_err().to_string().contains("size is"));
    drop(disk);
    assert_sound(&path);
    assert!(as_qemu_sees(&path) == expected);
}

#[test]
fn an_image_that_is_killed_leaks_clusters_at_worst() {
    if !has_qemu() {
        return;
    }
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 4096, ..Qcow2Parameters::new(64 * MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut model = vec![0; 64 * MIB as usize];
    for round in 0..40u64 {
        let at = round.wrapping_mul(0x9e37_79b9) % 120_000;
        apply(&mut driver, &mut model, Step::Write { at, sectors: 500, seed: round });
        apply(&mut driver, &mut model, Step::Discard { at: at / 2, sectors: 300 });
        let flushed = round % 3 == 0;
        if flushed {
            driver.run(BlockOperation::Flush).unwrap();
        }
        // What a process that was killed now would leave behind.
        let copy = directory.path().join("copy.qcow2");
        std::fs::copy(&path, &copy).unwrap();
        let (code, text) = check_code(&copy);
        assert!(code == 0 || code == 3, "round {round}: {text}");
        if flushed {
            assert!(as_qemu_sees(&copy) == model, "round {round}: flushed data is lost");
        }
    }
}

#[test]
fn requests_on_several_queues_at_once_end_up_as_they_should() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 4096, ..Qcow2Parameters::new(8 * MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let options = Qcow2Options { metadata_cache_bytes: 0, ..Qcow2Options::default() };
    let disk = Qcow2Disk::open(&path, &options).unwrap();
    // Each queue writes its own sectors of the same clusters; a fourth discards elsewhere, so that clusters move about.
    std::thread::scope(|scope| {
        for queue in 0..3u64 {
            let disk = &disk;
            scope.spawn(move || {
                let mut driver = Driver::open(disk, 32);
                let mut buffers: Vec<Buffer> =
                    (0..32).map(|_| Buffer::filled(512, queue as u8 + 1)).collect();
                for round in 0..16u64 {
                    for (number, buffer) in (0..32u64).zip(&mut buffers) {
                        let offset = (round * 32 + number) * 4096 + queue * 512;
                        let segments = buffer.pieces(&[512]);
                        driver
                            .submit(number, BlockOperation::Write { offset, segments, durable: false })
                            .unwrap();
                    }
                    assert!(driver.drain().iter().all(|completion| completion.result.is_ok()));
                }
            });
        }
        scope.spawn(|| {
            let mut driver = Driver::open(&disk, 4);
            let mut buffer = Buffer::filled(65536, 9);
            for round in 0..60u64 {
                let offset = 4 * MIB + round % 7 * 65536;
                driver.write(offset, buffer.pieces(&[65536]), round % 9 == 0).unwrap();
                driver.run(BlockOperation::Discard { offset, bytes: 65536 }).unwrap();
                driver.run(BlockOperation::Flush).unwrap();
            }
        });
    });
    let content = content_of(&disk);
    for (number, cluster) in content[..2 * MIB as usize].chunks(4096).enumerate() {
        for queue in 0..3 {
            let sector = &cluster[queue * 512..(queue + 1) * 512];
            assert!(
                sector.iter().all(|byte| usize::from(*byte) == queue + 1),
                "cluster {number}, queue {queue}"
            );
        }
        assert!(cluster[3 * 512..].iter().all(|byte| *byte == 0), "cluster {number}");
    }
    drop(disk);
    assert_sound(&path);
}

#[test]
fn the_metadata_cache_keeps_to_its_limit() {
    let directory = directory();
    let path = directory.path().join("disk.qcow2");
    let parameters = Qcow2Parameters { cluster_bytes: 512, ..Qcow2Parameters::new(64 * MIB) };
    Qcow2Disk::create(&path, &parameters).unwrap();
    let options = Qcow2Options { metadata_cache_bytes: 32 * 512, ..Qcow2Options::default() };
    let disk = Qcow2Disk::open(&path, &options).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let mut buffer = Buffer::filled(512, 1);
    for number in 0..500u64 {
        driver.write(number * 32768, buffer.pieces(&[512]), false).unwrap();
        assert!(disk.image.tables.read().cached_slices() <= 32);
    }
    drop(driver);
    assert_eq!(content_of(&disk).iter().filter(|byte| **byte == 1).count(), 500 * 512);
    drop(disk);
    assert_sound(&path);
}

#[test]
fn an_l1_table_grows_beyond_what_a_refcount_block_counts() {
    let directory = directory();
    for (refcount_bits, bytes) in [(64, 4096 * MIB), (16, 2048 * MIB), (64, 130 * MIB)] {
        let path = directory.path().join(format!("{refcount_bits}-{bytes}.qcow2"));
        let parameters = Qcow2Parameters { cluster_bytes: 512, refcount_bits, ..Qcow2Parameters::new(MIB) };
        Qcow2Disk::create(&path, &parameters).unwrap();
        let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
        let mut driver = Driver::open(&disk, 1);
        let mut data = Buffer::patterned(65536, 1);
        driver.write(0, data.pieces(&[65536]), false).unwrap();
        disk.resize(bytes).unwrap();
        driver.write(bytes - 65536, data.pieces(&[65536]), false).unwrap();
        drop((driver, disk));
        let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
        for offset in [0, bytes - 65536] {
            let mut found = Buffer::filled(65536, 0);
            Driver::open(&disk, 1).read(offset, found.pieces(&[65536])).unwrap();
            assert!(found.bytes() == data.bytes(), "at {offset}");
        }
        drop(disk);
        assert_sound(&path);
    }
}

#[test]
fn refcount_tables_grow_with_the_file() {
    let directory = directory();
    for (cluster_bytes, refcount_bits) in [(512, 64), (512, 1), (1024, 16)] {
        let path = directory.path().join(format!("{cluster_bytes}-{refcount_bits}.qcow2"));
        let parameters = Qcow2Parameters { cluster_bytes, refcount_bits, ..Qcow2Parameters::new(48 * MIB) };
        Qcow2Disk::create(&path, &parameters).unwrap();
        let disk = Qcow2Disk::open(&path, &Qcow2Options::default()).unwrap();
        let mut driver = Driver::open(&disk, 4);
        let mut data = Buffer::patterned(MIB as usize, 1);
        for at in 0..48 {
            driver.write(at * MIB, data.pieces(&[MIB as usize]), false).unwrap();
        }
        drop(driver);
        assert!(content_of(&disk).chunks(MIB as usize).all(|chunk| chunk == data.bytes()));
        drop(disk);
        assert_sound(&path);
    }
}

mod blocks;
mod checking;
mod compressing;
mod discarding;
mod hostile;
mod postponing;
mod power_loss;
mod snapshotting;
