//! A network of a test's own: what the test starts has it too, the host has not.

use rustix::thread::UnshareFlags;

use super::*;

/// Runs `test` in a network namespace and with mounts of its own, where that is permitted.
pub(crate) fn in_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("network".into()).spawn(move || {
        let entered = if rustix::process::geteuid().is_root() {
            unshare().map_err(|errno| errno.to_string())
        } else {
            Err("that takes root".to_owned())
        };
        if let Err(reason) = entered {
            eprintln!("skipped: no network namespace of our own: {reason}");
            return;
        }
        // The interfaces that are shown there are those of whoever has mounted it.
        run("mount", &["--make-rprivate", "/"]);
        run("mount", &["-t", "sysfs", "none", "/sys"]);
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

#[expect(unsafe_code, reason = "gives this thread, and what it starts, a network and mounts of their own")]
fn unshare() -> Result<(), rustix::io::Errno> {
    // SAFETY: affects this thread's view of the network and of the file systems only, and no memory.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
}

/// Runs a program, which must succeed; what it prints.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let done = said(Command::new(program).args(arguments));
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
    done.out
}

/// Runs a line of a shell, which must succeed; what it prints.
pub(crate) fn sh(line: &str) -> String {
    run("sh", &["-c", &format!("set -e; {line}")])
}

/// Everything of a host that a network could change: interfaces, addresses, routes, rules, settings.
pub(crate) fn host() -> Vec<String> {
    vec![
        sh(
            "ip -o link | sed 's/^[0-9]*: //; s/<[^>]*>//; s/state [A-Z]*//'; ip -o addr | grep -v fe80 | sed 's/^[0-9]*: //; s/ tentative//'",
        ),
        // Routes of links that come up, and what the kernel makes of them, come and go by themselves.
        sh(
            "(ip route show table all; ip -6 route show table all) | grep -v 'linkdown\\|multicast\\|fe80' || true",
        ),
        // The kernel lists tables in the order in which they were made last.
        sh(
            "nft list tables | sort | while read -r table; do nft -j list $table; done | sed 's/\"handle\": [0-9]*//g'",
        ),
        sh(
            "cd /proc/sys/net; grep -rs . ipv4/ip_forward ipv4/conf/*/forwarding ipv4/conf/*/accept_redirects \
            ipv4/conf/*/route_localnet ipv6/conf/*/forwarding ipv6/conf/*/accept_ra ipv6/conf/*/disable_ipv6",
        ),
    ]
}

/// A host in a network of its own, whose `eth0` is connected to an interface of the test's network; gone when it is dropped.
pub(crate) struct Neighbour {
    holder: Child,
    interface: String,
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // The kernel takes its time to remove what was in a namespace. The test may have removed it.
        let _ = Command::new("ip").args(["link", "del", &self.interface]).output();
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

impl Neighbour {
    /// Connected to `interface`, which is made.
    pub(crate) fn at(interface: &str) -> Self {
        let holder = Command::new("unshare").args(["--net", "--", "sleep", "1000"]).spawn().unwrap();
        let neighbour = Self { holder, interface: interface.to_owned() };
        let pid = neighbour.holder.id();
        // The namespace is there when it is another one.
        let namespace = |path: String| std::fs::read_link(path).unwrap();
        while namespace(format!("/proc/{pid}/ns/net")) == namespace("/proc/thread-self/ns/net".to_owned()) {
            std::thread::yield_now();
        }
        sh(&format!(
            "ip link add {interface} type veth peer name n{pid}; ip link set n{pid} netns {pid} name eth0; ip link set {interface} up"
        ));
        neighbour.sh("ip link set lo up; ip link set eth0 up");
        neighbour
    }

    /// Runs a line of a shell there, which must succeed; what it prints.
    pub(crate) fn sh(&self, line: &str) -> String {
        let pid = self.holder.id().to_string();
        run("nsenter", &["--net", "--target", &pid, "--", "sh", "-c", &format!("set -e; {line}")])
    }

    /// Asks for an address by DHCP, as `mac` and by this name; the address.
    pub(crate) fn lease(&self, mac: &str, name: &str) -> String {
        // Reads its own script from where it is told; the lease is printed and not applied.
        let printed = self.sh(&format!(
            "ip link set eth0 address {mac}; directory=$(mktemp -d)
             printf '#!/bin/sh\\n[ \"$1\" = bound ] && echo \"leased $ip\" || true\\n' > $directory/script; chmod +x $directory/script
             udhcpc -i eth0 -n -q -f -t 10 -T 1 -x hostname:{name} -s $directory/script 2>&1; rm -r $directory"
        ));
        let line = printed.lines().find_map(|line| line.strip_prefix("leased "));
        line.unwrap_or_else(|| panic!("no lease: {printed}")).to_owned()
    }
}
