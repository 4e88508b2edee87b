//! The host's resolvers, from `/etc/resolv.conf` (resolv.conf(5)), read again when it changes.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Servers that are used; the C library takes three.
const MOST: usize = 3;

/// Longest file that is read, bytes.
const LONGEST: usize = 64 * 1024;

/// How often it is looked at, at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// The file and what it said.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    looked: Option<Instant>,
    version: Option<(u64, i64, i64, u64)>,
    servers: Vec<SocketAddr>,
}

impl ResolvConf {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), looked: None, version: None, servers: Vec::new() }
    }

    /// The servers that the file names now.
    pub(super) fn servers(&mut self) -> &[SocketAddr] {
        if self.looked.is_none_or(|looked| looked.elapsed() >= PATIENCE) {
            self.looked = Some(Instant::now());
            self.look();
        }
        &self.servers
    }

    fn look(&mut self) {
        let found = fs::metadata(&self.path).ok();
        let version = found.map(|found| (found.ino(), found.mtime(), found.mtime_nsec(), found.size()));
        if version.is_some() && version == self.version {
            return;
        }
        self.version = version;
        let text = fs::read(&self.path).unwrap_or_default();
        let text = text.get(..LONGEST).unwrap_or(&text);
        self.servers = parse(&String::from_utf8_lossy(text));
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next().and_then(address)).flatten()
    };
    text.lines().filter_map(server).take(MOST).collect()
}

/// An address, of a link with `%` and the link's name.
fn address(text: &str) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else {
        return Some((text.parse::<IpAddr>().ok()?, 53).into());
    };
    let address: Ipv6Addr = address.parse().ok()?;
    if link.is_empty() || link.contains('/') || link.starts_with('.') {
        return None;
    }
    let index = fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?.trim().parse().ok()?;
    Some(SocketAddrV6::new(address, 53, 0, index).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 192.0.2.1\n nameserver\tfd00::1 # x\nnameserver x\n\
            nameserver fe80::1%lo\nnameserver 192.0.2.4\n";
        let expected: Vec<SocketAddr> = vec![
            "192.0.2.1:53".parse().unwrap(),
            "[fd00::1]:53".parse().unwrap(),
            "[fe80::1%1]:53".parse().unwrap(),
        ];
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn a_file_that_changed_is_read_again_and_one_that_is_gone_names_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut file = ResolvConf::new(&path);
        let mut now = || {
            file.looked = None;
            file.servers().to_vec()
        };
        assert_eq!(now(), []);
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(now(), ["192.0.2.1:53".parse().unwrap()]);
        fs::write(directory.path().join("new"), "nameserver 192.0.2.2\n").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(now(), ["192.0.2.2:53".parse().unwrap()]);
        fs::remove_file(&path).unwrap();
        assert_eq!(now(), []);
    }
}
