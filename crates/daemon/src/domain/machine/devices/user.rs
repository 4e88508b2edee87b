//! User-mode interfaces: what passt(1) is told (formatdomain, "Userspace connection using passt").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libvirt_xml::YesNo;
use libvirt_xml::domain::interface::{ForwardProtocol, Interface, InterfaceIp, InterfaceType, PortForward};
use net_io::passt::{Forward, Passt, Ports, Transport};

use super::super::Findings;
use super::super::walk::numbered;

/// Longest name of an interface of the host (IFNAMSIZ less its terminating zero).
const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// Length of the prefix of IPv6 networks, which passt does not change.
const IPV6_PREFIX: u32 = 64;
/// Ports that one interface can have forwarded one by one: a descriptor of passt's each.
const MOST_PORTS: usize = 65_536;

/// How passt serves an interface of type `user`; `None` if something was refused.
pub(super) fn passt(path: &str, interface: &Interface, findings: &mut Findings) -> Option<Passt> {
    let refused = findings.refusals.len();
    let source = interface.source.as_ref();
    let outgoing = source.and_then(|source| source.dev.as_deref());
    let host_interface = outgoing.filter(|name| check_name(&format!("{path}/source/@dev"), name, findings));
    if interface.driver.as_ref().and_then(|driver| driver.queues).is_some_and(|queues| queues > 1) {
        let at = format!("{path}/driver/@queues");
        findings.refuse(&at, "a user-mode interface has one pair of queues", "leave it out");
    }
    let mut passt = Passt {
        interface: host_interface.map(str::to_owned),
        // Whoever can't be told is refused where the machine's packets are.
        mtu: interface.mtu.as_ref().and_then(|mtu| u16::try_from(mtu.size).ok()),
        log_file: interface.backend.as_ref().and_then(|backend| backend.log_file.clone()).map(Into::into),
        ..Passt::default()
    };
    if passt.log_file.as_ref().is_some_and(|file| !file.is_absolute()) {
        findings.refuse(
            &format!("{path}/backend/@logFile"),
            "it is not an absolute path",
            "begin it with a slash",
        );
    }
    let several = interface.ips.len() > 1;
    for (number, ip) in (1..).zip(&interface.ips) {
        address(&numbered(path, "ip", number, several), ip, &mut passt, findings);
    }
    let several = interface.port_forwards.len() > 1;
    for (number, wanted) in (1..).zip(&interface.port_forwards) {
        let at = numbered(path, "portForward", number, several);
        if let Some(forward) = forward(&at, wanted, findings) {
            passt.forwards.push(forward);
        }
    }
    let ports = passt.forwards.iter().flat_map(|forward| &forward.ports);
    if ports.map(|ports| usize::from(ports.last - ports.first) + 1).sum::<usize>() > MOST_PORTS {
        findings.refuse(path, "more than 65536 ports are forwarded", "forward fewer");
    }
    (findings.refusals.len() == refused).then_some(passt)
}

/// Refuses what only user-mode interfaces have.
pub(super) fn refuse_in_others(path: &str, interface: &Interface, findings: &mut Findings) {
    if interface.kind == InterfaceType::User {
        return;
    }
    const ADVICE: &str = "use type='user', or leave it out";
    if !interface.port_forwards.is_empty() {
        let several = interface.port_forwards.len() > 1;
        let at = numbered(path, "portForward", 1, several);
        findings.refuse(&at, "only user-mode interfaces forward ports themselves", ADVICE);
    }
    if interface.backend.as_ref().is_some_and(|backend| backend.log_file.is_some()) {
        findings.refuse(&format!("{path}/backend/@logFile"), "there is no process that would log", ADVICE);
    }
}

fn check_name(path: &str, name: &str, findings: &mut Findings) -> bool {
    let possible = (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%,".contains(&byte));
    if !possible {
        findings.refuse(path, "it is not the name of an interface of the host", "see ip link");
    }
    possible
}

/// One address of either family.
fn address(path: &str, ip: &InterfaceIp, passt: &mut Passt, findings: &mut Findings) {
    let text = ip.address.as_str();
    let parsed = text.parse().ok().filter(|address: &IpAddr| {
        !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
    });
    match parsed {
        Some(IpAddr::V4(address)) if passt.ipv4.is_none() => {
            let prefix = ip.prefix.map(|prefix| u8::try_from(prefix).ok().filter(|p| (1..=32).contains(p)));
            match prefix {
                Some(None) => findings.refuse(
                    &format!("{path}/@prefix"),
                    "it is not the length of an IPv4 prefix",
                    "use 1 to 32",
                ),
                None => passt.ipv4 = Some((address, None)),
                Some(prefix) => passt.ipv4 = Some((address, prefix)),
            }
        }
        Some(IpAddr::V6(address)) if passt.ipv6.is_none() => {
            if ip.prefix.is_some_and(|prefix| prefix != IPV6_PREFIX) {
                let at = format!("{path}/@prefix");
                findings.refuse(&at, "passt's IPv6 networks have a prefix of 64 bits", "leave it out");
                return;
            }
            passt.ipv6 = Some(address);
        }
        Some(_) => {
            findings.refuse(path, "a user-mode interface has one address of each family", "leave it out");
        }
        None => findings.refuse(
            &format!("{path}/@address"),
            format!("{text:?} is not the address of one guest"),
            "use one such as 192.0.2.10 or 2001:db8::10",
        ),
    }
}

fn forward(path: &str, wanted: &PortForward, findings: &mut Findings) -> Option<Forward> {
    let transport = match wanted.protocol {
        ForwardProtocol::Tcp => Transport::Tcp,
        ForwardProtocol::Udp => Transport::Udp,
    };
    let address = wanted.address.as_deref().map(str::parse::<IpAddr>);
    let Ok(address) = address.transpose() else {
        let at = format!("{path}/@address");
        findings.refuse(
            &at,
            "it is not an address of the host",
            "use one such as 127.0.0.1, or leave it out",
        );
        return None;
    };
    let interface = match &wanted.dev {
        Some(name) if !check_name(&format!("{path}/@dev"), name, findings) => return None,
        Some(_) if address.is_none() => {
            let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
            let advice = format!("add address='{}' or address='{}'", any[0], any[1]);
            findings.refuse(&format!("{path}/@dev"), "passt wants an address with it", advice);
            return None;
        }
        name => name.clone(),
    };
    let several = wanted.ranges.len() > 1;
    let mut ports = Vec::new();
    for (number, range) in (1..).zip(&wanted.ranges) {
        let at = numbered(path, "range", number, several);
        let (first, last) = (range.start, range.end.unwrap_or(range.start));
        let excluded = range.exclude == Some(YesNo::Yes);
        let fault = if first == 0 || last < first {
            Some("its ports are not 1 to 65535 in ascending order")
        } else if excluded && range.to.is_some() {
            Some("ports that are left out go nowhere")
        } else if range.to.is_some_and(|to| to == 0 || to.checked_add(last - first).is_none()) {
            Some("the guest's ports are not 1 to 65535")
        } else {
            None
        };
        match fault {
            Some(fault) => findings.refuse(&at, fault, "correct start, end and to"),
            None => ports.push(Ports { first, last, guest: range.to, excluded }),
        }
    }
    Some(Forward { transport, address, interface, ports })
}
