//! Pages that the guest gives back to the host.
//!
//! Memory of small pages is given back as it comes. Of huge pages the host can have whole ones only, so it is noted which parts
//! of each the balloon holds, one bit for 4 KiB: at most a 32768th of the guest's memory. A huge page goes back to the host's
//! pool when the balloon holds all of it, and the guest depends on the pool to have one when it takes a part out again, as it
//! does under other hypervisors. Pages that are only reported free stay, because the guest uses them without a word.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use virtio::balloon::{HostPages, PAGE_BYTES};
use virtio::device::GuestMemory;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::madvise;

/// Guest memory, as a balloon gives it back.
#[derive(Debug)]
pub(crate) struct ReturnedPages {
    memory: Arc<GuestMemory>,
    /// Of memory that is made of huge pages.
    huge: Option<HugePages>,
}

#[derive(Debug)]
struct HugePages {
    bytes: u64,
    /// Huge pages of which the balloon holds a part, by number. Held while a page is given back, by the balloon's worker only.
    held: Mutex<BTreeMap<u64, Parts>>,
}

/// Which parts of a huge page the balloon holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    bits: Box<[u64]>,
    count: u64,
}

impl ReturnedPages {
    pub(crate) fn new(memory: Arc<GuestMemory>, huge_page_bytes: Option<u64>) -> Self {
        let huge = huge_page_bytes.map(|bytes| HugePages { bytes, held: Mutex::default() });
        Self { memory, huge }
    }

    /// Gives whole pages of the host back, region by region.
    fn discard(&self, pages: &Range<u64>) -> io::Result<()> {
        for region in self.memory.iter() {
            let start = region.start_addr().0;
            let from = pages.start.max(start);
            let to = pages.end.min(start.saturating_add(region.len()));
            if from >= to {
                continue;
            }
            let advice = if region.file_offset().is_some() { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
            let offset = |address: u64| usize::try_from(address - start).map_err(io::Error::other);
            madvise(region, offset(from)?..offset(to)?, advice)?;
        }
        Ok(())
    }
}

impl HugePages {
    /// The huge pages in a range, each with the part of the range that is in it, counted in small pages from its start.
    fn parts(&self, pages: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let bytes = self.bytes;
        (pages.start / bytes..pages.end.div_ceil(bytes)).map(move |number| {
            let start = number * bytes;
            let from = pages.start.max(start) - start;
            let to = pages.end.min(start + bytes) - start;
            (number, from / PAGE_BYTES..to / PAGE_BYTES)
        })
    }

    /// Notes that the balloon holds `pages`; the huge pages that it holds wholly by that.
    fn hold(&self, pages: Range<u64>) -> Vec<Range<u64>> {
        let count = self.bytes / PAGE_BYTES;
        let mut held = self.held.lock();
        let mut whole = Vec::new();
        for (number, parts) in self.parts(pages) {
            let entry = held.entry(number).or_insert_with(|| Parts::none(count));
            if entry.set(parts) && entry.count == count {
                whole.push(number * self.bytes..(number + 1) * self.bytes);
            }
        }
        whole
    }

    fn release(&self, pages: Range<u64>) {
        let mut held = self.held.lock();
        for (number, parts) in self.parts(pages) {
            if let Some(entry) = held.get_mut(&number) {
                entry.clear(parts);
                if entry.count == 0 {
                    held.remove(&number);
                }
            }
        }
    }
}

impl Parts {
    fn none(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        Self { bits: vec![0; words].into(), count: 0 }
    }

    /// The word and the bit of a small page.
    fn bit(&mut self, page: u64) -> Option<(&mut u64, u64)> {
        let word = usize::try_from(page / 64).ok()?;
        Some((self.bits.get_mut(word)?, 1 << (page % 64)))
    }

    /// Whether any of `pages` was not set.
    fn set(&mut self, pages: Range<u64>) -> bool {
        let before = self.count;
        for page in pages {
            if let Some((word, bit)) = self.bit(page)
                && *word & bit == 0
            {
                *word |= bit;
                self.count += 1;
            }
        }
        self.count != before
    }

    fn clear(&mut self, pages: Range<u64>) {
        for page in pages {
            if let Some((word, bit)) = self.bit(page)
                && *word & bit != 0
            {
                *word &= !bit;
                self.count -= 1;
            }
        }
    }
}

impl HostPages for ReturnedPages {
    fn give_back(&self, pages: Range<u64>) -> io::Result<()> {
        match &self.huge {
            None => self.discard(&pages),
            Some(huge) => huge.hold(pages).iter().try_for_each(|page| self.discard(page)),
        }
    }

    fn take_again(&self, pages: Range<u64>) {
        if let Some(huge) = &self.huge {
            huge.release(pages);
        }
    }

    fn give_back_free(&self, pages: Range<u64>) -> io::Result<()> {
        match &self.huge {
            None => self.discard(&pages),
            Some(_) => Ok(()),
        }
    }

    fn take_all_again(&self) {
        if let Some(huge) = &self.huge {
            huge.held.lock().clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Two regions side by side, then a hole, then one more; private or of a file.
    fn memory(shared: bool) -> Arc<GuestMemory> {
        let file = || {
            let file = super::super::memory_file(rustix::fs::MemfdFlags::empty(), 2 * MIB).unwrap();
            shared.then(|| vm_memory::FileOffset::from_arc(file, 0))
        };
        let bytes = usize::try_from(2 * MIB).unwrap();
        let regions = [0, 2 * MIB, 8 * MIB].map(|start| (GuestAddress(start), bytes, file()));
        Arc::new(GuestMemoryMmap::from_ranges_with_files(regions).unwrap())
    }

    fn resident(memory: &GuestMemory, page: u64) -> bool {
        let mut byte = [0];
        memory.read_slice(&mut byte, GuestAddress(page)).unwrap();
        byte[0] != 0
    }

    #[test]
    fn what_is_given_back_is_gone_and_its_neighbours_are_not() {
        for shared in [false, true] {
            let memory = memory(shared);
            let pages: Vec<u64> =
                [0..4 * MIB, 8 * MIB..10 * MIB].into_iter().flat_map(|r| r.step_by(4096)).collect();
            for page in &pages {
                memory.write_slice(&[1], GuestAddress(*page)).unwrap();
            }
            let returned = ReturnedPages::new(Arc::clone(&memory), None);
            // From one region into the next, the end of all, and a single page.
            let gone = [2 * MIB - 8192..2 * MIB + 4096, 10 * MIB - 4096..10 * MIB, 4096..8192];
            returned.give_back(gone[0].clone()).unwrap();
            returned.give_back(gone[1].clone()).unwrap();
            returned.give_back_free(gone[2].clone()).unwrap();
            for page in &pages {
                let kept = !gone.iter().any(|range| range.contains(page));
                assert_eq!(resident(&memory, *page), kept, "{page:#x}, shared: {shared}");
            }
        }
    }

    #[test]
    fn a_huge_page_is_given_back_when_the_balloon_holds_all_of_it_and_only_then() {
        let huge = HugePages { bytes: 2 * MIB, held: Mutex::default() };
        assert_eq!(huge.hold(0..2 * MIB - 4096), []);
        assert_eq!(huge.hold(0..4096), [], "twice is once");
        assert_eq!(huge.hold(2 * MIB - 4096..4 * MIB), [0..2 * MIB, 2 * MIB..4 * MIB]);
        assert_eq!(huge.hold(0..2 * MIB), [], "it is gone already");
        huge.release(4096..8192);
        assert_eq!(huge.hold(4096..8192), std::slice::from_ref(&(0..2 * MIB)));
        huge.release(0..4 * MIB);
        assert!(huge.held.lock().is_empty());
    }

    #[test]
    fn of_huge_pages_nothing_is_given_back_that_is_only_reported() {
        let memory = memory(false);
        memory.write_slice(&[1], GuestAddress(0)).unwrap();
        let returned = ReturnedPages::new(Arc::clone(&memory), Some(2 * MIB));
        returned.give_back_free(0..2 * MIB).unwrap();
        returned.give_back(0..2 * MIB - 4096).unwrap();
        assert!(resident(&memory, 0));
        returned.take_all_again();
        returned.give_back(2 * MIB - 4096..2 * MIB).unwrap();
        assert!(resident(&memory, 0));
        returned.give_back(0..2 * MIB).unwrap();
        assert!(!resident(&memory, 0));
    }

    proptest! {
        #[test]
        fn huge_pages_are_given_back_as_sets_of_pages_say(
            steps in prop::collection::vec((any::<bool>(), 0u64..48, 1u64..20), 1..60),
        ) {
            // Huge pages of 16 small ones, as a model with a set.
            let huge = HugePages { bytes: 16 * PAGE_BYTES, held: Mutex::default() };
            let mut model = std::collections::BTreeSet::new();
            for (inflate, start, length) in steps {
                let pages = start..start + length;
                let range = pages.start * PAGE_BYTES..pages.end * PAGE_BYTES;
                let full = |model: &std::collections::BTreeSet<u64>, number: u64| {
                    (16 * number..16 * number + 16).all(|page| model.contains(&page))
                };
                if inflate {
                    let before = model.clone();
                    model.extend(pages);
                    let expected: Vec<_> = (0..8)
                        .filter(|number| full(&model, *number) && !full(&before, *number))
                        .map(|number| number * 16 * PAGE_BYTES..(number + 1) * 16 * PAGE_BYTES)
                        .collect();
                    prop_assert_eq!(huge.hold(range), expected);
                } else {
                    pages.for_each(|page| { model.remove(&page); });
                    huge.release(range);
                }
                let held: u64 = huge.held.lock().values().map(|parts| parts.count).sum();
                prop_assert_eq!(held, model.len() as u64);
            }
        }
    }
}
