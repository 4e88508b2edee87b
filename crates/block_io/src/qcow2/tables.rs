//! The active mapping in memory: the L1 table and a bounded cache of slices of L2 tables.
//!
//! Both are behind one lock (of [`super::image::Image`]) that is held for lookups and changes in memory only, never for
//! I/O, so that a device's thread can look a mapping up without waiting for the disk.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{Entry, Layout};

/// A piece of an L2 table.
#[derive(Debug)]
pub(super) struct Slice {
    words: Box<[u64]>,
    dirty: bool,
    last_used: AtomicU64,
}

impl Slice {
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect();
        Self { words, dirty: false, last_used: AtomicU64::new(0) }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    pub(super) fn entry(&self, layout: Layout, index: usize) -> Entry {
        let at = index * layout.entry_words();
        let bitmap = if layout.extended { self.words[at + 1] } else { 0 };
        Entry { descriptor: self.words[at], bitmap }
    }

    fn set(&mut self, layout: Layout, index: usize, entry: Entry) {
        let at = index * layout.entry_words();
        self.words[at] = entry.descriptor;
        if layout.extended {
            self.words[at + 1] = entry.bitmap;
        }
        self.dirty = true;
    }
}

/// The mapping in memory.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) layout: Layout,
    /// Places of L2 tables, with the flag for "ours alone", as on disk.
    pub(super) l1: Vec<u64>,
    slices: HashMap<u64, Slice>,
    clock: AtomicU64,
    most_slices: usize,
}

/// Slices that are kept however small the limit: a request and its copy-on-write need a few at a time.
const LEAST_SLICES: usize = 16;

impl Tables {
    /// `cache_bytes` bounds the slices; the L1 table is bounded by the header's check.
    pub(super) fn new(layout: Layout, l1: Vec<u64>, cache_bytes: u64) -> Self {
        let most = usize::try_from(cache_bytes / layout.slice_bytes()).unwrap_or(usize::MAX);
        Self {
            layout,
            l1,
            slices: HashMap::new(),
            clock: AtomicU64::new(0),
            most_slices: most.max(LEAST_SLICES),
        }
    }

    pub(super) fn slice(&self, number: u64) -> Option<&Slice> {
        let slice = self.slices.get(&number)?;
        slice.last_used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(slice)
    }

    /// Whether another slice fits, if need be in place of one that is clean. Where not, everything has to be flushed first.
    pub(super) fn has_room(&self) -> bool {
        self.slices.len() < self.most_slices || self.slices.values().any(|slice| !slice.dirty)
    }

    /// Adds a slice; the clean one that was not used for longest goes when there are too many.
    pub(super) fn insert(&mut self, number: u64, slice: Slice) {
        if self.slices.len() >= self.most_slices {
            let oldest = self
                .slices
                .iter()
                .filter(|(_, slice)| !slice.dirty)
                .min_by_key(|(_, slice)| slice.last_used.load(Ordering::Relaxed))
                .map(|(number, _)| *number);
            if let Some(oldest) = oldest {
                self.slices.remove(&oldest);
            }
        }
        slice.last_used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.slices.insert(number, slice);
    }

    /// Changes the entry of a guest offset. Its slice must be in the cache; returns whether it is.
    pub(super) fn set(&mut self, guest: u64, entry: Entry) -> bool {
        let (layout, number) = (self.layout, self.layout.slice_of(guest));
        let Some(slice) = self.slices.get_mut(&number) else { return false };
        slice.set(layout, layout.entry_in_slice(guest), entry);
        true
    }

    /// The entry of a guest offset, if its slice is in the cache.
    pub(super) fn entry(&self, guest: u64) -> Option<Entry> {
        let slice = self.slice(self.layout.slice_of(guest))?;
        Some(slice.entry(self.layout, self.layout.entry_in_slice(guest)))
    }

    /// What has to be written: numbers and content of dirty slices.
    pub(super) fn dirty(&self) -> Vec<(u64, Vec<u8>)> {
        let mut dirty: Vec<_> = self
            .slices
            .iter()
            .filter(|(_, slice)| slice.dirty)
            .map(|(n, slice)| (*n, slice.to_bytes()))
            .collect();
        dirty.sort_unstable_by_key(|(number, _)| *number);
        dirty
    }

    /// What was dirty has been written. Nothing may have been changed meanwhile.
    pub(super) fn all_clean(&mut self) {
        for slice in self.slices.values_mut() {
            slice.dirty = false;
        }
    }

    #[cfg(test)]
    pub(super) fn cached_slices(&self) -> usize {
        self.slices.len()
    }
}
