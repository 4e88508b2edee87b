//! qcow2 images with random options and content, made and filled by one program: the other finds them sound and equal.
//!
//! Everything random follows from a seed that a failure prints: `VIREO_SEED=N` repeats the case, `VIREO_CASES=N` runs N times
//! as many.

use std::process::Command;

use super::random::{Case, Random, SECTOR, for_each_case};
use super::{Folder, has_qemu};

const VIREO: &str = env!("CARGO_BIN_EXE_vireo");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    Inside,
    External,
    ExternalRaw,
}

/// Options of a qcow2 image.
#[derive(Debug, Clone)]
struct Kind {
    cluster_bits: usize,
    old: bool,
    refcount_bits: u32,
    extended_l2: bool,
    lazy_refcounts: bool,
    zstd: bool,
    data: Data,
    preallocation: &'static str,
}

impl Kind {
    /// Any options that go together; `backed` in an image with a backing file.
    fn random(random: &mut Random, backed: bool) -> Self {
        let old = random.once_in(5);
        let extended_l2 = !old && random.once_in(3);
        let preallocation = if backed && !extended_l2 || random.once_in(2) {
            "off"
        } else {
            random.choose(&["metadata", "falloc", "full"])
        };
        Self {
            cluster_bits: if extended_l2 { 14 + random.below(8) } else { 9 + random.below(13) },
            old,
            refcount_bits: if old { 16 } else { 1 << random.below(7) },
            extended_l2,
            lazy_refcounts: !old && random.once_in(4),
            zstd: !old && random.once_in(2),
            data: match random.below(8) {
                0 if !old => Data::External,
                1 if !old && !backed => Data::ExternalRaw,
                _ => Data::Inside,
            },
            preallocation,
        }
    }

    /// The options with the data file, if any, under this name.
    fn options(&self, data_file: &str) -> String {
        let on = |flag| if flag { "on" } else { "off" };
        let mut options = format!("cluster_size={}", 1 << self.cluster_bits);
        if self.preallocation != "off" {
            options += &format!(",preallocation={}", self.preallocation);
        }
        if self.old {
            return options + ",compat=0.10";
        }
        options += &format!(
            ",compat=1.1,refcount_bits={},extended_l2={},lazy_refcounts={},compression_type={}",
            self.refcount_bits,
            on(self.extended_l2),
            on(self.lazy_refcounts),
            if self.zstd { "zstd" } else { "zlib" }
        );
        if self.data != Data::Inside {
            options +=
                &format!(",data_file={data_file},data_file_raw={}", on(self.data == Data::ExternalRaw));
        }
        options
    }

    /// Whether compressed clusters are possible. They share clusters of the file, which needs wide counts: with two bits,
    /// qemu-io 10.0 itself corrupts images.
    fn compresses(&self) -> bool {
        self.data == Data::Inside && self.refcount_bits > 4
    }

    /// How a copy is made: compressed or not, by one thread or several, in order or not.
    fn copy_flags(&self, random: &mut Random) -> String {
        let compressed = self.compresses() && self.preallocation == "off" && random.once_in(2);
        let mut flags = format!("-m {}", 1 + random.below(8));
        for (flag, wanted) in [("-c", compressed), ("-W", random.once_in(2))] {
            if wanted {
                flags = format!("{flags} {flag}");
            }
        }
        flags
    }

    /// Several clusters and several L2 tables, as far as a small disk has them.
    fn size(&self, random: &mut Random) -> usize {
        let most = (64usize << self.cluster_bits).clamp(64 << 10, 6 << 20);
        (1 + random.below(most / SECTOR)) * SECTOR
    }
}

/// A folder, whose programs' calls are noted in the case.
struct Bench<'a> {
    folder: Folder,
    case: &'a mut Case,
}

impl Bench<'_> {
    #[track_caller]
    fn run(&mut self, program: &str, arguments: &str, code: i32) -> String {
        self.case.note(format_args!("{} {arguments}", if program == VIREO { "vireo" } else { program }));
        self.folder.run(program, arguments, code)
    }

    #[track_caller]
    fn vireo(&mut self, arguments: &str) {
        self.run(VIREO, &format!("image {arguments}"), 0);
    }

    #[track_caller]
    fn qemu_img(&mut self, arguments: &str) {
        self.run("qemu-img", arguments, 0);
    }

    /// One program or the other, with a verb that both have.
    #[track_caller]
    fn either(&mut self, random: &mut Random, arguments: &str) {
        if random.once_in(2) { self.vireo(arguments) } else { self.qemu_img(arguments) }
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.folder.path(name), content).unwrap();
    }

    /// Both programs find the image sound, and the disk in it equal to `model`, which both can copy.
    #[track_caller]
    fn assert_holds(&mut self, image: &str, model: &[u8]) {
        self.write("model.raw", model);
        let verbs = [
            format!("check -f qcow2 {image}"),
            format!("compare -f raw -F qcow2 model.raw {image}"),
            format!("convert -f qcow2 -O raw {image} back.raw"),
        ];
        for verb in verbs {
            for program in [VIREO, "qemu-img"] {
                let arguments = if program == VIREO { format!("image {verb}") } else { verb.clone() };
                self.run(program, &arguments, 0);
                if verb.starts_with("convert") {
                    let back = std::fs::read(self.folder.path("back.raw")).unwrap();
                    assert_eq!(back.len(), model.len(), "{program}");
                    let different = back.iter().zip(model).position(|(found, known)| found != known);
                    assert_eq!(different, None, "{program}: first difference of the copy");
                }
            }
        }
    }

    /// A difference of one byte is found, and where it is.
    #[track_caller]
    fn assert_differs(&mut self, image: &str, model: &[u8], random: &mut Random) {
        let mut other = model.to_vec();
        let place = random.below(other.len());
        other[place] ^= 1 << random.below(8);
        self.write("other.raw", &other);
        let found = self.run(VIREO, &format!("image compare -f qcow2 -F raw {image} other.raw"), 1);
        assert_eq!(found, format!("Content mismatch at offset {place}!\n"));
    }

    /// Fills an image with what qemu-io writes.
    fn fill(&mut self, image: &str, kind: &Kind, model: &mut [u8], random: &mut Random) {
        let cluster = 1 << kind.cluster_bits;
        let mut commands = Vec::new();
        for _ in 0..1 + random.below(8) {
            let mut range = random.range(model.len(), model.len() / SECTOR);
            let mut value = random.choose(&[1, 0x5a, 0xff]);
            let flag = match random.below(6) {
                0 | 1 => {
                    value = 0;
                    if random.once_in(2) { "-z -u".to_owned() } else { "-z".to_owned() }
                }
                2 if kind.compresses()
                    && !kind.old
                    && range.start / cluster * cluster + cluster <= model.len() =>
                {
                    let start = range.start / cluster * cluster;
                    range = start..start + cluster;
                    // qemu-io compresses into clusters only that have no place. In old images, discards above a backing file
                    // leave them theirs.
                    commands.push(format!("discard {start} {cluster}"));
                    format!("-c -P {value}")
                }
                3 => {
                    commands.push(format!("discard {} {}", range.start, range.len()));
                    format!("-P {value}")
                }
                _ => format!("-P {value}"),
            };
            commands.push(format!("write {flag} {} {}", range.start, range.len()));
            model[range].fill(value);
        }
        let mut program = Command::new("qemu-io");
        program.args(["-f", "qcow2", "-d", "unmap", "-t", "unsafe"]);
        for command in &commands {
            self.case.note(format_args!("qemu-io: {command}"));
            program.args(["-c", command]);
        }
        let output = program.arg(image).current_dir(self.folder.0.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// A backing file with random content, of one format or the other, made by one program or the other. Returns what it holds.
fn make_base(bench: &mut Bench, random: &mut Random, bytes: usize, format: &str) -> Vec<u8> {
    let sectors = 1 + random.below(bytes * 3 / 2 / SECTOR);
    let content = random.content(sectors * SECTOR);
    bench.write("base.raw", &content);
    if format == "qcow2" {
        let options = format!("-o cluster_size={}", 512usize << random.below(9));
        bench.either(random, &format!("convert -q -f raw -O qcow2 {options} base.raw base.qcow2"));
    }
    content
}

#[test]
fn images_of_any_options_that_are_made_here_and_filled_by_qemu_are_sound_and_equal() {
    if !has_qemu() {
        return;
    }
    for_each_case(40, |case, random| {
        let mut bench = Bench { folder: Folder::new(), case };
        let backing = random.choose(&[None, None, Some("raw"), Some("qcow2")]);
        let kind = Kind::random(random, backing.is_some());
        let bytes = kind.size(random);
        let mut options = kind.options("disk.data");
        let mut model = Vec::new();
        if let Some(format) = backing {
            model = make_base(&mut bench, random, bytes, format);
            options += &format!(",backing_file=base.{format},backing_fmt={format}");
        }
        model.resize(bytes, 0);
        bench.vireo(&format!("create -q -f qcow2 -o {options} disk.qcow2 {bytes}"));
        if random.once_in(3) {
            bench.assert_holds("disk.qcow2", &model);
        }
        bench.fill("disk.qcow2", &kind, &mut model, random);
        bench.assert_holds("disk.qcow2", &model);
        bench.assert_differs("disk.qcow2", &model, random);
    });
}

#[test]
fn copies_of_any_options_that_either_program_makes_are_sound_and_equal() {
    if !has_qemu() {
        return;
    }
    for_each_case(40, |case, random| {
        let mut bench = Bench { folder: Folder::new(), case };
        let kind = Kind::random(random, false);
        let bytes = kind.size(random);
        let model = random.content(bytes);
        bench.write("source.raw", &model);
        // Ours from a raw image, theirs from ours, and ours from theirs: no copy has anything of what it was made of but the
        // content.
        let mut source = ("raw", "source.raw".to_owned());
        for (program, name) in [(VIREO, "ours"), ("qemu-img", "theirs"), (VIREO, "again")] {
            let kind = Kind::random(random, false);
            let (options, flags) = (kind.options(&format!("{name}.data")), kind.copy_flags(random));
            let (format, from) = source;
            let arguments = format!("convert {flags} -f {format} -O qcow2 -o {options} {from} {name}.qcow2");
            if program == VIREO {
                bench.vireo(&arguments)
            } else {
                bench.qemu_img(&arguments)
            }
            source = ("qcow2", format!("{name}.qcow2"));
            bench.assert_holds(&source.1, &model);
        }
        bench.assert_differs(&source.1, &model, random);
    });
}
