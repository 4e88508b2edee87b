//! `map`, `measure` and `compare -s`: what is stored where, and how much that is.

use super::{Folder, Value, has_qemu, json, make_images};

const VIREO: &str = env!("CARGO_BIN_EXE_vireo");

#[test]
fn maps_are_those_of_qemu_img() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    let mut images = make_images(&folder);
    // Zeroes and data from three layers, the middle one shorter; clusters that are kept for zeroes; an external file.
    folder.qemu_img("create -f qcow2 -b top.qcow2 -F qcow2 -o cluster_size=4k middle.qcow2 2M");
    folder.qemu_io("middle.qcow2", &["write -P 5 1M 20k", "write -P 6 64k 4k", "write -z 64k 4k"]);
    folder.qemu_img("create -f qcow2 -b middle.qcow2 -F qcow2 deep.qcow2 5M");
    folder.qemu_io("deep.qcow2", &["write -P 7 3M 64k", "discard 3M 64k", "write -z -u 128k 64k"]);
    folder.qemu_img("create -f qcow2 -o data_file=data.raw external.qcow2 2M");
    folder.qemu_io("external.qcow2", &["write -P 1 256k 128k", "write -z 1M 64k"]);
    images.extend(["middle.qcow2", "deep.qcow2", "external.qcow2", "base.raw"]);
    for image in images {
        let format = if image == "base.raw" { "raw" } else { "qcow2" };
        for range in ["", "-s 60k -l 10k", "--start-offset=1000k", "--max-length 3000k"] {
            let arguments = format!("map -f {format} --output=json {range} {image}");
            let ours = json(&folder.vireo(&arguments));
            assert_eq!(ours, json(&folder.qemu_img(&arguments)), "{arguments}: left is vireo");
            if image != "compressed.qcow2" {
                let arguments = format!("map -f {format} {range} {image}");
                assert_eq!(folder.vireo(&arguments), folder.qemu_img(&arguments), "{arguments}");
            }
        }
    }
    assert!(folder.refused("map -f qcow2 compressed.qcow2").contains("compressed"));
    assert_eq!(json(&folder.vireo("map -f raw --output json -s 3M base.raw")), Value::Array(Vec::new()));
}

#[test]
fn measures_are_those_of_qemu_img() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    let same = |arguments: &str| {
        let arguments = format!("measure --output=json {arguments}");
        let ours = json(&folder.vireo(&arguments));
        assert_eq!(ours, json(&folder.qemu_img(&arguments)), "{arguments}: left is vireo");
    };
    for size in ["512", "1000000", "10M", "3.5G", "1T"] {
        same(&format!("--size {size}"));
        for options in [
            "",
            "-o cluster_size=4k",
            "-o cluster_size=2M,refcount_bits=64",
            "-o refcount_bits=1",
            "-o extended_l2=on",
        ] {
            same(&format!("--size {size} -O qcow2 {options}"));
        }
    }
    for image in make_images(&folder).into_iter().chain(["base.raw"]) {
        let format = if image == "base.raw" { "raw" } else { "qcow2" };
        same(&format!("-f {format} {image}"));
        for options in ["", "-o cluster_size=4k", "-o cluster_size=1M"] {
            same(&format!("-f {format} -O qcow2 {options} {image}"));
        }
    }
    let text = "measure -f qcow2 -O qcow2 plain.qcow2";
    assert_eq!(folder.vireo(text), folder.qemu_img(text));
    assert!(folder.refused("measure -O qcow2").contains("--size"));
    assert!(folder.refused("measure -O qcow2 -o cluster_size=512 --size 1P").contains("size"));
}

#[test]
fn a_strict_comparison_looks_at_what_is_allocated() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    for name in ["data", "same", "zero", "empty"] {
        folder.qemu_img(&format!("create -f qcow2 {name} 1M"));
    }
    folder.qemu_io("data", &["write -P 3 64k 64k"]);
    folder.qemu_io("same", &["write -P 4 0 64k", "discard 0 64k", "write -P 3 64k 64k"]);
    folder.qemu_io("zero", &["write -z 0 64k"]);
    folder.qemu_img("create -f qcow2 -b data -F qcow2 overlay");
    folder.qemu_img("create -f qcow2 longer 2M");
    folder.qemu_img("convert -c -f qcow2 -O qcow2 data compressed");
    folder.qemu_img("convert -f qcow2 -O raw data plain");
    for (first, second, format) in [
        ("data", "overlay", "qcow2"),
        ("data", "zero", "qcow2"),
        ("empty", "zero", "qcow2"),
        ("empty", "longer", "qcow2"),
        ("data", "compressed", "qcow2"),
        ("data", "plain", "raw"),
        ("zero", "plain", "raw"),
    ] {
        for strict in ["", "-s"] {
            let arguments = format!("compare {strict} -f qcow2 -F {format} {first} {second}");
            let theirs = folder.output("qemu-img", &arguments);
            let ours = folder.output(VIREO, &format!("image {arguments}"));
            assert_eq!(ours.status.code(), theirs.status.code(), "{arguments}: {ours:?} {theirs:?}");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(text(&ours.stdout), text(&theirs.stdout), "{arguments}");
        }
    }
    assert_eq!(folder.vireo("compare -q -s -f qcow2 -F qcow2 data data"), "");
}
