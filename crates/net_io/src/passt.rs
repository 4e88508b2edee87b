//! User-mode networking: a process of passt(1), which needs no rights, is the guest's router. It gives the guest an address
//! (by default the host's own), and makes connections of the host out of what the guest sends.
//!
//! The process is at the other end of a pair of connected sockets ([`crate::Stream`] speaks its language) and ends when our end is
//! closed, by whoever has it: a machine that ends, a daemon that is killed. Nothing has to be remembered or cleared away.
//!
//! Started without root, passt does what the user may do; started by root, it becomes `nobody`. It goes into the background when
//! it is ready, so its start has an end and a result. Options are those of Debian 12 (0.0~git20230309) and later. Later messages
//! go to the system's log, or to a file that is named; that is passt's to open, and where AppArmor watches it, below /tmp or the
//! user's home.

use std::fmt::Write as _;
use std::io::{self, Read as _, Seek as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::CommandFdExt as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{PidfdFlags, pidfd_open};

/// The program, found on PATH.
const PROGRAM: &str = "passt";

/// How long passt may take until it is ready; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a port may be taken before it is somebody else's.
const PORT_PATIENCE: Duration = Duration::from_secs(1);

/// Most of what passt says that is quoted, bytes.
const QUOTED: u64 = 4096;

/// Transport of forwarded ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Some ports of the host, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// First port of the host, not 0.
    pub first: u16,
    /// Last port of the host, not below the first.
    pub last: u16,
    /// Port of the guest that the first becomes; the same when absent.
    pub guest: Option<u16>,
    /// They are left out.
    pub excluded: bool,
}

/// Ports of the host that lead to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Their transport.
    pub transport: Transport,
    /// The host's address that listens; all when absent.
    pub address: Option<IpAddr>,
    /// The host's interface that listens; goes with an address.
    pub interface: Option<String>,
    /// Which ports; none: all that are free. Ports that are left out only, too.
    pub ports: Vec<Ports>,
}

/// How a guest is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passt {
    /// The program; `passt` of PATH when absent.
    pub program: Option<PathBuf>,
    /// The host's interface whose addresses and routes the guest gets; that of the default route when absent.
    pub interface: Option<String>,
    /// The guest's address, IPv4, and the length of its prefix.
    pub ipv4: Option<(Ipv4Addr, Option<u8>)>,
    /// The guest's address, IPv6; its prefix is 64.
    pub ipv6: Option<Ipv6Addr>,
    /// Largest packet that the guest is told of, bytes.
    pub mtu: Option<u16>,
    /// Where passt writes its messages; the system's log when absent.
    pub log_file: Option<PathBuf>,
    /// What leads to the guest.
    pub forwards: Vec<Forward>,
}

/// Why there is no user-mode network.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// There is no such program.
    #[error("{program} is not installed, which user-mode networks need: install the package passt (apt install passt)",
            program = program.display())]
    NotInstalled {
        /// The program.
        program: PathBuf,
    },
    /// A port can't be had.
    #[error("{transport} port {port} of the host can't be forwarded: {reason}")]
    Port {
        /// `TCP` or `UDP`.
        transport: &'static str,
        /// The port, with its address if it has one.
        port: String,
        /// Why, and what to do.
        reason: String,
        /// Somebody has it.
        taken: bool,
    },
    /// Passt refuses.
    #[error("passt did not start: {said}")]
    Refused {
        /// Its own words.
        said: String,
    },
    /// The host failed.
    #[error("passt: cannot {operation}: {source}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn host(operation: &'static str) -> impl Fn(io::Error) -> PasstError {
    move |source| PasstError::Host { operation, source }
}

impl Passt {
    /// Starts passt, waits until it is ready, and returns the socket to it, for [`crate::Stream::adopt`]. Blocks for milliseconds.
    ///
    /// # Errors
    /// It is not installed, or does not start; in its own words. Then nothing is left of it.
    pub fn start(&self) -> Result<OwnedFd, PasstError> {
        self.await_ports()?;
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let (ours, theirs) = pair.map_err(|error| host("make a pair of sockets")(error.into()))?;
        let program = self.program.clone().unwrap_or_else(|| PROGRAM.into());
        let words = rustix::fs::memfd_create("passt-words", MemfdFlags::CLOEXEC);
        let mut words = std::fs::File::from(words.map_err(|e| host("keep what it says")(e.into()))?);
        let mut command = Command::new(&program);
        command
            .args(self.arguments(theirs.as_raw_fd()))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words.try_clone().map_err(host("keep what it says"))?)
            // Keys that end us on a terminal are not for it: it ends with the machine.
            .process_group(0);
        // Nobody else who is started meanwhile gets it.
        command.preserved_fds(vec![theirs]);
        let mut child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => PasstError::NotInstalled { program },
            _ => PasstError::Host { operation: "start it", source },
        })?;
        // With it goes the other end: only passt has that from here on.
        drop(command);
        if !ended(child.id()).map_err(host("wait for it"))? {
            let _ = child.kill();
            let _ = child.wait();
            return Err(PasstError::Refused { said: format!("it was not ready after {PATIENCE:?}") });
        }
        let status = child.wait().map_err(host("wait for it"))?;
        if status.success() {
            return Ok(ours);
        }
        Err(PasstError::Refused { said: said(&mut words, &status.to_string()) })
    }

    /// Makes sure that the ports can be had. The passt of a machine that has just ended may be about to let go of them.
    fn await_ports(&self) -> Result<(), PasstError> {
        let deadline = Instant::now() + PORT_PATIENCE;
        loop {
            match self.forwards.iter().try_for_each(Forward::check_free) {
                Err(PasstError::Port { taken: true, .. }) if Instant::now() < deadline => {
                    std::thread::sleep(PORT_PATIENCE / 50);
                }
                checked => return checked,
            }
        }
    }

    /// The arguments, with the number of the socket in the new process.
    fn arguments(&self, socket: i32) -> Vec<String> {
        let mut words = vec!["--fd".to_owned(), socket.to_string()];
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        if let Some(interface) = &self.interface {
            add("--interface", interface.clone());
        }
        if let Some((address, prefix)) = self.ipv4 {
            add("--address", address.to_string());
            if let Some(prefix) = prefix {
                add("--netmask", prefix.to_string());
            }
        }
        if let Some(address) = self.ipv6 {
            add("--address", address.to_string());
        }
        if let Some(mtu) = self.mtu {
            add("--mtu", mtu.to_string());
        }
        if let Some(file) = &self.log_file {
            add("--log-file", file.display().to_string());
        }
        for forward in &self.forwards {
            let option = match forward.transport {
                Transport::Tcp => "--tcp-ports",
                Transport::Udp => "--udp-ports",
            };
            add(option, forward.to_string());
        }
        words
    }
}

/// As passt spells it: `ADDRESS%INTERFACE/PORTS`.
impl std::fmt::Display for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_of_all_ports() && self.address.is_none() && self.ports.is_empty() {
            return f.write_str("all");
        }
        if let Some(address) = self.address {
            write!(f, "{address}")?;
            if let Some(interface) = &self.interface {
                write!(f, "%{interface}")?;
            }
            f.write_char('/')?;
        }
        if self.ports.is_empty() {
            // Leaving out the one port that nobody listens on is how passt is told of all ports of an address.
            return f.write_str("~1");
        }
        for (number, ports) in self.ports.iter().enumerate() {
            let Ports { first, last, guest, excluded } = *ports;
            let mark = if excluded { "~" } else { "" };
            let between = if number == 0 { "" } else { "," };
            write!(f, "{between}{mark}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            if let Some(guest) = guest.filter(|guest| !excluded && *guest != first) {
                write!(f, ":{guest}")?;
                if last > first {
                    write!(f, "-{}", guest.saturating_add(last - first))?;
                }
            }
        }
        Ok(())
    }
}

impl Forward {
    fn is_of_all_ports(&self) -> bool {
        self.ports.iter().all(|ports| ports.excluded)
    }

    /// Refuses ports that somebody else has: passt is content with one of the two address families.
    fn check_free(&self) -> Result<(), PasstError> {
        if self.is_of_all_ports() {
            return Ok(());
        }
        let included = self.ports.iter().filter(|ports| !ports.excluded).flat_map(|p| p.first..=p.last);
        let excluded = |port| {
            self.ports.iter().any(|ports| ports.excluded && (ports.first..=ports.last).contains(&port))
        };
        for port in included.filter(|port| !excluded(*port)) {
            self.is_free(port).map_err(|error| {
                let taken = error.kind() == io::ErrorKind::AddrInUse;
                let reason = match error.kind() {
                    io::ErrorKind::AddrInUse => "another program listens on it: choose another".to_owned(),
                    io::ErrorKind::AddrNotAvailable => "the host has no such address".to_owned(),
                    io::ErrorKind::PermissionDenied => {
                        "it belongs to root (net.ipv4.ip_unprivileged_port_start): choose 1024 or above"
                            .to_owned()
                    }
                    _ => error.to_string(),
                };
                let transport = if self.transport == Transport::Tcp { "TCP" } else { "UDP" };
                let port = self.address.map_or(port.to_string(), |address| format!("{address}/{port}"));
                PasstError::Port { transport, port, reason, taken }
            })?;
        }
        Ok(())
    }

    fn is_free(&self, port: u16) -> io::Result<()> {
        let try_at = |address: IpAddr| match self.transport {
            Transport::Tcp => TcpListener::bind((address, port)).map(drop),
            Transport::Udp => UdpSocket::bind((address, port)).map(drop),
        };
        if let Some(address) = self.address {
            return try_at(address);
        }
        match try_at(Ipv6Addr::UNSPECIFIED.into()) {
            // Of both families: taken in one is taken.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            _ => try_at(Ipv4Addr::UNSPECIFIED.into()),
        }
    }
}

/// Waits until a child ends; whether it did in time.
fn ended(child: u32) -> io::Result<bool> {
    let pid = i32::try_from(child).ok().and_then(rustix::process::Pid::from_raw);
    let pidfd = pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?;
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let mut set = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    loop {
        match poll(&mut set, Some(&patience)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What it said, as one line, without what is no reason.
fn said(words: &mut std::fs::File, status: &str) -> String {
    let mut text = Vec::new();
    let read = words.rewind().and_then(|()| words.take(QUOTED).read_to_end(&mut text));
    if let Err(error) = read {
        return format!("{status}; what it said can't be read: {error}");
    }
    let text = String::from_utf8_lossy(&text);
    let chatter = |line: &&str| !line.contains("bytes to syslog") && !line.starts_with("Don't run as root");
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).filter(chatter).collect();
    if lines.is_empty() { format!("it said nothing ({status})") } else { lines.join("; ") }
}

/// Whether `program` (`passt` when absent) can be started from PATH. For messages and tests.
pub fn is_installed(program: Option<&Path>) -> bool {
    let name = program.unwrap_or(Path::new(PROGRAM));
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search).any(|directory| directory.join(name).is_file())
}

#[cfg(test)]
mod tests;
