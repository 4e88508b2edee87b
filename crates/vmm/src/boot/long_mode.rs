//! What long mode needs in guest memory before the first instruction: page tables and a descriptor table
//! (Intel SDM volume 3, sections 3.4.5 and 4.5).

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout::MemoryLayout;

const GDT: u64 = 0x500;
const PAGE_TABLES: u64 = 0x9000;

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
const ENTRIES: u64 = 512;

const PRESENT_AND_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// Selectors as the Linux boot protocol wants them: `__BOOT_CS` 10h and `__BOOT_DS` 18h.
pub(super) const CODE_SELECTOR: u16 = 0x10;
pub(super) const DATA_SELECTOR: u16 = 0x18;

const DESCRIPTORS: [u64; 4] = [
    0,
    0,
    // Code: present, ring 0, execute and read, accessed, long, 4 KiB granularity, whole address space.
    0x00af_9b00_0000_ffff,
    // Data: present, ring 0, read and write, accessed, 32-bit, 4 KiB granularity, whole address space.
    0x00cf_9300_0000_ffff,
];

const GDT_LIMIT: u16 = 31;
const _: () = assert!(GDT_LIMIT as usize + 1 == DESCRIPTORS.len() * 8);

/// Where the tables are.
pub(super) struct Tables {
    /// For CR3.
    pub(super) page_table: u64,
    /// For GDTR.
    pub(super) gdt_base: u64,
    /// For GDTR.
    pub(super) gdt_limit: u16,
}

/// Writes a descriptor table and page tables that map all RAM below 4 GiB one to one in pages of 2 MiB: everything that
/// the boot protocols let a kernel touch before it has tables of its own.
pub(super) fn write(memory: &GuestMemoryMmap<()>, layout: &MemoryLayout) -> Result<Tables, GuestMemoryError> {
    let gdt: Vec<u8> = DESCRIPTORS.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect();
    memory.write_slice(&gdt, GuestAddress(GDT))?;

    // One root, one table of GiB entries, and a directory for each begun GiB, side by side.
    let directories = layout.low_ram().end.div_ceil(GIB);
    let third_level = PAGE_TABLES + PAGE;
    let first_directory = third_level + PAGE;
    let mut entries = Vec::new();
    entries.push(third_level | PRESENT_AND_WRITABLE);
    entries.resize(512, 0);
    entries.extend((0..directories).map(|index| (first_directory + index * PAGE) | PRESENT_AND_WRITABLE));
    entries.resize(1024, 0);
    entries
        .extend((0..directories * ENTRIES).map(|index| (index * LARGE_PAGE) | LARGE | PRESENT_AND_WRITABLE));
    let bytes: Vec<u8> = entries.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(PAGE_TABLES))?;

    Ok(Tables { page_table: PAGE_TABLES, gdt_base: GDT, gdt_limit: GDT_LIMIT })
}

#[cfg(test)]
mod tests {
    use machine_spec::spec::{MemoryBacking, MemorySpec};

    use super::*;

    fn entry(memory: &GuestMemoryMmap<()>, table: u64, index: u64) -> u64 {
        memory.read_obj(GuestAddress(table + index * 8)).unwrap()
    }

    /// Translates as a processor does.
    fn translate(memory: &GuestMemoryMmap<()>, root: u64, address: u64) -> Option<u64> {
        let mut table = root;
        for shift in [39, 30, 21] {
            let entry = entry(memory, table, (address >> shift) & 0x1ff);
            if entry & 0b11 != 0b11 {
                return None;
            }
            table = entry & 0x000f_ffff_ffff_f000;
            if shift == 21 {
                assert_ne!(entry & LARGE, 0);
                return Some((table & !(LARGE_PAGE - 1)) | (address & (LARGE_PAGE - 1)));
            }
        }
        unreachable!()
    }

    #[test]
    fn low_ram_is_mapped_one_to_one() {
        for bytes in [64 << 20, (1 << 30) + (2 << 20), 2 << 30] {
            let layout = MemoryLayout::new(bytes, 40).unwrap();
            let spec = MemorySpec {
                bytes,
                backing: MemoryBacking::Anonymous,
                transparent_hugepages: false,
                mergeable: false,
                prefault: false,
            };
            let memory = crate::memory::build(&spec, &layout).unwrap();
            let tables = write(&memory, &layout).unwrap();
            for address in [0, 0x7008, 0x10_0000, bytes / 2 + 5, bytes - 1] {
                assert_eq!(translate(&memory, tables.page_table, address), Some(address));
            }
            assert_eq!(translate(&memory, tables.page_table, 3 << 30), None);
        }
    }
}
