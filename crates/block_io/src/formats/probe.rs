//! What format a file seems to have, by its magic numbers. For telling people, never for choosing how to open a disk.

use super::Format;
use super::{ova, vdi, vhd, vhdx, vmdk};

/// How much of a file's start, and of its end, [`probe`] wants to see, bytes (or all of the file).
pub const PROBE_BYTES: usize = 512;

/// `QFI\xfb` ("qcow2 Image File Format", "Header").
const QCOW2_MAGIC: [u8; 4] = [0x51, 0x46, 0x49, 0xfb];

/// What the first and last bytes of a file look like; `None` is a raw image, or nothing that is known.
///
/// A guest can write anything to a raw disk, so that this must not decide how a disk is opened (CVE-2008-2004): it is for
/// showing.
pub fn probe(first: &[u8], last: &[u8]) -> Option<Format> {
    let holds = |at: usize, magic: &[u8]| first.get(at..at + magic.len()) == Some(magic);
    let footer_at = last.len().saturating_sub(vhd::FOOTER_BYTES);
    if holds(0, &QCOW2_MAGIC) {
        Some(Format::Qcow2)
    } else if holds(0, vmdk::MAGIC)
        || holds(0, vmdk::MAGIC_COWD)
        || holds(0, &vmdk::MAGIC_SESPARSE)
        || vmdk::looks_like_a_descriptor(first)
    {
        Some(Format::Vmdk)
    } else if holds(0, vhdx::SIGNATURE) {
        Some(Format::Vhdx)
    } else if holds(vdi::SIGNATURE_AT, &vdi::SIGNATURE.to_le_bytes()) {
        Some(Format::Vdi)
    } else if holds(ova::MAGIC_AT, ova::MAGIC) {
        Some(Format::Ova)
    } else if holds(0, vhd::FOOTER_COOKIE)
        || last.get(footer_at..).is_some_and(|footer| footer.starts_with(vhd::FOOTER_COOKIE))
    {
        Some(Format::Vhd)
    } else {
        None
    }
}
