//! The folder that one run keeps its files in: the job, the console's log, an empty folder to share.
//!
//! It is removed when dropped. What a killed process left is known by its lock, which nobody holds any more, and removed by
//! the next run of the same user.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::error::LabError;

const PREFIX: &str = "vireo-lab.";
/// A folder is created a moment before it is locked.
const NEW: Duration = Duration::from_secs(60);

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct RunFolder {
    _lock: File,
    folder: tempfile::TempDir,
}

impl RunFolder {
    pub(crate) fn create() -> Result<RunFolder, LabError> {
        RunFolder::create_in(&std::env::temp_dir(), NEW)
    }

    fn create_in(parent: &Path, new: Duration) -> Result<RunFolder, LabError> {
        let parent = std::path::absolute(parent).map_err(LabError::file("resolving", parent))?;
        sweep(&parent, new);
        // For the owner alone: the job contains the caller's environment.
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent);
        let folder = folder.map_err(LabError::file("creating a folder in", &parent))?;
        let lock = File::open(folder.path()).map_err(LabError::file("opening", folder.path()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| LabError::file("locking", folder.path())(error.into()))?;
        let run = RunFolder { _lock: lock, folder };
        std::fs::create_dir(run.empty()).map_err(LabError::file("creating", run.empty()))?;
        Ok(run)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn empty(&self) -> PathBuf {
        self.path().join("empty")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.path().join("console")
    }

    pub(crate) fn qemu_log(&self) -> PathBuf {
        self.path().join("qemu.log")
    }

    /// Writes a file that only the owner can read.
    pub(crate) fn write(&self, name: &str, contents: &[u8]) -> Result<(), LabError> {
        let path = self.path().join(name);
        std::fs::write(&path, contents).map_err(LabError::file("writing", &path))
    }
}

/// Removes this user's folders in `parent` whose run has ended. A folder that can't be removed is of no concern here.
fn sweep(parent: &Path, new: Duration) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    let user = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if !is_ours || age.is_none_or(|age| age < new) {
            continue;
        }
        if let Ok(folder) = File::open(entry.path())
            && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_a_killed_run_left_is_removed_and_a_live_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("vireo-lab.left");
        let other = parent.path().join("something.else");
        std::fs::create_dir_all(left.join("empty")).unwrap();
        std::fs::create_dir(&other).unwrap();
        let live = RunFolder::create_in(parent.path(), NEW).unwrap();
        assert!(left.exists(), "a new folder may be about to be locked");
        let second = RunFolder::create_in(parent.path(), Duration::ZERO).unwrap();
        assert!(!left.exists());
        assert!(live.empty().is_dir() && second.empty().is_dir() && other.exists());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }
}
