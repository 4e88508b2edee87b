//! Virtual networks: `vireod` beside Debian's `libvirtd` with dnsmasq, which are asked the same by the same client.
//!
//! Each has a host of its own, as far as files and the network go, in which nothing but what is measured runs: a guest (a network
//! namespace at the other end of a veth pair, whose other end becomes a port of the bridge) and somebody outside. Both have the same
//! definition: NAT, DHCP, names. They are measured alternately and never at the same time.
//!
//! A network is ready when a guest that asks is answered: it is offered an address, and told one by name. The guest asks again every
//! millisecond. Two things that cost libvirt's networks seconds are left out: the guest's address is a fixed one, because dnsmasq looks
//! for three seconds whether somebody has an address before it offers one that is not, and the bridge has no spanning tree, because
//! the kernel then has ports wait for four seconds (twice BR_MIN_FORWARD_DELAY), whatever delay the definition says.

mod clients;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{NetworkCreate, NetworkDefineXml, NetworkDestroy};
use libvirt_rpc::types::RemoteNetwork;
use serde::Serialize;

use self::clients::Guests;
use crate::daemon::peer::{Daemon, Peer, installed};
use crate::daemon::{DaemonOutcome, DaemonResults};
use crate::report::Excluded;
use crate::sample::{paired_ratio, summarise};
use crate::surroundings::{Network, Surroundings};

/// What is measured, and how often.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkOptions {
    /// Vireo's program.
    pub vireod: PathBuf,
    /// Where the daemons keep what they write: on the file system that is measured.
    pub directory: PathBuf,
    /// Rounds; every program takes part in each.
    pub rounds: usize,
    /// Guests that ask for addresses in a round, at most 250.
    pub guests: u8,
    /// Seconds of each transfer.
    pub seconds: u32,
}

const BRIDGE: &str = "virbr7";
const BRIDGE_MAC: &str = "52:54:00:77:00:01";
/// The network's own address.
const HOST: [u8; 4] = [10, 77, 0, 1];
/// Somebody outside (TEST-NET-3, RFC 5737).
const OUTSIDE: &str = "203.0.113.2";

/// The guest and the outside, and how each is reached. The guest's port is not connected yet.
const WIRES: &str = "set -e
ip netns add outside
ip link add up0 type veth peer name eth0 netns outside
ip address add 203.0.113.1/24 dev up0
ip link set up0 up
ip -n outside address add 203.0.113.2/24 dev eth0
ip -n outside link set eth0 up
ip netns add guest
ip link add port0 type veth peer name eth0 netns guest address 52:54:00:77:00:02
ip link set port0 up
ip -n guest address add 10.77.0.10/16 dev eth0
ip -n guest link set eth0 up
ip -n guest route add default via 10.77.0.1
ip -n guest neighbour add 10.77.0.1 lladdr 52:54:00:77:00:01 dev eth0
";

/// The network, with `fixed` guests that have addresses of their own.
fn document(fixed: u8) -> String {
    let hosts: String = (0..fixed)
        .map(|guest| {
            let mac = clients::mac(0, guest).map(|byte| format!("{byte:02x}")).join(":");
            format!("<host mac='{mac}' ip='10.77.1.{}'/>", u16::from(guest) + 1)
        })
        .collect();
    format!(
        "<network><name>bench</name><forward mode='nat'/><bridge name='{BRIDGE}' stp='off' delay='0'/><mac address='{BRIDGE_MAC}'/>
         <dns><host ip='10.77.0.1'><hostname>name.bench</hostname></host></dns>
         <ip address='10.77.0.1' netmask='255.255.0.0'>
         <dhcp><range start='10.77.16.1' end='10.77.31.254'/>{hosts}</dhcp></ip></network>"
    )
}

/// One of the daemons with its network and its wires.
struct Side<'a> {
    daemon: Daemon<'a>,
    connection: RefCell<Connection>,
    network: RemoteNetwork,
    outside: Option<Child>,
}

/// ip(8), which waits for what it is told, and does it at once. It remembers which interface has a name, so it is there for one line.
struct Ip(Child);

impl Ip {
    fn new(inside: &Surroundings) -> Result<Self> {
        let child = inside.command("ip", &["-batch", "-"]).stdin(Stdio::piped()).spawn();
        Ok(Self(child.context("executing ip")?))
    }

    /// Makes the guest's port one of the bridge.
    fn plug(&mut self) -> Result<()> {
        let input = self.0.stdin.as_mut().context("ip has no input")?;
        writeln!(input, "link set port0 master {BRIDGE}").context("telling ip")?;
        input.flush().context("telling ip")
    }
}

impl Drop for Ip {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Drop for Side<'_> {
    fn drop(&mut self) {
        if let Some(outside) = &mut self.outside {
            let _ = outside.kill();
            let _ = outside.wait();
        }
    }
}

impl<'a> Side<'a> {
    fn start(peer: &'a Peer, options: &NetworkOptions, transfers: bool) -> Result<Self> {
        let (daemon, _) = peer.start(0)?;
        let inside = daemon.inside()?;
        let wired = inside.command("sh", &["-c", WIRES]).output().context("executing ip")?;
        ensure!(wired.status.success(), "its wires: {}", String::from_utf8_lossy(&wired.stderr).trim());
        let mut connection = daemon.connect()?;
        let network = connection.call(&NetworkDefineXml { xml: document(options.guests) })?.net;
        let outside = transfers.then(|| serve(inside)).transpose()?;
        Ok(Self { daemon, connection: RefCell::new(connection), network, outside })
    }

    fn guests(&self) -> Result<Guests> {
        Guests::new(&self.daemon.inside()?.namespace("guest")?)
    }

    fn create(&self) -> Result<()> {
        self.connection.borrow_mut().call(&NetworkCreate { net: self.network.clone() })?;
        Ok(())
    }

    fn destroy(&self) -> Result<()> {
        self.connection.borrow_mut().call(&NetworkDestroy { net: self.network.clone() })?;
        Ok(())
    }

    /// Starts the network; how long until the call was answered, names were told, and addresses as well; and how long its end took.
    fn start_and_stop(&self) -> Result<[Duration; 4]> {
        let guests = self.guests()?;
        let mut ip = Ip::new(self.daemon.inside()?)?;
        let start = Instant::now();
        self.create()?;
        let called = start.elapsed();
        ip.plug()?;
        let (offered, named) = guests.until_answered(clients::mac(0, 0), start)?;
        let start = Instant::now();
        self.destroy()?;
        Ok([called, named, named.max(offered), start.elapsed()])
    }

    /// Time for one MiB between the guest and the outside, in one direction.
    fn transfer(&self, seconds: u32, arguments: &[&str]) -> Result<Duration> {
        let seconds = seconds.to_string();
        let mut command = self.daemon.inside()?.command(
            "ip",
            &["netns", "exec", "guest", "iperf3", "--json", "--client", OUTSIDE, "--time", &seconds],
        );
        let output = command.args(arguments).output().context("executing iperf3")?;
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("what iperf3 reports")?;
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        let rate = rate.filter(|rate| *rate > 0.0).with_context(|| format!("no transfer: {report}"))?;
        Ok(Duration::from_secs_f64(f64::from(8 << 20) / rate))
    }
}

/// iperf3 outside; returns when it can be called.
fn serve(inside: &Surroundings) -> Result<Child> {
    let mut command: Command = inside.command(
        "ip",
        &["netns", "exec", "outside", "iperf3", "--server", "--forceflush", "--bind", OUTSIDE],
    );
    let mut server = command.stdout(Stdio::piped()).spawn().context("executing iperf3")?;
    let output = server.stdout.take().context("iperf3 has an output")?;
    let mut lines = BufReader::new(output).lines();
    let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening"));
    ensure!(ready, "iperf3 does not listen");
    // It is not to wait for somebody who reads, nor to end for want of one.
    std::thread::Builder::new().name("iperf3".into()).spawn(move || lines.for_each(drop))?;
    Ok(server)
}

/// Runs everything. Outcomes of a case follow each other, Vireo's first; each is given to `show` when it is there.
pub fn compare(options: &NetworkOptions, show: impl FnMut(&[DaemonOutcome])) -> Result<DaemonResults> {
    ensure!(options.rounds > 0 && (1..=250).contains(&options.guests), "at least one round, 1 to 250 guests");
    ensure!(rustix::process::geteuid().is_root(), "it takes root to make networks");
    let folder = tempfile::tempdir_in(&options.directory).context("a temporary folder")?;
    let mut peers = vec![Peer::vireod(&options.vireod, folder.path(), Network::Own)?];
    let mut excluded = Vec::new();
    let libvirtd = installed("dnsmasq")
        .context("without dnsmasq (Debian: dnsmasq-base)")
        .and_then(|_| Peer::libvirtd(folder.path(), Network::Own));
    match libvirtd {
        Ok(peer) => peers.push(peer),
        Err(error) => {
            let reason = format!("{error:#}");
            eprintln!("libvirtd is left out: {reason}");
            excluded.push(Excluded { name: "libvirtd".to_owned(), reason });
        }
    }
    let transfers = installed("iperf3").is_some();
    if !transfers {
        eprintln!("transfers are left out: iperf3 is not installed");
    }
    let sides = peers
        .iter()
        .map(|peer| Side::start(peer, options, transfers).with_context(|| format!("starting {}", peer.name)));
    let sides = sides.collect::<Result<Vec<_>>>()?;
    let mut contest = Contest { sides: &sides, rounds: options.rounds, show, outcomes: Vec::new() };
    contest.run(options, transfers)?;
    Ok(DaemonResults { outcomes: contest.outcomes, memory: Vec::new(), excluded })
}

/// What is measured with, and what came out so far.
struct Contest<'a, 'p, F> {
    sides: &'a [Side<'p>],
    rounds: usize,
    show: F,
    outcomes: Vec<DaemonOutcome>,
}

impl<F: FnMut(&[DaemonOutcome])> Contest<'_, '_, F> {
    fn run(&mut self, options: &NetworkOptions, transfers: bool) -> Result<()> {
        for side in self.sides {
            // Not counted: programs are read from the disk.
            side.start_and_stop().with_context(|| format!("the first start by {}", side.daemon.peer.name))?;
        }
        self.race(
            ["net-start, the call", "net-start until names are told", "net-start until ready", "net-destroy"],
            |side, _| side.start_and_stop(),
        )?;
        for side in self.sides {
            side.create()?;
            Ip::new(side.daemon.inside()?)?.plug()?;
        }
        let guests = u32::from(options.guests);
        self.race(["a lease, fixed addresses"], |side, _| {
            Ok([side.guests()?.lease_all(0, options.guests)? / guests])
        })?;
        self.race(["a lease, new guests"], |side, round| {
            let batch = u8::try_from(round % 255)? + 1;
            Ok([side.guests()?.lease_all(batch, options.guests)? / guests])
        })?;
        if transfers {
            self.race(["a MiB by NAT, from the guest"], |side, _| {
                Ok([side.transfer(options.seconds, &[])?])
            })?;
            self.race(["a MiB by NAT, to the guest"], |side, _| {
                Ok([side.transfer(options.seconds, &["--reverse"])?])
            })?;
        }
        for side in self.sides {
            side.destroy()?;
        }
        Ok(())
    }

    /// Lets all do the same in each round, which gives a time for each case.
    fn race<const N: usize>(
        &mut self,
        cases: [&str; N],
        mut measure: impl FnMut(&Side<'_>, usize) -> Result<[Duration; N]>,
    ) -> Result<()> {
        let mut samples: Vec<[Vec<Duration>; N]> =
            self.sides.iter().map(|_| std::array::from_fn(|_| Vec::new())).collect();
        for round in 0..self.rounds {
            for turn in 0..self.sides.len() {
                // Nobody is always the first.
                let number = (round + turn) % self.sides.len();
                let side = &self.sides[number];
                let times = measure(side, round)
                    .with_context(|| format!("{}, {}", cases.join(", "), side.daemon.peer.name))?;
                for (all, time) in samples[number].iter_mut().zip(times) {
                    all.push(time);
                }
            }
        }
        for (at, case) in cases.into_iter().enumerate() {
            let outcome = |(side, own): (&Side<'_>, &[Vec<Duration>; N])| {
                Some(DaemonOutcome {
                    case: case.to_owned(),
                    program: side.daemon.peer.name.to_owned(),
                    time_us: summarise(&own[at])?,
                    ours_ratio: paired_ratio(&samples[0][at], &own[at]),
                    processors: None,
                })
            };
            let outcomes: Vec<_> = self.sides.iter().zip(&samples).filter_map(outcome).collect();
            (self.show)(&outcomes);
            self.outcomes.extend(outcomes);
        }
        Ok(())
    }
}
