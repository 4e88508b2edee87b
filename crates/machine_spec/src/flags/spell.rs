//! The other direction: a description as options.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::{CACHE_MODES, IMAGE_TYPES};
use crate::wire::{
    BalloonConfig, ConsoleMode, CpusConfig, DiskConfig, MemoryConfig, NetConfig, OnResetConfig, VmConfig,
};

/// The options that describe the same machine: name (with dashes) and value by turns, ready for a command line.
///
/// A path that is not UTF-8 can't be in a description that came from JSON or from options, the two ways there are; should
/// it be in one made by a program, its bad bytes are replaced.
pub fn spell(config: &VmConfig) -> Vec<String> {
    let VmConfig {
        cpus,
        memory,
        payload,
        disks,
        net,
        rng,
        balloon,
        serial,
        console,
        platform: _,
        console_ports,
        on_reset,
    } = config;
    let mut words = Words::default();
    let ports = console_ports.as_deref().unwrap_or_default();
    words.optional("kernel", payload.kernel.as_deref().map(lossy));
    words.optional("firmware", payload.firmware.as_deref().map(lossy));
    words.optional("nvram", payload.nvram.as_deref().map(lossy));
    words.optional("initramfs", payload.initramfs.as_deref().map(lossy));
    words.optional("cmdline", payload.cmdline.clone());
    words.option("cpus", spell_cpus(cpus));
    words.option("memory", spell_memory(memory));
    for disk in disks.iter().flatten() {
        words.option("disk", spell_disk(disk));
    }
    for net in net.iter().flatten() {
        words.option("net", spell_net(net));
    }
    if let Some(rng) = rng {
        words.option("rng", Pairs::default().with("src", Some(lossy(&rng.src))).text());
    }
    if let Some(balloon) = balloon {
        words.option("balloon", spell_balloon(balloon));
    }
    if let Some(serial) = serial {
        let paths = [&serial.file, &serial.socket, &serial.log];
        words.option("serial", spell_character(serial.mode, paths, None));
    }
    match console {
        Some(console) => {
            let paths = [&console.file, &console.socket, &console.log];
            words.option("console", spell_character(console.mode, paths, None));
        }
        // Keeps a port without a name from becoming hvc0 before the others.
        None if !ports.is_empty() => words.option("console", "off".to_owned()),
        None => {}
    }
    for port in ports {
        let paths = [&port.file, &port.socket, &port.log];
        words.option("console", spell_character(port.mode, paths, port.name.as_deref()));
    }
    words.optional(
        "on-reset",
        on_reset.map(|on_reset| match on_reset {
            OnResetConfig::Reboot => "reboot".to_owned(),
            OnResetConfig::Exit => "exit".to_owned(),
        }),
    );
    words.0
}

#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn option(&mut self, name: &str, value: String) {
        self.0.push(format!("--{name}"));
        self.0.push(value);
    }

    fn optional(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.option(name, value);
        }
    }
}

/// `key=value` parts, quoted where they have to be.
#[derive(Default)]
struct Pairs(Vec<String>);

impl Pairs {
    fn with(mut self, key: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.0.push(format!("{key}={}", quoted(&value.to_string())));
        }
        self
    }

    /// A part that is written as it is.
    fn plain(mut self, part: Option<String>) -> Self {
        self.0.extend(part);
        self
    }

    fn switch(self, key: &str, on: bool) -> Self {
        self.with(key, Some(if on { "on" } else { "off" }))
    }

    fn text(self) -> String {
        self.0.join(",")
    }
}

fn quoted(value: &str) -> String {
    if !value.is_empty() && !value.contains([',', '"', '[', ']', '=', '\\']) {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn spell_cpus(cpus: &CpusConfig) -> String {
    let topology = cpus
        .topology
        .map(|t| format!("{}:{}:{}:{}", t.threads_per_core, t.cores_per_die, t.dies_per_package, t.packages));
    Pairs::default()
        .with("boot", Some(cpus.boot_vcpus))
        .with("max", Some(cpus.max_vcpus))
        .with("topology", topology)
        .text()
}

fn spell_memory(memory: &MemoryConfig) -> String {
    Pairs::default()
        .with("size", Some(memory.size))
        .switch("mergeable", memory.mergeable)
        .switch("shared", memory.shared)
        .switch("hugepages", memory.hugepages)
        .with("hugepage_size", memory.hugepage_size)
        .switch("prefault", memory.prefault)
        .switch("thp", memory.thp)
        .text()
}

/// The word that stands for `meaning`.
fn word<T: PartialEq>(words: &[(&'static str, T)], meaning: &T) -> Option<&'static str> {
    words.iter().find(|(_, candidate)| candidate == meaning).map(|(word, _)| *word)
}

fn spell_disk(disk: &DiskConfig) -> String {
    let directories = disk.backing_directories.as_ref().filter(|directories| !directories.is_empty());
    let directories = directories.map(|directories| {
        let paths: Vec<_> = directories.iter().map(|path| quoted(&lossy(path))).collect();
        format!("backing_directories=[{}]", paths.join(","))
    });
    Pairs::default()
        .with("path", disk.path.as_deref().map(lossy))
        .with("image_type", disk.image_type.and_then(|image_type| word(IMAGE_TYPES, &image_type)))
        .switch("backing_files", disk.backing_files)
        .plain(directories)
        .switch("readonly", disk.readonly)
        .switch("direct", disk.direct)
        .with("cache", disk.cache.and_then(|cache| word(CACHE_MODES, &cache)))
        .switch("sparse", disk.sparse)
        .with("num_queues", Some(disk.num_queues))
        .with("queue_size", Some(disk.queue_size))
        .with("id", disk.id.as_ref())
        .with("serial", disk.serial.as_ref())
        .text()
}

fn spell_net(net: &NetConfig) -> String {
    let fds = net.fds.as_ref().map(|fds| {
        let numbers: Vec<_> = fds.iter().map(i32::to_string).collect();
        format!("fd=[{}]", numbers.join(","))
    });
    Pairs::default()
        .with("tap", net.tap.as_ref())
        .with("ip", net.ip)
        .with("mask", net.mask)
        .with("mac", net.mac)
        .with("mtu", net.mtu)
        .with("link_up", (!net.link_up).then_some("off"))
        .with("num_queues", net.num_queues)
        .with("queue_size", Some(net.queue_size))
        .with("id", net.id.as_ref())
        .with("socket_fd", net.socket_fd)
        .plain(fds)
        .text()
}

fn spell_balloon(balloon: &BalloonConfig) -> String {
    Pairs::default()
        .with("size", Some(balloon.size))
        .switch("deflate_on_oom", balloon.deflate_on_oom)
        .switch("free_page_reporting", balloon.free_page_reporting)
        .with("statistics_period", Some(balloon.statistics_period))
        .text()
}

fn spell_character(
    mode: ConsoleMode,
    [file, socket, log]: [&Option<PathBuf>; 3],
    name: Option<&str>,
) -> String {
    let word = match mode {
        ConsoleMode::Off => Some("off"),
        ConsoleMode::Pty => Some("pty"),
        ConsoleMode::Tty => Some("tty"),
        ConsoleMode::Null => Some("null"),
        // Told by the key of the path.
        ConsoleMode::File | ConsoleMode::Socket => None,
    };
    Pairs::default()
        .plain(word.map(str::to_owned))
        .with("file", file.as_deref().map(lossy))
        .with("socket", socket.as_deref().map(lossy))
        .with("log", log.as_deref().map(lossy))
        .with("name", name)
        .text()
}
