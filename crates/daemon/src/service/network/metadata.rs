//! Title, description and elements of other programs.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};

use super::{AFFECT, network_error, only};
use crate::domain::DomainError;
use crate::domain::metadata::Metadata;
use crate::network::NetworkError;
use crate::service::Daemon;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(get).on(set)
}

fn error(error: DomainError) -> NetworkError {
    match error {
        DomainError::Xml(error) => error.into(),
        other => NetworkError::Argument(other.to_string()),
    }
}

async fn get(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: NetworkGetMetadata,
) -> Result<NetworkGetMetadataReply, RpcError> {
    only(call.flags, AFFECT)?;
    let network = daemon.network(&call.network)?;
    let affected = network.affected(call.flags).map_err(|error| network_error(&error))?;
    let document = if affected.live { network.present() } else { network.definition() };
    let wanted = Metadata::from_number(call.kind, call.uri).map_err(|found| network_error(&error(found)))?;
    let missing = || RpcError::no_metadata("Requested metadata element is not present");
    let metadata = document.and_then(|document| wanted.of(document)).ok_or_else(missing)?;
    Ok(NetworkGetMetadataReply { metadata })
}

async fn set(daemon: Arc<Daemon>, _: CallContext, call: NetworkSetMetadata) -> Result<(), RpcError> {
    only(call.flags, AFFECT)?;
    let network = daemon.network(&call.network)?;
    let what = Metadata::from_number(call.kind, call.uri).map_err(|found| network_error(&error(found)))?;
    let (value, key) = (call.metadata, call.key);
    let set = daemon.running_networks.update(network.uuid(), call.flags, |document| {
        let mut document = document.clone();
        what.set(&mut document, value.clone(), key.as_deref()).map_err(error)?;
        Ok(document)
    });
    set.await.map_err(|error| network_error(&error))?;
    let uri = if let Metadata::Element { uri } = &what { Some(uri.as_str()) } else { None };
    daemon.tell_network_metadata(&network, what.number(), uri);
    Ok(())
}
