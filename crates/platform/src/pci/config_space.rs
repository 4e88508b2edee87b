//! The configuration space of one function: type 0 header, base address registers, capability list.
//!
//! A register is a byte and a mask of the bits that the guest may write; everything that a write does follows from the
//! mask, base address register sizing included (the bits below a BAR's size are simply not writable). The space decodes
//! 4096 bytes; there are no extended capabilities, so everything above the first 256 bytes reads as zero (PCI Express
//! Base 5.0, section 7.9.1: a first dword of zero ends the extended list).
//!
//! Specification: PCI Local Bus 3.0, chapter 6 and appendix D (class codes); PCI Express Base 5.0, section 7.5.

use std::ops::Range;

use super::BAR_COUNT;
use super::msix::Msix;

/// Bytes that hold anything: the conventional configuration space.
const BYTES: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const HEADER_TYPE: usize = 0x0e;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// The first byte after the header, where capabilities may start.
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Capability IDs (PCI Code and ID Assignment 1.11, section 2).
const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_EXPRESS: u8 = 0x10;
const CAPABILITY_MSIX: u8 = 0x11;

/// Class code of a function (PCI Local Bus 3.0, appendix D).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Base class, for example 02h for a network controller.
    pub base: u8,
    /// Sub-class.
    pub sub: u8,
    /// Programming interface.
    pub interface: u8,
}

/// What a function calls itself: the read-only part of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code.
    pub class: Class,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// How many address bits a memory BAR has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarWidth {
    /// 32 address bits, one register.
    Bits32,
    /// 64 address bits: takes the next register too.
    Bits64,
}

/// Whether reads of a BAR's range are free of side effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefetch {
    /// They may have side effects: the range must stay below 4 GiB behind bridges.
    No,
    /// They have none.
    Yes,
}

/// A configuration space that can't be built as asked: a mistake of the device's author, never the guest's doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The BAR does not exist, is taken, or would have its upper half outside the header.
    #[error("base address register {0} is out of range or already in use")]
    BarTaken(u8),
    /// A BAR's size is not a power of two between 16 bytes and half the address space of its width.
    #[error("base address register {index} cannot have {bytes:#x} bytes")]
    BarSize {
        /// The register.
        index: u8,
        /// The size asked for.
        bytes: u64,
    },
    /// A BAR's address is not a multiple of its size, or too large for its width.
    #[error("base address register {index} cannot be placed at {address:#x}")]
    BarAddress {
        /// The register.
        index: u8,
        /// The address asked for.
        address: u64,
    },
    /// The capability list is longer than the conventional configuration space.
    #[error("no room in configuration space for capability {id:#04x} of {bytes} bytes")]
    CapabilityRoom {
        /// The capability's ID.
        id: u8,
        /// Its length.
        bytes: usize,
    },
    /// The MSI-X table or pending bits are not placed at a multiple of 8 bytes in a BAR that exists.
    #[error("MSI-X structures cannot be at offset {offset:#x} of base address register {bar}")]
    MsixPlace {
        /// The register.
        bar: u8,
        /// The offset in its range.
        offset: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bar {
    width: BarWidth,
    bytes: u64,
}

/// Where a function keeps its MSI-X structures (PCI Local Bus 3.0, section 6.8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixPlace {
    /// The BAR that decodes both.
    pub bar: u8,
    /// Offset of the table in it, a multiple of 8; 16 bytes a vector.
    pub table: u32,
    /// Offset of the pending bits in it, a multiple of 8; one bit a vector, in whole quadwords.
    pub pending: u32,
}

/// A function's configuration space.
#[derive(Debug)]
pub struct ConfigSpace {
    value: [u8; BYTES],
    writable: [u8; BYTES],
    bars: [Option<Bar>; BAR_COUNT],
    /// The end of the used part, where the next capability goes.
    end: usize,
    /// The byte that points to the next capability.
    link: usize,
    msix: Option<(usize, Msix)>,
}

impl ConfigSpace {
    /// A header without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            value: [0; BYTES],
            writable: [0; BYTES],
            bars: [None; BAR_COUNT],
            end: FIRST_CAPABILITY,
            link: CAPABILITIES,
            msix: None,
        };
        let Identity { vendor, device, revision, class, subsystem_vendor, subsystem } = identity;
        space.define(0x00, &vendor.to_le_bytes(), &[0; 2]);
        space.define(0x02, &device.to_le_bytes(), &[0; 2]);
        space.define(0x08, &[revision, class.interface, class.sub, class.base], &[0; 4]);
        space.define(0x2c, &subsystem_vendor.to_le_bytes(), &[0; 2]);
        space.define(0x2e, &subsystem.to_le_bytes(), &[0; 2]);
        // Memory space, bus master, parity response; SERR#, INTx disable. There is no I/O space to enable.
        space.define(COMMAND, &[0; 2], &[COMMAND_MEMORY | COMMAND_MASTER | 1 << 6, 1 | 1 << 2]);
        space.define(0x0c, &[0], &[0xff]); // cache line size: a scratch register for PCI Express
        space.define(INTERRUPT_LINE, &[0xff], &[0xff]);
        space
    }

    /// Gives the bytes at `offset` a value and the mask of bits that the guest may write. For registers of a chip set
    /// that are neither header nor capability.
    ///
    /// # Panics
    /// When it reaches past the first 256 bytes: offsets are constants of the device.
    pub fn define(&mut self, offset: usize, value: &[u8], writable: &[u8]) {
        self.value[offset..offset + value.len()].copy_from_slice(value);
        self.writable[offset..offset + writable.len()].copy_from_slice(writable);
    }

    /// Marks the device as having more functions than number 0 (header type bit 7).
    pub fn set_multifunction(&mut self) {
        self.value[HEADER_TYPE] |= 0x80;
    }

    /// Says which INTx pin the function uses (1 is INTA#) and what firmware would have written into the line register.
    pub fn set_interrupt(&mut self, pin: u8, line: u8) {
        self.value[INTERRUPT_PIN] = pin;
        self.value[INTERRUPT_LINE] = line;
    }

    /// Adds a memory BAR of `bytes` at register `index` (6.2.5.1).
    pub fn add_bar(
        &mut self,
        index: u8,
        width: BarWidth,
        prefetch: Prefetch,
        bytes: u64,
    ) -> Result<(), ConfigError> {
        let slot = usize::from(index);
        let (registers, largest) = match width {
            BarWidth::Bits32 => (1, 1 << 31),
            BarWidth::Bits64 => (2, 1 << 63),
        };
        let end = slot + registers;
        if end > BAR_COUNT || (slot..end).any(|slot| self.bar_at(slot).is_some()) {
            return Err(ConfigError::BarTaken(index));
        }
        if !bytes.is_power_of_two() || !(16..=largest).contains(&bytes) {
            return Err(ConfigError::BarSize { index, bytes });
        }
        let kind = if width == BarWidth::Bits64 { 0b100 } else { 0 };
        let flags = kind | if prefetch == Prefetch::Yes { 0b1000 } else { 0 };
        let mask = (!(bytes - 1)).to_le_bytes();
        self.define(BAR0 + slot * 4, &[flags, 0, 0, 0, 0, 0, 0, 0][..registers * 4], &mask[..registers * 4]);
        self.bars[slot] = Some(Bar { width, bytes });
        Ok(())
    }

    /// The BAR that register `slot` belongs to, as lower or upper half.
    fn bar_at(&self, slot: usize) -> Option<Bar> {
        self.bars[slot].or_else(|| {
            let below = self.bars[slot.checked_sub(1)?]?;
            (below.width == BarWidth::Bits64).then_some(below)
        })
    }

    /// Size in bytes of the BAR at register `index`, if there is one.
    pub fn bar_bytes(&self, index: u8) -> Option<u64> {
        self.bars.get(usize::from(index)).copied().flatten().map(|bar| bar.bytes)
    }

    /// Width of the BAR at register `index`, if there is one.
    pub fn bar_width(&self, index: u8) -> Option<BarWidth> {
        self.bars.get(usize::from(index)).copied().flatten().map(|bar| bar.width)
    }

    /// Places the BAR at register `index`, as firmware would: for guests that boot without firmware.
    pub fn place_bar(&mut self, index: u8, address: u64) -> Result<(), ConfigError> {
        let slot = usize::from(index);
        let bar = self.bars.get(slot).copied().flatten().ok_or(ConfigError::BarTaken(index))?;
        let fits = bar.width == BarWidth::Bits64 || address <= u64::from(u32::MAX);
        if !address.is_multiple_of(bar.bytes) || !fits {
            return Err(ConfigError::BarAddress { index, address });
        }
        let offset = BAR0 + slot * 4;
        let bytes = address.to_le_bytes();
        let length = if bar.width == BarWidth::Bits64 { 8 } else { 4 };
        self.put(offset, &bytes[..length]);
        Ok(())
    }

    /// Turns memory decoding and bus mastering on, as firmware would have done for a device that it started from.
    pub fn enable_memory(&mut self) {
        self.value[COMMAND] |= COMMAND_MEMORY | COMMAND_MASTER;
    }

    /// Adds a capability; `body` and its mask follow the two bytes of ID and next pointer. Returns the capability's
    /// offset. Capabilities are found by the guest in the order in which they were added.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u16, ConfigError> {
        let bytes = body.len() + 2;
        let offset = self.end;
        if bytes > BYTES - offset || writable.len() > body.len() {
            return Err(ConfigError::CapabilityRoom { id, bytes });
        }
        let pointer = u8::try_from(offset).map_err(|_| ConfigError::CapabilityRoom { id, bytes })?;
        self.value[self.link] = pointer;
        self.value[STATUS] |= STATUS_CAPABILITIES;
        self.value[offset] = id;
        self.define(offset + 2, body, writable);
        self.link = offset + 1;
        self.end = (offset + bytes).next_multiple_of(4);
        Ok(u16::from(pointer))
    }

    /// Adds a vendor-specific capability (ID 09h): `payload` follows the length byte, which is filled in here.
    pub fn add_vendor_capability(&mut self, payload: &[u8], writable: &[u8]) -> Result<u16, ConfigError> {
        let bytes = payload.len() + 3;
        let length =
            u8::try_from(bytes).map_err(|_| ConfigError::CapabilityRoom { id: CAPABILITY_VENDOR, bytes })?;
        let body: Vec<u8> = std::iter::once(length).chain(payload.iter().copied()).collect();
        let mask: Vec<u8> = std::iter::once(0).chain(writable.iter().copied()).collect();
        self.add_capability(CAPABILITY_VENDOR, &body, &mask)
    }

    /// Adds the PCI Express capability of a root complex integrated endpoint (PCI Express Base 5.0, section 7.5.3):
    /// such a function has no link, and hot-plug and resets need nothing from it.
    pub fn add_express_capability(&mut self) -> Result<u16, ConfigError> {
        let mut body = [0; 0x3c - 2];
        let mut writable = [0; 0x3c - 2];
        body[0] = 0x92; // version 2, root complex integrated endpoint
        body[2..6].copy_from_slice(&(1u32 << 15 | 1 << 5).to_le_bytes()); // role-based errors, extended tags
        // Device control: error reporting, relaxed ordering, payload size, extended tags, no snoop, read request size.
        body[6..8].copy_from_slice(&0x2810u16.to_le_bytes());
        writable[6..8].copy_from_slice(&0x7fffu16.to_le_bytes());
        self.add_capability(CAPABILITY_EXPRESS, &body, &writable)
    }

    /// Adds the MSI-X capability (6.8.2) for `msix`, whose enable and function mask bits are driven by this space from
    /// now on. The function passes accesses to the table and the pending bits on to `msix` itself.
    pub fn add_msix(&mut self, msix: Msix, place: MsixPlace) -> Result<u16, ConfigError> {
        let MsixPlace { bar, table, pending } = place;
        let bytes = self.bar_bytes(bar).ok_or(ConfigError::MsixPlace { bar, offset: table })?;
        for (offset, length) in [(table, msix.table_bytes()), (pending, msix.pending_bytes())] {
            if offset % 8 != 0 || u64::from(offset) + length > bytes {
                return Err(ConfigError::MsixPlace { bar, offset });
            }
        }
        let mut body = [0; 10];
        body[0..2].copy_from_slice(&(msix.vectors() - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..10].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        let offset = self.add_capability(CAPABILITY_MSIX, &body, &[0, 0xc0])?;
        self.msix = Some((usize::from(offset), msix));
        Ok(offset)
    }

    /// The function's MSI-X vectors, if [`ConfigSpace::add_msix`] gave it some.
    pub fn msix(&self) -> Option<&Msix> {
        self.msix.as_ref().map(|(_, msix)| msix)
    }

    /// Reads as the guest does: any offset and length, zero where nothing is.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = self.value.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes as the guest does: any offset and length; bits that are not writable keep their value.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        self.put(usize::from(offset), data);
        if let Some((at, msix)) = &self.msix {
            msix.set_control(self.value[at + 3]);
        }
    }

    fn put(&mut self, offset: usize, data: &[u8]) {
        for (byte, at) in data.iter().zip(offset..BYTES) {
            let mask = self.writable[at];
            self.value[at] = self.value[at] & !mask | byte & mask;
        }
    }

    /// What each BAR decodes now: see [`super::PciFunction::decoded`]. A BAR at address 0, and one whose range would
    /// reach the end of the address space (what sizing leaves in it), decodes nothing.
    pub fn decoded(&self) -> [Option<Range<u64>>; BAR_COUNT] {
        std::array::from_fn(|slot| if self.memory_enabled() { self.bar_range(slot) } else { None })
    }

    fn bar_range(&self, slot: usize) -> Option<Range<u64>> {
        let Bar { width, bytes } = self.bars[slot]?;
        let (length, limit) = match width {
            BarWidth::Bits32 => (4, u64::from(u32::MAX)),
            BarWidth::Bits64 => (8, u64::MAX),
        };
        let mut raw = [0; 8];
        raw[..length].copy_from_slice(&self.value[BAR0 + slot * 4..][..length]);
        let start = u64::from_le_bytes(raw) & !0xf;
        let end = start.checked_add(bytes).filter(|end| *end <= limit)?;
        (start != 0).then_some(start..end)
    }

    /// Whether the guest has enabled memory decoding (command register bit 1).
    pub fn memory_enabled(&self) -> bool {
        self.value[COMMAND] & COMMAND_MEMORY != 0
    }

    /// Whether the guest lets the function access memory (command register bit 2).
    pub fn bus_master_enabled(&self) -> bool {
        self.value[COMMAND] & COMMAND_MASTER != 0
    }

    /// Whether the guest has turned INTx off (command register bit 10).
    pub fn intx_disabled(&self) -> bool {
        self.value[COMMAND + 1] & (1 << 2) != 0
    }

    /// Shows in the status register (bit 3) whether an INTx interrupt is pending.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        self.value[STATUS] =
            self.value[STATUS] & !STATUS_INTERRUPT | if pending { STATUS_INTERRUPT } else { 0 };
    }
}

#[cfg(test)]
#[path = "config_space_tests.rs"]
mod tests;
