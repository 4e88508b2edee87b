//! What the format can't say: numbers that must agree, names that must be there, places that only one device can have.
//!
//! [`check`] is meant for definitions that [`super::assign::define`] has completed. Each fault names the element by its path; whether
//! it is an error of the XML or of what can be configured is [`XmlFault`]'s kind, as libvirt's own errors distinguish them.

use std::collections::BTreeSet;

use super::address::{Address, DriveAddress};
use super::assign::USER_PREFIX;
use super::controller::Controller;
use super::cpu::CpuMode;
use super::disk::{Disk, DiskBus, DiskDevice, DiskType};
use super::interface::{BandwidthLimit, Interface, InterfaceType};
use super::tuning::CpuTune;
use super::{Devices, Domain};
use crate::error::{XmlError, XmlFault};
use crate::value::NumberSet;

/// Most vCPUs of a domain; libvirt's bound for its bit maps.
pub const MAX_VCPUS: u32 = 4096;

/// Most I/O threads of a domain.
pub const MAX_IOTHREADS: u32 = 1024;

/// Most NUMA cells of a domain.
pub const MAX_CELLS: usize = 1024;

/// Longest name, bytes: with what is added to it, it has to be a file's name.
pub const MAX_NAME_BYTES: usize = 200;

/// Checks a definition.
pub fn check(domain: &Domain) -> Result<(), XmlError> {
    name(domain)?;
    memory(domain)?;
    vcpus(domain)?;
    cells(domain)?;
    tuning(domain)?;
    boot_order(domain)?;
    disks(domain)?;
    interfaces(&domain.devices)?;
    controllers(&domain.devices)?;
    addresses(&domain.devices)?;
    aliases(&domain.devices)
}

/// Checks a name that a domain has or is to get.
pub fn check_name(name: &str) -> Result<(), XmlError> {
    let fault = |expected: &str| invalid("domain/name", name, expected);
    if name.trim().is_empty() {
        return Err(fault("a name"));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(fault(&format!("a name of at most {MAX_NAME_BYTES} bytes")));
    }
    if name.contains('/') || name.chars().any(char::is_control) {
        return Err(fault("a name without \"/\" and control characters"));
    }
    // Names are parts of paths.
    if matches!(name, "." | "..") { Err(fault("a name that is not a folder's")) } else { Ok(()) }
}

fn invalid(path: &str, value: impl ToString, expected: &str) -> XmlError {
    XmlError::new(path, XmlFault::Invalid { value: value.to_string(), expected: expected.to_owned() })
}

fn missing(path: &str, what: impl Into<String>) -> XmlError {
    XmlError::new(path, XmlFault::Missing(what.into()))
}

fn unsupported(path: &str, what: impl Into<String>) -> XmlError {
    XmlError::new(path, XmlFault::Unsupported(what.into()))
}

fn name(domain: &Domain) -> Result<(), XmlError> {
    check_name(domain.name.as_deref().ok_or_else(|| missing("domain", "element \"name\""))?)?;
    if domain.title.as_ref().is_some_and(|title| title.contains('\n')) {
        return Err(invalid("domain/title", "a title with a line break", "one line"));
    }
    Ok(())
}

fn memory(domain: &Domain) -> Result<(), XmlError> {
    let memory = domain.memory_kib();
    if memory == 0 {
        return Err(missing("domain/memory", "a size above 0"));
    }
    if memory.checked_mul(1024).is_none() {
        return Err(invalid("domain/memory", memory, "a size of up to 64 bits of bytes"));
    }
    if let Some(current) = domain.current_memory.filter(|current| current.0 > memory) {
        return Err(invalid("domain/currentMemory", current.0, "at most the domain's memory"));
    }
    if let Some(max) = &domain.max_memory
        && max.size.0 < memory
    {
        return Err(invalid("domain/maxMemory", max.size.0, "at least the domain's memory"));
    }
    let modules = &domain.devices.memories;
    let of_modules = modules.iter().try_fold(0_u64, |sum, module| sum.checked_add(module.target.size.0));
    if of_modules.is_none_or(|sum| sum >= memory) && !modules.is_empty() {
        return Err(invalid("domain/memory", memory, "more than all memory modules together"));
    }
    if !modules.is_empty() && domain.max_memory.is_none() {
        return Err(unsupported("domain/devices/memory", "memory modules without maxMemory"));
    }
    Ok(())
}

fn vcpus(domain: &Domain) -> Result<(), XmlError> {
    let max = domain.max_vcpus();
    if max == 0 || max > MAX_VCPUS {
        return Err(invalid("domain/vcpu", max, &format!("a number of vCPUs from 1 to {MAX_VCPUS}")));
    }
    let current = domain.current_vcpus();
    if current == 0 || current > max {
        return Err(invalid("domain/vcpu/@current", current, &format!("a number of vCPUs from 1 to {max}")));
    }
    let topology = domain.cpu.as_ref().and_then(|cpu| cpu.topology);
    if let Some(topology) = topology
        && topology.vcpus() != Some(max)
    {
        let room = topology.vcpus().map_or("too many".to_owned(), |room| room.to_string());
        let what = format!("a topology with room for {room} vCPUs, when there are {max}");
        return Err(unsupported("domain/cpu/topology", what));
    }
    let mut seen = BTreeSet::new();
    for vcpu in &domain.vcpus {
        if vcpu.id >= max || !seen.insert(vcpu.id) {
            return Err(invalid("domain/vcpus/vcpu/@id", vcpu.id, "the number of a vCPU, once"));
        }
    }
    if let Some(cpu) = &domain.cpu {
        let named = cpu.model.as_ref().is_some_and(|model| model.name.is_some());
        if cpu.mode == Some(CpuMode::Custom) && !named {
            return Err(missing("domain/cpu", "the model of a custom CPU"));
        }
        let mut features = BTreeSet::new();
        for feature in &cpu.features {
            if !features.insert(feature.name.as_str()) {
                return Err(invalid(
                    "domain/cpu/feature/@name",
                    &feature.name,
                    "a feature that is named once",
                ));
            }
        }
    }
    Ok(())
}

fn cells(domain: &Domain) -> Result<(), XmlError> {
    let Some(cpu) = domain.cpu.as_ref().filter(|cpu| !cpu.numa.is_empty()) else { return Ok(()) };
    let path = "domain/cpu/numa/cell";
    let count = u32::try_from(cpu.numa.len()).unwrap_or(u32::MAX);
    if cpu.numa.len() > MAX_CELLS {
        return Err(invalid("domain/cpu/numa", cpu.numa.len(), &format!("at most {MAX_CELLS} cells")));
    }
    let mut seen = BTreeSet::new();
    let mut assigned = NumberSet::default();
    for cell in &cpu.numa {
        let id = cell.id.ok_or_else(|| missing(path, "attribute \"id\""))?;
        if id >= count || !seen.insert(id) {
            return Err(invalid(&format!("{path}/@id"), id, "numbers from 0 without gaps, each once"));
        }
        let cpus = cell.cpus.clone().unwrap_or_default();
        if cpus.overlaps(&assigned) {
            return Err(invalid(&format!("{path}/@cpus"), cpus, "vCPUs that no other cell has"));
        }
        if let Some(last) = cpus.max().filter(|last| *last >= domain.max_vcpus()) {
            return Err(invalid(&format!("{path}/@cpus"), last, "the number of a vCPU"));
        }
        assigned = assigned.iter().chain(cpus.iter()).collect();
        for distance in &cell.distances {
            let own = distance.id == id;
            let far = if own { distance.value == 10 } else { (10..=255).contains(&distance.value) };
            if distance.id >= count || !far {
                let what = "10 for the cell itself, 10 to 255 for others";
                return Err(invalid(&format!("{path}/distances/sibling/@value"), distance.value, what));
            }
        }
    }
    let nodes = domain.numatune.iter().flat_map(|tune| &tune.nodes);
    for node in nodes {
        if node.cell_id >= count {
            return Err(invalid("domain/numatune/memnode/@cellid", node.cell_id, "the number of a cell"));
        }
    }
    Ok(())
}

fn has_iothread(domain: &Domain, id: u32) -> bool {
    let count = domain.iothreads.unwrap_or(0);
    if domain.iothread_ids.is_empty() {
        (1..=count).contains(&id)
    } else {
        domain.iothread_ids.iter().any(|thread| thread.id == id)
    }
}

fn tuning(domain: &Domain) -> Result<(), XmlError> {
    if let Some(count) = domain.iothreads.filter(|count| *count > MAX_IOTHREADS) {
        return Err(invalid("domain/iothreads", count, &format!("at most {MAX_IOTHREADS} I/O threads")));
    }
    if domain.iothread_ids.len() > MAX_IOTHREADS as usize {
        let count = domain.iothread_ids.len();
        return Err(invalid("domain/iothreadids", count, &format!("at most {MAX_IOTHREADS} I/O threads")));
    }
    let mut seen = BTreeSet::new();
    for thread in &domain.iothread_ids {
        if thread.id == 0 || !seen.insert(thread.id) {
            return Err(invalid("domain/iothreadids/iothread/@id", thread.id, "a number above 0, once"));
        }
    }
    let Some(tune) = &domain.cputune else { return Ok(()) };
    let empty = |path: &str, set: &NumberSet| match set.is_empty() {
        true => Err(invalid(path, set, "a set with members")),
        false => Ok(()),
    };
    let mut pinned = BTreeSet::new();
    for pin in &tune.vcpu_pins {
        empty("domain/cputune/vcpupin/@cpuset", &pin.cpuset)?;
        if !pinned.insert(pin.vcpu) {
            return Err(invalid("domain/cputune/vcpupin/@vcpu", pin.vcpu, "a vCPU that is pinned once"));
        }
        if pin.vcpu >= domain.max_vcpus() {
            return Err(invalid("domain/cputune/vcpupin/@vcpu", pin.vcpu, "the number of a vCPU"));
        }
    }
    for pin in &tune.iothread_pins {
        empty("domain/cputune/iothreadpin/@cpuset", &pin.cpuset)?;
        if !has_iothread(domain, pin.iothread) {
            let what = "the number of an I/O thread";
            return Err(invalid("domain/cputune/iothreadpin/@iothread", pin.iothread, what));
        }
    }
    schedulers(domain, tune)?;
    periods_and_quotas(tune)
}

/// Each thread has one scheduler.
fn schedulers(domain: &Domain, tune: &CpuTune) -> Result<(), XmlError> {
    let mut claimed = NumberSet::default();
    for sched in &tune.vcpu_scheds {
        let known = sched.vcpus.max().is_some_and(|last| last < domain.max_vcpus());
        if !known || claimed.overlaps(&sched.vcpus) {
            return Err(invalid(
                "domain/cputune/vcpusched/@vcpus",
                &sched.vcpus,
                "numbers of vCPUs, each once",
            ));
        }
        claimed = claimed.iter().chain(sched.vcpus.iter()).collect();
    }
    let mut claimed = NumberSet::default();
    for sched in &tune.iothread_scheds {
        let threads = &sched.iothreads;
        let known = !threads.is_empty() && threads.iter().all(|thread| has_iothread(domain, thread));
        if !known || claimed.overlaps(threads) {
            let path = "domain/cputune/iothreadsched/@iothreads";
            return Err(invalid(path, threads, "numbers of I/O threads, each once"));
        }
        claimed = claimed.iter().chain(threads.iter()).collect();
    }
    Ok(())
}

fn periods_and_quotas(tune: &CpuTune) -> Result<(), XmlError> {
    let periods = [
        ("period", tune.period),
        ("global_period", tune.global_period),
        ("emulator_period", tune.emulator_period),
        ("iothread_period", tune.iothread_period),
    ];
    for (name, period) in periods {
        if let Some(period) = period.filter(|period| !(1000..=1_000_000).contains(period)) {
            return Err(invalid(&format!("domain/cputune/{name}"), period, "1000 to 1000000 microseconds"));
        }
    }
    let quotas = [
        ("quota", tune.quota),
        ("global_quota", tune.global_quota),
        ("emulator_quota", tune.emulator_quota),
        ("iothread_quota", tune.iothread_quota),
    ];
    for (name, quota) in quotas {
        if let Some(quota) = quota.filter(|quota| (0..1000).contains(quota)) {
            return Err(invalid(
                &format!("domain/cputune/{name}"),
                quota,
                "1000 microseconds or more, or negative",
            ));
        }
    }
    Ok(())
}

fn boot_order(domain: &Domain) -> Result<(), XmlError> {
    let mut seen = BTreeSet::new();
    for (name, info) in domain.devices.infos() {
        let Some(order) = info.boot_order() else { continue };
        let path = format!("domain/devices/{name}/boot/@order");
        if order == 0 {
            return Err(invalid(&path, order, "a number above 0"));
        }
        if !domain.os.boot.is_empty() {
            return Err(unsupported(
                &path,
                "boot order of devices together with boot elements of the operating system",
            ));
        }
        if !seen.insert(order) {
            return Err(invalid(&path, order, "an order that no other device has"));
        }
    }
    Ok(())
}

fn disks(domain: &Domain) -> Result<(), XmlError> {
    let path = "domain/devices/disk";
    let mut names = BTreeSet::new();
    for disk in &domain.devices.disks {
        if !names.insert(disk.target.dev.as_str()) {
            return Err(invalid(
                &format!("{path}/target/@dev"),
                &disk.target.dev,
                "a name that no other disk has",
            ));
        }
        disk_source(disk)?;
        if disk.path().is_none() && disk.kind != DiskType::Volume && !disk.is_removable() {
            return Err(missing(path, format!("the source of {:?}", disk.target.dev)));
        }
        disk_bus(disk)?;
        let threads = disk.driver.iter().flat_map(|driver| {
            driver.iothread.into_iter().chain(driver.iothreads.iter().map(|thread| thread.id))
        });
        for thread in threads {
            if !has_iothread(domain, thread) {
                let what = format!("I/O thread {thread}, which is not defined");
                return Err(unsupported(&format!("{path}/driver/@iothread"), what));
            }
        }
        if let Some(wwn) = &disk.wwn
            && (wwn.len() != 16 || !wwn.bytes().all(|digit| digit.is_ascii_hexdigit()))
        {
            return Err(invalid(&format!("{path}/wwn"), wwn, "16 hexadecimal digits"));
        }
        if disk.iotune.as_ref().is_some_and(|tune| {
            (tune.total_bytes_sec.is_some_and(|limit| limit > 0)
                && [tune.read_bytes_sec, tune.write_bytes_sec].iter().flatten().any(|limit| *limit > 0))
                || (tune.total_iops_sec.is_some_and(|limit| limit > 0)
                    && [tune.read_iops_sec, tune.write_iops_sec].iter().flatten().any(|limit| *limit > 0))
        }) {
            return Err(unsupported(
                &format!("{path}/iotune"),
                "a total together with limits of reads or writes",
            ));
        }
    }
    Ok(())
}

/// The source has what its type says and nothing else, so that nobody reads the wrong attribute.
fn disk_source(disk: &Disk) -> Result<(), XmlError> {
    let Some(source) = &disk.source else { return Ok(()) };
    let given = [
        ("file", source.file.is_some(), DiskType::File),
        ("dev", source.dev.is_some(), DiskType::Block),
        ("dir", source.dir.is_some(), DiskType::Dir),
        ("pool", source.pool.is_some(), DiskType::Volume),
        ("volume", source.volume.is_some(), DiskType::Volume),
    ];
    for (name, there, kind) in given {
        let path = format!("domain/devices/disk/source/@{name}");
        if there && kind != disk.kind {
            return Err(unsupported(&path, format!("{name:?} in a source of type {:?}", disk.kind.word())));
        }
        if !there && kind == DiskType::Volume && disk.kind == DiskType::Volume {
            return Err(missing("domain/devices/disk/source", format!("attribute {name:?}")));
        }
    }
    Ok(())
}

fn disk_bus(disk: &Disk) -> Result<(), XmlError> {
    let path = "domain/devices/disk";
    let bus = disk.target.bus.unwrap_or_default();
    if disk.device == DiskDevice::Floppy && bus != DiskBus::Fdc {
        return Err(unsupported(
            &format!("{path}/target/@bus"),
            format!("a floppy disk on bus {:?}", bus.word()),
        ));
    }
    if disk.device == DiskDevice::Lun && !matches!(bus, DiskBus::Scsi | DiskBus::Virtio) {
        return Err(unsupported(&format!("{path}/target/@bus"), format!("a LUN on bus {:?}", bus.word())));
    }
    if disk.device == DiskDevice::Cdrom && matches!(bus, DiskBus::Virtio | DiskBus::Fdc | DiskBus::Sd) {
        return Err(unsupported(&format!("{path}/target/@bus"), format!("a CD-ROM on bus {:?}", bus.word())));
    }
    if disk.model.is_some() && bus != DiskBus::Virtio {
        return Err(unsupported(&format!("{path}/@model"), "a virtio model of a disk on another bus"));
    }
    let fits = match (&disk.info.address, bus) {
        (None | Some(Address::Unassigned), _) => true,
        (Some(Address::Pci(_)), bus) => bus == DiskBus::Virtio,
        (Some(Address::Usb(_)), bus) => bus == DiskBus::Usb,
        (Some(Address::Drive(address)), bus) => drive_fits(address, bus),
        _ => false,
    };
    if !fits {
        let what = format!("this address for {:?} on bus {:?}", disk.target.dev, bus.word());
        return Err(unsupported(&format!("{path}/address"), what));
    }
    Ok(())
}

/// Whether a controller of that bus has such a place.
fn drive_fits(address: &DriveAddress, bus: DiskBus) -> bool {
    let DriveAddress { bus: channel, target, unit, .. } = *address;
    match bus {
        DiskBus::Ide => channel < 2 && target == 0 && unit < 2,
        DiskBus::Sata => channel == 0 && target == 0 && unit < 32,
        DiskBus::Fdc => channel == 0 && target == 0 && unit < 2,
        DiskBus::Scsi => channel < 256 && target < 256 && unit < 16384,
        DiskBus::Virtio | DiskBus::Usb | DiskBus::Sd => false,
    }
}

fn interfaces(devices: &Devices) -> Result<(), XmlError> {
    let path = "domain/devices/interface";
    let mut addresses = BTreeSet::new();
    for interface in &devices.interfaces {
        if let Some(mac) = &interface.mac {
            let at = format!("{path}/mac/@address");
            if mac.address.is_multicast() {
                return Err(invalid(&at, mac.address, "the address of one station"));
            }
            if !addresses.insert(mac.address) {
                return Err(invalid(&at, mac.address, "an address that no other interface has"));
            }
        }
        interface_source(interface)?;
        if let Some(port) = interface.vlan.iter().flat_map(|vlan| &vlan.tags).find(|tag| tag.id > 4095) {
            return Err(invalid(&format!("{path}/vlan/tag/@id"), port.id, "a number from 0 to 4095"));
        }
        if let Some(mtu) = interface.mtu.as_ref().filter(|mtu| !(68..=65535).contains(&mtu.size)) {
            return Err(invalid(&format!("{path}/mtu/@size"), mtu.size, "68 to 65535 bytes"));
        }
        if interface.kind == InterfaceType::User && interface.bandwidth.is_some() {
            return Err(unsupported(&format!("{path}/bandwidth"), "limits of a user interface"));
        }
        if let Some(bandwidth) = &interface.bandwidth {
            limit(&format!("{path}/bandwidth/inbound"), bandwidth.inbound.as_ref())?;
            limit(&format!("{path}/bandwidth/outbound"), bandwidth.outbound.as_ref())?;
        }
        if let Some(name) = interface.target.as_ref().and_then(|target| target.dev.as_deref()) {
            // The kernel's rules for names of interfaces.
            let bad = |character: char| character == '/' || character.is_whitespace() || character == ':';
            if name.is_empty() || name.len() > 15 || name.chars().any(bad) || matches!(name, "." | "..") {
                return Err(invalid(
                    &format!("{path}/target/@dev"),
                    name,
                    "a name of an interface, 15 bytes at most",
                ));
            }
        }
    }
    Ok(())
}

/// A limit of one direction; its numbers are of 32 bits, as the protocol's.
fn limit(path: &str, limit: Option<&BandwidthLimit>) -> Result<(), XmlError> {
    let Some(BandwidthLimit { average, peak, floor, burst }) = limit else { return Ok(()) };
    let at = |name: &str| format!("{path}/@{name}");
    for (name, number) in [("average", average), ("peak", peak), ("floor", floor), ("burst", burst)] {
        if let Some(number) = number.filter(|number| *number == 0 || u32::try_from(*number).is_err()) {
            return Err(invalid(&at(name), number, "1 to 4294967295 KiB"));
        }
    }
    match (average, peak) {
        (None, _) if floor.is_none() => Err(missing(path, "attribute \"average\"")),
        (None, Some(peak)) => Err(invalid(&at("peak"), peak, "a peak beside an average")),
        (Some(average), Some(peak)) if peak < average => {
            Err(invalid(&at("peak"), peak, "at least the average"))
        }
        _ => Ok(()),
    }
}

fn interface_source(interface: &Interface) -> Result<(), XmlError> {
    let source = interface.source.as_ref();
    let (name, there) = match interface.kind {
        InterfaceType::Network => ("network", source.is_some_and(|source| source.network.is_some())),
        InterfaceType::Bridge => ("bridge", source.is_some_and(|source| source.bridge.is_some())),
        InterfaceType::Direct => ("dev", source.is_some_and(|source| source.dev.is_some())),
        InterfaceType::Vhostuser => ("path", source.is_some_and(|source| source.path.is_some())),
        InterfaceType::Hostdev => ("address", source.is_some_and(|source| source.address.is_some())),
        InterfaceType::User | InterfaceType::Ethernet => return Ok(()),
    };
    if there {
        Ok(())
    } else {
        let what = format!("{name:?} of an interface of type {:?}", interface.kind.word());
        Err(missing("domain/devices/interface/source", what))
    }
}

fn controllers(devices: &Devices) -> Result<(), XmlError> {
    let path = "domain/devices/controller";
    let mut seen = BTreeSet::new();
    for controller in &devices.controllers {
        if let Some(model) = controller.model.filter(|model| !model.fits(controller.kind)) {
            let what = format!("a model of {} controllers", controller.kind);
            return Err(invalid(&format!("{path}/@model"), model, &what));
        }
        let companion = controller.model.is_some_and(|model| model.word().starts_with("ich9-"));
        let Controller { kind, index, model, .. } = controller;
        // Parts of one USB 2 controller share its number.
        let key = (*kind, *index, companion.then_some(*model));
        if !seen.insert(key) {
            let index = index.map_or("none".to_owned(), |index| index.to_string());
            let what = format!("a number that no other {kind} controller has");
            return Err(invalid(&format!("{path}/@index"), index, &what));
        }
    }
    Ok(())
}

fn addresses(devices: &Devices) -> Result<(), XmlError> {
    let mut seen = BTreeSet::new();
    let drives = devices.disks.iter().filter_map(|disk| match &disk.info.address {
        Some(Address::Drive(at)) => Some((disk, at)),
        _ => None,
    });
    for (disk, at) in drives {
        let place = (disk.target.bus, at.controller, at.bus, at.target, at.unit);
        if !seen.insert(format!("{place:?}")) {
            let value = format!("{}:{}:{}:{}", at.controller, at.bus, at.target, at.unit);
            return Err(invalid("domain/devices/disk/address", value, "a place that no other disk has"));
        }
    }
    for (name, info) in devices.infos() {
        let place = match &info.address {
            Some(Address::Pci(address)) => address.place.map(|place| place.to_string()),
            Some(Address::VirtioSerial(at)) => {
                Some(format!("virtio-serial {}:{}:{}", at.controller, at.bus, at.port))
            }
            Some(Address::Usb(at)) => at.port.as_ref().map(|port| format!("usb {}:{port}", at.bus)),
            Some(Address::Dimm(at)) => at.slot.map(|slot| format!("memory slot {slot}")),
            _ => None,
        };
        if let Some(place) = place
            && !seen.insert(place.clone())
        {
            let path = format!("domain/devices/{name}/address");
            return Err(invalid(&path, place, "a place that no other device has"));
        }
    }
    Ok(())
}

fn aliases(devices: &Devices) -> Result<(), XmlError> {
    let mut seen = BTreeSet::new();
    let serial = devices.serials.first().and_then(|serial| serial.info.alias_name());
    for (name, info) in devices.infos() {
        let Some(alias) = info.alias_name() else { continue };
        // Others are given at start, and are libvirt's own affair.
        if !alias.starts_with(USER_PREFIX) {
            continue;
        }
        // The first console is the first serial port.
        let mirrored = name == "console" && Some(alias) == serial;
        if !mirrored && !seen.insert(alias) {
            return Err(invalid(
                &format!("domain/devices/{name}/alias/@name"),
                alias,
                "a name that no other device has",
            ));
        }
    }
    Ok(())
}
