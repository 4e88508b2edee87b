//! What DHCP gives: inside of the subnet, nothing twice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Checked, contradiction, unsupported};
use crate::network::Network;
use crate::network::addresses::{Dhcp, DhcpHost, DhcpRange, Ip, Lease, in_subnet, masked, number};

/// Most addresses of a range; libvirt's bound.
const MOST_ADDRESSES: u128 = 65_535;

/// Shortest lease, seconds; libvirt's bound.
const SHORTEST_LEASE: u32 = 120;

pub(super) fn check(network: &Network) -> Checked {
    for (ipv6, version) in [(false, "IPv4"), (true, "IPv6")] {
        let served = network.ips.iter().filter(|ip| ip.dhcp.is_some() && ip.address.0.is_ipv6() == ipv6);
        if served.count() > 1 {
            return Err(unsupported(format!(
                "Multiple {version} dhcp sections found -- dhcp is supported only for a single {version} address on each network"
            )));
        }
    }
    for ip in &network.ips {
        let (Some(dhcp), Some(prefix)) = (&ip.dhcp, ip.prefix_length()) else { continue };
        ranges(ip, prefix, dhcp)?;
        hosts(network, ip, prefix, dhcp)?;
        if ip.address.0.is_ipv6() && dhcp.bootp.is_some() {
            return Err(unsupported(format!(
                "Unsupported <bootp> element in an IPv6 element in network '{}'",
                network.called()
            )));
        }
    }
    Ok(())
}

fn lease(lease: Option<&Lease>) -> Checked {
    match lease.and_then(Lease::seconds) {
        Some(seconds) if seconds < SHORTEST_LEASE => {
            Err(unsupported("The minimum lease time should be greater than 2 minutes"))
        }
        _ => Ok(()),
    }
}

fn ranges(ip: &Ip, prefix: u8, dhcp: &Dhcp) -> Checked {
    let mut sorted = Vec::new();
    for range in &dhcp.ranges {
        let (start, end) = range_in(range, ip.address.0, prefix)?;
        sorted.push((number(start).0, number(end).0, start, end));
        lease(range.lease.as_ref())?;
    }
    sorted.sort_unstable_by_key(|range| range.0);
    for pair in sorted.windows(2) {
        if let [(_, last, start, end), (first, _, other_start, other_end)] = pair
            && last >= first
        {
            return Err(contradiction(format!(
                "range {start} - {end} overlaps with range {other_start} - {other_end}"
            )));
        }
    }
    Ok(())
}

/// First and last address of a range that fits into a subnet.
fn range_in(range: &DhcpRange, own: IpAddr, prefix: u8) -> Result<(IpAddr, IpAddr), super::NetworkError> {
    let missing = |name: &str| contradiction(format!("Missing '{name}' attribute in dhcp range"));
    let start = range.start.ok_or_else(|| missing("start"))?;
    let end = range.end.ok_or_else(|| missing("end"))?;
    let text = format!("range {start} - {end}");
    if start.is_ipv4() != own.is_ipv4() || end.is_ipv4() != own.is_ipv4() {
        return Err(contradiction(format!("mismatch of address family in {text} for network {own}")));
    }
    let ((first, bits), (last, _)) = (number(start), number(end));
    if first > last {
        return Err(contradiction(format!("{text} is reversed")));
    }
    if !in_subnet(start, own, prefix) || !in_subnet(end, own, prefix) {
        return Err(contradiction(format!("{text} is not entirely within network {own}/{prefix}")));
    }
    if own.is_ipv4() && prefix < bits - 1 {
        let network = masked(own, prefix).unwrap_or(0);
        let broadcast = network | ((1 << (bits - prefix)) - 1);
        if first == network {
            return Err(contradiction(format!(
                "start of {text} in network {own}/{prefix} is the network address"
            )));
        }
        if last == broadcast {
            return Err(contradiction(format!(
                "end of {text} in network {own}/{prefix} is the broadcast address"
            )));
        }
    }
    if last - first >= MOST_ADDRESSES {
        return Err(contradiction(format!("{text} is too large (> {MOST_ADDRESSES})")));
    }
    Ok((start, end))
}

fn hosts(network: &Network, ip: &Ip, prefix: u8, dhcp: &Dhcp) -> Checked {
    let called = network.called();
    let mut seen = BTreeSet::new();
    for host in &dhcp.hosts {
        let address = known_by(called, ip, host)?;
        if !in_subnet(address, ip.address.0, prefix) {
            let own = ip.address;
            return Err(contradiction(format!(
                "static host '{address}' is not within network {own}/{prefix} (network '{called}')"
            )));
        }
        if network.ips.iter().any(|ip| ip.address.0 == address) {
            return Err(contradiction(format!(
                "static host '{address}' in network '{called}' has the address of the host"
            )));
        }
        lease(host.lease.as_ref())?;
        let known = [
            host.mac.map(|mac| format!("MAC address '{mac}'")),
            host.id.as_ref().map(|id| format!("id '{}'", id.to_ascii_lowercase())),
            host.name.as_ref().map(|name| format!("name '{}'", name.to_ascii_lowercase())),
            Some(format!("IP address '{address}'")),
        ];
        for what in known.into_iter().flatten() {
            if !seen.insert(what.clone()) {
                return Err(contradiction(format!("two static hosts in network '{called}' have the {what}")));
            }
        }
    }
    Ok(())
}

/// A host's address, if it is known by something that guests of this family say.
fn known_by(called: &str, ip: &Ip, host: &DhcpHost) -> Result<IpAddr, super::NetworkError> {
    let known = if ip.address.0.is_ipv6() {
        if let Some(mac) = host.mac {
            return Err(contradiction(format!(
                "Invalid to specify MAC address '{mac}' in network '{called}' IPv6 static host definition"
            )));
        }
        host.id.is_some() || host.name.is_some()
    } else {
        host.mac.is_some() || host.id.is_some() || host.name.is_some()
    };
    if !known {
        let (version, what) = if ip.address.0.is_ipv6() { ("IPv6", "id") } else { ("IPv4", "mac") };
        return Err(contradiction(format!(
            "Static host definition in {version} network '{called}' must have {what} or name attribute"
        )));
    }
    if let Some(mac) = host.mac.filter(|mac| mac.is_multicast()) {
        return Err(contradiction(format!(
            "expected unicast mac address, found multicast '{mac}' in network '{called}'"
        )));
    }
    if let Some(id) = &host.id
        && !id
            .split(':')
            .all(|byte| (1..=2).contains(&byte.len()) && byte.bytes().all(|c| c.is_ascii_hexdigit()))
    {
        return Err(contradiction(format!("Invalid DUID or client id '{id:.64}' in network '{called}'")));
    }
    if let Some(name) = &host.name
        && !super::names::is_host_name(name)
    {
        return Err(contradiction(format!("Cannot use host name '{name:.64}' in network '{called}'")));
    }
    let address = host.ip.ok_or_else(|| {
        contradiction(format!("Missing IP address in static host definition for network '{called}'"))
    })?;
    if address.is_ipv6() != ip.address.0.is_ipv6() {
        return Err(contradiction(format!(
            "static host '{address}' in network '{called}' is not of the family of '{}'",
            ip.address
        )));
    }
    Ok(address)
}
