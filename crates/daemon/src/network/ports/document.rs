//! A port as clients see it: libvirt's port document (formatnetworkport), and its limits as parameters.

use libvirt_rpc::types::{TypedParam, TypedValue};
use libvirt_xml::domain::interface::BandwidthLimit;
use libvirt_xml::network::Network as Definition;
use libvirt_xml::{Element, Model, YesNo};

use super::Port;

impl Port {
    /// The document, by that of its running network.
    pub(crate) fn to_xml(&self, network: &Definition) -> String {
        let owner = Element::new("owner").field("name", &self.domain_name).field("uuid", self.domain);
        let mut port = Element::new("networkport")
            .field("uuid", self.uuid)
            .child(owner)
            .optional_field("group", self.portgroup.as_ref())
            .child(Element::new("mac").with("address", self.mac));
        if let Some(bandwidth) = &self.bandwidth {
            let limit = |name: &str, limit: &BandwidthLimit| {
                Element::new(name)
                    .with_optional("average", limit.average)
                    .with_optional("peak", limit.peak)
                    .with_optional("floor", limit.floor)
                    .with_optional("burst", limit.burst)
            };
            let both = [("inbound", &bandwidth.inbound), ("outbound", &bandwidth.outbound)];
            let both = both.into_iter().filter_map(|(name, of)| Some(limit(name, of.as_ref()?)));
            port = port.child(Element::new("bandwidth").children_from(both));
        }
        if let Some(vlan) = &self.vlan {
            port = port.child(vlan.write("vlan"));
        }
        if network.port.as_ref().is_some_and(|port| port.isolated == Some(YesNo::Yes)) {
            port = port.child(Element::new("port").with("isolated", "yes"));
        }
        if let Some(bridge) = network.bridge_name() {
            // `network` is a bridge of the network's own, `bridge` somebody else's.
            let kind = if network.has_own_bridge() { "network" } else { "bridge" };
            port = port.child(Element::new("plug").with("type", kind).with("bridge", bridge));
        }
        if let Some((device, mode)) = &self.device {
            let plug = Element::new("plug").with("type", "direct").with("dev", device).with("mode", mode);
            port = port.child(plug);
        }
        port.to_document()
    }

    /// Its limits as virNetworkPortGetParameters names them: KiB/s, bursts in KiB.
    pub(crate) fn parameters(&self) -> Vec<TypedParam> {
        let Some(bandwidth) = &self.bandwidth else { return Vec::new() };
        let mut parameters = Vec::new();
        for (direction, limit) in [("inbound", &bandwidth.inbound), ("outbound", &bandwidth.outbound)] {
            let Some(limit) = limit else { continue };
            let numbers = [
                ("average", limit.average),
                ("peak", limit.peak),
                ("burst", limit.burst),
                ("floor", limit.floor),
            ];
            for (name, number) in numbers {
                let number = number.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
                let value = |number| TypedParam::new(format!("{direction}.{name}"), TypedValue::UInt(number));
                parameters.extend(number.map(value));
            }
        }
        parameters
    }
}
