//! Nothing stays, what is half done is completed or removed, and what can't be is refused before anything changes.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use super::*;

/// Everything that a network can have.
fn full() -> Network {
    let mut network = nat();
    network.kind = Kind::Nat(Nat { ipv6: true, ports: Some(1024..=65535), ..Nat::default() });
    network.addresses.push(subnet("fd00:122::1/64"));
    network.forwards = vec![forward(2222, "192.168.122.10", 22)];
    let gateway = "192.168.122.5".parse().unwrap();
    network.routes = vec![Route { destination: subnet("10.55.0.0/16"), gateway, metric: Some(5) }];
    network.settings =
        BridgeSettings { stp: true, forward_delay: 2, mtu: Some(1400), ..BridgeSettings::default() };
    network.bandwidth.inbound = Some(Limit { average: 1000, peak: None, burst: None });
    network
}

#[test]
fn a_stop_leaves_the_host_as_it_was() {
    on_a_host(async |host: Host| {
        let _outside = host.outside();
        sh("echo 1 > /proc/sys/net/ipv6/conf/up0/accept_ra");
        // What the kernel changes with forwarding, both ways.
        sh("echo 0 > /proc/sys/net/ipv4/conf/all/accept_redirects");
        sh("echo 1 > /proc/sys/net/ipv4/conf/up0/forwarding; echo 1 > /proc/sys/net/ipv6/conf/lo/forwarding");
        let before = everything();
        let (networks, network) = (host.networks(), full());
        networks.check(&network, &[]).await.unwrap();
        networks.start(&network).await.unwrap();
        let link = sh("ip -d link show virbr0");
        for wanted in
            ["mtu 1400", "stp_state 1", "forward_delay 200", "alias vireo network", "52:54:00:0d:0e:0f"]
        {
            assert!(link.contains(wanted), "{wanted}: {link}");
        }
        assert!(sh("ip route").contains("10.55.0.0/16 via 192.168.122.5"));
        assert_eq!(crate::sysctl::read("ipv6/conf/up0/accept_ra").unwrap(), "2", "the host stays a host");
        assert_ne!(everything(), before);
        networks.stop(&network).await.unwrap();
        assert_as_before(&before, "after it");
        assert_eq!(std::fs::read_dir(host.state()).unwrap().count(), 0);
        networks.stop(&network).await.unwrap();
    });
}

/// Ends a future after it has waited so many times, as a kill does.
struct Killed<F>(F, usize);

impl<F: Future + Unpin> Future for Killed<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.1 == 0 {
            return Poll::Ready(None);
        }
        self.1 -= 1;
        Pin::new(&mut self.0).poll(context).map(Some)
    }
}

#[test]
fn a_daemon_killed_at_any_moment_is_followed_by_one_that_completes_or_removes() {
    on_a_host(async |host: Host| {
        let _outside = host.outside();
        sh("echo 1 > /proc/sys/net/ipv6/conf/up0/accept_ra");
        let (before, network) = (everything(), full());
        host.networks().start(&network).await.unwrap();
        let complete = complete();
        host.networks().repair(&[], Vec::new()).await.unwrap();
        assert_as_before(&before, "a network of nobody is removed");
        for (starts, wanted) in [(true, true), (true, false), (false, true), (false, false)] {
            for moment in 1.. {
                if !starts {
                    host.networks().start(&network).await.unwrap();
                }
                let ended = killed_at(&host, &network, starts, moment);
                let next = host.networks();
                let should_run: &[Network] = if wanted { std::slice::from_ref(&network) } else { &[] };
                let failed = next.repair(should_run, Vec::new()).await.unwrap();
                assert!(failed.is_empty(), "{failed:?}");
                if wanted {
                    assert_eq!(self::complete(), complete, "killed at {moment}, starting: {starts}");
                    next.stop(&network).await.unwrap();
                }
                assert_as_before(&before, &format!("killed at {moment}, starting: {starts}"));
                if ended {
                    break;
                }
                assert!(moment < 1000);
            }
        }
    });
}

/// What a network that runs has, without what goes up with each.
fn complete() -> (String, String, String) {
    (
        sh("ip -br addr show dev virbr0 | sed 's/fe80[^ ]*//'"),
        sh("nft list ruleset"),
        sh(
            "ip route; tc qdisc show dev virbr0; ip -d link show virbr0 | grep -o 'mtu.*qdisc\\|forward_delay.*hello\\|alias.*'",
        ),
    )
}

/// Starts or stops with a runtime of its own, which ends at that moment; whether it was done before.
fn killed_at(host: &Host, network: &Network, starts: bool, moment: usize) -> bool {
    let networks = host.networks();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if starts {
                    Killed(pin!(networks.start(network)), moment).await.is_some()
                } else {
                    Killed(pin!(networks.stop(network)), moment).await.is_some()
                }
            })
        });
        thread.unwrap().join().unwrap()
    })
}

#[test]
fn what_somebody_else_has_is_not_taken() {
    on_a_host(async |host: Host| {
        sh(
            "ip link add virbr0 type bridge; ip link add vireo0102030405 type bridge; ip link set vireo0102030405 up",
        );
        let before = everything();
        let (networks, network) = (host.networks(), nat());
        for error in
            [networks.check(&network, &[]).await.unwrap_err(), networks.start(&network).await.unwrap_err()]
        {
            assert!(
                error.to_string().contains("network 'default'") && error.to_string().contains("'virbr0'"),
                "{error}"
            );
        }
        assert_eq!(networks.repair(std::slice::from_ref(&network), Vec::new()).await.unwrap().len(), 1);
        networks.stop(&network).await.unwrap();
        assert_as_before(&before, "after it");
        // One with another directory is somebody else as well.
        sh("ip link del virbr0");
        networks.start(&network).await.unwrap();
        let state = host.directory.path().join("other");
        let other = HostNetwork::open(Options { table: "other".to_owned(), state }).unwrap();
        let (half, theirs) = (networks.temporary_name(&uuid(7)), other.temporary_name(&uuid(7)));
        sh(&format!("ip link add {half} type bridge; ip link add {theirs} type bridge"));
        other.repair(&[], Vec::new()).await.unwrap();
        assert!(exists(&half) && !exists(&theirs), "half made, each by its maker");
        other.stop(&network).await.unwrap();
        assert!(exists("virbr0") && exists("vireo0102030405"));
        assert!(sh("nft list ruleset").contains("table inet vireo"));
    });
}

#[test]
fn what_collides_is_refused_before_anything_changes() {
    on_a_host(async |host: Host| {
        let _outside = host.outside();
        sh("ip route add 10.66.0.0/16 via 203.0.113.2");
        let _taken = TcpListener::bind("0.0.0.0:2022").unwrap();
        let networks = host.networks();
        let before = everything();
        let base = nat();
        let mut other = Network::new("other", uuid(2), "virbr1", Kind::Isolated);
        other.addresses = vec![subnet("192.168.123.1/24")];
        other.settings.mac = Some([0x52, 0x54, 0, 1, 2, 3]);
        let with = |change: &dyn Fn(&mut Network)| {
            let mut network = base.clone();
            change(&mut network);
            network
        };
        let addressed =
            |text: &'static str| with(&move |network: &mut Network| network.addresses = vec![subnet(text)]);
        let forwarding = |port| {
            with(&move |network: &mut Network| network.forwards = vec![forward(port, "192.168.122.10", 22)])
        };
        let named = |name: &'static str| with(&move |network: &mut Network| network.bridge = name.to_owned());
        let nameless = Subnet { address: "fd00::1".parse().unwrap(), prefix: None };
        for (network, messages) in [
            (addressed("203.0.113.129/25"), vec!["203.0.113.129/25 overlaps", "203.0.113.1/24", "'up0'"]),
            (
                addressed("10.66.7.1/24"),
                vec!["10.66.7.1/24 overlaps the route 10.66.0.0/16 of interface 'up0'"],
            ),
            (addressed("192.168.122.1/23"), vec!["overlaps 192.168.123.1/24 of network 'other'"]),
            (addressed("192.168.122.0/24"), vec!["own or broadcast address"]),
            (addressed("192.168.122.1/33"), vec!["prefix", "0 to 32"]),
            (addressed("224.0.0.1/24"), vec!["not an address that the host can have"]),
            (with(&|network| network.addresses.push(nameless)), vec!["IPv6 address fd00::1 has no prefix"]),
            (named("up0"), vec!["'up0' is that of an interface of somebody else"]),
            (named("virbr1"), vec!["network 'other' has the bridge 'virbr1' as well"]),
            (named("a/b"), vec!["'a/b'", "not a name that the kernel takes"]),
            (named("all"), vec!["'all'", "not a name that the kernel takes"]),
            (named("default"), vec!["'default'", "not a name that the kernel takes"]),
            (named("br%d"), vec!["not a name that the kernel takes"]),
            (named("sixteen-letters-"), vec!["1 to 15 bytes"]),
            (named(""), vec!["1 to 15 bytes"]),
            (
                forwarding(2022),
                vec!["TCP port 2022 to 192.168.122.10 port 22", "a program of this host listens"],
            ),
            (forwarding(0), vec!["port 0"]),
            (
                with(&|network| {
                    let host_address = Some("203.0.113.1".parse().unwrap());
                    let one = PortForward { host_address, ..forward(81, "192.168.122.10", 22) };
                    network.forwards = vec![one, forward(81, "192.168.122.11", 22)];
                }),
                vec!["TCP port 81 to 192.168.122.11", "TCP port 81 of 203.0.113.1 to 192.168.122.10"],
            ),
            (
                with(&|network| network.forwards = vec![forward(80, "10.0.0.1", 80)]),
                vec!["in none of its subnets"],
            ),
            (
                with(&|network| network.forwards = vec![forward(80, "192.168.122.1", 80)]),
                vec!["the host's address in it"],
            ),
            (
                with(&|network| network.kind = Kind::Routed { device: Some("eth9".to_owned()) }),
                vec!["no interface 'eth9'"],
            ),
            (
                with(&|network| network.kind = Kind::ExistingBridge),
                vec!["addresses need a bridge of its own"],
            ),
            (with(&|network| network.name = "other".to_owned()), vec!["has this name"]),
            (
                with(&|network| network.settings.mac = Some([0x52, 0x54, 0, 1, 2, 3])),
                vec!["52:54:00:01:02:03", "'other'"],
            ),
            (Network::new("ext", uuid(3), "up0", Kind::ExistingBridge), vec!["'up0' is not a bridge"]),
            (Network::new("ext", uuid(3), "br9", Kind::ExistingBridge), vec!["no bridge 'br9'"]),
        ] {
            let error = networks.check(&network, std::slice::from_ref(&other)).await.unwrap_err();
            assert!(matches!(error, Error::Refused(_)), "{error}");
            let error = error.to_string();
            for message in messages {
                assert!(error.contains(message), "no {message:?} in {error}");
            }
            assert!(!error.contains('\n'));
        }
        assert_as_before(&before, "after it");
        // VPNs divide the default route: everything is in one of its halves.
        sh("ip route add 0.0.0.0/1 via 203.0.113.2; ip route add 128.0.0.0/1 via 203.0.113.2");
        let both = with(&|network| {
            network.addresses.push(subnet("fd00:122::1/64"));
            network.forwards = vec![forward(81, "192.168.122.10", 22), forward(81, "fd00:122::10", 22)];
        });
        networks.check(&both, std::slice::from_ref(&other)).await.unwrap();
        networks.check(&base, &[other]).await.unwrap();
        networks.start(&base).await.unwrap();
        networks.check(&base, &[]).await.unwrap();
    });
}

#[test]
fn what_collides_after_the_host_was_booted_does_not_come_back() {
    on_a_host(async |host: Host| {
        let _outside = host.outside();
        let (network, mut other) = (nat(), Network::new("other", uuid(2), "virbr1", Kind::Isolated));
        other.addresses = vec![subnet("192.168.123.1/24")];
        let both = [network.clone(), other];
        for network in &both {
            host.networks().start(network).await.unwrap();
        }
        sh("ip link del virbr0; ip link del virbr1; nft flush ruleset; sysctl -q -w net.ipv4.ip_forward=0");
        std::fs::remove_dir_all(host.state()).unwrap();
        // The host itself is on such a network now.
        sh("ip addr add 192.168.122.77/24 dev up0");
        let failed = host.networks().repair(&both, Vec::new()).await.unwrap();
        let [(failed, error)] = &*failed else { panic!("{failed:?}") };
        assert_eq!(*failed, network.uuid);
        let error = error.to_string();
        assert!(error.contains("192.168.122.1/24 overlaps") && error.contains("'up0'"), "{error}");
        assert!(!exists("virbr0") && exists("virbr1"));
        let rules = sh("nft list ruleset");
        assert!(!rules.contains("virbr0") && rules.contains("virbr1"), "{rules}");
        assert_eq!(crate::sysctl::read("ipv4/ip_forward").unwrap(), "0");
    });
}

#[test]
fn a_bridge_of_somebody_else_and_lower_interfaces_are_only_used() {
    on_a_host(async |host: Host| {
        sh(
            "ip link add br0 type bridge; ip link set br0 up; ip link add low0 type dummy || ip link add low0 type veth peer name low1",
        );
        let before = everything();
        let networks = host.networks();
        let bridged = Network::new("ext", uuid(3), "br0", Kind::ExistingBridge);
        let devices = vec!["low0".to_owned()];
        let direct =
            Network::new("direct", uuid(4), "", Kind::Macvtap { mode: MacvtapMode::Bridge, devices });
        for network in [bridged, direct] {
            networks.check(&network, &[]).await.unwrap();
            networks.start(&network).await.unwrap();
            assert_as_before(&before, "after it");
            networks.stop(&network).await.unwrap();
            assert_as_before(&before, "after it");
        }
    });
}

#[test]
fn a_description_survives_being_written_down() {
    let network = full();
    let text = serde_json::to_string(&network).unwrap();
    assert_eq!(serde_json::from_str::<Network>(&text).unwrap(), network);
}

#[test]
fn ports_of_a_bridge_have_vlans_where_the_kernel_has_them() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let mut network = nat();
        network.settings.vlan_filtering = true;
        match networks.start(&network).await {
            Ok(_) => assert!(sh("ip -d link show virbr0").contains("vlan_filtering 1")),
            Err(error) => {
                assert!(
                    error.to_string().contains("virbr0") && error.to_string().contains("cannot make it"),
                    "{error}"
                );
                assert_eq!(sh("nft list ruleset; ip -br link show type bridge"), "");
                eprintln!("skipped: {error}");
            }
        }
    });
}

#[test]
fn a_network_that_runs_and_can_not_be_completed_keeps_what_it_has() {
    on_a_host(async |host: Host| {
        let (networks, network) = (host.networks(), nat());
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let mut changed = network.clone();
        // The kernel takes no broadcast address for a gateway.
        changed.routes = vec![Route {
            destination: subnet("10.55.0.0/16"),
            gateway: "192.168.122.255".parse().unwrap(),
            metric: None,
        }];
        let error = networks.start(&changed).await.unwrap_err().to_string();
        assert!(error.contains("cannot route 10.55.0.0/16"), "{error}");
        assert!(guest.reaches("192.168.122.1"));
        assert!(
            host.networks().repair(&[changed], Vec::new()).await.unwrap()[0]
                .1
                .to_string()
                .contains("cannot route")
        );
        assert!(guest.reaches("192.168.122.1"));
    });
}
