//! Which addresses the guest at a port may use.
//!
//! | of a family, the first that applies | the guest's addresses |
//! |---|---|
//! | the domain's document says some (`<ip>`, parameters of `clean-traffic`) | these and no others |
//! | the network gives addresses by DHCP | those of its hosts with the guest's hardware address, and leases |
//! | the network has an address without DHCP | the guest's choice in that subnet, but not the host's own |
//! | neither the document nor the network says any address of either family | any: there is nobody to pretend to be but other guests |
//! | only those of the other family are said | none |
//!
//! Where guests make addresses of an advertised prefix (RFC 4862), the whole prefix is theirs, but for the host's own address.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use host_network::{Guard, Subnet};
use libvirt_xml::MacAddress;
use libvirt_xml::network::Network as Definition;
use libvirt_xml::network::addresses::Ip;
use network_services::{Lease, LeaseChange, LeaseEvent};

use super::Port;
use crate::network::{NetworkError, description};

/// Addresses that guests have for a time.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<[u8; 6], BTreeSet<IpAddr>>);

impl Leases {
    /// Those of a list.
    pub(super) fn of(leases: &[Lease]) -> Self {
        let mut all = Self::default();
        for lease in leases {
            all.0.entry(lease.mac.0).or_default().insert(lease.address);
        }
        all
    }

    /// Follows what happened to one.
    pub(super) fn follow(&mut self, event: &LeaseEvent) {
        let Lease { mac, address, .. } = &event.lease;
        match event.change {
            LeaseChange::Added | LeaseChange::Renewed => {
                self.0.entry(mac.0).or_default().insert(*address);
            }
            LeaseChange::Expired | LeaseChange::Released | LeaseChange::Forgotten => {
                if let Some(addresses) = self.0.get_mut(&mac.0) {
                    addresses.remove(address);
                    if addresses.is_empty() {
                        self.0.remove(&mac.0);
                    }
                }
            }
        }
    }

    fn of_guest(&self, mac: MacAddress) -> impl Iterator<Item = IpAddr> {
        self.0.get(&mac.0).into_iter().flatten().copied()
    }
}

/// What a port's guest is held to; none if everything passes.
///
/// # Errors
/// It can't be held to anything on this network.
pub(super) fn of(document: &Definition, port: &Port, leases: &Leases) -> Result<Option<Guard>, NetworkError> {
    if !port.filtered && !description::holds_guests(document) {
        return Ok(None);
    }
    let name = &port.network;
    if document.bridge_name().is_none() {
        return Err(NetworkError::Unsupported(format!(
            "network '{name}' shares interfaces of the host, where packets pass without being looked at: leave <filterref> out"
        )));
    }
    if !document.has_own_bridge() && port.addresses.is_empty() {
        return Err(NetworkError::Unsupported(format!(
            "network '{name}' is a bridge where others give addresses: name the guest's, as <parameter name='IP' value='...'/> in \
             <filterref>"
        )));
    }
    let addresses = [true, false].into_iter().flat_map(|ipv4| addresses(document, port, leases, ipv4));
    Ok(Some(Guard { interface: port.interface.clone(), mac: port.mac.0, addresses: addresses.collect() }))
}

/// Those of one family.
fn addresses(document: &Definition, port: &Port, leases: &Leases, ipv4: bool) -> Vec<Subnet> {
    let of_family = |address: &IpAddr| address.is_ipv4() == ipv4;
    let fixed: Vec<_> = port.addresses.iter().copied().filter(of_family).map(alone).collect();
    if !fixed.is_empty() {
        return fixed;
    }
    if document.ips.is_empty() && port.addresses.is_empty() {
        let address: IpAddr = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        return vec![Subnet { address, prefix: Some(0) }];
    }
    let ips: Vec<&Ip> = document.ips.iter().filter(|ip| of_family(&ip.address.0)).collect();
    if ips.iter().all(|ip| ip.dhcp.is_none()) {
        return ips.iter().flat_map(|ip| chosen(ip)).collect();
    }
    let hosts = ips.iter().filter_map(|ip| ip.dhcp.as_ref()).flat_map(|dhcp| &dhcp.hosts);
    let hosts = hosts.filter(|host| host.mac == Some(port.mac)).filter_map(|host| host.ip);
    let all: BTreeSet<IpAddr> = hosts.chain(leases.of_guest(port.mac)).filter(of_family).collect();
    all.into_iter().map(alone).collect()
}

fn alone(address: IpAddr) -> Subnet {
    Subnet { address, prefix: None }
}

/// The subnet of one of the host's addresses without that address.
fn chosen(ip: &Ip) -> Vec<Subnet> {
    let (own, bits) = match ip.address.0 {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    // Of each longer prefix the half in which the host is not.
    let halves = (ip.prefix_length().unwrap_or(bits)..bits).map(|length| {
        let last = bits - length - 1;
        let other = ((own >> last) ^ 1) << last;
        let address = match ip.address.0 {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(other).unwrap_or(u32::MAX))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(other)),
        };
        Subnet { address, prefix: Some(length + 1) }
    });
    halves.collect()
}
