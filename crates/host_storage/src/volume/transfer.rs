//! Content from and to a client: streams of bytes, and of holes between them.
//!
//! Bytes are those of the file or device, whatever the volume's format is (virStorageVolUpload, virStorageVolDownload). The volume
//! stays claimed and locked while a stream exists: content that a running guest changes meanwhile would be of no use.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use libvirt_xml::storage::VolumeKind;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{Claimed, Dependents};
use crate::error::StorageError;
use crate::image;
use crate::pool::Pool;
use crate::storage::Storage;

impl Storage {
    /// Begins to write a volume's content from `offset` on; at most `length` bytes if that is not 0. What was written stays if the
    /// stream ends early.
    pub fn upload(&self, pool: &Pool, name: &str, offset: u64, length: u64) -> Result<Upload, StorageError> {
        let end = end_of(offset, length)?;
        let claimed = self.claim_to_change(pool, name, "upload", Dependents::Refused)?;
        Ok(Upload { claimed, at: offset, end })
    }

    /// Begins to read a volume's content from `offset` on; at most `length` bytes if that is not 0.
    pub fn download(
        &self,
        pool: &Pool,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Download, StorageError> {
        let end = end_of(offset, length)?;
        let claimed = self.claim_to_read(pool, name)?;
        let size = image::length(claimed.file(), &claimed.known.path)?;
        if offset > size {
            let rule = format!("volume '{name}' has {size} bytes, which is less than the offset {offset}");
            return Err(StorageError::InvalidArgument(rule));
        }
        let end = end.map_or(size, |end| end.min(size));
        Ok(Download { claimed, at: offset, piece: None, end })
    }
}

fn end_of(offset: u64, length: u64) -> Result<Option<u64>, StorageError> {
    let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
    let end = end.ok_or_else(|| {
        StorageError::InvalidArgument(format!("{length} bytes from {offset} on are beyond every volume"))
    })?;
    Ok((length > 0).then_some(end))
}

/// A volume that is being written.
#[derive(Debug)]
pub struct Upload {
    claimed: Claimed,
    at: u64,
    end: Option<u64>,
}

impl Upload {
    fn room(&self, bytes: u64) -> io::Result<u64> {
        let after = self.at.checked_add(bytes).filter(|after| i64::try_from(*after).is_ok());
        match (after, self.end) {
            (Some(after), end) if end.is_none_or(|end| after <= end) => Ok(after),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("more bytes come than volume '{}' was to get", self.claimed.known.name),
            )),
        }
    }

    /// The next bytes of the volume are zero, and need no storage.
    pub fn hole(&mut self, bytes: u64) -> io::Result<()> {
        let after = self.room(bytes)?;
        let file = self.claimed.file();
        let size = image::length(file, &self.claimed.known.path).map_err(io::Error::other)?;
        let inside = after.min(size).saturating_sub(self.at);
        if inside > 0 {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(file, punch, self.at, inside) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.write_zeroes(inside)?,
                result => result?,
            }
        }
        if after > size {
            if self.claimed.known.kind == VolumeKind::Block {
                return Err(Errno::NOSPC.into());
            }
            self.claimed.file().set_len(after)?;
        }
        self.at = after;
        Ok(())
    }

    fn write_zeroes(&self, bytes: u64) -> io::Result<()> {
        let zeroes = vec![0; 1 << 16];
        let mut done = 0;
        while done < bytes {
            let length = usize::try_from(bytes - done).unwrap_or(zeroes.len()).min(zeroes.len());
            self.claimed.file().write_all_at(&zeroes[..length], self.at + done)?;
            done += length as u64;
        }
        Ok(())
    }

    /// Everything has come: makes it durable.
    pub fn finish(self) -> Result<(), StorageError> {
        let path = &self.claimed.known.path;
        self.claimed.file().sync_all().map_err(|error| StorageError::system("sync", path, error))
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let after = self.room(bytes.len() as u64)?;
        self.claimed.file().write_all_at(bytes, self.at)?;
        self.at = after;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.claimed.file().sync_data()
    }
}

/// What comes next of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of content, to be read with [`Read`].
    Data(u64),
    /// So many bytes that are zero and take no storage; they are skipped with [`Download::skip`], or read as zeroes.
    Hole(u64),
    /// Nothing.
    End,
}

/// A volume that is being read. Holes are read as zeroes unless they are skipped.
#[derive(Debug)]
pub struct Download {
    claimed: Claimed,
    at: u64,
    end: u64,
    /// The piece that `at` lies in: whether it is data, and where it ends.
    piece: Option<(bool, u64)>,
}

impl Download {
    /// What comes next.
    pub fn next_piece(&mut self) -> io::Result<Piece> {
        if self.at >= self.end {
            return Ok(Piece::End);
        }
        let piece = match self.piece {
            Some(piece) if piece.1 > self.at => piece,
            _ => image::next_piece(self.claimed.file(), self.at, self.end)?.unwrap_or((false, self.end)),
        };
        self.piece = Some(piece);
        let (data, end) = piece;
        Ok(if data { Piece::Data(end - self.at) } else { Piece::Hole(end - self.at) })
    }

    /// Passes over the hole that comes next. Its length, or 0 if data comes next.
    pub fn skip(&mut self) -> io::Result<u64> {
        let Piece::Hole(bytes) = self.next_piece()? else { return Ok(0) };
        self.at += bytes;
        Ok(bytes)
    }

    /// Bytes that are left, holes included.
    pub fn left(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (data, bytes) = match self.next_piece()? {
            Piece::End => return Ok(0),
            Piece::Data(bytes) => (true, bytes),
            Piece::Hole(bytes) => (false, bytes),
        };
        let length = usize::try_from(bytes).unwrap_or(buffer.len()).min(buffer.len());
        let part = &mut buffer[..length];
        let done = if data {
            self.claimed.file().read_at(part, self.at)?
        } else {
            part.fill(0);
            length
        };
        self.at += done as u64;
        if done == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(done)
    }
}
