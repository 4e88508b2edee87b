//! Router advertisements as bytes (RFC 4861, section 4.2), and when they are due (section 6.2).
//!
//! The kernel adds the checksum and the source, which is the bridge's link-local address.

use std::net::{IpAddr, Ipv6Addr};

use crate::plan::{Plan, encoded};

/// Time between two that nobody asked for, seconds: the longest that is usual.
pub(crate) const INTERVAL: u64 = 600;

/// After the start the first ones come faster: how many, and how far apart, seconds (`MAX_INITIAL_RTR_ADVERTISEMENTS` and
/// `MAX_INITIAL_RTR_ADVERT_INTERVAL`).
pub(crate) const INITIAL: (u32, u64) = (3, 16);

/// Three intervals, as the section has it, seconds.
const ROUTER_LIFETIME: u16 = 1800;

/// How long a prefix is on the link, and addresses of it are used for what is new, seconds.
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;

/// Length of a message's fixed fields of a solicitation, bytes (section 4.1).
const SOLICITATION: usize = 8;

/// Whether it is a router solicitation, as it came without its IP header. Its hop limit was 255.
pub(crate) fn is_solicitation(message: &[u8]) -> bool {
    if message.len() < SOLICITATION || message[..2] != [133, 0] {
        return false;
    }
    // All options have a length other than zero (section 6.1.1).
    let mut rest = &message[SOLICITATION..];
    while let [_, eights, ..] = rest {
        match rest.get(usize::from(*eights) * 8..) {
            Some(after) if *eights > 0 => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// The advertisement; none if the plan has none. With `ending` it says that we are no router any more.
pub(crate) fn advertisement(plan: &Plan, ending: bool) -> Option<Vec<u8>> {
    let description = &plan.description;
    let advertised = description.router_advertisements.as_ref()?;
    let lifetime = if description.gateway && !ending { ROUTER_LIFETIME } else { 0 };
    let flags = u8::from(advertised.managed) << 7 | u8::from(advertised.other) << 6;
    let mut message = vec![134, 0, 0, 0, 64, flags];
    message.extend(lifetime.to_be_bytes());
    message.extend([0; 8]);
    for prefix in &advertised.prefixes {
        // Section 4.6.2.
        message.extend([3, 4, prefix.length, 1 << 7 | u8::from(prefix.autonomous) << 6]);
        message.extend(VALID.to_be_bytes());
        message.extend(PREFERRED.to_be_bytes());
        message.extend([0; 4]);
        message.extend(prefix.prefix.octets());
    }
    if let Some(mtu) = description.mtu {
        // Section 4.6.4.
        message.extend([5, 1, 0, 0]);
        message.extend(u32::from(mtu).to_be_bytes());
    }
    let lifetime = if ending { 0 } else { u32::from(ROUTER_LIFETIME) };
    if description.dns.is_some() {
        let servers: Vec<Ipv6Addr> =
            description.addresses.iter().filter_map(|own| server(own.address)).take(3).collect();
        if !servers.is_empty() {
            // RFC 8106, section 5.1.
            message.extend([25, u8::try_from(servers.len()).unwrap_or(0) * 2 + 1, 0, 0]);
            message.extend(lifetime.to_be_bytes());
            message.extend(servers.iter().flat_map(Ipv6Addr::octets));
        }
        if let Some(domain) = &plan.domain {
            // RFC 8106, section 5.2: the name, filled up to a multiple of 8 bytes.
            let mut name = encoded(domain.iter());
            name.resize(name.len().next_multiple_of(8), 0);
            message.extend([31, u8::try_from(name.len() / 8).unwrap_or(0) + 1, 0, 0]);
            message.extend(lifetime.to_be_bytes());
            message.extend(name);
        }
    }
    Some(message)
}

fn server(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{AdvertisedPrefix, Description, Dns, Domain, OwnAddress, RouterAdvertisements};

    fn description() -> Description {
        Description {
            name: "net".into(),
            uuid: "5ec2e3a0-0000-4000-8000-0123456789ab".into(),
            bridge: "virbr7".into(),
            addresses: vec![OwnAddress { address: "fd00:7::1".parse().unwrap(), prefix: 64 }],
            gateway: true,
            mtu: Some(1400),
            domain: Some(Domain { name: "seven.test".into(), local_only: true }),
            router_advertisements: Some(RouterAdvertisements {
                prefixes: vec![AdvertisedPrefix {
                    prefix: "fd00:7::".parse().unwrap(),
                    length: 64,
                    autonomous: true,
                }],
                managed: false,
                other: true,
            }),
            dns: Some(Dns::default()),
            ..Description::default()
        }
    }

    #[test]
    fn the_advertisement_has_what_the_standards_lay_down() {
        let plan = description().check().unwrap();
        let message = advertisement(&plan, false).unwrap();
        let mut expected = vec![134, 0, 0, 0, 64, 0x40, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0]);
        expected.extend([0xfd, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([5, 1, 0, 0, 0, 0, 5, 120]);
        expected.extend([25, 3, 0, 0, 0, 0, 7, 8, 0xfd, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        expected.extend([31, 3, 0, 0, 0, 0, 7, 8]);
        expected.extend(b"\x05seven\x04test\0\0\0\0\0");
        assert_eq!(message, expected);
        assert_eq!(message.len() % 8, 0);
    }

    #[test]
    fn neither_an_isolated_network_nor_one_that_ends_has_a_router() {
        let lifetime = |plan: &Plan, ending| advertisement(plan, ending).unwrap()[6..8].to_vec();
        let plan = description().check().unwrap();
        assert_eq!(lifetime(&plan, true), [0, 0]);
        let isolated = Description { gateway: false, ..description() }.check().unwrap();
        assert_eq!(lifetime(&isolated, false), [0, 0]);
        let none = Description { router_advertisements: None, ..description() }.check().unwrap();
        assert_eq!(advertisement(&none, false), None);
    }

    #[test]
    fn only_sound_solicitations_are_answered() {
        assert!(is_solicitation(&[133, 0, 1, 2, 0, 0, 0, 0]));
        assert!(is_solicitation(&[133, 0, 1, 2, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7]));
        assert!(!is_solicitation(&[133, 0, 1, 2, 0, 0, 0, 0, 1, 0, 2, 3, 4, 5, 6, 7]));
        assert!(!is_solicitation(&[133, 0, 1, 2, 0, 0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7]));
        assert!(!is_solicitation(&[134, 0, 1, 2, 0, 0, 0, 0]));
        assert!(!is_solicitation(&[133, 0, 1]));
    }
}
