//! The two functions of the q35 chip set that software looks for: the host bridge (the memory controller hub, 00:00.0)
//! and the LPC bridge (ICH9, 00:1f.0).
//!
//! They hold the registers that OVMF and Linux read to find ECAM and the ACPI power management block, and scratch
//! registers for what firmware programs into hardware that is not modelled (interrupt routing, shadow memory).
//!
//! Specifications: Intel 3 Series Express Chipset datasheet (316966), section 5.1; Intel ICH9 datasheet (316972),
//! section 13.1.

use std::ops::Range;

use super::{BAR_COUNT, Class, ConfigSpace, Identity, PciFunction};
use crate::board;
use crate::register_file::Effect;

const INTEL: u16 = 0x8086;
/// Subsystem IDs by which drivers tell a virtual q35 from a real one.
const SUBSYSTEM_VENDOR: u16 = 0x1af4;
const SUBSYSTEM: u16 = 0x1100;

/// Host bridge registers (section 5.1).
const PCIEXBAR: u16 = 0x60;
/// PCIEXBAR bit 0: ECAM is decoded. Bits 2:1: its length. Bits 38:26: its base.
const PCIEXBAR_ENABLE: u64 = 1;
const PCIEXBAR_WRITABLE: u64 = 0x7f_fc00_0007;
const PAM0: usize = 0x90;
const SMRAM: usize = 0x9d;

/// The q35 host bridge. What it "decodes" as range 0 is ECAM, wherever the guest puts it; plug it in with
/// [`super::PciRoot::insert_host_bridge`].
#[derive(Debug)]
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// A host bridge whose ECAM (256 MiB, of which bus 0 is in use) is at `ecam`, a multiple of 256 MiB below 2^39; off
    /// for `None`, as after power-on, until firmware places it.
    pub fn new(ecam: Option<u64>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: 0x29c0,
            revision: 0,
            class: Class { base: 0x06, sub: 0x00, interface: 0 },
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: SUBSYSTEM,
        });
        let value = ecam.map_or(0, |base| base & PCIEXBAR_WRITABLE & !0x0fff_ffff | PCIEXBAR_ENABLE);
        config.define(usize::from(PCIEXBAR), &value.to_le_bytes(), &PCIEXBAR_WRITABLE.to_le_bytes());
        config.define(PAM0, &[0; 7], &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        config.define(SMRAM, &[0x02], &[0x00]); // no system management memory, and no way to open it
        Self { config }
    }

    fn ecam(&self) -> Option<Range<u64>> {
        let mut raw = [0; 8];
        self.config.read(PCIEXBAR, &mut raw);
        let value = u64::from_le_bytes(raw);
        let bytes = match value >> 1 & 0b11 {
            0b00 => 256 << 20,
            0b01 => 128 << 20,
            0b10 => 64 << 20,
            _ => return None,
        };
        let start = value & PCIEXBAR_WRITABLE & !(bytes - 1);
        (value & PCIEXBAR_ENABLE != 0 && start != 0).then(|| start..start + bytes)
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        Effect::None
    }

    fn decoded(&self) -> [Option<Range<u64>>; BAR_COUNT] {
        let mut decoded = [const { None }; BAR_COUNT];
        decoded[0] = self.ecam();
        decoded
    }

    fn read_bar(&mut self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&mut self, _bar: u8, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }

    fn mirrorable(&self) -> bool {
        true
    }
}

/// The ICH9 LPC bridge. The ACPI block is where [`board::PM_BASE`] says, enabled from the start and not to be moved.
#[derive(Debug)]
pub struct LpcBridge {
    config: ConfigSpace,
}

impl LpcBridge {
    /// The bridge as after power-on.
    pub fn new() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: 0x2918,
            revision: 2,
            class: Class { base: 0x06, sub: 0x01, interface: 0 },
            subsystem_vendor: SUBSYSTEM_VENDOR,
            subsystem: SUBSYSTEM,
        });
        // PMBASE (13.1.13): bit 0 says I/O space. ACPI_CNTL (13.1.14): enabled, SCI on IRQ 9.
        config.define(0x40, &(u32::from(board::PM_BASE) | 1).to_le_bytes(), &[0; 4]);
        config.define(0x44, &[0x80], &[0]);
        // PIRQA-D and PIRQE-H routing (13.1.17, 13.1.19): not routed; INTx goes to the IOAPIC directly.
        for first in [0x60, 0x68] {
            config.define(first, &[0x80; 4], &[0x8f; 4]);
        }
        config.define(0x64, &[0x10], &[0xff]); // serial IRQ control
        config.define(0x80, &[0; 4], &[0x77, 0x13, 0x0f, 0x3f]); // LPC decode ranges and enables
        config.define(0xa0, &[0; 4], &[0xff; 4]); // general power management configuration
        config.define(0xf0, &[0; 4], &[0x01, 0xc0, 0xff, 0xff]); // root complex base address
        Self { config }
    }
}

impl Default for LpcBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for LpcBridge {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        Effect::None
    }

    fn decoded(&self) -> [Option<Range<u64>>; BAR_COUNT] {
        [const { None }; BAR_COUNT]
    }

    fn read_bar(&mut self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&mut self, _bar: u8, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }

    fn mirrorable(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dword(function: &mut dyn PciFunction, offset: u16) -> u32 {
        let mut data = [0; 4];
        function.read_config(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn ecam_is_where_pciexbar_says() {
        let mut bridge = HostBridge::new(Some(0xe000_0000));
        assert_eq!(dword(&mut bridge, 0), 0x29c0_8086);
        assert_eq!(dword(&mut bridge, 0x60), 0xe000_0001);
        assert_eq!(bridge.decoded()[0], Some(0xe000_0000..0xf000_0000));
        for (value, expected) in [
            (0xb000_0001u64, Some(0xb000_0000..0xc000_0000)),
            (0xbc00_0005, Some(0xbc00_0000..0xc000_0000)),
            (0x10_b800_0003, Some(0x10_b800_0000..0x10_c000_0000)),
            (0xb000_0000, None),
            (0xb000_0007, None),
            (1, None),
        ] {
            let _ = bridge.write_config(0x60, &value.to_le_bytes());
            assert_eq!(bridge.decoded()[0], expected, "{value:#x}");
        }
        assert_eq!(HostBridge::new(None).decoded()[0], None);
    }

    #[test]
    fn the_acpi_block_is_found_enabled_and_cannot_be_moved() {
        let mut bridge = LpcBridge::new();
        assert_eq!(dword(&mut bridge, 0), 0x2918_8086);
        assert_eq!(dword(&mut bridge, 8) >> 8, 0x06_0100);
        let _ = bridge.write_config(0x40, &0xb001u32.to_le_bytes());
        let _ = bridge.write_config(0x44, &[0]);
        assert_eq!(dword(&mut bridge, 0x40), 0x601);
        assert_eq!(dword(&mut bridge, 0x44), 0x80);
        let _ = bridge.write_config(0x60, &[0x0a, 0x0b, 0x0a, 0x7b]);
        assert_eq!(dword(&mut bridge, 0x60), 0x0b0a_0b0a);
    }
}
