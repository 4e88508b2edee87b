//! Tiny guests on the host's KVM. Without one, the tests say that they are skipped.
//!
//! The machine of these guests: 64 KiB of memory at 0, one vCPU in 32-bit protected mode without paging at 1000h.

mod exits;
mod interrupts;
mod kicks;

use std::path::Path;
use std::sync::Arc;

use kvm_host::{BootState, Kvm, MemorySlot, SlotAccess, Topology, Vcpu, VcpuSpec, Vm, VmSpec};
use vm_memory::mmap::GuestRegionMmap;
use vm_memory::{Bytes, GuestAddress, MemoryRegionAddress};

/// Where guests start.
pub(crate) const ENTRY: u32 = 0x1000;

/// The host's KVM, or `None` with a word on why the test is skipped.
pub(crate) fn kvm() -> Option<Arc<Kvm>> {
    match Kvm::open(Path::new("/dev/kvm")) {
        Ok(kvm) => Some(Arc::new(kvm)),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Memory of `size` bytes at `base`.
pub(crate) fn region(base: u64, size: usize) -> GuestRegionMmap {
    GuestRegionMmap::from_range(GuestAddress(base), size, None).expect("mapping guest memory")
}

/// What every vCPU of these tests is.
pub(crate) fn plain(vcpus: u16) -> VcpuSpec {
    VcpuSpec {
        topology: Topology::flat(vcpus).expect("a small machine"),
        dedicated: false,
        nested: false,
        overrides: Vec::new(),
    }
}

/// A machine whose guest is ready to run.
pub(crate) struct Guest {
    pub(crate) vm: Arc<Vm>,
    pub(crate) vcpu: Vcpu,
    pub(crate) memory: GuestRegionMmap,
}

impl Guest {
    /// A machine whose guest is `code`; `None` if there is no KVM.
    pub(crate) fn new(code: &[u8]) -> Option<Self> {
        Self::with(code, Vec::new())
    }

    /// The same with more memory slots.
    pub(crate) fn with(code: &[u8], mut slots: Vec<MemorySlot>) -> Option<Self> {
        let kvm = kvm()?;
        let memory = region(0, 0x1_0000);
        memory.write_slice(code, MemoryRegionAddress(ENTRY.into())).expect("small code");
        slots.push(MemorySlot::new(0, &memory, SlotAccess::ReadWrite));
        let vm = Vm::build(&kvm, VmSpec { memory: slots, ..VmSpec::default() }).expect("building a machine");
        let mut vcpu = Vcpu::create(&vm, 0, &plain(1)).expect("creating a vCPU");
        vcpu.set_boot_state(&BootState::Pvh { eip: ENTRY, start_info: 0x2000 }).expect("boot state");
        Some(Self { vm, vcpu, memory })
    }
}
