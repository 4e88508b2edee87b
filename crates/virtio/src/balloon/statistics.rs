//! What the driver tells about the guest's memory (5.5.6.3).

use std::time::Instant;

/// Names of the figures, by tag (5.5.6.4). Swapped in and out, and the four kinds of memory, are in bytes; the others count
/// events.
pub const STATISTICS: [&str; 10] = [
    "swap_in",
    "swap_out",
    "major_faults",
    "minor_faults",
    "free_memory",
    "total_memory",
    "available_memory",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
];

/// Bytes of a figure: a tag of 16 bits and a value of 64, packed.
const ENTRY_BYTES: usize = 10;
/// The longest buffer that is looked at. Linux sends up to 16 figures; room for more that are to come.
pub(super) const MAX_BYTES: usize = 64 * ENTRY_BYTES;

/// Figures of the guest, as its driver told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    values: [Option<u64>; STATISTICS.len()],
    /// When they arrived.
    pub arrived: Instant,
}

impl Statistics {
    /// What is in a buffer of the driver; of a figure that is there twice the last counts, an unknown one is passed over.
    pub(super) fn parse(bytes: &[u8], arrived: Instant) -> Self {
        let mut values = [None; STATISTICS.len()];
        for [t0, t1, value @ ..] in bytes.as_chunks::<ENTRY_BYTES>().0 {
            if let Some(slot) = values.get_mut(usize::from(u16::from_le_bytes([*t0, *t1]))) {
                *slot = Some(u64::from_le_bytes(*value));
            }
        }
        Self { values, arrived }
    }

    /// The figures that were told, by name (see [`STATISTICS`]).
    pub fn figures(&self) -> impl Iterator<Item = (&'static str, u64)> + use<'_> {
        STATISTICS.into_iter().zip(self.values).filter_map(|(name, value)| Some((name, value?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Vec<(&'static str, u64)> {
        Statistics::parse(bytes, Instant::now()).figures().collect()
    }

    fn entry(tag: u16, value: u64) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn figures_are_told_apart_by_tag_and_unknown_ones_passed_over() {
        let bytes = [entry(5, 1 << 40), entry(10, 3), entry(0xffff, 4), entry(0, 7), vec![4, 0, 1]].concat();
        assert_eq!(parse(&bytes), [("swap_in", 7), ("total_memory", 1 << 40)]);
        assert_eq!(parse(&[entry(4, 1), entry(4, 2)].concat()), [("free_memory", 2)]);
        assert_eq!(parse(&[]), []);
    }

    proptest! {
        #[test]
        fn any_bytes_give_at_most_every_figure_once(bytes in prop::collection::vec(0..12u8, 0..MAX_BYTES)) {
            let figures = parse(&bytes);
            prop_assert!(figures.len() <= STATISTICS.len().min(bytes.len() / ENTRY_BYTES));
        }
    }
}
