//! Changing the disk while waiting: writes that need clusters, zeroes and discards. Runs on an engine's threads.
//!
//! A write goes in three steps: the metadata lock is taken to find or allocate clusters; without it, data is written, with
//! what has to be copied around it; then it is taken again to change the mapping. A lock on the range keeps others away from
//! the same clusters meanwhile.

use std::ptr::NonNull;

use rustix::io::Errno;

use super::entry::{Entry, State};
use super::image::{Image, Meta};
use crate::segment::{Cursor, Segment, total_bytes};

/// Most bytes that one step of a write allocates and writes: bounds how long its range is locked.
const STEP_BYTES: u64 = 4 << 20;

/// Where a step of a write goes.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Host offset of the first cluster.
    host: u64,
    /// Bytes of the request that go there.
    bytes: u64,
    /// Clusters that were allocated for it; 0 if it goes where the mapping already points.
    allocated: u64,
    /// Whether the mapping has to be changed afterwards.
    remap: bool,
    /// What surrounds the data reads as zeroes already where it is not written.
    fresh: bool,
}

/// Puts content into a file: at this place, what comes after so many bytes of it, so many bytes.
pub(super) type FillClusters<'a> = dyn Fn(&std::fs::File, u64, u64, u64) -> Result<(), Errno> + 'a;

#[expect(unsafe_code, reason = "names a buffer for the kernel")]
pub(super) fn segment_of(buffer: &mut [u8]) -> Result<Segment, Errno> {
    let pointer = NonNull::new(buffer.as_mut_ptr()).ok_or(Errno::FAULT)?;
    // SAFETY: every caller waits for the I/O before it looks at or drops the buffer.
    Ok(unsafe { Segment::new(pointer, buffer.len()) })
}

impl Image {
    /// A request must still be within the disk once it holds its range: the disk may have shrunk.
    pub(super) fn check_end(&self, end: u64) -> Result<(), Errno> {
        if self.is_corrupt() {
            return Err(Errno::IO);
        }
        if end > self.capacity() { Err(Errno::INVAL) } else { Ok(()) }
    }

    /// Stores the segments from `guest` on, allocating what is needed. Waits.
    pub(super) fn write_now(&self, mut guest: u64, segments: &[Segment]) -> Result<(), Errno> {
        let end = guest + total_bytes(segments).ok_or(Errno::INVAL)?;
        let mut cursor = Cursor::new(segments);
        let cluster_bytes = self.layout.cluster_bytes();
        while guest < end {
            let covers = self.layout.slice_covers();
            let bytes = (end - guest).min(covers - guest % covers).min(STEP_BYTES.max(cluster_bytes));
            let last = (guest + bytes).next_multiple_of(cluster_bytes);
            let range = self.ranges.lock(self.layout.cluster_start(guest), last);
            self.check_end(guest + bytes)?;
            let mut rest = cursor.clone();
            let done = self.write_step(guest, bytes, |plan| {
                let data = rest.take(usize::try_from(plan.bytes).map_err(|_| Errno::INVAL)?);
                let within = guest & (cluster_bytes - 1);
                if plan.remap && !plan.fresh {
                    self.write_with_surroundings(guest, plan, &data)
                } else {
                    self.data().access.write(plan.host + within, &data)
                }
            })?;
            drop(range);
            cursor.skip(done);
            guest += done;
        }
        Ok(())
    }

    /// Fills whole clusters with what `fill` puts into a file, given the place there, bytes of the range before it, and bytes.
    /// Waits.
    pub(super) fn fill_now(&self, guest: u64, bytes: u64, fill: &FillClusters<'_>) -> Result<(), Errno> {
        let end = guest + bytes;
        let mut at = guest;
        while at < end {
            let covers = self.layout.slice_covers();
            let bytes = (end - at).min(covers - at % covers);
            let range = self.ranges.lock(at, at + bytes);
            self.check_end(at + bytes)?;
            let file = &*self.data().access.file;
            let done = self.write_step(at, bytes, |plan| fill(file, plan.host, at - guest, plan.bytes))?;
            drop(range);
            at += done;
        }
        Ok(())
    }

    /// Writes some of the bytes, all of which one slice maps. Returns how many.
    fn write_step(
        &self,
        guest: u64,
        bytes: u64,
        store: impl FnOnce(Plan) -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        let plan = {
            let mut meta = self.meta.lock();
            self.prepare_table(&mut meta, guest)?;
            self.plan(&mut meta, guest, bytes)?
        };
        let result = store(plan);
        let mut meta = self.meta.lock();
        if let Err(error) = result {
            self.give_back(&mut meta, plan.host, plan.allocated);
            return Err(error);
        }
        if plan.remap {
            let result = self.remap(&mut meta, guest, plan);
            if result.is_err() && plan.allocated > 0 {
                // Whether some mapping names them already is not known: they stay allocated.
                tracing::debug!(host = plan.host, "clusters are lost after a failed mapping");
            }
            result?;
            self.bound_dropped(&mut meta)?;
        }
        Ok(plan.bytes)
    }

    /// Finds where the first bytes go.
    fn plan(&self, meta: &mut Meta, guest: u64, bytes: u64) -> Result<Plan, Errno> {
        let layout = self.layout;
        let cluster_bytes = layout.cluster_bytes();
        let within = guest & (cluster_bytes - 1);
        let in_cluster = bytes.min(cluster_bytes - within);
        let entry = self.entry(guest)?;
        if let Some(host) = self.own_cluster(meta, guest, entry)? {
            let plan = Plan { host, bytes: in_cluster, allocated: 0, remap: false, fresh: false };
            if !self.all_data(entry, guest, in_cluster)? {
                return Ok(Plan { remap: true, ..plan });
            }
            return Ok(plan);
        }
        // As many clusters as follow that need a new place too.
        let mut wanted = 1;
        while wanted * cluster_bytes < within + bytes {
            let next = layout.cluster_start(guest) + wanted * cluster_bytes;
            let entry = self.entry(next)?;
            if self.own_cluster(meta, next, entry)?.is_some() {
                break;
            }
            wanted += 1;
        }
        if self.layout.external {
            let host = layout.cluster_start(guest);
            let bytes = bytes.min(wanted * cluster_bytes - within);
            return Ok(Plan { host, bytes, allocated: 0, remap: true, fresh: false });
        }
        let run = self.allocate(meta, wanted)?;
        let bytes = bytes.min(run.clusters * cluster_bytes - within);
        let fresh = run.fresh && self.surroundings_are_zero(guest, bytes);
        Ok(Plan { host: run.offset, bytes, allocated: run.clusters, remap: true, fresh })
    }

    /// The cluster's place if it has one that nobody else uses. Notes it in the entry when that was not known.
    fn own_cluster(&self, meta: &mut Meta, guest: u64, entry: Entry) -> Result<Option<u64>, Errno> {
        let host = entry
            .host(self.layout)
            .map_err(|_| self.corrupted("an L2 entry names no place for a cluster", entry.descriptor))?;
        let Some(host) = host else { return Ok(None) };
        if self.is_metadata(host) {
            return Err(self.corrupted("an L2 entry names a cluster with metadata", entry.descriptor));
        }
        if !self.layout.external && self.is_behind_end(host) {
            let what = "an L2 entry names a place behind the end of the file";
            return Err(self.corrupted(what, entry.descriptor));
        }
        if self.is_misplaced(guest, host) {
            return Err(self.corrupted("an L2 entry names another cluster's place", entry.descriptor));
        }
        if entry.is_copied() {
            return Ok(Some(host));
        }
        if self.layout.external {
            self.set_entry(meta, guest, entry.with_copied())?;
            return Ok(Some(host));
        }
        match meta.refcounts()?.get(host >> self.layout.cluster_bits)? {
            0 => Err(self.corrupted("a cluster in use has no references", entry.descriptor)),
            1 => {
                self.set_entry(meta, guest, entry.with_copied())?;
                Ok(Some(host))
            }
            _ => Ok(None),
        }
    }

    /// Whether every subcluster that a range of one cluster touches is data.
    fn all_data(&self, entry: Entry, guest: u64, bytes: u64) -> Result<bool, Errno> {
        let mask = self.layout.subcluster_mask(guest, bytes);
        for subcluster in (0..self.layout.subclusters()).filter(|bit| mask >> bit & 1 != 0) {
            if entry.state(self.layout, subcluster)? != State::Data {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The bytes around a range that have to be written with it: up to the bounds of its first and last subclusters, or of
    /// its clusters where all of a cluster moves.
    fn surroundings(&self, guest: u64, plan: Plan) -> Result<(u64, u64), Errno> {
        let layout = self.layout;
        let end = guest + plan.bytes;
        let unit = if plan.allocated > 0 && self.moves_data(guest, end)? {
            layout.cluster_bytes()
        } else {
            layout.subcluster_bytes()
        };
        Ok((guest - guest % unit, end.next_multiple_of(unit)))
    }

    /// Whether clusters of a range hold data now that has to move to their new place.
    fn moves_data(&self, guest: u64, end: u64) -> Result<bool, Errno> {
        if !self.layout.extended {
            return Ok(true);
        }
        let mut cluster = self.layout.cluster_start(guest);
        while cluster < end {
            let entry = self.entry(cluster)?;
            if entry.is_compressed() || entry.bitmap & 0xffff_ffff != 0 {
                return Ok(true);
            }
            cluster += self.layout.cluster_bytes();
        }
        Ok(false)
    }

    /// Whether nothing but zeroes surrounds a range that goes to a place which reads as zeroes. Only a hint: false if that is
    /// not known without reading metadata of other layers.
    fn surroundings_are_zero(&self, guest: u64, bytes: u64) -> bool {
        let layout = self.layout;
        let end = guest + bytes;
        self.backing.is_empty()
            && [guest, end - 1].into_iter().all(|place| {
                let entry = self.entry(place);
                entry.is_ok_and(|entry| !entry.is_compressed() && entry.host(layout) == Ok(None))
            })
    }

    /// Writes data with what surrounds it, in one piece.
    fn write_with_surroundings(&self, guest: u64, plan: Plan, data: &[Segment]) -> Result<(), Errno> {
        let (start, end) = {
            // The entries are in the cache as long as the lock is held; another thread may have pushed them out since.
            let mut meta = self.meta.lock();
            self.load(&mut meta, guest)?;
            self.surroundings(guest, plan)?
        };
        let data_end = guest + plan.bytes;
        let mut head = vec![0; usize::try_from(guest - start).map_err(|_| Errno::INVAL)?];
        let mut tail = vec![0; usize::try_from(end - data_end).map_err(|_| Errno::INVAL)?];
        let mut segments = Vec::with_capacity(data.len() + 2);
        if !head.is_empty() {
            let head = segment_of(&mut head)?;
            self.read_now(start, &[head])?;
            segments.push(head);
        }
        segments.extend_from_slice(data);
        if !tail.is_empty() {
            let tail = segment_of(&mut tail)?;
            self.read_now(data_end, &[tail])?;
            segments.push(tail);
        }
        let within = start & (self.layout.cluster_bytes() - 1);
        self.data().access.write(plan.host + within, &segments)
    }

    /// Makes the mapping name what has been written.
    fn remap(&self, meta: &mut Meta, guest: u64, plan: Plan) -> Result<(), Errno> {
        self.prepare_table(meta, guest)?;
        let layout = self.layout;
        let (start, end) = self.surroundings(guest, plan)?;
        let mut at = start;
        while at < end {
            let cluster = layout.cluster_start(at);
            let bytes = end.min(cluster + layout.cluster_bytes()) - at;
            let host = plan.host + (cluster - layout.cluster_start(guest));
            let entry = self.entry(cluster)?;
            self.set_entry(meta, cluster, entry.with_data(layout, host, layout.subcluster_mask(at, bytes)))?;
            at += bytes;
        }
        Ok(())
    }

    /// Makes a range read as zeroes. Waits.
    pub(super) fn write_zeroes_now(&self, guest: u64, bytes: u64, may_unmap: bool) -> Result<(), Errno> {
        if self.external_raw {
            return self.data().access.write_zeroes(guest, bytes, may_unmap);
        }
        let end = guest + bytes;
        let cluster_bytes = self.layout.cluster_bytes();
        let first = guest.next_multiple_of(cluster_bytes).min(end);
        // The last cluster of the disk may be cut by its end.
        let last = if end == self.capacity() { end } else { self.layout.cluster_start(end).max(first) };
        self.zero_part(guest, first, may_unmap)?;
        if self.layout.has_zero_clusters || self.backing.is_empty() {
            self.change_whole_clusters(first, last, |image, entry| {
                if image.layout.has_zero_clusters {
                    entry.zeroed(image.layout, !may_unmap && entry.is_copied())
                } else {
                    Entry::default()
                }
            })?;
        } else {
            self.write_zero_bytes(first, last)?;
        }
        self.zero_part(last, end, may_unmap)
    }

    /// Makes a part of one cluster read as zeroes: whole subclusters by their bits, the rest as data.
    fn zero_part(&self, start: u64, end: u64, may_unmap: bool) -> Result<(), Errno> {
        if !self.layout.extended {
            return self.write_zero_bytes(start, end);
        }
        let unit = self.layout.subcluster_bytes();
        let first = start.next_multiple_of(unit).min(end);
        let last = (end - end % unit).max(first);
        self.write_zero_bytes(start, first)?;
        self.zero_subclusters(first, last, may_unmap)?;
        self.write_zero_bytes(last, end)
    }

    /// Makes whole subclusters of one cluster read as zeroes.
    fn zero_subclusters(&self, start: u64, end: u64, may_unmap: bool) -> Result<(), Errno> {
        let cluster = self.layout.cluster_start(start);
        if start == end || (!self.has_table(start) && self.backing.is_empty()) {
            return Ok(());
        }
        {
            let _range = self.ranges.lock(cluster, cluster + self.layout.cluster_bytes());
            self.check_end(end)?;
            let mut meta = self.meta.lock();
            self.prepare_table(&mut meta, cluster)?;
            let entry = self.entry(cluster)?;
            if entry.host(self.layout).is_ok_and(|host| host.is_some_and(|host| self.is_metadata(host))) {
                return Err(self.corrupted("an L2 entry names a cluster with metadata", entry.descriptor));
            }
            if !entry.is_compressed() {
                let mask = self.layout.subcluster_mask(start, end - start);
                // In an external file every cluster has its place.
                let keep = !may_unmap || self.layout.external;
                self.set_entry(&mut meta, cluster, entry.with_zeroes(mask, keep))?;
                return self.bound_dropped(&mut meta);
            }
        }
        // All of it has to be expanded first.
        self.write_zero_bytes(start, end)
    }

    /// Gives whole clusters of a range back, and with extended L2 entries whole subclusters. Waits.
    pub(super) fn discard_now(&self, guest: u64, bytes: u64) -> Result<(), Errno> {
        if self.external_raw {
            // The raw view must agree with ours, so this has to read as zeroes afterwards.
            return self.data().access.write_zeroes(guest, bytes, true);
        }
        let end = guest + bytes;
        let first = guest.next_multiple_of(self.layout.cluster_bytes()).min(end);
        let last = if end == self.capacity() { end } else { self.layout.cluster_start(end).max(first) };
        if self.layout.extended {
            let unit = self.layout.subcluster_bytes();
            let head_end = (first - first % unit).max(guest);
            self.zero_subclusters(guest.next_multiple_of(unit).min(head_end), head_end, true)?;
            self.zero_subclusters(last, (end - end % unit).max(last), true)?;
        }
        if self.backing.is_empty() {
            self.change_whole_clusters(first, last, |_, _| Entry::default())
        } else if self.layout.has_zero_clusters {
            // Not unmapped: old content of the backing file would come to light.
            self.change_whole_clusters(first, last, |image, entry| entry.zeroed(image.layout, false))
        } else {
            Ok(())
        }
    }

    /// Changes the entries of whole clusters (the last one may be cut by the end of the disk), slice by slice.
    pub(super) fn change_whole_clusters(
        &self,
        mut guest: u64,
        end: u64,
        change: impl Fn(&Self, Entry) -> Entry,
    ) -> Result<(), Errno> {
        let layout = self.layout;
        while guest < end {
            let covers = layout.slice_covers();
            let step_end = end.min(guest - guest % covers + covers);
            let range = self.ranges.lock(guest, step_end.next_multiple_of(layout.cluster_bytes()));
            if self.is_corrupt() {
                return Err(Errno::IO);
            }
            let mut meta = self.meta.lock();
            let has_table = self.has_table(guest);
            if has_table || change(self, Entry::default()) != Entry::default() && !self.backing.is_empty() {
                self.prepare_table(&mut meta, guest)?;
                let mut cluster = guest;
                while cluster < step_end {
                    let entry = self.entry(cluster)?;
                    if entry.host(layout).is_ok_and(|host| host.is_some_and(|host| self.is_metadata(host))) {
                        return Err(
                            self.corrupted("an L2 entry names a cluster with metadata", entry.descriptor)
                        );
                    }
                    // Without a backing file, what has no cluster reads as zeroes already.
                    if entry != Entry::default() || !self.backing.is_empty() {
                        self.set_entry(&mut meta, cluster, change(self, entry))?;
                    }
                    cluster += layout.cluster_bytes();
                }
                self.bound_dropped(&mut meta)?;
            }
            drop(meta);
            drop(range);
            guest = step_end;
        }
        Ok(())
    }

    fn has_table(&self, guest: u64) -> bool {
        let entry = self.tables.read().l1.get(self.layout.l1_index(guest)).copied();
        entry.is_some_and(|entry| entry & super::entry::OFFSET_MASK != 0)
    }

    /// Writes zeroes as data, except where zeroes are already.
    pub(super) fn write_zero_bytes(&self, mut guest: u64, end: u64) -> Result<(), Errno> {
        let cluster_bytes = self.layout.cluster_bytes();
        let mut zeroes = Vec::new();
        while guest < end {
            let bytes = (end - guest).min(cluster_bytes - guest % cluster_bytes);
            if !self.reads_as_zeroes(guest, bytes)? {
                zeroes.resize(usize::try_from(bytes).map_err(|_| Errno::INVAL)?, 0);
                self.write_now(guest, &[segment_of(&mut zeroes)?])?;
            }
            guest += bytes;
        }
        Ok(())
    }
}
