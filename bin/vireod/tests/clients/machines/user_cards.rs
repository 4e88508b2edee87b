//! User-mode cards: the real passt with each of them, in a network of the test's own.

use std::os::unix::process::CommandExt;

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

/// Makes the way out that passt asks for.
fn make_way_out() {
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "up0x"]);
    run("ip", &["link", "set", "up0x", "up"]);
    run("ip", &["link", "set", "up0", "up"]);
    run("ip", &["address", "add", "203.0.113.2/24", "dev", "up0"]);
    run("ip", &["route", "add", "default", "via", "203.0.113.1"]);
}

/// Whether somebody listens at the forwarded port.
fn is_forwarded() -> bool {
    !run("ss", &["-Hltn", &format!("sport = :{PORT}")]).trim().is_empty()
}

#[test]
fn a_port_is_forwarded_as_long_as_the_machine_runs_whatever_becomes_of_the_daemon() {
    in_network(|| {
        make_way_out();
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

#[test]
fn a_machine_of_an_ordinary_user_has_a_network_and_a_forwarded_port() {
    const NOBODY: u32 = 65534;
    in_network(|| {
        make_way_out();
        let place = Place::new();
        // Where this is built may be closed to others.
        let machine = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mock_machine");
        for (from, name) in [(env!("CARGO_BIN_EXE_vireod"), "vireod"), (machine, "machine")] {
            std::fs::copy(from, place.path(name)).unwrap();
        }
        let text = document("one", "", "").replace("<devices>", &format!("<devices>{}", card(1)));
        let file = place.write("one.xml", text);
        run("chown", &["-R", &format!("{NOBODY}:{NOBODY}"), &place.text("")]);
        let user = |program: &str| {
            let mut command = Command::new(program);
            command.uid(NOBODY).gid(NOBODY).env("HOME", place.path("")).env("LC_ALL", "C");
            command
        };
        let mut command = user(&place.text("vireod"));
        command.arg("--state-dir").arg(place.path("state")).arg("--runtime-dir").arg(place.path("run"));
        command.arg("--machine-program").arg(place.path("machine"));
        let _vireod = Vireod::start(command, place.path("log"));
        let uri = format!("qemu:///session?socket={}", place.socket().display());
        let virsh = |arguments: &[&str]| {
            let said = said(user("virsh").args(["-c", &uri]).args(arguments));
            assert!(said.status.success(), "{arguments:?}: {said:?}");
        };
        virsh(&["define", &file]);
        virsh(&["start", "one"]);
        assert!(is_forwarded());
        virsh(&["destroy", "one"]);
        let since = Instant::now();
        while is_forwarded() {
            assert!(since.elapsed() < PATIENCE, "passt ends with its machine");
        }
    });
}
