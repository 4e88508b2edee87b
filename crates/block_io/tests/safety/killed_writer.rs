//! kill -9 of a writer at a random moment: qemu-img finds no corruption, what was flushed is there, and what was not is old
//! or new, sector by sector.
//!
//! The writer is this test program again, with [`WRITER`] set. Its queues write steps that follow from a seed, in batches that
//! a flush ends; each says on standard error when a batch is durable. So the one that kills it knows what must be there. The
//! same image is then written by the next one.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use block_io::conformance::Driver;
use block_io::qcow2::{BackingAccess, BackingName, Qcow2Disk, Qcow2Options, Qcow2Parameters, Repair};
use block_io::{BlockOperation, EngineChoice};
use rustix::fs::FlockOperation;

use crate::model::{Model, Step, content_of};
use crate::qemu::{check_code, content, directory, has_qemu, run, text};
use crate::random::{Random, SECTOR, factor};

/// The image, the seed and the engine for a process that is the writer.
const WRITER: &str = "VIREO_TEST_WRITER";
const DISK_BYTES: usize = 8 << 20;
const QUEUES: usize = 3;
/// In the first half of the disk, blocks of this size belong to the queues by turns, so that they meet in every cluster.
const BLOCK_BYTES: usize = 4096;
/// In the second half, each has this much for itself.
const OWN_BYTES: usize = 1 << 20;

/// What a queue does before it flushes; instead of a flush, its writes may be durable.
struct Batch {
    steps: Vec<Step>,
    flush: bool,
}

/// The batches of a queue.
fn batches(seed: u64, queue: usize, cluster: usize) -> impl Iterator<Item = Batch> {
    let mut random = Random::new(seed * 64 + queue as u64);
    std::iter::repeat_with(move || {
        let flush = !random.once_in(4);
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..1 + random.below(if flush { 12 } else { 2 }) {
            let start = DISK_BYTES / 2 + queue * OWN_BYTES;
            let step = if flush && random.once_in(12) {
                moved(Step::compressing(&mut random, OWN_BYTES, cluster), start)
            } else if random.once_in(3) {
                moved(Step::random(&mut random, OWN_BYTES, 256), start)
            } else {
                let block = random.below(DISK_BYTES / 2 / BLOCK_BYTES / QUEUES) * QUEUES + queue;
                moved(Step::random(&mut random, BLOCK_BYTES, BLOCK_BYTES / SECTOR), block * BLOCK_BYTES)
            };
            let range = step.range();
            let apart = |other: &Step| range.end <= other.range().start || other.range().end <= range.start;
            // What touches each other at the same time may end in any order.
            if !range.is_empty() && steps.iter().all(apart) {
                steps.push(step);
            }
        }
        if !flush {
            for step in &mut steps {
                *step = Step::Write { range: step.range(), seed: random.next(), durable: true };
            }
        }
        Batch { steps, flush }
    })
}

fn moved(step: Step, by: usize) -> Step {
    let by = |range: std::ops::Range<usize>| range.start + by..range.end + by;
    match step {
        Step::Write { range, seed, durable } => Step::Write { range: by(range), seed, durable },
        Step::Zero { range, may_unmap } => Step::Zero { range: by(range), may_unmap },
        Step::Discard { range } => Step::Discard { range: by(range) },
        Step::Compress { range, seed } => Step::Compress { range: by(range), seed },
        Step::Flush => Step::Flush,
    }
}

fn options(path: &Path, engine: EngineChoice) -> Qcow2Options {
    let mut options = Qcow2Options {
        backing: BackingAccess::Within(vec![path.parent().unwrap().to_owned()]),
        // So little that metadata is written between flushes too.
        metadata_cache_bytes: 0,
        ..Qcow2Options::default()
    };
    options.file.engine = engine;
    options
}

/// The writer: does nothing unless this process was started to be one.
#[test]
fn writer() {
    let Ok(task) = std::env::var(WRITER) else { return };
    let [path, seed, engine] = task.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let engine = if engine == "threads" { EngineChoice::Threads } else { EngineChoice::Automatic };
    let seed = seed.parse().unwrap();
    let disk = Qcow2Disk::open(Path::new(path), &options(Path::new(path), engine)).unwrap();
    let cluster = disk.cluster_bytes() as usize;
    std::thread::scope(|scope| {
        for queue in 0..QUEUES {
            let disk = &disk;
            scope.spawn(move || {
                let mut driver = Driver::open(disk, 16);
                for batch in batches(seed, queue, cluster) {
                    let mut buffers = Vec::new();
                    for (number, step) in batch.steps.iter().enumerate() {
                        let (operation, buffer) = step.request();
                        if let Some(result) = step.compress(disk) {
                            assert_eq!(result, Ok(()), "{step:?}");
                            continue;
                        }
                        driver.submit(number as u64, operation).unwrap();
                        driver.kick();
                        buffers.push(buffer);
                    }
                    for completion in driver.drain() {
                        assert_eq!(completion.result, Ok(()));
                    }
                    if batch.flush {
                        driver.run(BlockOperation::Flush).unwrap();
                    }
                    // Not through the test harness, which might keep it for later.
                    rustix::io::write(std::io::stderr(), &[queue as u8]).unwrap();
                }
            });
        }
    });
}

/// Lets a writer work and kills it. Returns how many batches of each queue are durable.
fn killed_writer(path: &Path, seed: u64, random: &mut Random) -> [usize; QUEUES] {
    let engine = random.choose(&["threads", "automatic", "automatic"]);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_writer::writer", "--nocapture", "--test-threads=1"])
        .env(WRITER, format!("{}\n{seed}\n{engine}", text(path)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let stderr = child.stderr.as_mut().unwrap();
    let mut records = 1 + random.below(60);
    let mut record = [0];
    while records > 0 && stderr.read(&mut record).unwrap() == 1 {
        said.push(record[0]);
        records -= 1;
    }
    // Any moment between two records.
    let moment = Instant::now() + Duration::from_micros(random.below(2000) as u64);
    while Instant::now() < moment {}
    child.kill().unwrap();
    child.stderr.take().unwrap().read_to_end(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{}", String::from_utf8_lossy(&said));
    let mut durable = [0; QUEUES];
    for record in said {
        durable[usize::from(record)] += 1;
    }
    durable
}

/// Waits until nothing of a killed process has the image open: its rings, with what they still write, end after it does.
fn wait_until_closed(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    // Conflicts with the image's lock, whoever holds that.
    rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
}

/// An image that writers are killed over.
struct Victim {
    path: PathBuf,
    cluster: usize,
    model: Model,
    snapshots: usize,
}

impl Victim {
    fn round(&mut self, seed: u64, random: &mut Random) {
        let durable = killed_writer(&self.path, seed, random);
        wait_until_closed(&self.path);
        let cluster = self.cluster;
        for (queue, durable) in durable.into_iter().enumerate() {
            for (number, batch) in batches(seed, queue, cluster).take(durable + 1).enumerate() {
                for step in &batch.steps {
                    let (_, buffer) = step.request();
                    if number < durable {
                        step.note(&mut self.model, &buffer);
                    } else {
                        step.note_unfinished(&mut self.model, &buffer);
                    }
                }
            }
        }
        if Qcow2Disk::info(&self.path).unwrap().dirty {
            // Lazy refcounts: whoever opens the image for writing next counts anew.
            drop(Qcow2Disk::open(&self.path, &options(&self.path, EngineChoice::Automatic)).unwrap());
        }
        let report = Qcow2Disk::check(&self.path, Repair::Nothing).unwrap();
        assert_eq!(report.corruptions, 0, "{:?}", report.problems);
        if has_qemu() {
            let (code, text) = check_code(&self.path);
            assert!(code == 0 || code == 3, "{text}");
            assert_eq!(code == 3, report.leaked_clusters > 0, "{text}");
        }
        if has_qemu() && random.once_in(2) {
            self.model.assert_is(&content(&self.path, "qcow2", &[]), "as qemu-img sees it");
        } else {
            let mut options = options(&self.path, EngineChoice::Automatic);
            options.file.read_only = true;
            let disk = Qcow2Disk::open(&self.path, &options).unwrap();
            self.model.assert_is(&content_of(&disk), "as we see it");
        }
        if random.once_in(4) {
            Qcow2Disk::check(&self.path, Repair::Leaks).unwrap();
            let report = Qcow2Disk::check(&self.path, Repair::Nothing).unwrap();
            assert_eq!((report.leaked_clusters, report.corruptions), (0, 0), "{:?}", report.problems);
        }
    }

    /// Takes a snapshot and deletes the one before.
    fn snapshot(&mut self) {
        let [old, new] = [self.snapshots, self.snapshots + 1].map(|number| number.to_string());
        Qcow2Disk::take_snapshot(&self.path, &new, Duration::from_secs(1)).unwrap();
        if self.snapshots > 0 {
            Qcow2Disk::delete_snapshot(&self.path, &old).unwrap();
        }
        self.snapshots += 1;
    }
}

/// Kills writers over an image like this one; `base` is the format of what is below it.
fn survives(name: u64, base: Option<&str>, snapshots: bool, change: impl Fn(&mut Qcow2Parameters)) {
    const ROUNDS: u64 = 34;
    let directory = directory();
    let mut random = Random::new(name);
    let (raw, path) = (directory.path().join("base.raw"), directory.path().join("disk.qcow2"));
    let base = base.filter(|format| *format == "raw" || has_qemu());
    let mut content = if base.is_some() { random.content(DISK_BYTES - 700 * SECTOR) } else { Vec::new() };
    std::fs::write(&raw, &content).unwrap();
    if base == Some("qcow2") {
        let below = directory.path().join("base.qcow2");
        run("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&below)]);
    }
    let mut parameters = Qcow2Parameters::new(DISK_BYTES as u64);
    parameters.backing =
        base.map(|format| BackingName { name: format!("base.{format}"), format: format.to_owned() });
    change(&mut parameters);
    Qcow2Disk::create(&path, &parameters).unwrap();
    content.resize(DISK_BYTES, 0);
    let cluster = parameters.cluster_bytes as usize;
    let mut victim = Victim { path, cluster, model: Model::new(content), snapshots: 0 };
    for round in 0..ROUNDS * factor() {
        if snapshots && round % 3 == 1 {
            victim.snapshot();
        }
        let seed = name * 1_000_000 + round;
        eprintln!("writer {seed}");
        victim.round(seed, &mut random);
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_was_flushed() {
    survives(1, None, false, |_| {});
}

#[test]
fn a_killed_writer_of_small_clusters_loses_nothing_that_was_flushed() {
    survives(2, None, false, |image| (image.cluster_bytes, image.refcount_bits) = (512, 64));
}

#[test]
fn a_killed_writer_of_an_overlay_loses_nothing_that_was_flushed() {
    survives(3, Some("qcow2"), false, |image| (image.cluster_bytes, image.refcount_bits) = (32768, 1));
}

#[test]
fn a_killed_writer_of_subclusters_loses_nothing_that_was_flushed() {
    survives(4, Some("raw"), false, |image| (image.cluster_bytes, image.extended_l2) = (131_072, true));
}

#[test]
fn a_killed_writer_with_lazy_refcounts_loses_nothing_that_was_flushed() {
    survives(5, None, false, |image| (image.cluster_bytes, image.lazy_refcounts) = (4096, true));
}

#[test]
fn a_killed_writer_beside_a_snapshot_loses_nothing_that_was_flushed() {
    survives(6, None, true, |image| (image.cluster_bytes, image.extended_l2) = (16384, true));
}
