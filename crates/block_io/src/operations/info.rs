//! What an image's file is and says about itself.

use std::path::{Path, PathBuf};

use super::open::archive_and_disk;
use super::{ImageAccess, ImageFormat, refuse};
use crate::backend::BlockError;
use crate::file::{HostFile, Locking, RawOptions, error};
use crate::formats::{self, FormatDisk, OvaDisk, PROBE_BYTES, VmdkInfo};
pub use crate::qcow2::Snapshot as SnapshotInfo;
use crate::qcow2::{Qcow2Disk, Qcow2Info};

/// Disks consist of sectors of this size, whatever a file's length is.
const SECTOR_BYTES: u64 = 512;
/// What an encrypted container begins with (LUKS1 and LUKS2 On-Disk Format Specifications).
const LUKS_MAGIC: &[u8] = b"LUKS\xba\xbe";

/// An image's file, and what it says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// Whether the format was found by looking at the first bytes, which whoever wrote them chose.
    pub probed: bool,
    /// Size of the disk, bytes: whole sectors of 512 bytes. 0 for an archive.
    pub virtual_bytes: u64,
    /// Length of the file or size of the device, bytes.
    pub file_bytes: u64,
    /// Storage that the file takes, bytes.
    pub allocated_bytes: u64,
    /// Whether it is a block device.
    pub is_device: bool,
    /// Size of the pieces in which the disk is allocated, bytes, if the format has them.
    pub cluster_bytes: Option<u64>,
    /// What a qcow2 image says.
    pub qcow2: Option<Qcow2Info>,
    /// What a VMDK image says.
    pub vmdk: Option<VmdkInfo>,
    /// The disks in an OVA archive.
    pub disks: Vec<OvaDisk>,
}

impl ImageInfo {
    /// Looks at the file at `path` and at no other. Takes no lock, so it works on images in use; what it tells of them may be
    /// out of date. Without a `format` the first bytes decide (and for VHD the last ones).
    pub fn read(path: &Path, format: Option<ImageFormat>) -> Result<Self, BlockError> {
        let options = RawOptions { read_only: true, locking: Locking::Shared, ..RawOptions::default() };
        let file = HostFile::open(path, &options)?;
        let fail = |source| error(path, "cannot read", source);
        let found = match format {
            Some(format) => format,
            None => probe_file(&file)?,
        };
        let file_bytes = file.bytes().map_err(fail)?;
        let stat = rustix::fs::fstat(&*file.access.file).map_err(|errno| fail(errno.into()))?;
        let mut info = Self {
            path: path.to_owned(),
            format: found,
            probed: format.is_none(),
            virtual_bytes: file_bytes.next_multiple_of(SECTOR_BYTES),
            file_bytes,
            allocated_bytes: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            is_device: rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::BlockDevice,
            cluster_bytes: None,
            qcow2: None,
            vmdk: None,
            disks: Vec::new(),
        };
        if found == ImageFormat::Qcow2 {
            let qcow2 = Qcow2Disk::info(path)?;
            info.virtual_bytes = qcow2.virtual_bytes;
            info.cluster_bytes = Some(qcow2.cluster_bytes);
            info.qcow2 = Some(qcow2);
        } else if let Some(foreign) = found.foreign() {
            let described = FormatDisk::describe(path, foreign)?;
            info.virtual_bytes = described.virtual_bytes;
            info.cluster_bytes = described.block_bytes;
            info.vmdk = described.vmdk;
            info.disks = described.disks;
        }
        Ok(info)
    }

    /// Looks at the image at `path` and at everything below it, nearest first, where `access` allows its directory. The
    /// formats of backing files are those that the images name, `format` is that of the first.
    pub fn read_chain(
        path: &Path,
        format: Option<ImageFormat>,
        access: &ImageAccess,
    ) -> Result<Vec<Self>, BlockError> {
        let mut infos = vec![Self::read(path, format)?];
        if infos[0].format == ImageFormat::Qcow2 {
            // Finds loops, and files that may not be opened, before they are looked at.
            for (path, format) in Qcow2Disk::chain(path, &access.qcow2(path))? {
                let format = if format == "raw" { ImageFormat::Raw } else { ImageFormat::Qcow2 };
                infos.push(Self::read(&path, Some(format))?);
            }
        }
        Ok(infos)
    }

    /// The path of the backing file, which may be anything: nothing has been opened.
    pub fn full_backing_path(&self) -> Option<PathBuf> {
        let name = self.qcow2.as_ref()?.backing.as_ref()?;
        let directory = self.path.parent().unwrap_or(Path::new(""));
        Some(directory.join(name))
    }
}

/// What the first bytes of the file at `path` say that it is (for VHD, the last ones). Whoever wrote them chose them: only for
/// images that are read, and in whose backing files nothing is to be found that their owner must not see.
pub fn probe(path: &Path) -> Result<ImageFormat, BlockError> {
    if archive_and_disk(path).is_some() {
        return Ok(ImageFormat::Ova);
    }
    let options = RawOptions { read_only: true, locking: Locking::Shared, ..RawOptions::default() };
    probe_file(&HostFile::open(path, &options)?)
}

fn probe_file(file: &HostFile) -> Result<ImageFormat, BlockError> {
    let fail = |source| error(&file.path, "cannot read", source);
    let bytes = file.bytes().map_err(fail)?;
    let first = read_at(file, 0).map_err(|errno| fail(errno.into()))?;
    let last = read_at(file, bytes.saturating_sub(PROBE_BYTES as u64)).map_err(|errno| fail(errno.into()))?;
    if first.starts_with(LUKS_MAGIC) {
        let advice = "it is encrypted (LUKS), which is not supported; -f raw is for the container as it is";
        return Err(refuse(&file.path, "cannot tell what is in it", advice));
    }
    Ok(formats::probe(&first, &last).map_or(ImageFormat::Raw, ImageFormat::from))
}

/// Up to [`PROBE_BYTES`] bytes.
fn read_at(file: &HostFile, offset: u64) -> rustix::io::Result<Vec<u8>> {
    let mut content = vec![0; PROBE_BYTES];
    let mut done = 0;
    while done < content.len() {
        match rustix::io::pread(&*file.access.file, &mut content[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    content.truncate(done);
    Ok(content)
}
