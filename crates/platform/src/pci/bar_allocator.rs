//! Addresses for BARs, where no firmware hands them out.
//!
//! Two windows of guest-physical addresses: one below 4 GiB for 32-bit BARs, one above for 64-bit ones. Every address is
//! a multiple of the size asked for, as decoding requires (PCI Local Bus 3.0, section 6.2.5.1). Freed ranges are used
//! again, so plugging and unplugging for ever does not run out.

use std::collections::BTreeMap;
use std::ops::Range;

use super::config_space::BarWidth;

/// No free range is large enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no room for {bytes:#x} bytes of device memory in the window {window:#x?}")]
pub struct NoRoom {
    /// The size asked for.
    pub bytes: u64,
    /// The window that is full.
    pub window: Range<u64>,
}

/// Hands out addresses for memory BARs.
#[derive(Debug)]
pub struct BarAllocator {
    low: Window,
    high: Window,
}

#[derive(Debug)]
struct Window {
    range: Range<u64>,
    taken: BTreeMap<u64, u64>,
}

impl BarAllocator {
    /// Hands out addresses of `low` (below 4 GiB) to 32-bit BARs and of `high` to 64-bit BARs.
    pub fn new(low: Range<u64>, high: Range<u64>) -> Self {
        let window = |range| Window { range, taken: BTreeMap::new() };
        Self { low: window(low), high: window(high) }
    }

    fn window(&mut self, width: BarWidth) -> &mut Window {
        match width {
            BarWidth::Bits32 => &mut self.low,
            BarWidth::Bits64 => &mut self.high,
        }
    }

    /// The lowest free range of `bytes` (a power of two) for a BAR of `width`.
    pub fn allocate(&mut self, width: BarWidth, bytes: u64) -> Result<Range<u64>, NoRoom> {
        self.window(width).allocate(bytes)
    }

    /// Gives back the range that starts at `start`. Harmless when it was not taken.
    pub fn free(&mut self, start: u64) {
        self.low.taken.remove(&start);
        self.high.taken.remove(&start);
    }
}

impl Window {
    fn allocate(&mut self, bytes: u64) -> Result<Range<u64>, NoRoom> {
        let refusal = || NoRoom { bytes, window: self.range.clone() };
        if !bytes.is_power_of_two() {
            return Err(refusal());
        }
        let ends = self.taken.iter().map(|(start, end)| (*start, *end));
        let mut free_from = self.range.start;
        for (taken_start, taken_end) in ends.chain([(self.range.end, self.range.end)]) {
            let start = free_from.checked_next_multiple_of(bytes).ok_or_else(refusal)?;
            let end = start.checked_add(bytes).ok_or_else(refusal)?;
            if end <= taken_start {
                self.taken.insert(start, end);
                return Ok(start..end);
            }
            free_from = taken_end;
        }
        Err(refusal())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allocator() -> BarAllocator {
        BarAllocator::new(0xc000_0800..0xc001_0000, 0x80_0000_0000..0x80_0010_0000)
    }

    #[test]
    fn addresses_are_aligned_and_inside_the_window_of_their_width() {
        let mut allocator = allocator();
        assert_eq!(allocator.allocate(BarWidth::Bits32, 0x1000), Ok(0xc000_1000..0xc000_2000));
        assert_eq!(allocator.allocate(BarWidth::Bits32, 0x800), Ok(0xc000_0800..0xc000_1000));
        assert_eq!(allocator.allocate(BarWidth::Bits64, 0x4000), Ok(0x80_0000_0000..0x80_0000_4000));
    }

    #[test]
    fn a_full_window_is_an_error_until_something_is_freed() {
        let mut allocator = allocator();
        let first = allocator.allocate(BarWidth::Bits32, 0x8000).unwrap();
        let refusal = allocator.allocate(BarWidth::Bits32, 0x8000).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "no room for 0x8000 bytes of device memory in the window 0xc0000800..0xc0010000"
        );
        allocator.free(first.start);
        assert_eq!(allocator.allocate(BarWidth::Bits32, 0x8000), Ok(first));
        for bytes in [0, 3, 1 << 63] {
            assert!(allocator.allocate(BarWidth::Bits64, bytes).is_err());
        }
    }

    proptest! {
        #[test]
        fn ranges_never_overlap(steps in proptest::collection::vec((0u32..20, any::<bool>()), 1..60)) {
            let mut allocator = allocator();
            let mut live: Vec<Range<u64>> = Vec::new();
            for (shift, free) in steps {
                if free && !live.is_empty() {
                    allocator.free(live.swap_remove(shift as usize % live.len()).start);
                } else if let Ok(new) = allocator.allocate(BarWidth::Bits64, 1 << shift) {
                    prop_assert_eq!(new.start % (1 << shift), 0);
                    prop_assert!(new.start >= 0x80_0000_0000 && new.end <= 0x80_0010_0000);
                    prop_assert!(live.iter().all(|old| old.end <= new.start || new.end <= old.start));
                    live.push(new);
                }
            }
        }
    }
}
