//! Identities renewed on file systems that mkfs.ext4(8) made, raw and in qcow2 images.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use block_io::RawOptions;
use block_io::operations::{CopyOptions, ImageAccess, ImageFormat, NewImage, OpenImage, copy};
use block_io::qcow2::Qcow2Parameters;
use guest_identity::disk_layout::Content;
use guest_identity::renewal::{NewIdentity, Renewal, RenewalError, describe};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The tree of a guest that has been started before.
    fn guest(&self) -> PathBuf {
        let root = self.path("tree");
        for directory in ["etc/ssh", "var/lib/dbus", "var/lib/systemd", "home"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        let write = |name: &str, content: &str, mode: u32| {
            std::fs::write(root.join(name), content).unwrap();
            std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644);
        write("etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444);
        write("etc/hostname", "old\n", 0o644);
        write("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n", 0o644);
        write("var/lib/systemd/random-seed", "seed", 0o600);
        write("home/data", &"data ".repeat(10_000), 0o644);
        for kind in ["ed25519", "ecdsa"] {
            let key = root.join(format!("etc/ssh/ssh_host_{kind}_key"));
            ran(Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-C", "root@old", "-t", kind, "-f"])
                .arg(&key));
        }
        write("etc/ssh/ssh_host_dsa_key", "old", 0o600);
        root
    }

    /// A raw disk with an ext4 file system of `tree` at `start`, described by a boot record where that is not 0.
    fn disk(&self, name: &str, tree: &Path, start: u64) -> PathBuf {
        let file_system = self.path("file-system");
        let _ = std::fs::remove_file(&file_system);
        ran(Command::new("/usr/sbin/mkfs.ext4")
            .args(["-q", "-E", "root_owner=0:0", "-O", "metadata_csum,64bit", "-d"])
            .arg(tree)
            .arg(&file_system)
            .arg("24M"));
        let disk = self.path(name);
        let file = File::create(&disk).unwrap();
        file.set_len(start + 32 * MIB).unwrap();
        file.write_all_at(&std::fs::read(&file_system).unwrap(), start).unwrap();
        if start > 0 {
            let mut record = [0; 512];
            record[450] = 0x83;
            record[454..458].copy_from_slice(&u32::try_from(start / 512).unwrap().to_le_bytes());
            record[458..462].copy_from_slice(&u32::try_from(32 * MIB / 512).unwrap().to_le_bytes());
            record[510..].copy_from_slice(&[0x55, 0xaa]);
            file.write_all_at(&record, 0).unwrap();
        }
        disk
    }

    /// A file out of the file system at `start` of a disk, as debugfs reads it.
    fn file(&self, disk: &Path, start: u64, path: &str) -> String {
        let request = format!("cat {path}");
        ran(Command::new("/usr/sbin/debugfs").arg("-R").arg(request).arg(at(disk, start)))
    }

    fn stat(&self, disk: &Path, start: u64, path: &str) -> String {
        ran(Command::new("/usr/sbin/debugfs").arg("-R").arg(format!("stat {path}")).arg(at(disk, start)))
    }
}

fn at(disk: &Path, start: u64) -> String {
    format!("{}?offset={start}", disk.display())
}

fn ran(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install what tools/install-dependencies lists")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn open(path: &Path, format: ImageFormat, read_only: bool) -> OpenImage {
    let access =
        ImageAccess { file: RawOptions { read_only, ..RawOptions::default() }, ..ImageAccess::default() };
    OpenImage::open(path, format, &access).unwrap()
}

fn on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn prepare(disk: &Path, identity: &NewIdentity) -> Result<Renewal, RenewalError> {
    Renewal::prepare(&open(disk, ImageFormat::Raw, true), identity, &mut on)
}

fn renewed(disk: &Path, copy: &Path, format: ImageFormat, identity: &NewIdentity) -> Vec<String> {
    let renewal = prepare(disk, identity).unwrap();
    renewal.apply(&open(copy, format, false), &mut on).unwrap();
    renewal.changes()
}

fn named(name: &str) -> NewIdentity {
    NewIdentity { host_name: Some(name.to_owned()) }
}

#[test]
fn a_copy_has_an_empty_machine_id_new_keys_and_its_own_name_and_everything_else_unchanged() {
    let place = Place::new();
    let start = MIB;
    let source = place.disk("source", &place.guest(), start);
    let copy = place.path("copy");
    std::fs::copy(&source, &copy).unwrap();
    let before = std::fs::read(&source).unwrap();
    let changes = renewed(&source, &copy, ImageFormat::Raw, &named("new"));
    assert!(changes.contains(&"partition 1: ssh host key ed25519".to_owned()), "{changes:?}");
    assert_eq!(std::fs::read(&source).unwrap(), before, "the source is only read");

    assert_eq!(place.file(&copy, start, "/etc/machine-id"), "");
    assert!(place.stat(&copy, start, "/etc/machine-id").contains("Mode:  0444"));
    assert_eq!(place.file(&copy, start, "/etc/hostname"), "new\n");
    assert_eq!(place.file(&copy, start, "/home/data"), "data ".repeat(10_000));
    assert!(
        place.stat(&copy, start, "/var/lib/dbus/machine-id").contains("Fast link dest: \"/etc/machine-id\"")
    );
    for gone in ["/var/lib/systemd/random-seed", "/etc/ssh/ssh_host_dsa_key"] {
        assert_eq!(place.stat(&copy, start, gone), "", "{gone}");
    }
    for kind in ["ed25519", "ecdsa"] {
        let private = format!("/etc/ssh/ssh_host_{kind}_key");
        let public = format!("{private}.pub");
        assert_ne!(place.file(&copy, start, &public), place.file(&source, start, &public));
        assert!(place.file(&copy, start, &public).ends_with("root@new\n"));
        let stat = place.stat(&copy, start, &private);
        let owner = own_user();
        assert!(stat.contains("Mode:  0600") && stat.contains(&format!("User: {owner:>5}")), "{stat}");
        // The two belong together.
        let key = place.path("key");
        std::fs::write(&key, place.file(&copy, start, &private)).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let derived = ran(Command::new("ssh-keygen").args(["-y", "-f"]).arg(&key));
        assert_eq!(derived.trim_end(), place.file(&copy, start, &public).trim_end());
    }
    ran(Command::new("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(at(&copy, start)));
    // Nothing but the file system is touched.
    let after = std::fs::read(&copy).unwrap();
    let (first, end) = (usize::try_from(start).unwrap(), usize::try_from(start + 24 * MIB).unwrap());
    assert!(after[..first] == before[..first] && after[end..] == before[end..]);
}

/// Files that mkfs.ext4 takes from a tree keep their owners.
fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn a_qcow2_copy_of_a_disk_without_partitions_is_renewed_as_well() {
    let place = Place::new();
    let source = place.disk("source", &place.guest(), 0);
    let copy_path = place.path("copy.qcow2");
    let bytes = std::fs::metadata(&source).unwrap().len();
    NewImage::Qcow2(Qcow2Parameters::new(bytes)).create(&copy_path).unwrap();
    {
        let target = open(&copy_path, ImageFormat::Qcow2, false);
        copy(&open(&source, ImageFormat::Raw, true), &target, &CopyOptions::default(), &mut on).unwrap();
    }
    let changes = renewed(&source, &copy_path, ImageFormat::Qcow2, &NewIdentity::default());
    assert!(changes.iter().all(|change| change.starts_with("the whole disk: ")), "{changes:?}");
    let raw = place.path("raw");
    ran(Command::new("qemu-img").args(["convert", "-O", "raw"]).args([&copy_path, &raw]));
    assert_eq!(place.file(&raw, 0, "/etc/machine-id"), "");
    assert_eq!(place.file(&raw, 0, "/etc/hostname"), "old\n");
    ran(Command::new("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(&raw));
    ran(Command::new("qemu-img").arg("check").arg(&copy_path));
}

#[test]
fn a_disk_without_a_root_is_told_apart_from_one_with() {
    let place = Place::new();
    let tree = place.path("boot");
    std::fs::create_dir_all(tree.join("grub")).unwrap();
    let disk = place.disk("boot.raw", &tree, MIB);
    let renewal = prepare(&disk, &NewIdentity::default()).unwrap();
    assert!(renewal.is_empty() && renewal.changes().is_empty());
    assert!(matches!(renewal.partitions[0].content, Content::Ext { .. }));
    let other = place.path("xfs.raw");
    let file = File::create(&other).unwrap();
    file.set_len(8 * MIB).unwrap();
    file.write_all_at(b"XFSB", 0).unwrap();
    let renewal = prepare(&other, &NewIdentity::default()).unwrap();
    assert!(renewal.is_empty());
    assert_eq!(describe(&renewal.partitions), "the whole disk has XFS");
}

#[test]
fn a_file_system_with_errors_is_refused_and_the_disk_left_alone() {
    let place = Place::new();
    let disk = place.disk("source", &place.guest(), 0);
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    // Most of the first group's table of inodes, found where debugfs says that it is.
    let stat = ran(Command::new("/usr/sbin/debugfs").args(["-R", "imap /etc"]).arg(&disk));
    let block: u64 = stat
        .split("located at block ")
        .nth(1)
        .unwrap()
        .split([',', ' ', '\n'])
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let size = ran(Command::new("/usr/sbin/debugfs").args(["-R", "stats"]).arg(&disk));
    let size: u64 =
        size.lines().find(|line| line.starts_with("Block size:")).unwrap()[11..].trim().parse().unwrap();
    file.write_all_at(&vec![0xa5; 4096], block * size).unwrap();
    let before = std::fs::read(&disk).unwrap();
    let error = prepare(&disk, &NewIdentity::default()).unwrap_err();
    assert!(matches!(error, RenewalError::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read(&disk).unwrap(), before);
}

#[test]
fn an_interrupted_preparation_ends() {
    let place = Place::new();
    let disk = place.disk("source", &place.guest(), 0);
    let image = open(&disk, ImageFormat::Raw, true);
    let result = Renewal::prepare(&image, &NewIdentity::default(), &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(result.unwrap_err(), RenewalError::Interrupted));
}

#[test]
fn a_smaller_disk_is_not_written() {
    let place = Place::new();
    let disk = place.disk("source", &place.guest(), MIB);
    let renewal = prepare(&disk, &NewIdentity::default()).unwrap();
    let small = place.path("small");
    File::create(&small).unwrap().set_len(4 * MIB).unwrap();
    assert!(renewal.apply(&open(&small, ImageFormat::Raw, false), &mut on).is_err());
    assert!(std::fs::read(&small).unwrap().iter().all(|byte| *byte == 0));
}
