//! `vireo image convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use block_io::RawOptions;
use block_io::operations::{ImageAccess, OpenImage, Replacement, copy_to_new};
use clap::Args;

use super::arguments::{Format, SourceFormat, format_to_read, image_path};
use super::create;
use super::progress::{Display, interrupted};

/// Copy the disk in an image into a new image, perhaps of another format.
///
/// The new image is independent of backing files and has no snapshots. Zeroes take no storage in it. An image that is there
/// already is replaced once the new one is whole; when the copy fails or is interrupted, it stays as it was.
#[derive(Debug, Args)]
#[command(
    after_help = "Options of formats (-o) are those of `vireo image create`, without size and backing file."
)]
pub(crate) struct ConvertArguments {
    /// Format of the source
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<SourceFormat>,
    /// Format of the new image
    #[arg(short = 'O', long, value_name = "FORMAT", default_value = "raw")]
    target_format: Format,
    /// Options of the new image's format
    #[arg(short, value_name = "NAME=VALUE", id = "options")]
    options: Vec<String>,
    /// Print lines about the progress where no bar can be shown
    #[arg(short, long)]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// A further directory in which the source's backing files may lie (may be repeated)
    #[arg(long, value_name = "DIR")]
    backing_directory: Vec<PathBuf>,
    /// The image to read
    #[arg(value_name = "SOURCE", value_parser = image_path)]
    source: PathBuf,
    /// The image to make
    #[arg(value_name = "TARGET", value_parser = image_path)]
    target: PathBuf,
}

/// Copies the image.
pub(crate) fn run(arguments: &ConvertArguments) -> anyhow::Result<ExitCode> {
    let (from, to) = (arguments.source.display(), arguments.target.display());
    let access = ImageAccess {
        file: RawOptions { read_only: true, ..RawOptions::default() },
        directories: arguments.backing_directory.clone(),
    };
    let format = format_to_read(arguments.format, &arguments.source)?;
    let source = OpenImage::open(&arguments.source, format, &access)?;
    let image = create::describe(arguments.target_format, &arguments.options, source.disk().capacity())?;
    let mut display = Display::new(arguments.progress, arguments.quiet)?;
    let replacement = Replacement::prepare(&arguments.target)?;
    image.create(replacement.temporary_path()).map_err(|error| replacement.named(error))?;
    let path = replacement.temporary_path();
    let target = OpenImage::open(path, arguments.target_format.into(), &ImageAccess::default())?;
    let copied = copy_to_new(&source, target.disk(), &mut |done, total| display.update(done, total));
    // What a target writes when it is closed belongs to the image.
    drop(target);
    drop(display);
    if let Err(error) = copied {
        return interrupted(error, &format!("interrupted: {to} was not made"))
            .with_context(|| format!("{from}: cannot convert to {to}"));
    }
    replacement.commit()?;
    Ok(ExitCode::SUCCESS)
}
