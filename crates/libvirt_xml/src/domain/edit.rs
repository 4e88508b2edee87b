//! Parts of domains: single devices to attach and detach, metadata by URI, documents without secrets or live details.

use super::address::DeviceInfo;
use super::assign::USER_PREFIX;
use super::character::{CharacterDevice, CharacterType, RedirectedDevice};
use super::controller::Controller;
use super::device::{
    Filesystem, HostDevice, Hub, Memballoon, MemoryDevice, Panic, Rng, Shmem, Tpm, Vsock, Watchdog,
};
use super::disk::Disk;
use super::display::{Graphics, Input, ListenType, Sound, Video};
use super::interface::{Interface, InterfaceType};
use super::security::{LabelType, SecurityLabel};
use super::tuning::Resource;
use super::{Devices, Domain};
use crate::error::{XmlError, XmlFault};
use crate::fields::Fields;
use crate::model::Model;
use crate::tree::Element;
use crate::value::YesNo;

/// The partition that running domains are in when nobody said anything.
const DEFAULT_PARTITION: &str = "/machine";

/// Declares [`Device`]: one variant for each element that can be attached.
macro_rules! devices {
    ($($variant:ident = $element:literal: $model:ty,)*) => {
        /// A device on its own, as clients attach, change and detach them.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Device {
            $(#[doc = concat!("`<", $element, ">`")] $variant(Box<$model>),)*
        }

        impl Device {
            /// Reads the document of one device.
            pub fn parse(document: &str) -> Result<Self, XmlError> {
                let root = crate::parse(document)?;
                match root.name.as_str() {
                    $($element => Model::read(Fields::under(&root, &root)).map(Box::new).map(Self::$variant),)*
                    other => {
                        let fault = XmlFault::Unsupported(format!("devices of type {other:?} on their own"));
                        Err(XmlError::new(other, fault))
                    }
                }
            }

            /// The device's element.
            pub fn to_element(&self) -> Element {
                match self {
                    $(Self::$variant(device) => device.write($element),)*
                }
            }

            /// The document of the device.
            pub fn to_xml(&self) -> String {
                self.to_element().to_document()
            }

            /// What all devices have in common; displays have none of it.
            pub fn info(&self) -> Option<&DeviceInfo> {
                match self {
                    $(Self::$variant(device) => device.device_info(),)*
                }
            }
        }
    };
}

devices! {
    Disk = "disk": Disk,
    Controller = "controller": Controller,
    Filesystem = "filesystem": Filesystem,
    Interface = "interface": Interface,
    Serial = "serial": CharacterDevice,
    Parallel = "parallel": CharacterDevice,
    Console = "console": CharacterDevice,
    Channel = "channel": CharacterDevice,
    Input = "input": Input,
    Tpm = "tpm": Tpm,
    Graphics = "graphics": Graphics,
    Sound = "sound": Sound,
    Video = "video": Video,
    HostDevice = "hostdev": HostDevice,
    RedirectedDevice = "redirdev": RedirectedDevice,
    Hub = "hub": Hub,
    Watchdog = "watchdog": Watchdog,
    Memballoon = "memballoon": Memballoon,
    Rng = "rng": Rng,
    Panic = "panic": Panic,
    Shmem = "shmem": Shmem,
    Memory = "memory": MemoryDevice,
    Vsock = "vsock": Vsock,
}

/// Devices, seen by what they have in common.
trait HasInfo {
    fn device_info(&self) -> Option<&DeviceInfo>;
}

macro_rules! has_info {
    ($($model:ty),*) => {$(
        impl HasInfo for $model {
            fn device_info(&self) -> Option<&DeviceInfo> {
                Some(&self.info)
            }
        }
    )*};
}

has_info!(
    Disk,
    Controller,
    Filesystem,
    Interface,
    CharacterDevice,
    Input,
    Tpm,
    Sound,
    Video,
    HostDevice,
    RedirectedDevice,
    Hub,
    Watchdog,
    Memballoon,
    Rng,
    Panic,
    Shmem,
    MemoryDevice,
    Vsock
);

impl HasInfo for Graphics {
    fn device_info(&self) -> Option<&DeviceInfo> {
        None
    }
}

impl Device {
    /// Adds it to a domain's devices. The balloon and the socket device come only once; a second one is refused.
    pub fn add_to(self, devices: &mut Devices) -> Result<(), XmlError> {
        match self {
            Self::Disk(device) => devices.disks.push(*device),
            Self::Controller(device) => devices.controllers.push(*device),
            Self::Filesystem(device) => devices.filesystems.push(*device),
            Self::Interface(device) => devices.interfaces.push(*device),
            Self::Serial(device) => devices.serials.push(*device),
            Self::Parallel(device) => devices.parallels.push(*device),
            Self::Console(device) => devices.consoles.push(*device),
            Self::Channel(device) => devices.channels.push(*device),
            Self::Input(device) => devices.inputs.push(*device),
            Self::Tpm(device) => devices.tpms.push(*device),
            Self::Graphics(device) => devices.graphics.push(*device),
            Self::Sound(device) => devices.sounds.push(*device),
            Self::Video(device) => devices.videos.push(*device),
            Self::HostDevice(device) => devices.host_devices.push(*device),
            Self::RedirectedDevice(device) => devices.redirected_devices.push(*device),
            Self::Hub(device) => devices.hubs.push(*device),
            Self::Watchdog(device) => devices.watchdogs.push(*device),
            Self::Rng(device) => devices.rngs.push(*device),
            Self::Panic(device) => devices.panics.push(*device),
            Self::Shmem(device) => devices.shmems.push(*device),
            Self::Memory(device) => devices.memories.push(*device),
            Self::Memballoon(device) => only(&mut devices.memballoon, *device, "memballoon")?,
            Self::Vsock(device) => only(&mut devices.vsock, *device, "vsock")?,
        }
        Ok(())
    }
}

fn only<T>(place: &mut Option<T>, device: T, name: &str) -> Result<(), XmlError> {
    if place.is_some() {
        let fault = XmlFault::Unsupported("a second device of this kind".to_owned());
        return Err(XmlError::new(name, fault));
    }
    *place = Some(device);
    Ok(())
}

impl Domain {
    /// Without passwords, as documents are shown to whoever did not ask for them (VIR_DOMAIN_XML_SECURE).
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        for graphics in &mut self.devices.graphics {
            graphics.password = None;
            graphics.password_valid_to = None;
            graphics.connected = None;
        }
        self
    }

    /// Without what only running domains have, so that the document of a running domain can be defined again: number, aliases that
    /// the user did not choose, terminals, ports that were chosen at start, numbers of images.
    #[must_use]
    pub fn without_live_details(mut self) -> Self {
        self.id = None;
        for info in self.devices.infos_mut() {
            info.alias = info.alias.take().filter(|alias| alias.name.starts_with(USER_PREFIX));
        }
        for disk in &mut self.devices.disks {
            disk.mirror.0.clear();
            disk.backing_store = None;
            if let Some(source) = &mut disk.source {
                source.index = None;
            }
        }
        for interface in &mut self.devices.interfaces {
            live_interface(interface);
        }
        let devices = &mut self.devices;
        let characters = (devices.serials.iter_mut().chain(&mut devices.parallels))
            .chain(&mut devices.consoles)
            .chain(&mut devices.channels);
        for device in characters {
            device.backend.tty = None;
            if device.backend.kind == CharacterType::Pty {
                device.backend.sources.clear();
            }
            if let Some(target) = &mut device.target {
                target.state = None;
            }
        }
        for graphics in &mut devices.graphics {
            let local = |kind| matches!(kind, ListenType::Socket | ListenType::None);
            if graphics.autoport == Some(YesNo::Yes)
                && !graphics.listens.iter().all(|listen| local(listen.kind))
            {
                let vnc = graphics.kind == super::display::GraphicsType::Vnc;
                graphics.port = vnc.then_some(-1);
                graphics.tls_port = None;
            }
        }
        for memory in &mut devices.memories {
            memory.target.current = None;
        }
        // Labels that the host made; only static ones are the user's.
        for label in &mut self.security_labels {
            label.image_label = None;
            label.label = label.label.take().filter(|_| label.kind == Some(LabelType::Static));
        }
        let made =
            |label: &SecurityLabel| label.kind == Some(LabelType::Dynamic) && label.base_label.is_none();
        self.security_labels.retain(|label| !made(label));
        let default = |resource: &Resource| resource.partition.as_deref() == Some(DEFAULT_PARTITION);
        self.resource = self.resource.take().filter(|resource| !default(resource));
        self
    }
}

fn live_interface(interface: &mut Interface) {
    // A network that shares interfaces of the host chooses one at each start.
    let source = interface.source.as_mut();
    if interface.kind == InterfaceType::Direct
        && let Some(source) = source.filter(|source| source.network.is_some())
    {
        interface.kind = InterfaceType::Network;
        (source.dev, source.mode) = (None, None);
    }
    if let Some(source) = &mut interface.source
        && interface.kind == InterfaceType::Network
    {
        source.port_id = None;
        source.bridge = None;
        source.mac_table_manager = None;
    }
    // Names that are given at start begin like this, and can't be chosen.
    let given =
        |name: &str| ["vnet", "vif", "macvtap", "macvlan"].iter().any(|prefix| name.starts_with(prefix));
    if let Some(target) = &mut interface.target {
        target.dev = target.dev.take().filter(|name| !given(name));
    }
    interface.target = interface.target.take().filter(|target| *target != Default::default());
}
