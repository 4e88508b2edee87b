//! Fixed hardware: FADT (section 5.2.9) and FACS (section 5.2.10).

use super::table::{HEADER_LENGTH, table};
use super::{AcpiMachine, ports};

/// The FACS must be aligned to 64 bytes.
pub(super) const FACS_ALIGNMENT: usize = 64;

const FADT_LENGTH: usize = 276;
/// Where it has addresses of other tables, and in how many bytes: the FACS once, the DSDT twice.
pub(super) const FADT_POINTERS: [(usize, u8); 3] = [(40, 4), (132, 8), (140, 8)];
/// Major version; the minor one is a field of its own.
const FADT_REVISION: u8 = 6;
const FADT_MINOR_REVISION: u8 = 3;

/// Fixed feature flags (table 5.10): caches are flushed by WBINVD, C1 works, there is no fixed sleep button (but a power
/// button, whose bit is clear), the clock's wake status is in no fixed register, the reset register works.
const FLAGS: u32 = 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10;

/// IA-PC boot flags (table 5.11).
const LEGACY_DEVICES: u16 = 1;
const KEYBOARD_CONTROLLER: u16 = 1 << 1;
const NO_VGA: u16 = 1 << 2;
const NO_ASPM: u16 = 1 << 4;
const NO_REAL_TIME_CLOCK: u16 = 1 << 5;

/// Register of the CMOS memory that holds the century.
const CENTURY: u8 = 0x32;
/// Latencies above these limits say that the state does not exist (table 5.9, `P_LVL2_LAT`, `P_LVL3_LAT`).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
const ENTERPRISE_SERVER: u8 = 4;

/// The firmware control structure: nothing but the global lock, which nobody contends.
pub(super) fn facs() -> [u8; 64] {
    let mut facs = [0; 64];
    facs[..4].copy_from_slice(b"FACS");
    facs[4] = 64;
    facs[32] = 2; // version
    facs
}

/// A generic address (section 5.2.3.2) in port space.
fn port(number: u16, bytes: u8, access_bytes: u8) -> [u8; 12] {
    let mut address = [0; 12];
    address[0] = 1; // system I/O
    address[1] = bytes.saturating_mul(8);
    // 1 byte, 2 word, 3 dword
    address[3] = u8::try_from(access_bytes.ilog2() + 1).unwrap_or(0);
    address[4..6].copy_from_slice(&number.to_le_bytes());
    address
}

/// The fixed hardware description. Both kinds of address fields are filled, as guests compare them.
pub(super) fn fadt(machine: &AcpiMachine<'_>, facs: u64, dsdt: u64) -> Vec<u8> {
    let legacy = machine.legacy;
    let mut boot_flags = NO_VGA | NO_ASPM;
    for (flag, wanted) in [
        (LEGACY_DEVICES, legacy.serial || legacy.keyboard_controller || legacy.real_time_clock),
        (KEYBOARD_CONTROLLER, legacy.keyboard_controller),
        (NO_REAL_TIME_CLOCK, !legacy.real_time_clock),
    ] {
        if wanted {
            boot_flags |= flag;
        }
    }
    let mut body = [0; FADT_LENGTH - HEADER_LENGTH];
    // Offsets are those of the specification, from the start of the table.
    let mut put = |offset: usize, bytes: &[u8]| {
        body[offset - HEADER_LENGTH..offset - HEADER_LENGTH + bytes.len()].copy_from_slice(bytes);
    };
    let dword = |port: u16| u32::from(port).to_le_bytes();
    put(40, &u32::try_from(dsdt).unwrap_or(0).to_le_bytes());
    put(45, &[ENTERPRISE_SERVER]);
    put(46, &u16::from(ports::SCI_IRQ).to_le_bytes());
    put(48, &dword(ports::SMI_COMMAND_PORT));
    put(52, &[ports::ACPI_ENABLE, ports::ACPI_DISABLE]);
    put(56, &dword(ports::PM1A_EVENT_PORT));
    put(64, &dword(ports::PM1A_CONTROL_PORT));
    put(76, &dword(ports::PM_TIMER_PORT));
    put(80, &dword(ports::GPE0_PORT));
    // Lengths: PM1 event, PM1 control, PM2 control, PM timer, GPE0.
    put(88, &[4, 2, 0, 4, ports::GPE0_BYTES]);
    put(96, &NO_C2.to_le_bytes());
    put(98, &NO_C3.to_le_bytes());
    put(108, &[if legacy.real_time_clock { CENTURY } else { 0 }]);
    put(109, &boot_flags.to_le_bytes());
    put(112, &FLAGS.to_le_bytes());
    put(116, &port(ports::RESET_PORT, 1, 1));
    put(128, &[ports::RESET_VALUE]);
    put(131, &[FADT_MINOR_REVISION]);
    put(132, &facs.to_le_bytes());
    put(140, &dsdt.to_le_bytes());
    put(148, &port(ports::PM1A_EVENT_PORT, 4, 2));
    put(172, &port(ports::PM1A_CONTROL_PORT, 2, 2));
    put(208, &port(ports::PM_TIMER_PORT, 4, 4));
    put(220, &port(ports::GPE0_PORT, ports::GPE0_BYTES, 1));
    put(268, b"VireoVMM"); // hypervisor vendor identity
    table(*b"FACP", FADT_REVISION, &body)
}
