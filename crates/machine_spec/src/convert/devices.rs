//! Network interfaces, the entropy device, and what they have in common with disks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::{checked_path, disks};
use crate::error::SpecError;
use crate::spec::{
    BALLOON_STEP_BYTES, BalloonSpec, DiskSpec, MAX_QUEUE_SIZE, MAX_QUEUES, MIN_MTU, NetBackendSpec, NetSpec,
    RngSpec,
};
use crate::wire::{BalloonConfig, DiskConfig, MacAddress, NetConfig, RngConfig};

/// Longest identifier: a bound for what logs and answers have to carry.
const MAX_ID_BYTES: usize = 64;
/// Longest name of a network interface (IFNAMSIZ less its terminating zero).
const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// Netmask of an address that comes without one.
const DEFAULT_MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

pub(super) fn disks_and_nets(
    disk_configs: Vec<DiskConfig>,
    nets: Vec<NetConfig>,
    random: &mut dyn FnMut() -> [u8; 6],
) -> Result<(Vec<DiskSpec>, Vec<NetSpec>), SpecError> {
    let given = disk_configs.iter().map(|disk| &disk.id).chain(nets.iter().map(|net| &net.id));
    let mut ids = Identifiers::reserve(given.flatten())?;
    let disks = disk_configs
        .into_iter()
        .enumerate()
        .map(|(index, disk)| disks::disk_spec(index, disk, &mut ids))
        .collect::<Result<Vec<_>, _>>()?;
    disks::check_images(&disks)?;
    let mut macs = Macs::reserve(&nets)?;
    let nets = nets
        .into_iter()
        .enumerate()
        .map(|(index, net)| net_spec(index, net, &mut ids, &mut macs, random))
        .collect::<Result<Vec<_>, _>>()?;
    check_taps(&nets)?;
    Ok((disks, nets))
}

/// The identifiers that are taken.
pub(super) struct Identifiers(BTreeSet<String>);

impl Identifiers {
    /// Takes the given ones first, so that a made one can't collide with any of them.
    fn reserve<'a>(given: impl Iterator<Item = &'a String>) -> Result<Self, SpecError> {
        let mut taken = BTreeSet::new();
        for id in given {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte);
            if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(allowed) {
                return Err(SpecError::Value {
                    object: "device".to_owned(),
                    option: "id",
                    value: id.clone(),
                    reason: "is not an identifier",
                    advice: "use 1 to 64 letters, digits and _ - . :",
                });
            }
            if !taken.insert(id.clone()) {
                return Err(SpecError::DuplicateId { id: id.clone() });
            }
        }
        Ok(Self(taken))
    }

    /// `given`, or the first free one of prefix0, prefix1 and so on, counted from the device's place in its list.
    pub(super) fn settle(&mut self, given: Option<String>, prefix: &str, index: usize) -> String {
        given.unwrap_or_else(|| {
            let mut number = index;
            loop {
                let id = format!("{prefix}{number}");
                if self.0.insert(id.clone()) {
                    return id;
                }
                number += 1;
            }
        })
    }
}

pub(super) fn queue_count(object: &str, count: u32) -> Result<u16, SpecError> {
    u16::try_from(count).ok().filter(|count| (1..=MAX_QUEUES).contains(count)).ok_or_else(|| {
        SpecError::Value {
            object: object.to_owned(),
            option: "num_queues",
            value: count.to_string(),
            reason: "is out of bounds",
            advice: "ask for 1 to 256 queues",
        }
    })
}

/// Virtio 1.2, 2.7: the size of a split virtqueue is a power of two, at most 32768.
pub(super) fn checked_queue_size(object: &str, size: u32) -> Result<u16, SpecError> {
    let possible = |size: &u16| size.is_power_of_two() && (2..=MAX_QUEUE_SIZE).contains(size);
    u16::try_from(size).ok().filter(possible).ok_or_else(|| SpecError::Value {
        object: object.to_owned(),
        option: "queue_size",
        value: size.to_string(),
        reason: "is not a size of a virtqueue",
        advice: "use a power of two from 2 to 32768",
    })
}

/// The MAC addresses that are taken, and by which interface.
struct Macs(BTreeMap<MacAddress, usize>);

impl Macs {
    fn reserve(nets: &[NetConfig]) -> Result<Self, SpecError> {
        let mut taken = BTreeMap::new();
        for (index, net) in nets.iter().enumerate() {
            let Some(mac) = net.mac else { continue };
            let object = format!("net[{index}]");
            // IEEE 802: the lowest bit of the first byte marks a group of stations.
            if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
                return Err(SpecError::Value {
                    object,
                    option: "mac",
                    value: mac.to_string(),
                    reason: "is not the address of one station",
                    advice: "use one with an even first byte, such as 52:54:00:12:34:56, or leave it out",
                });
            }
            if let Some(other) = taken.insert(mac, index) {
                return Err(SpecError::DuplicateMac { object, other: format!("net[{other}]"), mac });
            }
        }
        Ok(Self(taken))
    }

    /// `given`, or a random one that no other interface has: of one station, locally administered.
    fn settle(
        &mut self,
        given: Option<MacAddress>,
        index: usize,
        random: &mut dyn FnMut() -> [u8; 6],
    ) -> [u8; 6] {
        let mac = given.unwrap_or_else(|| {
            let mut bytes = random();
            bytes[0] = bytes[0] & 0xfc | 2;
            // Counting on ends even if the source always says the same.
            while self.0.contains_key(&MacAddress(bytes)) {
                let [.., high, low] = &mut bytes;
                let next = u16::from_be_bytes([*high, *low]).wrapping_add(1);
                [*high, *low] = next.to_be_bytes();
            }
            MacAddress(bytes)
        });
        self.0.insert(mac, index);
        mac.0
    }
}

fn net_spec(
    index: usize,
    config: NetConfig,
    ids: &mut Identifiers,
    macs: &mut Macs,
    random: &mut dyn FnMut() -> [u8; 6],
) -> Result<NetSpec, SpecError> {
    let NetConfig { tap, ip, mask, mac, mtu, link_up, num_queues, queue_size, id, fds, socket_fd } = config;
    let object = format!("net[{index}]");
    let queues = match (num_queues, &fds) {
        (Some(queues), _) => queues,
        (None, None) => 2,
        (None, Some(fds)) => u32::try_from(fds.len()).unwrap_or(u32::MAX).saturating_mul(2),
    };
    let queues = queue_count(&object, queues)?;
    if !queues.is_multiple_of(2) {
        return Err(SpecError::Value {
            object,
            option: "num_queues",
            value: queues.to_string(),
            reason: "is odd",
            advice: "queues come in pairs, one to receive and one to send: use an even number",
        });
    }
    if let Some(mtu) = mtu
        && mtu < MIN_MTU
    {
        return Err(SpecError::Value {
            object,
            option: "mtu",
            value: mtu.to_string(),
            reason: "is too small",
            advice: "use 1280 to 65535",
        });
    }
    let queue_pairs = queues / 2;
    let by_name = tap.is_some() || ip.is_some() || mask.is_some();
    let backend = match (fds, socket_fd) {
        (Some(_), Some(_)) => {
            let (conflict, advice) = ("fd with socket_fd", "leave one of them out");
            return Err(SpecError::Conflict { object, conflict, advice });
        }
        (Some(_), None) if by_name => {
            let conflict = "fd with tap, ip or mask";
            let advice = "an open descriptor has its device already: leave them out";
            return Err(SpecError::Conflict { object, conflict, advice });
        }
        (None, Some(_)) if by_name => {
            let conflict = "socket_fd with tap, ip or mask";
            let advice = "frames go to the socket, not to an interface of the host: leave them out";
            return Err(SpecError::Conflict { object, conflict, advice });
        }
        (Some(fds), None) => NetBackendSpec::TapDescriptors(checked_descriptors(&object, fds, queue_pairs)?),
        (None, Some(fd)) => NetBackendSpec::StreamDescriptor(checked_stream(&object, fd, queue_pairs)?),
        (None, None) => NetBackendSpec::Tap {
            name: tap.map(|name| interface_name(&object, name)).transpose()?,
            address: host_address(&object, ip, mask)?,
        },
    };
    Ok(NetSpec {
        id: ids.settle(id, "net", index),
        backend,
        mac: macs.settle(mac, index, random),
        queue_pairs,
        queue_size: checked_queue_size(&object, queue_size)?,
        mtu,
        link_up,
    })
}

fn checked_descriptors(object: &str, fds: Vec<i32>, queue_pairs: u16) -> Result<Vec<i32>, SpecError> {
    let refuse = |value: String, reason, advice| SpecError::Value {
        object: object.to_owned(),
        option: "fd",
        value,
        reason,
        advice,
    };
    if fds.len() != usize::from(queue_pairs) {
        let advice = "give one descriptor for each pair of queues";
        return Err(refuse(format!("{fds:?}"), "does not match num_queues", advice));
    }
    match fds.iter().find(|fd| **fd < 3) {
        Some(fd) => Err(refuse(
            fd.to_string(),
            "is not a descriptor for a device",
            "0, 1 and 2 are the standard streams: pass the TAP device as 3 or above",
        )),
        None => Ok(fds),
    }
}

fn checked_stream(object: &str, fd: i32, queue_pairs: u16) -> Result<i32, SpecError> {
    let refuse = |option, value: String, reason, advice| {
        Err(SpecError::Value { object: object.to_owned(), option, value, reason, advice })
    };
    if queue_pairs > 1 {
        let value = (u32::from(queue_pairs) * 2).to_string();
        let advice = "a stream carries one pair of queues: use 2, or a TAP device";
        return refuse("num_queues", value, "is too many for socket_fd", advice);
    }
    if fd < 3 {
        let advice = "0, 1 and 2 are the standard streams: pass the socket as 3 or above";
        return refuse("socket_fd", fd.to_string(), "is not a descriptor for a device", advice);
    }
    Ok(fd)
}

/// What the kernel takes as an interface's name (dev_valid_name), without '%', which it would expand.
fn interface_name(object: &str, name: String) -> Result<String, SpecError> {
    let possible = (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if possible {
        return Ok(name);
    }
    Err(SpecError::Value {
        object: object.to_owned(),
        option: "tap",
        value: name,
        reason: "is not the name of a network interface",
        advice: "use 1 to 15 printable characters without / : % or spaces",
    })
}

fn host_address(
    object: &str,
    ip: Option<IpAddr>,
    mask: Option<IpAddr>,
) -> Result<Option<(Ipv4Addr, Ipv4Addr)>, SpecError> {
    let refuse = |option, value: IpAddr, reason, advice| SpecError::Value {
        object: object.to_owned(),
        option,
        value: value.to_string(),
        reason,
        advice,
    };
    const ONLY_IPV4: &str = "only IPv4 addresses are set here: configure the interface on the host instead";
    let (ip, mask) = match (ip, mask) {
        (None, None) => return Ok(None),
        (None, Some(mask)) => {
            return Err(refuse("mask", mask, "has no ip", "add ip=ADDRESS or leave it out"));
        }
        (Some(ip @ IpAddr::V6(_)), _) => return Err(refuse("ip", ip, "is an IPv6 address", ONLY_IPV4)),
        (_, Some(mask @ IpAddr::V6(_))) => {
            return Err(refuse("mask", mask, "is an IPv6 address", ONLY_IPV4));
        }
        (Some(IpAddr::V4(ip)), None) => (ip, DEFAULT_MASK),
        (Some(IpAddr::V4(ip)), Some(IpAddr::V4(mask))) => (ip, mask),
    };
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
        let advice = "use an address of the network between host and guest";
        return Err(refuse("ip", ip.into(), "is not the address of one interface", advice));
    }
    let bits = mask.to_bits();
    if bits == 0 || bits.leading_ones() + bits.trailing_zeros() != u32::BITS {
        return Err(refuse("mask", mask.into(), "is not a netmask", "use one such as 255.255.255.0"));
    }
    Ok(Some((ip, mask)))
}

/// A TAP device, by name or descriptor, carries the frames of one interface.
fn check_taps(nets: &[NetSpec]) -> Result<(), SpecError> {
    let mut users = BTreeMap::new();
    for (index, net) in nets.iter().enumerate() {
        let resources = match &net.backend {
            NetBackendSpec::Tap { name: None, .. } => vec![],
            NetBackendSpec::Tap { name: Some(name), .. } => vec![format!("tap {name}")],
            NetBackendSpec::TapDescriptors(fds) => fds.iter().map(|fd| format!("fd {fd}")).collect(),
            NetBackendSpec::StreamDescriptor(fd) => vec![format!("fd {fd}")],
        };
        for resource in resources {
            if let Some(other) = users.insert(resource.clone(), index) {
                let (object, other) = (format!("net[{index}]"), format!("net[{other}]"));
                return Err(SpecError::DuplicateResource { object, other, resource });
            }
        }
    }
    Ok(())
}

pub(super) fn rng(config: RngConfig) -> Result<RngSpec, SpecError> {
    let RngConfig { src } = config;
    Ok(RngSpec { source: checked_path("rng", "src", src)? })
}

pub(super) fn balloon(config: &BalloonConfig, memory_bytes: u64) -> Result<BalloonSpec, SpecError> {
    let BalloonConfig { size: bytes, deflate_on_oom, free_page_reporting, statistics_period } = *config;
    check_balloon(bytes, memory_bytes)?;
    Ok(BalloonSpec { bytes, deflate_on_oom, free_page_reporting, statistics_period })
}

/// Checks the size of a balloon, in a machine with so much memory.
///
/// # Errors
/// It is no number of whole pages, or more than there is.
pub(crate) fn check_balloon(bytes: u64, memory_bytes: u64) -> Result<(), SpecError> {
    let refuse = |reason, advice| SpecError::Value {
        object: "balloon".to_owned(),
        option: "size",
        value: bytes.to_string(),
        reason,
        advice,
    };
    if !bytes.is_multiple_of(BALLOON_STEP_BYTES) {
        return Err(refuse("is not a multiple of 4096 bytes", "round it to whole pages"));
    }
    if bytes > memory_bytes {
        return Err(refuse("is more than the guest has", "ask for less than the size of its memory"));
    }
    Ok(())
}

pub(super) fn describe_balloon(spec: &BalloonSpec) -> BalloonConfig {
    let BalloonSpec { bytes: size, deflate_on_oom, free_page_reporting, statistics_period } = *spec;
    BalloonConfig { size, deflate_on_oom, free_page_reporting, statistics_period }
}

pub(super) fn describe_net(spec: &NetSpec) -> NetConfig {
    let NetSpec { id, backend, mac, queue_pairs, queue_size, mtu, link_up } = spec;
    let (tap, address, fds, socket_fd) = match backend {
        NetBackendSpec::Tap { name, address } => (name.clone(), *address, None, None),
        NetBackendSpec::TapDescriptors(fds) => (None, None, Some(fds.clone()), None),
        NetBackendSpec::StreamDescriptor(fd) => (None, None, None, Some(*fd)),
    };
    NetConfig {
        tap,
        ip: address.map(|(ip, _)| ip.into()),
        mask: address.map(|(_, mask)| mask.into()),
        mac: Some(MacAddress(*mac)),
        mtu: *mtu,
        link_up: *link_up,
        num_queues: Some(u32::from(*queue_pairs) * 2),
        queue_size: (*queue_size).into(),
        id: Some(id.clone()),
        fds,
        socket_fd,
    }
}

pub(super) fn describe_rng(spec: &RngSpec) -> RngConfig {
    RngConfig { src: spec.source.clone() }
}
