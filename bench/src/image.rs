//! Disk images: `vireo image` beside `qemu-img`, which gets the same arguments.
//!
//! Every command runs as a process of its own, after what the one before left to be written has been written and its target
//! is gone. Times of conversions are those of whole processes; times of `bench` are the ones that the programs print, which
//! leave starting and opening out. Memory is the most that a process had resident (`ru_maxrss` of wait4(2)).

mod cases;
mod command;
mod sources;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use self::cases::{Case, cases};
use self::sources::Sources;
use crate::sample::{Summary, paired_ratio, summarise};

/// What is measured, and how often.
#[derive(Debug, Clone, Serialize)]
pub struct ImageOptions {
    /// Vireo's program.
    pub vireo: PathBuf,
    /// Where images are made: on the file system that is measured.
    pub directory: PathBuf,
    /// Size of the images' disks, bytes.
    pub bytes: u64,
    /// Rounds; every program runs once in each.
    pub rounds: usize,
    /// Requests of a run of `bench`.
    pub requests: u64,
    /// Only cases whose names contain one of these, unless there is none.
    pub only: Vec<String>,
}

/// What a program did in a case.
#[derive(Debug, Clone, Serialize)]
pub struct ImageOutcome {
    /// The case.
    pub case: String,
    /// The program, with the options that make a difference.
    pub program: String,
    /// Time, microseconds.
    pub time_us: Summary,
    /// Most memory that it had resident in any round, KiB.
    pub peak_kib: u64,
    /// Median over rounds of Vireo's time, divided by this program's.
    pub ours_ratio: Option<f64>,
}

/// Runs all cases; outcomes of a case follow each other, Vireo's first. Each is given to `show` when it is there.
pub fn compare(options: &ImageOptions, mut show: impl FnMut(&[ImageOutcome])) -> Result<Vec<ImageOutcome>> {
    ensure!(
        options.bytes >= 64 << 20 && options.bytes.is_multiple_of(1 << 20),
        "images have whole MiB, at least 64"
    );
    let sources = Sources::make(&options.directory, options.bytes)?;
    let mut all = Vec::new();
    for case in cases(options, &sources) {
        if !options.only.is_empty() && !options.only.iter().any(|part| case.name.contains(part)) {
            continue;
        }
        let outcomes = run(&case, options.rounds).with_context(|| case.name.clone())?;
        show(&outcomes);
        all.extend(outcomes);
    }
    Ok(all)
}

fn run(case: &Case, rounds: usize) -> Result<Vec<ImageOutcome>> {
    let mut samples: Vec<(Vec<Duration>, u64)> = vec![(Vec::new(), 0); case.commands.len()];
    for round in 0..rounds {
        for turn in 0..case.commands.len() {
            // Nobody is always the first.
            let number = (round + turn) % case.commands.len();
            let measured = case.measure(number)?;
            samples[number].0.push(measured.time);
            samples[number].1 = samples[number].1.max(measured.peak_kib);
        }
    }
    let ours = samples[0].0.clone();
    let outcomes =
        case.commands.iter().zip(samples).enumerate().map(|(number, (command, (times, peak_kib)))| {
            Ok(ImageOutcome {
                case: case.name.clone(),
                program: command.program.clone(),
                time_us: summarise(&times).context("no rounds")?,
                peak_kib,
                ours_ratio: if number == 0 { None } else { paired_ratio(&ours, &times) },
            })
        });
    outcomes.collect()
}
