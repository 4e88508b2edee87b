//! Domains: libvirt's description of a virtual machine, read from and written back to XML.
//!
//! | module | what |
//! |---|---|
//! | this one | [`Domain`], [`Devices`] and their order in a document |
//! | [`address`], [`disk`], [`controller`], [`interface`], [`character`], [`display`], [`device`] | families of devices |
//! | [`os`], [`cpu`], [`features`], [`tuning`], [`security`], [`metadata`] | everything else |
//! | [`assign`] | what libvirt adds when a domain is defined or started: identifiers, default devices, addresses, aliases |
//! | [`check`] | what the format can't say: numbers that must agree, names that must be there |
//! | [`edit`] | fragments of documents: single devices, metadata by URI, documents without secrets or live details |
//!
//! Models are flat: which attribute of a source counts is said by the type beside it, as in the XML, and [`check`] refuses what does not
//! go together. Elements may stand in any order when read; they are written in libvirt's order.
//!
//! # What happens to what no model acts on
//!
//! | | |
//! |---|---|
//! | refused by path (VIR_ERR_CONFIG_UNSUPPORTED) | every element, attribute and word that no model knows; those that libvirt knows and nothing here honours are listed in each module's documentation: `keywrap`, `idmap`, `bootloader`, `init…`, `cachetune`, `memorytune`, `lease`, `smartcard`, `nvram` devices, `qemu:commandline` and other namespaces of hypervisors, disks over networks, encryption, ccw and s390 addresses, … |
//! | kept as they are and written back | `metadata` (with its namespaces), `perf`, details of SPICE and audio, `redirfilter`, `mirror` of running disks, SMBIOS tables of processors and memory, PCR banks |
//! | read and normalized | units (to KiB), sets of numbers, UUIDs, hexadecimal numbers, defaults that libvirt always prints |
//! | ignored | namespace declarations at the root that no metadata uses, comments, processing instructions |
//!
//! Sources: libvirt's documentation of the domain format, its RNG schema (`domaincommon.rng`), and documents of libvirt 9.

pub mod address;
pub mod assign;
pub mod character;
pub mod check;
pub mod controller;
pub mod cpu;
pub mod device;
pub mod disk;
pub mod display;
pub mod edit;
pub mod features;
pub mod interface;
pub mod metadata;
pub mod os;
pub mod security;
pub mod tuning;

use self::address::DeviceInfo;
use self::character::{CharacterDevice, RedirectedDevice};
use self::controller::Controller;
use self::cpu::Cpu;
use self::device::{
    Filesystem, HostDevice, Hub, Iommu, Memballoon, MemoryDevice, Panic, Rng, Shmem, Tpm, Vsock, Watchdog,
};
use self::disk::Disk;
use self::display::{Audio, Graphics, Input, Sound, Video};
use self::features::{Clock, Features, PowerManagement};
use self::interface::Interface;
use self::metadata::{Described, Metadata};
use self::os::{Os, Sysinfo};
use self::security::{LaunchSecurity, SecurityLabel};
use self::tuning::{
    BlkioTune, CpuTune, DefaultIoThread, IoThread, MaxMemory, MemTune, Memory, MemoryBacking, NumaTune, Perf,
    Resource, Vcpu, VcpuCount,
};
use crate::error::XmlError;
use crate::fields::Fields;
use crate::model::{Model, model};
use crate::tree::{Element, Kept};
use crate::value::{Uuid, words};

words! {
    /// What runs the guest.
    pub enum DomainType { Kvm = "kvm", Qemu = "qemu", }
    refused
        "kqemu", "xen", "lxc", "uml", "openvz", "test", "vmware", "hyperv", "vbox", "phyp", "parallels", "bhyve",
        "vz", "hvf";

    /// What happens when a guest powers off or reboots.
    pub enum LifecycleAction {
        Destroy = "destroy",
        Restart = "restart",
        RenameRestart = "rename-restart",
        Preserve = "preserve",
    }

    /// What happens when a guest crashes.
    pub enum CrashAction {
        Destroy = "destroy",
        Restart = "restart",
        RenameRestart = "rename-restart",
        Preserve = "preserve",
        CoredumpDestroy = "coredump-destroy",
        CoredumpRestart = "coredump-restart",
    }

    /// What happens when a lock manager loses a lock.
    pub enum LockFailureAction { Poweroff = "poweroff", Restart = "restart", Pause = "pause", Ignore = "ignore", }
}

/// The generation of a machine's memory: made at start when no number is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GenerationId(pub Option<Uuid>);

impl Model for GenerationId {
    fn take(fields: &mut Fields<'_>) -> Result<Self, XmlError> {
        fields.own_value().map(Self)
    }

    fn put(&self, element: &mut Element) {
        if let Some(id) = self.0 {
            element.push_text(id);
        }
    }
}

model! {
    /// The devices of a domain.
    pub struct Devices {
        /// The program that runs the guest.
        emulator: field("emulator") => Option<String>,
        /// Disks.
        disks: children("disk") => Vec<Disk>,
        /// Controllers.
        controllers: children("controller") => Vec<Controller>,
        /// Shared directories.
        filesystems: children("filesystem") => Vec<Filesystem>,
        /// Network interfaces.
        interfaces: children("interface") => Vec<Interface>,
        /// Serial ports.
        serials: children("serial") => Vec<CharacterDevice>,
        /// Parallel ports.
        parallels: children("parallel") => Vec<CharacterDevice>,
        /// Consoles; the first one of a machine with serial ports is the first serial port once more.
        consoles: children("console") => Vec<CharacterDevice>,
        /// Channels.
        channels: children("channel") => Vec<CharacterDevice>,
        /// Keyboards and pointers.
        inputs: children("input") => Vec<Input>,
        /// TPMs.
        tpms: children("tpm") => Vec<Tpm>,
        /// Displays.
        graphics: children("graphics") => Vec<Graphics>,
        /// Sound cards.
        sounds: children("sound") => Vec<Sound>,
        /// Audio backends.
        audios: children("audio") => Vec<Audio>,
        /// Graphics cards.
        videos: children("video") => Vec<Video>,
        /// Devices of the host.
        host_devices: children("hostdev") => Vec<HostDevice>,
        /// USB devices of a client.
        redirected_devices: children("redirdev") => Vec<RedirectedDevice>,
        /// Which of them are let in.
        redirection_filter: kept("redirfilter") => Kept,
        /// USB hubs.
        hubs: children("hub") => Vec<Hub>,
        /// Watchdogs.
        watchdogs: children("watchdog") => Vec<Watchdog>,
        /// The balloon.
        memballoon: child("memballoon") => Option<Memballoon>,
        /// Random number generators.
        rngs: children("rng") => Vec<Rng>,
        /// Panic devices.
        panics: children("panic") => Vec<Panic>,
        /// Shared memory.
        shmems: children("shmem") => Vec<Shmem>,
        /// Memory modules.
        memories: children("memory") => Vec<MemoryDevice>,
        /// The IOMMU.
        iommu: child("iommu") => Option<Iommu>,
        /// Sockets between host and guest.
        vsock: child("vsock") => Option<Vsock>,
    }

    /// A domain.
    pub struct Domain {
        /// What runs the guest.
        kind: required("type") => DomainType,
        /// Its number while it runs.
        id: attribute("id") => Option<i32>,
        /// Name; unique on the host.
        name: field("name") => Option<String>,
        /// Identifier; unique on the host. Assigned when absent.
        uuid: field("uuid") => Option<Uuid>,
        /// The generation of its memory.
        generation_id: child("genid") => Option<GenerationId>,
        /// A line for people.
        title: field("title") => Option<String>,
        /// Text for people.
        description: field("description") => Option<String>,
        /// What other programs keep here.
        metadata: child("metadata") => Option<Metadata>,
        /// How far memory can grow.
        max_memory: child("maxMemory") => Option<MaxMemory>,
        /// Memory at start.
        memory: child("memory") => Option<Memory>,
        /// What the balloon leaves of it.
        current_memory: child("currentMemory") => Option<crate::size::Kib>,
        /// Block I/O.
        blkiotune: child("blkiotune") => Option<BlkioTune>,
        /// Limits of memory.
        memtune: child("memtune") => Option<MemTune>,
        /// What memory is made of.
        memory_backing: child("memoryBacking") => Option<MemoryBacking>,
        /// vCPUs.
        vcpu: child("vcpu") => Option<VcpuCount>,
        /// Single vCPUs.
        vcpus: list("vcpus", "vcpu") => Vec<Vcpu>,
        /// I/O threads.
        iothreads: field("iothreads") => Option<u32>,
        /// Their numbers.
        iothread_ids: list("iothreadids", "iothread") => Vec<IoThread>,
        /// Worker threads of the main loop.
        default_iothread: child("defaultiothread") => Option<DefaultIoThread>,
        /// CPU time and places.
        cputune: child("cputune") => Option<CpuTune>,
        /// Places of memory.
        numatune: child("numatune") => Option<NumaTune>,
        /// The group of processes.
        resource: child("resource") => Option<Resource>,
        /// System information.
        sysinfos: children("sysinfo") => Vec<Sysinfo>,
        /// How it boots.
        os: always("os") => Os,
        /// Features.
        features: child("features") => Option<Features>,
        /// CPU.
        cpu: child("cpu") => Option<Cpu>,
        /// Clock.
        clock: child("clock") => Option<Clock>,
        /// When the guest powers off.
        on_poweroff: field("on_poweroff") => Option<LifecycleAction>,
        /// When it reboots.
        on_reboot: field("on_reboot") => Option<LifecycleAction>,
        /// When it crashes.
        on_crash: field("on_crash") => Option<CrashAction>,
        /// When a lock is lost.
        on_lock_failure: field("on_lockfailure") => Option<LockFailureAction>,
        /// Sleep states.
        pm: child("pm") => Option<PowerManagement>,
        /// Counters of the host.
        perf: child("perf") => Option<Perf>,
        /// Devices.
        devices: always("devices") => Devices,
        /// Security labels.
        security_labels: children("seclabel") => Vec<SecurityLabel>,
        /// A confidential machine.
        launch_security: child("launchSecurity") => Option<LaunchSecurity>,
    }
}

impl Devices {
    /// What all devices have in common, with the name of their element, in the order of a document.
    pub fn infos(&self) -> Vec<(&'static str, &DeviceInfo)> {
        let mut infos: Vec<(&'static str, &DeviceInfo)> = Vec::new();
        infos.extend(self.disks.iter().map(|device| ("disk", &device.info)));
        infos.extend(self.controllers.iter().map(|device| ("controller", &device.info)));
        infos.extend(self.filesystems.iter().map(|device| ("filesystem", &device.info)));
        infos.extend(self.interfaces.iter().map(|device| ("interface", &device.info)));
        infos.extend(self.serials.iter().map(|device| ("serial", &device.info)));
        infos.extend(self.parallels.iter().map(|device| ("parallel", &device.info)));
        infos.extend(self.consoles.iter().map(|device| ("console", &device.info)));
        infos.extend(self.channels.iter().map(|device| ("channel", &device.info)));
        infos.extend(self.inputs.iter().map(|device| ("input", &device.info)));
        infos.extend(self.tpms.iter().map(|device| ("tpm", &device.info)));
        infos.extend(self.sounds.iter().map(|device| ("sound", &device.info)));
        infos.extend(self.videos.iter().map(|device| ("video", &device.info)));
        infos.extend(self.host_devices.iter().map(|device| ("hostdev", &device.info)));
        infos.extend(self.redirected_devices.iter().map(|device| ("redirdev", &device.info)));
        infos.extend(self.hubs.iter().map(|device| ("hub", &device.info)));
        infos.extend(self.watchdogs.iter().map(|device| ("watchdog", &device.info)));
        infos.extend(self.memballoon.iter().map(|device| ("memballoon", &device.info)));
        infos.extend(self.rngs.iter().map(|device| ("rng", &device.info)));
        infos.extend(self.panics.iter().map(|device| ("panic", &device.info)));
        infos.extend(self.shmems.iter().map(|device| ("shmem", &device.info)));
        infos.extend(self.memories.iter().map(|device| ("memory", &device.info)));
        infos.extend(self.iommu.iter().map(|device| ("iommu", &device.info)));
        infos.extend(self.vsock.iter().map(|device| ("vsock", &device.info)));
        infos
    }

    /// As [`Devices::infos`], to be changed.
    pub fn infos_mut(&mut self) -> Vec<&mut DeviceInfo> {
        let mut infos: Vec<&mut DeviceInfo> = Vec::new();
        infos.extend(self.disks.iter_mut().map(|device| &mut device.info));
        infos.extend(self.controllers.iter_mut().map(|device| &mut device.info));
        infos.extend(self.filesystems.iter_mut().map(|device| &mut device.info));
        infos.extend(self.interfaces.iter_mut().map(|device| &mut device.info));
        infos.extend(self.serials.iter_mut().map(|device| &mut device.info));
        infos.extend(self.parallels.iter_mut().map(|device| &mut device.info));
        infos.extend(self.consoles.iter_mut().map(|device| &mut device.info));
        infos.extend(self.channels.iter_mut().map(|device| &mut device.info));
        infos.extend(self.inputs.iter_mut().map(|device| &mut device.info));
        infos.extend(self.tpms.iter_mut().map(|device| &mut device.info));
        infos.extend(self.sounds.iter_mut().map(|device| &mut device.info));
        infos.extend(self.videos.iter_mut().map(|device| &mut device.info));
        infos.extend(self.host_devices.iter_mut().map(|device| &mut device.info));
        infos.extend(self.redirected_devices.iter_mut().map(|device| &mut device.info));
        infos.extend(self.hubs.iter_mut().map(|device| &mut device.info));
        infos.extend(self.watchdogs.iter_mut().map(|device| &mut device.info));
        infos.extend(self.memballoon.iter_mut().map(|device| &mut device.info));
        infos.extend(self.rngs.iter_mut().map(|device| &mut device.info));
        infos.extend(self.panics.iter_mut().map(|device| &mut device.info));
        infos.extend(self.shmems.iter_mut().map(|device| &mut device.info));
        infos.extend(self.memories.iter_mut().map(|device| &mut device.info));
        infos.extend(self.iommu.iter_mut().map(|device| &mut device.info));
        infos.extend(self.vsock.iter_mut().map(|device| &mut device.info));
        infos
    }
}

impl Domain {
    /// Reads a document.
    pub fn parse(document: &str) -> Result<Self, XmlError> {
        Self::from_element(&crate::parse(document)?)
    }

    /// Reads the root element of a document.
    pub fn from_element(root: &Element) -> Result<Self, XmlError> {
        let mut fields = Fields::of_root(root, "domain")?;
        let namespaces: Vec<(String, String)> =
            root.attributes.iter().filter(|(name, _)| name.starts_with("xmlns")).cloned().collect();
        for (name, _) in &namespaces {
            fields.attribute(name);
        }
        let mut domain = Self::read(fields)?;
        // What runs there is never guessed.
        if root.first("os").and_then(|os| os.first("type")).is_none() {
            return Err(XmlError::new("domain/os/type", crate::XmlFault::Missing("the type".to_owned())));
        }
        if let Some(metadata) = &mut domain.metadata {
            metadata.declare(&namespaces);
        }
        domain.metadata = domain.metadata.filter(|metadata| !metadata.elements.is_empty());
        Ok(domain)
    }

    /// The document's root element.
    pub fn to_element(&self) -> Element {
        self.write("domain")
    }

    /// The document, as libvirt prints it.
    pub fn to_xml(&self) -> String {
        self.to_element().to_document()
    }

    /// The highest number of vCPUs; 1 when nothing is said.
    pub fn max_vcpus(&self) -> u32 {
        self.vcpu.as_ref().map_or(1, |vcpu| vcpu.count)
    }

    /// vCPUs at start.
    pub fn current_vcpus(&self) -> u32 {
        self.vcpu.as_ref().and_then(|vcpu| vcpu.current).unwrap_or_else(|| self.max_vcpus())
    }

    /// Memory at start, KiB; 0 when nothing is said.
    pub fn memory_kib(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.size.0)
    }

    /// The machine that the document names.
    pub fn machine(&self) -> Option<&str> {
        self.os.kind.machine.as_deref()
    }
}

impl Described for Domain {
    fn described(&self) -> (&Option<String>, &Option<String>, &Option<Metadata>) {
        (&self.title, &self.description, &self.metadata)
    }

    fn described_mut(&mut self) -> (&mut Option<String>, &mut Option<String>, &mut Option<Metadata>) {
        (&mut self.title, &mut self.description, &mut self.metadata)
    }
}

#[cfg(test)]
impl crate::draw::Draw for GenerationId {
    fn draw(bytes: &mut crate::draw::Bytes) -> Self {
        Self(Option::draw(bytes))
    }
}

#[cfg(test)]
mod tests;
