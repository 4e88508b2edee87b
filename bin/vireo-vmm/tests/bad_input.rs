//! What an operator can get wrong: each is refused before a guest starts, in one line that names the option, the object and the
//! reason, with exit code 2 and nothing left behind.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bench::tiny_kernel::{Ending, image};
use block_io::qcow2::{BackingName, Qcow2Parameters};
use block_io::{Qcow2Disk, RawDisk, RawOptions};

fn vireo_vmm(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vireo-vmm"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("it has been built")
}

/// A kernel that every KVM runs, in a directory of its own.
fn kernel() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("kernel");
    std::fs::write(&path, image(Ending::Reset)).expect("the kernel is written");
    let path = path.display().to_string();
    (directory, path)
}

fn kvm() -> bool {
    let there = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !there {
        eprintln!("skipped: /dev/kvm is missing or may not be used");
    }
    there
}

/// Runs with a good kernel and `words`; the refusal must have every part of `expected`.
#[track_caller]
fn refused(words: &[&str], expected: &[&str]) {
    let (_directory, kernel) = kernel();
    let mut all = vec!["--kernel", &kernel];
    all.extend(words);
    refused_exactly(&all, expected);
}

#[track_caller]
fn refused_exactly(words: &[&str], expected: &[&str]) {
    let output = vireo_vmm(words);
    let text = String::from_utf8(output.stderr).expect("text");
    let lines: Vec<_> = text.lines().filter(|line| !line.contains("paravirtual")).collect();
    assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
    assert_eq!(lines.len(), 1, "{words:?}: {text}");
    for part in expected {
        assert!(lines[0].contains(part), "{words:?}: {part:?} is missing in: {text}");
    }
}

#[test]
fn kernels_that_cannot_be_read_or_are_none() {
    if !kvm() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text").display().to_string();
    std::fs::write(&text, "not a kernel at all").unwrap();
    refused_exactly(
        &["--kernel", "/absent/kernel"],
        &["--kernel", "/absent/kernel", "No such file", "check the path"],
    );
    refused_exactly(&["--kernel", "/"], &["--kernel /", "not a regular file"]);
    refused_exactly(&["--kernel", &text], &["--kernel", &text, "not a kernel", "bzImage"]);
}

#[test]
fn an_initramfs_that_is_missing_or_too_large() {
    if !kvm() {
        return;
    }
    refused(&["--initramfs", "/absent/initramfs"], &["--initramfs", "/absent/initramfs", "No such file"]);
    let directory = tempfile::tempdir().unwrap();
    let large = directory.path().join("large").display().to_string();
    File::create(&large).unwrap().set_len(100 << 20).unwrap();
    refused(&["--memory", "64M", "--initramfs", &large], &["--initramfs", &large, "--memory"]);
}

#[test]
fn memory_and_vcpus_that_no_machine_has() {
    refused(&["--memory", "size=0"], &["--memory", "at least 64M"]);
    refused(&["--memory", "size=65M"], &["--memory", "multiple of 2 MiB"]);
    refused(&["--memory", "size=lots"], &["--memory", "lots"]);
    refused(&["--cpus", "boot=0"], &["--cpus", "0 vCPUs"]);
    refused(&["--cpus", "boot=255"], &["--cpus", "255 vCPUs"]);
    refused(&["--cpus", "boot=4,topology=1:3:1:1"], &["--cpus", "topology"]);
    if kvm() {
        refused(&["--memory", "size=4T"], &["--memory", "MiB", "give"]);
    }
}

#[test]
fn disks_that_are_missing_odd_or_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    refused(&["--disk", "path=/absent/disk"], &["--disk", "/absent/disk", "does not exist"]);

    let odd = path("odd");
    std::fs::write(&odd, [0; 1000]).unwrap();
    refused(&["--disk", &format!("path={odd}")], &["--disk", &odd, "1000 bytes", "multiple of 512"]);

    let empty = path("empty");
    File::create(&empty).unwrap();
    refused(&["--disk", &format!("path={empty}")], &["--disk", &empty]);

    let used = path("used");
    std::fs::write(&used, [0; 4096]).unwrap();
    let holder = RawDisk::open(Path::new(&used), &RawOptions::default()).unwrap();
    let own = std::process::id().to_string();
    refused(&["--disk", &format!("path={used}")], &["--disk", &used, "lock", &own]);
    drop(holder);

    let disk = path("disk");
    std::fs::write(&disk, [0; 4096]).unwrap();
    let option = format!("path={disk}");
    refused(&["--disk", &option, "--disk", &option], &["--disk", &disk]);
    refused(&["--disk", &format!("path={disk},path={disk}")], &["--disk", "path"]);
    refused(&["--disk", &format!("path={disk},colour=red")], &["--disk", "colour", "unknown key"]);
}

#[test]
fn images_that_are_not_what_is_said_or_name_what_they_may_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (raw, top) = (path("raw"), path("top"));
    std::fs::write(&raw, [0; 4096]).unwrap();
    let backing = BackingName { name: "/etc/hostname".to_owned(), format: "raw".to_owned() };
    let parameters = Qcow2Parameters { backing: Some(backing), ..Qcow2Parameters::new(1 << 20) };
    Qcow2Disk::create(Path::new(&top), &parameters).unwrap();

    refused(&["--disk", &format!("path={raw},image_type=qcow2")], &["--disk", &raw, "qcow2"]);
    let vmdk = format!("path={raw},image_type=vmdk");
    refused(&["--disk", &vmdk], &["--disk", "readonly=on", "vireo image convert"]);
    refused(&["--disk", &format!("{vmdk},readonly=on")], &["--disk", &raw, "vmdk"]);
    refused(&["--disk", &format!("path={top},backing_files=on")], &["--disk", "image_type=qcow2"]);
    let qcow2 = format!("path={top},image_type=qcow2");
    refused(&["--disk", &qcow2], &["--disk", &top, "/etc/hostname", "backing_files=on"]);
    let backed = format!("{qcow2},backing_files=on");
    refused(&["--disk", &backed], &["--disk", &top, "/etc/hostname", "backing directory"]);
    refused(&["--disk", &format!("{backed},direct=on,cache=unsafe")], &["--disk", "cache=none"]);
}

#[test]
fn interfaces_that_cannot_be() {
    refused(&["--net", "tap=name-of-too-many-letters"], &["--net", "name-of-too-many-letters", "1 to 15"]);
    refused(&["--net", "tap=t0,mac=01:00:00:00:00:01"], &["--net", "01:00:00:00:00:01"]);
    refused(&["--net", "fd=999"], &["--net", "999"]);
}

#[test]
fn options_that_are_unknown_or_given_twice() {
    refused(&["--colour", "red"], &["--colour", "unknown option"]);
    refused(&["--memory", "1G", "--memory", "2G"], &["--memory", "twice"]);
    refused(&["--serial", "tty", "--console", "tty"], &["--console", "terminal"]);
    refused(&["--serial"], &["--serial", "no value"]);
}

#[test]
fn a_refused_machine_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api");
    let console = directory.path().join("console");
    refused(
        &[
            "--api-socket",
            &socket.display().to_string(),
            "--console",
            &format!("socket={}", console.display()),
            "--serial",
            "null",
            "--disk",
            "path=/absent/disk",
        ],
        &["--disk"],
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files were left behind");
}
