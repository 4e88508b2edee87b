//! Devices that every machine has, and what devices leave unsaid.

use std::collections::{BTreeMap, BTreeSet};

use super::{Board, HostDefaults, Random, random_mac};
use crate::domain::address::{Address, StartupPolicy, VirtioSerialAddress};
use crate::domain::character::{
    CharacterDevice, CharacterTarget, CharacterType, SerialModel, SerialModelName, TargetType,
};
use crate::domain::controller::{Controller, ControllerModel, ControllerType};
use crate::domain::device::{AccessMode, Memballoon, MemballoonModel, PanicModel};
use crate::domain::disk::{Disk, DiskBus, DiskDevice, DiskType, ImageFormat};
use crate::domain::display::{
    Audio, AudioType, Graphics, GraphicsType, Input, InputBus, InputType, Listen, ListenType, Video,
    VideoModel, VideoType,
};
use crate::domain::interface::{InterfaceModel, InterfaceType, Mac};
use crate::domain::{Devices, Domain};
use crate::error::XmlError;
use crate::value::{OnOff, YesNo};

pub(super) fn complete(
    domain: &mut Domain,
    host: &HostDefaults,
    random: &mut dyn Random,
) -> Result<(), XmlError> {
    let board = Board::of(domain);
    let ps2 = domain.features.as_ref().and_then(|features| features.ps2.as_ref());
    let ps2 = ps2.is_none_or(|ps2| ps2.state == OnOff::On);
    let devices = &mut domain.devices;
    devices.emulator.get_or_insert_with(|| host.emulator.clone());
    for disk in &mut devices.disks {
        complete_disk(disk);
    }
    for interface in &mut devices.interfaces {
        interface.mac.get_or_insert_with(|| Mac { address: random_mac(random), ..Mac::default() });
        if interface.kind == InterfaceType::Hostdev {
            interface.managed.get_or_insert(YesNo::No);
        } else {
            interface.model.get_or_insert_with(|| InterfaceModel { kind: host.interface_model.clone() });
        }
    }
    for device in &mut devices.host_devices {
        device.managed.get_or_insert(YesNo::No);
        if let Some(source) = &mut device.source
            && source.startup_policy == Some(StartupPolicy::Mandatory)
        {
            source.startup_policy = None;
        }
    }
    for filesystem in &mut devices.filesystems {
        filesystem.access_mode.get_or_insert(AccessMode::Passthrough);
    }
    for panic in &mut devices.panics {
        panic.model.get_or_insert(PanicModel::Isa);
    }
    serials_and_consoles(devices);
    inputs(devices, ps2);
    displays(devices);
    if devices.audios.is_empty() {
        let spice = devices.graphics.iter().any(|graphics| graphics.kind == GraphicsType::Spice);
        let kind = if spice { AudioType::Spice } else { AudioType::None };
        devices.audios.push(Audio { id: 1, kind, ..Audio::default() });
    }
    let balloon = || Memballoon { model: MemballoonModel::Virtio, ..Memballoon::default() };
    devices.memballoon.get_or_insert_with(balloon);
    controllers(devices, board);
    Ok(())
}

fn complete_disk(disk: &mut Disk) {
    let bus = *disk.target.bus.get_or_insert_with(|| {
        let by_device = (disk.device == DiskDevice::Floppy).then_some(DiskBus::Fdc);
        by_device.or_else(|| bus_of_target(&disk.target.dev)).unwrap_or(DiskBus::Ide)
    });
    let driver = disk.driver.get_or_insert_default();
    driver.name.get_or_insert_with(|| "qemu".to_owned());
    // A pool knows the format of its volumes.
    if disk.kind != DiskType::Volume {
        driver.format.get_or_insert(ImageFormat::Raw);
    }
    if disk.device == DiskDevice::Cdrom {
        disk.readonly = true;
    }
    if bus != DiskBus::Usb {
        disk.target.removable = None;
    }
}

/// The bus that a target's name stands for.
fn bus_of_target(dev: &str) -> Option<DiskBus> {
    let prefixes = [
        ("hd", DiskBus::Ide),
        ("sd", DiskBus::Scsi),
        ("vd", DiskBus::Virtio),
        ("fd", DiskBus::Fdc),
        ("ubd", DiskBus::Usb),
    ];
    prefixes.into_iter().find(|(prefix, _)| dev.starts_with(prefix)).map(|(_, bus)| bus)
}

fn is_serial_console(console: &CharacterDevice) -> bool {
    let kind = console.target.as_ref().and_then(|target| target.kind);
    kind.is_none_or(|kind| kind == TargetType::Serial)
}

/// The first serial port and the first console are the same device, each made from the other when one is missing.
fn serials_and_consoles(devices: &mut Devices) {
    if devices.serials.is_empty()
        && let Some(console) = devices.consoles.first().filter(|console| is_serial_console(console))
    {
        let mut serial = console.clone();
        serial.target = None;
        devices.serials.push(serial);
    }
    let mut port = 0;
    let used: BTreeSet<u32> =
        devices.serials.iter().filter_map(|serial| serial.target.as_ref()?.port).collect();
    for serial in &mut devices.serials {
        let target = serial.target.get_or_insert_default();
        target.port.get_or_insert_with(|| {
            while used.contains(&port) {
                port += 1;
            }
            port += 1;
            port - 1
        });
        let name = match target.kind.get_or_insert(TargetType::IsaSerial) {
            TargetType::PciSerial => SerialModelName::PciSerial,
            TargetType::UsbSerial => SerialModelName::UsbSerial,
            TargetType::IsaDebug => SerialModelName::IsaDebugcon,
            _ => SerialModelName::IsaSerial,
        };
        target.model.get_or_insert(SerialModel { name });
    }
    if let Some(serial) = devices.serials.first() {
        let target =
            CharacterTarget { kind: Some(TargetType::Serial), port: Some(0), ..CharacterTarget::default() };
        let port = serial.target.as_ref().and_then(|target| target.port);
        let console = CharacterDevice {
            target: Some(CharacterTarget { port, ..target }),
            info: crate::domain::address::DeviceInfo {
                alias: serial.info.alias.clone(),
                ..Default::default()
            },
            ..serial.clone()
        };
        match devices.consoles.first_mut().filter(|console| is_serial_console(console)) {
            Some(first) => *first = console,
            None => devices.consoles.insert(0, console),
        }
    }
    for (number, console) in (0..).zip(&mut devices.consoles) {
        let target = console.target.get_or_insert_default();
        target.kind.get_or_insert(TargetType::Serial);
        target.port.get_or_insert(number);
    }
    for (number, parallel) in (0..).zip(&mut devices.parallels) {
        parallel.target.get_or_insert_default().port.get_or_insert(number);
    }
    for channel in &mut devices.channels {
        // Whose path is chosen at start.
        if channel.backend.kind == CharacterType::Unix && channel.backend.path().is_none() {
            channel.backend.sources.clear();
        }
    }
}

fn inputs(devices: &mut Devices, ps2: bool) {
    for input in &mut devices.inputs {
        let default = match input.kind {
            InputType::Tablet => Some(InputBus::Usb),
            InputType::Mouse | InputType::Keyboard if ps2 => Some(InputBus::Ps2),
            InputType::Mouse | InputType::Keyboard => Some(InputBus::Usb),
            InputType::Passthrough => Some(InputBus::Virtio),
            InputType::Evdev => None,
        };
        input.bus = input.bus.or(default);
    }
    for kind in [InputType::Mouse, InputType::Keyboard] {
        let there = |input: &Input| input.kind == kind && input.bus == Some(InputBus::Ps2);
        if ps2 && !devices.inputs.iter().any(there) {
            devices.inputs.push(Input { kind, bus: Some(InputBus::Ps2), ..Input::default() });
        }
    }
}

fn displays(devices: &mut Devices) {
    for graphics in &mut devices.graphics {
        complete_graphics(graphics);
    }
    if devices.videos.is_empty() && !devices.graphics.is_empty() {
        devices.videos.push(Video::default());
    }
    let primary = |video: &Video| video.model.as_ref().and_then(|model| model.primary) == Some(YesNo::Yes);
    let named = devices.videos.iter().position(primary).unwrap_or(0);
    if named < devices.videos.len() {
        // Firmware's card comes first.
        devices.videos[..=named].rotate_right(1);
    }
    for (number, video) in devices.videos.iter_mut().enumerate() {
        let default = || VideoModel { kind: VideoType::Vga, ..VideoModel::default() };
        let model = video.model.get_or_insert_with(default);
        let kind = model.kind;
        match kind {
            VideoType::None => continue,
            VideoType::Qxl => {
                model.ram.get_or_insert(65536);
                model.vram.get_or_insert(65536);
                model.vgamem.get_or_insert(16384);
            }
            VideoType::Vga | VideoType::Cirrus | VideoType::Vmvga | VideoType::Bochs => {
                model.vram.get_or_insert(16384);
            }
            VideoType::Virtio | VideoType::Ramfb => {}
        }
        model.heads.get_or_insert(1);
        model.primary = (number == 0).then_some(YesNo::Yes);
    }
}

fn complete_graphics(graphics: &mut Graphics) {
    if !matches!(graphics.kind, GraphicsType::Vnc | GraphicsType::Spice) {
        return;
    }
    let socket = graphics.socket.take();
    // Without any port a SPICE display is for clients that are handed a connection.
    let no_port = graphics.port.is_none() && graphics.tls_port.is_none() && graphics.autoport.is_none();
    if graphics.listens.is_empty() {
        let listen = match (socket, graphics.listen.take()) {
            (Some(socket), _) => {
                Listen { kind: ListenType::Socket, socket: Some(socket), ..Listen::default() }
            }
            (None, None) if no_port && graphics.kind == GraphicsType::Spice => {
                Listen { kind: ListenType::None, ..Listen::default() }
            }
            (None, address) => Listen { kind: ListenType::Address, address, ..Listen::default() },
        };
        graphics.listens.push(listen);
    }
    let local =
        graphics.listens.iter().all(|listen| matches!(listen.kind, ListenType::Socket | ListenType::None));
    if !local {
        let chosen = graphics.port.is_none_or(|port| port <= 0);
        if graphics.kind == GraphicsType::Vnc {
            let autoport = chosen || graphics.autoport == Some(YesNo::Yes);
            graphics.autoport = Some(autoport.into());
            if autoport {
                graphics.port = Some(-1);
            }
        } else if chosen && graphics.tls_port.is_none_or(|port| port <= 0) {
            graphics.autoport.get_or_insert(YesNo::Yes);
            graphics.port = None;
            graphics.tls_port = None;
        }
    }
    sync_listen(graphics);
}

/// The attributes repeat the first element that listens.
pub(super) fn sync_listen(graphics: &mut Graphics) {
    if let Some(first) = graphics.listens.first() {
        graphics.listen = first.address.clone();
        if first.kind == ListenType::Socket && graphics.kind == GraphicsType::Vnc {
            graphics.socket.clone_from(&first.socket);
        }
    }
}

fn controllers(devices: &mut Devices, board: Board) {
    number_controllers(devices);
    let has = |devices: &Devices, kind| devices.controllers.iter().any(|controller| controller.kind == kind);
    if !has(devices, ControllerType::Usb) && board != Board::Other {
        devices.controllers.push(Controller::new(ControllerType::Usb, 0));
    }
    for controller in &mut devices.controllers {
        if controller.kind == ControllerType::Usb && controller.model.is_none() {
            let model =
                if board == Board::Q35 { ControllerModel::QemuXhci } else { ControllerModel::Piix3Uhci };
            controller.model = Some(model);
        }
        if controller.kind == ControllerType::Scsi {
            let model = controller.model.get_or_insert(ControllerModel::VirtioScsi);
            if *model == ControllerModel::Auto {
                *model = ControllerModel::VirtioScsi;
            }
        }
    }
    let root = match board {
        Board::Q35 => Some(ControllerModel::PcieRoot),
        Board::I440fx => Some(ControllerModel::PciRoot),
        Board::Other => None,
    };
    if board == Board::Q35 {
        ensure_controller(devices, ControllerType::Sata, 0, None);
    }
    if let Some(root) = root {
        ensure_controller(devices, ControllerType::Pci, 0, Some(root));
    }
}

/// Adds a controller unless one of the kind has the number.
pub(super) fn ensure_controller(
    devices: &mut Devices,
    kind: ControllerType,
    index: u32,
    model: Option<ControllerModel>,
) {
    let there = |controller: &Controller| controller.kind == kind && controller.index == Some(index);
    if !devices.controllers.iter().any(there) {
        devices.controllers.push(Controller { model, ..Controller::new(kind, index) });
    }
}

/// Gives numbers to controllers that have none; USB companions share that of the controller before them.
fn number_controllers(devices: &mut Devices) {
    let mut used: BTreeSet<(ControllerType, u32)> = devices
        .controllers
        .iter()
        .filter_map(|controller| Some((controller.kind, controller.index?)))
        .collect();
    let mut next: BTreeMap<ControllerType, u32> = BTreeMap::from([(ControllerType::Pci, 1)]);
    let mut companion = 0;
    for controller in &mut devices.controllers {
        let kind = controller.kind;
        let uhci = matches!(
            controller.model,
            Some(ControllerModel::Ich9Uhci1 | ControllerModel::Ich9Uhci2 | ControllerModel::Ich9Uhci3)
        );
        let root = matches!(controller.model, Some(ControllerModel::PciRoot | ControllerModel::PcieRoot));
        let index = *controller.index.get_or_insert_with(|| match (uhci, root) {
            (true, _) => companion,
            (_, true) => 0,
            _ => {
                let next = next.entry(kind).or_default();
                while !used.insert((kind, *next)) {
                    *next += 1;
                }
                *next
            }
        });
        if controller.model == Some(ControllerModel::Ich9Ehci1) {
            companion = index;
        }
    }
}

/// A port of a virtio-serial controller.
pub(super) fn serial_address(controller: u32, port: u32) -> Address {
    Address::VirtioSerial(VirtioSerialAddress { controller, bus: 0, port })
}
