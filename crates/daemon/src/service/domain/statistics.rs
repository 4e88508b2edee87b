//! Statistics of all domains at once.
//!
//! Of a domain that does not run, libvirt shows its state, what its balloon and vCPUs are defined as, and its disks with the
//! sizes of their images; of one that runs, what it has used as well. All machines are asked at the same time, and one that does
//! not answer is shown without what only it knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use host_tune::Host;
use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{DomainStatsRecord, TypedParam, TypedValue};
use libvirt_xml::Uuid;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::information::{image_sizes, summary};
use super::list::{FILTERS, wanted};
use super::measured::{memory_left, process_usage};
use super::{only, remote, usage};
use crate::domain::{Domain, Summary};
use crate::machine_process::usage::DeviceUsage;
use crate::service::Daemon;

// virDomainStatsTypes.
const STATE: u32 = 1;
const CPU: u32 = 2;
const BALLOON: u32 = 4;
const VCPU: u32 = 8;
const INTERFACE: u32 = 16;
const BLOCK: u32 = 32;
/// All of them up to VM.
const KINDS: u32 = (1 << 11) - 1;

/// virConnectGetAllDomainStatsFlags: do not wait, list images below others, refuse unknown kinds.
const NOWAIT: u32 = 1 << 29;
const BACKING: u32 = 1 << 30;
const ENFORCE: u32 = 1 << 31;

/// How long all machines together may take to say what their devices have done.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same for clients that do not want to wait: what a machine needs that has nothing else to do.
const SHORT_PATIENCE: Duration = Duration::from_millis(100);
/// Machines that are asked at the same time; each takes a descriptor.
const MOST_ASKED: usize = 256;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(all)
}

async fn all(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectGetAllDomainStats,
) -> Result<ConnectGetAllDomainStatsReply, RpcError> {
    only(call.flags, FILTERS | NOWAIT | BACKING | ENFORCE)?;
    if call.flags & ENFORCE != 0 && call.stats & !KINDS != 0 {
        let unknown = call.stats & !KINDS;
        return Err(RpcError::unsupported_argument(format!(
            "Stats types bits 0x{unknown:x} are not supported by this daemon"
        )));
    }
    let kinds = if call.stats == 0 { KINDS } else { call.stats };
    let domains = if call.doms.is_empty() {
        daemon.domains.all()
    } else {
        call.doms.iter().map(|domain| daemon.domain(domain)).collect::<Result<_, _>>()?
    };
    let domains: Vec<_> = domains.into_iter().filter(|domain| wanted(domain, call.flags)).collect();
    let devices = if kinds & (BLOCK | BALLOON) == 0 {
        HashMap::new()
    } else {
        let patience = if call.flags & NOWAIT == 0 { PATIENCE } else { SHORT_PATIENCE };
        device_usage(&domains, patience).await
    };
    let host = daemon.host.clone();
    // Images may lie on disks that are slow.
    let records = tokio::task::spawn_blocking(move || {
        let record = |domain: &Arc<Domain>| record(&host, domain, kinds, devices.get(&domain.uuid()));
        domains.iter().map(record).collect::<Result<_, _>>()
    });
    let ret_stats =
        records.await.map_err(|error| RpcError::internal(format!("collecting ended: {error}")))??;
    Ok(ConnectGetAllDomainStatsReply { ret_stats })
}

/// What the devices of all machines that answer in time have done.
async fn device_usage(domains: &[Arc<Domain>], patience: Duration) -> HashMap<Uuid, DeviceUsage> {
    let until = tokio::time::Instant::now() + patience;
    let places = Arc::new(Semaphore::new(MOST_ASKED));
    let mut answers = JoinSet::new();
    for domain in domains {
        let Some(live) = domain.live() else { continue };
        let (control, places, uuid) = (live.machine.control(), Arc::clone(&places), domain.uuid());
        answers.spawn(async move {
            let _place = tokio::time::timeout_at(until, places.acquire_owned()).await.ok()?.ok()?;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            Some((uuid, DeviceUsage::ask(&control, left).await?))
        });
    }
    answers.join_all().await.into_iter().flatten().collect()
}

/// Blocks.
fn record(
    host: &Host,
    domain: &Domain,
    kinds: u32,
    devices: Option<&DeviceUsage>,
) -> Result<DomainStatsRecord, RpcError> {
    let mut params = Vec::new();
    let mut add = |name: &str, value| params.push(TypedParam::new(name, value));
    if kinds & STATE != 0 {
        let status = domain.status();
        add("state.state", TypedValue::Int(status.state.into()));
        add("state.reason", TypedValue::Int(status.reason));
    }
    let summary = summary(domain)?;
    // A process that has just ended is shown without.
    let used = if kinds & (CPU | BALLOON | VCPU) == 0 { None } else { process_usage(domain).ok() };
    if let Some(used) = used.as_ref().filter(|_| kinds & CPU != 0) {
        usage::processors(&used.all, &mut params);
    }
    let mut add = |name: &str, value| params.push(TypedParam::new(name, value));
    if kinds & BALLOON != 0 {
        let balloon = devices.and_then(DeviceUsage::balloon);
        add("balloon.current", TypedValue::ULLong(memory_left(domain, balloon.as_ref())?));
        add("balloon.maximum", TypedValue::ULLong(summary.memory));
        for (_, name, value) in
            balloon.iter().flat_map(|balloon| usage::guest_memory(balloon, SystemTime::now()))
        {
            add(&format!("balloon.{name}"), TypedValue::ULLong(value));
        }
        if let Some(used) = &used {
            add("balloon.rss", TypedValue::ULLong(used.resident / 1024));
        }
    }
    if kinds & VCPU != 0 {
        add("vcpu.current", TypedValue::UInt(summary.vcpus));
        add("vcpu.maximum", TypedValue::UInt(summary.max_vcpus));
        if let Some(used) = &used {
            usage::vcpus(used, &mut params);
        }
    }
    if kinds & INTERFACE != 0 && domain.is_active() {
        interfaces(host, summary, &mut params);
    }
    if kinds & BLOCK != 0 {
        blocks(summary, devices, &mut params);
    }
    Ok(DomainStatsRecord { dom: remote(domain), params })
}

fn number(count: usize) -> TypedValue {
    TypedValue::UInt(u32::try_from(count).unwrap_or(u32::MAX))
}

fn interfaces(host: &Host, summary: &Summary, params: &mut Vec<TypedParam>) {
    params.push(TypedParam::new("net.count", number(summary.interfaces.len())));
    for (at, interface) in summary.interfaces.iter().enumerate() {
        let Some(target) = &interface.target else { continue };
        params.push(TypedParam::new(format!("net.{at}.name"), TypedValue::String(target.clone())));
        // One that is gone is no fault of the others.
        if let Ok(Some(seen)) = host.interface_statistics(target) {
            usage::interface(at, &interface.of_guest(seen), params);
        }
    }
}

fn blocks(summary: &Summary, devices: Option<&DeviceUsage>, params: &mut Vec<TypedParam>) {
    params.push(TypedParam::new("block.count", number(summary.disks.len())));
    for (at, disk) in summary.disks.iter().enumerate() {
        let name = |name: &str| format!("block.{at}.{name}");
        params.push(TypedParam::new(name("name"), TypedValue::String(disk.target.clone())));
        if let Some(path) = &disk.path {
            params.push(TypedParam::new(name("path"), TypedValue::String(path.clone())));
        }
        if let Some(done) = devices.and_then(|devices| devices.disk(&disk.target)) {
            usage::disk(at, &done, params);
        }
        // An image that is not there now is no fault of the others.
        if let Ok(Some(sizes)) = image_sizes(disk) {
            for (name, value) in
                [("allocation", sizes.allocation), ("capacity", sizes.capacity), ("physical", sizes.physical)]
            {
                if value != 0 {
                    params.push(TypedParam::new(format!("block.{at}.{name}"), TypedValue::ULLong(value)));
                }
            }
        }
    }
}
