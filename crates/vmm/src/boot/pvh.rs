//! An ELF image with a PVH entry.
//!
//! Source: Xen `docs/misc/pvh.pandoc` and `xen/include/public/arch-x86/hvm/start_info.h` (layout of the start info),
//! `xen/include/public/elfnote.h` (the note).

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::elf::ElfImage;
use super::image::ImageFile;
use super::{BootError, EntryPoint, KERNEL_START, KernelBoot, KernelFault, command_line, e820, initramfs};
use crate::memory;

/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit physical entry address.
const NOTE_NAME: &[u8] = b"Xen";
const NOTE_PHYS32_ENTRY: u32 = 18;

/// Where the start info lies in guest memory; what it points to follows.
const START_INFO: u32 = 0x6000;
const START_INFO_LENGTH: u64 = 56;
const MODULE_LENGTH: u64 = 32;
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// Version 1 has the memory map.
const START_INFO_VERSION: u32 = 1;

/// Loads the segments, the initial RAM file system and the start info.
pub(super) fn load(
    memory: &GuestMemoryMmap<()>,
    boot: &KernelBoot<'_>,
    image: &ImageFile,
) -> Result<EntryPoint, BootError> {
    let elf = ElfImage::read(image).map_err(|fault| boot.kernel_error(fault))?;
    let eip = entry(&elf).map_err(|fault| boot.kernel_error(fault))?;
    let ram_end = boot.layout.low_ram().end;
    let start = elf.segments.first().map_or(0, |segment| segment.memory.start);
    let end = elf.segments.last().map_or(u64::MAX, |segment| segment.memory.end);
    if start < KERNEL_START || end > ram_end {
        return Err(boot.kernel_error(KernelFault::DoesNotFit { start, end, ram_end }));
    }

    // First all that is zero, then all that is not: giving zero pages back to the host afterwards would tear the huge
    // page at the border that the file's bytes have just been put into.
    for segment in &elf.segments {
        let zero_start = segment.memory.start + (segment.file.end - segment.file.start);
        memory::zero(memory, GuestAddress(zero_start), segment.memory.end - zero_start)?;
    }
    for segment in &elf.segments {
        image
            .load(memory, segment.memory.start, segment.file.start, segment.file.end - segment.file.start)
            .map_err(|fault| boot.kernel_error(fault))?;
    }
    let initramfs = match boot.initramfs {
        Some(path) => Some(initramfs::load(memory, path, end..ram_end)?),
        None => None,
    };
    boot.command_line.write(memory)?;
    memory.write_slice(&start_info(boot, initramfs), GuestAddress(u64::from(START_INFO)))?;
    Ok(EntryPoint::Pvh { eip, ebx: START_INFO })
}

/// The entry address from the note, which 32-bit linkers make 4 bytes long and 64-bit ones 8.
fn entry(elf: &ElfImage) -> Result<u32, KernelFault> {
    let entry = match elf.note(NOTE_NAME, NOTE_PHYS32_ENTRY) {
        Some(&[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])),
        Some(&[a, b, c, d, e, f, g, h]) => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        Some(_) => return Err(KernelFault::BadHeader("the PVH entry note is neither 4 nor 8 bytes long")),
        None => return Err(KernelFault::NoPvhEntry),
    };
    if !elf.segments.iter().any(|segment| segment.memory.contains(&entry)) {
        return Err(KernelFault::EntryOutside(entry));
    }
    u32::try_from(entry).map_err(|_| KernelFault::EntryOutside(entry))
}

/// `hvm_start_info`, then `hvm_modlist_entry` if there is a module, then the `hvm_memmap_table_entry`s.
fn start_info(boot: &KernelBoot<'_>, initramfs: Option<std::ops::Range<u64>>) -> Vec<u8> {
    let map = e820::memory_map(boot.layout);
    let modules = u64::from(START_INFO) + START_INFO_LENGTH;
    let memory_map = modules + MODULE_LENGTH;
    let mut info = Vec::with_capacity(512);
    info.extend(START_INFO_MAGIC.to_le_bytes());
    info.extend(START_INFO_VERSION.to_le_bytes());
    info.extend(0u32.to_le_bytes()); // flags
    info.extend(u32::from(initramfs.is_some()).to_le_bytes());
    info.extend(if initramfs.is_some() { modules } else { 0 }.to_le_bytes());
    info.extend(command_line::ADDRESS.to_le_bytes());
    info.extend(boot.acpi_root_pointer.to_le_bytes());
    info.extend(memory_map.to_le_bytes());
    info.extend(u32::try_from(map.len()).unwrap_or(u32::MAX).to_le_bytes());
    info.extend(0u32.to_le_bytes());

    let module = initramfs.unwrap_or(0..0);
    info.extend(module.start.to_le_bytes());
    info.extend((module.end - module.start).to_le_bytes());
    info.extend([0; 16]); // no command line of its own, reserved

    for entry in map {
        info.extend(entry.range.start.to_le_bytes());
        info.extend(entry.length().to_le_bytes());
        info.extend((entry.kind as u32).to_le_bytes());
        info.extend(0u32.to_le_bytes());
    }
    info
}
