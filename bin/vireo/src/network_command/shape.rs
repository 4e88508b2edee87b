//! What a network's document says of it, as far as people ask: read from the tree and not by the model, for documents of other daemons may
//! have more than that knows.

use libvirt_xml::Element;
use serde_json::{Value, json};

/// What a network is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// How guests reach what is outside: libvirt's word, or `isolated`.
    pub(super) kind: String,
    /// Interfaces of the host that it shares.
    pub(super) devices: Vec<String>,
    /// Addresses of the host in it, with their prefixes.
    pub(super) addresses: Vec<String>,
    /// First and last addresses that guests are given.
    pub(super) ranges: Vec<String>,
    /// The domain of guests' names.
    pub(super) domain: Option<String>,
    /// Guests that always get the same address.
    pub(super) hosts: Vec<String>,
    /// Ports of the host that lead to guests.
    pub(super) forwards: Vec<String>,
}

impl Shape {
    /// What a document says; one that can't be read says nothing.
    pub(super) fn of(document: &str) -> Self {
        libvirt_xml::parse(document).map(|root| Self::of_root(&root)).unwrap_or_default()
    }

    fn of_root(root: &Element) -> Self {
        let forward = root.first("forward");
        let all = |parent: Option<&Element>, name: &str| -> Vec<Element> {
            let children = parent.into_iter().flat_map(Element::children);
            children.filter(|child| child.name == name).cloned().collect()
        };
        let word = |element: &Element, name: &str| element.attribute(name).unwrap_or_default().to_owned();
        let ips = all(Some(root), "ip");
        let served: Vec<_> = ips.iter().filter_map(|ip| ip.first("dhcp")).collect();
        let ranges = served.iter().flat_map(|dhcp| all(Some(dhcp), "range"));
        let hosts = served.iter().flat_map(|dhcp| all(Some(dhcp), "host"));
        let options = root.children().find(|child| local(&child.name) == "options");
        let forwards = options.into_iter().flat_map(Element::children);
        Self {
            kind: match forward {
                Some(forward) => forward.attribute("mode").unwrap_or("nat").to_owned(),
                None => "isolated".to_owned(),
            },
            devices: all(forward, "interface").iter().map(|interface| word(interface, "dev")).collect(),
            addresses: ips.iter().map(address).collect(),
            ranges: ranges
                .map(|range| format!("{} - {}", word(&range, "start"), word(&range, "end")))
                .collect(),
            domain: root.first("domain").map(|domain| word(domain, "name")),
            hosts: hosts.map(|host| fixed(&host)).collect(),
            forwards: forwards
                .filter(|child| local(&child.name) == "portForward")
                .map(|forward| {
                    let port = word(forward, "port");
                    let to_port = forward.attribute("toPort").unwrap_or(&port);
                    let (protocol, host) = (word(forward, "proto"), bracketed(&word(forward, "address")));
                    let colon = if host.is_empty() { "" } else { ":" };
                    format!("{protocol}:{host}{colon}{port}={}:{to_port}", bracketed(&word(forward, "to")))
                })
                .collect(),
        }
    }

    /// The same for programs.
    pub(super) fn add_to(&self, told: &mut Value) {
        told["kind"] = json!(self.kind);
        told["devices"] = json!(self.devices);
        told["addresses"] = json!(self.addresses);
        told["dhcp_ranges"] = json!(self.ranges);
        told["domain"] = json!(self.domain);
        told["dhcp_hosts"] = json!(self.hosts);
        told["forwards"] = json!(self.forwards);
    }
}

/// A name without its prefix.
fn local(name: &str) -> &str {
    name.split_once(':').map_or(name, |(_, local)| local)
}

/// An address that ports can follow (RFC 3986, 3.2.2).
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn fixed(host: &Element) -> String {
    let who = host.attribute("mac").or_else(|| host.attribute("id"));
    let name = host.attribute("name");
    let known = who.or(name).unwrap_or_default();
    let address = host.attribute("ip").unwrap_or_default();
    match name.filter(|_| who.is_some()) {
        Some(name) => format!("{known}={address},{name}"),
        None => format!("{known}={address}"),
    }
}

/// An address with its prefix.
fn address(ip: &Element) -> String {
    let address = ip.attribute("address").unwrap_or_default();
    let mask = |mask: &str| mask.parse().ok().map(|mask: std::net::Ipv4Addr| mask.to_bits().count_ones());
    let prefix = ip.attribute("prefix").and_then(|prefix| prefix.parse().ok());
    match prefix.or_else(|| ip.attribute("netmask").and_then(mask)) {
        Some(prefix) => format!("{address}/{prefix}"),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_document_says_is_found() {
        let shape = Shape::of(
            "<network xmlns:v='urn:vireo:network:1'><name>n</name><forward mode='route' new='x'/><domain name='lan'/><new/>
             <ip address='10.1.2.1' netmask='255.255.254.0'><dhcp><range start='10.1.2.2' end='10.1.2.9'/>
             <host mac='52:54:00:00:00:01' name='web' ip='10.1.2.7'/></dhcp></ip>
             <ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host id='0:1' ip='fd00::7'/></dhcp></ip>
             <v:options><v:portForward proto='tcp' port='80' to='10.1.2.7'/>
             <v:portForward proto='udp' address='::1' port='53' to='fd00::7' toPort='5353'/></v:options></network>",
        );
        assert_eq!(shape.kind, "route");
        assert_eq!(shape.addresses, ["10.1.2.1/23", "fd00::1/64"]);
        assert_eq!(shape.ranges, ["10.1.2.2 - 10.1.2.9"]);
        assert_eq!(shape.hosts, ["52:54:00:00:00:01=10.1.2.7,web", "0:1=fd00::7"]);
        assert_eq!(shape.forwards, ["tcp:80=10.1.2.7:80", "udp:[::1]:53=[fd00::7]:5353"]);
        assert_eq!(shape.domain.as_deref(), Some("lan"));
        let shared = Shape::of("<network><forward mode='bridge'><interface dev='eth0'/></forward></network>");
        assert_eq!((shared.kind.as_str(), shared.devices), ("bridge", vec!["eth0".to_owned()]));
        assert_eq!(Shape::of("<network/>").kind, "isolated");
        assert_eq!(Shape::of("nonsense"), Shape::default());
    }
}
