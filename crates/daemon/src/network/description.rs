//! What a definition means on this host: a network of `host_network`, and what `network_services` serve in it.
//!
//! | definition | here |
//! |---|---|
//! | `nat`, `route`, `open`, no `forward` | a bridge of its own, with the host's addresses, rules and services |
//! | `bridge` with a bridge's name | somebody else's bridge |
//! | `bridge` with interfaces, `private`, `vepa`, `passthrough` | macvtap |
//! | `bridge/@delay='0'` with `stp='on'` | no spanning tree: the kernel has none without a delay, and guests would get no address for twice that long |
//! | `network/@ipv6='yes'` | always so: what passes from port to port of a bridge is no matter of the host's addresses |
//! | `ip/@localPtr` | `no` has others asked for names of the subnet's addresses that nobody here has; nobody is asked otherwise |
//! | `vlan` of it or of a `portgroup` | its bridge keeps VLANs apart; somebody else's has to |
//! | `domain/@register`, `bridge/@zone`, `macTableManager='libvirt'`, `tftp`, `trustGuestRxFilters`, `vlan` with macvtap | refused: nothing here does it |
//! | `spoofing` | guests are held to their own addresses; if nothing is said, those of networks with `nat` are |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use host_network::{
    BridgeSettings, Kind, MacvtapMode, Nat, Network, PortForward, Protocol, Route, Services, Subnet,
};
use libvirt_xml::domain::interface::{ForwardProtocol, MacTableManager, SourceMode};
use libvirt_xml::network::addresses::{Dhcp, Ip, Lease};
use libvirt_xml::network::dns::Dns;
use libvirt_xml::network::extension::{DhcpOption, OptionType};
use libvirt_xml::network::{Forward, ForwardMode, Network as Definition};
use libvirt_xml::{OnOff, YesNo};
use network_services::description::{self as served, Description};

use super::{NetworkError, Uplink, port_settings};

/// Where name servers are asked.
pub(crate) const DNS_PORT: u16 = 53;

/// Length of prefixes that guests make addresses of (RFC 4862, 5.5.3).
const AUTONOMOUS: u8 = 64;

fn unsupported<T>(text: impl Into<String>) -> Result<T, NetworkError> {
    Err(NetworkError::Unsupported(text.into()))
}

/// The network on the host.
pub(crate) fn host(definition: &Definition) -> Result<Network, NetworkError> {
    refuse(definition, definition.name.as_deref().unwrap_or_default())?;
    made(definition)
}

fn made(definition: &Definition) -> Result<Network, NetworkError> {
    let name = definition.name.clone().unwrap_or_default();
    let uuid = uuid::Uuid::from_bytes(definition.uuid.unwrap_or_default().0);
    let bridge = definition.bridge_name().unwrap_or_default();
    let mut network = Network::new(name, uuid, bridge, kind(definition));
    network.isolated_ports = isolates(definition);
    network.bandwidth = port_settings::limits(definition.bandwidth.as_ref());
    // Somebody else's has to have it.
    network.settings.vlan_filtering = port_settings::has_vlans(definition);
    if !definition.has_own_bridge() {
        network.check().map_err(|error| NetworkError::Unsupported(error.to_string()))?;
        return Ok(network);
    }
    network.addresses = definition
        .ips
        .iter()
        .map(|ip| Subnet { address: ip.address.0, prefix: ip.prefix_length() })
        .collect();
    network.settings = settings(definition);
    let routes = definition.routes.iter().map(|route| Route {
        destination: Subnet { address: route.address.0, prefix: route.prefix_length() },
        gateway: route.gateway.0,
        metric: route.metric,
    });
    network.routes = routes.collect();
    let forwards = definition.extension.iter().flat_map(|options| &options.port_forwards);
    let forwards = forwards.map(|forward| PortForward {
        protocol: match forward.protocol {
            ForwardProtocol::Tcp => Protocol::Tcp,
            ForwardProtocol::Udp => Protocol::Udp,
        },
        host_address: forward.address,
        host_port: forward.port,
        guest_address: forward.to.0,
        guest_port: forward.to_port.unwrap_or(forward.port),
    });
    network.forwards = forwards.collect();
    let dhcp = definition.ips.iter().any(|ip| ip.dhcp.is_some());
    network.services = Services { dhcp, dns: names_are_served(definition), dns_port: None };
    network.check().map_err(|error| NetworkError::Unsupported(error.to_string()))?;
    Ok(network)
}

/// The same network, whose names are answered at this port of its addresses rather than at port 53.
pub(crate) fn with_names_at(mut network: Network, dns_port: Option<u16>) -> Network {
    network.services.dns_port = dns_port;
    network
}

/// Refuses a definition that contradicts itself. What is only not done here is refused when the network starts.
pub(crate) fn check(definition: &Definition) -> Result<(), NetworkError> {
    made(definition)?;
    services(definition).map(drop)
}

/// What guests are connected to.
pub(crate) fn uplink(definition: &Definition) -> Result<Uplink, NetworkError> {
    if let Kind::Macvtap { mode, devices } = kind(definition) {
        let mode = match mode {
            MacvtapMode::Bridge => SourceMode::Bridge,
            MacvtapMode::Private => SourceMode::Private,
            MacvtapMode::Vepa => SourceMode::Vepa,
            MacvtapMode::Passthrough => SourceMode::Passthrough,
        };
        return Ok(Uplink::Devices(devices, mode));
    }
    match definition.bridge_name() {
        Some(bridge) => Ok(Uplink::Bridge(bridge.to_owned())),
        None => {
            let name = definition.name.as_deref().unwrap_or_default();
            unsupported(format!("network '{name}' has neither a bridge nor interfaces"))
        }
    }
}

/// What nobody here does.
fn refuse(definition: &Definition, name: &str) -> Result<(), NetworkError> {
    let bridge = definition.bridge.as_ref();
    if bridge.is_some_and(|bridge| bridge.zone.is_some()) {
        return unsupported(format!(
            "network '{name}': zones of firewalld are not chosen here, and not needed for packets to pass: leave 'zone' out"
        ));
    }
    if bridge.is_some_and(|bridge| bridge.mac_table_manager == Some(MacTableManager::Libvirt)) {
        return unsupported(format!(
            "network '{name}': the kernel fills the bridge's table: leave 'macTableManager' out"
        ));
    }
    if definition.domain.as_ref().is_some_and(|domain| domain.register == Some(YesNo::Yes)) {
        return unsupported(format!(
            "network '{name}': its domain is not registered with the host's resolver"
        ));
    }
    if definition.ips.iter().any(|ip| ip.tftp.is_some()) {
        return unsupported(format!(
            "network '{name}': there is no TFTP server here: name another one in <bootp server='...'/>"
        ));
    }
    if spoofing(definition) == Some(YesNo::No) && !definition.has_own_bridge() {
        return unsupported(format!(
            "network '{name}': which addresses guests have is not known there: leave 'spoofing' out, and add <filterref \
             filter='clean-traffic'> with the guest's address to domains' interfaces"
        ));
    }
    let trusts = |trusted: Option<YesNo>| trusted == Some(YesNo::Yes);
    if trusts(definition.trust_guest_rx_filters)
        || definition.port_groups.iter().any(|group| trusts(group.trust_guest_rx_filters))
    {
        return unsupported(format!(
            "network '{name}': what guests want to receive is not taken over by the host: leave 'trustGuestRxFilters' out"
        ));
    }
    if let Some(wrong) = port_settings::wrong_vlans(definition) {
        return unsupported(format!("network '{name}': {wrong}"));
    }
    if port_settings::has_vlans(definition) && definition.bridge_name().is_none() {
        return unsupported(format!(
            "<vlan> element specified for network {name}, whose type doesn't support vlan configuration: \
             macvtap has none, use a network with a bridge"
        ));
    }
    Ok(())
}

/// Whether guests may pretend to be others, if that is said.
fn spoofing(definition: &Definition) -> Option<YesNo> {
    let spoofing = definition.extension.as_ref()?.spoofing.as_ref()?;
    Some(spoofing.allow)
}

/// Whether all guests are held to their own addresses.
pub(crate) fn holds_guests(definition: &Definition) -> bool {
    let translated = definition.forward_mode() == Some(ForwardMode::Nat);
    spoofing(definition).map_or(translated, |allowed| allowed == YesNo::No)
}

fn isolates(definition: &Definition) -> bool {
    definition.port.as_ref().is_some_and(|port| port.isolated == Some(YesNo::Yes))
}

fn kind(definition: &Definition) -> Kind {
    let Some(forward) = &definition.forward else { return Kind::Isolated };
    let devices = || forward.interfaces.iter().filter_map(|interface| interface.dev.clone()).collect();
    let macvtap = |mode| Kind::Macvtap { mode, devices: devices() };
    match forward.mode {
        ForwardMode::Nat => Kind::Nat(nat(forward)),
        ForwardMode::Route => Kind::Routed { device: forward.dev.clone() },
        ForwardMode::Open => Kind::Open,
        ForwardMode::Bridge if forward.interfaces.is_empty() => Kind::ExistingBridge,
        ForwardMode::Bridge => macvtap(MacvtapMode::Bridge),
        ForwardMode::Private => macvtap(MacvtapMode::Private),
        ForwardMode::Vepa => macvtap(MacvtapMode::Vepa),
        ForwardMode::Passthrough => macvtap(MacvtapMode::Passthrough),
    }
}

fn nat(forward: &Forward) -> Nat {
    let nat = forward.nat.as_ref();
    let addresses = nat.and_then(|nat| nat.addresses.as_ref());
    let addresses = addresses.and_then(|range| match (range.start.0, range.end.0) {
        (IpAddr::V4(start), IpAddr::V4(end)) => Some((start, end)),
        _ => None,
    });
    Nat {
        ports: nat.and_then(|nat| nat.ports.as_ref()).map(|ports| ports.start..=ports.end),
        addresses,
        device: forward.dev.clone(),
        ipv6: nat.is_some_and(|nat| nat.ipv6 == Some(YesNo::Yes)),
    }
}

fn settings(definition: &Definition) -> BridgeSettings {
    let bridge = definition.bridge.clone().unwrap_or_default();
    let delay = u16::try_from(bridge.delay.unwrap_or(0)).unwrap_or(u16::MAX);
    let stp = bridge.stp == Some(OnOff::On) && delay > 0;
    BridgeSettings {
        stp,
        // The least that there can be with a spanning tree (IEEE 802.1D, 8.10.2), and no delay without one.
        forward_delay: if stp { delay.max(2) } else { 0 },
        mtu: definition.mtu.as_ref().map(|mtu| mtu.size),
        mac: definition.mac.as_ref().map(|mac| mac.address.0),
        vlan_filtering: port_settings::has_vlans(definition),
    }
}

/// Whether the host answers for names: libvirt does wherever it has an address.
fn names_are_served(definition: &Definition) -> bool {
    !definition.ips.is_empty() && definition.dns.as_ref().is_none_or(Dns::is_enabled)
}

/// Whether anything is served in the network.
pub(crate) fn is_served(definition: &Definition) -> bool {
    definition.has_own_bridge() && !definition.ips.is_empty()
}

/// What is served in the network; none if nothing is.
pub(crate) fn services(definition: &Definition) -> Result<Option<Description>, NetworkError> {
    if !is_served(definition) {
        return Ok(None);
    }
    let dhcp = |ipv6: bool| {
        let ip = definition.ips.iter().find(|ip| ip.address.0.is_ipv6() == ipv6 && ip.dhcp.is_some());
        ip.and_then(|ip| ip.dhcp.as_ref())
    };
    let description = Description {
        name: definition.name.clone().unwrap_or_default(),
        uuid: definition.uuid.unwrap_or_default().to_string(),
        bridge: definition.bridge_name().unwrap_or_default().to_owned(),
        addresses: definition.ips.iter().map(own).collect(),
        gateway: definition.forward.is_some(),
        mtu: definition.mtu.as_ref().and_then(|mtu| u16::try_from(mtu.size).ok()),
        domain: definition.domain.as_ref().map(|domain| served::Domain {
            name: domain.name.clone(),
            local_only: domain.local_only == Some(YesNo::Yes),
        }),
        dhcp4: dhcp(false).map(|dhcp| dhcp4(definition, dhcp)).transpose()?,
        dhcp6: dhcp(true).map(dhcp6),
        router_advertisements: advertisements(definition, dhcp(true).is_some()),
        dns: names_are_served(definition).then(|| dns(definition)),
        ..Description::default()
    };
    let checked = description.clone().check();
    checked.map_err(|error| NetworkError::Unsupported(error.to_string()))?;
    Ok(Some(description))
}

fn own(ip: &Ip) -> served::OwnAddress {
    served::OwnAddress { address: ip.address.0, prefix: ip.prefix_length().unwrap_or(0) }
}

fn seconds(lease: Option<&Lease>) -> Option<u32> {
    lease.map_or(Some(served::DEFAULT_LEASE), Lease::seconds)
}

fn dhcp4(definition: &Definition, dhcp: &Dhcp) -> Result<served::Dhcp4, NetworkError> {
    let ipv4 = |address: Option<IpAddr>| match address {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    let ranges = dhcp.ranges.iter().filter_map(|range| {
        let (start, end) = (ipv4(range.start)?, ipv4(range.end)?);
        Some(served::Range { start, end, lease_seconds: seconds(range.lease.as_ref()) })
    });
    let routes = definition.routes.iter().filter_map(|route| match (route.address.0, route.gateway.0) {
        (IpAddr::V4(destination), IpAddr::V4(gateway)) => {
            Some(served::Route { destination, prefix: route.prefix_length()?, gateway })
        }
        _ => None,
    });
    let mut options = std::collections::BTreeMap::new();
    for option in definition.extension.iter().flat_map(|extension| &extension.dhcp_options) {
        options.insert(option.number, self::option(option)?);
    }
    let bootp = dhcp.bootp.as_ref();
    Ok(served::Dhcp4 {
        ranges: ranges.collect(),
        hosts: hosts(dhcp, ipv4),
        options,
        routes: routes.collect(),
        next_server: bootp.and_then(|bootp| bootp.server),
        server_name: None,
        boot_file: bootp.and_then(|bootp| bootp.file.clone()),
    })
}

fn dhcp6(dhcp: &Dhcp) -> served::Dhcp6 {
    let ipv6 = |address: Option<IpAddr>| match address {
        Some(IpAddr::V6(address)) => Some(address),
        _ => None,
    };
    let ranges = dhcp.ranges.iter().filter_map(|range| {
        let (start, end) = (ipv6(range.start)?, ipv6(range.end)?);
        Some(served::Range { start, end, lease_seconds: seconds(range.lease.as_ref()) })
    });
    served::Dhcp6 { ranges: ranges.collect(), hosts: hosts(dhcp, ipv6) }
}

fn hosts<A>(dhcp: &Dhcp, address: impl Fn(Option<IpAddr>) -> Option<A>) -> Vec<served::Host<A>> {
    let host = |host: &libvirt_xml::network::addresses::DhcpHost| served::Host {
        mac: host.mac.map(|mac| network_services::MacAddress(mac.0)),
        client_id: host.id.clone(),
        name: host.name.clone(),
        address: address(host.ip),
        lease: host.lease.as_ref().map(|lease| match lease.seconds() {
            Some(seconds) => served::LeaseTime::Seconds(seconds),
            None => served::LeaseTime::Forever,
        }),
    };
    dhcp.hosts.iter().map(host).collect()
}

/// What an option of DHCP says.
fn option(option: &DhcpOption) -> Result<served::OptionValue, NetworkError> {
    let DhcpOption { number, kind, value } = option;
    let kind = kind.unwrap_or_default();
    let wrong = || {
        NetworkError::Unsupported(format!("option {number} of DHCP: '{value:.64}' is not of type '{kind}'"))
    };
    let value = value.trim();
    Ok(match kind {
        OptionType::Addresses => {
            let addresses: Result<Vec<Ipv4Addr>, _> =
                value.split(',').map(|one| one.trim().parse()).collect();
            served::OptionValue::Addresses(addresses.map_err(|_| wrong())?)
        }
        OptionType::Text => served::OptionValue::Text(value.to_owned()),
        OptionType::Byte => served::OptionValue::Byte(value.parse().map_err(|_| wrong())?),
        OptionType::Word => served::OptionValue::Word(value.parse().map_err(|_| wrong())?),
        OptionType::Long => served::OptionValue::Long(value.parse().map_err(|_| wrong())?),
        OptionType::Hex => served::OptionValue::Bytes(value.to_owned()),
    })
}

/// Prefixes of the host's addresses. Guests have their addresses from DHCP where it is, and make them by themselves otherwise.
fn advertisements(definition: &Definition, dhcp: bool) -> Option<served::RouterAdvertisements> {
    let prefixes = definition.ips.iter().filter_map(|ip| {
        let (IpAddr::V6(address), length) = (ip.address.0, ip.prefix_length()?) else { return None };
        let hosts = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        let prefix = Ipv6Addr::from(u128::from(address) & !hosts);
        Some(served::AdvertisedPrefix { prefix, length, autonomous: !dhcp && length == AUTONOMOUS })
    });
    let prefixes: Vec<_> = prefixes.collect();
    (!prefixes.is_empty()).then_some(served::RouterAdvertisements { prefixes, managed: dhcp, other: dhcp })
}

fn dns(definition: &Definition) -> served::Dns {
    let empty = Dns::default();
    let dns = definition.dns.as_ref().unwrap_or(&empty);
    let forwarders = dns.forwarders.iter().map(|forwarder| served::Forwarder {
        address: forwarder.address.map(|address| SocketAddr::new(address, DNS_PORT)),
        domain: forwarder.domain.clone(),
    });
    let services = dns.services.iter().map(|service| served::ServiceRecord {
        service: service.service.clone().unwrap_or_default(),
        protocol: service.protocol.clone().unwrap_or_default(),
        domain: service.domain.clone(),
        // A dot says that nobody offers it (RFC 2782).
        target: service.target.clone().filter(|target| target != "."),
        port: service.port.unwrap_or(0),
        priority: service.priority.unwrap_or(0),
        weight: service.weight.unwrap_or(0),
    });
    let hosts = dns
        .hosts
        .iter()
        .filter_map(|host| Some(served::HostRecord { address: host.ip?, names: host.names.clone() }));
    let texts = dns
        .texts
        .iter()
        .filter_map(|text| Some(served::TextRecord { name: text.name.clone()?, value: text.value.clone()? }));
    let foreign = definition.ips.iter().filter(|ip| ip.local_ptr == Some(YesNo::No));
    served::Dns {
        forwarders: forwarders.collect(),
        forward: true,
        forward_plain_names: dns.forward_plain_names != Some(YesNo::No),
        hosts: hosts.collect(),
        texts: texts.collect(),
        services: services.collect(),
        foreign_pointers: foreign.map(own).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(attributes: &str, ip: &str) -> Definition {
        let document = format!(
            "<network {attributes}><name>n</name><bridge name='b0'/><ip address='10.0.0.1' prefix='24' {ip}</ip></network>"
        );
        Definition::parse(&document).unwrap()
    }

    #[test]
    fn leases_of_hosts_and_names_of_addresses_are_as_the_definition_has_them() {
        let dhcp = "<dhcp><host mac='52:54:00:00:00:01' ip='10.0.0.2'><lease expiry='0'/></host>\
            <host mac='52:54:00:00:00:02' ip='10.0.0.3'><lease expiry='2' unit='hours'/></host>\
            <host mac='52:54:00:00:00:03' ip='10.0.0.4'/></dhcp>";
        let served = |local: &str| services(&definition("", &format!("{local}>{dhcp}"))).unwrap().unwrap();
        let times: Vec<_> = served("").dhcp4.unwrap().hosts.iter().map(|host| host.lease).collect();
        let two_hours = served::LeaseTime::Seconds(7200);
        assert_eq!(times, [Some(served::LeaseTime::Forever), Some(two_hours), None]);
        for (local, others) in [("", 0), ("localPtr='yes'", 0), ("localPtr='no'", 1)] {
            assert_eq!(served(local).dns.unwrap().foreign_pointers.len(), others, "{local}");
        }
    }

    #[test]
    fn what_is_not_done_here_can_be_defined_and_what_contradicts_itself_can_not() {
        let trusting = definition("trustGuestRxFilters='yes'", ">");
        assert!(host(&trusting).unwrap_err().to_string().contains("trustGuestRxFilters"));
        check(&trusting).unwrap();
        let outside = definition("", "><dhcp><range start='10.0.1.2' end='10.0.1.9'/></dhcp>");
        assert!(check(&outside).unwrap_err().to_string().contains("10.0.1.2"));
    }
}
