//! Ports of networks: guests' interfaces. They are made and removed with the machines whose they are, and by nobody else.

use std::sync::Arc;

use libvirt_rpc::limits::NETWORK_PORT_LIST_MAX;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{RemoteNetwork, RemoteNetworkPort};
use libvirt_rpc::{ErrorDomain, RpcError, xdr};
use libvirt_xml::Uuid;

use super::{network_error, only, remote};
use crate::network::{Live, NetworkError, Port};
use crate::service::{Daemon, asked};

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(list).on(lookup).on(document).on(parameters).on(set_parameters).on(create).on(delete)
}

impl Daemon {
    /// What runs of a network, and one of its ports.
    fn network_port(&self, network: &RemoteNetwork, uuid: xdr::Uuid) -> Result<(Live, Arc<Port>), RpcError> {
        let network = self.network(network)?;
        let inactive = || NetworkError::Invalid(format!("network '{}' is not active", network.name()));
        let live = network.live().cloned().ok_or_else(|| network_error(&inactive()))?;
        let port = self.running_networks.ports().by_uuid(Uuid(uuid.0));
        let port = port.filter(|port| port.network == network.name());
        let missing = || RpcError::no_network_port(format!("Network port with UUID {uuid} does not exist"));
        Ok((live, port.ok_or_else(missing)?))
    }
}

async fn list(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkListAllPorts,
) -> Result<NetworkListAllPortsReply, RpcError> {
    only(call.flags, 0)?;
    let network = daemon.network(&call.network)?;
    let ports = daemon.running_networks.ports().of_network(network.name());
    if ports.len() > NETWORK_PORT_LIST_MAX {
        let reason =
            format!("{} ports are more than clients can list ({NETWORK_PORT_LIST_MAX})", ports.len());
        return Err(RpcError::internal(reason).from_part(ErrorDomain::Network));
    }
    let ret = u32::try_from(ports.len()).unwrap_or(u32::MAX);
    let ports = if call.need_results == 0 { Vec::new() } else { ports };
    let port = |port: &Arc<Port>| RemoteNetworkPort { net: remote(&network), uuid: xdr::Uuid(port.uuid.0) };
    Ok(NetworkListAllPortsReply { ports: ports.iter().map(port).collect(), ret })
}

async fn lookup(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkPortLookupByUuid,
) -> Result<NetworkPortLookupByUuidReply, RpcError> {
    daemon.network_port(&call.network, call.uuid)?;
    let net = remote(daemon.network(&call.network)?.as_ref());
    Ok(NetworkPortLookupByUuidReply { port: RemoteNetworkPort { net, uuid: call.uuid } })
}

async fn document(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkPortGetXmlDesc,
) -> Result<NetworkPortGetXmlDescReply, RpcError> {
    only(call.flags, 0)?;
    let (live, port) = daemon.network_port(&call.port.net, call.port.uuid)?;
    let xml = port.to_xml(&live.document);
    Ok(NetworkPortGetXmlDescReply { xml })
}

async fn parameters(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkPortGetParameters,
) -> Result<NetworkPortGetParametersReply, RpcError> {
    only(call.flags, 0)?;
    let (_, port) = daemon.network_port(&call.port.net, call.port.uuid)?;
    let params = port.parameters();
    let nparams = i32::try_from(params.len()).unwrap_or(i32::MAX);
    // A client that has no room asks how much it needs.
    let params = params.into_iter().take(asked(call.nparams)?).collect();
    Ok(NetworkPortGetParametersReply { params, nparams })
}

fn refused<T>(reason: &str) -> Result<T, RpcError> {
    Err(RpcError::unsupported_operation(reason).from_part(ErrorDomain::Network))
}

async fn set_parameters(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkPortSetParameters,
) -> Result<(), RpcError> {
    daemon.network_port(&call.port.net, call.port.uuid)?;
    refused("limits of a port are its domain's: change them there (virsh domiftune)")
}

async fn create(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkPortCreateXml,
) -> Result<NetworkPortCreateXmlReply, RpcError> {
    daemon.network(&call.network)?;
    refused("ports are made with domains' interfaces: start a domain with <interface type='network'>")
}

async fn delete(daemon: Arc<Daemon>, _: CallContext, call: NetworkPortDelete) -> Result<(), RpcError> {
    daemon.network_port(&call.port.net, call.port.uuid)?;
    refused("ports go with domains' interfaces: end the domain, or take the interface from it")
}
