//! What the fuzz targets of image formats share: images in memory, opening them and reading some of it.

use std::io;
use std::sync::Arc;

use block_io::formats::{Format, Image, ImageSource, SharedSource};

/// Size of a read, bytes.
const READ_BYTES: u64 = 64 << 10;

/// Opens an image and reads at places where something may be wrong. Errors are fine.
pub fn read(format: Format, source: SharedSource, extents: &mut dyn FnMut(&str) -> io::Result<SharedSource>) {
    let Ok(image) = Image::open(format, source, extents) else { return };
    let capacity = image.capacity();
    assert!(capacity > 0 && capacity.is_multiple_of(u64::from(image.sector_bytes())));
    let mut buffer = vec![0; READ_BYTES as usize];
    for offset in [0, READ_BYTES - 512, 1 << 20, capacity / 2, capacity.saturating_sub(READ_BYTES)] {
        let length = capacity.saturating_sub(offset).min(READ_BYTES) as usize;
        let _ = image.read_at(&mut buffer[..length], offset);
    }
    assert!(image.read_at(&mut buffer[..1], capacity).is_err(), "a read beyond the disk");
}

/// For images of one file.
pub fn no_extents(_name: &str) -> io::Result<SharedSource> {
    Err(io::ErrorKind::PermissionDenied.into())
}

/// Takes a prefix off that is as long as the first two bytes say: inputs of two parts.
pub fn split(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}

/// A large file of which a few pieces matter; everything else is zeroes.
#[derive(Debug)]
pub struct Pieces {
    /// Where each begins, and its bytes.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Size of the file, bytes.
    pub bytes: u64,
}

impl ImageSource for Pieces {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.bytes);
        let end = end.expect("a read beyond the end must not even be tried");
        buffer.fill(0);
        for (start, piece) in &self.pieces {
            let (from, to) = (offset.max(*start), end.min(start + piece.len() as u64));
            if from < to {
                let part = &piece[(from - start) as usize..(to - start) as usize];
                buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A file that has just these bytes.
pub fn file(bytes: &[u8]) -> SharedSource {
    Arc::new(Pieces { bytes: bytes.len() as u64, pieces: vec![(0, bytes.to_vec())] })
}

/// A file in memory that has these bytes, and the path at which this process can open it.
pub fn file_in_memory(bytes: &[u8]) -> (std::fs::File, std::path::PathBuf) {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).expect("memory for a small file");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, path)
}
