//! Opening an image whose format the caller knows.

use std::path::{Path, PathBuf};

use super::{ImageFormat, OperationError, refuse};
use crate::backend::{BlockBackend, BlockError};
use crate::file::RawOptions;
use crate::formats::{ExtentAccess, Format, FormatDisk, FormatOptions};
use crate::qcow2::{BackingAccess, Qcow2Disk, Qcow2Options};
use crate::raw::RawDisk;
use crate::status::RangeStatus;

/// How an image is opened, and which other files it may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageAccess {
    /// Its file: for writing or not, caches, locks.
    pub file: RawOptions,
    /// Directories beside the image's own in which its backing files and external data file may lie.
    pub directories: Vec<PathBuf>,
}

impl ImageAccess {
    /// The directories in which files that the image at `path` names may lie: its own first.
    pub(crate) fn allowed(&self, path: &Path) -> Vec<PathBuf> {
        let own = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut directories = vec![own.to_owned()];
        directories.extend_from_slice(&self.directories);
        directories
    }

    /// As for [`Qcow2Disk::open`].
    pub(crate) fn qcow2(&self, path: &Path) -> Qcow2Options {
        Qcow2Options {
            file: self.file,
            backing: BackingAccess::Within(self.allowed(path)),
            ..Qcow2Options::default()
        }
    }
}

/// An open image of any format.
#[derive(Debug)]
pub enum OpenImage {
    /// A raw file or block device.
    Raw(RawDisk),
    /// A qcow2 image with its chain.
    Qcow2(Qcow2Disk),
    /// An image of another hypervisor, for reading only.
    Foreign(FormatDisk),
}

impl OpenImage {
    /// Opens the image at `path`. Formats of other hypervisors are read only, so `access` has to be too; their other files
    /// (extents of a VMDK image) are opened beside them only. A disk in an OVA archive with several is named after the
    /// archive: `machine.ova:disk1.vmdk`.
    pub fn open(path: &Path, format: ImageFormat, access: &ImageAccess) -> Result<Self, BlockError> {
        let Some(foreign) = format.foreign() else {
            if format == ImageFormat::Qcow2 {
                return Qcow2Disk::open(path, &access.qcow2(path)).map(Self::Qcow2);
            }
            return RawDisk::open(path, &access.file).map(Self::Raw);
        };
        if !access.file.read_only {
            let advice = "images of this format are only read: convert it to qcow2 or raw first";
            return Err(refuse(path, &format!("cannot open the {format} image for writing"), advice));
        }
        let options = FormatOptions {
            extents: ExtentAccess::SameDirectory,
            locking: access.file.locking,
            engine: access.file.engine,
        };
        let disk = match archive_and_disk(path) {
            Some((archive, disk)) if foreign == Format::Ova => {
                FormatDisk::open_ova(&archive, Some(&disk), &options)
            }
            _ => FormatDisk::open(path, foreign, &options),
        };
        disk.map(Self::Foreign)
    }

    /// How the disk is stored from `offset` on, and for how many of `bytes` bytes (at least one) that answer holds. The
    /// range lies within the disk. May read metadata, and waits for it.
    pub fn status(&self, offset: u64, bytes: u64) -> Result<(RangeStatus, u64), OperationError> {
        let result = match self {
            Self::Raw(disk) => disk
                .zero_run(offset, bytes)
                .map(|(zero, run)| (RangeStatus { zero, data: !zero, ..RangeStatus::data(0, offset) }, run)),
            Self::Qcow2(disk) => disk.status(offset, bytes),
            Self::Foreign(disk) => {
                return disk.image().status(offset, bytes).map_err(|source| {
                    unknown(offset, std::io::Error::new(std::io::ErrorKind::InvalidData, source))
                });
            }
        };
        result.map_err(|errno| unknown(offset, errno.into()))
    }

    /// What the file is called that [`RangeStatus::file`] means.
    pub fn file(&self, number: usize) -> Option<&Path> {
        match self {
            Self::Raw(disk) => (number == 0).then(|| disk.path()),
            Self::Qcow2(disk) => disk.data_path(number),
            Self::Foreign(disk) => disk.image().path(number),
        }
    }

    /// Whether the disk is known to read as zeroes from `offset` on, and for how many of `bytes` bytes (at least one) that
    /// answer holds. The range lies within the disk. May read metadata, and waits for it.
    pub(crate) fn zero_run(&self, offset: u64, bytes: u64) -> Result<(bool, u64), OperationError> {
        let result = match self {
            Self::Raw(disk) => disk.zero_run(offset, bytes),
            Self::Qcow2(disk) => disk.zero_run(offset, bytes),
            Self::Foreign(_) => return self.status(offset, bytes).map(|(status, run)| (status.zero, run)),
        };
        result.map_err(|errno| unknown(offset, errno.into()))
    }

    /// The disk in it.
    pub fn disk(&self) -> &dyn BlockBackend {
        match self {
            Self::Raw(disk) => disk,
            Self::Qcow2(disk) => disk,
            Self::Foreign(disk) => disk,
        }
    }
}

fn unknown(offset: u64, source: std::io::Error) -> OperationError {
    OperationError::Transfer { operation: "find out what is allocated", offset, source }
}

/// Takes `machine.ova:disk1.vmdk` apart, unless a file has that very name.
pub(super) fn archive_and_disk(path: &Path) -> Option<(PathBuf, String)> {
    if path.symlink_metadata().is_ok() {
        return None;
    }
    let text = path.to_str()?;
    let at = text.to_ascii_lowercase().find(".ova:")? + ".ova".len();
    Some((PathBuf::from(&text[..at]), text[at + 1..].to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_named_after_its_archive() {
        let parts = |text: &str| archive_and_disk(Path::new(text));
        let found = |archive: &str, disk: &str| Some((PathBuf::from(archive), disk.to_owned()));
        assert_eq!(parts("a/m.ova:disk1.vmdk"), found("a/m.ova", "disk1.vmdk"));
        assert_eq!(parts("M.OVA:x:y"), found("M.OVA", "x:y"));
        assert_eq!(parts("m.ova"), None);
        assert_eq!(parts("m.vmdk:disk"), None);
    }
}
