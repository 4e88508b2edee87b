//! Opening an image with everything below it.
//!
//! A backing file, or an external data file, is named by the image, so by whoever made it: it is opened only if the caller allows the directory where
//! it really lies, only if a backing file's format is written down (probing would let a guest choose it), and never through a protocol
//! name. Stops images that want to show a guest the host's files.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::chain::Layer;
use super::check::{Repair, check_file};
use super::header::{Header, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DATA_FILE, INCOMPATIBLE_DIRTY};
use super::image::{Image, OpenError, read_header};
use super::{BackingAccess, Qcow2Options};
use crate::backend::BlockError;
use crate::file::{HostFile, RawOptions, error};

/// Longest backing chain: bounds descriptors and the time of one lookup.
const MOST_LAYERS: usize = 64;

fn refuse(path: &Path, operation: &str, advice: impl Into<String>) -> BlockError {
    error(path, operation, std::io::Error::new(std::io::ErrorKind::InvalidInput, advice.into()))
}

pub(super) fn open_error(path: &Path, source: OpenError) -> BlockError {
    let source = match source {
        OpenError::Io(source) => source,
        OpenError::Errno(errno) => errno.into(),
        OpenError::Format(format) => std::io::Error::new(std::io::ErrorKind::InvalidData, format),
    };
    error(path, "cannot open the qcow2 image", source)
}

/// Opens an image and its chain.
pub(super) fn open_chain(file: HostFile, options: &Qcow2Options) -> Result<Image, BlockError> {
    let path = file.path.clone();
    repair_dirty(&file)?;
    let (header, metadata_file) = read_header(&file).map_err(|source| open_error(&path, source))?;
    let mut seen = vec![identity(&file)?];
    let external = open_external(&file, &header, options, options.file.read_only, &mut seen)?;
    let backing = open_backing(&file, &header, options, &mut seen)?;
    Image::open(file, header, metadata_file, external, backing, options.metadata_cache_bytes)
        .map_err(|source| open_error(&path, source))
}

/// Repairs an image that is about to be written to and is marked dirty: whoever wrote to it last has not come to writing its
/// refcounts down (section "Header", bit 0 of `incompatible_features`). One that is marked corrupt is left alone.
pub(super) fn repair_dirty(file: &HostFile) -> Result<(), BlockError> {
    let (header, _) = read_header(file).map_err(|source| open_error(&file.path, source))?;
    let dirty = header.incompatible & (INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT) == INCOMPATIBLE_DIRTY;
    if dirty && !file.options.read_only {
        let report = check_file(file, Repair::All)?;
        tracing::info!(
            path = %file.path.display(), problems = report.leaked_clusters + report.corruptions,
            repaired = report.repaired, "the image was not closed: its refcounts have been repaired"
        );
    }
    Ok(())
}

/// Opens an image's external data file, if it has one.
fn open_external(
    image: &HostFile,
    header: &Header,
    options: &Qcow2Options,
    read_only: bool,
    seen: &mut Vec<(u64, u64)>,
) -> Result<Option<HostFile>, BlockError> {
    if header.incompatible & INCOMPATIBLE_DATA_FILE == 0 {
        return Ok(None);
    }
    let Some(name) = &header.data_file else {
        return Err(refuse(
            &image.path,
            "cannot open its external data file",
            "the image does not say which",
        ));
    };
    let operation = format!("cannot open its external data file {name:?}");
    let path = resolve(&image.path, name).map_err(|advice| refuse(&image.path, &operation, advice))?;
    let file = open_allowed(&image.path, &operation, &path, options, read_only)?;
    let this = identity(&file)?;
    if seen.contains(&this) {
        return Err(refuse(&image.path, &operation, "it is part of the chain already"));
    }
    seen.push(this);
    Ok(Some(file))
}

/// Opens what is below an image, nearest first.
fn open_backing(
    top: &HostFile,
    header: &Header,
    options: &Qcow2Options,
    seen: &mut Vec<(u64, u64)>,
) -> Result<Vec<Layer>, BlockError> {
    let mut layers = Vec::new();
    let mut above = top.path.clone();
    let mut next = header.backing.clone().map(|name| (name, header.backing_format.clone()));
    while let Some((name, format)) = next.take() {
        let operation = format!("cannot open its backing file {name:?}");
        if layers.len() == MOST_LAYERS {
            return Err(refuse(&above, &operation, format!("the chain is longer than {MOST_LAYERS} files")));
        }
        let path = resolve(&above, &name).map_err(|advice| refuse(&above, &operation, advice))?;
        let file = open_allowed(&above, &operation, &path, options, true)?;
        let this = identity(&file)?;
        if seen.contains(&this) {
            return Err(refuse(&above, &operation, "the chain is a loop: it contains this file already"));
        }
        seen.push(this);
        match format.as_deref() {
            Some("raw") => {
                let bytes = file.access.layout.bytes;
                layers.push(Layer::Raw { file, bytes });
            }
            Some("qcow2") => {
                let (header, metadata_file) =
                    read_header(&file).map_err(|source| open_error(&path, source))?;
                next = header.backing.clone().map(|name| (name, header.backing_format.clone()));
                let external = open_external(&file, &header, options, true, seen)?;
                let cache_bytes = options.metadata_cache_bytes;
                let image = Image::open(file, header, metadata_file, external, Vec::new(), cache_bytes)
                    .map_err(|source| open_error(&path, source))?;
                layers.push(Layer::Qcow2(Box::new(image)));
            }
            Some(other) => {
                return Err(refuse(&above, &operation, format!("its format {other:?} is not raw or qcow2")));
            }
            None => {
                let advice = "its format is not recorded, and guessing it is unsafe: record it with qemu-img rebase -u \
                              -b FILE -F FORMAT";
                return Err(refuse(&above, &operation, advice));
            }
        }
        above = path;
    }
    Ok(layers)
}

/// What file it is, whatever it is called.
fn identity(file: &HostFile) -> Result<(u64, u64), BlockError> {
    let stat = rustix::fs::fstat(&*file.access.file)
        .map_err(|errno| error(&file.path, "cannot identify", errno.into()))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The path that a name in an image means: relative to the image's directory. Refuses names that are not paths.
pub(super) fn resolve(image: &Path, name: &str) -> Result<PathBuf, String> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    // As QEMU has it: a protocol is what stands before a colon that comes before any slash.
    if let Some((protocol, _)) = name.split_once(':')
        && !protocol.contains('/')
    {
        return Err(format!("names with a protocol ({protocol}:) are not supported"));
    }
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    let directory = image.parent().unwrap_or(Path::new("."));
    Ok(directory.join(name))
}

/// Opens a file if it lies in an allowed directory. The check is made on the file that was opened, so that no
/// change of a symbolic link gets in between; nothing is opened for I/O before the check.
fn open_allowed(
    above: &Path,
    operation: &str,
    path: &Path,
    options: &Qcow2Options,
    read_only: bool,
) -> Result<HostFile, BlockError> {
    let BackingAccess::Within(directories) = &options.backing else {
        return Err(refuse(
            above,
            operation,
            "other files are not allowed here: allow those of its directory with backing_files=on",
        ));
    };
    let fail = |source| error(above, operation, source);
    let handle =
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| fail(e.into()))?;
    let by_handle = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    let real = std::fs::read_link(&by_handle).map_err(fail)?;
    let is_within = |directory: &PathBuf| {
        std::fs::canonicalize(directory).is_ok_and(|directory| real.starts_with(directory))
    };
    let plain = real.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir));
    if !plain || !directories.iter().any(is_within) {
        let advice = format!(
            "it lies at {}, which is in no directory that is allowed: allow it as a backing directory",
            real.display()
        );
        return Err(refuse(above, operation, advice));
    }
    let kind = std::fs::metadata(&by_handle).map_err(fail)?.file_type();
    if !kind.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
        return Err(refuse(above, operation, "it is neither a file nor a block device"));
    }
    let file = File::options().read(true).write(!read_only).open(&by_handle).map_err(fail)?;
    let file_options = RawOptions { read_only, ..options.file };
    HostFile::opened(path, OwnedFd::from(file), &file_options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_to_the_image_that_has_them() {
        let image = Path::new("/images/top.qcow2");
        assert_eq!(resolve(image, "base.raw"), Ok(PathBuf::from("/images/base.raw")));
        assert_eq!(resolve(image, "file:base.raw"), Ok(PathBuf::from("/images/base.raw")));
        assert_eq!(resolve(image, "/base/b.raw"), Ok(PathBuf::from("/base/b.raw")));
        assert_eq!(resolve(image, "./odd:name"), Ok(PathBuf::from("/images/./odd:name")));
        assert_eq!(resolve(Path::new("top.qcow2"), "b"), Ok(PathBuf::from("b")));
    }

    #[test]
    fn names_with_a_protocol_are_refused() {
        let image = Path::new("/images/top.qcow2");
        for name in
            ["json:{\"driver\":\"file\"}", "nbd:localhost:10809", "https://example.org/x", "fat:rw:/etc", ""]
        {
            assert!(resolve(image, name).is_err(), "{name}");
        }
    }
}
