//! Where the board's devices are: the one place that the machine's assembly, the ACPI tables and the devices share.
//!
//! Port numbers are those of the PC (ISA) and of the ICH9 with the power management base that OVMF expects; interrupt
//! numbers are global system interrupts, which are the ISA IRQs below 16.

use std::ops::Range;

use crate::pci::root::DeviceFunction;

/// i8042 data port. The command and status port is 64h; 61h to 63h belong to others.
pub const I8042_DATA_PORT: u16 = 0x60;
/// i8042 status (read) and command (write) port.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// Interrupt of the i8042's keyboard channel.
pub const KEYBOARD_IRQ: u32 = 1;
/// Real-time clock index and data.
pub const RTC_PORTS: Range<u64> = 0x70..0x72;
/// Interrupt of the real-time clock.
pub const RTC_IRQ: u32 = 8;
/// Where firmware writes its progress; ignored.
pub const POST_PORTS: Range<u64> = 0x80..0x81;
/// System control port A: A20 gate and fast reset.
pub const SYSTEM_CONTROL_PORTS: Range<u64> = 0x92..0x93;
/// APM control and status (ICH9 datasheet, section 13.7): what the FADT calls the SMI command port.
pub const APM_PORTS: Range<u64> = 0xb2..0xb4;
/// FADT `SMI_CMD`.
pub const SMI_COMMAND_PORT: u16 = 0xb2;
/// FADT `ACPI_ENABLE`: this value, written to [`SMI_COMMAND_PORT`], hands the power management events to the system.
pub const ACPI_ENABLE: u8 = 0x02;
/// FADT `ACPI_DISABLE`: takes them back.
pub const ACPI_DISABLE: u8 = 0x03;
/// First serial port (COM1).
pub const SERIAL_PORTS: Range<u64> = 0x3f8..0x400;
/// Interrupt of the first serial port.
pub const SERIAL_IRQ: u32 = 4;
/// What firmware is told (QEMU, docs/specs/fw_cfg.rst): selector, data and DMA address.
pub const FIRMWARE_CONFIGURATION_PORTS: Range<u64> = 0x510..0x51c;
/// ACPI power management block (ICH9 `PMBASE`, 128 bytes).
pub const PM_BASE: u16 = 0x600;
/// The ports of the power management block.
pub const PM_PORTS: Range<u64> = 0x600..0x680;
/// PM1a event block: status then enable, two bytes each.
pub const PM1A_EVENT_PORT: u16 = PM_BASE;
/// PM1a control block, two bytes.
pub const PM1A_CONTROL_PORT: u16 = PM_BASE + 4;
/// Power management timer, four bytes.
pub const PM_TIMER_PORT: u16 = PM_BASE + 8;
/// General purpose event block 0: status then enable.
pub const GPE0_PORT: u16 = PM_BASE + 0x20;
/// Length of [`GPE0_PORT`]'s block in bytes (FADT `GPE0_BLK_LEN`): half status, half enable.
pub const GPE0_BYTES: u8 = 16;
/// `SLP_TYP` of the soft-off state, for the `\_S5` object.
pub const SLEEP_TYPE_S5: u8 = 0;
/// The interrupt of ACPI events, level-triggered and active high (FADT `SCI_INT`).
pub const SCI_IRQ: u32 = 9;
/// PCI configuration address and data ports, with the reset control register (CF9h) among them.
pub const PCI_CONFIG_PORTS: Range<u64> = 0xcf8..0xd00;
/// Reset control register, for the FADT's `RESET_REG`.
pub const RESET_PORT: u16 = 0xcf9;
/// What resets when written to [`RESET_PORT`] (FADT `RESET_VALUE`).
pub const RESET_VALUE: u8 = 0x0f;
/// The host bridge.
pub const HOST_BRIDGE: DeviceFunction = DeviceFunction::device_zero(0);
/// The LPC bridge.
pub const LPC_BRIDGE: DeviceFunction = DeviceFunction::device_zero(31);
