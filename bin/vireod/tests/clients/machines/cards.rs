//! Network cards on interfaces of the host, in a network of the test's own.

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::own_network::run;

/// Runs `test` in a network of its own with a bridge `br0`.
pub(super) fn in_network(test: impl FnOnce() + Send + 'static) {
    crate::own_network::in_network(|| {
        run("ip", &["link", "add", "br0", "type", "bridge"]);
        run("ip", &["link", "set", "br0", "up"]);
        test();
    });
}

/// Interfaces of the host that are not its own, as `ip` shows them: one a line.
pub(super) fn taps() -> Vec<String> {
    let shown = run("ip", &["-o", "link", "show"]);
    let ours = |line: &&str| [": vnet", ": macvtap"].iter().any(|name| line.contains(name));
    shown.lines().filter(ours).map(str::to_owned).collect()
}

pub(super) fn card(mac: u8, more: &str) -> String {
    format!(
        "<interface type='bridge'><mac address='52:54:00:00:00:{mac:02x}'/><source bridge='br0'/>
         <model type='virtio'/>{more}</interface>"
    )
}

impl Place {
    pub(super) fn define_cards<'a>(&'a self, name: &'static str, cards: &str) -> Guest<'a> {
        let text = document(name, "", "").replace("<devices>", &format!("<devices>{cards}"));
        self.ok(&["define", &self.write(&format!("{name}.xml"), text)]);
        Guest { place: self, name }
    }

    /// One of the counters that domifstat prints.
    pub(super) fn counted(&self, name: &str, card: &str, counter: &str) -> u64 {
        let stat = self.ok(&["domifstat", name, card]);
        let line = stat.lines().find_map(|line| line.strip_prefix(&format!("{card} {counter} ")));
        line.unwrap_or_else(|| panic!("no {counter} in {stat}")).trim().parse().unwrap()
    }

    /// Has the guest send frames, and waits until the host has them.
    pub(super) fn sends(&self, name: &str, card: &str, before: u64, frames: u64) {
        self.tell(name, &format!("send {frames}"));
        let since = Instant::now();
        while self.counted(name, card, "tx_packets") < before + frames {
            assert!(since.elapsed() < PATIENCE);
        }
    }
}

/// Reads what the guest prints until it has printed `wanted`.
pub(super) fn hear(terminal: &mut File, wanted: &str) {
    let (mut heard, mut buffer) = (String::new(), [0; 256]);
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    while !heard.contains(wanted) {
        let mut ready = [PollFd::new(&*terminal, PollFlags::IN)];
        assert_eq!(poll(&mut ready, Some(&patience)).unwrap(), 1, "no {wanted:?} in {heard:?}");
        let count = terminal.read(&mut buffer).unwrap();
        heard.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
}

#[test]
fn a_card_is_on_its_bridge_from_the_start_to_the_end_of_its_machine() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let _guest = place.define_cards("one", &card(1, "<mtu size='1400'/>"));
        assert!(place.ok(&["domiflist", "one"]).contains("52:54:00:00:00:01"));
        place.ok(&["start", "one"]);
        let list = place.ok(&["domiflist", "one"]);
        let row = ["vnet0", "bridge", "br0", "virtio", "52:54:00:00:00:01"];
        assert!(list.lines().any(|line| line.split_whitespace().eq(row)), "{list}");
        assert!(place.ok(&["dumpxml", "one"]).contains("<target dev='vnet0'/>"));
        assert!(!place.ok(&["dumpxml", "one", "--inactive"]).contains("vnet"));
        let [tap] = &*taps() else { panic!("{:?}", taps()) };
        for part in ["vnet0", "master br0", "mtu 1400", "fe:54:00:00:00:01"] {
            assert!(tap.contains(part), "no {part} in {tap}");
        }
        place.sends("one", "vnet0", 0, 3);
        assert_eq!(place.counted("one", "52:54:00:00:00:01", "tx_bytes"), 180, "as the guest sees it");
        place.ok(&["domstats", "one", "--interface"]);
        // A process that takes the place of another has an interface of its own, by the same name.
        let before = place.machine("one");
        place.ok(&["reboot", "one"]);
        place.wait_for_another("one", before);
        let [again] = &*taps() else { panic!("{:?}", taps()) };
        assert!(again.contains("vnet0") && again.contains("master br0"), "{again}");
        assert_ne!(again, tap);
        place.ok(&["destroy", "one"]);
        assert_eq!(taps(), Vec::<String>::new());
        place.ok(&["start", "one"]);
        assert_eq!(taps().len(), 1);
        place.tell("one", "poweroff");
        place.wait("one", "shut off");
        assert_eq!(taps(), Vec::<String>::new());
        let _bad = place.define_cards("bad", &card(2, "").replace("br0", "br7"));
        place.fails(&["start", "bad"], &["br7", "there is no such interface"]);
        assert_eq!(taps(), Vec::<String>::new());
    });
}

#[test]
fn a_cable_is_pulled_and_plugged_while_the_guest_runs_and_before_it_starts() {
    in_network(|| {
        let place = Place::new();
        let _vireod = place.start();
        let cards = format!("{}{}", card(1, ""), card(2, "<link state='down'/>"));
        let _guest = place.define_cards("one", &cards);
        let state = |card: &str, more: &[&str]| {
            let shown = place.ok(&[&["domif-getlink", "one", card], more].concat());
            shown.trim().rsplit(' ').next().unwrap().to_owned()
        };
        place.ok(&["domif-setlink", "one", "52:54:00:00:00:01", "down"]);
        assert_eq!(state("52:54:00:00:00:01", &[]), "down");
        place.ok(&["domif-setlink", "one", "52:54:00:00:00:01", "up"]);
        place.ok(&["start", "one"]);
        assert_eq!((state("vnet0", &[]), state("vnet1", &[])), ("up".to_owned(), "down".to_owned()));
        let mut terminal = place.terminal("one");
        for (card, number, wanted) in [("vnet0", 0, "down"), ("vnet1", 1, "up"), ("vnet0", 0, "up")] {
            place.ok(&["domif-setlink", "one", card, wanted]);
            hear(&mut terminal, &format!("cable net{number} is {wanted}"));
            assert_eq!(state(card, &[]), wanted);
        }
        assert_eq!(state("52:54:00:00:00:02", &["--config"]), "down", "the next start is as before");
        place.ok(&["domif-setlink", "one", "52:54:00:00:00:02", "up", "--config"]);
        assert_eq!(state("52:54:00:00:00:02", &["--config"]), "up");
        // A guest that waits is told when it goes on; a restart keeps the cable as it is.
        place.ok(&["suspend", "one"]);
        place.ok(&["domif-setlink", "one", "vnet0", "down"]);
        place.ok(&["resume", "one"]);
        let before = place.machine("one");
        place.ok(&["reboot", "one"]);
        place.wait_for_another("one", before);
        assert_eq!(state("52:54:00:00:00:01", &[]), "down");
        // Nothing else can be changed, and no card is mistaken for another.
        let other = place.write("other.xml", card(1, "").replace("br0", "br1"));
        place.fails(&["update-device", "one", &other, "--live"], &["only the link's state"]);
        place.fails(&["domif-setlink", "one", "vnet7", "up"], &["interface"]);
        let none = place.write("none.xml", card(9, ""));
        place.fails(&["update-device", "one", &none, "--live"], &["52:54:00:00:00:09"]);
    });
}

#[test]
fn the_next_daemon_keeps_the_interface_of_a_machine_that_runs_and_removes_that_of_one_that_is_gone() {
    in_network(|| {
        let place = Place::new();
        let vireod = place.start();
        let _one = place.define_cards("one", &card(1, ""));
        let _two = place.define_cards("two", &card(2, ""));
        place.ok(&["start", "one"]);
        place.ok(&["start", "two"]);
        place.sends("one", "vnet0", 0, 2);
        let (before, gone) = (taps(), place.machine("two"));
        vireod.kill();
        rustix::process::kill_process(gone, rustix::process::Signal::KILL).unwrap();
        let since = Instant::now();
        while rustix::process::test_kill_process(gone).is_ok() && !is_zombie(gone) {
            assert!(since.elapsed() < PATIENCE);
        }
        let _vireod = place.start();
        place.wait("two", "shut off");
        assert_eq!(place.state("one"), "running (booted)");
        let after = taps();
        // Number, name and whose it is; the kernel takes its time to say that a link is up.
        let which = |tap: &str| {
            let begin = tap.split(": <").next().unwrap().to_owned();
            (begin, tap.split("alias ").nth(1).unwrap().to_owned())
        };
        assert_eq!((after.len(), which(&after[0])), (1, which(&before[0])));
        place.sends("one", "vnet0", 2, 2);
        place.ok(&["domif-setlink", "one", "vnet0", "down"]);
        place.ok(&["destroy", "one"]);
        assert_eq!(taps(), Vec::<String>::new());
    });
}

/// As [`in_network`], with two interfaces `up0` and `up1` that macvtaps can be made on, where the kernel has them.
fn on_devices(test: impl FnOnce() + Send + 'static) {
    in_network(|| {
        for device in ["up0", "up1"] {
            run("ip", &["link", "add", device, "type", "veth", "peer", "name", &format!("{device}x")]);
            run("ip", &["link", "set", device, "up"]);
            run("ip", &["link", "set", &format!("{device}x"), "up"]);
        }
        let tried =
            said(Command::new("ip").args(["link", "add", "link", "up0", "name", "mv", "type", "macvtap"]));
        if !tried.status.success() {
            eprintln!("skipped: no macvtap: {tried:?}");
            return;
        }
        run("ip", &["link", "del", "mv"]);
        test();
    });
}

fn on_device(mac: u8, source: &str, more: &str) -> String {
    card(mac, more).replace("type='bridge'", "type='direct'").replace("bridge='br0'", source)
}

#[test]
fn a_card_is_on_an_interface_of_the_host_until_its_machine_has_ended() {
    on_devices(|| {
        let place = Place::new();
        let vireod = place.start();
        let direct = on_device(1, "dev='up0' mode='bridge'", "<mtu size='1400'/>");
        let _one = place.define_cards("one", &direct);
        place.ok(&["start", "one"]);
        let row = ["macvtap0", "direct", "up0", "virtio", "52:54:00:00:00:01"];
        let list = place.ok(&["domiflist", "one"]);
        assert!(list.lines().any(|line| line.split_whitespace().eq(row)), "{list}");
        let shown = place.ok(&["dumpxml", "one"]);
        assert!(
            shown.contains("<source dev='up0' mode='bridge'/>") && shown.contains("dev='macvtap0'"),
            "{shown}"
        );
        let [made] = &*taps() else { panic!("{:?}", taps()) };
        for part in ["macvtap0@up0", "mtu 1400", "52:54:00:00:00:01"] {
            assert!(made.contains(part), "no {part} in {made}");
        }
        place.sends("one", "macvtap0", 0, 3);
        let before = place.machine("one");
        place.ok(&["reboot", "one"]);
        place.wait_for_another("one", before);
        assert!(taps().len() == 1 && taps()[0].contains("macvtap0@up0"), "{:?}", taps());
        place.sends("one", "macvtap0", 0, 1);
        // The next daemon keeps it, and removes that of a machine that ended while there was none.
        let gone = place.machine("one");
        vireod.kill();
        let vireod = place.start();
        place.sends("one", "macvtap0", 1, 1);
        vireod.kill();
        rustix::process::kill_process(gone, rustix::process::Signal::KILL).unwrap();
        let since = Instant::now();
        while rustix::process::test_kill_process(gone).is_ok() && !is_zombie(gone) {
            assert!(since.elapsed() < PATIENCE);
        }
        assert_eq!(taps().len(), 1);
        let _vireod = place.start();
        place.wait("one", "shut off");
        assert_eq!(taps(), Vec::<String>::new());
        for (name, source, reason) in [
            ("none", "dev='up7' mode='bridge'", "'up7': there is no such interface"),
            ("bridge", "dev='br0' mode='vepa'", "it is a bridge: use type='bridge'"),
        ] {
            let _bad = place.define_cards(name, &on_device(2, source, ""));
            place.fails(&["start", name], &["domain/devices/interface", reason]);
            assert_eq!(taps(), Vec::<String>::new());
        }
        let unknown = document("unknown", "", "")
            .replace("<devices>", &format!("<devices>{}", on_device(3, "dev='up0' mode='hub'", "")));
        place.fails(&["define", &place.write("unknown.xml", unknown)], &["mode", "hub"]);
    });
}

#[test]
fn a_network_of_interfaces_gives_each_guest_one_of_them() {
    on_devices(|| {
        let place = Place::new();
        let _vireod = place.start();
        let network = "<network><name>through</name><forward mode='passthrough'><interface dev='up0'/><interface dev='up1'/>\
                       </forward></network>";
        place.ok(&["net-define", &place.write("through.xml", network)]);
        place.ok(&["net-start", "through"]);
        let on_network = |mac| {
            card(mac, "")
                .replace("type='bridge'", "type='network'")
                .replace("bridge='br0'", "network='through'")
        };
        let _guests = [("one", 1), ("two", 2), ("three", 3)]
            .map(|(name, mac)| place.define_cards(name, &on_network(mac)));
        for (name, device) in [("one", "up0"), ("two", "up1")] {
            place.ok(&["start", name]);
            let shown = place.ok(&["dumpxml", name]);
            for part in [
                "<interface type='direct'>",
                "network='through'",
                &format!("dev='{device}' mode='passthrough'"),
            ] {
                assert!(shown.contains(part), "no {part} in {shown}");
            }
            assert!(place.ok(&["dumpxml", name, "--inactive"]).contains("<source network='through'/>"));
        }
        let shown = place.ok(&["net-dumpxml", "through"]);
        for part in [
            "connections='2'",
            "<interface dev='up0' connections='1'/>",
            "<interface dev='up1' connections='1'/>",
        ] {
            assert!(shown.contains(part), "no {part} in {shown}");
        }
        place.fails(&["start", "three"], &["passthrough", "one guest alone"]);
        place.ok(&["destroy", "one"]);
        place.ok(&["start", "three"]);
        assert!(place.ok(&["dumpxml", "three"]).contains("dev='up0' mode='passthrough'"));
        place.ok(&["destroy", "two"]);
        place.ok(&["destroy", "three"]);
        assert_eq!(taps(), Vec::<String>::new());
        place.ok(&["net-destroy", "through"]);
        place.ok(&["net-undefine", "through"]);
    });
}
