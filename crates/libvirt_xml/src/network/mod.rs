//! libvirt's network documents: virtual networks and the changes that `net-update` makes of them.
//!
//! | module | what |
//! |---|---|
//! | this one | a network as a typed model |
//! | `dns` | names that the network serves |
//! | `addresses` | addresses of the host, what DHCP gives, routes |
//! | `extension` | what libvirt's format can't say, in our own namespace |
//! | [`assign`] | what a definition is completed with |
//! | [`check`](mod@check) | what the format can't say: numbers and names that must agree |
//! | [`update`] | a section changed, as virNetworkUpdate does |
//!
//! What libvirt knows and nothing here can honour is refused by its name: forwarding of whole devices (`hostdev`, `<pf>`), virtual ports of
//! other switches, and the namespace of dnsmasq, whose options mean nothing without dnsmasq.
//!
//! Source: libvirt's "Network XML format" (formatnetwork); order, defaults and messages are those of libvirt 9 and 10.

pub mod addresses;
pub mod assign;
pub mod check;
pub mod dns;
mod error;
pub mod extension;
pub mod update;

use self::addresses::{Address, Ip, Route};
use self::dns::Dns;
pub use self::error::NetworkError;
use self::extension::Extension;
use crate::domain::interface::{Bandwidth, BridgePort, MacTableManager, Vlan};
use crate::domain::metadata::{Described, Metadata};
use crate::error::{XmlError, XmlFault};
use crate::fields::Fields;
use crate::model::{Model, model};
use crate::tree::Element;
use crate::value::{MacAddress, OnOff, Uuid, YesNo, words};

/// Elements of libvirt's format that are refused, and what is said of them.
const REFUSED: [(&str, &str); 2] = [
    ("virtualport", "virtual ports of Open vSwitch, 802.1Qbg, 802.1Qbh and Midonet"),
    ("dnsmasq:options", "options of dnsmasq, which does not serve networks here"),
];

words! {
    /// How guests reach what is outside of the network.
    pub enum ForwardMode {
        Nat = "nat",
        Route = "route",
        Open = "open",
        Bridge = "bridge",
        Private = "private",
        Vepa = "vepa",
        Passthrough = "passthrough",
    }
    refused "hostdev";
}

impl ForwardMode {
    /// Whether the network has a bridge of its own, with addresses and services.
    pub fn has_own_bridge(self) -> bool {
        matches!(self, Self::Nat | Self::Route | Self::Open)
    }
}

model! {
    /// Source addresses of translated packets.
    pub struct AddressRange {
        /// First.
        start: required("start") => Address,
        /// Last.
        end: required("end") => Address,
    }

    /// Source ports of translated packets.
    pub struct NatPorts {
        /// First.
        start: required("start") => u16,
        /// Last.
        end: required("end") => u16,
    }

    /// Address translation.
    pub struct Nat {
        /// Whether IPv6 is translated as well.
        ipv6: attribute("ipv6") => Option<YesNo>,
        /// Source addresses.
        addresses: child("address") => Option<AddressRange>,
        /// Source ports.
        ports: child("port") => Option<NatPorts>,
    }

    /// An interface of the host that leads outside.
    pub struct ForwardInterface {
        /// Its name.
        dev: attribute("dev") => Option<String>,
        /// Guests that use it; running networks only.
        connections: attribute("connections") => Option<u32>,
    }

    /// The way outside.
    pub struct Forward {
        /// The only interface of the host to be used: the first of the interfaces.
        dev: attribute("dev") => Option<String>,
        /// How.
        mode: defaulted("mode") => ForwardMode,
        /// Address translation, of the mode `nat`.
        nat: child("nat") => Option<Nat>,
        /// Interfaces of the host.
        interfaces: children("interface") => Vec<ForwardInterface>,
    }

    /// The bridge.
    pub struct Bridge {
        /// Name of the interface.
        name: attribute("name") => Option<String>,
        /// A zone of firewalld.
        zone: attribute("zone") => Option<String>,
        /// Spanning tree protocol.
        stp: attribute("stp") => Option<OnOff>,
        /// Seconds until a new port forwards.
        delay: attribute("delay") => Option<u32>,
        /// Who fills the table of addresses.
        mac_table_manager: attribute("macTableManager") => Option<MacTableManager>,
    }

    /// Size of frames.
    pub struct Mtu {
        /// Bytes.
        size: required("size") => u32,
    }

    /// The bridge's address.
    pub struct BridgeMac {
        /// The address.
        address: required("address") => MacAddress,
    }

    /// The domain of the guests' names.
    pub struct DomainName {
        /// Its name.
        name: required("name") => String,
        /// Whether names in it are asked of nobody else.
        local_only: attribute("localOnly") => Option<YesNo>,
        /// Whether the host's own resolver is told of it.
        register: attribute("register") => Option<YesNo>,
    }

    /// Settings that guests' interfaces choose by name.
    pub struct PortGroup {
        /// Its name.
        name: required("name") => String,
        /// Whether it is that of interfaces that name none.
        default: attribute("default") => Option<YesNo>,
        /// Whether guests may change their addresses.
        trust_guest_rx_filters: attribute("trustGuestRxFilters") => Option<YesNo>,
        /// VLANs.
        vlan: child("vlan") => Option<Vlan>,
        /// Limits of each interface.
        bandwidth: child("bandwidth") => Option<Bandwidth>,
    }

    /// A virtual network.
    pub struct Network {
        /// Guests that are connected; running networks only.
        connections: attribute("connections") => Option<u32>,
        /// Whether guests have IPv6 among themselves when the host has no address.
        ipv6: attribute("ipv6") => Option<YesNo>,
        /// Whether guests may change their addresses.
        trust_guest_rx_filters: attribute("trustGuestRxFilters") => Option<YesNo>,
        /// Name; unique on the host.
        name: field("name") => Option<String>,
        /// Identifier; unique on the host. Assigned when absent.
        uuid: field("uuid") => Option<Uuid>,
        /// A line for people.
        title: field("title") => Option<String>,
        /// Text for people.
        description: field("description") => Option<String>,
        /// What other programs keep here.
        metadata: child("metadata") => Option<Metadata>,
        /// The way outside; isolated without.
        forward: child("forward") => Option<Forward>,
        /// The bridge.
        bridge: child("bridge") => Option<Bridge>,
        /// Size of frames.
        mtu: child("mtu") => Option<Mtu>,
        /// The bridge's address.
        mac: child("mac") => Option<BridgeMac>,
        /// The domain of guests' names.
        domain: child("domain") => Option<DomainName>,
        /// Names.
        dns: child("dns") => Option<Dns>,
        /// VLANs.
        vlan: child("vlan") => Option<Vlan>,
        /// Limits of everything that passes between guests and the host.
        bandwidth: child("bandwidth") => Option<Bandwidth>,
        /// Settings of all ports of the bridge.
        port: child("port") => Option<BridgePort>,
        /// Addresses of the host in it.
        ips: children("ip") => Vec<Ip>,
        /// Subnets behind guests.
        routes: children("route") => Vec<Route>,
        /// Settings to choose from.
        port_groups: children("portgroup") => Vec<PortGroup>,
        /// What libvirt's format can't say.
        extension: child("vireo:options") => Option<Extension>,
    }
}

impl Network {
    /// Reads a document.
    pub fn parse(document: &str) -> Result<Self, XmlError> {
        Self::from_element(&crate::parse(document)?)
    }

    /// Reads the root element of a document.
    pub fn from_element(root: &Element) -> Result<Self, XmlError> {
        let root = &extension::with_own_prefix(root);
        for (name, what) in REFUSED {
            if root.first(name).is_some() {
                let fault = XmlFault::Unsupported(what.to_owned());
                return Err(XmlError::new(format!("network/{name}"), fault));
            }
        }
        let mut fields = Fields::of_root(root, "network")?;
        let namespaces: Vec<(String, String)> =
            root.attributes.iter().filter(|(name, _)| name.starts_with("xmlns")).cloned().collect();
        for (name, _) in &namespaces {
            fields.attribute(name);
        }
        let mut network = Self::read(fields)?;
        if let Some(metadata) = &mut network.metadata {
            metadata.declare(&namespaces);
        }
        network.metadata = network.metadata.filter(|metadata| !metadata.elements.is_empty());
        Ok(network)
    }

    /// The document's root element.
    pub fn to_element(&self) -> Element {
        let mut element = self.write("network");
        if self.extension.is_some() {
            element.attributes.insert(0, extension::declaration());
        }
        element
    }

    /// The document, as libvirt prints it.
    pub fn to_xml(&self) -> String {
        self.to_element().to_document()
    }

    /// How guests reach what is outside; not at all if none.
    pub fn forward_mode(&self) -> Option<ForwardMode> {
        self.forward.as_ref().map(|forward| forward.mode)
    }

    /// Whether it has a bridge of its own, with addresses and services.
    pub fn has_own_bridge(&self) -> bool {
        self.forward_mode().is_none_or(ForwardMode::has_own_bridge)
    }

    /// Name of its bridge.
    pub fn bridge_name(&self) -> Option<&str> {
        self.bridge.as_ref()?.name.as_deref()
    }

    /// The network as it is defined: without what only a running one has.
    #[must_use]
    pub fn without_live_details(mut self) -> Self {
        self.connections = None;
        for interface in self.forward.iter_mut().flat_map(|forward| &mut forward.interfaces) {
            interface.connections = None;
        }
        self
    }

    /// Its name, for messages.
    fn called(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

impl Described for Network {
    fn described(&self) -> (&Option<String>, &Option<String>, &Option<Metadata>) {
        (&self.title, &self.description, &self.metadata)
    }

    fn described_mut(&mut self) -> (&mut Option<String>, &mut Option<String>, &mut Option<Metadata>) {
        (&mut self.title, &mut self.description, &mut self.metadata)
    }
}

#[cfg(test)]
mod tests;
