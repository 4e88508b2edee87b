//! A corpus of damaged qcow2 images, made by code: each gives errors at worst, never a panic, a hang or a read outside of the
//! image, and costs no more than the image's size explains.
//!
//! Work is counted, not timed: bytes that the process reads and writes (`/proc/self/io`) and the most memory that it takes
//! (an allocator that counts).

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]
#![expect(clippy::cast_possible_truncation, reason = "offsets in small images index their bytes")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use block_io::conformance::{Buffer, Driver};
use block_io::qcow2::{Compression, Qcow2Disk, Qcow2Options, Qcow2Parameters, Repair};
use block_io::{BlockBackend, BlockOperation, EngineChoice};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator that counts what another one gives out")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What something took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Most memory at a time, bytes.
    memory: usize,
    /// Bytes that were read from and written to files.
    transferred: u64,
    /// Calls that read or wrote.
    calls: u64,
}

/// Sums of `/proc/self/io`: bytes, calls.
fn transferred() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let sum = |names: [&str; 2]| {
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        names.iter().map(|name| line(name).unwrap_or(0)).sum()
    };
    (sum(["rchar:", "wchar:"]), sum(["syscr:", "syscw:"]))
}

/// One at a time: what is counted is the process's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn cost(work: impl FnOnce()) -> Cost {
    let (bytes, calls) = transferred();
    let memory = NOW.load(Ordering::Relaxed);
    PEAK.store(memory, Ordering::Relaxed);
    work();
    let (bytes_after, calls_after) = transferred();
    Cost {
        memory: PEAK.load(Ordering::Relaxed).saturating_sub(memory),
        transferred: bytes_after - bytes,
        calls: calls_after - calls,
    }
}

const DISK_BYTES: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Offsets of fields in the header.
const CLUSTER_BITS_AT: usize = 20;
const L1_OFFSET_AT: usize = 40;
const REFCOUNT_TABLE_AT: usize = 48;
const SNAPSHOTS_AT: usize = 60;
const HEADER_BYTES: usize = 112;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in("/var/tmp")).unwrap()
}

fn number(image: &[u8], at: usize, bytes: usize) -> u64 {
    image[at..at + bytes].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn put(image: &mut [u8], at: u64, value: u64) {
    image[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
}

fn options(read_only: bool) -> Qcow2Options {
    let mut options = Qcow2Options { metadata_cache_bytes: 0, ..Qcow2Options::default() };
    options.file.read_only = read_only;
    // What a ring transfers is not in the counts.
    options.file.engine = EngineChoice::Threads;
    options
}

/// A sound image with data, zeroes, compressed clusters and a snapshot, and where its tables are.
struct Sound {
    image: Vec<u8>,
    cluster: u64,
    l1: u64,
    l2: u64,
    refcount_table: u64,
    refcount_block: u64,
    data: u64,
}

impl Sound {
    fn new(cluster: u64, extended_l2: bool) -> Self {
        let directory = directory();
        let path = directory.path().join("sound.qcow2");
        let parameters =
            Qcow2Parameters { cluster_bytes: cluster, extended_l2, ..Qcow2Parameters::new(DISK_BYTES) };
        Qcow2Disk::create(&path, &parameters).unwrap();
        let disk = Qcow2Disk::open(&path, &options(false)).unwrap();
        let mut buffer = Buffer::patterned(64 << 10, 1);
        let mut driver = Driver::open(&disk, 1);
        driver.write(0, buffer.pieces(&[64 << 10]), false).unwrap();
        let zeroes = BlockOperation::WriteZeroes { offset: 256 * KIB, bytes: 64 * KIB, may_unmap: false };
        driver.run(zeroes).unwrap();
        drop(driver);
        disk.write_compressed(512 * KIB, &vec![7; cluster as usize]).unwrap();
        drop(disk);
        Qcow2Disk::take_snapshot(&path, "before", Duration::from_secs(1)).unwrap();
        let disk = Qcow2Disk::open(&path, &options(false)).unwrap();
        Driver::open(&disk, 1).write(0, buffer.pieces(&[512]), true).unwrap();
        drop(disk);
        let image = std::fs::read(&path).unwrap();
        let place = |at: u64| number(&image, at as usize, 8) & 0x00ff_ffff_ffff_fe00;
        let l1 = place(L1_OFFSET_AT as u64);
        let refcount_table = place(REFCOUNT_TABLE_AT as u64);
        let l2 = place(l1);
        let (refcount_block, data) = (place(refcount_table), place(l2));
        Self { cluster, l1, l2, refcount_table, refcount_block, data, image }
    }

    fn all() -> Vec<Self> {
        vec![Self::new(512, false), Self::new(4096, false), Self::new(65536, false), Self::new(16384, true)]
    }

    /// Where something is that must not be taken for something else, and where nothing is.
    fn places(&self) -> Vec<u64> {
        let end = self.image.len() as u64;
        let tables = [0, self.l1, self.l2, self.refcount_table, self.refcount_block, self.data];
        let beyond = [end - self.cluster, end, end + 1024 * self.cluster, 1 << 55, (1 << 56) - self.cluster];
        let crooked = [512, self.l2 + 512, self.data + 1, self.cluster / 2];
        [&tables[..], &beyond, &crooked].concat()
    }
}

/// Does everything to an image that there is.
fn use_image(path: &Path) {
    let _ = Qcow2Disk::info(path);
    let _ = Qcow2Disk::check(path, Repair::Nothing);
    for read_only in [true, false] {
        let Ok(disk) = Qcow2Disk::open(path, &options(read_only)) else { continue };
        let capacity = disk.capacity();
        let mut driver = Driver::open(&disk, 4);
        let mut buffer = Buffer::filled(64 << 10, 3);
        for offset in [
            0,
            64 * KIB - 512,
            256 * KIB,
            512 * KIB,
            (capacity / 2) & !511,
            capacity.saturating_sub(64 * KIB),
        ] {
            let _ = driver.read(offset, buffer.pieces(&[64 << 10]));
            let _ = driver.write(offset, buffer.pieces(&[1024]), false);
            let _ = driver.run(BlockOperation::WriteZeroes { offset, bytes: 2048, may_unmap: true });
            let _ = driver.run(BlockOperation::Discard { offset, bytes: 64 * KIB });
        }
        let _ = driver.run(BlockOperation::Flush);
        drop(driver);
        if !read_only {
            let _ = disk.write_compressed(0, &vec![1; disk.cluster_bytes() as usize]);
            let _ = disk.resize(2 * MIB);
        }
    }
    let _ = Qcow2Disk::take_snapshot(path, "another", Duration::from_secs(2));
    let _ = Qcow2Disk::apply_snapshot(path, "before");
    let _ = Qcow2Disk::delete_snapshot(path, "before");
    let _ = Qcow2Disk::check(path, Repair::Leaks);
    let _ = Qcow2Disk::check(path, Repair::All);
}

/// Writes an image down, uses it, and holds it to this much memory and transfer.
#[track_caller]
fn endure(path: &Path, image: &[u8], what: &str, memory: u64, transfer: u64) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, image).unwrap();
    let cost = cost(|| use_image(path));
    assert!((cost.memory as u64) < memory, "{what}: {cost:?}");
    assert!(cost.transferred < transfer, "{what}: {cost:?}");
    assert!(cost.calls < 100_000, "{what}: {cost:?}");
}

/// Damages of one word each, all of them on small images: little is needed for them.
fn endure_words(sound: &Sound, what: &str, words: impl Iterator<Item = (u64, u64)>) {
    let directory = directory();
    let path = directory.path().join("damaged.qcow2");
    let mut image = sound.image.clone();
    for (at, value) in words {
        let before = number(&image, at as usize, 8);
        put(&mut image, at, value);
        let name = format!("{what}: {value:#x} at {at:#x}, clusters of {}", sound.cluster);
        // A table of snapshots may have 64 MiB, and is held several times while it is replaced.
        let (memory, transfer) = if what == "snapshot table" { (400, 900) } else { (24, 160) };
        endure(&path, &image, &name, memory * MIB, transfer * MIB);
        put(&mut image, at, before);
    }
}

const FLAGS: [u64; 4] = [0, 1 << 63, 1 << 62, (1 << 63) | 1];

#[test]
fn l1_entries_may_name_anything() {
    let _alone = alone();
    for sound in Sound::all() {
        let values = sound.places().into_iter().flat_map(|place| FLAGS.map(|flags| place | flags));
        endure_words(&sound, "L1", values.map(|value| (sound.l1, value)));
        if sound.cluster == 512 {
            // Two entries that name one table.
            endure_words(&sound, "L1", [(sound.l1 + 8, sound.l2 | 1 << 63)].into_iter());
        }
    }
}

#[test]
fn l2_entries_may_name_anything() {
    let _alone = alone();
    for sound in Sound::all() {
        let width = if sound.cluster == 16384 { 16 } else { 8 };
        let values: Vec<u64> =
            sound.places().into_iter().flat_map(|place| FLAGS.map(|flags| place | flags)).collect();
        let first = values.iter().map(|value| (sound.l2, *value));
        // The second entry, so that two overlap.
        let second = values.iter().map(|value| (sound.l2 + width, *value));
        endure_words(&sound, "L2", first.chain(second));
        if width == 16 {
            let bitmaps = [u64::MAX, 0xffff_ffff, 0xffff_ffff << 32, 1 << 32 | 1];
            endure_words(&sound, "bitmap", bitmaps.into_iter().map(|value| (sound.l2 + 8, value)));
        }
    }
}

#[test]
fn refcount_tables_and_blocks_may_hold_anything() {
    let _alone = alone();
    for sound in Sound::all() {
        let places = sound.places();
        let table = places.iter().flat_map(|place| [0, 8].map(|at| (sound.refcount_table + at, *place)));
        let counts = [0, u64::MAX, 1 << 48, 0x0002_0002_0002_0002];
        let blocks = counts.iter().flat_map(|count| [0, 8, 16].map(|at| (sound.refcount_block + at, *count)));
        endure_words(&sound, "refcounts", table.chain(blocks));
    }
}

#[test]
fn header_fields_may_be_anything() {
    let _alone = alone();
    let sound = Sound::new(4096, false);
    let directory = directory();
    let path = directory.path().join("damaged.qcow2");
    let values = [0, 1, 9, 21, 22, 0x1000, 0x7fff_ffff, 0xffff_ffff, 1 << 40, 1 << 55, 1 << 62, u64::MAX];
    for at in (4..HEADER_BYTES).step_by(4) {
        for value in values {
            for width in [4, 8] {
                let mut image = sound.image.clone();
                image[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
                let name = format!("{value:#x} in {width} bytes at {at}");
                // The largest L1 table (32 MiB) may be read, and held twice, where the header asks for one.
                endure(&path, &image, &name, 200 * MIB, 700 * MIB);
            }
        }
    }
}

#[test]
fn an_image_may_end_anywhere() {
    let _alone = alone();
    let directory = directory();
    let path = directory.path().join("damaged.qcow2");
    for sound in Sound::all() {
        let clusters = sound.image.len() as u64 / sound.cluster;
        let step = (clusters / 24).max(1) as usize;
        for cluster in (0..clusters).step_by(step) {
            for within in [0, 1, 100, sound.cluster / 2, sound.cluster - 1] {
                let end = (cluster * sound.cluster + within) as usize;
                endure(&path, &sound.image[..end], &format!("cut to {end}"), 24 * MIB, 160 * MIB);
            }
        }
    }
}

#[test]
fn nothing_beyond_the_image_is_read() {
    let _alone = alone();
    // Data that ends in the middle of a cluster reads as zeroes from there on, whatever the memory held before.
    let sound = Sound::new(65536, false);
    let directory = directory();
    let path = directory.path().join("cut.qcow2");
    let end = sound.data as usize + 1000;
    std::fs::write(&path, &sound.image[..end.min(sound.image.len())]).unwrap();
    let Ok(disk) = Qcow2Disk::open(&path, &options(true)) else { panic!("only data is missing") };
    let mut buffer = Buffer::filled(65536, 0xee);
    Driver::open(&disk, 1).read(0, buffer.pieces(&[65536])).unwrap();
    assert!(buffer.bytes()[1000..].iter().all(|byte| *byte == 0), "bytes that are not in the file");
}

/// An image whose first cluster is compressed data of our choice, as often as the disk has clusters.
fn with_compressed(path: &Path, compression: Compression, data: &[u8], cluster: u64) {
    let parameters =
        Qcow2Parameters { cluster_bytes: cluster, compression, ..Qcow2Parameters::new(64 * cluster) };
    Qcow2Disk::create(path, &parameters).unwrap();
    let disk = Qcow2Disk::open(path, &options(false)).unwrap();
    let mut buffer = Buffer::filled(512, 1);
    Driver::open(&disk, 1).write(0, buffer.pieces(&[512]), true).unwrap();
    drop(disk);
    let image = std::fs::read(path).unwrap();
    let l1 = number(&image, L1_OFFSET_AT, 8);
    let l2 = number(&image, l1 as usize, 8) & 0x00ff_ffff_ffff_fe00;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let place = (image.len() as u64).next_multiple_of(cluster);
    file.write_all_at(data, place).unwrap();
    let offset_bits = 62 - (cluster.trailing_zeros() - 8);
    let sectors = (data.len() as u64).div_ceil(512).min(cluster / 512 * 2) - 1;
    for entry in 0..64 {
        let descriptor = 1u64 << 62 | sectors << offset_bits | place;
        file.write_all_at(&descriptor.to_be_bytes(), l2 + entry * 8).unwrap();
    }
}

#[test]
fn a_decompression_bomb_costs_one_cluster() {
    let _alone = alone();
    let directory = directory();
    // A GiB of zeroes: about a MiB compressed with zlib, some KiB with zstd, of which an entry can name two clusters.
    let zeroes = vec![0; MIB as usize];
    let mut zlib = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    for _ in 0..1024 {
        zlib.write_all(&zeroes).unwrap();
        zstd.write_all(&zeroes).unwrap();
    }
    let (zlib, zstd) = (zlib.finish().unwrap(), zstd.finish().unwrap());
    let bombs = [(Compression::Zlib, zlib), (Compression::Zstd, zstd)];
    for (compression, bomb) in bombs {
        for cluster in [4096, 65536, 2 << 20] {
            let path = directory.path().join(format!("{compression:?}-{cluster}.qcow2"));
            with_compressed(&path, compression, &bomb, cluster);
            let disk = Qcow2Disk::open(&path, &options(true)).unwrap();
            let mut driver = Driver::open(&disk, 1);
            let mut buffer = Buffer::filled(4096, 0xee);
            let cost = cost(|| {
                for entry in 0..64 {
                    driver.read(entry * cluster, buffer.pieces(&[4096])).unwrap();
                }
            });
            assert!(buffer.bytes().iter().all(|byte| *byte == 0));
            // A window of up to 8 MiB, the cluster, what is read of it.
            assert!(cost.memory as u64 <= 12 * MIB + 6 * cluster, "{compression:?}, {cluster}: {cost:?}");
            // Two clusters at most are read for one.
            assert!(cost.transferred <= 64 * (2 * cluster + 8192), "{compression:?}, {cluster}: {cost:?}");
        }
    }
}

#[test]
fn compressed_data_that_is_none_is_an_error() {
    let _alone = alone();
    let directory = directory();
    for compression in [Compression::Zlib, Compression::Zstd] {
        for (number, data) in
            [vec![0; 4096], vec![0xff; 4096], vec![0x28, 0xb5, 0x2f, 0xfd]].iter().enumerate()
        {
            let path = directory.path().join(format!("{compression:?}-{number}.qcow2"));
            with_compressed(&path, compression, data, 65536);
            let disk = Qcow2Disk::open(&path, &options(true)).unwrap();
            let mut buffer = Buffer::filled(4096, 0);
            let read = Driver::open(&disk, 1).read(0, buffer.pieces(&[4096]));
            assert!(read.is_err(), "{compression:?}, {number}");
        }
    }
}

/// A file of this many bytes, most of them holes, that begins with a sound image's.
fn grown(path: &Path, image: &[u8], bytes: u64) -> std::fs::File {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, image).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
    file
}

#[test]
fn one_table_that_is_named_often_is_read_once() {
    let _alone = alone();
    let directory = directory();
    let path: PathBuf = directory.path().join("often.qcow2");
    // The disk has 2^14 L2 tables of 64 KiB, all of them the same one.
    let parameters = Qcow2Parameters::new(1 << 43);
    Qcow2Disk::create(&path, &parameters).unwrap();
    let disk = Qcow2Disk::open(&path, &options(false)).unwrap();
    let mut buffer = Buffer::filled(512, 1);
    Driver::open(&disk, 1).write(0, buffer.pieces(&[512]), true).unwrap();
    drop(disk);
    let image = std::fs::read(&path).unwrap();
    let l1 = number(&image, L1_OFFSET_AT, 8);
    let entry = number(&image, l1 as usize, 8);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let entries = (1 << 43) / (512 << 20);
    let table: Vec<u8> = std::iter::repeat_n(entry.to_be_bytes(), entries).flatten().collect();
    file.write_all_at(&table, l1).unwrap();
    let cost = cost(|| {
        for repair in [Repair::Nothing, Repair::Leaks, Repair::All] {
            let report = Qcow2Disk::check(&path, repair).unwrap();
            assert!(report.corruptions > 0, "one table for everything is a contradiction: {report:?}");
        }
    });
    assert!(cost.transferred < 8 * MIB && cost.memory < 16 << 20, "{cost:?}");
}

#[test]
fn snapshot_tables_may_say_anything() {
    let _alone = alone();
    let directory = directory();
    let path = directory.path().join("snapshots.qcow2");
    let sound = Sound::new(4096, false);
    let table = number(&sound.image, SNAPSHOTS_AT + 4, 8);
    let words = [0, 1, u64::MAX, 1 << 55, sound.l1, sound.l2, u64::MAX >> 1, 0xffff_ffff];
    let damages = (0..72).step_by(4).flat_map(|at| words.map(|value| (table + at, value)));
    endure_words(&sound, "snapshot table", damages);
    // 65536 snapshots, each with an L1 table of another length at the same place.
    let mut image = sound.image.clone();
    image[SNAPSHOTS_AT..SNAPSHOTS_AT + 4].copy_from_slice(&65536u32.to_be_bytes());
    let place = 16 * MIB;
    put(&mut image, SNAPSHOTS_AT as u64 + 4, place);
    let file = grown(&path, &image, 128 * MIB);
    let mut records = Vec::new();
    for number in 0..65536u32 {
        let mut record = [0; 40];
        record[..8].copy_from_slice(&(32 * MIB).to_be_bytes());
        record[8..12].copy_from_slice(&((4 << 20) - number).to_be_bytes());
        records.extend(record);
    }
    file.write_all_at(&records, place).unwrap();
    drop(file);
    let report = cost(|| {
        let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
        assert!(report.corruptions > 0);
        let _ = Qcow2Disk::info(&path);
    });
    assert!(report.transferred < 600 * MIB && report.memory < 300 << 20, "{report:?}");
    // One snapshot with a name and extra data without end.
    for (at, value, bytes) in [(36, u64::from(u32::MAX), 4), (36, 64 * MIB, 4), (12, 0xffff_ffff, 4)] {
        let mut image = sound.image.clone();
        let at = table as usize + at;
        image[at..at + bytes].copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
        endure(&path, &image, &format!("{value:#x} at {at}"), 400 * MIB, 900 * MIB);
    }
}

#[test]
fn a_sparse_image_of_many_gibibytes_is_checked_by_what_it_holds() {
    let _alone = alone();
    let directory = directory();
    let path = directory.path().join("long.qcow2");
    let sound = Sound::new(65536, false);
    assert_eq!(number(&sound.image, CLUSTER_BITS_AT, 4), 16);
    drop(grown(&path, &sound.image, 64 << 30));
    let cost = cost(|| {
        let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
        assert_eq!(report.corruptions, 0, "{report:?}");
    });
    // Of a million clusters, a few are used.
    assert!(cost.memory < 4 << 20 && cost.transferred < 4 * MIB, "{cost:?}");
}
