//! Rules, a condition after the other and what becomes of packets that meet all of them.

use std::net::IpAddr;

use super::{Ports, interface_key};
use crate::netlink::Writer;

/// Registers 1 and 2 of 16 bytes each; those that hold more begin with the same numbers of 4 bytes.
const FIRST: u32 = 1;
const SECOND: u32 = 2;
/// `NFT_REG32_00` is the beginning of register 1, in words of 4 bytes.
const WORD_0: u32 = 8;

/// Keys of `enum nft_meta_keys`.
pub(super) mod meta {
    pub(in super::super) const PROTOCOL: u32 = 1;
    pub(in super::super) const INPUT_INDEX: u32 = 4;
    pub(in super::super) const OUTPUT_INDEX: u32 = 5;
    pub(in super::super) const INPUT: u32 = 6;
    pub(in super::super) const OUTPUT: u32 = 7;
    pub(in super::super) const FAMILY: u32 = 15;
    pub(in super::super) const TRANSPORT: u32 = 16;
}

/// Which interface of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The one it came by.
    Input,
    /// The one it leaves by.
    Output,
}

/// A part of a packet: the header it is in (link, network, transport), where, and how long, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field(u32, u32, u32);

impl Field {
    pub(crate) const ETHERNET_SOURCE: Self = Self(0, 6, 6);
    /// Kinds of hardware and protocol, and lengths of their addresses (RFC 826).
    pub(crate) const ARP_FORMAT: Self = Self(1, 0, 6);
    pub(crate) const ARP_SENDER_MAC: Self = Self(1, 8, 6);
    pub(crate) const ARP_SENDER_IP: Self = Self(1, 14, 4);
    pub(crate) const IPV4_SOURCE: Self = Self(1, 12, 4);
    pub(crate) const IPV4_DESTINATION: Self = Self(1, 16, 4);
    pub(crate) const IPV6_SOURCE: Self = Self(1, 8, 16);
    pub(crate) const IPV6_DESTINATION: Self = Self(1, 24, 16);
    pub(crate) const SOURCE_PORT: Self = Self(2, 0, 2);
    pub(crate) const DESTINATION_PORT: Self = Self(2, 2, 2);
    pub(crate) const ICMP_TYPE: Self = Self(2, 0, 1);
    /// Target of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4).
    pub(crate) const NEIGHBOUR_TARGET: Self = Self(2, 8, 16);

    /// Source or destination of a family.
    pub(crate) fn address(ip: IpAddr, source: bool) -> Self {
        match (ip, source) {
            (IpAddr::V4(_), true) => Self::IPV4_SOURCE,
            (IpAddr::V4(_), false) => Self::IPV4_DESTINATION,
            (IpAddr::V6(_), true) => Self::IPV6_SOURCE,
            (IpAddr::V6(_), false) => Self::IPV6_DESTINATION,
        }
    }
}

/// What connection tracking knows of a packet (linux/netfilter/nf_conntrack_common.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ct {
    /// Belongs to a connection that was there before: established or related.
    Known,
    /// Its destination was translated.
    DestinationTranslated,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    /// Back to the chain before.
    Return,
    /// On in another chain, and back.
    Jump(String),
    /// An error to whoever sent it (ICMP port unreachable).
    Reject,
    /// The address of the interface that it leaves by becomes its source; for TCP and UDP one of some ports.
    Masquerade(Option<Ports>),
    /// One of these addresses (and ports) becomes its source.
    SourceNat(IpAddr, IpAddr, Option<Ports>),
    /// This address and port becomes its destination.
    DestinationNat(IpAddr, u16),
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    expressions: Writer,
    comment: String,
}

impl Rule {
    /// One without conditions; the comment is for people, and tells whose it is. nft writes it in quotes and escapes nothing: what
    /// would end it there is left out, or a list of rules that somebody has saved would not be read again, or as others.
    pub(crate) fn new(comment: impl Into<String>) -> Self {
        let ends_it = |c: char| c.is_control() || matches!(c, '"' | '\\');
        Self { expressions: Writer::default(), comment: comment.into().replace(ends_it, "_") }
    }

    /// Who made it, and what for.
    pub(crate) fn comment(&self) -> &str {
        &self.comment
    }

    fn expression(mut self, name: &str, fill: impl FnOnce(&mut Writer)) -> Self {
        self.expressions.nest(1, |expression| {
            expression.text(1, name).nest(2, fill);
        });
        self
    }

    fn load_meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", |meta| {
            meta.number(2, key).number(1, register);
        })
    }

    fn load(self, Field(base, offset, length): Field, register: u32) -> Self {
        self.expression("payload", |payload| {
            payload.number(1, register).number(2, base).number(3, offset).number(4, length);
        })
    }

    fn compare(self, equal: bool, value: &[u8]) -> Self {
        self.expression("cmp", |cmp| {
            cmp.number(1, FIRST).number(2, u32::from(!equal)).nest(3, |data| {
                data.attribute(1, value);
            });
        })
    }

    fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let nothing = vec![0; mask.len()];
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, FIRST).number(2, FIRST).number(3, length);
            bitwise.nest(4, |data| {
                data.attribute(1, mask);
            });
            bitwise.nest(5, |data| {
                data.attribute(1, &nothing);
            });
        })
    }

    fn immediate(self, register: u32, value: &[u8]) -> Self {
        self.expression("immediate", |immediate| {
            immediate.number(1, register).nest(2, |data| {
                data.attribute(1, value);
            });
        })
    }

    /// Came, or leaves, by an interface.
    pub(crate) fn interface(self, direction: Direction, name: &str) -> Self {
        self.interface_is(direction, name, true)
    }

    /// Came, or leaves, by another interface.
    pub(crate) fn other_interface(self, direction: Direction, name: &str) -> Self {
        self.interface_is(direction, name, false)
    }

    fn interface_is(self, direction: Direction, name: &str, equal: bool) -> Self {
        let key = match direction {
            Direction::Input => meta::INPUT,
            Direction::Output => meta::OUTPUT,
        };
        self.load_meta(key, FIRST).compare(equal, &interface_key(name))
    }

    /// Is of the family of an address; tables for one family need not ask.
    pub(crate) fn family_of(self, ip: IpAddr) -> Self {
        let family = if ip.is_ipv4() { 2 } else { 10 };
        self.load_meta(meta::FAMILY, FIRST).compare(true, &[family])
    }

    /// Has this protocol in its Ethernet frame.
    pub(crate) fn ether_type(self, ether_type: u16) -> Self {
        self.load_meta(meta::PROTOCOL, FIRST).compare(true, &ether_type.to_be_bytes())
    }

    /// Has this protocol above IP.
    pub(crate) fn transport(self, protocol: u8) -> Self {
        self.load_meta(meta::TRANSPORT, FIRST).compare(true, &[protocol])
    }

    /// Has this in a field.
    pub(crate) fn field(self, field: Field, value: &[u8]) -> Self {
        self.load(field, FIRST).compare(true, value)
    }

    /// Has something else in a field.
    pub(crate) fn other_field(self, field: Field, value: &[u8]) -> Self {
        self.load(field, FIRST).compare(false, value)
    }

    /// Comes from, or goes to, a subnet or not.
    pub(crate) fn address(self, source: bool, inside: bool, network: IpAddr, prefix: u8) -> Self {
        self.in_subnet(Field::address(network, source), inside, network, prefix)
    }

    /// Has an address of a subnet in a field.
    pub(crate) fn field_in(self, field: Field, network: IpAddr, prefix: u8) -> Self {
        self.in_subnet(field, true, network, prefix)
    }

    fn in_subnet(self, field: Field, inside: bool, network: IpAddr, prefix: u8) -> Self {
        let bytes = address_bytes(network);
        let loaded = self.load(field, FIRST);
        if usize::from(prefix) >= bytes.len() * 8 {
            return loaded.compare(inside, &bytes);
        }
        let mask = mask_bytes(bytes.len(), prefix);
        let network: Vec<u8> = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
        loaded.mask(&mask).compare(inside, &network)
    }

    /// Goes to an address that the host itself has.
    pub(crate) fn destined_here(self) -> Self {
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        // `RTN_LOCAL` of linux/rtnetlink.h.
        self.expression("fib", |fib| {
            fib.number(1, FIRST).number(2, ADDRESS_TYPE).number(3, DESTINATION);
        })
        .compare(true, &2_u32.to_ne_bytes())
    }

    /// Connection tracking says so of it.
    pub(crate) fn tracked(self, what: Ct) -> Self {
        let (key, bits) = match what {
            Ct::Known => (0, 2_u32 | 4),
            Ct::DestinationTranslated => (2, 1 << 5),
        };
        self.expression("ct", |ct| {
            ct.number(2, key).number(1, FIRST);
        })
        .mask(&bits.to_ne_bytes())
        .compare(false, &0_u32.to_ne_bytes())
    }

    /// Its interface is in a set.
    pub(crate) fn input_in(self, set: &str) -> Self {
        self.load_meta(meta::INPUT, FIRST).lookup(set, true)
    }

    /// Its interface with a field is in a set, or is not.
    pub(crate) fn input_with(self, field: Field, set: &str, inside: bool) -> Self {
        // The name has register 1 as a whole: four words.
        self.load_meta(meta::INPUT, WORD_0).load(field, WORD_0 + 4).lookup_from(set, inside, WORD_0)
    }

    fn lookup(self, set: &str, inside: bool) -> Self {
        self.lookup_from(set, inside, FIRST)
    }

    fn lookup_from(self, set: &str, inside: bool, register: u32) -> Self {
        self.expression("lookup", |lookup| {
            lookup.text(1, set).number(2, register);
            if !inside {
                lookup.number(5, 1);
            }
        })
    }

    /// Ends it.
    pub(crate) fn then(self, verdict: Verdict) -> Self {
        match verdict {
            Verdict::Accept => self.verdict(1, None),
            Verdict::Drop => self.verdict(0, None),
            Verdict::Return => self.verdict(-5, None),
            Verdict::Jump(chain) => self.verdict(-3, Some(&chain)),
            // ICMPX, port unreachable.
            Verdict::Reject => self.expression("reject", |reject| {
                reject.number(1, 2).attribute(2, &[1]);
            }),
            Verdict::Masquerade(ports) => {
                let (rule, ports) = self.ports(ports);
                rule.expression("masq", |masq| {
                    if ports {
                        masq.number(1, PORTS).number(2, WORD_0 + 8).number(3, WORD_0 + 9);
                    }
                })
            }
            Verdict::SourceNat(first, last, ports) => {
                let (rule, ports) = self.ports(ports);
                let rule = rule.immediate(FIRST, &address_bytes(first));
                let rule = rule.immediate(SECOND, &address_bytes(last));
                rule.expression("nat", |nat| {
                    let mut flags = ADDRESSES;
                    nat.number(1, 0).number(2, family(first)).number(3, FIRST).number(4, SECOND);
                    if ports {
                        flags |= PORTS;
                        nat.number(5, WORD_0 + 8).number(6, WORD_0 + 9);
                    }
                    nat.number(7, flags);
                })
            }
            Verdict::DestinationNat(ip, port) => {
                let rule = self.immediate(FIRST, &address_bytes(ip));
                let rule = rule.immediate(WORD_0 + 8, &port.to_be_bytes());
                rule.expression("nat", |nat| {
                    nat.number(1, 1).number(2, family(ip)).number(3, FIRST).number(5, WORD_0 + 8);
                    nat.number(7, ADDRESSES | PORTS);
                })
            }
        }
    }

    /// Loads a range of ports behind registers 1 and 2.
    fn ports(self, ports: Option<Ports>) -> (Self, bool) {
        let Some(ports) = ports else { return (self, false) };
        let rule = self.immediate(WORD_0 + 8, &ports.start().to_be_bytes());
        (rule.immediate(WORD_0 + 9, &ports.end().to_be_bytes()), true)
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        self.expression("immediate", |immediate| {
            immediate.number(1, 0).nest(2, |data| {
                data.nest(2, |verdict| {
                    verdict.attribute(1, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        })
    }

    /// Writes its attributes: expressions, and the comment as nft does (type 0, length, text).
    pub(super) fn write(&self, rule: &mut Writer) {
        rule.nest(4, |expressions| {
            expressions.append(&self.expressions);
        });
        let comment = comment(&self.comment);
        if let Ok(length) = u8::try_from(comment.len() + 1) {
            let mut data = vec![0, length];
            data.extend_from_slice(comment.as_bytes());
            data.push(0);
            rule.attribute(7, &data);
        }
    }
}

/// `NF_NAT_RANGE_MAP_IPS` and `NF_NAT_RANGE_PROTO_SPECIFIED` of linux/netfilter/nf_nat.h.
const ADDRESSES: u32 = 1;
const PORTS: u32 = 2;

/// Longest comment that nft shows, bytes (`NFTNL_UDATA_COMMENT_MAXLEN` less its end).
const MOST_COMMENT_BYTES: usize = 127;

/// As much of a comment as there is room for.
fn comment(whole: &str) -> &str {
    &whole[..whole.floor_char_boundary(MOST_COMMENT_BYTES)]
}

fn family(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 2 } else { 10 }
}

/// An address in network order.
pub(crate) fn address_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The first `prefix` bits of so many bytes.
pub(crate) fn mask_bytes(length: usize, prefix: u8) -> Vec<u8> {
    let bits = usize::from(prefix);
    (0..length)
        .map(|index| match bits.saturating_sub(index * 8) {
            0 => 0,
            rest @ 1..8 => 0xff << (8 - rest),
            _ => 0xff,
        })
        .collect()
}
