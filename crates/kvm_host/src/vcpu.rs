//! One virtual processor, used by one thread at a time.
//!
//! Created ready to run, as after a reset. What the kernel already sets as it should be is not set again, because start-up
//! time counts: floating point state, PAT, and the local APIC's LINT0 of the first vCPU (virtual wire: the 8259s) are so
//! after creation; kernels and firmware program the rest of the local APIC themselves. The unit tests hold the kernel to it.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{Msrs, kvm_run};
use kvm_ioctls::{Cap, VcpuFd};

use crate::apic_id::Topology;
use crate::boot_state::BootState;
use crate::cpuid::{CpuidOverride, CpuidSpec};
use crate::exit::{self, Exit};
use crate::host::{KvmError, refused};
use crate::kick::Kick;
use crate::registers::{CODE_BYTES, Registers};
use crate::vm::Vm;

/// What a vCPU is like, the same for all of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VcpuSpec {
    /// The whole machine's arrangement.
    pub topology: Topology,
    /// Each vCPU has a host processor to itself: the guest may spin rather than yield.
    pub dedicated: bool,
    /// The guest may run guests of its own.
    pub nested: bool,
    /// CPUID feature bits that the operator switches off.
    pub overrides: Vec<CpuidOverride>,
}

/// One virtual processor.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    /// Unmapped when `fd` is dropped.
    run: NonNull<kvm_run>,
    run_size: usize,
    kick: Kick,
    /// The thread that ran the vCPU last; 0 before the first run.
    thread: libc::pid_t,
    index: u32,
    vm: Arc<Vm>,
}

#[expect(unsafe_code, reason = "a pointer to the run area")]
// SAFETY: the run area is a mapping of the process, not of a thread; it is only reached through `&mut self`, but for the
// byte immediate_exit, which is atomic for everybody (kick.rs).
unsafe impl Send for Vcpu {}

impl Vcpu {
    /// Creates vCPU `index` (from 0, below the topology's count) of `vm`, as after a reset: the first one would start at
    /// the reset vector, the others wait for INIT and SIPI.
    pub fn create(vm: &Arc<Vm>, index: u32, spec: &VcpuSpec) -> Result<Self, KvmError> {
        if index >= spec.topology.vcpus() {
            let count = spec.topology.vcpus();
            return Err(KvmError::Impossible(format!("there is no vCPU {index} in a topology of {count}")));
        }
        let apic_id = spec.topology.apic_id(index);
        let mut fd = vm.fd.create_vcpu(apic_id.into()).map_err(refused(format!("creating vCPU {index}")))?;
        let kvm = vm.kvm();
        let cpuid = CpuidSpec {
            index,
            topology: spec.topology,
            tsc_khz: kvm.has(Cap::GetTscKhz).then(|| fd.get_tsc_khz().ok()).flatten(),
            tsc_deadline_timer: kvm.has(Cap::TscDeadlineTimer),
            dedicated: spec.dedicated,
            nested: spec.nested,
            overrides: spec.overrides.clone(),
        };
        let table = kvm.supported_cpuid()?.clone().shape(&cpuid);
        let entries =
            table.to_kvm().ok_or_else(|| KvmError::Impossible("CPUID has more than 256 entries".into()))?;
        fd.set_cpuid2(&entries).map_err(refused(format!("setting CPUID of vCPU {index}")))?;
        let run = NonNull::from(fd.get_kvm_run());
        let kick = Kick::new(immediate_exit(run));
        Ok(Self { fd, run, run_size: vm.fd.run_size(), kick, thread: 0, index, vm: Arc::clone(vm) })
    }

    /// The vCPU's number, from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sets where the vCPU starts. For the first vCPU, before it runs.
    pub fn set_boot_state(&mut self, state: &BootState) -> Result<(), KvmError> {
        let what = |what: &str| format!("setting {what} of vCPU {}", self.index);
        let sregs = self.fd.get_sregs().map_err(refused(what("special registers")))?;
        let Some((regs, sregs)) = state.registers(sregs) else { return Ok(()) };
        self.fd.set_sregs(&sregs).map_err(refused(what("special registers")))?;
        self.fd.set_regs(&regs).map_err(refused(what("registers")))?;
        self.set_boot_msrs(state)
    }

    /// Sets the model specific registers that kernels expect from firmware. For all vCPUs but the first, whose boot
    /// state includes them.
    pub fn set_boot_msrs(&mut self, state: &BootState) -> Result<(), KvmError> {
        let entries = state.msrs();
        if entries.is_empty() {
            return Ok(());
        }
        let what = || format!("setting model specific registers of vCPU {}", self.index);
        let msrs = Msrs::from_entries(entries).expect("a short list");
        let set = self.fd.set_msrs(&msrs).map_err(refused(what()))?;
        match entries.get(set) {
            None => Ok(()),
            Some(entry) => Err(KvmError::Impossible(format!("{}: KVM refused {:#x}", what(), entry.index))),
        }
    }

    /// A handle that calls the vCPU out of the guest from any thread.
    pub fn kick(&self) -> Kick {
        self.kick.clone()
    }

    /// Runs the guest until it needs this process. Whatever the last exit lent is completed first.
    pub fn run(&mut self) -> Result<Exit<'_>, KvmError> {
        self.kick.follow(&mut self.thread)?;
        loop {
            match self.enter() {
                Ok(()) => return Ok(self.decode()),
                Err(libc::EINTR) => {
                    self.clear_immediate_exit();
                    return Ok(Exit::Interrupted);
                }
                // A vCPU that waited for INIT or SIPI got it: enter it now.
                Err(libc::EAGAIN) => {}
                Err(code) => {
                    let error = std::io::Error::from_raw_os_error(code);
                    return Err(refused(format!("running vCPU {}", self.index))(error));
                }
            }
        }
    }

    /// KVM_RUN, or the error's number.
    #[expect(unsafe_code, reason = "a system call: the exit is decoded here, from the whole of the run area")]
    fn enter(&mut self) -> Result<(), i32> {
        const KVM_RUN: libc::Ioctl = 0xae80;
        // SAFETY: KVM_RUN takes no argument. It writes the run area, to which no reference is alive now, and guest memory,
        // which is nobody's `&[u8]`.
        let code = unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_RUN, 0) };
        if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    }

    #[expect(unsafe_code, reason = "the run area is shared with the kernel")]
    fn decode(&mut self) -> Exit<'_> {
        // SAFETY: the area is mapped as long as `fd`, KVM_RUN has just succeeded, and the exit borrows `self` mutably, so that
        // nothing runs or decodes the vCPU while it is alive.
        unsafe { exit::decode(self.run.as_ptr(), self.run_size) }
    }

    #[expect(unsafe_code, reason = "the run area is shared with the kernel")]
    fn clear_immediate_exit(&mut self) {
        // SAFETY: the area is mapped as long as `fd`; the byte is atomic for everybody.
        unsafe { immediate_exit(self.run).as_ref() }.store(0, Ordering::SeqCst);
    }

    /// Injects a non-maskable interrupt. On the vCPU's own thread, between runs: elsewhere the kernel would wait.
    pub fn inject_nmi(&mut self) -> Result<(), KvmError> {
        self.fd.nmi().map_err(refused(format!("injecting an NMI into vCPU {}", self.index)))
    }

    /// Tells the guest that it was paused, so that its watchdogs don't take the pause for a hang. Refused, and
    /// of no importance, for a guest that has not set up kvmclock.
    pub fn notify_paused(&mut self) -> Result<(), KvmError> {
        self.fd.kvmclock_ctrl().map_err(refused(format!("telling vCPU {} of its pause", self.index)))
    }

    /// The registers and what the instruction pointer points to, for a report.
    pub fn registers(&self) -> Result<Registers, KvmError> {
        let what = || format!("reading registers of vCPU {}", self.index);
        let general = self.fd.get_regs().map_err(refused(what()))?;
        let special = self.fd.get_sregs().map_err(refused(what()))?;
        let linear = general.rip.wrapping_add(special.cs.base);
        Ok(Registers { general, special, code: self.read_code(linear) })
    }

    /// Up to 15 bytes at a linear address; fewer, or none, where a page is not mapped.
    fn read_code(&self, linear: u64) -> Vec<u8> {
        const PAGE: u64 = 4096;
        let mut code = Vec::with_capacity(CODE_BYTES);
        while code.len() < CODE_BYTES {
            let at = linear.wrapping_add(code.len() as u64);
            let Ok(translation) = self.fd.translate_gva(at) else { break };
            if translation.valid == 0 {
                break;
            }
            let in_page = usize::try_from(PAGE - at % PAGE).unwrap_or(1);
            let mut bytes = [0; CODE_BYTES];
            let wanted = in_page.min(CODE_BYTES - code.len());
            let got = self.vm.slots.lock().read(translation.physical_address, &mut bytes[..wanted]);
            code.extend_from_slice(&bytes[..got]);
            if got < wanted {
                break;
            }
        }
        code
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // Before `fd` unmaps the run area.
        self.kick.retire();
    }
}

/// The byte of the run area that makes KVM_RUN return at once, as the atomic that it is for everybody.
#[expect(unsafe_code, reason = "a field of a structure behind a pointer")]
fn immediate_exit(run: NonNull<kvm_run>) -> NonNull<AtomicU8> {
    // SAFETY: `run` points to a whole kvm_run, so the field's address is in the same mapping; no reference is made.
    unsafe { NonNull::new_unchecked(&raw mut (*run.as_ptr()).immediate_exit) }.cast()
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, kvm_msr_entry};

    use super::*;
    use crate::host::Kvm;
    use crate::vm::VmSpec;

    fn vcpus() -> Option<(Vcpu, Vcpu)> {
        let kvm = match Kvm::open(std::path::Path::new("/dev/kvm")) {
            Ok(kvm) => Arc::new(kvm),
            Err(error) => {
                eprintln!("skipped: {error}");
                return None;
            }
        };
        let vm = Vm::build(&kvm, VmSpec::default()).unwrap();
        let topology = Topology::new(1, 1, 2, 1).unwrap();
        let spec = VcpuSpec { topology, dedicated: false, nested: false, overrides: Vec::new() };
        Some((Vcpu::create(&vm, 0, &spec).unwrap(), Vcpu::create(&vm, 1, &spec).unwrap()))
    }

    fn msr(vcpu: &Vcpu, index: u32) -> u64 {
        let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).unwrap();
        assert_eq!(vcpu.fd.get_msrs(&mut msrs).unwrap(), 1, "{index:#x}");
        msrs.as_slice()[0].data
    }

    #[test]
    fn the_kernel_initialises_what_is_not_set_here() {
        let Some((first, second)) = vcpus() else { return };
        for vcpu in [&first, &second] {
            // In the layout of FXSAVE: the control word at 0, MXCSR at 24.
            let state = vcpu.fd.get_xsave().unwrap().region;
            assert_eq!((state[0] & 0xffff, state[6]), (0x37f, 0x1f80));
            assert_eq!(msr(vcpu, 0x277), 0x0007_0406_0007_0406, "page attribute table");
        }
        // LVT LINT0, offset 350h: delivery mode ExtINT, not masked.
        let lapic = first.fd.get_lapic().unwrap();
        assert_eq!(lapic.regs[0x350..0x354].iter().map(|byte| *byte as u8).collect::<Vec<_>>(), [0, 7, 0, 0]);
        assert_eq!(first.fd.get_mp_state().unwrap().mp_state, KVM_MP_STATE_RUNNABLE);
        assert_eq!(second.fd.get_mp_state().unwrap().mp_state, KVM_MP_STATE_UNINITIALIZED);
        assert_ne!(first.fd.get_sregs().unwrap().apic_base & 1 << 8, 0, "bootstrap processor");
        assert_eq!(second.fd.get_sregs().unwrap().apic_base & 1 << 8, 0);
    }

    #[test]
    fn a_boot_state_is_what_the_kernel_has_afterwards() {
        let Some((mut first, mut second)) = vcpus() else { return };
        let state = BootState::Long { rip: 0x10_0200, rsi: 0x7000, rsp: 0x8ff0, cr3: 0x9000, gdt: 0x500 };
        first.set_boot_state(&state).unwrap();
        let (regs, sregs) = (first.fd.get_regs().unwrap(), first.fd.get_sregs().unwrap());
        assert_eq!((regs.rip, regs.rsi, regs.rsp, regs.rflags), (0x10_0200, 0x7000, 0x8ff0, 2));
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x8000_0011, 0x9000, 0x20, 0x500));
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db, sregs.ds.selector), (0x10, 1, 0, 0x18));
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x500, 31));
        second.set_boot_msrs(&state).unwrap();
        for vcpu in [&first, &second] {
            assert_eq!(msr(vcpu, 0x2ff), 0x806);
            assert_eq!(msr(vcpu, 0x1a0) & 1, 1);
        }
    }

    #[test]
    fn a_vcpu_after_creation_is_at_the_reset_vector() {
        let Some((mut first, _)) = vcpus() else { return };
        first.set_boot_state(&BootState::Reset).unwrap();
        let (regs, sregs) = (first.fd.get_regs().unwrap(), first.fd.get_sregs().unwrap());
        assert_eq!(
            (regs.rip, sregs.cs.base, sregs.cs.selector, sregs.cr0 & 1),
            (0xfff0, 0xffff_0000, 0xf000, 0)
        );
    }

    #[test]
    fn the_kernel_takes_the_shaped_cpuid() {
        let Some((_, second)) = vcpus() else { return };
        let cpuid = second.fd.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES).unwrap();
        let table = crate::cpuid::CpuidTable::from_kvm(cpuid.as_slice());
        assert_eq!(table.get(1, 0).unwrap().ebx >> 24, 1);
        assert_eq!(table.get(0xb, 1).unwrap().edx, 1);
        assert_eq!(table.get(0x4000_0000, 0).unwrap().ebx, u32::from_le_bytes(*b"KVMK"));
    }

    #[test]
    fn a_vcpu_outside_the_topology_is_refused() {
        let Some((first, _)) = vcpus() else { return };
        let topology = Topology::flat(1).unwrap();
        let spec = VcpuSpec { topology, dedicated: false, nested: false, overrides: Vec::new() };
        assert!(matches!(Vcpu::create(&first.vm, 1, &spec), Err(KvmError::Impossible(_))));
    }
}
