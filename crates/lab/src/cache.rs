//! The folder that holds what is downloaded and made once: kernels with their modules, initramfs images, snapshots.
//!
//! ```text
//! kernels/{full,c612,c61}/  vmlinuz vmlinux config version lib/modules/VERSION/
//! guests/{full,c612,c61}.cpio   host.cpio   cr8trap.ko   rootfs.ext4 rootfs.qcow2
//! snapshots/KEY/            memory and device state of an emulated host that waits for a job
//! ```
//! A file NAME that is made from others stands beside `NAME.stamp`, a fingerprint of what it was made from. Everything
//! appears under its final name by a rename, so a killed setup leaves nothing that looks complete; its leftovers are
//! called `.making-*` and are removed by the next setup.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::error::LabError;
use crate::interrupt::Interrupt;
use crate::report::Report;
use crate::wait;

const LOCK_INTERVAL: Duration = Duration::from_millis(100);
const LEFTOVER: &str = ".making-";

/// Where everything is kept.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$VIREO_LAB_CACHE`, or `vireo/lab` in `$XDG_CACHE_HOME` or `~/.cache`. The folder need not exist.
    ///
    /// # Errors
    /// When none of these variables is set.
    pub fn from_environment() -> Result<Cache, LabError> {
        let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = folder("VIREO_LAB_CACHE")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("vireo/lab")))
            .or_else(|| folder("HOME").map(|home| home.join(".cache/vireo/lab")));
        let Some(root) = root else {
            return Err(LabError::Shape("no folder for the cache: set VIREO_LAB_CACHE".to_owned()));
        };
        Cache::at(&root)
    }

    /// The cache in the folder `root`.
    ///
    /// # Errors
    /// When a relative `root` can't be resolved.
    pub fn at(root: &Path) -> Result<Cache, LabError> {
        let root = std::path::absolute(root).map_err(LabError::file("resolving", root))?;
        Ok(Cache { root })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Something in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Creates the folder and removes what a killed setup left. To be called with the setup lock held.
    pub(crate) fn clean(&self) -> Result<(), LabError> {
        for entry in std::fs::read_dir(&self.root).map_err(LabError::file("reading", &self.root))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(LEFTOVER) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// A new folder in the cache that is removed when dropped.
    pub(crate) fn making(&self) -> Result<tempfile::TempDir, LabError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(LEFTOVER).permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755));
        builder.tempdir_in(&self.root).map_err(LabError::file("creating a folder in", &self.root))
    }

    /// Whether `name` exists and was made from what `fingerprint` says.
    pub(crate) fn is_current(&self, name: &str, fingerprint: &str) -> bool {
        let stamp = std::fs::read_to_string(self.path(&format!("{name}.stamp")));
        self.path(name).exists() && stamp.is_ok_and(|stamp| stamp == fingerprint)
    }

    /// Puts the finished file `from` in place of `name`.
    pub(crate) fn install(&self, from: &Path, name: &str, fingerprint: &str) -> Result<(), LabError> {
        let (to, stamp) = (self.path(name), self.path(&format!("{name}.stamp")));
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).map_err(LabError::file("creating", folder))?;
        }
        remove(&stamp)?;
        std::fs::rename(from, &to).map_err(LabError::file("renaming", from))?;
        std::fs::write(&stamp, fingerprint).map_err(LabError::file("writing", stamp))
    }

    /// The file of the lock `name`, created if need be.
    pub(crate) fn lock_file(&self, name: &str) -> Result<File, LabError> {
        let path = self.path(name);
        // A prepared cache may belong to somebody else: a lock needs no right to write.
        let file = match OpenOptions::new().create(true).append(true).open(&path) {
            Err(error)
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) =>
            {
                File::open(&path)
            }
            result => result,
        };
        file.map_err(LabError::file("opening", &path))
    }

    /// Waits for the exclusive lock `name`, saying so when somebody holds it.
    pub(crate) fn lock(
        &self,
        name: &str,
        why: &str,
        report: &Report,
        interrupt: &Interrupt,
    ) -> Result<Lock, LabError> {
        let path = self.path(name);
        let file = self.lock_file(name)?;
        let mut waiting = false;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK && error != Errno::INTR {
                return Err(LabError::file("locking", &path)(error.into()));
            }
            if !waiting {
                report.say(format_args!("waiting for {why}"));
            }
            waiting = true;
            // flock can't be waited for together with a signal, so ask again and again.
            wait::ready(&[], Instant::now() + LOCK_INTERVAL, interrupt)?;
        }
        Ok(Lock { _file: file })
    }
}

/// Held while it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Removes a file or a folder with all that is in it; nothing there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), LabError> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(LabError::file("removing", path)(error)),
        _ => Ok(()),
    }
}

/// A hexadecimal digest of `parts` in this order, unambiguous about where each ends.
pub(crate) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
