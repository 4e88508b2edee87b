//! Definitions: made, shown, changed, marked, forgotten.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::RemoteNetwork;
use libvirt_xml::network::update::{Command, Section};

use super::{AFFECT, Lifecycle, network_error, only, remote};
use crate::network::Port;
use crate::service::Daemon;

/// VIR_NETWORK_DEFINE_VALIDATE and VIR_NETWORK_CREATE_VALIDATE: documents are always checked.
pub(super) const VALIDATE: u32 = 1;

/// VIR_NETWORK_XML_INACTIVE.
const INACTIVE: u32 = 1;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(define).on(define_with_flags).on(undefine).on(document).on(set_autostart).on(update)
}

impl Daemon {
    async fn define_network(&self, xml: &str) -> Result<RemoteNetwork, RpcError> {
        let defined = self.settle_network(self.networks.define(&self.store, xml)).await?;
        let network = defined.ok_or_else(|| RpcError::internal("a definition without result"))?;
        self.tell_network(&network, Lifecycle::Defined);
        Ok(remote(&network))
    }
}

async fn define(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkDefineXml,
) -> Result<NetworkDefineXmlReply, RpcError> {
    Ok(NetworkDefineXmlReply { net: daemon.define_network(&call.xml).await? })
}

async fn define_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkDefineXmlFlags,
) -> Result<NetworkDefineXmlFlagsReply, RpcError> {
    only(call.flags, VALIDATE)?;
    Ok(NetworkDefineXmlFlagsReply { net: daemon.define_network(&call.xml).await? })
}

async fn undefine(daemon: Arc<Daemon>, _: CallContext, call: NetworkUndefine) -> Result<(), RpcError> {
    let network = daemon.network(&call.net)?;
    daemon.running_networks.undefine(network.uuid()).await.map_err(|error| network_error(&error))?;
    daemon.tell_network(&network, Lifecycle::Undefined);
    Ok(())
}

async fn document(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkGetXmlDesc,
) -> Result<NetworkGetXmlDescReply, RpcError> {
    only(call.flags, INACTIVE)?;
    let network = daemon.network(&call.net)?;
    let defined = network.definition().filter(|_| call.flags & INACTIVE != 0);
    let Some(document) = defined.or(network.present()) else {
        return Err(RpcError::internal("a network without document"));
    };
    let mut shown = document.clone();
    if defined.is_none() && network.is_active() {
        let ports = daemon.running_networks.ports().of_network(network.name());
        let count = |ports: usize| u32::try_from(ports).ok().filter(|ports| *ports > 0);
        shown.connections = count(ports.len());
        for interface in shown.forward.iter_mut().flat_map(|forward| &mut forward.interfaces) {
            let on =
                |port: &&Arc<Port>| port.device.as_ref().map(|(device, _)| device) == interface.dev.as_ref();
            interface.connections = count(ports.iter().filter(on).count());
        }
    }
    Ok(NetworkGetXmlDescReply { xml: shown.to_xml() })
}

async fn set_autostart(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkSetAutostart,
) -> Result<(), RpcError> {
    let network = daemon.network(&call.net)?;
    let change = daemon.networks.set_autostart(&daemon.store, network.uuid(), call.autostart != 0);
    daemon.settle_network(change).await.map(drop)
}

async fn update(daemon: Arc<Daemon>, _: CallContext, call: NetworkUpdate) -> Result<(), RpcError> {
    only(call.flags, AFFECT)?;
    let network = daemon.network(&call.net)?;
    let command = Command::from_number(call.command)
        .ok_or_else(|| RpcError::invalid_argument(format!("unknown command {}", call.command)))?;
    let updated = daemon.running_networks.update(network.uuid(), call.flags, |document| {
        let section = Section::from_number(call.section, document)?;
        let update = libvirt_xml::network::update::update;
        Ok(update(document, command, section, Some(call.parent_index), &call.xml)?)
    });
    updated.await.map_err(|error| network_error(&error))
}
