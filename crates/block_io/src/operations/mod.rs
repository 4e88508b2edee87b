//! What is done to whole images: describing, creating, checking, resizing, copying and comparing them.
//!
//! The library half of `vireo image`. Everything works on files that the caller names; what an image says about other files
//! is followed only where the caller allows it (`ImageAccess`), and a format is never guessed for an image whose content is
//! used: only [`ImageInfo::read`] and [`probe`] look at the first bytes. Long work runs on the caller's thread with a bounded number of
//! requests in flight and tells its progress to a callback, which may end it.
//!
//! Sources: docs/interop/qcow2.rst and docs/tools/qemu-img.rst of QEMU.

mod bench;
mod commit;
mod compare;
mod copy;
mod create;
mod info;
mod layers;
mod map;
mod measure;
mod open;
mod rebase;
mod share;
mod snapshot;
mod transfer;
mod waiting;
mod zeroes;

use std::ops::ControlFlow;
use std::path::Path;

pub use self::bench::{BenchOptions, MOST_BENCH_BYTES, bench};
pub use self::commit::{AfterCommit, commit};
pub use self::compare::{Comparison, compare, compare_allocation};
pub use self::copy::{CopyOptions, MOST_THREADS, copy};
pub use self::create::{NewImage, Replacement};
pub use self::info::{ImageInfo, SnapshotInfo, probe};
pub use self::map::{MapEntry, map};
pub use self::measure::{Measure, measure_qcow2, measure_raw};
pub use self::open::{ImageAccess, OpenImage};
pub use self::rebase::rebase;
pub use self::snapshot::{apply_snapshot, create_snapshot, delete_snapshot, list_snapshots};
use crate::backend::BlockError;
use crate::file::error;
use crate::formats::Format;
use crate::qcow2::FormatError;

/// Formats of images. Those of other hypervisors, which are only read, come after raw and qcow2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// The file's bytes are the disk's.
    Raw,
    /// "QEMU copy on write", versions 2 and 3.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Hyper-V's.
    Vhdx,
    /// Virtual PC's and Hyper-V's older one (VHD); the name is QEMU's.
    Vpc,
    /// VirtualBox's.
    Vdi,
    /// An archive with a machine's description and disks.
    Ova,
}

impl ImageFormat {
    /// The format's name, as QEMU has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
            Self::Vdi => "vdi",
            Self::Ova => "ova",
        }
    }

    /// The format as [`crate::formats`] knows it, if it is one of another hypervisor.
    pub(crate) fn foreign(self) -> Option<Format> {
        match self {
            Self::Raw | Self::Qcow2 => None,
            Self::Vmdk => Some(Format::Vmdk),
            Self::Vhdx => Some(Format::Vhdx),
            Self::Vpc => Some(Format::Vhd),
            Self::Vdi => Some(Format::Vdi),
            Self::Ova => Some(Format::Ova),
        }
    }
}

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Qcow2 => Self::Qcow2,
            Format::Vmdk => Self::Vmdk,
            Format::Vhdx => Self::Vhdx,
            Format::Vhd => Self::Vpc,
            Format::Vdi => Self::Vdi,
            Format::Ova => Self::Ova,
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
    /// An image like that can't be.
    #[error(transparent)]
    Parameters(#[from] FormatError),
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
