//! Bandwidth, VLANs, and taps on interfaces of the host.

use std::io::{Read, Write};
use std::time::Instant;

use super::*;

const MEBIBYTE: usize = 1 << 20;

fn at_average(average: u32) -> Limit {
    Limit { average, peak: None, burst: Some(128) }
}

/// How long it takes to send 2 MiB to the guest.
fn sends(guest: &Guest) -> Duration {
    let Listener(listener) = guest.listen("192.168.122.10:99");
    let receiver = std::thread::Builder::new().spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut got) = (vec![0; 65_536], 0);
        while got < 2 * MEBIBYTE {
            got += stream.read(&mut buffer).unwrap();
        }
    });
    let begin = Instant::now();
    let mut stream = TcpStream::connect("192.168.122.10:99").unwrap();
    stream.write_all(&vec![0; 2 * MEBIBYTE]).unwrap();
    receiver.unwrap().join().unwrap();
    begin.elapsed()
}

#[test]
fn what_a_guest_receives_is_limited_until_it_is_not() {
    on_a_host(async |host: Host| {
        let (networks, network) = (host.networks(), nat());
        networks.start(&network).await.unwrap();
        let guest = host.guest_of(&networks, &network, 10).await;
        let before = sh("tc qdisc show dev vnet10");
        let inbound = Limit { peak: Some(8192), ..at_average(1024) };
        limit("vnet10", Bandwidth { inbound: Some(inbound), outbound: None }).await.unwrap();
        let listed = sh("tc qdisc show dev vnet10");
        for wanted in ["tbf", "rate 8388Kbit", "peakrate 67108Kbit", "burst 128Kb"] {
            assert!(listed.contains(wanted), "{wanted}: {listed}");
        }
        let slow = sends(&guest);
        assert!(slow > Duration::from_millis(1200), "2 MiB at 1 MiB a second: {slow:?}");
        limit("vnet10", Bandwidth { inbound: Some(at_average(8 * 1024 * 1024)), outbound: None })
            .await
            .unwrap();
        assert!(sh("tc qdisc show dev vnet10").contains("rate 68719Mbit"), "more than 32 bits of bytes");
        limit("vnet10", Bandwidth::default()).await.unwrap();
        assert_eq!(sh("tc qdisc show dev vnet10"), before);
        for (wrong, message) in [
            (Limit { average: 0, peak: None, burst: None }, "lets nothing pass"),
            (Limit { average: 10, peak: Some(9), burst: None }, "less than its average"),
        ] {
            let error = limit("vnet10", Bandwidth { inbound: Some(wrong), outbound: None }).await;
            let error = error.unwrap_err().to_string();
            assert!(error.contains("vnet10") && error.contains(message), "{error}");
        }
    });
}

#[test]
fn what_a_guest_sends_is_limited_where_the_kernel_can() {
    on_a_host(async |host: Host| {
        let (networks, network) = (host.networks(), nat());
        networks.start(&network).await.unwrap();
        let _guest = host.guest_of(&networks, &network, 10).await;
        let before = sh("tc qdisc show dev vnet10");
        match limit("vnet10", Bandwidth { inbound: None, outbound: Some(at_average(1024)) }).await {
            Ok(()) => {
                let listed = sh("tc filter show dev vnet10 ingress");
                for wanted in ["matchall", "police", "rate 8388", "burst 128Kb", "drop"] {
                    assert!(listed.contains(wanted), "{wanted}: {listed}");
                }
                limit("vnet10", Bandwidth::default()).await.unwrap();
            }
            Err(error) => {
                eprintln!("skipped: {error}");
                assert!(error.to_string().contains("cls_matchall and act_police"), "{error}");
            }
        }
        assert_eq!(sh("tc qdisc show dev vnet10"), before);
    });
}

/// A network whose guests are in VLANs; none where the kernel's bridges have no VLANs.
async fn with_vlans(networks: &HostNetwork) -> Option<Network> {
    let mut network = nat();
    network.settings.vlan_filtering = true;
    match networks.start(&network).await {
        Err(error) if error.to_string().contains("CONFIG_BRIDGE_VLAN_FILTERING") => {
            eprintln!("skipped: {error}");
            assert!(!exists("virbr0"), "nothing is left of it");
            None
        }
        started => {
            started.unwrap();
            Some(network)
        }
    }
}

#[test]
fn guests_hear_those_of_their_vlan_and_no_others() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let Some(network) = with_vlans(&networks).await else { return };
        let mut guests = Vec::new();
        for last in [10, 11, 12] {
            guests.push(host.guest_of(&networks, &network, last).await);
        }
        let [one, two, three] = &*guests else { panic!() };
        assert!(one.reaches("192.168.122.11") && one.reaches("192.168.122.1"), "all are in the bridge's own");
        let vlan = PortVlans::access(42).unwrap();
        set_vlans("vnet10", Some(&vlan)).await.unwrap();
        assert!(!one.reaches("192.168.122.11"), "another VLAN");
        assert!(!one.reaches("192.168.122.1"), "the host is in the bridge's own");
        assert!(two.reaches("192.168.122.12"));
        set_vlans("vnet11", Some(&vlan)).await.unwrap();
        assert!(one.reaches("192.168.122.11"));
        // A guest that tags its frames itself.
        set_vlans("vnet12", Some(&PortVlans::trunk(None, [42, 43]).unwrap())).await.unwrap();
        assert!(!three.reaches("192.168.122.11"), "frames without a tag are in no VLAN");
        three.sh(
            "ip addr flush dev eth0; ip link add link eth0 name eth0.42 type vlan id 42; ip addr add 192.168.122.12/24 dev eth0.42; ip link set eth0.42 up",
        );
        assert!(
            three.reaches("192.168.122.11"),
            "the tag is taken off on the way to one that knows nothing of VLANs"
        );
        set_vlans("vnet12", Some(&PortVlans::trunk(Some((42, true)), []).unwrap())).await.unwrap();
        let listed = sh("bridge vlan show dev vnet12");
        assert!(
            listed.contains("42 PVID") && !listed.contains("Untagged") && !listed.contains("43"),
            "{listed}"
        );
        // Once more in the bridge's own; and it goes on to keep them apart when the description says so no more.
        set_vlans("vnet10", None).await.unwrap();
        assert!(one.reaches("192.168.122.1") && !one.reaches("192.168.122.11"));
        networks.start(&nat()).await.unwrap();
        assert!(!one.reaches("192.168.122.11"));
        networks.stop(&network).await.unwrap();
    });
}

#[test]
fn a_bridge_that_keeps_no_vlans_apart_is_left_so_and_says_how_it_would() {
    on_a_host(async |host: Host| {
        let networks = host.networks();
        let network = nat();
        networks.start(&network).await.unwrap();
        let _guest = host.guest_of(&networks, &network, 10).await;
        let vlan = PortVlans::access(42).unwrap();
        let error = set_vlans("vnet10", Some(&vlan)).await.unwrap_err().to_string();
        for part in ["interface vnet10", "bridge 'virbr0'", "ip link set virbr0 type bridge vlan_filtering 1"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        set_vlans("vnet10", None).await.unwrap();
        let error = set_vlans("virbr0", Some(&vlan)).await.unwrap_err().to_string();
        assert!(error.contains("virbr0") && error.contains("no port of a bridge"), "{error}");
        let error = set_vlans("none0", Some(&vlan)).await.unwrap_err().to_string();
        assert!(error.contains("none0") && error.contains("no such interface"), "{error}");
        // One that is somebody else's.
        sh("ip link add br7 type bridge");
        let mut existing = Network::new("lan", uuid(7), "br7", Kind::ExistingBridge);
        existing.settings.vlan_filtering = true;
        let before = sh("ip -d link show br7");
        for refused in [networks.check(&existing, &[]).await, networks.start(&existing).await.map(drop)] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("network 'lan'") && error.contains("bridge 'br7' does not"), "{error}");
        }
        assert_eq!(sh("ip -d link show br7"), before);
    });
}
