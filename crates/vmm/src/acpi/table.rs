//! What all tables have in common, and the tables that only point to something: RSDP, XSDT, MCFG.

use crate::layout::PCI_LAST_BUS;

const OEM_ID: [u8; 6] = *b"VIREO ";
const OEM_TABLE_ID: [u8; 8] = *b"VIREOVMM";
const CREATOR_ID: [u8; 4] = *b"VREO";
/// Of table contents and of the program that made them.
const REVISION: u32 = 1;
/// Where a table's checksum is, one byte.
pub(super) const CHECKSUM: usize = 9;
/// Length of the header that all tables have (section 5.2.6).
pub(super) const HEADER_LENGTH: usize = 36;

/// Length of the root pointer's structure from ACPI 2.0 on (section 5.2.5.3).
pub(super) const ROOT_POINTER_LENGTH: usize = 36;
/// What the first revision's checksum covers.
pub(super) const ROOT_POINTER_LENGTH_1: usize = 20;

/// What must be added to make the bytes' sum zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// A table: the system description table header (section 5.2.6) and `body`.
pub(super) fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::with_capacity(36 + body.len());
    let length = u32::try_from(36 + body.len()).unwrap_or(u32::MAX);
    table.extend(signature);
    table.extend(length.to_le_bytes());
    table.extend([revision, 0]);
    table.extend(OEM_ID);
    table.extend(OEM_TABLE_ID);
    table.extend(REVISION.to_le_bytes());
    table.extend(CREATOR_ID);
    table.extend(REVISION.to_le_bytes());
    table.extend(body);
    table[CHECKSUM] = checksum(&table);
    table
}

/// Where the root pointer's two checksums are, and the address of the list of tables.
pub(super) const ROOT_POINTER_CHECKSUM_1: usize = 8;
pub(super) const ROOT_POINTER_CHECKSUM: usize = 32;
pub(super) const ROOT_POINTER_XSDT: usize = 24;

/// The root pointer (section 5.2.5.3): revision 2, without the old 32-bit table list.
pub(super) fn root_pointer(xsdt: u64) -> [u8; ROOT_POINTER_LENGTH] {
    let mut pointer = [0; ROOT_POINTER_LENGTH];
    pointer[..8].copy_from_slice(b"RSD PTR ");
    pointer[9..15].copy_from_slice(&OEM_ID);
    pointer[15] = 2;
    pointer[20..24].copy_from_slice(&36u32.to_le_bytes());
    pointer[ROOT_POINTER_XSDT..][..8].copy_from_slice(&xsdt.to_le_bytes());
    pointer[ROOT_POINTER_CHECKSUM_1] = checksum(&pointer[..ROOT_POINTER_LENGTH_1]);
    pointer[ROOT_POINTER_CHECKSUM] = checksum(&pointer);
    pointer
}

/// The list of tables (section 5.2.8).
pub(super) fn xsdt(addresses: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
    table(*b"XSDT", 1, &body)
}

/// Where PCIe configuration space is (PCI Firmware Specification 3.2, section 4.1.2).
pub(super) fn mcfg(configuration: u64) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend(configuration.to_le_bytes());
    body.extend(0u16.to_le_bytes()); // segment
    body.extend([0, PCI_LAST_BUS]);
    body.extend([0; 4]);
    table(*b"MCFG", 1, &body)
}
