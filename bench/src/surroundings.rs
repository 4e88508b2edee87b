//! A host of its own for a program that writes to fixed places, as far as files and, where wanted, the network go.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Which network a program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// That of the host.
    OfTheHost,
    /// One of its own, empty.
    Own,
}

/// Mounts of its own for a program that writes to fixed places: none of them is the host's. They are there as long as this is.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// A program that holds the namespace until its standard input ends.
    holder: Child,
    network: Network,
}

/// Each place, and the folder that takes it; then the user as which libvirtd runs machines, without which it does not start and
/// which only its package for whole hosts makes; /run, without the host's D-Bus and services; what sysfs(5) shows of a network is that
/// of whoever mounts it.
const MOUNTS: &str = r#"
set -e
cd "$1"
for name in passwd group; do
    cp "/etc/$name" "$name"
    grep -q "^libvirt-qemu:" "$name" || echo "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin" | {
        if [ "$name" = group ]; then cut -d: -f1-3 | sed "s/$/:/"; else cat; fi
    } >> "$name"
    mount --bind "$name" "/etc/$name"
done
mkdir etc lib cache
[ ! -d /etc/libvirt ] || mount --bind etc /etc/libvirt
mount --bind lib /var/lib
mount --bind cache /var/cache
mount -t tmpfs tmpfs /run
if [ "$2" = own ]; then
    mount -t sysfs sysfs /sys
    ip link set lo up
fi
echo ready
exec cat
"#;

impl Surroundings {
    pub(crate) fn make(folder: &Path, network: Network) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "only root can keep it away from the host's own files");
        for hidden in ["/var/lib", "/var/cache", "/run"] {
            ensure!(!folder.starts_with(hidden), "its folder must not be below {hidden}: choose another");
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        if network == Network::Own {
            command.arg("--net");
        }
        command.args(["sh", "-c", MOUNTS, "sh"]).arg(folder);
        command.arg(if network == Network::Own { "own" } else { "" });
        let mut holder = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("executing unshare")?;
        let mut said = [0; 6];
        let output = holder.stdout.as_mut().context("its output")?;
        if output.read_exact(&mut said).is_err() || &said != b"ready\n" {
            let mut reason = String::new();
            holder.wait()?;
            holder.stderr.take().context("its errors")?.read_to_string(&mut reason)?;
            bail!("its own mounts can't be made: {}", reason.trim());
        }
        Ok(Self { holder, network })
    }

    /// What a command begins with that is executed inside. The process is that of the command then.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let mut prefix = vec!["nsenter".into(), format!("--mount=/proc/{}/ns/mnt", self.holder.id())];
        if self.network == Network::Own {
            prefix.push(format!("--net=/proc/{}/ns/net", self.holder.id()));
        }
        prefix.push("--".into());
        prefix
    }

    /// A command that is executed inside.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let prefix = self.prefix();
        let mut command = Command::new(&prefix[0]);
        command.args(&prefix[1..]).arg(program).args(arguments).stdin(Stdio::null());
        command
    }

    /// A network namespace that ip-netns(8) has made inside.
    pub(crate) fn namespace(&self, name: &str) -> Result<File> {
        let path = format!("/proc/{}/root/run/netns/{name}", self.holder.id());
        File::open(&path).with_context(|| format!("opening {path}"))
    }

    /// Ends what its programs have left behind in a network of its own. What has none is not known.
    fn sweep(&self) {
        if self.network == Network::OfTheHost {
            return;
        }
        let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
        let holder = self.holder.id().to_string();
        let (Ok(own), Ok(processes)) = (network(&holder), std::fs::read_dir("/proc")) else { return };
        for process in processes.flatten() {
            let name = process.file_name().to_string_lossy().into_owned();
            let number = name.parse().ok().and_then(Pid::from_raw);
            if let Some(number) = number.filter(|_| name != holder)
                && network(&name).is_ok_and(|network| network == own)
            {
                // It may have ended meanwhile.
                let _ = kill_process(number, Signal::KILL);
            }
        }
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        self.sweep();
        if let Some(mut input) = self.holder.stdin.take() {
            let _ = input.flush();
        }
        // Its input has ended, so it ends.
        let _ = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_fixed_places_is_not_the_hosts() {
        if !rustix::process::geteuid().is_root() || !Path::new("/etc/libvirt").is_dir() {
            eprintln!("skipped: needs root and /etc/libvirt");
            return;
        }
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let surroundings = Surroundings::make(folder.path(), Network::OfTheHost).unwrap();
        let name = format!("vireo-bench-{}", std::process::id());
        let script = format!(
            "touch /etc/libvirt/{name} /var/lib/{name} /var/cache/{name} /run/{name} && id -u libvirt-qemu"
        );
        let mut command = surroundings.prefix();
        command.extend(["sh", "-c", &script].map(str::to_owned));
        let output = Command::new(&command[0]).args(&command[1..]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        for place in ["etc", "lib", "cache"] {
            assert!(folder.path().join(place).join(&name).exists(), "{place}");
        }
        for place in ["/etc/libvirt", "/var/lib", "/var/cache", "/run"] {
            assert!(!Path::new(place).join(&name).exists(), "{place}");
        }
    }

    #[test]
    fn what_is_left_behind_in_a_network_of_its_own_is_ended() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let surroundings = Surroundings::make(folder.path(), Network::Own).unwrap();
        let links = surroundings.command("ls", &["/sys/class/net"]).output().unwrap();
        assert_eq!(String::from_utf8(links.stdout).unwrap(), "lo\n");
        let mut left = surroundings.command("sleep", &["1000"]).spawn().unwrap();
        let own = std::fs::read_link(format!("/proc/{}/ns/net", surroundings.holder.id())).unwrap();
        while std::fs::read_link(format!("/proc/{}/ns/net", left.id())).unwrap() != own {
            std::thread::yield_now();
        }
        drop(surroundings);
        assert_eq!(left.wait().unwrap().code(), None, "it was not killed");
    }
}
