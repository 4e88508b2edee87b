//! Changes of numbers of a definition: memory, vCPUs, and the processors of the host that they may use.

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::device::{BalloonStats, MemballoonModel};
use libvirt_xml::domain::tuning::{EmulatorPin, Memory, VcpuCount, VcpuPin};
use libvirt_xml::size::Kib;
use libvirt_xml::{NumberSet, YesNo};

use super::DomainError;

/// Sets the memory that the balloon is to leave, KiB.
pub(crate) fn set_memory(definition: &mut Definition, kib: u64) -> Result<(), DomainError> {
    if kib == 0 {
        return Err(DomainError::Argument("memory must not be 0".to_owned()));
    }
    if kib > definition.memory_kib() {
        return Err(DomainError::Argument("cannot set memory higher than max memory".to_owned()));
    }
    definition.current_memory = Some(Kib(kib));
    Ok(())
}

/// Sets the memory at start, KiB.
pub(crate) fn set_max_memory(definition: &mut Definition, kib: u64) -> Result<(), DomainError> {
    if kib == 0 {
        return Err(DomainError::Argument("memory must not be 0".to_owned()));
    }
    if definition.cpu.as_ref().is_some_and(|cpu| !cpu.numa.is_empty()) {
        let message = "initial memory size of a domain with NUMA nodes cannot be modified with this API";
        return Err(DomainError::Invalid(message.to_owned()));
    }
    definition.memory.get_or_insert_with(Memory::default).size = Kib(kib);
    definition.current_memory = definition.current_memory.map(|current| current.min(Kib(kib)));
    Ok(())
}

/// Sets how often the guest tells figures about its memory, seconds; 0: when it is asked.
pub(crate) fn set_statistics_period(definition: &mut Definition, seconds: u32) -> Result<(), DomainError> {
    let balloon = definition.devices.memballoon.as_mut();
    let balloon = balloon.filter(|balloon| balloon.model != MemballoonModel::None).ok_or_else(|| {
        let message = "Memory balloon model must be virtio to set the collection period";
        DomainError::Invalid(message.to_owned())
    })?;
    balloon.stats = Some(BalloonStats { period: seconds }).filter(|stats| stats.period != 0);
    Ok(())
}

fn count(definition: &mut Definition) -> &mut VcpuCount {
    definition.vcpu.get_or_insert_with(|| VcpuCount { count: 1, ..VcpuCount::default() })
}

/// Sets the vCPUs at start.
pub(crate) fn set_vcpus(definition: &mut Definition, vcpus: u32) -> Result<(), DomainError> {
    let most = definition.max_vcpus();
    if vcpus == 0 {
        return Err(DomainError::Argument("there must be at least one vCPU".to_owned()));
    }
    if vcpus > most {
        let message = "requested vcpus is greater than max allowable vcpus for the persistent domain";
        return Err(DomainError::Argument(format!("{message}: {vcpus} > {most}")));
    }
    count(definition).current = Some(vcpus).filter(|vcpus| *vcpus < most);
    // Where each vCPU is described, the first ones are those that are there.
    for vcpu in &mut definition.vcpus {
        vcpu.enabled = YesNo::from(vcpu.id < vcpus);
    }
    Ok(())
}

/// Sets how many vCPUs there can be.
pub(crate) fn set_max_vcpus(definition: &mut Definition, vcpus: u32) -> Result<(), DomainError> {
    if vcpus == 0 {
        return Err(DomainError::Argument("there must be at least one vCPU".to_owned()));
    }
    if let Some(cpu) = &definition.cpu {
        let topology = cpu.topology.map(|topology| {
            let parts =
                [topology.sockets, topology.dies, topology.clusters, topology.cores, topology.threads];
            parts.into_iter().map(u64::from).product::<u64>()
        });
        if topology.is_some_and(|product| product != u64::from(vcpus)) {
            let message = "CPU topology doesn't match the desired vcpu count";
            return Err(DomainError::Argument(message.to_owned()));
        }
        if !cpu.numa.is_empty() {
            let message = "the number of vCPUs of a domain with NUMA nodes cannot be modified with this API";
            return Err(DomainError::Invalid(message.to_owned()));
        }
    }
    let vcpu = count(definition);
    vcpu.count = vcpus;
    vcpu.current = vcpu.current.filter(|current| *current < vcpus);
    definition.vcpus.clear();
    if let Some(tune) = &mut definition.cputune {
        tune.vcpu_pins.retain(|pin| pin.vcpu < vcpus);
    }
    Ok(())
}

/// Processors of the host that a definition's vCPU may use; none when all.
pub(crate) fn vcpu_places(definition: &Definition, vcpu: u32) -> Option<&NumberSet> {
    let pins = definition.cputune.as_ref().map_or(&[][..], |tune| &tune.vcpu_pins);
    pins.iter().find(|pin| pin.vcpu == vcpu).map(|pin| &pin.cpuset).or_else(|| domain_places(definition))
}

/// Processors of the host that everything else of the process may use; none when all.
pub(crate) fn emulator_places(definition: &Definition) -> Option<&NumberSet> {
    let pin = definition.cputune.as_ref().and_then(|tune| tune.emulator_pin.as_ref());
    pin.map(|pin| &pin.cpuset).or_else(|| domain_places(definition))
}

fn domain_places(definition: &Definition) -> Option<&NumberSet> {
    definition.vcpu.as_ref().and_then(|vcpu| vcpu.cpuset.as_ref())
}

/// Pins a vCPU; `places` that are all of the host's take the pin away.
pub(crate) fn pin_vcpu(
    definition: &mut Definition,
    vcpu: u32,
    places: Option<NumberSet>,
) -> Result<(), DomainError> {
    if vcpu >= definition.max_vcpus() {
        let message =
            format!("vcpu {vcpu} is out of range of persistent cpu count {}", definition.max_vcpus());
        return Err(DomainError::Argument(message));
    }
    let pins = &mut definition.cputune.get_or_insert_default().vcpu_pins;
    pins.retain(|pin| pin.vcpu != vcpu);
    pins.extend(places.map(|cpuset| VcpuPin { vcpu, cpuset }));
    without_empty_tuning(definition);
    Ok(())
}

/// Pins everything else of the process; `places` that are all of the host's take the pin away.
pub(crate) fn pin_emulator(definition: &mut Definition, places: Option<NumberSet>) {
    definition.cputune.get_or_insert_default().emulator_pin = places.map(|cpuset| EmulatorPin { cpuset });
    without_empty_tuning(definition);
}

fn without_empty_tuning(definition: &mut Definition) {
    definition.cputune = definition.cputune.take().filter(|tune| *tune != Default::default());
}
