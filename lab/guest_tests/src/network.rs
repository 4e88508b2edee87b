//! Interfaces of the host that guests are plugged into.

use anyhow::{Context, Result, ensure};
use std::process::Command;

/// A TAP device made for one guest; taken away when dropped.
#[derive(Debug)]
pub(crate) struct Tap {
    name: String,
}

impl Tap {
    /// Makes `name` with the host's side at 192.168.77.1/24.
    pub(crate) fn make(name: &str) -> Result<Self> {
        ip(&["tuntap", "add", "dev", name, "mode", "tap"])?;
        let tap = Self { name: name.to_owned() };
        ip(&["addr", "add", "192.168.77.1/24", "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        Ok(tap)
    }

    /// Option value for `--net`.
    pub(crate) fn option(&self) -> String {
        format!("tap={}", self.name)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.name]);
    }
}

/// A bridge of the host; taken away when dropped.
#[derive(Debug)]
pub(crate) struct Bridge {
    name: String,
}

impl Bridge {
    /// Makes `name` with the host at 192.168.78.1/24.
    pub(crate) fn make(name: &str) -> Result<Self> {
        ip(&["link", "add", name, "type", "bridge"])?;
        let bridge = Self { name: name.to_owned() };
        ip(&["addr", "add", "192.168.78.1/24", "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.name]);
    }
}

/// Somebody outside, in a network namespace of its own, who knows no way back to guests' addresses; gone when dropped.
#[derive(Debug)]
pub(crate) struct Outside;

impl Outside {
    /// The address (TEST-NET-3, RFC 5737).
    pub(crate) const ADDRESS: &str = "203.0.113.2";
    const NAMESPACE: &str = "outside";

    /// Makes it, with the host at 203.0.113.1/24.
    pub(crate) fn make() -> Result<Self> {
        ip(&["netns", "add", Self::NAMESPACE])?;
        let outside = Self;
        ip(&["link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", Self::NAMESPACE])?;
        ip(&["addr", "add", "203.0.113.1/24", "dev", "up0"])?;
        ip(&["link", "set", "up0", "up"])?;
        let address = format!("{}/24", Self::ADDRESS);
        ip(&["-n", Self::NAMESPACE, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", Self::NAMESPACE, "link", "set", "eth0", "up"])?;
        Ok(outside)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Its end of the pair goes with it, and so does the host's.
        let _ = ip(&["netns", "del", Self::NAMESPACE]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("running ip")?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
