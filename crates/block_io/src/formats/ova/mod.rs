//! OVA archives: a virtual machine's description (OVF) and its disks in one tar file, read in place.
//!
//! Source: DMTF DSP0243, "Open Virtualization Format Specification" 2.1, sections 5 (packages), 7.1 (references), 9.1
//! (disks). The description is the first member. A disk is a member that the description names; it is exposed as a window
//! of the archive, so that nothing is unpacked. Checksums in a manifest are not verified: that would read all of the file.

mod ovf;
mod tar;

use std::sync::Arc;

use self::ovf::DiskReference;
use self::tar::Member;
use super::error::{ImageError, require};
use super::source::{SharedSource, Window, read_vec};

pub(super) use self::tar::{MAGIC, MAGIC_AT};

/// Longest description, bytes. Stops one from filling the host's memory.
const MOST_OVF_BYTES: u64 = 4 << 20;

/// A disk in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OvaDisk {
    /// Its identifier in the description (`ovf:diskId`).
    pub id: String,
    /// Name of the member that holds it (`ovf:href`).
    pub file: String,
    /// Its format, as a URI (`ovf:format`); empty if the description does not say.
    pub format: String,
    /// Where in the archive it is, bytes.
    pub offset: u64,
    /// How much of the archive it is, bytes.
    pub bytes: u64,
}

/// The disks that an archive's description names, in its order.
pub fn disks(archive: &SharedSource) -> Result<Vec<OvaDisk>, ImageError> {
    let members = tar::members(&**archive)?;
    let description = members.iter().find(|member| {
        std::path::Path::new(&member.name)
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("ovf"))
    });
    let description = description
        .ok_or_else(|| ImageError::Unsupported("the archive has no member whose name ends in .ovf".into()))?;
    let rule = format!("must be at most {MOST_OVF_BYTES} bytes");
    require(description.bytes <= MOST_OVF_BYTES, "the size of the OVF description", description.bytes, rule)?;
    let length = usize::try_from(description.bytes).unwrap_or(usize::MAX);
    let text = read_vec(&**archive, "the OVF description", description.offset, length)?;
    ovf::disks(&text)?.into_iter().map(|disk| find(disk, &members)).collect()
}

fn find(disk: DiskReference, members: &[Member]) -> Result<OvaDisk, ImageError> {
    let plain = |name: &str| name.strip_prefix("./").unwrap_or(name).to_owned();
    let member = members.iter().find(|member| plain(&member.name) == plain(&disk.href));
    let rule = "is not in the archive";
    let member = member.ok_or_else(|| ImageError::text("the href of a disk's file", &disk.href, rule))?;
    Ok(OvaDisk {
        id: disk.id,
        file: disk.href,
        format: disk.format,
        offset: member.offset,
        bytes: member.bytes,
    })
}

/// The disk with an identifier or file name, or the only one; as an image of its own.
pub fn disk(archive: &SharedSource, wanted: Option<&str>) -> Result<SharedSource, ImageError> {
    let disks = disks(archive)?;
    let found = match wanted {
        Some(wanted) => disks.iter().find(|disk| disk.id == wanted || disk.file == wanted),
        None if disks.len() == 1 => disks.first(),
        None => None,
    };
    let Some(disk) = found else {
        let ids: Vec<&str> = disks.iter().map(|disk| disk.id.as_str()).take(16).collect();
        let wanted = wanted.unwrap_or("(none)").escape_debug();
        let advice =
            format!("disk {wanted} is not in the archive: choose one of {}", ids.join(", ").escape_debug());
        return Err(ImageError::Unsupported(advice));
    };
    let rule = "only VMDK disks are supported in archives";
    let vmdk = disk.format.is_empty() || disk.format.to_ascii_lowercase().contains("vmdk");
    if !vmdk {
        return Err(ImageError::text("the format of a disk", &disk.format, rule));
    }
    Ok(Arc::new(Window::new(Arc::clone(archive), disk.offset, disk.bytes)?))
}
