//! The control API with a real machine behind it: every action, in every state.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::guest::{Format, Guest, GuestBuilder, Kernel};
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("control::the_whole_life_of_a_machine", whole_life),
        test("control::actions_in_the_wrong_state_are_refused", wrong_states),
        test("control::flags_and_json_give_the_same_machine", flags_and_json_agree),
        test("control::a_non_maskable_interrupt_arrives", nmi),
    ]
}

fn whole_life() -> Result<()> {
    let builder = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?;
    let events = builder.directory().join("events");
    let mut guest = builder.argument("--event-monitor", &events.display().to_string()).start()?;
    guest.expect_shell()?;
    let (status, pong) = guest.request("GET", "vmm.ping", None)?;
    ensure!(status == 200 && pong["pid"] == guest.pid(), "{status} {pong}");
    let (status, info) = guest.request("GET", "vm.info", None)?;
    ensure!(status == 200 && info["state"] == "Running", "{status} {info}");
    let (status, counters) = guest.request("GET", "vm.counters", None)?;
    ensure!(status == 200 && counters.is_object(), "{status} {counters}");
    guest.action("vm.shutdown")?;
    ensure!(guest.state()? == "Created", "after shutdown: {}", guest.state()?);
    guest.action("vm.boot")?;
    guest.expect_shell()?;
    guest.action("vm.delete")?;
    let (status, _) = guest.request("GET", "vm.info", None)?;
    ensure!(status != 200, "a deleted machine still has information");
    let (status, body) = guest.request("PUT", "vm.create", Some(&info["config"]))?;
    ensure!(status == 204, "creating from what vm.info said: {status} {body}");
    guest.action("vm.boot")?;
    guest.expect_shell()?;
    guest.action("vmm.shutdown")?;
    guest.expect_exit(0)?;
    let mut told = Vec::new();
    for line in std::fs::read_to_string(&events)?.lines() {
        told.push(
            serde_json::from_str::<serde_json::Value>(line)?["event"].as_str().unwrap_or_default().to_owned(),
        );
    }
    let life = ["starting", "created", "booted", "shutdown", "booted", "shutdown", "deleted"];
    ensure!(
        told == [&life[..], &["created", "booted", "shutdown", "deleted"]].concat(),
        "the events were {told:?}"
    );
    Ok(())
}

fn refused(guest: &Guest, action: &str) -> Result<()> {
    let (status, body) = guest.request("PUT", action, None)?;
    ensure!((400..600).contains(&status) && status != 404, "{action} was answered {status}: {body}");
    Ok(())
}

fn wrong_states() -> Result<()> {
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?.start()?;
    guest.expect_shell()?;
    for action in ["vm.boot", "vm.resume"] {
        refused(&guest, action)?;
    }
    guest.action("vm.pause")?;
    for action in ["vm.boot", "vm.pause", "vm.power-button"] {
        refused(&guest, action)?;
    }
    let (status, body) =
        guest.request("PUT", "vm.create", Some(&json!({"payload": {"kernel": "/nowhere"}})))?;
    ensure!(status >= 400, "a second machine was created: {status} {body}");
    guest.action("vm.resume")?;
    guest.run("true")?;
    guest.power_off()
}

fn flags_and_json_agree() -> Result<()> {
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=2,topology=1:2:1:1")?.start()?;
    guest.expect_shell()?;
    let (_, first) = guest.request("GET", "vm.info", None)?;
    guest.action("vm.delete")?;
    let (status, body) = guest.request("PUT", "vm.create", Some(&first["config"]))?;
    ensure!(status == 204, "{status} {body}");
    guest.action("vm.boot")?;
    guest.expect_shell()?;
    let (_, second) = guest.request("GET", "vm.info", None)?;
    ensure!(first == second, "{first}\n{second}");
    guest.power_off()
}

fn nmi() -> Result<()> {
    let mut guest = GuestBuilder::new(Kernel::V6_12, Format::Vmlinux, "boot=1")?.start()?;
    guest.expect_shell()?;
    let count = "awk '/NMI:/ {print $2}' /proc/interrupts";
    let before: u64 = guest.run(count)?.parse()?;
    guest.action("vmm.nmi")?;
    let after: u64 = guest.run(count)?.parse()?;
    ensure!(after == before + 1, "{before} interrupts before, {after} after");
    guest.power_off()
}
