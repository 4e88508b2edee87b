//! Domains with real guests: `vireod` and virsh from a definition to the end, and a daemon that is killed again and again.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use libvirt_rpc::client::ClientError;
use libvirt_rpc::procedures::{
    ConnectListAllDomains, DomainDefineXml, DomainLookupByName, DomainResume, DomainSuspend,
};

use crate::daemon::Daemon;
use crate::guest::{Guest, PATIENCE};
use crate::network::Bridge;
use crate::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("domains::a_guest_s_life_as_virsh_sees_it", life),
        test("domains::a_card_is_on_a_bridge_and_its_cable_is_pulled_and_plugged", card),
        test("domains::a_daemon_killed_fifty_times_loses_nothing_and_touches_no_guest", fifty_kills),
    ]
}

/// How often the daemon is killed.
const KILLS: usize = 50;

/// A definition of the default guest.
pub(crate) fn document(name: &str) -> Result<String> {
    let files = lab::guest::Guest::prepare(lab::Kind::C612).context("preparing the guest")?;
    Ok(format!(
        "<domain type='kvm'><name>{name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>
         <cmdline>console=ttyS0 quiet panic=-1 vireo.tty=ttyS0 vireo.shell</cmdline></os>
         <devices><serial type='pty'/><console type='pty'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
         </devices></domain>",
        files.vmlinux.display(),
        files.initramfs.display()
    ))
}

fn define(daemon: &Daemon, directory: &Path, name: &str) -> Result<()> {
    let path = directory.join(format!("{name}.xml"));
    std::fs::write(&path, document(name)?)?;
    daemon.virsh(&format!("define {}", path.display()))?;
    Ok(())
}

/// The guest's shell by `virsh console`, as a person has it: on a terminal.
pub(crate) fn console(daemon: &Daemon, name: &str) -> Result<Guest> {
    let mut command = Command::new("script");
    let virsh = format!("virsh -c '{}' console {name}", daemon.uri());
    command.args(["--quiet", "--return", "--flush", "--command", &virsh, "/dev/null"]).env("TERM", "dumb");
    let mut guest = Guest::behind(command)?;
    guest.expect("Escape character is")?;
    Ok(guest)
}

/// Ends the console: the guest goes on.
pub(crate) fn leave(mut console: Guest) -> Result<()> {
    console.type_line("\x1d")?;
    console.expect_exit(0)
}

fn wait(daemon: &Daemon, name: &str, state: &str) -> Result<()> {
    let since = Instant::now();
    loop {
        let found = daemon.virsh(&format!("domstate {name} --reason"))?;
        if found.trim() == state {
            return Ok(());
        }
        ensure!(since.elapsed() < PATIENCE, "{name} is {found}, not {state}");
    }
}

fn life() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let daemon = Daemon::start(directory.path())?;
    define(&daemon, directory.path(), "guest")?;
    daemon.virsh("start guest")?;
    let mut shell = console(&daemon, "guest")?;
    shell.wake_shell()?;
    ensure!(shell.run("nproc")? == "1", "the guest has another number of processors");
    daemon.virsh("suspend guest")?;
    wait(&daemon, "guest", "paused (user)")?;
    daemon.virsh("resume guest")?;
    shell.run("true")?;
    let time = daemon.virsh("domstats guest --cpu-total")?;
    let used = time.lines().find_map(|line| line.trim().strip_prefix("cpu.time=")?.parse::<u64>().ok());
    ensure!(used.is_some_and(|nanoseconds| nanoseconds > 0), "a guest that has booted used no time: {time}");
    daemon.virsh("reset guest")?;
    shell.expect_shell()?;
    // What an init does, as far as this guest has one: whoever presses the button wants it off.
    let count = "awk '{print $1}' /sys/firmware/acpi/interrupts/ff_pwr_btn";
    let button = format!("until test $({count}) = 1; do :; done; poweroff -f");
    shell.type_line(&button)?;
    // Another process begins, and the console goes on.
    daemon.virsh("reboot guest")?;
    shell.expect_shell()?;
    wait(&daemon, "guest", "running (booted)")?;
    shell.type_line(&button)?;
    daemon.virsh("shutdown guest")?;
    wait(&daemon, "guest", "shut off (shutdown)")?;
    daemon.virsh("start guest --paused")?;
    wait(&daemon, "guest", "paused (user)")?;
    daemon.virsh("resume guest")?;
    let mut shell = console(&daemon, "guest")?;
    shell.wake_shell()?;
    leave(shell)?;
    daemon.virsh("destroy guest")?;
    wait(&daemon, "guest", "shut off (destroyed)")?;
    daemon.virsh("undefine guest")?;
    Ok(())
}

fn card() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let bridge = Bridge::make("vireo-test0")?;
    let mut daemon = Daemon::start(directory.path())?;
    let card = "<interface type='bridge'><mac address='52:54:00:77:00:01'/><source bridge='vireo-test0'/>
        <model type='virtio'/><mtu size='1400'/></interface></devices>";
    let path = directory.path().join("guest.xml");
    std::fs::write(&path, document("guest")?.replace("</devices>", card))?;
    daemon.virsh(&format!("define {}", path.display()))?;
    daemon.virsh("start guest")?;
    let mut shell = console(&daemon, "guest")?;
    shell.wake_shell()?;
    shell.run("ip addr add 192.168.78.2/24 dev eth0; ip link set eth0 up")?;
    let ping = "ping -c 3 -W 60 192.168.78.1";
    shell.run(ping)?;
    ensure!(shell.run("cat /sys/class/net/eth0/mtu")? == "1400", "the guest was told another MTU");
    let statistics = daemon.virsh("domifstat guest vnet0")?;
    for counter in ["rx_packets", "tx_packets"] {
        let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("vnet0 {counter} ")));
        let packets = line.and_then(|packets| packets.trim().parse::<u64>().ok());
        ensure!(packets.is_some_and(|packets| packets >= 3), "no {counter} after three pings: {statistics}");
    }
    let carrier =
        |state: u8| format!("until test \"$(cat /sys/class/net/eth0/carrier)\" = {state}; do :; done");
    daemon.virsh("domif-setlink guest vnet0 down")?;
    shell.run(&carrier(0))?;
    shell.run("! ping -c 1 -W 2 192.168.78.1")?;
    // The next daemon finds the interface, and the cable as it is.
    leave(shell)?;
    daemon.kill()?;
    daemon = Daemon::start(directory.path())?;
    ensure!(daemon.virsh("domif-getlink guest vnet0")?.contains("down"), "the cable is forgotten");
    let mut shell = console(&daemon, "guest")?;
    shell.wake_shell()?;
    daemon.virsh("domif-setlink guest vnet0 up")?;
    shell.run(&carrier(1))?;
    shell.run(ping)?;
    // A guest that stands still hears of it when it goes on.
    daemon.virsh("suspend guest")?;
    daemon.virsh("domif-setlink guest vnet0 down")?;
    daemon.virsh("resume guest")?;
    shell.run(&carrier(0))?;
    daemon.virsh("destroy guest")?;
    ensure!(!Path::new("/sys/class/net/vnet0").exists(), "the interface is still there");
    drop(bridge);
    Ok(())
}

/// Numbers of the processes of a guest's machine.
pub(crate) fn processes(daemon: &Daemon, directory: &Path, names: &[&str]) -> Result<Vec<i32>> {
    names
        .iter()
        .map(|name| {
            let uuid = daemon.virsh(&format!("domuuid {name}"))?;
            let socket = directory.join("run/machines").join(uuid.trim()).join("api");
            let socket = std::os::unix::net::UnixStream::connect(socket)?;
            Ok(rustix::net::sockopt::socket_peercred(&socket)?.pid.as_raw_nonzero().get())
        })
        .collect()
}

fn fifty_kills() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut daemon = Daemon::start(directory.path())?;
    let names = ["first", "second"];
    for name in names {
        define(&daemon, directory.path(), name)?;
        daemon.virsh(&format!("start {name}"))?;
        let mut shell = console(&daemon, name)?;
        shell.wake_shell()?;
        shell.run(&format!("MARK=kept-by-{name}"))?;
        leave(shell)?;
    }
    let machines = processes(&daemon, directory.path(), &names)?;
    let mut defined = BTreeSet::new();
    for round in 0..KILLS {
        let answered = work_until_killed(&mut daemon, round)?;
        defined.extend(answered);
        daemon = Daemon::start(directory.path())?;
        let listed: BTreeSet<String> = list(&daemon)?;
        let lost: Vec<&String> = defined.iter().filter(|name| !listed.contains(*name)).collect();
        ensure!(lost.is_empty(), "lost after kill {round}: {lost:?}");
    }
    ensure!(processes(&daemon, directory.path(), &names)? == machines, "a guest has another process");
    for name in names {
        let state = daemon.virsh(&format!("domstate {name}"))?;
        if state.trim() == "paused" {
            daemon.virsh(&format!("resume {name}"))?;
        }
        let mut shell = console(&daemon, name)?;
        shell.wake_shell()?;
        ensure!(shell.run("echo $MARK")? == format!("kept-by-{name}"), "{name} is another guest");
        shell.run("! dmesg | grep -E 'BUG|Oops|Call Trace'").context("the guest complains")?;
        leave(shell)?;
        daemon.virsh(&format!("destroy {name}"))?;
    }
    Ok(())
}

fn list(daemon: &Daemon) -> Result<BTreeSet<String>> {
    let mut connection = daemon.connect()?;
    let all = connection.call(&ConnectListAllDomains { need_results: 1, flags: 0 })?;
    Ok(all.domains.into_iter().map(|domain| domain.name).collect())
}

/// Clients work until the daemon is killed, after a random number of answers; which definitions were answered.
fn work_until_killed(daemon: &mut Daemon, round: usize) -> Result<Vec<String>> {
    let kill_after = RandomState::new().hash_one(round) % 12;
    let (tell, told) = mpsc::channel();
    let (mut definer, mut stopper) = (daemon.connect()?, daemon.connect()?);
    std::thread::scope(|scope| {
        let answers = tell.clone();
        let definitions = scope.spawn(move || {
            let mut answered = Vec::new();
            for number in 0.. {
                let name = format!("defined-{round}-{number}");
                let xml = format!(
                    "<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory>
                     <os><type machine='q35'>hvm</type></os></domain>"
                );
                match definer.call(&DomainDefineXml { xml }) {
                    Ok(_) => answered.push(name),
                    Err(ClientError::Daemon(error)) => bail!("defining {name}: {error}"),
                    // Killed: nobody knows, and nobody was promised.
                    Err(_) => return Ok(answered),
                }
                let _ = answers.send(());
            }
            Ok(answered)
        });
        scope.spawn(move || {
            let Ok(found) = stopper.call(&DomainLookupByName { name: "first".to_owned() }) else { return };
            loop {
                let stopped = stopper.call(&DomainSuspend { dom: found.dom.clone() });
                let went_on = stopper.call(&DomainResume { dom: found.dom.clone() });
                if [stopped, went_on]
                    .iter()
                    .any(|answer| !matches!(answer, Ok(_) | Err(ClientError::Daemon(_))))
                {
                    return;
                }
                let _ = tell.send(());
            }
        });
        for _ in 0..kill_after {
            told.recv().context("both clients have ended")?;
        }
        daemon.kill()?;
        definitions.join().unwrap_or_else(|_| bail!("the client has failed"))
    })
}
