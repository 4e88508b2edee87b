//! Statistics of all domains at once.
//!
//! Of a domain that does not run, libvirt shows its state, what its balloon and vCPUs are defined as, and its disks with the
//! sizes of their images.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{DomainStatsRecord, TypedParam, TypedValue};

use super::information::{image_sizes, summary};
use super::list::{FILTERS, wanted};
use super::{only, remote};
use crate::domain::{Domain, Summary};
use crate::service::Daemon;

// virDomainStatsTypes.
const STATE: u32 = 1;
const BALLOON: u32 = 4;
const VCPU: u32 = 8;
const BLOCK: u32 = 32;
/// All of them up to VM.
const KINDS: u32 = (1 << 11) - 1;

/// virConnectGetAllDomainStatsFlags: do not wait, list images below others, refuse unknown kinds.
const NOWAIT: u32 = 1 << 29;
const BACKING: u32 = 1 << 30;
const ENFORCE: u32 = 1 << 31;

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
    // Images may lie on disks that are slow.
    let records = tokio::task::spawn_blocking(move || {
        domains.iter().map(|domain| record(domain, kinds)).collect::<Result<_, _>>()
    });
    let ret_stats =
        records.await.map_err(|error| RpcError::internal(format!("collecting ended: {error}")))??;
    Ok(ConnectGetAllDomainStatsReply { ret_stats })
}

/// Blocks.
fn record(domain: &Domain, kinds: u32) -> Result<DomainStatsRecord, RpcError> {
    let mut params = Vec::new();
    let mut add = |name: &str, value| params.push(TypedParam::new(name, value));
    if kinds & STATE != 0 {
        let status = domain.status();
        add("state.state", TypedValue::Int(status.state.into()));
        add("state.reason", TypedValue::Int(status.reason));
    }
    let summary = summary(domain)?;
    if kinds & BALLOON != 0 {
        add("balloon.current", TypedValue::ULLong(summary.current_memory));
        add("balloon.maximum", TypedValue::ULLong(summary.memory));
    }
    if kinds & VCPU != 0 {
        add("vcpu.current", TypedValue::UInt(summary.vcpus));
        add("vcpu.maximum", TypedValue::UInt(summary.max_vcpus));
    }
    if kinds & BLOCK != 0 {
        blocks(summary, &mut params);
    }
    Ok(DomainStatsRecord { dom: remote(domain), params })
}

fn blocks(summary: &Summary, params: &mut Vec<TypedParam>) {
    let count = u32::try_from(summary.disks.len()).unwrap_or(u32::MAX);
    params.push(TypedParam::new("block.count", TypedValue::UInt(count)));
    for (number, disk) in summary.disks.iter().enumerate() {
        let mut add =
            |name: &str, value| params.push(TypedParam::new(format!("block.{number}.{name}"), value));
        add("name", TypedValue::String(disk.target.clone()));
        if let Some(path) = &disk.path {
            add("path", TypedValue::String(path.clone()));
        }
        // An image that is not there now is no fault of the others.
        if let Ok(Some(sizes)) = image_sizes(disk) {
            for (name, value) in
                [("allocation", sizes.allocation), ("capacity", sizes.capacity), ("physical", sizes.physical)]
            {
                if value != 0 {
                    add(name, TypedValue::ULLong(value));
                }
            }
        }
    }
}
