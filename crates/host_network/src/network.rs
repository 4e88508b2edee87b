//! What a virtual network is, as data; and what can be said against it without looking at the host.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest name of an interface, bytes (IFNAMSIZ - 1 of linux/if.h).
pub(crate) const MOST_NAME_BYTES: usize = 15;
/// Longest name of a network, bytes.
const MOST_NETWORK_NAME_BYTES: usize = 255;
/// Delay of a port before it forwards, seconds (IEEE 802.1D, 8.10.2); without STP a bridge may have none.
const FORWARD_DELAY: RangeInclusive<u16> = 2..=30;
/// What a bridge takes as MTU.
const MTU: RangeInclusive<u32> = 68..=65_535;
/// IPv6 needs this much (RFC 8200, 5).
const IPV6_MTU: u32 = 1280;
/// Bounds of lists.
const MOST_SUBNETS: usize = 64;
const MOST_ROUTES: usize = 256;
const MOST_FORWARDS: usize = 1024;
const MOST_DEVICES: usize = 64;

/// A virtual network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What people call it.
    pub name: String,
    /// What it is marked with.
    pub uuid: Uuid,
    /// Name of the bridge: made, or of somebody else with [`Kind::ExistingBridge`]. Without meaning for [`Kind::Macvtap`].
    pub bridge: String,
    /// How guests reach others.
    pub kind: Kind,
    /// Addresses of the host in it, and so its subnets.
    pub addresses: Vec<Subnet>,
    /// Settings of the bridge.
    pub settings: BridgeSettings,
    /// Subnets behind one of its guests.
    pub routes: Vec<Route>,
    /// Ports of the host that lead to guests.
    pub forwards: Vec<PortForward>,
    /// Guests can reach the host and outside, not each other.
    pub isolated_ports: bool,
    /// Limits of everything that passes the bridge to and from the host.
    pub bandwidth: Bandwidth,
    /// What the host serves in it, so that its own filters have to let it in.
    pub services: Services,
}

/// How guests of a network reach others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Outside sees the host's address only; guests are reached by port forwards.
    Nat(Nat),
    /// Packets pass as they are, by one interface of the host or all.
    Routed {
        /// The only interface of the host to outside.
        device: Option<String>,
    },
    /// Guests reach each other and the host.
    Isolated,
    /// Forwarded by the host, without any rule of ours.
    Open,
    /// A bridge that somebody else has made and keeps.
    ExistingBridge,
    /// Each guest has an interface of its own on an interface of the host.
    Macvtap {
        /// How they reach each other.
        mode: MacvtapMode,
        /// Interfaces of the host to choose from.
        devices: Vec<String>,
    },
}

/// Settings of address translation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// Source ports that TCP and UDP get.
    pub ports: Option<RangeInclusive<u16>>,
    /// Source addresses that IPv4 gets, first and last, instead of the outgoing interface's.
    pub addresses: Option<(std::net::Ipv4Addr, std::net::Ipv4Addr)>,
    /// The only interface of the host to outside.
    pub device: Option<String>,
    /// IPv6 is translated as well; it is routed otherwise.
    pub ipv6: bool,
}

/// How interfaces on an interface reach each other (Documentation/networking/macvlan; `enum macvlan_mode` of linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MacvtapMode {
    /// Directly.
    Bridge,
    /// Not at all.
    Private,
    /// By a switch outside that sends frames back.
    Vepa,
    /// One interface has the lower one for itself.
    Passthrough,
}

/// An address of the host with its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subnet {
    /// The host's address.
    pub address: IpAddr,
    /// How many bits the subnet's addresses have in common.
    pub prefix: Option<u8>,
}

/// A subnet that is reached through a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The subnet.
    pub destination: Subnet,
    /// The guest, in a subnet of the network.
    pub gateway: IpAddr,
    /// Higher is worse.
    pub metric: Option<u32>,
}

/// A port of the host that leads to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// One address of the host; all that it has otherwise.
    pub host_address: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The guest.
    pub guest_address: IpAddr,
    /// The guest's port.
    pub guest_port: u16,
}

/// What has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// Its number in IP.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Settings of a bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeSettings {
    /// Spanning tree protocol (IEEE 802.1D).
    pub stp: bool,
    /// Delay of a new port before it forwards, seconds.
    pub forward_delay: u16,
    /// Largest payload of a frame, bytes.
    pub mtu: Option<u32>,
    /// Its address.
    pub mac: Option<[u8; 6]>,
    /// Ports have VLANs (IEEE 802.1Q). A bridge that is not made has to have this setting, which is left alone.
    pub vlan_filtering: bool,
}

/// Limits in both directions; seen from guests, as libvirt's: inbound is what they receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// What guests receive.
    pub inbound: Option<Limit>,
    /// What guests send.
    pub outbound: Option<Limit>,
}

impl Bandwidth {
    /// For the other end.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { inbound: self.outbound, outbound: self.inbound }
    }
}

/// A limit of what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// In the long run, KiB a second.
    pub average: u32,
    /// For a burst, KiB a second.
    pub peak: Option<u32>,
    /// How much may pass at the peak's speed, KiB.
    pub burst: Option<u32>,
}

/// What the host serves in a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// DHCP for IPv4 and IPv6.
    pub dhcp: bool,
    /// Names.
    pub dns: bool,
    /// Where names are answered at the network's own addresses, if another program of the host has port 53: rules lead questions there.
    pub dns_port: Option<u16>,
}

/// Why a network can't be, or an interface can't be as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct Refused {
    /// The network or interface.
    pub object: String,
    /// What collides with what, or what the description lacks.
    pub reason: String,
}

impl Refused {
    pub(crate) fn interface(name: &str, reason: impl Into<String>) -> Self {
        Self { object: format!("interface {name}"), reason: reason.into() }
    }
}

impl Subnet {
    /// An address with its prefix.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        Self { address, prefix: Some(prefix) }
    }

    /// How many bits it can have.
    fn bits(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The prefix, or that of one address alone.
    pub(crate) fn length(self) -> u8 {
        self.prefix.unwrap_or(self.bits()).min(self.bits())
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.overlaps(Self { address, prefix: None })
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let common = u32::from(self.length().min(other.length()));
        match (self.address, other.address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - common).unwrap_or(0);
                (u32::from(one) ^ u32::from(other)) & mask == 0
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - common).unwrap_or(0);
                (u128::from(one) ^ u128::from(other)) & mask == 0
            }
            _ => false,
        }
    }

    fn check(self, what: &str) -> Result<(), String> {
        let version = if self.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let Some(prefix) = self.prefix else {
            return Err(format!("the {version} {what} {} has no prefix: give one, like 64", self.address));
        };
        if prefix > self.bits() {
            let bits = self.bits();
            return Err(format!("the prefix of {what} {self} is not 0 to {bits}"));
        }
        Ok(())
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix.unwrap_or(self.bits()))
    }
}

impl Network {
    /// A network of a kind with nothing else in it.
    #[must_use]
    pub fn new(name: impl Into<String>, uuid: Uuid, bridge: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            uuid,
            bridge: bridge.into(),
            kind,
            addresses: Vec::new(),
            settings: BridgeSettings::default(),
            routes: Vec::new(),
            forwards: Vec::new(),
            isolated_ports: false,
            bandwidth: Bandwidth::default(),
            services: Services::default(),
        }
    }

    /// Whether its bridge is made for it.
    #[must_use]
    pub fn makes_bridge(&self) -> bool {
        !matches!(self.kind, Kind::ExistingBridge | Kind::Macvtap { .. })
    }

    /// Whether the host forwards its packets.
    pub(crate) fn forwards_packets(&self) -> bool {
        matches!(self.kind, Kind::Nat(_) | Kind::Routed { .. } | Kind::Open)
    }

    /// Whether it has addresses of a family.
    pub(crate) fn has(&self, ipv4: bool) -> bool {
        self.addresses.iter().any(|subnet| subnet.address.is_ipv4() == ipv4)
    }

    /// What can be said against it without looking at the host.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Refused> {
        self.wrong().map_err(|reason| self.refused(reason))
    }

    pub(crate) fn refused(&self, reason: impl Into<String>) -> Refused {
        Refused { object: format!("network '{}'", self.name), reason: reason.into() }
    }

    fn wrong(&self) -> Result<(), String> {
        if self.name.is_empty()
            || self.name.len() > MOST_NETWORK_NAME_BYTES
            || self.name.contains(char::is_control)
        {
            return Err(format!("its name is not 1 to {MOST_NETWORK_NAME_BYTES} printable bytes"));
        }
        for (what, count, most) in [
            ("addresses", self.addresses.len(), MOST_SUBNETS),
            ("routes", self.routes.len(), MOST_ROUTES),
            ("port forwards", self.forwards.len(), MOST_FORWARDS),
        ] {
            if count > most {
                return Err(format!("{count} {what} are more than {most}"));
            }
        }
        self.kind_is_wrong()?;
        self.addresses_are_wrong()?;
        self.settings_are_wrong()?;
        self.routes_are_wrong()?;
        self.forwards_are_wrong()
    }

    fn kind_is_wrong(&self) -> Result<(), String> {
        if !self.makes_bridge() {
            let demanded = matches!(self.kind, Kind::ExistingBridge) && self.settings.vlan_filtering;
            let none = BridgeSettings { vlan_filtering: demanded, ..BridgeSettings::default() };
            let rest = [
                (!self.addresses.is_empty(), "addresses"),
                (!self.routes.is_empty(), "routes"),
                (!self.forwards.is_empty(), "port forwards"),
                (self.settings != none, "settings of a bridge"),
                (
                    self.bandwidth != Bandwidth::default(),
                    "limits of a network (its portgroups may have some)",
                ),
                (self.services != Services::default(), "services"),
            ];
            if let Some((_, what)) = rest.into_iter().find(|(there, _)| *there) {
                return Err(format!("{what} need a bridge of its own: use another kind of network"));
            }
        }
        match &self.kind {
            Kind::Macvtap { devices, .. } => {
                if devices.is_empty() || devices.len() > MOST_DEVICES {
                    return Err(format!("macvtap needs 1 to {MOST_DEVICES} interfaces of the host"));
                }
                devices.iter().try_for_each(|device| interface_name(device))
            }
            Kind::Nat(nat) => {
                if let Some(ports) = &nat.ports
                    && (*ports.start() == 0 || ports.is_empty())
                {
                    return Err(format!(
                        "the range of ports {} to {} is not one",
                        ports.start(),
                        ports.end()
                    ));
                }
                if let Some((first, last)) = nat.addresses
                    && first > last
                {
                    return Err(format!("the range of addresses {first} to {last} is not one"));
                }
                interface_name(&self.bridge)?;
                nat.device.iter().try_for_each(|device| interface_name(device))
            }
            Kind::Routed { device } => {
                interface_name(&self.bridge)?;
                device.iter().try_for_each(|device| interface_name(device))
            }
            Kind::Isolated | Kind::Open | Kind::ExistingBridge => interface_name(&self.bridge),
        }
    }

    fn addresses_are_wrong(&self) -> Result<(), String> {
        for (index, subnet) in self.addresses.iter().enumerate() {
            subnet.check("address")?;
            let address = subnet.address;
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                return Err(format!("{address} is not an address that the host can have in it"));
            }
            if subnet.length() == 0 {
                return Err(format!("{subnet} is every address there is"));
            }
            if let IpAddr::V4(ip) = address
                && subnet.length() < 31
            {
                let rest = u32::MAX >> subnet.length();
                if u32::from(ip) & rest == 0 || u32::from(ip) & rest == rest {
                    return Err(format!("{address} is the subnet's own or broadcast address in {subnet}"));
                }
            }
            if let Some(other) = self.addresses[..index].iter().find(|other| other.overlaps(*subnet)) {
                return Err(format!("its addresses {other} and {subnet} are in overlapping subnets"));
            }
        }
        Ok(())
    }

    fn settings_are_wrong(&self) -> Result<(), String> {
        let BridgeSettings { stp, forward_delay, mtu, mac, .. } = &self.settings;
        if (*stp || *forward_delay != 0) && !FORWARD_DELAY.contains(forward_delay) {
            let (first, last) = FORWARD_DELAY.into_inner();
            return Err(format!(
                "a delay of {forward_delay} seconds is not {first} to {last}, or 0 without STP"
            ));
        }
        if let Some(mtu) = mtu {
            if !MTU.contains(mtu) {
                return Err(format!("an MTU of {mtu} bytes is not {} to {}", MTU.start(), MTU.end()));
            }
            if *mtu < IPV6_MTU && self.has(false) {
                return Err(format!("an MTU of {mtu} bytes is less than IPv6 needs, {IPV6_MTU}"));
            }
        }
        if let Some(mac) = mac
            && (mac[0] & 1 != 0 || *mac == [0; 6])
        {
            return Err("the bridge's MAC address is a group's or zero".to_owned());
        }
        for limit in [self.bandwidth.inbound, self.bandwidth.outbound].into_iter().flatten() {
            limit.check()?;
        }
        Ok(())
    }

    fn routes_are_wrong(&self) -> Result<(), String> {
        for route in &self.routes {
            route.destination.check("route")?;
            if !self.addresses.iter().any(|subnet| subnet.contains(route.gateway)) {
                return Err(format!(
                    "the route to {}: gateway {} is in none of its subnets",
                    route.destination, route.gateway
                ));
            }
            if route.destination.address.is_ipv4() != route.gateway.is_ipv4() {
                return Err(format!(
                    "the route to {} has a gateway of another family, {}",
                    route.destination, route.gateway
                ));
            }
            if let Some(subnet) = self.addresses.iter().find(|subnet| subnet.overlaps(route.destination)) {
                return Err(format!("the route to {} overlaps its subnet {subnet}", route.destination));
            }
        }
        Ok(())
    }

    fn forwards_are_wrong(&self) -> Result<(), String> {
        if !self.forwards.is_empty() && !matches!(self.kind, Kind::Nat(_) | Kind::Routed { .. }) {
            return Err("port forwards need a network of kind nat or route".to_owned());
        }
        for (index, forward) in self.forwards.iter().enumerate() {
            if forward.host_port == 0 || forward.guest_port == 0 {
                return Err(format!("port 0 can't be forwarded ({forward})"));
            }
            if !self.addresses.iter().any(|subnet| subnet.contains(forward.guest_address)) {
                return Err(format!("{forward}: the guest's address is in none of its subnets"));
            }
            if self.addresses.iter().any(|subnet| subnet.address == forward.guest_address) {
                return Err(format!("{forward}: this is the host's address in it, not a guest's"));
            }
            if let Some(host) = forward.host_address {
                if host.is_ipv4() != forward.guest_address.is_ipv4() {
                    return Err(format!("{forward}: the guest's address is of another family"));
                }
                if host.is_unspecified() {
                    return Err(format!("{forward}: leave the host's address out for all that it has"));
                }
                if host.is_loopback() && !host.is_ipv4() {
                    return Err(format!("{forward}: the kernel forwards nothing from ::1"));
                }
            }
            if let Some(other) = self.forwards[..index].iter().find(|other| other.collides(forward)) {
                return Err(format!("{forward}: another of its port forwards has this port ({other})"));
            }
        }
        Ok(())
    }
}

impl Limit {
    /// Whether its numbers make sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.average == 0 {
            return Err("a bandwidth of 0 KiB a second lets nothing pass: take the link down".to_owned());
        }
        if self.peak.is_some_and(|peak| peak < self.average) {
            return Err("the peak of a bandwidth is less than its average".to_owned());
        }
        if self.burst == Some(0) {
            return Err("a burst of 0 KiB lets nothing pass".to_owned());
        }
        Ok(())
    }
}

impl PortForward {
    /// Whether packets could be meant for both.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && self.guest_address.is_ipv4() == other.guest_address.is_ipv4()
            && match (self.host_address, other.host_address) {
                (Some(one), Some(other)) => one == other,
                _ => true,
            }
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, host_address, host_port, guest_address, guest_port } = self;
        write!(f, "{protocol} port {host_port}")?;
        if let Some(host) = host_address {
            write!(f, " of {host}")?;
        }
        write!(f, " to {guest_address} port {guest_port}")
    }
}

/// What the kernel takes as an interface's name (`dev_valid_name`): no slash, colon or white space, not `.` or `..`; what has a
/// `%` it would number, and quotes would end a string where others list rules. Settings of `all` and `default` are not those of
/// one interface (Documentation/networking/ip-sysctl.rst).
pub(crate) fn interface_name(name: &str) -> Result<(), String> {
    let shown: String = name.chars().take(32).collect();
    if name.is_empty() || name.len() > MOST_NAME_BYTES {
        return Err(format!(
            "'{shown}' is not an interface's name: it has to have 1 to {MOST_NAME_BYTES} bytes"
        ));
    }
    let wrong = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%' | '"' | '\'' | '\\' | '*');
    if matches!(name, "." | ".." | "all" | "default") || name.starts_with('-') || name.contains(wrong) {
        return Err(format!("'{shown}' is not a name that the kernel takes for an interface"));
    }
    Ok(())
}
