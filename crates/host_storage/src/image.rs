//! Images inside of volumes: the crate's door to `block_io`.
//!
//! Files are opened by `directory`; here they are only handed on, so that no path is looked up a second time.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use block_io::formats::{Format, PROBE_BYTES};
use block_io::operations::{OpenImage, Progress};
use block_io::qcow2::{BackingAccess, Qcow2Info};
use block_io::{Qcow2Disk, Qcow2Options, RawDisk, RawOptions};
use libvirt_xml::storage::VolumeFormat;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::StorageError;

/// Where an ISO 9660 image says "CD001" (ECMA-119, 8.1 "Standard Identifier" of the first volume descriptor).
const ISO_AT: u64 = 0x8001;

/// What the content looks like. For a file that nobody has told us about.
pub(crate) fn probe(file: &File) -> io::Result<VolumeFormat> {
    let bytes = rustix::fs::seek(file, SeekFrom::End(0))?;
    let length = usize::try_from(bytes).unwrap_or(PROBE_BYTES).min(PROBE_BYTES);
    let (mut first, mut last) = (vec![0; length], vec![0; length]);
    file.read_exact_at(&mut first, 0)?;
    file.read_exact_at(&mut last, bytes - length as u64)?;
    let found = match block_io::formats::probe(&first, &last) {
        Some(Format::Qcow2) => VolumeFormat::Qcow2,
        Some(Format::Vmdk) => VolumeFormat::Vmdk,
        Some(Format::Vhdx) => VolumeFormat::Vhdx,
        Some(Format::Vhd) => VolumeFormat::Vpc,
        Some(Format::Vdi) => VolumeFormat::Vdi,
        Some(Format::Ova) | None => VolumeFormat::Raw,
    };
    let mut identifier = [0; 5];
    if found == VolumeFormat::Raw
        && bytes >= ISO_AT + identifier.len() as u64
        && file.read_exact_at(&mut identifier, ISO_AT).is_ok()
        && &identifier == b"CD001"
    {
        return Ok(VolumeFormat::Iso);
    }
    Ok(found)
}

/// Formats whose bytes are the disk's.
pub(crate) fn is_raw(format: VolumeFormat) -> bool {
    matches!(format, VolumeFormat::Raw | VolumeFormat::Iso)
}

/// What a qcow2 image says about itself; nothing else is opened.
pub(crate) fn qcow2_info(file: &File, path: &Path) -> Result<Qcow2Info, StorageError> {
    let pinned = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Qcow2Disk::info(&pinned).map_err(|error| StorageError::image(error, path))
}

/// Opens a qcow2 image in a file of ours. Its chain may lie in `directories`.
pub(crate) fn open_qcow2(
    file: &File,
    path: &Path,
    read_only: bool,
    directories: &[PathBuf],
) -> Result<Qcow2Disk, StorageError> {
    let options = Qcow2Options {
        file: RawOptions { read_only, ..RawOptions::default() },
        backing: BackingAccess::Within(directories.to_vec()),
        ..Qcow2Options::default()
    };
    let fd = duplicate(file, path)?;
    Qcow2Disk::adopt(path, fd, &options).map_err(|error| StorageError::image(error, path))
}

/// Opens the disk in a file of ours for reading.
pub(crate) fn open_for_reading(
    file: &File,
    path: &Path,
    format: VolumeFormat,
    directories: &[PathBuf],
) -> Result<OpenImage, StorageError> {
    match format {
        VolumeFormat::Qcow2 => open_qcow2(file, path, true, directories).map(OpenImage::Qcow2),
        format if is_raw(format) => {
            let options = RawOptions { read_only: true, ..RawOptions::default() };
            let disk = RawDisk::adopt(path, duplicate(file, path)?, &options);
            disk.map(OpenImage::Raw).map_err(|error| StorageError::image(error, path))
        }
        other => Err(StorageError::Unsupported(format!(
            "volumes of the format {other} can't be read as disks here: convert {} with \"vireo image convert\"",
            path.display()
        ))),
    }
}

/// Another descriptor of the same open file: it shares its lock.
fn duplicate(file: &File, path: &Path) -> Result<OwnedFd, StorageError> {
    file.try_clone().map(OwnedFd::from).map_err(|source| StorageError::system("use", path, source))
}

/// Size of the disk in a file, bytes.
pub(crate) fn capacity(
    file: &File,
    path: &Path,
    format: VolumeFormat,
    directories: &[PathBuf],
) -> Result<u64, StorageError> {
    match format {
        VolumeFormat::Qcow2 => qcow2_info(file, path).map(|info| info.virtual_bytes),
        format if is_raw(format) => length(file, path),
        other => open_for_reading(file, path, other, directories).map(|image| image.disk().capacity()),
    }
}

/// Length of a file or size of a device, bytes.
pub(crate) fn length(file: &File, path: &Path) -> Result<u64, StorageError> {
    rustix::fs::seek(file, SeekFrom::End(0)).map_err(StorageError::on("find the size of", path))
}

/// The next piece of a file from `offset` on: whether it is data, and where it ends. `None` at the end.
pub(crate) fn next_piece(file: &File, offset: u64, end: u64) -> Result<Option<(bool, u64)>, Errno> {
    if offset >= end {
        return Ok(None);
    }
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Err(Errno::NXIO) => Ok(Some((false, end))),
        // A device, or a file system that can't tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some((true, end))),
        Err(errno) => Err(errno),
        Ok(data) if data > offset => Ok(Some((false, data.min(end)))),
        Ok(_) => {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(offset))?;
            Ok(Some((true, hole.clamp(offset + 1, end))))
        }
    }
}

/// Tells the progress, and fails if whoever watches it says so.
pub(crate) fn advance(progress: Progress<'_>, done: u64, total: u64) -> Result<(), StorageError> {
    match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StorageError::Interrupted),
    }
}
