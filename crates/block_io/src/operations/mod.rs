//! What is done to whole images: describing, creating, checking, resizing, copying and comparing them.
//!
//! The library half of `vireo image`. Everything works on files that the caller names; what an image says about other files
//! is followed only where the caller allows it (`ImageAccess`), and a format is never guessed for an image whose content is
//! used: only [`ImageInfo::read`] looks at the first bytes. Long work runs on the caller's thread with a bounded number of
//! requests in flight and tells its progress to a callback, which may end it.
//!
//! Sources: docs/interop/qcow2.rst and docs/tools/qemu-img.rst of QEMU.

mod create;
mod info;
mod open;

use std::path::Path;

pub use self::create::{NewImage, Replacement};
pub use self::info::{ImageInfo, SnapshotInfo};
pub use self::open::{ImageAccess, OpenImage};
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

fn refuse(path: &Path, operation: &str, advice: impl Into<String>) -> BlockError {
    error(path, operation, std::io::Error::new(std::io::ErrorKind::InvalidInput, advice.into()))
}

#[cfg(test)]
mod tests;
