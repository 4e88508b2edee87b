//! User-mode cards: the real passt with each of them, in a network of the test's own.

use super::cards::in_network;
use super::*;
use crate::own_network::run;

const PORT: u16 = 2222;

fn card(mac: u8) -> String {
    format!(
        "<interface type='user'><mac address='52:54:00:00:00:{mac:02x}'/><backend type='passt'/>
         <portForward proto='tcp'><range start='{PORT}' to='22'/></portForward><model type='virtio'/></interface>"
    )
}

/// Whether somebody listens at the forwarded port.
fn is_forwarded() -> bool {
    !run("ss", &["-Hltn", &format!("sport = :{PORT}")]).trim().is_empty()
}

#[test]
fn a_port_is_forwarded_as_long_as_the_machine_runs_whatever_becomes_of_the_daemon() {
    in_network(|| {
        run("ip", &["link", "set", "lo", "up"]);
        // The way out that passt asks for.
        run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "up0x"]);
        run("ip", &["link", "set", "up0x", "up"]);
        run("ip", &["link", "set", "up0", "up"]);
        run("ip", &["address", "add", "203.0.113.2/24", "dev", "up0"]);
        run("ip", &["route", "add", "default", "via", "203.0.113.1"]);
        let place = Place::new();
        let vireod = place.start();
        let _one = place.define_cards("one", &card(1));
        let _two = place.define_cards("two", &card(2));
        assert!(!is_forwarded());
        place.ok(&["start", "one"]);
        assert!(is_forwarded());
        let shown = place.ok(&["dumpxml", "one"]);
        assert!(
            shown.contains("<backend type='passt'/>") && shown.contains("<portForward proto='tcp'>"),
            "{shown}"
        );
        place.fails(&["start", "two"], &["TCP port 2222 of the host", "another program listens on it"]);
        assert_eq!(place.ok(&["domstate", "two"]).trim(), "shut off");
        vireod.kill();
        assert!(is_forwarded(), "its machine runs");
        let _vireod = place.start();
        place.ok(&["destroy", "one"]);
        let since = Instant::now();
        while is_forwarded() {
            assert!(since.elapsed() < PATIENCE, "passt ends with its machine");
        }
        place.ok(&["start", "two"]);
        assert!(is_forwarded());
    });
}
