//! Machines on virtual networks: their interfaces, and what is known of their addresses.

use super::*;
use crate::own_network::{Neighbour, in_network, run, sh};

const NETWORK: &str = "<network><name>n</name><forward mode='nat'/><bridge name='vt-n'/><mtu size='1400'/>
    <ip address='10.77.77.1' prefix='24'><dhcp><range start='10.77.77.2' end='10.77.77.254'/></dhcp></ip>
    <portgroup name='usual' default='yes'/>
    <portgroup name='slow'><bandwidth><inbound average='1000'/></bandwidth></portgroup></network>";

fn card(mac: u8, portgroup: &str) -> String {
    format!(
        "<interface type='network'><mac address='52:54:00:00:00:{mac:02x}'/><source network='n'{portgroup}/>
         <model type='virtio'/></interface>"
    )
}

impl Place {
    fn define_on_network<'a>(&'a self, name: &'static str, cards: &str) -> Guest<'a> {
        let text = document(name, "", "").replace("<devices>", &format!("<devices>{cards}"));
        self.ok(&["define", &self.write(&format!("{name}.xml"), text)]);
        Guest { place: self, name }
    }
}

#[test]
fn a_guest_s_interface_is_on_its_network_and_has_what_the_network_says() {
    in_network(|| {
        let place = Place::new();
        let vireod = place.start();
        let cards = format!("{}{}", card(1, ""), card(2, " portgroup='slow'"));
        let _guest = place.define_on_network("one", &cards);
        place.fails(&["start", "one"], &["no network with matching name 'n'"]);
        place.ok(&["net-define", &place.write("n.xml", NETWORK)]);
        place.fails(&["start", "one"], &["network 'n' is not active"]);
        assert!(!sh("ip -o link").contains("vnet"), "nothing is left");
        place.ok(&["net-start", "n"]);
        place.ok(&["start", "one"]);
        for tap in ["vnet0", "vnet1"] {
            let shown = run("ip", &["-o", "link", "show", tap]);
            for part in ["master vt-n", "mtu 1400", "UP"] {
                assert!(shown.contains(part), "no {part} in {shown}");
            }
        }
        let limits = |tap: &str| run("tc", &["qdisc", "show", "dev", tap]);
        assert!(!limits("vnet0").contains("tbf") && limits("vnet1").contains("tbf"), "{}", limits("vnet1"));
        let list = place.ok(&["domiflist", "one"]);
        let row = ["vnet0", "network", "n", "virtio", "52:54:00:00:00:01"];
        assert!(list.lines().any(|line| line.split_whitespace().eq(row)), "{list}");
        let document = place.ok(&["dumpxml", "one"]);
        assert!(document.contains("network='n'") && document.contains("bridge='vt-n'"), "{document}");
        // The next daemon changes nothing of it.
        let before = sh("ip -o link");
        vireod.kill();
        let _vireod = place.start();
        assert_eq!(sh("ip -o link"), before);
        place.ok(&["destroy", "one"]);
        assert!(!sh("ip -o link").contains("vnet"));
        let _bad = place.define_on_network("bad", &card(3, " portgroup='fast'"));
        place.fails(&["start", "bad"], &["network 'n' has no portgroup 'fast'"]);
        assert!(!sh("ip -o link").contains("vnet"));
    });
}

#[test]
fn what_a_guest_was_given_is_known_at_once() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        place.ok(&["net-create", &place.write("n.xml", NETWORK)]);
        let _guest = place.define_on_network("one", &card(1, ""));
        place.ok(&["start", "one"]);
        let addresses = || place.ok(&["domifaddr", "one", "--source", "lease"]);
        assert!(!addresses().contains("10.77.77."), "{}", addresses());
        // What the guest's system would ask: the machine of these tests has none.
        let guest = Neighbour::at("p0");
        sh("ip link set p0 master vt-n");
        let address = guest.lease("52:54:00:00:00:01", "one");
        let with_prefix = format!("{address}/24");
        let told = addresses();
        let row = ["vnet0", "52:54:00:00:00:01", "ipv4", with_prefix.as_str()];
        assert!(told.lines().any(|line| line.split_whitespace().eq(row)), "{told}");
        let leases = place.ok(&["net-dhcp-leases", "n"]);
        for part in ["52:54:00:00:00:01", &with_prefix, " one "] {
            assert!(leases.contains(part), "no {part} in {leases}");
        }
        let of_another = place.ok(&["net-dhcp-leases", "n", "--mac", "52:54:00:00:00:02"]);
        assert!(!of_another.contains("10.77.77."), "{of_another}");
        // A second guest gets another address, and the first the same again.
        assert_ne!(guest.lease("52:54:00:00:00:02", "two"), address);
        assert_eq!(guest.lease("52:54:00:00:00:01", "one"), address);
    });
}
