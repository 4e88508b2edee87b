//! Images as a thread of a copy uses them: every call waits until it is done. Buffers that a core's cache holds, filled and
//! emptied by the same thread, cost less than requests that other threads finish. Offsets and lengths are whole sectors.

use rustix::io::Errno;

use super::{OpenImage, OperationError};
use crate::status::RangeStatus;

/// What a range of a source is to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Known to read as zeroes.
    Zero,
    /// To be read.
    Data,
    /// Nothing but what the backing file has.
    Below,
}

impl OpenImage {
    /// What the disk is from `offset` on, and for how many of `bytes` bytes (at least one) that holds. [`Content::Below`] only
    /// `with_below`. The range lies within the disk.
    pub(super) fn content(
        &self,
        offset: u64,
        bytes: u64,
        with_below: bool,
    ) -> Result<(Content, u64), OperationError> {
        if with_below {
            let (status, run) = self.status(offset, bytes)?;
            return Ok(match status {
                RangeStatus { layer: 1.., .. } => (Content::Below, run),
                RangeStatus { zero: true, .. } => (Content::Zero, run),
                _ => (Content::Data, run),
            });
        }
        let (zero, run) = self.zero_run(offset, bytes)?;
        Ok((if zero { Content::Zero } else { Content::Data }, run))
    }

    /// Fills `buffer` from `offset` on; both are whole sectors of 512 bytes and lie within the disk.
    ///
    /// # Errors
    /// The image can't be read there.
    pub fn read_waiting(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        match self {
            Self::Raw(disk) => Ok(disk.read_waiting(offset, buffer)?),
            Self::Qcow2(disk) => Ok(disk.read_waiting(offset, buffer)?),
            Self::Foreign(disk) => disk
                .image()
                .read_at(buffer, offset)
                .map_err(|source| std::io::Error::new(std::io::ErrorKind::InvalidData, source)),
        }
    }

    /// Stores `data` at `offset`, durably if the cache mode is one that writes through; both are whole sectors of 512 bytes
    /// and lie within the disk.
    ///
    /// # Errors
    /// The image can't be written there.
    pub fn write_waiting(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Raw(disk) => disk.write_waiting(offset, data),
            Self::Qcow2(disk) => disk.write_waiting(offset, data),
            Self::Foreign(_) => Err(Errno::ROFS),
        }
    }

    /// Makes a range read as zeroes, giving its storage back where possible.
    pub(super) fn write_zeroes_waiting(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        match self {
            Self::Raw(disk) => disk.write_zeroes_waiting(offset, bytes),
            Self::Qcow2(disk) => disk.write_zeroes_waiting(offset, bytes),
            Self::Foreign(_) => Err(Errno::ROFS),
        }
    }

    /// Makes everything that was written durable, unless the cache mode says never.
    ///
    /// # Errors
    /// The host can't.
    pub fn flush_waiting(&self) -> Result<(), Errno> {
        match self {
            Self::Raw(disk) => disk.flush_waiting(),
            Self::Qcow2(disk) => disk.flush_waiting(),
            Self::Foreign(_) => Ok(()),
        }
    }
}
