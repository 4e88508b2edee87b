//! `vireo image map`.

use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use block_io::operations::{MapEntry, OpenImage, OperationError, map};
use clap::Args;
use serde_json::json;

use super::arguments::{Cache, Output, SourceFormat, access_to_read, format_to_read, image_path, size};
use crate::output::harmless;

/// Tell where an image and its backing files store the disk.
///
/// For people: what is data, and where it is. For programs: every part of the disk, with qemu-img's keys.
#[derive(Debug, Args)]
pub(crate) struct MapArguments {
    /// Format of the image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<SourceFormat>,
    /// How to print
    #[arg(long, value_name = "KIND", default_value = "human")]
    output: Output,
    /// Where on the disk to begin
    #[arg(short, long, value_name = "SIZE", value_parser = size, default_value = "0")]
    start_offset: u64,
    /// How much of the disk to look at
    #[arg(short = 'l', long, value_name = "SIZE", value_parser = size)]
    max_length: Option<u64>,
    /// Look at images in use; what is said of them may be out of date
    #[arg(short = 'U', long)]
    force_share: bool,
    /// A further directory in which backing files may lie (may be repeated)
    #[arg(long, value_name = "DIR")]
    backing_directory: Vec<PathBuf>,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
}

/// Prints the map as it is found out: it can be long.
pub(crate) fn run(arguments: &MapArguments) -> anyhow::Result<ExitCode> {
    let format = format_to_read(arguments.format, &arguments.file)?;
    let access = access_to_read(arguments.force_share, Cache::Writeback, &arguments.backing_directory);
    let image = OpenImage::open(&arguments.file, format, &access)?;
    let start = arguments.start_offset;
    let end = arguments.max_length.map_or(u64::MAX, |bytes| start.saturating_add(bytes));
    let mut output = BufWriter::new(std::io::stdout().lock());
    let mut printed = match arguments.output {
        Output::Human => writeln!(output, "{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to"),
        Output::Json => write!(output, "["),
    };
    let (mut first, mut without_place) = (true, false);
    let result = map(&image, start..end, &mut |entry| {
        printed = match arguments.output {
            Output::Human => {
                without_place |= entry.status.data && entry.status.offset.is_none();
                if without_place { Ok(()) } else { write_line(&mut output, &image, &entry) }
            }
            Output::Json => {
                let separator = if std::mem::take(&mut first) { "" } else { ",\n" };
                write!(output, "{separator}{}", as_json(&entry))
            }
        };
        if printed.is_err() || without_place { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    printed.context("cannot print the result")?;
    match result {
        Err(OperationError::Interrupted) if without_place => {
            output.flush().context("cannot print the result")?;
            bail!("parts of the disk are compressed or have no place in a file: --output json shows them");
        }
        result => result?,
    }
    let end = if arguments.output == Output::Json { "]\n" } else { "" };
    write!(output, "{end}").and_then(|()| output.flush()).context("cannot print the result")?;
    Ok(ExitCode::SUCCESS)
}

/// Keys of QEMU's `MapEntry` (qapi/block-core.json).
fn as_json(entry: &MapEntry) -> serde_json::Value {
    let status = &entry.status;
    let mut value = json!({
        "start": entry.start, "length": entry.bytes, "depth": status.layer, "present": status.present,
        "zero": status.zero, "data": status.data, "compressed": status.compressed,
    });
    if let Some(offset) = status.offset {
        value["offset"] = json!(offset);
    }
    value
}

fn write_line(output: &mut impl Write, image: &OpenImage, entry: &MapEntry) -> std::io::Result<()> {
    if !entry.status.data || entry.status.zero {
        return Ok(());
    }
    let file =
        image.file(entry.status.file).map(|path| harmless(&path.to_string_lossy())).unwrap_or_default();
    let [start, length, offset] = [entry.start, entry.bytes, entry.status.offset.unwrap_or(0)]
        .map(|number| if number == 0 { "0".to_owned() } else { format!("{number:#x}") });
    writeln!(output, "{start:<16}{length:<16}{offset:<16}{file}")
}
