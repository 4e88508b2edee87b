//! `vireo image resize`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use block_io::BlockBackend;
use block_io::operations::{ImageAccess, OpenImage};
use clap::Args;

use super::arguments::{Format, format_to_write, image_path, size};
use crate::output::print;

/// A size, or a change of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    To(u64),
    By(u64),
    Less(u64),
}

fn change(text: &str) -> Result<Change, String> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(more), _) => size(more).map(Change::By),
        (_, Some(less)) => size(less).map(Change::Less),
        _ => size(text).map(Change::To),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Preallocation {
    Off,
    Falloc,
    Full,
}

/// Change the size of the disk in an image.
///
/// Nobody else may have the image open. What is in the disk (partitions, file systems) is not changed with it.
#[derive(Debug, Args)]
pub(crate) struct ResizeArguments {
    /// Format of the image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Storage for what is added: as much as is written (off), reserved (falloc), written with zeroes (full)
    #[arg(long, value_name = "MODE", default_value = "off")]
    preallocation: Preallocation,
    /// Allow a smaller size: what is beyond it is lost
    #[arg(long)]
    shrink: bool,
    /// A further directory in which backing files may lie (may be repeated)
    #[arg(long, value_name = "DIR")]
    backing_directory: Vec<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
    /// New size, rounded up to 512 bytes; with + or - in front, the difference
    #[arg(value_name = "[+-]SIZE", value_parser = change, allow_hyphen_values = true)]
    size: Change,
}

/// Resizes the image.
pub(crate) fn run(arguments: &ResizeArguments) -> anyhow::Result<ExitCode> {
    let name = arguments.file.display();
    let access = ImageAccess { directories: arguments.backing_directory.clone(), ..ImageAccess::default() };
    let format = format_to_write(arguments.format, &arguments.file)?;
    let image = OpenImage::open(&arguments.file, format, &access)?;
    let before = image.disk().capacity();
    let wanted = match arguments.size {
        Change::To(bytes) => Some(bytes),
        Change::By(bytes) => before.checked_add(bytes),
        Change::Less(bytes) => before.checked_sub(bytes),
    };
    let after = wanted
        .and_then(|bytes| bytes.checked_next_multiple_of(512))
        .filter(|bytes| *bytes > 0)
        .with_context(|| {
            format!("{name}: cannot resize: the disk has {before} bytes, the result is not a size")
        })?;
    if after < before && !arguments.shrink {
        bail!(
            "{name}: cannot resize from {before} to {after} bytes: what is beyond is lost; give --shrink if that is meant"
        );
    }
    if arguments.preallocation == Preallocation::Off {
        image.disk().resize(after)?;
    } else {
        grow_with_storage(&image, after, arguments.preallocation == Preallocation::Full)
            .with_context(|| format!("{name}: cannot resize with --preallocation"))?;
    }
    if !arguments.quiet {
        print("Image resized.\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a raw disk larger and reserves what is added, or leaves it as it was.
fn grow_with_storage(image: &OpenImage, after: u64, written: bool) -> anyhow::Result<()> {
    let OpenImage::Raw(disk) = image else { bail!("storage can be reserved in raw images only") };
    let before = disk.capacity();
    if after < before {
        bail!("there is nothing to reserve in a smaller disk");
    }
    disk.resize(after)?;
    if after > before
        && let Err(error) = disk.preallocate(before, after - before, written)
    {
        disk.resize(before)?;
        return Err(error.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_a_sign_are_differences() {
        assert_eq!(change("1M"), Ok(Change::To(1 << 20)));
        assert_eq!(change("+1k"), Ok(Change::By(1024)));
        assert_eq!(change("-512"), Ok(Change::Less(512)));
        assert!(change("+-1").is_err() && change("--1").is_err());
    }
}
