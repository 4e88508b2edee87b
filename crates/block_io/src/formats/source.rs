//! Where an image's bytes come from: a host file, a window of one, or memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::error::ImageError;
use crate::file::HostFile;

/// Bytes that are read at any place. Cheap to share; reading waits.
pub trait ImageSource: Send + Sync + std::fmt::Debug {
    /// Fills `buffer` from `offset` on, or fails: a range that does not lie within the source is `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Size, bytes.
    fn bytes(&self) -> u64;

    /// The host file that holds the bytes and where in it they begin, if there is one.
    fn host(&self) -> Option<(Arc<File>, u64)> {
        None
    }

    /// What that file is called.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Whether the bytes of a range are just those of [`ImageSource::host`], so that the kernel can be asked for them.
    fn is_plain(&self, _offset: u64, _bytes: u64) -> bool {
        true
    }
}

/// Whether checksums are compared. Under a fuzzer every one is right: it can't guess them, and would never get past.
pub(super) const CHECKSUMS_COUNT: bool = !cfg!(fuzzing);

/// A shared source.
pub type SharedSource = Arc<dyn ImageSource>;

/// Whether a range lies within so many bytes.
pub(super) fn fits(offset: u64, bytes: u64, within: u64) -> bool {
    offset.checked_add(bytes).is_some_and(|end| end <= within)
}

impl ImageSource for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let part = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.len() as u64
    }
}

/// An open host file or device, locked for reading.
#[derive(Debug)]
pub(super) struct HostSource {
    file: HostFile,
    /// Size when it was opened, bytes.
    bytes: u64,
}

impl HostSource {
    pub(super) fn new(file: HostFile) -> io::Result<Self> {
        let bytes = file.bytes()?;
        Ok(Self { file, bytes })
    }
}

impl ImageSource for HostSource {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.access.file.read_exact_at(buffer, offset)
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn host(&self) -> Option<(Arc<File>, u64)> {
        Some((Arc::clone(&self.file.access.file), 0))
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.file.path)
    }
}

/// A part of another source: a member of an archive.
#[derive(Debug)]
pub(super) struct Window {
    inner: SharedSource,
    start: u64,
    bytes: u64,
}

impl Window {
    /// The `bytes` bytes from `start` on; they must lie within `inner`.
    pub(super) fn new(inner: SharedSource, start: u64, bytes: u64) -> Result<Self, ImageError> {
        if !fits(start, bytes, inner.bytes()) {
            return Err(ImageError::Cut {
                what: "the archive's member",
                offset: start,
                bytes: inner.bytes(),
            });
        }
        Ok(Self { inner, start, bytes })
    }
}

impl ImageSource for Window {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if !fits(offset, buffer.len() as u64, self.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.inner.read_at(buffer, self.start + offset)
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn host(&self) -> Option<(Arc<File>, u64)> {
        let (file, start) = self.inner.host()?;
        Some((file, start.checked_add(self.start)?))
    }

    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn is_plain(&self, offset: u64, bytes: u64) -> bool {
        self.start.checked_add(offset).is_some_and(|offset| self.inner.is_plain(offset, bytes))
    }
}

/// Reads a structure of fixed size; one that does not lie within the source is an error that names it.
pub(super) fn read_array<const N: usize>(
    source: &dyn ImageSource,
    what: &'static str,
    offset: u64,
) -> Result<Box<[u8; N]>, ImageError> {
    let mut array = Box::new([0; N]);
    read_into(source, what, offset, &mut *array)?;
    Ok(array)
}

/// Reads a structure whose size the caller has bounded.
pub(super) fn read_vec(
    source: &dyn ImageSource,
    what: &'static str,
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, ImageError> {
    // Before memory is taken for it.
    if !fits(offset, bytes as u64, source.bytes()) {
        return Err(ImageError::Cut { what, offset, bytes: source.bytes() });
    }
    let mut buffer = vec![0; bytes];
    read_into(source, what, offset, &mut buffer)?;
    Ok(buffer)
}

fn read_into(
    source: &dyn ImageSource,
    what: &'static str,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), ImageError> {
    if !fits(offset, buffer.len() as u64, source.bytes()) {
        return Err(ImageError::Cut { what, offset, bytes: source.bytes() });
    }
    source.read_at(buffer, offset).map_err(|source| ImageError::Read { what, source })
}

/// Numbers out of a structure. Places are constants of the format and within the array by construction.
pub(super) trait Numbers {
    /// So many bytes at a place.
    fn array<const N: usize>(&self, at: usize) -> [u8; N];

    fn le16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }
    fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }
    fn le64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
    fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }
    fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }
}

impl Numbers for [u8] {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut array = [0; N];
        if let Some(bytes) = at.checked_add(N).and_then(|end| self.get(at..end)) {
            array.copy_from_slice(bytes);
        }
        array
    }
}
