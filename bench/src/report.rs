//! What people and machines are told: tables on standard output, JSON in a file.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::contender::Contender;
use crate::daemon::{DaemonMemory, DaemonOutcome};
use crate::image::ImageOutcome;
use crate::memory::Footprint;
use crate::time::Outcome;

/// A program that did not take part.
#[derive(Debug, Serialize)]
pub struct Excluded {
    /// The contender's name.
    pub name: String,
    /// What it said.
    pub reason: String,
}

impl Excluded {
    /// An error if it is ours, which has to take part.
    pub(crate) fn new(contender: &Contender, error: anyhow::Error) -> Result<Self> {
        if contender.name == Contender::OURS {
            return Err(error.context(contender.name.clone()));
        }
        let reason = format!("{error:#}");
        eprintln!("{} is left out: {reason}", contender.name);
        Ok(Self { name: contender.name.clone(), reason })
    }
}

/// Prints times in `unit`, with the number of microseconds that it has.
pub fn print_times(outcomes: &[Outcome], (unit, micros): (&str, f64)) {
    println!(
        "{:<18} {:>10} {:>10} {:>10} {:>8} {:>10}",
        format!("[{unit}]"),
        "median",
        "minimum",
        "p90",
        "vireo/it",
        "exit"
    );
    for outcome in outcomes {
        let heard = &outcome.heard_us;
        let or_dash = |value: Option<f64>, digits| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        println!(
            "{:<18} {:>10.0} {:>10.0} {:>10.0} {:>8} {:>10}",
            outcome.name,
            heard.median / micros,
            heard.minimum / micros,
            heard.p90 / micros,
            or_dash(outcome.ours_ratio, 2),
            or_dash(outcome.exit_us.map(|exit| exit.median / micros), 0),
        );
    }
}

/// Prints what programs have resident.
pub fn print_memory(footprints: &[Footprint]) {
    println!("{:<18} {:>10} {:>10} {:>10} {:>10}", "[KiB]", "resident", "shared out", "private", "guest");
    for footprint in footprints {
        println!(
            "{:<18} {:>10} {:>10} {:>10} {:>10}",
            footprint.name, footprint.rss_kib, footprint.pss_kib, footprint.private_kib, footprint.guest_kib
        );
    }
}

/// Prints the heading of outcomes with images.
pub fn print_image_heading() {
    println!("{:<46} {:<17} {:>10} {:>8} {:>9}", "[ms]", "program", "median", "vireo/it", "peak KiB");
}

/// Prints a case with images.
pub fn print_image(outcomes: &[ImageOutcome]) {
    for (number, outcome) in outcomes.iter().enumerate() {
        let ratio = outcome.ours_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:<46} {:<17} {:>10.1} {:>8} {:>9}",
            if number == 0 { outcome.case.as_str() } else { "" },
            outcome.program,
            outcome.time_us.median / 1000.0,
            ratio,
            outcome.peak_kib
        );
    }
}

/// Prints the heading of outcomes with daemons.
pub fn print_daemon_heading() {
    println!(
        "{:<38} {:<10} {:>11} {:>11} {:>9} {:>8} {:>6}",
        "[us]", "program", "median", "minimum", "a second", "vireo/it", "cpus"
    );
}

/// Prints a case with daemons.
pub fn print_daemon(outcomes: &[DaemonOutcome]) {
    for (number, outcome) in outcomes.iter().enumerate() {
        let or_dash =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        println!(
            "{:<38} {:<10} {:>11.1} {:>11.1} {:>9.0} {:>8} {:>6}",
            if number == 0 { outcome.case.as_str() } else { "" },
            outcome.program,
            outcome.time_us.median,
            outcome.time_us.minimum,
            1e6 / outcome.time_us.median,
            or_dash(outcome.ours_ratio),
            or_dash(outcome.processors)
        );
    }
}

/// Prints what daemons have resident.
pub fn print_daemon_memory(memory: &[DaemonMemory]) {
    println!("{:<52} {:<10} {:>10} {:>10}", "[KiB]", "program", "resident", "shared out");
    for DaemonMemory { program, moment, rss_kib, pss_kib } in memory {
        println!("{moment:<52} {program:<10} {rss_kib:>10} {pss_kib:>10}");
    }
}

/// Writes `results` and what they depend on to `path`.
pub fn save(path: &Path, benchmark: &str, options: &impl Serialize, results: &impl Serialize) -> Result<()> {
    let system = |name: &str| fs::read_to_string(name).unwrap_or_default().trim().to_owned();
    let report = serde_json::json!({
        "benchmark": benchmark,
        "options": options,
        "host_kernel": system("/proc/sys/kernel/osrelease"),
        "host_cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "emulated_host": std::env::var_os("VIREO_LAB").is_some(),
        "results": results,
    });
    fs::write(path, format!("{report:#}\n")).with_context(|| format!("writing {}", path.display()))
}
