//! A qcow2 disk without a queue: every call waits until it is done.

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::Qcow2Disk;
use super::chain::Extent;
use super::image::{Image, Lookup};
use super::write::FillClusters;
use crate::file::{CacheMode, Kind};
use crate::request::{Limits, check_range};
use crate::segment::Segment;

impl Qcow2Disk {
    /// Runs work on a range during which clusters that the mapping names stay what they are.
    fn inside<R>(
        &self,
        offset: u64,
        bytes: u64,
        changes: bool,
        work: impl FnOnce(&Image) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let limits = Limits {
            geometry: self.geometry,
            capacity: self.image.capacity(),
            read_only: self.image.file.options.read_only,
        };
        check_range(offset, bytes, changes, &limits)?;
        let epoch = self.image.epochs.enter();
        let result = work(&self.image);
        self.image.epochs.leave(epoch);
        result
    }

    /// As [`Qcow2Disk::inside`]; what was changed is made durable if the cache mode is one that writes through.
    fn change(
        &self,
        offset: u64,
        bytes: u64,
        work: impl FnOnce(&Image) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.inside(offset, bytes, true, work)?;
        if self.image.file.options.cache.write_through() { self.flush_waiting() } else { Ok(()) }
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read_waiting(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.inside(offset, buffer.len() as u64, false, |image| {
            Segment::over_mut(buffer, |segment| image.read_now(offset, &[segment]))
        })
    }

    /// Stores `data` at `offset`, durably if the cache mode is one that writes through.
    pub(crate) fn write_waiting(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.change(offset, data.len() as u64, |image| {
            Segment::over(data, |segment| image.write_now(offset, &[segment]))
        })
    }

    /// Makes a range read as zeroes, giving its storage back where possible.
    pub(crate) fn write_zeroes_waiting(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        self.change(offset, bytes, |image| image.write_zeroes_now(offset, bytes, true))
    }

    /// Makes everything that was written durable, unless the cache mode says never.
    pub(crate) fn flush_waiting(&self) -> Result<(), Errno> {
        if self.image.file.options.cache == CacheMode::Unsafe {
            return Ok(());
        }
        self.image.flush()
    }

    /// Where the bytes from `offset` on lie, if they are data of some file, and for how many of `bytes` bytes that holds. They
    /// stay there as long as nobody writes.
    pub(crate) fn extent(
        &self,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<(&std::fs::File, u64, u64)>, Errno> {
        let found =
            self.inside(offset, bytes, false, |image| image.resolve(offset, bytes, Lookup::Loading))?;
        let Some((Extent::Data { layer, offset, .. }, run)) = found else { return Ok(None) };
        Ok(Some((&self.image.access(layer).file, offset, run)))
    }

    /// Fills whole clusters of the disk with what `fill` puts into the image's data file.
    pub(crate) fn fill_clusters(
        &self,
        offset: u64,
        bytes: u64,
        fill: &FillClusters<'_>,
    ) -> Result<(), Errno> {
        let cluster = self.image.layout.cluster_bytes();
        if !offset.is_multiple_of(cluster) || !bytes.is_multiple_of(cluster) {
            return Err(Errno::INVAL);
        }
        self.change(offset, bytes, |image| image.fill_now(offset, bytes, fill))
    }

    /// Lengthens the image's file for data that is about to be written past the page cache, so that there are `bytes` bytes
    /// of storage behind everything in use: such writes run side by side only where they need no new storage. Returns
    /// whether that is possible here; [`Qcow2Disk::give_back_reserve`] undoes what is left of it.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        let file = &self.image.file;
        let possible = file.access.layout.kind == Kind::RegularFile
            && file.access.cache.direct()
            && std::ptr::eq(self.image.data(), file);
        let Ok(used) = self.used_bytes() else { return false };
        let none = FallocateFlags::empty();
        possible && rustix::fs::fallocate(&*file.access.file, none, used, bytes).is_ok()
    }

    /// Cuts storage off that was reserved and is not used. Nothing may be written meanwhile.
    pub(crate) fn give_back_reserve(&self) -> Result<(), Errno> {
        let used = self.used_bytes()?;
        rustix::fs::ftruncate(&*self.image.file.access.file, used)
    }

    fn used_bytes(&self) -> Result<u64, Errno> {
        Ok(self.image.meta.lock().refcounts()?.end_bytes())
    }
}
