//! Names of devices of running domains, as libvirt gives them for QEMU. Names that the user chose (`ua-…`) stay.

use super::Board;
use crate::domain::Domain;
use crate::domain::address::{Address, Alias, DeviceInfo};
use crate::domain::controller::{Controller, ControllerModel, ControllerType};
use crate::domain::device::{MemballoonModel, MemoryModel};
use crate::domain::disk::{Disk, DiskBus};

/// What users' own names begin with.
pub(crate) const USER_PREFIX: &str = "ua-";

fn name(info: &mut DeviceInfo, alias: String) {
    let chosen = info.alias.as_ref().is_some_and(|alias| alias.name.starts_with(USER_PREFIX));
    if !chosen {
        info.alias = Some(Alias { name: alias });
    }
}

pub(super) fn assign(domain: &mut Domain) {
    let board = Board::of(domain);
    let devices = &mut domain.devices;
    for disk in &mut devices.disks {
        let alias = disk_alias(disk);
        name(&mut disk.info, alias);
    }
    for controller in &mut devices.controllers {
        let alias = controller_alias(controller, board);
        name(&mut controller.info, alias);
    }
    let numbered = |prefix: &str, infos: &mut dyn Iterator<Item = &mut DeviceInfo>| {
        for (number, info) in infos.enumerate() {
            name(info, format!("{prefix}{number}"));
        }
    };
    numbered("fs", &mut devices.filesystems.iter_mut().map(|device| &mut device.info));
    numbered("net", &mut devices.interfaces.iter_mut().map(|device| &mut device.info));
    numbered("serial", &mut devices.serials.iter_mut().map(|device| &mut device.info));
    numbered("parallel", &mut devices.parallels.iter_mut().map(|device| &mut device.info));
    numbered("console", &mut devices.consoles.iter_mut().map(|device| &mut device.info));
    numbered("channel", &mut devices.channels.iter_mut().map(|device| &mut device.info));
    numbered("input", &mut devices.inputs.iter_mut().map(|device| &mut device.info));
    numbered("tpm", &mut devices.tpms.iter_mut().map(|device| &mut device.info));
    numbered("sound", &mut devices.sounds.iter_mut().map(|device| &mut device.info));
    numbered("video", &mut devices.videos.iter_mut().map(|device| &mut device.info));
    numbered("hostdev", &mut devices.host_devices.iter_mut().map(|device| &mut device.info));
    numbered("redir", &mut devices.redirected_devices.iter_mut().map(|device| &mut device.info));
    numbered("hub", &mut devices.hubs.iter_mut().map(|device| &mut device.info));
    numbered("watchdog", &mut devices.watchdogs.iter_mut().map(|device| &mut device.info));
    // Of none libvirt names nothing.
    let balloon = devices.memballoon.iter_mut().filter(|balloon| balloon.model != MemballoonModel::None);
    numbered("balloon", &mut balloon.map(|device| &mut device.info));
    numbered("rng", &mut devices.rngs.iter_mut().map(|device| &mut device.info));
    numbered("panic", &mut devices.panics.iter_mut().map(|device| &mut device.info));
    numbered("shmem", &mut devices.shmems.iter_mut().map(|device| &mut device.info));
    numbered("iommu", &mut devices.iommu.iter_mut().map(|device| &mut device.info));
    numbered("vsock", &mut devices.vsock.iter_mut().map(|device| &mut device.info));
    for (kind, prefix) in [
        (MemoryModel::Dimm, "dimm"),
        (MemoryModel::Nvdimm, "nvdimm"),
        (MemoryModel::VirtioPmem, "virtiopmem"),
        (MemoryModel::VirtioMem, "virtiomem"),
    ] {
        let of_kind = devices.memories.iter_mut().filter(|memory| memory.model == kind);
        numbered(prefix, &mut of_kind.map(|memory| &mut memory.info));
    }
    // The first console is the first serial port.
    if let (Some(serial), Some(console)) = (devices.serials.first(), devices.consoles.first_mut()) {
        console.info.alias.clone_from(&serial.info.alias);
    }
}

fn disk_alias(disk: &Disk) -> String {
    let bus = disk.target.bus.unwrap_or_default();
    if let Some(Address::Drive(at)) = &disk.info.address {
        return match bus {
            DiskBus::Scsi => format!("scsi{}-{}-{}-{}", at.controller, at.bus, at.target, at.unit),
            bus => format!("{bus}{}-{}-{}", at.controller, at.bus, at.unit),
        };
    }
    let number = super::addresses::disk_number(&disk.target.dev).unwrap_or(0);
    format!("{bus}-disk{number}")
}

fn controller_alias(controller: &Controller, board: Board) -> String {
    let index = controller.index.unwrap_or(0);
    match (controller.kind, controller.model) {
        (ControllerType::Pci, Some(ControllerModel::PcieRoot)) => format!("pcie.{index}"),
        (ControllerType::Pci, _) => format!("pci.{index}"),
        (ControllerType::Ide, _) if index == 0 && board == Board::I440fx => "ide".to_owned(),
        (ControllerType::Sata, _) if index == 0 && board == Board::Q35 => "ide".to_owned(),
        (ControllerType::Usb, _) if index == 0 => "usb".to_owned(),
        (kind, _) => format!("{kind}{index}"),
    }
}
