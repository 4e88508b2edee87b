//! `vireo image rebase`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use block_io::operations::{ImageAccess, ImageFormat, rebase};
use block_io::qcow2::BackingName;
use block_io::{Qcow2Disk, RawOptions};
use clap::Args;

use super::arguments::{Cache, Format, format_to_write, image_path};
use super::progress::{Display, interrupted};
use crate::output::print;

/// Put an image on top of another backing file, or of none.
///
/// The disk stays as it is: what the backing files have different is copied into the image first. Nobody else may have any
/// of the images open for writing. Whenever this is interrupted, the image is still based on the old file, and whole.
#[derive(Debug, Args)]
pub(crate) struct RebaseArguments {
    /// Format of the image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// The new backing file, absolute or relative to the image's directory; "" for none
    #[arg(short, long, value_name = "FILE", value_parser = backing)]
    backing: String,
    /// Format of the new backing file
    #[arg(short = 'F', long, value_name = "FORMAT")]
    backing_format: Option<Format>,
    /// Only change the name that the image has for its backing file: what is different there is different in the disk
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Cache mode of the image
    #[arg(short = 't', long, value_name = "MODE", default_value = "writeback")]
    cache: Cache,
    /// Cache mode of the backing file (that of the image is used for all)
    #[arg(short = 'T', long, value_name = "MODE", hide = true)]
    backing_cache: Option<Cache>,
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

fn backing(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { image_path(text).map(|_| text.to_owned()) }
}

/// Rebases the image.
pub(crate) fn run(arguments: &RebaseArguments) -> anyhow::Result<ExitCode> {
    let name = arguments.file.display();
    if format_to_write(arguments.format, &arguments.file)? != ImageFormat::Qcow2 {
        bail!("{name}: only qcow2 images have backing files");
    }
    let new = match (arguments.backing.as_str(), arguments.backing_format) {
        ("", None) => None,
        ("", Some(_)) => bail!("-F: there is no backing file to have this format"),
        (_, None) => bail!("-b: the backing file's format is not guessed: give it with -F"),
        (file, Some(format)) => {
            Some(BackingName { name: file.to_owned(), format: ImageFormat::from(format).name().to_owned() })
        }
    };
    if arguments.backing_unsafe {
        Qcow2Disk::set_backing(&arguments.file, new.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let access = ImageAccess {
        file: RawOptions { cache: arguments.cache.into(), ..RawOptions::default() },
        directories: arguments.backing_directory.clone(),
    };
    let mut display = Display::new(arguments.progress, arguments.quiet)?;
    let result =
        rebase(&arguments.file, new.as_ref(), &access, &mut |done, total| display.update(done, total));
    drop(display);
    if let Err(error) = result {
        return interrupted(error, &format!("interrupted: {name} is based on what it was"));
    }
    if !arguments.quiet {
        print("Image rebased.\n")?;
    }
    Ok(ExitCode::SUCCESS)
}
