//! IP and UDP headers, read and written (RFC 791, RFC 768, RFC 8200): packet sockets carry whole packets.
//!
//! Checksums of what comes in are not looked at: guests leave them to hardware that is not there.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What UDP carries in an IPv4 packet. None when the packet is not whole.
pub(crate) fn udp_in_version4(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if first >> 4 != 4 || header < 20 || *packet.get(9)? != UDP {
        return None;
    }
    udp(packet.get(header..total)?)
}

/// From where and to where an IPv6 packet goes, and what it carries of which kind. None when it is not whole.
pub(crate) fn in_version6(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr, Carried<'_>)> {
    let (header, rest) = packet.split_first_chunk::<40>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let address = |place: usize| -> Option<Ipv6Addr> {
        let bytes: [u8; 16] = header.get(place..place + 16)?.try_into().ok()?;
        Some(bytes.into())
    };
    let payload = rest.get(..length)?;
    let carried = match header[6] {
        UDP => Carried::Udp(udp(payload)?),
        ICMP6 => Carried::Icmp(payload),
        _ => return None,
    };
    (header[0] >> 4 == 6).then_some((address(8)?, address(24)?, carried))
}

/// What an IPv6 packet carries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Carried<'a> {
    /// What UDP carries.
    Udp(&'a [u8]),
    /// A message of ICMPv6.
    Icmp(&'a [u8]),
}

const UDP: u8 = 17;
const ICMP6: u8 = 58;

fn udp(datagram: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*datagram.get(4)?, *datagram.get(5)?]));
    datagram.get(8..length)
}

/// A DHCP server's packet over IPv4, from port 67 to port 68. None when the message is too long.
pub(crate) fn version4(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(message.len().checked_add(8)?).ok()?;
    let total = udp_length.checked_add(20)?;
    let mut header = [0x45, 0xc0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let checksum = !sum(&header, 0);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut datagram = vec![0, 67, 0, 68];
    datagram.extend(udp_length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(message);
    let pseudo = sum(&header[12..], sum(&udp_length.to_be_bytes(), u16::from(UDP)));
    let checksum = match !sum(&datagram, pseudo) {
        0 => u16::MAX,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    Some([header.as_slice(), &datagram].concat())
}

/// The ones' complement sum of 16-bit numbers (RFC 1071).
fn sum(bytes: &[u8], start: u16) -> u16 {
    bytes.chunks(2).fold(start, |sum, pair| {
        let number = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(number);
        sum + u16::from(carry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_read_again_and_its_checksums_are_right() {
        for message in [&b"even"[..], b"odd", b""] {
            let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 9));
            let packet = version4(from, to, message).unwrap();
            assert_eq!(udp_in_version4(&packet), Some(message));
            assert_eq!(sum(&packet[..20], 0), 0xffff);
            let length = u16::try_from(message.len() + 8).unwrap().to_be_bytes();
            assert_eq!(sum(&packet[20..], sum(&packet[12..20], sum(&length, 17))), 0xffff);
            for cut in 0..packet.len() {
                assert_eq!(udp_in_version4(&packet[..cut]), None, "{cut}");
            }
            let padded = [packet.as_slice(), &[0; 20]].concat();
            assert_eq!(udp_in_version4(&padded), Some(message), "what fills up a short frame is not read");
        }
        assert_eq!(version4(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, &[0; 65_530]), None);
    }

    #[test]
    fn packets_of_version_6_are_read_whole_or_not() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 11, 17, 255];
        packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
        packet.extend([2, 34, 2, 35, 0, 11, 0, 0, 1, 2, 3, 99]);
        let (from, to) = ("fe80::1".parse().unwrap(), "ff02::1:2".parse().unwrap());
        assert_eq!(in_version6(&packet), Some((from, to, Carried::Udp(&[1, 2, 3]))));
        assert_eq!(in_version6(&packet[..50]), None);
        packet[6] = ICMP6;
        assert!(matches!(in_version6(&packet), Some((_, _, Carried::Icmp(whole))) if whole.len() == 11));
    }
}
