//! Networks, by the names of this program and by virsh's. Those that start do so in a network namespace of their own.

use super::*;

const NETWORK: &str = "<network><name>n</name><forward mode='nat'/><bridge name='vct-n'/>\
    <ip address='10.78.1.1' netmask='255.255.255.0'><dhcp>\
    <range start='10.78.1.2' end='10.78.1.254'/></dhcp></ip></network>";

/// A place whose daemon is in a network namespace of its own; none where that can't be.
fn apart() -> Option<Place> {
    let possible = Command::new("unshare").args(["--net", "true"]).output();
    if !rustix::process::geteuid().is_root() || !possible.is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: network namespaces take root and CAP_SYS_ADMIN");
        return None;
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--"]).arg(vireod());
    Some(Place::of(unshare))
}

impl Place {
    /// What a program says in the daemon's network namespace.
    fn inside(&self, words: &[&str]) -> String {
        let pid = self.daemon.id().to_string();
        let mut command = Command::new("nsenter");
        let said = Said::of(command.args(["--net", "--target", &pid, "--"]).args(words));
        assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
        said.out
    }
}

#[test]
fn a_definition_is_made_shown_edited_and_forgotten() {
    let place = Place::new();
    let file = place.write("n.xml", NETWORK);
    assert_eq!(place.ok(&["net-define", &file]), format!("Network 'n' defined from {file}\n"));
    let empty = format!(" Name   State   Autostart   Persistent\n{}\n", "-".repeat(40));
    assert_eq!(place.ok(&["network", "list"]), empty);
    let heading = format!(" Name   State      Autostart   Persistent\n{}\n", "-".repeat(43));
    assert_eq!(place.ok(&["net-list", "--all"]), format!("{heading} n      inactive   no          yes\n"));
    assert_eq!(place.ok(&["network", "list", "--inactive", "--name"]), "n\n");
    let uuid = place.ok(&["net-uuid", "n"]);
    assert_eq!(place.ok(&["net-name", uuid.trim()]), "n\n");
    assert_eq!(place.ok(&["network", "list", "--all", "--uuid", "--name"]), format!("{} n\n", uuid.trim()));
    place.ok(&["network", "autostart", "n"]);
    let known = place.json(&["network", "info", uuid.trim()]);
    assert_eq!(known["addresses"], serde_json::json!(["10.78.1.1/24"]));
    assert_eq!((&known["kind"], &known["bridge"]), (&"nat".into(), &"vct-n".into()));
    assert_eq!((&known["active"], &known["autostart"]), (&false.into(), &true.into()));
    assert_eq!(place.json(&["network", "list", "--all"])["networks"][0], known);
    place.ok(&["net-autostart", "n", "--disable"]);
    let info = place.ok(&["net-info", "n"]);
    for line in ["Autostart:      no\n", "Bridge:         vct-n\n", "Address:        10.78.1.1/24\n"] {
        assert!(info.contains(line), "no {line:?} in {info}");
    }
    assert!(place.ok(&["network", "list", "--all", "--details"]).contains(" nat    vct-n    10.78.1.1/24\n"));
    let edited = Said::of(place.command(&["network", "edit", "n"]).env("EDITOR", "sed -i s/vct-n/vct-e/"));
    assert_eq!(edited.out, "Network 'n' XML configuration edited.\n", "{edited:?}");
    assert_eq!(place.json(&["net-dumpxml", "n"])["xml"], place.ok(&["network", "xml", "n", "--inactive"]));
    assert!(place.ok(&["network", "xml", "n"]).contains("<bridge name='vct-e'"));
    assert_eq!(place.ok(&["net-undefine", "n"]), "Network 'n' has been undefined\n");
    place.ok(&["network", "define", &file]);
    assert_eq!(place.ok(&["network", "delete", "n"]), "Network 'n' deleted\n");
    assert_eq!(place.ok(&["network", "list", "--all", "--name"]), "");
}

#[test]
fn mistakes_about_networks_say_what_to_do() {
    let place = Place::new();
    place.ok(&["net-define", &place.write("n.xml", &NETWORK.replace(">n<", ">office<"))]);
    place.fails(&["network", "info", "ofice"], 4, &["there is no network \"ofice\"", "did you mean office?"]);
    place.fails(&["net-start", "xyzzy"], 4, &["there is no network", "vireo network list --all"]);
    place.fails(
        &["network", "stop", "office"],
        5,
        &["cannot stop the network office", "vireo network start"],
    );
    place.fails(&["network", "create", "office"], 1, &["there is a network \"office\" already"]);
    place.fails(&["network", "create", "a", "--subnet", "10.1.2.0"], 2, &["10.1.2.0/24"]);
    place.fails(&["network", "create", "a", "--kind", "bridge=br0", "--mtu", "1400"], 2, &["--mtu"]);
    place.fails(&["network", "set", "office"], 2, &["--host"]);
    let gone = ["network", "set", "office", "--remove-host", "52:54:00:00:00:01"];
    place.fails(&gone, 1, &["cannot change the network office", "vireo network info office"]);
    place.fails(
        &["network", "set", "office", "--remove-forward", "tcp:80"],
        1,
        &["does not forward the port 80"],
    );
    place.fails(&["net-define", &place.write("bad.xml", "<network/>")], 1, &["cannot define a network from"]);
    place.fails(&["network", "events", "--event", "lifecycl"], 2, &["did you mean lifecycle?"]);
    place.fails(&["-r", "network", "delete", "office"], 6, &["cannot undefine the network office"]);
    let create = ["create", "m", "--kernel", "/boot/none", "--network"];
    place.fails(&[&create[..], &["ofice"]].concat(), 4, &["did you mean office?"]);
    place.fails(&[&create[..], &["office"]].concat(), 5, &["is not active", "vireo network start office"]);
    assert_eq!(place.ok(&["list", "--all", "--name"]), "", "nothing was made");
}

#[test]
fn words_define_a_network_whose_subnet_is_nobody_elses() {
    let place = Place::new();
    place.ok(&["net-define", &place.write("n.xml", &NETWORK.replace("10.78.1.", "192.168.122."))]);
    let xml = place.ok(&["network", "create", "a", "--print-xml"]);
    assert!(xml.contains("<ip address='10.122.0.1' prefix='24'>"), "192.168.122.0/24 is taken: {xml}");
    assert_eq!(place.ok(&["network", "list", "--all", "--name"]), "n\n", "it was only printed");
    let made = place.json(&["network", "create", "a", "--no-start", "--domain", "lan"]);
    assert_eq!(made["network"]["addresses"], serde_json::json!(["10.122.0.1/24"]));
    assert_eq!((&made["done"], &made["network"]["active"]), (&"defined".into(), &false.into()));
    let words = ["network", "create", "b", "--no-start", "--no-autostart", "--subnet", "10.1.2.0/24"];
    place.ok(&[&words[..], &["--forward", "tcp:8080=10.1.2.10:80"]].concat());
    let known = place.json(&["network", "info", "b"]);
    assert_eq!(known["forwards"], serde_json::json!(["tcp:8080=10.1.2.10:80"]));
    assert_eq!(known["autostart"], false);
    place.ok(&["network", "set", "b", "--remove-forward", "tcp:8080", "--forward", "udp:53=10.1.2.10"]);
    let host =
        ["network", "set", "b", "--host", "52:54:00:00:00:01=10.1.2.10,web", "--dns", "10.1.2.10=www,web2"];
    place.ok(&host);
    let known = place.json(&["network", "info", "b"]);
    assert_eq!(known["forwards"], serde_json::json!(["udp:53=10.1.2.10:53"]));
    assert_eq!(known["dhcp_hosts"], serde_json::json!(["52:54:00:00:00:01=10.1.2.10,web"]));
    assert!(place.ok(&["net-dumpxml", "b"]).contains("<hostname>web2</hostname>"));
    place.ok(&["network", "set", "b", "--remove-host", "52:54:00:00:00:01", "--remove-dns", "10.1.2.10"]);
    assert_eq!(place.json(&["network", "info", "b"])["dhcp_hosts"], serde_json::json!([]));
    let text = "<txt name='a' value='b'/>";
    place.ok(&["net-update", "b", "add", "dns-txt", text, "--config"]);
    assert!(place.ok(&["net-dumpxml", "b"]).contains(text));
    place.ok(&["network", "update", "b", "delete", "dns-txt", &place.write("txt.xml", "<txt name='a'/>")]);
    assert!(!place.ok(&["net-dumpxml", "b"]).contains("<txt"));
    place.fails(&["net-update", "b", "modify", "ip", "<ip/>"], 8, &["cannot update the network b"]);
}

#[test]
fn a_network_runs_and_leaves_nothing() {
    let Some(place) = apart() else { return };
    // Somebody's: a subnet that was not asked for is another one then.
    place.inside(&["ip", "link", "add", "theirs", "type", "bridge"]);
    place.inside(&["ip", "address", "add", "192.168.0.1/16", "dev", "theirs"]);
    let said = place.ok(&["network", "create", "lan"]);
    assert_eq!(said, "Network 'lan' created and started, the host is 10.122.0.1/24\n");
    let known = place.json(&["network", "info", "lan"]);
    assert_eq!((&known["active"], &known["autostart"]), (&true.into(), &true.into()));
    let bridge = known["bridge"].as_str().unwrap();
    assert!(place.inside(&["ip", "-br", "address", "show", bridge]).contains("10.122.0.1/24"));
    let taken = ["network", "create", "other", "--subnet", "192.168.7.0/24"];
    place.fails(&taken, 8, &["cannot start the network other", "192.168.7.1/24", "theirs"]);
    assert_eq!(place.ok(&["network", "list", "--all", "--name"]), "lan\n", "what failed is taken back");
    assert_eq!(place.ok(&["net-dhcp-leases", "lan"]).lines().count(), 2);
    assert_eq!(place.json(&["network", "leases", "lan"])["leases"], serde_json::json!([]));
    place.ok(&["network", "set", "lan", "--host", "52:54:00:00:00:01=10.122.0.10,web"]);
    for flags in [&[][..], &["--inactive"]] {
        let xml = place.ok(&[&["network", "xml", "lan"], flags].concat());
        assert!(xml.contains("52:54:00:00:00:01"), "{flags:?}: {xml}");
    }
    place.ok(&["net-destroy", "lan"]);
    place.ok(&["net-start", "lan"]);
    place.fails(&["net-start", "lan"], 5, &["already active"]);
    let transient = place.write("t.xml", NETWORK);
    assert_eq!(place.ok(&["net-create", &transient]), format!("Network 'n' created from {transient}\n"));
    assert_eq!(place.json(&["network", "info", "n"])["persistent"], false);
    for name in ["n", "lan"] {
        place.ok(&["network", "delete", name]);
    }
    assert_eq!(place.ok(&["network", "list", "--all", "--name"]), "");
    assert!(!place.inside(&["ip", "-br", "link", "show", "type", "bridge"]).contains("vct-n"));
}

#[test]
fn events_of_networks_are_told_as_they_happen() {
    let place = Place::new();
    place.ok(&["net-define", &place.write("n.xml", NETWORK)]);
    let wanted = ["network", "events", "--event", "lifecycle", "--count", "1", "--timeout", "60", "--json"];
    let mut watcher = place.command(&wanted).stdout(Stdio::piped()).spawn().unwrap();
    // Until it listens, the same happens again.
    while watcher.try_wait().unwrap().is_none() {
        place.ok(&["net-define", &place.write("n.xml", &place.ok(&["net-dumpxml", "n"]))]);
    }
    let said = Said::from(watcher.wait_with_output().unwrap());
    let event: Value = serde_json::from_str(said.out.trim()).unwrap();
    assert_eq!((&event["event"], &event["type"]), (&"lifecycle".into(), &"Defined".into()), "{said:?}");
    assert_eq!(event["network"]["name"], "n");
    assert_eq!(place.ok(&["net-event", "--list"]), "lifecycle\nmetadata-change\n");
}
