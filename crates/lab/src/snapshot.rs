//! Snapshots of emulated hosts that wait for a job: made once for each shape, resumed by every run.
//!
//! The memory is a sparse file that QEMU maps: shared while the snapshot is made, copied on write when it is resumed, so nothing
//! is copied and any number of runs can use it. The device state beside it is half a megabyte. A folder in use is locked
//! (shared), so that pruning leaves it alone.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::PollFlags;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use crate::Context;
use crate::error::LabError;
use crate::machine::{Machine, Start};
use crate::qmp::Qmp;
use crate::run_folder::RunFolder;
use crate::shape::{Files, Memory, Shape};
use crate::{command, wait};

/// So many snapshots are kept, of about 250 MB each: those that were used last.
const KEPT: usize = 6;
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// The kernel goes on with deferred work for a moment after PID 1 waits for the job; what is done before the snapshot need not be
/// done after each resume.
const SETTLE: Duration = Duration::from_millis(500);
const LEFTOVER: &str = ".making-";

/// A snapshot that can't be pruned while this lives.
#[derive(Debug)]
pub(crate) struct Snapshot {
    folder: PathBuf,
    _lock: File,
}

impl Snapshot {
    /// The snapshot of `shape`; made if there is none.
    pub(crate) fn of(
        context: &Context,
        shape: &Shape,
        files: &Files<'_>,
        run: &RunFolder,
    ) -> Result<Snapshot, LabError> {
        let parent = context.cache.path("snapshots");
        let folder = parent.join(shape.snapshot_key(&describe(files)?));
        if let Some(snapshot) = Snapshot::open(&folder) {
            return Ok(snapshot);
        }
        context.report.say("starting this kind of machine for the first time (about 7 s)");
        std::fs::create_dir_all(&parent).map_err(LabError::file("creating", &parent))?;
        let making = tempfile::Builder::new().prefix(LEFTOVER).tempdir_in(&parent);
        let making = making.map_err(LabError::file("creating a folder in", &parent))?;
        let lock =
            lock_shared(making.path()).ok_or_else(|| LabError::Qemu("a new folder is locked".to_owned()))?;
        make(context, shape, files, making.path(), run)?;
        let snapshot = match std::fs::rename(making.path(), &folder) {
            Ok(()) => {
                // Its name is gone, so there is nothing to remove any more.
                let _ = making.keep();
                Snapshot { folder, _lock: lock }
            }
            // Somebody else was quicker.
            Err(error) => {
                Snapshot::open(&folder).ok_or_else(|| LabError::file("renaming", making.path())(error))?
            }
        };
        prune(&parent);
        Ok(snapshot)
    }

    fn open(folder: &Path) -> Option<Snapshot> {
        let lock = lock_shared(folder)?;
        // Somebody else's snapshot may be unreadable.
        File::open(folder.join("m0")).ok()?;
        let state = File::open(folder.join("state")).ok()?;
        // Tells pruning when it was used; in somebody else's cache it can't be told.
        let _ = state.set_modified(SystemTime::now());
        Some(Snapshot { folder: folder.to_owned(), _lock: lock })
    }

    /// A machine that goes on where the snapshot was made, and its monitor.
    pub(crate) fn resume<'c>(
        &self,
        context: &'c Context,
        shape: &Shape,
        files: &Files<'_>,
        run: &RunFolder,
    ) -> Result<(Machine, Qmp<'c>), LabError> {
        let (machine, monitor) =
            Machine::start(shape, files, Memory::CopyOf(&self.folder), Start::Resumed, run)?;
        let mut qmp = Qmp::connect(monitor, &context.interrupt)?;
        qmp.ignore_shared_memory()?;
        qmp.execute("migrate-incoming", json!({ "uri": file_address(&self.folder)? }))?;
        qmp.migrated()?;
        qmp.execute("cont", json!({}))?;
        Ok((machine, qmp))
    }

    /// Removes it, because it can't be resumed.
    pub(crate) fn discard(self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What makes a snapshot unusable when it changes: the kernel, the initramfs and QEMU.
fn describe(files: &Files<'_>) -> Result<String, LabError> {
    let qemu = command::find("qemu-system-x86_64".as_ref()).unwrap_or_default();
    let mut text = String::new();
    for path in [files.kernel, files.initramfs, &qemu] {
        let metadata = path.metadata().map_err(LabError::file("looking at", path))?;
        let (size, seconds, nanoseconds) = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
        text.push_str(&format!("{} {size} {seconds} {nanoseconds}\n", path.display()));
    }
    Ok(text)
}

fn file_address(folder: &Path) -> Result<String, LabError> {
    let path = folder.join("state");
    let text = path.to_str().filter(|text| !text.contains(','));
    text.map(|text| format!("file:{text}"))
        .ok_or_else(|| LabError::Qemu("the cache's path has a comma or is no UTF-8".to_owned()))
}

fn make(
    context: &Context,
    shape: &Shape,
    files: &Files<'_>,
    folder: &Path,
    run: &RunFolder,
) -> Result<(), LabError> {
    let (mut machine, monitor) = Machine::start(shape, files, Memory::Saved(folder), Start::ToBeSaved, run)?;
    let until = Instant::now() + BOOT_LIMIT;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let wanted = [(machine.control.as_fd(), PollFlags::IN), (machine.exited(), PollFlags::IN)];
        let ready = wait::ready(&wanted, until, &context.interrupt)?;
        if ready[0].is_empty() {
            let why = if ready[1].is_empty() {
                "no start within 2 minutes".to_owned()
            } else {
                machine.status()?
            };
            return Err(LabError::Died(why));
        }
        let mut byte = [0];
        match machine.control.read(&mut byte) {
            Ok(1) => line.push(byte[0]),
            _ => return Err(LabError::Died(machine.status()?)),
        }
    }
    context.report.detail(format_args!("started: {}", String::from_utf8_lossy(&line).trim_end()));
    wait::ready(&[(machine.exited(), PollFlags::IN)], Instant::now() + SETTLE, &context.interrupt)?;
    let mut qmp = Qmp::connect(monitor, &context.interrupt)?;
    qmp.execute("stop", json!({}))?;
    qmp.ignore_shared_memory()?;
    qmp.execute("migrate", json!({ "uri": file_address(folder)? }))?;
    qmp.migrated()?;
    context.report.detail("snapshot made");
    Ok(())
}

/// Keeps the snapshots that were used last, and removes what a killed process left. What can't be removed stays.
fn prune(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    let mut complete = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(LEFTOVER) {
            remove_unused(&path);
        } else {
            let used = path.join("state").metadata().and_then(|state| state.modified());
            complete.push((used.unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    complete.sort();
    for (_, path) in complete.iter().rev().skip(KEPT) {
        remove_unused(path);
    }
}

fn remove_unused(folder: &Path) {
    let Ok(lock) = File::open(folder) else { return };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = std::fs::remove_dir_all(folder);
    }
}

fn lock_shared(folder: &Path) -> Option<File> {
    let lock = File::open(folder).ok()?;
    flock(&lock, FlockOperation::NonBlockingLockShared).ok()?;
    Some(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(parent: &Path, index: u32) -> PathBuf {
        let folder = parent.join(format!("{index:016}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("m0"), "").unwrap();
        let state = File::create(folder.join("state")).unwrap();
        state.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(index.into())).unwrap();
        folder
    }

    #[test]
    fn the_oldest_snapshots_go_unless_they_are_in_use() {
        let parent = tempfile::tempdir().unwrap();
        let folders: Vec<_> = (0..9).map(|index| snapshot(parent.path(), index)).collect();
        let leftover = parent.path().join(".making-x");
        std::fs::create_dir(&leftover).unwrap();
        let in_use = lock_shared(&folders[0]).unwrap();
        prune(parent.path());
        let left: Vec<usize> = (0..9).filter(|&index| folders[index].exists()).collect();
        assert_eq!(left, [0, 3, 4, 5, 6, 7, 8]);
        assert!(!leftover.exists());
        drop(in_use);
        let opened = Snapshot::open(&folders[0]).unwrap();
        drop(opened);
        prune(parent.path());
        let left: Vec<usize> = (0..9).filter(|&index| folders[index].exists()).collect();
        assert_eq!(left, [0, 4, 5, 6, 7, 8], "opening one makes it the newest");
    }

    #[test]
    fn an_incomplete_snapshot_is_none() {
        let parent = tempfile::tempdir().unwrap();
        let folder = snapshot(parent.path(), 1);
        assert!(Snapshot::open(&folder).is_some());
        std::fs::remove_file(folder.join("m0")).unwrap();
        assert!(Snapshot::open(&folder).is_none());
        assert!(Snapshot::open(&parent.path().join("none")).is_none());
    }
}
