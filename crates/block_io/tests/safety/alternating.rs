//! One qcow2 image of any kind, written by this crate and by qemu-io in turn: both read the same, which is what was written,
//! and both find the image sound after each turn.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use block_io::conformance::Driver;
use block_io::qcow2::{
    BackingAccess, BackingName, Compression, DataFileName, Qcow2Disk, Qcow2Options, Qcow2Parameters, Repair,
};
use block_io::{BlockBackend, CacheMode, EngineChoice, RawOptions};

use crate::model::{Model, Step, content_of};
use crate::qemu::{check_code, content, directory, has_qemu, run, text};
use crate::random::{Case, Random, SECTOR, for_each_case};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    Inside,
    External,
    ExternalRaw,
}

/// What an image is like.
#[derive(Debug, Clone)]
struct Kind {
    cluster_bits: u32,
    version: u32,
    refcount_bits: u32,
    extended_l2: bool,
    lazy_refcounts: bool,
    zstd: bool,
    data: Data,
    backing: Option<&'static str>,
    bytes: usize,
    made_by_us: bool,
    /// Whether qemu-io writes compressed clusters. They share clusters of the file, which needs wide counts: with two bits,
    /// qemu-io 10.0 itself corrupts images.
    compresses: bool,
}

impl Kind {
    fn random(random: &mut Random) -> Self {
        let old = random.once_in(5);
        let extended_l2 = !old && random.once_in(3);
        let cluster_bits = if extended_l2 { 14 + random.below(8) } else { 9 + random.below(13) };
        let data = match random.below(10) {
            0 if !old => Data::External,
            1 if !old => Data::ExternalRaw,
            _ => Data::Inside,
        };
        let backing = match random.below(4) {
            0 if data != Data::ExternalRaw => Some("raw"),
            1 if data != Data::ExternalRaw => Some("qcow2"),
            _ => None,
        };
        // Several clusters and several L2 tables, as far as a small disk has them.
        let most = (64usize << cluster_bits).clamp(64 << 10, 6 << 20);
        let refcount_bits = if old { 16 } else { 1 << random.below(7) };
        Self {
            cluster_bits: cluster_bits as u32,
            version: if old { 2 } else { 3 },
            refcount_bits,
            extended_l2,
            lazy_refcounts: !old && random.once_in(4),
            zstd: !old && random.once_in(2),
            data,
            backing,
            bytes: (1 + random.below(most / SECTOR)) * SECTOR,
            made_by_us: random.once_in(2),
            compresses: data == Data::Inside && refcount_bits > 4,
        }
    }

    fn cluster_bytes(&self) -> usize {
        1 << self.cluster_bits
    }

    fn make(&self, path: &Path) {
        let backing = self
            .backing
            .map(|format| BackingName { name: format!("base.{format}"), format: format.to_owned() });
        // Absolute: QEMU takes it to be relative to the working directory, not to the image.
        let data = path.with_file_name("data.raw");
        if self.made_by_us {
            let parameters = Qcow2Parameters {
                cluster_bytes: self.cluster_bytes() as u64,
                refcount_bits: self.refcount_bits,
                extended_l2: self.extended_l2,
                lazy_refcounts: self.lazy_refcounts,
                compression: if self.zstd { Compression::Zstd } else { Compression::Zlib },
                backing,
                version: self.version,
                data_file: (self.data != Data::Inside).then(|| DataFileName {
                    name: text(&data).to_owned(),
                    raw: self.data == Data::ExternalRaw,
                }),
                ..Qcow2Parameters::new(self.bytes as u64)
            };
            return Qcow2Disk::create(path, &parameters).unwrap();
        }
        let mut options = format!("cluster_size={}", self.cluster_bytes());
        if self.version == 2 {
            options += ",compat=0.10";
        } else {
            let on = |flag| if flag { "on" } else { "off" };
            options += &format!(
                ",compat=1.1,refcount_bits={},extended_l2={},lazy_refcounts={},compression_type={}",
                self.refcount_bits,
                on(self.extended_l2),
                on(self.lazy_refcounts),
                if self.zstd { "zstd" } else { "zlib" }
            );
        }
        match self.data {
            Data::Inside => {}
            Data::External => options += &format!(",data_file={}", text(&data)),
            Data::ExternalRaw => {
                options += &format!(",data_file={},data_file_raw=on", text(&data));
            }
        }
        if let Some(backing) = &backing {
            options += &format!(",backing_file={},backing_fmt={}", backing.name, backing.format);
        }
        let bytes = self.bytes.to_string();
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, text(path), &bytes]);
    }
}

/// An image, what it holds, and its snapshots with what they hold.
struct Image {
    kind: Kind,
    path: PathBuf,
    model: Model,
    snapshots: Vec<(String, Vec<u8>)>,
    taken: usize,
    /// Clusters that may have a place: qemu-io compresses into others only.
    touched: HashSet<usize>,
}

impl Image {
    fn new(directory: &Path, kind: Kind, random: &mut Random) -> Self {
        let mut below = Vec::new();
        if let Some(format) = kind.backing {
            let most = kind.bytes * 3 / 2;
            let bytes = (1 + random.below(most / SECTOR)) * SECTOR;
            below = random.content(bytes);
            let raw = directory.join("base.raw");
            std::fs::write(&raw, &below).unwrap();
            if format == "qcow2" {
                let options = format!("cluster_size={}", 512usize << random.below(9));
                let compressed = if random.once_in(2) { "-c" } else { "-q" };
                let base = directory.join("base.qcow2");
                let arguments = ["convert", "-f", "raw", "-O", "qcow2", compressed, "-o", &options];
                run("qemu-img", &[&arguments[..], &[text(&raw), text(&base)]].concat());
            }
        }
        let path = directory.join("disk.qcow2");
        kind.make(&path);
        below.resize(kind.bytes, 0);
        Self {
            kind,
            path,
            model: Model::new(below),
            snapshots: Vec::new(),
            taken: 0,
            touched: HashSet::new(),
        }
    }

    fn options(&self, random: &mut Random) -> Qcow2Options {
        Qcow2Options {
            file: RawOptions {
                cache: random.choose(&[CacheMode::Unsafe, CacheMode::Writeback, CacheMode::Writethrough]),
                engine: random.choose(&[EngineChoice::Automatic, EngineChoice::Threads]),
                ..RawOptions::default()
            },
            backing: BackingAccess::Within(vec![self.path.parent().unwrap().to_owned()]),
            metadata_cache_bytes: if random.once_in(2) { 0 } else { 8 << 20 },
        }
    }

    /// Notes that a range is about to be changed. Returns whether its clusters never were before.
    fn touch(&mut self, range: &Range<usize>) -> bool {
        let cluster = self.kind.cluster_bytes();
        let clusters = range.start / cluster..range.end.div_ceil(cluster);
        let mut fresh = true;
        for cluster in clusters {
            fresh &= self.touched.insert(cluster);
        }
        fresh
    }

    /// A turn of this crate: steps one by one, and several at a time where they do not touch each other.
    fn our_turn(&mut self, case: &mut Case, random: &mut Random) {
        let disk = Qcow2Disk::open(&self.path, &self.options(random)).unwrap();
        if random.once_in(6) && (self.kind.version == 3 || self.snapshots.is_empty()) {
            let bytes = self.new_size(random);
            case.note(format_args!("ours: resize to {bytes}"));
            disk.resize(bytes as u64).unwrap();
            self.touch(&(self.model.bytes().min(bytes)..self.model.bytes().max(bytes)));
            self.model.resize(bytes);
        }
        let mut drivers = [Driver::open(&disk, 8), Driver::open(&disk, 8)];
        for _ in 0..1 + random.below(6) {
            let mut batch: Vec<Step> = Vec::new();
            for _ in 0..random.choose(&[1, 1, 6]) {
                let step = if self.kind.data == Data::Inside && random.once_in(8) {
                    Step::compressing(random, self.model.bytes(), self.kind.cluster_bytes())
                } else {
                    Step::random(random, self.model.bytes(), self.model.bytes() / SECTOR)
                };
                let range = step.range();
                let apart =
                    |other: &Step| range.end <= other.range().start || other.range().end <= range.start;
                if batch.iter().all(apart) {
                    case.note(format_args!("ours: {step:?}"));
                    self.touch(&range);
                    batch.push(step);
                }
            }
            let mut buffers = Vec::new();
            for (number, step) in batch.iter().enumerate() {
                let (operation, buffer) = step.request();
                if let Some(result) = step.compress(&disk) {
                    assert_eq!(result, Ok(()), "{step:?}");
                } else {
                    drivers[number % 2].submit(number as u64, operation).unwrap();
                }
                buffers.push(buffer);
            }
            drivers[1].kick();
            for completion in drivers.iter_mut().flat_map(Driver::drain) {
                assert_eq!(completion.result, Ok(()), "{:?}", batch[completion.tag as usize]);
            }
            batch.iter().zip(&buffers).for_each(|(step, buffer)| step.note(&mut self.model, buffer));
        }
        self.model.assert_is(&content_of(&disk), "while it is open");
    }

    /// A turn of qemu-io.
    fn their_turn(&mut self, case: &mut Case, random: &mut Random) {
        let cluster = self.kind.cluster_bytes();
        let unmap = if random.once_in(3) { "ignore" } else { "unmap" };
        let mut arguments = vec!["-f", "qcow2", "-d", unmap, "-t", "unsafe"];
        let mut commands = Vec::new();
        for _ in 0..1 + random.below(8) {
            let step = Step::random(random, self.model.bytes(), self.model.bytes() / SECTOR);
            let mut range = step.range();
            let whole = range.start / cluster * cluster..range.end.next_multiple_of(cluster);
            let fresh = self.touch(&range) && self.kind.compresses;
            let value = (1 + random.below(255)) as u8;
            commands.push(match step {
                Step::Write { .. } if fresh && random.once_in(2) && whole.end <= self.model.bytes() => {
                    range = whole;
                    self.model.fill(&range, value);
                    format!("write -c -P {value} {} {}", range.start, range.len())
                }
                Step::Write { .. } => {
                    self.model.fill(&range, value);
                    format!("write -P {value} {} {}", range.start, range.len())
                }
                Step::Zero { may_unmap, .. } => {
                    self.model.fill(&range, 0);
                    let flag = if may_unmap { "-u " } else { "" };
                    format!("write -z {flag}{} {}", range.start, range.len())
                }
                Step::Discard { .. } => {
                    self.model.discard(&range);
                    format!("discard {} {}", range.start, range.len())
                }
                Step::Compress { .. } | Step::Flush => "flush".to_owned(),
            });
        }
        for command in &commands {
            case.note(format_args!("theirs: {command}"));
            arguments.extend(["-c", command]);
        }
        arguments.push(text(&self.path));
        run("qemu-io", &arguments);
    }

    fn new_size(&self, random: &mut Random) -> usize {
        let now = self.model.bytes();
        // Snapshots keep their size, which not every version of qemu-img lets a disk go below.
        let least = if self.snapshots.is_empty() { 1 } else { now / SECTOR };
        (least + random.below(now / SECTOR + 100)) * SECTOR
    }

    /// Takes, applies and deletes snapshots, and changes the size, by one of the programs.
    fn manage(&mut self, case: &mut Case, random: &mut Random) {
        let path = self.path.clone();
        let counts = if self.kind.refcount_bits < 7 { (1 << self.kind.refcount_bits) - 1 } else { 100 };
        let possible = self.kind.data == Data::Inside;
        // Compressed clusters share clusters of the file. Where counts have no room for more, qemu-img leaks clusters.
        let narrow = self.kind.refcount_bits <= 4;
        let ours = narrow || random.once_in(2);
        let who = if ours { "ours" } else { "theirs" };
        match random.below(8) {
            0 | 1 if possible && self.snapshots.len() + 1 < counts => {
                let name = format!("snapshot {}", self.taken);
                self.taken += 1;
                case.note(format_args!("{who}: take {name}"));
                if ours {
                    match Qcow2Disk::take_snapshot(&path, &name, Duration::from_secs(1)) {
                        Ok(()) => {}
                        Err(error) if narrow => return case.note(error),
                        Err(error) => panic!("{error}"),
                    }
                } else {
                    run("qemu-img", &["snapshot", "-c", &name, text(&path)]);
                }
                self.snapshots.push((name, self.model.content.clone()));
            }
            2 if !self.snapshots.is_empty() => {
                let (name, _) = self.snapshots.remove(random.below(self.snapshots.len()));
                case.note(format_args!("{who}: delete {name}"));
                if ours {
                    Qcow2Disk::delete_snapshot(&path, &name).unwrap();
                } else {
                    run("qemu-img", &["snapshot", "-d", &name, text(&path)]);
                }
            }
            3 if !self.snapshots.is_empty() => {
                let (name, held) = self.snapshots[random.below(self.snapshots.len())].clone();
                case.note(format_args!("{who}: apply {name}"));
                if ours {
                    match Qcow2Disk::apply_snapshot(&path, &name) {
                        Ok(()) => {}
                        Err(error) if narrow => return case.note(error),
                        Err(error) => panic!("{error}"),
                    }
                } else {
                    run("qemu-img", &["snapshot", "-a", &name, text(&path)]);
                }
                self.model = Model::new(held);
            }
            4 if self.snapshots.is_empty() && (self.kind.version == 3 || self.kind.backing.is_none()) => {
                let mut bytes = self.new_size(random);
                if bytes < self.model.bytes() {
                    // What qemu-img cuts off in the middle of a cluster comes back when the disk grows again.
                    bytes = bytes.next_multiple_of(self.kind.cluster_bytes()).min(self.model.bytes());
                }
                case.note(format_args!("theirs: resize to {bytes}"));
                let bytes_text = bytes.to_string();
                run("qemu-img", &["resize", "-q", "--shrink", "-f", "qcow2", text(&path), &bytes_text]);
                // The last cluster, and what a backing file has below, are zeroed.
                self.touch(&(self.model.bytes().min(bytes)..self.model.bytes().max(bytes)));
                self.model.resize(bytes);
            }
            _ => {}
        }
    }

    /// What both programs find in the closed image.
    fn compare(&mut self, case: &mut Case, random: &mut Random) {
        let (code, text) = check_code(&self.path);
        assert_eq!(code, 0, "{text}");
        let report = Qcow2Disk::check(&self.path, Repair::Nothing).unwrap();
        assert_eq!((report.leaked_clusters, report.corruptions), (0, 0), "{:?}", report.problems);
        self.model.assert_is(&content(&self.path, "qcow2", &[]), "as qemu-img sees it");
        let mut options = self.options(random);
        options.file.read_only = true;
        let disk = Qcow2Disk::open(&self.path, &options).unwrap();
        self.model.assert_is(&content_of(&disk), "as we see it");
        if self.kind.data == Data::ExternalRaw {
            let raw = std::fs::read(self.path.with_file_name("data.raw")).unwrap();
            // It may end with the last block instead of with the disk.
            self.model.assert_is(&raw[..self.model.bytes()], "in the raw data file");
        }
        case.note("equal");
    }
}

#[test]
fn an_image_that_two_programs_write_in_turn_stays_sound_and_loses_nothing() {
    if !has_qemu() {
        return;
    }
    for_each_case(60, |case, random| {
        let directory = directory();
        let kind = Kind::random(random);
        case.note(format_args!("{kind:?}"));
        let mut image = Image::new(directory.path(), kind, random);
        image.compare(case, random);
        for _ in 0..2 + random.below(4) {
            if random.once_in(2) {
                image.our_turn(case, random);
            } else {
                image.their_turn(case, random);
            }
            image.compare(case, random);
            image.manage(case, random);
        }
        image.compare(case, random);
        for (name, held) in &image.snapshots {
            let option = format!("snapshot.name={name}");
            let found = content(&image.path, "qcow2", &["-l", &option]);
            // As long as the disk is now, which may have grown since.
            let both = held.len().min(found.len());
            assert!(found[..both] == held[..both], "{name} was changed");
        }
    });
}
