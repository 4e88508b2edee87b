//! What our own table says about a host's networks: address translation, port forwards, and what must not pass.
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `guard_loopback` | prerouting, before connection tracking | guests can't reach the host's 127.0.0.0/8, although port forwards from it need `route_localnet` |
//! | `port_forwards`, `port_forwards_host` | prerouting and output, dstnat | port forwards from outside, from guests and from the host itself; questions for names to where they are answered when that is not port 53 |
//! | `forward` | forward, filter | packets from a network pass `from_N`, packets to one pass `to_N`: each refuses, or lets go on |
//! | `translate` | postrouting, srcnat | guests' addresses become the host's |
//!
//! No chain of ours accepts for others: a packet that passes here is still theirs to refuse. See [`crate::foreign`].

use std::net::IpAddr;

use crate::foreign::DNS_PORT;
use crate::network::{Kind, Nat, Network, PortForward, Protocol, Subnet};
use crate::nftables::{Base, Ct, Direction, Family, Field, Hook, Place, Rule, Transaction, Verdict};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0));
const LOOPBACK_PREFIX: u8 = 8;
/// Never leaves a network: local multicast (RFC 5771, 4) and IPv6's multicast (RFC 4291, 2.7), and broadcast.
const LOCAL_MULTICAST: Subnet =
    Subnet { address: IpAddr::V4(std::net::Ipv4Addr::new(224, 0, 0, 0)), prefix: Some(24) };
const BROADCAST: Subnet = Subnet { address: IpAddr::V4(std::net::Ipv4Addr::BROADCAST), prefix: Some(32) };
const MULTICAST_IPV6: Subnet =
    Subnet { address: IpAddr::V6(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), prefix: Some(8) };

/// Rules of our table, each with its chain.
#[derive(Debug, Default)]
pub(crate) struct Table {
    chains: Vec<(String, Option<Base>)>,
    rules: Vec<(String, Rule)>,
}

impl Table {
    /// What networks need.
    pub(crate) fn of(networks: &[&Network]) -> Self {
        let mut table = Self::default();
        let made: Vec<&&Network> = networks.iter().filter(|network| network.makes_bridge()).collect();
        let filtered: Vec<&&Network> =
            made.iter().copied().filter(|network| !matches!(network.kind, Kind::Open)).collect();
        if !filtered.is_empty() || made.iter().any(|network| network.services.dns_port.is_some()) {
            table.base("port_forwards", "nat", Hook::Prerouting, -100);
            table.base("port_forwards_host", "nat", Hook::Output, -100);
        }
        // Open ones as well: who is asked at an address of the host is no matter of what passes the host.
        for network in &made {
            table.names(network);
        }
        if filtered.is_empty() {
            return table;
        }
        table.base("guard_loopback", "filter", Hook::Prerouting, -300);
        table.base("forward", "filter", Hook::Forward, 0);
        table.base("translate", "nat", Hook::Postrouting, 100);
        // Bridged frames come by here as well where br_netfilter is active: they never leave the network.
        for network in &filtered {
            let rule = table.note(network).interface(Direction::Input, &network.bridge);
            let rule = rule.interface(Direction::Output, &network.bridge);
            table.rule("forward", rule.then(Verdict::Accept));
        }
        for (direction, which) in [(Direction::Input, "from"), (Direction::Output, "to")] {
            for (index, network) in filtered.iter().enumerate() {
                let chain = format!("{which}_{index}");
                table.chains.push((chain.clone(), None));
                let rule = table.note(network).interface(direction, &network.bridge);
                table.rule("forward", rule.then(Verdict::Jump(chain)));
            }
        }
        for (index, network) in filtered.iter().enumerate() {
            table.passing(network, &format!("from_{index}"), &format!("to_{index}"));
            table.port_forwards(network);
            if let Kind::Nat(nat) = &network.kind {
                table.translation(network, nat);
            }
        }
        table
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// How many rules there are.
    pub(crate) fn count(&self) -> usize {
        self.rules.len()
    }

    /// Puts it in the place of what is there; without rules there is no table.
    pub(crate) fn write(&self, family: Family, name: &str, transaction: &mut Transaction) {
        if self.is_empty() {
            return transaction.remove_table(family, name);
        }
        transaction.replace_table(family, name);
        for (chain, base) in &self.chains {
            transaction.add_chain(family, name, chain, *base);
        }
        for (chain, rule) in &self.rules {
            transaction.add_rule(family, name, chain, rule, Place::Last);
        }
    }

    fn base(&mut self, name: &str, kind: &'static str, hook: Hook, priority: i32) {
        self.chains.push((name.to_owned(), Some(Base { kind, hook, priority })));
    }

    fn rule(&mut self, chain: &str, rule: Rule) {
        self.rules.push((chain.to_owned(), rule));
    }

    fn note(&self, network: &Network) -> Rule {
        Rule::new(format!("network {}", network.name))
    }

    /// What may leave a network, and what may come in.
    fn passing(&mut self, network: &Network, from: &str, to: &str) {
        let device = match &network.kind {
            Kind::Nat(nat) => nat.device.as_deref(),
            Kind::Routed { device } => device.as_deref(),
            _ => None,
        };
        let by_device = |rule: Rule, direction| match device {
            Some(device) => rule.interface(direction, device),
            None => rule,
        };
        let isolated = matches!(network.kind, Kind::Isolated);
        if !isolated {
            for subnet in
                network.addresses.iter().chain(network.routes.iter().map(|route| &route.destination))
            {
                let rule = by_device(self.note(network), Direction::Output);
                let rule = in_subnet(rule, *subnet, true);
                self.rule(from, rule.then(Verdict::Return));
                if !translated(network, subnet.address) {
                    let rule = by_device(self.note(network), Direction::Input);
                    let rule = in_subnet(rule, *subnet, false);
                    self.rule(to, rule.then(Verdict::Return));
                }
            }
            let known = self.note(network).tracked(Ct::Known);
            self.rule(to, known.then(Verdict::Return));
            // What comes by a forwarded port, and what is answered to it, by whichever interface that was.
            for chain in [from, to] {
                let forwarded = self.note(network).tracked(Ct::DestinationTranslated);
                self.rule(chain, forwarded.then(Verdict::Return));
            }
        }
        for chain in [from, to] {
            let rule = self.note(network);
            self.rule(chain, rule.then(Verdict::Reject));
        }
    }

    /// Leads questions for names to where they are answered: those of guests, and those that the host itself asks.
    fn names(&mut self, network: &Network) {
        let Some(port) = network.services.dns_port.filter(|_| network.services.dns) else { return };
        for address in network.addresses.iter().map(|subnet| subnet.address) {
            for protocol in [Protocol::Udp, Protocol::Tcp].map(Protocol::number) {
                let asked = |rule: Rule| {
                    let rule = rule.family_of(address).address(false, true, address, host_bits(address));
                    let rule = rule.transport(protocol);
                    let rule = rule.field(Field::DESTINATION_PORT, &DNS_PORT.to_be_bytes());
                    rule.then(Verdict::DestinationNat(address, port))
                };
                let note = self.note(network);
                let from_guests = note.clone().interface(Direction::Input, &network.bridge);
                self.rule("port_forwards", asked(from_guests));
                self.rule("port_forwards_host", asked(note));
            }
        }
    }

    fn port_forwards(&mut self, network: &Network) {
        let bridge = network.bridge.as_str();
        if network.forwards.iter().any(|forward| forward.guest_address.is_ipv4()) {
            let rule = self.note(network).interface(Direction::Input, bridge);
            let rule = rule.family_of(LOOPBACK).address(false, true, LOOPBACK, LOOPBACK_PREFIX);
            self.rule("guard_loopback", rule.then(Verdict::Drop));
            // The guest could not answer to the host's 127.0.0.1.
            let rule = self.note(network).interface(Direction::Output, bridge).family_of(LOOPBACK);
            let rule = rule.address(true, true, LOOPBACK, LOOPBACK_PREFIX);
            self.rule("translate", rule.then(Verdict::Masquerade(None)));
        }
        for forward in &network.forwards {
            for chain in ["port_forwards", "port_forwards_host"] {
                let rule = to_forwarded_port(self.note(network), forward);
                let guest = Verdict::DestinationNat(forward.guest_address, forward.guest_port);
                self.rule(chain, rule.then(guest));
            }
        }
        // A guest that comes back to its network by a port of the host: the other would answer it directly.
        if !network.forwards.is_empty() {
            for subnet in &network.addresses {
                let rule = self.note(network).interface(Direction::Output, bridge);
                let rule = in_subnet(rule, *subnet, true).tracked(Ct::DestinationTranslated);
                let rule = rule.address(true, false, subnet.address, host_bits(subnet.address));
                self.rule("translate", rule.then(Verdict::Masquerade(None)));
            }
        }
    }

    fn translation(&mut self, network: &Network, nat: &Nat) {
        let routed = network.routes.iter().map(|route| route.destination);
        let sources: Vec<Subnet> = network.addresses.iter().copied().chain(routed).collect();
        for subnet in sources.iter().filter(|subnet| translated(network, subnet.address)) {
            let leaving = |rule: Rule| {
                let rule = rule.other_interface(Direction::Output, &network.bridge);
                let rule = match &nat.device {
                    Some(device) => rule.interface(Direction::Output, device),
                    None => rule,
                };
                let rule = in_subnet(rule, *subnet, true);
                let rule = rule.address(false, false, subnet.address, subnet.length());
                let never: &[Subnet] =
                    if subnet.address.is_ipv4() { &[LOCAL_MULTICAST, BROADCAST] } else { &[MULTICAST_IPV6] };
                never.iter().fold(rule, |rule, not| rule.address(false, false, not.address, not.length()))
            };
            let verdict = |ports| match nat.addresses {
                Some((first, last)) if subnet.address.is_ipv4() => {
                    Verdict::SourceNat(first.into(), last.into(), ports)
                }
                _ => Verdict::Masquerade(ports),
            };
            if let Some(ports) = &nat.ports {
                for protocol in [6, 17] {
                    let rule = leaving(self.note(network)).transport(protocol);
                    self.rule("translate", rule.then(verdict(Some(ports.clone()))));
                }
            }
            let rule = leaving(self.note(network));
            self.rule("translate", rule.then(verdict(None)));
        }
    }
}

/// Whether guests with such an address leave with another.
fn translated(network: &Network, address: IpAddr) -> bool {
    matches!(&network.kind, Kind::Nat(nat) if nat.ipv6 || address.is_ipv4())
}

fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Comes from, or goes to, a subnet.
fn in_subnet(rule: Rule, subnet: Subnet, source: bool) -> Rule {
    rule.family_of(subnet.address).address(source, true, subnet.address, subnet.length())
}

fn to_forwarded_port(rule: Rule, forward: &PortForward) -> Rule {
    let rule = rule.family_of(forward.guest_address);
    let rule = match forward.host_address {
        Some(host) => rule.address(false, true, host, host_bits(host)),
        None => rule.destined_here(),
    };
    let rule = rule.transport(forward.protocol.number());
    rule.field(Field::DESTINATION_PORT, &forward.host_port.to_be_bytes())
}
