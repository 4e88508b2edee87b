//! Guests can't pretend to be others: a table at the bridges' ports, in front of everything else.
//!
//! What comes from a guarded interface has the guest's MAC address (as Ethernet's and ARP's sender), and one of the IPv4 and IPv6
//! addresses that it was given; until it has one, it can ask for one. It is no DHCP server and no router. Only ARP, IPv4, IPv6
//! and reverse ARP (which announces where a guest is) pass.
//!
//! IPv6 addresses of the link itself (`fe80::/10`) are the guest's own choice (RFC 7217) and pass with the right MAC address;
//! a neighbour advertisement for any other address has to be for one of its own.
//!
//! Rules are the same for all; what is allowed is in sets, so that a new lease changes an element and no rule.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::network::Subnet;
use crate::nftables::{
    Base, Element, Family, Field, Hook, Keys, Place, Rule, Transaction, Verdict, address_bytes,
    interface_key, mask_bytes,
};

/// EtherTypes (IEEE 802 numbers of IANA).
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const REVERSE_ARP: u16 = 0x8035;
const IPV6: u16 = 0x86dd;
/// Ethernet and IPv4, with addresses of 6 and 4 bytes (RFC 826).
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;
/// ICMPv6: neighbour discovery (RFC 4861, 4) and reports of multicast listeners (RFC 2710, 3; RFC 3810, 5).
const REDIRECT: u8 = 137;
const ROUTER_ADVERTISEMENT: u8 = 134;
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const LISTENER_REPORTS: [u8; 2] = [131, 143];
const LINK_LOCAL: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0));
const LINK_LOCAL_PREFIX: u8 = 10;

const INTERFACES: &str = "interfaces";
const MACS: &str = "macs";
const IPV4S: &str = "ipv4";
const IPV6S: &str = "ipv6";

/// What an interface of a guest may say it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The interface on the host.
    pub interface: String,
    /// The guest's address.
    pub mac: [u8; 6],
    /// Addresses that it was given; subnets for those that it chooses in one.
    pub addresses: Vec<Subnet>,
}

/// All guards of a host.
pub(crate) type Guards = BTreeMap<String, Guard>;

/// The chains of the table with their rules.
fn rules() -> Vec<(&'static str, Rule)> {
    let rule = || Rule::new(String::new());
    let jump = |chain: &str| Verdict::Jump(chain.to_owned());
    let port = |rule: Rule, field, port: u16| rule.transport(UDP).field(field, &port.to_be_bytes());
    let icmp = |kind: u8| rule().transport(ICMPV6).field(Field::ICMP_TYPE, &[kind]);
    let from_nowhere = |rule: Rule| rule.field(Field::IPV6_SOURCE, &[0; 16]);
    let mut rules = vec![
        ("ports", rule().input_in(INTERFACES).then(jump("guest"))),
        ("guest", rule().input_with(Field::ETHERNET_SOURCE, MACS, false).then(Verdict::Drop)),
        ("guest", rule().ether_type(IPV4).then(jump("guest_ipv4"))),
        ("guest", rule().ether_type(IPV6).then(jump("guest_ipv6"))),
        ("guest", rule().ether_type(ARP).then(jump("guest_arp"))),
        ("guest", rule().ether_type(REVERSE_ARP).then(Verdict::Accept)),
        ("guest", rule().then(Verdict::Drop)),
        ("guest_arp", rule().other_field(Field::ARP_FORMAT, &ARP_OF_IPV4).then(Verdict::Drop)),
        ("guest_arp", rule().input_with(Field::ARP_SENDER_MAC, MACS, false).then(Verdict::Drop)),
        // Asks whether somebody has an address (RFC 5227, 2.1.1).
        ("guest_arp", rule().field(Field::ARP_SENDER_IP, &[0; 4]).then(Verdict::Accept)),
        ("guest_arp", rule().input_with(Field::ARP_SENDER_IP, IPV4S, true).then(Verdict::Accept)),
        ("guest_arp", rule().then(Verdict::Drop)),
        ("guest_ipv4", port(rule(), Field::SOURCE_PORT, DHCP_SERVER).then(Verdict::Drop)),
        ("guest_ipv4", rule().input_with(Field::IPV4_SOURCE, IPV4S, true).then(Verdict::Accept)),
        (
            "guest_ipv4",
            port(rule().field(Field::IPV4_SOURCE, &[0; 4]), Field::DESTINATION_PORT, DHCP_SERVER)
                .then(Verdict::Accept),
        ),
        ("guest_ipv4", rule().then(Verdict::Drop)),
        ("guest_ipv6", icmp(ROUTER_ADVERTISEMENT).then(Verdict::Drop)),
        ("guest_ipv6", icmp(REDIRECT).then(Verdict::Drop)),
        ("guest_ipv6", port(rule(), Field::SOURCE_PORT, DHCPV6_SERVER).then(Verdict::Drop)),
        ("guest_ipv6", icmp(NEIGHBOUR_ADVERTISEMENT).then(jump("guest_advertises"))),
        ("guest_ipv6", rule().input_with(Field::IPV6_SOURCE, IPV6S, true).then(Verdict::Accept)),
        ("guest_ipv6", rule().address(true, true, LINK_LOCAL, LINK_LOCAL_PREFIX).then(Verdict::Accept)),
    ];
    // Before it has an address (RFC 4862, 5.4.2).
    for kind in [NEIGHBOUR_SOLICITATION, ROUTER_SOLICITATION].into_iter().chain(LISTENER_REPORTS) {
        rules.push(("guest_ipv6", from_nowhere(icmp(kind)).then(Verdict::Accept)));
    }
    rules.push(("guest_ipv6", rule().then(Verdict::Drop)));
    rules.extend([
        ("guest_advertises", rule().input_with(Field::NEIGHBOUR_TARGET, IPV6S, true).then(Verdict::Return)),
        (
            "guest_advertises",
            rule().field_in(Field::NEIGHBOUR_TARGET, LINK_LOCAL, LINK_LOCAL_PREFIX).then(Verdict::Return),
        ),
        ("guest_advertises", rule().then(Verdict::Drop)),
    ]);
    rules
}

/// How many rules the table has.
pub(crate) fn count(guards: &Guards) -> usize {
    if guards.is_empty() { 0 } else { rules().len() }
}

/// Puts the table in the place of what is there; without guards there is none.
pub(crate) fn write(guards: &Guards, name: &str, transaction: &mut Transaction) {
    if guards.is_empty() {
        return transaction.remove_table(Family::Bridge, name);
    }
    transaction.replace_table(Family::Bridge, name);
    for (set, keys) in [
        (INTERFACES, Keys::Interface),
        (MACS, Keys::InterfaceAndMac),
        (IPV4S, Keys::InterfaceAndIpv4),
        (IPV6S, Keys::InterfaceAndIpv6),
    ] {
        transaction.add_set(Family::Bridge, name, set, keys);
    }
    // Before bridges translate anything (`NF_BR_PRI_NAT_DST_BRIDGED` is -300).
    let base = Base { kind: "filter", hook: Hook::Prerouting, priority: -310 };
    transaction.add_chain(Family::Bridge, name, "ports", Some(base));
    for chain in ["guest", "guest_arp", "guest_ipv4", "guest_ipv6", "guest_advertises"] {
        transaction.add_chain(Family::Bridge, name, chain, None);
    }
    for (chain, rule) in rules() {
        transaction.add_rule(Family::Bridge, name, chain, &rule, Place::Last);
    }
    for guard in guards.values() {
        for (set, elements) in elements(guard) {
            transaction.add_elements(Family::Bridge, name, set, &elements);
        }
    }
}

/// Changes what one interface is allowed; the table is there.
pub(crate) fn change(
    before: Option<&Guard>,
    after: Option<&Guard>,
    name: &str,
    transaction: &mut Transaction,
) {
    let (before, after) = (before.map(elements).unwrap_or_default(), after.map(elements).unwrap_or_default());
    let missing = |of: &[(&'static str, Vec<Element>)], set: &str, element: &Element| {
        !of.iter().any(|(other, elements)| *other == set && elements.contains(element))
    };
    for (set, elements) in &before {
        let gone: Vec<Element> =
            elements.iter().filter(|element| missing(&after, set, element)).cloned().collect();
        transaction.remove_elements(Family::Bridge, name, set, &gone);
    }
    for (set, elements) in &after {
        let new: Vec<Element> =
            elements.iter().filter(|element| missing(&before, set, element)).cloned().collect();
        transaction.add_elements(Family::Bridge, name, set, &new);
    }
}

fn elements(guard: &Guard) -> Vec<(&'static str, Vec<Element>)> {
    let interface = interface_key(&guard.interface);
    let key = |rest: &[u8]| {
        let mut key = interface.to_vec();
        key.extend_from_slice(rest);
        key.resize(key.len().next_multiple_of(4), 0);
        key
    };
    let of_family = |ipv4: bool| {
        let mut list: Vec<Element> = Vec::new();
        let subnets = guard.addresses.iter().filter(|subnet| subnet.address.is_ipv4() == ipv4);
        for (index, subnet) in subnets.enumerate() {
            // The kernel takes no ranges that overlap.
            let of_others = |other: &Subnet| other.overlaps(*subnet);
            let mut others = guard.addresses.iter().filter(|other| other.address.is_ipv4() == ipv4);
            let wider = others.clone().any(|other| of_others(other) && other.length() < subnet.length());
            if wider
                || others
                    .by_ref()
                    .take(index)
                    .any(|other| of_others(other) && other.length() == subnet.length())
            {
                continue;
            }
            let address = address_bytes(subnet.address);
            let mask = mask_bytes(address.len(), subnet.length());
            let first: Vec<u8> = address.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
            let last: Vec<u8> = address.iter().zip(&mask).map(|(byte, mask)| byte | !mask).collect();
            list.push(Element { key: key(&first), last: Some(key(&last)) });
        }
        list
    };
    vec![
        (INTERFACES, vec![Element { key: interface.to_vec(), last: None }]),
        (MACS, vec![Element { key: key(&guard.mac), last: None }]),
        (IPV4S, of_family(true)),
        (IPV6S, of_family(false)),
    ]
}
