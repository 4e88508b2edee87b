//! Opening an image whose format the caller knows.

use std::path::{Path, PathBuf};

use super::{ImageFormat, OperationError};
use crate::backend::{BlockBackend, BlockError};
use crate::file::RawOptions;
use crate::qcow2::{BackingAccess, Qcow2Disk, Qcow2Options};
use crate::raw::RawDisk;

/// How an image is opened, and which other files it may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageAccess {
    /// Its file: for writing or not, caches, locks.
    pub file: RawOptions,
    /// Directories beside the image's own in which its backing files and external data file may lie.
    pub directories: Vec<PathBuf>,
}

/// An open image of either format.
#[derive(Debug)]
pub enum OpenImage {
    /// A raw file or block device.
    Raw(RawDisk),
    /// A qcow2 image with its chain.
    Qcow2(Qcow2Disk),
}

impl OpenImage {
    /// Opens the image at `path`.
    pub fn open(path: &Path, format: ImageFormat, access: &ImageAccess) -> Result<Self, BlockError> {
        if format == ImageFormat::Raw {
            return RawDisk::open(path, &access.file).map(Self::Raw);
        }
        let own = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut directories = vec![own.to_owned()];
        directories.extend_from_slice(&access.directories);
        let options = Qcow2Options {
            file: access.file,
            backing: BackingAccess::Within(directories),
            ..Qcow2Options::default()
        };
        Qcow2Disk::open(path, &options).map(Self::Qcow2)
    }

    /// Whether the disk is known to read as zeroes from `offset` on, and for how many of `bytes` bytes (at least one) that
    /// answer holds. The range lies within the disk. May read metadata, and waits for it.
    pub(crate) fn zero_run(&self, offset: u64, bytes: u64) -> Result<(bool, u64), OperationError> {
        let result = match self {
            Self::Raw(disk) => disk.zero_run(offset, bytes),
            Self::Qcow2(disk) => disk.zero_run(offset, bytes),
        };
        result.map_err(|errno| OperationError::Transfer {
            operation: "find out what is allocated",
            offset,
            source: errno.into(),
        })
    }

    /// The disk in it.
    pub fn disk(&self) -> &dyn BlockBackend {
        match self {
            Self::Raw(disk) => disk,
            Self::Qcow2(disk) => disk,
        }
    }
}
