//! The kernel's tables of packet rules (nf_tables, linux/netfilter/nf_tables.h), without a program or library in between.
//!
//! A [`Transaction`] is taken by the kernel as a whole or not at all; [`list_chains`] tells what is there, as far as it is
//! needed here.

mod list;
mod rule;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::RangeInclusive;

pub(crate) use list::{Chain, ChainRule, Outcome, generation, list_chains, owned_tables};
pub(crate) use rule::{Ct, Direction, Field, Rule, Verdict, address_bytes, mask_bytes};
use rustix::net::netlink;

use crate::netlink::{APPEND, CREATE, Socket, Writer};

/// `NFNL_SUBSYS_NFTABLES` of linux/netfilter/nfnetlink.h.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`, and the attribute with the number of the state that a batch is for.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const BATCH_GENERATION: u16 = 1;
/// Number of the first message of a batch.
const FIRST: u32 = 1;

/// `enum nf_tables_msg_types`.
pub(super) mod message {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const GET_TABLE: u16 = 1;
    pub(super) const DELETE_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const GET_CHAIN: u16 = 4;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const GET_RULE: u16 = 7;
    pub(super) const DELETE_RULE: u16 = 8;
    pub(super) const NEW_SET: u16 = 9;
    pub(super) const NEW_ELEMENTS: u16 = 12;
    pub(super) const DELETE_ELEMENTS: u16 = 14;
    pub(super) const GET_GENERATION: u16 = 16;
}

/// Family of a table (`NFPROTO_*` of linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    Inet,
    Ipv4,
    Bridge,
    Ipv6,
    /// `arp`, `netdev`: of no interest here.
    Other(u8),
}

impl Family {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Bridge => 7,
            Self::Ipv6 => 10,
            Self::Other(code) => code,
        }
    }

    pub(super) fn of(code: u8) -> Self {
        match code {
            1 => Self::Inet,
            2 => Self::Ipv4,
            7 => Self::Bridge,
            10 => Self::Ipv6,
            other => Self::Other(other),
        }
    }
}

/// Where packets are taken from their way (`enum nf_inet_hooks`; bridges have the same numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
}

/// Which type a set's keys have, for people who list it: numbers of nft's own (datatype.h), 6 bits a part.
const IFNAME: u32 = 41;
const ETHER_ADDRESS: u32 = 9;
const IPV4_ADDRESS: u32 = 7;
const IPV6_ADDRESS: u32 = 8;

/// What a set has as keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    Interface,
    InterfaceAndMac,
    InterfaceAndIpv4,
    InterfaceAndIpv6,
}

impl Keys {
    /// Bytes of each part; a set compares whole words of 4 bytes.
    fn parts(self) -> &'static [u32] {
        match self {
            Self::Interface => &[16],
            Self::InterfaceAndMac => &[16, 6],
            Self::InterfaceAndIpv4 => &[16, 4],
            Self::InterfaceAndIpv6 => &[16, 16],
        }
    }

    fn kind(self) -> u32 {
        let second = match self {
            Self::Interface => return IFNAME,
            Self::InterfaceAndMac => ETHER_ADDRESS,
            Self::InterfaceAndIpv4 => IPV4_ADDRESS,
            Self::InterfaceAndIpv6 => IPV6_ADDRESS,
        };
        IFNAME << 6 | second
    }

    /// Addresses are ranges.
    fn ranges(self) -> bool {
        matches!(self, Self::InterfaceAndIpv4 | Self::InterfaceAndIpv6)
    }
}

/// A key, or all from the first to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) last: Option<Vec<u8>>,
}

/// Changes that are made together or not at all.
#[derive(Debug)]
pub(crate) struct Transaction {
    messages: Writer,
    sequence: u32,
    /// Where the last message begins.
    last: Option<usize>,
}

/// Where a new rule goes in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Last,
    Before(u64),
}

impl Transaction {
    /// Begins one; it fails with `ERESTART` when the kernel's tables have changed since `generation`.
    pub(crate) fn new(generation: Option<u32>) -> Self {
        let mut messages = Writer::default();
        let header = header(0, SUBSYSTEM);
        messages.message(BATCH_BEGIN, 0, FIRST, &header, |begin| {
            if let Some(generation) = generation {
                begin.number(BATCH_GENERATION, generation);
            }
        });
        Self { messages, sequence: FIRST, last: None }
    }

    fn add(&mut self, kind: u16, family: Family, flags: u16, fill: impl FnOnce(&mut Writer)) {
        self.sequence += 1;
        self.last = Some(self.messages.position());
        let kind = SUBSYSTEM << 8 | kind;
        self.messages.message(kind, flags, self.sequence, &header(family.code(), 0), fill);
    }

    /// Makes a table anew and empty, if it is there or not.
    pub(crate) fn replace_table(&mut self, family: Family, name: &str) {
        self.add_table(family, name);
        self.add(message::DELETE_TABLE, family, 0, |table| {
            table.text(1, name);
        });
        self.add_table(family, name);
    }

    /// Removes a table, if it is there or not.
    pub(crate) fn remove_table(&mut self, family: Family, name: &str) {
        self.add_table(family, name);
        self.add(message::DELETE_TABLE, family, 0, |table| {
            table.text(1, name);
        });
    }

    fn add_table(&mut self, family: Family, name: &str) {
        self.add(message::NEW_TABLE, family, CREATE, |table| {
            table.text(1, name);
            table.number(2, 0);
        });
    }

    /// Adds a chain.
    pub(crate) fn add_chain(&mut self, family: Family, table: &str, name: &str, base: Option<Base>) {
        self.add(message::NEW_CHAIN, family, CREATE, |chain| {
            chain.text(1, table).text(3, name);
            if let Some(Base { kind, hook, priority }) = base {
                chain.nest(4, |place| {
                    place.number(1, hook as u32).attribute(2, &priority.to_be_bytes());
                });
                chain.number(5, ACCEPT).text(7, kind);
            }
        });
    }

    /// Adds a rule.
    pub(crate) fn add_rule(&mut self, family: Family, table: &str, chain: &str, rule: &Rule, place: Place) {
        let flags = if place == Place::Last { CREATE | APPEND } else { CREATE };
        self.add(message::NEW_RULE, family, flags, |added| {
            added.text(1, table).text(2, chain);
            rule.write(added);
            if let Place::Before(handle) = place {
                added.attribute(6, &handle.to_be_bytes());
            }
        });
    }

    /// Removes a rule.
    pub(crate) fn remove_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) {
        self.add(message::DELETE_RULE, family, 0, |removed| {
            removed.text(1, table).text(2, chain).attribute(3, &handle.to_be_bytes());
        });
    }

    /// Adds a set.
    pub(crate) fn add_set(&mut self, family: Family, table: &str, name: &str, keys: Keys) {
        const INTERVAL: u32 = 0x4;
        const CONCATENATION: u32 = 0x80;
        let parts = keys.parts();
        let mut flags = if parts.len() > 1 { CONCATENATION } else { 0 };
        if keys.ranges() {
            flags |= INTERVAL;
        }
        let id = self.sequence;
        self.add(message::NEW_SET, family, CREATE, |set| {
            set.text(1, table).text(2, name).number(3, flags).number(4, keys.kind());
            set.number(5, parts.iter().map(|bytes| bytes.next_multiple_of(4)).sum());
            set.number(10, id);
            if parts.len() > 1 {
                set.nest(9, |description| {
                    description.nest(2, |fields| {
                        for bytes in parts {
                            fields.nest(1, |field| {
                                field.number(1, *bytes);
                            });
                        }
                    });
                });
            }
        });
    }

    /// Adds elements to a set.
    pub(crate) fn add_elements(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        self.elements(message::NEW_ELEMENTS, CREATE, family, table, set, elements);
    }

    /// Removes elements of a set.
    pub(crate) fn remove_elements(&mut self, family: Family, table: &str, set: &str, elements: &[Element]) {
        self.elements(message::DELETE_ELEMENTS, 0, family, table, set, elements);
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        table: &str,
        set: &str,
        elements: &[Element],
    ) {
        // A list has 64 KiB at most.
        for elements in elements.chunks(256) {
            self.add(kind, family, flags, |list| {
                list.text(1, table).text(2, set);
                list.nest(3, |list| {
                    for element in elements {
                        list.nest(1, |written| {
                            written.nest(1, |key| {
                                key.attribute(1, &element.key);
                            });
                            if let Some(last) = &element.last {
                                written.nest(10, |key| {
                                    key.attribute(1, last);
                                });
                            }
                        });
                    }
                });
            });
        }
    }

    /// Has it done.
    ///
    /// # Errors
    /// The kernel's first error; nothing has changed then.
    pub(crate) fn commit(self) -> io::Result<()> {
        let Self { mut messages, sequence, last } = self;
        let Some(last) = last else { return Ok(()) };
        // Answers to all would not fit in the socket: the last one's comes when all is done, errors come always.
        messages.acknowledge(last);
        messages.message(BATCH_END, 0, sequence + 1, &header(0, SUBSYSTEM), |_| {});
        let socket = Socket::open(Some(netlink::NETFILTER))?;
        socket.exchange(&messages, FIRST, sequence)
    }
}

/// Whether the kernel has nf_tables here, and lets us change them.
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN`; other errors when there are no tables.
pub(crate) fn probe() -> io::Result<()> {
    generation()?;
    // Making a table that is gone in the same transaction takes all rights and changes nothing.
    let mut probe = Transaction::new(None);
    probe.remove_table(Family::Inet, "vireo-probe");
    probe.commit()
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// An interface's name as it is compared: 16 bytes with zeros at the end.
pub(crate) fn interface_key(name: &str) -> [u8; 16] {
    let mut key = [0; 16];
    for (byte, of_name) in key.iter_mut().zip(name.bytes()) {
        *byte = of_name;
    }
    key
}

/// Ports as they are translated to.
pub(crate) type Ports = RangeInclusive<u16>;
