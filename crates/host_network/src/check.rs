//! What of a network collides with the host or with other networks, before anything is changed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use rustix::io::Errno;

use crate::host::{Error, HostNetwork, blocking, mode_name};
use crate::interfaces::not_filtering;
use crate::links::Links;
use crate::network::{Kind, Network, PortForward, Protocol};
use crate::nftables;

impl HostNetwork {
    /// Refuses a network that can't be started beside `others`, which are or may be started, and what the host has. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] says what collides with what.
    pub async fn check(&self, network: &Network, others: &[Network]) -> Result<(), Error> {
        network.check()?;
        with_others(network, others).map_err(|reason| network.refused(reason))?;
        let object = format!("network '{}'", network.name);
        let at = |operation: &str| Error::host(&object, operation);
        let links = Links::open().map_err(at("cannot ask the kernel for interfaces (netlink)"))?;
        let all = links.all().await.map_err(at("cannot list interfaces"))?;
        let name_of = |index: Option<u32>| {
            let link = all.iter().find(|link| Some(link.index) == index);
            link.map_or("an interface".to_owned(), |link| format!("interface '{}'", link.name))
        };
        let refused = |reason: String| Err(Error::from(network.refused(reason)));
        for device in devices(network) {
            if !all.iter().any(|link| link.name == *device) {
                return refused(format!("there is no interface '{device}' on this host"));
            }
        }
        let bridge = all.iter().find(|link| link.name == network.bridge);
        match (&network.kind, bridge) {
            (Kind::Macvtap { mode, devices }, _) => {
                let lower = all.iter().find(|link| devices.contains(&link.name) && link.is_bridge());
                if let Some(lower) = lower {
                    let mode = mode_name(*mode);
                    return refused(format!(
                        "'{}' is a bridge: use it as one, not by macvtap ({mode})",
                        lower.name
                    ));
                }
                return Ok(());
            }
            (Kind::ExistingBridge, None) => {
                return refused(format!(
                    "there is no bridge '{}' on this host: make it, or let the network make its own",
                    network.bridge
                ));
            }
            (Kind::ExistingBridge, Some(link)) if !link.is_bridge() => {
                return refused(format!("interface '{}' is not a bridge", link.name));
            }
            (Kind::ExistingBridge, Some(link)) if network.settings.vlan_filtering && !link.vlan_filtering => {
                return refused(not_filtering(&link.name));
            }
            (Kind::ExistingBridge, Some(_)) => return Ok(()),
            (_, Some(link)) if !self.made_for(link, &network.uuid) => {
                let whose = link
                    .alias
                    .as_deref()
                    .map_or("of somebody else".to_owned(), |alias| format!("of '{alias}'"));
                return refused(format!("the bridge's name '{}' is that of an interface {whose}", link.name));
            }
            _ => {}
        }
        // Its own, when it runs, collides with nothing.
        let own = bridge.map(|link| link.index);
        let addresses = links.addresses().await.map_err(at("cannot list addresses"))?;
        let routes = links.routes().await.map_err(at("cannot list routes"))?;
        let routed = network.routes.iter().map(|route| route.destination);
        for subnet in network.addresses.iter().copied().chain(routed) {
            for (what, reached) in [("address", &addresses), ("route", &routes)] {
                let collides = |reached: &&crate::links::Reached| {
                    (own.is_none() || reached.index != own) && reached.subnet.overlaps(subnet)
                };
                if let Some(taken) = reached.iter().find(collides) {
                    return refused(format!(
                        "its subnet {subnet} overlaps the {what} {} of {}: choose another subnet",
                        taken.subnet,
                        name_of(taken.index)
                    ));
                }
            }
        }
        self.can_have_rules(network, own.is_some()).await
    }

    /// Whether the kernel has packet filters, lets us change them, and the ports to forward are free.
    async fn can_have_rules(&self, network: &Network, running: bool) -> Result<(), Error> {
        let ports = if running { Vec::new() } else { network.forwards.clone() };
        let checked = blocking(move || {
            nftables::probe().map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS) => {
                    "making networks takes CAP_NET_ADMIN: run the daemon as root".to_owned()
                }
                _ => format!("the kernel has no nftables here ({error}): load the module nf_tables"),
            })?;
            ports.iter().try_for_each(is_free)
        });
        let object = format!("network '{}'", network.name);
        let checked = checked.await.map_err(Error::host(&object, "cannot check"))?;
        checked.map_err(|reason| network.refused(reason).into())
    }
}

/// Interfaces of the host that a description names.
fn devices(network: &Network) -> &[String] {
    match &network.kind {
        Kind::Macvtap { devices, .. } => devices,
        Kind::Nat(nat) => nat.device.as_slice(),
        Kind::Routed { device } => device.as_slice(),
        _ => &[],
    }
}

fn with_others(network: &Network, others: &[Network]) -> Result<(), String> {
    for other in others.iter().filter(|other| other.uuid != network.uuid) {
        let theirs = &other.name;
        if other.name == network.name {
            return Err(format!("another network, {}, has this name", other.uuid));
        }
        if network.makes_bridge() && other.makes_bridge() && network.bridge == other.bridge {
            return Err(format!("network '{theirs}' has the bridge '{}' as well", network.bridge));
        }
        if let (Some(mac), true) = (network.settings.mac, other.settings.mac == network.settings.mac) {
            let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(format!(
                "the bridge of network '{theirs}' has the MAC address {} as well",
                mac.join(":")
            ));
        }
        for subnet in &network.addresses {
            if let Some(overlapping) = other.addresses.iter().find(|other| other.overlaps(*subnet)) {
                return Err(format!("its subnet {subnet} overlaps {overlapping} of network '{theirs}'"));
            }
        }
        for forward in &network.forwards {
            if let Some(taken) = other.forwards.iter().find(|other| other.collides(forward)) {
                return Err(format!("{forward}: network '{theirs}' forwards {taken}"));
            }
        }
    }
    Ok(())
}

/// Whether nobody listens at a port of the host that is to be forwarded: it would not hear from outside any more.
fn is_free(forward: &PortForward) -> Result<(), String> {
    let any = if forward.guest_address.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let address = (forward.host_address.unwrap_or(any), forward.host_port);
    let bound = match forward.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    match bound {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(format!("{forward}: a program of this host listens at this port"))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Err(format!("{forward}: the host does not have this address"))
        }
        Err(error) => Err(format!("{forward}: the host's port can't be had: {error}")),
        Ok(()) => Ok(()),
    }
}
