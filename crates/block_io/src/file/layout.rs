//! What a file or device is: its kind, its size, the units in which it is accessed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, SeekFrom, StatxFlags};
use rustix::io::Errno;

use super::access::AlignedBuffer;
use crate::backend::BlockGeometry;

/// What holds a raw disk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    RegularFile,
    BlockDevice,
}

/// Smallest block that guests know.
pub(crate) const SECTOR_BYTES: u32 = 512;
/// Alignment that direct I/O accepts on every device we know of.
const SAFE_ALIGNMENT: u32 = 4096;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) kind: Kind,
    pub(crate) bytes: u64,
    pub(crate) geometry: BlockGeometry,
    /// Memory that takes part in I/O must begin at a multiple of this (1 without O_DIRECT).
    pub(crate) memory_alignment: u32,
}

impl Layout {
    pub(crate) fn of(fd: &OwnedFd, direct: bool) -> io::Result<Self> {
        let refuse = |advice: String| Err(io::Error::new(io::ErrorKind::InvalidInput, advice));
        let stat = rustix::fs::fstat(fd)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::RegularFile,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Directory => return refuse("it is a directory, not a disk image".into()),
            FileType::CharacterDevice => return refuse("it is a character device".into()),
            FileType::Fifo => return refuse("it is a FIFO".into()),
            FileType::Socket => return refuse("it is a socket".into()),
            FileType::Symlink | FileType::Unknown => {
                return refuse("it is neither file nor block device".into());
            }
        };
        let bytes = rustix::fs::seek(fd, SeekFrom::End(0))?;
        let (memory_alignment, offset_alignment) =
            if direct { direct_alignment(fd)? } else { (1, SECTOR_BYTES) };
        let mut logical = offset_alignment.max(SECTOR_BYTES);
        let mut physical = u32::try_from(stat.st_blksize).unwrap_or(SAFE_ALIGNMENT);
        let mut discard = physical;
        if kind == Kind::BlockDevice {
            logical = logical.max(rustix::fs::ioctl_blksszget(fd)?);
            physical = rustix::fs::ioctl_blkpbszget(fd)?;
            discard = discard_granularity(stat.st_rdev);
        }
        let physical = if physical.is_power_of_two() { physical.clamp(logical, 1 << 20) } else { logical };
        let geometry = BlockGeometry {
            logical_block_bytes: logical,
            physical_block_bytes: physical,
            discard_bytes: discard,
        };
        Ok(Self { kind, bytes, geometry, memory_alignment })
    }

    /// Whether the file can be a raw disk as it is: its size is one that a disk can have.
    pub(crate) fn check_raw(&self) -> io::Result<()> {
        let refuse = |advice: String| Err(io::Error::new(io::ErrorKind::InvalidInput, advice));
        let (bytes, logical) = (self.bytes, self.geometry.logical_block_bytes);
        if bytes == 0 {
            return refuse("it is empty: create it with a size first".into());
        }
        if !bytes.is_multiple_of(u64::from(SECTOR_BYTES)) {
            let wanted = bytes.next_multiple_of(u64::from(SECTOR_BYTES));
            return refuse(format!(
                "its size is {bytes} bytes, not a multiple of {SECTOR_BYTES}: it is not a raw image, or was cut; \
                 make it {wanted} bytes long (truncate --size={wanted}) if it is whole"
            ));
        }
        if !bytes.is_multiple_of(u64::from(logical)) {
            return refuse(format!(
                "its size is {bytes} bytes, not a multiple of the {logical} bytes that direct I/O works in here: \
                 grow it to {}, or use cache mode writeback",
                bytes.next_multiple_of(u64::from(logical))
            ));
        }
        Ok(())
    }
}

/// What direct I/O demands of memory and of offsets: as the file system says (statx(2), STATX_DIOALIGN, Linux 6.1), or as
/// found by trying.
fn direct_alignment(fd: &OwnedFd) -> io::Result<(u32, u32)> {
    let unsupported = || {
        let advice = "its file system does not support direct I/O (use cache mode writeback)";
        io::Error::new(io::ErrorKind::Unsupported, advice)
    };
    if let Ok(found) = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        && StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::DIOALIGN)
    {
        if found.stx_dio_offset_align == 0 {
            return Err(unsupported());
        }
        return Ok((found.stx_dio_mem_align.max(1), found.stx_dio_offset_align));
    }
    for alignment in [SECTOR_BYTES, 1024, 2048, SAFE_ALIGNMENT] {
        let mut buffer = AlignedBuffer::new(alignment as usize, SAFE_ALIGNMENT as usize);
        match rustix::io::pread(fd.as_fd(), buffer.bytes(), 0) {
            Ok(_) => return Ok((SAFE_ALIGNMENT, alignment)),
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(unsupported())
}

/// Unit of a device's discards in bytes, from sysfs; 0 when it has none.
fn discard_granularity(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let base = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has no queue of its own: its disk's is one up.
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| std::fs::read_to_string(base.join(queue).join("discard_granularity")).ok())
        .and_then(|text| text.trim().parse::<u32>().ok())
        .filter(|bytes| bytes.is_power_of_two())
        .unwrap_or(0)
}
