//! A vCPU's registers as text, for the report of a guest that is lost.

use std::fmt;

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

/// Most bytes shown at the instruction pointer: the longest instruction.
pub(crate) const CODE_BYTES: usize = 15;

/// What a vCPU's registers held, shown as a block of lines.
#[derive(Debug, Clone)]
pub struct Registers {
    pub(crate) general: kvm_regs,
    pub(crate) special: kvm_sregs,
    /// What lies at the instruction pointer, as far as it can be read.
    pub(crate) code: Vec<u8>,
}

impl Registers {
    /// The instruction pointer (RIP).
    pub fn instruction_pointer(&self) -> u64 {
        self.general.rip
    }

    /// The general registers, RAX RBX RCX RDX RSI RDI RSP RBP R8 to R15.
    pub fn general(&self) -> [u64; 16] {
        let r = &self.general;
        [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ]
    }
}

fn segment(f: &mut fmt::Formatter<'_>, name: &str, s: &kvm_segment) -> fmt::Result {
    writeln!(
        f,
        "{name:<4}{:04x} base {:016x} limit {:08x} type {:x} dpl {} p {} s {} db {} l {} g {}",
        s.selector, s.base, s.limit, s.type_, s.dpl, s.present, s.s, s.db, s.l, s.g
    )
}

fn table(f: &mut fmt::Formatter<'_>, name: &str, t: &kvm_dtable) -> fmt::Result {
    writeln!(f, "{name:<4}base {:016x} limit {:04x}", t.base, t.limit)
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 16] = [
            "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13",
            "r14", "r15",
        ];
        let (r, s) = (&self.general, &self.special);
        writeln!(f, "rip {:016x} rflags {:08x}", r.rip, r.rflags)?;
        for (name, value) in NAMES.iter().zip(self.general()) {
            let last_in_line = matches!(*name, "rdx" | "rbp" | "r11" | "r15");
            write!(f, "{name:<3} {value:016x}{}", if last_in_line { "\n" } else { " " })?;
        }
        writeln!(
            f,
            "cr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x} cr8 {:x}",
            s.cr0, s.cr2, s.cr3, s.cr4, s.cr8
        )?;
        writeln!(f, "efer {:04x} apic base {:x}", s.efer, s.apic_base)?;
        for (name, value) in
            [("cs", &s.cs), ("ss", &s.ss), ("ds", &s.ds), ("es", &s.es), ("fs", &s.fs), ("gs", &s.gs)]
        {
            segment(f, name, value)?;
        }
        segment(f, "tr", &s.tr)?;
        segment(f, "ldt", &s.ldt)?;
        table(f, "gdt", &s.gdt)?;
        table(f, "idt", &s.idt)?;
        write!(f, "code")?;
        if self.code.is_empty() {
            write!(f, " not readable")?;
        }
        self.code.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}
