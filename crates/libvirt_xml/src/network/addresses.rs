//! Addresses of the host in a network, what DHCP gives there, and routes (formatnetwork, "Addressing" and "Static Routes").

use std::net::{IpAddr, Ipv4Addr};

use crate::domain::interface::IpFamily;
use crate::error::{XmlError, XmlFault};
use crate::fields::Fields;
use crate::model::{Model, model};
use crate::tree::Element;
use crate::value::{MacAddress, Value, YesNo, invalid, words};

words! {
    /// What a lease's time is counted in.
    pub enum LeaseUnit { Minutes = "minutes", Seconds = "seconds", Hours = "hours", }
}

model! {
    /// How long an address is given for.
    pub struct Lease {
        /// How many units; 0 means for ever.
        expiry: required("expiry") => u32,
        /// The unit; minutes if none.
        unit: attribute("unit") => Option<LeaseUnit>,
    }

    /// Addresses to give.
    pub struct DhcpRange {
        /// First.
        start: attribute("start") => Option<IpAddr>,
        /// Last.
        end: attribute("end") => Option<IpAddr>,
        /// For how long.
        lease: child("lease") => Option<Lease>,
    }

    /// A guest that always gets the same address.
    pub struct DhcpHost {
        /// Known by its interface's address, with IPv4;
        mac: attribute("mac") => Option<MacAddress>,
        /// or by its DUID (IPv6) or client identifier;
        id: attribute("id") => Option<String>,
        /// or by the name that it says; what it is called otherwise.
        name: attribute("name") => Option<String>,
        /// Its address. Needed, but not for what is to be removed.
        ip: attribute("ip") => Option<IpAddr>,
        /// For how long.
        lease: child("lease") => Option<Lease>,
    }

    /// What guests boot from the network.
    pub struct Bootp {
        /// Name of the file.
        file: attribute("file") => Option<String>,
        /// Who has it; the host if none.
        server: attribute("server") => Option<Ipv4Addr>,
    }

    /// DHCP in one subnet.
    pub struct Dhcp {
        /// Addresses to give.
        ranges: children("range") => Vec<DhcpRange>,
        /// Guests with an address of their own.
        hosts: children("host") => Vec<DhcpHost>,
        /// What guests boot.
        bootp: child("bootp") => Option<Bootp>,
    }

    /// A server of files for guests that boot from the network.
    pub struct Tftp {
        /// Directory of the files.
        root: required("root") => String,
    }

    /// An address of the host, with its subnet.
    pub struct Ip {
        /// Its family; IPv4 if none.
        family: attribute("family") => Option<IpFamily>,
        /// The address.
        address: required("address") => Address,
        /// The subnet's mask, of IPv4,
        netmask: attribute("netmask") => Option<Netmask>,
        /// or how many bits its addresses have in common.
        prefix: attribute("prefix") => Option<u8>,
        /// Whether names of its addresses are asked of nobody else.
        local_ptr: attribute("localPtr") => Option<YesNo>,
        /// TFTP.
        tftp: child("tftp") => Option<Tftp>,
        /// DHCP.
        dhcp: child("dhcp") => Option<Dhcp>,
        /// How it is written.
        end: part => EndOnOwnLine,
    }

    /// A subnet that is reached through a guest.
    pub struct Route {
        /// Its family; IPv4 if none.
        family: attribute("family") => Option<IpFamily>,
        /// The subnet.
        address: required("address") => Address,
        /// The subnet's mask, of IPv4,
        netmask: attribute("netmask") => Option<Netmask>,
        /// or how many bits its addresses have in common.
        prefix: attribute("prefix") => Option<u8>,
        /// The guest.
        gateway: required("gateway") => Address,
        /// Higher is worse.
        metric: attribute("metric") => Option<u32>,
    }
}

/// libvirt ends the element of an address on a line of its own, also when nothing is in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndOnOwnLine;

impl Model for EndOnOwnLine {
    fn take(_: &mut Fields<'_>) -> Result<Self, XmlError> {
        Ok(Self)
    }

    fn put(&self, element: &mut Element) {
        if element.content.is_empty() {
            element.push_text("\n  ");
        }
    }
}

/// An IP address that has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub IpAddr);

impl Default for Address {
    /// No address.
    fn default() -> Self {
        Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Address {
    fn read(text: &str) -> Result<Self, XmlFault> {
        IpAddr::read(text).map(Self)
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

/// The mask of an IPv4 subnet: ones, then zeroes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Netmask(u8);

impl Netmask {
    /// How many ones.
    pub fn prefix(self) -> u8 {
        self.0
    }
}

impl Value for Netmask {
    fn read(text: &str) -> Result<Self, XmlFault> {
        let fault = || invalid(text, "a netmask as in 255.255.255.0");
        let bits = u32::from(text.trim().parse::<Ipv4Addr>().map_err(|_| fault())?);
        let ones = bits.leading_ones();
        if bits.count_ones() != ones {
            return Err(fault());
        }
        u8::try_from(ones).map(Self).map_err(|_| fault())
    }

    fn print(&self) -> String {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.0)).unwrap_or(0);
        Ipv4Addr::from(mask).to_string()
    }
}

impl Value for IpAddr {
    fn read(text: &str) -> Result<Self, XmlFault> {
        text.trim().parse().map_err(|_| invalid(text, "an IP address"))
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

impl Value for Ipv4Addr {
    fn read(text: &str) -> Result<Self, XmlFault> {
        text.trim().parse().map_err(|_| invalid(text, "an IPv4 address"))
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

impl Lease {
    /// Its time in seconds; none for ever. A time that is too long for DHCP is the longest.
    pub fn seconds(&self) -> Option<u32> {
        let unit = match self.unit.unwrap_or_default() {
            LeaseUnit::Seconds => 1,
            LeaseUnit::Minutes => 60,
            LeaseUnit::Hours => 3600,
        };
        // The highest number means for ever (RFC 2131, 3.3).
        (self.expiry != 0).then(|| self.expiry.saturating_mul(unit).min(u32::MAX - 1))
    }
}

/// A subnet's prefix as a document says it; what IPv4 addresses had before there were prefixes, or the whole address, if it says
/// nothing.
fn prefix(address: IpAddr, netmask: Option<Netmask>, prefix: Option<u8>) -> Option<u8> {
    prefix.or_else(|| netmask.map(Netmask::prefix)).or_else(|| classful(address))
}

/// The prefix of the classes of RFC 791, 3.2.
fn classful(address: IpAddr) -> Option<u8> {
    match address {
        IpAddr::V4(address) => match address.octets()[0] {
            0..128 => Some(8),
            128..192 => Some(16),
            192..224 => Some(24),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

impl Ip {
    /// Bits that the subnet's addresses have in common; none if it can't be known.
    pub fn prefix_length(&self) -> Option<u8> {
        prefix(self.address.0, self.netmask, self.prefix)
    }

    /// What DHCP gives there; nothing when nothing is said.
    pub fn dhcp_or_default(&mut self) -> &mut Dhcp {
        self.dhcp.get_or_insert_default()
    }
}

impl Route {
    /// Bits that the subnet's addresses have in common.
    pub fn prefix_length(&self) -> Option<u8> {
        let all_zero = self.address.0.is_unspecified().then_some(0);
        self.prefix
            .or_else(|| self.netmask.map(Netmask::prefix))
            .or(all_zero)
            .or_else(|| classful(self.address.0))
    }
}

/// Whether an address is in a subnet.
pub fn in_subnet(address: IpAddr, of: IpAddr, prefix: u8) -> bool {
    masked(address, prefix).is_some_and(|one| masked(of, prefix) == Some(one))
        && address.is_ipv4() == of.is_ipv4()
}

/// The first address of a subnet, as a number; none when the prefix is too long.
pub(super) fn masked(address: IpAddr, prefix: u8) -> Option<u128> {
    let (number, bits) = number(address);
    let hosts = u32::from(bits.checked_sub(prefix)?);
    Some(number.checked_shr(hosts).and_then(|network| network.checked_shl(hosts)).unwrap_or(0))
}

/// An address as a number, and how many bits it has.
pub(super) fn number(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

#[cfg(test)]
mod drawn {
    use super::*;
    use crate::draw::{Bytes, Draw};

    impl Draw for EndOnOwnLine {
        fn draw(_: &mut Bytes) -> Self {
            Self
        }
    }

    impl Draw for Netmask {
        fn draw(bytes: &mut Bytes) -> Self {
            Self(bytes.byte() % 33)
        }
    }

    impl Draw for Ipv4Addr {
        fn draw(bytes: &mut Bytes) -> Self {
            Self::from(bytes.array())
        }
    }

    impl Draw for Address {
        fn draw(bytes: &mut Bytes) -> Self {
            Self(Draw::draw(bytes))
        }
    }

    impl Draw for IpAddr {
        fn draw(bytes: &mut Bytes) -> Self {
            if bool::draw(bytes) { Self::from(bytes.array::<16>()) } else { Self::V4(Draw::draw(bytes)) }
        }
    }
}
