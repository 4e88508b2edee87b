//! What libvirt's format can't say of a network, in a namespace of our own.
//!
//! The namespace is `urn:vireo:network:1`; the prefix is whatever a document declares, and `vireo` in what is written:
//!
//! ```xml
//! <network xmlns:vireo='urn:vireo:network:1'>
//!   …
//!   <vireo:options>
//!     <vireo:portForward proto='tcp' port='8080' to='192.168.122.10' toPort='80'/>
//!     <vireo:dhcpOption number='42' value='192.168.122.1'/>
//!     <vireo:spoofing allow='no'/>
//!   </vireo:options>
//! </network>
//! ```
//!
//! | element | what |
//! |---|---|
//! | `portForward` | a port of the host that leads to a guest: `proto` is `tcp` or `udp`, `address` one address of the host (all if none), `toPort` is `port` if none |
//! | `dhcpOption` | an option that DHCPv4 sends (RFC 2132): IPv4 addresses with commas between, or with `type` `text`, `byte`, `word`, `long`, `hex` |
//! | `spoofing` | whether guests may send with addresses that are not theirs; without it those of networks with address translation may not |

use std::net::IpAddr;

use super::addresses::Address;
use crate::domain::interface::ForwardProtocol;
use crate::model::model;
use crate::tree::{Element, Node};
use crate::value::{YesNo, words};

/// The namespace.
pub const NAMESPACE: &str = "urn:vireo:network:1";

/// The prefix in what is written.
const PREFIX: &str = "vireo";

words! {
    /// What the value of an option is.
    pub enum OptionType {
        Addresses = "addresses",
        Text = "text",
        Byte = "byte",
        Word = "word",
        Long = "long",
        Hex = "hex",
    }
}

model! {
    /// A port of the host that leads to a guest.
    pub struct PortForward {
        /// Transport.
        protocol: required("proto") => ForwardProtocol,
        /// One address of the host; all that it has otherwise.
        address: attribute("address") => Option<IpAddr>,
        /// The host's port.
        port: required("port") => u16,
        /// The guest.
        to: required("to") => Address,
        /// The guest's port; the host's if none.
        to_port: attribute("toPort") => Option<u16>,
    }

    /// An option that DHCPv4 sends.
    pub struct DhcpOption {
        /// Its number.
        number: required("number") => u8,
        /// What its value is; addresses if nothing is said.
        kind: attribute("type") => Option<OptionType>,
        /// Its value.
        value: required("value") => String,
    }

    /// Whether guests may pretend to be others.
    pub struct Spoofing {
        /// Whether.
        allow: required("allow") => YesNo,
    }

    /// All of it.
    pub struct Extension {
        /// Ports of the host that lead to guests.
        port_forwards: children("vireo:portForward") => Vec<PortForward>,
        /// Options that DHCPv4 sends.
        dhcp_options: children("vireo:dhcpOption") => Vec<DhcpOption>,
        /// Whether guests may pretend to be others.
        spoofing: child("vireo:spoofing") => Option<Spoofing>,
    }
}

/// The attribute that declares the namespace in what is written.
pub(super) fn declaration() -> (String, String) {
    (format!("xmlns:{PREFIX}"), NAMESPACE.to_owned())
}

/// The document with our own prefix for our namespace, and no element that has our prefix without being of our namespace.
pub(super) fn with_own_prefix(root: &Element) -> Element {
    let declared = root.attributes.iter().find(|(name, uri)| name.starts_with("xmlns:") && uri == NAMESPACE);
    let declared = declared.map(|(name, _)| name["xmlns:".len()..].to_owned());
    let mut root = root.clone();
    for node in &mut root.content {
        if let Node::Element(child) = node
            && child.name != "metadata"
        {
            rename(child, declared.as_deref());
        }
    }
    root
}

fn rename(element: &mut Element, declared: Option<&str>) {
    if let Some((prefix, local)) = element.name.split_once(':') {
        if Some(prefix) == declared {
            element.name = format!("{PREFIX}:{local}");
        } else if prefix == PREFIX {
            // Refused under a name that says why.
            element.name = format!("{local} (its prefix is not declared as {NAMESPACE})");
        }
    }
    for node in &mut element.content {
        if let Node::Element(child) = node {
            rename(child, declared);
        }
    }
}
