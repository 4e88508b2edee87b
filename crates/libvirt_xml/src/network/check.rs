//! What the format can't say: numbers and names that must agree, inside of one network.
//!
//! Meant for definitions that [`super::assign::define`] has completed. What collides with the host or with other networks is found out
//! by those who know them.

use std::collections::BTreeSet;

use super::addresses::Route;
use super::extension::PortForward;
use super::{Bridge, Forward, ForwardMode, Network, NetworkError};
use crate::domain::interface::{Bandwidth, IpFamily};
use crate::error::{XmlError, XmlFault};
use crate::value::YesNo;

mod dhcp;
mod names;

/// Longest name, bytes: with what is added to it, it has to be a file's name.
const MAX_NAME_BYTES: usize = 200;

/// Longest name of an interface of the host, bytes (IFNAMSIZ of linux/if.h, and the zero at the end).
const MAX_INTERFACE_BYTES: usize = 15;

/// MTUs that a bridge can have (RFC 791, and ETH_MAX_MTU of linux/if_ether.h).
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

/// Most seconds of a bridge's delay (IEEE 802.1D, 8.10.2).
const MAX_DELAY: u32 = 30;

/// What can be said against a network.
pub(super) type Checked = Result<(), NetworkError>;

/// Checks a definition.
pub fn check(network: &Network) -> Checked {
    name(network)?;
    if let Some(forward) = &network.forward {
        way_outside(network, forward)?;
    }
    bridge(network)?;
    addresses(network)?;
    dhcp::check(network)?;
    for route in &network.routes {
        self::route(network, route)?;
    }
    names::check(network)?;
    groups(network)?;
    forwards(network)
}

pub(super) fn contradiction(text: impl Into<String>) -> NetworkError {
    NetworkError::Contradiction(text.into())
}

pub(super) fn unsupported(text: impl Into<String>) -> NetworkError {
    NetworkError::Unsupported(text.into())
}

fn name(network: &Network) -> Checked {
    let Some(name) = network.name.as_deref().filter(|name| !name.trim().is_empty()) else {
        let fault = XmlFault::Missing("element \"name\"".to_owned());
        return Err(XmlError::new("network", fault).into());
    };
    if let Some(invalid) = name.chars().find(|character| *character == '/' || character.is_control()) {
        return Err(contradiction(format!("invalid char in name: {}", invalid.escape_default())));
    }
    // Names are parts of paths.
    if name.len() > MAX_NAME_BYTES || matches!(name, "." | "..") {
        return Err(contradiction(format!(
            "name '{name:.64}' is not of 1 to {MAX_NAME_BYTES} bytes, '.' or '..'"
        )));
    }
    if network.title.as_ref().is_some_and(|title| title.contains('\n')) {
        return Err(contradiction("Network title can't contain newlines"));
    }
    Ok(())
}

/// Whether the kernel takes it as an interface's name (dev_valid_name of net/core/dev.c); settings of `all` and `default` are not those
/// of one interface (Documentation/networking/ip-sysctl.rst).
fn is_interface(name: &str) -> bool {
    let refused = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'/' | b':' | b'%');
    !name.is_empty()
        && name.len() <= MAX_INTERFACE_BYTES
        && !matches!(name, "." | ".." | "all" | "default")
        && !name.bytes().any(refused)
}

fn interface(name: Option<&str>, network: &Network) -> Checked {
    let Some(name) = name else {
        return Err(contradiction(format!(
            "Missing required dev attribute in <forward> <interface> element of network '{}'",
            network.called()
        )));
    };
    if is_interface(name) {
        return Ok(());
    }
    Err(contradiction(format!(
        "'{name:.64}' can't be the name of an interface in network '{}': 1 to {MAX_INTERFACE_BYTES} printable characters without blanks, '/', ':' and '%'",
        network.called()
    )))
}

fn way_outside(network: &Network, forward: &Forward) -> Checked {
    let (called, mode) = (network.called(), forward.mode);
    for one in &forward.interfaces {
        interface(one.dev.as_deref(), network)?;
    }
    let first = forward.interfaces.first().and_then(|first| first.dev.as_deref());
    if let (Some(dev), Some(first)) = (&forward.dev, first)
        && dev != first
    {
        return Err(contradiction(format!(
            "<forward dev='{dev}'> must match first <interface dev='{first}'/> in network {called}"
        )));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = forward.interfaces.iter().find(|one| !seen.insert(&one.dev)) {
        let dev = twice.dev.as_deref().unwrap_or_default();
        return Err(contradiction(format!("interface '{dev}' is named twice in network '{called}'")));
    }
    if mode != ForwardMode::Nat && forward.nat.is_some() {
        return Err(contradiction(format!(
            "The <nat> element can only be used when <forward> 'mode' is 'nat' in network {called}"
        )));
    }
    translation(network, forward)?;
    if mode.has_own_bridge() {
        if network.ips.is_empty() {
            return Err(contradiction(format!(
                "{mode} forwarding requested, but no IP address provided for network '{called}'"
            )));
        }
        if forward.interfaces.len() > 1 {
            return Err(contradiction(format!(
                "multiple forwarding interfaces specified for network '{called}', only one is supported"
            )));
        }
        if mode == ForwardMode::Open && !forward.interfaces.is_empty() {
            return Err(contradiction(format!(
                "forward dev not allowed for network '{called}' with forward mode='open'"
            )));
        }
        return Ok(());
    }
    if mode != ForwardMode::Bridge && network.bridge_name().is_some() {
        return Err(contradiction(format!("bridge name not allowed in {mode} mode (network '{called}')")));
    }
    if network.bridge_name().is_some() && !forward.interfaces.is_empty() {
        return Err(contradiction(format!(
            "A network with forward mode='{mode}' can specify a bridge name or a forward dev, but not both (network '{called}')"
        )));
    }
    if network.bridge_name().is_none() && forward.interfaces.is_empty() {
        return Err(contradiction(format!(
            "network '{called}' with forward mode='{mode}' needs an interface of the host, or the name of a bridge in mode 'bridge'"
        )));
    }
    Ok(())
}

fn translation(network: &Network, forward: &Forward) -> Checked {
    let called = network.called();
    let Some(nat) = &forward.nat else { return Ok(()) };
    if let Some(range) = &nat.addresses {
        for (address, which) in [(range.start, "start"), (range.end, "end")] {
            if address.0.is_ipv6() {
                return Err(contradiction(format!(
                    "Bad ipv4 {which} address '{address}' in <nat> in <forward> in network '{called}'"
                )));
            }
        }
        if range.start > range.end {
            return Err(contradiction(format!("range {} - {} is reversed", range.start, range.end)));
        }
    }
    if let Some(ports) = &nat.ports {
        let wrong = if ports.start == 0 { Some("start") } else { (ports.end < ports.start).then_some("end") };
        if let Some(wrong) = wrong {
            return Err(contradiction(format!(
                "Missing or invalid '{wrong}' attribute in <port> in <nat> in <forward> in network {called}"
            )));
        }
    }
    let ipv6 = network.ips.iter().any(|ip| ip.address.0.is_ipv6());
    if nat.ipv6 == Some(YesNo::Yes) && !ipv6 {
        return Err(contradiction(format!("network '{called}' translates IPv6, but has no IPv6 address")));
    }
    Ok(())
}

fn bridge(network: &Network) -> Checked {
    let called = network.called();
    let mode = network.forward_mode();
    if network.has_own_bridge() {
        let Some(name) = network.bridge_name() else {
            return Err(contradiction(format!(
                "no name is free for the bridge of network '{called}': give it one"
            )));
        };
        bridge_name(network, name)?;
        if let Some(delay) = network.bridge.as_ref().and_then(|bridge| bridge.delay)
            && delay > MAX_DELAY
        {
            return Err(contradiction(format!(
                "Invalid delay value in network '{called}': {delay} seconds are more than {MAX_DELAY}"
            )));
        }
    } else {
        not_network_wide(network, mode.unwrap_or_default())?;
        if let Some(name) = network.bridge_name() {
            bridge_name(network, name)?;
        }
    }
    if let Some(mac) = &network.mac
        && (mac.address.is_multicast() || mac.address.0 == [0; 6])
    {
        return Err(contradiction(format!(
            "Invalid multicast bridge mac address '{}' in network '{called}'",
            mac.address
        )));
    }
    if let Some(mtu) = &network.mtu
        && !MTU.contains(&mtu.size)
    {
        let (least, most) = MTU.into_inner();
        return Err(contradiction(format!(
            "Invalid mtu size '{}' in network '{called}': {least} to {most} bytes",
            mtu.size
        )));
    }
    bandwidth(network.bandwidth.as_ref(), called)
}

fn bridge_name(network: &Network, name: &str) -> Checked {
    if is_interface(name) {
        return Ok(());
    }
    Err(contradiction(format!(
        "'{name:.64}' can't be the name of a bridge (network '{}'): 1 to {MAX_INTERFACE_BYTES} printable characters without blanks, '/', ':' and '%'",
        network.called()
    )))
}

/// What a network that hands its guests to somebody else's bridge or interface can't have.
fn not_network_wide(network: &Network, mode: ForwardMode) -> Checked {
    let called = network.called();
    if let Some(Bridge { stp, delay, zone, .. }) = &network.bridge
        && (stp.is_some() || delay.is_some() || zone.is_some())
    {
        return Err(contradiction(format!(
            "bridge delay/stp/zone options only allowed in route, nat, and isolated mode, not in {mode} (network '{called}')"
        )));
    }
    let options = network.extension.as_ref();
    let found = [
        (!network.ips.is_empty(), "ip"),
        (network.dns.is_some(), "dns"),
        (network.domain.is_some(), "domain"),
        (!network.routes.is_empty(), "route"),
        (network.mac.is_some(), "mac"),
        (options.is_some_and(|options| !options.dhcp_options.is_empty()), "vireo:dhcpOption"),
        (options.is_some_and(|options| !options.port_forwards.is_empty()), "vireo:portForward"),
    ];
    match found.into_iter().find(|(there, _)| *there) {
        Some((_, element)) => Err(unsupported(format!(
            "Unsupported network-wide <{element}> element in network {called} with forward mode='{mode}'"
        ))),
        None => Ok(()),
    }
}

fn bandwidth(bandwidth: Option<&Bandwidth>, called: &str) -> Checked {
    let Some(bandwidth) = bandwidth else { return Ok(()) };
    for (limit, what) in [(&bandwidth.inbound, "inbound"), (&bandwidth.outbound, "outbound")] {
        let Some(limit) = limit else { continue };
        if limit.floor.is_some() {
            return Err(unsupported("floor attribute is not supported for this config"));
        }
        let Some(average) = limit.average.filter(|average| *average > 0) else {
            return Err(contradiction(format!(
                "Missing mandatory average attribute of {what} in network '{called}'"
            )));
        };
        let of_32_bits = |number: Option<u64>| number.is_none_or(|number| u32::try_from(number).is_ok());
        if !of_32_bits(limit.average) || !of_32_bits(limit.peak) || !of_32_bits(limit.burst) {
            return Err(contradiction(format!("{what} bandwidth of network '{called}' is out of range")));
        }
        if limit.peak.is_some_and(|peak| peak < average) || limit.burst == Some(0) {
            return Err(contradiction(format!(
                "{what} bandwidth of network '{called}': the peak is less than the average, or the burst is 0"
            )));
        }
    }
    Ok(())
}

fn addresses(network: &Network) -> Checked {
    let called = network.called();
    for (index, ip) in network.ips.iter().enumerate() {
        let address = ip.address.0;
        family(ip.family, address.is_ipv6(), || format!("'{address}' in network '{called}'"))?;
        if address.is_ipv6() && ip.netmask.is_some() {
            return Err(unsupported(format!(
                "netmask not allowed for IPv6 address '{address}' in network '{called}'"
            )));
        }
        if ip.netmask.is_some() && ip.prefix.is_some() {
            return Err(unsupported(format!(
                "Network '{called}' IP address cannot have both a prefix and a netmask"
            )));
        }
        let (version, bits) = if address.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
        let Some(prefix) = ip.prefix_length() else {
            return Err(unsupported(format!(
                "{version} address '{address}' in network '{called}' has no prefix: give one, as in prefix='64'"
            )));
        };
        if prefix == 0 || prefix > bits {
            return Err(unsupported(format!("Invalid {version} prefix '{prefix}' in network '{called}'")));
        }
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(contradiction(format!(
                "Invalid address '{address}' in network '{called}': the host can't have it there"
            )));
        }
        let overlaps = |other: &&super::Ip| {
            let Some(common) = other.prefix_length().map(|other| other.min(prefix)) else { return false };
            super::addresses::in_subnet(other.address.0, address, common)
        };
        if let Some(other) = network.ips[..index].iter().find(overlaps) {
            return Err(contradiction(format!(
                "addresses '{}' and '{address}' in network '{called}' are in overlapping subnets",
                other.address
            )));
        }
        if ip.tftp.is_some() && address.is_ipv6() {
            return Err(unsupported(format!(
                "Unsupported <tftp> element in an IPv6 element in network '{called}'"
            )));
        }
    }
    Ok(())
}

/// The family that is said must be that of the address.
fn family(said: Option<IpFamily>, ipv6: bool, which: impl Fn() -> String) -> Checked {
    let text = match (said, ipv6) {
        (None, true) => format!("no family specified for non-IPv4 address {}", which()),
        (Some(IpFamily::Ipv4), true) => format!("Family 'ipv4' specified for non-IPv4 address {}", which()),
        (Some(IpFamily::Ipv6), false) => format!("Family 'ipv6' specified for non-IPv6 address {}", which()),
        _ => return Ok(()),
    };
    Err(unsupported(text))
}

fn route(network: &Network, route: &Route) -> Checked {
    let (called, address, gateway) = (network.called(), route.address.0, route.gateway.0);
    match (route.family, address.is_ipv6()) {
        (None, true) => {
            let text =
                format!("{called}: No family specified for non-IPv4 address '{address}' in route definition");
            return Err(contradiction(text));
        }
        (Some(IpFamily::Ipv4), true) => {
            let text =
                format!("{called}: ipv4 specified for non-IPv4 address '{address}' in route definition");
            return Err(contradiction(text));
        }
        (Some(IpFamily::Ipv6), false) => {
            let text =
                format!("{called}: ipv6 specified for non-IPv6 address '{address}' in route definition");
            return Err(contradiction(text));
        }
        _ => {}
    }
    if address.is_ipv6() != gateway.is_ipv6() {
        let version = if address.is_ipv6() { 6 } else { 4 };
        return Err(contradiction(format!(
            "{called}: ipv{version} specified for non-IPv{version} gateway address '{gateway}' in route definition"
        )));
    }
    if route.netmask.is_some() && (route.prefix.is_some() || address.is_ipv6()) {
        let what =
            if address.is_ipv6() { "an IPv6 address and a netmask" } else { "both a prefix and a netmask" };
        return Err(contradiction(format!("{called}: Route definition cannot have {what}")));
    }
    let Some(prefix) = route.prefix_length() else {
        return Err(contradiction(format!("{called}: Route definition to '{address}' has no prefix")));
    };
    let (number, bits) = super::addresses::number(address);
    if prefix > bits {
        return Err(contradiction(format!("{called}: Invalid prefix '{prefix}' in route definition")));
    }
    if super::addresses::masked(address, prefix) != Some(number) {
        return Err(contradiction(format!(
            "{called}: Address '{address}' in route definition is not a network address"
        )));
    }
    if route.metric == Some(0) {
        return Err(contradiction(
            "Invalid value for attribute 'metric' in element 'route': Zero is not permitted",
        ));
    }
    let reaches = |ip: &super::Ip| {
        ip.prefix_length().is_some_and(|prefix| super::addresses::in_subnet(gateway, ip.address.0, prefix))
    };
    if !network.ips.iter().any(reaches) {
        return Err(unsupported(format!(
            "unreachable static route gateway '{gateway}' specified for network '{called}'"
        )));
    }
    Ok(())
}

fn groups(network: &Network) -> Checked {
    let called = network.called();
    let (mut names, mut default) = (BTreeSet::new(), None::<&str>);
    for group in &network.port_groups {
        if group.name.is_empty() {
            return Err(contradiction("Missing required name attribute in portgroup"));
        }
        if !names.insert(&group.name) {
            return Err(unsupported(format!(
                "multiple <portgroup> elements with the same name (name='{}') in network '{called}'",
                group.name
            )));
        }
        if group.default == Some(YesNo::Yes)
            && let Some(other) = default.replace(&group.name)
        {
            return Err(unsupported(format!(
                "network '{called}' has multiple default <portgroup> elements ({other} and {}), but only one default is allowed",
                group.name
            )));
        }
        bandwidth(group.bandwidth.as_ref(), called)?;
        tags(group.vlan.as_ref(), called)?;
    }
    tags(network.vlan.as_ref(), called)
}

fn tags(vlan: Option<&crate::domain::interface::Vlan>, called: &str) -> Checked {
    let Some(vlan) = vlan else { return Ok(()) };
    if vlan.tags.is_empty() {
        return Err(contradiction(
            "missing tag id - each <vlan> must have at least one <tag id='n'/> subelement",
        ));
    }
    if let Some(tag) = vlan.tags.iter().find(|tag| tag.id > 4095) {
        return Err(contradiction(format!("vlan tag id {} too large (maximum 4095)", tag.id)));
    }
    if vlan.trunk == Some(YesNo::No) && vlan.tags.len() > 1 {
        return Err(contradiction(format!(
            "invalid \"trunk='no'\" in <vlan> of network '{called}' with several tags"
        )));
    }
    Ok(())
}

fn forwards(network: &Network) -> Checked {
    let called = network.called();
    let Some(options) = &network.extension else { return Ok(()) };
    let possible = matches!(network.forward_mode(), Some(ForwardMode::Nat | ForwardMode::Route));
    for (index, forward) in options.port_forwards.iter().enumerate() {
        let what = format!("forward of {} port {} in network '{called}'", forward.protocol, forward.port);
        if !possible {
            return Err(unsupported(format!(
                "{what}: the network has neither forward mode='nat' nor 'route'"
            )));
        }
        if forward.port == 0 || forward.to_port == Some(0) {
            return Err(contradiction(format!("{what}: there is no port 0")));
        }
        let inside = |ip: &super::Ip| {
            ip.prefix_length()
                .is_some_and(|prefix| super::addresses::in_subnet(forward.to.0, ip.address.0, prefix))
        };
        if !network.ips.iter().any(inside) || network.ips.iter().any(|ip| ip.address == forward.to) {
            return Err(contradiction(format!("{what}: '{}' can't be a guest's address there", forward.to)));
        }
        if forward.address.is_some_and(|address| address.is_ipv4() != forward.to.0.is_ipv4()) {
            return Err(contradiction(format!("{what}: both addresses have to be of one family")));
        }
        // One without address is for all that the host has, of the guest's family.
        let same = |other: &&PortForward| {
            (other.protocol, other.port) == (forward.protocol, forward.port)
                && other.to.0.is_ipv4() == forward.to.0.is_ipv4()
                && (other.address.is_none() || forward.address.is_none() || other.address == forward.address)
        };
        if let Some(other) = options.port_forwards[..index].iter().find(same) {
            return Err(contradiction(format!("{what}: the port is forwarded to '{}' as well", other.to)));
        }
    }
    Ok(())
}
