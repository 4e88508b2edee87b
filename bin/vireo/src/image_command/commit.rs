//! `vireo image commit`.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use block_io::RawOptions;
use block_io::operations::{AfterCommit, ImageAccess, ImageFormat, commit};
use clap::Args;

use super::arguments::{Cache, Format, format_to_write, image_path, size};
use super::progress::{Display, interrupted};
use crate::output::print;

/// Write what an image has of its own into its backing file.
///
/// The image is emptied afterwards, as its backing file has everything then. Whenever this is interrupted, the disk is what
/// it was, and commit can be called again. Other images that are based on what is written to become useless.
#[derive(Debug, Args)]
pub(crate) struct CommitArguments {
    /// Format of the image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// An image deeper in the chain to write to; the image is not emptied then, and it and those between are of no use
    #[arg(short, long, value_name = "FILE", value_parser = image_path)]
    base: Option<PathBuf>,
    /// Do not empty the image
    #[arg(short, long)]
    drop: bool,
    /// Most bytes a second
    #[arg(short, long, value_name = "RATE", value_parser = size)]
    rate: Option<u64>,
    /// Cache mode of the images
    #[arg(short = 't', long, value_name = "MODE", default_value = "writeback")]
    cache: Cache,
    /// A further directory in which backing files may lie (may be repeated)
    #[arg(long, value_name = "DIR")]
    backing_directory: Vec<PathBuf>,
    /// Print lines about the progress where no bar can be shown
    #[arg(short, long)]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
}

/// Commits the image.
pub(crate) fn run(arguments: &CommitArguments) -> anyhow::Result<ExitCode> {
    let name = arguments.file.display();
    if format_to_write(arguments.format, &arguments.file)? != ImageFormat::Qcow2 {
        bail!("{name}: only qcow2 images have backing files");
    }
    let access = ImageAccess {
        file: RawOptions { cache: arguments.cache.into(), ..RawOptions::default() },
        directories: arguments.backing_directory.clone(),
    };
    let keep = arguments.drop || arguments.base.is_some();
    let after = if keep { AfterCommit::Kept } else { AfterCommit::Emptied };
    let mut display = Display::new(arguments.progress, arguments.quiet)?;
    let mut progress = |done, total| display.update(done, total);
    // As in QEMU, 0 is no limit.
    let rate = arguments.rate.and_then(NonZeroU64::new);
    let base = arguments.base.as_deref();
    let result = commit(&arguments.file, base, after, rate, &access, &mut progress);
    drop(display);
    if let Err(error) = result {
        return interrupted(error, &format!("interrupted: {name} still has everything, commit it again"));
    }
    if !arguments.quiet {
        print("Image committed.\n")?;
    }
    Ok(ExitCode::SUCCESS)
}
