//! The daemon as its clients see it: the real program, asked by Debian's virsh and python3-libvirt and by our own client.
//!
//! Messages are those that virsh prints for the same situation on libvirtd 9.0, where its own part of them is concerned.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compare;
mod console;
mod crashes;
mod guest;
mod host;
mod hostile;
mod life;
mod machines;
mod networks;
mod own_network;
mod pools;
mod transfers;
mod volumes;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use libvirt_rpc::client::Connection;
use tempfile::TempDir;

/// A directory for daemons, one after the other: what they keep, their sockets, and storage.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path("storage")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A path as an argument.
    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn socket(&self) -> PathBuf {
        self.path("run/libvirt-sock")
    }

    fn read_only_socket(&self) -> PathBuf {
        self.path("run/libvirt-sock-ro")
    }

    /// The URI by which the daemon at a socket is reached: that of root's, or that of a user's.
    fn uri(&self, socket: &Path) -> String {
        let kind = if rustix::process::geteuid().is_root() { "system" } else { "session" };
        format!("qemu:///{kind}?socket={}", socket.display())
    }

    fn command(&self) -> Command {
        self.command_with(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mock_machine")))
    }

    /// A daemon whose machines are run by `program`.
    fn command_with(&self, program: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vireod"));
        command.arg("--state-dir").arg(self.path("state")).arg("--runtime-dir").arg(self.path("run"));
        command.arg("--machine-program").arg(program);
        command
    }

    /// Starts the daemon, and waits until it says that it answers.
    fn start(&self) -> Vireod {
        Vireod::start(self.command(), self.path("log"))
    }

    fn virsh(&self, arguments: &[&str]) -> Said {
        virsh(&self.uri(&self.socket()), arguments)
    }

    /// What virsh prints when it must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let said = self.virsh(arguments);
        assert!(said.status.success(), "virsh {arguments:?}: {said:?}");
        said.out
    }

    /// Runs virsh, which must fail with all of these in its message.
    fn fails(&self, arguments: &[&str], message: &[&str]) {
        self.virsh(arguments).failed_with(arguments, message);
    }

    fn connect(&self) -> Connection {
        Connection::open_socket(&self.socket(), None, false).unwrap()
    }

    /// A pool of the type dir that is built, started and called `name`.
    fn pool(&self, name: &str) {
        let target = self.text(&format!("storage/{name}"));
        self.ok(&["pool-define-as", name, "dir", "--target", &target]);
        self.ok(&["pool-build", name]);
        self.ok(&["pool-start", name]);
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.text(name)
    }
}

/// What a client printed.
#[derive(Debug)]
struct Said {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Said {
    fn failed_with(&self, arguments: &[&str], message: &[&str]) {
        assert!(!self.status.success(), "virsh {arguments:?}: {self:?}");
        for part in message {
            assert!(self.err.contains(part), "virsh {arguments:?}: no {part:?} in {self:?}");
        }
    }
}

fn virsh(uri: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new("virsh");
    command.env("LC_ALL", "C").arg("-c").arg(uri).args(arguments);
    said(&mut command)
}

fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install what tools/install-dependencies lists")
    });
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { status: output.status, out: text(output.stdout), err: text(output.stderr) }
}

/// A program for Debian's Python with libvirt's module; `connection` is open.
fn python(uri: &str, program: &str) -> Said {
    let opened = format!("import libvirt\nconnection = libvirt.open('{uri}')\n{program}");
    said(Command::new("/usr/bin/python3").arg("-c").arg(opened))
}

/// A running daemon, killed when dropped.
struct Vireod {
    child: Child,
    /// Held open: the daemon's standard output.
    _out: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Vireod {
    fn start(command: Command, log: PathBuf) -> Self {
        Self::try_start(command, log).unwrap_or_else(|message| panic!("vireod does not start: {message}"))
    }

    /// Starts a daemon. When it ends before it is ready: what it said.
    fn try_start(mut command: Command, log: PathBuf) -> Result<Self, String> {
        let errors = File::create(&log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        if line.starts_with("ready: ") {
            return Ok(Self { child, _out: out, log });
        }
        assert!(!child.wait().unwrap().success());
        Err(std::fs::read_to_string(&log).unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends it as a service manager does.
    fn end(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap()
    }

    /// Ends it without a chance to do anything.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Vireod {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What virsh's `listen` prints of the first `count` events that have `wanted` in them, while `work` is done. Until virsh
/// is known to listen, `nudge` makes another one that it would hear of.
fn events_during(
    place: &Place,
    listen: &[&str],
    nudge: impl Fn(),
    wanted: &str,
    count: usize,
    work: impl FnOnce(),
) -> Vec<String> {
    let mut watcher = Command::new("virsh")
        .env("LC_ALL", "C")
        .args(["-c", &place.uri(&place.socket())])
        .args(listen)
        .args(["--loop", "--timeout", "60"])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let (printed, lines_of_it) = std::sync::mpsc::channel();
    let reader = std::thread::Builder::new().name("printed".into()).spawn(move || {
        for line in lines.map_while(Result::ok) {
            if printed.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        nudge();
        match lines_of_it.try_recv() {
            Ok(_) => break,
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(error) => panic!("virsh printed nothing: {error}"),
        }
    }
    work();
    let seen = lines_of_it.iter().filter(|line| line.contains(wanted)).take(count).collect();
    drop(lines_of_it);
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    reader.unwrap().join().unwrap();
    seen
}
