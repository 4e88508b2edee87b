//! Changing what an image says that it is based on, and giving up what it has of its own.
//!
//! Source: docs/interop/qcow2.rst of QEMU, sections "Header" and "Header extensions". The header is written in one piece,
//! after everything that it relies on is durable. Extensions that are not known here are kept.

use std::path::Path;

use super::entry::Entry;
use super::header::{
    AUTOCLEAR_RAW_DATA_FILE, EXTENSION_BACKING_FORMAT, FormatError, HEADER_BYTES, Header,
    INCOMPATIBLE_CORRUPT, MOST_NAME_BYTES,
};
use super::image::{Image, OpenError, read_header};
use super::metadata_file::MetadataFile;
use super::{BackingName, Qcow2Disk, backing};
use crate::backend::{BlockBackend, BlockError};
use crate::file::{HostFile, RawOptions, error};

/// Bytes of a version 2 header.
const V2_BYTES: usize = 72;
/// Where the header says how long it is (version 3).
const LENGTH_AT: usize = 100;
/// Where it names the place and the length of the backing file's name.
const BACKING_AT: usize = 8;

impl Qcow2Disk {
    /// Makes the image at `path` name another backing file, or none. Nothing else is changed or looked at: clusters that the
    /// image does not have itself read as the new file has them. Nobody else may have the image open.
    pub fn set_backing(path: &Path, new: Option<&BackingName>) -> Result<(), BlockError> {
        let file = HostFile::open(path, &RawOptions::default())?;
        let change = || {
            let (header, metadata_file) = read_header(&file)?;
            // Counts, which a dirty image may have wrong, do not matter here.
            if header.incompatible & INCOMPATIBLE_CORRUPT != 0 {
                return Err(FormatError::NeedsRepair("corrupt").into());
            }
            write_backing(&metadata_file, &header, new)
        };
        change().map_err(|source| refused(path, source))
    }

    /// Like [`Qcow2Disk::set_backing`] for an open image, which is closed by that. What was written must have been flushed.
    pub(crate) fn close_with_backing(self, new: Option<&BackingName>) -> Result<(), BlockError> {
        let image = &self.image;
        let change = || {
            image.flush()?;
            let meta = image.meta.lock();
            write_backing(&image.metadata_file, &meta.header, new)
        };
        change().map_err(|source| refused(&image.file.path, source))
    }

    /// Whether the image could name this backing file.
    pub(crate) fn check_backing(&self, new: Option<&BackingName>) -> Result<(), BlockError> {
        let image = &self.image;
        let check = || {
            let first = image.metadata_file.read(0, HEADER_BYTES)?;
            encode(&first, &image.meta.lock().header, new).map(|_| ()).map_err(OpenError::from)
        };
        check().map_err(|source| refused(&image.file.path, source))
    }

    /// Whether clusters can be made that hide data of a backing file and take no storage: not without a backing file, where
    /// an image has no use for them and makes none, and not in version 2.
    pub(crate) fn makes_zero_clusters(&self) -> bool {
        self.image.layout.has_zero_clusters && !self.image.backing.is_empty()
    }

    /// Makes the disk read as the backing file does, where that reaches, by giving up every cluster. Waits.
    pub(crate) fn make_empty(&self) -> Result<(), BlockError> {
        let empty = || {
            self.image.change_whole_clusters(0, self.capacity(), |_: &Image, _| Entry::default())?;
            self.image.flush()
        };
        let path = &self.image.file.path;
        empty().map_err(|errno| error(path, "cannot give up what it has of its own", errno.into()))
    }
}

fn refused(path: &Path, source: OpenError) -> BlockError {
    BlockError { operation: "cannot change its backing file".to_owned(), ..backing::open_error(path, source) }
}

fn write_backing(file: &MetadataFile, header: &Header, new: Option<&BackingName>) -> Result<(), OpenError> {
    let first = file.read(0, HEADER_BYTES)?;
    let encoded = encode(&first, header, new)?;
    file.write(&encoded, 0)?;
    file.sync()?;
    Ok(())
}

/// The first bytes of the image with another backing file in them, padded so that nothing is left of an old name.
fn encode(first: &[u8], header: &Header, new: Option<&BackingName>) -> Result<Vec<u8>, FormatError> {
    let refuse = |field, value: usize, rule: &str| {
        Err(FormatError::Field { field, value: value as u64, rule: rule.to_owned() })
    };
    let most =
        usize::try_from(header.cluster_bytes()).unwrap_or(usize::MAX).min(HEADER_BYTES).min(first.len());
    let first = &first[..most];
    let number =
        |at: usize| first.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes);
    let header_bytes = match header.version {
        2 => V2_BYTES,
        _ => number(LENGTH_AT).map_or(usize::MAX, |bytes| bytes as usize),
    };
    let Some(fields) = first.get(..header_bytes) else { return Err(FormatError::Short) };
    if header.autoclear & AUTOCLEAR_RAW_DATA_FILE != 0 && new.is_some() {
        let rule = "an image whose external data file is a raw image can't have a backing file";
        return refuse("autoclear_features", 1, rule);
    }
    let mut encoded = fields.to_vec();
    let mut extension = |kind: u32, data: &[u8]| {
        encoded.extend(kind.to_be_bytes());
        encoded.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        encoded.extend(data);
        encoded.resize(encoded.len().next_multiple_of(8), 0);
    };
    if let Some(new) = new {
        if new.name.is_empty() || new.name.len() > MOST_NAME_BYTES as usize {
            return refuse("backing name length", new.name.len(), "1 to 1023 bytes");
        }
        extension(EXTENSION_BACKING_FORMAT, new.format.as_bytes());
    }
    // An old image may have the name where the first extension would be.
    let name_at = number(BACKING_AT + 4).map_or(0, |low| low as usize);
    let end = if name_at >= header_bytes { name_at.min(first.len()) } else { first.len() };
    let mut at = header_bytes;
    while at + 8 <= end
        && let (Some(kind), Some(bytes)) = (number(at), number(at + 4))
        && kind != 0
    {
        let start = at + 8;
        let Some(data) = first.get(start..start.saturating_add(bytes as usize)) else {
            return refuse("header extension length", bytes as usize, "it does not end in the first cluster");
        };
        if kind != EXTENSION_BACKING_FORMAT {
            extension(kind, data);
        }
        at = start + data.len().next_multiple_of(8);
    }
    extension(0, &[]);
    let (place, bytes) = match new {
        None => (0, 0),
        Some(new) => {
            let place = encoded.len();
            encoded.extend(new.name.as_bytes());
            (place as u64, u32::try_from(new.name.len()).unwrap_or(0))
        }
    };
    encoded[BACKING_AT..BACKING_AT + 8].copy_from_slice(&place.to_be_bytes());
    encoded[BACKING_AT + 8..BACKING_AT + 12].copy_from_slice(&bytes.to_be_bytes());
    if encoded.len() > most {
        return refuse(
            "header length",
            encoded.len(),
            "with this name it does not fit into the first cluster",
        );
    }
    // No more than was in use: the rest of the cluster is zero.
    let used = first.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    encoded.resize(encoded.len().max(used), 0);
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> BackingName {
        BackingName { name: name.to_owned(), format: "raw".to_owned() }
    }

    /// The first cluster of an image with an extension that is not known here.
    fn first_cluster(version: u32) -> Vec<u8> {
        let mut parameters = super::super::Qcow2Parameters::new(1 << 20);
        parameters.cluster_bytes = 4096;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        super::super::create::create(&path, &parameters).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(4096);
        let mut at = 112;
        if version == 2 {
            bytes[4..8].copy_from_slice(&2u32.to_be_bytes());
            bytes[72..4096].fill(0);
            at = 72;
        }
        bytes[at..at + 12].copy_from_slice(&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 3, b'a', b'b', b'c', 0]);
        bytes
    }

    #[test]
    fn names_come_and_go_and_the_rest_of_the_header_stays() {
        for version in [2, 3] {
            let before = first_cluster(version);
            let parse = |bytes: &[u8]| Header::parse(bytes).unwrap();
            let with = encode(&before, &parse(&before), Some(&named("a-long-name.raw"))).unwrap();
            let header = parse(&[with.clone(), vec![0; 4096]].concat());
            assert_eq!(header.backing.as_deref(), Some("a-long-name.raw"));
            assert_eq!(header.backing_format.as_deref(), Some("raw"));
            let again = encode(&[with, vec![0; 3000]].concat(), &header, None).unwrap();
            assert_eq!(parse(&[again.clone(), vec![0; 4096]].concat()), parse(&before));
            let end = before.iter().rposition(|byte| *byte != 0).unwrap();
            assert_eq!(again[..=end], before[..=end], "version {version}");
            assert!(again[end + 1..].iter().all(|byte| *byte == 0), "nothing is left of the name");
        }
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let before = first_cluster(3);
        let header = Header::parse(&before).unwrap();
        assert!(encode(&before, &header, Some(&named(&"n".repeat(1023)))).is_ok());
        assert!(encode(&before, &header, Some(&named(&"n".repeat(1024)))).is_err());
        assert!(encode(&before, &header, Some(&named(""))).is_err());
        let small = Header { cluster_bits: 9, ..header };
        assert!(encode(&before[..512], &small, Some(&named(&"n".repeat(500)))).is_err());
    }
}
