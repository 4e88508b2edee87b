//! What an image's file is and says about itself.

use std::path::{Path, PathBuf};

use super::ImageFormat;
use crate::backend::BlockError;
use crate::file::{HostFile, Locking, RawOptions, error};
pub use crate::qcow2::Snapshot as SnapshotInfo;
use crate::qcow2::{Qcow2Disk, Qcow2Info};

/// The first bytes of every qcow2 image.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Disks consist of sectors of this size, whatever a file's length is.
const SECTOR_BYTES: u64 = 512;

/// An image's file, and what it says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// Whether the format was found by looking at the first bytes, which whoever wrote them chose.
    pub probed: bool,
    /// Size of the disk, bytes: whole sectors of 512 bytes.
    pub virtual_bytes: u64,
    /// Length of the file or size of the device, bytes.
    pub file_bytes: u64,
    /// Storage that the file takes, bytes.
    pub allocated_bytes: u64,
    /// What a qcow2 image says.
    pub qcow2: Option<Qcow2Info>,
}

impl ImageInfo {
    /// Looks at the file at `path` and at no other. Takes no lock, so it works on images in use; what it tells of them may be
    /// out of date. Without a `format` the first bytes decide between qcow2 and raw.
    pub fn read(path: &Path, format: Option<ImageFormat>) -> Result<Self, BlockError> {
        let options = RawOptions { read_only: true, locking: Locking::Shared, ..RawOptions::default() };
        let file = HostFile::open(path, &options)?;
        let fail = |source| error(path, "cannot read", source);
        let found = match format {
            Some(format) => format,
            None => probe(&file).map_err(fail)?,
        };
        let file_bytes = file.bytes().map_err(fail)?;
        let blocks = rustix::fs::fstat(&*file.access.file).map_err(|errno| fail(errno.into()))?.st_blocks;
        let qcow2 = match found {
            ImageFormat::Raw => None,
            ImageFormat::Qcow2 => Some(Qcow2Disk::info(path)?),
        };
        Ok(Self {
            path: path.to_owned(),
            format: found,
            probed: format.is_none(),
            virtual_bytes: qcow2
                .as_ref()
                .map_or(file_bytes.next_multiple_of(SECTOR_BYTES), |info| info.virtual_bytes),
            file_bytes,
            allocated_bytes: u64::try_from(blocks).unwrap_or(0).saturating_mul(512),
            qcow2,
        })
    }

    /// The path of the backing file, which may be anything: nothing has been opened.
    pub fn full_backing_path(&self) -> Option<PathBuf> {
        let name = self.qcow2.as_ref()?.backing.as_ref()?;
        let directory = self.path.parent().unwrap_or(Path::new(""));
        Some(directory.join(name))
    }
}

fn probe(file: &HostFile) -> std::io::Result<ImageFormat> {
    let mut start = [0; QCOW2_MAGIC.len()];
    let mut done = 0;
    while done < start.len() {
        match rustix::io::pread(&*file.access.file, &mut start[done..], done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(if start == QCOW2_MAGIC { ImageFormat::Qcow2 } else { ImageFormat::Raw })
}
