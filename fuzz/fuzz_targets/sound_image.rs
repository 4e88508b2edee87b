//! qcow2 images that are sound, of every kind, for targets to begin with.

use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;
use std::time::Duration;

use block_io::conformance::{Buffer, Driver};
use block_io::qcow2::{BackingAccess, BackingName, Compression, Qcow2Disk, Qcow2Options, Qcow2Parameters};
use block_io::{BlockBackend as _, BlockOperation, EngineChoice, Locking, RawOptions};

use vireo_fuzz::file_in_memory;

/// Size of the disk in every image.
pub const DISK_BYTES: u64 = 1 << 20;
/// Name of the snapshot that some images have.
pub const SNAPSHOT: &str = "first";
/// Offset in the header.
const REFCOUNT_TABLE_AT: usize = 48;

/// An image and what is known of it.
pub struct Sound {
    pub image: Vec<u8>,
    /// What its disk holds.
    pub content: Vec<u8>,
    /// Whether it has a snapshot, of the same content.
    pub snapshot: bool,
    /// Whether counts have room for many snapshots.
    pub wide_counts: bool,
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
            drop(driver);
            if !over {
                let cluster = vec![7; cluster_bytes as usize];
                disk.write_compressed(cluster_bytes * 3, &cluster).expect("a compressed cluster");
            }
            drop(disk);
            if snapshot {
                Qcow2Disk::take_snapshot(&path, SNAPSHOT, Duration::from_secs(1)).expect("a snapshot");
            }
            let image = std::fs::read(&path).expect("the image");
            std::fs::remove_file(&path).expect("the image is removed");
            Sound { content: content(&image), image, snapshot, wide_counts: refcount_bits > 4 }
        };
        kinds.map(make).into()
    })
}
