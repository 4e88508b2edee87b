//! Internal snapshots of qcow2 images that nobody else has open.

use std::path::Path;
use std::time::SystemTime;

use super::{SnapshotInfo, refuse};
use crate::backend::BlockError;
use crate::qcow2::Qcow2Disk;

/// The snapshots in the image at `path`, oldest first. Takes no lock: of an image in use it may be out of date.
pub fn list_snapshots(path: &Path) -> Result<Vec<SnapshotInfo>, BlockError> {
    Qcow2Disk::info(path).map(|info| info.snapshots)
}

/// Takes a snapshot of the disk as it is, with the time of now. Names need not be unique.
pub fn create_snapshot(path: &Path, name: &str) -> Result<(), BlockError> {
    let taken = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| refuse(path, "cannot take a snapshot", "the clock is before 1970: set it"))?;
    Qcow2Disk::take_snapshot(path, name, taken)
}

/// Makes the disk what it was when the snapshot with this id, or else the first with this name, was taken. What it is now is
/// lost.
pub fn apply_snapshot(path: &Path, id_or_name: &str) -> Result<(), BlockError> {
    Qcow2Disk::apply_snapshot(path, id_or_name)
}

/// Deletes the first snapshot with this name.
pub fn delete_snapshot(path: &Path, name: &str) -> Result<(), BlockError> {
    Qcow2Disk::delete_snapshot(path, name)
}
