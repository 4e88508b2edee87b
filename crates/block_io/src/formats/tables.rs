//! Mapping tables, read a page at a time when they are needed.
//!
//! No table is ever held whole: however large an image says that its tables are, memory stays below a constant, and a
//! table that does not lie within its file is refused before. Lock: the pages; never held while the file is read.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::ImageError;
use super::source::SharedSource;

/// Unit in which tables are read, bytes.
const PAGE_BYTES: u64 = 16 << 10;
/// Most pages that an image holds: 8 MiB. Stops tables of terabytes from filling the host's memory.
const MOST_PAGES: usize = 512;

/// Whether a lookup may wait for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Only what is in memory.
    Cached,
    /// Whatever it takes.
    Loading,
}

type PageKey = (usize, u64);

#[derive(Debug, Default)]
struct Pages {
    held: HashMap<PageKey, Arc<[u8]>>,
    /// In the order in which they were loaded: the oldest goes first.
    order: VecDeque<PageKey>,
}

/// The sources of an image, numbered, and the pages of them that are in memory.
#[derive(Debug)]
pub(super) struct Tables {
    sources: Vec<SharedSource>,
    pages: Mutex<Pages>,
}

impl Tables {
    pub(super) fn new(sources: Vec<SharedSource>) -> Self {
        Self { sources, pages: Mutex::default() }
    }

    pub(super) fn sources(&self) -> &[SharedSource] {
        &self.sources
    }

    /// The `N` bytes at `offset`, a multiple of `N`, of a source; `None` if they are not in memory and must not be loaded.
    pub(super) fn entry<const N: usize>(
        &self,
        source: usize,
        offset: u64,
        how: Lookup,
    ) -> Result<Option<[u8; N]>, ImageError> {
        let number = offset / PAGE_BYTES;
        let held = self.pages.lock().held.get(&(source, number)).map(Arc::clone);
        let page = match (held, how) {
            (Some(page), _) => page,
            (None, Lookup::Cached) => return Ok(None),
            (None, Lookup::Loading) => self.load(source, number)?,
        };
        let start = usize::try_from(offset % PAGE_BYTES).unwrap_or(usize::MAX);
        let bytes =
            start.checked_add(N).and_then(|end| page.get(start..end)).and_then(|part| part.try_into().ok());
        let cut = || {
            let bytes = self.sources.get(source).map_or(0, |source| source.bytes());
            ImageError::Cut { what: "a table's entry", offset, bytes }
        };
        bytes.map(Some).ok_or_else(cut)
    }

    fn load(&self, source: usize, number: u64) -> Result<Arc<[u8]>, ImageError> {
        let start = number * PAGE_BYTES;
        let cut = |bytes| ImageError::Cut { what: "a table", offset: start, bytes };
        let from = self.sources.get(source).ok_or_else(|| cut(0))?;
        // An entry's place comes out of the image: the page may lie beyond the file.
        let bytes =
            from.bytes().checked_sub(start).filter(|bytes| *bytes > 0).ok_or_else(|| cut(from.bytes()))?;
        let bytes = bytes.min(PAGE_BYTES);
        let mut page = vec![0; usize::try_from(bytes).unwrap_or(0)];
        from.read_at(&mut page, start).map_err(|source| ImageError::Read { what: "a table", source })?;
        let page: Arc<[u8]> = page.into();
        let mut pages = self.pages.lock();
        if pages.held.insert((source, number), Arc::clone(&page)).is_none() {
            pages.order.push_back((source, number));
        }
        if pages.order.len() > MOST_PAGES
            && let Some(oldest) = pages.order.pop_front()
        {
            pages.held.remove(&oldest);
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_from_memory_once_they_were_loaded_and_memory_is_bounded() {
        let content: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
        let tables = Tables::new(vec![Arc::new(content.clone()), Arc::new(vec![7u8; 100])]);
        assert_eq!(tables.entry::<4>(0, 4, Lookup::Cached).unwrap(), None);
        assert_eq!(tables.entry::<4>(0, 4, Lookup::Loading).unwrap(), Some([4, 5, 6, 7]));
        assert_eq!(tables.entry::<4>(0, 8, Lookup::Cached).unwrap(), Some([8, 9, 10, 11]));
        assert_eq!(tables.entry::<8>(1, 88, Lookup::Loading).unwrap(), Some([7; 8]));
        assert!(tables.entry::<8>(1, 96, Lookup::Loading).is_err(), "ends beyond its file");
        assert!(tables.entry::<8>(1, 1 << 40, Lookup::Loading).is_err());
        assert!(tables.entry::<8>(2, 0, Lookup::Loading).is_err(), "there is no such source");

        let large =
            Tables::new(vec![Arc::new(vec![1u8; usize::try_from(PAGE_BYTES).unwrap() * (MOST_PAGES + 10)])]);
        for page in 0..MOST_PAGES as u64 + 10 {
            large.entry::<4>(0, page * PAGE_BYTES, Lookup::Loading).unwrap();
        }
        let pages = large.pages.lock();
        assert_eq!((pages.held.len(), pages.order.len()), (MOST_PAGES, MOST_PAGES));
    }
}
