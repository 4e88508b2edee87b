//! An OVA archive, and each disk in it.
#![no_main]

use block_io::formats::{Format, ova_disk, ova_disks};
use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{file, no_extents, read};

fuzz_target!(|input: &[u8]| {
    let archive = file(input);
    let Ok(disks) = ova_disks(&archive) else { return };
    for disk in disks.iter().take(4) {
        assert!(disk.offset + disk.bytes <= input.len() as u64, "a disk beyond the archive");
        if let Ok(source) = ova_disk(&archive, Some(&disk.id)) {
            read(Format::Vmdk, source, &mut no_extents);
        }
    }
});
