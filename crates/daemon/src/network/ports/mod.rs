//! Guests' interfaces as ports of virtual networks.
//!
//! A port is what the live document of a domain says of one interface: its network, the interface on the host, the guest's address and
//! `portid`, the port's identity. Nothing else remembers ports, so whoever reads the documents (the next daemon) knows all of them.
//!
//! | module | what |
//! |---|---|
//! | this one | a port, and all of them |
//! | `attach` | ports come, go, and are made as their networks want them |
//! | `guard` | which addresses their guests may use |
//! | `keeper` | what follows the ports of a network: guards and names |
//! | `document` | a port as clients see it |

mod attach;
mod document;
mod guard;
mod keeper;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::interface::{Bandwidth, Interface, InterfaceType, SourceMode, Vlan};
use libvirt_xml::{MacAddress, Uuid};
use parking_lot::RwLock;

pub(super) use self::keeper::Keeper;
use crate::domain::machine::fixed_addresses;

/// A guest's interface on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Identity, `portid` in the domain's document; another one at each start of the machine.
    pub(crate) uuid: Uuid,
    /// The network's name: a document knows no more, and networks are never renamed.
    pub(crate) network: String,
    /// The domain.
    pub(crate) domain: Uuid,
    /// Its name, which it keeps while it runs.
    pub(crate) domain_name: String,
    /// The interface on the host.
    pub(crate) interface: String,
    /// The interface that it lies on, and how it shares that, where the network shares interfaces of the host.
    pub(crate) device: Option<(String, SourceMode)>,
    /// The guest's address.
    pub(crate) mac: MacAddress,
    /// Settings of the network that it has chosen.
    pub(crate) portgroup: Option<String>,
    /// Addresses that the document says the guest has, whatever the network gives.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether the document asks that the guest is held to its addresses (`clean-traffic`).
    pub(crate) filtered: bool,
    /// What may pass it; of none nothing is said.
    pub(crate) bandwidth: Option<Bandwidth>,
    /// Its VLANs; of none nothing is said.
    pub(crate) vlan: Option<Vlan>,
}

impl Port {
    /// The port that an interface in the live document of a domain is; none of one that is on no network.
    fn of(domain: Uuid, domain_name: &str, interface: &Interface) -> Option<Self> {
        // Of a network that shares the host's interfaces it is shown as on one of them.
        let kinds = [InterfaceType::Network, InterfaceType::Direct];
        let source = interface.source.as_ref().filter(|_| kinds.contains(&interface.kind))?;
        Some(Self {
            uuid: source.port_id.unwrap_or_else(Self::new_uuid),
            network: source.network.clone()?,
            domain,
            domain_name: domain_name.to_owned(),
            interface: interface.target.as_ref()?.dev.clone()?,
            device: source.dev.clone().zip(source.mode),
            mac: interface.mac.as_ref()?.address,
            portgroup: source.portgroup.clone(),
            // A machine whose addresses can't be read is not started.
            addresses: fixed_addresses(interface).unwrap_or_default(),
            filtered: interface.filter.is_some(),
            bandwidth: interface.bandwidth.clone(),
            vlan: interface.vlan.clone(),
        })
    }

    /// The ports of a running domain, by its live document.
    pub(crate) fn all_of(domain: Uuid, domain_name: &str, document: &Definition) -> Vec<Self> {
        let interfaces = document.devices.interfaces.iter();
        interfaces.filter_map(|interface| Self::of(domain, domain_name, interface)).collect()
    }

    /// An identity that no other port has.
    pub(crate) fn new_uuid() -> Uuid {
        Uuid(*uuid::Uuid::new_v4().as_bytes())
    }
}

/// All ports of all networks.
#[derive(Debug, Default)]
pub(crate) struct Ports(RwLock<BTreeMap<Uuid, Arc<Port>>>);

impl Ports {
    /// The port with this UUID.
    pub(crate) fn by_uuid(&self, uuid: Uuid) -> Option<Arc<Port>> {
        self.0.read().get(&uuid).cloned()
    }

    /// The ports of a network, those of one domain together.
    pub(crate) fn of_network(&self, name: &str) -> Vec<Arc<Port>> {
        let all = self.0.read();
        let mut ports: Vec<_> = all.values().filter(|port| port.network == name).cloned().collect();
        ports.sort_by(|one, other| {
            (&one.domain_name, &one.interface).cmp(&(&other.domain_name, &other.interface))
        });
        ports
    }

    fn insert(&self, port: Port) -> Arc<Port> {
        let port = Arc::new(port);
        self.0.write().insert(port.uuid, Arc::clone(&port));
        port
    }

    fn remove(&self, uuid: Uuid) {
        self.0.write().remove(&uuid);
    }

    /// Forgets the ports of a domain; those that it had.
    fn remove_domain(&self, domain: Uuid) -> Vec<Arc<Port>> {
        let mut all = self.0.write();
        let gone: Vec<_> = all.values().filter(|port| port.domain == domain).cloned().collect();
        all.retain(|_, port| port.domain != domain);
        gone
    }
}
