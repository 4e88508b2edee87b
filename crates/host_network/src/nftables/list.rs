//! What is in the kernel's tables, as far as one has to know of others' rules.

use std::collections::{HashMap, HashSet};
use std::io;

use rustix::net::netlink;

use super::rule::meta;
use super::{Family, Hook, SUBSYSTEM, header, message};
use crate::netlink::{Attributes, DUMP, Socket, Writer, text};

/// A chain with its rules in their order.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) family: Family,
    pub(crate) table: String,
    pub(crate) name: String,
    /// `filter`, `nat`, ...; of base chains.
    pub(crate) kind: Option<String>,
    pub(crate) hook: Option<Hook>,
    /// A base chain that drops what no rule decides on.
    pub(crate) drops: bool,
    pub(crate) rules: Vec<ChainRule>,
}

/// A rule, in the words that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainRule {
    pub(crate) handle: u64,
    pub(crate) comment: Option<String>,
    /// Names of interfaces that a packet has to come or leave by; what ends with `*` is a beginning.
    pub(crate) interfaces: Vec<String>,
    /// It has conditions.
    pub(crate) conditional: bool,
    pub(crate) outcome: Outcome,
}

/// What becomes of packets that meet a rule, as far as that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accept,
    /// Dropped or rejected.
    Refuse,
    Return,
    Jump(String),
    /// Depends on a map: whatever it holds.
    Map,
    /// Goes on.
    Continue,
}

/// Number of the state in which the tables are.
pub(crate) fn generation() -> io::Result<u32> {
    let socket = Socket::open(Some(netlink::NETFILTER))?;
    let mut request = Writer::default();
    let kind = SUBSYSTEM << 8 | message::GET_GENERATION;
    request.message(kind, crate::netlink::ACKNOWLEDGE, 1, &header(0, 0), |_| {});
    let answers = socket.list(&request, |_, payload| Attributes(payload.get(4..)?).number(1))?;
    answers.first().copied().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn dump<T>(socket: &Socket, kind: u16, each: impl FnMut(u16, &[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let mut request = Writer::default();
    request.message(SUBSYSTEM << 8 | kind, DUMP, 1, &header(0, 0), |_| {});
    socket.list(&request, each)
}

/// Tables that belong to a process: nobody else can change them (`NFT_TABLE_F_OWNER`).
pub(crate) fn owned_tables() -> io::Result<HashSet<(Family, String)>> {
    const OWNER: u32 = 2;
    let socket = Socket::open(Some(netlink::NETFILTER))?;
    let tables = dump(&socket, message::GET_TABLE, |_, payload| {
        let (head, attributes) = payload.split_first_chunk::<4>()?;
        let attributes = Attributes(attributes);
        let owned = attributes.number(2)? & OWNER != 0;
        owned.then_some((Family::of(head[0]), attributes.text(1)?))
    })?;
    Ok(tables.into_iter().collect())
}

/// All chains of all tables.
pub(crate) fn list_chains() -> io::Result<Vec<Chain>> {
    let socket = Socket::open(Some(netlink::NETFILTER))?;
    let mut chains = dump(&socket, message::GET_CHAIN, |_, payload| chain(payload))?;
    let rules = dump(&socket, message::GET_RULE, |_, payload| rule(payload))?;
    // Hosts of many containers have thousands of both.
    let key = |chain: &Chain| (chain.family, chain.table.clone(), chain.name.clone());
    let places: HashMap<_, _> = chains.iter().enumerate().map(|(index, chain)| (key(chain), index)).collect();
    for (family, table, name, rule) in rules {
        if let Some(index) = places.get(&(family, table, name)) {
            chains[*index].rules.push(rule);
        }
    }
    Ok(chains)
}

fn chain(payload: &[u8]) -> Option<Chain> {
    let (head, attributes) = payload.split_first_chunk::<4>()?;
    let attributes = Attributes(attributes);
    let hook = match attributes.nested(4).number(1) {
        Some(0) => Some(Hook::Prerouting),
        Some(1) => Some(Hook::Input),
        Some(2) => Some(Hook::Forward),
        Some(3) => Some(Hook::Output),
        Some(4) => Some(Hook::Postrouting),
        _ => None,
    };
    Some(Chain {
        family: Family::of(head[0]),
        table: attributes.text(1)?,
        name: attributes.text(3)?,
        kind: attributes.text(7),
        hook,
        drops: attributes.number(5) == Some(0),
        rules: Vec::new(),
    })
}

fn rule(payload: &[u8]) -> Option<(Family, String, String, ChainRule)> {
    let (head, attributes) = payload.split_first_chunk::<4>()?;
    let attributes = Attributes(attributes);
    let handle = u64::from_be_bytes(attributes.find_kind(3)?.try_into().ok()?);
    let mut read = Reading::default();
    for (_, expression) in attributes.nested(4) {
        let expression = Attributes(expression);
        read.expression(&expression.text(1)?, expression.nested(2));
    }
    let rule = ChainRule {
        handle,
        comment: attributes.find_kind(7).and_then(comment),
        interfaces: read.interfaces,
        conditional: read.conditional,
        outcome: read.outcome.unwrap_or(Outcome::Continue),
    };
    Some((Family::of(head[0]), attributes.text(1)?, attributes.text(2)?, rule))
}

/// A comment among what programs keep with a rule: type, length and value, one after the other.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(text(value));
        }
        data = &rest[value.len()..];
    }
    None
}

/// What is known of a rule after some of its expressions.
#[derive(Default)]
struct Reading {
    interfaces: Vec<String>,
    conditional: bool,
    outcome: Option<Outcome>,
    /// What is loaded: a name, or a number, of an interface.
    loaded: Option<u32>,
}

impl Reading {
    fn expression(&mut self, name: &str, data: Attributes<'_>) {
        match name {
            "meta" => self.loaded = data.number(2),
            "cmp" => {
                self.conditional = true;
                self.compare(data);
            }
            "immediate" => {
                let verdict = data.nested(2).nested(2);
                let Some(code) = verdict.number(1) else { return };
                let chain = || verdict.text(2).unwrap_or_default();
                self.outcome = match code.cast_signed() {
                    0 => Some(Outcome::Refuse),
                    1 => Some(Outcome::Accept),
                    -3 | -4 => Some(Outcome::Jump(chain())),
                    -5 => Some(Outcome::Return),
                    _ => None,
                };
            }
            "reject" => self.outcome = Some(Outcome::Refuse),
            // Of iptables: targets that end are known by name.
            "target" => {
                if matches!(data.text(1).as_deref(), Some("DROP" | "REJECT")) {
                    self.outcome = Some(Outcome::Refuse);
                }
            }
            "lookup" => {
                self.conditional = true;
                // Into the register of verdicts.
                if data.number(3) == Some(0) {
                    self.outcome = Some(Outcome::Map);
                }
            }
            "counter" | "log" | "notrack" => {}
            // A match of iptables, a limit, connection tracking, a field: what is compared next, or decides by itself.
            _ => {
                self.conditional = true;
                self.loaded = None;
            }
        }
    }

    fn compare(&mut self, data: Attributes<'_>) {
        let key = self.loaded.take();
        // Only what has to be equal says something of interfaces that are not named.
        if data.number(2) != Some(0) {
            return;
        }
        let Some(value) = data.nested(3).find_kind(1) else { return };
        match key {
            Some(meta::INPUT | meta::OUTPUT) => {
                let whole = value.len() >= 16 || value.contains(&0);
                let end = if whole { "" } else { "*" };
                self.interfaces.push(format!("{}{end}", text(value)));
            }
            // A number: whose it is, is not asked; ours has a rule of its own when it is named like this.
            Some(meta::INPUT_INDEX | meta::OUTPUT_INDEX) => self.interfaces.push(String::new()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nftables::{Ct, Direction, Rule, Verdict};

    fn read(rule: &Rule) -> ChainRule {
        let mut written = Writer::default();
        written.text(1, "t").text(2, "c").attribute(3, &7_u64.to_be_bytes());
        rule.write(&mut written);
        let mut message = Writer::default();
        message.message(0, 0, 1, &header(2, 0), |attributes| {
            attributes.append(&written);
        });
        let bytes = message.bytes();
        let payload = crate::netlink::messages(bytes).next().unwrap().payload;
        super::rule(payload).unwrap().3
    }

    #[test]
    fn rules_are_read_as_they_were_written() {
        let unconditional = read(&Rule::new("a: b").then(Verdict::Drop));
        assert_eq!(unconditional.comment.as_deref(), Some("a: b"));
        assert_eq!((unconditional.handle, unconditional.conditional), (7, false));
        assert_eq!(unconditional.outcome, Outcome::Refuse);
        let named = Rule::new("").interface(Direction::Input, "docker0").tracked(Ct::Known);
        let named = read(&named.then(Verdict::Jump("next".to_owned())));
        assert_eq!(named.interfaces, ["docker0"]);
        assert_eq!((named.conditional, named.outcome), (true, Outcome::Jump("next".to_owned())));
        let others = read(&Rule::new("").other_interface(Direction::Output, "docker0").then(Verdict::Reject));
        assert_eq!((others.interfaces.len(), others.outcome), (0, Outcome::Refuse));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            chain(&bytes);
            rule(&bytes);
            comment(&bytes);
        }

        #[test]
        fn expressions_of_any_bytes_are_taken_apart(
            name in prop::sample::select(vec!["meta", "cmp", "immediate", "lookup", "target", "payload"]),
            data in proptest::collection::vec(any::<u8>(), 0..60),
            kinds in proptest::collection::vec(0..8_u16, 0..5),
        ) {
            let mut written = Writer::default();
            for kind in kinds {
                written.attribute(kind, &data);
            }
            let mut reading = Reading::default();
            reading.expression(name, Attributes(written.bytes()));
            prop_assert!(reading.interfaces.len() <= 1);
        }
    }
}
