//! A file that goes into guest memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::FileFault;
use crate::memory;

/// An open regular file that is not empty. Its length is taken once; a file that shrinks later is truncated.
#[derive(Debug)]
pub(super) struct ImageFile {
    file: File,
    length: u64,
}

impl ImageFile {
    pub(super) fn open(path: &Path) -> Result<Self, FileFault> {
        // Without O_NONBLOCK a named pipe would hold the machine up until somebody writes to it.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(FileFault::Open)?;
        let metadata = file.metadata().map_err(FileFault::Open)?;
        if !metadata.is_file() {
            return Err(FileFault::NotRegular);
        }
        if metadata.len() == 0 {
            return Err(FileFault::Empty);
        }
        Ok(Self { file, length: metadata.len() })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Checks that the file has `length` bytes at `offset`.
    pub(super) fn check(&self, offset: u64, length: u64) -> Result<(), FileFault> {
        let needed = offset.saturating_add(length);
        if needed > self.length { Err(FileFault::Truncated { needed, length: self.length }) } else { Ok(()) }
    }

    /// Reads a header.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), FileFault> {
        self.check(offset, bytes.len() as u64)?;
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|error| self.read_fault(error, offset, bytes.len() as u64))
    }

    /// Reads `length` bytes at `offset` straight into guest memory at `address`, which the caller has checked to be RAM.
    pub(super) fn load(
        &self,
        memory: &GuestMemoryMmap<()>,
        address: u64,
        offset: u64,
        length: u64,
    ) -> Result<(), FileFault> {
        self.check(offset, length)?;
        let bytes = usize::try_from(length).map_err(|error| FileFault::Read(io::Error::other(error)))?;
        memory::populate(memory, GuestAddress(address), length);
        (&self.file).seek(SeekFrom::Start(offset)).map_err(FileFault::Read)?;
        memory.read_exact_volatile_from(GuestAddress(address), &mut &self.file, bytes).map_err(|error| {
            let error = match error {
                GuestMemoryError::IOError(error) => error,
                // Here vm-memory reports a file that ended early.
                GuestMemoryError::PartialBuffer { .. } => io::ErrorKind::UnexpectedEof.into(),
                other => io::Error::other(other),
            };
            self.read_fault(error, offset, length)
        })
    }

    fn read_fault(&self, error: io::Error, offset: u64, length: u64) -> FileFault {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let now = self.file.metadata().map_or(self.length, |metadata| metadata.len());
            return FileFault::Truncated { needed: offset.saturating_add(length), length: now };
        }
        FileFault::Read(error)
    }
}
