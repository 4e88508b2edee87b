//! How large the file of an image would be.
//!
//! Source: docs/interop/qcow2.rst of QEMU: which tables an image has and how large they are.

use super::map::map;
use super::{OpenImage, OperationError, Progress};
use crate::qcow2::{Preallocation, Qcow2Parameters};

/// Bytes of an entry of the L1 table and of the refcount table.
const TABLE_ENTRY_BYTES: u64 = 8;

/// Sizes of a file, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// With what is stored now.
    pub required: u64,
    /// With every byte of the disk stored.
    pub fully_allocated: u64,
}

/// Sizes of a raw image of a disk of so many bytes: holes count.
pub fn measure_raw(bytes: u64) -> Measure {
    Measure { required: bytes, fully_allocated: bytes }
}

/// Sizes of a qcow2 image with these parameters, of which `parameters.bytes` is the size of the disk. What the disk of
/// `source` stores would be stored in it; with a backing file, all of it might; with preallocated data all of it is.
///
/// Fails for parameters that can't be, and when `progress`, which is told bytes done and in all, says so.
pub fn measure_qcow2(
    parameters: &Qcow2Parameters,
    source: Option<&OpenImage>,
    progress: Progress<'_>,
) -> Result<Measure, OperationError> {
    parameters.check()?;
    let cluster_bytes = parameters.cluster_bytes;
    let disk_bytes = parameters.bytes.next_multiple_of(cluster_bytes);
    let fully_allocated = disk_bytes + metadata_bytes(parameters, disk_bytes);
    let preallocated = matches!(parameters.preallocation, Preallocation::Falloc | Preallocation::Full);
    let stored = match source {
        _ if preallocated => disk_bytes,
        None => 0,
        Some(_) if parameters.backing.is_some() => disk_bytes,
        Some(source) => stored_bytes(source, cluster_bytes, progress)?,
    };
    Ok(Measure { required: fully_allocated - disk_bytes + stored, fully_allocated })
}

/// Bytes of clusters that hold something else than known zeroes.
fn stored_bytes(
    source: &OpenImage,
    cluster_bytes: u64,
    progress: Progress<'_>,
) -> Result<u64, OperationError> {
    let total = source.disk().capacity();
    // The end of the last cluster that is counted.
    let (mut stored, mut counted_to) = (0, 0);
    map(source, 0..total, &mut |entry| {
        let end = (entry.start + entry.bytes).next_multiple_of(cluster_bytes);
        if !entry.status.zero && end > counted_to {
            let start = entry.start - entry.start % cluster_bytes;
            stored += end - start.max(counted_to);
            counted_to = end;
        }
        progress(entry.start + entry.bytes, total)
    })?;
    Ok(stored)
}

/// What header, mapping and refcounts take when every cluster of the disk has a place, bytes.
fn metadata_bytes(parameters: &Qcow2Parameters, disk_bytes: u64) -> u64 {
    let cluster_bytes = parameters.cluster_bytes;
    let l2_entry_bytes = if parameters.extended_l2 { 16 } else { 8 };
    let l2_bytes = (disk_bytes / cluster_bytes * l2_entry_bytes).next_multiple_of(cluster_bytes);
    let l1_bytes = (l2_bytes / cluster_bytes * TABLE_ENTRY_BYTES).next_multiple_of(cluster_bytes);
    let without_counts = cluster_bytes + l2_bytes + l1_bytes;
    // Counts are counted themselves: more of them until there are enough.
    let clusters = (without_counts + disk_bytes) / cluster_bytes;
    let per_block = cluster_bytes * 8 / u64::from(parameters.refcount_bits);
    let (mut blocks, mut table) = (0, 0);
    loop {
        let needed = (clusters + blocks + table).div_ceil(per_block);
        let needed_table = (needed * TABLE_ENTRY_BYTES).div_ceil(cluster_bytes);
        if (needed, needed_table) == (blocks, table) {
            return without_counts + (blocks + table) * cluster_bytes;
        }
        (blocks, table) = (needed, needed_table);
    }
}
