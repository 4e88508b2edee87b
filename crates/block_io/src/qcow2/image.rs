//! One open qcow2 image: its mapping, its metadata, and the order in which changes reach the disk.
//!
//! Locks, in the order in which they may be taken: a range ([`RangeLocks`]), then `meta`, then `tables`. `meta` is held during
//! metadata I/O, so only an engine's threads (and whoever opens, resizes or drops the image) take it; `tables` is held for
//! memory accesses only.
//!
//! Crash safety: an allocation changes counts and mapping in memory. A flush writes (1) counts, and new refcount blocks
//! before the table that names them, (2) after a sync, L2 slices and L1 entries, (3) syncs again. Data of a new cluster was
//! written before its mapping changed in memory, so the first sync covers it. With lazy refcounts, step (1) is to mark the image
//! dirty instead, and the counts are written when it is closed. Clusters that lost their mapping are counted
//! down, and their storage is given back, only after a flush has made that durable and every request that might still use them
//! has ended: at the end of that flush, or of a later one, which is why a flush is not a mere sync of the file while clusters
//! wait. So a crash leaks clusters at worst.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use super::chain::Layer;
use super::compressed::{Compressors, Decompressed};
use super::entry::{COPIED, Entry, Layout, OFFSET_MASK, State};
use super::header::{
    AUTOCLEAR_RAW_DATA_FILE, COMPATIBLE_LAZY_REFCOUNTS, Compression, FormatError, HEADER_BYTES, Header,
    INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY,
};
use super::metadata_file::MetadataFile;
use super::range_locks::{Epochs, RangeLocks};
use super::refcount::{Refcounts, Run};
use super::tables::{Slice, Tables};
use crate::file::{CacheMode, HostFile, Kind};

/// Largest offset in an image: 56 bits.
const MOST_BYTES: u64 = 1 << 56;
/// Clusters that may wait to be free before a flush is forced: bounds memory and wasted space when a guest never flushes.
const MOST_DROPPED: usize = 4096;
/// Places of `incompatible_features` and `autoclear_features` in the header.
pub(super) const INCOMPATIBLE_AT: u64 = 72;
const AUTOCLEAR_AT: u64 = 88;

/// What a lookup found for a range that begins at the guest offset asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Unallocated,
    Zero,
    /// At this place in the file; `writable` in place.
    Data {
        host: u64,
        writable: bool,
    },
    /// Part of a compressed cluster.
    Compressed(Entry),
}

/// Whether a lookup may read from the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Only what is in memory.
    Cached,
    /// Reads what is missing; waits.
    Loading,
}

/// What is behind the metadata lock.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) header: Header,
    /// `None` in an image that is open for reading only.
    refcounts: Option<Refcounts>,
    /// Whether counts are written only when the image is closed; it is marked dirty meanwhile.
    pub(super) postponed: bool,
    dirty_l1: BTreeSet<usize>,
    /// Host clusters that lost a mapping: not yet on disk; on disk; on disk for an epoch.
    dropped: Vec<u64>,
    settled: Vec<u64>,
    aged: Vec<u64>,
}

impl Meta {
    /// Whether the image is marked as one whose counts may be wrong.
    pub(super) fn is_dirty(&self) -> bool {
        self.header.incompatible & INCOMPATIBLE_DIRTY != 0
    }

    /// Whether there are clusters whose loss of a mapping is durable and whose counts say otherwise.
    fn has_settled(&self) -> bool {
        !self.settled.is_empty() || !self.aged.is_empty()
    }

    pub(super) fn refcounts(&mut self) -> Result<&mut Refcounts, Errno> {
        self.refcounts.as_mut().ok_or(Errno::ROFS)
    }
}

/// An open image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) layout: Layout,
    pub(super) compression: Compression,
    pub(super) file: HostFile,
    /// Where guest data is, if not in `file`.
    external: Option<HostFile>,
    /// Whether the external file is to be readable as a raw image at any time.
    pub(super) external_raw: bool,
    /// The same file through the page cache, which metadata and its odd sizes need.
    pub(super) metadata_file: MetadataFile,
    pub(super) capacity: AtomicU64,
    pub(super) tables: RwLock<Tables>,
    pub(super) meta: Mutex<Meta>,
    pub(super) ranges: RangeLocks,
    pub(super) epochs: Epochs,
    /// There are changes of metadata that no flush has made durable.
    pub(super) unflushed: AtomicBool,
    /// Clusters whose loss of a mapping is durable wait for requests to end: see [`Image::release`].
    release_pending: AtomicBool,
    corrupt: AtomicBool,
    /// A write had smaller blocks than the file has: every write goes through a thread, which holds its range.
    pub(super) blocks_are_split: AtomicBool,
    pub(super) decompressed: Mutex<Decompressed>,
    pub(super) compressors: Compressors,
    /// What is below, nearest first.
    pub(super) backing: Vec<Layer>,
    /// Where everything ends that the file has or was given, bytes: see [`Image::is_behind_end`].
    file_end: AtomicU64,
    /// Host clusters with the header and the tables that are in one piece: never guest data.
    reserved: RwLock<Vec<Range<u64>>>,
}

/// Why an image could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Errno(#[from] Errno),
}

/// Reads and checks the header of an open file.
pub(super) fn read_header(file: &HostFile) -> Result<(Header, MetadataFile), OpenError> {
    let metadata_file = MetadataFile::of(file)?;
    let header = Header::parse(&metadata_file.read(0, HEADER_BYTES)?)?;
    let unit = u64::from(file.access.layout.geometry.logical_block_bytes);
    if Layout::of(&header).subcluster_bytes() < unit {
        let rule = format!("at least {unit} bytes for direct I/O here (use cache mode writeback)");
        return Err(
            FormatError::Field { field: "cluster_bits", value: header.cluster_bits.into(), rule }.into()
        );
    }
    Ok((header, metadata_file))
}

/// Refuses to write to an image whose counts may be wrong.
fn refuse_unsound(header: &Header) -> Result<(), FormatError> {
    if header.incompatible & INCOMPATIBLE_CORRUPT != 0 {
        return Err(FormatError::NeedsRepair("corrupt"));
    }
    if header.incompatible & INCOMPATIBLE_DIRTY != 0 {
        return Err(FormatError::NeedsRepair("dirty (its refcounts may be wrong)"));
    }
    Ok(())
}

impl Image {
    /// Opens the image in `file`, whose header has been read. `cache_bytes` bounds the cache of L2 slices.
    pub(super) fn open(
        file: HostFile,
        header: Header,
        metadata_file: MetadataFile,
        external: Option<HostFile>,
        backing: Vec<Layer>,
        cache_bytes: u64,
    ) -> Result<Self, OpenError> {
        let layout = Layout::of(&header);
        // Bounded by the header's check (32 MiB).
        let l1_bytes = usize::try_from(u64::from(header.l1_entries) * 8).map_err(|_| Errno::FBIG)?;
        let raw = metadata_file.read(header.l1_offset, l1_bytes)?;
        let l1 = raw.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect();
        let refcounts = if file.options.read_only {
            None
        } else {
            refuse_unsound(&header)?;
            let file_bytes = file.bytes()?;
            let most = if file.access.layout.kind == Kind::BlockDevice { file_bytes } else { MOST_BYTES };
            Some(Refcounts::open(metadata_file.clone(), &header, file_bytes, most)?)
        };
        let image = Self {
            layout,
            compression: header.compression,
            file,
            external,
            external_raw: header.autoclear & AUTOCLEAR_RAW_DATA_FILE != 0,
            metadata_file,
            capacity: AtomicU64::new(header.size),
            tables: RwLock::new(Tables::new(layout, l1, cache_bytes)),
            meta: Mutex::new(Meta {
                postponed: header.compatible & COMPATIBLE_LAZY_REFCOUNTS != 0,
                header,
                refcounts,
                dirty_l1: BTreeSet::new(),
                dropped: Vec::new(),
                settled: Vec::new(),
                aged: Vec::new(),
            }),
            ranges: RangeLocks::default(),
            epochs: Epochs::default(),
            unflushed: AtomicBool::new(false),
            release_pending: AtomicBool::new(false),
            corrupt: AtomicBool::new(false),
            blocks_are_split: AtomicBool::new(false),
            decompressed: Mutex::new(Decompressed::default()),
            compressors: Compressors::default(),
            backing,
            file_end: AtomicU64::new(0),
            reserved: RwLock::new(Vec::new()),
        };
        if !image.file.options.read_only {
            let mut meta = image.meta.lock();
            image.reserve(&mut meta)?;
            image.file_end.store(meta.refcounts()?.end_bytes(), Ordering::Release);
            let kept = meta.header.autoclear & AUTOCLEAR_RAW_DATA_FILE;
            if meta.header.autoclear != kept {
                // What the other bits vouch for (dirty bitmaps, for example) will no longer be true.
                image.metadata_file.write(&kept.to_be_bytes(), AUTOCLEAR_AT)?;
                meta.header.autoclear = kept;
            }
            drop(meta);
        }
        Ok(image)
    }

    /// Names the clusters of tables that are in one piece. To be called again when one of them has moved.
    pub(super) fn reserve(&self, meta: &mut Meta) -> Result<(), Errno> {
        let cluster_bits = self.layout.cluster_bits;
        let clusters = |offset: u64, bytes: u64| {
            offset >> cluster_bits..(offset + bytes).div_ceil(self.layout.cluster_bytes())
        };
        let header = &meta.header;
        let mut ranges = vec![clusters(header.l1_offset, u64::from(header.l1_entries) * 8)];
        if header.snapshots > 0 {
            // The least that the table takes: its entries have variable lengths.
            ranges.push(clusters(header.snapshots_offset, u64::from(header.snapshots) * 40));
        }
        let refcounts = meta.refcounts()?;
        refcounts.reserve(ranges.clone());
        ranges.extend([0..1, refcounts.table_clusters()]);
        *self.reserved.write() = ranges;
        Ok(())
    }

    pub(super) fn is_reserved(&self, host: u64) -> bool {
        let cluster = host >> self.layout.cluster_bits;
        self.reserved.read().iter().any(|range| range.contains(&cluster))
    }

    /// The file that guest data is in.
    pub(super) fn data(&self) -> &HostFile {
        self.external.as_ref().unwrap_or(&self.file)
    }

    /// Whether a place is behind the end of the file, as it was when the image was opened, and of everything allocated
    /// since. A table or cluster there reads as zeroes; writing to it, which would make the file as long as whoever
    /// damaged the image likes, is refused, and the image counts as corrupt. Without meaning in an external file, where each
    /// cluster has its one place.
    pub(super) fn is_behind_end(&self, host: u64) -> bool {
        host >= self.file_end.load(Ordering::Acquire)
    }

    /// Whether a write to a range of the disk splits blocks of the file.
    pub(super) fn splits_blocks(&self, offset: u64, bytes: u64) -> bool {
        self.data().access.splits_blocks(offset, bytes)
    }

    /// Whether a cluster that an L2 entry names holds metadata instead of data.
    pub(super) fn is_metadata(&self, host: u64) -> bool {
        self.external.is_none() && self.is_reserved(host)
    }

    /// Whether an L2 entry must not name this place for a guest's cluster.
    pub(super) fn is_misplaced(&self, guest: u64, host: u64) -> bool {
        self.external.is_some() && host != self.layout.cluster_start(guest)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    /// Whether a contradiction was found in the image; it is not written to from then on.
    pub(super) fn is_corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Acquire)
    }

    /// Sets or clears the mark for counts that may be wrong (version 3; version 2 has none), durably.
    pub(super) fn mark_dirty(&self, meta: &mut Meta, dirty: bool) -> Result<(), Errno> {
        if meta.is_dirty() == dirty || meta.header.version < 3 {
            return Ok(());
        }
        let features = meta.header.incompatible ^ INCOMPATIBLE_DIRTY;
        self.metadata_file.write(&features.to_be_bytes(), INCOMPATIBLE_AT)?;
        self.metadata_file.sync()?;
        meta.header.incompatible = features;
        Ok(())
    }

    /// Stops everything that would be written to the image from now on, a flush when it is closed included: a change has
    /// failed half-way, and the next one who opens the image has to see that it was not closed.
    pub(super) fn abandon(&self) {
        self.corrupt.store(true, Ordering::Release);
    }

    /// Notes a contradiction in the image. Logged once: a hostile image could repeat it at will.
    pub(super) fn corrupted(&self, what: &str, value: u64) -> Errno {
        if !self.corrupt.swap(true, Ordering::AcqRel) {
            tracing::error!(
                path = %self.file.path.display(), what, value,
                "the image is corrupt: writes are refused from now on (qemu-img check tells more)"
            );
        }
        Errno::IO
    }

    /// Place of the L2 table that an L1 entry names; `None` if there is none.
    pub(super) fn table_offset(&self, entry: u64) -> Result<Option<u64>, Errno> {
        let offset = entry & OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        let misplaced = self.layout.cluster_start(offset) != offset || offset >= MOST_BYTES;
        if misplaced || self.is_reserved(offset) {
            return Err(self.corrupted("an L1 entry names no place for an L2 table", entry));
        }
        Ok(Some(offset))
    }

    fn slice_offset(&self, table: u64, number: u64) -> u64 {
        table + (number % self.layout.slices_per_table()) * self.layout.slice_bytes()
    }

    /// What the image has for the bytes from `guest` on, and for how many of `bytes` the answer holds (at least one, and
    /// within one L2 table). `guest` must be within the capacity. `None` if that is not in memory and must not be loaded.
    pub(super) fn lookup(&self, guest: u64, bytes: u64, how: Lookup) -> Result<Option<(Found, u64)>, Errno> {
        loop {
            let tables = self.tables.read();
            let Some(l1_entry) = tables.l1.get(self.layout.l1_index(guest)).copied() else {
                return Err(Errno::IO);
            };
            if l1_entry & OFFSET_MASK == 0 {
                let covers = self.layout.table_covers();
                return Ok(Some((Found::Unallocated, bytes.min(covers - guest % covers))));
            }
            if let Some(slice) = tables.slice(self.layout.slice_of(guest)) {
                return self.run_in(slice, guest, bytes).map(Some);
            }
            drop(tables);
            if how == Lookup::Cached {
                return Ok(None);
            }
            let mut meta = self.meta.lock();
            self.load(&mut meta, guest)?;
        }
    }

    /// The longest run of one kind that begins at `guest`.
    fn run_in(&self, slice: &Slice, guest: u64, bytes: u64) -> Result<(Found, u64), Errno> {
        let layout = self.layout;
        let covers = layout.slice_covers();
        let most = bytes.min(covers - guest % covers);
        let found = self.classify(slice, guest)?;
        let unit = layout.subcluster_bytes();
        let mut run = (unit - guest % unit).min(most);
        while run < most {
            let next = self.classify(slice, guest + run)?;
            let goes_on = match (found, next) {
                (Found::Data { host, writable }, Found::Data { host: next, writable: also }) => {
                    next == host + run && writable == also
                }
                // A lookup gives one compressed cluster at a time.
                (Found::Compressed(entry), Found::Compressed(next)) => {
                    entry == next && layout.cluster_start(guest) == layout.cluster_start(guest + run)
                }
                _ => found == next,
            };
            if !goes_on {
                break;
            }
            run = (run + unit).min(most);
        }
        Ok((found, run))
    }

    fn classify(&self, slice: &Slice, guest: u64) -> Result<Found, Errno> {
        let layout = self.layout;
        let entry = slice.entry(layout, layout.entry_in_slice(guest));
        let corrupt = |_| self.corrupted("an L2 entry contradicts itself", entry.descriptor);
        Ok(match entry.state(layout, layout.subcluster_of(guest)).map_err(corrupt)? {
            State::Unallocated => Found::Unallocated,
            State::Zero => Found::Zero,
            State::Compressed if layout.external => return Err(corrupt(Errno::IO)),
            State::Compressed => Found::Compressed(entry),
            State::Data => {
                let cluster = entry.host(layout).map_err(corrupt)?.ok_or(Errno::IO)?;
                if self.is_misplaced(guest, cluster) {
                    return Err(corrupt(Errno::IO));
                }
                Found::Data {
                    host: cluster + (guest & (layout.cluster_bytes() - 1)),
                    writable: entry.is_copied()
                        && !self.is_metadata(cluster)
                        && (layout.external || !self.is_behind_end(cluster)),
                }
            }
        })
    }

    /// Makes the slice of a guest offset, whose L2 table exists, be in the cache.
    pub(super) fn load(&self, meta: &mut Meta, guest: u64) -> Result<(), Errno> {
        let number = self.layout.slice_of(guest);
        let l1_entry = {
            let tables = self.tables.read();
            if tables.slice(number).is_some() {
                return Ok(());
            }
            tables.l1.get(self.layout.l1_index(guest)).copied().unwrap_or(0)
        };
        let Some(table) = self.table_offset(l1_entry)? else { return Ok(()) };
        let bytes = usize::try_from(self.layout.slice_bytes()).map_err(|_| Errno::FBIG)?;
        let bytes = self.metadata_file.read(self.slice_offset(table, number), bytes)?;
        if !self.tables.read().has_room() {
            self.flush_locked(meta)?;
        }
        self.tables.write().insert(number, Slice::from_bytes(&bytes));
        Ok(())
    }

    /// Makes the L2 table of a guest offset exist, be ours alone, and its slice be in the cache.
    pub(super) fn prepare_table(&self, meta: &mut Meta, guest: u64) -> Result<(), Errno> {
        let index = self.layout.l1_index(guest);
        let entry = self.tables.read().l1.get(index).copied().ok_or(Errno::IO)?;
        let changed = match self.table_offset(entry)? {
            Some(table) if self.is_behind_end(table) => {
                return Err(self.corrupted("an L1 entry names a place behind the end of the file", entry));
            }
            Some(_) if entry & COPIED != 0 => None,
            Some(table) if meta.refcounts()?.get(table >> self.layout.cluster_bits)? == 1 => Some(table),
            Some(table) => {
                let bytes = usize::try_from(self.layout.cluster_bytes()).map_err(|_| Errno::FBIG)?;
                let content = self.metadata_file.read(table, bytes)?;
                let copy = self.allocate(meta, 1)?.offset;
                self.metadata_file.write(&content, copy).inspect_err(|_| self.give_back(meta, copy, 1))?;
                meta.dropped.push(table >> self.layout.cluster_bits);
                Some(copy)
            }
            None => {
                let table = self.allocate(meta, 1)?.offset;
                let zeroed = self.metadata_file.write_zeroes(table, self.layout.cluster_bytes());
                zeroed.inspect_err(|_| self.give_back(meta, table, 1))?;
                Some(table)
            }
        };
        if let Some(table) = changed {
            self.tables.write().l1[index] = table | COPIED;
            meta.dirty_l1.insert(index);
            self.unflushed.store(true, Ordering::Release);
        }
        self.load(meta, guest)
    }

    /// Takes up to `clusters` clusters that lie side by side.
    pub(super) fn allocate(&self, meta: &mut Meta, clusters: u64) -> Result<Run, Errno> {
        self.allocate_by(meta, |refcounts| refcounts.allocate(clusters))
    }

    /// Takes bytes for compressed data, at most a cluster.
    pub(super) fn allocate_bytes(&self, meta: &mut Meta, bytes: u64) -> Result<u64, Errno> {
        self.allocate_by(meta, |refcounts| refcounts.allocate_bytes(bytes))
    }

    pub(super) fn allocate_by<T>(
        &self,
        meta: &mut Meta,
        allocate: impl FnOnce(&mut Refcounts) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let table_before = meta.refcounts()?.table_clusters();
        let result = allocate(meta.refcounts()?);
        self.file_end.store(meta.refcounts()?.end_bytes(), Ordering::Release);
        if meta.refcounts()?.table_clusters() != table_before {
            self.reserve(meta)?;
        }
        if matches!(result, Err(Errno::NOSPC)) && !meta.dropped.is_empty() {
            // Space may be on its way back; whoever asks again may get it.
            self.flush_locked(meta)?;
        }
        result
    }

    /// Gives clusters back that no mapping ever named.
    pub(super) fn give_back(&self, meta: &mut Meta, host: u64, clusters: u64) {
        let first = host >> self.layout.cluster_bits;
        for cluster in first..first + clusters {
            // On an error they stay allocated: wasted, not wrong.
            if let Err(error) = meta.refcounts().and_then(|refcounts| refcounts.decrement(cluster)) {
                tracing::debug!(%error, "cannot give a cluster back");
            }
        }
    }

    /// Sets an entry, whose slice must be in the cache, and lets go of what the old one named and the new one does not.
    pub(super) fn set_entry(&self, meta: &mut Meta, guest: u64, entry: Entry) -> Result<(), Errno> {
        let old = self.entry(guest)?;
        if old == entry {
            return Ok(());
        }
        if entry.is_compressed() {
            // Other data may have been at this very place, which was free since.
            self.decompressed.lock().forget(entry);
        }
        if !self.tables.write().set(guest, entry) {
            return Err(Errno::IO);
        }
        self.unflushed.store(true, Ordering::Release);
        if let Some(external) = &self.external {
            // Its clusters are not counted: each has a place of its own. Saves space only.
            if let (Some(host), None) = (old.host(self.layout)?, entry.host(self.layout)?)
                && !self.is_misplaced(guest, host)
            {
                let _ = external.access.discard(host, self.layout.cluster_bytes());
            }
        } else if old.is_compressed() {
            let range = old.compressed(self.layout);
            let last = (range.offset + range.bytes - 1) >> self.layout.cluster_bits;
            meta.dropped.extend(range.offset >> self.layout.cluster_bits..=last);
        } else {
            let (old_host, new_host) = (old.host(self.layout)?, entry.host(self.layout)?);
            if let Some(host) = old_host
                && old_host != new_host
            {
                meta.dropped.push(host >> self.layout.cluster_bits);
            }
        }
        Ok(())
    }

    /// The entry of a guest offset whose slice is in the cache.
    pub(super) fn entry(&self, guest: u64) -> Result<Entry, Errno> {
        self.tables.read().entry(guest).ok_or(Errno::IO)
    }

    /// Forces a flush if very many clusters wait to be free.
    pub(super) fn bound_dropped(&self, meta: &mut Meta) -> Result<(), Errno> {
        if meta.dropped.len() > MOST_DROPPED { self.flush_locked(meta) } else { Ok(()) }
    }

    /// Whether a flush has to do more than to make the file's content durable.
    pub(super) fn flush_has_work(&self) -> bool {
        self.unflushed.load(Ordering::Acquire) || self.release_pending.load(Ordering::Acquire)
    }

    /// Makes everything that was completed durable. Waits.
    pub(super) fn flush(&self) -> Result<(), Errno> {
        if self.file.options.read_only {
            return Ok(());
        }
        self.flush_locked(&mut self.meta.lock())
    }

    /// See the module's documentation for the order.
    pub(super) fn flush_locked(&self, meta: &mut Meta) -> Result<(), Errno> {
        if let Some(external) = &self.external
            && external.options.cache != CacheMode::Unsafe
        {
            rustix::fs::fdatasync(&*external.access.file)?;
        }
        if meta.postponed {
            if meta.refcounts()?.is_dirty() {
                self.mark_dirty(meta, true)?;
            }
        } else {
            self.write_counts(meta)?;
        }
        let dirty = self.tables.read().dirty();
        if !dirty.is_empty() || !meta.dirty_l1.is_empty() {
            self.metadata_file.sync()?;
            for (number, bytes) in dirty {
                let guest = number * self.layout.slice_covers();
                let l1_entry = self.tables.read().l1.get(self.layout.l1_index(guest)).copied().unwrap_or(0);
                let table = self.table_offset(l1_entry)?.ok_or(Errno::IO)?;
                self.metadata_file.write(&bytes, self.slice_offset(table, number))?;
            }
            for index in &meta.dirty_l1 {
                let entry = self.tables.read().l1[*index];
                self.metadata_file.write(&entry.to_be_bytes(), meta.header.l1_offset + *index as u64 * 8)?;
            }
        }
        self.metadata_file.sync()?;
        if !meta.postponed {
            meta.refcounts()?.all_clean();
        }
        meta.dirty_l1.clear();
        self.tables.write().all_clean();
        self.unflushed.store(false, Ordering::Release);
        let mut dropped = std::mem::take(&mut meta.dropped);
        meta.settled.append(&mut dropped);
        self.release(meta)
    }

    fn write_counts(&self, meta: &mut Meta) -> Result<(), Errno> {
        let refcounts = meta.refcounts()?;
        refcounts.write_blocks()?;
        if refcounts.table_is_dirty() {
            self.metadata_file.sync()?;
            refcounts.write_table()?;
        }
        Ok(())
    }

    /// Writes the counts that were postponed, and says so.
    fn catch_up(&self, meta: &mut Meta) -> Result<(), Errno> {
        meta.postponed = false;
        self.flush_locked(meta)?;
        self.mark_dirty(meta, false)
    }

    /// Counts down clusters that nobody can use any more. Both turns that they wait for come at once if no request is under
    /// way.
    fn release(&self, meta: &mut Meta) -> Result<(), Errno> {
        while meta.has_settled() && self.epochs.turn() {
            let clusters = std::mem::take(&mut meta.aged);
            meta.aged = std::mem::take(&mut meta.settled);
            self.free(meta, clusters)?;
        }
        self.release_pending.store(meta.has_settled(), Ordering::Release);
        Ok(())
    }

    /// Counts clusters down, and gives the storage of those that are free then back to the file system.
    fn free(&self, meta: &mut Meta, mut clusters: Vec<u64>) -> Result<(), Errno> {
        clusters.sort_unstable();
        let mut free: Option<Range<u64>> = None;
        for cluster in clusters {
            match meta.refcounts()?.decrement(cluster) {
                Ok(0) => match &mut free {
                    Some(range) if range.end == cluster => range.end += 1,
                    _ => {
                        self.punch(free.take());
                        free = Some(cluster..cluster + 1);
                    }
                },
                Ok(_) => {}
                Err(_) => {
                    self.corrupted("a cluster in use has no references", cluster);
                }
            }
        }
        self.punch(free);
        Ok(())
    }

    /// Gives the storage of clusters that nobody uses back to the file system.
    pub(super) fn punch(&self, clusters: Option<Range<u64>>) {
        let Some(clusters) = clusters else { return };
        let bits = self.layout.cluster_bits;
        let (offset, bytes) = (clusters.start << bits, (clusters.end - clusters.start) << bits);
        #[cfg(test)]
        self.metadata_file.note_punch(offset, bytes);
        // Saves space only.
        let _ = self.file.access.discard(offset, bytes);
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.file.options.read_only || self.is_corrupt() {
            return;
        }
        let mut meta = self.meta.lock();
        // Nothing is in flight any more: a flush releases what is left, another one writes its counts.
        let mut result = Ok(());
        for _ in 0..2 {
            let postponed = meta.postponed;
            let dirty = meta.refcounts().is_ok_and(|refcounts| refcounts.is_dirty()) && !postponed;
            if dirty || self.flush_has_work() {
                result = result.and(self.flush_locked(&mut meta));
            }
        }
        // Counts that only went down, since the last flush, are no reason to mark the image dirty, but are to be written too.
        if meta.postponed && (meta.is_dirty() || meta.refcounts().is_ok_and(|refcounts| refcounts.is_dirty()))
        {
            result = result.and_then(|()| self.catch_up(&mut meta));
        }
        if let Err(error) = result {
            tracing::error!(path = %self.file.path.display(), %error, "cannot flush the image while closing it");
        }
    }
}
