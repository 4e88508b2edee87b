//! Guests' interfaces on virtual networks: held to their addresses, known by name, found again. What is behind the card of the stand-in
//! is a network namespace with Debian's DHCP client.

use super::cards::{hear, in_network};
use super::*;
use crate::own_network::run;

const NETWORK: &str =
    "<network><name>n</name><forward mode='nat'/><bridge name='vt-ports'/><domain name='lab'/>
    <ip address='10.77.1.1' netmask='255.255.255.0'><dhcp><range start='10.77.1.2' end='10.77.1.99'/>
    <host mac='52:54:00:00:00:02' ip='10.77.1.7'/></dhcp></ip></network>";

const CARD: &str = "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='n'/>
    <model type='virtio'/></interface>";

/// What udhcpc runs when it has an address.
const SCRIPT: &str = "#!/bin/sh\n[ \"$1\" != bound ] || ip address add \"$ip/$mask\" dev \"$interface\"\n";

/// What is behind a machine's card: a network namespace with one interface.
struct Behind {
    process: Child,
    script: String,
}

impl Behind {
    /// Connects it to the first card of a machine.
    fn new(place: &Place, name: &str, mac: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo ready; exec sleep 600"]);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let script = place.write("udhcpc", SCRIPT);
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let pid = process.id().to_string();
        let behind = Self { process, script };
        let near = format!("w-{name}");
        run("ip", &["link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        run("ip", &["link", "set", &near, "up"]);
        behind.ok(&["ip", "link", "set", "eth0", "address", mac, "up"]);
        place.tell(name, &format!("wire {near}"));
        hear(&mut place.terminal(name), "wired");
        behind
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let pid = self.process.id().to_string();
        let mut command = Command::new("nsenter");
        said(command.args(["--net", "--target", &pid, "--"]).args(arguments))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert!(said.status.success(), "{arguments:?}: {said:?}");
        said.out
    }

    /// Asks for an address at the first try; the address.
    fn dhcp(&self) -> String {
        let said = self.ok(&["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "3", "-s", &self.script]);
        drop(said);
        let shown = self.ok(&["ip", "-4", "-o", "address", "show", "dev", "eth0"]);
        let address = shown.split_whitespace().skip_while(|word| *word != "inet").nth(1);
        address.unwrap().split('/').next().unwrap().to_owned()
    }

    /// Whether the host answers when the guest says that it has an address.
    fn reaches(&self, from: &str) -> bool {
        self.run(&["ping", "-c", "1", "-W", "1", "-I", from, "10.77.1.1"]).status.success()
    }

    /// What the network's name server tells this guest of a name.
    fn resolves(&self, from: &str, name: &str) -> String {
        let asked = ["dig", "-b", from, "@10.77.1.1", "+short", "+time=2", "+tries=2", name];
        self.ok(&asked).trim().to_owned()
    }

    /// Waits until the host answers.
    fn comes_to_reach(&self, from: &str) {
        let since = Instant::now();
        while !self.reaches(from) {
            assert!(since.elapsed() < PATIENCE, "{}", run("nft", &["list", "ruleset"]));
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn port_of(place: &Place) -> String {
    let list = place.ok(&["net-port-list", "n"]);
    let uuids: Vec<&str> = list.lines().skip(2).map(str::trim).filter(|line| !line.is_empty()).collect();
    let [uuid] = &*uuids else { panic!("{list}") };
    (*uuid).to_owned()
}

#[test]
fn a_guest_has_the_address_that_it_was_given_and_its_name_whatever_becomes_of_daemon_and_network() {
    in_network(|| {
        let place = Place::new();
        let vireod = place.start();
        place.ok(&["net-define", &place.write("n.xml", NETWORK)]);
        let _one = place.define_cards("one", CARD);
        place.fails(&["start", "one"], &["Requested operation is not valid: network 'n' is not active"]);
        place.ok(&["net-start", "n"]);
        place.ok(&["start", "one"]);
        let port = port_of(&place);
        let shown = place.ok(&["dumpxml", "one"]);
        let source = format!("<source network='n' portid='{port}' bridge='vt-ports'/>");
        assert!(shown.contains(&source), "{shown}");
        assert!(place.ok(&["net-dumpxml", "n"]).starts_with("<network connections='1'>"));
        assert!(place.ok(&["net-dumpxml", "n", "--inactive"]).starts_with("<network>"));
        let behind = Behind::new(&place, "one", "52:54:00:00:00:01");
        behind.ok(&["ip", "address", "add", "10.77.1.50/24", "dev", "eth0"]);
        assert!(!behind.reaches("10.77.1.50"), "it was given none");
        behind.ok(&["ip", "address", "flush", "dev", "eth0"]);
        let address = behind.dhcp();
        behind.comes_to_reach(&address);
        behind.ok(&["ip", "address", "add", "10.77.1.50/24", "dev", "eth0"]);
        assert!(!behind.reaches("10.77.1.50"), "it was given another");
        for name in ["one", "one.lab"] {
            assert_eq!(behind.resolves(&address, name), address, "{name}");
        }
        // The next daemon knows as much.
        vireod.kill();
        assert!(behind.reaches(&address) && !behind.reaches("10.77.1.50"), "nobody has to be there");
        let vireod = place.start();
        place.ok(&["net-list"]);
        assert_eq!(port_of(&place), port);
        assert!(behind.reaches(&address) && !behind.reaches("10.77.1.50"));
        assert_eq!(behind.resolves(&address, "one"), address);
        // Its network goes and comes back.
        place.ok(&["net-destroy", "n"]);
        assert!(!behind.reaches(&address));
        place.ok(&["net-start", "n"]);
        behind.comes_to_reach(&address);
        assert!(!behind.reaches("10.77.1.50"));
        assert_eq!(behind.resolves(&address, "one"), address);
        assert_eq!(port_of(&place), port);
        let rules = || run("nft", &["list", "ruleset"]);
        assert!(rules().contains("vnet0"));
        place.ok(&["destroy", "one"]);
        assert!(!rules().contains("vnet0"), "{}", rules());
        assert_eq!(place.ok(&["net-port-list", "n"]).lines().filter(|line| line.contains('-')).count(), 1);
        place.ok(&["net-destroy", "n"]);
        drop(vireod);
    });
}

#[test]
fn guards_are_what_network_and_domain_say() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let open = NETWORK
            .replace("<network>", "<network xmlns:vireo='urn:vireo:network:1'>")
            .replace("</network>", "<vireo:options><vireo:spoofing allow='yes'/></vireo:options></network>");
        place.ok(&["net-define", &place.write("n.xml", open)]);
        place.ok(&["net-start", "n"]);
        let _free = place.define_cards("free", CARD);
        let filter =
            "<filterref filter='clean-traffic'><parameter name='IP' value='10.77.1.60'/></filterref>";
        let held = CARD.replace("0:01'", "0:02'").replace("<model", &format!("{filter}<model"));
        let _held = place.define_cards("held", &held);
        place.ok(&["start", "free"]);
        place.ok(&["start", "held"]);
        let free = Behind::new(&place, "free", "52:54:00:00:00:01");
        let held = Behind::new(&place, "held", "52:54:00:00:00:02");
        for (behind, addresses) in
            [(&free, ["10.77.1.50/24", "10.77.1.51/24"]), (&held, ["10.77.1.60/24", "10.77.1.61/24"])]
        {
            for address in addresses {
                behind.ok(&["ip", "address", "add", address, "dev", "eth0"]);
            }
        }
        free.comes_to_reach("10.77.1.50");
        assert!(free.reaches("10.77.1.51"));
        held.comes_to_reach("10.77.1.60");
        assert!(!held.reaches("10.77.1.61"));
        for (more, message) in [
            ("<filterref filter='no-such'/>", "'clean-traffic'"),
            (
                "<filterref filter='clean-traffic'><parameter name='IP' value='ten'/></filterref>",
                "'ten' is no IP address",
            ),
        ] {
            let card = CARD.replace("<model", &format!("{more}<model"));
            let _bad = place.define_cards("bad", &card);
            place.fails(&["start", "bad"], &[message]);
            place.ok(&["undefine", "bad"]);
        }
        drop((free, held));
        place.ok(&["destroy", "held"]);
        place.ok(&["destroy", "free"]);
        place.ok(&["net-destroy", "n"]);
    });
}

#[test]
fn ports_are_shown_and_belong_to_their_machines() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let _one = place.define_cards("one", &CARD.replace("network='n'", "network='n' portgroup='slow'"));
        place.fails(&["start", "one"], &["Network not found: no network with matching name 'n'"]);
        let group =
            "<portgroup name='slow'><bandwidth><inbound average='100'/></bandwidth></portgroup></network>";
        place.ok(&["net-define", &place.write("n.xml", NETWORK.replace("</network>", group))]);
        place.ok(&["net-start", "n"]);
        place.ok(&["start", "one"]);
        let uuid = place.ok(&["domuuid", "one"]);
        let program = "network = connection.networkLookupByName('n')
port = network.listAllPorts()[0]
print(network.portLookupByUUIDString(port.UUIDString()).XMLDesc(), port.paramsGet() if hasattr(port, 'paramsGet') else '')
for refused in (lambda: port.delete(), lambda: network.portCreateXML('<networkport/>'),
                lambda: network.portLookupByUUIDString('5ec2e3a0-9e4b-4f0e-8f8a-111111111111')):
    try:
        refused()
        print('done')
    except libvirt.libvirtError as error:
        print(error.get_error_code(), error)";
        let told = python(&place.uri(&place.socket()), program);
        let port = format!(
            "<networkport>
  <uuid>{}</uuid>
  <owner>
    <name>one</name>
    <uuid>{}</uuid>
  </owner>
  <group>slow</group>
  <mac address='52:54:00:00:00:01'/>
  <bandwidth>
    <inbound average='100'/>
  </bandwidth>
  <plug type='network' bridge='vt-ports'/>
</networkport>
",
            port_of(&place),
            uuid.trim()
        );
        assert!(told.out.starts_with(&port), "{told:?}");
        let errors: Vec<&str> = told.out.lines().rev().take(3).collect();
        assert!(errors[2].starts_with("84 Operation not supported: ports go with"), "{told:?}");
        assert!(errors[1].starts_with("84 Operation not supported: ports are made"), "{told:?}");
        assert!(errors[0].starts_with("107 network port not found: "), "{told:?}");
        place.ok(&["destroy", "one"]);
        place.ok(&["net-destroy", "n"]);
    });
}
