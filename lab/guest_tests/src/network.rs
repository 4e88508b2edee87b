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

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("running ip")?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
