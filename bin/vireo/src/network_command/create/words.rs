//! What `vireo network create` and `vireo network set` are told in words: kinds, ranges, guests' addresses, ports.

use std::net::{IpAddr, SocketAddr};

use libvirt_xml::MacAddress;
use libvirt_xml::domain::interface::ForwardProtocol;
use libvirt_xml::network::ForwardMode;
use libvirt_xml::network::addresses::{Address, DhcpHost, DhcpRange};
use libvirt_xml::network::extension::PortForward;

use crate::create_command::{interface_name, mac};

/// How guests reach what is outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not at all.
    Isolated,
    /// By a bridge of the network's own.
    Own(ForwardMode),
    /// By a bridge that is there.
    Bridge(String),
    /// By interfaces of their own on top of one of the host (macvtap).
    Shared(ForwardMode, String),
}

impl Kind {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let device = |mode, name: &str| Ok(Self::Shared(mode, interface_name(name)?));
        match text.split_once('=') {
            Some(("bridge", name)) => Ok(Self::Bridge(interface_name(name)?)),
            Some(("macvtap", name)) => device(ForwardMode::Bridge, name),
            Some(("private", name)) => device(ForwardMode::Private, name),
            Some(("vepa", name)) => device(ForwardMode::Vepa, name),
            Some(("passthrough", name)) => device(ForwardMode::Passthrough, name),
            None if text == "nat" => Ok(Self::Own(ForwardMode::Nat)),
            None if text == "routed" || text == "route" => Ok(Self::Own(ForwardMode::Route)),
            None if text == "open" => Ok(Self::Own(ForwardMode::Open)),
            None if text == "isolated" => Ok(Self::Isolated),
            _ => {
                Err("use nat, routed, isolated, open, bridge=BRIDGE, macvtap=INTERFACE, private=INTERFACE, \
                      vepa=INTERFACE or passthrough=INTERFACE"
                    .to_owned())
            }
        }
    }

    /// Whether the network has a bridge of its own, with addresses and services.
    pub(super) fn has_own_bridge(&self) -> bool {
        matches!(self, Self::Isolated | Self::Own(_))
    }
}

/// A range of addresses, as in `10.1.2.50-10.1.2.99`.
pub(super) fn range(text: &str) -> Result<DhcpRange, String> {
    let wrong = || format!("{text:?} is not a range of addresses as in 10.1.2.50-10.1.2.99");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let start: IpAddr = first.trim().parse().map_err(|_| wrong())?;
    let end: IpAddr = last.trim().parse().map_err(|_| wrong())?;
    if start.is_ipv4() != end.is_ipv4() || start > end {
        return Err(wrong());
    }
    Ok(DhcpRange { start: Some(start), end: Some(end), lease: None })
}

/// A guest that always gets the same address, as in `52:54:00:12:34:56=10.1.2.10,web`.
pub(crate) fn host(text: &str) -> Result<DhcpHost, String> {
    let wrong = || format!("{text:?} is not a guest's address as in 52:54:00:12:34:56=10.1.2.10,NAME");
    let (who, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (address, name) = match rest.split_once(',') {
        Some((address, name)) => {
            (address, Some(name.to_owned()).filter(|name| !name.is_empty()).ok_or_else(wrong)?)
        }
        None => (rest, String::new()),
    };
    let ip: IpAddr = address.parse().map_err(|_| wrong())?;
    let mac: MacAddress = mac(who)?;
    Ok(DhcpHost {
        mac: Some(mac),
        name: (!name.is_empty()).then_some(name),
        ip: Some(ip),
        ..DhcpHost::default()
    })
}

/// A port of the host that leads to a guest, as in `tcp:8080=10.1.2.10:80`.
pub(crate) fn forward(text: &str) -> Result<PortForward, String> {
    let wrong = || {
        format!("{text:?} is not a port forward as in tcp:8080=10.1.2.10:80 or udp:192.0.2.1:53=10.1.2.10")
    };
    let (from, to) = text.split_once('=').ok_or_else(wrong)?;
    let (protocol, address, port) = host_port(from).ok_or_else(wrong)?;
    let bare = to.strip_prefix('[').and_then(|to| to.strip_suffix(']')).unwrap_or(to);
    let (to, to_port) = match (bare.parse::<IpAddr>(), to.parse::<SocketAddr>()) {
        (Ok(address), _) => (address, None),
        (_, Ok(socket)) if socket.port() != 0 => (socket.ip(), Some(socket.port())),
        _ => return Err(wrong()),
    };
    if address.is_some_and(|address| address.is_ipv4() != to.is_ipv4()) {
        return Err(format!("{text}: an address of IPv4 and one of IPv6 do not go together"));
    }
    Ok(PortForward { protocol, address, port, to: Address(to), to_port: to_port.filter(|to| *to != port) })
}

/// The host's part of a port forward: `tcp:8080` or `udp:192.0.2.1:53`.
pub(crate) fn host_port(text: &str) -> Option<(ForwardProtocol, Option<IpAddr>, u16)> {
    let (protocol, place) = text.split_once(':')?;
    let protocol = match protocol {
        "tcp" => ForwardProtocol::Tcp,
        "udp" => ForwardProtocol::Udp,
        _ => return None,
    };
    let (address, port) = match place.parse::<u16>() {
        Ok(port) => (None, port),
        Err(_) => place.parse::<SocketAddr>().map(|socket| (Some(socket.ip()), socket.port())).ok()?,
    };
    (port != 0).then_some((protocol, address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(Kind::parse("nat"), Ok(Kind::Own(ForwardMode::Nat)));
        assert_eq!(Kind::parse("bridge=br0"), Ok(Kind::Bridge("br0".into())));
        assert_eq!(Kind::parse("macvtap=eth0"), Ok(Kind::Shared(ForwardMode::Bridge, "eth0".into())));
        assert_eq!(Kind::parse("vepa=eth0"), Ok(Kind::Shared(ForwardMode::Vepa, "eth0".into())));
        for wrong in
            ["", "bridge", "bridge=", "nat=x", "macvtap=a b", "hostdev", "bridge=a-name-that-is-too-long"]
        {
            assert!(Kind::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_lead_to_guests() {
        let one = forward("tcp:8080=10.1.2.10:80").unwrap();
        assert_eq!((one.port, one.to_port, one.to.to_string()), (8080, Some(80), "10.1.2.10".to_owned()));
        let same = forward("udp:192.0.2.1:53=10.1.2.10:53").unwrap();
        assert_eq!((same.address, same.to_port), (Some("192.0.2.1".parse().unwrap()), None));
        for six in ["tcp:[::1]:80=[fd00::7]:81", "tcp:80=fd00::7", "tcp:80=[fd00::7]"] {
            assert_eq!(forward(six).unwrap().to.to_string(), "fd00::7", "{six}");
        }
        for wrong in [
            "",
            "tcp",
            "tcp:80",
            "tcp:80=",
            "tcp:0=10.1.2.3",
            "tcp:70000=10.1.2.3",
            "sctp:1=10.1.2.3",
            "80=10.1.2.3",
            "tcp:80=10.1.2.3:0",
            "tcp:80=web",
            "tcp:192.0.2.1:80=fd00::7",
            "tcp:192.0.2.1=10.1.2.3",
        ] {
            assert!(forward(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn guests_are_known_by_their_interface() {
        let web = host("52:54:00:12:34:56=10.1.2.10,web").unwrap();
        assert_eq!((web.name.as_deref(), web.ip), (Some("web"), Some("10.1.2.10".parse().unwrap())));
        assert_eq!(host("52:54:00:12:34:56=10.1.2.10").unwrap().name, None);
        for wrong in [
            "",
            "web=10.1.2.10",
            "52:54:00:12:34:56",
            "52:54:00:12:34:56=web",
            "52:54:00:12:34:56=10.1.2.10,",
        ] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_have_a_first_and_a_last_address() {
        range("10.1.2.50-10.1.2.99").unwrap();
        range("fd00::5-fd00::9").unwrap();
        for wrong in ["", "10.1.2.50", "10.1.2.99-10.1.2.50", "10.1.2.50-fd00::9", "a-b", "10.1.2.1-"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
