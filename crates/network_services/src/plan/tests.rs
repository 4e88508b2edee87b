//! Descriptions are taken whole or refused with what is wrong.

use super::*;
use crate::description::{Dhcp4, Dns, Forwarder};

fn description() -> Description {
    serde_json::from_str(include_str!("everything.json")).unwrap()
}

#[test]
fn a_description_of_everything_is_taken_and_is_the_same_when_written() {
    let plan = description().check().unwrap();
    assert_eq!(plan.own4, Some(("10.7.0.1".parse().unwrap(), 24)));
    assert_eq!(plan.own6, Some(("fd00:7::1".parse().unwrap(), 64)));
    let written = serde_json::to_string(&plan.description).unwrap();
    assert_eq!(serde_json::from_str::<Description>(&written).unwrap(), description());
    assert!(serde_json::from_str::<Description>(r#"{"name": "x", "unheard_of": 1}"#).is_err());
}

/// What is said of a description that was changed.
fn refusal(change: impl FnOnce(&mut Description)) -> String {
    let mut changed = description();
    change(&mut changed);
    changed.check().expect_err("it is refused").to_string()
}

fn dhcp4(description: &mut Description) -> &mut Dhcp4 {
    description.dhcp4.as_mut().unwrap()
}

fn dns(description: &mut Description) -> &mut Dns {
    description.dns.as_mut().unwrap()
}

type Change = Box<dyn FnOnce(&mut Description)>;

fn host(mac: &str, address: &str) -> Host<Ipv4Addr> {
    Host {
        mac: Some(mac.parse().unwrap()),
        client_id: None,
        name: None,
        address: Some(address.parse().unwrap()),
        lease: None,
    }
}

fn range(start: &str, end: &str, lease_seconds: Option<u32>) -> Range<Ipv4Addr> {
    Range { start: start.parse().unwrap(), end: end.parse().unwrap(), lease_seconds }
}

fn refused(cases: Vec<(&str, Change)>) {
    for (expected, change) in cases {
        let refusal = refusal(change);
        assert!(
            refusal.contains(expected) && refusal.starts_with("network \"seven\""),
            "{expected}: {refusal}"
        );
    }
}

#[test]
fn addresses_and_hosts_that_can_not_be_are_refused_with_what_is_wrong() {
    refused(vec![
        ("is no UUID", Box::new(|it| it.uuid = "5ec2e3a0".into())),
        ("can't be the name of a bridge", Box::new(|it| it.bridge = "a/b".into())),
        ("can't be the name of a bridge", Box::new(|it| it.bridge = "0123456789abcdef".into())),
        ("needs a prefix of", Box::new(|it| it.addresses[0].prefix = 33)),
        (
            "can't be an address of the host",
            Box::new(|it| it.addresses[0].address = "224.0.0.1".parse().unwrap()),
        ),
        ("too small", Box::new(|it| it.mtu = Some(500))),
        ("no domain name", Box::new(|it| it.domain.as_mut().unwrap().name = "a..b".into())),
        ("no domain name", Box::new(|it| it.domain.as_mut().unwrap().name = "a b".into())),
        ("in which the host has none", Box::new(|it| it.addresses.retain(|own| own.address.is_ipv6()))),
        ("is in no subnet", Box::new(move |it| dhcp4(it).ranges = vec![range("10.8.0.2", "10.8.0.9", None)])),
        (
            "is not in 10.7.0.1/24",
            Box::new(move |it| dhcp4(it).ranges = vec![range("10.7.0.9", "10.7.0.2", None)]),
        ),
        (
            "is not in 10.7.0.1/24",
            Box::new(move |it| dhcp4(it).ranges = vec![range("10.7.0.9", "10.7.1.2", None)]),
        ),
        (
            "60 s at least",
            Box::new(move |it| dhcp4(it).ranges = vec![range("10.7.0.9", "10.7.0.12", Some(5))]),
        ),
        ("overlap", Box::new(move |it| dhcp4(it).ranges.push(range("10.7.0.50", "10.7.0.255", None)))),
        (
            "two hosts have the address",
            Box::new(move |it| dhcp4(it).hosts.push(host("2:0:0:0:0:9", "10.7.0.20"))),
        ),
        (
            "two hosts have the hardware",
            Box::new(move |it| dhcp4(it).hosts.push(host("52:54:0:0:0:1", "10.7.0.21"))),
        ),
        ("the host's own", Box::new(move |it| dhcp4(it).hosts.push(host("2:0:0:0:0:9", "10.7.0.1")))),
        ("broadcast", Box::new(move |it| dhcp4(it).hosts.push(host("2:0:0:0:0:9", "10.7.0.255")))),
        ("can't be a guest's", Box::new(move |it| dhcp4(it).hosts.push(host("1:0:0:0:0:9", "10.7.0.99")))),
        (
            "known by nothing",
            Box::new(|it| {
                let host = &mut dhcp4(it).hosts[0];
                (host.mac, host.client_id, host.name) = (None, None, None);
            }),
        ),
    ]);
}

#[test]
fn options_and_records_that_can_not_be_are_refused_with_what_is_wrong() {
    refused(vec![
        ("no client identifier", Box::new(|it| dhcp4(it).hosts[1].client_id = Some("01:xx".into()))),
        ("can't be chosen", Box::new(|it| drop(dhcp4(it).options.insert(51, OptionValue::Long(5))))),
        (
            "up to 255 bytes",
            Box::new(|it| drop(dhcp4(it).options.insert(43, OptionValue::Text(String::new())))),
        ),
        (
            "768 at most",
            Box::new(|it| {
                dhcp4(it).options =
                    (200..204).map(|number| (number, OptionValue::Text("x".repeat(255)))).collect();
            }),
        ),
        (
            "does not begin in the network",
            Box::new(|it| dhcp4(it).routes[0].gateway = "10.9.0.1".parse().unwrap()),
        ),
        ("1 to 127 characters", Box::new(|it| dhcp4(it).boot_file = Some("x".repeat(128)))),
        ("is no prefix", Box::new(|it| it.router_advertisements.as_mut().unwrap().prefixes[0].length = 12)),
        (
            "64 bits only",
            Box::new(|it| {
                let prefix = &mut it.router_advertisements.as_mut().unwrap().prefixes[0];
                (prefix.length, prefix.autonomous) = (80, true);
            }),
        ),
        (
            "can't be asked for names",
            Box::new(|it| {
                dns(it).forwarders[0].address = Some("10.7.0.1:53".parse().unwrap());
            }),
        ),
        (
            "an address or a domain",
            Box::new(|it| dns(it).forwarders.push(Forwarder { address: None, domain: None })),
        ),
        ("has no name", Box::new(|it| dns(it).hosts[0].names.clear())),
        ("too long", Box::new(|it| dns(it).texts[0].value = "x".repeat(1025))),
        ("has no domain", Box::new(|it| it.domain = None)),
        ("64 at most", Box::new(|it| dns(it).forwarders = vec![dns(it).forwarders[0].clone(); 65])),
    ]);
}

#[test]
fn a_network_needs_nothing_but_a_bridge() {
    let least = Description { bridge: "virbr0".into(), uuid: "0".repeat(32), ..Description::default() };
    let plan = least.check().unwrap();
    assert_eq!((plan.own4, plan.own6, plan.domain), (None, None, None));
}

#[test]
fn guests_are_found_by_hardware_address_before_identifier_before_name() {
    let dhcp = description().dhcp4.unwrap();
    let hosts = Hosts::new(&dhcp.hosts);
    let find = |mac: &str, client_id: Option<&[u8]>, hostname| {
        let guest = Guest { mac: mac.parse().unwrap(), client_id, hostname };
        hosts.find(&guest).and_then(|host| host.address).map(|address| address.octets()[3])
    };
    assert_eq!(find("52:54:0:0:0:1", Some(&[1, 2, 3]), Some("byname")), Some(20));
    assert_eq!(find("52:54:0:0:0:2", Some(&[1, 2, 3]), Some("byname")), Some(30));
    assert_eq!(find("52:54:0:0:0:2", Some(&[1, 2]), Some("byname")), Some(40));
    assert_eq!(
        find("52:54:0:0:0:2", None, Some("static")),
        None,
        "a name of one that is known by its address"
    );
}

#[test]
fn names_that_guests_give_themselves_are_labels_or_nothing() {
    assert_eq!(label("Web-1.example.org").as_deref(), Some("web-1"));
    for wrong in ["", "-a", "a-", "a b", "ä", &"x".repeat(64), ".a"] {
        assert_eq!(label(wrong), None, "{wrong}");
    }
}
