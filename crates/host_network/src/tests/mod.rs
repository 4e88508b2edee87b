//! Networks in namespaces of the tests' own, with guests and an outside that are namespaces as well.

mod beside_others;
mod guards;
mod limits;
mod passing;
mod taps;
mod undone;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use uuid::Uuid;

use crate::*;

/// Runs `test` as on a host of its own, where that is permitted: a network namespace, and sysctls of that.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    static REASON: OnceLock<()> = OnceLock::new();
    if let Some(missing) = missing() {
        REASON.get_or_init(|| eprintln!("skipped: {missing}"));
        return;
    }
    let thread = std::thread::Builder::new().spawn(move || {
        unshare_network().unwrap();
        let host = Host::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(host));
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// What is missing for namespaces with packet filters.
fn missing() -> Option<String> {
    for program in ["ip", "nft", "ping"] {
        if Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Some(format!("no program {program}"));
        }
    }
    let tried = std::thread::Builder::new().spawn(|| {
        unshare_network().map_err(|errno| format!("no network namespace of our own: {errno}"))?;
        crate::nftables::probe().map_err(|error| format!("no nftables: {error}"))
    });
    tried.unwrap().join().unwrap().err()
}

#[expect(unsafe_code, reason = "gives this thread a network namespace of its own")]
fn unshare_network() -> Result<(), rustix::io::Errno> {
    // SAFETY: affects this thread's view of the network only, and no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// The namespace of the test's thread.
pub(crate) struct Host {
    directory: tempfile::TempDir,
    /// Programs that keep namespaces of guests.
    name: u32,
}

/// Another namespace, connected by a veth pair.
struct Guest {
    process: std::process::Child,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a line of a shell; what it prints. Fails when it does.
pub(crate) fn sh(line: &str) -> String {
    let output = run("sh", &["-c", &format!("set -e; {line}")]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for what the kernel does by itself.
fn wait(mut happened: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !happened() {
        assert!(
            std::time::Instant::now() < deadline,
            "it never happens: {}",
            sh("ip -d link; nft list ruleset")
        );
        std::thread::yield_now();
    }
}

impl Host {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sh("ip link set lo up");
        Self { directory: tempfile::tempdir().unwrap(), name: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// As one that comes new: what there was is known from the host only.
    fn networks(&self) -> HostNetwork {
        HostNetwork::open(Options { table: "vireo".to_owned(), state: self.state() }).unwrap()
    }

    /// A namespace whose `eth0` is connected to `interface` of the host; `script` sets it up.
    fn guest(&self, interface: &str, script: &str) -> Guest {
        let process = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
        let guest = Guest { process };
        let pid = guest.process.id();
        // The namespace is there when it is another one.
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
            == std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        {
            std::thread::yield_now();
        }
        let temporary = format!("t{}x{}", self.name, pid % 100_000);
        sh(&format!(
            "ip link add {interface} type veth peer name {temporary}; ip link set {temporary} netns {pid} name eth0; ip link set {interface} up"
        ));
        guest.sh(&format!("ip link set lo up; {script}"));
        // The kernel looks at links that come up a little later, and drops what is sent before.
        wait(|| {
            guest.sh("ip -br link show eth0").contains(" UP ")
                && sh(&format!("ip -br link show {interface}")).contains(" UP ")
        });
        guest
    }

    /// Somebody outside, who knows no way back to guests' addresses: 203.0.113.2.
    fn outside(&self) -> Guest {
        let outside = self.guest(
            "up0",
            "ip addr add 203.0.113.2/24 dev eth0; ip addr add 2001:db8:ffff::2/64 dev eth0 nodad; ip link set eth0 up",
        );
        sh("ip addr add 203.0.113.1/24 dev up0; ip addr add 2001:db8:ffff::1/64 dev up0 nodad");
        outside
    }

    /// A guest of the default network: 192.168.122.`last`.
    async fn guest_of(&self, networks: &HostNetwork, network: &Network, last: u8) -> Guest {
        let script = format!(
            "ip link set eth0 address 52:54:00:00:00:{last:02x}; ip link set eth0 up; ip addr add 192.168.122.{last}/24 dev eth0; ip route add default via 192.168.122.1"
        );
        let name = format!("vnet{last}");
        let guest = self.guest(&name, &script);
        networks.connect(network, &name, None).await.unwrap();
        wait(|| sh("ip -br link show virbr0").contains(" UP "));
        guest
    }
}

impl Guest {
    fn inside(&self, line: &str) -> Output {
        let pid = self.process.id().to_string();
        run("nsenter", &["-t", &pid, "-n", "sh", "-c", line])
    }

    fn sh(&self, line: &str) -> String {
        let output = self.inside(&format!("set -e; {line}"));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn reaches(&self, address: &str) -> bool {
        self.inside(&format!("ping -n -c 1 -W 3 {address}")).status.success()
    }

    /// Something that listens inside, and says who has called.
    fn listen(&self, address: &str) -> Listener {
        let socket = in_namespace_of(self.process.id(), || TcpListener::bind(address).unwrap());
        Listener(socket)
    }

    /// Calls from inside; from which address, unless nobody answers.
    fn call(&self, address: &str) -> Option<SocketAddr> {
        let address: SocketAddr = address.parse().unwrap();
        in_namespace_of(self.process.id(), move || call(address))
    }
}

struct Listener(TcpListener);

impl Listener {
    /// The address from which the call came that was made last.
    fn caller(&self) -> IpAddr {
        self.0.accept().unwrap().1.ip()
    }
}

fn call(address: SocketAddr) -> Option<SocketAddr> {
    TcpStream::connect_timeout(&address, Duration::from_secs(3))
        .ok()
        .map(|stream| stream.local_addr().unwrap())
}

/// Runs on a thread in the namespace of a process.
fn in_namespace_of<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let entered = std::thread::Builder::new().spawn_scoped(scope, move || {
            let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            work()
        });
        entered.unwrap().join().unwrap()
    })
}

fn uuid(number: u8) -> Uuid {
    Uuid::from_bytes([number, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
}

fn subnet(text: &str) -> Subnet {
    let (address, prefix) = text.split_once('/').unwrap();
    Subnet::new(address.parse().unwrap(), prefix.parse().unwrap())
}

/// The network that everybody has.
fn default_network(kind: Kind) -> Network {
    let mut network = Network::new("default", uuid(1), "virbr0", kind);
    network.addresses = vec![subnet("192.168.122.1/24")];
    network.services = Services { dhcp: true, dns: true, dns_port: None };
    network
}

fn nat() -> Network {
    default_network(Kind::Nat(Nat::default()))
}

fn forward(host_port: u16, guest: &str, guest_port: u16) -> PortForward {
    let guest_address = guest.parse().unwrap();
    PortForward { protocol: Protocol::Tcp, host_address: None, host_port, guest_address, guest_port }
}

/// Everything that a network could change.
fn everything() -> Vec<String> {
    let interfaces = sh("ls /proc/sys/net/ipv6/conf");
    let mut settings = String::new();
    for interface in interfaces.lines() {
        for key in [
            "ipv4/conf/I/forwarding",
            "ipv4/conf/I/route_localnet",
            "ipv4/conf/I/accept_redirects",
            "ipv6/conf/I/forwarding",
            "ipv6/conf/I/accept_ra",
        ] {
            let key = key.replace('I', interface);
            settings += &format!("{key} {}\n", crate::sysctl::read(&key).unwrap_or_default());
        }
    }
    vec![
        // Addresses of a link that the kernel checks, and timers, change by themselves.
        sh("ip -o addr | sed 's/ tentative//'"),
        sh(
            "ip -o -d link | sed 's/_timer *[0-9.]*//g; s/topology_change[_detected]* [01]//g; s/state [A-Z]*//; s/<[^>]*>//'",
        ),
        sh(
            "(ip route show table all; ip -6 route show table all) | grep -v 'linkdown\\|^multicast\\|^ff00\\|fe80' || true",
        ),
        sh("nft -j list ruleset | sed 's/\"handle\": [0-9]*//g'"),
        settings,
        crate::sysctl::read("ipv4/ip_forward").unwrap(),
    ]
}

/// The host is as it was.
fn assert_as_before(before: &[String], when: &str) {
    for (before, now) in before.iter().zip(everything()) {
        let gone: Vec<&str> = before.lines().filter(|line| !now.contains(line)).collect();
        let new: Vec<&str> = now.lines().filter(|line| !before.contains(line)).collect();
        assert!(gone.is_empty() && new.is_empty(), "{when}: gone: {gone:#?}, new: {new:#?}");
    }
}

fn ipv4(text: &str) -> IpAddr {
    IpAddr::V4(text.parse::<Ipv4Addr>().unwrap())
}

fn exists(name: &str) -> bool {
    // sysfs shows the namespace in which it was mounted; the list of settings shows this one.
    Path::new("/proc/sys/net/ipv4/conf").join(name).exists()
}
