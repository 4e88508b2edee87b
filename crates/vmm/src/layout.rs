//! The guest's physical address map, as one pure value.
//!
//! The map has the shape of the Q35 chipset's (Intel document 316966, section 9 "System Address Map"), because firmware
//! and guests know it: RAM from zero, a window for 32-bit PCI memory from 2 GiB, PCIe configuration space (ECAM) at
//! E000_0000h, interrupt controllers at FEC0_0000h and FEE0_0000h, firmware below 4 GiB, the rest of RAM from 4 GiB and
//! a window for 64-bit PCI memory above everything.
//!
//! Nothing is trusted: size and width of the address space come from the operator and the host, and what does not fit
//! is refused with numbers.

use std::ops::Range;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Guest RAM is sized in multiples of this many bytes, so that each region can be made of huge pages.
pub const MEMORY_GRANULE: u64 = 2 * MIB;
/// The smallest guest, in bytes.
pub const MINIMUM_MEMORY: u64 = 64 * MIB;
/// RAM below 4 GiB ends here at the latest.
pub const LOW_RAM_LIMIT: u64 = 2 * GIB;
/// RAM goes on here.
pub const HIGH_RAM_START: u64 = 4 * GIB;

/// End of conventional memory: the legacy video hole begins here (IBM PC/AT).
pub const CONVENTIONAL_MEMORY_END: u64 = 0xa_0000;
/// Where the legacy area below 1 MiB that holds firmware tables begins; ACPI tables live in `BIOS_AREA`.
pub const BIOS_AREA: Range<u64> = 0xe_0000..0x10_0000;

/// Window for PCI memory that 32-bit base address registers reach.
pub const PCI_WINDOW_32: Range<u64> = 0x8000_0000..0xe000_0000;
/// PCIe enhanced configuration space (PCI Express Base Specification 3.0, section 7.2.2): 1 MiB a bus.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;
/// The last bus of MCFG and of the host bridge's `_CRS`. Everything sits on bus 0, and Linux looks at every device of every bus
/// that is announced (`pcibios_fixup_peer_bridges`): with all 256 that ECAM's window has room for, nine of ten exits of a
/// boot were that.
pub const PCI_LAST_BUS: u8 = 0;
/// The I/O APIC's registers.
pub const IO_APIC: Range<u64> = 0xfec0_0000..0xfec0_1000;
/// The local APICs' registers, seen by each vCPU as its own.
pub const LOCAL_APIC: Range<u64> = 0xfee0_0000..0xfee0_1000;
/// Four pages that the hypervisor may need inside the guest's address space to run real mode on processors which
/// cannot (one identity page table and a task state segment of three pages).
pub const HYPERVISOR_PAGES: Range<u64> = 0xfeff_c000..0xff00_0000;
/// Flash of the firmware: it ends at 4 GiB, where a processor starts.
pub const FIRMWARE: Range<u64> = 0xff00_0000..0x1_0000_0000;

/// The 64-bit PCI window is at most this long, whatever the guest could address: enough for the largest accelerators
/// without spreading the guest's page tables.
const PCI_WINDOW_64_LIMIT: u64 = 1024 * GIB;
/// ... and never shorter than this.
const PCI_WINDOW_64_MINIMUM: u64 = GIB;
/// x86-64 defines no physical address wider than this (Intel SDM volume 1, section 3.3).
const PHYSICAL_ADDRESS_BITS_LIMIT: u8 = 52;
/// With fewer bits the window above 4 GiB would have no place.
const PHYSICAL_ADDRESS_BITS_MINIMUM: u8 = 33;

/// Why there is no map for a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not a multiple of [`MEMORY_GRANULE`].
    #[error("guest memory of {0} bytes is not a multiple of 2 MiB")]
    Misaligned(u64),
    /// Less than [`MINIMUM_MEMORY`].
    #[error("guest memory of {} MiB is too small: give it at least 64 MiB", .0 >> 20)]
    TooSmall(u64),
    /// RAM and the 64-bit PCI window do not fit below the guest's highest physical address.
    #[error(
        "guest memory of {} MiB does not fit into physical addresses of {bits} bits: give it at most {} MiB on this host",
        .bytes >> 20, .most >> 20
    )]
    TooLarge {
        /// What was asked for, in bytes.
        bytes: u64,
        /// Width of the guest's physical addresses.
        bits: u8,
        /// The most that fits, in bytes.
        most: u64,
    },
    /// The address width is none that an x86-64 processor has and the map can use.
    #[error("physical addresses of {0} bits cannot hold a machine: between 33 and 52 bits are needed")]
    AddressWidth(u8),
}

/// Where RAM and the PCI windows of one machine are. Everything else is at the fixed places of this module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLayout {
    memory_bytes: u64,
    pci_window_64: Range<u64>,
}

impl MemoryLayout {
    /// The map of a machine with `memory_bytes` of RAM whose vCPUs have physical addresses of `physical_address_bits`
    /// (CPUID leaf 8000_0008h, EAX bits 7:0, as the guest sees it).
    pub fn new(memory_bytes: u64, physical_address_bits: u8) -> Result<Self, LayoutError> {
        if !memory_bytes.is_multiple_of(MEMORY_GRANULE) {
            return Err(LayoutError::Misaligned(memory_bytes));
        }
        if memory_bytes < MINIMUM_MEMORY {
            return Err(LayoutError::TooSmall(memory_bytes));
        }
        if !(PHYSICAL_ADDRESS_BITS_MINIMUM..=PHYSICAL_ADDRESS_BITS_LIMIT).contains(&physical_address_bits) {
            return Err(LayoutError::AddressWidth(physical_address_bits));
        }
        let address_end = 1u64 << physical_address_bits;
        let high_ram = memory_bytes.saturating_sub(LOW_RAM_LIMIT);
        let pci_window_64 = HIGH_RAM_START
            .checked_add(high_ram)
            .and_then(|ram_end| pci_window_above(ram_end, address_end))
            .ok_or(LayoutError::TooLarge {
                bytes: memory_bytes,
                bits: physical_address_bits,
                // RAM may go up to where the smallest window still fits, less what the hole below 4 GiB takes.
                most: address_end - PCI_WINDOW_64_MINIMUM - HIGH_RAM_START + LOW_RAM_LIMIT,
            })?;
        Ok(Self { memory_bytes, pci_window_64 })
    }

    /// Size of RAM in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// RAM from address zero; the legacy area from 640 KiB to 1 MiB is RAM too, but [`crate::boot::e820`] hides it.
    pub fn low_ram(&self) -> Range<u64> {
        0..self.memory_bytes.min(LOW_RAM_LIMIT)
    }

    /// RAM above 4 GiB, if there is any.
    pub fn high_ram(&self) -> Option<Range<u64>> {
        let bytes = self.memory_bytes.saturating_sub(LOW_RAM_LIMIT);
        (bytes > 0).then(|| HIGH_RAM_START..HIGH_RAM_START + bytes)
    }

    /// Every range of RAM, in ascending order: one memory slot each.
    pub fn ram(&self) -> impl Iterator<Item = Range<u64>> {
        std::iter::once(self.low_ram()).chain(self.high_ram())
    }

    /// Window for PCI memory that only 64-bit base address registers reach; a power of two long and aligned to its length.
    pub fn pci_window_64(&self) -> Range<u64> {
        self.pci_window_64.clone()
    }
}

/// The longest window above `ram_end` and below `address_end` that is aligned to its own length.
fn pci_window_above(ram_end: u64, address_end: u64) -> Option<Range<u64>> {
    let mut length = PCI_WINDOW_64_LIMIT.min(address_end / 4);
    while length >= PCI_WINDOW_64_MINIMUM {
        let start = ram_end.checked_next_multiple_of(length)?;
        let end = start.checked_add(length)?;
        if end <= address_end {
            return Some(start..end);
        }
        length /= 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that answers in the guest's physical address space.
    fn ranges(layout: &MemoryLayout) -> Vec<Range<u64>> {
        let fixed = [PCI_WINDOW_32, ECAM, IO_APIC, LOCAL_APIC, HYPERVISOR_PAGES, FIRMWARE];
        layout.ram().chain(fixed).chain([layout.pci_window_64()]).collect()
    }

    fn assert_sound(layout: &MemoryLayout, bytes: u64, bits: u8) {
        assert_eq!(layout.ram().map(|range| range.end - range.start).sum::<u64>(), bytes);
        let mut ranges = ranges(layout);
        ranges.sort_by_key(|range| range.start);
        for range in &ranges {
            assert!(range.start < range.end, "{range:#x?} is empty");
        }
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{:#x?} overlaps {:#x?}", pair[0], pair[1]);
        }
        assert!(ranges.iter().all(|range| range.end <= 1 << bits));
        let window = layout.pci_window_64();
        let length = window.end - window.start;
        assert!(length.is_power_of_two() && window.start.is_multiple_of(length) && length >= GIB);
        assert!(layout.ram().all(|range| range.start.is_multiple_of(MEMORY_GRANULE)));
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_ram_adds_up(
            granules in MINIMUM_MEMORY / MEMORY_GRANULE..(4u64 << 40) / MEMORY_GRANULE,
            bits in 43u8..=52,
        ) {
            let bytes = granules * MEMORY_GRANULE;
            assert_sound(&MemoryLayout::new(bytes, bits).unwrap(), bytes, bits);
        }

        #[test]
        fn any_size_and_width_gives_a_sound_map_or_an_error(granules in any::<u64>(), bits in any::<u8>()) {
            let bytes = granules.wrapping_mul(MEMORY_GRANULE);
            if let Ok(layout) = MemoryLayout::new(bytes, bits) {
                assert_sound(&layout, bytes, bits);
            }
        }

        #[test]
        fn the_size_that_an_error_names_fits_and_more_does_not(bits in 34u8..=52) {
            let Err(LayoutError::TooLarge { most, .. }) = MemoryLayout::new(1 << 62, bits) else {
                panic!("4 EiB fit into {bits} bits");
            };
            assert_sound(&MemoryLayout::new(most, bits).unwrap(), most, bits);
            prop_assert!(MemoryLayout::new(most + MEMORY_GRANULE, bits).is_err());
        }
    }

    #[test]
    fn ram_up_to_two_gib_is_one_range_and_more_goes_above_four() {
        let small = MemoryLayout::new(2 * GIB, 40).unwrap();
        assert_eq!((small.low_ram(), small.high_ram()), (0..2 * GIB, None));
        let large = MemoryLayout::new(2 * GIB + 2 * MIB, 40).unwrap();
        assert_eq!(large.ram().collect::<Vec<_>>(), [0..2 * GIB, 4 * GIB..4 * GIB + 2 * MIB]);
    }

    #[test]
    fn sizes_and_widths_that_make_no_machine_are_refused() {
        assert_eq!(MemoryLayout::new(64 * MIB + 1, 40), Err(LayoutError::Misaligned(64 * MIB + 1)));
        assert_eq!(MemoryLayout::new(62 * MIB, 40), Err(LayoutError::TooSmall(62 * MIB)));
        assert_eq!(MemoryLayout::new(0, 40), Err(LayoutError::TooSmall(0)));
        assert_eq!(MemoryLayout::new(64 * MIB, 32), Err(LayoutError::AddressWidth(32)));
        assert_eq!(MemoryLayout::new(64 * MIB, 53), Err(LayoutError::AddressWidth(53)));
        assert!(matches!(MemoryLayout::new(64 * GIB, 36), Err(LayoutError::TooLarge { .. })));
    }
}
