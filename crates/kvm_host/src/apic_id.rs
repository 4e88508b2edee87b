//! Where each vCPU sits (socket, die, core, thread) and the APIC id that says so; used by CPUID and by the ACPI MADT.
//!
//! An APIC id is four bit fields, thread lowest, each as wide as its level needs: system software finds a level by
//! shifting (Intel SDM volume 3, section 10.9.1; AMD APM volume 3, Fn8000_001E and Fn8000_0026). With counts that are not
//! powers of two the ids have gaps.

/// The largest APIC id. 255 addresses all processors at once, and more needs interrupt remapping or a split
/// interrupt controller.
pub const MAX_APIC_ID: u32 = 254;

/// How the vCPUs of a machine are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    sockets: u16,
    dies: u16,
    cores: u16,
    threads: u16,
}

/// Why a topology can't be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// A level has no members.
    #[error(
        "a topology of {sockets} sockets, {dies} dies, {cores} cores and {threads} threads has a level without members"
    )]
    Empty {
        /// Sockets in the machine.
        sockets: u16,
        /// Dies in a socket.
        dies: u16,
        /// Cores in a die.
        cores: u16,
        /// Threads in a core.
        threads: u16,
    },
    /// The largest APIC id would be out of range.
    #[error(
        "the topology needs APIC ids up to {0}, the largest possible is {MAX_APIC_ID}: use fewer vCPUs, or counts of dies, cores and threads nearer to a power of two"
    )]
    TooLarge(u32),
}

/// Bits needed to number `count` members.
fn width(count: u16) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

impl Topology {
    /// `sockets` of `dies` each, of `cores` each, of `threads` each.
    pub fn new(sockets: u16, dies: u16, cores: u16, threads: u16) -> Result<Self, TopologyError> {
        if [sockets, dies, cores, threads].contains(&0) {
            return Err(TopologyError::Empty { sockets, dies, cores, threads });
        }
        let topology = Self { sockets, dies, cores, threads };
        let bits = width(sockets) + topology.package_shift();
        // The last vCPU has the largest id. Its number may not fit in 32 bits, the sum of widths tells before.
        if bits > 16 {
            return Err(TopologyError::TooLarge(
                u32::MAX.checked_shr(32u32.saturating_sub(bits)).unwrap_or(u32::MAX),
            ));
        }
        let largest = topology.apic_id(topology.vcpus() - 1);
        if largest > MAX_APIC_ID {
            return Err(TopologyError::TooLarge(largest));
        }
        Ok(topology)
    }

    /// One socket with `vcpus` cores of one thread each: what is assumed when nothing is said.
    pub fn flat(vcpus: u16) -> Result<Self, TopologyError> {
        Self::new(1, 1, vcpus, 1)
    }

    /// Number of vCPUs in all.
    pub fn vcpus(&self) -> u32 {
        u32::from(self.sockets) * self.vcpus_per_socket()
    }

    /// Sockets in the machine.
    pub fn sockets(&self) -> u32 {
        self.sockets.into()
    }

    /// Dies in a socket.
    pub fn dies(&self) -> u32 {
        self.dies.into()
    }

    /// Cores in a die.
    pub fn cores(&self) -> u32 {
        self.cores.into()
    }

    /// Threads in a core.
    pub fn threads(&self) -> u32 {
        self.threads.into()
    }

    /// vCPUs in a die.
    pub fn vcpus_per_die(&self) -> u32 {
        u32::from(self.cores) * u32::from(self.threads)
    }

    /// vCPUs in a socket.
    pub fn vcpus_per_socket(&self) -> u32 {
        u32::from(self.dies) * self.vcpus_per_die()
    }

    /// How far to shift an APIC id to number cores.
    pub fn core_shift(&self) -> u32 {
        width(self.threads)
    }

    /// How far to shift an APIC id to number dies.
    pub fn die_shift(&self) -> u32 {
        self.core_shift() + width(self.cores)
    }

    /// How far to shift an APIC id to number sockets.
    pub fn package_shift(&self) -> u32 {
        self.die_shift() + width(self.dies)
    }

    /// The (x2)APIC id of the vCPU numbered `index` from 0: threads of a core are neighbours, then cores, then dies.
    pub fn apic_id(&self, index: u32) -> u32 {
        let thread = index % self.threads();
        let core = index / self.threads() % self.cores();
        let die = index / self.vcpus_per_die() % self.dies();
        let socket = index / self.vcpus_per_socket();
        socket << self.package_shift() | die << self.die_shift() | core << self.core_shift() | thread
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flat_machine_numbers_its_vcpus_from_zero() {
        let topology = Topology::flat(5).unwrap();
        assert_eq!((0..5).map(|index| topology.apic_id(index)).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn counts_that_are_no_power_of_two_leave_gaps() {
        let topology = Topology::new(2, 1, 3, 2).unwrap();
        let ids: Vec<_> = (0..12).map(|index| topology.apic_id(index)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    }

    #[test]
    fn dies_have_bits_between_cores_and_sockets() {
        let topology = Topology::new(2, 2, 2, 1).unwrap();
        let ids: Vec<_> = (0..8).map(|index| topology.apic_id(index)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((topology.core_shift(), topology.die_shift(), topology.package_shift()), (0, 1, 2));
    }

    #[test]
    fn the_largest_machine_has_255_vcpus() {
        assert_eq!(Topology::flat(255).unwrap().apic_id(254), 254);
        assert_eq!(Topology::flat(256), Err(TopologyError::TooLarge(255)));
        assert!(matches!(Topology::new(16, 1, 9, 2), Err(TopologyError::TooLarge(497))));
        assert!(matches!(
            Topology::new(u16::MAX, u16::MAX, u16::MAX, u16::MAX),
            Err(TopologyError::TooLarge(_))
        ));
        assert!(matches!(Topology::new(1, 0, 1, 1), Err(TopologyError::Empty { .. })));
    }

    proptest! {
        #[test]
        fn ids_are_unique_and_the_shifts_find_every_level(
            sockets in 1u16..5, dies in 1u16..4, cores in 1u16..9, threads in 1u16..3,
        ) {
            let Ok(topology) = Topology::new(sockets, dies, cores, threads) else { return Ok(()) };
            let mut last = None;
            for index in 0..topology.vcpus() {
                let id = topology.apic_id(index);
                prop_assert!(last.is_none_or(|last| id > last), "ids rise with the index");
                last = Some(id);
                prop_assert_eq!(id >> topology.package_shift(), index / topology.vcpus_per_socket());
                let within = id & ((1 << topology.package_shift()) - 1);
                prop_assert_eq!(within >> topology.die_shift(), index / topology.vcpus_per_die() % topology.dies());
            }
        }
    }
}
