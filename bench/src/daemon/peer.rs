//! The daemons: how each is started for itself, asked, looked at and ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::ConnectNumOfDefinedDomains;
use rustix::process::{Pid, Signal, kill_process};

use crate::surroundings::{Network, Surroundings};

/// How long a daemon may take to answer the first call: at first libvirtd runs every QEMU that it finds.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two tries to connect to a daemon that starts.
const PAUSE: Duration = Duration::from_micros(200);

/// A daemon that can be started.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What the report calls it.
    pub(crate) name: &'static str,
    command: Vec<String>,
    socket: PathBuf,
    uri: String,
    log: PathBuf,
    /// What it needs around itself.
    surroundings: Option<Surroundings>,
}

impl Peer {
    /// Ours.
    pub(crate) fn vireod(program: &Path, folder: &Path, network: Network) -> Result<Self> {
        ensure!(program.is_file(), "{} is not there: cargo build --release", program.display());
        let folder = folder.join("vireod");
        fs::create_dir(&folder).context("a folder for vireod")?;
        let path = |name: &str| folder.join(name).display().to_string();
        let program = program.display().to_string();
        let (state, runtime) = (path("state"), path("run"));
        let surroundings = match network {
            Network::OfTheHost => None,
            Network::Own => Some(Surroundings::make(&folder, network)?),
        };
        let mut command = surroundings.as_ref().map(Surroundings::prefix).unwrap_or_default();
        command.extend([program, "--state-dir".into(), state, "--runtime-dir".into(), runtime]);
        let instance = if rustix::process::geteuid().is_root() { "system" } else { "session" };
        Ok(Self {
            name: "vireod",
            command,
            socket: folder.join("run/libvirt-sock"),
            uri: format!("qemu:///{instance}"),
            log: folder.join("log"),
            surroundings,
        })
    }

    /// Debian's, which keeps its definitions in fixed places: it gets a mount namespace in which these are in `folder`.
    pub(crate) fn libvirtd(folder: &Path, network: Network) -> Result<Self> {
        let program = installed("libvirtd").context("not installed (Debian: libvirt-daemon)")?;
        ensure!(
            Path::new("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so").exists(),
            "without its driver for QEMU (Debian: libvirt-daemon-driver-qemu)"
        );
        let folder = folder.join("libvirtd");
        fs::create_dir(&folder).context("a folder for libvirtd")?;
        ensure!(Path::new("/etc/libvirt").is_dir(), "/etc/libvirt is not there: is libvirt installed?");
        let surroundings = Surroundings::make(&folder, network)?;
        let configuration = folder.join("libvirtd.conf");
        let sockets = folder.join("sockets");
        fs::create_dir(&sockets)?;
        let text = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n",
            sockets.display()
        );
        fs::write(&configuration, text).context("writing libvirtd's configuration")?;
        // Where it would otherwise ask for a user and for security modules that an installation without libvirtd has not.
        fs::write(
            folder.join("etc/qemu.conf"),
            "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n",
        )?;
        let pid_file = folder.join("pid").display().to_string();
        let mut command = surroundings.prefix();
        command.extend([program.display().to_string(), "--config".into()]);
        command.extend([configuration.display().to_string(), "--pid-file".into(), pid_file]);
        Ok(Self {
            name: "libvirtd",
            command,
            socket: sockets.join("libvirt-sock"),
            uri: "qemu:///system".into(),
            log: folder.join("log"),
            surroundings: Some(surroundings),
        })
    }

    /// Starts it, and waits until it has answered a call; how long both took.
    pub(crate) fn start(&self, domains: usize) -> Result<(Daemon<'_>, Duration)> {
        // What the one before left to be written would be written in this one's time.
        rustix::fs::sync();
        let _ = fs::remove_file(&self.socket);
        let log = fs::File::create(&self.log).context("a file for its messages")?;
        let (program, arguments) = self.command.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let start = Instant::now();
        let child = command.spawn().with_context(|| format!("executing {program}"))?;
        let mut daemon = Daemon { peer: self, child };
        let defined = daemon.first_answer(start).with_context(|| {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            format!("{} does not answer; it said: {said}", self.name)
        })?;
        let time = start.elapsed();
        ensure!(defined == domains, "{} knows {defined} of {domains} domains", self.name);
        Ok((daemon, time))
    }
}

/// A running daemon. Killed when dropped, unless it was ended.
#[derive(Debug)]
pub(crate) struct Daemon<'a> {
    pub(crate) peer: &'a Peer,
    child: Child,
}

impl Daemon<'_> {
    fn first_answer(&mut self, start: Instant) -> Result<usize> {
        loop {
            match self.connect() {
                Ok(mut connection) => {
                    return Ok(usize::try_from(connection.call(&ConnectNumOfDefinedDomains {})?.num)?);
                }
                Err(ClientError::Connect { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended: {status}");
            }
            ensure!(start.elapsed() < PATIENCE, "no answer in {} s", PATIENCE.as_secs());
            std::thread::sleep(PAUSE);
        }
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> Result<Connection, ClientError> {
        Connection::open_socket(&self.peer.socket, Some(&self.peer.uri), false)
    }

    /// What is around it.
    ///
    /// # Errors
    /// When that is the host.
    pub(crate) fn inside(&self) -> Result<&Surroundings> {
        self.peer.surroundings.as_ref().context("it has no surroundings of its own")
    }

    /// Ends it as a service manager does.
    pub(crate) fn end(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }

    /// Processor time that its threads have used (Documentation/scheduler/sched-stats.rst); none where the kernel does not count.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()?;
        let used = threads.filter_map(|thread| -> Option<u64> {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse().ok()
        });
        Some(Duration::from_nanos(used.sum())).filter(|time| !time.is_zero())
    }

    /// Resident memory, and the same with shared pages in parts, KiB (proc_pid_smaps_rollup(5)).
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        rollup(&text)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // It has ended already, or is to go: there is nothing to do about a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rollup(text: &str) -> Result<(u64, u64)> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        anyhow::Ok(number.with_context(|| format!("no {name} in {text:?}"))?.parse()?)
    };
    Ok((field("Rss:")?, field("Pss:")?))
}

pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Daemons are not on every user's PATH.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_both_ways() {
        let text = "1-2 ---p 00000000 00:00 0 [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Dirty: 5 kB\n";
        assert_eq!(rollup(text).unwrap(), (2048, 1024));
        assert!(rollup("Rss: 1 kB").is_err());
    }
}
