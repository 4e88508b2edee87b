use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use machine_spec::spec::{MemoryBacking, MemorySpec};

use super::*;
use crate::layout::{ECAM, IO_APIC};

const ALL: LegacyDevices =
    LegacyDevices { pic: true, serial: true, real_time_clock: true, keyboard_controller: true };
const NONE: LegacyDevices =
    LegacyDevices { pic: false, serial: false, real_time_clock: false, keyboard_controller: false };

fn layout() -> MemoryLayout {
    MemoryLayout::new(5 << 30, 40).unwrap()
}

fn build(apic_ids: &[u32], interval_timer: IntervalTimer, legacy: LegacyDevices) -> AcpiTables {
    let layout = layout();
    AcpiTables::build(&AcpiMachine { pci: PciPlaces::of(&layout), apic_ids, interval_timer, legacy }).unwrap()
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(*bytes[offset..].first_chunk().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(*bytes[offset..].first_chunk().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(*bytes[offset..].first_chunk().unwrap())
}

/// Reads the table at `address` as a guest does.
fn read(memory: &GuestMemoryMmap<()>, address: u64) -> Vec<u8> {
    let length: u32 = memory.read_obj(GuestAddress(address + 4)).unwrap();
    let mut table = vec![0; length as usize];
    memory.read_slice(&mut table, GuestAddress(address)).unwrap();
    table
}

fn find(tables: &AcpiTables, signature: &[u8; 4]) -> Vec<u8> {
    tables.tables().find(|(_, table)| table.starts_with(signature)).unwrap().1.to_vec()
}

/// The structures behind the MADT's fixed part.
fn madt_entries(tables: &AcpiTables) -> Vec<Vec<u8>> {
    let madt = find(tables, b"APIC");
    let mut rest = &madt[44..];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, behind) = rest.split_at(usize::from(rest[1]));
        entries.push(entry.to_vec());
        rest = behind;
    }
    entries
}

#[test]
fn a_guest_finds_every_table_with_a_right_checksum_from_the_root_pointer() {
    let spec = MemorySpec {
        bytes: 5 << 30,
        backing: MemoryBacking::Anonymous,
        transparent_hugepages: false,
        mergeable: false,
        prefault: false,
    };
    let memory = crate::memory::build(&spec, &layout()).unwrap();
    let tables = build(&[0, 1, 2, 3], IntervalTimer::PinTwo, ALL);
    tables.write(&memory).unwrap();

    let mut pointer = [0; 36];
    memory.read_slice(&mut pointer, GuestAddress(tables.root_pointer())).unwrap();
    assert_eq!(&pointer[..8], b"RSD PTR ");
    assert_eq!((sum(&pointer[..20]), sum(&pointer)), (0, 0));
    let xsdt = read(&memory, u64_at(&pointer, 24));
    assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
    let listed: Vec<_> = (36..xsdt.len()).step_by(8).map(|at| read(&memory, u64_at(&xsdt, at))).collect();
    let signatures: Vec<_> = listed.iter().map(|table| &table[..4]).collect();
    assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG"]);
    assert!(listed.iter().all(|table| sum(table) == 0));

    let fadt = &listed[0];
    assert_eq!(fadt.len(), 276);
    assert_eq!(u64::from(u32_at(fadt, 40)), u64_at(fadt, 140));
    let dsdt = read(&memory, u64_at(fadt, 140));
    assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
    let facs = u64_at(fadt, 132);
    assert!(facs.is_multiple_of(64));
    assert_eq!(&read(&memory, facs)[..4], b"FACS");
}

#[test]
fn the_tables_stay_inside_their_reserved_area() {
    let apic_ids: Vec<u32> = (0..255).collect();
    let tables = build(&apic_ids, IntervalTimer::PinTwo, ALL);
    assert!(tables.tables().all(|(address, table)| {
        BIOS_AREA.contains(&address) && address + table.len() as u64 <= BIOS_AREA.end
    }));
    let layout = layout();
    let machine = |apic_ids| AcpiMachine {
        pci: PciPlaces::of(&layout),
        apic_ids,
        interval_timer: IntervalTimer::PinTwo,
        legacy: ALL,
    };
    let many: Vec<u32> = (0..4096).collect();
    assert!(matches!(AcpiTables::build(&machine(&many)), Err(AcpiError::TooLarge(_))));
    let too_many: Vec<u32> = (0..4097).collect();
    assert_eq!(AcpiTables::build(&machine(&too_many)), Err(AcpiError::TooManyVcpus(4097)));
}

#[test]
fn the_boot_flags_name_the_legacy_hardware_that_is_there() {
    let flags = |legacy| u16_at(&find(&build(&[0], IntervalTimer::PinTwo, legacy), b"FACP"), 109);
    assert_eq!(flags(ALL), 0b01_0111);
    assert_eq!(flags(NONE), 0b11_0100);
    assert_eq!(flags(LegacyDevices { serial: true, ..NONE }), 0b11_0101);
}

#[test]
fn fixed_registers_are_at_the_ports_of_the_board() {
    let fadt = find(&build(&[0], IntervalTimer::PinTwo, ALL), b"FACP");
    // Each block's 32-bit address, its length and its generic address.
    for (block, length, generic, port, bytes) in
        [(56, 88, 148, 0x600, 4), (64, 89, 172, 0x604, 2), (76, 91, 208, 0x608, 4), (80, 92, 220, 0x620, 16)]
    {
        assert_eq!((u32_at(&fadt, block), fadt[length]), (port, bytes));
        assert_eq!((fadt[generic], fadt[generic + 1]), (1, bytes * 8));
        assert_eq!(u64_at(&fadt, generic + 4), u64::from(port));
    }
    assert_eq!((u64_at(&fadt, 120), fadt[128]), (0xcf9, 0x0f));
    assert_eq!((u16_at(&fadt, 46), u32_at(&fadt, 48)), (9, 0xb2));
    // Reset register works, fixed power button, no fixed sleep button, not hardware-reduced.
    let flags = u32_at(&fadt, 112);
    assert_eq!((flags >> 10 & 1, flags >> 4 & 1, flags >> 5 & 1, flags >> 20 & 1), (1, 0, 1, 0));
}

#[test]
fn every_vcpu_has_its_apic_identifier_in_the_entry_that_can_hold_it() {
    let entries = madt_entries(&build(&[0, 4, 254, 255, 300], IntervalTimer::PinZero, ALL));
    let small: Vec<_> =
        entries.iter().filter(|entry| entry[0] == 0).map(|entry| (entry[2], entry[3])).collect();
    assert_eq!(small, [(0, 0), (1, 4), (2, 254)]);
    let large: Vec<_> = entries
        .iter()
        .filter(|entry| entry[0] == 9)
        .map(|entry| (u32_at(entry, 12), u32_at(entry, 4)))
        .collect();
    assert_eq!(large, [(3, 255), (4, 300)]);
    assert!(
        entries.iter().filter(|entry| matches!(entry[0], 0 | 9)).all(|entry| entry[entry.len() - 4] <= 4)
    );
    assert_eq!(entries.iter().filter(|entry| entry[0] == 10).count(), 1, "NMI input of the large ones");
}

#[test]
fn interrupt_overrides_are_those_of_the_wiring() {
    let overrides = |timer| -> Vec<(u8, u32, u16)> {
        madt_entries(&build(&[0], timer, ALL))
            .iter()
            .filter(|entry| entry[0] == 2)
            .map(|entry| (entry[3], u32_at(entry, 4), u16_at(entry, 8)))
            .collect()
    };
    assert_eq!(overrides(IntervalTimer::PinZero), [(9, 9, 0xd)]);
    assert_eq!(overrides(IntervalTimer::PinTwo), [(0, 2, 0), (9, 9, 0xd)]);
    let tables = build(&[0], IntervalTimer::PinTwo, NONE);
    assert_eq!(u32_at(&find(&tables, b"APIC"), 40), 0, "no 8259");
    let entries = madt_entries(&tables);
    let io_apic = entries.iter().find(|entry| entry[0] == 1).unwrap();
    assert_eq!((u64::from(u32_at(io_apic, 4)), u32_at(io_apic, 8)), (IO_APIC.start, 0));
}

#[test]
fn configuration_space_is_announced_where_the_layout_has_it() {
    let mcfg = find(&build(&[0], IntervalTimer::PinTwo, ALL), b"MCFG");
    assert_eq!((u64_at(&mcfg, 44), mcfg[54], mcfg[55]), (ECAM.start, 0, PCI_LAST));
    assert!(ECAM.end - ECAM.start >= (u64::from(PCI_LAST) + 1) << 20);
}

const PCI_LAST: u8 = crate::layout::PCI_LAST_BUS;

#[test]
fn the_pins_of_a_device_and_its_neighbours_have_their_own_interrupts() {
    for device in 0..32 {
        let pins: HashSet<u32> = (0..4).map(|pin| intx_interrupt(device, pin)).collect();
        assert_eq!(pins.len(), 4);
        assert!(pins.iter().all(|interrupt| (16..24).contains(interrupt)));
        assert_ne!(intx_interrupt(device, 0), intx_interrupt(device + 1, 0));
    }
}

#[test]
fn devices_that_the_machine_lacks_are_not_described() {
    let has = |legacy, name: &[u8]| {
        find(&build(&[0], IntervalTimer::PinTwo, legacy), b"DSDT").windows(4).any(|window| window == name)
    };
    for name in [b"COM1", b"RTC_", b"KBD_"] {
        assert!(has(ALL, name) && !has(NONE, name));
    }
    assert!(has(NONE, b"C000") && !has(NONE, b"C001"));
}

/// Runs a tool of ACPICA in `folder`; `None` if the host does not have it.
fn acpica(folder: &Path, tool: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(tool).args(arguments).current_dir(folder).output() {
        Ok(output) => {
            let text =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            Some(text.concat())
        }
        Err(error) => {
            eprintln!("skipped: cannot run {tool} (Debian package acpica-tools): {error}");
            None
        }
    }
}

/// Writes each table into a file of its own and returns the names.
fn write_tables(folder: &Path, tables: &AcpiTables) -> Vec<String> {
    tables
        .tables()
        .map(|(_, table)| {
            let name = format!("{}.dat", String::from_utf8_lossy(&table[..4]).to_lowercase());
            std::fs::write(folder.join(&name), table).unwrap();
            name
        })
        .collect()
}

#[test]
fn the_reference_compiler_takes_our_tables_apart_and_compiles_them_again() {
    let folder = tempfile::tempdir().unwrap();
    for name in write_tables(folder.path(), &build(&[0, 1, 300], IntervalTimer::PinTwo, ALL)) {
        let Some(output) = acpica(folder.path(), "iasl", &["-d", &name]) else { return };
        let source = name.replace(".dat", ".dsl");
        assert!(output.contains(&source), "{output}");
        let text = std::fs::read_to_string(folder.path().join(&source)).unwrap();
        for complaint in ["Invalid", "incorrect checksum", "Error", "Warning", "Unknown"] {
            assert!(!text.contains(complaint), "{complaint} in {text}");
        }
        let output = acpica(folder.path(), "iasl", &[&source]).unwrap();
        assert!(output.contains(" 0 Errors, 0 Warnings"), "{name}: {output}");
    }
}

#[test]
fn the_reference_interpreter_grants_pcie_features_to_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    write_tables(folder.path(), &build(&[0], IntervalTimer::PinTwo, ALL));
    let osc = |uuid: &str, revision: u32, control: u8| {
        let call = format!(
            "evaluate \\_SB.PCI0._OSC ({uuid}) {revision} 3 (00 00 00 00 1F 00 00 00 {control:02X} 00 00 00)"
        );
        acpica(folder.path(), "acpiexec", &["-b", &call, "dsdt.dat"])
    };
    let known = "5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66";
    let Some(output) = osc(known, 1, 0x1f) else { return };
    assert!(output.contains("00 00 00 00 1F 00 00 00 1D 00 00 00"), "{output}");
    let output = osc(known, 2, 0x11).unwrap();
    assert!(output.contains("08 00 00 00 1F 00 00 00 11 00 00 00"), "{output}");
    let output = osc(&known.replace("5B", "5C"), 1, 0x1f).unwrap();
    assert!(output.contains("04 00 00 00 1F 00 00 00 1F 00 00 00"), "{output}");
}
