//! Intel's leaves: caches (4), extended topology (Bh and 1Fh), frequencies (15h and 16h).

use super::shape::{APIC_TIMER_KHZ, Level, cache_sharing, leaf_b, topology_leaf};
use super::{CpuidEntry, CpuidSpec, CpuidTable};

const TSC_RATIO: u32 = 0x15;
const FREQUENCIES: u32 = 0x16;
const TOPOLOGY_V2: u32 = 0x1f;

pub(super) fn shape(table: &mut CpuidTable, spec: &CpuidSpec) {
    let topology = &spec.topology;
    // Cores that a package has ids for, at most 64: six bits.
    let cores = 1u32 << (topology.package_shift() - topology.core_shift());
    table.edit_all(4, |entry| {
        cache_sharing(entry, topology);
        if entry.eax & 0x1f != 0 {
            entry.eax = entry.eax & !(0x3f << 26) | (cores - 1).min(63) << 26;
        }
    });
    if table.max_leaf(0) >= 0xb {
        table.put_subleaves(0xb, &leaf_b(spec));
    }
    if topology.dies() > 1 {
        table.edit(0, 0, |entry| entry.eax = entry.eax.max(TOPOLOGY_V2));
    }
    if table.max_leaf(0) >= TOPOLOGY_V2 {
        table.put_subleaves(TOPOLOGY_V2, &dies(spec));
    }
    if let Some(tsc_khz) = spec.tsc_khz {
        frequencies(table, tsc_khz);
    }
}

/// Leaf 1Fh: like Bh, with a level for dies (type 5) where there are several.
fn dies(spec: &CpuidSpec) -> Vec<CpuidEntry> {
    let topology = &spec.topology;
    let mut levels = vec![
        Level { kind: 1, shift: topology.core_shift(), processors: topology.threads() },
        Level { kind: 2, shift: topology.die_shift(), processors: topology.vcpus_per_die() },
    ];
    if topology.dies() > 1 {
        levels.push(Level {
            kind: 5,
            shift: topology.package_shift(),
            processors: topology.vcpus_per_socket(),
        });
    }
    topology_leaf(TOPOLOGY_V2, topology.apic_id(spec.index), &levels)
}

/// Leaf 15h: TSC = crystal (ECX, Hz) * EBX / EAX. The crystal also drives the local APIC timer, so it is the one that KVM
/// emulates. Leaf 16h: base and maximum frequency in MHz. Not on processors that have never had these leaves.
fn frequencies(table: &mut CpuidTable, tsc_khz: u32) {
    if table.max_leaf(0) >= TSC_RATIO {
        table.put(CpuidEntry {
            leaf: TSC_RATIO,
            eax: APIC_TIMER_KHZ,
            ebx: tsc_khz,
            ecx: APIC_TIMER_KHZ * 1000,
            ..CpuidEntry::default()
        });
    }
    if table.max_leaf(0) >= FREQUENCIES {
        let mhz = (tsc_khz / 1000).min(0xffff);
        table.put(CpuidEntry { leaf: FREQUENCIES, eax: mhz, ebx: mhz, ecx: 100, ..CpuidEntry::default() });
    }
}
