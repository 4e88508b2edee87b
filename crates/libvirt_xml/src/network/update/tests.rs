//! Changes of single entries: made, and refused in libvirt's words.

use proptest::prelude::*;

use super::Command::{AddFirst, AddLast, Delete, Modify};
use super::*;
use crate::draw::{Bytes, Draw};
use crate::network::{addresses, dns};

/// A network with an entry in each section that can be changed.
const CHANGED: &str = "<network><name>n</name><forward mode='nat'/>\
    <dns><host ip='10.0.0.9'><hostname>nine</hostname></host><txt name='t' value='v'/>\
    <srv service='s' protocol='tcp' target='a' port='5'/></dns>\
    <ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.7'/>\
    <host mac='52:54:00:00:00:01' name='a' ip='10.0.0.3'/></dhcp></ip>\
    <ip family='ipv6' address='fd00::1' prefix='64'/><portgroup name='g' default='yes'/></network>";

fn network() -> Network {
    let mut network = Network::parse(CHANGED).unwrap();
    assign::define(&mut network, None, &mut |_| false, &mut |buffer: &mut [u8]| buffer.fill(7));
    check::check(&network).unwrap();
    network
}

fn changed(command: Command, section: u32, parent: i32, document: &str) -> Result<Network, NetworkError> {
    let network = network();
    let section = Section::from_number(section, &network)?;
    update(&network, command, section, Some(parent), document)
}

#[test]
fn an_entry_is_added_modified_and_deleted() {
    let cases = [
        (
            AddFirst,
            4,
            -1,
            "<host mac='52:54:00:00:00:02' ip='10.0.0.4'/>",
            "<host mac='52:54:00:00:00:02' ip='10.0.0.4'/>\n      <host mac='52:54:00:00:00:01'",
        ),
        (
            AddLast,
            4,
            -1,
            "<host mac='52:54:00:00:00:02' ip='10.0.0.4'/>",
            "ip='10.0.0.3'/>\n      <host mac='52:54:00:00:00:02' ip='10.0.0.4'/>",
        ),
        (AddLast, 4, 1, "<host name='x' ip='fd00::5'/>", "<host name='x' ip='fd00::5'/>"),
        (
            Modify,
            4,
            -1,
            "<host mac='52:54:00:00:00:01' ip='10.0.0.5'/>",
            "<host mac='52:54:00:00:00:01' ip='10.0.0.5'/>",
        ),
        (
            AddLast,
            5,
            0,
            "<range start='10.0.0.20' end='10.0.0.27'/>",
            "<range start='10.0.0.20' end='10.0.0.27'/>\n      <host",
        ),
        (
            AddLast,
            7,
            -1,
            "<interface dev='eth1'/>",
            "<forward dev='eth1' mode='nat'>\n    <interface dev='eth1'/>",
        ),
        (AddLast, 9, -1, "<portgroup name='h'/>", "<portgroup name='h'>"),
        (Modify, 9, -1, "<portgroup name='g'/>", "<portgroup name='g'/>"),
        (AddLast, 10, -1, "<host ip='10.0.0.8'><hostname>nine</hostname></host>", "<host ip='10.0.0.8'>"),
        (AddLast, 11, -1, "<txt name='u' value='w'/>", "<txt name='u' value='w'/>"),
        (AddLast, 12, -1, "<srv service='z' protocol='tcp'/>", "<srv service='z' protocol='tcp'/>"),
    ];
    for (command, section, parent, document, written) in cases {
        let after =
            changed(command, section, parent, document).unwrap_or_else(|error| panic!("{document}: {error}"));
        let text = after.to_xml();
        assert!(
            text.contains(&written.replace("<portgroup name='h'>", "<portgroup name='h'/>")),
            "{document}: {text}"
        );
    }
    for (section, document, gone) in [
        (4, "<host mac='52:54:00:00:00:01'/>", "10.0.0.3"),
        (4, "<host ip='10.0.0.3'/>", "10.0.0.3"),
        (5, "<range start='10.0.0.2' end='10.0.0.7'/>", "<range"),
        (9, "<portgroup name='g'/>", "<portgroup"),
        (10, "<host><hostname>nine</hostname></host>", "nine"),
        (11, "<txt name='t'/>", "<txt"),
        (12, "<srv service='s'/>", "<srv"),
    ] {
        let text = changed(Delete, section, -1, document)
            .unwrap_or_else(|error| panic!("{document}: {error}"))
            .to_xml();
        assert!(!text.contains(gone), "{document}: {text}");
    }
}

/// Changes that are refused: command, section, parent, entry, and libvirt's words.
const REFUSED: &[(Command, u32, i32, &str, &str)] = &[
    (
        AddLast,
        4,
        -1,
        "<host mac='52:54:00:00:00:01' ip='10.0.0.4'/>",
        "there is an existing dhcp host entry in network 'n' that matches \"<host mac='52:54:00:00:00:01' ip='10.0.0.4'/>\"",
    ),
    (AddLast, 4, -1, "<host mac='52:54:00:00:00:02' ip='10.0.9.4'/>", "not within network"),
    (AddLast, 4, -1, "<foo/>", "unexpected element <foo>, expecting <host>, while updating network 'n'"),
    (
        AddLast,
        4,
        -1,
        "<host name='x' ip='fd00::5'/>",
        "the address family of a host entry IP must match the address family of the dhcp element's parent",
    ),
    (
        AddLast,
        4,
        7,
        "<host name='x' ip='10.0.0.5'/>",
        "couldn't update dhcp host entry - no <ip> element found at index 7 in network 'n'",
    ),
    (
        Modify,
        4,
        -1,
        "<host mac='52:54:00:00:00:07' ip='10.0.0.5'/>",
        "couldn't locate an existing dhcp host entry with",
    ),
    (
        Delete,
        4,
        -1,
        "<host mac='52:54:00:00:00:01' ip='10.0.0.9'/>",
        "couldn't locate a matching dhcp host entry in network 'n'",
    ),
    (Delete, 4, -1, "<host/>", "couldn't locate a matching dhcp host entry in network 'n'"),
    (
        AddLast,
        5,
        -1,
        "<range start='10.0.0.2' end='10.0.0.7'/>",
        "there is an existing dhcp range entry in network 'n' that matches \"<range start='10.0.0.2' end='10.0.0.7'/>\"",
    ),
    (
        Modify,
        5,
        -1,
        "<range start='10.0.0.2' end='10.0.0.7'/>",
        "dhcp ranges cannot be modified, only added or deleted",
    ),
    (
        Delete,
        5,
        -1,
        "<range start='10.0.0.3' end='10.0.0.7'/>",
        "couldn't locate a matching dhcp range entry in network 'n'",
    ),
    (
        Delete,
        7,
        -1,
        "<interface dev='eth1'/>",
        "couldn't find an interface entry in network 'n' matching <interface dev='eth1'>",
    ),
    (AddLast, 7, -1, "<interface/>", "missing dev attribute in <interface> element"),
    (
        AddLast,
        9,
        -1,
        "<portgroup name='g'/>",
        "there is an existing portgroup entry in network 'n' that matches \"<portgroup name='g'>\"",
    ),
    (
        AddLast,
        9,
        -1,
        "<portgroup name='h' default='yes'/>",
        "a different portgroup entry in network 'n' is already set as the default. Only one default is allowed.",
    ),
    (
        Modify,
        9,
        -1,
        "<portgroup name='q'/>",
        "couldn't find a portgroup entry in network 'n' matching <portgroup name='q'>",
    ),
    (
        AddLast,
        10,
        -1,
        "<host ip='10.0.0.9'><hostname>x</hostname></host>",
        "there is already at least one DNS HOST record with a matching field in network n",
    ),
    (
        Modify,
        10,
        -1,
        "<host ip='10.0.0.9'><hostname>x</hostname></host>",
        "DNS HOST records cannot be modified, only added or deleted",
    ),
    (Delete, 10, -1, "<host ip='10.0.0.7'/>", "couldn't locate a matching DNS HOST record in network n"),
    (Delete, 10, -1, "<host/>", "Missing ip and hostname in network 'n' DNS HOST record"),
    (
        AddLast,
        11,
        -1,
        "<txt name='t' value='w'/>",
        "there is already a DNS TXT record with name 't' in network n",
    ),
    (
        AddLast,
        12,
        -1,
        "<srv service='s' protocol='tcp'/>",
        "there is already at least one DNS SRV record matching all specified fields in network n",
    ),
    (Delete, 12, -1, "<srv service='x'/>", "couldn't locate a matching DNS SRV record in network n"),
    (AddLast, 1, -1, "<bridge name='x'/>", "can't update 'bridge' section of network 'n'"),
    (AddLast, 99, -1, "<x/>", "can't update '99' section of network 'n'"),
];

#[test]
fn changes_that_can_not_be_are_refused_in_libvirts_words() {
    for (command, section, parent, document, message) in REFUSED {
        let error = changed(*command, *section, *parent, document).unwrap_err();
        assert!(error.to_string().contains(message), "{document}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_change_of_anything_is_a_value(bytes in proptest::collection::vec(any::<u8>(), 0..1200), section in 4u32..13, command in 1u32..5, parent in -1i32..3) {
        let mut bytes = Bytes::new(bytes);
        let network = Network::draw(&mut bytes);
        let document = match section {
            4 => addresses::DhcpHost::draw(&mut bytes).write("host"),
            5 => addresses::DhcpRange::draw(&mut bytes).write("range"),
            7 => ForwardInterface::draw(&mut bytes).write("interface"),
            9 => PortGroup::draw(&mut bytes).write("portgroup"),
            10 => dns::HostNames::draw(&mut bytes).write("host"),
            11 => dns::Text::draw(&mut bytes).write("txt"),
            _ => dns::Service::draw(&mut bytes).write("srv"),
        };
        if let (Some(command), Ok(section)) = (Command::from_number(command), Section::from_number(section, &network))
            && let Ok(after) = update(&network, command, section, Some(parent), &document.to_string())
        {
            check::check(&after).map_err(|error| TestCaseError::fail(error.to_string()))?;
        }
    }
}
