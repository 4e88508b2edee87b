//! Places on controllers other than PCI's: drives, ports of virtio-serial controllers, USB ports, memory slots; and the controllers
//! that devices need.

use std::collections::{BTreeMap, BTreeSet};

use super::devices::{ensure_controller, serial_address};
use super::unsupported;
use crate::domain::address::{Address, DeviceInfo, DimmAddress, DriveAddress, UsbAddress};
use crate::domain::character::{CharacterDevice, TargetType};
use crate::domain::controller::{Controller, ControllerModel, ControllerType};
use crate::domain::device::{HostDeviceType, MemoryModel};
use crate::domain::disk::DiskBus;
use crate::domain::display::InputBus;
use crate::domain::{Devices, Domain};
use crate::error::{XmlError, XmlFault};

/// Ports of a virtio-serial controller unless it says otherwise; port 0 is the first console's.
const SERIAL_PORTS: u32 = 31;

pub(super) fn assign(domain: &mut Domain) -> Result<(), XmlError> {
    drives(&mut domain.devices)?;
    serial_ports(&mut domain.devices)?;
    usb_ports(&mut domain.devices);
    memory_slots(&mut domain.devices);
    Ok(())
}

/// The number of a disk from its name: `vda` is 0, `vdz` 25, `vdaa` 26. Digits at the end name a partition.
pub(crate) fn disk_number(dev: &str) -> Option<u32> {
    let letters =
        ["xvd", "ubd", "hd", "sd", "vd", "fd"].into_iter().find_map(|prefix| dev.strip_prefix(prefix))?;
    let letters = letters.trim_end_matches(|character: char| character.is_ascii_digit());
    if letters.is_empty() || !letters.bytes().all(|letter| letter.is_ascii_lowercase()) {
        return None;
    }
    let step = |number: u32, letter: u8| number.checked_mul(26)?.checked_add(u32::from(letter - b'a') + 1);
    letters.bytes().try_fold(0, step)?.checked_sub(1)
}

fn drives(devices: &mut Devices) -> Result<(), XmlError> {
    let mut needed = BTreeSet::new();
    for disk in &mut devices.disks {
        let bus = disk.target.bus.unwrap_or_default();
        let kind = match bus {
            DiskBus::Ide => ControllerType::Ide,
            DiskBus::Sata => ControllerType::Sata,
            DiskBus::Scsi => ControllerType::Scsi,
            DiskBus::Fdc => ControllerType::Fdc,
            DiskBus::Virtio | DiskBus::Usb | DiskBus::Sd => continue,
        };
        if disk.info.address.is_none() && disk.target.dev.is_empty() {
            let what = "the disk's name in the guest".to_owned();
            return Err(XmlError::new("domain/devices/disk/target/@dev", XmlFault::Missing(what)));
        }
        if disk.info.address.is_none() {
            let number = disk_number(&disk.target.dev).ok_or_else(|| {
                let name = &disk.target.dev;
                unsupported(
                    "domain/devices/disk/target/@dev",
                    format!("no address follows from the name {name:?}"),
                )
            })?;
            disk.info.address = Some(Address::Drive(drive(bus, number)));
        }
        if let Some(Address::Drive(address)) = &disk.info.address {
            needed.insert((kind, address.controller));
        }
    }
    for (kind, index) in needed {
        let model = (kind == ControllerType::Scsi).then_some(ControllerModel::VirtioScsi);
        ensure_controller(devices, kind, index, model);
    }
    Ok(())
}

/// Where the disk of that number goes: two drives a bus and two buses an IDE controller, six a SATA controller, fifteen a SCSI controller, whose
/// own place is 7, two a floppy controller.
fn drive(bus: DiskBus, number: u32) -> DriveAddress {
    let (controller, bus, unit) = match bus {
        DiskBus::Ide => (number / 4, number % 4 / 2, number % 2),
        DiskBus::Scsi => {
            let unit = number % 15;
            (number / 15, 0, if unit >= 7 { unit + 1 } else { unit })
        }
        DiskBus::Fdc => (number / 2, 0, number % 2),
        _ => (number / 6, 0, number % 6),
    };
    DriveAddress { controller, bus, target: 0, unit }
}

fn is_virtio(device: &CharacterDevice) -> bool {
    device.target.as_ref().is_some_and(|target| target.kind == Some(TargetType::Virtio))
}

fn serial_ports(devices: &mut Devices) -> Result<(), XmlError> {
    let all = devices.consoles.iter().chain(&devices.channels).filter(|device| is_virtio(device));
    let place = |device: &CharacterDevice| match &device.info.address {
        Some(Address::VirtioSerial(address)) => Some((address.controller, address.port)),
        _ => None,
    };
    let mut used: BTreeSet<(u32, u32)> = all.clone().filter_map(place).collect();
    let mut controllers: BTreeSet<u32> = used.iter().map(|(controller, _)| *controller).collect();
    // A channel at port 0 asks for any port of its controller.
    used.retain(|(_, port)| *port != 0);
    used.extend(devices.consoles.iter().filter_map(place));
    if all.clone().next().is_some() && controllers.is_empty() {
        controllers.insert(0);
    }
    for index in &controllers {
        ensure_controller(devices, ControllerType::VirtioSerial, *index, None);
    }
    let serial = |controller: &&Controller| controller.kind == ControllerType::VirtioSerial;
    let room: BTreeMap<u32, u32> = (devices.controllers.iter().filter(serial))
        .map(|controller| {
            (controller.index.unwrap_or(0), controller.ports.unwrap_or(SERIAL_PORTS).min(SERIAL_PORTS))
        })
        .collect();
    // Consoles come first, so that what a channel passes over at port 0 is not missed.
    let mut anywhere = room.iter().flat_map(|(index, ports)| (0..*ports).map(|port| (*index, port)));
    let consoles = devices.consoles.iter_mut().map(|device| (0, "console", device));
    let channels = devices.channels.iter_mut().map(|device| (1, "channel", device));
    for (first, name, device) in consoles.chain(channels) {
        let at = place(device);
        let unplaced = device.info.address.is_none() || (first == 1 && at.is_some_and(|(_, port)| port == 0));
        if !is_virtio(device) || !unplaced {
            continue;
        }
        let free = |place: &(u32, u32)| place.1 >= first && !used.contains(place);
        let found = match at {
            Some((controller, _)) => {
                let ports = room.get(&controller).copied().unwrap_or(0);
                (first..ports).map(|port| (controller, port)).find(free)
            }
            None => anywhere.find(free),
        };
        let (controller, port) = found.ok_or_else(|| {
            unsupported(&format!("domain/devices/{name}"), "no virtio-serial controller has a free port")
        })?;
        used.insert((controller, port));
        device.info.address = Some(serial_address(controller, port));
    }
    Ok(())
}

/// Ports of a USB controller; companions count through the controller that they belong to.
fn usb_port_count(controller: &Controller) -> Option<u32> {
    match controller.model? {
        ControllerModel::QemuXhci | ControllerModel::NecXhci => Some(controller.ports.unwrap_or(4)),
        ControllerModel::Ich9Ehci1 | ControllerModel::Ehci => Some(6),
        ControllerModel::Piix3Uhci | ControllerModel::Piix4Uhci | ControllerModel::Vt82c686bUhci => Some(2),
        ControllerModel::PciOhci => Some(3),
        _ => None,
    }
}

/// Gives USB devices a port as long as there are any; the rest get theirs at start.
fn usb_ports(devices: &mut Devices) {
    let usb = |controller: &&Controller| controller.kind == ControllerType::Usb;
    let room: Vec<(u32, u32)> = (devices.controllers.iter().filter(usb))
        .filter_map(|controller| Some((controller.index?, usb_port_count(controller)?)))
        .collect();
    let disks = devices.disks.iter_mut().filter(|disk| disk.target.bus == Some(DiskBus::Usb));
    let inputs = devices.inputs.iter_mut().filter(|input| input.bus == Some(InputBus::Usb));
    let host = devices.host_devices.iter_mut().filter(|device| device.kind == HostDeviceType::Usb);
    let mut infos: Vec<&mut DeviceInfo> = devices.hubs.iter_mut().map(|hub| &mut hub.info).collect();
    infos.extend(disks.map(|disk| &mut disk.info));
    infos.extend(host.map(|device| &mut device.info));
    infos.extend(inputs.map(|input| &mut input.info));
    infos.extend(devices.redirected_devices.iter_mut().map(|device| &mut device.info));
    let place = |info: &&mut DeviceInfo| match &info.address {
        Some(Address::Usb(UsbAddress { bus, port: Some(port) })) => Some((*bus, port.clone())),
        _ => None,
    };
    let used: BTreeSet<(u32, String)> = infos.iter().filter_map(place).collect();
    let ports = room.iter().flat_map(|(bus, count)| (1..=*count).map(|port| (*bus, port.to_string())));
    let mut free = ports.filter(|place| !used.contains(place));
    for info in infos.into_iter().filter(|info| info.address.is_none()) {
        let Some((bus, port)) = free.next() else { return };
        info.address = Some(Address::Usb(UsbAddress { bus, port: Some(port) }));
    }
}

fn memory_slots(devices: &mut Devices) {
    let slot = |info: &DeviceInfo| match &info.address {
        Some(Address::Dimm(address)) => address.slot,
        _ => None,
    };
    let used: BTreeSet<u32> = devices.memories.iter().filter_map(|memory| slot(&memory.info)).collect();
    let mut free = (0..).filter(|slot| !used.contains(slot));
    for memory in &mut devices.memories {
        let module = matches!(memory.model, MemoryModel::Dimm | MemoryModel::Nvdimm);
        if module && slot(&memory.info).is_none() {
            let base = match memory.info.address.take() {
                Some(Address::Dimm(address)) => address.base,
                _ => None,
            };
            let Some(free) = free.next() else { return };
            memory.info.address = Some(Address::Dimm(DimmAddress { slot: Some(free), base }));
        }
    }
}
