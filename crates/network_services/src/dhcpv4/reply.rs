//! What guests are answered (RFC 2131, section 4.3.1 and table 3).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, Flags, HType, Message, Opcode, OptionCode, UnknownOption};

use super::request::{FQDN_ENCODED, FQDN_OVERRIDDEN, FQDN_SERVER, Request};
use super::{Datagram4, Dhcp4Server};
use crate::description::Host;
use crate::mac::MacAddress;
use crate::plan::encoded;

const OFFER: u8 = 2;
const ACKNOWLEDGE: u8 = 5;
const REFUSE: u8 = 6;

/// IP and UDP headers, bytes.
const HEADERS: usize = 28;

/// What a reply is filled up to, bytes.
const SHORTEST: usize = 300;

/// An address and for how long, seconds; none for ever.
pub(super) type Given = (Ipv4Addr, Option<u32>);

pub(super) struct Reply;

impl Reply {
    /// An address that is kept for the guest.
    pub(super) fn offer(
        server: &Dhcp4Server,
        request: &Request,
        host: Option<&Host<Ipv4Addr>>,
        given: Given,
    ) -> Option<Datagram4> {
        make(OFFER, server, request, options(server, request, host, Some(given)), Some(given.0))
    }

    /// An address that the guest has from now on, or what it wants to know beside its address.
    pub(super) fn acknowledge(
        server: &Dhcp4Server,
        request: &Request,
        host: Option<&Host<Ipv4Addr>>,
        given: Option<Given>,
    ) -> Option<Datagram4> {
        let options = options(server, request, host, given);
        make(ACKNOWLEDGE, server, request, options, given.map(|(address, _)| address))
    }

    /// The guest can't have what it asked for.
    pub(super) fn refuse(server: &Dhcp4Server, request: &Request) -> Option<Datagram4> {
        make(REFUSE, server, request, BTreeMap::new(), None)
    }
}

fn options(
    server: &Dhcp4Server,
    request: &Request,
    host: Option<&Host<Ipv4Addr>>,
    given: Option<Given>,
) -> BTreeMap<u8, Vec<u8>> {
    let description = &server.plan.description;
    let own = server.own.octets();
    let hosts = u32::MAX.checked_shr(server.prefix.into()).unwrap_or(0);
    let mut options = BTreeMap::from([
        (1, (!hosts).to_be_bytes().to_vec()),
        (28, (u32::from(server.own) | hosts).to_be_bytes().to_vec()),
    ]);
    if description.gateway {
        options.insert(3, own.to_vec());
    }
    if description.dns.is_some() {
        options.insert(6, own.to_vec());
    }
    if let Some(domain) = &server.plan.domain {
        options.insert(15, domain.to_ascii().trim_end_matches('.').into());
    }
    if let Some(mtu) = description.mtu {
        options.insert(26, mtu.to_be_bytes().to_vec());
    }
    if !server.dhcp.routes.is_empty() {
        options.insert(121, routes(server));
    }
    if let Some(name) = host.and_then(Host::label) {
        options.insert(12, name.into());
    }
    if let Some(flags) = request.fqdn {
        let name = options.get(&12).cloned().or_else(|| Some(request.hostname.clone()?.into()));
        options.insert(81, fqdn(server, flags, name));
    }
    for (number, text) in [(66, &server.dhcp.server_name), (67, &server.dhcp.boot_file)] {
        if let Some(text) = text.as_ref().filter(|_| request.asked_for.contains(&number)) {
            options.insert(number, text.as_bytes().to_vec());
        }
    }
    for (number, value) in &server.dhcp.options {
        options.insert(*number, value.bytes().unwrap_or_default());
    }
    if let Some((_, seconds)) = given {
        let seconds = seconds.unwrap_or(u32::MAX);
        let part = |eighths: u32| if seconds == u32::MAX { seconds } else { seconds / 8 * eighths };
        for (number, seconds) in [(51, seconds), (58, part(4)), (59, part(7))] {
            options.insert(number, seconds.to_be_bytes().to_vec());
        }
        if request.rapid_commit {
            options.insert(80, Vec::new());
        }
    }
    options
}

/// RFC 3442. Guests that read this ignore the router option: the default route is among them.
fn routes(server: &Dhcp4Server) -> Vec<u8> {
    let mut bytes = Vec::new();
    for route in &server.dhcp.routes {
        bytes.push(route.prefix);
        let significant = usize::from(route.prefix).div_ceil(8);
        bytes.extend(route.destination.octets().into_iter().take(significant));
        bytes.extend(route.gateway.octets());
    }
    if server.plan.description.gateway {
        bytes.push(0);
        bytes.extend(server.own.octets());
    }
    bytes
}

/// RFC 4702, section 4: we name the guest, whatever it wants.
fn fqdn(server: &Dhcp4Server, asked: u8, name: Option<Vec<u8>>) -> Vec<u8> {
    let overridden = if asked & FQDN_SERVER == 0 { FQDN_OVERRIDDEN } else { 0 };
    let mut bytes = vec![FQDN_SERVER | overridden | asked & FQDN_ENCODED, 255, 255];
    let Some(name) = name else { return bytes };
    let domain = server.plan.domain.iter().flat_map(|domain| domain.iter());
    let labels = std::iter::once(name.as_slice()).chain(domain);
    if asked & FQDN_ENCODED == 0 {
        bytes.extend(labels.collect::<Vec<_>>().join(&b'.'));
        return bytes;
    }
    bytes.extend(encoded(labels));
    bytes
}

fn make(
    kind: u8,
    server: &Dhcp4Server,
    request: &Request,
    mut options: BTreeMap<u8, Vec<u8>>,
    given: Option<Ipv4Addr>,
) -> Option<Datagram4> {
    let mut message = Message::new_with_id(
        request.xid,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &request.mac.0,
    );
    message.set_opcode(Opcode::BootReply).set_htype(HType::Eth).set_flags(if request.broadcast {
        Flags::default().set_broadcast()
    } else {
        Flags::default()
    });
    if kind != REFUSE {
        message.set_ciaddr(request.ciaddr).set_siaddr(server.dhcp.next_server.unwrap_or(server.own));
        message.set_yiaddr(given.unwrap_or(Ipv4Addr::UNSPECIFIED));
        if let Some(name) = &server.dhcp.server_name {
            message.set_sname(name.as_bytes());
        }
        if let Some(name) = &server.dhcp.boot_file {
            message.set_fname(name.as_bytes());
        }
    }
    options.insert(53, vec![kind]);
    options.insert(54, server.own.octets().to_vec());
    if let Some(id) = &request.client_id {
        // RFC 6842.
        options.insert(61, id.clone());
    }
    let most = usize::from(request.most_bytes) - HEADERS;
    let mut needless = needless(&options, request).into_iter();
    let mut message = loop {
        message.set_opts(options.iter().map(|(number, bytes)| option(*number, bytes)).collect());
        let encoded = message.to_vec().ok()?;
        if encoded.len() <= most {
            break encoded;
        }
        options.remove(&needless.next()?);
    };
    // Old guests drop what is shorter than a BOOTP message (RFC 1542, section 2.1).
    message.resize(message.len().max(SHORTEST), 0);
    let (mac, address) = if kind == REFUSE || request.broadcast && request.ciaddr.is_unspecified() {
        (MacAddress::BROADCAST, Ipv4Addr::BROADCAST)
    } else if !request.ciaddr.is_unspecified() {
        (request.mac, request.ciaddr)
    } else {
        (request.mac, given?)
    };
    Some(Datagram4 { mac, address, message })
}

/// Options that can be done without, the least wanted at the beginning: what the guest has not asked for, then what it wants least, then
/// what nearly all need. The time, the kind of message, the server and whom it is for are always said (RFC 2131, table 3; RFC 6842);
/// they fit what any guest takes.
fn needless(options: &BTreeMap<u8, Vec<u8>>, request: &Request) -> Vec<u8> {
    let dispensable = |number: &u8| !matches!(number, 51 | 53 | 54 | 61);
    let usual = [6, 3, 1];
    let unasked = options.keys().copied();
    let unasked = unasked.filter(|number| !usual.contains(number) && !request.asked_for.contains(number));
    // In the order in which the guest wants them (RFC 2132, section 9.8).
    let asked = request.asked_for.iter().rev().copied().filter(|number| options.contains_key(number));
    unasked.chain(asked).chain(usual).filter(dispensable).collect()
}

fn option(number: u8, bytes: &[u8]) -> DhcpOption {
    if bytes.is_empty() {
        // The only one without a value that is sent.
        return DhcpOption::RapidCommit;
    }
    DhcpOption::Unknown(UnknownOption::new(OptionCode::from(number), bytes.to_vec()))
}
