//! Networks started and stopped, and what their guests have been given.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::RemoteNetwork;

use super::definition::VALIDATE;
use super::{Lifecycle, network_error, only, remote};
use crate::service::{Daemon, listed};

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(create).on(create_xml).on(create_xml_with_flags).on(destroy).on(leases)
}

async fn create(daemon: Arc<Daemon>, _: CallContext, call: NetworkCreate) -> Result<(), RpcError> {
    let network = daemon.network(&call.net)?;
    let started = daemon.running_networks.start(network.uuid()).await;
    let network = started.map_err(|error| network_error(&error))?;
    daemon.tell_network(&network, Lifecycle::Started);
    Ok(())
}

impl Daemon {
    async fn create_network(&self, xml: &str) -> Result<RemoteNetwork, RpcError> {
        let created = self.running_networks.create(xml).await;
        let network = created.map_err(|error| network_error(&error))?;
        self.tell_network(&network, Lifecycle::Started);
        Ok(remote(&network))
    }
}

async fn create_xml(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkCreateXml,
) -> Result<NetworkCreateXmlReply, RpcError> {
    Ok(NetworkCreateXmlReply { net: daemon.create_network(&call.xml).await? })
}

async fn create_xml_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkCreateXmlFlags,
) -> Result<NetworkCreateXmlFlagsReply, RpcError> {
    only(call.flags, VALIDATE)?;
    Ok(NetworkCreateXmlFlagsReply { net: daemon.create_network(&call.xml).await? })
}

async fn destroy(daemon: Arc<Daemon>, _: CallContext, call: NetworkDestroy) -> Result<(), RpcError> {
    let network = daemon.network(&call.net)?;
    let stopped = daemon.running_networks.stop(network.uuid()).await;
    stopped.map_err(|error| network_error(&error))?;
    daemon.tell_network(&network, Lifecycle::Stopped);
    Ok(())
}

async fn leases(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkGetDhcpLeases,
) -> Result<NetworkGetDhcpLeasesReply, RpcError> {
    only(call.flags, 0)?;
    let network = daemon.network(&call.net)?;
    let leases = daemon.running_networks.leases(&network, call.mac.as_deref()).await;
    let leases = leases.map_err(|error| network_error(&error))?;
    let (leases, ret) = listed(leases, call.need_results);
    Ok(NetworkGetDhcpLeasesReply { leases, ret })
}
