//! `vireo image check`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use block_io::Qcow2Disk;
use block_io::operations::ImageFormat;
use block_io::qcow2::{CheckReport, Repair};
use clap::Args;
use serde_json::{Value, json};

use super::arguments::{Cache, Output, SourceFormat, format_to_read, format_to_write, image_path};
use super::qemu_img::program;
use crate::output::{print, print_json};

const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NOT_CHECKABLE: u8 = 63;

/// What to put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Repairs {
    /// Clusters that nobody uses become free
    Leaks,
    /// Every count becomes what it should be
    All,
}

/// Check the reference counts of an image, and repair them if told so.
///
/// Nobody else may have the image open, unless -U says otherwise. Backing files are not looked at.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 sound (or all repaired), 1 the check failed, 2 corrupt, 3 leaked clusters, \
                        63 the format can't be checked"
)]
pub(crate) struct CheckArguments {
    /// Format of the image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<SourceFormat>,
    /// Repair what is wrong
    #[arg(short, long, value_name = "WHAT")]
    repair: Option<Repairs>,
    /// How to print
    #[arg(long, value_name = "KIND", default_value = "human")]
    output: Output,
    /// Cache mode (the check reads tables only, through the page cache; accepted for scripts)
    #[arg(short = 'T', long, value_name = "MODE", hide = true)]
    cache: Option<Cache>,
    /// Check an image in use; what its user has not written yet may look like leaks or corruptions
    #[arg(short = 'U', long, conflicts_with = "repair")]
    force_share: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
}

/// What is wrong now, and what has been put right.
struct Outcome {
    now: CheckReport,
    leaks_fixed: u64,
    corruptions_fixed: u64,
}

/// Checks the image.
pub(crate) fn run(arguments: &CheckArguments) -> anyhow::Result<ExitCode> {
    let format = match arguments.repair {
        None => format_to_read(arguments.format, &arguments.file)?,
        Some(_) => format_to_write(arguments.format, &arguments.file)?,
    };
    if format != ImageFormat::Qcow2 {
        let name = arguments.file.display();
        eprintln!("{}: {name}: images of format {format} can't be checked", program());
        return Ok(ExitCode::from(NOT_CHECKABLE));
    }
    let outcome = check(&arguments.file, arguments.repair, arguments.force_share)?;
    if arguments.output == Output::Json {
        print_json(&as_json(&arguments.file, &outcome))?;
    } else if !arguments.quiet {
        print(&as_text(&outcome))?;
    }
    Ok(match outcome.now {
        CheckReport { corruptions: 1.., .. } => ExitCode::from(CORRUPT),
        CheckReport { leaked_clusters: 1.., .. } => ExitCode::from(LEAKS),
        _ => ExitCode::SUCCESS,
    })
}

fn check(path: &Path, repairs: Option<Repairs>, in_use: bool) -> anyhow::Result<Outcome> {
    let repair = match repairs {
        None => {
            let now = if in_use {
                Qcow2Disk::check_in_use(path)?
            } else {
                Qcow2Disk::check(path, Repair::Nothing)?
            };
            return Ok(Outcome { now, leaks_fixed: 0, corruptions_fixed: 0 });
        }
        Some(Repairs::Leaks) => Repair::Leaks,
        Some(Repairs::All) => Repair::All,
    };
    let before = Qcow2Disk::check(path, repair)?;
    // Whether a repair did what it was to do is found out by looking.
    let now = Qcow2Disk::check(path, Repair::Nothing)?;
    Ok(Outcome {
        leaks_fixed: before.leaked_clusters.saturating_sub(now.leaked_clusters),
        corruptions_fixed: before.corruptions.saturating_sub(now.corruptions),
        now,
    })
}

/// Keys of QEMU's `ImageCheck` (qapi/block-core.json): numbers of problems only where there are some.
fn as_json(path: &Path, outcome: &Outcome) -> Value {
    let now = &outcome.now;
    let mut value = json!({
        "filename": path.to_string_lossy(), "format": "qcow2", "check-errors": 0,
        "image-end-offset": now.end_bytes, "total-clusters": now.disk_clusters,
    });
    let numbers = [
        ("leaks", now.leaked_clusters),
        ("leaks-fixed", outcome.leaks_fixed),
        ("corruptions", now.corruptions),
        ("corruptions-fixed", outcome.corruptions_fixed),
        ("allocated-clusters", now.allocated_clusters),
        ("fragmented-clusters", now.fragmented_clusters),
        ("compressed-clusters", now.compressed_clusters),
    ];
    for (key, number) in numbers.into_iter().filter(|(_, number)| *number > 0) {
        value[key] = json!(number);
    }
    value
}

fn as_text(outcome: &Outcome) -> String {
    let mut text = String::new();
    let now = &outcome.now;
    // Writing to a string can't fail.
    for problem in &now.problems {
        let _ = writeln!(text, "{problem}");
    }
    let (leaks_fixed, corruptions_fixed) = (outcome.leaks_fixed, outcome.corruptions_fixed);
    if leaks_fixed > 0 || corruptions_fixed > 0 {
        let _ = writeln!(text, "Repaired: {leaks_fixed} leaked clusters, {corruptions_fixed} corruptions.");
    }
    if now.corruptions == 0 && now.leaked_clusters == 0 {
        text.push_str("No errors were found on the image.\n");
    }
    if now.corruptions > 0 {
        let _ = writeln!(
            text,
            "{} corruptions: data may be lost when the image is written to (-r all repairs counts).",
            now.corruptions
        );
    }
    if now.leaked_clusters > 0 {
        let _ = writeln!(
            text,
            "{} leaked clusters: they waste space only (-r leaks frees them).",
            now.leaked_clusters
        );
    }
    if now.allocated_clusters > 0 && now.disk_clusters > 0 {
        #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
        let percent = |part: u64, of: u64| 100.0 * part as f64 / of as f64;
        let _ = writeln!(
            text,
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            now.allocated_clusters,
            now.disk_clusters,
            percent(now.allocated_clusters, now.disk_clusters),
            percent(now.fragmented_clusters, now.allocated_clusters),
            percent(now.compressed_clusters, now.allocated_clusters)
        );
    }
    let _ = writeln!(text, "Image end offset: {}", now.end_bytes);
    text
}
