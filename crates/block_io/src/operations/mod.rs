//! What is done to whole images: describing, creating, checking, resizing, copying and comparing them.
//!
//! The library half of `vireo image`. Everything works on files that the caller names; what an image says about other files
//! is followed only where the caller allows it (`ImageAccess`), and a format is never guessed for an image whose content is
//! used: only [`ImageInfo::read`] looks at the first bytes. Long work runs on the caller's thread with a bounded number of
//! requests in flight and tells its progress to a callback, which may end it.
//!
//! Sources: docs/interop/qcow2.rst and docs/tools/qemu-img.rst of QEMU.

mod compare;
mod copy;
mod create;
mod info;
mod open;
mod snapshot;
mod transfer;

use std::ops::ControlFlow;
use std::path::Path;

pub use self::compare::{Comparison, compare};
pub use self::copy::copy_to_new;
pub use self::create::{NewImage, Replacement};
pub use self::info::{ImageInfo, SnapshotInfo};
pub use self::open::{ImageAccess, OpenImage};
pub use self::snapshot::{apply_snapshot, create_snapshot, delete_snapshot, list_snapshots};
use crate::backend::BlockError;
use crate::file::error;

/// Formats of images that can be made and opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// The file's bytes are the disk's.
    Raw,
    /// "QEMU copy on write", versions 2 and 3.
    Qcow2,
}

impl ImageFormat {
    /// The format's name, as QEMU has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl std::fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Told how many bytes are done, and how many there are in all; a break ends the operation.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Why an operation on whole images has ended early.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// A disk could not be used at all.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// A part of a disk could not be read or written.
    #[error("cannot {operation} near byte {offset} of the disk: {source}")]
    Transfer {
        /// What was tried.
        operation: &'static str,
        /// Where on the disk, bytes.
        offset: u64,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The target can't hold the disk.
    #[error("the target has {found} bytes, the disk needs {needed}: make it larger")]
    TooSmall {
        /// Bytes of the disk.
        needed: u64,
        /// Bytes of the target.
        found: u64,
    },
    /// The callback for progress said so.
    #[error("interrupted")]
    Interrupted,
}

fn refuse(path: &Path, operation: &str, advice: impl Into<String>) -> BlockError {
    error(path, operation, std::io::Error::new(std::io::ErrorKind::InvalidInput, advice.into()))
}

#[cfg(test)]
mod tests;
