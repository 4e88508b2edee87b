//! Disk images of other hypervisors, for reading: VMDK, VHDX, VHD, VDI, and the disks inside OVA archives.
//!
//! An image is hostile until checked: every place and size in it is checked against its file before it is used, tables are
//! read a page at a time into a cache of fixed size (`tables`), decompression stops after one grain (`image`), nothing is
//! followed twice, and no image names another file unless the caller allows it ([`ExtentAccess`]). A contradiction is an
//! [`ImageError`] value that names the field and its value.
//!
//! A format is a `BlockMap` (`map`): it says what a range of the disk is (zeroes, bytes of a file, a compressed grain) and
//! does no I/O but lookups in tables. [`Image`] reads through it while waiting; [`FormatDisk`] is the `BlockBackend` on top:
//! ranges whose mapping is in memory go to the file engine, the rest to its threads. All of it is read-only.
//!
//! Not supported and refused: differencing images of every format, ESXi's delta disks, encrypted images.

mod describe;
mod disk;
mod error;
mod image;
mod map;
mod ova;
mod probe;
mod queue;
mod source;
mod tables;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

pub use self::describe::FormatInfo;
pub use self::disk::{ExtentAccess, FormatDisk, FormatOptions};
pub use self::error::ImageError;
pub use self::image::{ExtentOpener, Image};
pub use self::ova::{OvaDisk, disk as ova_disk, disks as ova_disks};
pub use self::probe::{PROBE_BYTES, probe};
pub use self::source::{ImageSource, SharedSource};
pub use self::vmdk::{VmdkExtent, VmdkInfo};

/// A format of disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// QEMU's; known to [`probe`] only.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Hyper-V's.
    Vhdx,
    /// Virtual PC's and Hyper-V's older one.
    Vhd,
    /// VirtualBox's.
    Vdi,
    /// An archive with a machine's description and disks.
    Ova,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::Vdi => "vdi",
            Self::Ova => "ova",
        })
    }
}

#[cfg(test)]
mod tests;
