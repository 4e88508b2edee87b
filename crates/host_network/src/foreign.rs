//! Others' rules: Docker's, firewalld's, an administrator's.
//!
//! A packet has to pass all base chains of its hook, so accepting it in a table of ours does not help where another refuses it.
//! There, and only there, rules of ours are added: where Docker has its chain for others (`DOCKER-USER`), at that chain's end; at
//! the beginning of the base chain otherwise. They have our comment, by which they are found and removed; no other rule is touched.
//! They can accept without harm, for what must not pass is refused by our own table (see [`crate::rules`]).
//!
//! Whether a chain refuses our packets is seen from its policy and from the rules that can be reached, except those
//! that name other interfaces only. In doubt it does.

use std::collections::HashSet;

use crate::network::{Kind, Network};
use crate::nftables::{
    Chain, ChainRule, Direction, Family, Field, Hook, Outcome, Place, Rule, Transaction, Verdict,
};

/// Where Docker leaves room for others, and who comes by there.
const DOCKER_USER: &str = "DOCKER-USER";

/// A rule that somebody else's chain has, or should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addition {
    family: Family,
    table: String,
    chain: String,
    place: Place,
    rule: Rule,
}

/// A rule of ours in somebody else's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Present {
    family: Family,
    table: String,
    chain: String,
    handle: u64,
    comment: String,
}

/// What is to be changed in others' chains.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    add: Vec<Addition>,
    remove: Vec<Present>,
}

impl Changes {
    /// What has to change so that packets of `networks` pass the chains that are there; `own` is our table and the beginning of
    /// our comments. Tables in `closed` belong to a process that lets nobody else add rules.
    pub(crate) fn of(
        own: &str,
        chains: &[Chain],
        closed: &HashSet<(Family, String)>,
        networks: &[&Network],
    ) -> Self {
        let mut wanted: Vec<Addition> = Vec::new();
        for base in chains.iter().filter(|chain| chain.table != own) {
            if base.kind.as_deref() != Some("filter")
                || closed.contains(&(base.family, base.table.clone()))
                || !matches!(base.family, Family::Inet | Family::Ipv4 | Family::Ipv6)
            {
                continue;
            }
            let Some(hook) = base.hook else { continue };
            for network in networks {
                let rules = accepting(own, network, hook, base.family);
                if rules.is_empty() || !refuses(own, chains, base, &network.bridge) {
                    continue;
                }
                let (chain, place) = place(own, chains, base);
                for rule in rules {
                    let (family, table, chain) = (base.family, base.table.clone(), chain.to_owned());
                    let addition = Addition { family, table, chain, place, rule };
                    // Two base chains can share a chain.
                    if !wanted.contains(&addition) {
                        wanted.push(addition);
                    }
                }
            }
        }
        Self::between(wanted, ours(own, chains))
    }

    /// What is there and wanted stays as it is.
    fn between(wanted: Vec<Addition>, present: Vec<Present>) -> Self {
        let mut changes = Self { add: wanted, remove: Vec::new() };
        for present in present {
            let same = changes.add.iter().position(|wanted| {
                (wanted.family, &wanted.table, &wanted.chain, wanted.rule.comment())
                    == (present.family, &present.table, &present.chain, present.comment.as_str())
            });
            match same {
                Some(index) => {
                    changes.add.remove(index);
                }
                None => changes.remove.push(present),
            }
        }
        changes
    }

    /// Whether everything is as it should be.
    pub(crate) fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Makes them part of a transaction.
    pub(crate) fn write(&self, transaction: &mut Transaction) {
        for Addition { family, table, chain, place, rule } in &self.add {
            transaction.add_rule(*family, table, chain, rule, *place);
        }
        for Present { family, table, chain, handle, .. } in &self.remove {
            transaction.remove_rule(*family, table, chain, *handle);
        }
    }

    /// Who gets rules, for the log.
    pub(crate) fn tables(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.add.iter().map(|addition| format!("{} {}", addition.table, addition.chain)).collect();
        names.dedup();
        names
    }
}

/// Comments of ours begin like this.
fn mark(own: &str) -> String {
    format!("{own}: ")
}

fn ours(own: &str, chains: &[Chain]) -> Vec<Present> {
    let mark = mark(own);
    let others = chains.iter().filter(|chain| chain.table != own);
    let of_chain = |chain: &Chain| -> Vec<Present> {
        let rules = chain.rules.iter().filter_map(|rule| {
            let comment = rule.comment.clone().filter(|comment| comment.starts_with(&mark))?;
            let (table, name) = (chain.table.clone(), chain.name.clone());
            Some(Present { family: chain.family, table, chain: name, handle: rule.handle, comment })
        });
        rules.collect()
    };
    others.flat_map(of_chain).collect()
}

/// Where in the tables of a base chain our rules go.
fn place<'c>(own: &str, chains: &'c [Chain], base: &'c Chain) -> (&'c str, Place) {
    let docker = (base.hook == Some(Hook::Forward))
        .then(|| chain_of(chains, base, DOCKER_USER))
        .flatten()
        .filter(|_| base.rules.iter().any(|rule| rule.outcome == Outcome::Jump(DOCKER_USER.to_owned())));
    let Some(docker) = docker else { return (&base.name, Place::First) };
    // It ends with a return in many versions.
    let mark = mark(own);
    let end = docker
        .rules
        .iter()
        .find(|rule| rule.outcome == Outcome::Return && !rule.conditional && !is_ours(rule, &mark));
    (&docker.name, end.map_or(Place::Last, |rule| Place::Before(rule.handle)))
}

fn is_ours(rule: &ChainRule, mark: &str) -> bool {
    rule.comment.as_deref().is_some_and(|comment| comment.starts_with(mark))
}

fn chain_of<'c>(chains: &'c [Chain], base: &Chain, name: &str) -> Option<&'c Chain> {
    chains.iter().find(|chain| chain.family == base.family && chain.table == base.table && chain.name == name)
}

/// Whether a base chain refuses packets of a bridge when rules of ours are not there.
fn refuses(own: &str, chains: &[Chain], base: &Chain, bridge: &str) -> bool {
    let mut seen = HashSet::new();
    let mark = mark(own);
    match walk(&mark, chains, base, bridge, &mut seen) {
        Some(refused) => refused,
        None => base.drops,
    }
}

/// What becomes of the bridge's packets in a chain: refused or not, or it goes on behind it.
fn walk<'c>(
    mark: &str,
    chains: &'c [Chain],
    chain: &'c Chain,
    bridge: &str,
    seen: &mut HashSet<&'c str>,
) -> Option<bool> {
    // A chain that was seen has refused nothing.
    if !seen.insert(&chain.name) {
        return None;
    }
    for rule in chain.rules.iter().filter(|rule| !is_ours(rule, mark)) {
        if !rule.interfaces.iter().all(|name| names(name, bridge)) {
            continue;
        }
        match &rule.outcome {
            Outcome::Refuse | Outcome::Map => return Some(true),
            Outcome::Jump(next) => {
                let inside =
                    chain_of(chains, chain, next).and_then(|next| walk(mark, chains, next, bridge, seen));
                match inside {
                    Some(true) => return Some(true),
                    Some(false) if !rule.conditional => return Some(false),
                    _ => {}
                }
            }
            Outcome::Accept if !rule.conditional => return Some(false),
            Outcome::Return if !rule.conditional => return None,
            _ => {}
        }
    }
    None
}

/// Whether what a rule asks for can be the bridge; `*` at the end stands for anything.
pub(crate) fn names(asked: &str, bridge: &str) -> bool {
    match asked.strip_suffix('*') {
        Some(beginning) => bridge.starts_with(beginning),
        None => asked == bridge,
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Where names are asked (RFC 1035, section 4.2).
pub(crate) const DNS_PORT: u16 = 53;

/// Rules that let a network's packets pass a hook.
fn accepting(own: &str, network: &Network, hook: Hook, family: Family) -> Vec<Rule> {
    if !network.makes_bridge() || matches!(network.kind, Kind::Open) {
        return Vec::new();
    }
    let bridge = network.bridge.as_str();
    let rule = |direction, what: &str| {
        Rule::new(format!("{}{bridge} {what}", mark(own))).interface(direction, bridge)
    };
    match hook {
        Hook::Forward => vec![
            rule(Direction::Input, "from guests").then(Verdict::Accept),
            rule(Direction::Output, "to guests").then(Verdict::Accept),
        ],
        Hook::Input => served(network, family)
            .map(|(protocol, port, what)| {
                let rule = rule(Direction::Input, &format!("{what} in"));
                with_port(rule, protocol, port, Field::DESTINATION_PORT)
            })
            .collect(),
        Hook::Output => served(network, family)
            .map(|(protocol, port, what)| {
                let rule = rule(Direction::Output, &format!("{what} out"));
                with_port(rule, protocol, port, Field::SOURCE_PORT)
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn with_port(rule: Rule, protocol: u8, port: Option<u16>, field: Field) -> Rule {
    let rule = rule.transport(protocol);
    let rule = match port {
        Some(port) => rule.field(field, &port.to_be_bytes()),
        None => rule,
    };
    rule.then(Verdict::Accept)
}

/// What the host itself does in a network: protocol, port of the host, and its name.
pub(crate) fn served(
    network: &Network,
    family: Family,
) -> impl Iterator<Item = (u8, Option<u16>, &'static str)> {
    let ipv4 = family != Family::Ipv6;
    let ipv6 = family != Family::Ipv4;
    let services = network.services;
    // Where questions are led is where they come in.
    let dns_port = Some(services.dns_port.unwrap_or(DNS_PORT));
    [
        (ipv4 && network.has(true), ICMP, None, "ICMP"),
        // Neighbour discovery and router advertisements.
        (ipv6, ICMPV6, None, "ICMPv6"),
        (ipv4 && services.dhcp, UDP, Some(67), "DHCP"),
        (ipv6 && services.dhcp, UDP, Some(547), "DHCPv6"),
        (services.dns, UDP, dns_port, "DNS"),
        (services.dns, TCP, dns_port, "DNS by TCP"),
    ]
    .into_iter()
    .filter_map(|(wanted, protocol, port, what)| wanted.then_some((protocol, port, what)))
}
