//! The program under the name of qemu-img: the calls that other programs make.

use super::{Folder, has_qemu, json};

const VIREO: &str = env!("CARGO_BIN_EXE_vireo");

struct Link {
    folder: Folder,
    program: String,
}

impl Link {
    fn new() -> Self {
        let folder = Folder::new();
        std::fs::create_dir(folder.path("bin")).unwrap();
        let path = folder.path("bin/qemu-img");
        std::os::unix::fs::symlink(VIREO, &path).unwrap();
        Self { program: path.to_str().unwrap().to_owned(), folder }
    }

    #[track_caller]
    fn run(&self, arguments: &str) -> String {
        self.folder.run(&self.program, arguments, 0)
    }

    /// Runs what has to fail with this code; returns what it says.
    #[track_caller]
    fn refused(&self, arguments: &str, code: i32) -> String {
        let output = self.folder.output(&self.program, arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {message}");
        assert!(message.starts_with("qemu-img: "), "{arguments}: {message}");
        message
    }
}

#[test]
fn version_and_help_can_be_parsed_as_those_of_qemu_img() {
    let link = Link::new();
    for option in ["--version", "-V"] {
        let version = link.run(option);
        let number = version.strip_prefix("qemu-img version ").unwrap().split(' ').next().unwrap();
        assert!(number.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
        assert!(version.contains("Vireo"), "{version}");
    }
    let help = link.run("--help");
    let formats = help.lines().find_map(|line| line.strip_prefix("Supported formats: ")).unwrap();
    assert!(
        ["qcow2", "raw", "vmdk", "vhdx", "vpc", "vdi"]
            .iter()
            .all(|name| formats.split(' ').any(|word| word == *name))
    );
    for verb in
        ["info", "convert", "check", "measure", "map", "rebase", "commit", "resize", "create", "compare"]
    {
        assert!(help.contains(verb), "{verb}");
        assert!(link.run(&format!("{verb} --help")).contains(&format!("qemu-img {verb}")));
    }
}

#[test]
fn wrong_usage_ends_with_1_and_names_that_are_no_paths_are_refused() {
    let link = Link::new();
    std::fs::write(link.folder.path("disk"), [0; 512]).unwrap();
    link.refused("", 1);
    link.refused("bogus", 1);
    link.refused("info", 1);
    link.refused("info --no-such-option disk", 1);
    link.refused("info missing", 1);
    link.refused("compare disk", 2);
    for (arguments, reason) in [
        ("info json:{}", "json:"),
        ("info nbd:localhost:10809", "nbd:"),
        ("info --image-opts driver=raw,file.filename=disk", "--image-opts"),
        ("convert --target-image-opts disk driver=raw", "--target-image-opts"),
        ("info --object=secret,id=s disk", "--object"),
        ("create -f qcow2 -b https://example.org/x -F raw new 1M", "https:"),
    ] {
        let message = link.refused(arguments, 1);
        assert!(message.contains(reason), "{arguments}: {message}");
    }
}

#[test]
fn formats_are_probed_for_reading_and_never_for_writing() {
    if !has_qemu() {
        return;
    }
    let link = Link::new();
    link.folder.qemu_img("create -f qcow2 disk 2M");
    link.folder.qemu_io("disk", &["write -P 1 0 1M"]);
    link.folder.qemu_img("convert -f qcow2 -O raw disk copy.raw");
    assert!(link.run("info disk").contains("file format: qcow2\n"), "as its callers parse it");
    assert_eq!(link.run("compare disk copy.raw"), "Images are identical.\n");
    assert_eq!(json(&link.run("map --output=json disk"))[0]["length"], 1 << 20);
    link.run("check disk");
    link.run("convert disk -O raw again.raw");
    link.folder.qemu_img("compare -f raw -F raw copy.raw again.raw");
    for arguments in ["resize disk +1M", "check -r all disk", "commit disk", "rebase -u -b= disk"] {
        let message = link.refused(arguments, 1);
        assert!(message.contains("not guessed"), "{arguments}: {message}");
    }
    // The same without the name: nothing that is used is guessed.
    for arguments in ["map disk", "compare disk disk", "check disk", "measure disk"] {
        let output = link.folder.output(VIREO, &format!("image {arguments}"));
        assert!(!output.status.success(), "{arguments}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("-f"), "{arguments}");
    }
}

#[test]
fn calls_of_other_programs_are_answered() {
    if !has_qemu() {
        return;
    }
    let link = Link::new();
    link.folder.qemu_img("create -f raw source.raw 4M");
    link.folder.qemu_io("source.raw", &["write -P 1 1M 1M"]);
    // libvirt's storage driver and virt-install.
    link.run("create -f qcow2 -o compat=1.1,lazy_refcounts disk.qcow2 4096K");
    link.run("create -f qcow2 -o backing_file=disk.qcow2,backing_fmt=qcow2 over.qcow2");
    link.run("resize -f qcow2 over.qcow2 8388608");
    link.run("info --output json -f qcow2 over.qcow2");
    // OpenStack's.
    let info = json(&link.run("info source.raw -f raw --output=json --force-share"));
    assert_eq!(info["virtual-size"], 4 << 20);
    link.run("rebase -u -f qcow2 -b= over.qcow2");
    link.run("convert -f raw -O qcow2 source.raw glance.qcow2");
    link.folder.qemu_img("compare -f raw -F qcow2 source.raw glance.qcow2");
    // oVirt's, virt-manager's, libguestfs's.
    json(&link.run("measure --output json -f raw -O qcow2 source.raw"));
    json(&link.run("map --output json -f raw source.raw"));
    json(&link.run("check --output json -f qcow2 glance.qcow2"));
    json(&link.run("info --output json -U --backing-chain glance.qcow2"));
    link.run("-T enable=x info glance.qcow2");
    // A meter for those who read it.
    let shown = link.run("compare -p -f raw -F qcow2 source.raw glance.qcow2");
    assert!(shown.contains("(100.00/100%)\r"), "{shown:?}");
}
