//! Taking, applying and deleting internal snapshots of an image that nobody else has open.
//!
//! A snapshot is an L1 table of its own; the L2 tables and clusters that it shares with the disk are counted once for each.
//! Every change goes in the order in which a crash costs least: what gains a use is counted up and on the disk before anything
//! names it; what loses one is counted down once nothing on the disk names it any more; and the header names the new tables in one
//! write of a few bytes. Between, counts are too high (a leak) or marks of clusters as the disk's own are not up to date, which the dirty bit tells
//! (version 3): whoever opens the image next repairs that. Old data and new are there at any time.
//!
//! Source: docs/interop/qcow2.rst of QEMU, section "Snapshots".

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::backing::{open_error, repair_dirty};
use super::entry::{COPIED, Entry, OFFSET_MASK};
use super::header::{FormatError, INCOMPATIBLE_DATA_FILE, MOST_L1_BYTES, MOST_SNAPSHOTS};
use super::image::{Image, Meta, OpenError, read_header};
use super::snapshots::{self, Record, Snapshot};
use crate::backend::BlockError;
use crate::file::{HostFile, RawOptions, error};

/// Longest name of a snapshot, bytes: what QEMU can show.
const MOST_NAME_BYTES: usize = 255;
/// Places of fields in the header.
const SIZE_AT: u64 = 24;
const SNAPSHOT_FIELDS_AT: u64 = 60;
/// Little is looked up in tables here.
const CACHE_BYTES: u64 = 64 << 10;

/// Why snapshots can't be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Errno(#[from] Errno),
    #[error("a snapshot's name has 1 to {MOST_NAME_BYTES} bytes and no control characters")]
    Name,
    #[error("there is no snapshot {0:?}: list them first (snapshot -l)")]
    Missing(String),
    #[error("it has {MOST_SNAPSHOTS} snapshots, more are not possible: delete some")]
    TooMany,
    #[error("its guest data is in an external data file, which can't have snapshots")]
    External,
    #[error("its refcounts have too few bits for another snapshot: make an image with larger refcount_bits")]
    CountsTooNarrow,
    #[error("snapshot {0:?} has a disk of {1} bytes, which is no size for a disk in this image")]
    Size(String, u64),
}

impl From<FormatError> for SnapshotError {
    fn from(source: FormatError) -> Self {
        Self::Open(source.into())
    }
}

/// Which way uses are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Up,
    Down,
}

/// Opens the image at `path` alone, without what it names, and changes its snapshots.
pub(super) fn change(
    path: &Path,
    operation: &str,
    change: impl FnOnce(&Image, &mut Meta) -> Result<(), SnapshotError>,
) -> Result<(), BlockError> {
    let fail = |source| {
        let source = match source {
            SnapshotError::Open(source) => return open_error(path, source),
            SnapshotError::Errno(errno) => errno.into(),
            source => std::io::Error::new(std::io::ErrorKind::InvalidInput, source.to_string()),
        };
        error(path, operation, source)
    };
    let file = HostFile::open(path, &RawOptions::default())?;
    repair_dirty(&file)?;
    let open = || {
        let (header, metadata_file) = read_header(&file)?;
        if header.incompatible & INCOMPATIBLE_DATA_FILE != 0 {
            return Err(SnapshotError::External);
        }
        Ok((header, metadata_file))
    };
    let (header, metadata_file) = open().map_err(fail)?;
    let image = Image::open(file, header, metadata_file, None, Vec::new(), CACHE_BYTES)
        .map_err(|source| open_error(path, source))?;
    let mut meta = image.meta.lock();
    meta.postponed = false;
    let result = change(&image, &mut meta).and_then(|()| {
        image.flush_locked(&mut meta)?;
        Ok(image.mark_dirty(&mut meta, false)?)
    });
    let half_done = result.is_err() && meta.is_dirty();
    if half_done {
        image.abandon();
    }
    drop(meta);
    drop(image);
    if half_done {
        // If that fails too, the image stays marked, and whoever opens it next repairs it.
        let _ = HostFile::open(path, &RawOptions::default()).and_then(|file| repair_dirty(&file));
    }
    result.map_err(fail)
}

impl Image {
    fn records(&self, meta: &Meta) -> Result<(Vec<Record>, u64), SnapshotError> {
        Ok(snapshots::read(&self.metadata_file, &meta.header)?.map_err(FormatError::Snapshots)?)
    }

    /// Takes a snapshot of the disk as it is; `taken` is the time since 1970.
    pub(super) fn take_snapshot(
        &self,
        meta: &mut Meta,
        name: &str,
        taken: Duration,
    ) -> Result<(), SnapshotError> {
        if name.is_empty() || name.len() > MOST_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(SnapshotError::Name);
        }
        let (mut records, _) = self.records(meta)?;
        if records.len() >= MOST_SNAPSHOTS as usize {
            return Err(SnapshotError::TooMany);
        }
        let ids = records.iter().filter_map(|record| record.snapshot.id.parse::<u64>().ok());
        let id = ids.max().unwrap_or(0).checked_add(1).ok_or(SnapshotError::TooMany)?;
        let mut l1 = self.tables.read().l1.clone();
        self.mark_dirty(meta, true)?;
        if let Err(problem) = self.count_uses(meta, &l1, Count::Up) {
            self.flush_locked(meta)?;
            self.mark_dirty(meta, false)?;
            return Err(match problem {
                Errno::OVERFLOW => SnapshotError::CountsTooNarrow,
                errno => errno.into(),
            });
        }
        self.flush_locked(meta)?;
        // From here on, whoever writes to the disk has to copy: nothing is its own any more.
        let place = meta.header.l1_offset;
        self.agree_marks(meta, &mut l1, Some(place))?;
        self.tables.write().l1.clone_from(&l1);
        let bytes: Vec<u8> = l1.iter().flat_map(|entry| (entry & !COPIED).to_be_bytes()).collect();
        let copy = self.write_new(meta, &bytes)?;
        records.push(Record::new(Snapshot {
            id: id.to_string(),
            name: name.to_owned(),
            taken_seconds: u32::try_from(taken.as_secs()).unwrap_or(u32::MAX),
            taken_nanoseconds: taken.subsec_nanos(),
            guest_nanoseconds: 0,
            vm_state_bytes: 0,
            disk_bytes: Some(meta.header.size),
            guest_instructions: Some(0),
            l1: (copy, meta.header.l1_entries),
        }));
        self.replace_table(meta, &records)
    }

    /// Makes the disk what it was when a snapshot was taken, its size included. What it is now is lost.
    pub(super) fn apply_snapshot(&self, meta: &mut Meta, which: &str) -> Result<(), SnapshotError> {
        let (records, _) = self.records(meta)?;
        let by_id = records.iter().find(|record| record.snapshot.id == which);
        let found = by_id.or_else(|| records.iter().find(|record| record.snapshot.name == which));
        let snapshot =
            found.map(|record| &record.snapshot).ok_or_else(|| SnapshotError::Missing(which.to_owned()))?;
        let size = snapshot.disk_bytes.unwrap_or(meta.header.size);
        let needed = size.div_ceil(self.layout.table_covers()).max(snapshot.l1.1.into());
        if size == 0 || !size.is_multiple_of(512) || needed > MOST_L1_BYTES / 8 {
            return Err(SnapshotError::Size(snapshot.name.clone(), size));
        }
        let mut l1 = self.read_l1(snapshot.l1)?;
        self.mark_dirty(meta, true)?;
        if let Err(problem) = self.count_uses(meta, &l1, Count::Up) {
            self.flush_locked(meta)?;
            self.mark_dirty(meta, false)?;
            return Err(match problem {
                Errno::OVERFLOW => SnapshotError::CountsTooNarrow,
                errno => errno.into(),
            });
        }
        self.flush_locked(meta)?;
        self.agree_marks(meta, &mut l1, None)?;
        l1.resize(usize::try_from(needed).map_err(|_| Errno::FBIG)?, 0);
        let bytes: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let place = self.write_new(meta, &bytes)?;
        let entries = u32::try_from(needed).map_err(|_| Errno::FBIG)?;
        // Size, encryption (none), entries and place of the L1 table.
        let mut fields = size.to_be_bytes().to_vec();
        fields.extend([0; 4]);
        fields.extend(entries.to_be_bytes());
        fields.extend(place.to_be_bytes());
        self.metadata_file.write(&fields, SIZE_AT)?;
        self.metadata_file.sync()?;
        let old = (meta.header.l1_offset, meta.header.l1_entries);
        meta.header.size = size;
        meta.header.l1_entries = entries;
        meta.header.l1_offset = place;
        self.reserve(meta)?;
        let old_l1 = std::mem::replace(&mut self.tables.write().l1, l1.clone());
        self.count_uses(meta, &old_l1, Count::Down)?;
        self.let_go(meta, old.0, u64::from(old.1) * 8);
        self.flush_locked(meta)?;
        self.agree_marks(meta, &mut l1, Some(place))?;
        self.tables.write().l1 = l1;
        Ok(())
    }

    /// Deletes a snapshot.
    pub(super) fn delete_snapshot(&self, meta: &mut Meta, name: &str) -> Result<(), SnapshotError> {
        let (mut records, _) = self.records(meta)?;
        let found = records.iter().position(|record| record.snapshot.name == name);
        let snapshot = records.remove(found.ok_or_else(|| SnapshotError::Missing(name.to_owned()))?).snapshot;
        let theirs = self.read_l1(snapshot.l1)?;
        self.mark_dirty(meta, true)?;
        self.replace_table(meta, &records)?;
        self.count_uses(meta, &theirs, Count::Down)?;
        self.let_go(meta, snapshot.l1.0, u64::from(snapshot.l1.1) * 8);
        self.flush_locked(meta)?;
        let place = meta.header.l1_offset;
        let mut l1 = self.tables.read().l1.clone();
        self.agree_marks(meta, &mut l1, Some(place))?;
        self.tables.write().l1 = l1;
        Ok(())
    }

    fn read_l1(&self, (offset, entries): (u64, u32)) -> Result<Vec<u64>, Errno> {
        let bytes = usize::try_from(u64::from(entries) * 8).map_err(|_| Errno::FBIG)?;
        let raw = self.metadata_file.read(offset, bytes)?;
        Ok(raw.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect())
    }

    /// Writes a table to clusters of its own, durably, with their counts. Returns its place; 0 if it is empty.
    fn write_new(&self, meta: &mut Meta, bytes: &[u8]) -> Result<u64, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let cluster_bytes = self.layout.cluster_bytes();
        let clusters = (bytes.len() as u64).div_ceil(cluster_bytes);
        let place = self.allocate_together(meta, clusters)?;
        let mut padded = bytes.to_vec();
        padded.resize(usize::try_from(clusters * cluster_bytes).map_err(|_| Errno::FBIG)?, 0);
        self.metadata_file.write(&padded, place)?;
        self.flush_locked(meta)?;
        Ok(place)
    }

    /// Makes the header name a new table of snapshots instead of the old one, whose clusters become free.
    fn replace_table(&self, meta: &mut Meta, records: &[Record]) -> Result<(), SnapshotError> {
        let old = (meta.header.snapshots_offset, self.records(meta)?.1);
        let place = self.write_new(meta, &snapshots::encode(records)?)?;
        let number = u32::try_from(records.len()).map_err(|_| SnapshotError::TooMany)?;
        let mut fields = number.to_be_bytes().to_vec();
        fields.extend(place.to_be_bytes());
        self.metadata_file.write(&fields, SNAPSHOT_FIELDS_AT)?;
        self.metadata_file.sync()?;
        meta.header.snapshots = number;
        meta.header.snapshots_offset = place;
        self.reserve(meta)?;
        self.let_go(meta, old.0, old.1);
        Ok(())
    }

    /// Counts the clusters of a table that nobody names any more down.
    fn let_go(&self, meta: &mut Meta, offset: u64, bytes: u64) {
        self.give_back(meta, offset, bytes.div_ceil(self.layout.cluster_bytes()));
    }

    /// Places of the L2 tables of an L1 table, in order. `EIO` for one that is impossible or named twice, which costs time
    /// without bounds.
    fn l2_tables(&self, l1: &[u64]) -> Result<Vec<u64>, Errno> {
        let mut tables = Vec::new();
        for entry in l1 {
            tables.extend(self.table_offset(*entry)?);
        }
        let mut sorted = tables.clone();
        sorted.sort_unstable();
        match sorted.array_windows().find(|[one, next]| one == next) {
            Some([twice, _]) => Err(self.corrupted("an L1 table names an L2 table twice", *twice)),
            None => Ok(tables),
        }
    }

    fn read_l2(&self, table: u64) -> Result<Option<Vec<u8>>, Errno> {
        let bytes = self.layout.cluster_bytes();
        if self.metadata_file.is_hole(table, bytes) {
            return Ok(None);
        }
        self.metadata_file.read(table, usize::try_from(bytes).map_err(|_| Errno::FBIG)?).map(Some)
    }

    /// Calls `visit` for each use of a cluster by an L1 table's L2 tables, and by what they map.
    fn visit_uses(&self, l1: &[u64], mut visit: impl FnMut(u64) -> Result<(), Errno>) -> Result<(), Errno> {
        let layout = self.layout;
        for table in self.l2_tables(l1)? {
            visit(table >> layout.cluster_bits)?;
            let Some(raw) = self.read_l2(table)? else { continue };
            for word in raw.as_chunks::<8>().0.iter().step_by(layout.entry_words()) {
                let entry = Entry { descriptor: u64::from_be_bytes(*word), bitmap: 0 };
                if entry.is_compressed() {
                    let range = entry.compressed(layout);
                    let last = (range.offset + range.bytes - 1) >> layout.cluster_bits;
                    for cluster in range.offset >> layout.cluster_bits..=last {
                        visit(cluster)?;
                    }
                    continue;
                }
                let host = entry.host(layout);
                let host =
                    host.map_err(|_| self.corrupted("an L2 entry names no place", entry.descriptor))?;
                if let Some(host) = host {
                    visit(host >> layout.cluster_bits)?;
                }
            }
        }
        Ok(())
    }

    /// Counts every use by an L1 table's tables once more or once less. Counting up, all or nothing is counted.
    fn count_uses(&self, meta: &mut Meta, l1: &[u64], count: Count) -> Result<(), Errno> {
        let refcounts = meta.refcounts()?;
        if count == Count::Down {
            let mut free: Option<Range<u64>> = None;
            self.visit_uses(l1, |cluster| {
                let left = refcounts.decrement(cluster).map_err(|errno| match errno {
                    Errno::IO => self.corrupted("a cluster in use has no references", cluster),
                    errno => errno,
                })?;
                match &mut free {
                    _ if left > 0 => {}
                    Some(range) if range.end == cluster => range.end += 1,
                    _ => self.punch(free.replace(cluster..cluster + 1)),
                }
                Ok(())
            })?;
            self.punch(free);
            return Ok(());
        }
        let mut counted = 0u64;
        let result = self.visit_uses(l1, |cluster| {
            if refcounts.get(cluster)? == 0 {
                return Err(self.corrupted("a cluster in use has no references", cluster));
            }
            refcounts.increment(cluster)?;
            counted += 1;
            Ok(())
        });
        if let Err(problem) = result {
            // The same again, as far as it came.
            let undone = self.visit_uses(l1, |cluster| {
                counted = counted.checked_sub(1).ok_or(Errno::CANCELED)?;
                refcounts.decrement(cluster).map(|_| ())
            });
            return match undone {
                Err(errno) if errno != Errno::CANCELED && errno != problem => Err(errno),
                _ => Err(problem),
            };
        }
        Ok(())
    }

    /// Makes the marks for "the disk's own" in an L1 table and its L2 tables agree with the counts. Writes what changes; the L1
    /// table only if it has a place already.
    fn agree_marks(&self, meta: &mut Meta, l1: &mut [u64], place: Option<u64>) -> Result<(), Errno> {
        let layout = self.layout;
        let refcounts = meta.refcounts()?;
        for table in self.l2_tables(l1)? {
            let Some(mut raw) = self.read_l2(table)? else { continue };
            let mut changed = false;
            for word in raw.as_chunks_mut::<8>().0.iter_mut().step_by(layout.entry_words()) {
                let entry = Entry { descriptor: u64::from_be_bytes(*word), bitmap: 0 };
                let Ok(Some(host)) = entry.host(layout) else { continue };
                if entry.is_copied() != (refcounts.get(host >> layout.cluster_bits)? == 1) {
                    *word = (entry.descriptor ^ COPIED).to_be_bytes();
                    changed = true;
                }
            }
            if changed {
                self.metadata_file.write(&raw, table)?;
            }
        }
        for (index, entry) in l1.iter_mut().enumerate() {
            let table = *entry & OFFSET_MASK;
            let own = table != 0 && refcounts.get(table >> layout.cluster_bits)? == 1;
            if own != (*entry & COPIED != 0) {
                *entry ^= COPIED;
                if let Some(place) = place {
                    self.metadata_file.write(&entry.to_be_bytes(), place + index as u64 * 8)?;
                }
            }
        }
        self.metadata_file.sync()
    }
}
