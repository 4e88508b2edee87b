//! `vireo image create` with all of its options, and `vireo image snapshot`, beside qemu-img.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

fn has_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: qemu-img is not installed");
    }
    found
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in("/var/tmp")).unwrap()
}

fn output(folder: &Path, program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(folder).output().unwrap()
}

#[track_caller]
fn done(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = output(folder, program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn vireo(folder: &Path, arguments: &[&str]) -> String {
    done(folder, env!("CARGO_BIN_EXE_vireo"), &[&["image"], arguments].concat())
}

/// A verb that has to fail with one line; returns that.
#[track_caller]
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = output(folder, env!("CARGO_BIN_EXE_vireo"), &[&["image"], arguments].concat());
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    message
}

/// Options of images that both programs can make.
const OPTIONS: &[&str] = &[
    "compat=0.10,cluster_size=4k",
    "compat=1.1,lazy_refcounts=on",
    "preallocation=metadata",
    "preallocation=metadata,cluster_size=512",
    "preallocation=falloc,refcount_bits=1",
    "preallocation=full,cluster_size=2M",
    "preallocation=metadata,extended_l2=on,cluster_size=16k",
    "preallocation=metadata,compat=0.10",
    "data_file=DATA",
    "data_file=DATA,data_file_raw=on",
    "data_file=DATA,preallocation=falloc,extended_l2=on",
    "nocow=on",
];

#[test]
fn images_with_any_option_are_those_of_qemu_img() {
    if !has_qemu() {
        return;
    }
    for options in OPTIONS {
        let directory = folder();
        let folder = directory.path();
        let (ours, theirs) = (options.replace("DATA", "ours.raw"), options.replace("DATA", "theirs.raw"));
        vireo(folder, &["create", "-q", "-f", "qcow2", "-o", &ours, "ours.qcow2", "5M"]);
        done(folder, "qemu-img", &["create", "-q", "-f", "qcow2", "-o", &theirs, "theirs.qcow2", "5M"]);
        done(folder, "qemu-img", &["check", "-q", "ours.qcow2"]);
        vireo(folder, &["check", "-q", "-f", "qcow2", "ours.qcow2"]);
        let describe = |name: &str| {
            let text = done(folder, "qemu-img", &["info", "--output=json", name]);
            let mut value: serde_json::Value = serde_json::from_str(&text.replace("theirs", "ours")).unwrap();
            value["actual-size"] = 0.into();
            value["children"] = serde_json::Value::Null;
            value
        };
        assert_eq!(describe("ours.qcow2"), describe("theirs.qcow2"), "{options}");
        let mapped = |name: &str| {
            let text = done(folder, "qemu-img", &["map", "--output=json", name]);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let parts = value.as_array().unwrap().iter();
            let present = parts.filter(|part| part["present"] == true);
            present.map(|part| part["length"].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(mapped("ours.qcow2"), mapped("theirs.qcow2"), "{options}");
        let storage = |name: &str| std::fs::metadata(folder.join(name)).unwrap().blocks() >= 5 << 11;
        assert_eq!(storage("ours.qcow2"), storage("theirs.qcow2"), "{options}: storage of the image");
        if options.contains("DATA") {
            assert_eq!(storage("ours.raw"), storage("theirs.raw"), "{options}: storage of the data file");
        }
        let compare = ["compare", "-q", "-f", "qcow2", "-F", "qcow2", "ours.qcow2", "theirs.qcow2"];
        done(folder, "qemu-img", &compare);
        done(folder, "qemu-io", &["-c", "write -P 5 100k 3M", "ours.qcow2"]);
        done(folder, "qemu-img", &["check", "-q", "ours.qcow2"]);
    }
}

#[test]
fn preallocated_raw_images_have_their_storage() {
    let directory = folder();
    let folder = directory.path();
    for (kind, least) in [("off", 0), ("falloc", 3 << 11), ("full", 3 << 11)] {
        let options = format!("preallocation={kind},nocow=on");
        vireo(folder, &["create", "-q", "-f", "raw", "-o", &options, kind, "3M"]);
        let metadata = std::fs::metadata(folder.join(kind)).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (3 << 20, least), "{kind}");
    }
}

#[test]
fn options_that_contradict_each_other_are_named_and_nothing_is_left_behind() {
    let directory = folder();
    let folder = directory.path();
    std::fs::write(folder.join("base"), [0; 4096]).unwrap();
    for (options, expected) in [
        ("data_file_raw=on", "data_file_raw: there is no external data file"),
        ("compat=0.10,data_file=d", "data_file: needs compat=1.1"),
        ("compat=0.10,lazy_refcounts=on", "lazy_refcounts: needs compat=1.1"),
        ("compat=0.10,refcount_bits=8", "refcount_bits: needs compat=1.1"),
        ("compat=0.10,extended_l2=on", "extended_l2: needs compat=1.1"),
        ("compat=0.10,compression_type=zstd", "compression_type: needs compat=1.1"),
        ("data_file=d,data_file_raw=on,backing_file=base,backing_fmt=raw", "data_file_raw: a raw data file"),
        ("preallocation=full,backing_file=base,backing_fmt=raw", "preallocation: with a backing file"),
        ("data_file=base", "a file of this name is there"),
        ("refcount_bits=3", "refcount_bits is 3"),
        ("cluster_size=3k", "cluster_size is 3072"),
        ("extended_l2=on,cluster_size=4k", "cluster_size is 4096"),
        ("encryption=on", "encryption: there is no such option"),
    ] {
        let message = refused(folder, &["create", "-f", "qcow2", "-o", options, "new.qcow2", "1M"]);
        assert!(message.contains(expected), "{options}: {message}");
        let names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["base"], "{options}");
    }
}

#[test]
fn snapshots_are_taken_applied_deleted_and_listed_as_by_qemu_img() {
    if !has_qemu() {
        return;
    }
    let directory = folder();
    let folder = directory.path();
    vireo(folder, &["create", "-q", "-f", "qcow2", "disk.qcow2", "4M"]);
    assert_eq!(vireo(folder, &["snapshot", "-l", "disk.qcow2"]), "");
    for (pattern, name) in [("1", "one"), ("2", "a name that is longer than its column"), ("3", "2")] {
        done(folder, "qemu-io", &["-c", &format!("write -P {pattern} 0 1M"), "disk.qcow2"]);
        vireo(folder, &["snapshot", "-c", name, "disk.qcow2"]);
    }
    done(folder, "qemu-img", &["snapshot", "-c", "theirs", "disk.qcow2"]);
    let same_table = || {
        let ours = vireo(folder, &["snapshot", "-l", "disk.qcow2"]);
        assert_eq!(ours, done(folder, "qemu-img", &["snapshot", "-l", "disk.qcow2"]));
        assert_eq!(ours, vireo(folder, &["snapshot", "disk.qcow2"]));
    };
    same_table();
    // An id goes before a name; deleting knows names only.
    vireo(folder, &["snapshot", "-a", "2", "disk.qcow2"]);
    done(folder, "qemu-io", &["-r", "-c", "read -P 2 0 1M", "disk.qcow2"]);
    vireo(folder, &["snapshot", "-d", "2", "disk.qcow2"]);
    same_table();
    done(folder, "qemu-img", &["check", "-q", "disk.qcow2"]);
    for arguments in [["-a", "none"], ["-d", "1"], ["-c", ""]] {
        refused(folder, &[&["snapshot"], &arguments[..], &["disk.qcow2"]].concat());
    }
    assert!(
        refused(folder, &["snapshot", "-f", "raw", "disk.qcow2"]).contains("raw images have no snapshots")
    );
}
