//! Operations on whole images, without QEMU; `bin/vireo/tests/image.rs` compares with it.

mod layers;

use std::path::PathBuf;

use super::*;
use crate::file::RawOptions;
use crate::qcow2::Qcow2Parameters;

const MIB: u64 = 1 << 20;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in("/var/tmp")).unwrap()
}

fn names(directory: &tempfile::TempDir) -> Vec<PathBuf> {
    std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
}

#[test]
fn a_replacement_that_is_not_committed_leaves_what_was_there() {
    let directory = directory();
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, [7; 512]).unwrap();
    let replacement = Replacement::prepare(&path).unwrap();
    NewImage::sparse_raw(MIB).create(replacement.temporary_path()).unwrap();
    assert_eq!(names(&directory).len(), 2);
    drop(replacement);
    assert_eq!(names(&directory), [PathBuf::from("disk.raw")]);
    assert_eq!(std::fs::read(&path).unwrap(), [7; 512]);
}

#[test]
fn a_committed_replacement_is_the_only_file_left() {
    let directory = directory();
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, [7; 512]).unwrap();
    let replacement = Replacement::prepare(&path).unwrap();
    let preallocation = crate::qcow2::Preallocation::Falloc;
    let image = NewImage::Raw { bytes: MIB, preallocation, no_copy_on_write: false };
    image.create(replacement.temporary_path()).unwrap();
    replacement.commit().unwrap();
    assert_eq!(names(&directory), [PathBuf::from("disk.raw")]);
    assert!(std::fs::read(&path).unwrap() == vec![0; 1 << 20]);
    assert!(ImageInfo::read(&path, None).unwrap().allocated_bytes >= MIB, "the storage was to be reserved");
}

#[test]
fn an_image_in_use_is_not_replaced() {
    let directory = directory();
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, [7; 512]).unwrap();
    let access = ImageAccess {
        file: RawOptions { read_only: true, ..RawOptions::default() },
        ..ImageAccess::default()
    };
    let image = OpenImage::open(&path, ImageFormat::Raw, &access).unwrap();
    let message = Replacement::prepare(&path).unwrap_err().to_string();
    assert!(message.contains("has it open"), "{message}");
    drop(image);
    Replacement::prepare(&path).unwrap();
}

#[test]
fn info_opens_no_other_file_and_says_when_it_guessed_the_format() {
    let directory = directory();
    let path = directory.path().join("top.qcow2");
    let backing = Some(crate::qcow2::BackingName { name: "missing.raw".into(), format: "raw".into() });
    let parameters = Qcow2Parameters { backing, lazy_refcounts: true, ..Qcow2Parameters::new(3 * MIB) };
    NewImage::Qcow2(parameters).create(&path).unwrap();
    let info = ImageInfo::read(&path, None).unwrap();
    assert_eq!((info.format, info.probed, info.virtual_bytes), (ImageFormat::Qcow2, true, 3 * MIB));
    assert_eq!(info.full_backing_path(), Some(directory.path().join("missing.raw")));
    assert!(info.qcow2.unwrap().lazy_refcounts);
    let as_raw = ImageInfo::read(&path, Some(ImageFormat::Raw)).unwrap();
    assert_eq!((as_raw.format, as_raw.probed), (ImageFormat::Raw, false));
    assert_eq!(as_raw.virtual_bytes, as_raw.file_bytes.next_multiple_of(512));
}
