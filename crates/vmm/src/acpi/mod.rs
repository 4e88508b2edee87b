//! The ACPI tables that describe the board to a guest (ACPI specification 6.3).
//!
//! Written for a fast start as much as for a complete description: every object that is absent is one that the guest
//! neither parses nor probes, so devices appear only if the machine has them, resources are constants instead of
//! methods, and the boot flags say which legacy hardware need not be looked for.
//!
//! For a kernel that is entered directly they lie in the legacy BIOS area (E_0000h to F_FFFFh), which the memory map reserves
//! ([`AcpiTables`]). The root pointer is at its start, where guests that are not told the address search for it. Firmware gets
//! them as files with instructions how to place them ([`AcpiFiles`]).
//!
//! Pure: a description goes in, bytes for guest memory come out.

mod dsdt;
mod files;
mod fixed;
mod interrupts;
mod ports;
mod table;

use std::ops::Range;

use platform::board::HOST_BRIDGE;
use platform::pci::DeviceFunction;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout::{self, BIOS_AREA, MemoryLayout};

pub use dsdt::intx_interrupt;
pub use files::AcpiFiles;

/// What the tables describe.
#[derive(Debug, Clone)]
pub struct AcpiMachine<'a> {
    /// Where PCI is in the guest's address map.
    pub pci: PciPlaces,
    /// The APIC identifier of each vCPU; the index is the processor's `_UID`.
    pub apic_ids: &'a [u32],
    /// Where the interval timer interrupts.
    pub interval_timer: IntervalTimer,
    /// Devices of the PC that this machine has.
    pub legacy: LegacyDevices,
}

/// Where PCI is in the guest's address map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciPlaces {
    /// Configuration space (ECAM).
    pub configuration: Range<u64>,
    /// Memory that 32-bit base address registers reach.
    pub window_32: Range<u64>,
    /// Memory that only 64-bit ones do.
    pub window_64: Range<u64>,
}

impl PciPlaces {
    /// As they are from the start, and stay if no firmware moves them.
    pub fn of(layout: &MemoryLayout) -> Self {
        Self {
            configuration: layout::ECAM,
            window_32: layout::PCI_WINDOW_32,
            window_64: layout.pci_window_64(),
        }
    }

    /// As firmware has placed them: it chooses where configuration space is, which divides the hole below 4 GiB, and puts some
    /// functions above everything.
    pub fn placed(&self, mapped: &[(DeviceFunction, Range<u64>)]) -> Self {
        let mut placed = self.clone();
        let functions = || mapped.iter().filter(|(at, _)| *at != HOST_BRIDGE).map(|(_, range)| range);
        let bridge = mapped.iter().find(|(at, _)| *at == HOST_BRIDGE);
        if let Some((_, configuration)) = bridge.filter(|(_, range)| range.end <= layout::IO_APIC.start) {
            placed.configuration = configuration.clone();
            let below = layout::LOW_RAM_LIMIT..configuration.start;
            let above = configuration.end..layout::IO_APIC.start;
            let in_use = |window: &Range<u64>| functions().any(|range| window.contains(&range.start));
            let longer = |window: &Range<u64>, other: &Range<u64>| {
                window.end.saturating_sub(window.start) >= other.end.saturating_sub(other.start)
            };
            let use_above = in_use(&above) || !in_use(&below) && longer(&above, &below);
            placed.window_32 = if use_above { above } else { below };
        }
        for range in functions().filter(|range| range.start >= layout::HIGH_RAM_START) {
            placed.window_64.start = placed.window_64.start.min(range.start);
            placed.window_64.end = placed.window_64.end.max(range.end);
        }
        placed
    }
}

/// Where the output of the 8254 interval timer's channel 0 (ISA IRQ 0) goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntervalTimer {
    /// No such timer, or wired to pin 0 of the I/O APIC as the other ISA interrupts are to theirs.
    PinZero,
    /// Wired to pin 2 of the I/O APIC, as on most PCs.
    PinTwo,
}

/// Devices of the PC that a guest would otherwise have to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegacyDevices {
    /// The pair of 8259 interrupt controllers.
    pub pic: bool,
    /// The first serial port.
    pub serial: bool,
    /// The real-time clock.
    pub real_time_clock: bool,
    /// The i8042 keyboard controller.
    pub keyboard_controller: bool,
}

/// Why there are no tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcpiError {
    /// More than [`MAXIMUM_VCPUS`].
    #[error("ACPI tables for {0} vCPUs cannot be built: {MAXIMUM_VCPUS} is the most")]
    TooManyVcpus(usize),
    /// The tables would leave their reserved area.
    #[error("ACPI tables of {0} bytes do not fit into the 128 KiB below 1 MiB that are reserved for them")]
    TooLarge(usize),
}

/// Names of processor objects have three hexadecimal digits.
pub const MAXIMUM_VCPUS: usize = 0x1000;

/// Finished tables and their place in guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiTables {
    bytes: Vec<u8>,
    /// Where each table begins in `bytes`.
    offsets: Vec<usize>,
}

impl AcpiTables {
    /// Builds the tables of `machine`.
    pub fn build(machine: &AcpiMachine<'_>) -> Result<Self, AcpiError> {
        let mut area = Area::new(BIOS_AREA.start);
        // The root pointer comes first and is filled in last.
        area.bytes.resize(table::ROOT_POINTER_LENGTH, 0);
        let xsdt = area.fill(machine)?;
        area.bytes[..table::ROOT_POINTER_LENGTH].copy_from_slice(&table::root_pointer(xsdt));
        let length = BIOS_AREA.end - BIOS_AREA.start;
        if area.bytes.len() as u64 > length {
            return Err(AcpiError::TooLarge(area.bytes.len()));
        }
        Ok(Self { bytes: area.bytes, offsets: area.tables })
    }

    /// Guest-physical address of the root pointer (RSDP).
    pub fn root_pointer(&self) -> u64 {
        BIOS_AREA.start
    }

    /// Every table but the root pointer, with its guest-physical address.
    pub fn tables(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.offsets.iter().map(|&offset| {
            let rest = &self.bytes[offset..];
            let length = rest[4..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            (BIOS_AREA.start + offset as u64, &rest[..(length as usize).min(rest.len())])
        })
    }

    /// Writes the tables to their place in `memory`.
    pub fn write(&self, memory: &GuestMemoryMmap<()>) -> Result<(), GuestMemoryError> {
        memory.write_slice(&self.bytes, GuestAddress(BIOS_AREA.start))
    }
}

const TABLE_ALIGNMENT: usize = 16;

/// Tables one after the other, while they are placed.
struct Area {
    /// Guest-physical address of the first byte.
    base: u64,
    bytes: Vec<u8>,
    /// Where each table begins in `bytes`.
    tables: Vec<usize>,
    /// Where the address of another table is, and in how many bytes.
    pointers: Vec<(usize, u8)>,
}

impl Area {
    fn new(base: u64) -> Self {
        Self { base, bytes: Vec::with_capacity(16 << 10), tables: Vec::new(), pointers: Vec::new() }
    }

    /// Adds a table and returns its guest-physical address.
    fn place(&mut self, table: &[u8], alignment: usize) -> u64 {
        let offset = self.bytes.len().next_multiple_of(alignment);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(table);
        self.tables.push(offset);
        self.base + offset as u64
    }

    /// Notes where the table that was placed last has addresses.
    fn point(&mut self, pointers: impl IntoIterator<Item = (usize, u8)>) {
        let table = self.tables.last().copied().unwrap_or(0);
        self.pointers.extend(pointers.into_iter().map(|(offset, bytes)| (table + offset, bytes)));
    }

    /// Adds every table of a machine; the address of their list (XSDT).
    fn fill(&mut self, machine: &AcpiMachine<'_>) -> Result<u64, AcpiError> {
        if machine.apic_ids.len() > MAXIMUM_VCPUS {
            return Err(AcpiError::TooManyVcpus(machine.apic_ids.len()));
        }
        let facs = self.place(&fixed::facs(), fixed::FACS_ALIGNMENT);
        let dsdt = self.place(&dsdt::build(machine), TABLE_ALIGNMENT);
        let fadt = self.place(&fixed::fadt(machine, facs, dsdt), TABLE_ALIGNMENT);
        self.point(fixed::FADT_POINTERS);
        let madt = self.place(&interrupts::madt(machine), TABLE_ALIGNMENT);
        let mcfg = self.place(&table::mcfg(machine.pci.configuration.start), TABLE_ALIGNMENT);
        let listed = [fadt, madt, mcfg];
        let xsdt = self.place(&table::xsdt(&listed), TABLE_ALIGNMENT);
        self.point((0..listed.len()).map(|index| (table::HEADER_LENGTH + index * size_of::<u64>(), 8)));
        Ok(xsdt)
    }
}

#[cfg(test)]
mod tests;
