//! Guests that pretend to be others.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 10];

fn guarded(addresses: &[&str]) -> Guard {
    let addresses = addresses.iter().map(|text| subnet(text)).collect();
    Guard { interface: "vnet10".to_owned(), mac: MAC, addresses }
}

/// Who pretends, and whom it talks to.
async fn two(host: &Host, networks: &HostNetwork) -> (Guest, Guest) {
    let network = nat();
    networks.start(&network).await.unwrap();
    (host.guest_of(networks, &network, 10).await, host.guest_of(networks, &network, 11).await)
}

#[test]
fn only_the_address_of_the_lease_passes_and_a_new_lease_changes_it() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let (guest, other) = two(&host, &networks).await;
        let mac = guest.sh("cat /sys/class/net/eth0/address 2>/dev/null || true");
        drop(mac);
        guest.sh("ip addr add 192.168.122.99/24 dev eth0; ip neigh add 192.168.122.11 lladdr 52:54:00:00:00:0b dev eth0");
        other.sh("ip neigh add 192.168.122.99 lladdr 52:54:00:00:00:0a dev eth0; ip neigh add 192.168.122.10 lladdr 52:54:00:00:00:0a dev eth0");
        let as_itself = "-I 192.168.122.10 192.168.122.11";
        let as_another = "-I 192.168.122.99 192.168.122.11";
        assert!(guest.reaches(as_itself) && guest.reaches(as_another), "before it is guarded");
        networks.guard(guarded(&[])).await.unwrap();
        assert!(!guest.reaches(as_itself), "without a lease");
        networks.set_addresses("vnet10", vec![subnet("192.168.122.10/32")]).await.unwrap();
        assert!(guest.reaches(as_itself), "{}", sh("nft list ruleset"));
        assert!(!guest.reaches(as_another), "an address of somebody else");
        networks.set_addresses("vnet10", vec![subnet("192.168.122.99/32")]).await.unwrap();
        assert!(!guest.reaches(as_itself) && guest.reaches(as_another), "another lease");
        networks.unguard("vnet10").await.unwrap();
        assert!(guest.reaches(as_itself) && guest.reaches(as_another), "no more guard");
        assert!(!sh("nft list tables").contains("bridge vireo"));
        let error = networks.set_addresses("vnet10", Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("vnet10") && error.contains("not guarded"), "{error}");
    });
}

#[test]
fn nothing_passes_with_another_mac_address() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let (guest, _other) = two(&host, &networks).await;
        networks.guard(guarded(&["192.168.122.10/32"])).await.unwrap();
        assert!(guest.reaches("192.168.122.11"));
        guest.sh("ip link set eth0 address 52:54:00:00:00:77; ip neigh add 192.168.122.1 lladdr 52:54:00:0d:0e:0f dev eth0");
        assert!(!guest.reaches("192.168.122.11"));
        guest.sh("ip link set eth0 address 52:54:00:00:00:0a");
        assert!(guest.reaches("192.168.122.11"));
    });
}

#[test]
fn nobody_believes_that_a_guest_has_another_s_address() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let (guest, other) = two(&host, &networks).await;
        networks.guard(guarded(&["192.168.122.10/32"])).await.unwrap();
        guest.sh("ip addr add 192.168.122.99/24 dev eth0");
        assert!(!other.reaches("192.168.122.99"), "its answer does not pass");
        assert!(!other.sh("ip neigh show 192.168.122.99").contains("52:54:00:00:00:0a"));
        assert!(guest.reaches("192.168.122.11"));
        networks.unguard("vnet10").await.unwrap();
        other.sh("ip neigh flush all");
        assert!(other.reaches("192.168.122.99"), "it would");
    });
}

#[test]
fn a_guest_can_ask_for_an_address_and_not_give_one() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let (guest, other) = two(&host, &networks).await;
        networks.guard(guarded(&["192.168.122.10/32"])).await.unwrap();
        let client = in_namespace_of(other.process.id(), || UdpSocket::bind("192.168.122.11:68").unwrap());
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let send = |port: u16| {
            in_namespace_of(guest.process.id(), move || {
                let server = UdpSocket::bind(("192.168.122.10", port)).unwrap();
                server.send_to(b"offer", "192.168.122.11:68").unwrap();
            });
        };
        send(67);
        assert!(client.recv(&mut [0; 16]).is_err(), "as a DHCP server");
        send(1067);
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 5);
        if run("busybox", &["udhcpc", "--help"]).stderr.is_empty() {
            return eprintln!("skipped: no busybox with udhcpc");
        }
        networks.set_addresses("vnet10", Vec::new()).await.unwrap();
        let server = UdpSocket::bind("0.0.0.0:67").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        guest.sh("ip addr flush dev eth0");
        guest.inside("busybox udhcpc -i eth0 -n -q -f -t 1 -T 1 -s /bin/true");
        assert!(server.recv(&mut [0; 1500]).unwrap() > 200, "a request");
    });
}

#[test]
fn ipv6_of_a_guest_is_its_own_and_it_is_no_router() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let mut network = nat();
        network.addresses.push(subnet("fd00:122::1/64"));
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let other = host.guest_of(&networks, &network, 11).await;
        networks.guard(guarded(&["192.168.122.10/32", "fd00:122::10/128"])).await.unwrap();
        guest.sh("ip addr add fd00:122::10/64 dev eth0 nodad; ip addr add fd00:122::99/64 dev eth0 nodad");
        other.sh("ip addr add fd00:122::11/64 dev eth0 nodad");
        assert!(guest.reaches("-I fd00:122::10 fd00:122::11"), "{}", sh("nft list table bridge vireo"));
        assert!(!guest.reaches("-I fd00:122::99 fd00:122::11"));
        assert!(!other.reaches("fd00:122::99"), "nobody believes that it has it");
        other.sh("echo 2 > /proc/sys/net/ipv6/conf/eth0/accept_ra");
        advertise(&guest);
        // What came before has been seen when this is answered.
        assert!(guest.reaches("-I fd00:122::10 fd00:122::11"));
        assert!(!other.sh("ip -6 route").contains("default"), "{}", other.sh("ip -6 route"));
        networks.unguard("vnet10").await.unwrap();
        advertise(&guest);
        assert!(guest.reaches("-I fd00:122::10 fd00:122::11"));
        assert!(other.sh("ip -6 route").contains("default"), "it would be believed");
    });
}

/// Says that the guest is a router for everything (RFC 4861, 4.2), once it has the address to say so with.
fn advertise(guest: &Guest) {
    use rustix::net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with, sockopt,
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while guest.sh("ip -6 addr show dev eth0 scope link").contains("tentative") {
        assert!(std::time::Instant::now() < deadline, "no address of the link");
        std::thread::yield_now();
    }
    in_namespace_of(guest.process.id(), || {
        let socket =
            socket_with(AddressFamily::INET6, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6));
        let socket = socket.unwrap();
        sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
        let index = rustix::net::netdevice::name_to_index(&socket, "eth0").unwrap();
        let all = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        let advertisement = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        sendto(&socket, &advertisement, SendFlags::empty(), &all).unwrap();
    });
}

#[test]
fn many_guests_are_guarded_and_found_again() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let guards: Vec<Guard> = (0..=255_u8)
            .map(|last| Guard {
                interface: format!("vnet{last}"),
                mac: [0x52, 0x54, 0, 0, 0, last],
                addresses: vec![
                    subnet(&format!("10.0.0.{last}/32")),
                    subnet(&format!("fd00::{last:x}/128")),
                    subnet("10.1.0.0/16"),
                    subnet("10.1.2.0/24"),
                ],
            })
            .collect();
        for guard in &guards[..3] {
            networks.guard(guard.clone()).await.unwrap();
        }
        // The next daemon.
        drop(networks);
        let networks = host.networks();
        assert!(networks.repair(&[], guards).await.unwrap().is_empty());
        let listed = sh("nft list table bridge vireo");
        for wanted in [
            "\"vnet255\"",
            "\"vnet7\" . 52:54:00:00:00:07",
            "\"vnet9\" . 10.0.0.9",
            "\"vnet10\" . fd00::a",
            "\"vnet3\" . 10.1.0.0/16",
        ] {
            assert!(listed.contains(wanted), "{wanted}: {listed}");
        }
        assert!(networks.repair(&[], Vec::new()).await.unwrap().is_empty());
        assert_eq!(sh("nft list ruleset"), "");
    });
}
