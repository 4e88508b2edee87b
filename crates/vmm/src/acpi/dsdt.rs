//! The DSDT: what can't be discovered otherwise, in AML (section 20).
//!
//! One method in all (`_OSC`, which must be one); everything else is a constant that costs the guest a look-up.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO, If,
    Memory32Fixed, Method, Name, NotEqual, ONE, Or, Package, PackageBuilder, Path, ResourceTemplate, Return,
    Scope, Uuid, ZERO,
};
use acpi_tables::{Aml, AmlSink};

use super::table::table;
use super::{AcpiMachine, LegacyDevices, PciPlaces, ports};
use crate::layout::PCI_LAST_BUS;

/// Revision 2 makes integers 64 bits wide.
const REVISION: u8 = 2;

/// Devices on a PCI bus, and interrupt pins of each.
const PCI_DEVICES: u8 = 32;
const PCI_PINS: u8 = 4;
/// The first of the eight global interrupts that PCI's INTx lines share, behind the ISA's sixteen.
const INTX_FIRST: u32 = 16;

/// `_OSC` for PCI (PCI Firmware Specification 3.2, section 4.5.1).
const PCI_OSC_UUID: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
/// Control bits that are granted: native hot-plug, power management events, error reporting and control of the PCIe
/// capability structure. Not granted: SHPC hot-plug (no such controller exists).
const PCI_OSC_GRANTED: u32 = 0b1_1101;
const OSC_UNKNOWN_UUID: u8 = 1 << 2;
const OSC_UNKNOWN_REVISION: u8 = 1 << 3;

/// The global interrupt of a PCI function's interrupt pin (0 for INTA# to 3 for INTD#), as `_PRT` tells guests.
/// Neighbours get different interrupts.
pub fn intx_interrupt(device: u8, pin: u8) -> u32 {
    INTX_FIRST + (u32::from(device) + u32::from(pin)) % 8
}

/// Interrupt of an ISA device: edge triggered, active high, not shared (section 6.4.2.1).
struct IsaInterrupt(u8);

impl Aml for IsaInterrupt {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1u16.checked_shl(u32::from(self.0)).unwrap_or(0));
    }
}

/// AML that is ready.
struct Ready(Vec<u8>);

impl Aml for Ready {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

impl Ready {
    fn push(&mut self, object: &dyn Aml) {
        object.to_aml_bytes(&mut self.0);
    }
}

pub(super) fn build(machine: &AcpiMachine<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    Scope::new(
        Path::new("_SB_"),
        vec![
            &pci_host_bridge(&machine.pci, machine.legacy),
            &motherboard(&machine.pci),
            &processors(machine),
        ],
    )
    .to_aml_bytes(&mut body);
    let sleep = Package::new(vec![&ports::SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    Name::new(Path::new("_S5_"), &sleep).to_aml_bytes(&mut body);
    table(*b"DSDT", REVISION, &body)
}

fn pci_host_bridge(places: &PciPlaces, legacy: LegacyDevices) -> Ready {
    let mut device = Ready(Vec::new());
    Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &ZERO),
            &pci_resources(places),
            &Name::new(Path::new("_PRT"), &pci_interrupts()),
            &pci_control(),
            &lpc_bridge(legacy),
        ],
    )
    .to_aml_bytes(&mut device.0);
    device
}

/// `_CRS`: what the bridge itself decodes and what it forwards.
fn pci_resources(places: &PciPlaces) -> Name {
    let uncached = AddressSpaceCacheable::NotCacheable;
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let PciPlaces { window_32, window_64, .. } = places;
    Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![
            &AddressSpace::<u16>::new_bus_number(0, u16::from(PCI_LAST_BUS)),
            &IO::new(ports::PCI_CONFIG_PORT, ports::PCI_CONFIG_PORT, 1, 8),
            &AddressSpace::<u16>::new_io(0, ports::PCI_CONFIG_PORT - 1, None),
            &AddressSpace::<u16>::new_io(ports::PCI_CONFIG_PORT + 8, 0xffff, None),
            &AddressSpace::<u32>::new_memory(
                uncached,
                true,
                low(window_32.start),
                low(window_32.end.saturating_sub(1)),
                None,
            ),
            &AddressSpace::<u64>::new_memory(
                uncached,
                true,
                window_64.start,
                window_64.end.saturating_sub(1),
                None,
            ),
        ]),
    )
}

/// `_PRT` (section 6.2.13): every pin of every device goes straight to a global interrupt.
fn pci_interrupts() -> PackageBuilder {
    let mut routes = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        for pin in 0..PCI_PINS {
            // All functions of the device.
            let address = u32::from(device) << 16 | 0xffff;
            routes.add_element(&Package::new(vec![&address, &pin, &ZERO, &intx_interrupt(device, pin)]));
        }
    }
    routes
}

/// `_OSC` (section 6.2.11): gives the guest what it asks for among the granted features, whatever it supports.
fn pci_control() -> Ready {
    let status = Path::new("CDW1");
    let control = Path::new("CDW3");
    let mut method = Ready(Vec::new());
    Method::new(
        Path::new("_OSC"),
        4,
        true,
        vec![
            &CreateDWordField::new(&status, &Arg(3), &ZERO),
            &If::new(
                &Equal::new(&Arg(0), &Uuid::new(PCI_OSC_UUID)),
                vec![
                    &CreateDWordField::new(&control, &Arg(3), &8u8),
                    &And::new(&control, &control, &PCI_OSC_GRANTED),
                    &If::new(
                        &NotEqual::new(&Arg(1), &ONE),
                        vec![&Or::new(&status, &status, &OSC_UNKNOWN_REVISION)],
                    ),
                ],
            ),
            &Else::new(vec![&Or::new(&status, &status, &OSC_UNKNOWN_UUID)]),
            &Return::new(&Arg(3)),
        ],
    )
    .to_aml_bytes(&mut method.0);
    method
}

/// The LPC bridge and the devices behind it that this machine has.
fn lpc_bridge(legacy: LegacyDevices) -> Ready {
    let port = |first: u16, count: u8| IO::new(first, first, 1, count);
    let mut children = Ready(Vec::new());
    children.push(&Name::new(Path::new("_ADR"), &ports::LPC_BRIDGE_ADDRESS));
    if legacy.serial {
        children.push(&isa_device(
            "COM1",
            "PNP0501",
            vec![&port(ports::SERIAL_PORT, 8), &IsaInterrupt(ports::SERIAL_IRQ)],
        ));
    }
    if legacy.real_time_clock {
        children.push(&isa_device(
            "RTC_",
            "PNP0B00",
            vec![&port(ports::RTC_PORT, 2), &IsaInterrupt(ports::RTC_IRQ)],
        ));
    }
    if legacy.keyboard_controller {
        let (data, command) = (port(ports::KEYBOARD_DATA_PORT, 1), port(ports::KEYBOARD_COMMAND_PORT, 1));
        children.push(&isa_device(
            "KBD_",
            "PNP0303",
            vec![&data, &command, &IsaInterrupt(ports::KEYBOARD_IRQ)],
        ));
    }
    let mut device = Ready(Vec::new());
    device.push(&Device::new(Path::new("LPC_"), vec![&children]));
    device
}

fn isa_device(name: &str, identifier: &str, resources: Vec<&dyn Aml>) -> Ready {
    let mut device = Ready(Vec::new());
    device.push(&Device::new(
        Path::new(name),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new(identifier)),
            // The first of its kind; for a serial port the number of the COM port.
            &Name::new(Path::new("_UID"), &ONE),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources)),
        ],
    ));
    device
}

/// Resources of the board that no other device claims: configuration space, power management and SMI command ports.
fn motherboard(places: &PciPlaces) -> Ready {
    let configuration = &places.configuration;
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let mut device = Ready(Vec::new());
    device.push(&Device::new(
        Path::new("MBRD"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(
                        true,
                        low(configuration.start),
                        low(configuration.end - configuration.start),
                    ),
                    &IO::new(ports::PM_BASE, ports::PM_BASE, 1, ports::PM_BYTES),
                    &IO::new(ports::SMI_COMMAND_PORT, ports::SMI_COMMAND_PORT, 1, 2),
                ]),
            ),
        ],
    ));
    device
}

/// A processor object for each vCPU, tied to its MADT entry by `_UID` (section 8.4).
fn processors(machine: &AcpiMachine<'_>) -> Ready {
    let mut devices = Ready(Vec::new());
    for (uid, _) in (0u32..).zip(machine.apic_ids) {
        devices.push(&Device::new(
            Path::new(&format!("C{uid:03X}")),
            vec![&Name::new(Path::new("_HID"), &"ACPI0007"), &Name::new(Path::new("_UID"), &uid)],
        ));
    }
    devices
}
