//! Whether a request is one that a disk can do: pure, the same for every backend.

use rustix::io::Errno;

use crate::backend::{BlockGeometry, BlockOperation};
use crate::segment::total_bytes;

/// What a request is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) geometry: BlockGeometry,
    /// Bytes.
    pub(crate) capacity: u64,
    pub(crate) read_only: bool,
}

/// Checks a request. `EROFS` for anything that changes a read-only disk; `EINVAL` for a range that is not made of whole
/// logical blocks or does not end within the capacity. On success, where the request ends on the disk (0 for a flush).
pub(crate) fn check(operation: &BlockOperation, limits: &Limits) -> Result<u64, Errno> {
    let (offset, bytes, changes) = match operation {
        BlockOperation::Flush => return Ok(0),
        BlockOperation::Read { offset, segments } => (*offset, total_bytes(segments), false),
        BlockOperation::Write { offset, segments, .. } => (*offset, total_bytes(segments), true),
        BlockOperation::Discard { offset, bytes } | BlockOperation::WriteZeroes { offset, bytes, .. } => {
            (*offset, Some(*bytes), true)
        }
    };
    check_range(offset, bytes.ok_or(Errno::INVAL)?, changes, limits)
}

/// Checks a range that is to be read, or changed. Errors and the answer are those of [`check`].
pub(crate) fn check_range(offset: u64, bytes: u64, changes: bool, limits: &Limits) -> Result<u64, Errno> {
    if changes && limits.read_only {
        return Err(Errno::ROFS);
    }
    let end = offset.checked_add(bytes).ok_or(Errno::INVAL)?;
    let block = u64::from(limits.geometry.logical_block_bytes);
    if !offset.is_multiple_of(block) || !bytes.is_multiple_of(block) || end > limits.capacity {
        return Err(Errno::INVAL);
    }
    Ok(end)
}
