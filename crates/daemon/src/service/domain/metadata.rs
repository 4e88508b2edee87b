//! Title, description and elements of other programs.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};

use super::{AFFECT_CONFIG, AFFECT_LIVE, affected, domain_error, form, only};
use crate::domain::metadata::Metadata;
use crate::service::Daemon;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table.on(get).on(set)
}

async fn get(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetMetadata,
) -> Result<DomainGetMetadataReply, RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let domain = daemon.domain(&call.dom)?;
    let form = form(&domain, call.flags)?;
    let wanted = Metadata::from_number(call.kind, call.uri).map_err(|error| domain_error(&error))?;
    let definition = domain.definition(form).map_err(|error| domain_error(&error))?;
    let missing = || RpcError::no_metadata("Requested metadata element is not present");
    Ok(DomainGetMetadataReply { metadata: wanted.of(&definition).ok_or_else(missing)? })
}

async fn set(daemon: Arc<Daemon>, _: CallContext, call: DomainSetMetadata) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let domain = daemon.domain(&call.dom)?;
    let affected = affected(&domain, call.flags)?;
    let what = Metadata::from_number(call.kind, call.uri).map_err(|error| domain_error(&error))?;
    let (value, key) = (call.metadata, call.key);
    let set = |definition: &mut _| what.set(definition, value.clone(), key.as_deref());
    let change = daemon.domains.edit(&daemon.store, domain.uuid(), affected, set);
    daemon.settle(change.map_err(|error| domain_error(&error))?).await?;
    let uri = if let Metadata::Element { uri } = &what { Some(uri.as_str()) } else { None };
    daemon.tell_metadata(&domain, what.number(), uri);
    Ok(())
}
