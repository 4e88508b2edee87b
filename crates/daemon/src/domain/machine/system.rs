//! Processors, memory, what boots, time, and the end.

use libvirt_xml::YesNo;
use libvirt_xml::domain::cpu::{NumaCell, Topology};
use libvirt_xml::domain::features::TimerName;
use libvirt_xml::domain::tuning::{AllocationMode, MemoryAccess};
use libvirt_xml::domain::{Domain, LifecycleAction};
use machine_spec::spec::MEMORY_STEP_BYTES;
use machine_spec::wire::{
    CpuTopologyConfig, CpusConfig, MemoryConfig, OnResetConfig, PayloadConfig, SerialConfig, VmConfig,
};

use super::Findings;
use super::devices::has_balloon;
use super::walk::numbered;

/// The machine without devices.
pub(super) fn config(domain: &Domain, findings: &mut Findings) -> VmConfig {
    timers(domain, findings);
    if !domain.features.as_ref().is_some_and(|features| features.acpi) {
        findings.ignore("domain", "without <features><acpi/></features> the machine has ACPI nevertheless");
    }
    VmConfig {
        cpus: cpus(domain, findings),
        memory: memory(domain, findings),
        payload: payload(domain, findings),
        // Said, because a machine without any character device would have the process's terminal.
        serial: Some(SerialConfig::default()),
        on_reset: Some(match domain.on_reboot {
            Some(LifecycleAction::Destroy) => OnResetConfig::Exit,
            _ => OnResetConfig::Reboot,
        }),
        ..VmConfig::default()
    }
}

/// The path of what the machine's own check names by the wire's object; the whole document if it does not say anything of that.
pub(super) fn path_of(object: &str, domain: &Domain) -> &'static str {
    match object {
        "cpus" if domain.vcpu.is_some() => "domain/vcpu",
        "memory" if domain.memory.is_some() => "domain/memory",
        "kernel command line" => "domain/os/cmdline",
        "payload" => "domain/os",
        "balloon" if domain.current_memory.is_some() => "domain/currentMemory",
        "console_ports" | "rng" => "domain/devices",
        _ => "domain",
    }
}

fn cpus(domain: &Domain, findings: &mut Findings) -> CpusConfig {
    let count = domain.max_vcpus();
    if domain.current_vcpus() != count {
        let reason = "vCPUs can't be added to the machine later";
        findings.refuse("domain/vcpu/@current", reason, "make it the number of vCPUs, or leave it out");
    }
    let topology = domain.cpu.as_ref().and_then(|cpu| cpu.topology);
    let topology = topology.and_then(|topology| {
        let wire = wire_topology(topology);
        if wire.is_none() {
            findings.refuse("domain/cpu/topology", "it has too many vCPUs", "make it the number of vCPUs");
        }
        wire
    });
    CpusConfig { boot_vcpus: count, max_vcpus: count, topology }
}

fn wire_topology(topology: Topology) -> Option<CpuTopologyConfig> {
    let Topology { sockets, dies, clusters: _, cores, threads } = topology;
    let narrow = |part: u32| u16::try_from(part).ok();
    Some(CpuTopologyConfig {
        threads_per_core: narrow(threads)?,
        cores_per_die: narrow(cores)?,
        dies_per_package: narrow(dies)?,
        packages: narrow(sockets)?,
    })
}

fn memory(domain: &Domain, findings: &mut Findings) -> MemoryConfig {
    let kib = domain.memory_kib();
    if domain.current_memory.is_some_and(|current| current.0 < kib) && !has_balloon(domain) {
        let reason = "without a balloon the guest has all of the memory";
        findings.refuse("domain/currentMemory", reason, "make it the same as memory, or add a memballoon");
    }
    let backing = domain.memory_backing.clone().unwrap_or_default();
    let access = backing.access.map(|access| access.mode);
    let cell = single_cell(domain, findings);
    let cell_access = cell.and_then(|cell| cell.access);
    let shared = cell_access.or(access) == Some(MemoryAccess::Shared);
    let page_bytes = backing.hugepages.as_ref().and_then(|hugepages| {
        if hugepages.pages.len() > 1 {
            let path = "domain/memoryBacking/hugepages";
            findings.refuse(path, "all memory has pages of one size", "name one page size");
        }
        hugepages.pages.first().map(|page| page.size.0.saturating_mul(1024))
    });
    MemoryConfig {
        size: rounded(kib, page_bytes, findings),
        mergeable: false,
        shared,
        hugepages: backing.hugepages.is_some(),
        hugepage_size: page_bytes,
        prefault: backing.allocation.and_then(|allocation| allocation.mode)
            == Some(AllocationMode::Immediate),
        thp: true,
    }
}

/// Bytes, rounded up to the machine's step; memory of larger pages has to be whole pages already.
fn rounded(kib: u64, page_bytes: Option<u64>, findings: &mut Findings) -> u64 {
    let bytes = kib.saturating_mul(1024);
    if page_bytes.is_some_and(|page| page > MEMORY_STEP_BYTES) || bytes.is_multiple_of(MEMORY_STEP_BYTES) {
        return bytes;
    }
    findings.ignore("domain/memory", "it is rounded up to a multiple of 2 MiB");
    bytes.checked_next_multiple_of(MEMORY_STEP_BYTES).unwrap_or(bytes)
}

/// The only cell of a document that has cells: with everything it is the same as none.
fn single_cell<'a>(domain: &'a Domain, findings: &mut Findings) -> Option<&'a NumaCell> {
    let cells = domain.cpu.as_ref().map_or(&[][..], |cpu| &cpu.numa);
    let path = "domain/cpu/numa";
    match cells {
        [] => None,
        [cell] => {
            let all = cell.cpus.as_ref().is_some_and(|cpus| {
                u32::try_from(cpus.len()) == Ok(domain.max_vcpus())
                    && cpus.max().is_some_and(|last| last < domain.max_vcpus())
            });
            if !all || cell.memory.0 != domain.memory_kib() {
                findings.refuse(path, "the machine is one cell", "give the cell all vCPUs and memory");
            }
            Some(cell)
        }
        _ => {
            findings.refuse(path, "the guest has no NUMA cells", "leave them out, or name one cell");
            None
        }
    }
}

fn payload(domain: &Domain, findings: &mut Findings) -> PayloadConfig {
    let os = &domain.os;
    // Firmware that is asked for has been refused with the same advice.
    if os.kernel.is_none() && os.firmware.is_none() && os.loader.is_none() {
        findings.refuse(
            "domain/os",
            "no kernel is named, and there is no firmware that could boot from a disk or the network",
            "name one with <kernel>, and <initrd> and <cmdline> (virt-install: --boot kernel=,initrd=,cmdline=)",
        );
    }
    PayloadConfig {
        kernel: os.kernel.as_ref().map(Into::into),
        cmdline: os.cmdline.clone(),
        initramfs: os.initrd.as_ref().map(Into::into),
        firmware: None,
        nvram: None,
    }
}

/// Which timers the board has: the guest's time comes from the time stamp counter, kvmclock and the local APIC's timer. What is said
/// of a timer that is not there (virt-install says how the PIT makes up for missed ticks) is a hint as long as nobody insists on it.
fn timers(domain: &Domain, findings: &mut Findings) {
    let timers = domain.clock.as_ref().map_or(&[][..], |clock| &clock.timers);
    for (number, timer) in (1..).zip(timers) {
        let there = match timer.name {
            TimerName::Rtc | TimerName::Tsc | TimerName::Kvmclock => YesNo::Yes,
            TimerName::Pit | TimerName::Hpet | TimerName::Hypervclock | TimerName::Platform => YesNo::No,
        };
        if timer.present.is_some_and(|wanted| wanted != there) {
            let path = numbered("domain/clock", "timer", number, timers.len() > 1);
            let (reason, advice) = match there {
                YesNo::Yes => ("the machine always has this timer", "use present='yes'"),
                YesNo::No => ("the machine does not have this timer", "use present='no'"),
            };
            findings.refuse(&format!("{path}/@present"), reason, advice);
        }
    }
}
