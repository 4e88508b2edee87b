//! Making images so that nobody ever sees half of one: under a temporary name beside their place, then renamed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::refuse;
use crate::backend::BlockError;
use crate::file::{HostFile, RawOptions, error};
use crate::qcow2::{Preallocation, Qcow2Disk, Qcow2Parameters, avoid_copy_on_write, reserve_storage};

/// What a new image is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewImage {
    /// A raw file.
    Raw {
        /// Size of the disk, bytes: a positive multiple of 512.
        bytes: u64,
        /// Whether it has its storage from the start. There is no metadata to preallocate.
        preallocation: Preallocation,
        /// Whether a file system that copies on write is asked not to do so for this file (where it can).
        no_copy_on_write: bool,
    },
    /// A qcow2 image.
    Qcow2(Qcow2Parameters),
}

impl NewImage {
    /// A raw file of `bytes` bytes without storage.
    pub fn sparse_raw(bytes: u64) -> Self {
        Self::Raw { bytes, preallocation: Preallocation::Off, no_copy_on_write: false }
    }

    /// Makes the image at `path`, where no file may be yet. Nothing is left behind on failure. It is durable once the caller has
    /// synced it.
    pub fn create(&self, path: &Path) -> Result<(), BlockError> {
        match self {
            Self::Raw { bytes, preallocation, no_copy_on_write } => {
                create_raw(path, *bytes, *preallocation, *no_copy_on_write)
            }
            Self::Qcow2(parameters) => Qcow2Disk::create(path, parameters),
        }
    }
}

fn create_raw(
    path: &Path,
    bytes: u64,
    preallocation: Preallocation,
    no_copy_on_write: bool,
) -> Result<(), BlockError> {
    const OPERATION: &str = "cannot create the raw image";
    if bytes == 0 || !bytes.is_multiple_of(512) {
        return Err(refuse(path, OPERATION, format!("size is {bytes}: a positive multiple of 512")));
    }
    if preallocation == Preallocation::Metadata {
        return Err(refuse(
            path,
            OPERATION,
            "preallocation: a raw image has no metadata: use falloc or full",
        ));
    }
    let fail = |source| error(path, OPERATION, source);
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(fail)?;
    let fill = || {
        if no_copy_on_write {
            avoid_copy_on_write(&file);
        }
        file.set_len(bytes)?;
        reserve_storage(&file, 0, bytes, preallocation)
    };
    fill().map_err(|source| {
        // Half an image is of no use to anybody.
        let _ = std::fs::remove_file(path);
        fail(source)
    })
}

/// A file that takes its place only when it is whole. Until [`Replacement::commit`] it has a temporary name in the same
/// directory and is removed on drop. What is in its place meanwhile is kept locked: an image in use is not replaced.
#[derive(Debug)]
pub struct Replacement {
    place: PathBuf,
    temporary: PathBuf,
    replaced: Option<HostFile>,
}

impl Replacement {
    /// Prepares to put a file at `path`, or to replace the regular file there that nobody has open as an image.
    pub fn prepare(path: &Path) -> Result<Self, BlockError> {
        const OPERATION: &str = "cannot be replaced by a new image";
        let (place, replaced) = match std::fs::metadata(path) {
            Ok(found) if found.is_file() => {
                // The file that a symbolic link leads to is replaced, not the link.
                let place = std::fs::canonicalize(path).map_err(|source| error(path, OPERATION, source))?;
                (place, Some(HostFile::open(path, &RawOptions::default())?))
            }
            Ok(_) => {
                let advice =
                    "it is not a regular file: remove it, name another, or (convert -n) write into it";
                return Err(refuse(path, OPERATION, advice));
            }
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => (path.to_owned(), None),
            Err(source) => return Err(error(path, OPERATION, source)),
        };
        let Some(name) = place.file_name() else {
            return Err(refuse(path, "cannot create", "the path does not end in a file's name"));
        };
        let name = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        let temporary = place.with_file_name(name);
        if std::fs::symlink_metadata(&temporary).is_ok() {
            return Err(refuse(
                &temporary,
                "cannot create",
                "an earlier run left this file behind: remove it",
            ));
        }
        Ok(Self { place, temporary, replaced })
    }

    /// Where the file is to be made, and written, before it takes its place.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// Says of an error that it concerns the file to be: the temporary name means nothing to people.
    pub fn named(&self, error: BlockError) -> BlockError {
        if error.path == self.temporary { BlockError { path: self.place.clone(), ..error } } else { error }
    }

    /// Makes the file durable and puts it in its place.
    pub fn commit(self) -> Result<(), BlockError> {
        self.put_in_place(true)
    }

    /// Puts the file in its place without waiting for the storage: if the host crashes soon, it may be there and damaged.
    pub fn commit_volatile(self) -> Result<(), BlockError> {
        self.put_in_place(false)
    }

    fn put_in_place(&self, durable: bool) -> Result<(), BlockError> {
        let fail = |source| error(&self.place, "cannot put the new image in its place", source);
        let file = File::open(&self.temporary).map_err(fail)?;
        if let Some(replaced) = &self.replaced {
            let mode = replaced.access.file.metadata().map_err(fail)?.permissions().mode();
            file.set_permissions(PermissionsExt::from_mode(mode)).map_err(fail)?;
        }
        if durable {
            file.sync_all().map_err(fail)?;
        }
        std::fs::rename(&self.temporary, &self.place).map_err(fail)?;
        if !durable {
            return Ok(());
        }
        let directory = self.place.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(fail)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After a commit there is no file of this name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}
