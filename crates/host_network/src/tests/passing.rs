//! What passes, and what does not.

use std::net::UdpSocket;

use super::*;

#[test]
fn guests_of_a_translated_network_reach_outside_as_the_host_and_nobody_reaches_them() {
    on_a_host(async |host: Host| {
        let outside = host.outside();
        let (networks, network) = (host.networks(), nat());
        networks.check(&network, &[]).await.unwrap();
        let running = networks.start(&network).await.unwrap();
        assert_eq!(running.bridge.as_deref(), Some("virbr0"));
        let guest = host.guest_of(&networks, &network, 10).await;
        let other = host.guest_of(&networks, &network, 11).await;
        assert!(guest.reaches("203.0.113.2"), "by ping: {}", sh("nft list ruleset"));
        let listener = outside.listen("203.0.113.2:80");
        assert!(guest.call("203.0.113.2:80").is_some(), "by TCP");
        assert_eq!(listener.caller(), ipv4("203.0.113.1"), "as the host");
        let listener = other.listen("192.168.122.11:80");
        assert!(guest.call("192.168.122.11:80").is_some(), "each other");
        assert_eq!(listener.caller(), ipv4("192.168.122.10"), "as themselves");
        assert!(guest.reaches("192.168.122.1"), "the host");
        // Somebody outside who knows the way.
        outside.sh("ip route add 192.168.122.0/24 via 203.0.113.1");
        assert!(!outside.reaches("192.168.122.10"));
        assert!(outside.call("192.168.122.11:80").is_none());
    });
}

#[test]
fn ports_and_addresses_of_translation_are_as_they_were_asked_for() {
    on_a_host(async |host: Host| {
        let outside = host.outside();
        sh("ip addr add 203.0.113.7/24 dev up0");
        let address = "203.0.113.7".parse().unwrap();
        let nat = Nat { ports: Some(40_000..=40_001), addresses: Some((address, address)), ..Nat::default() };
        let (networks, network) = (host.networks(), default_network(Kind::Nat(nat)));
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let listener = outside.listen("203.0.113.2:80");
        assert!(guest.call("203.0.113.2:80").is_some());
        let caller = listener.0.accept().unwrap().1;
        assert_eq!(caller.ip(), ipv4("203.0.113.7"));
        assert!((40_000..=40_001).contains(&caller.port()), "{caller}");
    });
}

#[test]
fn a_translated_network_can_have_ipv6_and_one_way_out() {
    on_a_host(async |host: Host| {
        let outside = host.outside();
        let nat = Nat { ipv6: true, device: Some("up0".to_owned()), ..Nat::default() };
        let mut network = default_network(Kind::Nat(nat));
        network.addresses.push(subnet("fd00:122::1/64"));
        let networks = host.networks();
        networks.check(&network, &[]).await.unwrap();
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        guest.sh("ip addr add fd00:122::10/64 dev eth0 nodad; ip route add default via fd00:122::1");
        let listener = outside.listen("[2001:db8:ffff::2]:80");
        assert!(guest.call("[2001:db8:ffff::2]:80").is_some(), "{}", sh("nft list ruleset"));
        assert_eq!(listener.caller(), "2001:db8:ffff::1".parse::<IpAddr>().unwrap());
        // Not by another interface.
        let _elsewhere = host.guest("up1", "ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up; ip route add default via 198.51.100.1");
        sh("ip addr add 198.51.100.1/24 dev up1");
        assert!(guest.reaches("203.0.113.2"));
        assert!(!guest.reaches("198.51.100.2"));
    });
}

#[test]
fn guests_of_a_routed_network_keep_their_addresses_and_are_reached() {
    on_a_host(async |host: Host| {
        let outside = host.outside();
        outside.sh("ip route add 192.168.122.0/24 via 203.0.113.1");
        let (networks, network) = (host.networks(), default_network(Kind::Routed { device: None }));
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let listener = outside.listen("203.0.113.2:80");
        assert!(guest.call("203.0.113.2:80").is_some());
        assert_eq!(listener.caller(), ipv4("192.168.122.10"));
        assert!(outside.reaches("192.168.122.10"));
        // What is of no subnet of it does not leave it.
        guest.sh("ip addr add 10.9.9.9/32 dev eth0");
        outside.sh("ip route add 10.9.9.9/32 via 203.0.113.1");
        sh("ip route add 10.9.9.9/32 dev virbr0");
        assert!(!guest.reaches("-I 10.9.9.9 203.0.113.2"));
    });
}

#[test]
fn guests_of_an_isolated_network_reach_each_other_and_the_host_only() {
    on_a_host(async |host: Host| {
        let outside = host.outside();
        outside.sh("ip route add 192.168.122.0/24 via 203.0.113.1");
        let (networks, network) = (host.networks(), default_network(Kind::Isolated));
        networks.start(&network).await.unwrap();
        // Somebody else has the host forward packets.
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let guest = host.guest_of(&networks, &network, 10).await;
        let _other = host.guest_of(&networks, &network, 11).await;
        assert!(guest.reaches("192.168.122.11") && guest.reaches("192.168.122.1"));
        assert!(!guest.reaches("203.0.113.2"));
        assert!(!outside.reaches("192.168.122.10"));
    });
}

#[test]
fn networks_do_not_reach_each_other_in_whichever_order_they_are() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let (mut all, mut guests) = (Vec::new(), Vec::new());
        for number in 1..=3_u8 {
            let name = format!("net{number}");
            let mut network = Network::new(&name, uuid(number), &name, Kind::Nat(Nat::default()));
            network.addresses = vec![subnet(&format!("10.0.{number}.1/24"))];
            networks.check(&network, &all).await.unwrap();
            networks.start(&network).await.unwrap();
            let script = format!(
                "ip addr add 10.0.{number}.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.{number}.1"
            );
            let guest = host.guest(&format!("tap{number}"), &script);
            networks.connect(&network, &format!("tap{number}"), None).await.unwrap();
            wait(|| sh(&format!("ip -br link show {name}")).contains(" UP "));
            assert!(guest.reaches(&format!("10.0.{number}.1")), "{number}");
            guests.push(guest);
            all.push(network);
        }
        for (from, guest) in guests.iter().enumerate() {
            for to in (0..3).filter(|to| *to != from) {
                let address = format!("10.0.{}.2", to + 1);
                assert!(!guest.reaches(&address), "{from} reaches {to}");
                assert!(run("ping", &["-n", "-c", "1", &address]).status.success(), "the host does");
            }
        }
    });
}

#[test]
fn a_forwarded_port_leads_to_the_guest_from_outside_the_host_and_its_network() {
    on_a_host(async |host: Host| {
        let outside = host.outside();
        let networks = host.networks();
        let mut network = nat();
        network.forwards = vec![forward(2222, "192.168.122.10", 22)];
        networks.check(&network, &[]).await.unwrap();
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let other = host.guest_of(&networks, &network, 11).await;
        let listener = guest.listen("192.168.122.10:22");
        assert!(outside.call("203.0.113.1:2222").is_some(), "from outside: {}", sh("nft list ruleset"));
        assert_eq!(listener.caller(), ipv4("203.0.113.2"), "it sees who calls");
        for address in ["203.0.113.1:2222", "127.0.0.1:2222", "192.168.122.1:2222"] {
            assert!(call(address.parse().unwrap()).is_some(), "from the host by {address}");
            listener.caller();
        }
        assert!(other.call("203.0.113.1:2222").is_some(), "from its own network");
        assert_eq!(listener.caller(), ipv4("192.168.122.1"));
        // A bridge that asks the packet filter does not send a frame back to where it came from.
        let asking = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if Path::new(asking).exists() {
            std::fs::write(asking, "0").unwrap();
        }
        assert!(guest.call("192.168.122.1:2222").is_some(), "from itself");
        assert!(outside.call("203.0.113.1:22").is_none(), "no other port");
        // The host's own 127.0.0.1 is not the guests', although it is forwarded from there.
        let local = UdpSocket::bind("127.0.0.1:8080").unwrap();
        local.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        other.sh(
            "ip link set lo down; ip route flush table local dev lo; ip route add 127.0.0.0/8 via 192.168.122.1; \
            echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet",
        );
        let send = || {
            in_namespace_of(other.process.id(), || {
                UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", "127.0.0.1:8080").unwrap();
            });
        };
        send();
        assert!(local.recv(&mut [0; 16]).is_err());
        sh("nft flush chain inet vireo guard_loopback");
        send();
        assert_eq!(local.recv(&mut [0; 16]).unwrap(), 5, "it is this rule that keeps it");
    });
}

#[test]
fn ports_of_a_network_can_be_kept_apart() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let mut network = nat();
        network.isolated_ports = true;
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let _other = host.guest_of(&networks, &network, 11).await;
        assert!(guest.reaches("192.168.122.1"));
        assert!(!guest.reaches("192.168.122.11"));
    });
}

#[test]
fn a_link_is_taken_down_and_up_and_counts_what_passes() {
    on_a_host(async |host: Host| {
        let (networks, network) = (host.networks(), nat());
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let before = networks.statistics("vnet10").await.unwrap();
        assert!(guest.reaches("192.168.122.1"));
        let after = networks.statistics("vnet10").await.unwrap();
        assert!(after.received_packets > before.received_packets && after.sent_bytes > before.sent_bytes);
        networks.set_link("vnet10", false).await.unwrap();
        assert!(!guest.reaches("192.168.122.1"));
        networks.set_link("vnet10", true).await.unwrap();
        // The kernel enables the port, then the bridge, each when it next looks at links.
        wait(|| guest.reaches("192.168.122.1"));
        let error = networks.statistics("vnet99").await.unwrap_err().to_string();
        assert!(error.contains("vnet99") && error.contains("no such interface"), "{error}");
    });
}

/// A question over UDP from this thread's namespace; the answer, if there is one.
fn ask(address: SocketAddr) -> Option<Vec<u8>> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.connect(address).unwrap();
    socket.send(b"who").unwrap();
    let mut answer = [0; 16];
    socket.recv(&mut answer).ok().map(|length| answer[..length].to_vec())
}

#[test]
fn names_are_asked_where_they_are_answered_when_another_program_has_their_port() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        // Of both families.
        let others = (UdpSocket::bind("[::]:53").unwrap(), TcpListener::bind("[::]:53").unwrap());
        for kind in [Kind::Nat(Nat::default()), Kind::Isolated, Kind::Open] {
            let mut network = default_network(kind);
            network.addresses.push(subnet("fd00:122::1/64"));
            networks.start(&network).await.unwrap();
            let guest = host.guest_of(&networks, &network, 10).await;
            guest.sh("ip addr add fd00:122::10/64 dev eth0 nodad");
            wait(|| !sh("ip addr show virbr0").contains("tentative"));
            let own = ["192.168.122.1:15353", "[fd00:122::1]:15353"];
            let servers = own.map(|own| (UdpSocket::bind(own).unwrap(), TcpListener::bind(own).unwrap()));
            let asked = ["192.168.122.1:53", "[fd00:122::1]:53"].map(|asked| asked.parse().unwrap());
            assert_eq!(
                in_namespace_of(guest.process.id(), move || ask(asked[0])),
                None,
                "nobody leads there"
            );
            network.services.dns_port = Some(15_353);
            networks.start(&network).await.unwrap();
            // As another daemon finds it.
            let after = host.networks();
            assert!(after.repair(&[network.clone()], Vec::new()).await.unwrap().is_empty());
            for ((datagrams, listener), asked) in servers.iter().zip(asked) {
                std::thread::scope(|scope| {
                    let answers = std::thread::Builder::new().spawn_scoped(scope, || {
                        for _ in 0..2 {
                            let mut question = [0; 16];
                            let (_, from) = datagrams.recv_from(&mut question).unwrap();
                            datagrams.send_to(b"me", from).unwrap();
                        }
                    });
                    datagrams.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    let answer = in_namespace_of(guest.process.id(), move || ask(asked));
                    assert_eq!(answer.as_deref(), Some(&b"me"[..]), "{asked}: {}", sh("nft list ruleset"));
                    assert_eq!(ask(asked).as_deref(), Some(&b"me"[..]), "the host itself: {asked}");
                    answers.unwrap().join().unwrap();
                });
                assert!(in_namespace_of(guest.process.id(), move || call(asked)).is_some(), "{asked} by TCP");
                let led = listener.accept().unwrap().1;
                assert!(led.ip() == ipv4("192.168.122.10") || led.is_ipv6(), "{led}");
            }
            drop(guest);
            networks.stop(&network).await.unwrap();
            assert!(!sh("nft list ruleset").contains("15353"));
        }
        drop(others);
    });
}

#[test]
fn guests_have_ipv6_among_themselves_where_the_host_has_no_address() {
    on_a_host(async |host: Host| {
        // Frames from port to port come by packet filters where this is on.
        let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "1");
        let (networks, network) = (host.networks(), nat());
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let other = host.guest_of(&networks, &network, 11).await;
        guest.sh("ip addr add fd00:77::10/64 dev eth0 nodad");
        other.sh("ip addr add fd00:77::11/64 dev eth0 nodad");
        assert!(guest.reaches("fd00:77::11"));
    });
}
