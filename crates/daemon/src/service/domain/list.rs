//! Finding domains: lists, and look-ups by name, UUID and number.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_xml::Uuid;

use super::{only, remote};
use crate::domain::{Domain, PAUSED, RUNNING, SHUT_OFF};
use crate::service::{Daemon, asked, count, listed};

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(by_name)
        .on(by_uuid)
        .on(by_id)
        .on(list_all)
        .on(list_running)
        .on(count_running)
        .on(list_defined)
        .on(count_defined)
}

/// All bits of virConnectListAllDomainsFlags.
pub(super) const FILTERS: u32 = (1 << 16) - 1;

/// Whether a domain is among those that a client asks for: of each group of flags that is given, one has to fit.
pub(super) fn wanted(domain: &Domain, flags: u32) -> bool {
    let state = match domain.status().state {
        RUNNING => 16,
        PAUSED => 32,
        SHUT_OFF => 64,
        _ => 128,
    };
    let own = [
        (1 | 2, if domain.is_active() { 1 } else { 2 }),
        (4 | 8, if domain.is_persistent() { 4 } else { 8 }),
        // There are neither saved states nor snapshots nor checkpoints.
        (16 | 32 | 64 | 128, state),
        (256 | 512, 512),
        (1024 | 2048, if domain.autostart() { 1024 } else { 2048 }),
        (4096 | 8192, 8192),
        (1 << 14 | 1 << 15, 1 << 15),
    ];
    own.into_iter().all(|(group, own)| flags & group == 0 || flags & own != 0)
}

async fn by_name(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainLookupByName,
) -> Result<DomainLookupByNameReply, RpcError> {
    let found = daemon.domains.by_name(&call.name);
    let missing = || RpcError::no_domain(format!("no domain with matching name '{}'", call.name));
    Ok(DomainLookupByNameReply { dom: remote(&*found.ok_or_else(missing)?) })
}

async fn by_uuid(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainLookupByUuid,
) -> Result<DomainLookupByUuidReply, RpcError> {
    let found = daemon.domains.by_uuid(Uuid(call.uuid.0));
    let missing = || RpcError::no_domain(format!("no domain with matching uuid '{}'", call.uuid));
    Ok(DomainLookupByUuidReply { dom: remote(&*found.ok_or_else(missing)?) })
}

async fn by_id(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainLookupById,
) -> Result<DomainLookupByIdReply, RpcError> {
    let found = daemon.domains.by_id(call.id);
    let missing = || RpcError::no_domain(format!("no domain with matching id {}", call.id));
    Ok(DomainLookupByIdReply { dom: remote(&*found.ok_or_else(missing)?) })
}

async fn list_all(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListAllDomains,
) -> Result<ConnectListAllDomainsReply, RpcError> {
    only(call.flags, FILTERS)?;
    let all = daemon.domains.all();
    let domains: Vec<_> = all.iter().filter(|domain| wanted(domain, call.flags)).collect();
    let (domains, ret) = listed(domains, call.need_results);
    Ok(ConnectListAllDomainsReply {
        domains: domains.into_iter().map(|domain| remote(domain)).collect(),
        ret,
    })
}

async fn list_running(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListDomains,
) -> Result<ConnectListDomainsReply, RpcError> {
    let most = asked(call.maxids)?;
    let ids = daemon.domains.all().iter().filter_map(|domain| domain.id()).take(most).collect();
    Ok(ConnectListDomainsReply { ids })
}

async fn count_running(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfDomains,
) -> Result<ConnectNumOfDomainsReply, RpcError> {
    let running = daemon.domains.all().iter().filter(|domain| domain.is_active()).count();
    Ok(ConnectNumOfDomainsReply { num: count(running) })
}

async fn list_defined(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListDefinedDomains,
) -> Result<ConnectListDefinedDomainsReply, RpcError> {
    let most = asked(call.maxnames)?;
    let all = daemon.domains.all();
    let names = all.iter().filter(|domain| !domain.is_active()).map(|domain| domain.name().to_owned());
    Ok(ConnectListDefinedDomainsReply { names: names.take(most).collect() })
}

async fn count_defined(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfDefinedDomains,
) -> Result<ConnectNumOfDefinedDomainsReply, RpcError> {
    let defined = daemon.domains.all().iter().filter(|domain| !domain.is_active()).count();
    Ok(ConnectNumOfDefinedDomainsReply { num: count(defined) })
}
