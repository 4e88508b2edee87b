//! `vireo image compare`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use block_io::operations::{OpenImage, OperationError, Progress, compare, compare_allocation};
use clap::Args;

use super::arguments::{Cache, SourceFormat, access_to_read, format_to_read, image_path};
use super::progress::{Display, interrupted};
use super::qemu_img::prefix;
use crate::output::{in_one_line, print};

const DIFFERENT: u8 = 1;
const FAILED: u8 = 2;

/// Compare the disks in two images.
///
/// Disks of different sizes are equal if the rest of the longer one is zero.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 equal, 1 different, 2 they could not be compared, 130 interrupted")]
pub(crate) struct CompareArguments {
    /// Format of the first image
    #[arg(short, long, alias = "a-format", value_name = "FORMAT")]
    format: Option<SourceFormat>,
    /// Format of the second image
    #[arg(short = 'F', long, alias = "b-format", value_name = "FORMAT")]
    second_format: Option<SourceFormat>,
    /// Disks of different sizes are different, and so are disks that are not allocated alike
    #[arg(short, long)]
    strict: bool,
    /// Cache mode of both images
    #[arg(short = 'T', long, value_name = "MODE", default_value = "writeback")]
    cache: Cache,
    /// Compare images in use; while they change, the result means little
    #[arg(short = 'U', long)]
    force_share: bool,
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
        eprintln!("{}: {}", prefix("compare"), in_one_line(&error));
        Ok(ExitCode::from(FAILED))
    })
}

fn compare_images(arguments: &CompareArguments) -> anyhow::Result<ExitCode> {
    let access = access_to_read(arguments.force_share, arguments.cache, &arguments.backing_directory);
    let open = |path: &Path, format: Option<SourceFormat>| -> anyhow::Result<OpenImage> {
        Ok(OpenImage::open(path, format_to_read(format, path)?, &access)?)
    };
    let first = open(&arguments.first, arguments.format)?;
    let second = open(&arguments.second, arguments.second_format)?;
    let say = |text: &str| if arguments.quiet { Ok(()) } else { print(text) };
    let sizes = (first.disk().capacity(), second.disk().capacity());
    if arguments.strict && sizes.0 != sizes.1 {
        say("Strict mode: Image size mismatch!\n")?;
        return Ok(ExitCode::from(DIFFERENT));
    }
    let mut display = Display::new(arguments.progress, arguments.quiet)?;
    let mut progress = |done, total| display.update(done, total);
    let result = find_difference(&first, &second, arguments.strict, &mut progress);
    drop(display);
    let found = match result {
        Ok(found) => found,
        Err(error) => return interrupted(error, "interrupted: how the disks compare is not known"),
    };
    if let Some(difference) = found {
        say(&match difference {
            Difference::Allocation(offset) => {
                format!("Strict mode: Offset {offset} block status mismatch!\n")
            }
            Difference::Content(offset) => format!("Content mismatch at offset {offset}!\n"),
        })?;
        return Ok(ExitCode::from(DIFFERENT));
    }
    if sizes.0 != sizes.1 {
        say("Warning: Image size mismatch!\n")?;
    }
    say("Images are identical.\n")?;
    Ok(ExitCode::SUCCESS)
}

/// Where the disks begin to differ, bytes.
enum Difference {
    Allocation(u64),
    Content(u64),
}

fn find_difference(
    first: &OpenImage,
    second: &OpenImage,
    strict: bool,
    progress: Progress<'_>,
) -> Result<Option<Difference>, OperationError> {
    if strict && let Some(offset) = compare_allocation(first, second, progress)? {
        return Ok(Some(Difference::Allocation(offset)));
    }
    Ok(compare(first, second, progress)?.first_difference.map(Difference::Content))
}
