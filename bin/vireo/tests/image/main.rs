//! `vireo image` beside qemu-img and qemu-io: what one makes the other reads, and both say the same about it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod bench;
mod convert;
mod devices;
mod foreign_properties;
mod formats;
mod layers;
mod map;
mod properties;
mod qemu_img;
#[path = "../../../../crates/block_io/tests/safety/random.rs"]
mod random;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use block_io::qcow2::{Qcow2Disk, Qcow2Options};
use serde_json::Value;

/// Whether QEMU's tools are there to compare with; says so if not.
fn has_qemu() -> bool {
    let found =
        ["qemu-img", "qemu-io"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !found {
        eprintln!("skipped: qemu-img and qemu-io are not installed");
    }
    found
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in("/var/tmp")).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program in the folder.
    fn output(&self, program: &str, arguments: &str) -> Output {
        let words = arguments.split_whitespace();
        Command::new(program).args(words).current_dir(self.0.path()).output().unwrap()
    }

    /// Runs a program that has to end with this exit code; returns what it printed.
    #[track_caller]
    fn run(&self, program: &str, arguments: &str, code: i32) -> String {
        let output = self.output(program, arguments);
        assert_eq!(output.status.code(), Some(code), "{program} {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn vireo(&self, arguments: &str) -> String {
        self.run(env!("CARGO_BIN_EXE_vireo"), &format!("image {arguments}"), 0)
    }

    /// Runs a verb that has to fail with one line; returns that.
    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        let output = self.output(env!("CARGO_BIN_EXE_vireo"), &format!("image {arguments}"));
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {message}");
        assert_eq!(message.lines().count(), 1, "{arguments}: {message}");
        message
    }

    #[track_caller]
    fn qemu_img(&self, arguments: &str) -> String {
        self.run("qemu-img", arguments, 0)
    }

    #[track_caller]
    fn qemu_io(&self, image: &str, commands: &[&str]) {
        let mut command = Command::new("qemu-io");
        command.args(commands.iter().flat_map(|command| ["-c", command])).arg(image);
        let output = command.current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{commands:?}: {output:?}");
    }

    /// As [`Folder::qemu_io`], with the format given; what is read is as expected.
    #[track_caller]
    fn qemu_io_of(&self, format: &str, image: &str, commands: &[&str]) {
        let mut command = Command::new("qemu-io");
        command.args(["-f", format]).args(commands.iter().flat_map(|command| ["-c", command])).arg(image);
        let output = command.current_dir(self.0.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !text.contains("failed"), "{commands:?}: {output:?}");
    }

    /// Both programs print the same document for the same arguments, but for these keys.
    #[track_caller]
    fn assert_same_json(&self, verb: &str, image: &str) {
        let ours = self.output(env!("CARGO_BIN_EXE_vireo"), &format!("image {verb} --output json {image}"));
        let theirs = self.output("qemu-img", &format!("{verb} --output json {image}"));
        assert_eq!(ours.status.code(), theirs.status.code(), "{verb} {image}: {ours:?} {theirs:?}");
        let parse = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
        assert_eq!(parse(&ours), parse(&theirs), "{verb} {image}: left is vireo, right is qemu-img");
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Images of several kinds with data, made by QEMU.
fn make_images(folder: &Folder) -> Vec<&'static str> {
    folder.qemu_img("create -f raw base.raw 3M");
    folder.qemu_io("base.raw", &["write -P 17 64k 192k"]);
    folder.qemu_img("create -f qcow2 plain.qcow2 10M");
    folder.qemu_io("plain.qcow2", &["write -P 1 0 128k", "write -P 2 5M 300k", "write -z 1M 64k"]);
    folder.qemu_img("snapshot -c first plain.qcow2");
    folder.qemu_io("plain.qcow2", &["write -P 3 64k 64k"]);
    folder
        .qemu_img("create -f qcow2 -b base.raw -F raw -o extended_l2=on,compression_type=zstd top.qcow2 4M");
    folder.qemu_io("top.qcow2", &["write -P 4 6k 10k"]);
    folder.qemu_img("create -f qcow2 -o compat=0.10,cluster_size=4k old.qcow2 1M");
    folder.qemu_img("create -f qcow2 -o lazy_refcounts=on,refcount_bits=1 lazy.qcow2 1M");
    folder.qemu_img("convert -c -f qcow2 -O qcow2 plain.qcow2 compressed.qcow2");
    vec!["plain.qcow2", "top.qcow2", "old.qcow2", "lazy.qcow2", "compressed.qcow2"]
}

#[test]
fn info_says_what_qemu_img_says() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    for image in make_images(&folder).into_iter().chain(["base.raw"]) {
        let format = Path::new(image).extension().unwrap().to_str().unwrap();
        folder.assert_same_json(&format!("info -f {format}"), image);
        let ours = folder.vireo(&format!("info -f {format} {image}"));
        // The list of snapshots shows times in seconds: local time is what the reader's tools are for.
        if image != "plain.qcow2" {
            assert_eq!(ours, folder.qemu_img(&format!("info -f {format} {image}")).replace("\n\n", "\n"));
        }
    }
    assert!(folder.vireo("info plain.qcow2").contains("file format: qcow2 (by its first bytes"));
    assert!(folder.vireo("info base.raw").contains("file format: raw (by its first bytes"));
}

#[test]
fn info_refuses_what_is_no_image_in_one_line() {
    let folder = Folder::new();
    std::fs::write(folder.path("cut.qcow2"), b"QFI\xfb").unwrap();
    assert!(folder.refused("info missing").contains("does not exist"));
    assert!(folder.refused("info .").contains("directory"));
    assert!(folder.refused("info cut.qcow2").contains("cut"));
    let output = folder.output(env!("CARGO_BIN_EXE_vireo"), "image info json:{}");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn new_images_are_what_qemu_img_would_have_made() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    folder.qemu_img("create -f raw base.raw 3M");
    for options in [
        "-f raw image 1000000",
        "-f raw -o preallocation=falloc image 1M",
        "-f qcow2 image 10M",
        "-f qcow2 -o cluster_size=4k,refcount_bits=64 image 1.5G",
        "-f qcow2 -o extended_l2=on -o lazy_refcounts=on,compression_type=zstd,size=7M image",
        "-f qcow2 -b base.raw -F raw image",
        "-f qcow2 -o backing_file=base.raw,backing_fmt=raw image 8M",
        "-f qcow2 -u -b missing.qcow2 -F qcow2 image 8M",
    ] {
        let describe = || {
            let format = if options.starts_with("-f raw") { "raw" } else { "qcow2" };
            let mut info = json(&folder.qemu_img(&format!("info -f {format} --output json image")));
            // The file may be laid out differently.
            info["children"] = Value::Null;
            info["actual-size"] = Value::Null;
            if format == "qcow2" && !options.contains("missing") {
                folder.qemu_img("check -f qcow2 image");
            }
            info
        };
        folder.qemu_img(&format!("create -q {options}"));
        let theirs = describe();
        folder.vireo(&format!("create {options}"));
        assert_eq!(describe(), theirs, "{options}");
        assert_eq!(folder.names(), ["base.raw", "image"]);
    }
}

#[test]
fn create_refuses_in_one_line_and_leaves_what_was_there() {
    let folder = Folder::new();
    std::fs::write(folder.path("image"), "precious").unwrap();
    for (arguments, reason) in [
        ("-f qcow2 image", "give the size"),
        ("-f qcow2 image 0", "size is 0"),
        ("-f qcow2 -b base.raw image", "-F"),
        ("-f raw -b base.raw -F raw image 1M", "-f qcow2"),
        ("-f qcow2 -b base.raw -F raw image", "does not exist"),
        ("-f qcow2 -o cluster_size=1000 image 1M", "cluster_size"),
        ("-f qcow2 -o nonsense=1 image 1M", "no such option"),
        ("-f raw missing/image 1M", "missing/image"),
    ] {
        let message = folder.refused(&format!("create {arguments}"));
        assert!(message.contains(reason), "{arguments}: {message}");
    }
    assert_eq!(std::fs::read_to_string(folder.path("image")).unwrap(), "precious");
    assert_eq!(folder.names(), ["image"]);
}

#[test]
fn check_says_what_qemu_img_says_about_sound_images() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    for image in make_images(&folder) {
        folder.assert_same_json("check -f qcow2", image);
    }
    folder.run(env!("CARGO_BIN_EXE_vireo"), "image check -f raw base.raw", 63);
    assert!(folder.refused("check -f qcow2 base.raw").contains("not a qcow2 image"));
}

#[test]
fn an_image_in_use_is_checked_only_if_told_so_and_never_repaired() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_images(&folder);
    let options = Qcow2Options::default();
    let user = Qcow2Disk::open(&folder.path("plain.qcow2"), &options).unwrap();
    let refused = folder.refused("check -f qcow2 plain.qcow2");
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    let in_use = folder.vireo("check -f qcow2 -U --output json plain.qcow2");
    folder.run(env!("CARGO_BIN_EXE_vireo"), "image check -U -r all -f qcow2 plain.qcow2", 2);
    drop(user);
    assert_eq!(folder.vireo("check -f qcow2 --output json plain.qcow2"), in_use);
}

/// Sets the 16-bit count of a cluster, below 32768, in an image with clusters of 64 KiB.
fn set_count(path: &Path, cluster: u64, count: u16) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let block = number(number(48));
    file.write_all_at(&count.to_be_bytes(), block + cluster * 2).unwrap();
}

#[test]
fn leaks_and_corruptions_have_exit_codes_of_their_own_and_are_repaired() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_images(&folder);
    let vireo = env!("CARGO_BIN_EXE_vireo");
    // A count too many, on a cluster behind the others.
    let clusters = std::fs::metadata(folder.path("compressed.qcow2")).unwrap().len().div_ceil(65536);
    set_count(&folder.path("compressed.qcow2"), clusters - 1, 9);
    let found = json(&folder.run(vireo, "image check -f qcow2 --output json compressed.qcow2", 3));
    assert_eq!(found["leaks"], 1);
    folder.assert_same_json("check -f qcow2", "compressed.qcow2");
    let fixed = json(&folder.vireo("check -f qcow2 -r leaks --output json compressed.qcow2"));
    assert_eq!((&fixed["leaks-fixed"], &fixed["leaks"]), (&Value::from(1), &Value::Null));
    folder.qemu_img("check -f qcow2 compressed.qcow2");

    set_count(&folder.path("plain.qcow2"), 0, 0);
    let found = json(&folder.run(vireo, "image check -f qcow2 --output json plain.qcow2", 2));
    assert_eq!(found["corruptions"], 1);
    folder.run(vireo, "image check -f qcow2 -r leaks plain.qcow2", 2);
    let fixed = json(&folder.vireo("check -f qcow2 -r all --output json plain.qcow2"));
    assert_eq!((&fixed["corruptions-fixed"], &fixed["corruptions"]), (&Value::from(1), &Value::Null));
    folder.qemu_img("check -f qcow2 plain.qcow2");
}

#[test]
fn images_are_resized_and_shrunk_only_if_told_so() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    make_images(&folder);
    let size =
        |image: &str| json(&folder.vireo(&format!("info --output json {image}")))["virtual-size"].clone();
    folder.vireo("resize -f qcow2 plain.qcow2 +2M");
    assert_eq!(size("plain.qcow2"), 12 << 20);
    assert!(folder.refused("resize -f qcow2 plain.qcow2 -1M").contains("--shrink"));
    assert_eq!(size("plain.qcow2"), 12 << 20);
    folder.vireo("resize -f qcow2 --shrink plain.qcow2 -7M");
    assert_eq!(size("plain.qcow2"), 5 << 20);
    folder.qemu_img("check -f qcow2 plain.qcow2");
    folder.vireo("resize -f raw base.raw 6M");
    assert_eq!(size("base.raw"), 6 << 20);
    // What the longer backing file has now is not to be seen in the image above it after it has grown.
    folder.vireo("resize -f qcow2 top.qcow2 8M");
    folder.qemu_io("top.qcow2", &["read -P 17 64k 192k", "read -P 0 4M 4M"]);
    folder.qemu_img("check -f qcow2 top.qcow2");
    assert!(folder.refused("resize -f raw base.raw -6M").contains("not a size"));
    // Storage for what is added.
    let stored = |image: &str| {
        json(&folder.vireo(&format!("info --output json {image}")))["actual-size"].as_u64().unwrap()
    };
    for mode in ["falloc", "full"] {
        let before = stored("base.raw");
        folder.vireo(&format!("resize -f raw --preallocation {mode} base.raw +2M"));
        assert!(stored("base.raw") >= before + (2 << 20), "{mode}");
    }
    assert_eq!(size("base.raw"), 10 << 20);
    folder.qemu_io("base.raw", &["read -P 17 64k 192k", "read -P 0 256k 9984k"]);
    assert!(
        folder.refused("resize -f qcow2 --preallocation=full plain.qcow2 +1M").contains("raw images only")
    );
    assert_eq!(size("plain.qcow2"), 5 << 20);
}

#[test]
fn converted_images_hold_what_qemu_sees_in_the_source() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    let mut images = make_images(&folder);
    images.push("base.raw");
    for image in images {
        let from = Path::new(image).extension().unwrap().to_str().unwrap();
        for (to, options) in [
            ("raw", ""),
            ("qcow2", ""),
            ("qcow2", "-o cluster_size=512"),
            ("qcow2", "-o cluster_size=2M,extended_l2=on"),
        ] {
            folder.vireo(&format!("convert -q -f {from} -O {to} {options} {image} copy"));
            folder.qemu_img(&format!("compare -f {from} -F {to} {image} copy"));
            folder.vireo(&format!("compare -f {to} -F {from} copy {image}"));
            if to == "qcow2" {
                folder.qemu_img("check -f qcow2 copy");
                assert_eq!(json(&folder.vireo("info --output json copy"))["backing-filename"], Value::Null);
            }
        }
    }
}

#[test]
fn a_converted_image_takes_no_storage_for_zeroes() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    folder.qemu_img("create -f raw base.raw 4G");
    // 32 MiB of zeroes that are allocated, and two pieces of data around them.
    folder.qemu_io("base.raw", &["write -P 1 1G 64k", "write -P 0 2G 32M", "write -P 2 4194240k 64k"]);
    for (format, most) in [("raw", 256 << 10), ("qcow2", 1 << 20)] {
        folder.vireo(&format!("convert -f raw -O {format} base.raw copy"));
        folder.qemu_img(&format!("compare -f raw -F {format} base.raw copy"));
        let info = json(&folder.vireo(&format!("info -f {format} --output json copy")));
        assert!(info["actual-size"].as_u64().unwrap() <= most, "{info}");
    }
}

#[test]
fn a_conversion_that_fails_leaves_what_was_there() {
    if !has_qemu() {
        return;
    }
    let folder = Folder::new();
    folder.qemu_img("create -f qcow2 broken.qcow2 1M");
    folder.qemu_io("broken.qcow2", &["write 0 1M"]);
    // The data, behind the tables, is gone: it can't be read.
    let file = std::fs::File::options().read(true).write(true).open(folder.path("broken.qcow2")).unwrap();
    {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 40).unwrap();
        // The entry of the L1 table now names a place that is no cluster.
        file.write_all_at(&(1u64 << 63 | 0x1200).to_be_bytes(), u64::from_be_bytes(bytes)).unwrap();
    }
    std::fs::write(folder.path("target"), "precious").unwrap();
    assert!(folder.refused("convert -f qcow2 broken.qcow2 target").contains("broken.qcow2"));
    assert!(
        folder.refused("convert -f qcow2 -o cluster_size=4k broken.qcow2 target").contains("no such option")
    );
    assert!(folder.refused("convert -f raw target target").contains("multiple of 512"));
    assert_eq!(std::fs::read_to_string(folder.path("target")).unwrap(), "precious");
    assert_eq!(folder.names(), ["broken.qcow2", "target"]);
    std::fs::write(folder.path("target"), [1; 512]).unwrap();
    assert!(folder.refused("convert -f raw target target").contains("this process"));
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let folder = Folder::new();
    // Enough that it takes a while: data everywhere.
    std::fs::write(folder.path("source"), vec![0xa5; 256 << 20]).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_vireo"))
        .args([
            "image",
            "convert",
            "-p",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            "cluster_size=512",
            "source",
            "target",
        ])
        .current_dir(folder.0.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The first line says that it is under way.
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "10% done");
    assert_eq!(folder.names().len(), 2, "the new image has a temporary name: {:?}", folder.names());
    assert!(!folder.path("target").exists());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.last().unwrap().contains("target was not made"), "{rest:?}");
    assert_eq!(folder.names(), ["source"]);
}

#[test]
fn compare_has_qemu_imgs_exit_codes_and_finds_the_first_difference() {
    let folder = Folder::new();
    let vireo = env!("CARGO_BIN_EXE_vireo");
    folder.vireo("create -q -f raw zero 8M");
    let mut content = vec![0; 6 << 20];
    std::fs::write(folder.path("short"), &content).unwrap();
    let compare = |arguments: &str, code| folder.run(vireo, &format!("image compare {arguments}"), code);
    assert!(compare("-f raw -F raw zero short", 0).contains("identical"));
    compare("-s -f raw -F raw zero short", 1);
    content[5_000_001] = 1;
    content[3_000_001] = 1;
    std::fs::write(folder.path("other"), &content).unwrap();
    assert_eq!(compare("-f raw -F raw zero other", 1), "Content mismatch at offset 3000001!\n");
    assert_eq!(compare("-f raw -F raw other short", 1), "Content mismatch at offset 3000001!\n");
    content[3_000_001] = 0;
    content.resize(8 << 20, 3);
    std::fs::write(folder.path("longer"), &content).unwrap();
    assert_eq!(compare("-f raw -F raw short longer", 1), "Content mismatch at offset 5000001!\n");
    compare("-f raw -F raw short missing", 2);
    compare("-f qcow2 -F raw short longer", 2);
}
