//! Checking an image: whether its reference counts are what its tables say, and making them so.
//!
//! Every table is read once, however often it is named, and one that lies in a hole of the file is not read at all, so the
//! time is bounded by the file's length, and memory by four bytes a cluster near those that are used (`uses`). The image's own
//! words are used for nothing but finding tables. A repair changes counts, the flags that follow from them, and feature bits.
//!
//! Source: docs/interop/qcow2.rst of QEMU, sections "Host cluster management", "Cluster mapping" and "Snapshots".

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rustix::io::Errno;

use super::entry::{COPIED, Entry, Layout, OFFSET_MASK};
use super::header::{AUTOCLEAR_BITMAPS, Header, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY};
use super::image::{INCOMPATIBLE_AT, read_header};
use super::metadata_file::MetadataFile;
use super::refcount::Refcounts;
use super::snapshots;
use super::uses::Uses;
use crate::backend::BlockError;
use crate::file::{HostFile, Kind, Locking, RawOptions, error};

/// Most clusters of a file that can be checked: 2 GiB of memory for their counts, if all are used.
const MOST_CLUSTERS: u64 = 1 << 29;
/// Problems that are described; all of them are counted.
const MOST_DESCRIBED: usize = 20;
/// Most dirty bitmaps, and longest directory of them, bytes, as in QEMU.
const MOST_BITMAPS: u32 = 65535;
const MOST_BITMAP_DIRECTORY_BYTES: u64 = 64 << 20;
/// What a check may change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    #[default]
    Nothing,
    /// Clusters that nobody uses become free.
    Leaks,
    /// Every count becomes what it should be, and the marks for dirty and corrupt images go.
    All,
}

/// What a check found, before any repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Clusters that are counted more often than used: a waste of space.
    pub leaked_clusters: u64,
    /// Contradictions that may cost data.
    pub corruptions: u64,
    /// Of these, and of the leaks, what a repair has put right.
    pub repaired: u64,
    /// Clusters of the file that are used.
    pub used_clusters: u64,
    /// Length of the file in clusters.
    pub file_clusters: u64,
    /// Size of the disk in clusters.
    pub disk_clusters: u64,
    /// Clusters of the disk (without snapshots) that have a place in the file.
    pub allocated_clusters: u64,
    /// Of these, compressed ones.
    pub compressed_clusters: u64,
    /// Of these, those that do not follow the one before; compressed ones are by their nature.
    pub fragmented_clusters: u64,
    /// Where the last cluster that is used or counted ends, bytes.
    pub end_bytes: u64,
    /// Some of the problems in words.
    pub problems: Vec<String>,
}

impl CheckReport {
    fn corrupt(&mut self, what: String) {
        self.corruptions += 1;
        self.describe(what);
    }

    fn describe(&mut self, what: String) {
        if self.problems.len() < MOST_DESCRIBED {
            self.problems.push(what);
        }
    }
}

struct Checker<'a> {
    file: &'a MetadataFile,
    header: &'a Header,
    layout: Layout,
    /// How often each cluster is used.
    uses: Uses,
    report: CheckReport,
}

/// Checks the image at `path`, which nobody else may have open if `locking` says so. Backing files are not looked at.
pub(super) fn check(path: &Path, repair: Repair, locking: Locking) -> Result<CheckReport, BlockError> {
    let options = RawOptions { read_only: repair == Repair::Nothing, locking, ..RawOptions::default() };
    check_file(&HostFile::open(path, &options)?, repair)
}

/// Checks an open image.
pub(super) fn check_file(file: &HostFile, repair: Repair) -> Result<CheckReport, BlockError> {
    let path = &file.path;
    let fail = |source| error(path, "cannot check the qcow2 image", source);
    let (header, metadata_file) =
        read_header(file).map_err(|source| super::backing::open_error(path, source))?;
    let bytes = file.bytes().map_err(fail)?;
    let most_bytes = if file.access.layout.kind == Kind::BlockDevice { bytes } else { u64::MAX };
    let clusters = bytes.div_ceil(header.cluster_bytes());
    if clusters > MOST_CLUSTERS {
        let advice = format!("it has {clusters} clusters, at most {MOST_CLUSTERS} can be checked");
        return Err(fail(std::io::Error::new(std::io::ErrorKind::Unsupported, advice)));
    }
    let mut checker = Checker {
        file: &metadata_file,
        header: &header,
        layout: Layout::of(&header),
        uses: Uses::new(clusters),
        report: CheckReport {
            file_clusters: clusters,
            disk_clusters: header.size.div_ceil(header.cluster_bytes()),
            ..CheckReport::default()
        },
    };
    let result =
        Refcounts::open(metadata_file.clone(), &header, bytes, most_bytes).and_then(|mut refcounts| {
            checker.count_uses(&refcounts)?;
            checker.compare(&mut refcounts, repair)
        });
    result.map_err(|errno| fail(errno.into()))?;
    Ok(checker.report)
}

impl Checker<'_> {
    /// Notes that clusters from `offset` on are used `times` times.
    fn used(&mut self, what: &str, offset: u64, bytes: u64, times: u32) {
        let bits = self.layout.cluster_bits;
        let Some(end) = offset.checked_add(bytes).filter(|_| bytes > 0) else { return };
        for cluster in offset >> bits..=(end - 1) >> bits {
            if !self.uses.add(cluster, times) {
                self.report.corrupt(format!("{what} at offset {offset:#x} lies beyond the end of the file"));
                return;
            }
        }
    }

    fn count_uses(&mut self, refcounts: &Refcounts) -> Result<(), Errno> {
        let cluster_bytes = self.layout.cluster_bytes();
        self.used("the header", 0, cluster_bytes, 1);
        let table_bytes = u64::from(self.header.refcount_table_clusters) * cluster_bytes;
        self.used("the refcount table", self.header.refcount_table_offset, table_bytes, 1);
        for block in refcounts.block_offsets() {
            if self.layout.cluster_start(block) == block {
                self.used("a refcount block", block, cluster_bytes, 1);
            } else {
                self.report.corrupt(format!("a refcount block at offset {block:#x} is not on a cluster"));
            }
        }
        // Tables, and how often each is named. Snapshots share L2 tables with the disk and with each other.
        let mut l1_tables = BTreeMap::new();
        *l1_tables.entry((self.header.l1_offset, self.header.l1_entries)).or_insert(0) += 1;
        for table in self.snapshot_tables()? {
            *l1_tables.entry(table).or_insert(0u32) += 1;
        }
        let mut l2_tables = BTreeMap::new();
        let mut left = self.uses.clusters() << self.layout.cluster_bits;
        for ((offset, entries), times) in l1_tables {
            let bytes = u64::from(entries) * 8;
            // Tables of a sound image share nothing, so the file has room for all of them.
            let Some(rest) = left.checked_sub(bytes) else {
                self.report.corrupt(format!("an L1 table at offset {offset:#x} overlaps with others"));
                continue;
            };
            left = rest;
            self.used("an L1 table", offset, bytes, times);
            let raw = self.file.read(offset, usize::try_from(bytes).map_err(|_| Errno::FBIG)?)?;
            for entry in raw.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)) {
                let table = entry & OFFSET_MASK;
                if table != 0 {
                    *l2_tables.entry(table).or_insert(0u32) += times;
                }
            }
        }
        for (table, times) in l2_tables {
            self.count_table(table, times)?;
        }
        self.count_bitmaps()?;
        self.count_allocation()
    }

    /// Counts dirty bitmaps, if they agree with the disk; else they are a waste of space (section "Bitmaps extension").
    fn count_bitmaps(&mut self) -> Result<(), Errno> {
        let Some(directory) = self.header.bitmaps else { return Ok(()) };
        if self.header.autoclear & AUTOCLEAR_BITMAPS == 0 {
            return Ok(());
        }
        let bits = self.layout.cluster_bits;
        // Tables of a sound image share nothing, so the file has room for all of them.
        let mut left = self.uses.clusters() << bits;
        let fits = directory.bytes <= MOST_BITMAP_DIRECTORY_BYTES.min(left);
        if !fits
            || directory.bitmaps > MOST_BITMAPS
            || self.layout.cluster_start(directory.offset) != directory.offset
        {
            self.report.corrupt(format!("the directory of bitmaps is impossible: {directory:?}"));
            return Ok(());
        }
        self.used("the directory of bitmaps", directory.offset, directory.bytes, 1);
        let bytes = usize::try_from(directory.bytes).map_err(|_| Errno::FBIG)?;
        let raw = self.file.read(directory.offset, bytes)?;
        let mut at = 0;
        for number in 0..directory.bitmaps {
            let field = |from: usize, bytes: usize| {
                let field = raw.get(at + from..at + from + bytes)?;
                Some(field.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte)))
            };
            let fields = (field(0, 8), field(8, 4), field(18, 2), field(20, 4));
            let (Some(offset), Some(entries), Some(name), Some(extra)) = fields else {
                self.report.corrupt(format!("bitmap {number} lies beyond the directory of bitmaps"));
                return Ok(());
            };
            let Some(rest) = left.checked_sub(entries * 8) else {
                self.report.corrupt(format!("the table of bitmap {number} overlaps with others"));
                return Ok(());
            };
            left = rest;
            self.used("a bitmap's table", offset, entries * 8, 1);
            let table = self.file.read(offset, usize::try_from(entries * 8).map_err(|_| Errno::FBIG)?)?;
            for word in table.as_chunks::<8>().0 {
                let cluster = u64::from_be_bytes(*word) & OFFSET_MASK;
                if cluster != 0 {
                    self.used("a bitmap", cluster, 1 << bits, 1);
                }
            }
            let bytes = 24u64.saturating_add(extra).saturating_add(name).next_multiple_of(8);
            at = at.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX)).min(raw.len());
        }
        Ok(())
    }

    /// Counts an L2 table and what it maps.
    fn count_table(&mut self, table: u64, times: u32) -> Result<(), Errno> {
        let layout = self.layout;
        if layout.cluster_start(table) != table {
            self.report.corrupt(format!("an L2 table at offset {table:#x} is not on a cluster"));
            return Ok(());
        }
        if (table >> layout.cluster_bits) >= self.uses.clusters() {
            self.report.corrupt(format!("an L2 table at offset {table:#x} lies beyond the end of the file"));
            return Ok(());
        }
        self.used("an L2 table", table, layout.cluster_bytes(), times);
        let Some(raw) = self.read_table(table)? else { return Ok(()) };
        for words in raw.chunks_exact(8 * layout.entry_words()) {
            let word = |at: usize| {
                words.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_be_bytes)
            };
            let entry = Entry { descriptor: word(0).unwrap_or(0), bitmap: word(8).unwrap_or(0) };
            if entry.is_compressed() {
                let range = entry.compressed(layout);
                // The last sector may be cut by the end of the file.
                let end = (range.offset + range.bytes).min(self.uses.clusters() << layout.cluster_bits);
                if range.offset < end {
                    self.used("compressed data", range.offset, end - range.offset, times);
                } else {
                    self.report
                        .corrupt(format!("compressed data at {:#x} lies beyond the end", range.offset));
                }
                continue;
            }
            let bad = (0..layout.subclusters()).any(|subcluster| entry.state(layout, subcluster).is_err());
            match entry.host(layout) {
                Ok(_) if bad => {
                    self.report.corrupt(format!("an L2 entry contradicts itself: {:#x}", entry.bitmap));
                }
                // An external file's clusters are not counted.
                Ok(_) if layout.external => {}
                Ok(Some(host)) => self.used("a cluster", host, layout.cluster_bytes(), times),
                Ok(None) => {}
                Err(_) => {
                    self.report.corrupt(format!("a cluster is not on a cluster: {:#x}", entry.descriptor))
                }
            }
        }
        Ok(())
    }

    /// An L2 table's bytes; `None` if all of it lies in a hole.
    fn read_table(&self, table: u64) -> Result<Option<Vec<u8>>, Errno> {
        let bytes = self.layout.cluster_bytes();
        if self.file.is_hole(table, bytes) {
            return Ok(None);
        }
        self.file.read(table, usize::try_from(bytes).map_err(|_| Errno::FBIG)?).map(Some)
    }

    /// Counts what the disk itself has in the file. A table is read once, however often it is named.
    fn count_allocation(&mut self) -> Result<(), Errno> {
        let layout = self.layout;
        let bytes = usize::try_from(u64::from(self.header.l1_entries) * 8).map_err(|_| Errno::FBIG)?;
        let l1 = self.file.read(self.header.l1_offset, bytes)?;
        let mut tables = BTreeMap::new();
        for entry in l1.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)) {
            let table = entry & OFFSET_MASK;
            let within = (table >> layout.cluster_bits) < self.uses.clusters();
            if table != 0 && layout.cluster_start(table) == table && within {
                *tables.entry(table).or_insert(0u64) += 1;
            }
        }
        for (table, times) in tables {
            let Some(raw) = self.read_table(table)? else { continue };
            let mut expected = None;
            for word in raw.as_chunks::<8>().0.iter().step_by(layout.entry_words()) {
                let entry = Entry { descriptor: u64::from_be_bytes(*word), bitmap: 0 };
                if entry.is_compressed() {
                    self.report.allocated_clusters += times;
                    self.report.compressed_clusters += times;
                    self.report.fragmented_clusters += times;
                } else if let Ok(Some(host)) = entry.host(layout) {
                    self.report.allocated_clusters += times;
                    if expected.is_some_and(|expected| expected != host) {
                        self.report.fragmented_clusters += times;
                    }
                    expected = host.checked_add(layout.cluster_bytes());
                }
            }
        }
        Ok(())
    }

    /// Counts the table of snapshots. Returns the L1 tables that it names.
    fn snapshot_tables(&mut self) -> Result<Vec<(u64, u32)>, Errno> {
        match snapshots::read(self.file, self.header)? {
            Err(problem) => {
                self.report.corrupt(problem);
                Ok(Vec::new())
            }
            Ok((records, bytes)) => {
                self.used("the snapshot table", self.header.snapshots_offset, bytes, 1);
                Ok(records
                    .into_iter()
                    .map(|record| record.snapshot.l1)
                    .filter(|(_, entries)| *entries > 0)
                    .collect())
            }
        }
    }

    /// Compares every count with the uses, and puts right what it may.
    fn compare(&mut self, refcounts: &mut Refcounts, repair: Repair) -> Result<(), Errno> {
        // Counts can't be trusted to be put right where uses themselves are in doubt.
        let tables_are_sound = self.report.corruptions == 0;
        let mut next = 0;
        while next < self.uses.clusters() {
            let number = next;
            // Neither used nor counted, as most of a file that is sparse.
            if let (Some(unused), Some(uncounted)) =
                (self.uses.behind_unused(number), refcounts.behind_uncounted(number)?)
            {
                next = unused.min(uncounted);
                continue;
            }
            next += 1;
            let uses = u64::from(self.uses.get(number));
            let count = refcounts.get(number)?;
            if uses > 0 {
                self.report.used_clusters += 1;
            }
            if uses > 0 || count > 0 {
                self.report.end_bytes = (number + 1) << self.layout.cluster_bits;
            }
            if uses == count {
                continue;
            }
            if count > uses {
                self.report.leaked_clusters += 1;
                self.report
                    .describe(format!("cluster {number} is counted {count} times and used {uses} times"));
            } else {
                let what = format!("cluster {number} is counted {count} times and used {uses} times");
                self.report.corrupt(what);
            }
            let may = repair == Repair::All || (repair == Repair::Leaks && count > uses);
            if may && tables_are_sound {
                refcounts.correct(number, uses, self.uses.clusters())?;
                self.report.repaired += 1;
            }
        }
        let mend = match repair {
            Repair::Nothing => false,
            Repair::Leaks => self.report.corruptions == 0,
            Repair::All => tables_are_sound,
        };
        let flags = self.check_flags(refcounts, repair, mend)?;
        if repair == Repair::Nothing || !tables_are_sound {
            return Ok(());
        }
        refcounts.write_blocks()?;
        self.file.sync()?;
        refcounts.write_table()?;
        self.file.sync()?;
        for (offset, entry) in flags {
            self.file.write(&entry.to_be_bytes(), offset)?;
        }
        let marks = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT;
        if repair == Repair::All && self.header.version == 3 && self.header.incompatible & marks != 0 {
            // Only what is in order is called so.
            self.file.sync()?;
            let features = self.header.incompatible & !marks;
            self.file.write(&features.to_be_bytes(), INCOMPATIBLE_AT)?;
        }
        self.file.sync()
    }

    /// Looks for tables and clusters of the disk that are marked as its own and are not, or the reverse. Returns entries and
    /// their places with the mark put right, if it is to be.
    fn check_flags(
        &mut self,
        refcounts: &mut Refcounts,
        repair: Repair,
        mend: bool,
    ) -> Result<Vec<(u64, u64)>, Errno> {
        let (layout, mut mended) = (self.layout, Vec::new());
        let bytes = usize::try_from(u64::from(self.header.l1_entries) * 8).map_err(|_| Errno::FBIG)?;
        let l1 = self.file.read(self.header.l1_offset, bytes)?;
        let mut seen = HashSet::new();
        for (index, word) in l1.as_chunks::<8>().0.iter().enumerate() {
            let entry = u64::from_be_bytes(*word);
            let table = entry & OFFSET_MASK;
            let within = (table >> layout.cluster_bits) < self.uses.clusters();
            if table == 0 || layout.cluster_start(table) != table || !within {
                continue;
            }
            let own = refcounts.get(table >> layout.cluster_bits)? == 1;
            if own != (entry & COPIED != 0) {
                self.wrong_flag(&format!("the L2 table at {table:#x}"), own, repair, mend);
                mended.push((self.header.l1_offset + index as u64 * 8, entry ^ COPIED));
            }
            if !seen.insert(table) || layout.external {
                continue;
            }
            let Some(raw) = self.read_table(table)? else { continue };
            for (place, word) in raw.as_chunks::<8>().0.iter().enumerate().step_by(layout.entry_words()) {
                let entry = Entry { descriptor: u64::from_be_bytes(*word), bitmap: 0 };
                let Ok(Some(host)) = entry.host(layout) else { continue };
                let own = refcounts.get(host >> layout.cluster_bits)? == 1;
                if own != entry.is_copied() {
                    self.wrong_flag(&format!("the cluster at {host:#x}"), own, repair, mend);
                    mended.push((table + place as u64 * 8, entry.descriptor ^ COPIED));
                }
            }
        }
        Ok(if mend { mended } else { Vec::new() })
    }

    /// Notes a mark that does not agree with the count.
    fn wrong_flag(&mut self, what: &str, own: bool, repair: Repair, mend: bool) {
        if mend && repair == Repair::Leaks {
            // It agreed before the count was put right just now.
            return;
        }
        let (marked, truth) = if own { ("shared", "the disk's own") } else { ("the disk's own", "shared") };
        self.report.corrupt(format!("{what} is marked as {marked} and is {truth}"));
        self.report.repaired += u64::from(mend);
    }
}
