//! A description that was checked, in the one place where that is done.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

use crate::description::{
    DEFAULT_LEASE, Description, Host, HostRecord, LeaseTime, OptionValue, OwnAddress, Range, ServiceRecord,
    TextRecord,
};
use crate::mac::{MacAddress, bytes_of};
use crate::pool::{Supply, number};

/// Most of anything that is listed in a description, and of all machines' addresses.
const MOST: usize = 16_384;

/// Most ranges, own addresses, forwarders, prefixes, routes and options.
const FEW: usize = 64;

/// Most bytes of options that are given by number: with everything else they fit a packet of 1500 bytes.
const OPTION_BYTES: usize = 768;

/// Why a description is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("network {network:?}: {reason}")]
pub struct DescriptionError {
    network: String,
    reason: String,
}

/// A network's services, checked: what they do is the same at any time for the same packets.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) description: Description,
    pub(crate) uuid: [u8; 16],
    /// Our address and prefix where guests get IPv4 addresses.
    pub(crate) own4: Option<(Ipv4Addr, u8)>,
    /// The same for IPv6.
    pub(crate) own6: Option<(Ipv6Addr, u8)>,
    pub(crate) domain: Option<Name>,
}

impl Description {
    /// Checks all of it.
    pub fn check(self) -> Result<Plan, DescriptionError> {
        let name: String = self.name.chars().take(256).collect();
        check(self).map_err(|reason| DescriptionError { network: name, reason })
    }
}

fn check(description: Description) -> Result<Plan, String> {
    let uuid =
        uuid(&description.uuid).ok_or_else(|| format!("{:?} is no UUID", shortened(&description.uuid)))?;
    // Names of interfaces have at most 15 characters (IFNAMSIZ).
    let bridge = &description.bridge;
    if bridge.is_empty()
        || bridge.len() > 15
        || bridge.contains(|c: char| c == '/' || c.is_whitespace() || c == '\0')
    {
        return Err(format!("{:?} can't be the name of a bridge", shortened(bridge)));
    }
    few("addresses of the host", description.addresses.len())?;
    for own in &description.addresses {
        own_address(own)?;
    }
    if let Some(mtu) = description.mtu
        && mtu < 576
    {
        return Err(format!("an MTU of {mtu} is too small: 576 at least"));
    }
    let domain = description.domain.as_ref().map(|domain| domain_name(&domain.name)).transpose()?;
    let own4 = own4(&description)?;
    let own6 = own6(&description)?;
    options(&description)?;
    advertisements(&description)?;
    names(&description, domain.as_ref())?;
    Ok(Plan { uuid, own4, own6, domain, description })
}

fn own_address(own: &OwnAddress) -> Result<(), String> {
    let OwnAddress { address, prefix } = own;
    let (least, most) = if address.is_ipv4() { (1, 32) } else { (1, 128) };
    if !(least..=most).contains(prefix) {
        return Err(format!("{address} needs a prefix of {least} to {most} bits, not {prefix}"));
    }
    if !is_host(*address) {
        return Err(format!("{address} can't be an address of the host"));
    }
    Ok(())
}

fn is_host(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
        && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The own address whose subnet has all that is given.
fn own4(description: &Description) -> Result<Option<(Ipv4Addr, u8)>, String> {
    let Some(dhcp) = &description.dhcp4 else { return Ok(None) };
    let own: Vec<_> = description.addresses.iter().filter(|own| own.address.is_ipv4()).collect();
    let chosen = subnet(&own, &dhcp.ranges, &dhcp.hosts)?;
    few("routes", dhcp.routes.len())?;
    let IpAddr::V4(address) = chosen.address else { return Err("an IPv4 address is missing".into()) };
    for host in &dhcp.hosts {
        if let Some(own) = host.address.filter(|given| is_edge(*given, chosen.prefix)) {
            return Err(format!("{own} is the network's own or its broadcast address"));
        }
    }
    for route in &dhcp.routes {
        if route.prefix > 32 || !contains(chosen, route.gateway.into()) {
            let (to, prefix) = (route.destination, route.prefix);
            return Err(format!(
                "the route to {to}/{prefix} by {} does not begin in the network",
                route.gateway
            ));
        }
    }
    Ok(Some((address, chosen.prefix)))
}

fn own6(description: &Description) -> Result<Option<(Ipv6Addr, u8)>, String> {
    let Some(dhcp) = &description.dhcp6 else { return Ok(None) };
    let own: Vec<_> = description.addresses.iter().filter(|own| own.address.is_ipv6()).collect();
    let chosen = subnet(&own, &dhcp.ranges, &dhcp.hosts)?;
    let IpAddr::V6(address) = chosen.address else { return Err("an IPv6 address is missing".into()) };
    Ok(Some((address, chosen.prefix)))
}

/// Whether it is the first or last address of its subnet.
fn is_edge(address: Ipv4Addr, prefix: u8) -> bool {
    let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    prefix < 31 && (u32::from(address) & hosts == 0 || u32::from(address) & hosts == hosts)
}

fn subnet<'a, A: Into<IpAddr> + Copy + Debug>(
    own: &[&'a OwnAddress],
    ranges: &[Range<A>],
    hosts: &[Host<A>],
) -> Result<&'a OwnAddress, String> {
    few("ranges", ranges.len())?;
    many("hosts", hosts.len())?;
    let Some(default) = own.first() else {
        return Err("addresses are to be given in a family in which the host has none".into());
    };
    let first = ranges.first().map(|range| range.start.into());
    let first = first.or_else(|| hosts.iter().find_map(|host| host.address).map(Into::into));
    let chosen = match first {
        None => default,
        Some(first) => own
            .iter()
            .find(|own| contains(own, first))
            .ok_or_else(|| format!("{first} is in no subnet of the network"))?,
    };
    let mut sorted: Vec<(u128, u128)> = Vec::new();
    for range in ranges {
        let (start, end) = (range.start.into(), range.end.into());
        if number(start) > number(end) || !contains(chosen, start) || !contains(chosen, end) {
            return Err(format!("the range {start} to {end} is not in {}/{}", chosen.address, chosen.prefix));
        }
        if range.lease_seconds.is_some_and(|seconds| seconds < 60 || seconds == u32::MAX) {
            return Err(format!("leases of {start} to {end}: 60 s at least, or none for ever"));
        }
        sorted.push((number(start), number(end)));
    }
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
        return Err(format!("two ranges overlap in address {}", pair[1].0 - number(network_of(chosen))));
    }
    unique_hosts(hosts, own, chosen)?;
    Ok(chosen)
}

fn unique_hosts<A: Into<IpAddr> + Copy + Debug>(
    hosts: &[Host<A>],
    own: &[&OwnAddress],
    chosen: &OwnAddress,
) -> Result<(), String> {
    let mut seen = HashSet::new();
    let mut unique = |kind: &str, what: String| match seen.insert((kind.to_owned(), what.clone())) {
        true => Ok(()),
        false => Err(format!("two hosts have the {kind} {what}")),
    };
    for host in hosts {
        if let Some(mac) = host.mac {
            if !mac.is_station() {
                return Err(format!("{mac} can't be a guest's hardware address"));
            }
            unique("hardware address", mac.to_string())?;
        }
        if let Some(id) = &host.client_id {
            let bytes = bytes_of(id).filter(|bytes| (1..=255).contains(&bytes.len()));
            let bytes = bytes.ok_or_else(|| format!("{:?} is no client identifier", shortened(id)))?;
            unique("client identifier", crate::mac::hexadecimal(&bytes))?;
        }
        if let Some(name) = &host.name
            && label(name).is_none()
        {
            return Err(format!("{:?} can't be a guest's name", shortened(name)));
        }
        if matches!(host.lease, Some(LeaseTime::Seconds(seconds)) if seconds < 60 || seconds == u32::MAX) {
            let own = host.address.map(|address| format!(" of {}", address.into())).unwrap_or_default();
            return Err(format!("the lease of a host{own}: 60 s at least, or for ever"));
        }
        if host.mac.is_none() && host.client_id.is_none() && host.name.is_none() {
            return Err(format!("the host with address {:?} is known by nothing", host.address));
        }
        if let Some(address) = host.address.map(Into::into) {
            if !contains(chosen, address) || !is_host(address) {
                return Err(format!("{address} is not in {}/{}", chosen.address, chosen.prefix));
            }
            if own.iter().any(|own| own.address == address) {
                return Err(format!("{address} is the host's own address"));
            }
            unique("address", address.to_string())?;
        }
    }
    Ok(())
}

/// Whether the subnet of one of the host's addresses has this address.
pub(crate) fn contains(own: &OwnAddress, address: IpAddr) -> bool {
    let bits = if own.address.is_ipv4() { 32 } else { 128 };
    let host = u32::from(bits - own.prefix);
    own.address.is_ipv4() == address.is_ipv4()
        && number(own.address).checked_shr(host) == number(address).checked_shr(host)
}

fn network_of(own: &OwnAddress) -> IpAddr {
    match own.address {
        IpAddr::V4(address) => {
            let hosts = u32::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
            Ipv4Addr::from(u32::from(address) & !hosts).into()
        }
        IpAddr::V6(address) => {
            let hosts = u128::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
            Ipv6Addr::from(u128::from(address) & !hosts).into()
        }
    }
}

fn options(description: &Description) -> Result<(), String> {
    let Some(dhcp) = &description.dhcp4 else { return Ok(()) };
    few("options", dhcp.options.len())?;
    let mut length = 0;
    for (number, value) in &dhcp.options {
        // What only the server itself can say: addresses, times, kinds of messages.
        if matches!(number, 0 | 50..=59 | 61 | 80..=82 | 255) {
            return Err(format!("option {number} of DHCP can't be chosen"));
        }
        let bytes =
            value.bytes().ok_or_else(|| format!("option {number} of DHCP: a value of up to 255 bytes"))?;
        length += bytes.len() + 2;
    }
    for (what, text, most) in [("boot file", &dhcp.boot_file, 127), ("server name", &dhcp.server_name, 63)] {
        if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > most || text.contains('\0')) {
            return Err(format!("the {what} has 1 to {most} characters"));
        }
        length += text.as_ref().map_or(0, |text| text.len() + 2);
    }
    length += dhcp.routes.len() * 9;
    if length > OPTION_BYTES {
        return Err(format!("the options of DHCP have {length} bytes together: {OPTION_BYTES} at most"));
    }
    Ok(())
}

impl OptionValue {
    /// What is sent; none when it does not fit or is empty.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let bytes = match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Addresses(addresses) => addresses.iter().flat_map(Ipv4Addr::octets).collect(),
            Self::Byte(number) => vec![*number],
            Self::Word(number) => number.to_be_bytes().to_vec(),
            Self::Long(number) => number.to_be_bytes().to_vec(),
            Self::Bytes(text) => bytes_of(text)?,
        };
        (1..=255).contains(&bytes.len()).then_some(bytes)
    }
}

fn advertisements(description: &Description) -> Result<(), String> {
    let Some(advertised) = &description.router_advertisements else { return Ok(()) };
    few("prefixes", advertised.prefixes.len())?;
    for prefix in &advertised.prefixes {
        let (address, length) = (prefix.prefix, prefix.length);
        let own = OwnAddress { address: address.into(), prefix: length };
        if !(1..=128).contains(&length) || network_of(&own) != IpAddr::V6(address) || !is_host(address.into())
        {
            return Err(format!("{address}/{length} is no prefix"));
        }
        if prefix.autonomous && length != 64 {
            return Err(format!(
                "guests make addresses of prefixes of 64 bits only, not of {address}/{length}"
            ));
        }
    }
    Ok(())
}

fn names(description: &Description, domain: Option<&Name>) -> Result<(), String> {
    many("machines", description.machines.len())?;
    many("hardware addresses of machines", description.machines.values().map(Vec::len).sum())?;
    let Some(dns) = &description.dns else { return Ok(()) };
    few("forwarders", dns.forwarders.len())?;
    few("subnets", dns.foreign_pointers.len())?;
    dns.foreign_pointers.iter().try_for_each(own_address)?;
    many("records", dns.hosts.len() + dns.texts.len() + dns.services.len())?;
    many("names", dns.hosts.iter().map(|host| host.names.len()).sum())?;
    for forwarder in &dns.forwarders {
        if let Some(address) = forwarder.address {
            let own = description.addresses.iter().any(|own| own.address == address.ip());
            if own || address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
                return Err(format!("{address} can't be asked for names"));
            }
        } else if forwarder.domain.is_none() {
            return Err("a forwarder has an address or a domain".into());
        }
        forwarder.domain.as_ref().map(|domain| domain_name(domain)).transpose()?;
    }
    for HostRecord { address, names } in &dns.hosts {
        if names.is_empty() {
            return Err(format!("the record of {address} has no name"));
        }
        names.iter().try_for_each(|name| domain_name(name).map(drop))?;
    }
    for TextRecord { name, value } in &dns.texts {
        domain_name(name)?;
        if value.len() > 1024 {
            return Err(format!("the text of {name} is too long: 1024 bytes at most"));
        }
    }
    for record in &dns.services {
        service_name(record, domain)?;
        record.target.as_ref().map(|target| domain_name(target)).transpose()?;
    }
    Ok(())
}

/// The name of an SRV record (RFC 2782).
pub(crate) fn service_name(record: &ServiceRecord, domain: Option<&Name>) -> Result<Name, String> {
    let given = record.domain.as_ref().map(|domain| domain_name(domain)).transpose()?;
    let Some(domain) = given.or_else(|| domain.cloned()) else {
        return Err(format!("the service {:?} has no domain", shortened(&record.service)));
    };
    let name = format!("_{}._{}", record.service, record.protocol);
    domain_name(&name)?.append_domain(&domain).map_err(|_| format!("{:?} is no service", shortened(&name)))
}

/// A name of labels of letters, digits, hyphens and underscores, in lower case and with the root at its end.
pub(crate) fn domain_name(text: &str) -> Result<Name, String> {
    let wrong = || format!("{:?} is no domain name", shortened(text));
    let trimmed = text.strip_suffix('.').unwrap_or(text);
    let sound = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if trimmed.len() > 253 || !trimmed.split('.').all(sound) {
        return Err(wrong());
    }
    Name::from_labels(trimmed.split('.').map(|part| part.as_bytes()))
        .map(|name| name.to_lowercase())
        .map_err(|_| wrong())
}

/// The first label of what a guest calls itself, in lower case, if it is one that names a host (RFC 1123, section 2.1).
pub(crate) fn label(name: &str) -> Option<String> {
    let first = name.split('.').next()?;
    let sound = (1..=63).contains(&first.len())
        && first.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !first.starts_with('-')
        && !first.ends_with('-');
    sound.then(|| first.to_ascii_lowercase())
}

/// Labels as a name in a message (RFC 1035, section 3.1).
pub(crate) fn encoded<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        // A label has 63 bytes at most.
        bytes.extend(u8::try_from(label.len()));
        bytes.extend(label);
    }
    bytes.push(0);
    bytes
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if text.len() > 36 || digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

fn few(what: &str, count: usize) -> Result<(), String> {
    if count > FEW { Err(format!("{count} {what}: {FEW} at most")) } else { Ok(()) }
}

fn many(what: &str, count: usize) -> Result<(), String> {
    if count > MOST { Err(format!("{count} {what}: {MOST} at most")) } else { Ok(()) }
}

/// What is known of a guest, to find its [`Host`].
pub(crate) struct Guest<'a> {
    pub(crate) mac: MacAddress,
    pub(crate) client_id: Option<&'a [u8]>,
    pub(crate) hostname: Option<&'a str>,
}

/// Hosts by what they are known by.
#[derive(Debug, Clone)]
pub(crate) struct Hosts<A> {
    hosts: Vec<Host<A>>,
    by_mac: HashMap<MacAddress, usize>,
    by_client: HashMap<Vec<u8>, usize>,
    by_name: HashMap<String, usize>,
}

impl<A: Into<IpAddr> + Copy> Hosts<A> {
    pub(crate) fn new(hosts: &[Host<A>]) -> Self {
        let numbered = || hosts.iter().enumerate();
        let unnamed = |host: &Host<A>| host.mac.is_none() && host.client_id.is_none();
        Self {
            by_mac: numbered().filter_map(|(place, host)| Some((host.mac?, place))).collect(),
            by_client: numbered()
                .filter_map(|(place, host)| Some((bytes_of(host.client_id.as_ref()?)?, place)))
                .collect(),
            by_name: numbered()
                .filter(|(_, host)| unnamed(host))
                .filter_map(|(place, host)| Some((host.label()?, place)))
                .collect(),
            hosts: hosts.to_vec(),
        }
    }

    /// The host that a guest is: by its hardware address before its identifier before its name.
    pub(crate) fn find(&self, guest: &Guest<'_>) -> Option<&Host<A>> {
        let by_client = || self.by_client.get(guest.client_id?);
        let by_name = || self.by_name.get(guest.hostname?);
        let place = self.by_mac.get(&guest.mac).or_else(by_client).or_else(by_name)?;
        self.hosts.get(*place)
    }
}

impl<A: Into<IpAddr> + Copy> Host<A> {
    /// The address that is nobody else's.
    pub(crate) fn reserved(&self) -> Option<u128> {
        self.address.map(|address| number(address.into()))
    }

    /// What the guest is called, if that can be a host's name.
    pub(crate) fn label(&self) -> Option<String> {
        label(self.name.as_ref()?)
    }
}

/// For how long an address is given, seconds; none for ever. What is said of the host comes first. An address outside of the ranges, a
/// reserved one, is given as those of the first.
pub(crate) fn lease_seconds<A: PartialOrd>(
    ranges: &[Range<A>],
    host: Option<&Host<A>>,
    address: A,
) -> Option<u32> {
    match host.and_then(|host| host.lease) {
        Some(LeaseTime::Forever) => return None,
        Some(LeaseTime::Seconds(seconds)) => return Some(seconds),
        None => {}
    }
    let range = ranges.iter().find(|range| (&range.start..=&range.end).contains(&&address));
    range.or_else(|| ranges.first()).map_or(Some(DEFAULT_LEASE), |range| range.lease_seconds)
}

/// What a pool gives, of a description's lists.
pub(crate) fn supply<A: Into<IpAddr> + Copy>(
    ranges: &[Range<A>],
    hosts: &[Host<A>],
    own: &[OwnAddress],
    (address, prefix): (IpAddr, u8),
) -> Supply {
    let chosen = OwnAddress { address, prefix };
    let mut sorted: Vec<_> =
        ranges.iter().map(|range| (number(range.start.into()), number(range.end.into()))).collect();
    sorted.sort_unstable();
    let first = number(network_of(&chosen));
    let mut never: Vec<u128> = own.iter().map(|own| number(own.address)).collect();
    // The first address of an IPv6 subnet is any router's (RFC 4291, section 2.6.1).
    never.push(first);
    if address.is_ipv4() {
        let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        never.push(first | u128::from(hosts));
    }
    Supply {
        ranges: sorted,
        never,
        reserved: hosts.iter().filter_map(Host::reserved).collect(),
        version4: address.is_ipv4(),
    }
}

#[cfg(test)]
mod tests;
