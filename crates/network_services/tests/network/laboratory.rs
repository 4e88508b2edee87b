//! A network to try the service on: a namespace with a bridge, where the service runs, and one with a guest's interface.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use network_services::{Control, ControlError, Description};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why a test can't be made here.
#[derive(Debug)]
pub(crate) struct Skipped(pub(crate) String);

/// The guest's hardware address; that of the virtual machine `Alpha`.
pub(crate) const GUEST: &str = "52:54:00:00:00:0a";

/// A network namespace of its own.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    fn new() -> Result<Self, Skipped> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vireo-test-{}-{number}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output();
        let made = made.map_err(|error| Skipped(format!("ip(8) can't be run: {error}")))?;
        if !made.status.success() {
            return Err(Skipped(format!(
                "no network namespace: {}",
                String::from_utf8_lossy(&made.stderr).trim()
            )));
        }
        let namespace = Self { name };
        // Addresses of links can be used at once.
        namespace.run(
            "sysctl",
            &["-q", "-w", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"],
        );
        namespace.run("ip", &["link", "set", "lo", "up"]);
        Ok(namespace)
    }

    /// A program inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a program inside to its end.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().unwrap()
    }

    /// The same; it has to succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Does something inside, on a thread of its own: what it opens stays there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        std::thread::scope(|scope| {
            let inside = || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            };
            scope.spawn(inside).join().unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host with the service, and a guest.
pub(crate) struct Laboratory {
    // Dropped in this order: who uses a namespace goes before it.
    pub(crate) service: Option<Process>,
    pub(crate) host: Namespace,
    pub(crate) guest: Namespace,
    pub(crate) directory: tempfile::TempDir,
}

pub(crate) fn description() -> Description {
    let mut description: Description =
        serde_json::from_str(include_str!("../../src/plan/everything.json")).unwrap();
    description.bridge = "br0".into();
    // Nobody is asked but who the test names.
    description.dns.as_mut().unwrap().forward = false;
    description.dns.as_mut().unwrap().forwarders.clear();
    description
}

impl Laboratory {
    /// With the service running.
    pub(crate) fn new(description: &Description) -> Result<Self, Skipped> {
        let mut laboratory = Self::without_service(description)?;
        laboratory.start();
        Ok(laboratory)
    }

    pub(crate) fn without_service(description: &Description) -> Result<Self, Skipped> {
        if !rustix::process::geteuid().is_root() {
            return Err(Skipped("it takes root to make network namespaces".into()));
        }
        let (host, guest) = (Namespace::new()?, Namespace::new()?);
        let directory = tempfile::tempdir().unwrap();
        let ip = |arguments: &str| host.run("ip", &arguments.split(' ').collect::<Vec<_>>());
        ip("link add br0 type bridge");
        ip("address add 10.7.0.1/24 dev br0");
        ip("address add fd00:7::1/64 dev br0 nodad");
        ip("link set br0 up");
        ip(&format!("link add p0 type veth peer name eth0 address {GUEST} netns {}", guest.name));
        ip("link set p0 master br0 up");
        guest.run("ip", &["link", "set", "eth0", "up"]);
        let laboratory = Self { service: None, host, guest, directory };
        laboratory.describe(description);
        laboratory.script();
        Ok(laboratory)
    }

    pub(crate) fn describe(&self, description: &Description) {
        std::fs::write(self.path("description.json"), serde_json::to_vec(description).unwrap()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The service, not yet started.
    pub(crate) fn service_command(&self) -> Command {
        let mut command = self.host.command(std::env::current_exe().unwrap());
        command.arg("serve").arg(self.directory.path());
        command
    }

    /// Starts the service, and returns when it is ready.
    pub(crate) fn start(&mut self) {
        let mut child = self.service_command().stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        self.service = Some(Process(child));
    }

    /// As kill -9 does it.
    pub(crate) fn kill(&mut self) {
        self.service = None;
    }

    /// Asks the service.
    pub(crate) fn control<T>(
        &self,
        ask: impl AsyncFnOnce(Control) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { ask(Control::connect(&self.path("control")).await?).await })
    }

    /// What clients run when something happens: a line in a pipe, and the address on the interface.
    fn script(&self) {
        use std::os::unix::fs::PermissionsExt;
        let script = "#!/bin/sh
            interface=${interface:-eth0}
            case \"${reason:-$1}\" in
            bound|renew) ip address replace \"$ip/$mask\" dev \"$interface\"; echo \"$1 $ip $router $dns $domain $lease\" ;;
            nak) echo nak ;;
            BOUND|REBOOT) ip address replace \"$new_ip_address/24\" dev \"$interface\"; echo \"$reason $new_ip_address\" ;;
            PREINIT6) ip link set \"$interface\" up ;;
            BOUND6) echo \"$reason $new_ip6_address $new_dhcp6_name_servers $new_dhcp6_domain_search\" ;;
            esac >> \"$RESULTS\"";
        std::fs::write(self.path("script"), script).unwrap();
        std::fs::set_permissions(self.path("script"), PermissionsExt::from_mode(0o755)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            self.path("results"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
    }

    /// What the clients' script says, line by line. Open at both ends, so that there is no end.
    pub(crate) fn results(&self) -> BufReader<File> {
        BufReader::new(File::options().read(true).write(true).open(self.path("results")).unwrap())
    }

    /// The guest's client, which asks once only, and stays.
    pub(crate) fn udhcpc(&self, options: &[&str]) -> Result<Process, Skipped> {
        let mut command = self.guest.command("udhcpc");
        command.args(["-i", "eth0", "-f", "-n", "-t", "1", "-T", "5", "-s"]).arg(self.path("script"));
        start(command.args(options).env("RESULTS", self.path("results")), "udhcpc")
    }

    /// Gets an address; returns what the script says.
    pub(crate) fn obtain(&self, options: &[&str]) -> Result<String, Skipped> {
        let mut results = self.results();
        let client = self.udhcpc(options)?;
        let line = line(&mut results);
        drop(client);
        Ok(line)
    }
}

/// Starts a client, if it is installed.
pub(crate) fn start(command: &mut Command, name: &str) -> Result<Process, Skipped> {
    let found =
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|place| Path::new(place).join(name).exists());
    if !found {
        return Err(Skipped(format!("{name} is not installed (tools/install-dependencies)")));
    }
    Ok(Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()))
}

/// The next line; fails when none comes in ten seconds.
pub(crate) fn line(results: &mut BufReader<File>) -> String {
    if results.buffer().is_empty() {
        let file = results.get_ref().try_clone().unwrap();
        let mut events = [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut events, Some(&patience)).unwrap();
        assert_eq!(ready, 1, "nothing has happened in 10 s");
    }
    let mut line = String::new();
    results.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// All that a process says.
pub(crate) fn said(child: &mut Child) -> String {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    said
}
