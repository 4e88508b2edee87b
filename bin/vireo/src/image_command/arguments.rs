//! Values that several verbs take: formats, names of images, sizes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use block_io::operations::{ImageAccess, ImageFormat, probe};
use block_io::{CacheMode, Locking, RawOptions};

use super::qemu_img::called_as_qemu_img;

/// A format as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2,
        }
    }
}

/// A format that images are read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SourceFormat {
    Raw,
    Qcow2,
    /// VMware's
    Vmdk,
    /// Hyper-V's
    Vhdx,
    /// Virtual PC's and Hyper-V's older one, VHD
    #[value(alias = "vhd")]
    Vpc,
    /// VirtualBox's
    Vdi,
    /// An archive with VMDK disks; FILE.ova:DISK names one of several
    Ova,
}

impl From<SourceFormat> for ImageFormat {
    fn from(format: SourceFormat) -> Self {
        match format {
            SourceFormat::Raw => Self::Raw,
            SourceFormat::Qcow2 => Self::Qcow2,
            SourceFormat::Vmdk => Self::Vmdk,
            SourceFormat::Vhdx => Self::Vhdx,
            SourceFormat::Vpc => Self::Vpc,
            SourceFormat::Vdi => Self::Vdi,
            SourceFormat::Ova => Self::Ova,
        }
    }
}

/// The format of an image that is only read. Called as qemu-img, its first bytes are believed as there; else it has to be
/// given.
pub(crate) fn format_to_read(given: Option<SourceFormat>, path: &Path) -> anyhow::Result<ImageFormat> {
    match given {
        Some(format) => Ok(format.into()),
        None if called_as_qemu_img() => Ok(probe(path)?),
        None => bail!(
            "{}: the format of an image is not guessed: give it with -f (`vireo image info` tells what it seems to be)",
            path.display()
        ),
    }
}

/// The format of an image that is written to, or whose content decides what is written: it is never guessed.
pub(crate) fn format_to_write<F: Into<ImageFormat>>(
    given: Option<F>,
    path: &Path,
) -> anyhow::Result<ImageFormat> {
    given.map(Into::into).with_context(|| {
        format!(
            "{}: the format of an image that is written to is not guessed, because a guest can write the header of \
             another one to a raw disk: give it with -f",
            path.display()
        )
    })
}

/// How the host's page cache is used, as QEMU and libvirt call it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cache {
    #[default]
    Writeback,
    None,
    Writethrough,
    Directsync,
    Unsafe,
}

impl From<Cache> for CacheMode {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::Writeback => Self::Writeback,
            Cache::None => Self::None,
            Cache::Writethrough => Self::Writethrough,
            Cache::Directsync => Self::Directsync,
            Cache::Unsafe => Self::Unsafe,
        }
    }
}

/// How an image is opened that is only read. `shared`: although somebody may be writing to it.
pub(crate) fn access_to_read(shared: bool, cache: Cache, directories: &[PathBuf]) -> ImageAccess {
    let locking = if shared { Locking::Shared } else { Locking::Enforced };
    ImageAccess {
        file: RawOptions { read_only: true, cache: cache.into(), locking, ..RawOptions::default() },
        directories: directories.to_owned(),
    }
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Human,
    /// For programs, with qemu-img's keys
    Json,
}

/// A path. QEMU's other names are refused instead of taken for odd files: whoever uses them expects them to work.
pub(crate) fn image_path(text: &str) -> Result<PathBuf, String> {
    match text.split_once(':') {
        Some((archive, _)) if archive.to_ascii_lowercase().ends_with(".ova") => Ok(PathBuf::from(text)),
        Some((protocol, _)) if !protocol.contains('/') => Err(format!(
            "names with a protocol ({protocol}:) are not supported: give a path (./{text} if that is the file's name)"
        )),
        _ if text.is_empty() => Err("the name is empty".to_owned()),
        _ => Ok(PathBuf::from(text)),
    }
}

/// A size in bytes: digits with an optional fraction and a suffix, b, k, M, G, T, P or E (powers of 1024).
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: give bytes, or a number with k, M, G, T, P or E");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u128 = match &text[digits.len()..] {
        "" | "b" | "B" => 1,
        "k" | "K" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        "T" | "t" => 1 << 40,
        "P" | "p" => 1 << 50,
        "E" | "e" => 1 << 60,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    // Eighteen digits of a fraction, times the largest unit, fit in 128 bits.
    let plain = |text: &str| {
        !text.is_empty() && text.len() <= 20 && text.bytes().all(|letter| letter.is_ascii_digit())
    };
    if !plain(whole) || !plain(fraction) || fraction.len() > 18 {
        return Err(wrong());
    }
    let whole: u128 = whole.parse().map_err(|_| wrong())?;
    let parts: u128 = fraction.parse().map_err(|_| wrong())?;
    let scale = (0..fraction.len()).fold(1u128, |scale, _| scale * 10);
    // QEMU's limit: offsets are signed.
    u64::try_from(whole * unit + parts * unit / scale)
        .ok()
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| format!("{text} is too large: less than 8E is possible"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_suffixes_and_fractions() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64k"), Ok(65536));
        assert_eq!(size("1.5G"), Ok(3 << 29));
        assert_eq!(size("7E"), Ok(7 << 60));
        for text in ["", "k", "-1", "1KiB", "1.", ".5G", "0x10", "8E", "99999999999999999999E", "1 G", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_protocols_are_refused_and_paths_with_colons_are_not() {
        assert_eq!(image_path("./odd:name"), Ok(PathBuf::from("./odd:name")));
        assert_eq!(image_path("/a/b:c"), Ok(PathBuf::from("/a/b:c")));
        assert_eq!(image_path("m.ova:disk1"), Ok(PathBuf::from("m.ova:disk1")));
        for text in ["json:{}", "nbd:localhost:1", "https://example.org/x", "fat:/etc", ""] {
            assert!(image_path(text).is_err(), "{text}");
        }
    }
}
