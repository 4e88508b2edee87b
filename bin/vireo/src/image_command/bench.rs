//! `vireo image bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use block_io::EngineChoice;
use block_io::operations::{BenchOptions, MOST_BENCH_BYTES, OpenImage, bench};
use clap::Args;

use super::arguments::{
    Cache, SourceFormat, access_to_read, format_to_read, format_to_write, image_path, size,
};
use crate::output::print;

/// How requests reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Submission {
    /// Threads that wait
    Threads,
    /// Linux AIO; the ring is used in its place
    Native,
    /// io_uring
    #[value(name = "io_uring")]
    IoUring,
}

/// Measure how long requests to an image take.
///
/// Requests follow each other at a regular distance (--step-size) and go on at the start when they reach the end; a large
/// distance that does not divide the disk's size scatters them. Writes overwrite what is in the image.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Requests in all
    #[arg(short, long, default_value_t = 75_000, value_parser = clap::value_parser!(u64).range(1..=0x7fff_ffff))]
    count: u64,
    /// Requests in flight
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=0x7fff_ffff))]
    depth: u32,
    /// Format of the image
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<SourceFormat>,
    /// How requests reach the kernel; default: io_uring where it is allowed, else threads
    #[arg(short = 'i', long, value_name = "AIO")]
    aio: Option<Submission>,
    /// Use of caches
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback")]
    cache: Cache,
    /// The same as -i native
    #[arg(short, long, conflicts_with = "aio")]
    native: bool,
    /// Where the first request begins
    #[arg(short, long, default_value = "0", value_parser = size)]
    offset: u64,
    /// Bytes of a request
    #[arg(short = 's', long, value_name = "SIZE", default_value = "4096", value_parser = size)]
    buffer_size: u64,
    /// From the start of one request to that of the next; default: the size of a request
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = size)]
    step_size: Option<u64>,
    /// Write instead of reading
    #[arg(short, long)]
    write: bool,
    /// The byte that is written
    #[arg(long, value_name = "BYTE", default_value_t = 0)]
    pattern: u8,
    /// Flush after so many writes
    #[arg(long, value_name = "N", requires = "write", value_parser = clap::value_parser!(u32).range(1..))]
    flush_interval: Option<u32>,
    /// Do not wait for the writes in flight before a flush
    #[arg(long, requires = "flush_interval")]
    no_drain: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Open the image even if somebody else has it open
    #[arg(short = 'U', long)]
    force_share: bool,
    /// A further directory in which backing files may lie (may be repeated)
    #[arg(long, value_name = "DIR")]
    backing_directory: Vec<PathBuf>,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
}

/// Measures the image.
pub(crate) fn run(arguments: &BenchArguments) -> anyhow::Result<ExitCode> {
    let options = options(arguments)?;
    let mut access = access_to_read(arguments.force_share, arguments.cache, &arguments.backing_directory);
    access.file.read_only = !arguments.write;
    if arguments.aio == Some(Submission::Threads) {
        access.file.engine = EngineChoice::Threads;
    }
    let format = if arguments.write {
        format_to_write(arguments.format, &arguments.file)?
    } else {
        format_to_read(arguments.format, &arguments.file)?
    };
    let image = OpenImage::open(&arguments.file, format, &access)?;
    if !arguments.quiet {
        let BenchOptions { count, depth, bytes, offset, step, .. } = options;
        let kind = if arguments.write { "write" } else { "read" };
        let mut text = format!(
            "Sending {count} {kind} requests, {bytes} bytes each, {depth} in parallel (starting at offset {offset}, \
             step size {step})\n"
        );
        if let Some(interval) = options.flush_interval {
            text.push_str(&format!("Sending flush every {interval} requests\n"));
        }
        print(&text)?;
    }
    let time = bench(&image, &options).with_context(|| arguments.file.display().to_string())?;
    print(&format!("Run completed in {:.3} seconds.\n", time.as_secs_f64()))?;
    Ok(ExitCode::SUCCESS)
}

fn options(arguments: &BenchArguments) -> anyhow::Result<BenchOptions> {
    let bytes = u32::try_from(arguments.buffer_size).ok().filter(|bytes| (1..=0x7fff_ffff).contains(bytes));
    let bytes = bytes.context("-s: a request has 1 to 2147483647 bytes")?;
    if u64::from(bytes) * u64::from(arguments.depth) > MOST_BENCH_BYTES {
        bail!("-s, -d: requests in flight would take more than 1 GiB of memory");
    }
    if arguments.flush_interval.is_some_and(|interval| interval < arguments.depth) {
        bail!("--flush-interval: it can't be smaller than the depth ({})", arguments.depth);
    }
    Ok(BenchOptions {
        count: arguments.count,
        depth: arguments.depth,
        bytes,
        offset: arguments.offset,
        step: arguments.step_size.filter(|step| *step > 0).unwrap_or(u64::from(bytes)),
        pattern: arguments.write.then_some(arguments.pattern),
        flush_interval: arguments.flush_interval,
        drain: !arguments.no_drain,
    })
}
