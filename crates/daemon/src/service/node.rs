//! Procedures about the host: processors, memory, cells.

use std::collections::BTreeSet;
use std::sync::Arc;

use host_tune::{Cell, Processor};
use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{ModelName, NodeCpuStatistic, NodeMemoryStatistic};
use libvirt_rpc::xdr::Opaque;
use libvirt_xml::Element;

use super::{Daemon, asked, count, host_error};

/// "All processors" (VIR_NODE_CPU_STATS_ALL_CPUS) and "all cells" (VIR_NODE_MEMORY_STATS_ALL_CELLS).
const ALL: i32 = -1;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(information)
        .on(processor_map)
        .on(processor_statistics)
        .on(memory_statistics)
        .on(free_memory)
        .on(free_memory_of_cells)
        .on(free_pages)
        .on(system_information)
}

impl Daemon {
    pub(super) fn processors(&self) -> Result<Vec<Processor>, RpcError> {
        self.host.processors().map_err(|error| host_error(&error))
    }

    pub(super) fn cells(&self) -> Result<Vec<Cell>, RpcError> {
        self.host.cells().map_err(|error| host_error(&error))
    }
}

async fn information(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: NodeGetInfo,
) -> Result<NodeGetInfoReply, RpcError> {
    let processors = daemon.processors()?;
    let online: Vec<&Processor> = processors.iter().filter(|processor| processor.online).collect();
    let cells: BTreeSet<u32> = online.iter().map(|processor| processor.cell).collect();
    let per_cell = |parts: BTreeSet<(u32, u32)>| {
        let most = cells.iter().map(|cell| parts.iter().filter(|(of, _)| of == cell).count()).max();
        most.unwrap_or(1).max(1)
    };
    let sockets = per_cell(online.iter().map(|processor| (processor.cell, processor.socket)).collect());
    let cores: BTreeSet<_> =
        online.iter().map(|processor| (processor.socket, processor.die, processor.core)).collect();
    let all_sockets: BTreeSet<u32> = online.iter().map(|processor| processor.socket).collect();
    let cores = cores.len().div_ceil(all_sockets.len().max(1)).max(1);
    let threads = online.iter().map(|processor| processor.siblings.len()).max().unwrap_or(1).max(1);
    let (_, megahertz) = daemon.host.processor_model().map_err(|error| host_error(&error))?;
    let memory = daemon.host.memory().map_err(|error| host_error(&error))?;
    // Clients multiply the four for the number of processors that there could be (virNodeInfo, VIR_NODEINFO_MAXCPUS): when the
    // host is not that regular, libvirt says so by one cell with one socket and all as cores.
    let (nodes, sockets, cores, threads) = if cells.len() * sockets * cores * threads == processors.len() {
        (cells.len(), sockets, cores, threads)
    } else {
        (1, 1, processors.len(), 1)
    };
    Ok(NodeGetInfoReply {
        model: ModelName::new(std::env::consts::ARCH),
        memory: memory.total,
        cpus: count(online.len()),
        mhz: i32::try_from(megahertz).unwrap_or(i32::MAX),
        nodes: count(nodes),
        sockets: count(sockets),
        cores: count(cores),
        threads: count(threads),
    })
}

async fn processor_map(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NodeGetCpuMap,
) -> Result<NodeGetCpuMapReply, RpcError> {
    let processors = daemon.processors()?;
    let length = processors.last().map_or(0, |last| last.id as usize + 1);
    let mut map = vec![0; length.div_ceil(8)];
    for processor in processors.iter().filter(|processor| processor.online) {
        map[processor.id as usize / 8] |= 1 << (processor.id % 8);
    }
    let online = processors.iter().filter(|processor| processor.online).count();
    Ok(NodeGetCpuMapReply {
        cpumap: Opaque(if call.need_map == 0 { Vec::new() } else { map }),
        online: if call.need_online == 0 { 0 } else { u32::try_from(online).unwrap_or(u32::MAX) },
        ret: count(length),
    })
}

async fn processor_statistics(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NodeGetCpuStats,
) -> Result<NodeGetCpuStatsReply, RpcError> {
    let processor = match call.cpu_num {
        ALL => None,
        number => {
            let wrong = || RpcError::invalid_argument(format!("this host has no processor {number}"));
            Some(u32::try_from(number).map_err(|_| wrong())?)
        }
    };
    let times = daemon.host.cpu_times(processor).map_err(|error| host_error(&error))?;
    let fields =
        [("kernel", times.kernel), ("user", times.user), ("idle", times.idle), ("iowait", times.iowait)];
    let nparams = count(fields.len());
    if call.nparams == 0 {
        return Ok(NodeGetCpuStatsReply { params: Vec::new(), nparams });
    }
    let statistic = |(field, time): (&str, std::time::Duration)| NodeCpuStatistic {
        field: field.into(),
        value: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
    };
    let params = fields.into_iter().map(statistic).take(asked(call.nparams)?).collect();
    Ok(NodeGetCpuStatsReply { params, nparams })
}

async fn memory_statistics(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NodeGetMemoryStats,
) -> Result<NodeGetMemoryStatsReply, RpcError> {
    let memory = match call.cell_num {
        ALL => daemon.host.memory().map_err(|error| host_error(&error))?,
        number => {
            let cells = daemon.cells()?;
            let cell = cells.iter().find(|cell| i32::try_from(cell.id) == Ok(number));
            let unknown = || RpcError::invalid_argument(format!("this host has no cell {number}"));
            cell.ok_or_else(unknown)?.memory
        }
    };
    let fields = [
        ("total", Some(memory.total)),
        ("free", Some(memory.free)),
        ("buffers", memory.buffers),
        ("cached", memory.cached.filter(|_| call.cell_num == ALL)),
    ];
    let params: Vec<NodeMemoryStatistic> = fields
        .into_iter()
        .filter_map(|(field, value)| Some(NodeMemoryStatistic { field: field.into(), value: value? }))
        .collect();
    let nparams = count(params.len());
    let params = params.into_iter().take(asked(call.nparams)?).collect();
    Ok(NodeGetMemoryStatsReply { params, nparams })
}

async fn free_memory(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: NodeGetFreeMemory,
) -> Result<NodeGetFreeMemoryReply, RpcError> {
    let memory = daemon.host.memory().map_err(|error| host_error(&error))?;
    Ok(NodeGetFreeMemoryReply { free_mem: memory.free.saturating_mul(1024) })
}

impl Daemon {
    /// At most `most` cells from `first` on.
    fn cells_from(&self, first: i32, most: usize) -> Result<Vec<Cell>, RpcError> {
        let cells = self.cells()?;
        let last = cells.last().map_or(0, |cell| cell.id);
        let from = u32::try_from(first).ok().filter(|first| *first <= last);
        let from =
            from.ok_or_else(|| RpcError::internal(format!("start cell {first} out of range (0-{last})")))?;
        Ok(cells.into_iter().filter(|cell| cell.id >= from).take(most).collect())
    }
}

async fn free_memory_of_cells(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NodeGetCellsFreeMemory,
) -> Result<NodeGetCellsFreeMemoryReply, RpcError> {
    let cells = daemon.cells_from(call.start_cell, asked(call.maxcells)?)?;
    let cells = cells.into_iter().map(|cell| cell.memory.free.saturating_mul(1024)).collect();
    Ok(NodeGetCellsFreeMemoryReply { cells })
}

async fn free_pages(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NodeGetFreePages,
) -> Result<NodeGetFreePagesReply, RpcError> {
    let most = usize::try_from(call.cell_count).unwrap_or(usize::MAX);
    let mut counts = Vec::new();
    for cell in daemon.cells_from(call.start_cell, most)? {
        for size in &call.pages {
            let pool = cell.pages.iter().find(|pool| pool.kib == *size);
            let unknown = || {
                RpcError::operation_failed(format!("page size {size} is not available on node {}", cell.id))
            };
            counts.push(pool.ok_or_else(unknown)?.free);
        }
    }
    Ok(NodeGetFreePagesReply { counts })
}

async fn system_information(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectGetSysInfo,
) -> Result<ConnectGetSysInfoReply, RpcError> {
    if call.flags != 0 {
        return Err(RpcError::invalid_argument(format!("unsupported flags (0x{:x})", call.flags)));
    }
    let tables = daemon.host.smbios().map_err(|error| host_error(&error))?;
    if tables.is_empty() {
        return Err(RpcError::unsupported_configuration(
            "Host SMBIOS information is not available: the firmware says nothing",
        ));
    }
    let mut root = Element::new("sysinfo").with("type", "smbios");
    for table in tables {
        let mut element = Element::new(table.name);
        for (name, content) in table.strings {
            element.push(Element::new("entry").with("name", name).text(content));
        }
        root.push(element);
    }
    Ok(ConnectGetSysInfoReply { sysinfo: root.to_string() })
}
