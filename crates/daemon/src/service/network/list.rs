//! Which networks there are, and what each of them is.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_xml::Uuid;

use super::{only, remote};
use crate::network::Network;
use crate::service::{Daemon, asked, count, listed};

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(list)
        .on(count_active)
        .on(list_active)
        .on(count_inactive)
        .on(list_inactive)
        .on(by_name)
        .on(by_uuid)
        .on(is_active)
        .on(is_persistent)
        .on(autostart)
        .on(bridge_name)
}

/// Whether a network is among those that a client asks for (virConnectListAllNetworksFlags): of each group of flags that is given, one
/// has to fit.
fn wanted(network: &Network, flags: u32) -> bool {
    let own = [
        if network.is_active() { 2 } else { 1 },
        if network.is_persistent() { 4 } else { 8 },
        if network.autostart() { 16 } else { 32 },
    ];
    let groups = [1 | 2, 4 | 8, 16 | 32];
    groups.into_iter().zip(own).all(|(group, own)| flags & group == 0 || flags & own != 0)
}

async fn list(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListAllNetworks,
) -> Result<ConnectListAllNetworksReply, RpcError> {
    only(call.flags, 63)?;
    let networks = daemon.networks.all();
    let networks: Vec<_> = networks.iter().filter(|network| wanted(network, call.flags)).collect();
    let (networks, ret) = listed(networks, call.need_results);
    Ok(ConnectListAllNetworksReply {
        nets: networks.into_iter().map(|network| remote(network)).collect(),
        ret,
    })
}

impl Daemon {
    /// Names of the networks that are active, or of the others.
    fn network_names(&self, active: bool) -> Vec<String> {
        let networks = self.networks.all();
        let networks = networks.iter().filter(|network| network.is_active() == active);
        networks.map(|network| network.name().to_owned()).collect()
    }
}

async fn count_active(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfNetworks,
) -> Result<ConnectNumOfNetworksReply, RpcError> {
    Ok(ConnectNumOfNetworksReply { num: count(daemon.network_names(true).len()) })
}

async fn list_active(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListNetworks,
) -> Result<ConnectListNetworksReply, RpcError> {
    let most = asked(call.maxnames)?;
    Ok(ConnectListNetworksReply { names: daemon.network_names(true).into_iter().take(most).collect() })
}

async fn count_inactive(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfDefinedNetworks,
) -> Result<ConnectNumOfDefinedNetworksReply, RpcError> {
    Ok(ConnectNumOfDefinedNetworksReply { num: count(daemon.network_names(false).len()) })
}

async fn list_inactive(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListDefinedNetworks,
) -> Result<ConnectListDefinedNetworksReply, RpcError> {
    let most = asked(call.maxnames)?;
    Ok(ConnectListDefinedNetworksReply {
        names: daemon.network_names(false).into_iter().take(most).collect(),
    })
}

async fn by_name(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkLookupByName,
) -> Result<NetworkLookupByNameReply, RpcError> {
    let network = daemon.networks.by_name(&call.name);
    let missing = || RpcError::no_network(format!("no network with matching name '{}'", call.name));
    Ok(NetworkLookupByNameReply { net: remote(network.ok_or_else(missing)?.as_ref()) })
}

async fn by_uuid(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkLookupByUuid,
) -> Result<NetworkLookupByUuidReply, RpcError> {
    let network = daemon.networks.by_uuid(Uuid(call.uuid.0));
    let missing = || RpcError::no_network(format!("no network with matching uuid '{}'", call.uuid));
    Ok(NetworkLookupByUuidReply { net: remote(network.ok_or_else(missing)?.as_ref()) })
}

async fn is_active(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkIsActive,
) -> Result<NetworkIsActiveReply, RpcError> {
    Ok(NetworkIsActiveReply { active: daemon.network(&call.net)?.is_active().into() })
}

async fn is_persistent(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkIsPersistent,
) -> Result<NetworkIsPersistentReply, RpcError> {
    Ok(NetworkIsPersistentReply { persistent: daemon.network(&call.net)?.is_persistent().into() })
}

async fn autostart(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkGetAutostart,
) -> Result<NetworkGetAutostartReply, RpcError> {
    let network = daemon.network(&call.net)?;
    Ok(NetworkGetAutostartReply { autostart: network.autostart().into() })
}

async fn bridge_name(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkGetBridgeName,
) -> Result<NetworkGetBridgeNameReply, RpcError> {
    let network = daemon.network(&call.net)?;
    let name = network.present().and_then(|document| document.bridge_name());
    let missing = || RpcError::internal(format!("network '{}' does not have a bridge name.", network.name()));
    Ok(NetworkGetBridgeNameReply { name: name.ok_or_else(missing)?.to_owned() })
}
