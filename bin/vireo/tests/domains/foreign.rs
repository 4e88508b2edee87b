//! Another daemon of the protocol: Debian's libvirtd, with its driver for tests.

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use super::*;

/// libvirtd in a directory of its own, as a user who is not root: as root it would look after the host.
struct Libvirtd {
    directory: TempDir,
    process: Child,
}

impl Libvirtd {
    /// None when it is not installed.
    fn start() -> Option<Self> {
        const NOBODY: u32 = 65_534;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let configuration = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nlog_outputs=\"3:file:{}\"\n",
            directory.path().display(),
            path("log").display()
        );
        std::fs::write(path("conf"), configuration).unwrap();
        let mut command = Command::new("/usr/sbin/libvirtd");
        command.arg("-f").arg(path("conf")).arg("-p").arg(path("pid"));
        for name in ["HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
            command.env(name, directory.path());
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            command.uid(NOBODY).gid(NOBODY);
        }
        let Ok(process) = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn() else {
            eprintln!("skipped: libvirtd (libvirt-daemon) is not installed");
            return None;
        };
        let daemon = Self { directory, process };
        let since = Instant::now();
        while std::os::unix::net::UnixStream::connect(daemon.socket()).is_err() {
            assert!(since.elapsed() < Duration::from_secs(60), "libvirtd does not answer");
            std::thread::yield_now();
        }
        Some(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("libvirt-sock")
    }

    fn uri(&self) -> String {
        format!("test+unix:///default?socket={}", self.socket().display())
    }

    fn say(&self, arguments: &[&str]) -> Said {
        Said::of(&mut vireo(&[&["-c", &self.uri()], arguments].concat()))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let said = self.say(arguments);
        assert!(said.code == Some(0) && said.err.is_empty(), "{arguments:?}: {said:?}");
        said.out
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Keeps the driver's state: without a connection it forgets.
fn keeper(daemon: &Libvirtd) -> libvirt_rpc::client::Connection {
    libvirt_rpc::client::Connection::open(&daemon.uri(), false).unwrap()
}

#[test]
fn libvirts_own_daemon_is_asked_as_well() {
    let Some(daemon) = Libvirtd::start() else { return };
    let _keeper = keeper(&daemon);
    assert_eq!(daemon.ok(&["list"]), " Id   Name   State\n----------------------\n 1    test   running\n");
    assert!(daemon.ok(&["info", "test"]).contains("Max memory:     8388608 KiB\n"));
    assert_eq!(daemon.ok(&["pause", "test"]), "Domain 'test' suspended\n");
    assert_eq!(daemon.ok(&["domstate", "test", "--reason"]), "paused (user)\n");
    assert_eq!(daemon.ok(&["resume", "1"]), "Domain 'test' resumed\n");
    assert_eq!(daemon.ok(&["stop", "test", "--wait", "--timeout", "30"]), "Domain 'test' shut down\n");
    daemon.say(&["reboot", "test"]).failed(5, &["cannot reboot domain test"]);
    assert_eq!(daemon.ok(&["start", "test"]), "Domain 'test' started\n");
    let shown = daemon.ok(&["vcpuinfo", "test"]);
    assert_eq!(shown.matches("State:          running").count(), 2, "{shown}");
    let address = daemon.ok(&["wait", "test", "--address", "--timeout", "10"]);
    assert!(address.starts_with("192.168."), "{address}");
    assert!(daemon.ok(&["stats", "test"]).contains("  state.state=1\n"));
    assert!(daemon.ok(&["top", "--interval", "0.1"]).contains("test"));
    daemon.say(&["console", "test"]).failed(8, &["not supported", "virDomainOpenConsole"]);
    daemon.say(&["start", "tset"]).failed(4, &["did you mean test?"]);
}

#[test]
fn networks_of_libvirts_own_daemon_are_networks() {
    let Some(daemon) = Libvirtd::start() else { return };
    let _keeper = keeper(&daemon);
    let list = daemon.ok(&["network", "list"]);
    assert!(list.contains("\n default   active   "), "{list}");
    let info = daemon.ok(&["net-info", "default"]);
    assert!(
        info.contains("Address:        192.168.122.1/24\n") && info.contains("Kind:           nat\n"),
        "{info}"
    );
    // The driver's own network has 192.168.122.0/24.
    assert_eq!(
        daemon.ok(&["network", "create", "lan"]),
        "Network 'lan' created and started, the host is 10.122.0.1/24\n"
    );
    daemon.ok(&["network", "set", "lan", "--dns", "10.122.0.7=web"]);
    assert!(daemon.ok(&["network", "xml", "lan"]).contains("<hostname>web</hostname>"));
    let ports = ["network", "create", "p", "--subnet", "10.9.9.0/24", "--forward", "tcp:80=10.9.9.9"];
    daemon.say(&ports).failed(8, &["can't forward ports", "only vireod can"]);
    assert_eq!(daemon.ok(&["network", "list", "--all", "--name"]), "default\nlan\n");
    assert!(daemon.ok(&["addresses", "test"]).contains("192.168."));
    assert_eq!(daemon.ok(&["network", "delete", "lan"]), "Network 'lan' deleted\n");
}
