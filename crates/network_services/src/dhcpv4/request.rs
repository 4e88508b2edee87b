//! What a guest says (RFC 2131, section 2; RFC 2132; RFC 4702).

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message;
use dhcproto::v4::{HType, Opcode};

use crate::mac::MacAddress;
use crate::plan::label;

/// Fixed fields and the magic number, bytes.
const LEAST: usize = 240;

/// RFC 2131, section 3.
const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// Kinds of messages that guests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

/// What of a message matters here.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    pub(super) broadcast: bool,
    pub(super) ciaddr: Ipv4Addr,
    pub(super) giaddr: Ipv4Addr,
    pub(super) mac: MacAddress,
    pub(super) requested: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) client_id: Option<Vec<u8>>,
    pub(super) hostname: Option<String>,
    /// Flags of the guest's FQDN option, if it sent one.
    pub(super) fqdn: Option<u8>,
    pub(super) lease_seconds: Option<u32>,
    pub(super) asked_for: Vec<u8>,
    /// Longest message that it takes, with its IP header, bytes.
    pub(super) most_bytes: u16,
    pub(super) rapid_commit: bool,
}

impl Request {
    /// The message, if it is one that a guest on Ethernet sends.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(LEAST - MAGIC.len()..LEAST)? != MAGIC {
            return None;
        }
        let message = Message::new(bytes).ok()?;
        if message.opcode() != Opcode::BootRequest || message.htype() != HType::Eth || message.hlen() != 6 {
            return None;
        }
        let mac = MacAddress(message.chaddr().try_into().ok()?);
        let mut request = Self {
            kind: Kind::Discover,
            xid: message.xid(),
            broadcast: message.flags().broadcast(),
            ciaddr: message.ciaddr(),
            giaddr: message.giaddr(),
            mac: Some(mac).filter(|mac| mac.is_station())?,
            requested: None,
            server: None,
            client_id: None,
            hostname: None,
            fqdn: None,
            lease_seconds: None,
            asked_for: Vec::new(),
            most_bytes: 576,
            rapid_commit: false,
        };
        let (mut kind, mut plain) = (None, None);
        for option in message.opts() {
            match (u8::from(option.code()), option.data()) {
                (12, name) => plain = std::str::from_utf8(name).ok().and_then(label),
                (50, address) => request.requested = Some(four(address)?.into()),
                (51, seconds) => request.lease_seconds = Some(u32::from_be_bytes(four(seconds)?)),
                (53, [number]) => kind = Some(*number),
                (54, address) => request.server = Some(four(address)?.into()),
                (55, list) => request.asked_for = list.to_vec(),
                (57, [high, low]) => request.most_bytes = u16::from_be_bytes([*high, *low]).clamp(576, 1500),
                (61, id @ [_, ..]) if id.len() <= 255 => request.client_id = Some(id.to_vec()),
                (80, _) => request.rapid_commit = true,
                (81, [flags, _, _, name @ ..]) => {
                    request.fqdn = Some(*flags);
                    request.hostname = name_of(*flags, name);
                }
                _ => {}
            }
        }
        request.hostname = request.hostname.or(plain);
        request.kind = match kind? {
            1 => Kind::Discover,
            3 => Kind::Request,
            4 => Kind::Decline,
            7 => Kind::Release,
            8 => Kind::Inform,
            _ => return None,
        };
        // It means something there only (RFC 4039, section 4).
        request.rapid_commit &= request.kind == Kind::Discover;
        Some(request)
    }
}

fn four(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.try_into().ok()
}

/// The first label of the name in an FQDN option (RFC 4702, section 2): in DNS's own form, or, as old guests have it, as text.
fn name_of(flags: u8, name: &[u8]) -> Option<String> {
    let encoded = flags & FQDN_ENCODED != 0;
    let first = if encoded {
        let length = usize::from(*name.first()?);
        name.get(1..=length)?
    } else {
        name
    };
    label(std::str::from_utf8(first).ok()?)
}

/// The server makes the guest's address record.
pub(super) const FQDN_SERVER: u8 = 1;
/// Against the guest's wish.
pub(super) const FQDN_OVERRIDDEN: u8 = 2;
/// The name is in DNS's own form.
pub(super) const FQDN_ENCODED: u8 = 4;
