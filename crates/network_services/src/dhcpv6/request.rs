//! What a guest says (RFC 8415, sections 8 and 21).
//!
//! Read by hand: the library's reader takes lengths for granted, and options in options without end.

use std::net::Ipv6Addr;

use crate::plan::label;

/// Most associations, prefixes and addresses that are looked at in a message.
const MOST: usize = 8;

/// Longest DUID, bytes (section 11.1).
const LONGEST_DUID: usize = 130;

/// Kinds of messages that guests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Solicit,
    Request,
    Confirm,
    Renew,
    Rebind,
    Release,
    Decline,
    InformationRequest,
}

/// An identity association for addresses that are not temporary.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Association {
    pub(super) iaid: u32,
    pub(super) addresses: Vec<Ipv6Addr>,
}

/// What of a message matters here.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) xid: [u8; 3],
    pub(super) client: Option<Vec<u8>>,
    pub(super) server: Option<Vec<u8>>,
    pub(super) associations: Vec<Association>,
    /// Associations for prefixes, which nobody gets.
    pub(super) delegations: Vec<u32>,
    pub(super) asked_for: Vec<u16>,
    pub(super) rapid_commit: bool,
    pub(super) hostname: Option<String>,
}

impl Request {
    /// The message, if it is one that a guest sends to servers and all of it is sound.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[kind, first, second, third], options) = bytes.split_first_chunk()?;
        let mut request = Self {
            kind: match kind {
                1 => Kind::Solicit,
                3 => Kind::Request,
                4 => Kind::Confirm,
                5 => Kind::Renew,
                6 => Kind::Rebind,
                8 => Kind::Release,
                9 => Kind::Decline,
                11 => Kind::InformationRequest,
                _ => return None,
            },
            xid: [first, second, third],
            client: None,
            server: None,
            associations: Vec::new(),
            delegations: Vec::new(),
            asked_for: Vec::new(),
            rapid_commit: false,
            hostname: None,
        };
        for option in Options(options) {
            match option? {
                (1, duid) => request.client = Some(sound_duid(duid)?),
                (2, duid) => request.server = Some(sound_duid(duid)?),
                (3, value) => {
                    let association = association(value)?;
                    let known = request.associations.iter().any(|other| other.iaid == association.iaid);
                    if !known && request.associations.len() < MOST {
                        request.associations.push(association);
                    }
                }
                (6, list) => {
                    request.asked_for =
                        list.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect();
                }
                (14, _) => request.rapid_commit = true,
                (25, value) if request.delegations.len() < MOST => {
                    request.delegations.push(u32::from_be_bytes(*value.first_chunk()?));
                }
                (39, [_, length, name @ ..]) => {
                    let first = name.get(..usize::from(*length));
                    request.hostname = first.and_then(|first| label(std::str::from_utf8(first).ok()?));
                }
                _ => {}
            }
        }
        Some(request)
    }
}

fn sound_duid(duid: &[u8]) -> Option<Vec<u8>> {
    (3..=LONGEST_DUID).contains(&duid.len()).then(|| duid.to_vec())
}

/// An IA_NA: its number, two times and options (section 21.4), of which addresses matter (section 21.6).
fn association(value: &[u8]) -> Option<Association> {
    let (iaid, rest) = value.split_first_chunk()?;
    let mut addresses = Vec::new();
    for option in Options(rest.get(8..)?) {
        if let (5, value) = option?
            && addresses.len() < MOST
        {
            let address: [u8; 16] = *value.first_chunk()?;
            value.get(..24)?;
            addresses.push(address.into());
        }
    }
    Some(Association { iaid: u32::from_be_bytes(*iaid), addresses })
}

/// Options one after the other: number, length, value. None when what is left is no option.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Option<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let option = rest.split_first_chunk::<4>().and_then(|(&[high, low, long, short], rest)| {
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([long, short])))?;
            self.0 = rest;
            Some((u16::from_be_bytes([high, low]), value))
        });
        Some(option)
    }
}
