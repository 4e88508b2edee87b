//! Devices of definitions.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_xml::domain::edit::Device;

use super::{AFFECT_CONFIG, AFFECT_LIVE, affected, domain_error, only, parsed};
use crate::domain::device;
use crate::service::Daemon;

/// VIR_DOMAIN_DEVICE_MODIFY_FORCE: only of use to running machines.
const FORCE: u32 = 4;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(attach)
        .on(attach_with_flags)
        .on(detach)
        .on(detach_with_flags)
        .on(detach_alias)
        .on(update_with_flags)
}

async fn attach(daemon: Arc<Daemon>, _: CallContext, call: DomainAttachDevice) -> Result<(), RpcError> {
    let device = parsed(Device::parse(&call.xml))?;
    daemon.edit_domain(&call.dom, AFFECT_LIVE, |definition| device::attach(definition, device.clone())).await
}

async fn attach_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainAttachDeviceFlags,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let device = parsed(Device::parse(&call.xml))?;
    daemon.edit_domain(&call.dom, call.flags, |definition| device::attach(definition, device.clone())).await
}

async fn detach(daemon: Arc<Daemon>, _: CallContext, call: DomainDetachDevice) -> Result<(), RpcError> {
    let device = parsed(Device::parse(&call.xml))?;
    daemon.edit_domain(&call.dom, AFFECT_LIVE, |definition| device::detach(definition, &device)).await
}

async fn detach_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainDetachDeviceFlags,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let device = parsed(Device::parse(&call.xml))?;
    daemon.edit_domain(&call.dom, call.flags, |definition| device::detach(definition, &device)).await
}

async fn detach_alias(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainDetachDeviceAlias,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    daemon
        .edit_domain(&call.dom, call.flags, |definition| device::detach_alias(definition, &call.alias))
        .await
}

async fn update_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainUpdateDeviceFlags,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG | FORCE)?;
    let device = parsed(Device::parse(&call.xml))?;
    let domain = daemon.domain(&call.dom)?;
    let affected = affected(&domain, call.flags & !FORCE)?;
    if let (Device::Interface(interface), true) = (&device, affected.live) {
        let updated = daemon.machines.update_card(&domain, affected, interface).await;
        return updated.map_err(|error| domain_error(&error));
    }
    daemon.edit_domain(&call.dom, call.flags, |definition| device::update(definition, device.clone())).await
}
