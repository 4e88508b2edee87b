//! Valid images, damaged: cut, fields set to extremes, bytes changed at random. Errors are fine, and right content is;
//! panics, wrong content of cut images, and endless loops are not.

use proptest::prelude::*;

use super::*;
use crate::formats::{vhd, vhdx};

/// An image with some bytes changed and its end cut off, without a copy of it.
#[derive(Debug)]
struct Damaged {
    bytes: Arc<Vec<u8>>,
    changes: Vec<(usize, Vec<u8>)>,
    length: usize,
}

impl ImageSource for Damaged {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).filter(|end| *end <= self.length);
        let end = end.expect("a read beyond the end must not even be tried");
        buffer.copy_from_slice(&self.bytes[start..end]);
        for (at, change) in &self.changes {
            for (number, byte) in change.iter().enumerate() {
                if (start..end).contains(&(at + number)) {
                    buffer[at + number - start] = *byte;
                }
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.length as u64
    }
}

/// Reads some of an image, whatever size it says that it has.
fn read_some(image: &Image) -> Result<Vec<u8>, ImageError> {
    let mut result = Ok(Vec::new());
    let capacity = image.capacity();
    for offset in [0, 1 << 20, capacity / 2, capacity.saturating_sub(1 << 16)] {
        let length = capacity.saturating_sub(offset).min(1 << 16);
        let mut buffer = vec![0; usize::try_from(length).unwrap()];
        let read = image.read_at(&mut buffer, offset);
        result = result.and_then(|mut all: Vec<u8>| {
            read?;
            all.extend(buffer);
            Ok(all)
        });
    }
    result
}

fn open(
    format: Format,
    bytes: &Arc<Vec<u8>>,
    changes: Vec<(usize, Vec<u8>)>,
    length: usize,
) -> Result<Image, ImageError> {
    open_in_memory(format, Arc::new(Damaged { bytes: Arc::clone(bytes), changes, length }))
}

/// Every message is one line.
fn check<T>(result: Result<T, ImageError>) -> Option<T> {
    result.map_err(|error| assert!(!error.to_string().contains('\n'), "{error}")).ok()
}

#[test]
fn a_cut_image_is_refused_or_reads_right() {
    for Small { format, name, bytes, content } in small_images() {
        let mut refused = 0;
        let sectors = bytes.len() / 512;
        // All of the first sectors and the last, some between; and just before each end.
        let cuts = (0..sectors).filter(|sector| *sector < 64 || sector % 97 == 0 || *sector > sectors - 32);
        for cut in cuts.flat_map(|sector| [sector * 512, sector * 512 + 511]) {
            let read = open(format, &bytes, Vec::new(), cut).and_then(|image| read_all(&image));
            match check(read) {
                Some(read) => assert!(read == content, "{name} cut to {cut} reads wrong"),
                None => refused += 1,
            }
        }
        assert!(refused > 100, "{name}: {refused} of the cuts were noticed");
        for cut in [0, 1, 511, 512, 1024] {
            let read = open(format, &bytes, Vec::new(), cut).and_then(|image| read_all(&image));
            assert!(read.is_err(), "{name} cut to {cut}");
        }
    }
}

/// Where structures with fields are in an image, and how a change is made good by a checksum: start, length.
fn structures(format: Format, bytes: &[u8]) -> Vec<(usize, usize)> {
    match format {
        Format::Vmdk => {
            let directory = u64::from_le_bytes(bytes[56..64].try_into().unwrap());
            let footer = bytes.len() - 1536;
            match usize::try_from(directory) {
                Ok(directory) if directory < bytes.len() => vec![(0, 96), (directory * 512, 16)],
                _ => vec![(0, 12), (footer, 16), (footer + 512, 96), (footer + 1024, 16)],
            }
        }
        Format::Vhd => vec![(0, 96), (512, 64), (1536, 16), (bytes.len() - 512, 96)],
        Format::Vdi => vec![(64, 448), (512, 16)],
        Format::Vhdx => {
            let metadata = bytes.windows(8).position(|window| window == b"metadata").unwrap();
            let table = (192 << 10, 96);
            vec![
                (64 << 10, 96),
                (128 << 10, 96),
                table,
                (metadata, 256),
                (metadata + 65536, 64),
                (3 * MIB, 64),
            ]
        }
        Format::Qcow2 | Format::Ova => Vec::new(),
    }
}

/// The change, and what makes the structure's checksum right again.
fn sealed(format: Format, bytes: &[u8], at: usize, value: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut changes = vec![(at, value.to_vec())];
    let changed = |start: usize, length: usize| {
        let mut structure = bytes[start..start + length].to_vec();
        let end = (at - start + value.len()).min(length);
        structure[at - start..end].copy_from_slice(&value[..end + start - at]);
        structure
    };
    match format {
        Format::Vhdx => {
            for (start, length) in
                [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536)]
            {
                if (start..start + length).contains(&at) && at >= start + 8 {
                    changes.push((start + 4, vhdx::checksum(&changed(start, length)).to_le_bytes().to_vec()));
                }
            }
        }
        Format::Vhd => {
            for (start, length, field) in [(0, 512, 64), (512, 1024, 36), (bytes.len() - 512, 512, 64)] {
                if (start..start + length).contains(&at) {
                    changes.push((
                        start + field,
                        vhd::checksum(&changed(start, length), field).to_be_bytes().to_vec(),
                    ));
                }
            }
        }
        _ => {}
    }
    changes
}

#[test]
fn fields_with_extreme_values_are_refused_or_harmless() {
    let numbers = [0u64, 1, 511, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 54, u64::MAX >> 1, u64::MAX];
    for Small { format, name, bytes, content } in small_images() {
        let mut refused = 0;
        for (start, length) in structures(format, &bytes) {
            for at in (start..start + length).step_by(4) {
                for number in numbers {
                    for width in [2, 4, 8] {
                        let value = match format {
                            Format::Vhd => number.to_be_bytes()[8 - width..].to_vec(),
                            _ => number.to_le_bytes()[..width].to_vec(),
                        };
                        let changes = sealed(format, &bytes, at, &value);
                        let image = open(format, &bytes, changes, bytes.len());
                        let read = check(image.and_then(|image| read_some(&image)));
                        refused += usize::from(read.is_none());
                    }
                }
            }
        }
        assert!(refused > 50, "{name}: {refused} were refused");
        let read = open(format, &bytes, Vec::new(), bytes.len()).and_then(|image| read_all(&image));
        assert!(read.unwrap() == content);
    }
}

#[test]
fn a_message_names_the_file_the_field_and_the_value() {
    for Small { format, bytes, .. } in small_images() {
        let (at, value, message) = match format {
            Format::Vmdk if bytes[56..64] == [0xff; 8] => {
                (bytes.len() - 1024 + 20, 3u64.to_le_bytes(), "grainSize is 3: ")
            }
            Format::Vmdk => (20, 3u64.to_le_bytes(), "grainSize is 3: "),
            Format::Vhd => (512 + 24, (0x0002_0000_0000_0003u64).to_be_bytes(), "Header Version is 131072: "),
            Format::Vdi => (368, u64::MAX.to_le_bytes(), "cBlocks is 3: the disk has "),
            _ => (192 << 10 | 8, 2048u64.to_le_bytes(), "EntryCount of the region table is 2048: "),
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let mut damaged = bytes.to_vec();
        for (at, value) in sealed(format, &bytes, at, &value) {
            damaged[at..at + value.len()].copy_from_slice(&value);
        }
        std::fs::write(&path, damaged).unwrap();
        let error = FormatDisk::open(&path, format, &allowed()).unwrap_err().to_string();
        let expected = format!("{}: cannot open the {format} image: {message}", path.display());
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_grain_that_is_somewhere_else_is_not_taken() {
    for Small { format, name, bytes, .. } in small_images() {
        if !name.contains("streamOptimized") {
            continue;
        }
        let header = if name.contains("footer") { bytes.len() - 1024 } else { 0 };
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let table = number(number(header + 56) * 512) * 512;
        let present: Vec<usize> = (0..48).filter(|grain| number(table + grain * 4) > 1).collect();
        let [first, second] = [present[0], present[1]].map(|grain| table + grain * 4);
        let swapped =
            vec![(first, bytes[second..second + 4].to_vec()), (second, bytes[first..first + 4].to_vec())];
        let image = open(format, &bytes, swapped, bytes.len()).unwrap();
        let error = read_all(&image).unwrap_err().to_string();
        let [wanted, found] = [present[0] * 128, present[1] * 128];
        assert_eq!(error, format!("the sector of a grain's marker is {found}: is not {wanted}"));
    }
}

#[test]
fn bytes_changed_at_random_do_no_harm() {
    for Small { format, name, bytes, .. } in small_images() {
        let structures = structures(format, &bytes);
        let place = prop_oneof![
            3 => (0..structures.len(), any::<prop::sample::Index>()).prop_map(move |(number, index)| {
                let (start, length) = structures[number];
                start + index.index(length)
            }),
            1 => 0..bytes.len() - 16,
        ];
        let change = (place, proptest::collection::vec(any::<u8>(), 1..9));
        let config =
            proptest::test_runner::Config { cases: 200, failure_persistence: None, ..Default::default() };
        let strategy = (
            proptest::collection::vec(change, 1..4),
            prop_oneof![5 => Just(usize::MAX), 1 => any::<usize>()],
        );
        let result = proptest::test_runner::TestRunner::new(config).run(&strategy, |(changes, cut)| {
            let length = if cut == usize::MAX { bytes.len() } else { cut % bytes.len() };
            let changes = changes.iter().flat_map(|(at, value)| sealed(format, &bytes, *at, value)).collect();
            check(open(format, &bytes, changes, length).and_then(|image| read_some(&image)));
            Ok(())
        });
        if let Err(error) = result {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn archives_changed_at_random_do_no_harm() {
    let Some((bytes, _)) = archive::archive() else { return };
    let bytes = Arc::new(bytes);
    let change = (
        prop_oneof![3 => 0..2048usize, 1 => 0..bytes.len() - 16],
        proptest::collection::vec(any::<u8>(), 1..9),
    );
    let config =
        proptest::test_runner::Config { cases: 300, failure_persistence: None, ..Default::default() };
    let strategy = (proptest::collection::vec(change, 1..4), any::<prop::sample::Index>(), any::<bool>());
    let result = proptest::test_runner::TestRunner::new(config).run(&strategy, |(changes, cut, whole)| {
        let length = if whole { bytes.len() } else { cut.index(bytes.len()) };
        let source: SharedSource = Arc::new(Damaged { bytes: Arc::clone(&bytes), changes, length });
        let image = ova_disk(&source, Some("d1")).and_then(|disk| open_in_memory(Format::Vmdk, disk));
        check(image.and_then(|image| read_some(&image)));
        Ok(())
    });
    result.unwrap();
}
