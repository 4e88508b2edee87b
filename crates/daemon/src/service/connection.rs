//! Procedures about the connection: who answers, and in which version.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};

use super::{Daemon, host_error};

/// The version of the hypervisor that clients are told, in libvirt's form (1,000,000 for each major, 1,000 for each minor
/// version): what programs choose their defaults by. Vireo has no QEMU, but offers what a QEMU of this version would.
const HYPERVISOR_VERSION: u64 = 10_000_002;

/// The version of libvirt whose protocol this is.
const LIBRARY_VERSION: u64 = 10_000_000;

/// Most vCPUs of a domain.
pub(super) const MOST_VCPUS: i32 = 254;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(kind)
        .on(version)
        .on(library_version)
        .on(uri)
        .on(host_name)
        .on(most_vcpus)
        .on(is_secure)
        .on(security_model)
        .on(list_interfaces)
        .on(count_interfaces)
        .on(list_interface_names)
        .on(list_node_devices)
        .on(list_filters)
        .on(count_filters)
        .on(list_filter_names)
        .on(list_secrets)
        .on(count_secrets)
}

async fn kind(_: Arc<Daemon>, _: CallContext, _: ConnectGetType) -> Result<ConnectGetTypeReply, RpcError> {
    Ok(ConnectGetTypeReply { kind: "QEMU".into() })
}

async fn version(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectGetVersion,
) -> Result<ConnectGetVersionReply, RpcError> {
    Ok(ConnectGetVersionReply { hv_ver: HYPERVISOR_VERSION })
}

async fn library_version(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectGetLibVersion,
) -> Result<ConnectGetLibVersionReply, RpcError> {
    Ok(ConnectGetLibVersionReply { lib_ver: LIBRARY_VERSION })
}

async fn uri(daemon: Arc<Daemon>, _: CallContext, _: ConnectGetUri) -> Result<ConnectGetUriReply, RpcError> {
    Ok(ConnectGetUriReply { uri: daemon.settings.instance.uri().into() })
}

async fn host_name(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: ConnectGetHostname,
) -> Result<ConnectGetHostnameReply, RpcError> {
    let hostname = daemon.host.name().map_err(|error| host_error(&error))?;
    Ok(ConnectGetHostnameReply { hostname })
}

async fn most_vcpus(
    _: Arc<Daemon>,
    _: CallContext,
    call: ConnectGetMaxVcpus,
) -> Result<ConnectGetMaxVcpusReply, RpcError> {
    match call.kind.as_deref() {
        None | Some("kvm") => Ok(ConnectGetMaxVcpusReply { max_vcpus: MOST_VCPUS }),
        Some(other) => Err(RpcError::invalid_argument(format!("unknown type '{other}': only kvm is there"))),
    }
}

/// A unix socket: nobody listens in.
async fn is_secure(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectIsSecure,
) -> Result<ConnectIsSecureReply, RpcError> {
    Ok(ConnectIsSecureReply { secure: 1 })
}

/// Machines are not labelled: there is no model.
async fn security_model(
    _: Arc<Daemon>,
    _: CallContext,
    _: NodeGetSecurityModel,
) -> Result<NodeGetSecurityModelReply, RpcError> {
    Ok(NodeGetSecurityModelReply { model: Vec::new(), doi: Vec::new() })
}

// The host's own interfaces, devices, filters and secrets are not managed here: there are none.

async fn list_interfaces(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectListAllInterfaces,
) -> Result<ConnectListAllInterfacesReply, RpcError> {
    Ok(ConnectListAllInterfacesReply { ifaces: Vec::new(), ret: 0 })
}

async fn count_interfaces(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfInterfaces,
) -> Result<ConnectNumOfInterfacesReply, RpcError> {
    Ok(ConnectNumOfInterfacesReply { num: 0 })
}

async fn list_interface_names(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectListInterfaces,
) -> Result<ConnectListInterfacesReply, RpcError> {
    Ok(ConnectListInterfacesReply { names: Vec::new() })
}

async fn list_node_devices(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectListAllNodeDevices,
) -> Result<ConnectListAllNodeDevicesReply, RpcError> {
    Ok(ConnectListAllNodeDevicesReply { devices: Vec::new(), ret: 0 })
}

async fn list_filters(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectListAllNwFilters,
) -> Result<ConnectListAllNwFiltersReply, RpcError> {
    Ok(ConnectListAllNwFiltersReply { filters: Vec::new(), ret: 0 })
}

async fn count_filters(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfNwFilters,
) -> Result<ConnectNumOfNwFiltersReply, RpcError> {
    Ok(ConnectNumOfNwFiltersReply { num: 0 })
}

async fn list_filter_names(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectListNwFilters,
) -> Result<ConnectListNwFiltersReply, RpcError> {
    Ok(ConnectListNwFiltersReply { names: Vec::new() })
}

async fn list_secrets(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectListAllSecrets,
) -> Result<ConnectListAllSecretsReply, RpcError> {
    Ok(ConnectListAllSecretsReply { secrets: Vec::new(), ret: 0 })
}

async fn count_secrets(
    _: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfSecrets,
) -> Result<ConnectNumOfSecretsReply, RpcError> {
    Ok(ConnectNumOfSecretsReply { num: 0 })
}
