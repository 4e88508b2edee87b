//! Everything of a definition but its devices: identifiers, sizes, defaults that libvirt always prints.

use std::collections::BTreeSet;

use super::{HostDefaults, Random, random_uuid};
use crate::domain::cpu::{Cpu, CpuCheck, CpuFallback, CpuMatch, CpuMode, CpuModel};
use crate::domain::os::{BootDevice, LoaderType, OsBoot};
use crate::domain::tuning::{IoThread, Memory, Placement, VcpuCount};
use crate::domain::{CrashAction, Domain, LifecycleAction};
use crate::error::{XmlError, XmlFault};
use crate::size::Kib;
use crate::value::OnOff;

/// Most memory, KiB: rounded up it still is a number of bytes of 64 bits.
const MAX_MEMORY: u64 = 1 << 53;

/// Most I/O threads that are listed one by one; `check` refuses more.
const MAX_IOTHREADS: u32 = 1024;

pub(super) fn complete(
    domain: &mut Domain,
    host: &HostDefaults,
    random: &mut dyn Random,
) -> Result<(), XmlError> {
    domain.uuid.get_or_insert_with(|| random_uuid(random));
    if let Some(generation) = &mut domain.generation_id {
        generation.0.get_or_insert_with(|| random_uuid(random));
    }
    memory(domain)?;
    vcpus(domain);
    machine(domain, host);
    cpu(domain, host);
    domain.clock.get_or_insert_default();
    domain.on_poweroff.get_or_insert(LifecycleAction::Destroy);
    domain.on_reboot.get_or_insert(LifecycleAction::Restart);
    domain.on_crash.get_or_insert(CrashAction::Destroy);
    Ok(())
}

fn memory(domain: &mut Domain) -> Result<(), XmlError> {
    let cells = domain.cpu.as_ref().map_or(&[][..], |cpu| &cpu.numa);
    let overflow = || {
        let fault =
            XmlFault::Invalid { value: "memory".to_owned(), expected: "a size of up to 64 bits".to_owned() };
        XmlError::new("domain/memory", fault)
    };
    let of_cells =
        cells.iter().try_fold(0_u64, |sum, cell| sum.checked_add(cell.memory.0)).ok_or_else(overflow)?;
    let modules = domain.devices.memories.iter().map(|memory| memory.target.size.0);
    let of_modules = modules.clone().try_fold(0_u64, u64::checked_add).ok_or_else(overflow)?;
    let memory = domain.memory.get_or_insert_with(Memory::default);
    if of_cells > 0 {
        memory.size.0 = of_cells.checked_add(of_modules).ok_or_else(overflow)?;
    }
    if memory.size.0 > MAX_MEMORY {
        return Err(overflow());
    }
    let total = memory.size;
    let current = domain.current_memory.get_or_insert(total);
    if *current > total || *current == Kib(0) {
        *current = total;
    }
    Ok(())
}

fn vcpus(domain: &mut Domain) {
    let vcpu = domain.vcpu.get_or_insert_with(|| VcpuCount { count: 1, ..VcpuCount::default() });
    vcpu.placement.get_or_insert(Placement::Static);
    if vcpu.current == Some(vcpu.count) {
        vcpu.current = None;
    }
    let named = u32::try_from(domain.iothread_ids.len()).unwrap_or(u32::MAX);
    if named > 0 {
        domain.iothreads = Some(domain.iothreads.unwrap_or(0).max(named));
    }
    number_iothreads(domain);
    if let Some(tune) = &mut domain.cputune {
        tune.vcpu_pins.sort_by_key(|pin| pin.vcpu);
        tune.iothread_pins.sort_by_key(|pin| pin.iothread);
    }
    if let Some(cpu) = &mut domain.cpu {
        for (number, cell) in (0..).zip(&mut cpu.numa) {
            cell.id.get_or_insert(number);
        }
        cpu.numa.sort_by_key(|cell| cell.id);
    }
}

/// Once one I/O thread has a number, all are listed.
fn number_iothreads(domain: &mut Domain) {
    let count = domain.iothreads.unwrap_or(0).min(MAX_IOTHREADS) as usize;
    let mut used: BTreeSet<u32> = domain.iothread_ids.iter().map(|thread| thread.id).collect();
    let mut next = 1;
    while !domain.iothread_ids.is_empty() && domain.iothread_ids.len() < count {
        if used.insert(next) {
            domain.iothread_ids.push(IoThread { id: next, ..IoThread::default() });
        }
        next += 1;
    }
}

fn machine(domain: &mut Domain, host: &HostDefaults) {
    let os = &mut domain.os;
    os.kind.arch.get_or_insert_with(|| host.arch.clone());
    let aliases = &host.machine_aliases;
    let alias = os.kind.machine.take().or_else(|| aliases.first().map(|(alias, _)| alias.clone()));
    os.kind.machine = alias.map(|alias| {
        let found = aliases.iter().find(|(known, _)| *known == alias);
        found.map_or(alias, |(_, machine)| machine.clone())
    });
    if let Some(loader) = os.loader.as_mut().filter(|loader| loader.path.is_some()) {
        loader.kind.get_or_insert(LoaderType::Rom);
    }
    let devices = &domain.devices;
    let ordered = devices.disks.iter().any(|disk| disk.info.boot.is_some())
        || devices.interfaces.iter().any(|interface| interface.info.boot.is_some())
        || devices.host_devices.iter().any(|device| device.info.boot.is_some())
        || devices.redirected_devices.iter().any(|device| device.info.boot.is_some());
    if domain.os.boot.is_empty() && !ordered {
        domain.os.boot.push(OsBoot { dev: BootDevice::Hd });
    }
}

fn cpu(domain: &mut Domain, host: &HostDefaults) {
    let unnamed = domain.cpu.as_ref().is_none_or(|cpu| cpu.mode.is_none() && cpu.model.is_none());
    if unnamed && let Some(default) = &host.cpu {
        let asked = domain.cpu.take().unwrap_or_default();
        domain.cpu = Some(Cpu {
            topology: asked.topology.or(default.topology),
            cache: asked.cache,
            max_phys_addr: asked.max_phys_addr,
            features: asked.features,
            numa: asked.numa,
            ..default.clone()
        });
    }
    domain.cpu = domain.cpu.take().filter(|cpu| *cpu != Cpu::default());
    let Some(cpu) = &mut domain.cpu else { return };
    if cpu.mode.is_none() && cpu.model.is_some() {
        cpu.mode = Some(CpuMode::Custom);
    }
    match cpu.mode {
        Some(CpuMode::Custom) => {
            cpu.matching.get_or_insert(CpuMatch::Exact);
            cpu.check.get_or_insert(CpuCheck::Partial);
            if let Some(CpuModel { fallback, name: Some(_), .. }) = &mut cpu.model {
                fallback.get_or_insert(CpuFallback::Allow);
            }
        }
        Some(CpuMode::HostModel) => {
            let says_nothing = CpuModel { fallback: Some(CpuFallback::Allow), ..CpuModel::default() };
            cpu.model = cpu.model.take().filter(|model| *model != says_nothing);
            cpu.check.get_or_insert(CpuCheck::Partial);
        }
        Some(CpuMode::HostPassthrough) => {
            cpu.check.get_or_insert(CpuCheck::None);
            cpu.migratable.get_or_insert(OnOff::On);
        }
        Some(CpuMode::Maximum) => {
            cpu.check.get_or_insert(CpuCheck::None);
        }
        None => {}
    }
}
