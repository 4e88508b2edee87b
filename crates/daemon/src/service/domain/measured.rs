//! What one running machine has used.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use libvirt_rpc::RpcError;
use libvirt_rpc::limits::{CPUMAPS_MAX, VCPUINFO_MAX};
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{DomainMemoryStat, RemoteDomain, VcpuInfo};
use libvirt_rpc::xdr::Opaque;

use super::information::summary;
use super::pins::{bits, map_length};
use super::{domain_error, not_running, only, usage};
use crate::domain::Domain;
use crate::machine_process::confinement::ConfinementError;
use crate::machine_process::threads::ProcessThreads;
use crate::machine_process::usage::{BalloonUsage, DeviceUsage, DiskUsage, ProcessUsage};
use crate::service::{Daemon, asked, count, host_error};

/// How long a machine's process may take to say what its devices have done. It only reads numbers.
const PATIENCE: Duration = Duration::from_secs(5);

/// VIR_TYPED_PARAM_STRING_OKAY.
const STRINGS: u32 = 4;

/// virDomainMemoryStatTags: what the balloon leaves, and what is in the host's memory.
const ACTUAL_BALLOON: i32 = 6;
const RESIDENT: i32 = 7;

/// "All processors together".
const TOTAL: i32 = -1;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(vcpus)
        .on(cpu_statistics)
        .on(memory_statistics)
        .on(block_statistics)
        .on(block_statistics_of)
        .on(interface_statistics)
}

/// What the host has counted of a machine. Blocks.
pub(super) fn process_usage(domain: &Domain) -> Result<ProcessUsage, ConfinementError> {
    let Some(live) = domain.live() else { return Err(ConfinementError::Ended) };
    ProcessUsage::read(live.machine.process().identity().pid, live.machine.confinement())
}

/// The one way from faults of reading to libvirt's errors.
fn unread(error: &ConfinementError) -> RpcError {
    if error.is_end() { not_running() } else { RpcError::system(error.to_string()) }
}

/// What the host has counted of a machine that a client means.
pub(super) async fn counted(domain: &Arc<Domain>) -> Result<ProcessUsage, RpcError> {
    let domain = Arc::clone(domain);
    let read = tokio::task::spawn_blocking(move || process_usage(&domain)).await;
    let read = read.map_err(|error| RpcError::internal(format!("looking at the process ended: {error}")))?;
    read.map_err(|error| unread(&error))
}

/// Each vCPU, its time, its processor, and where it may run.
async fn vcpus(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetVcpus,
) -> Result<DomainGetVcpusReply, RpcError> {
    let (most, length) = (asked(call.maxinfo)?, map_length(call.maplen)?);
    let domain = daemon.domain(&call.dom)?;
    if !domain.is_active() {
        return Err(RpcError::invalid_operation("cannot retrieve vcpu information for inactive domain"));
    }
    let most = most.min(VCPUINFO_MAX);
    if most.saturating_mul(length) > CPUMAPS_MAX {
        return Err(RpcError::invalid_argument("more CPU maps than an answer has room for"));
    }
    let usage = counted(&domain).await?;
    let vcpus: Vec<_> = usage.vcpus.into_iter().take(most).collect();
    let info = vcpus.iter().map(|(number, usage)| VcpuInfo {
        number: *number,
        state: usage::VCPU_RUNNING,
        cpu_time: usage::nanoseconds(usage.time),
        cpu: i32::try_from(usage.processor).unwrap_or(-1),
    });
    let info = info.collect();
    let all = daemon.all_places()?;
    let mut cpumaps = Vec::new();
    if length > 0
        && let Some(live) = domain.live()
    {
        let threads = ProcessThreads::of(live.machine.process().identity().pid);
        let ids = threads.vcpus().map_err(|error| unread(&error.into()))?;
        for (number, _) in &vcpus {
            let id = ids.iter().find(|(of, _)| of == number).map(|(_, id)| *id);
            let places = id.and_then(|id| threads.places(id).ok()).unwrap_or_else(|| all.clone());
            // The kernel's mask has bits of processors that could be there.
            let places = places.iter().filter(|place| all.contains(*place)).collect();
            cpumaps.extend(bits(&places, length));
        }
    }
    Ok(DomainGetVcpusReply { info, cpumaps: Opaque(cpumaps) })
}

/// Time on processors. Nobody counts it by processor since cgroup v2, so that list has no parameters, which clients know how
/// to tell.
async fn cpu_statistics(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetCpuStats,
) -> Result<DomainGetCpuStatsReply, RpcError> {
    only(call.flags, STRINGS)?;
    if call.start_cpu < TOTAL || (call.start_cpu == TOTAL && call.ncpus != 1) {
        return Err(RpcError::invalid_argument("all processors together are number -1, and one"));
    }
    let domain = daemon.running_domain(&call.dom)?;
    if call.start_cpu != TOTAL {
        // How many processors there are, or how many parameters each of them has.
        let nparams = if call.ncpus == 0 { count(daemon.processors()?.len()) } else { 0 };
        return Ok(DomainGetCpuStatsReply { params: Vec::new(), nparams });
    }
    let params = usage::total(&counted(&domain).await?.all);
    let nparams = count(params.len());
    if call.nparams == 0 {
        return Ok(DomainGetCpuStatsReply { params: Vec::new(), nparams });
    }
    let most = usize::try_from(call.nparams).unwrap_or(usize::MAX);
    let params: Vec<_> = params.into_iter().take(most).collect();
    Ok(DomainGetCpuStatsReply { nparams: count(params.len()), params })
}

async fn memory_statistics(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainMemoryStats,
) -> Result<DomainMemoryStatsReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.running_domain(&call.dom)?;
    let live = domain.running().map_err(|error| domain_error(&error))?;
    let mut stats = Vec::new();
    if summary(&domain)?.balloon {
        // A machine that does not answer is shown as it was seen.
        let devices = DeviceUsage::ask(&live.machine.control(), PATIENCE).await;
        let balloon = devices.as_ref().and_then(DeviceUsage::balloon);
        stats.push((ACTUAL_BALLOON, memory_left(&domain, balloon.as_ref())?));
        let told = balloon.iter().flat_map(|balloon| usage::guest_memory(balloon, SystemTime::now()));
        stats.extend(told.map(|(tag, _, value)| (tag, value)));
    }
    stats.push((RESIDENT, counted(&domain).await?.resident / 1024));
    let stats = stats.into_iter().map(|(tag, val)| DomainMemoryStat { tag, val });
    let most = usize::try_from(call.max_stats).unwrap_or(usize::MAX);
    Ok(DomainMemoryStatsReply { stats: stats.take(most).collect() })
}

/// The memory that a domain's guest has, KiB: as its balloon says now, else as it was told last.
pub(super) fn memory_left(domain: &Domain, balloon: Option<&BalloonUsage<'_>>) -> Result<u64, RpcError> {
    match balloon.and_then(BalloonUsage::actual_bytes) {
        Some(bytes) => Ok(summary(domain)?.left_by(bytes / 1024)),
        None => domain.current_memory().map_err(|error| domain_error(&error)),
    }
}

impl Daemon {
    /// What a disk of a running machine has done, or all of them together when none is named.
    async fn disk_usage(&self, domain: &RemoteDomain, name: &str) -> Result<DiskUsage, RpcError> {
        let domain = self.running_domain(domain)?;
        let live = domain.running().map_err(|error| domain_error(&error))?;
        let summary = summary(&domain)?;
        let disks = if name.is_empty() {
            summary.disks.iter().collect()
        } else {
            let disk = summary.disk(name);
            vec![disk.ok_or_else(|| RpcError::invalid_argument(format!("invalid path: {name}")))?]
        };
        let devices = DeviceUsage::ask(&live.machine.control(), PATIENCE).await;
        let devices = devices.ok_or_else(|| {
            RpcError::operation_failed("the machine's process does not say what its disks have done")
        })?;
        // A drive without medium is no device of the machine.
        Ok(disks
            .into_iter()
            .filter_map(|disk| devices.disk(&disk.target))
            .fold(DiskUsage::default(), DiskUsage::with))
    }
}

async fn block_statistics(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainBlockStats,
) -> Result<DomainBlockStatsReply, RpcError> {
    let usage = daemon.disk_usage(&call.dom, &call.path).await?;
    Ok(DomainBlockStatsReply {
        rd_req: usage::signed(usage.reads),
        rd_bytes: usage::signed(usage.read_bytes),
        wr_req: usage::signed(usage.writes),
        wr_bytes: usage::signed(usage.write_bytes),
        errs: usage::signed(usage.errors),
    })
}

async fn block_statistics_of(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainBlockStatsFlags,
) -> Result<DomainBlockStatsFlagsReply, RpcError> {
    only(call.flags, STRINGS)?;
    let most = asked(call.nparams)?;
    let params = usage::disk_parameters(&daemon.disk_usage(&call.dom, &call.path).await?);
    let nparams = count(params.len());
    Ok(DomainBlockStatsFlagsReply { params: params.into_iter().take(most).collect(), nparams })
}

async fn interface_statistics(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainInterfaceStats,
) -> Result<DomainInterfaceStatsReply, RpcError> {
    let domain = daemon.running_domain(&call.dom)?;
    let unknown = || RpcError::invalid_argument(format!("'{}' is not a known interface", call.device));
    let interface = summary(&domain)?.interface(&call.device).ok_or_else(unknown)?;
    let target = interface.target.as_deref().ok_or_else(unknown)?;
    let usage = daemon.host.interface_statistics(target).map_err(|error| host_error(&error))?;
    let gone = || RpcError::internal(format!("the host has no interface '{target}'"));
    let usage = interface.of_guest(usage.ok_or_else(gone)?);
    Ok(DomainInterfaceStatsReply {
        rx_bytes: usage::signed(usage.rx_bytes),
        rx_packets: usage::signed(usage.rx_packets),
        rx_errs: usage::signed(usage.rx_errors),
        rx_drop: usage::signed(usage.rx_dropped),
        tx_bytes: usage::signed(usage.tx_bytes),
        tx_packets: usage::signed(usage.tx_packets),
        tx_errs: usage::signed(usage.tx_errors),
        tx_drop: usage::signed(usage.tx_dropped),
    })
}
