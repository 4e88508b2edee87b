//! `vireo image convert`.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use block_io::operations::{
    CopyOptions, ImageAccess, ImageFormat, NewImage, OpenImage, OperationError, Replacement, copy,
};
use block_io::qcow2::BackingName;
use block_io::{BlockError, CacheMode, RawOptions};
use clap::Args;

use super::arguments::{Cache, Format, SourceFormat, access_to_read, format_to_read, image_path, size};
use super::create;
use super::progress::{Display, interrupted};

/// Largest value of -S, bytes, as qemu-img has it.
const MOST_SPARSE_BYTES: u64 = 16 << 20;

/// Copy the disk in an image into a new image, perhaps of another format.
///
/// The new image is independent of backing files (but see -B) and has no snapshots. Zeroes take no storage in it; where the
/// file system shares storage between files, the copy takes none either. An image that is there already is replaced once
/// the new one is whole and on stable storage; when the copy fails or is interrupted, it stays as it was.
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
    #[arg(short, value_name = "NAME=VALUE", id = "options", conflicts_with = "no_create")]
    options: Vec<String>,
    /// Compress the new image's data (qcow2)
    #[arg(short, long)]
    compress: bool,
    /// Write into the target, which is there already (a block device, for example) and is damaged if the copy fails
    #[arg(short, long)]
    no_create: bool,
    /// With -n: the target reads as zeroes everywhere
    #[arg(long, requires = "no_create")]
    target_is_zero: bool,
    /// Base the new image on this file, which has the content of the source's backing file
    #[arg(short = 'B', long, value_name = "FILE", requires = "backing_format", conflicts_with = "no_create")]
    backing: Option<String>,
    /// Format of the new image's backing file
    #[arg(short = 'F', long, value_name = "FORMAT", requires = "backing")]
    backing_format: Option<Format>,
    /// Zeroes in a row that are left out; 0 writes everything
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "4k", value_parser = sparse_size)]
    sparse_size: u64,
    /// Use of caches for the target; default: past the page cache where that is possible, and durable in the end. With
    /// `unsafe` nothing is made durable
    #[arg(short = 't', long, value_name = "CACHE")]
    target_cache: Option<Cache>,
    /// Use of caches for the source
    #[arg(short = 'T', long, value_name = "CACHE", default_value = "writeback")]
    source_cache: Cache,
    /// Pieces that are copied at the same time
    #[arg(short = 'm', long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    parallel: Option<u8>,
    /// Accepted for qemu-img's sake: pieces are written in any order
    #[arg(short = 'W', long)]
    out_of_order: bool,
    /// Most bytes a second
    #[arg(short, long, value_name = "RATE", value_parser = rate)]
    rate: Option<NonZeroU64>,
    /// Open the source even if somebody else has it open
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
    /// The image to read (several: one after the other), and the image to make
    #[arg(value_name = "SOURCE... TARGET", value_parser = image_path, required = true)]
    files: Vec<PathBuf>,
}

fn sparse_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes.is_multiple_of(512) && bytes <= MOST_SPARSE_BYTES {
        return Ok(bytes);
    }
    Err(format!("a multiple of 512 up to {MOST_SPARSE_BYTES} is possible"))
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(size(text)?).ok_or_else(|| "the rate must not be 0".to_owned())
}

/// Copies the image.
pub(crate) fn run(arguments: &ConvertArguments) -> anyhow::Result<ExitCode> {
    let Some((target, sources)) = arguments.files.split_last() else { bail!("give a source and a target") };
    if sources.is_empty() {
        bail!("give a source and a target");
    }
    let access = access_to_read(arguments.force_share, arguments.source_cache, &arguments.backing_directory);
    let open =
        |path: &PathBuf| anyhow::Ok(OpenImage::open(path, format_to_read(arguments.format, path)?, &access)?);
    let sources =
        Sources { paths: sources.to_vec(), images: sources.iter().map(open).collect::<anyhow::Result<_>>()? };
    if sources.images.len() > 1 && (arguments.backing.is_some() || arguments.compress) {
        bail!("-B, -c: only one source is possible");
    }
    if arguments.compress && arguments.target_format != Format::Qcow2 {
        bail!("-c: only a qcow2 image can be compressed (-O qcow2)");
    }
    if arguments.no_create {
        into_existing(arguments, &sources, target)
    } else {
        into_new(arguments, &sources, target)
    }
}

/// What is copied, one after the other.
struct Sources {
    paths: Vec<PathBuf>,
    images: Vec<OpenImage>,
}

impl Sources {
    fn bytes(&self) -> u64 {
        self.images.iter().map(|image| image.disk().capacity()).fold(0, u64::saturating_add)
    }

    fn copy(
        &self,
        target: &OpenImage,
        options: &CopyOptions,
        display: &mut Display,
    ) -> Result<(), OperationError> {
        let (mut before, total) = (0, self.bytes());
        for image in &self.images {
            let options = CopyOptions { target_offset: before, ..*options };
            copy(image, target, &options, &mut |done, _| display.update(before + done, total))?;
            before += image.disk().capacity();
        }
        Ok(())
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        names.join(", ")
    }
}

fn copy_options(arguments: &ConvertArguments) -> CopyOptions {
    let defaults = CopyOptions::default();
    CopyOptions {
        target_is_zero: arguments.backing.is_none() && (!arguments.no_create || arguments.target_is_zero),
        keep_backing: arguments.backing.is_some(),
        least_hole_bytes: arguments.sparse_size,
        threads: arguments.parallel.map_or(defaults.threads, usize::from),
        bytes_per_second: arguments.rate,
        compressed: arguments.compress,
        ..defaults
    }
}

fn into_existing(arguments: &ConvertArguments, sources: &Sources, path: &Path) -> anyhow::Result<ExitCode> {
    let (from, to) = (sources.names(), path.display());
    let target =
        open_target(arguments, path, arguments.target_cache.map_or(CacheMode::Writeback, Into::into))?;
    let mut display = Display::new(arguments.progress, arguments.quiet)?;
    let copied = sources.copy(&target, &copy_options(arguments), &mut display);
    drop(target);
    drop(display);
    match copied {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => interrupted(error, &format!("interrupted: {to} holds a part of {from} only"))
            .with_context(|| format!("{from}: cannot convert to {to}")),
    }
}

fn into_new(arguments: &ConvertArguments, sources: &Sources, path: &Path) -> anyhow::Result<ExitCode> {
    let (from, to) = (sources.names(), path.display());
    let image = new_image(arguments, sources.bytes())?;
    let mut display = Display::new(arguments.progress, arguments.quiet)?;
    let replacement = Replacement::prepare(path)?;
    image.create(replacement.temporary_path()).map_err(|error| replacement.named(error))?;
    let target = open_new(arguments, sources, &replacement)?;
    let copied = sources.copy(&target, &copy_options(arguments), &mut display);
    // What a target writes when it is closed belongs to the image.
    drop(target);
    drop(display);
    if let Err(error) = copied {
        return interrupted(error, &format!("interrupted: {to} was not made"))
            .with_context(|| format!("{from}: cannot convert to {to}"));
    }
    if arguments.target_cache == Some(Cache::Unsafe) {
        replacement.commit_volatile()?;
    } else {
        replacement.commit()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn new_image(arguments: &ConvertArguments, bytes: u64) -> anyhow::Result<NewImage> {
    let backing = match (&arguments.backing, arguments.backing_format) {
        (Some(_), _) if arguments.target_format == Format::Raw => {
            bail!("-B: a raw image can't have a backing file: use -O qcow2")
        }
        (Some(name), Some(format)) => {
            image_path(name).map_err(|reason| anyhow::anyhow!("-B: {reason}"))?;
            Some(BackingName { name: name.clone(), format: ImageFormat::from(format).name().to_owned() })
        }
        _ => None,
    };
    create::describe(arguments.target_format, &arguments.options, bytes, backing)
}

/// Opens the new image past the page cache if that is possible: what is copied is rarely read again soon, and pushes out
/// nothing that is.
fn open_new(
    arguments: &ConvertArguments,
    sources: &Sources,
    replacement: &Replacement,
) -> Result<OpenImage, BlockError> {
    let open = |cache| {
        open_target(arguments, replacement.temporary_path(), cache).map_err(|error| replacement.named(error))
    };
    if let Some(cache) = arguments.target_cache {
        return open(cache.into());
    }
    // Where direct I/O wants larger blocks, only whole copies have them.
    let whole = arguments.backing.is_none() && sources.images.len() == 1;
    let direct = whole.then(|| open(CacheMode::None)).and_then(Result::ok);
    direct.map_or_else(|| open(CacheMode::Writeback), Ok)
}

fn open_target(arguments: &ConvertArguments, path: &Path, cache: CacheMode) -> Result<OpenImage, BlockError> {
    let file = RawOptions { cache, ..RawOptions::default() };
    let access = ImageAccess { file, directories: arguments.backing_directory.clone() };
    OpenImage::open(path, arguments.target_format.into(), &access)
}
