//! Page numbers, as the driver sends them.

use std::ops::Range;

use super::PAGE_BYTES;

/// Bytes of a page number (5.5.6: an array of `le32`).
pub(super) const NUMBER_BYTES: u32 = 4;

/// The page numbers in `bytes`; what is left of a number at the end is none.
pub(super) fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> + use<'_> {
    bytes.as_chunks::<{ NUMBER_BYTES as usize }>().0.iter().map(|number| u32::from_le_bytes(*number))
}

/// The pages as few ranges of addresses, ascending: drivers give many pages side by side, in whatever order, and each range
/// costs a system call. `pages` is sorted.
pub(super) fn ranges(pages: &mut [u32]) -> impl Iterator<Item = Range<u64>> + use<'_> {
    pages.sort_unstable();
    let mut rest = &*pages;
    std::iter::from_fn(move || {
        let first = u64::from(*rest.first()?);
        let mut end = first;
        while let [page, tail @ ..] = rest
            && u64::from(*page) <= end
        {
            end = u64::from(*page) + 1;
            rest = tail;
        }
        Some(first * PAGE_BYTES..end * PAGE_BYTES)
    })
}

/// The whole pages in a stretch of `bytes` bytes at `address`; `None` if it has none.
pub(super) fn whole_pages(address: u64, bytes: u32) -> Option<Range<u64>> {
    let start = address.checked_next_multiple_of(PAGE_BYTES)?;
    let end = address.checked_add(bytes.into())?;
    let end = end - end % PAGE_BYTES;
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one_range_in_any_order() {
        let found: Vec<_> = ranges(&mut [9, 3, 2, 4, 3, u32::MAX]).collect();
        let page = |number: u64| number * 4096;
        let last = u64::from(u32::MAX);
        assert_eq!(found, [page(2)..page(5), page(9)..page(10), page(last)..page(last + 1)]);
        assert_eq!(ranges(&mut []).count(), 0);
    }

    #[test]
    fn only_whole_pages_of_a_stretch_count() {
        assert_eq!(whole_pages(0x1000, 0x2000), Some(0x1000..0x3000));
        assert_eq!(whole_pages(0x1001, 0x2000), Some(0x2000..0x3000));
        assert_eq!(whole_pages(0x1001, 0x1fff), Some(0x2000..0x3000));
        assert_eq!(whole_pages(0x1001, 0x1ffe), None);
        assert_eq!(whole_pages(u64::MAX, 1), None);
        assert_eq!(whole_pages(u64::MAX - 4095, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn ranges_are_apart_and_hold_exactly_the_pages(
            mut pages in prop::collection::vec(prop_oneof![0..40u32, any::<u32>(), Just(u32::MAX)], 0..60),
        ) {
            let expected: BTreeSet<u64> = pages.iter().map(|page| u64::from(*page)).collect();
            let mut found = BTreeSet::new();
            let mut last_end = None;
            for range in ranges(&mut pages) {
                prop_assert!(last_end.is_none_or(|end| end < range.start));
                prop_assert!(range.start < range.end && range.start.is_multiple_of(4096));
                last_end = Some(range.end);
                found.extend(range.start / 4096..range.end / 4096);
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn bytes_become_as_many_numbers_as_fit(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let found: Vec<u8> = numbers(&bytes).flat_map(u32::to_le_bytes).collect();
            prop_assert_eq!(found.len(), bytes.len() / 4 * 4);
            prop_assert!(bytes.starts_with(&found));
        }
    }
}
