//! The table of internal snapshots: reading and encoding it. `snapshot_changes` makes, applies and deletes them.
//!
//! Source: docs/interop/qcow2.rst of QEMU, section "Snapshots".

use rustix::io::Errno;

use super::header::{Header, MOST_L1_BYTES};
use super::metadata_file::MetadataFile;

/// Longest table, bytes, as in QEMU: stops an image from making us hold gigabytes of names.
const MOST_TABLE_BYTES: u64 = 64 << 20;
/// The part of an entry that every one has, bytes.
const FIXED_BYTES: u64 = 40;

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Unique within the image.
    pub id: String,
    /// Given by the user.
    pub name: String,
    /// When it was taken, seconds since 1970.
    pub taken_seconds: u32,
    /// The part of that second, nanoseconds.
    pub taken_nanoseconds: u32,
    /// How long the guest had run, nanoseconds.
    pub guest_nanoseconds: u64,
    /// Size of the saved memory and devices, bytes; 0 if only the disk was saved.
    pub vm_state_bytes: u64,
    /// Size of the disk, bytes; `None` if it is not recorded.
    pub disk_bytes: Option<u64>,
    /// Instructions that the guest had executed, where they were counted.
    pub guest_instructions: Option<u64>,
    /// Place and entries of its L1 table.
    pub(super) l1: (u64, u32),
}

/// An entry of the table: what it means, and its own bytes, of which a newer version may know more than we do.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) snapshot: Snapshot,
    bytes: Vec<u8>,
}

impl Record {
    /// A new snapshot's entry. Its names must have been checked to be short.
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(snapshot.l1.0.to_be_bytes());
        bytes.extend(snapshot.l1.1.to_be_bytes());
        bytes.extend(u16::try_from(snapshot.id.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(u16::try_from(snapshot.name.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(snapshot.taken_seconds.to_be_bytes());
        bytes.extend(snapshot.taken_nanoseconds.to_be_bytes());
        bytes.extend(snapshot.guest_nanoseconds.to_be_bytes());
        bytes.extend(u32::try_from(snapshot.vm_state_bytes).unwrap_or(0).to_be_bytes());
        bytes.extend(24u32.to_be_bytes());
        bytes.extend(snapshot.vm_state_bytes.to_be_bytes());
        bytes.extend(snapshot.disk_bytes.unwrap_or(0).to_be_bytes());
        bytes.extend(snapshot.guest_instructions.unwrap_or(u64::MAX).to_be_bytes());
        bytes.extend(snapshot.id.as_bytes());
        bytes.extend(snapshot.name.as_bytes());
        Self { snapshot, bytes }
    }
}

/// The table's bytes. `EFBIG` if it would be longer than it may be.
pub(super) fn encode(records: &[Record]) -> Result<Vec<u8>, Errno> {
    let mut table = Vec::new();
    for record in records {
        table.resize(table.len().next_multiple_of(8), 0);
        table.extend_from_slice(&record.bytes);
    }
    if table.len() as u64 > MOST_TABLE_BYTES { Err(Errno::FBIG) } else { Ok(table) }
}

/// The table and its length in bytes. A contradiction in it is an `Err` with a description.
pub(super) type Table = Result<(Vec<Record>, u64), String>;

/// Reads the table.
pub(super) fn read(file: &MetadataFile, header: &Header) -> Result<Table, Errno> {
    let mut records = Vec::new();
    let mut at = header.snapshots_offset;
    for number in 0..header.snapshots {
        let fixed = file.read(at, usize::try_from(FIXED_BYTES).map_err(|_| Errno::FBIG)?)?;
        let field = |at: usize, bytes: usize| {
            fixed[at..at + bytes].iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
        };
        let (id_bytes, name_bytes, extra_bytes) = (field(12, 2), field(14, 2), field(36, 4));
        let end = at + FIXED_BYTES + extra_bytes + id_bytes + name_bytes;
        if end - header.snapshots_offset > MOST_TABLE_BYTES {
            return Ok(Err(format!("the snapshot table is longer than {MOST_TABLE_BYTES} bytes")));
        }
        let (l1_offset, l1_entries) = (field(0, 8), field(8, 4));
        if !l1_offset.is_multiple_of(header.cluster_bytes())
            || l1_offset >= 1 << 56
            || l1_entries * 8 > MOST_L1_BYTES
        {
            return Ok(Err(format!(
                "snapshot {number} has an L1 table of {l1_entries} entries at {l1_offset:#x}"
            )));
        }
        // Bounded by the check of the table's length.
        let rest =
            file.read(at + FIXED_BYTES, usize::try_from(end - at - FIXED_BYTES).map_err(|_| Errno::FBIG)?)?;
        let (extra, texts) = rest.split_at(usize::try_from(extra_bytes).map_err(|_| Errno::FBIG)?);
        let (id, name) = texts.split_at(usize::try_from(id_bytes).map_err(|_| Errno::FBIG)?);
        let word =
            |at: usize| extra.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_be_bytes);
        let snapshot = Snapshot {
            id: String::from_utf8_lossy(id).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            // Fields of four bytes.
            taken_seconds: u32::try_from(field(16, 4)).unwrap_or(0),
            taken_nanoseconds: u32::try_from(field(20, 4)).unwrap_or(0),
            guest_nanoseconds: field(24, 8),
            vm_state_bytes: word(0).unwrap_or(field(32, 4)),
            disk_bytes: word(8),
            guest_instructions: word(16).filter(|count| *count != u64::MAX),
            l1: (l1_offset, u32::try_from(l1_entries).unwrap_or(0)),
        };
        records.push(Record { snapshot, bytes: [fixed, rest].concat() });
        at = end.next_multiple_of(8);
    }
    Ok(Ok((records, at - header.snapshots_offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_layout_of_the_specification() {
        let record = Record::new(Snapshot {
            id: "12".to_owned(),
            name: "before".to_owned(),
            taken_seconds: 0x1122_3344,
            taken_nanoseconds: 5,
            guest_nanoseconds: 6,
            vm_state_bytes: 7,
            disk_bytes: Some(8),
            guest_instructions: Some(9),
            l1: (0x50000, 3),
        });
        let mut expected = vec![0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 3, 0, 2, 0, 6];
        expected
            .extend([0x11, 0x22, 0x33, 0x44, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 24]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
        expected.extend(b"12before");
        assert_eq!(encode(std::slice::from_ref(&record)), Ok(expected));
        assert_eq!(encode(&[record.clone(), record]).map(|table| table.len()), Ok(144));
    }
}
