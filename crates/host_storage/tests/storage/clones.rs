//! Copies of volumes and disks.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Child, Command, Stdio};

use block_io::operations::{ImageAccess, ImageFormat, OpenImage, compare};
use block_io::{FileLock, Qcow2Disk, RawOptions};
use host_storage::{CloneMethod, CloneMode, CloneSource, CloneTarget, DeleteMode, clone_disk};
use libvirt_xml::storage::{Permissions, VolumeFormat};

use super::*;

/// A file with data, holes and zeroes, of whole sectors.
fn fill(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    for (number, offset) in [0, 3 * MIB, 5 * MIB + 512, 7 * MIB].into_iter().enumerate() {
        file.write_all_at(&vec![u8::try_from(number).unwrap() + 1; 70_000], offset).unwrap();
    }
    file.write_all_at(&vec![0; 1 << 20], MIB).unwrap();
}

fn open(path: &Path, format: VolumeFormat) -> OpenImage {
    let format = if format == VolumeFormat::Qcow2 { ImageFormat::Qcow2 } else { ImageFormat::Raw };
    let file = RawOptions { read_only: true, ..RawOptions::default() };
    let access = ImageAccess { file, directories: vec![path.parent().unwrap().to_owned()] };
    OpenImage::open(path, format, &access).unwrap()
}

/// Bytes of the disk in an image, by way of a full copy to a raw file.
fn content(path: &Path, format: VolumeFormat) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw");
    let source = CloneSource { path: path.to_owned(), format, directories: Vec::new() };
    let target = CloneTarget {
        path: raw.clone(),
        format: Some(VolumeFormat::Raw),
        permissions: Permissions::default(),
    };
    clone_disk(&source, &target, CloneMode::FullCopy, &mut go_on).unwrap();
    std::fs::read(raw).unwrap()
}

#[test]
fn a_copy_has_the_content_in_whatever_format() {
    let host = Host::new();
    host.create(&raw("r", 8 * MIB)).unwrap();
    fill(&host.path("r"));
    let expected = std::fs::read(host.path("r")).unwrap();
    let copy = |document: &str, source: &str| {
        let options = CreateOptions::default();
        host.storage
            .create_volume_from(&host.pool, &volume(document), &host.pool, source, options, &mut go_on)
            .unwrap()
    };
    assert_eq!(copy(&raw("r2", 8 * MIB), "r").1, CloneMethod::FullCopy);
    assert!(std::fs::read(host.path("r2")).unwrap() == expected);
    let blocks = |name: &str| std::fs::metadata(host.path(name)).unwrap().blocks();
    assert!(blocks("r2") < blocks("r"), "zeroes take no storage in a copy");
    copy(&qcow2("q", 8 * MIB), "r");
    assert!(content(&host.path("q"), VolumeFormat::Qcow2) == expected);
    copy(&qcow2("q2", 0), "q");
    assert!(content(&host.path("q2"), VolumeFormat::Qcow2) == expected);
    copy(
        "<volume><name>r3</name><capacity>0</capacity><allocation>0</allocation><target><format type='raw'/></target></volume>",
        "q2",
    );
    assert!(std::fs::read(host.path("r3")).unwrap() == expected);
    let same = compare(
        &open(&host.path("r3"), VolumeFormat::Raw),
        &open(&host.path("q"), VolumeFormat::Qcow2),
        &mut go_on,
    );
    assert!(same.is_ok(), "{same:?}");
    // Larger than what is copied.
    copy(&raw("r4", 9 * MIB), "r");
    let found = std::fs::read(host.path("r4")).unwrap();
    assert_eq!(found.len() as u64, 9 * MIB);
    assert!(found[..expected.len()] == expected && found[expected.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_copy_between_pools_flattens_what_is_below() {
    let host = Host::new();
    let other = host.directory.path().join("other");
    let other = host.storage.create(pool_at("other", &other), Some(host_storage::BuildMode::Plain)).unwrap();
    host.create(&raw("base", 8 * MIB)).unwrap();
    fill(&host.path("base"));
    let base = host.path("base").display().to_string();
    host.create(&format!(
        "<volume><name>top</name><target><format type='qcow2'/></target>\
         <backingStore><path>{base}</path><format type='raw'/></backingStore></volume>"
    ))
    .unwrap();
    let (made, method) = host
        .storage
        .clone_volume(
            &other,
            &volume(&qcow2("flat", 0)),
            &host.pool,
            "top",
            CloneMode::Automatic,
            CreateOptions::default(),
            &mut go_on,
        )
        .unwrap();
    assert_eq!(method, CloneMethod::FullCopy, "what is below can't be shared by a copy of bytes");
    assert_eq!(Qcow2Disk::info(&made.path).unwrap().backing, None);
    assert!(content(&made.path, VolumeFormat::Qcow2) == std::fs::read(host.path("base")).unwrap());
    assert_eq!(host.storage.volume_by_path(&made.path).unwrap().0.name(), "other");
}

#[test]
fn a_copy_whose_document_names_what_its_source_is_based_on_is_independent() {
    let host = Host::new();
    for base in ["base", "other"] {
        host.create(&raw(base, 8 * MIB)).unwrap();
    }
    fill(&host.path("base"));
    let based = |name: &str, base: &str| {
        let base = host.path(base).display().to_string();
        format!(
            "<volume><name>{name}</name><target><format type='qcow2'/></target>\
             <backingStore><path>{base}</path><format type='raw'/></backingStore></volume>"
        )
    };
    host.create(&based("top", "base")).unwrap();
    let copy = |document: &str, mode| {
        let options = CreateOptions::default();
        let definition = volume(document);
        host.storage.clone_volume(&host.pool, &definition, &host.pool, "top", mode, options, &mut go_on)
    };
    let (made, method) = copy(&based("flat", "base"), CloneMode::FullCopy).unwrap();
    assert_eq!(method, CloneMethod::FullCopy);
    assert_eq!(Qcow2Disk::info(&made.path).unwrap().backing, None);
    assert!(content(&made.path, VolumeFormat::Qcow2) == std::fs::read(host.path("base")).unwrap());
    let error = copy(&based("else", "other"), CloneMode::FullCopy).unwrap_err();
    assert!(error.to_string().contains("can't be based on another file"), "{error}");
    assert!(copy(&based("over", "base"), CloneMode::Overlay).is_err(), "an overlay is based on its source");
    copy(&based("over", "top"), CloneMode::Overlay).unwrap();
    assert_eq!(host.files(), ["base", "flat", "other", "over", "top"]);
}

#[test]
fn an_overlay_is_made_when_it_is_asked_for_and_guards_its_source() {
    let host = Host::new();
    host.create(&raw("r", 8 * MIB)).unwrap();
    fill(&host.path("r"));
    let clone = |document: &str| {
        host.storage.clone_volume(
            &host.pool,
            &volume(document),
            &host.pool,
            "r",
            CloneMode::Overlay,
            CreateOptions::default(),
            &mut go_on,
        )
    };
    let document = "<volume><name>o</name></volume>";
    assert_eq!(clone(document).unwrap().1, CloneMethod::Overlay);
    assert!(content(&host.path("o"), VolumeFormat::Qcow2) == std::fs::read(host.path("r")).unwrap());
    assert!(std::fs::metadata(host.path("o")).unwrap().len() < MIB);
    let error = host.storage.delete_volume(&host.pool, "r", DeleteMode::Normal, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("volume 'o' is based on it"), "{error}");
    let raw = "<volume><name>x</name><target><format type='raw'/></target></volume>";
    assert!(clone(raw).unwrap_err().to_string().contains("qcow2"));
    assert_eq!(host.files(), ["o", "r"]);
}

#[test]
fn a_disk_is_copied_without_any_pool() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("disk");
    std::fs::File::create(&source).unwrap().set_len(8 * MIB).unwrap();
    fill(&source);
    let source = CloneSource { path: source, format: VolumeFormat::Raw, directories: Vec::new() };
    let target = |name: &str| CloneTarget {
        path: directory.path().join(name),
        format: None,
        permissions: Permissions { mode: Some(0o640), ..Permissions::default() },
    };
    let method = clone_disk(&source, &target("auto"), CloneMode::Automatic, &mut go_on).unwrap();
    assert!(matches!(method, CloneMethod::Reflink | CloneMethod::FullCopy));
    assert!(std::fs::read(directory.path().join("auto")).unwrap() == std::fs::read(&source.path).unwrap());
    assert_eq!(std::fs::metadata(directory.path().join("auto")).unwrap().mode() & 0o7777, 0o640);
    let method = clone_disk(&source, &target("over"), CloneMode::Overlay, &mut go_on).unwrap();
    assert_eq!(method.to_string(), "overlay");
    let again = clone_disk(&source, &target("over"), CloneMode::FullCopy, &mut go_on).unwrap_err();
    assert!(matches!(again, StorageError::VolumeExists(_)), "{again}");
    let file = std::fs::File::options().read(true).write(true).open(&source.path).unwrap();
    let _lock = FileLock::exclusive(Arc::new(file)).unwrap();
    let error = clone_disk(&source, &target("busy"), CloneMode::Automatic, &mut go_on).unwrap_err();
    assert!(matches!(error, StorageError::InUse { .. }), "{error}");
}

#[test]
fn a_copy_that_is_stopped_leaves_nothing() {
    let host = Host::new();
    host.create(&raw("r", 8 * MIB)).unwrap();
    fill(&host.path("r"));
    for document in [raw("copy", 0), qcow2("copy", 0)] {
        let mut stop =
            |done, total| if done < total / 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        let options = CreateOptions::default();
        let error = host
            .storage
            .create_volume_from(&host.pool, &volume(&document), &host.pool, "r", options, &mut stop)
            .unwrap_err();
        assert!(matches!(error, StorageError::Interrupted), "{error}");
        assert_eq!(host.files(), ["r"]);
        assert_eq!(host.volumes(), ["r"]);
    }
}

#[test]
fn a_process_that_is_killed_in_the_middle_leaves_no_volume() {
    let host = Host::new();
    host.create(&raw("r", 8 * MIB)).unwrap();
    fill(&host.path("r"));
    for format in ["raw", "qcow2"] {
        let mut child = child(format, &host.path("r"), &host.path("copy"));
        assert_eq!(host.files().len(), 2, "it is in the middle of it");
        assert!(!host.files().contains(&"copy".to_owned()));
        host.storage.refresh(&host.pool).unwrap();
        assert_eq!(host.volumes(), ["r"]);
        assert_eq!(host.files().len(), 2, "what a living process makes is left alone");
        child.kill().unwrap();
        child.wait().unwrap();
        host.storage.refresh(&host.pool).unwrap();
        assert_eq!(host.files(), ["r"]);
        assert_eq!(host.volumes(), ["r"]);
    }
}

/// Starts this test program again, to do something with two files until it is killed. It has begun when this returns.
pub(crate) fn child(role: &str, source: &Path, target: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "clones::what_a_child_does", "--ignored", "--nocapture"])
        .env("STORAGE_TEST_ROLE", role)
        .env("STORAGE_TEST_SOURCE", source)
        .env("STORAGE_TEST_TARGET", target)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let begun = lines.map_while(Result::ok).any(|line| line.contains("in the middle"));
    assert!(begun, "the child ended early");
    child
}

#[test]
#[ignore = "run by other tests, as a process of its own"]
fn what_a_child_does() {
    let variable = |name: &str| std::env::var_os(format!("STORAGE_TEST_{name}")).unwrap();
    let (source, target) = (PathBuf::from(variable("SOURCE")), PathBuf::from(variable("TARGET")));
    let pause = || {
        eprintln!("child: waiting to be killed");
        println!("in the middle");
        // Until the parent is gone, or kills us.
        let _ = std::io::stdin().read_line(&mut String::new());
    };
    let role = variable("ROLE").into_string().unwrap();
    if role == "hold" {
        let file = std::fs::File::options().read(true).write(true).open(&source).unwrap();
        let _lock = FileLock::exclusive(Arc::new(file)).unwrap();
        pause();
        return;
    }
    let source = CloneSource { path: source, format: VolumeFormat::Raw, directories: Vec::new() };
    let format = VolumeFormat::from_name(&role);
    let target = CloneTarget { path: target, format, permissions: Permissions::default() };
    let mut stop = |done: u64, total: u64| {
        if done >= total / 2 {
            pause();
        }
        ControlFlow::Continue(())
    };
    clone_disk(&source, &target, CloneMode::FullCopy, &mut stop).unwrap();
}
