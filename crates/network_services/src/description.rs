//! What a network offers its guests, as data: what the daemon writes, JSON on the way.
//!
//! Nothing in it is believed until [`Description::check`] has made a [`Plan`](crate::Plan) of it, which is all that the rest of the crate sees.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::mac::MacAddress;

/// A network and its services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The network's name, for messages.
    pub name: String,
    /// Its UUID, as `5ec2e3a0-…`; the server's DUID is made from it (RFC 6355).
    pub uuid: String,
    /// The bridge that the guests are on. Its addresses are there before the service starts.
    pub bridge: String,
    /// The host's own addresses on it.
    pub addresses: Vec<OwnAddress>,
    /// Whether the host takes the guests' traffic further: it is announced as router. Isolated networks have none.
    #[serde(default)]
    pub gateway: bool,
    /// What is announced as MTU, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The network's domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
    /// DHCP for IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp4: Option<Dhcp4>,
    /// DHCP for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp6: Option<Dhcp6>,
    /// Router advertisements, without which no guest has IPv6 by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_advertisements: Option<RouterAdvertisements>,
    /// Name service; none when guests get none from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Names of virtual machines, and the hardware addresses that they have on this network: what a guest calls itself can't take one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub machines: BTreeMap<String, Vec<MacAddress>>,
}

/// An address of the host on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the network's prefix, bits.
    pub prefix: u8,
}

/// A domain of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Whether names in it that are not known here exist nowhere; they are asked of the forwarders otherwise.
    #[serde(default)]
    pub local_only: bool,
}

/// A range of addresses to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range<A> {
    /// First address.
    pub start: A,
    /// Last address.
    pub end: A,
    /// For how long, seconds; none for ever.
    #[serde(default = "default_lease", skip_serializing_if = "is_default_lease")]
    pub lease_seconds: Option<u32>,
}

/// How long a lease is when nobody says: an hour, seconds.
pub const DEFAULT_LEASE: u32 = 3600;

fn default_lease() -> Option<u32> {
    Some(DEFAULT_LEASE)
}

#[expect(clippy::ref_option, reason = "serde gives the field by reference")]
fn is_default_lease(lease: &Option<u32>) -> bool {
    *lease == default_lease()
}

/// A guest that always gets the same address or name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "A: Deserialize<'de>"))]
pub struct Host<A> {
    /// Known by this hardware address;
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// or by this client identifier or DUID, as `01:52:54:…`;
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// or, when there is neither, by calling itself so. It is the guest's name otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its address; none when it only has its name from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<A>,
    /// For how long it has an address; as others of the range if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseTime>,
}

/// For how long one guest has its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseTime {
    /// So many seconds, 60 at least.
    Seconds(u32),
    /// For ever.
    Forever,
}

/// DHCP for IPv4 (RFC 2131).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp4 {
    /// Addresses to give.
    #[serde(default)]
    pub ranges: Vec<Range<Ipv4Addr>>,
    /// Guests with an address or name of their own.
    #[serde(default)]
    pub hosts: Vec<Host<Ipv4Addr>>,
    /// More options, by number. They take the place of what would be sent otherwise.
    #[serde(default)]
    pub options: BTreeMap<u8, OptionValue>,
    /// Routes beside the default one (RFC 3442).
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Where a guest finds what it boots from the network (`siaddr`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_server: Option<Ipv4Addr>,
    /// That server's name (`sname`, option 66).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The file that it boots (`file`, option 67).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_file: Option<String>,
}

/// What an option says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionValue {
    /// Characters.
    Text(String),
    /// IPv4 addresses.
    Addresses(Vec<Ipv4Addr>),
    /// A number of 8 bits.
    Byte(u8),
    /// A number of 16 bits.
    Word(u16),
    /// A number of 32 bits.
    Long(u32),
    /// Bytes as `01:ab:…`.
    Bytes(String),
}

/// A route that guests are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Addr,
    /// Length of its prefix, bits.
    pub prefix: u8,
    /// Through which host of the network.
    pub gateway: Ipv4Addr,
}

/// DHCP for IPv6 (RFC 8415).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dhcp6 {
    /// Addresses to give.
    #[serde(default)]
    pub ranges: Vec<Range<Ipv6Addr>>,
    /// Guests with an address or name of their own.
    #[serde(default)]
    pub hosts: Vec<Host<Ipv6Addr>>,
}

/// Router advertisements (RFC 4861, section 4.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterAdvertisements {
    /// Prefixes that are on the link.
    #[serde(default)]
    pub prefixes: Vec<AdvertisedPrefix>,
    /// Addresses are had by DHCPv6.
    #[serde(default)]
    pub managed: bool,
    /// Other things are had by DHCPv6.
    #[serde(default)]
    pub other: bool,
}

/// A prefix of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvertisedPrefix {
    /// The prefix, the rest zero.
    pub prefix: Ipv6Addr,
    /// Its length, bits.
    pub length: u8,
    /// Whether guests make addresses of it by themselves (RFC 4862); takes a length of 64.
    #[serde(default)]
    pub autonomous: bool,
}

/// Name service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Who is asked for other names; the host's resolvers (`/etc/resolv.conf`) if empty.
    #[serde(default)]
    pub forwarders: Vec<Forwarder>,
    /// Whether others are asked at all.
    #[serde(default = "yes")]
    pub forward: bool,
    /// Whether others are asked for names of one label.
    #[serde(default = "yes")]
    pub forward_plain_names: bool,
    /// Addresses and their names.
    #[serde(default)]
    pub hosts: Vec<HostRecord>,
    /// TXT records.
    #[serde(default)]
    pub texts: Vec<TextRecord>,
    /// SRV records.
    #[serde(default)]
    pub services: Vec<ServiceRecord>,
    /// Subnets whose addresses others are asked for when nobody here has them. Those of the network's other addresses have no names
    /// then (RFC 6303, section 3): nobody else knows who is here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_pointers: Vec<OwnAddress>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            forwarders: Vec::new(),
            forward: true,
            forward_plain_names: true,
            hosts: Vec::new(),
            texts: Vec::new(),
            services: Vec::new(),
            foreign_pointers: Vec::new(),
        }
    }
}

fn yes() -> bool {
    true
}

/// A server that is asked for names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarder {
    /// Its address and port; none: names of the domain are asked of nobody but the host's resolvers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Only for names in this domain, which are asked of nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// An address with names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRecord {
    /// The address.
    pub address: IpAddr,
    /// Its names; the first is the one that the address leads to.
    pub names: Vec<String>,
}

/// A TXT record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecord {
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: String,
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRecord {
    /// The service, without underscore.
    pub service: String,
    /// Its protocol, without underscore.
    pub protocol: String,
    /// The domain that offers it; the network's if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The host that has it; none says that nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Its port.
    #[serde(default)]
    pub port: u16,
    /// The lowest is tried first.
    #[serde(default)]
    pub priority: u16,
    /// Share among those of one priority.
    #[serde(default)]
    pub weight: u16,
}
