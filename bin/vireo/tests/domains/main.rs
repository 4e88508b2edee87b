//! The verbs about domains as a person or a script sees them: the real program, asking a real vireod whose machines are a mock
//! process, a daemon of the test's own where vireod would be too well-behaved, and Debian's libvirtd.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connections;
mod consoles;
mod definitions;
mod foreign;
mod machines;
mod networks;
mod person;
mod watching;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// vireod beside vireo; built if it isn't there, as when only this package is tested.
fn vireod() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_vireo")).with_file_name("vireod");
        if !program.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--package", "vireod"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "vireod can't be built");
        }
        program
    })
}

/// A daemon with its directories, and domains.
struct Place {
    directory: TempDir,
    daemon: Child,
}

impl Place {
    fn new() -> Self {
        Self::of(Command::new(vireod()))
    }

    /// A place of the daemon that this command starts.
    fn of(mut daemon: Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let machine = concat!(env!("CARGO_MANIFEST_DIR"), "/../vireod/tests/mock_machine");
        let mut daemon = daemon
            .arg("--state-dir")
            .arg(directory.path().join("state"))
            .arg("--runtime-dir")
            .arg(directory.path().join("run"))
            .args(["--machine-program", machine])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "the daemon says {line:?}");
        Self { directory, daemon }
    }

    /// A place with these domains defined; their guests obey the words.
    fn with(domains: &[(&str, &str)]) -> Self {
        let place = Self::new();
        for (name, words) in domains {
            place.ok(&["define", &place.document(name, words)]);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn uri(&self) -> String {
        let kind = if rustix::process::geteuid().is_root() { "system" } else { "session" };
        format!("qemu:///{kind}?socket={}", self.path("run/libvirt-sock").display())
    }

    /// A file with a definition.
    fn document(&self, name: &str, words: &str) -> String {
        self.write(&format!("{name}.xml"), &document(name, words))
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path.into_os_string().into_string().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = vireo(arguments);
        command.env("VIREO_URI", self.uri());
        command
    }

    fn say(&self, arguments: &[&str]) -> Said {
        Said::of(&mut self.command(arguments))
    }

    /// What vireo prints when it must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let said = self.say(arguments);
        assert!(said.code == Some(0) && said.err.is_empty(), "vireo {arguments:?}: {said:?}");
        said.out
    }

    /// What it prints in JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Runs vireo, which must end with `code` and have all of these in its message.
    fn fails(&self, arguments: &[&str], code: i32, message: &[&str]) {
        self.say(arguments).failed(code, message);
    }

    fn state(&self, name: &str) -> String {
        self.ok(&["domstate", name, "--reason"]).trim().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Machines outlive the daemon: a test that has failed leaves none.
        if let Ok(output) = self.command(&["list", "--id"]).output() {
            for id in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                let _ = self.command(&["destroy", id]).output();
            }
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A definition of a machine whose guest obeys these words.
fn document(name: &str, words: &str) -> String {
    format!(
        "<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/none</kernel><cmdline>{words}</cmdline></os>
         <devices><serial type='pty'/><console type='pty'/></devices></domain>"
    )
}

fn vireo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vireo"));
    command.args(arguments).env_remove("VIREO_URI").env_remove("COMPLETE").stdin(Stdio::null());
    command
}

/// What the program printed, and its exit code.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    fn failed(&self, code: i32, message: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.out.is_empty(), "{self:?}");
        for part in message {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}
