//! PCI addresses, as libvirt gives them: on q35 every PCI Express device has a root port of its own, ports share slots of the root bus as
//! functions, conventional devices sit behind a bridge; on i440fx everything sits on the root bus until it is full.
//!
//! Places are found twice: the first time to learn which controllers are missing, the second time for good, when controllers come first.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::{Board, unsupported};
use crate::domain::address::{Address, DeviceInfo, PciAddress, PciPlace};
use crate::domain::controller::{
    Controller, ControllerModel, ControllerType, PciControllerModel, PciControllerTarget, PciModelName,
};
use crate::domain::device::{
    HostDeviceType, IommuModel, MemballoonModel, MemoryModel, PanicModel, ShmemModelType, WatchdogModel,
};
use crate::domain::disk::{DiskBus, VirtioModel};
use crate::domain::display::{InputBus, SoundModel, VideoType};
use crate::domain::interface::InterfaceType;
use crate::domain::{Devices, Domain};
use crate::error::XmlError;
use crate::value::{Hex, OnOff};

/// Highest index of a PCI controller.
const MAX_BUS: u8 = 255;

/// What a device plugs into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connect {
    /// A PCI Express device: a slot of its own.
    Express,
    /// A conventional PCI device.
    Conventional,
    /// A PCI Express root port: the root bus, several in a slot.
    RootPort,
    /// A part of a USB 2 controller: function of the slot that controllers of the same index share.
    Companion { index: u32, function: u8 },
}

/// A bus that devices plug into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    PcieRoot,
    PciRoot,
    /// One PCI Express device.
    Port,
    /// Conventional devices in slots 1 to 31.
    Bridge,
    /// Nothing is put there unasked.
    Other,
}

impl Bus {
    fn of(model: Option<ControllerModel>) -> Self {
        match model {
            Some(ControllerModel::PcieRoot) => Self::PcieRoot,
            Some(ControllerModel::PciRoot) => Self::PciRoot,
            Some(ControllerModel::PcieRootPort | ControllerModel::PcieSwitchDownstreamPort) => Self::Port,
            Some(
                ControllerModel::PciBridge
                | ControllerModel::PcieToPciBridge
                | ControllerModel::DmiToPciBridge,
            ) => Self::Bridge,
            _ => Self::Other,
        }
    }

    fn takes(self, connect: Connect) -> bool {
        match self {
            Self::Port => connect == Connect::Express,
            Self::PciRoot | Self::Bridge => connect != Connect::RootPort,
            Self::PcieRoot => connect == Connect::RootPort,
            Self::Other => false,
        }
    }

    fn slots(self) -> std::ops::RangeInclusive<u8> {
        if self == Self::Port { 0..=0 } else { 1..=31 }
    }
}

pub(super) fn assign(domain: &mut Domain) -> Result<(), XmlError> {
    let board = Board::of(domain);
    if board == Board::Other {
        return Ok(());
    }
    integrated(domain, board);
    let fresh = pci_controllers(domain).all(|controller| controller.index == Some(0));
    let mut grown = {
        let mut rehearsal = domain.clone();
        let mut plan = Plan::new(&rehearsal, board);
        plan.add_named_buses(&mut rehearsal.devices)?;
        let named = plan.grown.len();
        if board == Board::I440fx && plan.free_place(Connect::Conventional, None).is_some() {
            // One slot stays free, for a bridge when more devices come.
            plan.place(Connect::Conventional, None)?;
        }
        plan.place_all(&mut rehearsal.devices, board)?;
        if board == Board::Q35 && fresh && plan.grown.len() > named {
            plan.place(Connect::Express, None)?;
        }
        plan.grown
    };
    for (index, model) in grown.drain(..) {
        let controller = Controller::new(ControllerType::Pci, index.into());
        domain.devices.controllers.push(Controller { model: Some(model), ..controller });
    }
    let mut plan = Plan::new(domain, board);
    plan.place_all(&mut domain.devices, board)?;
    if !plan.grown.is_empty() {
        return Err(unsupported(
            "domain/devices/controller",
            "the PCI controllers that are there leave no room",
        ));
    }
    finish(&mut domain.devices);
    Ok(())
}

fn pci_controllers(domain: &Domain) -> impl Iterator<Item = &Controller> {
    domain.devices.controllers.iter().filter(|controller| controller.kind == ControllerType::Pci)
}

fn wants_pci(info: &DeviceInfo) -> bool {
    match &info.address {
        None => true,
        Some(Address::Pci(address)) => address.place.is_none(),
        Some(_) => false,
    }
}

fn put(info: &mut DeviceInfo, place: PciPlace) {
    let multifunction = match &info.address {
        Some(Address::Pci(address)) => address.multifunction,
        _ => None,
    };
    info.address = Some(Address::Pci(PciAddress { place: Some(place), multifunction }));
}

/// Devices that the board has at fixed places.
fn integrated(domain: &mut Domain, board: Board) {
    let mut used: BTreeSet<(u8, u8)> = BTreeSet::new();
    for info in domain.devices.infos_mut() {
        used.extend(info.pci_place().filter(|place| place.domain == 0).map(|place| (place.bus, place.slot)));
    }
    let at = |slot, function| PciPlace { domain: 0, bus: 0, slot, function };
    for controller in &mut domain.devices.controllers {
        let first = controller.index == Some(0) && wants_pci(&controller.info);
        let place = match (board, controller.kind, controller.model) {
            (Board::Q35, ControllerType::Sata, _) if first => at(0x1f, 2),
            (Board::I440fx, ControllerType::Ide, _) if first => at(1, 1),
            (Board::I440fx, ControllerType::Usb, Some(ControllerModel::Piix3Uhci)) if first => at(1, 2),
            (Board::Q35, ControllerType::Pci, Some(ControllerModel::DmiToPciBridge))
                if wants_pci(&controller.info) && !used.contains(&(0, 0x1e)) =>
            {
                at(0x1e, 0)
            }
            (Board::Q35, ControllerType::Usb, Some(ControllerModel::Ich9Uhci1))
                if wants_pci(&controller.info) =>
            {
                match [0x1d, 0x1a].into_iter().find(|slot| !used.contains(&(0, *slot))) {
                    Some(slot) => at(slot, 0),
                    None => continue,
                }
            }
            _ => continue,
        };
        used.insert((0, place.slot));
        put(&mut controller.info, place);
    }
    let video_slot = if board == Board::Q35 { 1 } else { 2 };
    let video = domain.devices.videos.first_mut().filter(|video| {
        let kind = video.model.as_ref().map(|model| model.kind);
        !matches!(kind, Some(VideoType::None | VideoType::Ramfb)) && wants_pci(&video.info)
    });
    if let Some(video) = video
        && used.insert((0, video_slot))
    {
        put(&mut video.info, at(video_slot, 0));
    }
    if board == Board::Q35 {
        let sound = domain.devices.sounds.iter_mut().find(|sound| sound.model == SoundModel::Ich9);
        if let Some(sound) = sound.filter(|sound| wants_pci(&sound.info))
            && used.insert((0, 0x1b))
        {
            put(&mut sound.info, at(0x1b, 0));
        }
    }
}

/// Which places are taken, and which controllers would have to be added.
struct Plan {
    used: BTreeSet<PciPlace>,
    buses: BTreeMap<u8, Bus>,
    /// Slots of the root bus that hold nothing but root ports.
    port_slots: BTreeSet<u8>,
    /// Slots of USB 2 controllers, by index.
    companions: BTreeMap<u32, PciPlace>,
    board: Board,
    grown: Vec<(u8, ControllerModel)>,
}

impl Plan {
    fn new(domain: &Domain, board: Board) -> Self {
        let fixed: &[(u8, u8)] = match board {
            Board::Q35 => &[(0, 0), (0x1f, 0), (0x1f, 2), (0x1f, 3)],
            _ => &[(0, 0), (1, 0), (1, 3)],
        };
        let at =
            |(slot, function): &(u8, u8)| PciPlace { domain: 0, bus: 0, slot: *slot, function: *function };
        let mut used: BTreeSet<PciPlace> = fixed.iter().map(at).collect();
        let mut ports = BTreeSet::new();
        used.extend(domain.devices.infos().iter().filter_map(|(_, info)| info.pci_place()));
        let mut buses = BTreeMap::new();
        for controller in pci_controllers(domain) {
            if let Some(index) = controller.index.and_then(|index| u8::try_from(index).ok()) {
                buses.insert(index, Bus::of(controller.model));
            }
            if controller.model == Some(ControllerModel::PcieRootPort)
                && let Some(place) = controller.info.pci_place().filter(|place| place.bus == 0)
            {
                ports.insert(place.slot);
            }
        }
        // A slot that a device without functions beside it has is not shared, however many functions are free.
        let shared = |slot: &u8| {
            let models = pci_controllers(domain).filter(|controller| {
                controller.info.pci_place().is_some_and(|place| place.bus == 0 && place.slot == *slot)
            });
            models.count() == used.iter().filter(|place| place.bus == 0 && place.slot == *slot).count()
        };
        let port_slots = ports.into_iter().filter(shared).collect();
        let companions = (domain.devices.controllers.iter())
            .filter(|controller| companion_function(controller.model).is_some())
            .filter_map(|controller| Some((controller.index?, controller.info.pci_place()?)))
            .collect();
        Self { used, buses, port_slots, companions, board, grown: Vec::new() }
    }

    fn slot_is_free(&self, bus: u8, slot: u8) -> bool {
        let first = PciPlace { domain: 0, bus, slot, function: 0 };
        self.used.range(first..=PciPlace { function: 7, ..first }).next().is_none()
    }

    /// Adds the controllers whose buses addresses name, and those before them.
    fn add_named_buses(&mut self, devices: &mut Devices) -> Result<(), XmlError> {
        let places = devices.infos_mut().into_iter().filter_map(|info| info.pci_place());
        let buses = places.filter(|place| place.domain == 0).map(|place| place.bus);
        let last = buses.chain(self.buses.keys().copied()).max().unwrap_or(0);
        let model =
            if self.board == Board::Q35 { ControllerModel::PcieRootPort } else { ControllerModel::PciBridge };
        for index in 0..=last {
            if let Entry::Vacant(free) = self.buses.entry(index) {
                free.insert(Bus::of(Some(model)));
                self.grown.push((index, model));
            }
        }
        Ok(())
    }

    /// Finds a place on a bus (`below` that number, for a bridge's own place), adding controllers when there is none.
    fn place(&mut self, connect: Connect, below: Option<u8>) -> Result<PciPlace, XmlError> {
        loop {
            if let Some(place) = self.free_place(connect, below) {
                self.used.insert(place);
                return Ok(place);
            }
            if below.is_some() {
                return Err(unsupported("domain/devices/controller", "no bus has room for a bridge"));
            }
            self.grow(connect)?;
        }
    }

    fn free_place(&mut self, connect: Connect, below: Option<u8>) -> Option<PciPlace> {
        let at = |bus, slot, function| PciPlace { domain: 0, bus, slot, function };
        if connect == Connect::RootPort {
            let root = *self.buses.iter().find(|(_, bus)| **bus == Bus::PcieRoot)?.0;
            for slot in Bus::PcieRoot.slots() {
                if self.slot_is_free(root, slot) {
                    self.port_slots.insert(slot);
                    return Some(at(root, slot, 0));
                }
                let mut functions = (0..8).map(|function| at(root, slot, function));
                if self.port_slots.contains(&slot)
                    && let Some(place) = functions.find(|place| !self.used.contains(place))
                {
                    return Some(place);
                }
            }
            return None;
        }
        let function = if let Connect::Companion { function, .. } = connect { function } else { 0 };
        let takes = self
            .buses
            .iter()
            .filter(|(index, bus)| bus.takes(connect) && below.is_none_or(|below| **index < below));
        let mut slots = takes.flat_map(|(index, bus)| bus.slots().map(|slot| (*index, slot)));
        let (bus, slot) = slots.find(|(index, slot)| self.slot_is_free(*index, *slot))?;
        Some(at(bus, slot, function))
    }

    /// Adds the controller that a device needs.
    fn grow(&mut self, connect: Connect) -> Result<(), XmlError> {
        let model = match (self.board, connect) {
            (_, Connect::RootPort) => {
                return Err(unsupported("domain/devices/controller", "the root bus has no free slot"));
            }
            (Board::Q35, Connect::Express) => ControllerModel::PcieRootPort,
            (Board::Q35, _) => ControllerModel::PcieToPciBridge,
            _ => ControllerModel::PciBridge,
        };
        if model == ControllerModel::PcieToPciBridge {
            // Its own place is a port.
            self.place(Connect::Express, None)?;
        }
        let full = || unsupported("domain/devices/controller", format!("more than {MAX_BUS} PCI buses"));
        let last = self.buses.last_key_value().map_or(0, |(index, _)| *index);
        let index = last.checked_add(1).ok_or_else(full)?;
        if model == ControllerModel::PciBridge {
            // Its own place is a slot of the root bus, which may be the last one.
            let root = PciPlace { domain: 0, bus: 0, slot: 0, function: 0 };
            let slot = Bus::PciRoot.slots().find(|slot| self.slot_is_free(0, *slot));
            self.used.extend(slot.map(|slot| PciPlace { slot, ..root }));
        }
        self.buses.insert(index, Bus::of(Some(model)));
        self.grown.push((index, model));
        Ok(())
    }

    /// Places everything that has no place, in libvirt's order.
    fn place_all(&mut self, devices: &mut Devices, board: Board) -> Result<(), XmlError> {
        for controller in &mut devices.controllers {
            let connect = match (controller.kind, controller.model) {
                (ControllerType::Pci, Some(ControllerModel::PciRoot | ControllerModel::PcieRoot)) => continue,
                (ControllerType::Pci, Some(ControllerModel::PcieRootPort)) => Connect::RootPort,
                (ControllerType::Pci, Some(ControllerModel::PcieToPciBridge)) => Connect::Express,
                (ControllerType::Pci, Some(ControllerModel::PciBridge)) => Connect::Conventional,
                (ControllerType::Pci, model) => {
                    if wants_pci(&controller.info) {
                        let model = model.map_or("PCI controllers without a model", ControllerModel::word);
                        let what = format!("{model}: give it an address");
                        return Err(unsupported("domain/devices/controller", what));
                    }
                    continue;
                }
                _ => continue,
            };
            if wants_pci(&controller.info) {
                let own = controller.index.and_then(|index| u8::try_from(index).ok());
                let below = own.filter(|_| controller.model == Some(ControllerModel::PciBridge));
                put(&mut controller.info, self.place(connect, below)?);
            }
        }
        for (info, connect) in wanting(devices, board) {
            let place = match connect {
                Connect::Companion { index, function } => self.companion(index, function)?,
                other => self.place(other, None)?,
            };
            put(info, place);
        }
        Ok(())
    }

    /// The slot that a USB 2 controller's parts share.
    fn companion(&mut self, index: u32, function: u8) -> Result<PciPlace, XmlError> {
        let shared = self.companions.get(&index).copied();
        let place = match shared {
            Some(place) => PciPlace { function, ..place },
            None => self.place(Connect::Companion { index, function }, None)?,
        };
        self.companions.insert(index, place);
        if shared.is_some() && !self.used.insert(place) {
            return Err(unsupported(
                "domain/devices/controller",
                format!("{place} is taken by another device"),
            ));
        }
        Ok(place)
    }
}

/// The function of a part of a USB 2 controller.
fn companion_function(model: Option<ControllerModel>) -> Option<u8> {
    match model? {
        ControllerModel::Ich9Ehci1 => Some(7),
        ControllerModel::Ich9Uhci1 => Some(0),
        ControllerModel::Ich9Uhci2 => Some(1),
        ControllerModel::Ich9Uhci3 => Some(2),
        _ => None,
    }
}

/// What a virtio device plugs into: only transitional ones are conventional.
fn virtio(model: Option<VirtioModel>) -> Connect {
    if model == Some(VirtioModel::Transitional) { Connect::Conventional } else { Connect::Express }
}

/// Devices that want a PCI address and have none, in the order in which libvirt serves them.
fn wanting(devices: &mut Devices, board: Board) -> Vec<(&mut DeviceInfo, Connect)> {
    let mut list: Vec<(&mut DeviceInfo, Connect)> = Vec::new();
    list.extend(devices.filesystems.iter_mut().map(|device| (&mut device.info, virtio(device.model))));
    let (given, interfaces): (Vec<_>, Vec<_>) =
        devices.interfaces.iter_mut().partition(|interface| interface.kind == InterfaceType::Hostdev);
    for interface in interfaces {
        let model = interface.model.as_ref().map_or("", |model| model.kind.as_str());
        let express = matches!(model, "virtio" | "virtio-non-transitional" | "e1000e" | "igb" | "vmxnet3");
        if model != "usb-net" {
            let connect = if express { Connect::Express } else { Connect::Conventional };
            list.push((&mut interface.info, connect));
        }
    }
    let sounds = devices
        .sounds
        .iter_mut()
        .filter(|sound| !matches!(sound.model, SoundModel::Sb16 | SoundModel::Pcspk | SoundModel::Usb));
    list.extend(sounds.map(|sound| {
        let express = sound.model == SoundModel::Virtio;
        (&mut sound.info, if express { Connect::Express } else { Connect::Conventional })
    }));
    list.extend(devices.controllers.iter_mut().filter_map(controller_connect));
    let disks = devices.disks.iter_mut().filter(|disk| disk.target.bus == Some(DiskBus::Virtio));
    list.extend(disks.map(|disk| (&mut disk.info, virtio(disk.model))));
    list.extend(given.into_iter().map(|interface| (&mut interface.info, Connect::Express)));
    let host = devices.host_devices.iter_mut().filter(|device| device.kind != HostDeviceType::Usb);
    list.extend(host.map(|device| (&mut device.info, Connect::Express)));
    let balloon = devices.memballoon.iter_mut().filter(|balloon| balloon.model != MemballoonModel::None);
    list.extend(balloon.map(|balloon| {
        let conventional = balloon.model == MemballoonModel::Transitional;
        (&mut balloon.info, if conventional { Connect::Conventional } else { Connect::Express })
    }));
    list.extend(devices.rngs.iter_mut().map(|rng| (&mut rng.info, virtio(Some(rng.model)))));
    let watchdogs = devices.watchdogs.iter_mut().filter(|watchdog| watchdog.model == WatchdogModel::I6300esb);
    list.extend(watchdogs.map(|watchdog| (&mut watchdog.info, Connect::Conventional)));
    list.extend(devices.videos.iter_mut().filter_map(|video| match video.model.as_ref()?.kind {
        VideoType::None | VideoType::Ramfb => None,
        VideoType::Virtio | VideoType::Bochs => Some((&mut video.info, Connect::Express)),
        _ => Some((&mut video.info, Connect::Conventional)),
    }));
    list.extend(devices.shmems.iter_mut().map(|shmem| {
        let kind = shmem.model.as_ref().map_or(ShmemModelType::Ivshmem, |model| model.kind);
        let conventional = kind == ShmemModelType::Ivshmem || board == Board::I440fx;
        (&mut shmem.info, if conventional { Connect::Conventional } else { Connect::Express })
    }));
    let inputs = devices.inputs.iter_mut().filter(|input| input.bus == Some(InputBus::Virtio));
    list.extend(inputs.map(|input| (&mut input.info, virtio(input.model))));
    let serials = devices.serials.iter_mut().filter(|serial| {
        serial
            .target
            .as_ref()
            .is_some_and(|target| target.kind == Some(crate::domain::character::TargetType::PciSerial))
    });
    list.extend(serials.map(|serial| (&mut serial.info, Connect::Conventional)));
    list.extend(devices.vsock.iter_mut().map(|vsock| (&mut vsock.info, virtio(vsock.model))));
    let memories = devices
        .memories
        .iter_mut()
        .filter(|memory| matches!(memory.model, MemoryModel::VirtioMem | MemoryModel::VirtioPmem));
    list.extend(memories.map(|memory| (&mut memory.info, Connect::Express)));
    let panics = devices.panics.iter_mut().filter(|panic| panic.model == Some(PanicModel::Pvpanic));
    list.extend(panics.map(|panic| (&mut panic.info, Connect::Conventional)));
    let iommu = devices.iommu.iter_mut().filter(|iommu| iommu.model == IommuModel::Virtio);
    list.extend(iommu.map(|iommu| (&mut iommu.info, Connect::Express)));
    list.retain(|(info, _)| wants_pci(info));
    list
}

fn controller_connect(controller: &mut Controller) -> Option<(&mut DeviceInfo, Connect)> {
    let index = controller.index.unwrap_or(0);
    let connect = match (controller.kind, controller.model) {
        (ControllerType::Usb, Some(ControllerModel::None)) => return None,
        (ControllerType::Usb, Some(ControllerModel::QemuXhci | ControllerModel::NecXhci)) => Connect::Express,
        (ControllerType::Usb, model) => match companion_function(model) {
            Some(function) => Connect::Companion { index, function },
            None => Connect::Conventional,
        },
        (ControllerType::VirtioSerial | ControllerType::Scsi, model) => match model {
            None
            | Some(
                ControllerModel::Virtio
                | ControllerModel::VirtioScsi
                | ControllerModel::VirtioNonTransitional,
            ) => Connect::Express,
            _ => Connect::Conventional,
        },
        (ControllerType::Sata | ControllerType::Ide, _) => Connect::Conventional,
        _ => return None,
    };
    Some((&mut controller.info, connect))
}

/// Names what emulates PCI controllers, and marks function 0 of slots that are shared.
fn finish(devices: &mut Devices) {
    let mut slots: BTreeMap<(u16, u8, u8), usize> = BTreeMap::new();
    for place in devices.infos_mut().iter().filter_map(|info| info.pci_place()) {
        *slots.entry((place.domain, place.bus, place.slot)).or_default() += 1;
    }
    for info in devices.infos_mut() {
        if let Some(Address::Pci(PciAddress { place: Some(place), multifunction })) = &mut info.address {
            let shared = slots.get(&(place.domain, place.bus, place.slot)).is_some_and(|count| *count > 1);
            if shared && place.function == 0 {
                multifunction.get_or_insert(OnOff::On);
            }
        }
    }
    for controller in
        devices.controllers.iter_mut().filter(|controller| controller.kind == ControllerType::Pci)
    {
        let name = match controller.model {
            Some(ControllerModel::PcieRootPort) => PciModelName::PcieRootPort,
            Some(ControllerModel::PciBridge) => PciModelName::PciBridge,
            Some(ControllerModel::PcieToPciBridge) => PciModelName::PciePciBridge,
            Some(ControllerModel::DmiToPciBridge) => PciModelName::I82801b11Bridge,
            Some(ControllerModel::PcieSwitchUpstreamPort) => PciModelName::X3130Upstream,
            Some(ControllerModel::PcieSwitchDownstreamPort) => PciModelName::Xio3130Downstream,
            Some(ControllerModel::PciExpanderBus) => PciModelName::Pxb,
            Some(ControllerModel::PcieExpanderBus) => PciModelName::PxbPcie,
            _ => continue,
        };
        controller.model_name.get_or_insert(PciControllerModel { name });
        let place = controller.info.pci_place().unwrap_or_default();
        let index = controller.index;
        match controller.model {
            Some(ControllerModel::PciBridge) => {
                let target = controller.target.get_or_insert_with(PciControllerTarget::default);
                target.chassis_nr = target.chassis_nr.or(index);
            }
            Some(ControllerModel::PcieRootPort) => {
                let target = controller.target.get_or_insert_with(PciControllerTarget::default);
                target.chassis = target.chassis.or(index);
                target.port.get_or_insert(Hex(u64::from(place.slot) << 3 | u64::from(place.function)));
            }
            Some(ControllerModel::PcieSwitchDownstreamPort) => {
                let target = controller.target.get_or_insert_with(PciControllerTarget::default);
                target.chassis = target.chassis.or(index);
                target.port.get_or_insert(Hex(place.slot.into()));
            }
            _ => {}
        }
    }
}
