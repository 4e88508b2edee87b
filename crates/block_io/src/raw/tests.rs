//! Raw disks: the contract in every mode, and what is refused when opening.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use rustix::fs::Mode;

use super::*;
use crate::conformance::{Buffer, Driver, Subject};
use crate::engine::EngineChoice;
use crate::file::Locking;

/// A directory on a real file system: `/tmp` is often a tmpfs, which refuses parts of what is tested.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/var/tmp")).unwrap()
}

fn image(bytes: u64) -> (tempfile::TempDir, PathBuf) {
    let directory = directory();
    let path = directory.path().join("disk.img");
    File::create(&path).unwrap().set_len(bytes).unwrap();
    (directory, path)
}

fn subject(options: RawOptions) -> Subject {
    Subject::new(move |bytes, read_only| {
        // The file is gone from its directory, and lives on in the disk.
        let (_directory, path) = image(bytes);
        Box::new(RawDisk::open(&path, &RawOptions { read_only, ..options }).unwrap())
    })
}

fn options(cache: CacheMode, engine: EngineChoice) -> RawOptions {
    RawOptions { cache, engine, ..RawOptions::default() }
}

crate::block_conformance!(writeback, subject(RawOptions::default()));
crate::block_conformance!(writeback_threads, subject(options(CacheMode::Writeback, EngineChoice::Threads)));
crate::block_conformance!(direct, subject(options(CacheMode::None, EngineChoice::Automatic)));
crate::block_conformance!(direct_threads, subject(options(CacheMode::None, EngineChoice::Threads)));
crate::block_conformance!(writethrough, subject(options(CacheMode::Writethrough, EngineChoice::Automatic)));
crate::block_conformance!(unsafe_cache, subject(options(CacheMode::Unsafe, EngineChoice::Automatic)));

fn refusal(path: &Path, options: &RawOptions) -> String {
    let error = RawDisk::open(path, options).unwrap_err();
    let message = format!("{error}");
    assert!(message.contains(&path.display().to_string()), "{message}");
    message
}

#[test]
fn what_is_no_disk_is_refused_with_the_reason() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    let default = RawOptions::default();
    assert!(refusal(&path("missing"), &default).contains("does not exist"));
    assert!(refusal(directory.path(), &default).contains("directory"));
    assert!(refusal(directory.path(), &RawOptions { read_only: true, ..default }).contains("directory"));
    File::create(path("empty")).unwrap();
    assert!(refusal(&path("empty"), &default).contains("it is empty"));
    File::create(path("odd")).unwrap().set_len(1000).unwrap();
    let message = refusal(&path("odd"), &default);
    assert!(message.contains("1000 bytes") && message.contains("truncate --size=1024"), "{message}");
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    assert!(refusal(&path("fifo"), &default).contains("FIFO"));
    assert!(refusal(Path::new("/dev/null"), &default).contains("character device"));
}

#[test]
fn a_file_without_permission_is_refused() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may read everything");
        return;
    }
    let (_directory, path) = image(4096);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    assert!(refusal(&path, &RawOptions::default()).contains("Permission denied"));
}

#[test]
fn a_second_writer_is_kept_out_and_told_who_is_in() {
    let (_directory, path) = image(4096);
    let writer = RawOptions::default();
    let reader = RawOptions { read_only: true, ..writer };
    let first = RawDisk::open(&path, &writer).unwrap();
    for options in [writer, reader] {
        let message = refusal(&path, &options);
        assert!(message.contains("cannot lock") && message.contains("this process"), "{message}");
    }
    RawDisk::open(&path, &RawOptions { locking: Locking::Shared, ..writer }).unwrap();
    let queue = first.open_queue(1).unwrap();
    drop(first);
    assert!(RawDisk::open(&path, &reader).is_err(), "a queue keeps its disk");
    drop(queue);
    let _one = RawDisk::open(&path, &reader).unwrap();
    let _two = RawDisk::open(&path, &reader).unwrap();
    assert!(RawDisk::open(&path, &writer).is_err(), "readers keep a writer out");
}

#[test]
fn the_process_that_holds_the_lock_is_named() {
    let (_directory, path) = image(4096);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    // A child gets the same open file, and with it the lock.
    let inherited = file.try_clone().unwrap();
    let disk = RawDisk::adopt(&path, OwnedFd::from(file), &RawOptions::default()).unwrap();
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .stdin(std::process::Stdio::from(inherited))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    drop(disk);
    let result = RawDisk::open(&path, &RawOptions::default());
    child.kill().unwrap();
    child.wait().unwrap();
    let message = result.unwrap_err().to_string();
    assert!(message.contains(&format!("process {} (sleep)", child.id())), "{message}");
    RawDisk::open(&path, &RawOptions::default()).unwrap();
}

#[test]
fn an_adopted_file_must_be_open_in_a_way_that_suits() {
    let (_directory, path) = image(4096);
    let adopt = |file: &mut OpenOptions, read_only| {
        let fd = OwnedFd::from(file.open(&path).unwrap());
        let options = RawOptions { read_only, ..RawOptions::default() };
        RawDisk::adopt(Path::new("adopted"), fd, &options).map_err(|error| error.to_string())
    };
    adopt(OpenOptions::new().read(true).write(true), false).unwrap();
    adopt(OpenOptions::new().read(true), true).unwrap();
    let refused = adopt(OpenOptions::new().read(true), false).unwrap_err();
    assert!(refused.contains("adopted: ") && refused.contains("reading only"), "{refused}");
    assert!(adopt(OpenOptions::new().write(true), false).unwrap_err().contains("writing only"));
    assert!(adopt(OpenOptions::new().read(true).append(true), false).unwrap_err().contains("appending"));
}

#[test]
fn discards_and_zeroes_give_storage_back() {
    let (_directory, path) = image(1 << 20);
    let disk = RawDisk::open(&path, &RawOptions::default()).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let allocated = || std::fs::metadata(&path).unwrap().blocks();
    let mut data = Buffer::patterned(1 << 20, 1);
    let bytes = 1 << 20;
    for operation in [
        BlockOperation::Discard { offset: 0, bytes },
        BlockOperation::WriteZeroes { offset: 0, bytes, may_unmap: true },
    ] {
        driver.write(0, data.pieces(&[1 << 20]), false).unwrap();
        driver.run(BlockOperation::Flush).unwrap();
        assert!(allocated() >= 2048);
        driver.run(operation).unwrap();
        assert_eq!(allocated(), 0);
    }
    driver.run(BlockOperation::WriteZeroes { offset: 0, bytes, may_unmap: false }).unwrap();
    assert!(allocated() >= 2048, "zeroes that keep their storage");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
}

#[test]
fn zeroes_are_written_where_the_file_system_cannot_make_them() {
    let (_directory, path) = image(8192);
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let disk = RawDisk::open(&path, &options(cache, EngineChoice::Automatic)).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.write_all_at(&[5; 8192], 0).unwrap();
        disk.shared.file.access.write_zero_bytes(4096, 4096).unwrap();
        let mut content = [0; 8192];
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content[..4096], [5; 4096]);
        assert_eq!(content[4096..], [0; 4096]);
    }
}

#[test]
fn a_write_that_was_admitted_before_the_disk_shrank_does_not_lengthen_the_file() {
    let (_directory, path) = image(1 << 20);
    let disk = RawDisk::open(&path, &RawOptions::default()).unwrap();
    for drained in [true, false] {
        disk.resize(1 << 20).unwrap();
        let mut driver = Driver::open(&disk, 4);
        let mut data = Buffer::patterned(4096, 1);
        let segments = data.pieces(&[4096]);
        let offset = (1 << 20) - 4096;
        // With a ring it starts only when kicked, so after the disk has shrunk.
        driver.submit(1, BlockOperation::Write { offset, segments, durable: false }).unwrap();
        disk.resize(4096).unwrap();
        if drained {
            driver.drain();
        }
        drop(driver);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096, "reaped: {drained}");
    }
}

#[test]
fn a_misaligned_request_larger_than_the_bounce_buffer_is_whole() {
    let (_directory, path) = image(4 << 20);
    let disk = RawDisk::open(&path, &options(CacheMode::None, EngineChoice::Automatic)).unwrap();
    let mut driver = Driver::open(&disk, 4);
    let bytes = (3 << 20) + 4096;
    let mut source = Buffer::shifted(bytes, 1);
    source.fill_pattern(11);
    driver.write(4096, source.pieces(&[100, bytes - 100]), true).unwrap();
    let mut target = Buffer::shifted(bytes, 3);
    driver.read(4096, target.pieces(&[bytes])).unwrap();
    assert!(target.bytes() == source.bytes());
    let mut content = vec![0; bytes];
    File::open(&path).unwrap().read_exact_at(&mut content, 4096).unwrap();
    assert!(content == source.bytes());
}

#[test]
fn the_write_cache_is_as_the_cache_mode_says() {
    let (_directory, path) = image(4096);
    for (cache, expected) in [
        (CacheMode::Writeback, true),
        (CacheMode::None, true),
        (CacheMode::Unsafe, true),
        (CacheMode::Writethrough, false),
        (CacheMode::Directsync, false),
    ] {
        let disk = RawDisk::open(&path, &options(cache, EngineChoice::Automatic)).unwrap();
        assert_eq!(disk.write_cache(), expected, "{cache:?}");
    }
}

#[test]
fn a_block_device_is_used_with_its_own_block_size_and_is_not_resized() {
    let (_directory, path) = image(1 << 20);
    let Some(device) = LoopDevice::attach(&path) else { return };
    let subject_path = device.path.clone();
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let disk = RawDisk::open(&subject_path, &options(cache, EngineChoice::Automatic)).unwrap();
        assert_eq!(disk.capacity(), 1 << 20);
        assert_eq!(disk.geometry().logical_block_bytes, 4096);
        let mut driver = Driver::open(&disk, 4);
        let mut source = Buffer::patterned(8192, 2);
        driver.write(4096, source.pieces(&[8192]), true).unwrap();
        let zeroes = |may_unmap| BlockOperation::WriteZeroes { offset: 4096, bytes: 4096, may_unmap };
        driver.run(zeroes(false)).unwrap();
        driver.run(zeroes(true)).unwrap();
        let mut target = Buffer::filled(8192, 0xee);
        driver.read(4096, target.pieces(&[1, 8191])).unwrap();
        assert_eq!(target.bytes()[..4096], [0; 4096]);
        assert_eq!(target.bytes()[4096..], source.bytes()[4096..]);
        driver.run(BlockOperation::Discard { offset: 0, bytes: 1 << 20 }).unwrap();
        assert!(disk.resize(2 << 20).unwrap_err().to_string().contains("lvextend"));
    }
}

/// A block device over a file, with blocks of 4096 bytes.
struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    fn attach(file: &Path) -> Option<Self> {
        let output = std::process::Command::new("losetup")
            .args(["--find", "--show", "--sector-size", "4096"])
            .arg(file)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Self { path: PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()) })
            }
            Ok(output) => {
                eprintln!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: losetup: {error}");
                None
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}
