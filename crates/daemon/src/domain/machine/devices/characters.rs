//! The serial port, consoles and channels.

use std::path::{Path, PathBuf};

use libvirt_xml::OnOff;
use libvirt_xml::domain::Domain;
use libvirt_xml::domain::character::{CharacterDevice, CharacterType, TargetType};
use machine_spec::wire::{ConsoleConfig, ConsoleMode, ConsolePortConfig, SerialConfig, VmConfig};

use super::{ConsolePlace, MachineDevice, Planned, PlannedConsole, paths};
use crate::console::log_path;
use crate::domain::machine::{Findings, Places};

/// The host's end of a character device.
struct End {
    mode: ConsoleMode,
    file: Option<PathBuf>,
    socket: Option<PathBuf>,
    /// What serial ports and consoles print.
    log: Option<PathBuf>,
}

/// Serial ports, then consoles, then channels.
pub(super) fn plan(
    domain: &Domain,
    places: &Places,
    config: &mut VmConfig,
    planned: &mut Planned,
    findings: &mut Findings,
) {
    let mut ports = Vec::new();
    let serials = &domain.devices.serials;
    for (number, (path, serial)) in paths("serial", serials.len()).zip(serials).enumerate() {
        if number > 0 {
            findings.refuse(&path, "there is one serial port", "use a console of type virtio for more");
        } else if let Some(End { mode, file, socket, log }) = end(&path, serial, places, findings) {
            config.serial = Some(SerialConfig { mode, file, socket, log });
            add(planned, "serial", path, serial, ConsolePlace::Serial, mode);
        }
    }
    let consoles = &domain.devices.consoles;
    for (number, (path, console)) in paths("console", consoles.len()).zip(consoles).enumerate() {
        let virtio = target_type(console) == Some(TargetType::Virtio);
        if !virtio && number > 0 {
            let advice = "use <target type='virtio'/>";
            findings.refuse(&path, "only the first console is that of the serial port", advice);
            continue;
        }
        let Some(End { mode, file, socket, log }) = end(&path, console, places, findings) else { continue };
        if !virtio {
            // The same device as the first serial port, which comes first where both are.
            if serials.is_empty() {
                config.serial = Some(SerialConfig { mode, file, socket, log });
            }
            add(planned, "serial", path, console, ConsolePlace::Serial, mode);
        } else if config.console.is_none() {
            config.console = Some(ConsoleConfig { mode, file, socket, log });
            add(planned, "console", path, console, ConsolePlace::Console, mode);
        } else {
            let place = ConsolePlace::Port(ports.len());
            add(planned, &format!("console_ports[{}]", ports.len()), path, console, place, mode);
            ports.push(ConsolePortConfig { name: None, mode, file, socket, log });
        }
    }
    let channels = &domain.devices.channels;
    for (path, channel) in paths("channel", channels.len()).zip(channels) {
        // The table refuses the others.
        if target_type(channel) != Some(TargetType::Virtio) {
            continue;
        }
        let Some(name) = channel.target.as_ref().and_then(|target| target.name.clone()) else {
            findings.refuse(&path, "the channel has no name", "name it: <target type='virtio' name='…'/>");
            continue;
        };
        let Some(End { mode, file, socket, log }) = end(&path, channel, places, findings) else { continue };
        let place = ConsolePlace::Port(ports.len());
        add(planned, &format!("console_ports[{}]", ports.len()), path, channel, place, mode);
        ports.push(ConsolePortConfig { name: Some(name), mode, file, socket, log });
    }
    config.console_ports = Some(ports);
}

fn target_type(device: &CharacterDevice) -> Option<TargetType> {
    device.target.as_ref().and_then(|target| target.kind)
}

/// A channel's name as the name of its socket: whatever the name says, it stays in its directory.
fn file_name(name: &str) -> String {
    let name: String = name.chars().map(|letter| if letter == '/' { '_' } else { letter }).collect();
    format!("{name}.sock")
}

fn add(
    planned: &mut Planned,
    object: &str,
    path: String,
    device: &CharacterDevice,
    place: ConsolePlace,
    mode: ConsoleMode,
) {
    planned.paths.entry(object.to_owned()).or_insert_with(|| path.clone());
    let target = device.target.as_ref().and_then(|target| target.name.as_deref());
    let terminal = target.is_none();
    planned.device(path.clone(), &device.info, target, MachineDevice::Character(place));
    let log = device.backend.log.as_ref();
    let log_anew = log.is_some_and(|log| log.append == Some(OnOff::Off));
    planned.consoles.push(PlannedConsole { path, place, mode, terminal, log_anew });
}

/// The host's end. Of consoles the daemon keeps a log when the document names none; the socket of a channel has a place when the document names none.
fn end(path: &str, device: &CharacterDevice, places: &Places, findings: &mut Findings) -> Option<End> {
    let channel = device.target.as_ref().and_then(|target| target.name.as_deref());
    let socket = channel.map(|name| places.channels.join(file_name(name)));
    let backend = &device.backend;
    let log = match (&backend.log, channel, &places.consoles, device.info.alias_name()) {
        (Some(log), ..) if !Path::new(&log.file).is_absolute() => {
            let advice = "name it with its whole path";
            findings.refuse(&format!("{path}/log/@file"), "the path is not absolute", advice);
            return None;
        }
        (Some(log), ..) => Some(PathBuf::from(&log.file)),
        (None, None, Some(directory), Some(alias)) => Some(log_path(directory, alias)),
        _ => None,
    };
    let given = backend.path().map(PathBuf::from);
    let (mode, file, socket) = match backend.kind {
        CharacterType::Pty => (ConsoleMode::Pty, None, None),
        CharacterType::Null => (ConsoleMode::Null, None, None),
        CharacterType::File => (ConsoleMode::File, given, None),
        CharacterType::Unix => {
            // Without a mode libvirt's machines connect.
            let connects = backend.sources.first().is_some_and(|source| source.mode.is_none());
            if given.is_some() && connects {
                let reason = "the machine listens on sockets, it does not connect";
                findings.refuse(path, reason, "use <source mode='bind' path='…'/>");
                return None;
            }
            (ConsoleMode::Socket, None, given.or(socket))
        }
        // The table refuses them.
        _ => return None,
    };
    let end = if mode == ConsoleMode::File { &file } else { &socket };
    if matches!(mode, ConsoleMode::File | ConsoleMode::Socket) && end.is_none() {
        findings.refuse(path, "it names no path", "name one: <source path='…'/>");
        return None;
    }
    Some(End { mode, file, socket, log })
}
