//! The smallest PVH kernel: it writes one byte to the first serial port and comes to the end that was asked for.
//!
//! An ELF64 image with one segment at 1 MiB and the note XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h), so that
//! every VMM that boots PVH kernels runs it. The code is assembled here; its instructions mean the same in 32-bit and
//! 64-bit mode where that matters to a VMM that enters kernels at their ELF entry point.

/// What the kernel writes to port 3F8h: a control character (SYN) that no program's or firmware's messages have.
pub const GREETING: u8 = 0x16;
/// Where the kernel is loaded and entered.
pub const ENTRY: u32 = 0x10_0000;
/// Where [`Ending::Count`] counts (a 32-bit number).
pub const COUNTER: u32 = ENTRY + 0x1000;

/// What the kernel does after its greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Resets by the keyboard controller (port 64h), else by the chipset (port CF9h), else by a triple fault.
    Reset,
    /// Powers off by ACPI: SLP_TYP 5 and SLP_EN to the PM1a control register at port 604h.
    PowerOff,
    /// Halts with interrupts off.
    Halt,
    /// Faults without an interrupt table.
    TripleFault,
    /// Counts at [`COUNTER`] for ever.
    Count,
    /// Sends back every byte that comes to the serial port, for ever.
    Echo,
}

/// Offset of the segment in the image: a page, as loaders that map images like it.
const SEGMENT_OFFSET: usize = 0x1000;
/// Memory of the segment: the code's page and the counter's.
const SEGMENT_MEMORY: u64 = 0x2000;
const FILE_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const NOTE_OFFSET: u64 = (FILE_HEADER + 2 * PROGRAM_HEADER) as u64;

/// hlt; jmp to it.
const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// The kernel's code.
pub fn code(ending: Ending) -> Vec<u8> {
    // mov dx, 3f8h; mov al, GREETING; out dx, al
    let mut code = vec![0x66, 0xba, 0xf8, 0x03, 0xb0, GREETING, 0xee];
    match ending {
        Ending::Reset => {
            code.extend([0xb0, 0xfe, 0xe6, 0x64]); // mov al, feh; out 64h, al
            code.extend([0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee]); // mov dx, cf9h; mov al, 6; out dx, al
            triple_fault(&mut code);
        }
        Ending::PowerOff => {
            code.extend([0x66, 0xba, 0x04, 0x06]); // mov dx, 604h
            code.extend([0x66, 0xb8, 0x00, 0x34]); // mov ax, 5 << 10 | 1 << 13
            code.extend([0x66, 0xef]); // out dx, ax
            code.extend(HALT);
        }
        Ending::Halt => code.extend(HALT),
        Ending::TripleFault => triple_fault(&mut code),
        Ending::Count => {
            code.push(0xb8);
            code.extend(COUNTER.to_le_bytes()); // mov eax, COUNTER
            code.extend([0xff, 0x00, 0xeb, 0xfc]); // inc dword [eax]; jmp to it
        }
        Ending::Echo => {
            code.extend([0x66, 0xba, 0xfd, 0x03]); // mov dx, 3fdh
            code.extend([0xec, 0xa8, 0x01, 0x74, 0xf7]); // in al, dx; test al, 1; jz to the mov
            code.extend([0x66, 0xba, 0xf8, 0x03]); // mov dx, 3f8h
            code.extend([0xec, 0xee, 0xeb, 0xef]); // in al, dx; out dx, al; jmp to the first mov
        }
    }
    code
}

/// An exception without an interrupt table: the counter's page is zero, so a table of one byte at address 0.
fn triple_fault(code: &mut Vec<u8>) {
    code.push(0xb8);
    code.extend(COUNTER.to_le_bytes()); // mov eax, COUNTER
    code.extend([0x0f, 0x01, 0x18]); // lidt [eax]
    code.extend([0x0f, 0x0b]); // ud2
}

/// The kernel as an ELF64 image.
pub fn image(ending: Ending) -> Vec<u8> {
    let code = code(ending);
    let note = note();
    let mut image = file_header();
    // PT_LOAD, readable, writable, executable; PT_NOTE, readable.
    image.extend(program_header(
        1,
        7,
        SEGMENT_OFFSET as u64,
        ENTRY.into(),
        code.len() as u64,
        SEGMENT_MEMORY,
        0x1000,
    ));
    image.extend(program_header(4, 4, NOTE_OFFSET, 0, note.len() as u64, note.len() as u64, 4));
    image.extend(note);
    image.resize(SEGMENT_OFFSET, 0);
    image.extend(code);
    image
}

/// Elf64_Ehdr of an executable for x86-64 without sections (System V ABI, chapter 4).
fn file_header() -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    header.extend(2u16.to_le_bytes()); // ET_EXEC
    header.extend(62u16.to_le_bytes()); // EM_X86_64
    header.extend(1u32.to_le_bytes());
    header.extend(u64::from(ENTRY).to_le_bytes());
    header.extend(u64::from(FILE_HEADER).to_le_bytes()); // program headers follow
    header.extend(0u64.to_le_bytes()); // no section headers
    header.extend(0u32.to_le_bytes());
    for field in [FILE_HEADER, PROGRAM_HEADER, 2, 0, 0, 0] {
        header.extend(field.to_le_bytes());
    }
    header
}

/// Elf64_Phdr.
fn program_header(
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file: u64,
    memory: u64,
    align: u64,
) -> Vec<u8> {
    let mut header = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for field in [offset, address, address, file, memory, align] {
        header.extend(field.to_le_bytes());
    }
    header
}

/// The note that makes the image a PVH kernel: type 18, name Xen, the entry point.
fn note() -> Vec<u8> {
    let mut note = [4u32, 8, 18].map(u32::to_le_bytes).concat();
    note.extend(b"Xen\0");
    note.extend(u64::from(ENTRY).to_le_bytes());
    note
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;
    use std::sync::Arc;

    use kvm_host::{BootState, Exit, Kvm, MemorySlot, SlotAccess, Topology, Vcpu, VcpuSpec, Vm, VmSpec};
    use linux_loader::loader::elf::PvhBootCapability;
    use linux_loader::loader::{Elf, KernelLoader};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

    use super::*;

    const ENDINGS: [Ending; 6] =
        [Ending::Reset, Ending::PowerOff, Ending::Halt, Ending::TripleFault, Ending::Count, Ending::Echo];

    fn load(ending: Ending) -> (GuestMemoryMmap, GuestAddress) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let loaded = Elf::load(&memory, None, &mut Cursor::new(image(ending)), None).unwrap();
        let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
            panic!("no PVH entry: {}", loaded.pvh_boot_cap)
        };
        (memory, entry)
    }

    #[test]
    fn a_loader_finds_the_entry_and_the_code() {
        for ending in ENDINGS {
            let (memory, entry) = load(ending);
            assert_eq!(entry.0, u64::from(ENTRY));
            let mut loaded = vec![0; code(ending).len()];
            memory.read_slice(&mut loaded, entry).unwrap();
            assert_eq!(loaded, code(ending), "{ending:?}");
        }
    }

    /// A machine that has greeted; `None` without KVM.
    fn greeted(ending: Ending) -> Option<(GuestMemoryMmap, Vcpu)> {
        let kvm = match Kvm::open(Path::new("/dev/kvm")) {
            Ok(kvm) => Arc::new(kvm),
            Err(error) => {
                eprintln!("skipped: {error}");
                return None;
            }
        };
        let (memory, entry) = load(ending);
        let slots = memory.iter().map(|region| MemorySlot::new(0, region, SlotAccess::ReadWrite)).collect();
        let vm = Vm::build(&kvm, VmSpec { memory: slots, ..VmSpec::default() }).unwrap();
        let topology = Topology::flat(1).unwrap();
        let spec = VcpuSpec { topology, dedicated: false, nested: false, overrides: Vec::new() };
        let mut vcpu = Vcpu::create(&vm, 0, &spec).unwrap();
        let eip = u32::try_from(entry.0).unwrap();
        vcpu.set_boot_state(&BootState::Pvh { eip, start_info: 0 }).unwrap();
        assert_eq!(vcpu.run().unwrap(), Exit::PortOut { port: 0x3f8, size: 1, data: &[GREETING] });
        Some((memory, vcpu))
    }

    #[test]
    fn it_resets_in_every_way() {
        let Some((_, mut vcpu)) = greeted(Ending::Reset) else { return };
        assert_eq!(vcpu.run().unwrap(), Exit::PortOut { port: 0x64, size: 1, data: &[0xfe] });
        assert_eq!(vcpu.run().unwrap(), Exit::PortOut { port: 0xcf9, size: 1, data: &[6] });
        assert_eq!(vcpu.run().unwrap(), Exit::Shutdown);
    }

    #[test]
    fn it_powers_off() {
        let Some((_, mut vcpu)) = greeted(Ending::PowerOff) else { return };
        assert_eq!(vcpu.run().unwrap(), Exit::PortOut { port: 0x604, size: 2, data: &[0x00, 0x34] });
    }

    #[test]
    fn it_triple_faults() {
        let Some((_, mut vcpu)) = greeted(Ending::TripleFault) else { return };
        assert_eq!(vcpu.run().unwrap(), Exit::Shutdown);
    }

    #[test]
    fn it_counts_until_it_is_interrupted() {
        let Some((memory, mut vcpu)) = greeted(Ending::Count) else { return };
        let count = || memory.read_obj::<u32>(GuestAddress(COUNTER.into())).unwrap();
        let kick = vcpu.kick();
        std::thread::scope(|scope| {
            let runner = scope.spawn(move || vcpu.run().unwrap() == Exit::Interrupted);
            while count() < 1000 {
                std::hint::spin_loop();
            }
            kick.kick();
            assert!(runner.join().unwrap());
        });
    }

    #[test]
    fn it_halts_until_it_is_interrupted() {
        let Some((_, mut vcpu)) = greeted(Ending::Halt) else { return };
        let kick = vcpu.kick();
        std::thread::scope(|scope| {
            let runner = scope.spawn(move || vcpu.run().unwrap() == Exit::Interrupted);
            kick.kick();
            assert!(runner.join().unwrap());
        });
    }
}
