//! VHDX images that were not closed: the log is made by hand, and replayed by qemu-img too.

use super::*;
use crate::formats::vhdx::checksum;

const LOG: usize = MIB;
const SECTOR: usize = 4096;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A change that a log entry makes.
enum Change {
    Write(usize, Vec<u8>),
    Zero(usize, usize),
}

/// An entry with its checksum.
fn entry(guid: [u8; 16], sequence: u64, tail: usize, file_bytes: usize, changes: &[Change]) -> Vec<u8> {
    let mut descriptors = Vec::new();
    let mut data = Vec::new();
    for change in changes {
        let mut descriptor = vec![0; 32];
        put(&mut descriptor, 24, &sequence.to_le_bytes());
        match change {
            Change::Zero(offset, bytes) => {
                put(&mut descriptor, 0, b"zero");
                put(&mut descriptor, 8, &(*bytes as u64).to_le_bytes());
                put(&mut descriptor, 16, &(*offset as u64).to_le_bytes());
            }
            Change::Write(offset, content) => {
                put(&mut descriptor, 0, b"desc");
                put(&mut descriptor, 4, &content[SECTOR - 4..]);
                put(&mut descriptor, 8, &content[..8]);
                put(&mut descriptor, 16, &(*offset as u64).to_le_bytes());
                let mut sector = content.clone();
                put(&mut sector, 0, b"data");
                put(&mut sector, 4, &sequence.to_le_bytes()[4..]);
                put(&mut sector, SECTOR - 4, &sequence.to_le_bytes()[..4]);
                data.extend(sector);
            }
        }
        descriptors.extend(descriptor);
    }
    let mut entry = vec![0; 64];
    entry.extend(descriptors);
    entry.resize(entry.len().next_multiple_of(SECTOR), 0);
    entry.extend(data);
    let length = u32::try_from(entry.len()).unwrap();
    put(&mut entry, 0, b"loge");
    put(&mut entry, 8, &length.to_le_bytes());
    put(&mut entry, 12, &u32::try_from(tail).unwrap().to_le_bytes());
    put(&mut entry, 16, &sequence.to_le_bytes());
    put(&mut entry, 24, &u32::try_from(changes.len()).unwrap().to_le_bytes());
    put(&mut entry, 32, &guid);
    put(&mut entry, 48, &(file_bytes as u64).to_le_bytes());
    put(&mut entry, 56, &(file_bytes as u64).to_le_bytes());
    let sum = checksum(&entry);
    put(&mut entry, 4, &sum.to_le_bytes());
    entry
}

/// Puts the entries into the log at these places and makes both headers say that it counts.
fn with_log(image: &[u8], guid: [u8; 16], entries: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut image = image.to_vec();
    image[LOG..LOG + MIB].fill(0);
    for (at, entry) in entries {
        for (number, sector) in entry.chunks(SECTOR).enumerate() {
            put(&mut image, LOG + (at + number * SECTOR) % MIB, sector);
        }
    }
    for header in [64 << 10, 128 << 10] {
        assert_eq!(
            image[header + 68..header + 80],
            [&0x10_0000u32.to_le_bytes()[..], &(LOG as u64).to_le_bytes()].concat()
        );
        put(&mut image, header + 48, &guid);
        let sum = checksum(&image[header..header + SECTOR]);
        put(&mut image, header + 4, &sum.to_le_bytes());
    }
    image
}

/// An image whose table, as it is in the file, lacks what the log says; and where its table and its first block are.
fn image() -> Option<(Vec<u8>, Vec<u8>, usize)> {
    let mut images = small_images().into_iter();
    let found = images.find(|image| image.format == Format::Vhdx && image.name.contains("1M"))?;
    let Small { bytes, content, .. } = found;
    let bat = bytes[192 << 10..256 << 10]
        .windows(16)
        .position(|guid| guid == 0x084a_fd9b_5e11_649d_4200_f623_2dc2_7766_u128.to_le_bytes())
        .expect("a BAT region");
    let at = (192 << 10) + bat + 16;
    let table = usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
    Some((bytes.to_vec(), content, table))
}

fn held(image: Vec<u8>) -> Result<Vec<u8>, ImageError> {
    read_all(&open_in_memory(Format::Vhdx, Arc::new(image))?)
}

const GUID: [u8; 16] = [0x42; 16];

#[test]
fn a_dirty_log_is_replayed_as_qemu_img_does() {
    let Some((clean, content, table)) = image() else { return };
    let bat = clean[table..table + SECTOR].to_vec();
    let mut lost = clean.clone();
    lost[table..table + SECTOR].fill(0);
    assert!(held(lost.clone()).unwrap().iter().all(|byte| *byte == 0), "without the log the blocks are lost");
    // Three entries that wrap around the log's end; an old one of another sequence before them.
    let at = [MIB - SECTOR, SECTOR, 3 * SECTOR];
    let changes = [
        vec![Change::Write(table, vec![0x99; SECTOR])],
        vec![Change::Zero(table, 2 * SECTOR)],
        vec![Change::Zero(table + SECTOR, SECTOR), Change::Write(table, bat)],
    ];
    let mut entries: Vec<_> = (0..3)
        .map(|number| (at[number], entry(GUID, 77 + number as u64, at[0], clean.len(), &changes[number])))
        .collect();
    assert_eq!(entries[0].1.len(), 2 * SECTOR);
    assert_eq!(entries[1].1.len(), SECTOR);
    entries[1].0 = SECTOR;
    entries[2].0 = 2 * SECTOR;
    entries.push((16 * SECTOR, entry(GUID, 12, 16 * SECTOR, clean.len(), &[Change::Zero(table, SECTOR)])));
    entries.push((32 * SECTOR, entry([9; 16], 99, 32 * SECTOR, clean.len(), &[Change::Zero(table, SECTOR)])));
    let dirty = with_log(&lost, GUID, &entries);
    assert!(held(dirty.clone()).unwrap() == content, "replayed in memory");

    let directory = tempfile::tempdir().unwrap();
    let (path, raw) = (directory.path().join("image.vhdx"), directory.path().join("raw"));
    std::fs::write(&path, &dirty).unwrap();
    let disk = FormatDisk::open(&path, Format::Vhdx, &allowed()).unwrap();
    assert!(disk::read_through_queue(&disk, crate::EngineChoice::Automatic) == content, "through the queue");
    drop(disk);
    assert!(std::fs::read(&path).unwrap() == dirty, "the file is not changed");
    assert!(run("qemu-img", &["check", "-q", "-r", "all", "-f", "vhdx", text(&path)]));
    assert!(run("qemu-img", &["convert", "-f", "vhdx", "-O", "raw", text(&path), text(&raw)]));
    assert!(std::fs::read(&raw).unwrap() == content, "qemu-img sees the same");
}

#[test]
fn payload_that_the_log_changes_is_read_changed() {
    let Some((clean, content, table)) = image() else { return };
    let first = (0..3)
        .find_map(|block| {
            let entry =
                u64::from_le_bytes(clean[table + block * 8..table + block * 8 + 8].try_into().unwrap());
            (entry & 7 == 6).then_some((block * MIB, usize::try_from(entry >> 20).unwrap() * MIB))
        })
        .expect("a block that is present");
    let changes =
        [Change::Write(first.1 + SECTOR, vec![0x77; SECTOR]), Change::Zero(first.1 + 2 * SECTOR, SECTOR)];
    let dirty = with_log(&clean, GUID, &[(0, entry(GUID, 5, 0, clean.len(), &changes))]);
    let mut expected = content;
    expected[first.0 + SECTOR..first.0 + 2 * SECTOR].fill(0x77);
    expected[first.0 + 2 * SECTOR..first.0 + 3 * SECTOR].fill(0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.vhdx");
    std::fs::write(&path, &dirty).unwrap();
    let disk = FormatDisk::open(&path, Format::Vhdx, &allowed()).unwrap();
    for _ in 0..2 {
        assert!(disk::read_through_queue(&disk, crate::EngineChoice::Automatic) == expected);
    }
}

#[test]
fn a_log_that_is_damaged_is_refused() {
    let Some((clean, _, table)) = image() else { return };
    let good = entry(GUID, 5, 0, clean.len(), &[Change::Zero(table + SECTOR, SECTOR)]);
    held(with_log(&clean, GUID, &[(0, good.clone())])).unwrap();
    let refused = |at: usize, entry: Vec<u8>| {
        let error = held(with_log(&clean, GUID, &[(at, entry)])).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    assert!(refused(0, flipped).contains("log is damaged"), "a wrong checksum");
    assert!(refused(SECTOR, good).contains("log is damaged"), "its tail is somewhere else");
    let zero = |offset, bytes| entry(GUID, 5, 0, clean.len(), &[Change::Zero(offset, bytes)]);
    assert!(
        refused(0, zero(0, SECTOR)).contains("FileOffset of a log descriptor is 0"),
        "headers are not logged"
    );
    assert!(refused(0, zero(table + 1, SECTOR)).contains("FileOffset"));
    assert!(refused(0, zero(clean.len(), SECTOR)).contains("FileOffset"));
    assert!(refused(0, zero(table, usize::MAX - 4095)).contains("FileOffset"));
    let cut = entry(GUID, 5, 0, clean.len() + SECTOR, &[]);
    assert!(refused(0, cut).contains("FlushedFileOffset"));
}

#[test]
fn entries_that_overlap_each_other_do_not_take_forever() {
    let Some((clean, ..)) = image() else { return };
    // A header in every sector, each saying that its entry is the whole log.
    let mut sector = entry(GUID, 5, 0, clean.len(), &[]);
    put(&mut sector, 8, &(1u32 << 20).to_le_bytes());
    let entries: Vec<_> = (0..256).map(|number| (number * SECTOR, sector.clone())).collect();
    let error = held(with_log(&clean, GUID, &entries)).unwrap_err().to_string();
    assert!(error.contains("overlap"), "{error}");
}
