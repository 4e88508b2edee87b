//! The board's port and interrupt numbers that appear in the tables: those of the PC and of the ICH9 (Intel document
//! 316972, section 13.8) with the power management base that OVMF expects.

pub(super) const KEYBOARD_DATA_PORT: u16 = 0x60;
pub(super) const KEYBOARD_COMMAND_PORT: u16 = 0x64;
pub(super) const KEYBOARD_IRQ: u8 = 1;
pub(super) const RTC_PORT: u16 = 0x70;
pub(super) const RTC_IRQ: u8 = 8;
pub(super) const SMI_COMMAND_PORT: u16 = 0xb2;
pub(super) const ACPI_ENABLE: u8 = 2;
pub(super) const ACPI_DISABLE: u8 = 3;
pub(super) const SERIAL_PORT: u16 = 0x3f8;
pub(super) const SERIAL_IRQ: u8 = 4;
pub(super) const PM_BASE: u16 = 0x600;
pub(super) const PM_BYTES: u8 = 0x80;
pub(super) const PM1A_EVENT_PORT: u16 = PM_BASE;
pub(super) const PM1A_CONTROL_PORT: u16 = PM_BASE + 4;
pub(super) const PM_TIMER_PORT: u16 = PM_BASE + 8;
pub(super) const GPE0_PORT: u16 = PM_BASE + 0x20;
pub(super) const GPE0_BYTES: u8 = 16;
/// `SLP_TYP` of soft-off. OVMF's own shutdown writes this value without reading `\_S5`.
pub(super) const SLEEP_TYPE_S5: u8 = 0;
pub(super) const SCI_IRQ: u8 = 9;
pub(super) const PCI_CONFIG_PORT: u16 = 0xcf8;
pub(super) const RESET_PORT: u16 = 0xcf9;
pub(super) const RESET_VALUE: u8 = 0x0f;
/// The LPC bridge's `_ADR`: device 31, function 0.
pub(super) const LPC_BRIDGE_ADDRESS: u32 = 0x001f_0000;
