//! `vireo image measure`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use block_io::Qcow2Disk;
use block_io::operations::{ImageFormat, Measure, NewImage, OpenImage, measure_qcow2, measure_raw};
use clap::Args;
use serde_json::json;

use super::arguments::{
    Cache, Format, Output, SourceFormat, access_to_read, format_to_read, image_path, size,
};
use super::create;
use super::progress::{Display, interrupted};
use crate::output::{print, print_json};

/// Tell how large the file of an image would be.
///
/// Either of an image with a disk of a size, or of one that an existing image is converted to.
#[derive(Debug, Args)]
#[command(after_help = "Options of formats (-o) are those of `vireo image create`.")]
pub(crate) struct MeasureArguments {
    /// Format of the new image
    #[arg(short = 'O', long, value_name = "FORMAT", default_value = "raw")]
    target_format: Format,
    /// Options of the new image's format
    #[arg(short, long = "options", value_name = "NAME=VALUE", id = "options")]
    options: Vec<String>,
    /// Size of the disk
    #[arg(short, long, value_name = "SIZE", value_parser = size, conflicts_with = "file")]
    size: Option<u64>,
    /// Format of the image that would be converted
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<SourceFormat>,
    /// How to print
    #[arg(long, value_name = "KIND", default_value = "human")]
    output: Output,
    /// Look at images in use; what is said of them may be out of date
    #[arg(short = 'U', long)]
    force_share: bool,
    /// A further directory in which backing files may lie (may be repeated)
    #[arg(long, value_name = "DIR")]
    backing_directory: Vec<PathBuf>,
    /// The image that would be converted
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: Option<PathBuf>,
}

/// Prints the sizes.
pub(crate) fn run(arguments: &MeasureArguments) -> anyhow::Result<ExitCode> {
    let mut bitmaps = None;
    let source = match (&arguments.file, arguments.size) {
        (Some(file), _) => {
            let format = format_to_read(arguments.format, file)?;
            let access =
                access_to_read(arguments.force_share, Cache::Writeback, &arguments.backing_directory);
            // Bitmaps of old images can't be persistent; those of others are not copied.
            if format == ImageFormat::Qcow2 && Qcow2Disk::info(file)?.version >= 3 {
                bitmaps = Some(0);
            }
            Some(OpenImage::open(file, format, &access)?)
        }
        (None, Some(_)) => None,
        (None, None) => bail!("give an image, or the size of a disk with --size"),
    };
    let bytes = source.as_ref().map(|source| source.disk().capacity()).or(arguments.size).unwrap_or(0);
    let bytes = bytes.next_multiple_of(512);
    let sizes = match create::describe(arguments.target_format, &arguments.options, bytes, None)? {
        NewImage::Raw { bytes, .. } => measure_raw(bytes),
        NewImage::Qcow2(parameters) => {
            let mut display = Display::new(false, true)?;
            let result =
                measure_qcow2(&parameters, source.as_ref(), &mut |done, total| display.update(done, total));
            match result {
                Ok(sizes) => sizes,
                Err(error) => return interrupted(error, "interrupted: the size is not known"),
            }
        }
    };
    let bitmaps = bitmaps.filter(|_| arguments.target_format == Format::Qcow2);
    show(sizes, bitmaps, arguments.output)?;
    Ok(ExitCode::SUCCESS)
}

/// Keys of QEMU's `BlockMeasureInfo` (qapi/block-core.json).
fn show(sizes: Measure, bitmaps: Option<u64>, output: Output) -> anyhow::Result<()> {
    let Measure { required, fully_allocated } = sizes;
    if output == Output::Json {
        let mut value = json!({ "required": required, "fully-allocated": fully_allocated });
        if let Some(bitmaps) = bitmaps {
            value["bitmaps"] = json!(bitmaps);
        }
        return print_json(&value);
    }
    let bitmaps = bitmaps.map(|bytes| format!("bitmaps size: {bytes}\n")).unwrap_or_default();
    print(&format!("required size: {required}\nfully allocated size: {fully_allocated}\n{bitmaps}"))
}
