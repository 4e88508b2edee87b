//! `user`, `user,tcp=2222:22,udp=5000-5010:6000`: an interface that passt connects, and the ports of this host that lead to it.

use std::net::IpAddr;
use std::os::fd::{IntoRawFd as _, OwnedFd};

use net_io::passt::{Forward, PasstError, Ports, Transport};
use rustix::io::{FdFlags, fcntl_setfd};

/// What `user,…` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserNetwork {
    pub(crate) forwards: Vec<Forward>,
    /// What was said of the card itself, as it was said.
    pub(crate) rest: Vec<String>,
}

impl UserNetwork {
    /// Reads what follows `--net` or `--network`; `None` if it is another kind of interface.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        let mut words = text.split(',');
        if words.next() != Some("user") {
            return Ok(None);
        }
        let (mut forwards, mut rest) = (Vec::new(), Vec::new());
        for word in words {
            match word.split_once('=') {
                Some(("tcp", ports)) => forwards.push(forward(Transport::Tcp, "tcp", ports)?),
                Some(("udp", ports)) => forwards.push(forward(Transport::Udp, "udp", ports)?),
                _ => rest.push(word.to_owned()),
            }
        }
        Ok(Some(Self { forwards, rest }))
    }
}

/// `[ADDRESS/]PORT[-PORT][:GUEST]`.
fn forward(transport: Transport, key: &str, text: &str) -> Result<Forward, String> {
    let parsed = || {
        let (address, ports) = match text.rsplit_once('/') {
            Some((address, ports)) => (Some(address.parse::<IpAddr>().ok()?), ports),
            None => (None, text),
        };
        let (host, guest) = match ports.split_once(':') {
            Some((host, guest)) => (host, Some(port(guest)?)),
            None => (ports, None),
        };
        let (first, last) = host.split_once('-').unwrap_or((host, host));
        let (first, last) = (port(first)?, port(last)?);
        let length = last.checked_sub(first)?;
        guest.unwrap_or(first).checked_add(length)?;
        let ports = vec![Ports { first, last, guest, excluded: false }];
        Some(Forward { transport, address, interface: None, ports })
    };
    parsed().ok_or_else(|| {
        format!("{key}={text:?} is not a port to forward: use [ADDRESS/]PORT[-PORT][:PORT OF THE GUEST], as in {key}=2222:22")
    })
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

/// Lets the program that this one becomes, or starts, have a socket; its number. It is open until the end of this program.
pub(crate) fn hand_down(socket: OwnedFd) -> Result<i32, PasstError> {
    fcntl_setfd(&socket, FdFlags::empty()).map_err(|error| PasstError::Host {
        operation: "hand its socket to the machine",
        source: error.into(),
    })?;
    Ok(socket.into_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_people_write_them() {
        let user =
            UserNetwork::parse("user,tcp=2222:22,mac=52:54:00:00:00:01,udp=::1/5000-5010:6000").unwrap();
        let UserNetwork { forwards, rest } = user.unwrap();
        assert_eq!(rest, ["mac=52:54:00:00:00:01"]);
        let spelled: Vec<_> = forwards.iter().map(|f| (f.transport, f.to_string())).collect();
        let udp = "::1/5000-5010:6000-6010".to_owned();
        assert_eq!(spelled, [(Transport::Tcp, "2222:22".to_owned()), (Transport::Udp, udp)]);
        for other in ["", "users", "tap=user", "user=x", "network=user"] {
            assert_eq!(UserNetwork::parse(other), Ok(None), "{other}");
        }
        for wrong in ["", "0", "x", "1:0", "2-1", "65530-65535:65531", "1/2", "70000", "1-2-3", "22:", "-1"] {
            assert!(UserNetwork::parse(&format!("user,tcp={wrong}")).is_err(), "{wrong}");
        }
    }
}
