//! Subnets of new networks: as people write them, and one that is free.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// As many addresses as libvirt lets a range of DHCP have.
const MOST_ADDRESSES: u128 = 65535;

/// A subnet, and the host's address in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
}

impl Subnet {
    /// A subnet as in `10.1.2.0/24`: the host has its first address, or the one that is written.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a subnet as in 10.1.2.0/24 or fd00:1:2:3::/64");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let mut subnet = Self { address, prefix };
        // Without two addresses there is no guest.
        if prefix == 0 || prefix > subnet.length() - 2 {
            let most = subnet.length() - 2;
            return Err(format!("{text}: the length of the prefix is from 1 to {most}"));
        }
        if address.is_multicast() || address.is_loopback() {
            return Err(format!("{text}: no host has such an address"));
        }
        let host = subnet.number() & subnet.host_bits();
        if address.is_ipv4() && host == subnet.host_bits() {
            return Err(format!("{text}: {address} is the address of all hosts there"));
        }
        if host == 0 {
            subnet.address = subnet.at(1);
        }
        Ok(subnet)
    }

    fn length(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn number(self) -> u128 {
        match self.address {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits(),
        }
    }

    /// The bits that tell hosts apart.
    fn host_bits(self) -> u128 {
        let bits = u32::from(self.length() - self.prefix.min(self.length()));
        1_u128.checked_shl(bits).map_or(u128::MAX, |after| after - 1)
    }

    /// The address of a number in it.
    fn at(self, host: u128) -> IpAddr {
        let number = (self.number() & !self.host_bits()) | (host & self.host_bits());
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
        }
    }

    /// Whether an address is in it.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        self.overlaps(Self { address, prefix: self.length() })
    }

    /// Whether the two have addresses in common.
    pub(super) fn overlaps(self, other: Self) -> bool {
        let bits = self.host_bits() | other.host_bits();
        self.address.is_ipv4() == other.address.is_ipv4() && self.number() & !bits == other.number() & !bits
    }

    /// Addresses for guests: those at the larger side of the host's.
    pub(super) fn range(self) -> (IpAddr, IpAddr) {
        let own = self.number() & self.host_bits();
        // The last of IPv4 is that of all hosts (RFC 919).
        let last = self.host_bits() - u128::from(self.address.is_ipv4());
        let (first, last) = if own - 1 > last - own { (1, own - 1) } else { (own + 1, last) };
        (self.at(first), self.at(last.min(first + MOST_ADDRESSES - 1)))
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Private subnets for a network that is told none, in the order in which they are tried: those of libvirt's kind first, then some of each
/// private block, so that a route to one whole block (of a VPN, for example) is soon behind (RFC 1918).
pub(super) fn candidates() -> impl Iterator<Item = Subnet> {
    let of = |a, b, c| Subnet { address: Ipv4Addr::new(a, b, c, 1).into(), prefix: 24 };
    (122..=254).flat_map(move |number: u8| {
        let block = 16 + number % 16;
        [of(192, 168, number), of(10, number, 0), of(172, block, number)]
    })
}

/// A subnet of unique local addresses (RFC 4193, 3.2): forty bits of chance, and the first subnet of them.
pub(super) fn unique_local() -> Subnet {
    let chance = uuid::Uuid::new_v4().as_u128() & ((1 << 40) - 1);
    let address = Ipv6Addr::from_bits((0xfd << 120) | (chance << 80) | 1);
    Subnet { address: address.into(), prefix: 64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::parse(text).unwrap()
    }

    #[test]
    fn the_host_has_the_first_address_or_the_one_that_is_written() {
        assert_eq!(subnet("10.1.2.0/24").to_string(), "10.1.2.1/24");
        assert_eq!(subnet("10.1.2.254/24").to_string(), "10.1.2.254/24");
        assert_eq!(subnet("fd00:1::/64").to_string(), "fd00:1::1/64");
        for wrong in [
            "",
            "10.1.2.0",
            "10.1.2.0/",
            "10.1.2/24",
            "10.1.2.0/0",
            "10.1.2.0/31",
            "10.1.2.0/33",
            "10.1.2.255/24",
            "224.0.0.0/24",
            "127.0.0.0/8",
            "fd00::/127",
            "fd00::/0",
            "ff02::/64",
            "x/24",
            "10.1.2.0/-1",
            "10.1.2.0/999",
        ] {
            assert!(Subnet::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn guests_get_what_is_left_of_the_subnet() {
        let range = |text| {
            let (first, last) = subnet(text).range();
            format!("{first} {last}")
        };
        assert_eq!(range("10.1.2.0/24"), "10.1.2.2 10.1.2.254");
        assert_eq!(range("10.1.2.254/24"), "10.1.2.1 10.1.2.253");
        assert_eq!(range("10.1.2.100/24"), "10.1.2.101 10.1.2.254");
        assert_eq!(range("10.1.2.0/30"), "10.1.2.2 10.1.2.2");
        assert_eq!(range("10.0.0.0/8"), "10.0.0.2 10.1.0.0");
        assert_eq!(range("fd00::/64"), "fd00::2 fd00::1:0");
        assert_eq!(range("fd00::/126"), "fd00::2 fd00::3");
    }

    #[test]
    fn subnets_overlap_when_one_has_the_others_addresses() {
        assert!(subnet("10.1.2.0/24").overlaps(subnet("10.0.0.0/8")));
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.1.2.0/24")));
        assert!(!subnet("10.1.2.0/24").overlaps(subnet("10.1.3.0/24")));
        assert!(!subnet("10.1.2.0/24").overlaps(subnet("fd00::/8")));
        assert!(subnet("fd00::/8").overlaps(subnet("fd12::/64")));
        assert!(subnet("10.1.2.0/24").contains("10.1.2.9".parse().unwrap()));
        assert!(!subnet("10.1.2.0/24").contains("10.1.3.9".parse().unwrap()));
    }

    #[test]
    fn what_is_chosen_is_private_and_never_overlaps() {
        let all: Vec<_> = candidates().collect();
        for (number, one) in all.iter().enumerate() {
            let IpAddr::V4(address) = one.address else { panic!("{one}") };
            assert!(address.is_private(), "{one}");
            assert!(all[..number].iter().all(|other| !one.overlaps(*other)), "{one}");
        }
        assert_eq!(all[0].to_string(), "192.168.122.1/24");
        let local = unique_local();
        assert!(subnet("fd00::/8").overlaps(local) && local.prefix == 64);
        assert_ne!(local, unique_local());
    }
}
