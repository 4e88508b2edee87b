//! Guests on the host's default network: addresses and names without anybody having done anything, the way out, and what stays when the
//! daemon is killed.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, in_emulated_host, run};
use crate::domains::{console, document, leave};
use crate::guest::{Guest, PATIENCE};
use crate::network::Outside;
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![test(
        "networks::guests_of_the_default_network_reach_each_other_the_host_and_outside",
        default_network,
    )]
}

/// The host's own address in the default network.
const HOST: &str = "192.168.122.1";
/// Asks for an address, once.
const DHCP: &str = "udhcpc -i eth0 -n -q -t 1 -T 60";

/// A machine's processes that serve networks.
fn services() -> Result<usize> {
    let commands = fs::read_dir("/proc")?.flatten().map(|process| fs::read(process.path().join("cmdline")));
    Ok(commands.flatten().filter(|line| line.windows(16).any(|part| part == b"network-services")).count())
}

/// All that a network changes of the host.
fn host() -> Result<String> {
    let links = run("ip", &["-o", "link"])?;
    let rules = run("nft", &["list", "ruleset"])?;
    let routes = run("ip", &["route"])?;
    Ok(format!("{links}{rules}{routes}services: {}", services()?))
}

/// Waits until the daemon says something.
fn until(daemon: &Daemon, line: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let since = Instant::now();
    loop {
        let said = daemon.virsh(line)?;
        if wanted(&said) {
            return Ok(said);
        }
        ensure!(since.elapsed() < PATIENCE, "{line}: {said}");
    }
}

/// Waits until the default network has started with the daemon.
fn default_network_runs(daemon: &Daemon) -> Result<()> {
    until(daemon, "net-list", |list| list.lines().any(|line| line.trim().starts_with("default "))).map(drop)
}

/// Starts a guest on the default network.
fn start(daemon: &Daemon, directory: &Path, name: &str) -> Result<Guest> {
    let card =
        "<interface type='network'><source network='default'/><model type='virtio'/></interface></devices>";
    let path = directory.join(format!("{name}.xml"));
    fs::write(&path, document(name)?.replace("</devices>", card))?;
    daemon.virsh(&format!("create {}", path.display()))?;
    console(daemon, name)
}

/// The guest's address, as it has it; the daemon knows it at once.
fn address(daemon: &Daemon, name: &str, shell: &mut Guest) -> Result<String> {
    shell.run(DHCP).with_context(|| format!("{name} has no address at its first try"))?;
    let own = shell.run("ip -4 addr show dev eth0 | awk '/inet / { print $2 }'")?;
    for line in [format!("domifaddr {name} --source lease"), "net-dhcp-leases default".to_owned()] {
        let said = daemon.virsh(&line)?;
        ensure!(said.contains(&own), "{line} does not know {own}: {said}");
    }
    Ok(own.trim_end_matches("/24").to_owned())
}

fn default_network() -> Result<()> {
    if !in_emulated_host() {
        eprintln!("skipped: the default network of this host is not a test's");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let outside = Outside::make()?;
    let before = host()?;
    let mut daemon = Daemon::of_the_host()?;
    default_network_runs(&daemon)?;
    let mut first = start(&daemon, directory.path(), "first")?;
    let mut second = start(&daemon, directory.path(), "second")?;
    first.wake_shell()?;
    second.wake_shell()?;
    address(&daemon, "first", &mut first)?;
    let own = address(&daemon, "second", &mut second)?;
    for (guest, others) in [(&mut first, "second"), (&mut second, "first")] {
        for other in [others, HOST, Outside::ADDRESS] {
            guest.run(&format!("ping -c 1 -W 60 {other}"))?;
        }
    }
    cable(&daemon, &mut first)?;
    pretending(&mut second, &own)?;
    daemon = killed(daemon, first, second)?;
    for name in ["first", "second"] {
        daemon.virsh(&format!("destroy {name}"))?;
    }
    daemon.virsh("net-destroy default")?;
    let left = host()?;
    ensure!(left == before, "something is left behind; before: {before}\nnow: {left}");
    drop(outside);
    Ok(())
}

/// The cable is pulled and plugged, and what goes through it is counted.
fn cable(daemon: &Daemon, guest: &mut Guest) -> Result<()> {
    let carrier =
        |state: u8| format!("until test \"$(cat /sys/class/net/eth0/carrier)\" = {state}; do :; done");
    daemon.virsh("domif-setlink first vnet0 down")?;
    guest.run(&carrier(0))?;
    guest.run(&format!("! ping -c 1 -W 1 {HOST}"))?;
    daemon.virsh("domif-setlink first vnet0 up")?;
    guest.run(&carrier(1))?;
    guest.run(&format!("ping -c 1 -W 60 {HOST}"))?;
    let statistics = daemon.virsh("domifstat first vnet0")?;
    for counter in ["rx_packets", "tx_packets", "rx_bytes", "tx_bytes"] {
        let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("vnet0 {counter} ")));
        let count = line.and_then(|count| count.trim().parse::<u64>().ok());
        ensure!(count.is_some_and(|count| count > 0), "no {counter}: {statistics}");
    }
    Ok(())
}

/// Whoever takes another address than its own is not heard; with its own it is heard again.
fn pretending(guest: &mut Guest, own: &str) -> Result<()> {
    let heard = format!("ping -c 1 -W 60 {HOST}");
    // Another's IP address, also of somebody who is not there.
    guest.run("ip addr add 192.168.122.250/24 dev eth0")?;
    guest
        .run(&format!("! ping -I 192.168.122.250 -c 2 -W 2 {HOST}"))
        .context("heard with another's address")?;
    guest.run("ip addr del 192.168.122.250/24 dev eth0")?;
    guest.run(&heard)?;
    let mac = guest.run("cat /sys/class/net/eth0/address")?;
    let change = |mac: &str| {
        format!(
            "ip link set eth0 down && ip link set eth0 address {mac} && ip link set eth0 up && \
             ip addr replace {own}/24 dev eth0"
        )
    };
    guest.run(&change("52:54:00:66:66:66"))?;
    guest.run(&format!("! ping -c 2 -W 2 {HOST}")).context("heard with another's MAC address")?;
    guest.run(&change(&mac))?;
    guest.run(&format!("ip route replace default via {HOST}"))?;
    guest.run(&heard).map(drop)
}

/// The daemon is killed while guests talk: nothing is lost, and the next one finds everything.
fn killed(mut daemon: Daemon, mut first: Guest, mut second: Guest) -> Result<Daemon> {
    let leases = daemon.virsh("net-dhcp-leases default")?;
    let serving = services()?;
    // A stream and single packets, both until told to end.
    // A program in the background that reads the terminal is stopped, and one that connects too early gives up.
    second.run("sleep 9999 | nc -l -p 5000 > /tmp/heard & true")?;
    second.run("until cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q ':1388 '; do :; done")?;
    first.run("ping -i 1 second > /tmp/pings & true")?;
    first.run("(n=0; until test -e /tmp/enough; do n=$((n+1)); echo $n; sleep 1; done) | tee /tmp/told | nc second 5000 & true")?;
    first.run("until grep -q 3 /tmp/told && grep -q seq=2 /tmp/pings; do :; done")?;
    for shell in [first, second] {
        leave(shell)?;
    }
    daemon.kill()?;
    daemon = Daemon::of_the_host()?;
    default_network_runs(&daemon)?;
    let (mut first, mut second) = (console(&daemon, "first")?, console(&daemon, "second")?);
    first.wake_shell()?;
    second.wake_shell()?;
    ensure!(daemon.virsh("net-dhcp-leases default")? == leases, "leases are others than before");
    ensure!(services()? == serving, "{} processes serve, before it were {serving}", services()?);
    // It goes on.
    first.run("said=$(wc -l < /tmp/told); until test $(wc -l < /tmp/told) -gt $((said + 2)); do :; done")?;
    first.run(
        "touch /tmp/enough; killall -INT ping; until grep -q 'packets received' /tmp/pings; do :; done",
    )?;
    let pings = first.run("tail -n 2 /tmp/pings")?;
    ensure!(pings.contains(" 0% packet loss"), "packets are lost: {pings}");
    let told = first.run("md5sum < /tmp/told")?;
    second.run(&format!("until test \"$(md5sum < /tmp/heard)\" = '{told}'; do :; done"))?;
    for name in ["first", "second"] {
        let said = daemon.virsh(&format!("domifaddr {name} --source lease"))?;
        ensure!(said.contains("192.168.122."), "{name}: {said}");
    }
    leave(first)?;
    leave(second)?;
    Ok(daemon)
}
