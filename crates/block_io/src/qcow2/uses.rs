//! How often each cluster of a file is used, as a check counts it. A sparse file may have very many clusters of which nobody
//! speaks: only pages of counts that are not all zero take memory.

/// Counts of a page: 16 KiB.
const PAGE: usize = 4096;

/// The counts.
#[derive(Debug)]
pub(super) struct Uses {
    pages: Vec<Option<Box<[u32; PAGE]>>>,
    clusters: u64,
}

impl Uses {
    /// All zero, for a file of this many clusters.
    pub(super) fn new(clusters: u64) -> Self {
        let pages = usize::try_from(clusters.div_ceil(PAGE as u64)).unwrap_or(0);
        Self { pages: std::iter::repeat_with(|| None).take(pages).collect(), clusters }
    }

    /// Clusters of the file.
    pub(super) fn clusters(&self) -> u64 {
        self.clusters
    }

    fn place(cluster: u64) -> (usize, usize) {
        let cluster = usize::try_from(cluster).unwrap_or(usize::MAX);
        (cluster / PAGE, cluster % PAGE)
    }

    /// Counts more uses of a cluster. False if the file does not have it.
    pub(super) fn add(&mut self, cluster: u64, times: u32) -> bool {
        if cluster >= self.clusters {
            return false;
        }
        let (page, within) = Self::place(cluster);
        let Some(page) = self.pages.get_mut(page) else { return false };
        let page = page.get_or_insert_with(|| Box::new([0; PAGE]));
        page[within] = page[within].saturating_add(times);
        true
    }

    /// Uses of a cluster.
    pub(super) fn get(&self, cluster: u64) -> u32 {
        let (page, within) = Self::place(cluster);
        self.pages.get(page).and_then(Option::as_ref).map_or(0, |page| page[within])
    }

    /// The first cluster behind `cluster` that may be used, if this one is on a page that is not.
    pub(super) fn behind_unused(&self, cluster: u64) -> Option<u64> {
        let (page, _) = Self::place(cluster);
        let unused = self.pages.get(page).is_none_or(Option::is_none);
        unused.then_some((page as u64 + 1) * PAGE as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_and_pages_without_any_are_skipped() {
        let mut uses = Uses::new(3 * PAGE as u64 + 1);
        assert!(uses.add(5, 1) && uses.add(5, 2) && uses.add(3 * PAGE as u64, 7));
        assert!(!uses.add(3 * PAGE as u64 + 1, 1), "beyond the file");
        assert_eq!((uses.get(5), uses.get(6), uses.get(3 * PAGE as u64), uses.get(u64::MAX)), (3, 0, 7, 0));
        assert_eq!(uses.behind_unused(6), None);
        assert_eq!(uses.behind_unused(PAGE as u64 + 3), Some(2 * PAGE as u64));
        uses.add(5, u32::MAX);
        assert_eq!(uses.get(5), u32::MAX);
    }
}
