//! Images of other hypervisors with random sizes and content, made by qemu-img: read here, they are what was put into them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::formats::make_archive;
use super::random::{Case, Random, SECTOR, for_each_case};
use super::{Folder, has_qemu, json};

/// A kind of image.
struct Kind {
    file: &'static str,
    /// qemu-img's name of it.
    format: &'static str,
    /// The option that makes it this kind.
    subformat: &'static str,
    /// Further options; of each entry one is chosen.
    further: &'static [&'static [&'static str]],
    /// Largest disk, bytes.
    most: usize,
}

const MIB: usize = 1 << 20;
const GRAINS: &[&str] = &["zeroed_grain=off", "zeroed_grain=on"];
const ADAPTERS: &[&str] = &["adapter_type=ide", "adapter_type=lsilogic", "compat6=on", "hwversion=14"];
const BLOCKS: &[&str] = &["block_size=1M", "block_size=2M", "block_size=16M", "block_size=256M"];
const BLOCK_STATES: &[&str] = &["block_state_zero=off", "block_state_zero=on"];
const SIZES: &[&str] = &["force_size=on", "force_size=off"];

const KINDS: [Kind; 11] = [
    kind("sparse.vmdk", "vmdk", "subformat=monolithicSparse", &[GRAINS, ADAPTERS], 5000 * MIB),
    kind("flat.vmdk", "vmdk", "subformat=monolithicFlat", &[ADAPTERS], 40 * MIB),
    kind("split.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse", &[GRAINS, ADAPTERS], 5000 * MIB),
    kind("pieces.vmdk", "vmdk", "subformat=twoGbMaxExtentFlat", &[ADAPTERS], 5000 * MIB),
    kind("stream.vmdk", "vmdk", "subformat=streamOptimized", &[GRAINS], 3000 * MIB),
    kind("dynamic.vhdx", "vhdx", "subformat=dynamic", &[BLOCKS], 3000 * MIB),
    kind("fixed.vhdx", "vhdx", "subformat=fixed", &[BLOCKS, BLOCK_STATES], 20 * MIB),
    kind("dynamic.vhd", "vpc", "subformat=dynamic", &[SIZES], 3000 * MIB),
    kind("fixed.vhd", "vpc", "subformat=fixed", &[SIZES], 40 * MIB),
    kind("dynamic.vdi", "vdi", "static=off", &[], 3000 * MIB),
    kind("static.vdi", "vdi", "static=on", &[], 40 * MIB),
];

const fn kind(
    file: &'static str,
    format: &'static str,
    subformat: &'static str,
    further: &'static [&'static [&'static str]],
    most: usize,
) -> Kind {
    Kind { file, format, subformat, further, most }
}

impl Kind {
    fn options(&self, random: &mut Random) -> String {
        let mut options = self.subformat.to_owned();
        for further in self.further {
            options += ",";
            options += random.choose(further);
        }
        options
    }
}

/// A raw image with some stretches of data.
fn make_source(folder: &Folder, random: &mut Random, most: usize) -> u64 {
    let longest = random.choose(&[2 * MIB, 40 * MIB, most]).min(most);
    let bytes = (1 + random.below(longest / SECTOR)) * SECTOR;
    let file = File::create(folder.path("source.raw")).unwrap();
    file.set_len(bytes as u64).unwrap();
    for _ in 0..random.below(6) {
        let range = random.range(bytes, 3 * MIB / SECTOR);
        file.write_all_at(&random.content(range.len()), range.start as u64).unwrap();
    }
    // The last sector decides whether all of the disk is there.
    if random.once_in(2) {
        file.write_all_at(&random.content(SECTOR), (bytes - SECTOR) as u64).unwrap();
    }
    bytes as u64
}

/// The image reads as the source, here and in copies. `name` is the image's, or that of a disk in an archive.
#[track_caller]
fn assert_reads_as_source(
    folder: &Folder,
    case: &mut Case,
    random: &mut Random,
    format: &str,
    name: &str,
    bytes: u64,
) {
    let mut vireo = |arguments: String| {
        case.note(format_args!("vireo image {arguments}"));
        folder.vireo(&arguments);
    };
    vireo(format!("compare -f raw -F {format} source.raw {name}"));
    let to = random.choose(&["raw", "qcow2"]);
    vireo(format!("convert -q -f {format} -O {to} {name} copy"));
    folder.qemu_img(&format!("compare -f raw -F {to} source.raw copy"));
    let size = &json(&folder.qemu_img(&format!("info -f {to} --output json copy")))["virtual-size"];
    assert_eq!(size.as_u64(), Some(bytes), "size of the copy");
    std::fs::remove_file(folder.path("copy")).unwrap();
}

#[test]
fn images_of_other_hypervisors_of_any_size_and_content_read_as_what_they_were_made_of() {
    if !has_qemu() {
        return;
    }
    for_each_case(80, |case, random| {
        let folder = Folder::new();
        let kind = &KINDS[random.below(KINDS.len())];
        let bytes = make_source(&folder, random, kind.most);
        let (file, format, options) = (kind.file, kind.format, kind.options(random));
        let convert = format!("convert -f raw -O {format} -o {options} source.raw {file}");
        case.note(format_args!("{bytes} bytes; qemu-img {convert}"));
        folder.qemu_img(&convert);
        // Some formats store the size in cylinders or the like, rounded up.
        let info = json(&folder.qemu_img(&format!("info -f {format} --output json {file}")));
        let stored = info["virtual-size"].as_u64().unwrap();
        assert!(stored >= bytes, "qemu-img cut the disk off");
        assert_reads_as_source(&folder, case, random, format, file, stored);
        if kind.file == "stream.vmdk" {
            make_archive(&folder, &[(file, bytes)]);
            assert_reads_as_source(&folder, case, random, "ova", "machine.ova", stored);
        }
    });
}
