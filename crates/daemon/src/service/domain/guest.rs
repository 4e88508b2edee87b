//! What only the guest knows and can do, asked of the agent in it.

use std::path::Path;
use std::sync::Arc;

use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{DomainFsInfo, DomainInterface, DomainIpAddr, NetworkDhcpLease};
use libvirt_rpc::{ErrorCode, ErrorDomain, RpcError};
use libvirt_xml::domain::Domain as Definition;

use super::{domain_error, guest_information, only};
use crate::domain::{Domain, Form, Live, PAUSED};
use crate::guest_agent::{AgentError, CHANNEL, Disk, GuestAgent, Interface, Patience};
use crate::service::Daemon;

/// Nanoseconds of a second.
const NANOSECONDS: i64 = 1_000_000_000;

/// virDomainInterfaceAddressesSource.
const SOURCE_LEASE: u32 = 0;
const SOURCE_AGENT: u32 = 1;
const SOURCE_ARP: u32 = 2;

/// VIR_DOMAIN_GET_HOSTNAME_LEASE and VIR_DOMAIN_GET_HOSTNAME_AGENT.
const HOSTNAME_LEASE: u32 = 1;
const HOSTNAME_AGENT: u32 = 2;

/// VIR_DOMAIN_TIME_SYNC.
const TIME_SYNC: u32 = 1;

/// VIR_DOMAIN_PASSWORD_ENCRYPTED.
const PASSWORD_ENCRYPTED: u32 = 1;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    let table = table.on(command).on(interface_addresses).on(host_name).on(time).on(set_time);
    let table = table.on(file_systems).on(freeze).on(thaw).on(trim).on(set_password);
    guest_information::register(table)
}

impl Daemon {
    /// The agent in a domain, once nobody else asks it.
    pub(super) async fn agent(&self, domain: &Domain) -> Result<GuestAgent<'_>, RpcError> {
        let live = domain.running().map_err(|error| domain_error(&error))?;
        if live.status.state == PAUSED {
            return Err(RpcError::invalid_operation("domain is not running"));
        }
        let socket = socket(live).ok_or_else(|| agent_error(&AgentError::NotConfigured))?;
        self.agents.agent(domain.uuid(), socket).await.map_err(|error| agent_error(&error))
    }
}

/// The host's end of the agent's channel.
fn socket(live: &Live) -> Option<&Path> {
    let channel = live.consoles.iter().find(|console| console.name.as_deref() == Some(CHANNEL))?;
    channel.path.as_deref().filter(|_| !channel.terminal)
}

/// Whether a domain runs with a channel for an agent.
pub(super) fn has_agent(domain: &Domain) -> bool {
    domain.live().is_some_and(|live| socket(live).is_some())
}

/// The one way from an agent's errors to libvirt's.
pub(super) fn agent_error(error: &AgentError) -> RpcError {
    let text = error.to_string();
    match error {
        AgentError::NotConfigured => RpcError::unsupported_argument(text),
        AgentError::NotConnected(_) | AgentError::Silent | AgentError::Hung { .. } | AgentError::Gone(_) => {
            RpcError::agent_unresponsive(text)
        }
        AgentError::Refused { .. } | AgentError::Senseless { .. } => RpcError::internal(text),
        AgentError::Command(_) => RpcError::invalid_argument(text),
        AgentError::Busy => RpcError::timeout(text),
    }
}

async fn command(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: QemuDomainAgentCommand,
) -> Result<QemuDomainAgentCommandReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    let patience = Patience::of_libvirt(call.timeout).ok_or_else(|| {
        RpcError::invalid_argument(format!(
            "guest agent timeout '{}' is less than the minimum '-2'",
            call.timeout
        ))
    })?;
    let agent = daemon.agent(&domain).await?;
    let result = agent.command(&call.cmd, patience).await.map_err(|error| agent_error(&error))?;
    Ok(QemuDomainAgentCommandReply { result })
}

async fn interface_addresses(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainInterfaceAddresses,
) -> Result<DomainInterfaceAddressesReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    domain.running().map_err(|error| domain_error(&error))?;
    let ifaces = match call.source {
        SOURCE_LEASE => {
            let definition = domain.definition(Form::Live).map_err(|error| domain_error(&error))?;
            daemon.leased(&definition).await?
        }
        SOURCE_AGENT => {
            let agent = daemon.agent(&domain).await?;
            let interfaces = agent.interfaces().await.map_err(|error| agent_error(&error))?;
            interfaces.into_iter().map(interface).collect()
        }
        SOURCE_ARP => {
            let definition = domain.definition(Form::Live).map_err(|error| domain_error(&error))?;
            let table = std::fs::read_to_string("/proc/net/arp");
            let table = table.map_err(|error| RpcError::system(format!("/proc/net/arp: {error}")))?;
            neighbours(&definition, &table)
        }
        other => {
            let message = format!("Unknown IP address data source {other}");
            return Err(RpcError::unsupported_argument(message));
        }
    };
    Ok(DomainInterfaceAddressesReply { ifaces })
}

impl Daemon {
    /// What a domain's interfaces have been given by this daemon's networks.
    async fn leased(&self, definition: &Definition) -> Result<Vec<DomainInterface>, RpcError> {
        let mut interfaces = Vec::new();
        for interface in &definition.devices.interfaces {
            let network = interface.source.as_ref().and_then(|source| source.network.as_deref());
            let network = network.and_then(|name| self.networks.by_name(name));
            let (Some(network), Some(mac)) = (network, &interface.mac) else { continue };
            let mac = mac.address.to_string();
            let leases = self.running_networks.leases(&network, Some(&mac)).await;
            let leases = leases.map_err(|error| RpcError::internal(error.to_string()))?;
            let address = |lease: NetworkDhcpLease| DomainIpAddr {
                kind: lease.kind,
                addr: lease.ipaddr,
                prefix: lease.prefix,
            };
            let addrs: Vec<_> = leases.into_iter().map(address).collect();
            if !addrs.is_empty() {
                let name =
                    interface.target.as_ref().and_then(|target| target.dev.clone()).unwrap_or_default();
                interfaces.push(DomainInterface { name, hwaddr: Some(mac), addrs });
            }
        }
        Ok(interfaces)
    }
}

fn interface(interface: Interface) -> DomainInterface {
    let addrs = interface.ip_addresses.into_iter().map(|address| DomainIpAddr {
        kind: i32::from(address.ip_address_type == "ipv6"),
        addr: address.ip_address,
        prefix: address.prefix,
    });
    DomainInterface { name: interface.name, hwaddr: interface.hardware_address, addrs: addrs.collect() }
}

/// What the host's neighbour table (proc(5), /proc/net/arp) has about the domain's interfaces.
fn neighbours(definition: &Definition, table: &str) -> Vec<DomainInterface> {
    let entries: Vec<(&str, &str)> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?, words.nth(2)?))
        })
        .collect();
    let interfaces = definition.devices.interfaces.iter().filter_map(|interface| {
        let mac = interface.mac.as_ref()?.address.to_string();
        let of_mac = entries.iter().filter(|(_, hardware)| hardware.eq_ignore_ascii_case(&mac));
        let addrs: Vec<_> = of_mac
            .map(|(address, _)| DomainIpAddr { kind: 0, addr: (*address).to_owned(), prefix: 0 })
            .collect();
        let name = interface.target.as_ref().and_then(|target| target.dev.clone()).unwrap_or_default();
        (!addrs.is_empty()).then_some(DomainInterface { name, hwaddr: Some(mac), addrs })
    });
    interfaces.collect()
}

async fn host_name(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetHostname,
) -> Result<DomainGetHostnameReply, RpcError> {
    only(call.flags, HOSTNAME_LEASE | HOSTNAME_AGENT)?;
    let domain = daemon.domain(&call.dom)?;
    if call.flags & HOSTNAME_LEASE != 0 {
        if call.flags & HOSTNAME_AGENT != 0 {
            let message = "flags 'lease' and 'agent' are mutually exclusive";
            return Err(RpcError::invalid_argument(message));
        }
        domain.running().map_err(|error| domain_error(&error))?;
        let details = format!("no hostname found for domain {}", domain.name());
        // VIR_ERR_NO_HOSTNAME.
        return Err(RpcError::new(ErrorCode::NoHostname, ErrorDomain::Qemu, "no hostname found", details));
    }
    let hostname = daemon.agent(&domain).await?.host_name().await.map_err(|error| agent_error(&error))?;
    Ok(DomainGetHostnameReply { hostname })
}

async fn time(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetTime,
) -> Result<DomainGetTimeReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    let time = daemon.agent(&domain).await?.time().await.map_err(|error| agent_error(&error))?;
    let nseconds = u32::try_from(time.rem_euclid(NANOSECONDS)).unwrap_or_default();
    Ok(DomainGetTimeReply { seconds: time.div_euclid(NANOSECONDS), nseconds })
}

async fn set_time(daemon: Arc<Daemon>, _: CallContext, call: DomainSetTime) -> Result<(), RpcError> {
    only(call.flags, TIME_SYNC)?;
    let domain = daemon.domain(&call.dom)?;
    let time = if call.flags & TIME_SYNC != 0 {
        None
    } else {
        let time =
            call.seconds.checked_mul(NANOSECONDS).and_then(|time| time.checked_add(call.nseconds.into()));
        let too_large = || {
            RpcError::new(
                ErrorCode::Overflow,
                ErrorDomain::Qemu,
                "",
                format!("numerical overflow: Time '{}' is too big for guest agent", call.seconds),
            )
        };
        Some(time.ok_or_else(too_large)?)
    };
    daemon.agent(&domain).await?.set_time(time).await.map_err(|error| agent_error(&error))
}

async fn file_systems(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetFsInfo,
) -> Result<DomainGetFsInfoReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    let found = daemon.agent(&domain).await?.file_systems().await.map_err(|error| agent_error(&error))?;
    let definition = domain.definition(Form::Live).map_err(|error| domain_error(&error))?;
    let info: Vec<_> = found
        .into_iter()
        .map(|system| DomainFsInfo {
            dev_aliases: system.disk.iter().filter_map(|disk| target_of(&definition, disk)).collect(),
            mountpoint: system.mountpoint,
            name: system.name,
            fstype: system.kind,
        })
        .collect();
    let ret = u32::try_from(info.len()).unwrap_or(u32::MAX);
    Ok(DomainGetFsInfoReply { info, ret })
}

/// The target of the disk that the guest means: by serial number, else by name, since Linux numbers virtio disks in their order.
pub(super) fn target_of(definition: &Definition, disk: &Disk) -> Option<String> {
    let disks = &definition.devices.disks;
    let by_serial = disk
        .serial
        .as_ref()
        .and_then(|serial| disks.iter().find(|candidate| candidate.serial.as_ref() == Some(serial)));
    let name = || {
        let name = disk.dev.as_deref()?.strip_prefix("/dev/")?;
        let whole = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
        disks.iter().find(|candidate| candidate.target.dev == whole)
    };
    by_serial.or_else(name).map(|disk| disk.target.dev.clone())
}

async fn freeze(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainFsFreeze,
) -> Result<DomainFsFreezeReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    let agent = daemon.agent(&domain).await?;
    let filesystems = agent.freeze(&call.mountpoints).await.map_err(|error| agent_error(&error))?;
    Ok(DomainFsFreezeReply { filesystems })
}

/// Thaws all of them, whatever the client names: the agent can do no other.
async fn thaw(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainFsThaw,
) -> Result<DomainFsThawReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    let filesystems = daemon.agent(&domain).await?.thaw().await.map_err(|error| agent_error(&error))?;
    Ok(DomainFsThawReply { filesystems })
}

async fn trim(daemon: Arc<Daemon>, _: CallContext, call: DomainFsTrim) -> Result<(), RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    if call.mount_point.is_some() {
        let message = "Specifying mount point is not supported for now";
        return Err(RpcError::unsupported_argument(message));
    }
    daemon.agent(&domain).await?.trim(call.minimum).await.map_err(|error| agent_error(&error))
}

async fn set_password(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetUserPassword,
) -> Result<(), RpcError> {
    only(call.flags, PASSWORD_ENCRYPTED)?;
    let domain = daemon.domain(&call.dom)?;
    let missing = |what: &str| {
        RpcError::invalid_argument(format!("{what} in virDomainSetUserPassword must not be NULL"))
    };
    let user = call.user.ok_or_else(|| missing("user"))?;
    let password = call.password.ok_or_else(|| missing("password"))?;
    let crypted = call.flags & PASSWORD_ENCRYPTED != 0;
    let agent = daemon.agent(&domain).await?;
    agent.set_password(&user, &password, crypted).await.map_err(|error| agent_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "<domain type='kvm'><name>a</name><memory>65536</memory><os><type>hvm</type></os><devices>
        <disk type='file' device='disk'><source file='/a'/><target dev='vda' bus='virtio'/></disk>
        <disk type='file' device='disk'><source file='/b'/><target dev='vdb' bus='virtio'/><serial>S1</serial></disk>
        <interface type='bridge'><mac address='52:54:00:00:00:0a'/><source bridge='br0'/><target dev='vnet3'/></interface>
        <interface type='bridge'><mac address='52:54:00:00:00:0b'/><source bridge='br0'/></interface>
        </devices></domain>";

    #[test]
    fn disks_are_found_by_serial_number_or_name() {
        let definition = Definition::parse(DOCUMENT).unwrap();
        let found = |serial: Option<&str>, dev: Option<&str>| {
            target_of(&definition, &Disk { serial: serial.map(Into::into), dev: dev.map(Into::into) })
        };
        assert_eq!(found(Some("S1"), Some("/dev/vda1")).as_deref(), Some("vdb"));
        assert_eq!(found(Some("unknown"), Some("/dev/vda1")).as_deref(), Some("vda"));
        assert_eq!(found(None, Some("/dev/vda")).as_deref(), Some("vda"));
        assert_eq!(found(None, Some("/dev/sda1")), None);
        assert_eq!(found(None, Some("vda")), None);
        assert_eq!(found(None, None), None);
    }

    #[test]
    fn neighbours_of_the_host_are_found_by_mac() {
        let definition = Definition::parse(DOCUMENT).unwrap();
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.168.1.7      0x1         0x2         52:54:00:00:00:0A     *        br0\n\
            192.168.1.8      0x1         0x2         52:54:00:00:00:0c     *        br0\nbroken\n";
        let found = neighbours(&definition, table);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].hwaddr.as_deref()),
            ("vnet3", Some("52:54:00:00:00:0a"))
        );
        assert_eq!(found[0].addrs, [DomainIpAddr { kind: 0, addr: "192.168.1.7".into(), prefix: 0 }]);
    }
}
