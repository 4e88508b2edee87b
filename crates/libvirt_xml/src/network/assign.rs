//! What a definition is completed with: identifier, bridge and its address, the defaults that libvirt always prints.
//!
//! A completed definition is left alone, so it stays the same over redefinition; a redefinition that leaves out the bridge's name or address
//! keeps those that the network has.

use super::addresses::{Dhcp, Lease};
use super::dns::Dns;
use super::{Bridge, BridgeMac, ForwardInterface, Nat, NatPorts, Network};
use crate::domain::assign::{Random, random_mac, random_uuid};
use crate::value::OnOff;

/// What the names of bridges begin with when nobody says.
const TEMPLATE: &str = "virbr%d";

/// How many bridges of one template are looked for; libvirt's bound.
const MOST_BRIDGES: u32 = 256;

/// Source ports of translated packets when nobody says; the lower ones are the host's services'.
const NAT_PORTS: NatPorts = NatPorts { start: 1024, end: 65_535 };

/// Completes a definition, of a network that was defined as `before` if it is known. `taken` says whether a bridge can't have a
/// name, because another network or the host has it. Call [`super::check::check`] on the result: a name that is missing still, because
/// all are taken, is refused there.
pub fn define(
    network: &mut Network,
    before: Option<&Network>,
    taken: &mut dyn FnMut(&str) -> bool,
    random: &mut dyn Random,
) {
    network.uuid.get_or_insert_with(|| random_uuid(random));
    tidy(network);
    if !network.has_own_bridge() {
        return;
    }
    let bridge = network.bridge.get_or_insert_with(Bridge::default);
    bridge.stp.get_or_insert(OnOff::On);
    bridge.delay.get_or_insert(0);
    let template = match bridge.name.take() {
        Some(name) if !name.contains("%d") => {
            bridge.name = Some(name);
            None
        }
        Some(template) => Some(template),
        None => {
            bridge.name = before.and_then(Network::bridge_name).map(str::to_owned);
            bridge.name.is_none().then(|| TEMPLATE.to_owned())
        }
    };
    if let Some(template) = template {
        let names = (0..MOST_BRIDGES).map(|number| template.replacen("%d", &number.to_string(), 1));
        bridge.name = names.into_iter().find(|name| !taken(name));
    }
    let known = before.and_then(|before| before.mac.clone());
    network.mac.get_or_insert_with(|| known.unwrap_or_else(|| BridgeMac { address: random_mac(random) }));
}

/// Adds what only running networks have.
pub fn start(network: &mut Network) {
    if let Some(forward) = &mut network.forward
        && forward.mode == super::ForwardMode::Nat
    {
        forward.nat.get_or_insert_with(Nat::default).ports.get_or_insert(NAT_PORTS);
    }
}

/// What says nothing is left out, and what is said twice is said the same.
pub(super) fn tidy(network: &mut Network) {
    if let Some(forward) = &mut network.forward {
        forward.nat = forward.nat.take().filter(|nat| *nat != Nat::default());
        match (&forward.dev, forward.interfaces.first()) {
            (Some(dev), None) => {
                forward.interfaces.push(ForwardInterface { dev: Some(dev.clone()), connections: None });
            }
            (None, Some(first)) => forward.dev.clone_from(&first.dev),
            _ => {}
        }
    }
    network.dns = network.dns.take().filter(|dns| *dns != Dns::default());
    for ip in &mut network.ips {
        ip.dhcp = ip.dhcp.take().filter(|dhcp| *dhcp != Dhcp::default());
        if let Some(dhcp) = &mut ip.dhcp {
            dhcp.ranges.iter_mut().filter_map(|range| range.lease.as_mut()).for_each(unit);
            dhcp.hosts.iter_mut().filter_map(|host| host.lease.as_mut()).for_each(unit);
        }
    }
}

fn unit(lease: &mut Lease) {
    // For ever is for ever in any unit.
    lease.unit = (lease.expiry != 0).then(|| lease.unit.unwrap_or_default());
}
