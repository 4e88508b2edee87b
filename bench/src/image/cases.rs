//! What is done with the images, by whom, and how.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::ImageOptions;
use super::command::{Clock, Measured, measure};
use super::sources::Sources;

/// Bytes of a request of `bench`.
const REQUEST_BYTES: u64 = 4096;

/// A program and its arguments.
#[derive(Debug)]
pub(super) struct ImageCommand {
    pub(super) program: String,
    words: Vec<String>,
}

/// Something that several programs do.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    /// Vireo's first.
    pub(super) commands: Vec<ImageCommand>,
    clock: Clock,
    /// Removed before each run.
    target: Option<PathBuf>,
    /// Pushed out of the page cache before each run, or read into it.
    cold: Option<PathBuf>,
    warm: Option<PathBuf>,
}

impl Case {
    /// Runs one of the commands.
    pub(super) fn measure(&self, number: usize) -> Result<Measured> {
        if let Some(target) = &self.target
            && target.exists()
        {
            std::fs::remove_file(target).with_context(|| format!("removing {}", target.display()))?;
        }
        // What others left to be written would be written in this one's time.
        rustix::fs::sync();
        if let Some(path) = &self.cold {
            let file = File::open(path).context("opening a source")?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
                .context("forgetting a source")?;
        }
        if let Some(path) = &self.warm {
            let mut file = File::open(path).context("opening a source")?;
            std::io::copy(&mut file, &mut std::io::sink()).context("reading a source")?;
        }
        measure(&self.commands[number].words, self.clock)
    }
}

/// Vireo's command and its peer's, which differ in the program's name and in options.
struct Commands<'a> {
    options: &'a ImageOptions,
}

impl Commands<'_> {
    fn ours(&self, name: &str, arguments: &str) -> ImageCommand {
        let mut words = vec![self.options.vireo.display().to_string(), "image".to_owned()];
        words.extend(arguments.split_whitespace().map(str::to_owned));
        ImageCommand { program: name.to_owned(), words }
    }

    fn theirs(&self, name: &str, arguments: &str) -> ImageCommand {
        let words = std::iter::once("qemu-img").chain(arguments.split_whitespace());
        ImageCommand { program: name.to_owned(), words: words.map(str::to_owned).collect() }
    }
}

/// Everything that is measured.
pub(super) fn cases(options: &ImageOptions, sources: &Sources) -> Vec<Case> {
    let commands = Commands { options };
    let mut cases = Vec::new();
    for content in ["sparse", "full", "full cold"] {
        for (from, to) in [("raw", "qcow2"), ("qcow2", "raw")] {
            cases.push(convert(&commands, sources, content, from, to));
        }
    }
    for (cache, temperature) in [("writeback", "warm"), ("none", "direct")] {
        for format in ["raw", "qcow2"] {
            for write in [false, true] {
                for scattered in [false, true] {
                    for depth in [32, 64] {
                        let how = Requests { cache, temperature, format, write, scattered, depth };
                        cases.push(requests(&commands, sources, &how));
                    }
                }
            }
        }
    }
    cases.push(overlay(&commands, sources));
    cases
}

fn convert(commands: &Commands<'_>, sources: &Sources, content: &str, from: &str, to: &str) -> Case {
    let (image, is_cold) = content.split_once(' ').map_or((content, false), |(image, _)| (image, true));
    let source = sources.path(&format!("{image}.{from}"));
    let target = sources.path("target");
    let arguments =
        |more: &str| format!("convert {more} -f {from} -O {to} {} {}", source.display(), target.display());
    Case {
        name: format!("convert {from} to {to}, {content}"),
        commands: vec![
            commands.ours("vireo", &arguments("-q")),
            commands.theirs("qemu-img", &arguments("")),
            commands.theirs("qemu-img -t none", &arguments("-t none")),
        ],
        clock: Clock::Process,
        target: Some(target),
        cold: is_cold.then(|| source.clone()),
        warm: (!is_cold).then_some(source),
    }
}

/// How requests are sent.
struct Requests<'a> {
    cache: &'a str,
    temperature: &'a str,
    format: &'a str,
    write: bool,
    scattered: bool,
    depth: u32,
}

fn requests(commands: &Commands<'_>, sources: &Sources, how: &Requests<'_>) -> Case {
    let Requests { cache, temperature, format, write, scattered, depth } = how;
    let path = sources.path(&format!("full.{format}"));
    let step = if *scattered { scattering_step(commands.options.bytes) } else { REQUEST_BYTES };
    let arguments = format!(
        "bench -f {format} -t {cache} -i io_uring -c {} -d {depth} -S {step} {} {}",
        commands.options.requests,
        if *write { "-w --pattern 90" } else { "" },
        path.display()
    );
    let kind = if *write { "write" } else { "read" };
    let order = if *scattered { "random" } else { "sequential" };
    Case {
        name: format!("bench {format} {kind} {order} {depth}, {temperature}"),
        commands: vec![commands.ours("vireo", &arguments), commands.theirs("qemu-img", &arguments)],
        clock: Clock::Printed,
        target: None,
        cold: (*cache == "none").then(|| path.clone()),
        warm: (*cache != "none").then_some(path),
    }
}

fn overlay(commands: &Commands<'_>, sources: &Sources) -> Case {
    let target = sources.path("overlay.qcow2");
    let arguments = |quiet: &str| {
        let base = sources.path("full.raw");
        format!("create {quiet} -f qcow2 -b {} -F raw {} 1T", base.display(), target.display())
    };
    Case {
        name: "create an overlay of 1 TiB".to_owned(),
        commands: vec![
            commands.ours("vireo", &arguments("-q")),
            commands.theirs("qemu-img", &arguments("-q")),
        ],
        clock: Clock::Process,
        target: Some(target.clone()),
        cold: None,
        warm: None,
    }
}

/// A step with which `bench` comes to every request's place once before it comes to one again, far from the one before:
/// about the golden section of the disk, where both programs go on at the start, and without a common divisor.
fn scattering_step(bytes: u64) -> u64 {
    let places = bytes / REQUEST_BYTES;
    let mut step = places * 618 / 1000;
    while divisor(step, places) != 1 {
        step += 1;
    }
    step * REQUEST_BYTES
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scattering_step_comes_to_every_place() {
        let bytes = 64 << 20;
        let step = scattering_step(bytes);
        let mut seen = std::collections::HashSet::new();
        let mut at = 0u64;
        while seen.insert(at) {
            assert!(at.is_multiple_of(REQUEST_BYTES) && at + REQUEST_BYTES <= bytes);
            at = (at + step) % bytes;
        }
        assert_eq!(seen.len() as u64, bytes / REQUEST_BYTES);
    }
}
