//! What an image says about itself. Nothing but the image's own file is read.

use std::sync::Arc;

use super::Format;
use super::error::ImageError;
use super::image::Image;
use super::ova::{self, OvaDisk};
use super::source::SharedSource;
use super::vmdk::{self, VmdkInfo};

/// What an image says about itself. Names in it are its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormatInfo {
    /// Size of the disk, bytes; 0 in an archive.
    pub virtual_bytes: u64,
    /// Size of the pieces in which the disk is allocated, bytes.
    pub block_bytes: Option<u64>,
    /// What a VMDK image says besides.
    pub vmdk: Option<VmdkInfo>,
    /// The disks in an archive.
    pub disks: Vec<OvaDisk>,
}

/// Reads what an image of a format says.
pub(super) fn describe(format: Format, source: &SharedSource) -> Result<FormatInfo, ImageError> {
    match format {
        Format::Ova => Ok(FormatInfo { disks: ova::disks(source)?, ..FormatInfo::default() }),
        Format::Vmdk => {
            let vmdk = vmdk::describe(&**source)?;
            let virtual_bytes =
                vmdk.extents.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.bytes));
            let block_bytes = vmdk.extents.first().and_then(|extent| extent.grain_bytes);
            Ok(FormatInfo { virtual_bytes, block_bytes, vmdk: Some(vmdk), disks: Vec::new() })
        }
        Format::Qcow2 | Format::Vhdx | Format::Vhd | Format::Vdi => {
            let mut no_extents = |_: &str| Err(std::io::ErrorKind::PermissionDenied.into());
            let image = Image::open(format, Arc::clone(source), &mut no_extents)?;
            Ok(FormatInfo {
                virtual_bytes: image.capacity(),
                block_bytes: image.block_bytes(),
                ..FormatInfo::default()
            })
        }
    }
}
