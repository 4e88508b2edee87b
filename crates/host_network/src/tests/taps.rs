//! Interfaces of machines.

use std::collections::HashMap;
use std::os::fd::AsFd;

use net_io::{Tap, TapOptions};

use super::*;

const MACHINE: &str = "/run/some where/machines/4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
const MAC: [u8; 6] = [0x52, 0x54, 0, 9, 9, 9];
/// What is longer is no alias (IFALIASZ of linux/if.h).
const ALIAS_BYTES: usize = 256;

fn wanted(uplink: Uplink) -> WantedTap {
    WantedTap {
        uplink,
        mac: Some(MAC),
        name: None,
        queue_pairs: 1,
        mtu: None,
        limits: Bandwidth::default(),
        vlans: None,
    }
}

fn to_bridge(name: &str) -> WantedTap {
    wanted(Uplink::Bridge(name.to_owned()))
}

fn on_device(device: &str, mode: MacvtapMode) -> WantedTap {
    wanted(Uplink::Device { devices: vec![device.to_owned()], mode })
}

fn named(wanted: WantedTap, name: &str) -> WantedTap {
    WantedTap { name: Some(name.to_owned()), ..wanted }
}

/// Names of all interfaces, as the kernel lists them.
fn names() -> Vec<String> {
    let names = sh("ip -br link");
    names.lines().map(|line| line.split([' ', '@']).next().unwrap().to_owned()).collect()
}

fn assert_parts(shown: &str, parts: &[&str]) {
    for part in parts {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
}

async fn make(taps: &Taps, wanted: &WantedTap) -> OpenTap {
    taps.make(Path::new(MACHINE), wanted).await.unwrap()
}

#[test]
fn a_tap_is_on_its_bridge_until_the_last_of_its_descriptors_is_closed() {
    on_a_host(async |_: Host| {
        sh("ip link add br0 mtu 9000 type bridge; ip link set br0 up");
        let taps = Taps::default();
        let mut open = make(&taps, &to_bridge("br0")).await;
        assert_eq!((open.name.as_str(), open.device.as_ref(), open.queues.len()), ("vnet0", None, 1));
        let shown = sh("ip -d link show vnet0");
        assert_parts(&shown, &["master br0", "mtu 9000", "fe:54:00:09:09:09", "UP", "persist off", MACHINE]);
        // As the machine's process does.
        let tap = Tap::adopt(open.queues.remove(0)).unwrap();
        assert_eq!(tap.name(), "vnet0");
        assert_eq!(taps.left(Path::new(MACHINE).parent().unwrap()).await.unwrap(), HashMap::new());
        drop(open);
        assert!(names().contains(&"vnet0".to_owned()));
        drop(tap);
        assert_eq!(names(), ["lo", "br0"]);
    });
}

#[test]
fn name_queues_and_mtu_are_as_wanted() {
    on_a_host(async |_: Host| {
        let mac = Some([0xfe, 1, 2, 3, 4, 5]);
        let web = WantedTap { queue_pairs: 4, mtu: Some(1400), mac, ..wanted(Uplink::Others) };
        let mut web = make(&Taps::default(), &named(web, "web0")).await;
        assert_parts(
            &sh("ip -d link show web0"),
            &["mtu 1400", "fa:01:02:03:04:05", "UP", "multi_queue numqueues 4"],
        );
        assert!(!sh("ip link show web0").contains("master"));
        assert_eq!(web.queues.len(), 4);
        for queue in web.queues.drain(..) {
            assert_eq!(Tap::adopt(queue).unwrap().name(), "web0");
        }
    });
}

#[test]
fn names_that_are_taken_are_left_to_whoever_has_them() {
    on_a_host(async |_: Host| {
        sh("ip link add br0 type bridge");
        // Somebody else's: persistent, and open to be taken.
        let others = ["vnet0", "vnet1", "web0"];
        let _others = others.map(|name| {
            sh(&format!("ip tuntap add {name} mode tap vnet_hdr"));
            sh(&format!("ip link set {name} down"))
        });
        let taps = Taps::default();
        let first = make(&taps, &to_bridge("br0")).await;
        let again = named(to_bridge("br0"), &first.name);
        let second = make(&taps, &again).await;
        assert_eq!((first.name.as_str(), second.name.as_str()), ("vnet2", "vnet3"));
        for name in ["web0", "br0"] {
            let error = taps.make(Path::new(MACHINE), &named(to_bridge("br0"), name)).await.unwrap_err();
            assert_parts(&error.to_string(), &[name, "an interface with this name exists"]);
        }
        drop(first);
        let again = make(&taps, &again).await;
        assert_eq!(again.name, "vnet2", "a machine that goes on has the name that it had");
        drop((second, again));
        // Numbers go on, so that nobody mistakes one machine's figures for another's.
        assert_eq!(make(&taps, &to_bridge("br0")).await.name, "vnet4");
        taps.remove(Path::new(MACHINE), &names()).await;
        assert_eq!(names().len(), 2 + others.len(), "what is not marked stays");
    });
}

#[test]
fn nothing_is_left_of_an_interface_that_is_refused() {
    on_a_host(async |_: Host| {
        sh("ip link add br0 type bridge; ip tuntap add web0 mode tap");
        let before = sh("ip -br link");
        let long = format!("/{}", "x".repeat(ALIAS_BYTES));
        let mtu = |mtu| WantedTap { mtu: Some(mtu), ..to_bridge("br0") };
        let pairs = |queue_pairs| WantedTap { queue_pairs, ..to_bridge("br0") };
        for (machine, wanted, message) in [
            (MACHINE, to_bridge("br1"), "bridge 'br1': there is no such interface"),
            (MACHINE, to_bridge("lo"), "bridge 'lo': the interface of this name is not a bridge"),
            (MACHINE, to_bridge(&"b".repeat(100_000)), "there is no such interface"),
            (MACHINE, to_bridge("b\0"), "there is no such interface"),
            (MACHINE, named(to_bridge("br0"), "web0"), "web0: cannot make it: an interface with this name"),
            (MACHINE, mtu(65535), "cannot set its MTU to 65535"),
            (MACHINE, pairs(257), "257 queue pairs"),
            (MACHINE, pairs(u16::MAX), "queue pairs: use 1 to 256"),
            (MACHINE, named(to_bridge("br0"), "a/b"), "not a name"),
            (MACHINE, named(to_bridge("br0"), &"x".repeat(100_000)), "not a name"),
            (&long, to_bridge("br0"), "path of the runtime directory is too long"),
            (MACHINE, on_device("none0", MacvtapMode::Bridge), "'none0': there is no such interface"),
            (MACHINE, on_device("br0", MacvtapMode::Vepa), "it is a bridge: use type='bridge'"),
            (MACHINE, wanted(Uplink::Device { devices: vec![], mode: MacvtapMode::Vepa }), "none is named"),
        ] {
            let error = Taps::default().make(Path::new(machine), &wanted).await.unwrap_err().to_string();
            assert!(error.contains(message), "no {message:?} in {}", &error[..error.len().min(400)]);
            assert_eq!(sh("ip -br link"), before, "{message}");
        }
    });
}

#[test]
fn a_tap_that_is_there_is_opened_and_left_as_it_is() {
    on_a_host(async |_: Host| {
        sh("ip tuntap add own0 mode tap vnet_hdr; ip tuntap add own1 mode tap vnet_hdr multi_queue");
        for (name, pairs) in [("own0", 1), ("own1", 3)] {
            let before = sh(&format!("ip -br link show {name}"));
            let open = Taps::open(name, pairs).await.unwrap();
            assert_eq!((open.name.as_str(), open.queues.len()), (name, usize::from(pairs)));
            drop(open);
            assert_eq!(sh(&format!("ip -br link show {name}")), before);
        }
        let _made = make(&Taps::default(), &wanted(Uplink::Others)).await;
        for (name, pairs, message) in [
            ("none0", 1, "there is no such interface"),
            ("lo", 1, "not a TAP interface"),
            ("vnet0", 1, "made for another domain"),
            ("own0", 2, "multi_queue"),
        ] {
            let error = Taps::open(name, pairs).await.unwrap_err().to_string();
            assert_parts(&error, &[name, message]);
        }
    });
}

/// Runs `test` where the kernel has macvtap, with an interface `up0` whose other end is outside, and a sysfs of its own.
fn on_devices<F: Future<Output = ()>>(test: impl FnOnce(Host, Guest) -> F + Send + 'static) {
    on_a_host(async move |host: Host| {
        let outside = host.outside();
        if let Err(errno) = own_mounts() {
            return eprintln!("skipped: no mounts of our own: {errno}");
        }
        sh("mount --make-rprivate /; mount -t sysfs sysfs /sys");
        let tried = run("ip", &["link", "add", "link", "up0", "name", "mv0", "type", "macvtap"]);
        if !tried.status.success() {
            return eprintln!("skipped: no macvtap: {}", String::from_utf8_lossy(&tried.stderr));
        }
        sh("ip link del mv0");
        test(host, outside).await;
    });
}

#[expect(unsafe_code, reason = "gives this thread mounts of its own")]
fn own_mounts() -> Result<(), rustix::io::Errno> {
    // SAFETY: affects this thread's view of the file systems only, and no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
}

/// An Ethernet frame of no protocol to everybody, behind an empty header of virtio.
fn frame() -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&MAC);
    frame.extend_from_slice(&[0x88, 0xb5]);
    frame.resize(12 + 60, 0x55);
    frame
}

#[test]
fn an_interface_on_another_passes_frames_in_each_mode() {
    on_devices(async |_, outside: Guest| {
        let (before, taps, machine) = (sh("ip -br link"), Taps::default(), Path::new(MACHINE));
        for mode in [MacvtapMode::Bridge, MacvtapMode::Private, MacvtapMode::Vepa, MacvtapMode::Passthrough] {
            let wanted = WantedTap { queue_pairs: 2, mtu: Some(1400), ..on_device("up0", mode) };
            let mut open = make(&taps, &wanted).await;
            assert_eq!((open.device.as_deref(), open.queues.len()), (Some("up0"), 2));
            let name = open.name.clone();
            let shown = sh(&format!("ip -d link show {name}"));
            assert_parts(&shown, &[MACHINE, "52:54:00:09:09:09", "mtu 1400", "UP", "ALLMULTI", "@up0"]);
            let queue = Tap::adopt(open.queues.remove(0)).unwrap();
            assert_eq!(queue.name(), name);
            let received = || outside.sh("ip -s -o link show eth0");
            let before = received();
            let queue = std::os::fd::OwnedFd::from(queue);
            rustix::io::write(queue.as_fd(), &frame()).unwrap();
            wait(|| received() != before);
            // It does not go with its descriptors, nor at the word of somebody else.
            drop((queue, open));
            taps.remove(Path::new("/run/other"), std::slice::from_ref(&name)).await;
            assert!(names().contains(&name));
            taps.remove(machine, std::slice::from_ref(&name)).await;
            taps.remove(machine, &[name]).await;
        }
        assert_eq!(sh("ip -br link"), before, "the device has its own address again as well");
    });
}

#[test]
fn a_device_with_few_guests_is_preferred_and_one_that_is_passed_through_has_one() {
    on_devices(async |_, _| {
        sh("ip link add up1 type veth peer name up1x; ip link set up1 up");
        let (taps, both) = (Taps::default(), vec!["up0".to_owned(), "none0".to_owned(), "up1".to_owned()]);
        let pool = |mode| wanted(Uplink::Device { devices: both.clone(), mode });
        let mut made = Vec::new();
        for wanted_device in ["up0", "up1", "up0", "up1"] {
            let mac = Some([0x52, 0x54, 0, 9, 9, u8::try_from(made.len()).unwrap()]);
            let open = make(&taps, &WantedTap { mac, ..pool(MacvtapMode::Bridge) }).await;
            assert_eq!(open.device.as_deref(), Some(wanted_device));
            made.push(open);
        }
        let error = taps.make(Path::new(MACHINE), &pool(MacvtapMode::Passthrough)).await.unwrap_err();
        assert_parts(&error.to_string(), &["'up1'", "one guest alone", "macvtap1 is on it"]);
        let error =
            taps.make(Path::new(MACHINE), &on_device("up0", MacvtapMode::Passthrough)).await.unwrap_err();
        assert_parts(&error.to_string(), &["'up0'", "macvtap0 is on it"]);
        let names: Vec<String> = made.into_iter().map(|open| open.name).collect();
        taps.remove(Path::new(MACHINE), &names).await;
        let mut through = Vec::new();
        for device in ["up0", "up1"] {
            let open = make(&taps, &pool(MacvtapMode::Passthrough)).await;
            assert_eq!(open.device.as_deref(), Some(device));
            through.push(open);
        }
        for mode in [MacvtapMode::Passthrough, MacvtapMode::Bridge] {
            let error = taps.make(Path::new(MACHINE), &pool(mode)).await.unwrap_err().to_string();
            assert!(error.contains("passthrough") || error.contains("passed through"), "{error}");
        }
    });
}

#[test]
fn whoever_comes_next_finds_interfaces_on_others_and_what_was_half_made() {
    on_devices(async |_, _| {
        let machines = Path::new("/run/vireo/machines");
        let taps = Taps::default();
        let wanted = |last: u8| {
            let mac = Some([0x52, 0x54, 0, 9, 9, last]);
            WantedTap { mac, ..on_device("up0", MacvtapMode::Bridge) }
        };
        let one = taps.make(&machines.join("one"), &wanted(1)).await.unwrap();
        let _other = taps.make(Path::new("/run/vireo/machines2/one"), &wanted(2)).await.unwrap();
        let _tap = taps.make(&machines.join("one"), &super::taps::wanted(Uplink::Others)).await.unwrap();
        sh(
            "ip link add link up0 name vireo0badcafe type macvtap; ip link add link up0 name mine type macvtap",
        );
        let next = Taps::default();
        let found = next.left(machines).await.unwrap();
        assert_eq!(found, HashMap::from([("one".to_owned(), vec![one.name.clone()])]));
        let there = names();
        assert!(
            !there.contains(&"vireo0badcafe".to_owned()) && there.contains(&"mine".to_owned()),
            "{there:?}"
        );
        next.remove(&machines.join("one"), &found["one"]).await;
        // Numbers that were in use are not used at once.
        let again = next.make(&machines.join("one"), &wanted(3)).await.unwrap();
        assert_eq!((one.name.as_str(), again.name.as_str()), ("macvtap0", "macvtap2"));
        let tap = next.make(&machines.join("one"), &super::taps::wanted(Uplink::Others)).await.unwrap();
        assert_eq!(tap.name, "vnet1");
    });
}

#[test]
fn a_queue_of_an_interface_that_is_there_can_be_opened_by_name() {
    on_a_host(async |_: Host| {
        let _tap = make(&Taps::default(), &wanted(Uplink::Others)).await;
        let error = Tap::open(&TapOptions::new("vnet0")).unwrap_err().to_string();
        assert!(error.contains("another process uses it"), "{error}");
    });
}
