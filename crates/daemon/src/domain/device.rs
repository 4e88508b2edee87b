//! Devices of definitions: attached, changed, detached.
//!
//! A disk is known by its target. Every other device is the one that has everything that the client's description of it says,
//! however much or little that is.

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::address::DeviceInfo;
use libvirt_xml::domain::disk::Disk;
use libvirt_xml::domain::edit::Device;
use libvirt_xml::domain::interface::Interface;
use libvirt_xml::{Element, MacAddress, Model, Value};

use super::DomainError;

/// Attaches a device.
pub(crate) fn attach(definition: &mut Definition, device: Device) -> Result<(), DomainError> {
    if let Device::Disk(disk) = &device
        && definition.devices.disks.iter().any(|other| other.target.dev == disk.target.dev)
    {
        return Err(DomainError::Invalid(format!("target {} already exists", disk.target.dev)));
    }
    if let Device::Interface(interface) = &device
        && let Some(mac) = &interface.mac
        && definition.devices.interfaces.iter().any(|other| other.mac.as_ref() == Some(mac))
    {
        return Err(DomainError::Invalid(format!(
            "an interface with address {} exists already",
            mac.address
        )));
    }
    Ok(device.add_to(&mut definition.devices)?)
}

/// Detaches a device.
pub(crate) fn detach(definition: &mut Definition, device: &Device) -> Result<(), DomainError> {
    let wanted = device.to_element();
    let devices = &mut definition.devices;
    match device {
        Device::Disk(disk) => {
            let at = disk_at(&devices.disks, &disk.target.dev)?;
            devices.disks.remove(at);
            Ok(())
        }
        Device::Controller(_) => take(&mut devices.controllers, &wanted),
        Device::Filesystem(_) => take(&mut devices.filesystems, &wanted),
        Device::Interface(_) => take(&mut devices.interfaces, &wanted),
        Device::Serial(_) => take(&mut devices.serials, &wanted),
        Device::Parallel(_) => take(&mut devices.parallels, &wanted),
        Device::Console(_) => take(&mut devices.consoles, &wanted),
        Device::Channel(_) => take(&mut devices.channels, &wanted),
        Device::Input(_) => take(&mut devices.inputs, &wanted),
        Device::Tpm(_) => take(&mut devices.tpms, &wanted),
        Device::Graphics(_) => take(&mut devices.graphics, &wanted),
        Device::Sound(_) => take(&mut devices.sounds, &wanted),
        Device::Video(_) => take(&mut devices.videos, &wanted),
        Device::HostDevice(_) => take(&mut devices.host_devices, &wanted),
        Device::RedirectedDevice(_) => take(&mut devices.redirected_devices, &wanted),
        Device::Hub(_) => take(&mut devices.hubs, &wanted),
        Device::Watchdog(_) => take(&mut devices.watchdogs, &wanted),
        Device::Rng(_) => take(&mut devices.rngs, &wanted),
        Device::Panic(_) => take(&mut devices.panics, &wanted),
        Device::Shmem(_) => take(&mut devices.shmems, &wanted),
        Device::Memory(_) => take(&mut devices.memories, &wanted),
        Device::Memballoon(_) => take_only(&mut devices.memballoon, &wanted),
        Device::Vsock(_) => take_only(&mut devices.vsock, &wanted),
    }
}

/// Detaches the device with an alias that the user chose.
pub(crate) fn detach_alias(definition: &mut Definition, alias: &str) -> Result<(), DomainError> {
    let named = |info: &DeviceInfo| info.alias.as_ref().is_some_and(|own| own.name == alias);
    let devices = &mut definition.devices;
    let before = devices.infos().len();
    macro_rules! without {
        ($($list:ident),*) => {
            $(devices.$list.retain(|device| !named(&device.info));)*
        };
    }
    without!(
        disks,
        controllers,
        filesystems,
        interfaces,
        serials,
        parallels,
        consoles,
        channels,
        inputs,
        tpms,
        sounds,
        videos,
        host_devices,
        redirected_devices,
        hubs,
        watchdogs,
        rngs,
        panics,
        shmems,
        memories
    );
    devices.memballoon = devices.memballoon.take().filter(|device| !named(&device.info));
    devices.vsock = devices.vsock.take().filter(|device| !named(&device.info));
    if devices.infos().len() == before {
        return Err(DomainError::NoDevice(format!("no device found with alias {alias}")));
    }
    Ok(())
}

/// Puts a device into the place of the one that it describes anew.
pub(crate) fn update(definition: &mut Definition, device: Device) -> Result<(), DomainError> {
    let devices = &mut definition.devices;
    match device {
        Device::Disk(mut disk) => {
            let at = disk_at(&devices.disks, &disk.target.dev)?;
            let Disk { target, info, .. } = &devices.disks[at];
            disk.target.bus = disk.target.bus.or(target.bus);
            keep_place(&mut disk.info, info);
            devices.disks[at] = *disk;
            Ok(())
        }
        Device::Interface(mut interface) => {
            let at = interface_at(&devices.interfaces, &interface)?;
            keep_place(&mut interface.info, &devices.interfaces[at].info);
            interface.mac = interface.mac.take().or_else(|| devices.interfaces[at].mac.clone());
            devices.interfaces[at] = *interface;
            Ok(())
        }
        Device::Graphics(graphics) => {
            let found = devices.graphics.iter_mut().find(|other| other.kind == graphics.kind);
            let kind = graphics.kind;
            *found.ok_or_else(|| {
                let message = format!("cannot find existing graphics device to modify of type '{kind}'");
                DomainError::NoDevice(message)
            })? = *graphics;
            Ok(())
        }
        other => {
            let name = other.to_element().name;
            Err(DomainError::Unsupported(format!("persistent update of device '{name}' is not supported")))
        }
    }
}

/// The card of a running machine that a client describes anew, by its place, and what it is to be: of it only the cable, limits and
/// VLANs can be changed. `complete` adds what somebody else says of it.
pub(crate) fn changed_card(
    document: &Definition,
    wanted: &Interface,
    complete: impl FnOnce(&mut Interface),
) -> Result<(usize, Interface), DomainError> {
    let interfaces = &document.devices.interfaces;
    let at = interface_at(interfaces, wanted)?;
    let present = &interfaces[at];
    let mut after = wanted.clone();
    keep_place(&mut after.info, &present.info);
    after.mac = after.mac.take().or_else(|| present.mac.clone());
    after.target = after.target.take().or_else(|| present.target.clone());
    after.model = after.model.take().or_else(|| present.model.clone());
    if let (Some(after), Some(present)) = (&mut after.source, &present.source) {
        // What only running machines show.
        after.port_id = after.port_id.or(present.port_id);
        after.bridge = after.bridge.take().or_else(|| present.bridge.clone());
        after.mac_table_manager = after.mac_table_manager.or(present.mac_table_manager);
    }
    complete(&mut after);
    let Interface { link, bandwidth, vlan, .. } = present.clone();
    if (Interface { link, bandwidth, vlan, ..after.clone() }) != *present {
        let message = "of an interface of a running machine only the link's state, bandwidth and VLANs can be changed: \
                       use --config for the rest, and start it anew";
        return Err(DomainError::Unsupported(message.to_owned()));
    }
    Ok((at, after))
}

/// The card that a client names by the guest's address, or by the interface on the host.
pub(crate) fn card_named(document: &Definition, name: &str) -> Option<usize> {
    let mac = MacAddress::read(name).ok();
    document.devices.interfaces.iter().position(|interface| match mac {
        Some(mac) => interface.mac.as_ref().is_some_and(|own| own.address == mac),
        None => interface.target.as_ref().and_then(|target| target.dev.as_deref()) == Some(name),
    })
}

/// A device stays where it is unless the client says where it goes.
fn keep_place(info: &mut DeviceInfo, before: &DeviceInfo) {
    info.address = info.address.take().or_else(|| before.address.clone());
    info.alias = info.alias.take().or_else(|| before.alias.clone());
}

fn disk_at(disks: &[Disk], target: &str) -> Result<usize, DomainError> {
    let at = disks.iter().position(|disk| disk.target.dev == target);
    at.ok_or_else(|| DomainError::NoDevice(format!("no target device {target}")))
}

fn interface_at(interfaces: &[Interface], wanted: &Interface) -> Result<usize, DomainError> {
    match (&wanted.mac, interfaces) {
        (None, [_]) => Ok(0),
        (None, _) => {
            Err(DomainError::Argument("which interface is meant is said by its MAC address".to_owned()))
        }
        (Some(mac), _) => {
            let at = interfaces.iter().position(|interface| interface.mac.as_ref() == Some(mac));
            at.ok_or_else(|| {
                DomainError::NoDevice(format!("no device matching MAC address {} found", mac.address))
            })
        }
    }
}

/// Whether an element has everything that `wanted` has.
fn includes(element: &Element, wanted: &Element) -> bool {
    let text = wanted.own_text();
    element.name == wanted.name
        && (text.is_empty() || element.own_text() == text)
        && wanted.attributes.iter().all(|(name, value)| element.attribute(name) == Some(value))
        && wanted.children().all(|wanted| element.children().any(|child| includes(child, wanted)))
}

fn missing(wanted: &Element) -> DomainError {
    DomainError::NoDevice(format!("no {} of the domain is like that", wanted.name))
}

fn take<T: Model>(devices: &mut Vec<T>, wanted: &Element) -> Result<(), DomainError> {
    let fitting = |device: &T| includes(&device.write(&wanted.name), wanted);
    let mut places = (0..devices.len()).filter(|at| fitting(&devices[*at]));
    let at = places.next().ok_or_else(|| missing(wanted))?;
    if places.next().is_some() {
        return Err(DomainError::Ambiguous(format!(
            "more than one {} of the domain is like that: say its address or alias",
            wanted.name
        )));
    }
    devices.remove(at);
    Ok(())
}

fn take_only<T: Model>(device: &mut Option<T>, wanted: &Element) -> Result<(), DomainError> {
    match device.take_if(|device| includes(&device.write(&wanted.name), wanted)) {
        Some(_) => Ok(()),
        None => Err(missing(wanted)),
    }
}
