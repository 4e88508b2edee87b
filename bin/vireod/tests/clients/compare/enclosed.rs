//! A daemon that sees a host of its own: mounts, processes and network are not the machine's, and all of it goes with it.

use super::*;

/// What is run as the first process in there. It prints `ready` when the daemon has its socket, and ends when its input does, that
/// is with the test at the latest, however that ends; with it the kernel ends every process in there.
///
/// The user is the one as which libvirtd runs machines, without which it does not start and which only its package for whole hosts
/// makes. An empty /run hides the host's D-Bus and services. It waits for `cat` instead of becoming it, to collect what ends.
const ENCLOSURE: &str = r#"
set -e
cd "$1"
socket=$2
shift 2
for name in passwd group; do
    cp "/etc/$name" "$name"
    grep -q "^libvirt-qemu:" "$name" || echo "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin" | {
        if [ "$name" = group ]; then cut -d: -f1-3 | sed "s/$/:/"; else cat; fi
    } >> "$name"
    mount --bind "$name" "/etc/$name"
done
for place in /etc/libvirt /var/lib /var/cache; do
    mkdir "${place##*/}"
    if [ -d "$place" ]; then mount --bind "${place##*/}" "$place"; fi
done
[ ! -e libvirt.conf ] || mv libvirt.conf qemu.conf libvirt
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
"$@" > log 2>&1 &
daemon=$!
tries=0
until [ -S "$socket" ]; do
    tries=$((tries + 1))
    [ $tries -lt 3000 ] && kill -0 $daemon 2> /dev/null || { cat log >&2; exit 1; }
    sleep 0.02
done
echo ready
cat
"#;

/// A daemon that answers.
pub(super) struct Enclosed {
    socket: PathBuf,
    /// What is run in there ends when its input does.
    holder: Child,
}

impl Enclosed {
    /// Starts a daemon that makes this socket, or says why it can't run. What it prints is in `log` in the folder.
    pub(super) fn start(folder: &Path, socket: PathBuf, daemon: &mut Command) -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "--ipc",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.args(["--propagation", "private", "sh", "-c", ENCLOSURE, "sh"]).arg(folder).arg(&socket);
        command.arg(daemon.get_program()).args(daemon.get_args());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line == "ready\n" {
            return Ok(Self { socket, holder });
        }
        let said = holder.wait_with_output().unwrap();
        Err(String::from_utf8_lossy(&said.stderr).trim().to_owned())
    }

    /// How virsh reaches it.
    pub(super) fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.socket.display())
    }
}

impl Drop for Enclosed {
    fn drop(&mut self) {
        // The holder ends when its input does; this waits until every process in there is gone.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
