//! The tables as firmware gets them: two files, and a third one with instructions how to place them.
//!
//! Addresses in the files count from the beginning of the file with the tables. Firmware puts the files where it has memory,
//! adds their addresses, and mends the checksums.
//!
//! Specification: the table loader of QEMU (hw/acpi/bios-linker-loader.c describes commands and fields).

use super::table::{
    CHECKSUM, ROOT_POINTER_CHECKSUM, ROOT_POINTER_CHECKSUM_1, ROOT_POINTER_LENGTH, ROOT_POINTER_LENGTH_1,
    ROOT_POINTER_XSDT, root_pointer,
};
use super::{AcpiError, AcpiMachine, Area, fixed};

/// Bytes of an instruction, and of a file's name in one.
const INSTRUCTION_BYTES: usize = 128;
const NAME_BYTES: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Anywhere that 32 bits reach.
const ANYWHERE: u8 = 1;
/// F_0000h to F_FFFFh, where operating systems look for the root pointer.
const BIOS_SEGMENT: u8 = 2;

/// The tables as firmware gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiFiles {
    /// All tables but the root pointer.
    pub tables: Vec<u8>,
    /// The root pointer.
    pub root_pointer: Vec<u8>,
    /// How to place them.
    pub loader: Vec<u8>,
}

impl AcpiFiles {
    /// Name of the file with the tables.
    pub const TABLES: &'static str = "etc/acpi/tables";
    /// Name of the file with the root pointer.
    pub const ROOT_POINTER: &'static str = "etc/acpi/rsdp";
    /// Name of the file with the instructions.
    pub const LOADER: &'static str = "etc/table-loader";

    /// Builds the files for `machine`. How long they are does not depend on where PCI is.
    pub fn build(machine: &AcpiMachine<'_>) -> Result<Self, AcpiError> {
        let mut area = Area::new(0);
        let xsdt = area.fill(machine)?;
        let mut loader = Vec::new();
        let mut instruct = |command: u32, fields: &[&[u8]]| {
            let end = loader.len() + INSTRUCTION_BYTES;
            loader.extend(command.to_le_bytes());
            loader.extend(fields.concat());
            loader.resize(end, 0);
        };
        let offset = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes();
        let (tables, root) = (name(Self::TABLES), name(Self::ROOT_POINTER));
        instruct(ALLOCATE, &[&tables, &offset(fixed::FACS_ALIGNMENT), &[ANYWHERE]]);
        instruct(ALLOCATE, &[&root, &offset(super::TABLE_ALIGNMENT), &[BIOS_SEGMENT]]);
        for (at, bytes) in &area.pointers {
            instruct(ADD_POINTER, &[&tables, &tables, &offset(*at), &[*bytes]]);
        }
        instruct(ADD_POINTER, &[&root, &tables, &offset(ROOT_POINTER_XSDT), &[8]]);
        for (start, length) in area.changed_tables() {
            instruct(ADD_CHECKSUM, &[&tables, &offset(start + CHECKSUM), &offset(start), &offset(length)]);
        }
        for (at, length) in
            [(ROOT_POINTER_CHECKSUM_1, ROOT_POINTER_LENGTH_1), (ROOT_POINTER_CHECKSUM, ROOT_POINTER_LENGTH)]
        {
            instruct(ADD_CHECKSUM, &[&root, &offset(at), &offset(0), &offset(length)]);
        }
        Ok(Self { tables: area.bytes, root_pointer: root_pointer(xsdt).to_vec(), loader })
    }
}

fn name(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

impl Area {
    /// Start and length of every table with an address in it.
    fn changed_tables(&self) -> Vec<(usize, usize)> {
        let length = |start: usize| {
            let bytes = self.bytes[start + 4..].first_chunk().copied().unwrap_or_default();
            usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(0)
        };
        let tables = self.tables.iter().map(|start| (*start, length(*start)));
        let changed = |(start, length): &(usize, usize)| {
            self.pointers.iter().any(|(at, _)| (*start..start + length).contains(at))
        };
        tables.filter(changed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{IntervalTimer, LegacyDevices, PciPlaces};
    use super::*;
    use crate::layout::MemoryLayout;

    fn files(places: Option<PciPlaces>) -> AcpiFiles {
        let layout = MemoryLayout::new(1 << 30, 40).unwrap();
        let legacy =
            LegacyDevices { pic: true, serial: true, real_time_clock: true, keyboard_controller: true };
        AcpiFiles::build(&AcpiMachine {
            pci: places.unwrap_or_else(|| PciPlaces::of(&layout)),
            apic_ids: &[0, 1],
            interval_timer: IntervalTimer::PinZero,
            legacy,
        })
        .unwrap()
    }

    fn number(bytes: &[u8]) -> usize {
        bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// Does what firmware does with the files, at these addresses.
    fn load(files: &AcpiFiles, tables_at: usize, root_at: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut tables, mut root) = (files.tables.clone(), files.root_pointer.clone());
        for instruction in files.loader.chunks(INSTRUCTION_BYTES) {
            let first = instruction[4..4 + NAME_BYTES].split(|byte| *byte == 0).next().unwrap();
            let (file, rest) = match std::str::from_utf8(first).unwrap() {
                AcpiFiles::TABLES => (&mut tables, &instruction[60..]),
                AcpiFiles::ROOT_POINTER => (&mut root, &instruction[60..]),
                other => panic!("{other}"),
            };
            match number(&instruction[..4]) {
                1 => {
                    let alignment = number(&rest[..4]);
                    let zone = rest[4];
                    assert!(tables_at.is_multiple_of(alignment) && matches!(zone, ANYWHERE | BIOS_SEGMENT));
                }
                2 => {
                    assert!(rest.starts_with(AcpiFiles::TABLES.as_bytes()));
                    let (at, bytes) = (number(&rest[56..60]), usize::from(rest[60]));
                    let value = number(&file[at..at + bytes]) + tables_at;
                    file[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
                }
                3 => {
                    let (at, start, length) = (number(&rest[..4]), number(&rest[4..8]), number(&rest[8..12]));
                    let sum =
                        file[start..start + length].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                    file[at] = file[at].wrapping_sub(sum);
                }
                other => panic!("command {other}"),
            }
        }
        let _ = root_at;
        (tables, root)
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn placed_as_instructed_every_table_is_found_and_right() {
        let (tables, root) = load(&files(None), 0x7f00_0040, 0xf_5000);
        assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
        let at = |address: usize| &tables[address - 0x7f00_0040..];
        let xsdt = at(number(&root[24..32]));
        let length = number(&xsdt[4..8]);
        assert_eq!((&xsdt[..4], sum(&xsdt[..length])), (b"XSDT".as_slice(), 0));
        let mut found = Vec::new();
        for pointer in xsdt[36..length].chunks(8) {
            let table = at(number(pointer));
            assert_eq!(sum(&table[..number(&table[4..8])]), 0);
            found.push(String::from_utf8_lossy(&table[..4]).into_owned());
            if table.starts_with(b"FACP") {
                assert!(at(number(&table[132..140])).starts_with(b"FACS"));
                assert!(number(&table[132..140]).is_multiple_of(64));
                assert!(at(number(&table[140..148])).starts_with(b"DSDT"));
                assert_eq!(number(&table[40..44]), number(&table[140..148]));
            }
        }
        assert_eq!(found, ["FACP", "APIC", "MCFG"]);
    }

    #[test]
    fn where_pci_is_changes_no_length() {
        let moved = PciPlaces {
            configuration: 0xb000_0000..0xc000_0000,
            window_32: 0xc000_0000..0xfec0_0000,
            window_64: 0x1_0000_0000..0x80_0000_0000,
        };
        let (usual, moved) = (files(None), files(Some(moved)));
        assert_ne!(usual.tables, moved.tables);
        assert_eq!(usual.tables.len(), moved.tables.len());
        assert_eq!((usual.loader, usual.root_pointer), (moved.loader, moved.root_pointer));
    }
}
