//! The floor of start-up time: nothing but the KVM calls without which there is no guest.
//!
//! `start-floor [MIB]`: opens KVM, builds a machine with that much memory (256 MiB), the interrupt controllers and one vCPU
//! with the host's CPUID, runs the guest until its first port write, repeats that byte on standard output, exits. With a
//! second argument it prints how long each step took, in microseconds, on standard error.
//!
//! It speaks to the kernel directly, unlike the product, because it is the yardstick: Rust's own start-up, error
//! texts and allocations are left out. Nothing is trusted or checked but the results of the calls.
#![no_main]
#![expect(unsafe_code, reason = "bare system calls are the point of this program")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use bench::tiny_kernel::{ENTRY, GREETING};
use kvm_bindings::{
    kvm_cpuid_entry2, kvm_regs, kvm_run, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};

const KVM_GET_API_VERSION: u64 = 0xae00;
const KVM_CREATE_VM: u64 = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE: u64 = 0xae04;
const KVM_GET_SUPPORTED_CPUID: u64 = 0xc008_ae05;
const KVM_CREATE_VCPU: u64 = 0xae41;
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
const KVM_CREATE_IRQCHIP: u64 = 0xae60;
const KVM_RUN: u64 = 0xae80;
const KVM_SET_REGS: u64 = 0x4090_ae82;
const KVM_GET_SREGS: u64 = 0x8138_ae83;
const KVM_SET_SREGS: u64 = 0x4138_ae84;
const KVM_SET_CPUID2: u64 = 0x4008_ae90;

/// mov dx, 3f8h; mov al, GREETING; out dx, al
const CODE: [u8; 7] = [0x66, 0xba, 0xf8, 0x03, 0xb0, GREETING, 0xee];

#[repr(C)]
struct Cpuid {
    count: u32,
    padding: u32,
    entries: [kvm_cpuid_entry2; 256],
}

/// Step names and the time at the end of each.
struct Steps {
    ends: [(&'static CStr, u64); 16],
    count: usize,
}

impl Steps {
    fn end(&mut self, name: &'static CStr) {
        if let Some(end) = self.ends.get_mut(self.count) {
            *end = (name, now());
            self.count += 1;
        }
    }

    fn print(&self) {
        for pair in self.ends[..self.count].windows(2) {
            let (name, spent) = (pair[1].0, pair[1].1 - pair[0].1);
            eprintln!("{:<28} {:>8.1}", name.to_string_lossy(), spent as f64 / 1000.0);
        }
    }
}

/// Nanoseconds of the monotonic clock.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec * 1_000_000_000 + time.tv_nsec).cast_unsigned()
}

/// Ends the program, naming the call that failed.
fn fail(call: &CStr) -> ! {
    // SAFETY: `call` ends in zero; exiting needs nothing.
    unsafe {
        libc::perror(call.as_ptr());
        libc::_exit(1)
    }
}

/// An ioctl whose result is not negative.
///
/// # Safety
///
/// `argument` is what `request` takes.
unsafe fn ask(fd: c_int, request: u64, argument: *const c_void, name: &CStr) -> c_int {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::ioctl(fd, request, argument) };
    if result < 0 {
        fail(name);
    }
    result
}

fn map(length: usize, flags: c_int, fd: c_int, name: &CStr) -> *mut u8 {
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
    let address = unsafe { libc::mmap(null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if address == libc::MAP_FAILED {
        fail(name);
    }
    address.cast()
}

/// Flat 32-bit protected mode without paging.
fn protected_mode(sregs: &mut kvm_sregs) {
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, db: 1, g: 1, ..kvm_segment::default() };
    sregs.cs = kvm_segment { selector: 8, type_: 0xb, ..flat };
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = kvm_segment { selector: 16, type_: 3, ..flat };
    }
    sregs.cr0 = 0x11;
}

// SAFETY: nothing else in the program is called main.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let mut steps = Steps { ends: [(c"", 0); 16], count: 0 };
    steps.end(c"start");
    // SAFETY: the C runtime passes argc strings.
    let mib = if argc > 1 { unsafe { libc::atol(*argv.add(1)) } } else { 256 };
    let Some(memory_size) =
        usize::try_from(mib).ok().filter(|mib| (2..=1 << 20).contains(mib)).map(|mib| mib << 20)
    else {
        fail(c"memory size");
    };
    run(memory_size, &mut steps);
    if argc > 2 {
        steps.print();
    }
    // SAFETY: exiting needs nothing; the kernel takes the machine down.
    unsafe { libc::_exit(0) }
}

/// Builds and runs the machine up to the greeting.
fn run(memory_size: usize, steps: &mut Steps) {
    // SAFETY: each request gets the argument that the KVM API names for it (a number, or a pointer to a local of the
    // structure), the memory given to the guest stays mapped until the process ends, and the code fits in it.
    unsafe {
        let kvm = libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if kvm < 0 {
            fail(c"/dev/kvm");
        }
        ask(kvm, KVM_GET_API_VERSION, null(), c"KVM_GET_API_VERSION");
        steps.end(c"open /dev/kvm");
        let vm = ask(kvm, KVM_CREATE_VM, null(), c"KVM_CREATE_VM");
        steps.end(c"KVM_CREATE_VM");
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let memory = map(memory_size, anonymous, -1, c"guest memory");
        memory.add(ENTRY as usize).copy_from_nonoverlapping(CODE.as_ptr(), CODE.len());
        steps.end(c"map memory, write code");
        let slot = kvm_userspace_memory_region {
            memory_size: memory_size as u64,
            userspace_addr: memory as u64,
            ..Default::default()
        };
        ask(vm, KVM_SET_USER_MEMORY_REGION, (&raw const slot).cast(), c"KVM_SET_USER_MEMORY_REGION");
        steps.end(c"KVM_SET_USER_MEMORY_REGION");
        ask(vm, KVM_CREATE_IRQCHIP, null(), c"KVM_CREATE_IRQCHIP");
        steps.end(c"KVM_CREATE_IRQCHIP");
        let vcpu = ask(vm, KVM_CREATE_VCPU, null(), c"KVM_CREATE_VCPU");
        let run_size = ask(kvm, KVM_GET_VCPU_MMAP_SIZE, null(), c"KVM_GET_VCPU_MMAP_SIZE");
        let area = map(run_size as usize, libc::MAP_SHARED, vcpu, c"run area").cast::<kvm_run>();
        steps.end(c"KVM_CREATE_VCPU");
        let mut cpuid = Cpuid { count: 256, padding: 0, entries: [kvm_cpuid_entry2::default(); 256] };
        ask(kvm, KVM_GET_SUPPORTED_CPUID, (&raw mut cpuid).cast(), c"KVM_GET_SUPPORTED_CPUID");
        steps.end(c"KVM_GET_SUPPORTED_CPUID");
        ask(vcpu, KVM_SET_CPUID2, (&raw const cpuid).cast(), c"KVM_SET_CPUID2");
        steps.end(c"KVM_SET_CPUID2");
        let mut sregs = kvm_sregs::default();
        ask(vcpu, KVM_GET_SREGS, (&raw mut sregs).cast(), c"KVM_GET_SREGS");
        protected_mode(&mut sregs);
        ask(vcpu, KVM_SET_SREGS, (&raw const sregs).cast(), c"KVM_SET_SREGS");
        let regs = kvm_regs { rip: ENTRY.into(), rflags: 2, ..kvm_regs::default() };
        ask(vcpu, KVM_SET_REGS, (&raw const regs).cast(), c"KVM_SET_REGS");
        steps.end(c"registers");
        ask(vcpu, KVM_RUN, null(), c"KVM_RUN");
        if (*area).exit_reason != kvm_bindings::KVM_EXIT_IO {
            fail(c"unexpected exit");
        }
        let Ok(offset) = usize::try_from((*area).__bindgen_anon_1.io.data_offset) else {
            fail(c"data offset")
        };
        let data = area.cast::<u8>().add(offset);
        if libc::write(1, data.cast(), 1) != 1 {
            fail(c"standard output");
        }
        steps.end(c"KVM_RUN, write");
    }
}
