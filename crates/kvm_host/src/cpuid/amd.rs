//! AMD's leaves: size of the socket (8000_0008h), caches (8000_001Dh), identifiers (8000_001Eh), extended topology (Bh and
//! 8000_0026h).

use super::shape::{Level, cache_sharing, leaf_b, set, topology_leaf};
use super::{CpuidEntry, CpuidSpec, CpuidTable};

const EXTENDED: u32 = 0x8000_0000;
const TOPOLOGY: u32 = 0x8000_0026;
/// ECX of leaf 8000_0001h: several logical processors without hyper-threading, as AMD counted before threads.
const CMP_LEGACY: u32 = 1 << 1;

pub(super) fn shape(table: &mut CpuidTable, spec: &CpuidSpec) {
    let topology = &spec.topology;
    let several = topology.vcpus_per_socket() > 1;
    table.edit(0x8000_0001, 0, |entry| set(&mut entry.ecx, CMP_LEGACY, several));
    // Logical processors of the socket less one in bits 7 to 0, width of their ids in 15 to 12.
    table.edit(0x8000_0008, 0, |entry| {
        let last = (topology.vcpus_per_socket() - 1).min(0xff);
        entry.ecx = entry.ecx & !0xf0ff | topology.package_shift() << 12 | last;
    });
    table.edit_all(0x8000_001d, |entry| cache_sharing(entry, topology));
    identifiers(table, spec);
    if table.max_leaf(0) >= 0xb {
        table.put_subleaves(0xb, &leaf_b(spec));
    }
    if table.max_leaf(EXTENDED) >= TOPOLOGY {
        table.put_subleaves(TOPOLOGY, &levels(spec));
    }
}

/// Leaf 8000_001Eh: APIC id; core id and threads a core less one; node id and nodes a socket less one. A node is a die.
fn identifiers(table: &mut CpuidTable, spec: &CpuidSpec) {
    let topology = &spec.topology;
    let id = topology.apic_id(spec.index);
    let core = id >> topology.core_shift() & ((1 << (topology.package_shift() - topology.core_shift())) - 1);
    table.edit(0x8000_001e, 0, |entry| {
        entry.eax = id;
        entry.ebx = (topology.threads() - 1) << 8 | core & 0xff;
        entry.ecx = (topology.dies() - 1).min(7) << 8 | id >> topology.die_shift() & 0xff;
        entry.edx = 0;
    });
}

/// Leaf 8000_0026h: core (1), complex (2), die (3), socket (4). A die has one complex.
fn levels(spec: &CpuidSpec) -> Vec<CpuidEntry> {
    let topology = &spec.topology;
    let die = topology.vcpus_per_die();
    topology_leaf(
        TOPOLOGY,
        topology.apic_id(spec.index),
        &[
            Level { kind: 1, shift: topology.core_shift(), processors: topology.threads() },
            Level { kind: 2, shift: topology.die_shift(), processors: die },
            Level { kind: 3, shift: topology.die_shift(), processors: die },
            Level { kind: 4, shift: topology.package_shift(), processors: topology.vcpus_per_socket() },
        ],
    )
}
