//! The board's port and interrupt numbers in the widths that the tables want; where things are is said in
//! [`platform::board`] alone.

use platform::board;

pub(super) use platform::board::{
    ACPI_DISABLE, ACPI_ENABLE, GPE0_BYTES, GPE0_PORT, I8042_COMMAND_PORT as KEYBOARD_COMMAND_PORT,
    I8042_DATA_PORT as KEYBOARD_DATA_PORT, PM_BASE, PM_TIMER_PORT, PM1A_CONTROL_PORT, PM1A_EVENT_PORT,
    RESET_PORT, RESET_VALUE, SLEEP_TYPE_S5, SMI_COMMAND_PORT,
};

pub(super) const KEYBOARD_IRQ: u8 = isa(board::KEYBOARD_IRQ);
pub(super) const RTC_PORT: u16 = port(board::RTC_PORTS.start);
pub(super) const RTC_IRQ: u8 = isa(board::RTC_IRQ);
pub(super) const SERIAL_PORT: u16 = port(board::SERIAL_PORTS.start);
pub(super) const SERIAL_IRQ: u8 = isa(board::SERIAL_IRQ);
pub(super) const PM_BYTES: u8 = 0x80;
pub(super) const SCI_IRQ: u8 = isa(board::SCI_IRQ);
pub(super) const PCI_CONFIG_PORT: u16 = port(board::PCI_CONFIG_PORTS.start);
/// The LPC bridge's `_ADR`: device in the upper half, function in the lower (ACPI 6.5, 6.1.1).
pub(super) const LPC_BRIDGE_ADDRESS: u32 =
    (board::LPC_BRIDGE.device() as u32) << 16 | board::LPC_BRIDGE.function() as u32;

const _: () = assert!(board::PM_PORTS.end - board::PM_PORTS.start == PM_BYTES as u64);

const fn isa(interrupt: u32) -> u8 {
    assert!(interrupt < 16);
    interrupt.to_le_bytes()[0]
}

const fn port(number: u64) -> u16 {
    assert!(number <= 0xffff);
    let [low, high, ..] = number.to_le_bytes();
    u16::from_le_bytes([low, high])
}
