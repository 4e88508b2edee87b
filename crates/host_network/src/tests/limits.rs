//! Bandwidth, and taps on interfaces of the host.

use std::io::{Read, Write};
use std::time::Instant;

use super::*;

const MEBIBYTE: usize = 1 << 20;

fn limit(average: u32) -> Limit {
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
        let inbound = Limit { peak: Some(8192), ..limit(1024) };
        networks.limit("vnet10", Bandwidth { inbound: Some(inbound), outbound: None }).await.unwrap();
        let listed = sh("tc qdisc show dev vnet10");
        for wanted in ["tbf", "rate 8388Kbit", "peakrate 67108Kbit", "burst 128Kb"] {
            assert!(listed.contains(wanted), "{wanted}: {listed}");
        }
        let slow = sends(&guest);
        assert!(slow > Duration::from_millis(1200), "2 MiB at 1 MiB a second: {slow:?}");
        networks
            .limit("vnet10", Bandwidth { inbound: Some(limit(8 * 1024 * 1024)), outbound: None })
            .await
            .unwrap();
        assert!(sh("tc qdisc show dev vnet10").contains("rate 68719Mbit"), "more than 32 bits of bytes");
        networks.limit("vnet10", Bandwidth::default()).await.unwrap();
        assert_eq!(sh("tc qdisc show dev vnet10"), before);
        for (wrong, message) in [
            (Limit { average: 0, peak: None, burst: None }, "lets nothing pass"),
            (Limit { average: 10, peak: Some(9), burst: None }, "less than its average"),
        ] {
            let error = networks.limit("vnet10", Bandwidth { inbound: Some(wrong), outbound: None }).await;
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
        match networks.limit("vnet10", Bandwidth { inbound: None, outbound: Some(limit(1024)) }).await {
            Ok(()) => {
                let listed = sh("tc filter show dev vnet10 ingress");
                for wanted in ["matchall", "police", "rate 8388", "burst 128Kb", "drop"] {
                    assert!(listed.contains(wanted), "{wanted}: {listed}");
                }
                networks.limit("vnet10", Bandwidth::default()).await.unwrap();
            }
            Err(error) => {
                eprintln!("skipped: {error}");
                assert!(error.to_string().contains("cls_matchall and act_police"), "{error}");
            }
        }
        assert_eq!(sh("tc qdisc show dev vnet10"), before);
    });
}
