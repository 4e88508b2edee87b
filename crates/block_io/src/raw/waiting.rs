//! A raw disk without a queue: every call waits until it is done.

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::RawDisk;
use crate::engine::{Direction, Transfer};
use crate::file::{CacheMode, Kind};
use crate::request::check_range;
use crate::segment::Segment;

impl RawDisk {
    /// Fills `buffer` from `offset` on.
    pub(crate) fn read_waiting(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        check_range(offset, buffer.len() as u64, false, &self.shared.limits())?;
        Segment::over_mut(buffer, |segment| self.shared.file.access.read(offset, &[segment]))
    }

    /// Stores `data` at `offset`, durably if the cache mode is one that writes through.
    pub(crate) fn write_waiting(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        check_range(offset, data.len() as u64, true, &self.shared.limits())?;
        let access = &self.shared.file.access;
        let durable = access.durable(false);
        Segment::over(data, |segment| {
            let segments = [segment];
            if access.needs_bounce(&segments) {
                access.write_bounced(offset, &segments, durable)
            } else {
                Transfer::new(Direction::Write { durable }, offset, &segments).run(&access.target())
            }
        })
    }

    /// Makes a range read as zeroes, giving its storage back where possible.
    pub(crate) fn write_zeroes_waiting(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        check_range(offset, bytes, true, &self.shared.limits())?;
        self.shared.file.access.write_zeroes(offset, bytes, true)
    }

    /// Makes everything that was written durable, unless the cache mode says never.
    pub(crate) fn flush_waiting(&self) -> Result<(), Errno> {
        if self.shared.file.options.cache == CacheMode::Unsafe {
            return Ok(());
        }
        rustix::fs::fdatasync(&*self.shared.file.access.file)
    }

    /// The file or device.
    pub(crate) fn file(&self) -> &std::fs::File {
        &self.shared.file.access.file
    }

    /// Reserves storage for a range of a regular file that is about to be written past the page cache: such writes run side by
    /// side only where they need no new storage. False if that is not possible here.
    pub(crate) fn reserve(&self, offset: u64, bytes: u64) -> bool {
        let access = &self.shared.file.access;
        access.layout.kind == Kind::RegularFile
            && access.cache.direct()
            && rustix::fs::fallocate(&*access.file, FallocateFlags::KEEP_SIZE, offset, bytes).is_ok()
    }

    /// Tells the kernel that a range is going to be read soon.
    pub(crate) fn will_read(&self, offset: u64, bytes: u64) {
        let access = &self.shared.file.access;
        if let Some(bytes) = std::num::NonZeroU64::new(bytes)
            && !access.cache.direct()
        {
            // A hint: there is nothing to be done where it is not taken.
            let _ = rustix::fs::fadvise(&*access.file, offset, Some(bytes), rustix::fs::Advice::WillNeed);
        }
    }
}
