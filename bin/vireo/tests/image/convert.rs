//! The options of `vireo image convert`, and what becomes of storage.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::devices::LoopDevice;
use super::{Folder, has_qemu};

/// On a file system with blocks, where direct I/O and reserved storage are what they are in use.
fn on_disk() -> Folder {
    Folder(tempfile::tempdir_in(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/var/tmp")).unwrap())
}

/// A raw file with data, compressible data, stored zeroes and holes, and an end that is in no block of 4 KiB.
fn make_source(path: &Path) -> u64 {
    let file = std::fs::File::create(path).unwrap();
    let bytes = (21 << 20) + 512;
    file.set_len(bytes).unwrap();
    let mut state = 1u64;
    let mut random = vec![0; 3 << 20];
    for word in random.as_chunks_mut::<8>().0 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *word = state.to_be_bytes();
    }
    file.write_all_at(&random, 1 << 20).unwrap();
    file.write_all_at(&[0; 2 << 20], 5 << 20).unwrap();
    file.write_all_at(&[7; 1 << 20], 6 << 20).unwrap();
    for number in 0..64 {
        // Pieces of odd lengths at odd places among stored zeroes.
        file.write_all_at(&random[..512 * (number + 1)], (9 << 20) + number as u64 * 66_048).unwrap();
    }
    file.write_all_at(&[9; 700], bytes - 700).unwrap();
    bytes
}

fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn copies_are_whole_with_every_format_cache_and_number_of_threads() {
    if !has_qemu() {
        return;
    }
    let folder = on_disk();
    make_source(&folder.path("source"));
    folder.qemu_img("convert -f raw -O qcow2 -o cluster_size=4k source source.qcow2");
    for (from, image) in [("raw", "source"), ("qcow2", "source.qcow2")] {
        for (to, options) in [
            ("raw", "-m 1"),
            ("raw", "-m 16 -W -t none"),
            ("raw", "-t writethrough -T none"),
            ("raw", "-t unsafe -S 64k"),
            ("qcow2", ""),
            ("qcow2", "-t writeback -o cluster_size=512"),
            ("qcow2", "-t directsync -o cluster_size=2M,extended_l2=on"),
        ] {
            folder.vireo(&format!("convert -q -f {from} -O {to} {options} {image} copy"));
            folder.qemu_img(&format!("compare -f raw -F {to} source copy"));
            if to == "qcow2" {
                folder.qemu_img("check -f qcow2 copy");
            }
            std::fs::remove_file(folder.path("copy")).unwrap();
        }
    }
}

#[test]
fn storage_is_taken_for_what_is_not_zero_unless_all_is_asked_for() {
    if !has_qemu() {
        return;
    }
    let folder = on_disk();
    let bytes = make_source(&folder.path("source"));
    folder.qemu_img("convert -f raw -O raw source theirs");
    let least = allocated(&folder.path("theirs"));
    folder.vireo("convert -f raw -O raw source copy");
    // A file system may round up at the ends of runs.
    assert!(allocated(&folder.path("copy")) <= least + (256 << 10), "no more than qemu-img's");
    folder.vireo("convert -f raw -O qcow2 source copy");
    assert_eq!(std::fs::metadata(folder.path("copy")).unwrap().len() % 65536, 0, "no reserve is left behind");
    assert!(std::fs::metadata(folder.path("copy")).unwrap().len() < 12 << 20);
    folder.vireo("convert -f raw -O raw -S 0 source copy");
    assert!(allocated(&folder.path("copy")) >= bytes);
    folder.qemu_img("compare -f raw -F raw source copy");
    folder.vireo("convert -f raw -O raw -S 1M source copy");
    assert!(allocated(&folder.path("copy")) > least);
    folder.qemu_img("compare -f raw -F raw source copy");
}

#[test]
fn compressed_images_are_smaller_and_sound() {
    if !has_qemu() {
        return;
    }
    let folder = on_disk();
    make_source(&folder.path("source"));
    folder.vireo("convert -f raw -O qcow2 source plain");
    for options in ["cluster_size=4k", "cluster_size=64k,compression_type=zstd", "cluster_size=2M"] {
        folder.vireo(&format!("convert -c -f raw -O qcow2 -o {options} source copy"));
        folder.qemu_img("check -f qcow2 copy");
        folder.qemu_img("compare -f raw -F qcow2 source copy");
        let saved = allocated(&folder.path("plain")).saturating_sub(allocated(&folder.path("copy")));
        assert!(saved > 1 << 20 || options.contains("2M"), "{options}: {saved}");
    }
    assert!(folder.refused("convert -c -f raw -O raw source other").contains("-c"));
}

#[test]
fn an_existing_target_is_written_into_and_not_replaced() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_source(&folder.path("source"));
    for format in ["raw", "qcow2"] {
        folder.qemu_img(&format!("create -q -f {format} target 22M"));
        let before = std::fs::metadata(folder.path("target")).unwrap().ino();
        folder.vireo(&format!("bench -q -f {format} -w --pattern 99 -s 64k -c 352 target"));
        folder.vireo(&format!("convert -n -f raw -O {format} source target"));
        assert_eq!(std::fs::metadata(folder.path("target")).unwrap().ino(), before);
        // What is beyond the source's end is left alone.
        folder.qemu_io_of(format, "target", &["read -P 99 22020608 4096"]);
        folder.qemu_img(&format!("resize -q --shrink -f {format} target 22020608"));
        folder.qemu_img(&format!("compare -f raw -F {format} source target"));
        std::fs::remove_file(folder.path("target")).unwrap();
        folder.qemu_img(&format!("create -q -f {format} target 22020608"));
        folder.vireo(&format!("convert -n --target-is-zero -f raw -O {format} source target"));
        folder.qemu_img(&format!("compare -f raw -F {format} source target"));
        assert!(allocated(&folder.path("target")) < 16 << 20, "zeroes were written");
        std::fs::remove_file(folder.path("target")).unwrap();
    }
    assert!(folder.refused("convert -n -f raw source missing").contains("missing"));
    folder.qemu_img("create -q -f raw small 1M");
    assert!(folder.refused("convert -n -f raw source small").contains("make it larger"));
}

#[test]
fn a_block_device_is_a_target_of_every_cache_mode() {
    if !has_qemu() {
        return;
    }
    let folder = on_disk();
    make_source(&folder.path("source"));
    folder.qemu_img("create -q -f raw disk 22020608");
    let Some(device) = LoopDevice::over(&folder, "disk") else { return };
    let device = device.0.display();
    assert!(folder.refused(&format!("convert -f raw source {device}")).contains("convert -n"));
    for cache in ["writeback", "none", "writethrough", "directsync", "unsafe"] {
        folder.vireo(&format!("bench -q -f raw -t {cache} -w --pattern 99 -s 64k -c 336 {device}"));
        folder.vireo(&format!("convert -n -t {cache} -f raw -O raw source {device}"));
        folder.vireo(&format!("compare -f raw -F raw source {device}"));
        folder.vireo(&format!("convert -T {cache} -f raw -O qcow2 {device} back.qcow2"));
        folder.qemu_img("compare -f raw -F qcow2 source back.qcow2");
    }
}

#[test]
fn a_copy_keeps_its_backing_file() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_source(&folder.path("base"));
    folder.qemu_img("create -q -f qcow2 -b base -F raw top.qcow2");
    folder.qemu_io("top.qcow2", &["write -P 1 2M 100k", "write -z 6M 512k", "write -P 0 10M 64k"]);
    folder.vireo("convert -f qcow2 -O qcow2 -B base -F raw top.qcow2 copy.qcow2");
    folder.qemu_img("check copy.qcow2");
    folder.qemu_img("compare -f qcow2 -F qcow2 top.qcow2 copy.qcow2");
    assert!(std::fs::metadata(folder.path("copy.qcow2")).unwrap().len() < 1 << 20, "the base was copied");
    let info = folder.qemu_img("info copy.qcow2");
    assert!(info.contains("backing file: base"), "{info}");
    folder.vireo("convert -c -f qcow2 -O qcow2 -o cluster_size=4k -B base -F raw top.qcow2 copy.qcow2");
    folder.qemu_img("check copy.qcow2");
    folder.qemu_img("compare -f qcow2 -F qcow2 top.qcow2 copy.qcow2");
    assert!(folder.refused("convert -f qcow2 -O raw -B base -F raw top.qcow2 x").contains("-B"));
    assert!(folder.refused("convert -f qcow2 -O qcow2 -B json:{} -F raw top.qcow2 x").contains("-B"));
}

#[test]
fn several_sources_follow_each_other() {
    if !has_qemu() {
        return;
    }
    let folder = on_disk();
    make_source(&folder.path("first"));
    folder.qemu_img("create -q -f raw second 3M");
    folder.qemu_io("second", &["write -P 5 1M 1M"]);
    let mut whole = std::fs::read(folder.path("first")).unwrap();
    whole.extend(std::fs::read(folder.path("second")).unwrap());
    std::fs::write(folder.path("whole"), whole).unwrap();
    for format in ["raw", "qcow2"] {
        folder.vireo(&format!("convert -f raw -O {format} first second copy"));
        folder.qemu_img(&format!("compare -f raw -F {format} whole copy"));
    }
    assert!(folder.refused("convert -c -f raw -O qcow2 first second copy").contains("one source"));
}

#[test]
fn a_rate_is_kept() {
    let folder = Folder::new();
    std::fs::write(folder.path("source"), vec![1; 12 << 20]).unwrap();
    let start = Instant::now();
    folder.vireo("convert -f raw -O raw -r 16M source copy");
    // The last piece of 4 MiB begins when the others have had their time.
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(std::fs::read(folder.path("copy")).unwrap() == vec![1; 12 << 20]);
}

/// A file system that shares storage between files, mounted in a folder.
struct Mounted<'a>(&'a Folder);

impl<'a> Mounted<'a> {
    fn make(folder: &'a Folder) -> Option<Self> {
        std::fs::File::create(folder.path("xfs")).unwrap().set_len(512 << 20).unwrap();
        std::fs::create_dir(folder.path("mounted")).unwrap();
        for command in ["mkfs.xfs -q -m reflink=1 xfs", "mount -o loop xfs mounted"] {
            let mut words = command.split_whitespace();
            let output =
                Command::new(words.next().unwrap()).args(words).current_dir(folder.0.path()).output();
            if !output.as_ref().is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: {command}: {output:?}");
                return None;
            }
        }
        Some(Self(folder))
    }

    fn free(&self) -> u64 {
        let output = self.0.run("df", "--output=avail -B1 mounted", 0);
        output.lines().nth(1).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path("mounted")).status();
    }
}

#[test]
fn storage_is_shared_where_the_file_system_can() {
    if !has_qemu() {
        return;
    }
    let folder = on_disk();
    let Some(mounted) = Mounted::make(&folder) else { return };
    make_source(&folder.path("mounted/source"));
    let file = std::fs::File::options().write(true).open(folder.path("mounted/source")).unwrap();
    file.write_all_at(&[0xa5; 32 << 20], 32 << 20).unwrap();
    folder.qemu_img("convert -f raw -O qcow2 mounted/source mounted/source.qcow2");
    folder.run("sync", "", 0);
    for (from, image) in [("raw", "source"), ("qcow2", "source.qcow2")] {
        for to in ["raw", "qcow2"] {
            let before = mounted.free();
            folder.vireo(&format!("convert -f {from} -O {to} mounted/{image} mounted/copy"));
            let taken = before.saturating_sub(mounted.free());
            folder.qemu_img(&format!("compare -f raw -F {to} mounted/source mounted/copy"));
            if to == "qcow2" {
                folder.qemu_img("check -f qcow2 mounted/copy");
            }
            assert!(taken < 8 << 20, "{from} to {to} took {taken} bytes");
            std::fs::remove_file(folder.path("mounted/copy")).unwrap();
        }
    }
}
