//! Whole loads of made-up, damaged and real kernels.

use std::fs;
use std::ops::Range;

use machine_spec::spec::{MemoryBacking, MemorySpec};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory;

const MIB: u64 = 1 << 20;
const ROOT_POINTER: u64 = 0xe_0000;

struct Guest {
    layout: MemoryLayout,
    memory: GuestMemoryMmap<()>,
    folder: tempfile::TempDir,
}

impl Guest {
    fn new(mebibytes: u64) -> Self {
        let bytes = mebibytes * MIB;
        let layout = MemoryLayout::new(bytes, 40).unwrap();
        let spec = MemorySpec {
            bytes,
            backing: MemoryBacking::Anonymous,
            transparent_hugepages: false,
            mergeable: false,
            prefault: false,
        };
        let memory = memory::build(&spec, &layout).unwrap();
        Self { layout, memory, folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, kernel: &Path, initramfs: Option<&Path>, line: &str) -> Result<EntryPoint, BootError> {
        let command_line = CommandLine::new(line).unwrap();
        let boot = KernelBoot {
            kernel,
            initramfs,
            command_line: &command_line,
            layout: &self.layout,
            acpi_root_pointer: ROOT_POINTER,
        };
        load(&self.memory, &boot)
    }

    /// The error of booting `image` without more.
    fn refusal(&self, image: &[u8]) -> String {
        let path = self.file("kernel", image);
        let error = self.load(&path, None, "").unwrap_err().to_string();
        let prefix = format!("--kernel {}: ", path.display());
        error.strip_prefix(&prefix).unwrap_or_else(|| panic!("{error}")).to_owned()
    }

    fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
        self.memory.read_slice(&mut bytes, GuestAddress(range.start)).unwrap();
        bytes
    }

    fn u32(&self, address: u64) -> u32 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn u64(&self, address: u64) -> u64 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage with one setup sector and 8 KiB of recognisable code, preferring 16 MiB and needing 1 MiB.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1f4, &(8192u32 / 16).to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20fu16.to_le_bytes());
    put(&mut image, 0x211, &[0x81]);
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &(2u32 << 20).to_le_bytes());
    put(&mut image, 0x234, &[1]);
    put(&mut image, 0x236, &0x3fu16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x250, &u64::MAX.to_le_bytes());
    put(&mut image, 0x258, &(16u64 << 20).to_le_bytes());
    put(&mut image, 0x260, &(1u32 << 20).to_le_bytes());
    image.extend((0..8192u32).map(|index| (index % 251) as u8 + 1));
    image
}

/// An ELF image: text at 16 MiB, data at 18 MiB with 12 KiB of BSS behind, a PVH note that enters the text.
fn elf() -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &[2, 0, 62, 0, 1]);
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &[56, 0, 3, 0]);
    let mut header = |index: usize, kind: u32, file: Range<u64>, memory: Range<u64>| {
        let at = 64 + 56 * index;
        put(&mut image, at, &kind.to_le_bytes());
        let fields =
            [file.start, memory.start, memory.start, file.end - file.start, memory.end - memory.start, 4];
        for (field, value) in fields.iter().enumerate() {
            put(&mut image, at + 8 + 8 * field, &value.to_le_bytes());
        }
    };
    header(0, 1, 0x1000..0x2000, 0x100_0000..0x100_1000);
    header(1, 1, 0x2000..0x3000, 0x120_0000..0x120_4000);
    header(2, 4, 0x400..0x418, 0..0);
    put(&mut image, 0x400, &[4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    put(&mut image, 0x410, &0x100_0040u64.to_le_bytes());
    image.extend([0x11; 0x1000]);
    image.extend([0x22; 0x1000]);
    image
}

#[test]
fn a_bzimage_is_entered_at_its_64_bit_entry_with_a_complete_zero_page() {
    let guest = Guest::new(64);
    guest.memory.write_slice(&[0xff; 4096], GuestAddress(0x7000)).unwrap();
    let kernel = guest.file("kernel", &bzimage());
    let initramfs = guest.file("initramfs", &[0x77; 5000]);
    let entry = guest.load(&kernel, Some(&initramfs), "quiet root=/dev/vda").unwrap();
    let EntryPoint::Linux64 { rip, rsi, page_table, gdt_base, gdt_limit, .. } = entry else {
        panic!("{entry:?}")
    };
    assert_eq!((rip, rsi, page_table), (0x100_0200, 0x7000, 0x9000));
    assert_eq!(guest.u64(gdt_base + 0x10), 0x00af_9b00_0000_ffff);
    assert_eq!(gdt_limit, 31);
    assert_eq!(guest.bytes(0x100_0000..0x100_2000), bzimage()[1024..]);

    assert_eq!(guest.bytes(0x71f1..0x71f2), [1], "setup header");
    assert_eq!(guest.bytes(0x7210..0x7212), [0xff, 0x01], "loader and flags");
    assert_eq!(guest.u32(0x7214), 0x100_0000);
    assert_eq!(guest.u64(0x7250), 0, "setup data");
    assert_eq!(guest.u64(0x7070), ROOT_POINTER);
    assert_eq!(guest.bytes(0x71ef..0x71f0), [0], "sentinel");
    assert_eq!(guest.u64(0x7000), 0, "left over from before");
    assert_eq!(guest.bytes(0x2_0000..0x2_0014), b"quiet root=/dev/vda\0");
    assert_eq!(guest.u32(0x7228), 0x2_0000);

    let (start, length) = (u64::from(guest.u32(0x7218)), u64::from(guest.u32(0x721c)));
    assert_eq!((start, length), (64 * MIB - 8192, 5000));
    assert_eq!(guest.bytes(start..start + length), [0x77; 5000]);

    assert_eq!(guest.bytes(0x71e8..0x71e9), [5]);
    assert_eq!((guest.u64(0x72d0), guest.u64(0x72d8), guest.u32(0x72e0)), (0, 0xa_0000, 1));
}

#[test]
fn the_initramfs_stays_below_the_limit_of_the_kernel() {
    let guest = Guest::new(64);
    let mut image = bzimage();
    put(&mut image, 0x22c, &0x1ff_ffffu32.to_le_bytes());
    let (kernel, initramfs) = (guest.file("kernel", &image), guest.file("initramfs", &[0x77; 4096]));
    guest.load(&kernel, Some(&initramfs), "").unwrap();
    assert_eq!(guest.u32(0x7218), 0x1ff_f000);
}

#[test]
fn an_elf_image_is_entered_by_its_note_with_a_complete_start_info() {
    let guest = Guest::new(64);
    let kernel = guest.file("kernel", &elf());
    let initramfs = guest.file("initramfs", &[0x77; 5000]);
    guest.memory.write_slice(&[0xee; 0x8000], GuestAddress(0x120_0000)).unwrap();
    let entry = guest.load(&kernel, Some(&initramfs), "quiet").unwrap();
    assert_eq!(entry, EntryPoint::Pvh { eip: 0x100_0040, ebx: 0x6000 });
    assert_eq!(guest.bytes(0x100_0000..0x100_1000), [0x11; 0x1000]);
    assert_eq!(guest.bytes(0x120_0000..0x120_1000), [0x22; 0x1000]);
    assert_eq!(guest.bytes(0x120_1000..0x120_4000), [0; 0x3000], "BSS");
    assert_eq!(guest.bytes(0x120_4000..0x120_4001), [0xee], "behind the BSS");

    assert_eq!((guest.u32(0x6000), guest.u32(0x6004), guest.u32(0x600c)), (0x336e_c578, 1, 1));
    assert_eq!((guest.u64(0x6018), guest.u64(0x6020)), (0x2_0000, ROOT_POINTER));
    assert_eq!(guest.bytes(0x2_0000..0x2_0006), b"quiet\0");
    let module = guest.u64(0x6010);
    assert_eq!((guest.u64(module), guest.u64(module + 8)), (64 * MIB - 8192, 5000));
    assert_eq!(guest.bytes(64 * MIB - 8192..64 * MIB - 8192 + 5000), [0x77; 5000]);
    let (map, entries) = (guest.u64(0x6028), guest.u32(0x6030));
    assert_eq!(entries, 5);
    assert_eq!((guest.u64(map), guest.u64(map + 8), guest.u32(map + 16)), (0, 0xa_0000, 1));
    assert_eq!((guest.u64(map + 48), guest.u64(map + 56)), (0x10_0000, 63 * MIB));
}

#[test]
fn what_is_neither_format_is_not_a_kernel() {
    let guest = Guest::new(64);
    let expected = "not a kernel: give a bzImage (vmlinuz) or an ELF image with a PVH entry (vmlinux)";
    for image in [&b"#!/bin/sh\n"[..], b"x", &[0; 100_000], &bzimage()[..0x28f]] {
        assert_eq!(guest.refusal(image), expected);
    }
    assert_eq!(guest.refusal(b""), "the file is empty");
    let mut without_note = elf();
    without_note[0x408] = 19;
    assert!(
        guest.refusal(&without_note).starts_with("an ELF file without a PVH entry note: use the bzImage")
    );
}

#[test]
fn files_that_are_no_files_are_refused_without_waiting() {
    let guest = Guest::new(64);
    let refusal = |path: &Path| guest.load(path, None, "").unwrap_err().to_string();
    assert!(refusal(guest.folder.path()).contains("not a regular file"));
    assert!(refusal(Path::new("/dev/zero")).contains("not a regular file"));
    assert!(refusal(&guest.folder.path().join("none")).contains("cannot open: No such file"));
    let pipe = guest.folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(refusal(&pipe).contains("not a regular file"));
}

#[test]
fn each_damaged_field_of_a_bzimage_is_refused() {
    let guest = Guest::new(64);
    let cases: [(usize, &[u8], &str); 10] = [
        (0x206, &[0x0b, 0x02], "boot protocol 2.11 is too old"),
        (0x236, &[0], "no 64-bit entry point"),
        (0x211, &[0], "damaged header: the code"),
        (0x201, &[0xff], "damaged header: the setup header"),
        (0x1f4, &[0; 4], "damaged header: there is no protected-mode code"),
        (0x1f4, &[1, 2], "the file is truncated: 9232 bytes are needed and it has 9216"),
        (0x230, &[3], "damaged header: the alignment"),
        (0x258, &[0xff; 8], "damaged header: the preferred address"),
        (
            0x258,
            &[0; 8],
            "the kernel occupies 0x0..0x100000 and the guest has RAM for it at 0x100000..0x4000000",
        ),
        (0x260, &[0, 0, 0, 0x40], "the kernel occupies 0x1000000..0x41000000"),
    ];
    for (offset, bytes, expected) in cases {
        let mut image = bzimage();
        put(&mut image, offset, bytes);
        let refusal = guest.refusal(&image);
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

#[test]
fn a_bzimage_that_claims_less_memory_than_its_own_length_is_refused() {
    let guest = Guest::new(64);
    let mut image = bzimage();
    put(&mut image, 0x234, &[0]);
    put(&mut image, 0x258, &0x3ff_f000u64.to_le_bytes());
    put(&mut image, 0x260, &[0; 4]);
    assert!(guest.refusal(&image).starts_with("the kernel occupies 0x3fff000..0x4001000"));
}

#[test]
fn each_damaged_field_of_an_elf_image_is_refused() {
    const TEXT: usize = 64;
    const DATA: usize = 64 + 56;
    let guest = Guest::new(64);
    let cases: [(usize, &[u8], &str); 13] = [
        (4, &[1], "no 64-bit entry point"),
        (18, &[3], "no 64-bit entry point"),
        (16, &[1], "damaged header: an ELF file that is no executable"),
        (54, &[55], "damaged header: ELF program headers"),
        (56, &[0xff, 0xff], "damaged header: an impossible number"),
        (32, &[0xff; 8], "the file is truncated"),
        (TEXT + 32, &[0, 0, 1], "damaged header: an ELF segment is longer"),
        (TEXT + 24, &[0, 0x30, 0x20, 1], "damaged image: two segments overlap at 0x1203000"),
        (TEXT + 24, &[0xff; 8], "damaged header: an ELF segment wraps"),
        (TEXT + 24, &[0, 0xf0, 0x0f, 0], "damaged image: the entry point 0x1000040 is outside"),
        (DATA + 8, &[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "the file is truncated"),
        (DATA + 40, &[0, 0, 0, 0x10], "the kernel occupies 0x1000000..0x11200000"),
        (0x410, &[0, 0x10, 0, 1], "damaged image: the entry point 0x1001000 is outside"),
    ];
    for (offset, bytes, expected) in cases {
        let mut image = elf();
        put(&mut image, offset, bytes);
        let refusal = guest.refusal(&image);
        assert!(refusal.starts_with(expected), "{offset:#x}: {refusal}");
        assert_eq!(guest.bytes(0x100_0000..0x100_1000), [0; 0x1000], "written before all was checked");
    }
}

#[test]
fn a_kernel_below_1_mib_would_overwrite_boot_data_and_is_refused() {
    let guest = Guest::new(64);
    let mut image = elf();
    put(&mut image, 64 + 24, &[0, 0x70, 0, 0]);
    put(&mut image, 0x410, &[0, 0x70, 0, 0]);
    assert!(guest.refusal(&image).starts_with("the kernel occupies 0x7000..0x1204000"));
}

#[test]
fn an_initramfs_without_room_names_its_option() {
    let guest = Guest::new(64);
    let initramfs = guest.folder.path().join("initramfs");
    fs::File::create(&initramfs).unwrap().set_len(50 * MIB).unwrap();
    for image in [bzimage(), elf()] {
        let kernel = guest.file("kernel", &image);
        let error = guest.load(&kernel, Some(&initramfs), "").unwrap_err().to_string();
        let expected = format!("--initramfs {}: 50 MiB do not fit between", initramfs.display());
        assert!(error.starts_with(&expected), "{error}");
    }
    fs::write(&initramfs, b"").unwrap();
    let error = guest.load(&guest.file("kernel", &elf()), Some(&initramfs), "").unwrap_err().to_string();
    assert!(error.ends_with("initramfs: the file is empty"), "{error}");
}

#[test]
fn a_command_line_that_the_kernel_would_cut_off_is_refused() {
    let guest = Guest::new(64);
    let kernel = guest.file("kernel", &bzimage());
    guest.load(&kernel, None, &"x".repeat(2047)).unwrap();
    let error = guest.load(&kernel, None, &"x".repeat(2048)).unwrap_err().to_string();
    assert_eq!(error, "--cmdline: the command line is 2048 bytes long and the kernel takes 2047: shorten it");
}

/// Bytes that matter more often than chance has them.
fn interesting() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0u8), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()]
}

/// Whatever was loaded, the entry lies in it.
fn assert_entry_in_ram(guest: &Guest, entry: &EntryPoint) {
    let address = match entry {
        EntryPoint::Linux64 { rip, .. } => *rip,
        EntryPoint::Pvh { eip, .. } => u64::from(*eip),
    };
    assert!((KERNEL_START..guest.layout.low_ram().end).contains(&address), "{entry:x?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_mutated_or_truncated_kernel_is_loaded_into_ram_or_refused(
        use_elf in any::<bool>(),
        mutations in proptest::collection::vec((0usize..0x500, interesting()), 0..6),
        fields in proptest::collection::vec((0usize..0x50, any::<u64>()), 0..2),
        keep in prop_oneof![3 => Just(usize::MAX), 1 => 0usize..12_288],
    ) {
        let guest = Guest::new(64);
        let mut image = if use_elf { elf() } else { bzimage() };
        // Where the headers are: the first 280 bytes of the ELF file and its note, 1F1h to 290h of the bzImage.
        for (at, byte) in mutations {
            let at = if use_elf { at } else { 0x1f1 + at % 0x9f };
            image[at] = byte;
        }
        for (at, value) in fields {
            put(&mut image, if use_elf { at * 8 } else { 0x1f0 + at % 0x14 * 8 }, &value.to_le_bytes());
        }
        image.truncate(keep.max(1));
        let (kernel, initramfs) = (guest.file("kernel", &image), guest.file("initramfs", &[1; 10_000]));
        match guest.load(&kernel, Some(&initramfs), "quiet") {
            Ok(entry) => assert_entry_in_ram(&guest, &entry),
            Err(error) => {
                prop_assert!(!matches!(error, BootError::GuestMemory(_)), "unchecked address: {error}");
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }

    #[test]
    fn random_bytes_are_no_kernel(bytes in proptest::collection::vec(interesting(), 1..2000), elf_magic in any::<bool>()) {
        let guest = Guest::new(64);
        let mut image = bytes;
        if elf_magic {
            image.splice(0..0, elf()[..20].iter().copied());
        }
        prop_assert!(guest.load(&guest.file("kernel", &image), None, "").is_err());
    }
}

/// Kernels of distributions, from the cache of the test lab.
fn real_kernels() -> Vec<PathBuf> {
    let cache = std::env::var_os("VIREO_LAB_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/vireo/lab")));
    let folder = cache.unwrap_or_default().join("kernels");
    ["c612", "c61", "full"]
        .iter()
        .flat_map(|name| ["vmlinuz", "vmlinux"].map(|image| folder.join(name).join(image)))
        .filter(|path| path.exists())
        .collect()
}

#[test]
fn kernels_of_distributions_load() {
    let kernels = real_kernels();
    if kernels.is_empty() {
        eprintln!("skipped: no kernels in the lab's cache (set VIREO_LAB_CACHE)");
    }
    for path in kernels {
        let guest = Guest::new(512);
        let initramfs = guest.file("initramfs", &[0x77; 5000]);
        let started = std::time::Instant::now();
        let entry = guest.load(&path, Some(&initramfs), "console=ttyS0").unwrap();
        eprintln!("{}: {entry:x?} in {:?}", path.display(), started.elapsed());
        assert_entry_in_ram(&guest, &entry);
        match entry {
            EntryPoint::Linux64 { rip, .. } => {
                // The code's end in the file and in memory are the same bytes.
                let file = fs::read(&path).unwrap();
                let start = (usize::from(file[0x1f1]) + 1) * 512;
                let length = usize::try_from(guest.u32(0x71f4)).unwrap() * 16;
                let end = (start + length).min(file.len());
                let loaded = rip - 0x200 + (end - start) as u64;
                assert_eq!(guest.bytes(loaded - 4096..loaded), file[end - 4096..end]);
            }
            EntryPoint::Pvh { eip, .. } => {
                assert_ne!(guest.bytes(u64::from(eip)..u64::from(eip) + 64), [0; 64]);
            }
        }
    }
}
