//! The guest's CPUID for samples of an Intel and an AMD host, read back the way that system software reads it.

use proptest::prelude::*;

use super::{CpuidEntry, CpuidOverride, CpuidRegister, CpuidSpec, CpuidTable, Vendor};
use crate::apic_id::Topology;

fn entry(leaf: u32, subleaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidEntry {
    let indexed = matches!(leaf, 4 | 0xb | 0x1f | 0x8000_001d | 0x8000_0026);
    CpuidEntry { leaf, subleaf, indexed, eax, ebx, ecx, edx }
}

fn hypervisor() -> [CpuidEntry; 2] {
    [
        entry(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        entry(0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
    ]
}

/// A server with 32 cores of two threads, as KVM describes it on that host.
fn intel() -> CpuidTable {
    let mut entries = vec![
        entry(0, 0, [0x1b, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        entry(1, 0, [0x606a6, 0x2540_0800, 0xfffa_b22b, 0x1f8b_fbff]),
        entry(4, 0, [0xfc00_4121, 0x02c0_003f, 0x3f, 0]),
        entry(4, 1, [0xfc00_4122, 0x01c0_003f, 0x3f, 0]),
        entry(4, 2, [0xfc00_4143, 0x04c0_003f, 0x3ff, 0]),
        entry(4, 3, [0xfc0f_c163, 0x02c0_003f, 0xffff, 4]),
        entry(4, 4, [0, 0, 0, 0]),
        entry(0xb, 0, [1, 2, 0x100, 0x25]),
        entry(0xb, 1, [7, 64, 0x201, 0x25]),
        entry(0x15, 0, [0, 0, 0, 0]),
        entry(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
        entry(0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800]),
        entry(0x8000_0008, 0, [0x3039, 0, 0, 0]),
    ];
    entries.extend(hypervisor());
    CpuidTable::new(entries)
}

/// A server with 64 cores of two threads.
fn amd() -> CpuidTable {
    let mut entries = vec![
        entry(0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        entry(1, 0, [0x00a1_0f11, 0x1380_0800, 0xfef8_3203, 0x178b_fbff]),
        entry(0xb, 0, [1, 2, 0x100, 0x13]),
        entry(0xb, 1, [7, 128, 0x201, 0x13]),
        entry(0x8000_0000, 0, [0x8000_0028, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        entry(0x8000_0001, 0, [0x00a1_0f11, 0x4000_0000, 0x0044_03f7, 0x2fd3_fbff]),
        entry(0x8000_0008, 0, [0x3030, 0x111e_f657, 0x707f, 0]),
        entry(0x8000_000a, 0, [1, 0x8000, 0, 0x119b_9cff]),
        entry(0x8000_001d, 0, [0x0000_4121, 0x01c0_003f, 0x3f, 0]),
        entry(0x8000_001d, 1, [0x0000_4122, 0x01c0_003f, 0x3f, 0]),
        entry(0x8000_001d, 2, [0x0000_4143, 0x01c0_003f, 0x7ff, 2]),
        entry(0x8000_001d, 3, [0x0003_c163, 0x03c0_003f, 0x7fff, 9]),
        entry(0x8000_001d, 4, [0, 0, 0, 0]),
        entry(0x8000_001e, 0, [0x13, 0x0109, 0, 0]),
    ];
    entries.extend(hypervisor());
    CpuidTable::new(entries)
}

fn spec(index: u32, topology: Topology) -> CpuidSpec {
    CpuidSpec {
        index,
        topology,
        tsc_khz: Some(2_596_137),
        tsc_deadline_timer: true,
        dedicated: false,
        nested: false,
        overrides: Vec::new(),
    }
}

fn topology(sockets: u16, dies: u16, cores: u16, threads: u16) -> Topology {
    Topology::new(sockets, dies, cores, threads).unwrap()
}

/// Reads an extended topology leaf as system software does: (type, shift, processors) of each level until type 0.
fn levels(table: &CpuidTable, leaf: u32) -> Vec<(u32, u32, u32)> {
    (0..)
        .map_while(|subleaf| table.get(leaf, subleaf))
        .map(|entry| (entry.ecx >> 8 & 0xff, entry.eax & 0x1f, entry.ebx & 0xffff))
        .take_while(|(kind, ..)| *kind != 0)
        .collect()
}

/// How many APIC ids share each cache, by the leaf that describes caches.
fn sharing(table: &CpuidTable, leaf: u32) -> Vec<u32> {
    (0..)
        .map_while(|subleaf| table.get(leaf, subleaf))
        .filter(|entry| entry.eax & 0x1f != 0)
        .map(|entry| (entry.eax >> 14 & 0xfff) + 1)
        .collect()
}

#[test]
fn vendors_are_told_by_their_names() {
    assert_eq!(intel().vendor(), Vendor::Intel);
    assert_eq!(amd().vendor(), Vendor::Amd);
}

#[test]
fn leaf_1_has_the_apic_id_and_what_kvm_emulates() {
    for host in [intel(), amd()] {
        let leaf = *host.shape(&spec(5, topology(1, 1, 3, 2))).get(1, 0).unwrap();
        assert_eq!(leaf.ebx >> 24, 5);
        assert_eq!(leaf.ebx >> 16 & 0xff, 8, "ids that the package reserves");
        assert_eq!(leaf.ebx & 0xffff, 0x800, "what is not topology stays");
        for (bit, name) in [(21, "x2APIC"), (24, "TSC deadline"), (31, "hypervisor")] {
            assert_ne!(leaf.ecx & 1 << bit, 0, "{name}");
        }
        assert_ne!(leaf.edx & 1 << 28, 0, "several logical processors");
    }
}

#[test]
fn a_single_vcpu_is_a_single_processor() {
    for host in [intel(), amd()] {
        let table = host.shape(&spec(0, topology(1, 1, 1, 1)));
        let leaf = table.get(1, 0).unwrap();
        assert_eq!((leaf.ebx >> 16, leaf.edx >> 28 & 1), (1, 0));
        assert_eq!(levels(&table, 0xb), [(1, 0, 1), (2, 0, 1)]);
    }
}

#[test]
fn a_timer_that_the_kernel_lacks_is_not_offered() {
    let without = CpuidSpec { tsc_deadline_timer: false, ..spec(0, topology(1, 1, 1, 1)) };
    assert_eq!(intel().shape(&without).get(1, 0).unwrap().ecx & 1 << 24, 0);
}

#[test]
fn intel_threads_cores_and_dies_are_where_they_belong() {
    let table = intel().shape(&spec(13, topology(2, 2, 3, 2)));
    // Socket 1, die 0, core 0, thread 1 with where the id has a bit for threads, two for cores, one for dies.
    let id = 0x11;
    assert_eq!(levels(&table, 0xb), [(1, 1, 2), (2, 4, 12)]);
    assert_eq!(levels(&table, 0x1f), [(1, 1, 2), (2, 3, 6), (5, 4, 12)]);
    assert_eq!(table.max_leaf(0), 0x1f, "raised, so that dies are seen");
    for leaf in [0xb, 0x1f] {
        for subleaf in 0..3 {
            assert_eq!(table.get(leaf, subleaf).unwrap().edx, id);
            assert_eq!(table.get(leaf, subleaf).unwrap().ecx & 0xff, subleaf);
        }
    }
    assert_eq!(sharing(&table, 4), [2, 2, 2, 8]);
    assert_eq!(table.get(4, 0).unwrap().eax >> 26, 7, "core ids of the package less one");
}

#[test]
fn intel_without_dies_keeps_its_largest_leaf() {
    let table = intel().shape(&spec(0, topology(1, 1, 4, 1)));
    assert_eq!(table.max_leaf(0), 0x1b);
    assert_eq!(table.get(0x1f, 0), None);
}

#[test]
fn intel_frequencies_multiply_out_to_the_tsc_and_the_apic_timer() {
    let table = intel().shape(&spec(0, topology(1, 1, 1, 1)));
    let ratio = table.get(0x15, 0).unwrap();
    assert_eq!(u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax), 2_596_137_000);
    assert_eq!(ratio.ecx, 1_000_000_000);
    assert_eq!(table.get(0x16, 0).unwrap().eax, 2596);
}

#[test]
fn amd_identifiers_and_sizes_are_the_guests() {
    let table = amd().shape(&spec(13, topology(2, 2, 3, 2)));
    let id = 0x11;
    let size = table.get(0x8000_0008, 0).unwrap();
    assert_eq!((size.ecx & 0xff, size.ecx >> 12 & 0xf), (11, 4));
    let who = table.get(0x8000_001e, 0).unwrap();
    assert_eq!(who.eax, id);
    assert_eq!((who.ebx >> 8 & 0xff, who.ebx & 0xff), (1, 0), "threads less one, core 0 of its socket");
    assert_eq!((who.ecx >> 8 & 7, who.ecx & 0xff), (1, 2), "two nodes a socket, node 2");
    assert_eq!(sharing(&table, 0x8000_001d), [2, 2, 2, 8]);
    assert_eq!(levels(&table, 0xb), [(1, 1, 2), (2, 4, 12)]);
    assert_eq!(levels(&table, 0x8000_0026), [(1, 1, 2), (2, 3, 6), (3, 3, 6), (4, 4, 12)]);
    assert_ne!(table.get(0x8000_0001, 0).unwrap().ecx & 2, 0, "CmpLegacy");
    assert_eq!(table.get(0x15, 0), None, "Intel's frequencies are not AMD's");
}

#[test]
fn frequencies_and_hints_are_in_the_hypervisors_leaves() {
    for host in [intel(), amd()] {
        let table = host.shape(&CpuidSpec { dedicated: true, ..spec(0, topology(1, 1, 1, 1)) });
        let base = table.get(0x4000_0000, 0).unwrap();
        assert_eq!(base.eax, 0x4000_0010);
        assert_eq!([base.ebx, base.ecx, base.edx].map(u32::to_le_bytes).as_flattened(), b"KVMKVMKVM\0\0\0");
        assert_eq!(table.get(0x4000_0001, 0).unwrap().eax, 0x0100_7efb, "as the kernel supports them");
        assert_eq!(table.get(0x4000_0001, 0).unwrap().edx & 1, 1);
        let timing = table.get(0x4000_0010, 0).unwrap();
        assert_eq!((timing.eax, timing.ebx), (2_596_137, 1_000_000));
    }
}

#[test]
fn nesting_is_hidden_unless_asked_for() {
    let one = topology(1, 1, 1, 1);
    let hidden = amd().shape(&spec(0, one));
    assert_eq!(hidden.get(0x8000_0001, 0).unwrap().ecx & 4, 0);
    assert_eq!(hidden.get(0x8000_000a, 0).unwrap().edx, 0);
    assert_eq!(intel().shape(&spec(0, one)).get(1, 0).unwrap().ecx & 1 << 5, 0);
    let shown = amd().shape(&CpuidSpec { nested: true, ..spec(0, one) });
    assert_ne!(shown.get(0x8000_0001, 0).unwrap().ecx & 4, 0);
    assert_ne!(intel().shape(&CpuidSpec { nested: true, ..spec(0, one) }).get(1, 0).unwrap().ecx & 1 << 5, 0);
}

#[test]
fn the_operators_overrides_come_last() {
    let off = CpuidOverride { leaf: 1, subleaf: 0, register: CpuidRegister::Ecx, clear: 1 << 21 | 1 << 26 };
    let table = intel().shape(&CpuidSpec { overrides: vec![off], ..spec(0, topology(1, 1, 1, 1)) });
    assert_eq!(table.get(1, 0).unwrap().ecx & (1 << 21 | 1 << 26), 0);
}

#[test]
fn shaping_twice_changes_nothing_more() {
    for host in [intel(), amd()] {
        let spec = spec(3, topology(2, 1, 3, 2));
        let once = host.shape(&spec);
        assert_eq!(once.clone().shape(&spec), once);
    }
}

proptest! {
    #[test]
    fn any_table_of_a_host_can_be_shaped(
        leaves in proptest::collection::vec((any::<u32>(), 0u32..4, any::<[u32; 4]>()), 0..40),
        low in proptest::collection::vec((0u32..0x20, 0u32..4, any::<[u32; 4]>()), 0..40),
        cores in 1u16..100, threads in 1u16..3,
    ) {
        let Ok(topology) = Topology::new(1, 1, cores, threads) else { return Ok(()) };
        let all = leaves.into_iter().chain(low).map(|(leaf, subleaf, registers)| entry(leaf, subleaf, registers));
        let table = CpuidTable::new(all.collect()).shape(&spec(0, topology));
        let keys: Vec<_> = table.entries().iter().map(|entry| (entry.leaf, entry.subleaf)).collect();
        prop_assert!(keys.is_sorted_by(|a, b| a < b), "ordered and unique");
    }

    #[test]
    fn software_finds_the_same_place_in_every_leaf(
        sockets in 1u16..4, dies in 1u16..3, cores in 1u16..6, threads in 1u16..3, pick in any::<u32>(),
    ) {
        let topology = topology(sockets, dies, cores, threads);
        let index = pick % topology.vcpus();
        for host in [intel(), amd()] {
            let table = host.shape(&spec(index, topology));
            let id = table.get(0xb, 0).unwrap().edx;
            prop_assert_eq!(table.get(1, 0).unwrap().ebx >> 24, id);
            prop_assert_eq!(id >> levels(&table, 0xb)[1].1, index / topology.vcpus_per_socket());
            prop_assert_eq!(id & ((1 << levels(&table, 0xb)[0].1) - 1), index % topology.threads());
        }
    }
}
