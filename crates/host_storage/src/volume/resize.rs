//! Changing the size of volumes. Source: libvirt's documentation of virStorageVolResize.

use block_io::BlockBackend;
use libvirt_xml::storage::{PoolSource, Preallocated, VolumeFormat, VolumeKind};
use rustix::fs::FallocateFlags;

use super::{Claimed, Dependents};
use crate::backend::logical;
use crate::error::StorageError;
use crate::image;
use crate::pool::Pool;
use crate::storage::Storage;

/// How a size is changed (virStorageVolResizeFlags).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResizeOptions {
    /// The storage of the new size is reserved.
    pub allocate: bool,
    /// The number is added to the size, or taken from it when shrinking.
    pub delta: bool,
    /// The volume may become smaller: what is beyond the new size is lost.
    pub shrink: bool,
}

/// The new size, bytes: whole sectors.
fn target_size(current: u64, given: u64, options: ResizeOptions) -> Result<u64, StorageError> {
    let bytes = match (options.delta, options.shrink) {
        (false, _) => Some(given),
        (true, false) => current.checked_add(given),
        (true, true) => current.checked_sub(given),
    };
    let bytes = bytes
        .and_then(|bytes| bytes.checked_next_multiple_of(512))
        .filter(|bytes| *bytes > 0 && i64::try_from(*bytes).is_ok())
        .ok_or_else(|| {
            StorageError::InvalidArgument(format!(
                "a volume of {current} bytes can't be changed by {given} bytes"
            ))
        })?;
    if bytes < current && !options.shrink {
        let rule = "Can't shrink capacity below current capacity unless shrink flag explicitly specified";
        return Err(StorageError::InvalidArgument(rule.into()));
    }
    Ok(bytes)
}

impl Storage {
    /// Changes the size of a volume that nobody uses; `bytes` is the new size, or the difference.
    pub fn resize_volume(
        &self,
        pool: &Pool,
        name: &str,
        bytes: u64,
        options: ResizeOptions,
    ) -> Result<(), StorageError> {
        let dependents = if options.shrink { Dependents::Refused } else { Dependents::Unharmed };
        let claimed = self.claim_to_change(pool, name, "resize", dependents)?;
        let description = self.describe_volume(pool, name)?;
        let current = description.capacity.unwrap_or(0);
        let bytes = target_size(current, bytes, options)?;
        if options.allocate {
            let allocated = match description.allocation {
                Preallocated::All => current,
                Preallocated::Bytes(allocated) => allocated,
            };
            self.update_sizes(pool);
            if bytes.saturating_sub(allocated) > pool.info().sizes.available {
                let rule = "Not enough space left in storage pool".to_owned();
                return Err(StorageError::InvalidOperation(rule));
            }
        }
        self.resize_claimed(&claimed, current, bytes, options)?;
        self.update_sizes(pool);
        Ok(())
    }

    fn resize_claimed(
        &self,
        claimed: &Claimed,
        current: u64,
        bytes: u64,
        options: ResizeOptions,
    ) -> Result<(), StorageError> {
        let known = &claimed.known;
        if let PoolSource::Logical { volume_group, .. } = &claimed.definition.source {
            return logical::resize(self.commands(), volume_group, &known.name, bytes);
        }
        if known.kind == VolumeKind::Block {
            let rule =
                format!("the size of the device {} is changed by whoever provides it", known.path.display());
            return Err(StorageError::Unsupported(rule));
        }
        match known.format {
            VolumeFormat::Qcow2 if options.allocate => {
                let rule = "preallocate is only supported for raw type volume".to_owned();
                Err(StorageError::Unsupported(rule))
            }
            VolumeFormat::Qcow2 => {
                let disk = image::open_qcow2(claimed.file(), &known.path, false, &self.directories())?;
                disk.resize(bytes).map_err(|error| StorageError::image(error, &known.path))?;
                drop(disk);
                claimed.file().sync_all().map_err(|error| StorageError::system("sync", &known.path, error))
            }
            VolumeFormat::Raw => resize_raw(claimed, current, bytes, options),
            other => {
                let rule = format!("volumes of the format {other} can't be resized");
                Err(StorageError::Unsupported(rule))
            }
        }
    }
}

fn resize_raw(
    claimed: &Claimed,
    current: u64,
    bytes: u64,
    options: ResizeOptions,
) -> Result<(), StorageError> {
    let (file, path) = (claimed.file(), &claimed.known.path);
    rustix::fs::ftruncate(file, bytes).map_err(StorageError::on("resize", path))?;
    if options.allocate
        && let Err(errno) = rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)
    {
        // What could not be done in full is taken back; a volume that shrank has lost nothing that it still has.
        if bytes > current {
            let _ = rustix::fs::ftruncate(file, current);
        }
        return Err(StorageError::system("reserve storage for", path, errno));
    }
    file.sync_all().map_err(|error| StorageError::system("sync", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_absolute_or_differences_and_shrink_only_when_told() {
        let size = |given, delta, shrink| {
            target_size(4096, given, ResizeOptions { delta, shrink, allocate: false }).ok()
        };
        assert_eq!(size(8192, false, false), Some(8192));
        assert_eq!(size(4097, false, false), Some(4608));
        assert_eq!(size(512, true, false), Some(4608));
        assert_eq!(size(512, true, true), Some(3584));
        assert_eq!(size(512, false, true), Some(512));
        assert_eq!(size(512, false, false), None);
        assert_eq!(size(4096, true, true), None, "nothing would be left");
        assert_eq!(size(5000, true, true), None);
        assert_eq!(size(u64::MAX, true, false), None);
        assert_eq!(size(u64::MAX, false, false), None);
    }
}
