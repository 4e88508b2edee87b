//! Real interfaces, in a network namespace of the test's own thread.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use futures_util::TryStreamExt;
use libvirt_xml::MacAddress;
use net_io::{Tap, TapOptions};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, LinkBridge};

use super::*;

const MACHINE: &str = "/run/some where/machines/4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

/// Runs `test` in a network namespace of its own, where that is permitted.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce(Kernel) -> F + Send + 'static) {
    static REASON: OnceLock<()> = OnceLock::new();
    let thread = std::thread::Builder::new().spawn(move || {
        if let Err(errno) = unshare_network() {
            REASON.get_or_init(|| eprintln!("skipped: no network namespace of our own: {errno}"));
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            test(Kernel(handle)).await;
        });
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

/// What the kernel has, as itself says.
struct Kernel(Handle);

impl Kernel {
    async fn bridge(&self, name: &str, mtu: u32) {
        self.0.link().add(LinkBridge::new(name).mtu(mtu).up().build()).execute().await.unwrap();
    }

    async fn all(&self) -> Vec<LinkMessage> {
        self.0.link().get().execute().try_collect().await.unwrap()
    }

    /// Names of all interfaces but lo.
    async fn names(&self) -> Vec<String> {
        let links = self.all().await.into_iter().filter_map(|link| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        let mut names: Vec<String> = links.filter(|name| name != "lo").collect();
        names.sort();
        names
    }

    async fn link(&self, name: &str) -> Option<LinkMessage> {
        let named = LinkAttribute::IfName(name.to_owned());
        self.all().await.into_iter().find(|link| link.attributes.contains(&named))
    }
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
    }
}

fn to_bridge(index: usize, name: &str) -> TapDemand {
    demand(index, TapSource::Bridge { name: name.to_owned() })
}

fn made(index: usize, name: &str) -> Connected {
    Connected { index, name: name.to_owned(), made: true }
}

#[test]
fn a_card_gets_an_interface_on_its_bridge_until_the_machine_ends() {
    in_namespace(async |kernel: Kernel| {
        kernel.bridge("br0", 9000).await;
        let (network, machine) = (HostNetwork::default(), Path::new(MACHINE));
        let connected = network.connect(machine, &[to_bridge(0, "br0")]).await.unwrap();
        assert_eq!(connected, [made(0, "vnet0")]);
        let bridge = kernel.link("br0").await.unwrap().header.index;
        let link = kernel.link("vnet0").await.unwrap();
        for attribute in [
            LinkAttribute::Controller(bridge),
            LinkAttribute::Mtu(9000),
            LinkAttribute::Address(vec![0xfe, 0x54, 0, 1, 2, 0]),
            LinkAttribute::IfAlias(format!("vireo {MACHINE}")),
        ] {
            assert!(link.attributes.contains(&attribute), "{attribute:?}: {link:?}");
        }
        assert!(link.header.flags.contains(LinkFlags::Up), "{link:?}");
        // As the machine's process does, more than once.
        for _ in 0..2 {
            Tap::open(&TapOptions::new("vnet0")).unwrap();
        }
        network.remove(machine, &["vnet0".to_owned()]).await;
        assert_eq!(kernel.names().await, ["br0"]);
        network.remove(machine, &["vnet0".to_owned()]).await;
    });
}

#[test]
fn documents_choose_name_queues_and_mtu() {
    in_namespace(async |kernel: Kernel| {
        kernel.bridge("br0", 1500).await;
        let (network, machine) = (HostNetwork::default(), Path::new(MACHINE));
        let named = TapDemand {
            target: Some("web0".to_owned()),
            queue_pairs: 4,
            mtu: Some(1400),
            mac: Some(MacAddress([0xfe, 1, 2, 3, 4, 5])),
            ..demand(1, TapSource::Ethernet)
        };
        // Of a start before this one.
        let generated = TapDemand { target: Some("vnet7".to_owned()), ..to_bridge(0, "br0") };
        let connected = network.connect(machine, &[generated, named]).await.unwrap();
        assert_eq!(connected, [made(0, "vnet0"), made(1, "web0")]);
        let link = kernel.link("web0").await.unwrap();
        for attribute in [LinkAttribute::Mtu(1400), LinkAttribute::Address(vec![0xfa, 1, 2, 3, 4, 5])] {
            assert!(link.attributes.contains(&attribute), "{attribute:?}: {link:?}");
        }
        assert!(!link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Controller(_))));
        assert!(link.header.flags.contains(LinkFlags::Up), "{link:?}");
        let queues = Tap::open(&TapOptions { queue_pairs: 4, ..TapOptions::new("web0") }).unwrap();
        assert_eq!(queues.len(), 4);
    });
}

#[test]
fn names_that_are_taken_are_left_to_whoever_has_them() {
    in_namespace(async |kernel: Kernel| {
        kernel.bridge("br0", 1500).await;
        // Somebody else's: persistent, and open to be taken.
        for name in ["vnet0", "vnet1", "web0"] {
            NewTap::create(name, 1).unwrap().keep().unwrap();
        }
        let (network, machine) = (HostNetwork::default(), Path::new(MACHINE));
        let connected = network.connect(machine, &[to_bridge(0, "br0"), to_bridge(1, "br0")]).await.unwrap();
        assert_eq!(connected, [made(0, "vnet2"), made(1, "vnet3")]);
        for name in ["web0", "vnet2", "br0"] {
            let taken = TapDemand { target: Some("web0".to_owned()), ..to_bridge(0, "br0") };
            let taken = TapDemand { target: Some(name.to_owned()), ..taken };
            let connected = network.connect(machine, &[taken]).await;
            if name == "vnet2" {
                assert_eq!(connected.unwrap(), [made(0, "vnet4")], "names like this can't be chosen");
                continue;
            }
            let error = connected.unwrap_err().to_string();
            assert!(error.contains("interface[1]") && error.contains(name), "{error}");
            assert!(error.contains("an interface with this name exists"), "{error}");
        }
        // Neither names nor another machine make what is somebody else's ours.
        let all: Vec<String> = kernel.names().await;
        network.remove(Path::new("/run/other/machines/other"), &all).await;
        assert_eq!(kernel.names().await, all);
        network.remove(machine, &all).await;
        assert_eq!(kernel.names().await, ["br0", "vnet0", "vnet1", "web0"]);
        // Numbers go on, so that nobody mistakes one machine's figures for another's.
        let connected = network.connect(machine, &[to_bridge(0, "br0")]).await.unwrap();
        assert_eq!(connected, [made(0, "vnet5")]);
    });
}

#[test]
fn nothing_is_left_of_a_start_that_fails() {
    in_namespace(async |kernel: Kernel| {
        kernel.bridge("br0", 1500).await;
        let network = HostNetwork::default();
        let twice = TapDemand { target: Some("web0".to_owned()), ..to_bridge(1, "br0") };
        let long = format!("/{}", "x".repeat(MOST_ALIAS_BYTES));
        for (machine, last, message) in [
            (MACHINE, to_bridge(1, "br1"), "bridge 'br1': there is no such interface"),
            (MACHINE, to_bridge(1, "lo"), "bridge 'lo': the interface of this name is not a bridge"),
            (MACHINE, to_bridge(1, &"b".repeat(100_000)), "there is no such interface"),
            (MACHINE, to_bridge(1, "b\0"), "there is no such interface"),
            (MACHINE, twice, "interface web0: cannot make it: an interface with this name exists"),
            (MACHINE, TapDemand { mtu: Some(65535), ..to_bridge(1, "br0") }, "cannot set its MTU to 65535"),
            (MACHINE, TapDemand { queue_pairs: 257, ..to_bridge(1, "br0") }, "257 queue pairs"),
            (
                MACHINE,
                TapDemand { queue_pairs: u32::MAX, ..to_bridge(1, "br0") },
                "queue pairs: use 1 to 256",
            ),
            (MACHINE, TapDemand { target: Some("a/b".to_owned()), ..to_bridge(1, "br0") }, "not a name"),
            (MACHINE, TapDemand { target: Some("x".repeat(100_000)), ..to_bridge(1, "br0") }, "not a name"),
            (long.as_str(), to_bridge(1, "br0"), "path of the runtime directory is too long"),
            (MACHINE, TapDemand { managed: false, ..to_bridge(1, "br0") }, "use type='ethernet'"),
            (MACHINE, TapDemand { managed: false, ..demand(1, TapSource::Ethernet) }, "has to be named"),
        ] {
            let first = TapDemand { target: Some("web0".to_owned()), ..demand(0, TapSource::Ethernet) };
            let error = network.connect(Path::new(machine), &[first, last]).await.unwrap_err().to_string();
            assert!(error.contains(message), "no {message:?} in {}", &error[..error.len().min(400)]);
            assert_eq!(kernel.names().await, ["br0"], "{message}");
        }
    });
}

#[test]
fn sources_that_need_more_than_the_host_s_interfaces_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let network = TapSource::Network { name: "default".to_owned(), portgroup: None };
    let mode = libvirt_xml::domain::interface::SourceMode::Bridge;
    for (source, message) in [
        (network, "network 'default' can't be used: networks are not kept by this daemon yet: use a bridge"),
        (TapSource::Direct { device: "eth0".to_owned(), mode }, "'eth0' can't be shared by macvtap"),
        (TapSource::User { passt: true }, "use a bridge"),
    ] {
        let connecting = HostNetwork::default();
        let demands = [demand(0, source)];
        let error = runtime.block_on(connecting.connect(Path::new(MACHINE), &demands)).unwrap_err();
        assert!(matches!(error, HostNetworkError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn an_interface_that_is_not_managed_is_left_alone() {
    in_namespace(async |kernel: Kernel| {
        let (network, machine) = (HostNetwork::default(), Path::new(MACHINE));
        let named = |name: &str| {
            let target = Some(name.to_owned());
            [TapDemand { managed: false, target, ..demand(0, TapSource::Ethernet) }]
        };
        NewTap::create("own0", 1).unwrap().keep().unwrap();
        let before = kernel.link("own0").await.unwrap();
        let connected = network.connect(machine, &named("own0")).await.unwrap();
        assert_eq!(connected, [Connected { index: 0, name: "own0".to_owned(), made: false }]);
        assert_eq!(kernel.link("own0").await.unwrap().header.flags, before.header.flags);
        network.connect(machine, &[demand(0, TapSource::Ethernet)]).await.unwrap();
        for (name, message) in [
            ("none0", "there is no such interface"),
            ("lo", "not a TAP interface"),
            ("vnet0", "made for another domain"),
        ] {
            let error = network.connect(machine, &named(name)).await.unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(message), "{error}");
        }
    });
}

#[test]
fn the_next_daemon_finds_what_was_made_and_nothing_else() {
    in_namespace(async |kernel: Kernel| {
        let machines = Path::new("/run/vireo/machines");
        let network = HostNetwork::default();
        let cards = [demand(0, TapSource::Ethernet), demand(1, TapSource::Ethernet)];
        network.connect(&machines.join("one"), &cards).await.unwrap();
        network.connect(Path::new("/run/vireo/machines2/one"), &cards).await.unwrap();
        network.connect(&machines.join("two"), &cards[..1]).await.unwrap();
        NewTap::create("other0", 1).unwrap().keep().unwrap();
        let next = HostNetwork::default();
        let mut found = next.made(machines).await.unwrap();
        found.values_mut().for_each(|names| names.sort());
        let wanted = [("one", vec!["vnet0", "vnet1"]), ("two", vec!["vnet4"])];
        let wanted = wanted.map(|(machine, names)| {
            (machine.to_owned(), names.into_iter().map(str::to_owned).collect::<Vec<_>>())
        });
        assert_eq!(found, HashMap::from(wanted));
        next.remove(&machines.join("one"), &found["one"]).await;
        assert_eq!(kernel.names().await, ["other0", "vnet2", "vnet3", "vnet4"]);
        let connected = next.connect(&machines.join("one"), &cards[..1]).await.unwrap();
        assert_eq!(connected, [made(0, "vnet5")], "numbers that were in use are not used at once");
    });
}

#[test]
fn without_the_right_to_it_the_message_says_what_to_do() {
    let error = reason(&io::ErrorKind::PermissionDenied.into());
    assert!(error.contains("CAP_NET_ADMIN") && error.contains("managed='no'"), "{error}");
}
