//! What guests are held to.

use std::net::IpAddr;

use libvirt_xml::domain::Domain;
use libvirt_xml::network::Network as Definition;
use network_services::{Lease, LeaseChange, LeaseEvent, MacAddress};
use proptest::prelude::*;

use super::guard::{self, Leases};
use super::*;

const GUEST: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);

fn network(forward: &str, inside: &str) -> Definition {
    let text = format!(
        "<network xmlns:v='urn:vireo:network:1'><name>n</name>{forward}<bridge name='vt0'/>{inside}</network>"
    );
    Definition::parse(&text).unwrap()
}

fn nat(inside: &str) -> Definition {
    network("<forward mode='nat'/>", inside)
}

fn port(more: &str) -> Port {
    let text = format!(
        "<domain type='kvm'><name>one</name><os><type>hvm</type></os><devices><interface type='network'><mac address='52:54:00:00:00:01'/>\
         <source network='n' portid='5ec2e3a0-9e4b-4f0e-8f8a-111111111111' bridge='vt0'/><target dev='vnet0'/>{more}\
         </interface></devices></domain>"
    );
    let ports = Port::all_of(Uuid([1; 16]), "one", &Domain::parse(&text).unwrap());
    let [port] = &*ports else { panic!("{ports:?}") };
    port.clone()
}

fn lease(address: &str) -> Lease {
    let address: IpAddr = address.parse().unwrap();
    Lease {
        mac: GUEST,
        address,
        prefix: 24,
        hostname: None,
        client_id: None,
        iaid: None,
        since: 0,
        expires: None,
    }
}

/// What a guest is held to, as text; none if to nothing.
fn held(document: &Definition, port: &Port, leases: &Leases) -> Option<Vec<String>> {
    let guard = guard::of(document, port, leases).unwrap()?;
    assert_eq!((&*guard.interface, guard.mac), ("vnet0", GUEST.0));
    Some(guard.addresses.iter().map(ToString::to_string).collect())
}

const DHCP: &str = "<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp>\
    <range start='192.0.2.2' end='192.0.2.99'/><host mac='52:54:00:00:00:01' ip='192.0.2.7'/>\
    <host mac='52:54:00:00:00:02' ip='192.0.2.8'/></dhcp></ip>";

#[test]
fn a_document_says_which_ports_a_machine_has() {
    let port = port("");
    assert_eq!(port.uuid.to_string(), "5ec2e3a0-9e4b-4f0e-8f8a-111111111111");
    assert_eq!((&*port.network, &*port.interface, &*port.domain_name), ("n", "vnet0", "one"));
    let off = "<domain type='kvm'><os><type>hvm</type></os><devices><interface type='network'><source network='n'/></interface>\
               <interface type='bridge'><source bridge='vt0'/><target dev='vnet1'/></interface></devices></domain>";
    assert_eq!(Port::all_of(Uuid([1; 16]), "off", &Domain::parse(off).unwrap()), []);
    let ports = Ports::default();
    ports.insert(port.clone());
    assert_eq!((ports.of_network("n").len(), ports.of_network("m").len()), (1, 0));
    assert_eq!(ports.remove_domain(Uuid([2; 16])), []);
    assert_eq!(ports.remove_domain(port.domain), [Arc::new(port)]);
    assert_eq!(ports.of_network("n"), []);
}

#[test]
fn guests_on_translated_networks_are_held_and_others_if_that_is_wanted() {
    let none = Leases::default();
    let own = Some(vec!["192.0.2.7/32".to_owned()]);
    assert_eq!(held(&nat(DHCP), &port(""), &none), own);
    let allowed = format!("{DHCP}<v:options><v:spoofing allow='yes'/></v:options>");
    assert_eq!(held(&nat(&allowed), &port(""), &none), None);
    assert_eq!(held(&nat(&allowed), &port("<filterref filter='clean-traffic'/>"), &none), own);
    assert_eq!(held(&network("<forward mode='route'/>", DHCP), &port(""), &none), None);
    let refused = allowed.replace("'yes'", "'no'");
    assert_eq!(held(&network("<forward mode='route'/>", &refused), &port(""), &none), own);
}

#[test]
fn leases_come_and_go() {
    let mut leases = Leases::of(&[lease("192.0.2.20")]);
    let document = nat(DHCP);
    assert_eq!(held(&document, &port(""), &leases).unwrap(), ["192.0.2.7/32", "192.0.2.20/32"]);
    let mut follow = |change, address| {
        leases.follow(&LeaseEvent { change, lease: lease(address) });
        held(&document, &port(""), &leases).unwrap()
    };
    assert_eq!(follow(LeaseChange::Released, "192.0.2.20"), ["192.0.2.7/32"]);
    assert_eq!(follow(LeaseChange::Added, "192.0.2.21"), ["192.0.2.7/32", "192.0.2.21/32"]);
    assert_eq!(follow(LeaseChange::Renewed, "192.0.2.21"), ["192.0.2.7/32", "192.0.2.21/32"]);
    assert_eq!(follow(LeaseChange::Expired, "192.0.2.21"), ["192.0.2.7/32"]);
    // An address of a family that the network does not serve is nobody's.
    assert_eq!(follow(LeaseChange::Added, "fd00::5"), ["192.0.2.7/32"]);
}

#[test]
fn what_the_domain_says_goes_before_what_the_network_gives() {
    let leases = Leases::of(&[lease("192.0.2.20")]);
    let by_element = port("<ip address='192.0.2.50' prefix='24'/>");
    assert_eq!(held(&nat(DHCP), &by_element, &leases).unwrap(), ["192.0.2.50/32"]);
    let by_filter = "<filterref filter='clean-traffic'><parameter name='IP' value='192.0.2.51'/>\
                     <parameter name='IP' value='192.0.2.52'/></filterref>";
    let by_filter = port(by_filter);
    assert_eq!(held(&nat(DHCP), &by_filter, &leases).unwrap(), ["192.0.2.51/32", "192.0.2.52/32"]);
    // On somebody else's bridge nothing else is known.
    let bridged = network("<forward mode='bridge'/>", "");
    assert_eq!(held(&bridged, &by_filter, &leases).unwrap(), ["192.0.2.51/32", "192.0.2.52/32"]);
    let unknown = guard::of(&bridged, &port("<filterref filter='clean-traffic'/>"), &leases);
    let unknown = unknown.unwrap_err().to_string();
    assert!(unknown.contains("'n'") && unknown.contains("name='IP'"), "{unknown}");
}

#[test]
fn guests_that_choose_their_addresses_choose_none_of_the_host() {
    let none = Leases::default();
    let advertised = format!("{DHCP}<ip family='ipv6' address='fd00:9::1' prefix='64'/>");
    let addresses = guard::of(&nat(&advertised), &port(""), &none).unwrap().unwrap().addresses;
    let has = |address: &str| {
        let address = address.parse().unwrap();
        addresses.iter().any(|subnet| subnet.contains(address))
    };
    assert!(has("fd00:9::2") && has("fd00:9::") && has("fd00:9::ffff:ffff:ffff:ffff"));
    assert!(!has("fd00:9::1") && !has("fd00:9:0:1::2"));
    let fixed = nat("<ip address='192.0.2.1' netmask='255.255.255.252'/>");
    assert_eq!(held(&fixed, &port(""), &none).unwrap(), ["192.0.2.2/31", "192.0.2.0/32"]);
    let nowhere = network("", "<v:options><v:spoofing allow='no'/></v:options>");
    assert_eq!(held(&nowhere, &port(""), &none).unwrap(), ["0.0.0.0/0", "::/0"]);
}

proptest! {
    #[test]
    fn a_guest_may_choose_all_of_a_subnet_but_the_hosts_address(own: u32, length in 0_u8..=32, asked: u32) {
        let [own, asked] = [own, asked].map(std::net::Ipv4Addr::from);
        let document = nat(&format!("<ip address='{own}' prefix='{length}'/>"));
        let guard = guard::of(&document, &port(""), &Leases::default()).unwrap().unwrap();
        let is_in = |subnet: &host_network::Subnet| subnet.contains(asked.into());
        let hosts = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        let inside = u32::from(own) | hosts == u32::from(asked) | hosts;
        prop_assert_eq!(guard.addresses.iter().any(is_in), inside && own != asked);
    }
}

#[test]
fn a_port_of_a_network_that_shares_interfaces_of_the_host_names_the_one_it_is_on() {
    let text = "<domain type='kvm'><name>one</name><os><type>hvm</type></os><devices><interface type='direct'>\
        <mac address='52:54:00:00:00:01'/><source network='n' portid='5ec2e3a0-9e4b-4f0e-8f8a-111111111111' dev='eth1' mode='vepa'/>\
        <target dev='macvtap0'/></interface><interface type='direct'><source dev='eth1' mode='vepa'/><target dev='macvtap1'/>\
        </interface></devices></domain>";
    let domain = Domain::parse(text).unwrap();
    let ports = Port::all_of(Uuid([1; 16]), "one", &domain);
    let [port] = &*ports else { panic!("{ports:?}") };
    assert_eq!((&*port.interface, &*port.network), ("macvtap0", "n"));
    let forward = "<forward mode='vepa'><interface dev='eth1'/></forward>";
    let network = Definition::parse(&format!("<network><name>n</name>{forward}</network>")).unwrap();
    let shown = port.to_xml(&network);
    assert!(shown.contains("<plug type='direct' dev='eth1' mode='vepa'/>"), "{shown}");
    // It is defined again as a port of the network, wherever that may put it.
    let interfaces = domain.without_live_details().devices.interfaces;
    let of_network = interfaces[0].source.clone().unwrap();
    assert_eq!(interfaces[0].kind, libvirt_xml::domain::interface::InterfaceType::Network);
    assert_eq!((of_network.network.as_deref(), of_network.dev, of_network.mode), (Some("n"), None, None));
    let direct = interfaces[1].source.clone().unwrap();
    assert_eq!(interfaces[1].kind, libvirt_xml::domain::interface::InterfaceType::Direct);
    assert_eq!(direct.dev.as_deref(), Some("eth1"));
}
