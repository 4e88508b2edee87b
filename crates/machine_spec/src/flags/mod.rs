//! The command line's spelling of a machine: `--cpus boot=2 --memory size=1G,shared=on --disk path=d.raw …`.
//!
//! Spelled as Cloud Hypervisor spells it, with a few shorthands: the first part of a value needs no key (`--cpus 2`,
//! `--memory 1G`, `--disk d.raw`). Has no meaning of its own: options become the wire type and are checked there.
//! Reading is by hand, because a VMM's start is measured in microseconds.

mod error;
mod keys;
mod options;
mod spell;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use error::FlagError;
use keys::{Keys, plain_value};
pub use options::{MachineOption, OPTIONS};
pub use spell::spell;

use crate::wire::{
    BalloonConfig, CacheMode, ConsoleConfig, ConsoleMode, ConsolePortConfig, CpuTopologyConfig, CpusConfig,
    DiskConfig, ImageType, MemoryConfig, NetConfig, OnResetConfig, RngConfig, SerialConfig, VmConfig,
};

/// Formats of images; where there are two words for one, the first is written.
const IMAGE_TYPES: &[(&str, ImageType)] = &[
    ("raw", ImageType::Raw),
    ("qcow2", ImageType::Qcow2),
    ("vmdk", ImageType::FlatVmdk),
    ("flatvmdk", ImageType::FlatVmdk),
    ("vhd", ImageType::FixedVhd),
    ("fixedvhd", ImageType::FixedVhd),
    ("vhdx", ImageType::Vhdx),
    ("vdi", ImageType::Vdi),
];

/// Cache modes, as libvirt spells them.
const CACHE_MODES: &[(&str, CacheMode)] = &[
    ("writeback", CacheMode::Writeback),
    ("none", CacheMode::None),
    ("writethrough", CacheMode::Writethrough),
    ("directsync", CacheMode::Directsync),
    ("unsafe", CacheMode::Unsafe),
];

/// A machine that is being described, option by option.
#[derive(Debug, Clone, Default)]
pub struct MachineFlags {
    config: VmConfig,
    seen: Vec<&'static str>,
}

impl MachineFlags {
    /// Takes the option `name` (without its dashes) with its value.
    ///
    /// # Errors
    /// What is wrong with the value; an unknown option; an option that has been given already and can be given once.
    pub fn take(&mut self, name: &str, value: &str) -> Result<(), FlagError> {
        let Some(option) = MachineOption::by_name(name) else {
            return Err(FlagError::UnknownOption { option: name.to_owned() });
        };
        let name = option.name;
        if self.seen.contains(&name) && !option.repeatable {
            return Err(FlagError::DuplicateOption { option: name });
        }
        self.seen.push(name);
        let config = &mut self.config;
        match name {
            "cpus" => config.cpus = cpus(value)?,
            "memory" => config.memory = memory(value)?,
            "kernel" => config.payload.kernel = Some(PathBuf::from(plain_value(name, value)?)),
            "initramfs" => config.payload.initramfs = Some(PathBuf::from(plain_value(name, value)?)),
            "firmware" => config.payload.firmware = Some(PathBuf::from(plain_value(name, value)?)),
            "nvram" => config.payload.nvram = Some(PathBuf::from(plain_value(name, value)?)),
            "cmdline" => config.payload.cmdline = Some(value.to_owned()),
            "disk" => config.disks.get_or_insert_default().push(disk(value)?),
            "net" => config.net.get_or_insert_default().push(net(value)?),
            "rng" => config.rng = Some(rng(value)?),
            "balloon" => config.balloon = Some(balloon(value)?),
            "serial" => config.serial = Some(serial(value)?),
            "console" => console(config, value)?,
            "on-reset" => config.on_reset = Some(on_reset(value)?),
            other => return Err(FlagError::UnknownOption { option: other.to_owned() }),
        }
        Ok(())
    }

    /// Whether no option has been taken.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// The description so far, with defaults for what was not said.
    pub fn into_config(self) -> VmConfig {
        self.config
    }
}

fn cpus(value: &str) -> Result<CpusConfig, FlagError> {
    let mut keys = Keys::parse("cpus", Some("boot"), &["boot", "max", "topology"], value)?;
    let boot_vcpus = keys.number("boot")?.unwrap_or(1);
    let max_vcpus = keys.number("max")?.unwrap_or(boot_vcpus);
    let topology = keys.take("topology").map(|text| topology(&text)).transpose()?;
    Ok(CpusConfig { boot_vcpus, max_vcpus, topology })
}

fn topology(text: &str) -> Result<CpuTopologyConfig, FlagError> {
    let parts: Option<Vec<u16>> = text.split(':').map(keys::number).collect();
    match parts.as_deref() {
        Some(&[threads_per_core, cores_per_die, dies_per_package, packages]) => {
            Ok(CpuTopologyConfig { threads_per_core, cores_per_die, dies_per_package, packages })
        }
        _ => Err(FlagError::Value {
            option: "cpus",
            key: "topology",
            value: text.to_owned(),
            expected: "THREADS:CORES:DIES:SOCKETS, such as 1:2:1:1",
        }),
    }
}

fn memory(value: &str) -> Result<MemoryConfig, FlagError> {
    let known = ["size", "mergeable", "shared", "hugepages", "hugepage_size", "prefault", "thp"];
    let mut keys = Keys::parse("memory", Some("size"), &known, value)?;
    let default = MemoryConfig::default();
    Ok(MemoryConfig {
        size: keys.size("size")?.unwrap_or(default.size),
        mergeable: keys.switch("mergeable")?.unwrap_or(default.mergeable),
        shared: keys.switch("shared")?.unwrap_or(default.shared),
        hugepages: keys.switch("hugepages")?.unwrap_or(default.hugepages),
        hugepage_size: keys.size("hugepage_size")?,
        prefault: keys.switch("prefault")?.unwrap_or(default.prefault),
        thp: keys.switch("thp")?.unwrap_or(default.thp),
    })
}

fn disk(value: &str) -> Result<DiskConfig, FlagError> {
    let known = [
        "path",
        "image_type",
        "backing_files",
        "backing_directories",
        "readonly",
        "direct",
        "cache",
        "sparse",
        "num_queues",
        "queue_size",
        "serial",
        "id",
    ];
    let mut keys = Keys::parse("disk", Some("path"), &known, value)?;
    let default = DiskConfig::default();
    Ok(DiskConfig {
        path: keys.take("path").map(PathBuf::from),
        image_type: keys.word("image_type", IMAGE_TYPES, "raw, qcow2, vmdk, vhd, vhdx or vdi")?,
        backing_files: keys.switch("backing_files")?.unwrap_or(default.backing_files),
        backing_directories: keys
            .texts("backing_directories")
            .map(|texts| texts.into_iter().map(PathBuf::from).collect()),
        readonly: keys.switch("readonly")?.unwrap_or(default.readonly),
        direct: keys.switch("direct")?.unwrap_or(default.direct),
        cache: keys.word("cache", CACHE_MODES, "writeback, none, writethrough, directsync or unsafe")?,
        sparse: keys.switch("sparse")?.unwrap_or(default.sparse),
        num_queues: keys.number("num_queues")?.unwrap_or(default.num_queues),
        queue_size: keys.number("queue_size")?.unwrap_or(default.queue_size),
        id: keys.take("id"),
        serial: keys.take("serial"),
    })
}

fn net(value: &str) -> Result<NetConfig, FlagError> {
    let known =
        ["tap", "ip", "mask", "mac", "mtu", "link_up", "num_queues", "queue_size", "id", "fd", "socket_fd"];
    let mut keys = Keys::parse("net", Some("tap"), &known, value)?;
    let default = NetConfig::default();
    Ok(NetConfig {
        tap: keys.take("tap"),
        ip: keys.parsed("ip", "an IP address")?,
        mask: keys.parsed("mask", "a netmask such as 255.255.255.0")?,
        mac: keys.parsed("mac", "a MAC address such as 52:54:00:12:34:56")?,
        mtu: keys.number("mtu")?,
        link_up: keys.switch("link_up")?.unwrap_or(default.link_up),
        num_queues: keys.number("num_queues")?,
        queue_size: keys.number("queue_size")?.unwrap_or(default.queue_size),
        id: keys.take("id"),
        fds: keys.numbers("fd")?,
        socket_fd: keys.number("socket_fd")?,
    })
}

fn rng(value: &str) -> Result<RngConfig, FlagError> {
    let mut keys = Keys::parse("rng", Some("src"), &["src"], value)?;
    match keys.take("src") {
        Some(src) => Ok(RngConfig { src: src.into() }),
        None => Err(FlagError::MissingKey { option: "rng", key: "src" }),
    }
}

fn balloon(value: &str) -> Result<BalloonConfig, FlagError> {
    let known = ["size", "deflate_on_oom", "free_page_reporting", "statistics_period"];
    let mut keys = Keys::parse("balloon", Some("size"), &known, value)?;
    let default = BalloonConfig::default();
    Ok(BalloonConfig {
        size: keys.size("size")?.ok_or(FlagError::MissingKey { option: "balloon", key: "size" })?,
        deflate_on_oom: keys.switch("deflate_on_oom")?.unwrap_or(default.deflate_on_oom),
        free_page_reporting: keys.switch("free_page_reporting")?.unwrap_or(default.free_page_reporting),
        statistics_period: keys.number("statistics_period")?.unwrap_or(default.statistics_period),
    })
}

fn serial(value: &str) -> Result<SerialConfig, FlagError> {
    let mut keys = Keys::parse("serial", Some("mode"), &["mode", "file", "socket", "log"], value)?;
    let Character { mode, file, socket, log } = character("serial", &mut keys)?;
    Ok(SerialConfig { mode, file, socket, log })
}

/// The first console without a name is hvc0; every other one is a further port.
fn console(config: &mut VmConfig, value: &str) -> Result<(), FlagError> {
    let mut keys = Keys::parse("console", Some("mode"), &["mode", "file", "socket", "log", "name"], value)?;
    let Character { mode, file, socket, log } = character("console", &mut keys)?;
    let name = keys.take("name");
    match &mut config.console {
        console @ None if name.is_none() => *console = Some(ConsoleConfig { mode, file, socket, log }),
        _ => {
            let port = ConsolePortConfig { name, mode, file, socket, log };
            config.console_ports.get_or_insert_default().push(port);
        }
    }
    Ok(())
}

struct Character {
    mode: ConsoleMode,
    file: Option<PathBuf>,
    socket: Option<PathBuf>,
    log: Option<PathBuf>,
}

fn character(option: &'static str, keys: &mut Keys) -> Result<Character, FlagError> {
    let mut path = |key| keys.take(key).map(PathBuf::from);
    let (file, socket, log) = (path("file"), path("socket"), path("log"));
    let mode = match (keys.take("mode").as_deref(), &file, &socket) {
        (Some("off"), ..) => ConsoleMode::Off,
        (Some("pty"), ..) => ConsoleMode::Pty,
        (Some("tty"), ..) => ConsoleMode::Tty,
        (Some("null"), ..) => ConsoleMode::Null,
        (None, Some(_), _) => ConsoleMode::File,
        (None, None, Some(_)) => ConsoleMode::Socket,
        (mode, ..) => {
            return Err(FlagError::Value {
                option,
                key: "mode",
                value: mode.unwrap_or_default().to_owned(),
                expected: "tty, pty, null, off, file=PATH or socket=PATH",
            });
        }
    };
    Ok(Character { mode, file, socket, log })
}

fn on_reset(value: &str) -> Result<OnResetConfig, FlagError> {
    match value {
        "reboot" => Ok(OnResetConfig::Reboot),
        "exit" => Ok(OnResetConfig::Exit),
        other => {
            Err(FlagError::Plain { option: "on-reset", value: other.to_owned(), expected: "reboot or exit" })
        }
    }
}
