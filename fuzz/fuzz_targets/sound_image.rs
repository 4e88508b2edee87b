//! qcow2 images that are sound, of every kind, for targets to begin with.

use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use block_io::conformance::{Buffer, Driver};
use block_io::qcow2::{
    BackingAccess, BackingName, Compression, Qcow2Disk, Qcow2Options, Qcow2Parameters, Repair,
};
use block_io::{BlockBackend as _, BlockOperation, EngineChoice, Locking, RawOptions};

use vireo_fuzz::file_in_memory;

/// Size of the disk in every image.
pub const DISK_BYTES: u64 = 1 << 20;
/// "Refcount is exactly one", in L1 and L2 entries.
const COPIED: u64 = 1 << 63;
/// Offsets in the header.
const L1_ENTRIES_AT: usize = 36;
const L1_OFFSET_AT: usize = 40;
const SNAPSHOTS_AT: usize = 60;
const REFCOUNT_TABLE_AT: usize = 48;

/// An image and what is known of it.
pub struct Sound {
    pub image: Vec<u8>,
    /// What its disk holds.
    pub content: Vec<u8>,
    /// Place of the L1 table of its snapshot, which holds what the disk does.
    pub snapshot_l1: Option<u64>,
}

/// How a target opens its images. Backing files are in memory, which has no directory.
pub fn options(read_only: bool) -> Qcow2Options {
    Qcow2Options {
        file: RawOptions {
            read_only,
            locking: Locking::Shared,
            engine: EngineChoice::Threads,
            ..RawOptions::default()
        },
        metadata_cache_bytes: 0,
        backing: BackingAccess::Within(vec!["/".into()]),
    }
}

pub fn number(image: &[u8], at: usize, bytes: usize) -> u64 {
    image[at..at + bytes].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Places of the refcount blocks.
pub fn refcount_blocks(image: &[u8]) -> Vec<usize> {
    let table = number(image, REFCOUNT_TABLE_AT, 8) as usize;
    let entries = (number(image, REFCOUNT_TABLE_AT + 8, 4) as usize) << number(image, 20, 4) >> 3;
    let place = |entry| number(image, table + entry * 8, 8) as usize;
    (0..entries).map(place).filter(|place| *place != 0).collect()
}

/// The disk's bytes, by way of the library.
pub fn content(image: &[u8]) -> Vec<u8> {
    let (_file, path) = file_in_memory(image);
    let disk = Qcow2Disk::open(&path, &options(true)).expect("a sound image");
    let bytes = disk.capacity() as usize;
    let mut buffer = Buffer::filled(bytes, 0xee);
    Driver::open(&disk, 1).read(0, buffer.pieces(&[bytes])).expect("a sound image is read");
    buffer.bytes().to_vec()
}

/// Adds a snapshot: a second L1 table with the same entries, of which none is marked as its own any more, and a table that
/// names it. The counts are put right by a repair.
fn with_snapshot(mut image: Vec<u8>, extended: bool) -> (Vec<u8>, u64) {
    let cluster = 1usize << number(&image, 20, 4);
    let (l1, entries) = (number(&image, L1_OFFSET_AT, 8) as usize, number(&image, L1_ENTRIES_AT, 4) as usize);
    let clear = |image: &mut Vec<u8>, at: usize| {
        let entry = number(image, at, 8) & !COPIED;
        image[at..at + 8].copy_from_slice(&entry.to_be_bytes());
        entry as usize
    };
    for entry in 0..entries {
        let table = clear(&mut image, l1 + entry * 8);
        let width = if extended { 16 } else { 8 };
        for entry in (0..cluster / width).filter(|_| table != 0) {
            // Not a compressed cluster's descriptor, which has other fields there.
            if number(&image, table + entry * width, 8) & 1 << 62 == 0 {
                clear(&mut image, table + entry * width);
            }
        }
    }
    image.resize(image.len().next_multiple_of(cluster), 0);
    let copy = image.len();
    image.extend_from_within(l1..l1 + entries * 8);
    image.resize(image.len().next_multiple_of(cluster), 0);
    let table = image.len() as u64;
    image.extend((copy as u64).to_be_bytes());
    image.extend((entries as u32).to_be_bytes());
    // Lengths of the identifier and the name, times, size of the state, and of the extra data.
    image.extend([0, 1, 0, 2]);
    image.extend([0; 20]);
    image.extend(16u32.to_be_bytes());
    image.extend([0; 8]);
    image.extend(DISK_BYTES.to_be_bytes());
    image.extend(b"1ab");
    image.resize(image.len().next_multiple_of(cluster), 0);
    image[SNAPSHOTS_AT..SNAPSHOTS_AT + 4].copy_from_slice(&1u32.to_be_bytes());
    image[SNAPSHOTS_AT + 4..SNAPSHOTS_AT + 12].copy_from_slice(&table.to_be_bytes());
    let (_file, path) = file_in_memory(&image);
    Qcow2Disk::check(&path, Repair::All).expect("a repair of the counts");
    let report = Qcow2Disk::check(&path, Repair::Nothing).expect("a check");
    assert!((report.corruptions, report.leaked_clusters) == (0, 0), "{report:?}");
    (std::fs::read(&path).expect("the image"), copy as u64)
}

/// Images of several kinds, with some data in each.
pub fn images() -> &'static [Sound] {
    static IMAGES: OnceLock<Vec<Sound>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let base: Vec<u8> = (0..DISK_BYTES as usize * 3 / 4).map(|at| (at / 512 % 251) as u8 + 1).collect();
        let (base, base_path) = file_in_memory(&base);
        assert!(base_path.ends_with(base.as_raw_fd().to_string()));
        // Overlays name it by its number.
        std::mem::forget(base);
        let kinds = [
            (512, 16, false, false, false),
            (512, 2, false, false, true),
            (4096, 1, false, false, false),
            (4096, 64, false, true, true),
            (65536, 16, false, true, false),
            (16384, 8, true, false, true),
            (32768, 16, true, true, false),
        ];
        let make = |(cluster_bytes, refcount_bits, extended_l2, over, snapshot)| {
            let path = std::env::temp_dir().join(format!("vireo-fuzz-{}.qcow2", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let backing = BackingName { name: base_path.display().to_string(), format: "raw".to_owned() };
            let parameters = Qcow2Parameters {
                cluster_bytes,
                refcount_bits,
                extended_l2,
                compression: if cluster_bytes == 4096 { Compression::Zstd } else { Compression::Zlib },
                backing: Some(backing).filter(|_| over),
                ..Qcow2Parameters::new(DISK_BYTES)
            };
            Qcow2Disk::create(&path, &parameters).expect("an image");
            let disk = Qcow2Disk::open(&path, &options(false)).expect("our own image");
            let mut driver = Driver::open(&disk, 4);
            let mut buffer = Buffer::patterned(4096, 7);
            for offset in [0, 256 << 10, DISK_BYTES - 4096] {
                driver.write(offset, buffer.pieces(&[4096]), false).expect("a write");
            }
            let zeroes = BlockOperation::WriteZeroes { offset: 128 << 10, bytes: 64 << 10, may_unmap: true };
            driver.run(zeroes).expect("zeroes");
            drop((driver, disk));
            let image = std::fs::read(&path).expect("the image");
            std::fs::remove_file(&path).expect("the image is removed");
            let (image, l1) = if snapshot { with_snapshot(image, extended_l2) } else { (image, 0) };
            Sound { content: content(&image), image, snapshot_l1: Some(l1).filter(|l1| *l1 != 0) }
        };
        kinds.map(make).into()
    })
}

/// The content of the snapshot of an image: that of its disk, once the header names the snapshot's L1 table.
pub fn snapshot_content(image: &[u8], l1: u64) -> Vec<u8> {
    let mut image = image.to_vec();
    // The table's first snapshot: its L1 table is where it always was.
    let table = number(&image, SNAPSHOTS_AT + 4, 8) as usize;
    assert_eq!(number(&image, table, 8), l1, "the snapshot's table was moved");
    let entries = number(&image, table + 8, 4) as u32;
    image[24..32].copy_from_slice(&DISK_BYTES.to_be_bytes());
    image[L1_ENTRIES_AT..L1_ENTRIES_AT + 4].copy_from_slice(&entries.to_be_bytes());
    image[L1_OFFSET_AT..L1_OFFSET_AT + 8].copy_from_slice(&l1.to_be_bytes());
    content(&image)
}
