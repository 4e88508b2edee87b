//! Every verb of virsh about networks, what it says of mistakes, and network events.

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
    place.fails(&["net-port-list", "n"], &["error: "]);
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

#[test]
fn events_of_networks_are_seen_in_their_order() {
    let place = Place::new();
    let _vireod = place.start();
    define(&place, "other");
    let listen = ["net-event", "--event", "lifecycle"];
    let told = events_during(
        &place,
        &listen,
        || define_again(&place, "other"),
        "network n:",
        "Undefined",
        || {
            define(&place, "n");
            place.ok(&["net-undefine", "n"]);
        },
    );
    let expected = ["Defined", "Undefined"].map(|what| format!("event 'lifecycle' for network n: {what}"));
    assert_eq!(told, expected);
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
