//! What every program of a comparison is told to run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Size of the disk, a file without data.
const DISK_BYTES: u64 = 64 << 20;

/// A guest with one vCPU, its first serial port on standard output.
#[derive(Debug)]
pub struct Job {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// Guest memory in MiB.
    pub memory: u32,
    /// What else the machine has.
    pub devices: Option<Devices>,
    /// Where files can be written that programs want for this job.
    pub folder: PathBuf,
}

/// The devices of the usual machine: a disk, a network interface, entropy, a console.
#[derive(Debug)]
pub struct Devices {
    /// The disk's image.
    pub disk: PathBuf,
    /// The network interface's TAP; `None` where none could be made.
    pub tap: Option<TapInterface>,
}

impl Job {
    /// A kernel and nothing else.
    pub fn new(kernel: PathBuf, memory: u32, folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { kernel, initramfs: None, command_line: String::new(), memory, devices: None, folder }
    }

    /// The name of the TAP interface, if the machine has one.
    pub fn tap(&self) -> Option<&str> {
        Some(&self.devices.as_ref()?.tap.as_ref()?.name)
    }

    /// `word` with every placeholder replaced.
    pub(crate) fn replace(&self, word: &str) -> String {
        let path = |path: Option<&PathBuf>| path.map_or_else(String::new, |path| path.display().to_string());
        word.replace("{kernel}", &path(Some(&self.kernel)))
            .replace("{initramfs}", &path(self.initramfs.as_ref()))
            .replace("{cmdline}", &self.command_line)
            .replace("{memory}", &self.memory.to_string())
            .replace("{disk}", &path(self.devices.as_ref().map(|devices| &devices.disk)))
            .replace("{tap}", self.tap().unwrap_or_default())
    }
}

impl Devices {
    /// Makes an empty disk in `folder` and a TAP interface; without the right to make one the machines have no network
    /// interface.
    pub fn make(folder: &Path) -> Result<Self> {
        let disk = folder.join("disk.raw");
        File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).context("making a disk")?;
        let tap = TapInterface::make()
            .inspect_err(|error| eprintln!("machines have no network interface: {error:#}"))
            .ok();
        Ok(Self { disk, tap })
    }
}

/// A TAP interface that stays while programs come and go; removed when dropped.
#[derive(Debug)]
pub struct TapInterface {
    name: String,
}

impl TapInterface {
    fn make() -> Result<Self> {
        let name = format!("bench{}", std::process::id());
        ip(&["tuntap", "add", "dev", &name, "mode", "tap", "vnet_hdr"])?;
        let tap = Self { name };
        // Programs differ in whether they bring it up, which takes longer than all else that they do.
        ip(&["link", "set", "dev", &tap.name, "up"])?;
        Ok(tap)
    }
}

impl Drop for TapInterface {
    fn drop(&mut self) {
        if let Err(error) = ip(&["link", "delete", "dev", &self.name]) {
            eprintln!("the interface {} remains: {error:#}", self.name);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("executing ip")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), text.trim());
    Ok(())
}
