//! A Linux bzImage by the 64-bit boot protocol.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst` (header fields, "64-bit Boot Protocol") and
//! `Documentation/arch/x86/zero-page.rst`. Numbers in this module are offsets into the image or the zero page from there.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::image::ImageFile;
use super::{
    BootError, EntryPoint, KERNEL_START, KernelBoot, KernelFault, command_line, e820, initramfs, long_mode,
};
use crate::layout::MemoryLayout;

/// Where the zero page (`boot_params`) lies in guest memory.
const ZERO_PAGE: u64 = 0x7000;

/// The setup header in the image, and at the same place in the zero page. The end is the most that it may grow to.
const HEADER: Range<usize> = 0x1f1..0x290;
const SETUP_SECTORS: usize = 0x1f1;
const SYSTEM_SIZE: usize = 0x1f4;
const BOOT_FLAG: usize = 0x1fe;
const JUMP_DISTANCE: usize = 0x201;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOAD_FLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const COMMAND_LINE_POINTER: usize = 0x228;
const INITRD_ADDRESS_MAXIMUM: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE: usize = 0x234;
const EXTENDED_LOAD_FLAGS: usize = 0x236;
const COMMAND_LINE_SIZE: usize = 0x238;
const SETUP_DATA: usize = 0x250;
const PREFERRED_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

const ACPI_ROOT_POINTER: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY_LENGTH: usize = 20;

/// `xloadflags`, bit 0: the image has a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1;
/// `loadflags`, bit 0: the protected-mode code runs at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// `loadflags`, bit 7: the real-mode heap is set up, which concerns real mode alone.
const CAN_USE_HEAP: u8 = 1 << 7;
/// The 64-bit entry's distance from the start of the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// A loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
const OLDEST_VERSION: u16 = 0x20c;
const SECTOR: u64 = 512;

/// The setup header, read once and checked.
#[derive(Debug)]
struct SetupHeader {
    bytes: [u8; HEADER.end],
    /// Where the header's fields end.
    end: usize,
    /// The protected-mode code in the file.
    code: Range<u64>,
    /// Where the code is loaded.
    load_address: u64,
    /// Every byte that the kernel uses before it has looked at the memory map.
    footprint: Range<u64>,
    /// Where the initial RAM file system must end at the latest.
    initramfs_limit: u64,
    /// The longest command line.
    command_line_limit: usize,
}

fn field<const N: usize>(bytes: &[u8; HEADER.end], offset: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[offset..offset + N]);
    value
}

impl SetupHeader {
    fn read(image: &ImageFile) -> Result<Self, KernelFault> {
        let mut bytes = [0; HEADER.end];
        if image.length() < bytes.len() as u64 {
            return Err(KernelFault::NotAKernel);
        }
        image.read_at(&mut bytes, 0)?;
        if field(&bytes, BOOT_FLAG) != [0x55, 0xaa] || field(&bytes, MAGIC) != *b"HdrS" {
            return Err(KernelFault::NotAKernel);
        }
        let version = u16::from_le_bytes(field(&bytes, VERSION));
        if version < OLDEST_VERSION {
            return Err(KernelFault::OldProtocol(version));
        }
        if u16::from_le_bytes(field(&bytes, EXTENDED_LOAD_FLAGS)) & XLF_KERNEL_64 == 0 {
            return Err(KernelFault::Not64Bit);
        }
        if bytes[LOAD_FLAGS] & LOADED_HIGH == 0 {
            return Err(KernelFault::BadHeader("the code is not to be loaded at 1 MiB or above"));
        }
        let end = MAGIC + usize::from(bytes[JUMP_DISTANCE]);
        if !(INIT_SIZE + 4..=HEADER.end).contains(&end) {
            return Err(KernelFault::BadHeader("the setup header has an impossible length"));
        }
        let code = code_in_file(&bytes, image)?;
        let load_address = u64::from_le_bytes(field(&bytes, PREFERRED_ADDRESS));
        let footprint = footprint(&bytes, load_address, code.end - code.start)?;
        Ok(Self {
            bytes,
            end,
            code,
            load_address,
            footprint,
            initramfs_limit: u64::from(u32::from_le_bytes(field(&bytes, INITRD_ADDRESS_MAXIMUM))) + 1,
            command_line_limit: usize::try_from(u32::from_le_bytes(field(&bytes, COMMAND_LINE_SIZE)))
                .unwrap_or(command_line::MAXIMUM_LENGTH),
        })
    }
}

/// The protected-mode code: behind the boot sector and the real-mode code.
fn code_in_file(header: &[u8; HEADER.end], image: &ImageFile) -> Result<Range<u64>, KernelFault> {
    // Zero means four, for images older than the field.
    let setup_sectors = match header[SETUP_SECTORS] {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let start = (setup_sectors + 1) * SECTOR;
    let length = u64::from(u32::from_le_bytes(field(header, SYSTEM_SIZE))) * 16;
    if length <= ENTRY_64 {
        return Err(KernelFault::BadHeader("there is no protected-mode code"));
    }
    // The length is in units of 16 bytes, so it may pass the end of the file by less than one.
    if start + length >= image.length() + 16 {
        return Err(super::FileFault::Truncated { needed: start + length, length: image.length() }.into());
    }
    Ok(start..(start + length).min(image.length()))
}

/// What the kernel occupies: from where it is loaded to where it has finished unpacking.
///
/// A kernel that is loaded below its preferred address still runs at that address, so there is no use in trying
/// another one when memory is short.
fn footprint(
    header: &[u8; HEADER.end],
    load_address: u64,
    code_length: u64,
) -> Result<Range<u64>, KernelFault> {
    let alignment = u64::from(u32::from_le_bytes(field(header, KERNEL_ALIGNMENT)));
    let runtime_start = if header[RELOCATABLE] == 0 {
        load_address
    } else if alignment.is_power_of_two() {
        load_address
            .checked_next_multiple_of(alignment)
            .ok_or(KernelFault::BadHeader("the preferred address is out of range"))?
    } else {
        return Err(KernelFault::BadHeader("the alignment is no power of two"));
    };
    let init_size = u64::from(u32::from_le_bytes(field(header, INIT_SIZE)));
    let end = runtime_start
        .checked_add(init_size)
        .zip(load_address.checked_add(code_length))
        .map(|(runtime_end, load_end)| runtime_end.max(load_end))
        .ok_or(KernelFault::BadHeader("the preferred address is out of range"))?;
    Ok(load_address..end)
}

/// Loads the image, its initial RAM file system and its zero page.
pub(super) fn load(
    memory: &GuestMemoryMmap<()>,
    boot: &KernelBoot<'_>,
    image: &ImageFile,
) -> Result<EntryPoint, BootError> {
    let header = SetupHeader::read(image).map_err(|fault| boot.kernel_error(fault))?;
    let ram_end = boot.layout.low_ram().end;
    let Range { start, end } = header.footprint.clone();
    if start < KERNEL_START || end > ram_end {
        return Err(boot.kernel_error(KernelFault::DoesNotFit { start, end, ram_end }));
    }
    boot.command_line.check_length(header.command_line_limit)?;

    let code_length = header.code.end - header.code.start;
    image
        .load(memory, header.load_address, header.code.start, code_length)
        .map_err(|fault| boot.kernel_error(fault))?;
    let initramfs = match boot.initramfs {
        Some(path) => initramfs::load(memory, path, end..ram_end.min(header.initramfs_limit))?,
        None => 0..0,
    };
    boot.command_line.write(memory)?;
    let page = zero_page(&header, boot.layout, &initramfs, boot.acpi_root_pointer);
    memory.write_slice(&page, GuestAddress(ZERO_PAGE))?;
    let tables = long_mode::write(memory, boot.layout)?;
    Ok(EntryPoint::Linux64 {
        rip: header.load_address + ENTRY_64,
        rsi: ZERO_PAGE,
        page_table: tables.page_table,
        gdt_base: tables.gdt_base,
        gdt_limit: tables.gdt_limit,
        code_selector: long_mode::CODE_SELECTOR,
        data_selector: long_mode::DATA_SELECTOR,
    })
}

/// The zero page: all zero but for the setup header and what the loader has to fill in.
fn zero_page(
    header: &SetupHeader,
    layout: &MemoryLayout,
    initramfs: &Range<u64>,
    acpi_root_pointer: u64,
) -> [u8; 4096] {
    let mut page = [0; 4096];
    page[HEADER.start..header.end].copy_from_slice(&header.bytes[HEADER.start..header.end]);
    let mut put = |offset: usize, bytes: &[u8]| page[offset..offset + bytes.len()].copy_from_slice(bytes);
    // Everything is placed below 4 GiB (checked against the end of low RAM), so the low halves are the addresses.
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX).to_le_bytes();
    put(TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    put(LOAD_FLAGS, &[header.bytes[LOAD_FLAGS] & !CAN_USE_HEAP]);
    put(CODE32_START, &low(header.load_address));
    put(RAMDISK_IMAGE, &low(initramfs.start));
    put(RAMDISK_SIZE, &low(initramfs.end - initramfs.start));
    put(COMMAND_LINE_POINTER, &low(command_line::ADDRESS));
    put(SETUP_DATA, &0u64.to_le_bytes());
    put(ACPI_ROOT_POINTER, &acpi_root_pointer.to_le_bytes());
    let map = e820::memory_map(layout);
    put(E820_ENTRIES, &[u8::try_from(map.len()).unwrap_or(u8::MAX)]);
    for (index, entry) in map.iter().enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_LENGTH;
        put(at, &entry.range.start.to_le_bytes());
        put(at + 8, &entry.length().to_le_bytes());
        put(at + 16, &(entry.kind as u32).to_le_bytes());
    }
    page
}
