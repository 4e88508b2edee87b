//! Placing the initial RAM file system.

use std::ops::Range;
use std::path::Path;

use vm_memory::GuestMemoryMmap;

use super::image::ImageFile;
use super::{BootError, InitramfsFault};

const PAGE: u64 = 4096;

/// Loads the file as high as it goes below `room.end`: far from where the kernel unpacks and grows.
/// `room` is RAM behind the kernel; the result is where the file's bytes are.
pub(super) fn load(
    memory: &GuestMemoryMmap<()>,
    path: &Path,
    room: Range<u64>,
) -> Result<Range<u64>, BootError> {
    let error = |fault| BootError::Initramfs { path: path.to_owned(), fault };
    let image = ImageFile::open(path).map_err(|fault| error(fault.into()))?;
    let bytes = image.length();
    let start = room
        .end
        .checked_sub(bytes)
        .map(|start| start - start % PAGE)
        .filter(|start| *start >= room.start)
        .ok_or_else(|| error(InitramfsFault::DoesNotFit { bytes, limit: room.end }))?;
    image.load(memory, start, 0, bytes).map_err(|fault| error(fault.into()))?;
    Ok(start..start + bytes)
}
