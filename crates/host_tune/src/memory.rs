//! Memory, NUMA cells and pages of each size.
//!
//! Sources: proc(5) (/proc/meminfo), Documentation/ABI/stable/sysfs-devices-node and Documentation/admin-guide/mm/hugetlbpage.rst of
//! Linux.

use std::collections::BTreeMap;

use crate::{Host, HostError, number_list};

/// Pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagePool {
    /// Size of a page, KiB.
    pub kib: u32,
    /// How many there are. Of the smallest size: all memory that is not in pools of larger ones.
    pub total: u64,
    /// How many nobody uses.
    pub free: u64,
}

/// Memory of the host or of a cell, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// All of it.
    pub total: u64,
    /// What holds nothing.
    pub free: u64,
    /// What programs can have without anybody being swapped out; only known of the whole host.
    pub available: Option<u64>,
    /// Buffers of block devices; only known of the whole host.
    pub buffers: Option<u64>,
    /// Files.
    pub cached: Option<u64>,
}

/// A NUMA cell: processors and the memory that is near to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The kernel's number for it.
    pub id: u32,
    /// Its processors that are online.
    pub processors: Vec<u32>,
    /// Its memory.
    pub memory: MemoryStatistics,
    /// Its pages, the smallest size first.
    pub pages: Vec<PagePool>,
    /// Each cell, and how far away its memory is (10: the own), as the firmware says.
    pub distances: Vec<(u32, u32)>,
}

const NODES: &str = "sys/devices/system/node";

/// The smallest page of x86-64, KiB.
const SMALLEST_PAGE: u32 = 4;

impl Host {
    /// Memory of the whole host.
    pub fn memory(&self) -> Result<MemoryStatistics, HostError> {
        self.statistics("proc/meminfo", "")
    }

    /// All cells, by number; one with everything on a host without NUMA.
    pub fn cells(&self) -> Result<Vec<Cell>, HostError> {
        let numbers = self.numbered(NODES, "node", "")?;
        if numbers.is_empty() {
            let processors = self.processors()?.into_iter().filter(|processor| processor.online);
            let memory = self.memory()?;
            let pages = self.pages("sys/kernel/mm/hugepages", &memory)?;
            let processors = processors.map(|processor| processor.id).collect();
            return Ok(vec![Cell { id: 0, processors, memory, pages, distances: vec![(0, 10)] }]);
        }
        numbers.iter().map(|id| self.cell(*id, &numbers)).collect()
    }

    fn cell(&self, id: u32, all: &[u32]) -> Result<Cell, HostError> {
        let memory = self.statistics(&format!("{NODES}/node{id}/meminfo"), &format!("Node {id} "))?;
        let pages = self.pages(&format!("{NODES}/node{id}/hugepages"), &memory)?;
        let distances = self.read_if_there(&format!("{NODES}/node{id}/distance"))?.unwrap_or_default();
        let distances = distances.split_whitespace().map_while(|distance| distance.parse().ok());
        let distances = all.iter().copied().zip(distances).collect();
        Ok(Cell { id, processors: self.processors_of_cell(id)?, memory, pages, distances })
    }

    fn processors_of_cell(&self, id: u32) -> Result<Vec<u32>, HostError> {
        let path = format!("{NODES}/node{id}/cpulist");
        let text = self.read_if_there(&path)?.unwrap_or_default();
        number_list(&text).ok_or_else(|| self.senseless(&path, format!("{:?} is not a list", text.trim())))
    }

    /// The cell of each processor that is online; nothing on a host without NUMA.
    pub(crate) fn cell_of_processors(&self) -> Result<BTreeMap<u32, u32>, HostError> {
        let mut cells = BTreeMap::new();
        for cell in self.numbered(NODES, "node", "")? {
            cells.extend(self.processors_of_cell(cell)?.into_iter().map(|processor| (processor, cell)));
        }
        Ok(cells)
    }

    /// Reads a file whose lines are `PREFIXName: number kB`.
    fn statistics(&self, path: &str, prefix: &str) -> Result<MemoryStatistics, HostError> {
        let text = self.read(path)?;
        let optional = |name: &str| -> Option<u64> {
            let mut fields =
                text.lines().filter_map(|line| line.trim().strip_prefix(prefix)?.split_once(':'));
            fields.find(|(found, _)| *found == name)?.1.trim().split(' ').next()?.parse().ok()
        };
        let required = |name: &str| {
            optional(name).ok_or_else(|| self.senseless(path, format!("there is no number {name:?}")))
        };
        Ok(MemoryStatistics {
            total: required("MemTotal")?,
            free: required("MemFree")?,
            available: optional("MemAvailable"),
            buffers: optional("Buffers"),
            cached: optional("Cached").or_else(|| optional("FilePages")),
        })
    }

    fn pages(&self, directory: &str, memory: &MemoryStatistics) -> Result<Vec<PagePool>, HostError> {
        let mut pools = Vec::new();
        let mut pooled: u64 = 0;
        for kib in self.numbered(directory, "hugepages-", "kB")? {
            let number = |name: &str| self.number_if_there(&format!("{directory}/hugepages-{kib}kB/{name}"));
            let total = number("nr_hugepages")?.unwrap_or_default();
            pools.push(PagePool { kib, total, free: number("free_hugepages")?.unwrap_or_default() });
            pooled = pooled.saturating_add(total.saturating_mul(kib.into()));
        }
        let smallest = u64::from(SMALLEST_PAGE);
        let total = memory.total.saturating_sub(pooled) / smallest;
        pools.insert(0, PagePool { kib: SMALLEST_PAGE, total, free: memory.free / smallest });
        Ok(pools)
    }
}
