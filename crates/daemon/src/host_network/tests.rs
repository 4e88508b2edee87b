//! Real interfaces, in a network namespace of the test's own thread.

use std::future::Future;
use std::process::Command;
use std::sync::OnceLock;

use libvirt_xml::MacAddress;

use super::*;

const MACHINE: &str = "/run/some where/machines/4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

/// Runs `test` in a network namespace of its own, where that is permitted.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    static REASON: OnceLock<()> = OnceLock::new();
    let thread = std::thread::Builder::new().spawn(move || {
        if let Err(errno) = unshare_network() {
            REASON.get_or_init(|| eprintln!("skipped: no network namespace of our own: {errno}"));
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

#[expect(unsafe_code, reason = "gives this thread a network namespace of its own")]
fn unshare_network() -> Result<(), rustix::io::Errno> {
    // SAFETY: affects this thread's view of the network only, and no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

fn ip(arguments: &str) -> String {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn demand(index: usize, source: TapSource) -> TapDemand {
    let mac = u8::try_from(index).unwrap();
    TapDemand {
        path: format!("domain/devices/interface[{}]", index + 1),
        index,
        source,
        mac: Some(MacAddress([0x52, 0x54, 0, 1, 2, mac])),
        target: None,
        managed: true,
        queue_pairs: 1,
        mtu: None,
        limits: ::host_network::Bandwidth::default(),
        vlans: None,
    }
}

fn to_bridge(index: usize, name: &str) -> TapDemand {
    demand(index, TapSource::Bridge { name: name.to_owned() })
}

#[test]
fn each_card_gets_an_interface_with_its_queues() {
    in_namespace(async || {
        ip("link add br0 type bridge");
        let target = Some("web0".to_owned());
        let many = TapDemand { queue_pairs: 3, target, ..demand(1, TapSource::Ethernet) };
        let network = HostNetwork::default();
        let connected = network.connect(Path::new(MACHINE), &[to_bridge(0, "br0"), many]).await.unwrap();
        let shown: Vec<_> =
            connected.iter().map(|one| (one.index, one.name.as_str(), one.queues.len())).collect();
        assert_eq!(shown, [(0, "vnet0", 1), (1, "web0", 3)]);
        let mut numbers: Vec<_> = connected.iter().flat_map(Connected::numbers).collect();
        numbers.dedup();
        assert!(numbers.len() == 4 && numbers.iter().all(|number| *number > 2), "{numbers:?}");
        assert_eq!(lasting(&connected), Vec::<String>::new());
        assert!(ip("link show vnet0").contains("master br0"));
    });
}

#[test]
fn nothing_is_left_of_a_start_that_fails() {
    in_namespace(async || {
        ip("link add br0 type bridge");
        let before = ip("-br link");
        let network = HostNetwork::default();
        let taken = TapDemand { target: Some("web0".to_owned()), ..to_bridge(1, "br0") };
        for (last, message) in [
            (to_bridge(1, "br1"), "interface[2]: bridge 'br1': there is no such interface"),
            (taken, "interface[2]: interface web0: cannot make it: an interface with this name exists"),
            (TapDemand { queue_pairs: u32::MAX, ..to_bridge(1, "br0") }, "queue pairs: use 1 to 256"),
            (TapDemand { managed: false, ..to_bridge(1, "br0") }, "use type='ethernet'"),
            (TapDemand { managed: false, ..demand(1, TapSource::Ethernet) }, "has to be named"),
        ] {
            let first = TapDemand { target: Some("web0".to_owned()), ..demand(0, TapSource::Ethernet) };
            let error = network.connect(Path::new(MACHINE), &[first, last]).await.unwrap_err().to_string();
            assert!(error.contains(message), "no {message:?} in {error}");
            assert_eq!(ip("-br link"), before, "{message}");
        }
    });
}

#[test]
fn an_interface_that_is_not_managed_is_opened() {
    in_namespace(async || {
        ip("tuntap add own0 mode tap vnet_hdr");
        let target = Some("own0".to_owned());
        let own = TapDemand { managed: false, target, ..demand(0, TapSource::Ethernet) };
        let connected = HostNetwork::default().connect(Path::new(MACHINE), &[own]).await.unwrap();
        assert_eq!((connected[0].name.as_str(), connected[0].queues.len()), ("own0", 1));
        assert_eq!(lasting(&connected), Vec::<String>::new());
    });
}

#[test]
fn sources_that_are_no_interfaces_of_the_host_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let network = TapSource::Network { name: "default".to_owned(), portgroup: None };
    let direct = TapSource::Direct { devices: vec!["eth0".to_owned()], mode: SourceMode::Server };
    for (source, message) in [
        (network, "network 'default' is not kept"),
        (direct, "in mode bridge, private, vepa or passthrough"),
        (TapSource::User(Box::default()), "use a bridge"),
    ] {
        let connecting = HostNetwork::default();
        let demands = [demand(0, source)];
        let error = runtime.block_on(connecting.connect(Path::new(MACHINE), &demands)).unwrap_err();
        assert!(matches!(error, HostNetworkError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}
