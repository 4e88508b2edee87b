//! `vireo image compare`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use block_io::RawOptions;
use block_io::operations::{ImageAccess, OpenImage, compare};
use clap::Args;

use super::arguments::{Format, image_path};
use super::output::print;
use super::progress::{Display, interrupted};

const DIFFERENT: u8 = 1;
const FAILED: u8 = 2;

/// Compare the disks in two images.
///
/// Disks of different sizes are equal if the rest of the longer one is zero.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 equal, 1 different, 2 they could not be compared, 130 interrupted")]
pub(crate) struct CompareArguments {
    /// Format of the first image
    #[arg(short, long, value_name = "FORMAT")]
    format: Format,
    /// Format of the second image
    #[arg(short = 'F', long, value_name = "FORMAT")]
    second_format: Format,
    /// Disks of different sizes are different (what is allocated is not compared, other than in qemu-img)
    #[arg(short, long)]
    strict: bool,
    /// Print lines about the progress where no bar can be shown
    #[arg(short, long)]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// A further directory in which backing files may lie (may be repeated)
    #[arg(long, value_name = "DIR")]
    backing_directory: Vec<PathBuf>,
    /// An image
    #[arg(value_name = "FIRST", value_parser = image_path)]
    first: PathBuf,
    /// Another one
    #[arg(value_name = "SECOND", value_parser = image_path)]
    second: PathBuf,
}

/// Compares the images.
pub(crate) fn run(arguments: &CompareArguments) -> anyhow::Result<ExitCode> {
    compare_images(arguments).or_else(|error| {
        // 1 means that they differ.
        eprintln!("vireo image compare: {error:#}");
        Ok(ExitCode::from(FAILED))
    })
}

fn compare_images(arguments: &CompareArguments) -> anyhow::Result<ExitCode> {
    let access = ImageAccess {
        file: RawOptions { read_only: true, ..RawOptions::default() },
        directories: arguments.backing_directory.clone(),
    };
    let open = |path: &Path, format: Format| OpenImage::open(path, format.into(), &access);
    let first = open(&arguments.first, arguments.format)?;
    let second = open(&arguments.second, arguments.second_format)?;
    let say = |text: &str| if arguments.quiet { Ok(()) } else { print(text) };
    let sizes = (first.disk().capacity(), second.disk().capacity());
    if arguments.strict && sizes.0 != sizes.1 {
        say(&format!("Sizes differ: {} and {} bytes.\n", sizes.0, sizes.1))?;
        return Ok(ExitCode::from(DIFFERENT));
    }
    let mut display = Display::new(arguments.progress, arguments.quiet)?;
    let result = compare(&first, &second, &mut |done, total| display.update(done, total));
    drop(display);
    let found = match result {
        Ok(found) => found,
        Err(error) => return interrupted(error, "interrupted: how the disks compare is not known"),
    };
    if let Some(offset) = found.first_difference {
        say(&format!("Content differs at offset {offset}.\n"))?;
        return Ok(ExitCode::from(DIFFERENT));
    }
    if sizes.0 != sizes.1 {
        say(&format!("Sizes differ ({} and {} bytes), the rest is zero.\n", sizes.0, sizes.1))?;
    }
    say("Images are identical.\n")?;
    Ok(ExitCode::SUCCESS)
}
