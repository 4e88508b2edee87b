//! Networks: libvirt's procedures over `crate::network`, which does the work.
//!
//! Ports of networks (virNetworkPort…) are shown; they come and go with domains' interfaces.

mod definition;
mod lifecycle;
mod list;
mod metadata;
mod ports;

use std::sync::Arc;

use libvirt_rpc::server::Table;
use libvirt_rpc::types::RemoteNetwork;
use libvirt_rpc::{ErrorDomain, RpcError};
use libvirt_xml::Uuid;
use libvirt_xml::network::NetworkError as DefinitionError;

use super::events::Subject;
use super::{Daemon, document_error, only};
use crate::network::{Change, Network, NetworkError};

/// VIR_NETWORK_UPDATE_AFFECT_LIVE and …_CONFIG.
const AFFECT: u32 = 3;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    let families =
        [list::register, definition::register, lifecycle::register, metadata::register, ports::register];
    families.into_iter().fold(table, |table, register| register(table))
}

/// What happens to a network, with the numbers of virNetworkEventLifecycleType.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifecycle {
    Defined = 0,
    Undefined = 1,
    Started = 2,
    Stopped = 3,
}

impl Daemon {
    /// The network that a client means.
    fn network(&self, network: &RemoteNetwork) -> Result<Arc<Network>, RpcError> {
        // The name is for the message: the UUID alone decides.
        self.networks.by_uuid(Uuid(network.uuid.0)).ok_or_else(|| {
            let text = format!("no network with matching uuid '{}' ({})", network.uuid, network.name);
            RpcError::no_network(text)
        })
    }

    /// Returns when the change is remembered: the network as it is then, none if it is gone.
    async fn settle_network(
        &self,
        change: Result<Change, NetworkError>,
    ) -> Result<Option<Arc<Network>>, RpcError> {
        let change = change.map_err(|error| network_error(&error))?;
        self.networks.settle(change).await.map_err(|error| network_error(&error))
    }

    /// Tells who wants to hear of networks.
    fn tell_network(&self, network: &Network, event: Lifecycle) {
        use libvirt_rpc::events::NetworkEventLifecycle;
        for (client, callback_id) in self.subscriptions.listeners(Subject::Network(0), &network.uuid().0) {
            let (net, event) = (remote(network), event as i32);
            client.event(&NetworkEventLifecycle { callback_id, net, event, detail: 0 });
        }
    }

    /// Tells who wants to hear of networks that something people keep there has changed.
    fn tell_network_metadata(&self, network: &Network, kind: i32, uri: Option<&str>) {
        use libvirt_rpc::events::NetworkEventMetadataChange;
        for (client, callback_id) in self.subscriptions.listeners(Subject::Network(1), &network.uuid().0) {
            let (net, nsuri) = (remote(network), uri.map(str::to_owned));
            client.event(&NetworkEventMetadataChange { callback_id, net, kind, nsuri });
        }
    }
}

fn remote(network: &Network) -> RemoteNetwork {
    RemoteNetwork { name: network.name().to_owned(), uuid: libvirt_rpc::xdr::Uuid(network.uuid().0) }
}

/// The one way from `crate::network`'s errors to libvirt's.
fn network_error(error: &NetworkError) -> RpcError {
    let text = error.to_string();
    let rpc = match error {
        NetworkError::NoSuchUuid(_) | NetworkError::NoSuchName(_) => RpcError::no_network(text),
        NetworkError::NameTaken { .. } | NetworkError::UuidTaken { .. } | NetworkError::TooMany(_) => {
            RpcError::operation_failed(text)
        }
        NetworkError::BridgeTaken { .. } | NetworkError::Broken(_) | NetworkError::Host(_) => {
            RpcError::internal(text)
        }
        NetworkError::Invalid(_) => RpcError::invalid_operation(text),
        NetworkError::Argument(_) => RpcError::invalid_argument(text),
        NetworkError::Unsupported(_) => RpcError::unsupported_configuration(text),
        NetworkError::Store(_) => RpcError::system(text),
        NetworkError::Definition(error) => match error {
            DefinitionError::Xml(error) => document_error(error),
            DefinitionError::Contradiction(_) => RpcError::xml(text),
            DefinitionError::Unsupported(_) => RpcError::unsupported_configuration(text),
            DefinitionError::Invalid(_) => RpcError::invalid_operation(text),
            DefinitionError::UnsupportedChange(_) => RpcError::unsupported_operation(text),
        },
    };
    rpc.from_part(ErrorDomain::Network)
}
