//! A file as it will be when its log has been written back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::formats::source::{ImageSource, SharedSource, fits};

/// Unit of the log's changes, bytes.
pub(super) const SECTOR_BYTES: u64 = 4096;

/// What a log changes, and the size that it gives the file. Later changes win.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Sectors by their offset: new content, or `None` where a later range of zeroes covers it.
    sectors: BTreeMap<u64, Box<[u8; 4096]>>,
    /// Ranges of zeroes, disjoint: start and end, bytes.
    zeroes: BTreeMap<u64, u64>,
    /// Size of the file, bytes.
    pub(super) bytes: u64,
}

impl Changes {
    /// A sector's new content. `offset` is a multiple of 4096.
    pub(super) fn write(&mut self, offset: u64, content: Box<[u8; 4096]>) {
        // Sectors are looked at before zeroes, and a range of zeroes takes the sectors away that it covers.
        self.sectors.insert(offset, content);
    }

    /// Zeroes from `start` to `end`, multiples of 4096.
    pub(super) fn zero(&mut self, mut start: u64, mut end: u64) {
        let covered: Vec<u64> = self.sectors.range(start..end).map(|(offset, _)| *offset).collect();
        for offset in covered {
            self.sectors.remove(&offset);
        }
        // Join with what it touches, so that there are never more ranges than descriptors.
        while let Some((first, last)) =
            self.zeroes.range(..=end).next_back().map(|(first, last)| (*first, *last))
            && last >= start
        {
            self.zeroes.remove(&first);
            start = start.min(first);
            end = end.max(last);
        }
        self.zeroes.insert(start, end);
    }

    fn touch(&self, start: u64, end: u64) -> bool {
        let sector = start - start % SECTOR_BYTES;
        self.sectors.range(sector..end).next().is_some()
            || self.zeroes.range(..end).next_back().is_some_and(|(_, last)| *last > start)
    }

    /// Changes a part of a sector that was read from the file.
    fn apply(&self, sector: u64, within: usize, part: &mut [u8]) {
        if let Some(content) = self.sectors.get(&sector) {
            if let Some(new) = content.get(within..within + part.len()) {
                part.copy_from_slice(new);
            }
        } else if self.zeroes.range(..=sector).next_back().is_some_and(|(_, end)| *end > sector) {
            part.fill(0);
        }
    }
}

/// A source with changes over it.
#[derive(Debug)]
pub(super) struct Overlay {
    inner: SharedSource,
    changes: Changes,
}

impl Overlay {
    pub(super) fn new(inner: SharedSource, changes: Changes) -> Self {
        Self { inner, changes }
    }
}

impl ImageSource for Overlay {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if !fits(offset, buffer.len() as u64, self.bytes()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What the log makes the file longer by reads as zeroes.
        let held = usize::try_from(self.inner.bytes().saturating_sub(offset)).unwrap_or(usize::MAX);
        let (inside, beyond) = buffer.split_at_mut(held.min(buffer.len()));
        if !inside.is_empty() {
            self.inner.read_at(inside, offset)?;
        }
        beyond.fill(0);
        if !self.changes.touch(offset, offset + buffer.len() as u64) {
            return Ok(());
        }
        let mut rest = buffer;
        let mut at = offset;
        while !rest.is_empty() {
            let within = usize::try_from(at % SECTOR_BYTES).unwrap_or(0);
            let length = rest.len().min(4096 - within);
            let (part, next) = rest.split_at_mut(length);
            self.changes.apply(at - within as u64, within, part);
            rest = next;
            at += length as u64;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.inner.bytes().max(self.changes.bytes)
    }

    fn host(&self) -> Option<(Arc<File>, u64)> {
        self.inner.host()
    }

    fn is_plain(&self, offset: u64, bytes: u64) -> bool {
        fits(offset, bytes, self.inner.bytes())
            && self.inner.is_plain(offset, bytes)
            && !self.changes.touch(offset, offset + bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn changes_read_as_if_they_had_been_made(
            steps in proptest::collection::vec((0u64..32, 0u64..8, 1u8..), 0..40),
            reads in proptest::collection::vec((0u64..40 * 4096, 0usize..20000), 1..20),
        ) {
            let content = vec![0xaau8; 24 * 4096];
            let mut model = content.clone();
            model.resize(40 * 4096, 0);
            let mut changes = Changes { bytes: 40 * 4096, ..Changes::default() };
            for (sector, zeroes, value) in steps {
                let start = sector * 4096;
                let from = usize::try_from(start).unwrap();
                if zeroes == 0 {
                    changes.write(start, Box::new([value; 4096]));
                    model[from..from + 4096].fill(value);
                } else {
                    changes.zero(start, start + zeroes * 4096);
                    model[from..from + usize::try_from(zeroes).unwrap() * 4096].fill(0);
                }
            }
            let overlay = Overlay::new(Arc::new(content.clone()), changes);
            for (offset, length) in reads {
                let mut buffer = vec![0x55; length];
                let from = usize::try_from(offset).unwrap();
                let expected = model.get(from..from + length);
                prop_assert_eq!(overlay.read_at(&mut buffer, offset).is_ok(), expected.is_some());
                if let Some(expected) = expected {
                    prop_assert!(buffer == expected, "at {offset}+{length}");
                    if overlay.is_plain(offset, length as u64) && length > 0 {
                        prop_assert!(content.get(from..from + length) == Some(expected), "plain at {offset}+{length}");
                    }
                }
            }
        }
    }
}
