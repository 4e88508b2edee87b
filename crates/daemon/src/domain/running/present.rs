//! The document of a running machine: its definition, and what it has got when it was started.

use std::path::{Path, PathBuf};

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::character::{
    ChannelState, CharacterDevice, CharacterSource, CharacterType, ConnectMode, TargetType,
};
use machine_spec::wire::ConsoleMode;
use serde_json::Value;

use crate::domain::machine::{ConsolePlace, MachinePlan};

/// The host's end of a serial port, a console or a channel.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Console {
    /// Its alias, as in `serial0`.
    pub(crate) alias: String,
    /// Of a channel.
    pub(crate) name: Option<String>,
    /// The pseudo-terminal or socket; none of one that goes nowhere or into a file.
    pub(crate) path: Option<PathBuf>,
    /// Whether `path` is a pseudo-terminal.
    pub(crate) terminal: bool,
    /// Everything that the guest has written.
    pub(crate) log: Option<PathBuf>,
}

/// Where the planned consoles are, now that the machine (`info`, its own words) has made them. Two devices of a document that are
/// one device of the machine have the same alias and are one here. Only pseudo-terminals are the machine's to name: the daemon opens
/// what is named here.
pub(super) fn consoles(plan: &MachinePlan, info: &Value) -> Vec<Console> {
    let mut consoles: Vec<Console> = Vec::new();
    for console in &plan.consoles {
        let device = plan.devices.iter().find(|device| device.path == console.path);
        let Some(alias) = device.and_then(|device| device.alias.clone()) else { continue };
        if consoles.iter().any(|known| known.alias == alias) {
            continue;
        }
        let config = &info["config"];
        let port = match console.place {
            ConsolePlace::Serial => &config["serial"],
            ConsolePlace::Console => &config["console"],
            ConsolePlace::Port(index) => &config["console_ports"][index],
        };
        let terminal = console.mode == ConsoleMode::Pty;
        let path = match console.mode {
            ConsoleMode::Pty => port["file"].as_str().map(PathBuf::from),
            ConsoleMode::Socket => console.place.end(&plan.config).map(Path::to_owned),
            _ => None,
        };
        consoles.push(Console {
            alias,
            name: device.and_then(|device| device.target.clone()),
            path,
            terminal,
            log: console.place.log(&plan.config).map(Path::to_owned),
        });
    }
    consoles
}

/// Writes what the machine has got into its document.
pub(super) fn complete(document: &mut Definition, consoles: &[Console]) {
    set_channels(document, &[]);
    let devices = &mut document.devices;
    for serial in devices.serials.iter_mut().chain(&mut devices.channels) {
        end(serial, consoles);
    }
    for console in &mut devices.consoles {
        if let Some(path) = end(console, consoles).filter(|_| console.backend.kind == CharacterType::Pty) {
            console.backend.tty = Some(path);
        }
    }
}

/// Shows which channels the guest has open.
pub(super) fn set_channels(document: &mut Definition, open: &[String]) {
    for target in document.devices.channels.iter_mut().filter_map(|channel| channel.target.as_mut()) {
        if target.kind == Some(TargetType::Virtio) {
            let is_open = target.name.as_ref().is_some_and(|name| open.contains(name));
            target.state = Some(if is_open { ChannelState::Connected } else { ChannelState::Disconnected });
        }
    }
}

/// Whether the channel of this name is shown as open.
pub(super) fn is_channel_open(document: &Definition, name: &str) -> bool {
    let mut targets = document.devices.channels.iter().filter_map(|channel| channel.target.as_ref());
    targets
        .any(|target| target.name.as_deref() == Some(name) && target.state == Some(ChannelState::Connected))
}

fn end(device: &mut CharacterDevice, consoles: &[Console]) -> Option<String> {
    let alias = device.info.alias_name()?;
    let path = consoles.iter().find(|console| console.alias == alias)?.path.as_ref()?.to_str()?.to_owned();
    if device.backend.sources.is_empty() {
        device.backend.sources.push(CharacterSource::default());
    }
    let source = device.backend.sources.first_mut()?;
    source.path = Some(path.clone());
    if device.backend.kind == CharacterType::Unix {
        source.mode = Some(ConnectMode::Bind);
    }
    Some(path)
}
