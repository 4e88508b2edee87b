//! `vireo image create`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use block_io::operations::{ImageFormat, ImageInfo, NewImage, Replacement};
use block_io::qcow2::{BackingName, Compression, DataFileName, Preallocation, Qcow2Parameters};
use clap::Args;

use super::arguments::{Format, image_path, size};
use crate::output::print;

const OPTIONS: &str = "\
Options of a format (-o), with commas between them, or -o repeated:
  raw    size=SIZE, preallocation=off|falloc|full, nocow=on|off
  qcow2  size=SIZE, cluster_size=SIZE (512 to 2M; 64k), refcount_bits=N (1 to 64; 16), extended_l2=on|off,
         lazy_refcounts=on|off, compression_type=zlib|zstd, compat=0.10|1.1, backing_file=FILE, backing_fmt=FORMAT,
         data_file=FILE (made with the image; relative to its directory), data_file_raw=on|off,
         preallocation=off|metadata|falloc|full, nocow=on|off

An image that is there already is replaced once the new one is whole, unless somebody has it open.";

/// Make a new image.
#[derive(Debug, Args)]
#[command(after_help = OPTIONS)]
pub(crate) struct CreateArguments {
    /// Format of the new image
    #[arg(short, long, value_name = "FORMAT", default_value = "raw")]
    format: Format,
    /// Options of the format
    #[arg(short, value_name = "NAME=VALUE", id = "options")]
    options: Vec<String>,
    /// Image that the new one is based on: absolute, or relative to the new image's directory
    #[arg(short, long, value_name = "FILE", value_parser = parse_backing)]
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "FORMAT")]
    backing_format: Option<Format>,
    /// Do not look whether the backing file is there; needs a size
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "FILE", value_parser = image_path)]
    file: PathBuf,
    /// Size of the disk, rounded up to 512 bytes; default: that of the backing file
    #[arg(value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
}

fn parse_backing(text: &str) -> Result<String, String> {
    image_path(text).map(|_| text.to_owned())
}

/// What `-o` and the options with letters of their own say together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wishes {
    bytes: Option<u64>,
    cluster_bytes: Option<u64>,
    refcount_bits: Option<u32>,
    extended_l2: Option<bool>,
    lazy_refcounts: Option<bool>,
    compression: Option<Compression>,
    backing: Option<String>,
    backing_format: Option<Format>,
    version: Option<u32>,
    data_file: Option<String>,
    data_file_raw: Option<bool>,
    preallocation: Preallocation,
    no_copy_on_write: bool,
}

/// Splits at commas; two commas are one in a value, as in QEMU.
fn split_options(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match parts.last_mut() {
            Some(part) if letter != ',' || letters.next_if_eq(&',').is_some() => part.push(letter),
            _ => parts.push(String::new()),
        }
    }
    parts
}

fn on_or_off(value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(format!("{value:?} is neither on nor off")),
    }
}

fn format_of(value: &str) -> Result<Format, String> {
    <Format as clap::ValueEnum>::from_str(value, false).map_err(|_| format!("{value:?} is not raw or qcow2"))
}

impl Wishes {
    fn set(&mut self, format: Format, name: &str, value: &str) -> Result<(), String> {
        match (format, name) {
            (_, "size") => self.bytes = Some(size(value)?),
            (_, "preallocation") => {
                self.preallocation = match (format, value) {
                    (_, "off") => Preallocation::Off,
                    (Format::Qcow2, "metadata") => Preallocation::Metadata,
                    (_, "falloc") => Preallocation::Falloc,
                    (_, "full") => Preallocation::Full,
                    (Format::Raw, _) => return Err(format!("{value:?} is not off, falloc or full")),
                    _ => return Err(format!("{value:?} is not off, metadata, falloc or full")),
                }
            }
            (_, "nocow") => self.no_copy_on_write = on_or_off(value)?,
            (Format::Qcow2, "cluster_size") => self.cluster_bytes = Some(size(value)?),
            (Format::Qcow2, "refcount_bits") => {
                self.refcount_bits = Some(value.parse().map_err(|_| format!("{value:?} is not a number"))?);
            }
            (Format::Qcow2, "extended_l2") => self.extended_l2 = Some(on_or_off(value)?),
            (Format::Qcow2, "lazy_refcounts") => self.lazy_refcounts = Some(on_or_off(value)?),
            (Format::Qcow2, "compression_type") => {
                self.compression = Some(match value {
                    "zlib" => Compression::Zlib,
                    "zstd" => Compression::Zstd,
                    _ => return Err(format!("{value:?} is neither zlib nor zstd")),
                });
            }
            (Format::Qcow2, "compat") => {
                self.version = Some(match value {
                    "0.10" | "v2" => 2,
                    "1.1" | "v3" => 3,
                    _ => return Err(format!("{value:?} is neither 0.10 nor 1.1")),
                });
            }
            (Format::Qcow2, "data_file") => self.data_file = Some(parse_backing(value)?),
            (Format::Qcow2, "data_file_raw") => self.data_file_raw = Some(on_or_off(value)?),
            (Format::Qcow2, "backing_file") => self.backing = Some(parse_backing(value)?),
            (Format::Qcow2, "backing_fmt") => self.backing_format = Some(format_of(value)?),
            _ => return Err("there is no such option of this format (--help lists them)".to_owned()),
        }
        Ok(())
    }
}

/// Reads the options of a format.
fn wishes(format: Format, options: &[String]) -> anyhow::Result<Wishes> {
    let mut wishes = Wishes::default();
    for option in options.iter().flat_map(|text| split_options(text)) {
        // As in QEMU, the name alone switches something on.
        let (name, value) = option.split_once('=').unwrap_or((&option, "on"));
        wishes.set(format, name, value).map_err(|reason| anyhow::anyhow!("-o {name}: {reason}"))?;
    }
    if wishes.data_file_raw == Some(true) && wishes.data_file.is_none() {
        bail!("-o data_file_raw: there is no external data file: give it with data_file");
    }
    Ok(wishes)
}

/// What a new image of this format and size is like, by the options of `-o`; for verbs that make images of other ones.
pub(crate) fn describe(
    format: Format,
    options: &[String],
    bytes: u64,
    backing: Option<BackingName>,
) -> anyhow::Result<NewImage> {
    let wishes = wishes(format, options)?;
    if wishes.bytes.is_some() || wishes.backing.is_some() || wishes.backing_format.is_some() {
        bail!("-o: size, backing_file and backing_fmt are not possible here");
    }
    Ok(new_image(format, &wishes, bytes, backing))
}

fn new_image(format: Format, wishes: &Wishes, bytes: u64, backing: Option<BackingName>) -> NewImage {
    if format == Format::Raw {
        let (preallocation, no_copy_on_write) = (wishes.preallocation, wishes.no_copy_on_write);
        return NewImage::Raw { bytes, preallocation, no_copy_on_write };
    }
    let defaults = Qcow2Parameters::new(bytes);
    NewImage::Qcow2(Qcow2Parameters {
        cluster_bytes: wishes.cluster_bytes.unwrap_or(defaults.cluster_bytes),
        refcount_bits: wishes.refcount_bits.unwrap_or(defaults.refcount_bits),
        extended_l2: wishes.extended_l2.unwrap_or(defaults.extended_l2),
        lazy_refcounts: wishes.lazy_refcounts.unwrap_or(defaults.lazy_refcounts),
        compression: wishes.compression.unwrap_or(defaults.compression),
        backing,
        version: wishes.version.unwrap_or(defaults.version),
        data_file: wishes
            .data_file
            .clone()
            .map(|name| DataFileName { name, raw: wishes.data_file_raw.unwrap_or(false) }),
        preallocation: wishes.preallocation,
        no_copy_on_write: wishes.no_copy_on_write,
        bytes: defaults.bytes,
    })
}

/// Makes the image.
pub(crate) fn run(arguments: &CreateArguments) -> anyhow::Result<ExitCode> {
    let name = arguments.file.display();
    let mut wishes = wishes(arguments.format, &arguments.options)?;
    if arguments.backing.is_some() && arguments.format == Format::Raw {
        bail!("-b: a raw image can't have a backing file: use -f qcow2");
    }
    wishes.bytes = arguments.size.or(wishes.bytes);
    wishes.backing = arguments.backing.clone().or(wishes.backing);
    wishes.backing_format = arguments.backing_format.or(wishes.backing_format);
    let backing = match (&wishes.backing, wishes.backing_format) {
        (Some(name), Some(format)) => Some((name.clone(), ImageFormat::from(format))),
        (Some(_), None) => bail!("-b: the backing file's format is not guessed: give it with -F"),
        (None, Some(_)) => bail!("-F: there is no backing file: give it with -b"),
        (None, None) => None,
    };
    let below = match &backing {
        Some((backing, format)) if !arguments.backing_unsafe => {
            let path = arguments.file.parent().unwrap_or(Path::new("")).join(backing);
            Some(ImageInfo::read(&path, Some(*format)).context("the backing file")?.virtual_bytes)
        }
        _ => None,
    };
    let bytes = wishes.bytes.or(below).with_context(|| format!("{name}: give the size of the new disk"))?;
    let bytes = bytes.next_multiple_of(512);
    let backing = backing.map(|(name, format)| BackingName { name, format: format.name().to_owned() });
    let image = new_image(arguments.format, &wishes, bytes, backing);
    let replacement = Replacement::prepare(&arguments.file)?;
    image.create(replacement.temporary_path()).map_err(|error| replacement.named(error))?;
    replacement.commit()?;
    if !arguments.quiet {
        let format = ImageFormat::from(arguments.format);
        print(&format!("Created {name}: {format}, {bytes} bytes\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_at_commas_that_are_not_doubled() {
        assert_eq!(split_options("a=1,b=x,,y"), ["a=1", "b=x,y"]);
        assert_eq!(split_options(""), [""]);
    }

    #[test]
    fn options_of_the_other_format_and_senseless_values_are_refused() {
        for (format, option) in [
            (Format::Raw, "cluster_size=4k"),
            (Format::Raw, "preallocation=metadata"),
            (Format::Qcow2, "preallocation=some"),
            (Format::Qcow2, "data_file_raw=on"),
            (Format::Qcow2, "data_file=nbd:host:1"),
            (Format::Qcow2, "extended_l2=maybe"),
            (Format::Qcow2, "compat=0.9"),
            (Format::Qcow2, "backing_file=nbd:host:1"),
            (Format::Qcow2, "cluster_size"),
        ] {
            assert!(wishes(format, &[option.to_owned()]).is_err(), "{option}");
        }
    }
}
