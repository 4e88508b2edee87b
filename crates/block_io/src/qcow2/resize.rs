//! Changing the size of the disk in an image.

use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::entry::Entry;
use super::header::{FormatError, MOST_L1_BYTES};
use super::image::{Image, Meta};

/// Places of fields in the header.
const SIZE_AT: u64 = 24;
const L1_FIELDS_AT: u64 = 36;

impl Image {
    /// Checks whether the disk can have a size, bytes.
    pub(super) fn check_size(&self, bytes: u64, block_bytes: u32) -> Result<(), FormatError> {
        let refuse = |rule: String| Err(FormatError::Field { field: "size", value: bytes, rule });
        if bytes == 0 || !bytes.is_multiple_of(u64::from(block_bytes)) {
            return refuse(format!("a positive multiple of {block_bytes}"));
        }
        let most = (MOST_L1_BYTES / 8).saturating_mul(self.layout.table_covers());
        if bytes > most {
            return refuse(format!("at most {most} with this cluster size"));
        }
        Ok(())
    }

    /// Changes the size to one that has been checked. Waits. Requests see the old or the new size.
    pub(super) fn resize_now(&self, bytes: u64) -> Result<(), Errno> {
        let before = self.capacity();
        if bytes < before { self.shrink(bytes, before) } else { self.grow(bytes, before) }
    }

    fn grow(&self, bytes: u64, before: u64) -> Result<(), Errno> {
        {
            let mut meta = self.meta.lock();
            self.grow_l1(&mut meta, bytes)?;
        }
        // The backing file may be longer than the disk was: what it has there is not to come to light.
        let below = self.backing.first().map_or(0, super::chain::Layer::bytes);
        self.capacity.store(bytes, Ordering::Release);
        if below > before
            && let Err(error) = self.write_zeroes_now(before, below.min(bytes) - before, true)
        {
            self.capacity.store(before, Ordering::Release);
            return Err(error);
        }
        self.write_size(bytes)
    }

    fn shrink(&self, bytes: u64, before: u64) -> Result<(), Errno> {
        self.capacity.store(bytes, Ordering::Release);
        let cluster_end = bytes.next_multiple_of(self.layout.cluster_bytes());
        // What is cut off must not come back when the disk grows again: neither whole clusters nor the rest of the last.
        self.zero_cut(bytes, cluster_end.min(before))?;
        self.change_whole_clusters(cluster_end.min(before), before, |_, _| Entry::default())?;
        self.write_size(bytes)
    }

    /// Zeroes the bytes between the end of the disk and the end of its last cluster.
    fn zero_cut(&self, start: u64, end: u64) -> Result<(), Errno> {
        if start == end {
            return Ok(());
        }
        // They are beyond the capacity now, where only this thread writes; for the duration they are within it again.
        self.capacity.store(end, Ordering::Release);
        let result = self.write_zero_bytes(start, end);
        self.capacity.store(start, Ordering::Release);
        result
    }

    fn write_size(&self, bytes: u64) -> Result<(), Errno> {
        if self.external_raw {
            rustix::fs::ftruncate(&*self.data().access.file, bytes)?;
        }
        let mut meta = self.meta.lock();
        self.flush_locked(&mut meta)?;
        self.metadata_file.write(&bytes.to_be_bytes(), SIZE_AT)?;
        meta.header.size = bytes;
        self.metadata_file.sync()
    }

    /// Moves the L1 table to where it has room for a disk of `bytes` bytes.
    fn grow_l1(&self, meta: &mut Meta, bytes: u64) -> Result<(), Errno> {
        let entries = bytes.div_ceil(self.layout.table_covers());
        let old_entries = u64::from(meta.header.l1_entries);
        if entries <= old_entries {
            return Ok(());
        }
        let cluster_bytes = self.layout.cluster_bytes();
        let clusters = (entries * 8).div_ceil(cluster_bytes);
        let offset = self.allocate_together(meta, clusters)?;
        let mut table = self.tables.read().l1.clone();
        table.resize(usize::try_from(entries).map_err(|_| Errno::FBIG)?, 0);
        let mut content: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        content.resize(usize::try_from(clusters * cluster_bytes).map_err(|_| Errno::FBIG)?, 0);
        // Counts and L2 tables first: the new table names what has changed since the last flush.
        let written = self.flush_locked(meta).and_then(|()| self.metadata_file.write(&content, offset));
        written
            .and_then(|()| self.metadata_file.sync())
            .inspect_err(|_| self.give_back(meta, offset, clusters))?;
        let mut fields = u32::try_from(entries).map_err(|_| Errno::FBIG)?.to_be_bytes().to_vec();
        fields.extend(offset.to_be_bytes());
        self.metadata_file.write(&fields, L1_FIELDS_AT)?;
        self.metadata_file.sync()?;
        let old = (meta.header.l1_offset, (old_entries * 8).div_ceil(cluster_bytes));
        meta.header.l1_offset = offset;
        meta.header.l1_entries = u32::try_from(entries).map_err(|_| Errno::FBIG)?;
        self.tables.write().l1 = table;
        self.reserve(meta)?;
        self.give_back(meta, old.0, old.1);
        Ok(())
    }

    /// Allocates clusters that must lie side by side.
    pub(super) fn allocate_together(&self, meta: &mut Meta, clusters: u64) -> Result<u64, Errno> {
        if clusters >= meta.refcounts()?.clusters_per_block() {
            return self.allocate_by(meta, |refcounts| refcounts.allocate_large(clusters));
        }
        let mut first = None;
        let mut got = 0;
        let mut lost = Vec::new();
        while got < clusters {
            let run = match self.allocate(meta, clusters - got) {
                Ok(run) => run,
                Err(errno) => {
                    for (offset, clusters) in lost.into_iter().chain(first.map(|first| (first, got))) {
                        self.give_back(meta, offset, clusters);
                    }
                    return Err(errno);
                }
            };
            match first {
                Some(first) if first + got * self.layout.cluster_bytes() == run.offset => {}
                _ => {
                    lost.extend(first.map(|first| (first, got)));
                    first = Some(run.offset);
                    got = 0;
                }
            }
            got += run.clusters;
        }
        for (offset, clusters) in lost {
            self.give_back(meta, offset, clusters);
        }
        first.ok_or(Errno::INVAL)
    }
}
