//! A kernel image of any bytes, or a valid bzImage or PVH ELF image that is damaged, is loaded or refused.
//!
//! Held true: what is loaded is entered inside of RAM, above the boot data; neither a segment nor the zeroes behind one
//! reach the boot data or the page behind where ACPI tables are; no address is found to be bad only when guest memory
//! refuses it; a refusal is one line.
#![no_main]

mod mutation;

use std::sync::OnceLock;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use machine_spec::spec::{MemoryBacking, MemorySpec};
use vireo_fuzz::file_in_memory;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm::boot::{BootError, CommandLine, EntryPoint, KernelBoot, load};
use vmm::layout::{MINIMUM_MEMORY, MemoryLayout};

/// Where neither boot data nor a kernel may be.
const UNTOUCHED: [u64; 3] = [0, 0xe_0000, 0xf_f000];

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let image = match input.int_in_range(0..=4u8)? {
        0 => input.bytes(input.len())?.to_vec(),
        kind => {
            let mut image = if kind % 2 == 0 { bzimage() } else { elf() };
            let span = if kind % 2 == 0 { 0x290 } else { 0x480 };
            mutation::damage(&mut image, span, input)?;
            image
        }
    };
    let (layout, memory) = guest();
    for address in UNTOUCHED {
        memory.write_slice(&[0x5a; 0x400], GuestAddress(address)).expect("RAM");
    }
    let (_kernel, kernel) = file_in_memory(&image);
    let (_initramfs, initramfs) = file_in_memory(&[1; 5000]);
    let command_line = CommandLine::new("quiet").expect("a command line");
    let boot = KernelBoot {
        kernel: &kernel,
        initramfs: Some(&initramfs),
        command_line: &command_line,
        layout,
        acpi_root_pointer: 0xe_0000,
    };
    match load(memory, &boot) {
        Ok(EntryPoint::Linux64 { rip, rsi, page_table, gdt_base, .. }) => {
            assert!((0x10_0000..layout.low_ram().end).contains(&rip), "{rip:#x}");
            assert!([rsi, page_table, gdt_base].into_iter().all(|address| address < 0xa_0000));
        }
        Ok(EntryPoint::Pvh { eip, ebx }) => {
            assert!((0x10_0000..layout.low_ram().end).contains(&u64::from(eip)), "{eip:#x}");
            assert!(ebx < 0xa_0000);
        }
        Err(error) => {
            assert!(!matches!(error, BootError::GuestMemory(_)), "unchecked address: {error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
    for address in UNTOUCHED {
        let mut bytes = [0; 0x400];
        memory.read_slice(&mut bytes, GuestAddress(address)).expect("RAM");
        assert!(bytes.iter().all(|byte| *byte == 0x5a), "{address:#x} was written to");
    }
    Ok(())
}

/// One guest for all inputs: a load may begin on memory that was in use.
fn guest() -> &'static (MemoryLayout, GuestMemoryMmap<()>) {
    static GUEST: OnceLock<(MemoryLayout, GuestMemoryMmap<()>)> = OnceLock::new();
    GUEST.get_or_init(|| {
        let layout = MemoryLayout::new(MINIMUM_MEMORY, 40).expect("the least memory");
        let spec = MemorySpec {
            bytes: MINIMUM_MEMORY,
            backing: MemoryBacking::Anonymous,
            transparent_hugepages: false,
            mergeable: false,
            prefault: false,
        };
        let memory = vmm::memory::build(&spec, &layout).expect("memory");
        (layout, memory)
    })
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// The least that the 64-bit Linux boot protocol asks of a bzImage; loaded at 2 MiB.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024 + 8192];
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1f4, &(8192u32 / 16).to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS\x0f\x02");
    put(&mut image, 0x211, &[0x81]);
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &(2u32 << 20).to_le_bytes());
    put(&mut image, 0x234, &[1, 0, 0x3f, 0]);
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &(2u64 << 20).to_le_bytes());
    put(&mut image, 0x260, &(1u32 << 20).to_le_bytes());
    image
}

/// An ELF image with two segments and the note that names its PVH entry.
fn elf() -> Vec<u8> {
    let mut image = vec![0; 0x3000];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &[2, 0, 62, 0, 1]);
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &[56, 0, 3, 0]);
    let headers = [
        (1u32, [0x1000u64, 0x20_0000, 0x20_0000, 0x1000, 0x1000]),
        (1, [0x2000, 0x30_0000, 0x30_0000, 0x1000, 0x4000]),
        (4, [0x400, 0, 0, 0x18, 0]),
    ];
    for (index, (kind, fields)) in headers.into_iter().enumerate() {
        let at = 64 + 56 * index;
        put(&mut image, at, &kind.to_le_bytes());
        for (field, value) in fields.into_iter().enumerate() {
            put(&mut image, at + 8 + 8 * field, &value.to_le_bytes());
        }
    }
    put(&mut image, 0x400, b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0");
    put(&mut image, 0x410, &0x20_0040u64.to_le_bytes());
    image
}
