//! `vireo create`, `clone` and `delete` against the real daemon, whose machines are stand-ins; images are looked at by qemu-img.
//!
//! Needs vireod beside the program that is tested (`cargo build -p vireod`; whole test runs build it anyway).
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod clone;
mod create;
mod delete;
mod identity;
mod storage;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

/// A daemon and its directories. A machine's process outlives the daemon, so guests are ended first.
struct Place {
    directory: TempDir,
    daemon: Child,
}

/// What a program printed.
#[derive(Debug)]
struct Said {
    status: ExitStatus,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install what tools/install-dependencies lists")
    });
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { status: output.status, out: text(output.stdout), err: text(output.stderr) }
}

/// What a program prints that has to succeed.
fn ran(command: &mut Command) -> String {
    let said = said(command);
    assert!(said.status.success(), "{command:?}: {said:?}");
    said.out
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("home")).unwrap();
        std::fs::create_dir(directory.path().join("pool")).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_vireo")).with_file_name("vireod");
        assert!(program.exists(), "there is no {}: cargo build -p vireod", program.display());
        let mut daemon = Command::new(program)
            .arg("--state-dir")
            .arg(directory.path().join("state"))
            .arg("--runtime-dir")
            .arg(directory.path().join("run"))
            .arg("--machine-program")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../vireod/tests/mock_machine"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "the daemon says {line:?}");
        let place = Self { directory, daemon };
        // What would be made in a place of the host's own otherwise.
        place.virsh(&["pool-define-as", "default", "dir", "--target", &place.text("pool")]);
        place.virsh(&["pool-start", "default"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn uri(&self) -> String {
        let kind = if rustix::process::geteuid().is_root() { "system" } else { "session" };
        format!("qemu:///{kind}?socket={}", self.path("run/libvirt-sock").display())
    }

    fn vireo(&self, words: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vireo"));
        said(command.env("VIREO_URI", self.uri()).env("HOME", self.path("home")).args(words))
    }

    /// What a verb prints that has to succeed.
    fn ok(&self, words: &[&str]) -> Said {
        let said = self.vireo(words);
        assert!(said.status.success(), "{words:?}: {said:?}");
        said
    }

    /// Runs a verb that has to fail with this code and all of these in its message.
    fn fails(&self, words: &[&str], code: i32, message: &[&str]) {
        let said = self.vireo(words);
        assert_eq!(said.code(), Some(code), "{words:?}: {said:?}");
        for part in message {
            assert!(said.err.contains(part), "{words:?}: no {part:?} in {said:?}");
        }
    }

    fn virsh(&self, words: &[&str]) -> String {
        ran(Command::new("virsh").env("LC_ALL", "C").arg("-c").arg(self.uri()).args(words))
    }

    /// The names of everything that is there, so that two looks can be compared.
    fn everything(&self) -> String {
        let mut files: Vec<_> = std::fs::read_dir(self.path("pool"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let domains = self.virsh(&["list", "--all", "--name"]);
        let pools = self.virsh(&["pool-list", "--all", "--name"]);
        format!("{domains}|{pools}|{}|{}", self.virsh(&["vol-list", "default"]), files.join(" "))
    }

    /// A volume of the default pool, as qemu-img describes it.
    fn image(&self, name: &str) -> serde_json::Value {
        let path = self.path("pool").join(name);
        let out = ran(Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(path));
        serde_json::from_str(&out).unwrap()
    }

    /// A raw file with something in it, and its path.
    fn raw(&self, name: &str, bytes: u64) -> String {
        let path = self.path(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(bytes).unwrap();
        let content: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[1]).collect();
        std::os::unix::fs::FileExt::write_all_at(&file, &content, 65536).unwrap();
        self.text(name)
    }

    /// Whether two images have the same content, whatever their sizes.
    fn same(&self, one: &str, other: &str) {
        ran(Command::new("qemu-img").args(["compare", "-U", one, other]));
    }

    fn document(&self, name: &str) -> libvirt_xml::domain::Domain {
        libvirt_xml::domain::Domain::parse(&self.virsh(&["dumpxml", name, "--inactive"])).unwrap()
    }

    fn define(&self, name: &str, devices: &str) {
        let path = self.path("define.xml");
        let document = format!(
            "<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>/boot/none</kernel></os>
             <devices>{devices}</devices></domain>"
        );
        std::fs::write(&path, document).unwrap();
        self.virsh(&["define", path.to_str().unwrap()]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut list = Command::new("virsh");
        list.arg("-c").arg(self.uri()).args(["list", "--name"]);
        for name in said(&mut list).out.lines().filter(|name| !name.is_empty()) {
            said(Command::new("virsh").arg("-c").arg(self.uri()).args(["destroy", name]));
        }
        // It may have ended.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
