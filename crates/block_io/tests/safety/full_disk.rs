//! The host's file system is full in mid-write: whoever writes is told, everything else stays as it was, the image is sound,
//! and work goes on once there is space.
//!
//! Each test runs itself again in a mount namespace of its own, with a small tmpfs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use block_io::conformance::Driver;
use block_io::qcow2::{BackingAccess, BackingName, Qcow2Disk, Qcow2Options, Qcow2Parameters, Repair};
use block_io::{BlockBackend, BlockOperation, EngineChoice, RawDisk, RawOptions};
use rustix::io::Errno;

use crate::model::{Model, Step, content_of};
use crate::qemu::{check_code, content, has_qemu, run, text};
use crate::random::{Random, SECTOR, factor};

/// The directory, the kind of image and the seed for the process that does the work.
const WORKER: &str = "VIREO_TEST_FULL_DISK";
const DISK_BYTES: usize = 16 << 20;
/// Requests that have to fail before space comes.
const FAILURES: usize = 25;

/// Runs this program, or nothing, with a file system of 4 MiB at `directory`.
fn in_small_file_system(directory: &Path, program: &Path, task: &str) -> Output {
    let mut command = Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let script = "mount -t tmpfs -o size=4m none \"$1\" && shift && exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(directory);
    command.arg(program).args(["--exact", "full_disk::worker", "--nocapture", "--test-threads=1"]);
    command.env(WORKER, task).output().unwrap()
}

fn survives(kind: &str) {
    let directory = tempfile::tempdir().unwrap();
    if !in_small_file_system(directory.path(), Path::new("true"), "").status.success() {
        eprintln!("skipped: no file system can be mounted here");
        return;
    }
    for seed in 0..2 * factor() {
        let task = format!("{}\n{kind}\n{seed}", text(directory.path()));
        let output = in_small_file_system(directory.path(), &std::env::current_exe().unwrap(), &task);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{kind}, seed {seed}: {said}{}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(said.contains("survived"), "the worker did nothing: {said}");
    }
}

/// An open disk on the small file system.
struct Disk {
    path: PathBuf,
    is_qcow2: bool,
    disk: Box<dyn BlockBackend>,
    model: Model,
}

impl Disk {
    fn open(path: &Path, is_qcow2: bool) -> Box<dyn BlockBackend> {
        if !is_qcow2 {
            return Box::new(RawDisk::open(path, &RawOptions::default()).unwrap());
        }
        let mut options = Qcow2Options {
            backing: BackingAccess::Within(vec![path.parent().unwrap().to_owned()]),
            metadata_cache_bytes: 0,
            ..Qcow2Options::default()
        };
        options.file.engine = EngineChoice::Automatic;
        Box::new(Qcow2Disk::open(path, &options).unwrap())
    }

    fn make(directory: &Path, kind: &str, random: &mut Random) -> Self {
        let path = directory.join("disk");
        let mut parameters = Qcow2Parameters::new(DISK_BYTES as u64);
        let mut below = Vec::new();
        match kind {
            "small clusters" => (parameters.cluster_bytes, parameters.refcount_bits) = (512, 64),
            "subclusters" => (parameters.cluster_bytes, parameters.extended_l2) = (65536, true),
            "overlay" => {
                below = random.content(1 << 20);
                std::fs::write(directory.join("base"), &below).unwrap();
                let backing = BackingName { name: "base".to_owned(), format: "raw".to_owned() };
                (parameters.backing, parameters.cluster_bytes) = (Some(backing), 8192);
            }
            _ => {}
        }
        let is_qcow2 = kind != "raw";
        match kind {
            "raw" => std::fs::File::create(&path).unwrap().set_len(DISK_BYTES as u64).unwrap(),
            "external" => {
                let options = format!("data_file={}", text(&directory.join("data")));
                let bytes = DISK_BYTES.to_string();
                run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(&path), &bytes]);
            }
            _ => Qcow2Disk::create(&path, &parameters).unwrap(),
        }
        below.resize(DISK_BYTES, 0);
        Self { disk: Self::open(&path, is_qcow2), path, is_qcow2, model: Model::new(below) }
    }

    /// Random steps, some at a time, until this many have failed, or this many were done. Returns how many failed.
    fn work(&mut self, random: &mut Random, most_failures: usize, most_steps: usize) -> usize {
        let mut driver = Driver::open(&*self.disk, 16);
        let (mut failures, mut done) = (0, 0);
        while failures < most_failures && done < most_steps {
            let mut batch: Vec<(Step, _)> = Vec::new();
            for number in 0..random.choose(&[1, 2, 8]) {
                let step = Step::random(random, self.model.bytes(), 200);
                let range = step.range();
                let apart = |(other, _): &(Step, _)| {
                    range.end <= other.range().start || other.range().end <= range.start
                };
                if range.is_empty() || !batch.iter().all(apart) {
                    continue;
                }
                let (operation, buffer) = step.request();
                batch.push((step, buffer));
                driver.submit(batch.len() as u64 - 1, operation).unwrap();
                done += 1;
                if number == 3 {
                    driver.kick();
                }
            }
            for completion in driver.drain() {
                let (step, buffer) = &batch[completion.tag as usize];
                match completion.result {
                    Ok(()) => step.note(&mut self.model, buffer),
                    Err(errno) => {
                        assert_eq!(errno, Errno::NOSPC, "{step:?}");
                        failures += 1;
                        step.note_unfinished(&mut self.model, buffer);
                    }
                }
            }
            if random.once_in(8) {
                let flushed = driver.run(BlockOperation::Flush);
                assert!(matches!(flushed, Ok(()) | Err(Errno::NOSPC)), "{flushed:?}");
            }
        }
        drop(driver);
        self.model.assert_is(&content_of(&*self.disk), "while it is open");
        failures
    }

    fn flush(&self) -> Result<(), Errno> {
        Driver::open(&*self.disk, 1).run(BlockOperation::Flush)
    }

    /// Closes the disk, has it checked and opens it again.
    fn check(self) -> Self {
        let Self { path, is_qcow2, disk, mut model } = self;
        drop(disk);
        if is_qcow2 {
            let report = Qcow2Disk::check(&path, Repair::Nothing).unwrap();
            assert_eq!((report.corruptions, report.leaked_clusters), (0, 0), "{:?}", report.problems);
            if has_qemu() {
                let (code, text) = check_code(&path);
                assert_eq!(code, 0, "{text}");
            }
        }
        let disk = Self::open(&path, is_qcow2);
        model.assert_is(&content_of(&*disk), "after it was closed");
        Self { path, is_qcow2, disk, model }
    }

    fn resize(&mut self, bytes: usize) -> bool {
        let done = self.disk.resize(bytes as u64).is_ok();
        assert!(done || self.disk.capacity() == self.model.bytes() as u64, "half a resize");
        if done {
            self.model.resize(bytes);
        }
        done
    }
}

/// The worker: does nothing unless this process was started to be one.
#[test]
fn worker() {
    let Ok(task) = std::env::var(WORKER) else { return };
    let [directory, kind, seed] = task.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let mut random = Random::new(seed.parse().unwrap());
    let directory = Path::new(directory);
    let mut disk = Disk::make(directory, kind, &mut random);
    let failures = disk.work(&mut random, FAILURES, 20_000);
    assert_eq!(failures.min(FAILURES), FAILURES, "the disk did not become full");
    // Not to be had here, or not for nothing: tables grow.
    disk.resize(DISK_BYTES * 4);
    disk.resize(DISK_BYTES);
    disk.work(&mut random, FAILURES, 200);
    if disk.flush().is_ok() {
        disk = disk.check();
        disk.work(&mut random, FAILURES, 200);
    }
    run("mount", &["-o", "remount,size=64m", text(directory)]);
    let failures = disk.work(&mut random, 1, 300);
    assert_eq!(failures, 0, "there is space now");
    assert!(disk.resize(DISK_BYTES * 2));
    disk.flush().unwrap();
    let mut disk = disk.check();
    assert_eq!(disk.work(&mut random, 1, 100), 0);
    disk.flush().unwrap();
    let Disk { path, is_qcow2, disk, mut model } = disk.check();
    drop(disk);
    if has_qemu() {
        model.assert_is(&content(&path, if is_qcow2 { "qcow2" } else { "raw" }, &[]), "as qemu-img sees it");
    }
    assert_eq!(model.bytes(), DISK_BYTES * 2 / SECTOR * SECTOR);
    eprintln!("survived");
}

#[test]
fn a_raw_disk_survives_a_full_file_system() {
    survives("raw");
}

#[test]
fn a_qcow2_disk_survives_a_full_file_system() {
    survives("plain");
}

#[test]
fn growing_tables_survive_a_full_file_system() {
    survives("small clusters");
}

#[test]
fn subclusters_survive_a_full_file_system() {
    survives("subclusters");
}

#[test]
fn an_overlay_survives_a_full_file_system() {
    survives("overlay");
}

#[test]
fn an_external_data_file_survives_a_full_file_system() {
    if has_qemu() {
        survives("external");
    }
}
