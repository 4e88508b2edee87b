//! Interrupt controllers: MADT (section 5.2.12).

use super::table::table;
use super::{AcpiMachine, IntervalTimer, ports};
use crate::layout::{IO_APIC, LOCAL_APIC};

/// Of ACPI 6.3.
const REVISION: u8 = 5;
/// MADT flag: a pair of 8259s that must be masked before the APICs are used.
const PCAT_COMPATIBLE: u32 = 1;
/// Local APIC flag: the processor is there.
const ENABLED: u32 = 1;
/// Interrupt source flags: active high, level triggered (table 5.26).
const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
/// ... and as the bus has it: for ISA active high, edge triggered.
const AS_THE_BUS: u16 = 0;
/// The local interrupt input for non-maskable interrupts.
const NMI_INPUT: u8 = 1;
/// The highest identifier in the entries for xAPIC; 255 is the broadcast.
const XAPIC_LAST: u32 = 254;

/// Which interrupt controllers there are and what is wired to them.
pub(super) fn madt(machine: &AcpiMachine<'_>) -> Vec<u8> {
    let low = |address: u64| u32::try_from(address).unwrap_or(0).to_le_bytes();
    let mut body = Vec::new();
    body.extend(low(LOCAL_APIC.start));
    body.extend(if machine.legacy.pic { PCAT_COMPATIBLE } else { 0 }.to_le_bytes());

    let mut has_x2apic = false;
    for (uid, &apic_id) in (0u32..).zip(machine.apic_ids) {
        match (u8::try_from(uid), u8::try_from(apic_id)) {
            (Ok(uid), Ok(id)) if apic_id <= XAPIC_LAST => {
                body.extend([0, 8, uid, id]);
                body.extend(ENABLED.to_le_bytes());
            }
            _ => {
                has_x2apic = true;
                body.extend([9, 16, 0, 0]);
                body.extend(apic_id.to_le_bytes());
                body.extend(ENABLED.to_le_bytes());
                body.extend(uid.to_le_bytes());
            }
        }
    }

    body.extend([1, 12, 0, 0]); // I/O APIC, its identifier
    body.extend(low(IO_APIC.start));
    body.extend(0u32.to_le_bytes()); // its first global interrupt

    let mut override_source = |irq: u8, global: u32, flags: u16| {
        body.extend([2, 10, 0, irq]);
        body.extend(global.to_le_bytes());
        body.extend(flags.to_le_bytes());
    };
    match machine.interval_timer {
        IntervalTimer::PinTwo => override_source(0, 2, AS_THE_BUS),
        IntervalTimer::PinZero => {}
    }
    override_source(ports::SCI_IRQ, u32::from(ports::SCI_IRQ), ACTIVE_HIGH_LEVEL);

    body.extend([4, 6, 0xff, 0, 0, NMI_INPUT]); // of all processors
    if has_x2apic {
        body.extend([10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, NMI_INPUT, 0, 0, 0]);
    }
    table(*b"APIC", REVISION, &body)
}
