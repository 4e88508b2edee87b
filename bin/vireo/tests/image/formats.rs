//! Images of other hypervisors in every verb that reads, and OVA archives.

use std::process::Command;

use super::{Folder, Value, has_qemu, json};

/// Name of the file, qemu-img's name of the format, its options.
const KINDS: [(&str, &str, &str); 8] = [
    ("sparse.vmdk", "vmdk", ""),
    ("stream.vmdk", "vmdk", "-o subformat=streamOptimized"),
    ("flat.vmdk", "vmdk", "-o subformat=monolithicFlat"),
    ("split.vmdk", "vmdk", "-o subformat=twoGbMaxExtentSparse"),
    ("dynamic.vhdx", "vhdx", ""),
    ("dynamic.vhd", "vpc", "-o force_size=on"),
    ("fixed.vhd", "vpc", "-o subformat=fixed,force_size=on"),
    ("disk.vdi", "vdi", ""),
];

fn make_images(folder: &Folder) {
    folder.qemu_img("create -f raw source.raw 8M");
    folder.qemu_io("source.raw", &["write -P 1 64k 300k", "write -P 2 5M 1M"]);
    for (file, format, options) in KINDS {
        folder.qemu_img(&format!("convert -f raw -O {format} {options} source.raw {file}"));
    }
}

/// Makes `machine.ova` of stream-optimised images with these sizes of their disks, bytes.
pub(crate) fn make_archive(folder: &Folder, disks: &[(&str, u64)]) {
    let (mut files, mut described) = (String::new(), String::new());
    for (number, (file, bytes)) in (1..).zip(disks) {
        files += &format!(r#"<File ovf:id="f{number}" ovf:href="{file}"/>"#);
        described += &format!(
            r#"<Disk ovf:diskId="vmdisk{number}" ovf:fileRef="f{number}" ovf:capacity="{bytes}"
              ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>"#
        );
    }
    let description = format!(
        r#"<?xml version="1.0"?>
        <Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
        <References>{files}</References>
        <DiskSection><Info/>{described}</DiskSection></Envelope>"#
    );
    std::fs::write(folder.path("machine.ovf"), description).unwrap();
    let tar = Command::new("tar")
        .args(["--format=ustar", "-cf", "machine.ova", "machine.ovf"])
        .args(disks.iter().map(|(file, _)| file))
        .current_dir(folder.0.path())
        .status()
        .unwrap();
    assert!(tar.success());
}

#[test]
fn disks_of_other_hypervisors_are_read_by_every_verb() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_images(&folder);
    for (file, format, _) in KINDS {
        folder.vireo(&format!("compare -f raw -F {format} source.raw {file}"));
        folder.vireo(&format!("convert -f {format} -O qcow2 {file} copy.qcow2"));
        folder.qemu_img("compare -f raw -F qcow2 source.raw copy.qcow2");
        // Of images of several files, qemu-img's info opens all, ours only the one that is named.
        let several = ["flat.vmdk", "split.vmdk"].contains(&file);
        if !several {
            folder.assert_same_json(&format!("info -f {format}"), file);
            let text = format!("info -f {format} {file}");
            assert_eq!(folder.vireo(&text), folder.qemu_img(&text));
        }
        let info = json(&folder.vireo(&format!("info --output json {file}")));
        assert_eq!((&info["format"], &info["virtual-size"]), (&Value::from(format), &Value::from(8 << 20)));
        // qemu-img knows nothing of what a vhdx image stores.
        if format != "vhdx" {
            folder.assert_same_json(&format!("map -f {format}"), file);
            folder.assert_same_json(&format!("measure -O qcow2 -f {format}"), file);
        }
        let refused = folder.output(env!("CARGO_BIN_EXE_vireo"), &format!("image check -f {format} {file}"));
        assert_eq!(refused.status.code(), Some(63), "{refused:?}");
    }
    assert!(folder.vireo("info disk.vdi").contains("file format: vdi (by its first bytes"));
}

#[test]
fn info_of_an_image_of_several_files_opens_none_of_them() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_images(&folder);
    let before = json(&folder.vireo("info -f vmdk --output json flat.vmdk"));
    assert_eq!(before["format-specific"]["data"]["extents"][0]["filename"], "flat-flat.vmdk");
    std::fs::remove_file(folder.path("flat-flat.vmdk")).unwrap();
    assert_eq!(json(&folder.vireo("info -f vmdk --output json flat.vmdk")), before);
    assert!(folder.refused("map -f vmdk flat.vmdk").contains("flat-flat.vmdk"));
}

#[test]
fn disks_in_an_archive_are_listed_and_named_after_it() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_images(&folder);
    folder.qemu_img("create -f vmdk -o subformat=streamOptimized empty.vmdk 1M");
    make_archive(&folder, &[("stream.vmdk", 8 << 20), ("empty.vmdk", 1 << 20)]);
    let info = json(&folder.vireo("info --output json machine.ova"));
    assert_eq!(info["format"], "ova");
    let disks = &info["format-specific"]["data"]["disks"];
    assert_eq!(
        (&disks[0]["id"], &disks[1]["filename"]),
        (&Value::from("vmdisk1"), &Value::from("empty.vmdk"))
    );
    let text = folder.vireo("info machine.ova");
    assert!(text.contains("named machine.ova:stream.vmdk"), "{text}");
    for name in ["stream.vmdk", "vmdisk1"] {
        folder.vireo(&format!("convert -f ova -O raw machine.ova:{name} copy"));
        folder.qemu_img("compare -f raw -F raw source.raw copy");
    }
    assert!(
        folder.refused("convert -f ova -O raw machine.ova copy2").contains("choose one of vmdisk1, vmdisk2")
    );
    assert!(folder.refused("convert -f ova -O raw machine.ova:other copy2").contains("other"));
    assert!(!folder.path("copy2").exists());
}

#[test]
fn what_is_encrypted_is_refused_clearly() {
    let folder = Folder::new();
    let mut header = b"LUKS\xba\xbe\0\x02".to_vec();
    header.resize(4096, 0);
    std::fs::write(folder.path("disk"), &header).unwrap();
    assert!(folder.refused("info disk").contains("encrypted (LUKS)"));
    assert!(folder.vireo("info -f raw disk").contains("file format: raw"));
    if has_qemu() {
        folder.qemu_img("create -f qcow2 encrypted 1M");
        let mut bytes = std::fs::read(folder.path("encrypted")).unwrap();
        bytes[35] = 2;
        std::fs::write(folder.path("encrypted"), bytes).unwrap();
        assert!(folder.refused("info encrypted").contains("encrypted images are not supported"));
    }
}

#[test]
fn a_chain_is_followed_only_where_it_is_allowed() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    super::make_images(&folder);
    folder.qemu_img("create -f qcow2 -b top.qcow2 -F qcow2 higher.qcow2");
    folder.assert_same_json("info -f qcow2 --backing-chain", "higher.qcow2");
    let arguments = "info -f qcow2 --backing-chain higher.qcow2";
    assert_eq!(folder.vireo(arguments), folder.qemu_img(arguments));
    let elsewhere = Folder::new();
    let base = folder.path("base.raw");
    elsewhere.qemu_img(&format!("create -f qcow2 -b {} -F raw far.qcow2", base.display()));
    assert!(elsewhere.refused("info --backing-chain far.qcow2").contains("no directory that is allowed"));
    let allowed =
        format!("info --backing-chain --backing-directory {} far.qcow2", base.parent().unwrap().display());
    assert!(elsewhere.vireo(&allowed).contains("base.raw"));
    folder.qemu_img("rebase -u -f qcow2 -b higher.qcow2 -F qcow2 top.qcow2");
    assert!(folder.refused("info --backing-chain higher.qcow2").contains("loop"));
    folder.vireo("info higher.qcow2");
}
