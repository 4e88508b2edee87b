//! A daemon under test, and the host's programs that ask it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use libvirt_rpc::client::Connection;

use crate::guest::program_path;

/// Whether this is the emulated host, which may be changed at will and is gone afterwards.
pub(crate) fn in_emulated_host() -> bool {
    // lab/host-init makes it.
    Path::new("/run/.vireo-lab").is_dir()
}

/// Runs a program that has to succeed; what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    let text = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
    ensure!(output.status.success(), "{program} {arguments:?}: {}: {text}", output.status);
    Ok(text)
}

/// A daemon and the way to ask it. Dropping it ends the daemon.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let runtime = directory.join("run");
        let mut command = Command::new(program_path("vireod")?);
        command.arg("--state-dir").arg(directory.join("state")).arg("--runtime-dir").arg(&runtime);
        Self::spawn(command, &runtime)
    }

    /// As the host has it, with the network of the host's machines.
    pub(crate) fn of_the_host() -> Result<Self> {
        Self::spawn(Command::new(program_path("vireod")?), Path::new("/run/vireo"))
    }

    fn spawn(mut command: Command, runtime: &Path) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().context("starting vireod")?;
        let mut line = String::new();
        let output = child.stdout.take().context("vireod has an output")?;
        BufReader::new(output).read_line(&mut line)?;
        let daemon = Self { child, socket: runtime.join("libvirt-sock") };
        ensure!(line.starts_with("ready:"), "vireod did not start: {line:?}");
        Ok(daemon)
    }

    pub(crate) fn virsh(&self, line: &str) -> Result<String> {
        run("virsh", &["-c", &self.uri(), line])
    }

    /// How clients name it.
    pub(crate) fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.socket.display())
    }

    /// A connection of our own.
    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::open_socket(&self.socket, None, false).context("connecting to vireod")
    }

    /// Ends it as a power failure does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("killing vireod")?;
        self.child.wait().context("waiting for vireod")?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
