//! The only owner of KVM: the host's capabilities, one virtual machine, its vCPUs, memory slots, interrupts and CPUID.
//!
//! Nothing of kvm-ioctls or kvm-bindings appears in a public signature. [`Kvm`] is the open device, [`Vm`] one virtual
//! machine (shared by `Arc`), [`Vcpu`] one virtual processor (moved to the thread that runs it), [`Kick`] the right to
//! call that thread out of the guest. [`Vm`] implements the seams of `platform`: interrupt lines, message signalled
//! interrupts and doorbells.
//!
//! Trust: the kernel is trusted. Everything a guest chooses (addresses of doorbells, interrupt messages, registers) is
//! passed to the kernel, which checks it; a refusal is a value. Numbers that bound what a guest can make the host keep
//! are constants here and say so.
//!
//! Threads: none of its own. A [`Vcpu`] is used by one thread at a time; everything else is shared freely.
//!
//! Source: Documentation/virt/kvm/api.rst and Documentation/virt/kvm/x86 of the Linux kernel ("the KVM API" below).

pub mod apic_id;
mod boot_state;
pub mod cpuid;
mod exit;
mod host;
mod interrupt;
mod kick;
mod memory;
mod registers;
mod vcpu;
mod vm;

pub use apic_id::{Topology, TopologyError};
pub use boot_state::{BOOT_GDT, BootState};
pub use cpuid::{CpuidEntry, CpuidOverride, CpuidRegister, CpuidSpec, CpuidTable, Vendor};
pub use exit::{Exit, SystemEvent};
pub use host::{Kvm, KvmError, KvmFlavour};
pub use interrupt::{GsiLine, MsiFunction};
pub use kick::Kick;
pub use memory::{MemorySlot, SlotAccess};
pub use registers::Registers;
pub use vcpu::{Vcpu, VcpuSpec};
pub use vm::{IDENTITY_MAP_ADDRESS, LegacyTimer, TSS_ADDRESS, Vm, VmSpec};
