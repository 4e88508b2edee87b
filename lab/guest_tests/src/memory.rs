//! The memory that a domain's guest has: balloons of real guests, as `virsh` moves and shows them.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::daemon::Daemon;
use crate::domains::{console, document, leave};
use crate::guest::{Guest, PATIENCE};
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("domains::memory_goes_from_a_guest_and_back_as_virsh_says", moves),
        test("domains::a_guest_that_runs_out_of_memory_takes_some_out_of_its_balloon", runs_out),
    ]
}

/// KiB of a MiB.
const MIB: u64 = 1024;

/// Starts the default guest, whose 192 MiB are described so.
fn start(daemon: &Daemon, directory: &std::path::Path, current: u64, balloon: &str) -> Result<Guest> {
    let current = format!("</memory><currentMemory unit='MiB'>{current}</currentMemory>");
    let document = document("guest")?.replacen("</memory>", &current, 1);
    let document = document.replacen("</devices>", &format!("{balloon}</devices>"), 1);
    let path = directory.join("guest.xml");
    std::fs::write(&path, document)?;
    daemon.virsh(&format!("define {}", path.display()))?;
    daemon.virsh("start guest")?;
    let mut shell = console(daemon, "guest")?;
    shell.wake_shell()?;
    Ok(shell)
}

/// A number that `virsh LINE` prints after `name`.
fn number(daemon: &Daemon, line: &str, name: &str) -> Result<Option<u64>> {
    let text = daemon.virsh(line)?;
    let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix([' ', ':', '=']));
    let value = value.and_then(|value| value.trim().split(' ').next());
    value.map(|value| value.parse().with_context(|| format!("{name} in {text}"))).transpose()
}

/// Waits until `virsh LINE` prints a number after `name` that suits.
fn wait(daemon: &Daemon, line: &str, name: &str, suits: impl Fn(u64) -> bool) -> Result<u64> {
    let since = Instant::now();
    loop {
        let found = number(daemon, line, name)?;
        if let Some(found) = found.filter(|found| suits(*found)) {
            return Ok(found);
        }
        ensure!(since.elapsed() < PATIENCE, "{line}: {name} is {found:?}");
    }
}

fn wait_used(daemon: &Daemon, mebibytes: u64) -> Result<()> {
    wait(daemon, "dominfo guest", "Used memory", |kib| kib == mebibytes * MIB).map(drop)
}

/// What the guest's kernel counts as its memory, KiB.
fn total(shell: &mut Guest) -> Result<u64> {
    let text = shell.run("awk '/MemTotal/ {print $2}' /proc/meminfo")?;
    text.trim().parse().with_context(|| format!("MemTotal is {text:?}"))
}

fn moves() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut daemon = Daemon::start(directory.path())?;
    let mut shell =
        start(&daemon, directory.path(), 128, "<memballoon model='virtio'><stats period='1'/></memballoon>")?;
    wait_used(&daemon, 128)?;
    let first = total(&mut shell)?;
    ensure!(first < 128 * MIB, "the guest has {first} KiB, and was to have less than 128 MiB");
    daemon.virsh("setmem guest 112M --live")?;
    wait_used(&daemon, 112)?;
    ensure!(total(&mut shell)? == first - 16 * MIB, "the guest has given less than 16 MiB");
    // What the guest says of itself is what its kernel shows, and it says so by itself.
    let told = wait(&daemon, "dommemstat guest", "available", |kib| kib == first - 16 * MIB)?;
    let free = number(&daemon, "dommemstat guest", "unused")?.context("unused")?;
    ensure!(free > 0 && free < told, "{free} KiB of {told} KiB are unused");
    ensure!(number(&daemon, "domstats guest --balloon", "balloon.current")? == Some(112 * MIB));
    let updated = number(&daemon, "dommemstat guest", "last_update")?.context("last_update")?;
    wait(&daemon, "dommemstat guest", "last_update", |now| now > updated)?;
    daemon.virsh("setmem guest 192M --live")?;
    wait_used(&daemon, 192)?;
    ensure!(total(&mut shell)? == first + 64 * MIB, "the guest has not got its memory back");
    // The next daemon knows, and a guest that starts anew goes where it was sent.
    daemon.virsh("setmem guest 144M")?;
    wait_used(&daemon, 144)?;
    leave(shell)?;
    daemon.kill()?;
    let daemon = Daemon::start(directory.path())?;
    ensure!(number(&daemon, "dominfo guest", "Used memory")? == Some(144 * MIB));
    let mut shell = console(&daemon, "guest")?;
    shell.wake_shell()?;
    ensure!(total(&mut shell)? == first + 16 * MIB);
    daemon.virsh("reset guest")?;
    shell.expect_shell()?;
    wait_used(&daemon, 144)?;
    ensure!(total(&mut shell)? == first + 16 * MIB);
    daemon.virsh("destroy guest")?;
    wait_used(&daemon, 128)
}

fn runs_out() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let daemon = Daemon::start(directory.path())?;
    let mut shell = start(&daemon, directory.path(), 96, "<memballoon model='virtio' autodeflate='on'/>")?;
    wait_used(&daemon, 96)?;
    shell.run("mkdir /full && mount -t ramfs full /full")?;
    shell.run("dd if=/dev/zero of=/full/file bs=1M count=90")?;
    let used = wait(&daemon, "dominfo guest", "Used memory", |kib| kib > 96 * MIB)?;
    ensure!(used < 192 * MIB, "all of the memory was taken back");
    shell.run("! dmesg | grep -E 'Out of memory|Killed process'").context("the guest has killed")?;
    daemon.virsh("destroy guest")?;
    Ok(())
}
