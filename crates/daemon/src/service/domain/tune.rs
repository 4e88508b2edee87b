//! Memory and vCPUs: of definitions, and the memory that running machines have.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::RemoteDomain;
use libvirt_xml::domain::Domain as Definition;

use super::{AFFECT_CONFIG, AFFECT_LIVE, affected, domain_error, only};
use crate::domain::{DomainError, tune};
use crate::service::Daemon;

/// VIR_DOMAIN_MEM_MAXIMUM and VIR_DOMAIN_VCPU_MAXIMUM.
const MAXIMUM: u32 = 4;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(set_statistics_period)
        .on(set_memory)
        .on(set_memory_with_flags)
        .on(set_max_memory)
        .on(set_vcpus)
        .on(set_vcpus_with_flags)
}

impl Daemon {
    /// Changes the definition of a domain that a client means, and says what is there then.
    pub(super) async fn edit_domain(
        &self,
        domain: &RemoteDomain,
        flags: u32,
        edit: impl FnMut(&mut Definition) -> Result<(), DomainError>,
    ) -> Result<(), RpcError> {
        let domain = self.domain(domain)?;
        let affected = affected(&domain, flags)?;
        if affected.live {
            let message =
                "a running machine can't be changed in this respect: use --config, and start it anew";
            return Err(RpcError::unsupported_operation(message));
        }
        let change = self.domains.edit(&self.store, domain.uuid(), affected, edit);
        self.settle(change.map_err(|error| domain_error(&error))?).await?;
        Ok(())
    }

    /// Changes what a domain that a client means demands of the host, running or not.
    pub(super) async fn tune_domain(
        &self,
        domain: &RemoteDomain,
        flags: u32,
        edit: impl FnMut(&mut Definition) -> Result<(), DomainError>,
    ) -> Result<(), RpcError> {
        let domain = self.domain(domain)?;
        let affected = affected(&domain, flags)?;
        self.machines.tune(&domain, affected, edit).await.map_err(|error| domain_error(&error))
    }

    async fn change_memory(&self, domain: &RemoteDomain, kib: u64, flags: u32) -> Result<(), RpcError> {
        only(flags, AFFECT_LIVE | AFFECT_CONFIG | MAXIMUM)?;
        if flags & MAXIMUM != 0 {
            if affected(&*self.domain(domain)?, flags)?.live {
                let message = "cannot resize the maximum memory on an active domain";
                return Err(RpcError::invalid_operation(message));
            }
            return self.edit_domain(domain, flags, |definition| tune::set_max_memory(definition, kib)).await;
        }
        self.change_balloon(domain, flags, |definition| tune::set_memory(definition, kib)).await
    }

    async fn change_balloon(
        &self,
        domain: &RemoteDomain,
        flags: u32,
        edit: impl FnMut(&mut Definition) -> Result<(), DomainError>,
    ) -> Result<(), RpcError> {
        let domain = self.domain(domain)?;
        let affected = affected(&domain, flags)?;
        let changed = self.machines.change_balloon(&domain, affected, edit).await;
        changed.map_err(|error| domain_error(&error))
    }

    async fn change_vcpus(&self, domain: &RemoteDomain, vcpus: u32, flags: u32) -> Result<(), RpcError> {
        only(flags, AFFECT_LIVE | AFFECT_CONFIG | MAXIMUM)?;
        let set = if flags & MAXIMUM == 0 { tune::set_vcpus } else { tune::set_max_vcpus };
        self.edit_domain(domain, flags, |definition| set(definition, vcpus)).await
    }
}

async fn set_memory(daemon: Arc<Daemon>, _: CallContext, call: DomainSetMemory) -> Result<(), RpcError> {
    daemon.change_memory(&call.dom, call.memory, AFFECT_LIVE).await
}

async fn set_memory_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetMemoryFlags,
) -> Result<(), RpcError> {
    daemon.change_memory(&call.dom, call.memory, call.flags).await
}

async fn set_max_memory(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetMaxMemory,
) -> Result<(), RpcError> {
    daemon.change_memory(&call.dom, call.memory, MAXIMUM).await
}

async fn set_statistics_period(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetMemoryStatsPeriod,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let seconds = u32::try_from(call.period).map_err(|_| {
        RpcError::invalid_argument("period in virDomainSetMemoryStatsPeriod must be zero or greater")
    })?;
    let edit = |definition: &mut Definition| tune::set_statistics_period(definition, seconds);
    daemon.change_balloon(&call.dom, call.flags, edit).await
}

async fn set_vcpus(daemon: Arc<Daemon>, _: CallContext, call: DomainSetVcpus) -> Result<(), RpcError> {
    daemon.change_vcpus(&call.dom, call.nvcpus, AFFECT_LIVE).await
}

async fn set_vcpus_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetVcpusFlags,
) -> Result<(), RpcError> {
    daemon.change_vcpus(&call.dom, call.nvcpus, call.flags).await
}
