//! vCPUs and guest memory.

use crate::error::SpecError;
use crate::spec::{
    CpuSpec, CpuTopology, MAX_CPUS, MAX_MEMORY_BYTES, MEMORY_STEP_BYTES, MIN_MEMORY_BYTES, MemoryBacking,
    MemorySpec,
};
use crate::wire::{CpuTopologyConfig, CpusConfig, MemoryConfig};

/// Size of a huge page whose description does not say.
const DEFAULT_HUGE_PAGE_BYTES: u64 = 2 << 20;

pub(super) fn cpus(config: &CpusConfig) -> Result<CpuSpec, SpecError> {
    let CpusConfig { boot_vcpus, max_vcpus, topology } = *config;
    let count = u8::try_from(boot_vcpus)
        .ok()
        .filter(|count| (1..=MAX_CPUS).contains(count))
        .ok_or(SpecError::CpuCount { count: boot_vcpus })?;
    if max_vcpus != boot_vcpus {
        return Err(SpecError::CpuHotplug { boot: boot_vcpus, max: max_vcpus });
    }
    let topology = match topology {
        None => CpuTopology { threads_per_core: 1, cores_per_die: count, dies_per_socket: 1, sockets: 1 },
        Some(wanted) => checked_topology(wanted, count)?,
    };
    Ok(CpuSpec { count, topology })
}

fn checked_topology(wanted: CpuTopologyConfig, count: u8) -> Result<CpuTopology, SpecError> {
    let CpuTopologyConfig { threads_per_core, cores_per_die, dies_per_package, packages } = wanted;
    let parts = [threads_per_core, cores_per_die, dies_per_package, packages];
    // Four factors of 16 bits fit in 64.
    let product = parts.iter().map(|part| u64::from(*part)).product::<u64>();
    let mismatch = || SpecError::Topology {
        topology: parts.map(|part| part.to_string()).join(":"),
        product,
        count: count.into(),
    };
    if product != u64::from(count) {
        return Err(mismatch());
    }
    // Factors of a number up to 254 fit as well; the conversion says so without relying on it.
    let narrow = |part| u8::try_from(part).map_err(|_| mismatch());
    Ok(CpuTopology {
        threads_per_core: narrow(threads_per_core)?,
        cores_per_die: narrow(cores_per_die)?,
        dies_per_socket: narrow(dies_per_package)?,
        sockets: narrow(packages)?,
    })
}

pub(super) fn describe_cpus(spec: CpuSpec) -> CpusConfig {
    let CpuSpec { count, topology } = spec;
    let CpuTopology { threads_per_core, cores_per_die, dies_per_socket, sockets } = topology;
    CpusConfig {
        boot_vcpus: count.into(),
        max_vcpus: count.into(),
        topology: Some(CpuTopologyConfig {
            threads_per_core: threads_per_core.into(),
            cores_per_die: cores_per_die.into(),
            dies_per_package: dies_per_socket.into(),
            packages: sockets.into(),
        }),
    }
}

pub(super) fn memory(config: &MemoryConfig) -> Result<MemorySpec, SpecError> {
    let MemoryConfig { size: bytes, mergeable, shared, hugepages, hugepage_size, prefault, thp } = *config;
    let backing = match (hugepages, hugepage_size, shared) {
        (false, Some(_), _) => {
            return Err(conflict("hugepage_size without hugepages", "add hugepages=on or leave it out"));
        }
        (false, None, false) => MemoryBacking::Anonymous,
        (false, None, true) => MemoryBacking::Shared,
        (true, size, shared) => {
            let page_bytes = size.unwrap_or(DEFAULT_HUGE_PAGE_BYTES);
            if ![2 << 20, 1 << 30].contains(&page_bytes) {
                return Err(SpecError::HugepageSize { bytes: page_bytes });
            }
            MemoryBacking::HugePages { page_bytes, shared }
        }
    };
    if bytes < MIN_MEMORY_BYTES {
        return Err(SpecError::MemoryTooSmall { bytes });
    }
    if bytes > MAX_MEMORY_BYTES {
        return Err(SpecError::MemoryTooLarge { bytes });
    }
    let page_bytes = match backing {
        MemoryBacking::HugePages { page_bytes, .. } => page_bytes,
        MemoryBacking::Anonymous | MemoryBacking::Shared => MEMORY_STEP_BYTES,
    };
    if !bytes.is_multiple_of(page_bytes) {
        return Err(SpecError::MemoryUnaligned { bytes, page_bytes });
    }
    if mergeable && backing != MemoryBacking::Anonymous {
        // madvise(2), MADV_MERGEABLE: KSM merges private anonymous pages only.
        return Err(conflict(
            "mergeable with shared or hugepages",
            "the host merges private small pages only: leave one of them out",
        ));
    }
    let transparent_hugepages = thp && !hugepages;
    Ok(MemorySpec { bytes, backing, transparent_hugepages, mergeable, prefault })
}

fn conflict(conflict: &'static str, advice: &'static str) -> SpecError {
    SpecError::Conflict { object: "memory".to_owned(), conflict, advice }
}

pub(super) fn describe_memory(spec: &MemorySpec) -> MemoryConfig {
    let MemorySpec { bytes, backing, transparent_hugepages, mergeable, prefault } = spec;
    let (shared, hugepage_size) = match *backing {
        MemoryBacking::Anonymous => (false, None),
        MemoryBacking::Shared => (true, None),
        MemoryBacking::HugePages { page_bytes, shared } => (shared, Some(page_bytes)),
    };
    MemoryConfig {
        size: *bytes,
        mergeable: *mergeable,
        shared,
        hugepages: hugepage_size.is_some(),
        hugepage_size,
        prefault: *prefault,
        thp: *transparent_hugepages,
    }
}
