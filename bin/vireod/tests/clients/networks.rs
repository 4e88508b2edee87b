//! Every verb of virsh about networks, what it says of mistakes, and network events.

mod life;
mod refused;

use std::process::Stdio;

use super::*;

const NETWORK: &str = "<network><name>n</name><forward mode='nat'/><bridge name='vnettest0'/>\
    <ip address='198.51.100.1' netmask='255.255.255.0'><dhcp>\
    <range start='198.51.100.2' end='198.51.100.254'/></dhcp></ip></network>";

fn define(place: &Place, name: &str) -> String {
    let number = name.bytes().map(usize::from).sum::<usize>() % 200;
    let document = NETWORK
        .replace("<name>n<", &format!("<name>{name}<"))
        .replace("vnettest0", &format!("vt-{name}"))
        .replace("198.51.100", &format!("10.77.{number}"));
    let file = place.write(&format!("{name}.xml"), document);
    place.ok(&["net-define", &file])
}

#[test]
fn a_definition_goes_through_its_life() {
    let place = Place::new();
    let vireod = place.start();
    assert_eq!(define(&place, "n"), format!("Network n defined from {}\n\n", place.text("n.xml")));
    assert_eq!(place.ok(&["net-list", "--all", "--name"]), "n\n\n");
    assert_eq!(place.ok(&["net-list", "--name"]).trim(), "");
    let information = place.ok(&["net-info", "n"]);
    for line in [
        "Name:           n",
        "Active:         no",
        "Persistent:     yes",
        "Autostart:      no",
        "Bridge:         vt-n",
    ] {
        assert!(information.contains(line), "{line}: {information}");
    }
    let uuid = place.ok(&["net-uuid", "n"]);
    assert_eq!(place.ok(&["net-name", uuid.trim()]).trim(), "n");
    let document = place.ok(&["net-dumpxml", "n"]);
    for line in [
        "<network>",
        "  <forward mode='nat'/>",
        "  <bridge name='vt-n' stp='on' delay='0'/>",
        "  <mac address='52:54:00:",
    ] {
        assert!(document.lines().any(|found| found.starts_with(line)), "{line}: {document}");
    }
    assert_eq!(place.ok(&["net-autostart", "n"]), "Network n marked as autostarted\n\n");
    assert_eq!(place.ok(&["net-autostart", "n", "--disable"]), "Network n unmarked as autostarted\n\n");
    let title = document.replace("  <forward", "  <title>t</title>\n  <forward");
    place.ok(&["net-define", &place.write("title.xml", &title)]);
    assert_eq!(place.ok(&["net-dumpxml", "n"]), title, "bridge and address stay");
    vireod.kill();
    let _vireod = place.start();
    assert_eq!(place.ok(&["net-dumpxml", "n"]), title);
    assert_eq!(place.ok(&["net-undefine", "n"]), "Network n has been undefined\n\n");
    assert_eq!(place.ok(&["net-list", "--all", "--name"]).trim(), "");
}

#[test]
fn an_editor_changes_a_definition() {
    let place = Place::new();
    let _vireod = place.start();
    define(&place, "n");
    let edited = Command::new("virsh")
        .env("LC_ALL", "C")
        .env("EDITOR", "sed -i s/vt-n/vt-edited/")
        .args(["-c", &place.uri(&place.socket()), "net-edit", "n"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(edited.status.success(), "{edited:?}");
    assert!(place.ok(&["net-info", "n"]).contains("vt-edited"));
}

#[test]
fn lists_are_chosen_by_state() {
    let place = Place::new();
    let _vireod = place.start();
    for name in ["a", "b"] {
        define(&place, name);
    }
    place.ok(&["net-autostart", "b"]);
    let names = |arguments: &[&str]| -> Vec<String> {
        let printed = place.ok(&[&["net-list", "--name"], arguments].concat());
        printed.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(names(&["--all"]), ["a", "b"]);
    assert_eq!(names(&["--inactive"]), ["a", "b"]);
    assert_eq!(names(&["--all", "--autostart"]), ["b"]);
    assert_eq!(names(&["--all", "--no-autostart"]), ["a"]);
    assert_eq!(names(&["--all", "--transient"]), [] as [&str; 0]);
    let told = python(
        &place.uri(&place.socket()),
        "print(connection.listNetworks(), connection.numOfNetworks(), connection.listDefinedNetworks(),
      connection.numOfDefinedNetworks(), len(connection.listAllNetworks(0)))",
    );
    assert_eq!(told.out.trim(), "[] 0 ['a', 'b'] 2 2", "{told:?}");
}

#[test]
fn mistakes_are_told_in_libvirts_words() {
    let place = Place::new();
    let _vireod = place.start();
    let missing = "error: Network not found: no network with matching name 'nowhere'";
    for verb in [
        "net-info",
        "net-start",
        "net-destroy",
        "net-undefine",
        "net-dumpxml",
        "net-autostart",
        "net-dhcp-leases",
    ] {
        place.fails(&[verb, "nowhere"], &["error: failed to get network 'nowhere'", missing]);
    }
    for (document, message) in [
        ("<network/>", "error: missing name information"),
        ("<network><name>n</name>", "error: "),
        ("<network><name>a/b</name></network>", "error: XML error: invalid char in name: /"),
        (
            "<network><name>n</name><forward/></network>",
            "XML error: nat forwarding requested, but no IP address provided for network 'n'",
        ),
        ("<network><name>n</name><forward mode='hostdev'/></network>", "unsupported configuration: "),
        ("<network><name>n</name><colour/></network>", "unsupported configuration: network/colour"),
    ] {
        let file = place.write("bad.xml", document);
        place.fails(&["net-define", &file], &["error: Failed to define network from", message]);
        place.fails(&["net-create", &file], &["error: Failed to create network from", message]);
    }
    define(&place, "n");
    let file = place.write("again.xml", "<network><name>n</name></network>");
    place.fails(&["net-define", &file], &["operation failed: network 'n' already exists with uuid "]);
    let file = place.write("bridge.xml", "<network><name>m</name><bridge name='vt-n'/></network>");
    place.fails(&["net-define", &file], &["bridge name 'vt-n' already in use by network 'n'"]);
    place.fails(&["net-destroy", "n"], &["Requested operation is not valid: network 'n' is not active"]);
    assert_eq!(place.ok(&["net-port-list", "n"]).lines().count(), 3, "a header, a line, nothing");
    place.fails(&["net-port-list", "nowhere"], &["error: failed to get network 'nowhere'", missing]);
    let call = ["net-define", &file];
    place.virsh(&[&["-r"], &call[..]].concat()).failed_with(&call, &["read only"]);
}

#[test]
fn sections_of_a_definition_are_changed() {
    let place = Place::new();
    let _vireod = place.start();
    define(&place, "n");
    let number = 110;
    let host = format!("<host mac='52:54:00:00:00:09' name='nine' ip='10.77.{number}.9'/>");
    let printed = place.ok(&["net-update", "n", "add", "ip-dhcp-host", &host, "--config"]);
    assert_eq!(printed, "Updated network n persistent config\n");
    assert!(place.ok(&["net-dumpxml", "n"]).contains(&host));
    let again = ["net-update", "n", "add", "ip-dhcp-host", &host, "--config"];
    place.fails(&again, &["Requested operation is not valid: there is an existing dhcp host entry in network 'n' that matches"]);
    place.ok(&["net-update", "n", "add-first", "dns-txt", "<txt name='a' value='b'/>", "--current"]);
    place.ok(&["net-update", "n", "delete", "ip-dhcp-host", &host, "--config"]);
    let document = place.ok(&["net-dumpxml", "n"]);
    assert!(!document.contains(&host) && document.contains("<txt name='a' value='b'/>"), "{document}");
    let live = ["net-update", "n", "delete", "dns-txt", "<txt name='a'/>", "--live"];
    place.fails(&live, &["Requested operation is not valid: network is not running"]);
    let bridge = ["net-update", "n", "modify", "bridge", "<bridge name='x'/>", "--config"];
    place.fails(&bridge, &["Operation not supported: can't update 'bridge' section of network 'n'"]);
}

/// What virsh is told of network `n`, the first `count`, while `act` is done.
fn told(place: &Place, count: usize, act: impl FnOnce()) -> Vec<String> {
    define(place, "other");
    let listen = ["net-event", "--event", "lifecycle"];
    let nudge = || define_again(place, "other");
    let seen = events_during(place, &listen, nudge, "for network n: ", count, act);
    seen.iter().filter_map(|line| Some(line.split_once("for network n: ")?.1.to_owned())).collect()
}

#[test]
fn events_of_networks_are_seen_in_their_order() {
    let place = Place::new();
    let _vireod = place.start();
    let told = told(&place, 2, || {
        define(&place, "n");
        place.ok(&["net-undefine", "n"]);
    });
    assert_eq!(told, ["Defined", "Undefined"]);
}

#[test]
fn starts_and_stops_of_networks_are_told_and_changes_of_them_are_not() {
    crate::own_network::in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let told = told(&place, 6, || {
            define(&place, "n");
            place.ok(&["net-start", "n"]);
            place.virsh(&["net-start", "n"]);
            place.ok(&[
                "net-update",
                "n",
                "add",
                "dns-txt",
                "<txt name='a' value='b'/>",
                "--live",
                "--config",
            ]);
            place.ok(&["net-destroy", "n"]);
            let document = place.ok(&["net-dumpxml", "n"]);
            place.ok(&["net-undefine", "n"]);
            place.ok(&["net-create", &place.write("transient.xml", document)]);
            place.ok(&["net-destroy", "n"]);
        });
        assert_eq!(told, ["Defined", "Started", "Stopped", "Undefined", "Started", "Stopped"]);
    });
}

fn define_again(place: &Place, name: &str) {
    let document = place.ok(&["net-dumpxml", name]);
    place.ok(&["net-define", &place.write("again.xml", document)]);
}

/// A daemon in a network namespace of its own; none where that can't be.
fn apart(place: &Place) -> Option<Vireod> {
    let possible =
        Command::new("unshare").args(["--net", "true"]).output().is_ok_and(|done| done.status.success());
    if !possible || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces take root and CAP_SYS_ADMIN");
        return None;
    }
    let daemon = place.command();
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(daemon.get_program()).args(daemon.get_args());
    Some(Vireod::start(command, place.path("log")))
}

#[test]
fn a_network_starts_outlives_the_daemon_and_leaves_nothing() {
    let place = Place::new();
    let Some(vireod) = apart(&place) else { return };
    let pid = vireod.child.id().to_string();
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid, "--"]).args(arguments);
        said(&mut command).out
    };
    define(&place, "n");
    assert_eq!(place.ok(&["net-start", "n"]), "Network n started\n\n");
    place.fails(&["net-start", "n"], &["Requested operation is not valid: network is already active"]);
    assert!(place.ok(&["net-list"]).contains(" n      active   no          yes"));
    assert!(inside(&["ip", "-br", "address", "show", "vt-n"]).contains("10.77.110.1/24"));
    assert_eq!(place.ok(&["net-dhcp-leases", "n"]).lines().count(), 3);
    let host = "<host mac='52:54:00:00:00:09' ip='10.77.110.9'/>";
    place.ok(&["net-update", "n", "add", "ip-dhcp-host", host, "--live"]);
    assert!(place.ok(&["net-dumpxml", "n"]).contains(host));
    assert!(!place.ok(&["net-dumpxml", "n", "--inactive"]).contains(host));
    place.ok(&["net-undefine", "n"]);
    assert!(place.ok(&["net-info", "n"]).contains("Persistent:     no"));
    assert_eq!(place.ok(&["net-destroy", "n"]), "Network n destroyed\n\n");
    assert_eq!(place.ok(&["net-list", "--all", "--name"]).trim(), "");
    assert_eq!(inside(&["ip", "-br", "link", "show", "type", "bridge"]), "");
    assert_eq!(std::fs::read_dir(place.path("state/networks")).unwrap().count(), 0);
    drop(vireod);
}

/// The process that serves a network, as its lock says.
fn served_by(place: &Place, network: &str) -> u32 {
    let uuid = place.ok(&["net-uuid", network]);
    let lock = place.path("state/networks").join(uuid.trim()).join("leases.lock");
    // Nothing is written there for a moment when another begins.
    std::fs::read_to_string(lock).unwrap().trim().parse().unwrap_or(0)
}

/// The process that serves a network after another has ended.
fn served_after(place: &Place, network: &str, before: u32) -> u32 {
    let mut now = before;
    until("another process serves the network", || {
        now = served_by(place, network);
        now != 0 && now != before && place.virsh(&["net-dhcp-leases", network]).status.success()
    });
    now
}

/// Asks again until it is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !so() {
        assert!(std::time::Instant::now() < deadline, "it never happens that {what}");
        std::thread::yield_now();
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn is_there(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[test]
fn services_that_end_by_themselves_are_there_again_and_end_with_their_network() {
    let place = Place::new();
    let Some(vireod) = apart(&place) else { return };
    define(&place, "n");
    place.ok(&["net-start", "n"]);
    // By the daemon that started them, twice; the second time it waits a little.
    let mut before = served_by(&place, "n");
    for _ in 0..2 {
        kill(before);
        let after = served_after(&place, "n", before);
        assert!(!is_there(before), "it is waited for");
        before = after;
    }
    let log = vireod.log();
    assert_eq!(log.matches("services of network 'n' were ended by signal 9").count(), 2, "{log}");
    // By a daemon that has found them.
    let namespace = File::open(format!("/proc/{before}/ns/net")).unwrap();
    vireod.kill();
    let vireod = again(&place, &namespace);
    place.ok(&["net-list"]);
    assert_eq!(served_by(&place, "n"), before);
    kill(before);
    // And by one that finds them gone.
    let before = served_after(&place, "n", before);
    vireod.kill();
    kill(before);
    let _vireod = again(&place, &namespace);
    let last = served_after(&place, "n", before);
    place.ok(&["net-destroy", "n"]);
    assert!(!is_there(last));
}

/// A daemon in a namespace of another, which has ended.
fn again(place: &Place, namespace: &File) -> Vireod {
    use std::os::fd::AsRawFd;
    let daemon = place.command();
    let mut command = Command::new("nsenter");
    let namespace = format!("--net=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    command.arg(namespace).arg("--").arg(daemon.get_program()).args(daemon.get_args());
    Vireod::start(command, place.path("log"))
}

#[test]
fn names_are_answered_beside_another_program_on_their_port_also_after_repairs() {
    let place = Place::new();
    let Some(vireod) = apart(&place) else { return };
    if Command::new("dig").arg("-v").output().is_err() {
        eprintln!("skipped: there is no program dig (tools/install-dependencies)");
        return;
    }
    let namespace = File::open(format!("/proc/{}/ns/net", vireod.child.id())).unwrap();
    let inside = |line: &str| {
        use std::os::fd::AsRawFd;
        let net = format!("--net=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        said(Command::new("nsenter").arg(net).args(["sh", "-ec", line])).out
    };
    // Who listens at all addresses of both families, and says nothing.
    inside("ip link set lo up");
    let others = {
        use std::os::fd::AsFd;
        std::thread::scope(|scope| {
            let bound = std::thread::Builder::new().spawn_scoped(scope, || {
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                let all = "[::]:53";
                (std::net::UdpSocket::bind(all).unwrap(), std::net::TcpListener::bind(all).unwrap())
            });
            bound.unwrap().join().unwrap()
        })
    };
    let document = "<network><name>n</name><forward mode='nat'/><bridge name='vt-dns'/>\
        <dns><host ip='10.77.3.9'><hostname>nine</hostname></host></dns>\
        <ip address='10.77.3.1' netmask='255.255.255.0'/>\
        <ip family='ipv6' address='fd00:77:3::1' prefix='64'/></network>";
    place.ok(&["net-create", &place.write("n.xml", document)]);
    // A port, without which the kernel does not make sure of the address.
    inside("ip link add p0 type veth peer name g0; ip link set p0 master vt-dns up; ip link set g0 up");
    until("the address can be used", || !inside("ip -6 address show dev vt-dns").contains("tentative"));
    let answers = |when: &str| {
        for server in ["10.77.3.1", "fd00:77:3::1"] {
            for how in ["+notcp", "+tcp"] {
                let line = format!("dig +short +tries=1 +time=5 {how} @{server} nine || true");
                assert_eq!(inside(&line).trim(), "10.77.3.9", "{when}: {server} {how}");
            }
        }
        let rules = inside("nft list ruleset");
        assert!(rules.matches(":15353").count() >= 4, "{when}: {rules}");
    };
    answers("at once");
    // Its services die: the rules lead to whichever port the others have.
    let before = served_by(&place, "n");
    kill(before);
    served_after(&place, "n", before);
    answers("after the end of the services");
    inside("nft flush ruleset");
    until("rules are put back", || inside("nft list ruleset").contains("15353"));
    answers("after a flush");
    vireod.kill();
    inside("nft flush ruleset");
    let _vireod = again(&place, &namespace);
    place.ok(&["net-list"]);
    until("rules are put back", || inside("nft list ruleset").contains("15353"));
    answers("by another daemon");
    // A change of what runs keeps it so.
    place.ok(&["net-update", "n", "add", "dns-txt", "<txt name='a' value='b'/>", "--live"]);
    answers("after a change");
    place.ok(&["net-destroy", "n"]);
    assert_eq!(inside("nft list ruleset"), "");
    drop(others);
}

#[test]
fn what_can_not_run_is_refused_when_it_is_defined_and_a_failed_start_leaves_nothing() {
    let place = Place::new();
    let Some(_vireod) = apart(&place) else { return };
    let document = |part: &str| {
        format!(
            "<network><name>n</name><forward mode='nat'/>{part}\
             <ip address='10.77.4.1' netmask='255.255.255.0' localPtr='yes'><dhcp>\
             <range start='10.77.4.2' end='10.77.4.9'/>\
             <host mac='52:54:00:00:00:01' ip='10.77.4.20'><lease expiry='0'/></host></dhcp></ip></network>"
        )
    };
    // It can never be.
    let narrow = document("<mtu size='500'/>");
    place.fails(&["net-define", &place.write("bad.xml", narrow)], &["an MTU of 500 is too small"]);
    // It could be elsewhere: it is kept, and does not start.
    let trusting = document("").replace("<network>", "<network trustGuestRxFilters='yes'>");
    let file = place.write("trusting.xml", trusting);
    place.ok(&["net-define", &file]);
    place.fails(&["net-start", "n"], &["leave 'trustGuestRxFilters' out"]);
    place.ok(&["net-undefine", "n"]);
    // A process that can't be: what it would need is somebody else's.
    let uuid = "5ec2e3a0-0000-4000-8000-0123456789ab";
    let network = document(&format!("<uuid>{uuid}</uuid>"));
    let leases = place.path("state/networks").join(uuid);
    std::fs::create_dir_all(leases.join("leases.sqlite")).unwrap();
    let file = place.write("n.xml", &network);
    place.fails(&["net-create", &file], &["the process of its services ended at once: "]);
    assert!(!leases.exists(), "nobody knows of it");
    place.ok(&["net-create", &file]);
    let served = served_by(&place, "n");
    place.ok(&["net-destroy", "n"]);
    assert!(!is_there(served) && !leases.exists());
}
