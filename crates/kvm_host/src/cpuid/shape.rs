//! What is the same for every vendor: identity, hypervisor leaves, timers, overrides.

use super::{CpuidEntry, CpuidOverride, CpuidRegister, CpuidTable, Vendor, amd, intel};
use crate::apic_id::Topology;

/// First leaf of the range that hypervisors own.
const HYPERVISOR: u32 = 0x4000_0000;
/// KVM's features in EAX and hints in EDX.
const KVM_FEATURES: u32 = 0x4000_0001;
/// Frequencies in kHz: TSC in EAX, local APIC timer in EBX. A convention of several hypervisors.
const TIMING: u32 = 0x4000_0010;
/// Frequency of the local APIC timer that KVM emulates, 1 GHz.
pub(super) const APIC_TIMER_KHZ: u32 = 1_000_000;
/// KVM_HINTS_REALTIME: vCPUs are never preempted for long.
const HINT_REALTIME: u32 = 1;

/// What one vCPU's CPUID is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuidSpec {
    /// The vCPU's number, from 0, below the topology's count.
    pub index: u32,
    /// The whole machine's arrangement.
    pub topology: Topology,
    /// Frequency of the guest's TSC in kHz, where known: spares the guest's calibration.
    pub tsc_khz: Option<u32>,
    /// The kernel emulates the TSC deadline mode of the local APIC timer.
    pub tsc_deadline_timer: bool,
    /// Each vCPU has a host processor to itself: the guest may spin rather than yield (KVM_HINTS_REALTIME).
    pub dedicated: bool,
    /// The guest may run guests of its own.
    pub nested: bool,
    /// Feature bits that the operator switches off.
    pub overrides: Vec<CpuidOverride>,
}

impl CpuidTable {
    /// Makes of a table that KVM supports the one of a vCPU.
    #[must_use]
    pub fn shape(mut self, spec: &CpuidSpec) -> Self {
        identity(&mut self, spec);
        hypervisor(&mut self, spec);
        if !spec.nested {
            no_nesting(&mut self);
        }
        match self.vendor() {
            Vendor::Intel => intel::shape(&mut self, spec),
            Vendor::Amd => amd::shape(&mut self, spec),
        }
        for change in &spec.overrides {
            apply(&mut self, change);
        }
        self
    }
}

/// Leaf 1: initial APIC id, logical processors, and the features of the emulated interrupt controllers.
fn identity(table: &mut CpuidTable, spec: &CpuidSpec) {
    const X2APIC: u32 = 1 << 21;
    const TSC_DEADLINE: u32 = 1 << 24;
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    const HTT: u32 = 1 << 28;
    let id = spec.topology.apic_id(spec.index);
    let several = spec.topology.vcpus_per_socket() > 1;
    // Eight bits each: the id's low byte, and how many ids a package reserves.
    let reserved = (1u32 << spec.topology.package_shift()).min(255);
    table.edit(1, 0, |entry| {
        entry.ebx = (id & 0xff) << 24 | if several { reserved << 16 } else { 1 << 16 } | entry.ebx & 0xffff;
        entry.ecx |= X2APIC | HYPERVISOR_PRESENT;
        set(&mut entry.ecx, TSC_DEADLINE, spec.tsc_deadline_timer);
        set(&mut entry.edx, HTT, several);
    });
}

/// Leaves 4000_0000h and up: KVM's signature as the kernel gives it, hints, frequencies.
fn hypervisor(table: &mut CpuidTable, spec: &CpuidSpec) {
    table.edit(KVM_FEATURES, 0, |entry| set(&mut entry.edx, HINT_REALTIME, spec.dedicated));
    let Some(tsc_khz) = spec.tsc_khz else { return };
    if table.get(HYPERVISOR, 0).is_none() {
        return;
    }
    table.edit(HYPERVISOR, 0, |entry| entry.eax = entry.eax.max(TIMING));
    table.put(CpuidEntry { leaf: TIMING, eax: tsc_khz, ebx: APIC_TIMER_KHZ, ..CpuidEntry::default() });
}

/// Hides VT-x (leaf 1) and AMD-V (leaf 8000_0001h and its details in 8000_000Ah).
fn no_nesting(table: &mut CpuidTable) {
    table.edit(1, 0, |entry| set(&mut entry.ecx, 1 << 5, false));
    table.edit(0x8000_0001, 0, |entry| set(&mut entry.ecx, 1 << 2, false));
    table.edit(0x8000_000a, 0, |entry| *entry = CpuidEntry { leaf: entry.leaf, ..CpuidEntry::default() });
}

fn apply(table: &mut CpuidTable, change: &CpuidOverride) {
    table.edit(change.leaf, change.subleaf, |entry| {
        let register = match change.register {
            CpuidRegister::Eax => &mut entry.eax,
            CpuidRegister::Ebx => &mut entry.ebx,
            CpuidRegister::Ecx => &mut entry.ecx,
            CpuidRegister::Edx => &mut entry.edx,
        };
        *register &= !change.clear;
    });
}

pub(super) fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

/// One level of leaves Bh, 1Fh and 8000_0026h: its type, how far to shift an APIC id to number the next level, and the
/// logical processors in it.
pub(super) struct Level {
    pub(super) kind: u32,
    pub(super) shift: u32,
    pub(super) processors: u32,
}

/// The subleaves of an extended topology leaf (Intel SDM volume 2, leaves Bh and 1Fh; AMD APM volume 3, Fn0000_000B and
/// Fn8000_0026, which has the same shape): the levels, then one of type 0 that ends the enumeration.
pub(super) fn topology_leaf(leaf: u32, apic_id: u32, levels: &[Level]) -> Vec<CpuidEntry> {
    let end = Level { kind: 0, shift: 0, processors: 0 };
    levels
        .iter()
        .chain([&end])
        .zip(0..)
        .map(|(level, subleaf)| CpuidEntry {
            leaf,
            subleaf,
            indexed: true,
            eax: level.shift,
            ebx: level.processors,
            ecx: level.kind << 8 | subleaf,
            edx: apic_id,
        })
        .collect()
}

/// Leaf Bh, the same for both vendors: threads, then cores up to the socket.
pub(super) fn leaf_b(spec: &CpuidSpec) -> Vec<CpuidEntry> {
    let topology = &spec.topology;
    topology_leaf(
        0xb,
        topology.apic_id(spec.index),
        &[
            Level { kind: 1, shift: topology.core_shift(), processors: topology.threads() },
            Level { kind: 2, shift: topology.package_shift(), processors: topology.vcpus_per_socket() },
        ],
    )
}

/// Rewrites how many APIC ids share a cache, in the layout that Intel's leaf 4 and AMD's leaf 8000_001Dh have in common:
/// EAX bits 4 to 0 type (0: no more caches), 7 to 5 level, 25 to 14 ids that share it, less one.
pub(super) fn cache_sharing(entry: &mut CpuidEntry, topology: &Topology) {
    if entry.eax & 0x1f == 0 {
        return;
    }
    let shift = if entry.eax >> 5 & 7 < 3 { topology.core_shift() } else { topology.die_shift() };
    entry.eax = entry.eax & !(0xfff << 14) | ((1 << shift) - 1) << 14;
}
