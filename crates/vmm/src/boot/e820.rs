//! The memory map that a guest is told (ACPI 6.5, section 15.1, whose types Linux's zero page and PVH's start info share).

use std::ops::Range;

use crate::layout::{
    BIOS_AREA, CONVENTIONAL_MEMORY_END, ECAM, HYPERVISOR_PAGES, LOW_RAM_LIMIT, MemoryLayout, PCI_WINDOW_32,
};

/// What a range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// Usable RAM.
    Ram = 1,
    /// Not to be touched without a driver.
    Reserved = 2,
}

/// One entry of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEntry {
    /// Guest-physical addresses.
    pub range: Range<u64>,
    /// What is there.
    pub kind: RangeKind,
}

impl MapEntry {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The most entries that [`memory_map`] returns.
pub const MAXIMUM_ENTRIES: usize = 6;

/// The memory map of a machine, ascending. ECAM is reserved because Linux uses configuration space early only if it is,
/// the legacy BIOS area because the ACPI tables are in it.
pub fn memory_map(layout: &MemoryLayout) -> Vec<MapEntry> {
    // RAM never reaches into the window, so the ranges below stay in order.
    const { assert!(LOW_RAM_LIMIT <= PCI_WINDOW_32.start) };
    let ram = |range| MapEntry { range, kind: RangeKind::Ram };
    let reserved = |range| MapEntry { range, kind: RangeKind::Reserved };
    let mut map = Vec::with_capacity(MAXIMUM_ENTRIES);
    map.push(ram(0..CONVENTIONAL_MEMORY_END));
    map.push(reserved(BIOS_AREA));
    map.push(ram(BIOS_AREA.end..layout.low_ram().end));
    map.push(reserved(ECAM));
    map.push(reserved(HYPERVISOR_PAGES));
    map.extend(layout.high_ram().map(ram));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_ascends_without_overlap_and_has_all_ram_but_the_legacy_hole() {
        for bytes in [64 << 20, 2 << 30, 5 << 30] {
            let map = memory_map(&MemoryLayout::new(bytes, 40).unwrap());
            assert!(map.len() <= MAXIMUM_ENTRIES);
            assert!(map.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
            let ram: u64 =
                map.iter().filter(|entry| entry.kind == RangeKind::Ram).map(MapEntry::length).sum();
            assert_eq!(ram, bytes - (0x10_0000 - 0xa_0000));
        }
    }

    #[test]
    fn ecam_and_the_tables_are_reserved() {
        let map = memory_map(&MemoryLayout::new(64 << 20, 40).unwrap());
        for range in [ECAM, BIOS_AREA] {
            assert!(map.contains(&MapEntry { range, kind: RangeKind::Reserved }));
        }
    }
}
