//! What we write, as nft reads it.

use crate::Network;
use crate::network::{Kind, Nat, PortForward, Protocol, Subnet};
use crate::nftables::{Family, Transaction};
use crate::rules::Table;
use crate::tests::{on_a_host, sh};

fn network(name: &str, bridge: &str, kind: Kind, addresses: &[(&str, u8)]) -> Network {
    let mut network = Network::new(name, uuid::Uuid::nil(), bridge, kind);
    network.addresses =
        addresses.iter().map(|(address, prefix)| Subnet::new(address.parse().unwrap(), *prefix)).collect();
    network
}

#[test]
fn nft_reads_our_table_as_it_is_meant() {
    on_a_host(async |_| {
        let range = ("203.0.113.5".parse().unwrap(), "203.0.113.6".parse().unwrap());
        let nat = Nat {
            ports: Some(1024..=65535),
            addresses: Some(range),
            device: Some("eth0".to_owned()),
            ipv6: true,
        };
        let mut default =
            network("default", "virbr0", Kind::Nat(nat), &[("192.168.122.1", 24), ("fd00:122::1", 64)]);
        default.forwards = vec![PortForward {
            protocol: Protocol::Udp,
            host_address: Some("203.0.113.1".parse().unwrap()),
            host_port: 5353,
            guest_address: "192.168.122.10".parse().unwrap(),
            guest_port: 53,
        }];
        let lab = network("lab", "lab.0", Kind::Isolated, &[]);
        let mut transaction = Transaction::new(None);
        let table = Table::of(&[&default, &lab]);
        table.write(Family::Inet, "vireo", &mut transaction);
        transaction.commit().unwrap();
        let listed = sh("nft list table inet vireo");
        assert_eq!(listed.matches("comment").count(), table.count(), "{listed}");
        let lines: Vec<&str> = listed.lines().map(str::trim).collect();
        for wanted in include_str!("expected.nft").lines().filter(|line| !line.is_empty()) {
            assert!(lines.contains(&wanted), "no {wanted:?} in {listed}");
        }
        let mut transaction = Transaction::new(None);
        Table::of(&[]).write(Family::Inet, "vireo", &mut transaction);
        transaction.commit().unwrap();
        assert_eq!(sh("nft list ruleset"), "");
    });
}

#[test]
fn a_list_of_rules_is_read_again_whatever_networks_are_called() {
    on_a_host(async |_| {
        let network = network("a\" drop \\\"", "virbr0", Kind::Isolated, &[("192.168.122.1", 24)]);
        let mut transaction = Transaction::new(None);
        Table::of(&[&network]).write(Family::Inet, "vireo", &mut transaction);
        transaction.commit().unwrap();
        let before = sh("nft list ruleset");
        sh("saved=$(nft list ruleset); nft flush ruleset; echo \"$saved\" | nft -f -");
        assert_eq!(sh("nft list ruleset"), before);
    });
}

#[test]
fn a_transaction_is_done_as_a_whole_or_not_at_all() {
    on_a_host(async |_| {
        let generation = crate::nftables::generation().unwrap();
        let mut transaction = Transaction::new(Some(generation));
        transaction.add_chain(Family::Inet, "vireo", "no table", None);
        transaction.replace_table(Family::Inet, "vireo");
        assert!(transaction.commit().is_err());
        assert_eq!(sh("nft list ruleset"), "");
        let made = |generation| {
            let mut transaction = Transaction::new(Some(generation));
            transaction.replace_table(Family::Inet, "vireo");
            transaction.commit()
        };
        made(generation).unwrap();
        let late = made(generation).unwrap_err();
        assert_eq!(late.raw_os_error(), Some(85), "somebody has changed something since: {late}");
    });
}
