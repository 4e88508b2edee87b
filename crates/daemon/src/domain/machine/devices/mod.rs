//! Disks, interfaces, the entropy device, the balloon, and what came of every device.

mod balloon;
mod characters;
mod user;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use host_network::{Bandwidth, PortVlans};
use libvirt_xml::domain::Domain;
use libvirt_xml::domain::address::DeviceInfo;
use libvirt_xml::domain::device::RngBackendModel;
use libvirt_xml::domain::disk::{
    BackingStore, CacheMode as XmlCache, Discard, Disk, DiskDevice, DiskType, ImageFormat,
};
use libvirt_xml::domain::interface::{Interface, InterfaceType, LinkState, SourceMode};
use libvirt_xml::{MacAddress, YesNo};
use machine_spec::wire;
use machine_spec::wire::{CacheMode, DiskConfig, ImageType, NetConfig, RngConfig, VmConfig};
use net_io::passt::Passt;

use self::balloon::balloon;
pub(super) use self::balloon::has_balloon;
pub use self::balloon::{BalloonDemands, balloon_demands};
use super::walk::numbered;
use super::{Findings, Places};
use crate::network::port_settings;

/// What a device of the document became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDevice {
    /// Where it is in the document.
    pub path: String,
    /// Its alias, when the document has aliases.
    pub alias: Option<String>,
    /// Its target: `vda`, `vnet0`, the name of a channel.
    pub target: Option<String>,
    /// Which device of the machine it is.
    pub device: MachineDevice,
}

/// A device of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineDevice {
    /// A disk.
    Disk {
        /// Its identifier in the machine's description, counters and events.
        id: String,
        /// The images below, from the top, that the document expects; empty: none at all. `None`: the document does not say, the
        /// image does. The machine follows the image; whether both agree is for the daemon to look at.
        chain: Option<Vec<BackingImage>>,
    },
    /// A network interface.
    Net {
        /// Its identifier in the machine's description, counters and events.
        id: String,
    },
    /// The serial port, or a console or channel.
    Character(ConsolePlace),
    /// The entropy device.
    Rng,
    /// The memory balloon.
    Balloon,
}

/// An image that another one is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingImage {
    /// File or device node.
    pub path: PathBuf,
    /// Format, when the document says.
    pub format: Option<ImageFormat>,
}

/// Which character device of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsolePlace {
    /// `config.serial`
    Serial,
    /// `config.console`
    Console,
    /// That element of `config.console_ports`.
    Port(usize),
}

impl ConsolePlace {
    /// The pseudo-terminal, file or socket in a description of the machine; that of `vm.info` knows pseudo-terminals.
    pub fn end(self, config: &VmConfig) -> Option<&Path> {
        let (file, socket) = match self {
            Self::Serial => config.serial.as_ref().map(|serial| (&serial.file, &serial.socket)),
            Self::Console => config.console.as_ref().map(|console| (&console.file, &console.socket)),
            Self::Port(index) => {
                config.console_ports.as_ref()?.get(index).map(|port| (&port.file, &port.socket))
            }
        }?;
        file.as_deref().or(socket.as_deref())
    }

    /// The log in a description of the machine.
    pub fn log(self, config: &VmConfig) -> Option<&Path> {
        let log = match self {
            Self::Serial => &config.serial.as_ref()?.log,
            Self::Console => &config.console.as_ref()?.log,
            Self::Port(index) => &config.console_ports.as_ref()?.get(index)?.log,
        };
        log.as_deref()
    }
}

/// A serial port, console or channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedConsole {
    /// Where it is in the document.
    pub path: String,
    /// Which device of the machine.
    pub place: ConsolePlace,
    /// What is on the host's side.
    pub mode: wire::ConsoleMode,
    /// Whether a user's terminal can be connected to it: serial ports and consoles, not channels.
    pub terminal: bool,
    /// Whether its log is emptied when the domain starts.
    pub log_anew: bool,
}

/// An interface that needs a tap before the machine starts: open descriptors, whose numbers are in `net[index].fds` then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapDemand {
    /// Where the interface is in the document.
    pub path: String,
    /// Its place in `config.net`.
    pub index: usize,
    /// What it is connected to.
    pub source: TapSource,
    /// The guest's address.
    pub mac: Option<MacAddress>,
    /// The tap's name when the document has one.
    pub target: Option<String>,
    /// False: the tap exists already, and stays.
    pub managed: bool,
    /// Pairs of queues: the tap has to be made for several when above 1.
    pub queue_pairs: u32,
    /// Largest packet, bytes; what the tap and its bridge have to carry.
    pub mtu: Option<u16>,
    /// What may pass it.
    pub limits: Bandwidth,
    /// Its VLANs; of none nothing is said.
    pub vlans: Option<PortVlans>,
}

/// What an interface is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSource {
    /// A network of the daemon.
    Network {
        /// Its name.
        name: String,
        /// A port group of it.
        portgroup: Option<String>,
    },
    /// A bridge of the host.
    Bridge {
        /// Its name.
        name: String,
    },
    /// An interface of the host, shared by macvtap.
    Direct {
        /// Names of those to choose from.
        devices: Vec<String>,
        /// How.
        mode: SourceMode,
    },
    /// Addresses translated by a process without rights.
    User(Box<Passt>),
    /// A tap that somebody else connects.
    Ethernet,
}

/// The devices.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) devices: Vec<PlannedDevice>,
    pub(super) consoles: Vec<PlannedConsole>,
    pub(super) taps: Vec<TapDemand>,
    /// Where the wire's objects come from, for the machine's own check.
    pub(super) paths: BTreeMap<String, String>,
}

impl Planned {
    fn device(&mut self, path: String, info: &DeviceInfo, target: Option<&str>, device: MachineDevice) {
        let alias = info.alias_name().map(str::to_owned);
        self.devices.push(PlannedDevice { path, alias, target: target.map(str::to_owned), device });
    }
}

/// Puts the document's devices into the machine.
pub(super) fn plan(
    domain: &Domain,
    places: &Places,
    config: &mut VmConfig,
    findings: &mut Findings,
) -> Planned {
    let mut planned = Planned::default();
    config.disks = Some(disks(domain, places, &mut planned, findings));
    config.net = Some(interfaces(domain, &mut planned, findings));
    characters::plan(domain, places, config, &mut planned, findings);
    config.rng = rng(domain, &mut planned, findings);
    config.balloon = balloon(domain, &mut planned);
    planned
}

/// Paths of devices of a kind, as the walk names them.
fn paths(name: &'static str, count: usize) -> impl Iterator<Item = String> {
    (1..=count).map(move |number| numbered("domain/devices", name, number, count > 1))
}

fn disks(
    domain: &Domain,
    places: &Places,
    planned: &mut Planned,
    findings: &mut Findings,
) -> Vec<DiskConfig> {
    let mut configs = Vec::new();
    let disks = &domain.devices.disks;
    for (path, disk) in paths("disk", disks.len()).zip(disks) {
        // Drives are refused or hints; the table knows.
        if disk.device != DiskDevice::Disk {
            continue;
        }
        let Some(config) = disk_config(&path, disk, places, findings) else { continue };
        planned.paths.insert(format!("disks[{}]", configs.len()), path.clone());
        let device = MachineDevice::Disk { id: disk.target.dev.clone(), chain: chain(disk) };
        planned.device(path, &disk.info, Some(&disk.target.dev), device);
        configs.push(config);
    }
    configs
}

fn disk_config(path: &str, disk: &Disk, places: &Places, findings: &mut Findings) -> Option<DiskConfig> {
    let driver = disk.driver.clone().unwrap_or_default();
    let Some((image, format)) = image(disk, places) else {
        let reason = match disk.kind {
            DiskType::Volume => "there is no such volume in an active pool",
            _ => "it names no image",
        };
        findings.refuse(path, reason, "name an image or a volume in <source>");
        return None;
    };
    let image_type = match format {
        ImageFormat::Qcow2 => ImageType::Qcow2,
        ImageFormat::Vmdk => ImageType::FlatVmdk,
        ImageFormat::Vpc => ImageType::FixedVhd,
        ImageFormat::Vhdx => ImageType::Vhdx,
        ImageFormat::Vdi => ImageType::Vdi,
        ImageFormat::Raw | ImageFormat::Iso => ImageType::Raw,
        other => {
            let reason = format!("images of format {other} can't be served");
            findings.refuse(path, reason, "convert the image to qcow2 or raw");
            return None;
        }
    };
    let (backing_files, backing_directories) = backing(image_type, disk, places);
    if image_type != ImageType::Qcow2 && chain(disk).is_some_and(|chain| !chain.is_empty()) {
        let reason = "only qcow2 images are based on others";
        findings.refuse(&format!("{path}/backingStore"), reason, "leave it out");
    }
    let cache = driver.cache.unwrap_or_default();
    let readonly = disk.readonly;
    let default = DiskConfig::default();
    Some(DiskConfig {
        path: Some(image),
        image_type: Some(image_type),
        backing_files,
        backing_directories,
        readonly,
        direct: matches!(cache, XmlCache::None | XmlCache::Directsync),
        cache: match cache {
            XmlCache::Default | XmlCache::None => None,
            XmlCache::Writethrough => Some(CacheMode::Writethrough),
            XmlCache::Writeback => Some(CacheMode::Writeback),
            XmlCache::Directsync => Some(CacheMode::Directsync),
            XmlCache::Unsafe => Some(CacheMode::Unsafe),
        },
        // As with QEMU: an image is only made sparse by a guest when its description says so.
        sparse: driver.discard == Some(Discard::Unmap),
        num_queues: driver.queues.unwrap_or(default.num_queues),
        queue_size: driver.queue_size.unwrap_or(default.queue_size),
        id: Some(disk.target.dev.clone()),
        serial: disk.serial.clone(),
    })
}

/// Path and format of a disk's image. A volume's format is what the disk says, else what the pool says.
fn image(disk: &Disk, places: &Places) -> Option<(PathBuf, ImageFormat)> {
    let said = disk.driver.as_ref().and_then(|driver| driver.format);
    if disk.kind == DiskType::Volume {
        let source = disk.source.as_ref()?;
        let volume = places.volumes.get(&(source.pool.clone()?, source.volume.clone()?))?;
        return Some((volume.path.clone(), said.unwrap_or(volume.format)));
    }
    Some((PathBuf::from(disk.path()?), said.unwrap_or(ImageFormat::Raw)))
}

/// The images below a disk's as far as the document says.
fn chain(disk: &Disk) -> Option<Vec<BackingImage>> {
    let mut images = Vec::new();
    let mut next: Option<&BackingStore> = Some(disk.backing_store.as_ref()?);
    while let Some(store) = next {
        let source = store.source.as_ref();
        let Some(path) = source.and_then(|source| source.file.as_ref().or(source.dev.as_ref())) else {
            break;
        };
        let format = store.format.as_ref().map(|format| format.format);
        images.push(BackingImage { path: path.into(), format });
        next = store.backing_store.as_deref();
    }
    Some(images)
}

/// Whether an image may name other files, and in which directories beside its own.
fn backing(image_type: ImageType, disk: &Disk, places: &Places) -> (bool, Option<Vec<PathBuf>>) {
    match (image_type, chain(disk)) {
        (ImageType::Qcow2, None) => {
            let directories = places.backing_directories.clone();
            (true, Some(directories).filter(|directories| !directories.is_empty()))
        }
        (ImageType::Qcow2, Some(images)) if !images.is_empty() => {
            let mut directories: Vec<PathBuf> = images
                .iter()
                .filter_map(|image| image.path.parent())
                .filter(|directory| !directory.as_os_str().is_empty())
                .map(Path::to_path_buf)
                .collect();
            directories.sort();
            directories.dedup();
            (true, Some(directories).filter(|directories| !directories.is_empty()))
        }
        // Extents lie beside the descriptor.
        (ImageType::FlatVmdk, _) => (true, None),
        _ => (false, None),
    }
}

fn interfaces(domain: &Domain, planned: &mut Planned, findings: &mut Findings) -> Vec<NetConfig> {
    let mut configs = Vec::new();
    let interfaces = &domain.devices.interfaces;
    for (path, interface) in paths("interface", interfaces.len()).zip(interfaces) {
        user::refuse_in_others(&path, interface, findings);
        let Some(source) = tap_source(&path, interface, findings) else { continue };
        let index = configs.len();
        let Some(config) = net_config(&path, interface, index, findings) else { continue };
        check_addresses(&path, interface, findings);
        planned.paths.insert(format!("net[{index}]"), path.clone());
        let target = interface.target.as_ref();
        let name = target.and_then(|target| target.dev.clone());
        planned.taps.push(TapDemand {
            path: path.clone(),
            index,
            source,
            mac: interface.mac.as_ref().map(|mac| mac.address),
            target: name.clone(),
            managed: target.and_then(|target| target.managed) != Some(YesNo::No),
            queue_pairs: config.num_queues.unwrap_or(2) / 2,
            mtu: config.mtu,
            limits: limits(&path, interface, findings),
            vlans: vlans(&path, interface, findings),
        });
        let device = MachineDevice::Net { id: net_id(index) };
        planned.device(path, &interface.info, name.as_deref(), device);
        configs.push(config);
    }
    configs
}

/// The identifier of a network card in the machine's description.
pub(crate) fn net_id(index: usize) -> String {
    format!("net{index}")
}

/// The addresses that a document says its guest has on an interface.
///
/// # Errors
/// What can't be read as an address, and where that is below the interface.
pub(crate) fn fixed_addresses(interface: &Interface) -> Result<Vec<IpAddr>, (&'static str, String)> {
    let ips = interface.ips.iter().map(|ip| ("ip/@address", &ip.address));
    let parameters = interface.filter.iter().flat_map(|filter| &filter.parameters);
    let parameters = parameters.filter(|parameter| matches!(&*parameter.name, "IP" | "IPV6"));
    let parameters = parameters.map(|parameter| ("filterref/parameter/@value", &parameter.value));
    let read = |(place, text): (&'static str, &String)| {
        text.trim().parse().map_err(|_| (place, format!("'{text:.64}' is no IP address")))
    };
    ips.chain(parameters).map(read).collect()
}

/// Refuses what is said of a guest's addresses where nobody looks at them.
fn check_addresses(path: &str, interface: &Interface, findings: &mut Findings) {
    if let Err((place, reason)) = fixed_addresses(interface) {
        findings.refuse(&format!("{path}/{place}"), reason, "write it as 192.168.122.10 or fd00::10");
    }
    if interface.kind == InterfaceType::Network {
        return;
    }
    // Passt gives its guest the addresses that the document says.
    let lost = interface.kind != InterfaceType::User && !interface.ips.is_empty();
    for (said, element) in [(interface.filter.is_some(), "filterref"), (lost, "ip")] {
        if said {
            let reason = "only guests on networks are held to their addresses";
            findings.refuse(&format!("{path}/{element}"), reason, "use type='network', or leave it out");
        }
    }
}

fn tap_source(path: &str, interface: &Interface, findings: &mut Findings) -> Option<TapSource> {
    let source = interface.source.clone().unwrap_or_default();
    let found = match interface.kind {
        InterfaceType::Network => {
            source.network.map(|name| TapSource::Network { name, portgroup: source.portgroup })
        }
        InterfaceType::Bridge => source.bridge.map(|name| TapSource::Bridge { name }),
        // As running machines show it; the network may choose another device.
        InterfaceType::Direct if source.network.is_some() => {
            source.network.map(|name| TapSource::Network { name, portgroup: source.portgroup })
        }
        InterfaceType::Direct => source.dev.map(|device| {
            let mode = source.mode.unwrap_or(SourceMode::Vepa);
            TapSource::Direct { devices: vec![device], mode }
        }),
        InterfaceType::User => {
            return user::passt(path, interface, findings).map(|passt| TapSource::User(Box::new(passt)));
        }
        InterfaceType::Ethernet => Some(TapSource::Ethernet),
        // The table refuses them.
        InterfaceType::Vhostuser | InterfaceType::Hostdev => return None,
    };
    if found.is_none() {
        findings.refuse(path, "it does not say what it is connected to", "name it in <source>");
    }
    found
}

/// Limits of what passes an interface that is made here.
fn limits(path: &str, interface: &Interface, findings: &mut Findings) -> Bandwidth {
    let Some(bandwidth) = &interface.bandwidth else { return Bandwidth::default() };
    let path = format!("{path}/bandwidth");
    let made = interface.target.as_ref().and_then(|target| target.managed) != Some(YesNo::No);
    match interface.kind {
        InterfaceType::Network | InterfaceType::Bridge | InterfaceType::Direct => {}
        InterfaceType::Ethernet if made => {}
        InterfaceType::Ethernet => {
            findings.refuse(&path, "an interface with managed='no' is left as it is", "limit it there");
        }
        kind => findings.refuse(
            &path,
            format!("what passes an interface of type '{kind}' can't be limited"),
            "leave it out, or use type='network' or 'bridge'",
        ),
    }
    if bandwidth.inbound.as_ref().is_some_and(|limit| limit.floor.is_some()) {
        findings.refuse(
            &format!("{path}/inbound/@floor"),
            "nothing is guaranteed to one guest",
            "leave it out, and limit the others (by a <portgroup> of their network)",
        );
    }
    port_settings::limits(Some(bandwidth))
}

/// VLANs of an interface on a bridge.
fn vlans(path: &str, interface: &Interface, findings: &mut Findings) -> Option<PortVlans> {
    interface.vlan.as_ref()?;
    let path = format!("{path}/vlan");
    if !matches!(interface.kind, InterfaceType::Network | InterfaceType::Bridge) {
        findings.refuse(
            &path,
            format!("an interface of type '{}' is no port of a bridge", interface.kind),
            "leave it out, or use type='network' or 'bridge'",
        );
        return None;
    }
    port_settings::vlans(interface.vlan.as_ref()).unwrap_or_else(|wrong| {
        findings.refuse(&path, wrong, "change it");
        None
    })
}

fn net_config(path: &str, interface: &Interface, index: usize, findings: &mut Findings) -> Option<NetConfig> {
    let driver = interface.driver.clone().unwrap_or_default();
    let mtu = match interface.mtu.as_ref().map(|mtu| u16::try_from(mtu.size)).transpose() {
        Ok(mtu) => mtu,
        Err(_) => {
            findings.refuse(
                &format!("{path}/mtu/@size"),
                "packets are at most 65535 bytes",
                "use 1280 to 65535",
            );
            return None;
        }
    };
    let queue_size = match (driver.rx_queue_size, driver.tx_queue_size) {
        (Some(receive), Some(send)) if receive != send => {
            let at = format!("{path}/driver/@tx_queue_size");
            findings.refuse(&at, "all queues have the same size", "make it the same as rx_queue_size");
            return None;
        }
        (receive, send) => receive.or(send),
    };
    let default = NetConfig::default();
    Some(NetConfig {
        mac: interface.mac.as_ref().map(|mac| wire::MacAddress(mac.address.0)),
        mtu,
        link_up: interface.link.as_ref().is_none_or(|link| link.state == LinkState::Up),
        num_queues: Some(driver.queues.unwrap_or(1).saturating_mul(2)),
        queue_size: queue_size.unwrap_or(default.queue_size),
        id: Some(net_id(index)),
        ..default
    })
}

fn rng(domain: &Domain, planned: &mut Planned, findings: &mut Findings) -> Option<RngConfig> {
    let rngs = &domain.devices.rngs;
    let mut paths = paths("rng", rngs.len());
    let (first, path) = rngs.first().zip(paths.next())?;
    for further in paths {
        findings.refuse(&further, "there is one entropy device", "leave it out");
    }
    planned.paths.insert("rng".to_owned(), path.clone());
    planned.device(path, &first.info, None, MachineDevice::Rng);
    let source = match first.backend.model {
        RngBackendModel::Builtin => None,
        RngBackendModel::Random => first.backend.path.as_deref(),
    };
    Some(RngConfig { src: source.unwrap_or("/dev/urandom").into() })
}
