//! How the first vCPU starts: the registers that each boot protocol asks for.

use kvm_bindings::{kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};

/// Control register and EFER bits (Intel SDM volume 3, section 2.5; AMD APM volume 2, section 3.1).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS with nothing but the bit that is always set.
const RFLAGS: u64 = 2;

const MSR_MISC_ENABLE: u32 = 0x1a0;
/// Fast strings on; branch trace store and precise event sampling unavailable (Intel SDM volume 4, IA32_MISC_ENABLE).
const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, everything write-back (Intel SDM volume 3, section 12.11.2.1).
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// The descriptor table of the 64-bit Linux boot protocol: null, unused, flat 64-bit code at selector 10h, flat data at
/// 18h. The loader writes it to guest memory where [`BootState::Long::gdt`] says.
pub const BOOT_GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Where the first vCPU starts. Other vCPUs always wait for the guest to start them (INIT, SIPI).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootState {
    /// 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst): long mode, flat segments, interrupts off.
    Long {
        /// Entry point.
        rip: u64,
        /// Address of the boot parameters (zero page).
        rsi: u64,
        /// Stack pointer.
        rsp: u64,
        /// Page tables that map the kernel, the parameters and the command line to themselves (PML4).
        cr3: u64,
        /// Where [`BOOT_GDT`] lies.
        gdt: u64,
    },
    /// Xen's PVH entry (xen/include/public/arch-x86/hvm/start_info.h): 32-bit protected mode, flat, no paging.
    Pvh {
        /// Entry point.
        eip: u32,
        /// Address of the start info.
        start_info: u32,
    },
    /// The processor's reset vector, FFFF_FFF0h in real mode: firmware.
    Reset,
}

/// A flat code or data segment: 4 GiB from 0.
fn flat(selector: u16, type_: u8, long: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..kvm_segment::default()
    }
}

/// Code, readable, accessed; data, writable, accessed; busy 32/64-bit TSS (Intel SDM volume 3, section 3.4.5.1 and 3.5).
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const TSS: u8 = 0xb;

fn segments(sregs: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    sregs.cs = code;
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    sregs.tr = kvm_segment { limit: 0x67, type_: TSS, present: 1, ..kvm_segment::default() };
    sregs.idt = kvm_dtable::default();
}

impl BootState {
    /// General and special registers, starting from those after a reset; `None` where a reset is all.
    pub(crate) fn registers(&self, mut sregs: kvm_sregs) -> Option<(kvm_regs, kvm_sregs)> {
        match *self {
            Self::Long { rip, rsi, rsp, cr3, gdt } => {
                segments(&mut sregs, flat(0x10, CODE, 1), flat(0x18, DATA, 0));
                let limit = u16::try_from(size_of_val(&BOOT_GDT) - 1).expect("a small table");
                sregs.gdt = kvm_dtable { base: gdt, limit, ..kvm_dtable::default() };
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                sregs.cr3 = cr3;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
                Some((kvm_regs { rip, rsi, rsp, rbp: rsp, rflags: RFLAGS, ..kvm_regs::default() }, sregs))
            }
            Self::Pvh { eip, start_info } => {
                segments(&mut sregs, flat(0x8, CODE, 0), flat(0x10, DATA, 0));
                sregs.gdt = kvm_dtable::default();
                sregs.cr0 = CR0_PE | CR0_ET;
                sregs.cr4 = 0;
                sregs.efer = 0;
                let (rip, rbx) = (eip.into(), start_info.into());
                Some((kvm_regs { rip, rbx, rflags: RFLAGS, ..kvm_regs::default() }, sregs))
            }
            Self::Reset => None,
        }
    }

    /// Model specific registers that firmware would have set for a kernel; firmware itself finds them as after a reset.
    pub(crate) fn msrs(&self) -> &'static [kvm_msr_entry] {
        const FOR_KERNELS: [kvm_msr_entry; 2] = [
            kvm_msr_entry { index: MSR_MISC_ENABLE, reserved: 0, data: MISC_ENABLE },
            kvm_msr_entry { index: MSR_MTRR_DEF_TYPE, reserved: 0, data: MTRR_WRITE_BACK },
        ];
        match self {
            Self::Long { .. } | Self::Pvh { .. } => &FOR_KERNELS,
            Self::Reset => &[],
        }
    }
}
