//! Networks and the daemon's life: found by the next one whenever the last was killed, back after a boot of the host, beside another
//! daemon's, on a new host.

use std::time::{Duration, Instant};

use libvirt_rpc::procedures::{NetworkCreate, NetworkDestroy, NetworkLookupByName, NetworkUpdate};

use super::*;
use crate::own_network::{Neighbour, host, in_network, run, sh};

/// Moments at which the daemon is killed, spread over the time that a change takes.
const MOMENTS: u32 = 10;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A network with everything: `vt-` and its name is the bridge, 10.77.`number`.0/24 the subnet.
fn full(name: &str, number: u8) -> String {
    format!(
        "<network xmlns:vireo='urn:vireo:network:1'><name>{name}</name><forward mode='nat'><nat ipv6='yes'/></forward>
         <bridge name='vt-{name}'/><domain name='lan'/>
         <ip address='10.77.{number}.1' prefix='24'>
           <dhcp><range start='10.77.{number}.2' end='10.77.{number}.254'/></dhcp></ip>
         <ip family='ipv6' address='fd00:77:{number}::1' prefix='64'/>
         <vireo:options>
           <vireo:portForward proto='tcp' port='80{number}' to='10.77.{number}.2' toPort='80'/></vireo:options></network>"
    )
}

impl Place {
    fn define_full(&self, name: &str, number: u8) {
        self.ok(&["net-define", &self.write(&format!("{name}.xml"), full(name, number))]);
    }
}

/// Waits until a daemon, which answers before it has looked at all networks, has made the host what it should be.
fn becomes(expected: &[String], when: &str) {
    let since = Instant::now();
    while host() != expected && since.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    assert_eq!(host(), expected, "{when}");
}

/// Processes that serve networks of a place.
fn services(place: &Place) -> Vec<u32> {
    let state = place.text("state/networks");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let serves = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("\0network-services\0") && line.contains(&state)
    };
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(serves).collect()
}

/// Waits for what a process does by itself.
fn wait(what: &str, mut happened: impl FnMut() -> bool) {
    let since = Instant::now();
    while !happened() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

const NINE: &str = "<host ip='10.77.77.9'><hostname>nine.lan</hostname></host>";

/// Whether a guest on network `n`, whose interface is `p0`, is told what `NINE` says.
fn is_served(guest: &Neighbour) -> bool {
    sh("ip link set p0 master vt-n");
    // The bridge lets packets pass a little after its port is there.
    let said = guest.sh("dig +short +time=1 +tries=10 @10.77.77.1 nine.lan A || true");
    said.trim() == "10.77.77.9"
}

#[test]
fn a_daemon_that_follows_a_killed_one_finds_networks_leases_and_rules() {
    in_network(|| {
        let (place, untouched) = (Place::new(), host());
        let vireod = place.start();
        place.define_full("n", 77);
        place.ok(&["net-start", "n"]);
        let guest = Neighbour::at("p0");
        sh("ip link set p0 master vt-n");
        let address = guest.lease("52:54:00:00:00:0a", "ten");
        let seen = || {
            let index = sh("cat /sys/class/net/vt-n/ifindex");
            let told = ["net-dumpxml n", "net-dhcp-leases n", "net-info n"]
                .map(|line| place.ok(&line.split(' ').collect::<Vec<_>>()));
            (index, services(&place), told, host())
        };
        let before = seen();
        assert!(before.2[1].contains(&address) && before.2[1].contains("ten"), "{before:?}");
        assert_eq!(before.1.len(), 1);
        vireod.kill();
        assert_eq!(guest.lease("52:54:00:00:00:0a", "ten"), address, "without a daemon");
        let vireod = place.start();
        // A lease has been renewed.
        let mut after = seen();
        after.2[1].clone_from(&before.2[1]);
        assert_eq!(after, before);
        assert!(place.ok(&["net-dhcp-leases", "n"]).contains(&address));
        place.ok(&["net-destroy", "n"]);
        drop(guest);
        wait("the guest's interface goes", || !sh("ip -o link").contains("p0"));
        assert_eq!(host(), untouched);
        assert!(services(&place).is_empty());
        assert!(vireod.end().success());
    });
}

/// Asks for a change of network `n`; whether it was answered.
fn ask(connection: &mut Connection, what: &str) -> bool {
    let found = connection.call(&NetworkLookupByName { name: "n".to_owned() });
    let Ok(net) = found.map(|found| found.net) else { return false };
    let answer = match what {
        "start" => connection.call(&NetworkCreate { net }),
        "destroy" => connection.call(&NetworkDestroy { net }),
        // virNetworkUpdate: add (3) a host of DNS (10), to what runs (1).
        _ => {
            let xml = NINE.to_owned();
            connection.call(&NetworkUpdate { net, command: 3, section: 10, parent_index: -1, xml, flags: 1 })
        }
    };
    answer.is_ok()
}

#[test]
fn a_daemon_killed_in_the_middle_of_a_change_is_followed_by_one_that_completes_or_removes() {
    in_network(|| {
        let guest = Neighbour::at("p0");
        guest.sh("ip addr add 10.77.77.50/24 dev eth0");
        let (place, untouched) = (Place::new(), host());
        let vireod = place.start();
        place.define_full("n", 77);
        let timed = |what: &str| {
            let since = Instant::now();
            assert!(ask(&mut place.connect(), what), "{what}");
            since.elapsed()
        };
        let start = timed("start");
        let (running, update) = (host(), timed("update"));
        assert!(is_served(&guest), "it would be seen");
        let destroy = timed("destroy");
        assert_eq!(host(), untouched);
        drop(vireod);
        for (what, time) in [("start", start), ("update", update), ("destroy", destroy)] {
            for moment in 0..=MOMENTS {
                let when = format!("killed at {moment} of {MOMENTS}, {what}");
                let vireod = place.start();
                if what != "start" {
                    assert!(ask(&mut place.connect(), "start"), "{when}");
                }
                let process = services(&place);
                let mut connection = place.connect();
                let answered = std::thread::scope(|scope| {
                    let asked = scope.spawn(move || ask(&mut connection, what));
                    // Not to wait for something: the moment of the kill is what is tried.
                    std::thread::sleep(time * moment / MOMENTS);
                    vireod.kill();
                    asked.join().unwrap()
                });
                let next = place.start();
                let active = place.ok(&["net-list", "--name"]).trim() == "n";
                assert!(!answered || active == (what != "destroy"), "{when}: what was answered is so");
                assert!(active || what != "update", "{when}");
                becomes(if active { &running } else { &untouched }, &when);
                wait(&when, || services(&place).len() == usize::from(active));
                if what == "update" {
                    assert_eq!(services(&place), process, "{when}");
                    let known = place.ok(&["net-dumpxml", "n"]).contains("10.77.77.9");
                    assert!(known || !answered, "{when}");
                    assert_eq!(is_served(&guest), known, "{when}: what is known is what is served");
                }
                if active {
                    place.ok(&["net-dhcp-leases", "n"]);
                    place.ok(&["net-destroy", "n"]);
                }
                assert_eq!(host(), untouched, "{when}");
                let left = std::fs::read_dir(place.path("run/networks")).unwrap().count();
                assert_eq!(left, 0, "{when}");
                drop(next);
            }
        }
    });
}

#[test]
fn networks_come_back_after_the_host_was_booted() {
    in_network(|| {
        let (place, untouched) = (Place::new(), host());
        let vireod = place.start();
        place.define_full("n", 77);
        place.ok(&["net-start", "n"]);
        place.ok(&["net-create", &place.write("t.xml", full("t", 78))]);
        place.define_full("off", 79);
        let running = host();
        let address = {
            let guest = Neighbour::at("p0");
            sh("ip link set p0 master vt-n");
            guest.lease("52:54:00:00:00:0a", "ten")
        };
        wait("the guest's interface goes", || !sh("ip -o link").contains("p0"));
        let others = services(&place);
        vireod.kill();
        for pid in others {
            run("kill", &["-KILL", &pid.to_string()]);
        }
        wait("all processes are gone", || services(&place).is_empty());
        sh("ip link del vt-n; ip link del vt-t; nft flush ruleset
            echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
        std::fs::remove_dir_all(place.path("run")).unwrap();
        assert_eq!(host(), untouched);
        let vireod = place.start();
        assert_eq!(place.ok(&["net-list", "--name"]), "n\nt\n\n");
        becomes(&running, "after a boot");
        wait("both are served", || services(&place).len() == 2);
        wait("a lease is for longer than a boot", || {
            place.virsh(&["net-dhcp-leases", "n"]).out.contains(&address)
        });
        for name in ["n", "t"] {
            place.ok(&["net-destroy", name]);
        }
        assert_eq!(host(), untouched);
        // What is on the host's own network by then stays off, and the host is not cut off from it.
        place.ok(&["net-start", "n"]);
        vireod.kill();
        for pid in services(&place) {
            run("kill", &["-KILL", &pid.to_string()]);
        }
        sh("ip link del vt-n; nft flush ruleset; ip link add up0 type veth peer name up1
            ip addr add 10.77.77.200/24 dev up0; ip link set up0 up");
        std::fs::remove_dir_all(place.path("run")).unwrap();
        let vireod = place.start();
        wait("it is off", || place.ok(&["net-list", "--name"]).trim().is_empty());
        let log = vireod.log();
        assert!(
            log.contains("10.77.77.1/24 overlaps the address 10.77.77.200/24 of interface 'up0'"),
            "{log}"
        );
        assert!(!sh("ip -o link; nft list ruleset").contains("vt-n"));
    });
}

#[test]
fn daemons_beside_each_other_leave_each_others_networks_alone() {
    in_network(|| {
        let (one, two, untouched) = (Place::new(), Place::new(), host());
        let (first, second) = (one.start(), two.start());
        for (place, name, number) in [(&one, "a", 1), (&two, "b", 2)] {
            place.define_full(name, number);
            place.ok(&["net-start", name]);
        }
        let both = host();
        let tables = sh("nft list tables inet");
        assert_eq!(tables.lines().count(), 2, "{tables}");
        // The same bridge, subnet and port as the other's.
        let same = |bridge: &str, subnet: u8, port: u16| {
            let text = full("c", subnet).replace("vt-c", bridge);
            text.replace(&format!("80{subnet}"), &port.to_string())
        };
        for (document, message) in [
            (
                same("vt-a", 3, 803),
                "network 'c': the bridge's name 'vt-a' is that of an interface of 'vireo network ",
            ),
            (
                same("vt-c", 1, 803),
                "its subnet 10.77.1.1/24 overlaps the address 10.77.1.1/24 of interface 'vt-a'",
            ),
        ] {
            two.fails(&["net-create", &two.write("c.xml", document)], &[message]);
            assert_eq!(host(), both);
        }
        first.kill();
        let first = one.start();
        second.kill();
        let second = two.start();
        becomes(&both, "after both were killed");
        assert_eq!((services(&one).len(), services(&two).len()), (1, 1));
        one.ok(&["net-destroy", "a"]);
        let left = sh("ip -br link; nft list ruleset");
        assert!(!left.contains("vt-a") && left.contains("vt-b") && left.contains("fd00:77:2::"), "{left}");
        assert_eq!((services(&one).len(), services(&two).len()), (0, 1));
        two.ok(&["net-destroy", "b"]);
        let after = host();
        assert_eq!((&after[0], &after[2]), (&untouched[0], &untouched[2]));
        drop((first, second));
    });
}

/// The host's daemon: where it keeps its things is not said.
fn host_daemon(place: &Place) -> Vireod {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vireod"));
    command.arg("--machine-program").arg("/bin/false");
    Vireod::start(command, place.path("log"))
}

fn of_host(arguments: &[&str]) -> String {
    let said = virsh("qemu:///system?socket=/run/vireo/libvirt-sock", arguments);
    assert!(said.status.success(), "{arguments:?}: {said:?}");
    said.out
}

/// A host on which there has not been a daemon yet.
fn new_host() {
    sh("mount -t tmpfs none /run; mount -t tmpfs none /var/lib");
}

#[test]
fn a_new_host_has_the_default_network_until_somebody_forgets_it() {
    in_network(|| {
        new_host();
        let (place, untouched) = (Place::new(), host());
        let vireod = host_daemon(&place);
        wait("it is on", || of_host(&["net-list", "--all"]).contains(" default   active   yes         yes"));
        let address = sh("ip -br address show dev virbr0");
        assert!(address.contains("192.168.122.1/24"), "{address}");
        assert!(sh("nft list tables").contains("table inet vireo\n"));
        let guest = Neighbour::at("p0");
        sh("ip link set p0 master virbr0");
        assert!(guest.lease("52:54:00:00:00:0a", "ten").starts_with("192.168.122."));
        drop(guest);
        vireod.kill();
        let vireod = host_daemon(&place);
        of_host(&["net-destroy", "default"]);
        wait("the guest's interface goes", || !sh("ip -o link").contains("p0"));
        assert_eq!(host(), untouched);
        assert_eq!(vireod.log(), "", "nothing to complain about");
        vireod.kill();
        // It starts with the daemon, and is not made again once it is forgotten.
        let vireod = host_daemon(&place);
        wait("it is on", || of_host(&["net-list", "--name"]).contains("default"));
        of_host(&["net-destroy", "default"]);
        of_host(&["net-undefine", "default"]);
        vireod.kill();
        let _vireod = host_daemon(&place);
        assert_eq!(of_host(&["net-list", "--all", "--name"]).trim(), "");
        assert_eq!(host(), untouched);
    });
}

#[test]
fn a_new_host_whose_own_network_is_the_default_one_s_keeps_its_network() {
    in_network(|| {
        new_host();
        sh(
            "ip link add up0 type veth peer name up1; ip addr add 192.168.122.50/24 dev up0; ip link set up0 up",
        );
        let (place, untouched) = (Place::new(), host());
        let vireod = host_daemon(&place);
        wait("it was tried", || !vireod.log().is_empty());
        let listed = of_host(&["net-list", "--all"]);
        assert!(listed.contains(" default   inactive   yes         yes"), "{listed}");
        let log = vireod.log();
        assert!(
            log.contains("network 'default' does not start")
                && log.contains("192.168.122.1/24 overlaps the address 192.168.122.50/24 of interface 'up0'"),
            "{log}"
        );
        assert_eq!(host(), untouched);
    });
}
