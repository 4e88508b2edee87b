//! What is said of a guest's interface on the host: limits of what passes it, and its VLANs. By an interface itself, by the port group that
//! it has chosen, or by its network; what is nearer to the guest counts, as libvirt has it.
//!
//! The document of a running machine shows what counts, so nothing else remembers it. A port group that is changed afterwards
//! is for interfaces that come then.
//!
//! VLANs are between guests, and between them and what somebody connects to an existing bridge. The host itself, and with it addresses
//! (DHCP) and names that it serves, is in the VLAN of ports of which nobody says more (1): guests in another one don't reach it.

use host_network::{Bandwidth, Limit, PortVlans};
use libvirt_xml::YesNo;
use libvirt_xml::domain::interface::{self, Interface, NativeMode, Vlan};
use libvirt_xml::network::{Network as Definition, PortGroup};

use super::NetworkError;

/// Limits in both directions.
pub(crate) fn limits(bandwidth: Option<&interface::Bandwidth>) -> Bandwidth {
    let number = |number: Option<u64>| number.and_then(|number| u32::try_from(number).ok());
    let limit = |limit: &Option<interface::BandwidthLimit>| {
        let limit = limit.as_ref()?;
        let average = number(limit.average)?;
        Some(Limit { average, peak: number(limit.peak), burst: number(limit.burst) })
    };
    bandwidth.map_or_else(Bandwidth::default, |both| Bandwidth {
        inbound: limit(&both.inbound),
        outbound: limit(&both.outbound),
    })
}

/// The VLANs of an interface; the reason why it can't have them otherwise. One VLAN of which nothing is said but its number is that of a
/// guest that knows nothing of it.
pub(crate) fn vlans(vlan: Option<&Vlan>) -> Result<Option<PortVlans>, String> {
    let Some(Vlan { trunk, tags }) = vlan else { return Ok(None) };
    let mut natives = tags.iter().filter_map(|tag| Some((tag.id, tag.native_mode?)));
    let native = natives.next().map(|(id, mode)| (id, mode == NativeMode::Tagged));
    if natives.next().is_some() {
        return Err("only one VLAN can have 'nativeMode'".to_owned());
    }
    let made = match (&**tags, native, trunk) {
        ([], ..) => return Err("each <vlan> must have at least one <tag id='n'/>".to_owned()),
        ([tag], None, None | Some(YesNo::No)) => PortVlans::access(tag.id),
        _ => PortVlans::trunk(native, tags.iter().map(|tag| tag.id)),
    };
    made.map(Some).map_err(|wrong| wrong.to_string())
}

/// Whether interfaces of a network can be in VLANs because it, or a port group of it, says so.
pub(super) fn has_vlans(definition: &Definition) -> bool {
    definition.vlan.is_some() || definition.port_groups.iter().any(|group| group.vlan.is_some())
}

/// What keeps VLANs of a network from being set up.
pub(super) fn wrong_vlans(definition: &Definition) -> Option<String> {
    let groups = definition.port_groups.iter().map(|group| &group.vlan);
    groups.chain([&definition.vlan]).find_map(|vlan| vlans(vlan.as_ref()).err())
}

/// The settings that a guest's interface has chosen, or those of interfaces that choose none.
pub(super) fn port_group<'a>(
    definition: &'a Definition,
    chosen: Option<&str>,
) -> Result<Option<&'a PortGroup>, NetworkError> {
    let mut groups = definition.port_groups.iter();
    match chosen {
        None => Ok(groups.find(|group| group.default == Some(YesNo::Yes))),
        Some(name) => match groups.find(|group| group.name == name) {
            Some(group) => Ok(Some(group)),
            None => {
                let network = definition.name.as_deref().unwrap_or_default();
                Err(NetworkError::Unsupported(format!("network '{network}' has no portgroup '{name}'")))
            }
        },
    }
}

/// Writes into a guest's interface what its network says of it.
pub(super) fn complete(definition: &Definition, interface: &mut Interface) -> Result<(), NetworkError> {
    let chosen = interface.source.as_ref().and_then(|source| source.portgroup.as_deref());
    let group = port_group(definition, chosen)?;
    if interface.bandwidth.is_none() {
        interface.bandwidth = group.and_then(|group| group.bandwidth.clone());
    }
    if interface.vlan.is_none() {
        interface.vlan = group.and_then(|group| group.vlan.clone()).or_else(|| definition.vlan.clone());
    }
    if definition.bridge_name().is_some() {
        return Ok(());
    }
    let name = definition.name.as_deref().unwrap_or_default();
    match &interface.vlan {
        None => Ok(()),
        Some(_) => Err(NetworkError::Unsupported(format!(
            "an interface connecting to network '{name}' is requesting a vlan tag, but that is not supported for this type of network \
             (macvtap): leave it out, or use a network with a bridge"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use libvirt_xml::domain::interface::VlanTag;

    use super::*;

    fn network(inner: &str) -> Definition {
        let forward = "<forward mode='bridge'/><bridge name='br0'/>";
        let text = format!("<network><name>n</name>{forward}{inner}</network>");
        Definition::parse(&text).unwrap()
    }

    fn vlan(trunk: Option<YesNo>, tags: &[(u16, Option<NativeMode>)]) -> Vlan {
        let tag =
            |(id, native_mode): &(u16, Option<NativeMode>)| VlanTag { id: *id, native_mode: *native_mode };
        Vlan { trunk, tags: tags.iter().map(tag).collect() }
    }

    fn interface(portgroup: Option<&str>) -> Interface {
        Interface {
            source: Some(interface::InterfaceSource {
                portgroup: portgroup.map(str::to_owned),
                ..Default::default()
            }),
            ..Interface::default()
        }
    }

    #[test]
    fn one_vlan_is_hidden_from_the_guest_and_several_are_a_trunk() {
        let made = |trunk, tags: &[_]| vlans(Some(&vlan(trunk, tags))).unwrap().unwrap();
        let (access, trunk) = (PortVlans::access(42).unwrap(), PortVlans::trunk);
        assert_eq!(vlans(None), Ok(None));
        assert_eq!(made(None, &[(42, None)]), access);
        assert_eq!(made(Some(YesNo::No), &[(42, None)]), access);
        assert_eq!(made(Some(YesNo::Yes), &[(42, None)]), trunk(None, vec![42]).unwrap());
        assert_eq!(made(None, &[(42, None), (43, None)]), trunk(None, vec![42, 43]).unwrap());
        let untagged = made(Some(YesNo::Yes), &[(42, Some(NativeMode::Untagged)), (43, None)]);
        assert_eq!(untagged, trunk(Some((42, false)), vec![43]).unwrap());
        assert_eq!(made(None, &[(42, Some(NativeMode::Tagged))]), trunk(Some((42, true)), vec![]).unwrap());
        let refused = |tags: &[_]| vlans(Some(&vlan(None, tags))).unwrap_err();
        assert!(refused(&[]).contains("at least one"));
        assert!(refused(&[(0, None)]).contains("VLAN 0"));
        assert!(refused(&[(1, None), (4095, None)]).contains("VLAN 4095"));
        let mode = Some(NativeMode::Untagged);
        assert!(refused(&[(1, mode), (2, mode)]).contains("only one"));
    }

    #[test]
    fn an_interface_counts_more_than_its_port_group_and_that_more_than_the_network() {
        let network = network(
            "<vlan><tag id='1'/></vlan>
             <portgroup name='usual' default='yes'><bandwidth><inbound average='100'/></bandwidth></portgroup>
             <portgroup name='g'><vlan><tag id='2'/></vlan></portgroup>",
        );
        let completed = |mut interface: Interface| {
            complete(&network, &mut interface).unwrap();
            let inbound = limits(interface.bandwidth.as_ref()).inbound;
            (interface.vlan.unwrap().tags[0].id, inbound.map(|limit| limit.average))
        };
        assert_eq!(completed(interface(None)), (1, Some(100)), "of the network and its usual group");
        assert_eq!(completed(interface(Some("g"))), (2, None));
        let own = Interface { vlan: Some(vlan(None, &[(3, None)])), ..interface(Some("g")) };
        assert_eq!(completed(own), (3, None));
        let inbound = interface::BandwidthLimit { average: Some(7), ..Default::default() };
        let bandwidth = interface::Bandwidth { inbound: Some(inbound), outbound: None };
        assert_eq!(completed(Interface { bandwidth: Some(bandwidth), ..interface(None) }), (1, Some(7)));
        let error = complete(&network, &mut interface(Some("none"))).unwrap_err().to_string();
        assert!(error.contains("no portgroup 'none'"), "{error}");
    }
}
