//! Documents of libvirt and of people read, completed, checked and changed; hostile ones refused.

use proptest::prelude::*;

use super::*;
use crate::draw::{Bytes, Draw};

/// What libvirt 9 tells of its default network while a guest is connected.
const DEFAULT: &str = include_str!("../../tests/samples/net-default.xml");

/// A network with everything that libvirt prints, as libvirt 9 prints it.
const EVERYTHING: &str = include_str!("../../tests/samples/net-everything.xml");

fn random(buffer: &mut [u8]) {
    buffer.fill(7);
}

fn defined(document: &str) -> Result<Network, NetworkError> {
    let mut network = Network::parse(document)?;
    assign::define(&mut network, None, &mut |_| false, &mut random);
    check::check(&network).map(|()| network)
}

/// A network called t with more in it.
fn with(inside: &str) -> String {
    format!("<network><name>t</name>{inside}</network>")
}

/// The same with a subnet, and more in that.
fn with_ip(inside: &str) -> String {
    with(&format!("<ip address='10.0.0.1' prefix='24'>{inside}</ip>"))
}

fn with_dhcp(inside: &str) -> String {
    with_ip(&format!("<dhcp>{inside}</dhcp>"))
}

#[test]
fn what_libvirt_writes_is_written_back_byte_by_byte() {
    let network = Network::parse(DEFAULT).unwrap();
    // The tool that wrote the sample ended it with a line of its own.
    assert_eq!(format!("{}\n", network.to_xml()), DEFAULT);
    let network = Network::parse(EVERYTHING).unwrap();
    assert_eq!(network.to_xml(), EVERYTHING);
    assert_eq!(defined(EVERYTHING).unwrap(), network, "nothing is missing");
}

#[test]
fn a_definition_gets_what_libvirt_gives_it() {
    let network = defined("<network><name>a</name></network>").unwrap();
    let expected = "<network>
  <name>a</name>
  <uuid>07070707-0707-4707-8707-070707070707</uuid>
  <bridge name='virbr0' stp='on' delay='0'/>
  <mac address='52:54:00:07:07:07'/>
</network>
";
    assert_eq!(network.to_xml(), expected);
    let mut network = Network::parse(&with("<bridge name='lan%d' stp='off'/>")).unwrap();
    assign::define(&mut network, None, &mut |name| matches!(name, "lan0" | "lan1"), &mut random);
    assert_eq!(network.bridge_name(), Some("lan2"));
    assert_eq!(network.bridge.unwrap().stp, Some(OnOff::Off));
    // Somebody else's bridge or interface is left as it is.
    for forward in ["<forward mode='bridge'/><bridge name='br0'/>", "<forward mode='vepa' dev='eth0'/>"] {
        let network = defined(&with(forward)).unwrap();
        assert!(
            network.mac.is_none() && network.bridge.is_none_or(|bridge| bridge.stp.is_none()),
            "{forward}"
        );
    }
}

#[test]
fn a_redefinition_keeps_bridge_and_address() {
    let before = defined(&with("<bridge name='br7'/><mac address='52:54:00:00:00:01'/>")).unwrap();
    let mut again = Network::parse(&with("<title>x</title>")).unwrap();
    assign::define(&mut again, Some(&before), &mut |_| true, &mut random);
    assert_eq!((again.bridge_name(), &again.mac), (Some("br7"), &before.mac));
    let mut none_free = Network::parse(&with("")).unwrap();
    assign::define(&mut none_free, None, &mut |_| true, &mut random);
    let error = check::check(&none_free).unwrap_err().to_string();
    assert!(error.contains("no name is free for the bridge of network 't'"), "{error}");
}

#[test]
fn a_start_says_the_ports_of_translation() {
    let mut network = defined(&with("<forward/><ip address='10.0.0.1' prefix='24'/>")).unwrap();
    assign::start(&mut network);
    assert!(network.to_xml().contains("      <port start='1024' end='65535'/>\n"), "{network:?}");
}

#[test]
fn interfaces_and_the_device_of_forwarding_are_the_same() {
    let network = defined(&with("<forward mode='private' dev='eth0'/>")).unwrap();
    assert!(network.to_xml().contains("<forward dev='eth0' mode='private'>\n    <interface dev='eth0'/>"));
    let network =
        defined(&with("<forward mode='private'><interface dev='a'/><interface dev='b'/></forward>"));
    assert_eq!(network.unwrap().forward.unwrap().dev.as_deref(), Some("a"));
}

#[test]
fn our_own_elements_are_known_by_their_namespace_and_not_by_their_prefix() {
    let inside = "<forward mode='nat'/><ip address='10.0.0.1' prefix='24'/><v:options>\
                  <v:portForward proto='tcp' port='8080' to='10.0.0.2' toPort='80'/>\
                  <v:dhcpOption number='42' value='10.0.0.1'/><v:spoofing allow='yes'/></v:options>";
    let document = with(inside).replacen("<network", "<network xmlns:v='urn:vireo:network:1'", 1);
    let network = defined(&document).unwrap();
    let options = network.extension.as_ref().unwrap();
    assert_eq!((options.port_forwards.len(), options.dhcp_options.len()), (1, 1));
    let written = network.to_xml();
    assert!(written.starts_with("<network xmlns:vireo='urn:vireo:network:1'>\n"), "{written}");
    assert!(written.contains("    <vireo:portForward proto='tcp' port='8080' to='10.0.0.2' toPort='80'/>\n"));
    assert_eq!(Network::parse(&written).unwrap(), network);
    for wrong in [with("<vireo:options/>"), document.replacen("network:1", "network:2", 1)] {
        let error = Network::parse(&wrong).unwrap_err();
        assert!(matches!(error.fault, XmlFault::Unsupported(_)), "{error}");
    }
}

#[test]
fn what_can_not_be_honoured_is_refused_by_its_name() {
    for (inside, named) in [
        (
            "<forward mode='hostdev'><pf dev='eth0'/></forward>",
            "network/forward/@mode: not supported: \"hostdev\"",
        ),
        ("<forward mode='passthrough'><pf dev='eth0'/></forward>", "network/forward/pf"),
        (
            "<virtualport type='openvswitch'/>",
            "network/virtualport: not supported: virtual ports of Open vSwitch",
        ),
        (
            "<dnsmasq:options xmlns:dnsmasq='x'/>",
            "network/dnsmasq:options: not supported: options of dnsmasq",
        ),
        ("<portgroup name='a'><virtualport/></portgroup>", "network/portgroup/virtualport"),
        ("<colour/>", "network/colour"),
        ("<mac address='52:54:00:00:00:01' colour='red'/>", "network/mac/@colour"),
    ] {
        let error = Network::parse(&with(inside)).unwrap_err();
        assert!(matches!(error.fault, XmlFault::Unsupported(_)), "{inside}: {error}");
        assert!(error.to_string().contains(named), "{inside}: {error}");
    }
}

/// Documents that contradict themselves, and libvirt's words where it has some.
const FAULTS: &[(&str, &str)] = &[
    ("<title>a\nb</title>", "can't contain newlines"),
    ("<forward mode='nat'/>", "nat forwarding requested, but no IP address provided for network 't'"),
    ("<forward mode='open'/>", "open forwarding requested, but no IP address provided for network 't'"),
    ("<forward mode='private'/>", "needs an interface of the host"),
    (
        "<forward mode='private' dev='e'/><bridge name='x'/>",
        "bridge name not allowed in private mode (network 't')",
    ),
    (
        "<forward mode='bridge' dev='a'/><bridge name='b'/>",
        "A network with forward mode='bridge' can specify a bridge name or a forward dev, but not both (network 't')",
    ),
    (
        "<forward mode='bridge'/><bridge name='x' stp='on' delay='3'/>",
        "bridge delay/stp/zone options only allowed in route, nat, and isolated mode, not in bridge (network 't')",
    ),
    (
        "<forward mode='bridge'/><bridge name='x'/><domain name='x'/>",
        "Unsupported network-wide <domain> element in network t with forward mode='bridge'",
    ),
    (
        "<forward mode='private' dev='a'><interface dev='b'/></forward>",
        "<forward dev='a'> must match first <interface dev='b'/>",
    ),
    ("<forward mode='private'><interface dev='b'/><interface dev='b'/></forward>", "'b' is named twice"),
    ("<forward mode='private'><interface dev='a b'/></forward>", "'a b' can't be the name of an interface"),
    ("<bridge name='sixteen-letters-'/>", "can't be the name of a bridge"),
    ("<bridge name='../x'/>", "can't be the name of a bridge"),
    ("<bridge name='all'/>", "can't be the name of a bridge"),
    ("<bridge name='default'/>", "can't be the name of a bridge"),
    ("<bridge name='a' delay='31'/>", "Invalid delay value in network 't'"),
    (
        "<mac address='01:00:00:00:00:01'/>",
        "Invalid multicast bridge mac address '01:00:00:00:00:01' in network 't'",
    ),
    ("<mtu size='999999'/>", "Invalid mtu size '999999' in network 't'"),
    ("<bandwidth><inbound peak='1'/></bandwidth>", "Missing mandatory average"),
    (
        "<bandwidth><inbound average='1' floor='1'/></bandwidth>",
        "floor attribute is not supported for this config",
    ),
    ("<ip address='10.0.0.1' prefix='33'/>", "Invalid IPv4 prefix '33' in network 't'"),
    (
        "<ip address='10.0.0.1' prefix='24' netmask='255.255.255.0'/>",
        "cannot have both a prefix and a netmask",
    ),
    (
        "<ip address='10.0.0.1' family='ipv6' prefix='24'/>",
        "Family 'ipv6' specified for non-IPv6 address '10.0.0.1' in network 't'",
    ),
    (
        "<ip address='fd00::1' prefix='64'/>",
        "no family specified for non-IPv4 address 'fd00::1' in network 't'",
    ),
    ("<ip family='ipv6' address='fd00::1'/>", "IPv6 address 'fd00::1' in network 't' has no prefix"),
    (
        "<ip family='ipv6' address='fd00::1' netmask='255.0.0.0'/>",
        "netmask not allowed for IPv6 address 'fd00::1'",
    ),
    ("<ip address='224.0.0.1' prefix='24'/>", "Invalid address '224.0.0.1'"),
    ("<ip address='10.0.0.1' prefix='24'/><ip address='10.0.0.200' prefix='28'/>", "overlapping subnets"),
    (
        "<ip family='ipv6' address='fd00::1' prefix='64'><tftp root='/x'/></ip>",
        "Unsupported <tftp> element in an IPv6 element",
    ),
    (
        "<ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.3'/></dhcp></ip>\
         <ip address='10.0.1.1' prefix='24'><dhcp><range start='10.0.1.2' end='10.0.1.3'/></dhcp></ip>",
        "Multiple IPv4 dhcp sections found -- dhcp is supported only for a single IPv4 address on each network",
    ),
    (
        "<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host mac='52:54:00:00:00:01' ip='fd00::5'/></dhcp></ip>",
        "Invalid to specify MAC address '52:54:00:00:00:01' in network 't' IPv6 static host definition",
    ),
    (
        "<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host ip='fd00::5'/></dhcp></ip>",
        "Static host definition in IPv6 network 't' must have id or name attribute",
    ),
    ("<domain name='a b'/>", "can't be the domain of network 't'"),
    ("<dns enable='no'><forwarder addr='1.1.1.1'/></dns>", "Extra data in disabled network 't'"),
    ("<dns><forwarder/></dns>", "Invalid forwarder element, must contain at least one of addr or domain"),
    (
        "<dns><txt name='x'/></dns>",
        "missing required value attribute in DNS TXT record named 'x' of network t",
    ),
    ("<dns><txt value='x'/></dns>", "missing required name attribute in DNS TXT record of network t"),
    (
        "<dns><txt name='a b' value='x'/></dns>",
        "prohibited character in DNS TXT record name 'a b' of network t",
    ),
    (
        "<dns><srv protocol='tcp'/></dns>",
        "missing required service attribute in DNS SRV record of network 't'",
    ),
    (
        "<dns><srv service='x'/></dns>",
        "missing required protocol attribute in DNS SRV record 'x' of network 't'",
    ),
    (
        "<dns><srv service='x' protocol='tcp' port='1'/></dns>",
        "DNS SRV port attribute not permitted without target for service 'x'",
    ),
    (
        "<dns><srv service='x' protocol='tcp' target='a' port='0'/></dns>",
        "invalid DNS SRV port attribute for service 'x'",
    ),
    ("<dns><host ip='10.0.0.1'/></dns>", "Missing hostname in network 't' DNS HOST record"),
    ("<dns><host><hostname>a</hostname></host></dns>", "Missing IP address in network 't' DNS HOST record"),
    ("<portgroup name='a'/><portgroup name='a'/>", "multiple <portgroup> elements with the same name"),
    ("<portgroup name='a' default='yes'/><portgroup name='b' default='yes'/>", "only one default is allowed"),
    ("<vlan/>", "each <vlan> must have at least one"),
    ("<vlan><tag id='4096'/></vlan>", "vlan tag id 4096 too large (maximum 4095)"),
    (
        "<route address='fd00::' prefix='64' gateway='fd00::1'/>",
        "t: No family specified for non-IPv4 address 'fd00::' in route definition",
    ),
];

#[test]
fn documents_that_contradict_themselves_are_refused_in_libvirts_words() {
    for name in ["", "  ", "a/b", "..", "a\tb"] {
        let document = format!("<network><name>{name}</name></network>");
        assert!(defined(&document).is_err(), "{name:?}");
    }
    let long = format!("<network><name>{}</name></network>", "n".repeat(201));
    assert!(defined(&long).is_err());
    for (inside, message) in FAULTS {
        let error = defined(&with(inside)).unwrap_err();
        assert!(error.to_string().contains(message), "{inside}: {error}");
    }
}

#[test]
fn routes_and_translation_that_can_not_be_are_refused() {
    let subnet = "<ip address='10.0.0.1' prefix='24'/>";
    for (inside, message) in [
        (
            "<forward mode='nat'><nat><port start='9' end='3'/></nat></forward>",
            "Missing or invalid 'end' attribute in <port>",
        ),
        (
            "<forward mode='nat'><nat><port start='0' end='3'/></nat></forward>",
            "Missing or invalid 'start' attribute in <port>",
        ),
        (
            "<forward mode='nat'><nat><address start='1.2.3.5' end='1.2.3.4'/></nat></forward>",
            "range 1.2.3.5 - 1.2.3.4 is reversed",
        ),
        ("<forward mode='nat'><nat ipv6='yes'/></forward>", "has no IPv6 address"),
        (
            "<forward mode='route'><nat><port start='3' end='4'/></nat></forward>",
            "The <nat> element can only be used when",
        ),
        (
            "<forward mode='nat'><interface dev='b'/><interface dev='c'/></forward>",
            "multiple forwarding interfaces specified for network 't'",
        ),
        (
            "<route address='1.2.3.0' prefix='24' gateway='11.0.0.2'/>",
            "unreachable static route gateway '11.0.0.2' specified for network 't'",
        ),
        (
            "<route address='1.2.3.1' prefix='24' gateway='10.0.0.2'/>",
            "t: Address '1.2.3.1' in route definition is not a network address",
        ),
        (
            "<route address='1.2.3.0' prefix='24' netmask='255.255.255.0' gateway='10.0.0.2'/>",
            "cannot have both a prefix and a netmask",
        ),
        ("<route address='1.2.3.0' prefix='24' gateway='10.0.0.2' metric='0'/>", "Zero is not permitted"),
        (
            "<route family='ipv6' address='fd00::' prefix='64' gateway='10.0.0.2'/>",
            "ipv6 specified for non-IPv6 gateway address '10.0.0.2'",
        ),
    ] {
        let error = defined(&with(&format!("{inside}{subnet}"))).unwrap_err();
        assert!(error.to_string().contains(message), "{inside}: {error}");
    }
    for inside in [
        "<route address='1.2.3.0' prefix='24' gateway='10.0.0.2'/>",
        "<route address='0.0.0.0' gateway='10.0.0.2'/>",
    ] {
        defined(&with(&format!("{inside}{subnet}"))).unwrap();
    }
}

#[test]
fn ranges_and_hosts_are_inside_of_the_subnet_and_there_once() {
    let host = |text: &str| format!("<host mac='52:54:00:00:00:01' name='a' ip='10.0.0.3'/><host {text}/>");
    let range = |start: &str, end: &str| format!("<range start='{start}' end='{end}'/>");
    for (inside, message) in [
        (
            range("10.0.1.2", "10.0.1.4"),
            "range 10.0.1.2 - 10.0.1.4 is not entirely within network 10.0.0.1/24",
        ),
        (range("10.0.0.8", "10.0.0.4"), "range 10.0.0.8 - 10.0.0.4 is reversed"),
        (
            range("10.0.0.0", "10.0.0.4"),
            "start of range 10.0.0.0 - 10.0.0.4 in network 10.0.0.1/24 is the network address",
        ),
        (
            range("10.0.0.2", "10.0.0.255"),
            "end of range 10.0.0.2 - 10.0.0.255 in network 10.0.0.1/24 is the broadcast address",
        ),
        (
            range("fd00::1", "fd00::3"),
            "mismatch of address family in range fd00::1 - fd00::3 for network 10.0.0.1",
        ),
        ("<range start='10.0.0.2'/>".to_owned(), "Missing 'end' attribute in dhcp range"),
        (
            range("10.0.0.2", "10.0.0.7") + &range("10.0.0.7", "10.0.0.9"),
            "overlaps with range 10.0.0.7 - 10.0.0.9",
        ),
        (
            "<range start='10.0.0.2' end='10.0.0.4'><lease expiry='1'/></range>".to_owned(),
            "greater than 2 minutes",
        ),
        (host("ip='10.0.0.2'"), "Static host definition in IPv4 network 't' must have mac or name attribute"),
        (host("mac='52:54:00:00:00:02'"), "Missing IP address in static host definition for network 't'"),
        (host("mac='52:54:00:00:00:02' ip='10.0.9.1'"), "'10.0.9.1' is not within network 10.0.0.1/24"),
        (host("mac='52:54:00:00:00:02' ip='10.0.0.1'"), "has the address of the host"),
        (
            host("mac='52:54:00:00:00:02' ip='10.0.0.3'"),
            "two static hosts in network 't' have the IP address '10.0.0.3'",
        ),
        (
            host("mac='52:54:00:00:00:01' ip='10.0.0.4'"),
            "two static hosts in network 't' have the MAC address '52:54:00:00:00:01'",
        ),
        (host("mac='52:54:00:00:00:02' name='A' ip='10.0.0.4'"), "have the name 'a'"),
        (host("mac='01:00:00:00:00:02' ip='10.0.0.4'"), "expected unicast mac address, found multicast"),
        (host("name='-a' ip='10.0.0.4'"), "Cannot use host name '-a' in network 't'"),
        (host("id='0:x' ip='10.0.0.4'"), "Invalid DUID or client id"),
    ] {
        let error = defined(&with_dhcp(&inside)).unwrap_err();
        assert!(error.to_string().contains(message), "{inside}: {error}");
    }
    let wide = with(
        "<ip address='10.0.0.1' prefix='8'><dhcp><range start='10.0.0.2' end='10.2.0.255'/></dhcp></ip>",
    );
    assert!(defined(&wide).unwrap_err().to_string().contains("is too large (> 65535)"));
    defined(&with_dhcp(&range("10.0.0.2", "10.0.0.254"))).unwrap();
}

#[test]
fn port_forwards_lead_to_guests_of_the_network() {
    let document = |inside: &str, mode: &str| {
        with(&format!("<forward mode='{mode}'/><ip address='10.0.0.1' prefix='24'/><vireo:options>{inside}</vireo:options>"))
            .replacen("<network", "<network xmlns:vireo='urn:vireo:network:1'", 1)
    };
    let forward = |rest: &str| format!("<vireo:portForward proto='tcp' {rest}/>");
    for (inside, message) in [
        (forward("port='0' to='10.0.0.2'"), "there is no port 0"),
        (forward("port='1' to='10.0.1.2'"), "'10.0.1.2' can't be a guest's address there"),
        (forward("port='1' to='10.0.0.1'"), "'10.0.0.1' can't be a guest's address there"),
        (forward("port='1' to='10.0.0.2' address='::1'"), "of one family"),
        (
            forward("port='1' to='10.0.0.2'") + &forward("port='1' to='10.0.0.3'"),
            "tcp port 1 in network 't': the port is forwarded to '10.0.0.2' as well",
        ),
        (
            forward("port='1' to='10.0.0.2' address='192.0.2.1'") + &forward("port='1' to='10.0.0.3'"),
            "the port is forwarded to '10.0.0.2' as well",
        ),
    ] {
        let error = defined(&document(&inside, "nat")).unwrap_err();
        assert!(error.to_string().contains(message), "{inside}: {error}");
    }
    let fine = forward("port='1' to='10.0.0.2'");
    defined(&document(&fine, "route")).unwrap();
    let ipv6 = "<ip family='ipv6' address='fd00::1' prefix='64'/><vireo:options>";
    let both = document(&(fine.clone() + &forward("port='1' to='fd00::2'")), "nat");
    defined(&both.replacen("<vireo:options>", ipv6, 1)).unwrap();
    assert!(defined(&document(&fine, "open")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_written_network_is_read_as_the_same_network(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let network = Network::draw(&mut Bytes::new(bytes));
        let document = network.to_xml();
        let read = Network::parse(&document).map_err(|error| TestCaseError::fail(format!("{error}\n{document}")))?;
        prop_assert_eq!(&read, &network);
        prop_assert_eq!(read.to_xml(), document);
    }

    #[test]
    fn a_completed_definition_is_left_alone(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut network = Network::draw(&mut Bytes::new(bytes));
        assign::define(&mut network, None, &mut |_| false, &mut random);
        let _ = check::check(&network);
        let mut again = network.clone();
        assign::define(&mut again, None, &mut |_| true, &mut random);
        prop_assert_eq!(&again, &network);
        assign::start(&mut again);
        let live = again.clone();
        assign::start(&mut again);
        prop_assert_eq!(again, live);
    }
}
