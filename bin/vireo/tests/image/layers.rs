//! `rebase` and `commit`: moving data between the layers of a chain, whatever happens meanwhile.

use std::io::BufRead;
use std::process::{Command, Stdio};

use block_io::operations::{ImageAccess, ImageFormat, OpenImage};
use block_io::qcow2::Qcow2Options;
use block_io::{Qcow2Disk, RawOptions};

use super::{Folder, Value, has_qemu, json};

const VIREO: &str = env!("CARGO_BIN_EXE_vireo");

/// Two bases that differ in parts, one of them longer, and what is on top of the first.
fn make_chain(folder: &Folder, options: &str) {
    folder.qemu_img("create -f raw one.raw 4M");
    folder.qemu_io("one.raw", &["write -P 1 0 1M", "write -P 2 2M 100k", "write -P 3 3500k 4k"]);
    folder.qemu_img("create -f qcow2 two.qcow2 6M");
    folder.qemu_io(
        "two.qcow2",
        &["write -P 1 0 512k", "write -P 9 1200k 64k", "write -P 2 2M 100k", "write -P 8 5M 1M"],
    );
    folder.qemu_img(&format!("create -f qcow2 -b one.raw -F raw {options} top.qcow2 5500k"));
    folder.qemu_io("top.qcow2", &["write -P 5 700k 30k", "write -P 6 2100k 4k", "write -P 7 5M 10k"]);
    folder.qemu_img("convert -f qcow2 -O raw top.qcow2 before.raw");
}

#[track_caller]
fn assert_as_before(folder: &Folder) {
    folder.qemu_img("check -f qcow2 top.qcow2");
    folder.qemu_img("compare -f qcow2 -F raw top.qcow2 before.raw");
}

fn backing_of(folder: &Folder, image: &str) -> (Value, Value) {
    let info = json(&folder.qemu_img(&format!("info -f qcow2 --output json {image}")));
    (info["backing-filename"].clone(), info["backing-filename-format"].clone())
}

fn expected(name: &str, format: &str) -> (Value, Value) {
    (Value::from(name), Value::from(format))
}

#[test]
fn a_rebased_disk_reads_as_before() {
    if !has_qemu() {
        return;
    }
    for options in ["", "-o extended_l2=on", "-o cluster_size=4k", "-o cluster_size=2M", "-o compat=0.10"] {
        let folder = Folder::new();
        make_chain(&folder, options);
        let has_cluster = || json(&folder.qemu_img("map -f qcow2 --output json top.qcow2"));
        folder.vireo("rebase -f qcow2 -b two.qcow2 -F qcow2 top.qcow2");
        assert_as_before(&folder);
        assert_eq!(backing_of(&folder, "top.qcow2"), expected("two.qcow2", "qcow2"), "{options}");
        let map = has_cluster();
        if options.is_empty() {
            let below =
                map.as_array().unwrap().iter().filter(|entry| entry["depth"] == 1 && entry["data"] == true);
            assert!(below.count() > 0, "what both have alike is not copied: {map}");
        }
        folder.vireo("rebase -q -f qcow2 -b  top.qcow2".replace("-b  ", "-b= ").as_str());
        assert_as_before(&folder);
        assert_eq!(backing_of(&folder, "top.qcow2"), (Value::Null, Value::Null), "{options}");
        // Onto a file, from none: its content must not come to light.
        folder.vireo("rebase -f qcow2 -b two.qcow2 -F qcow2 top.qcow2");
        assert_as_before(&folder);
        assert_eq!(backing_of(&folder, "top.qcow2"), expected("two.qcow2", "qcow2"), "{options}");
    }
}

#[test]
fn an_unsafe_rebase_changes_the_name_only() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_chain(&folder, "");
    let map = |image: &str| json(&folder.qemu_img(&format!("map -f qcow2 --output json {image}")));
    let before = map("top.qcow2");
    std::fs::rename(folder.path("one.raw"), folder.path("a-much-longer-name-than-before.raw")).unwrap();
    folder.vireo("rebase -u -f qcow2 -b a-much-longer-name-than-before.raw -F raw top.qcow2");
    assert_as_before(&folder);
    assert_eq!(map("top.qcow2"), before);
    folder.vireo("rebase -u -f qcow2 -b missing -F qcow2 top.qcow2");
    assert_eq!(backing_of(&folder, "top.qcow2"), expected("missing", "qcow2"));
    folder.vireo("rebase -u -f qcow2 -b= top.qcow2");
    assert_eq!(backing_of(&folder, "top.qcow2"), (Value::Null, Value::Null));
    folder.qemu_img("check -f qcow2 top.qcow2");
}

#[test]
fn a_rebase_that_would_lose_something_is_refused() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_chain(&folder, "");
    let elsewhere = Folder::new();
    elsewhere.qemu_img("create -f raw far.raw 1M");
    let far = format!("-b {} -F raw top.qcow2", elsewhere.path("far.raw").display());
    for (arguments, reason) in [
        ("-b two.qcow2 -F qcow2 top.qcow2", "-f"),
        ("-f qcow2 -b two.qcow2 top.qcow2", "-F"),
        ("-f qcow2 -b missing -F raw top.qcow2", "missing"),
        ("-f qcow2 -b top.qcow2 -F qcow2 top.qcow2", "has it open"),
        ("-f qcow2 -b one.raw -F qcow2 top.qcow2", "not a qcow2 image"),
        ("-f raw -b one.raw -F raw two.qcow2", "only qcow2"),
        (&format!("-f qcow2 {far}"), "no directory that is allowed"),
    ] {
        let message = folder.refused(&format!("rebase {arguments}"));
        assert!(message.contains(reason), "{arguments}: {message}");
    }
    let held = Qcow2Disk::open(&folder.path("two.qcow2"), &Qcow2Options::default()).unwrap();
    let message = folder.refused("rebase -f qcow2 -b two.qcow2 -F qcow2 top.qcow2");
    assert!(message.contains(&format!("process {}", std::process::id())), "the holder is named: {message}");
    drop(held);
    folder.qemu_img("snapshot -c kept top.qcow2");
    assert!(folder.refused("rebase -f qcow2 -b= top.qcow2").contains("snapshots"));
    assert!(folder.refused("commit -f qcow2 top.qcow2").contains("snapshots"));
    assert_as_before(&folder);
    assert_eq!(backing_of(&folder, "top.qcow2"), expected("one.raw", "raw"));
}

#[test]
fn a_committed_image_is_empty_and_its_disk_is_the_bases() {
    if !has_qemu() {
        return;
    }
    for options in ["", "-o extended_l2=on", "-o cluster_size=4k", "-o compat=0.10"] {
        let folder = Folder::new();
        make_chain(&folder, options);
        folder.qemu_io("top.qcow2", &["write -z 64k 192k", "write -z 5100k 64k"]);
        folder.qemu_img("convert -f qcow2 -O raw top.qcow2 before.raw");
        folder.vireo("commit -f qcow2 top.qcow2");
        assert_as_before(&folder);
        folder.qemu_img("compare -f raw -F raw one.raw before.raw");
        assert_eq!(std::fs::metadata(folder.path("one.raw")).unwrap().len(), 5500 << 10, "{options}");
        let map = json(&folder.qemu_img("map -f qcow2 --output json top.qcow2"));
        assert!(map.as_array().unwrap().iter().all(|entry| entry["depth"] == 1), "{options}: {map}");
    }
}

#[test]
fn a_commit_to_a_base_further_below_takes_everything_between_along() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_chain(&folder, "");
    // The image between is shorter: beyond its end the base is hidden.
    folder.qemu_img("create -f qcow2 base.qcow2 6M");
    folder.qemu_io("base.qcow2", &["write -P 1 0 6M"]);
    folder.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 middle.qcow2 3M");
    folder.qemu_io("middle.qcow2", &["write -P 2 1M 1M", "write -z 512k 100k"]);
    folder.qemu_img("create -f qcow2 -b middle.qcow2 -F qcow2 high.qcow2 5M");
    folder.qemu_io("high.qcow2", &["write -P 3 1100k 100k", "write -P 4 4M 10k"]);
    folder.qemu_img("convert -f qcow2 -O raw high.qcow2 high.raw");
    let map = |image: &str| folder.qemu_img(&format!("map -f qcow2 --output json {image}"));
    let before = map("high.qcow2");
    let message = folder.refused("commit -f qcow2 -b one.raw high.qcow2");
    assert!(message.contains("not in its chain"), "{message}");
    assert_eq!(folder.vireo("commit -f qcow2 -b base.qcow2 high.qcow2"), "Image committed.\n");
    folder.qemu_img("check -f qcow2 base.qcow2");
    folder.qemu_io("base.qcow2", &["read -P 1 5M 1M"]);
    // As far as the disk went, the base has it all now; what was beyond stays.
    let bytes = std::fs::read(folder.path("high.raw")).unwrap();
    folder.qemu_img("convert -f qcow2 -O raw base.qcow2 base.raw");
    assert!(std::fs::read(folder.path("base.raw")).unwrap()[..bytes.len()] == bytes);
    assert_eq!(map("high.qcow2"), before, "it is not emptied");
    let start = std::time::Instant::now();
    folder.vireo("commit -q -d -r 2M -f qcow2 middle.qcow2");
    assert!(start.elapsed().as_millis() >= 450, "1 MiB at 2 MiB a second");
    assert!(map("middle.qcow2").contains("\"depth\": 0, \"present\": true"), "-d: not emptied");
}

#[test]
fn a_commit_into_a_file_in_use_is_refused_and_names_the_holder() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_chain(&folder, "");
    let access = ImageAccess {
        file: RawOptions { read_only: true, ..RawOptions::default() },
        ..ImageAccess::default()
    };
    let reader = OpenImage::open(&folder.path("one.raw"), ImageFormat::Raw, &access).unwrap();
    let message = folder.refused("commit -f qcow2 top.qcow2");
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    drop(reader);
    assert!(folder.refused("commit -f qcow2 two.qcow2").contains("no backing file"));
    assert!(folder.refused("commit top.qcow2").contains("-f"));
    assert_as_before(&folder);
}

/// Starts a verb on images of 512 MiB and interrupts it once it has begun; returns its last line.
fn interrupt(folder: &Folder, arguments: &str) -> String {
    let mut child = Command::new(VIREO)
        .args(["image"].into_iter().chain(arguments.split_whitespace()))
        .current_dir(folder.0.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "10% done");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    rest.last().cloned().unwrap_or_default()
}

#[test]
fn interrupted_work_between_layers_loses_nothing_and_can_be_done_again() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    folder.qemu_img("create -f qcow2 base.qcow2 256M");
    folder.qemu_io("base.qcow2", &["write -P 1 0 256M"]);
    folder.qemu_img("create -f qcow2 -b base.qcow2 -F qcow2 -o cluster_size=512 top.qcow2");
    let content = || {
        folder.qemu_img("check -q -f qcow2 top.qcow2");
        folder.qemu_io("top.qcow2", &["read -P 1 0 256M"]);
    };
    let said = interrupt(&folder, "rebase -p -f qcow2 -b= top.qcow2");
    assert!(said.contains("is based on what it was"), "{said}");
    assert_eq!(backing_of(&folder, "top.qcow2"), expected("base.qcow2", "qcow2"));
    content();
    folder.vireo("rebase -f qcow2 -b= top.qcow2");
    content();
    folder.qemu_img("create -f qcow2 -o cluster_size=512 below.qcow2 256M");
    folder.vireo("rebase -u -f qcow2 -b below.qcow2 -F qcow2 top.qcow2");
    let said = interrupt(&folder, "commit -p -f qcow2 top.qcow2");
    assert!(said.contains("still has everything"), "{said}");
    folder.qemu_img("check -q -f qcow2 below.qcow2");
    content();
}
