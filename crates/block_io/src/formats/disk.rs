//! Images as disks: opening their files, and the `BlockBackend`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::ImageError;
use super::image::Image;
use super::ova::{self, OvaDisk};
use super::queue::FormatQueue;
use super::source::{HostSource, SharedSource};
use super::{Format, FormatInfo, ova_disk};
use crate::backend::{BlockBackend, BlockError, BlockGeometry, BlockQueue};
use crate::engine::{EngineChoice, Target};
use crate::file::{CacheMode, HostFile, Kind, Locking, RawOptions, error};

/// Unit in which reads are best: pages of the host's cache.
const PHYSICAL_BLOCK_BYTES: u32 = 4096;

/// Whether an image may consist of more files than the one that is opened (a VMDK descriptor and its extents).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExtentAccess {
    /// No: an image that names others is refused.
    #[default]
    Refused,
    /// Regular files in the directory of the image, by their plain names; symbolic links are not followed.
    SameDirectory,
}

/// How to open a [`FormatDisk`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FormatOptions {
    /// Which other files may be opened.
    pub extents: ExtentAccess,
    /// Protection against a writer.
    pub locking: Locking,
    /// How I/O is submitted.
    pub engine: EngineChoice,
}

impl FormatOptions {
    fn file(&self) -> RawOptions {
        RawOptions {
            read_only: true,
            cache: CacheMode::Writeback,
            locking: self.locking,
            engine: self.engine,
        }
    }
}

/// A read-only disk in an image. Its files are locked for as long as it or one of its queues exists.
#[derive(Debug, Clone)]
pub struct FormatDisk {
    pub(super) path: PathBuf,
    pub(super) image: Arc<Image>,
    pub(super) engine: EngineChoice,
}

impl FormatDisk {
    /// Opens the image at `path`. For [`Format::Ova`], its only disk ([`FormatDisk::open_ova`] opens one of several).
    pub fn open(path: &Path, format: Format, options: &FormatOptions) -> Result<Self, BlockError> {
        if format == Format::Ova {
            return Self::open_ova(path, None, options);
        }
        let source = open_host(path, options)?;
        let directory = match options.extents {
            ExtentAccess::Refused => None,
            ExtentAccess::SameDirectory => Some(open_directory(path)?),
        };
        Self::over(path, source, directory.as_ref(), format, options)
    }

    /// Takes an open image; `path` is what messages call it, `directory` where its extents are if others may be opened.
    pub fn adopt(
        path: &Path,
        fd: OwnedFd,
        directory: Option<&OwnedFd>,
        format: Format,
        options: &FormatOptions,
    ) -> Result<Self, BlockError> {
        let source = host_source(HostFile::adopt(path, fd, &options.file())?)?;
        let directory = directory.filter(|_| options.extents == ExtentAccess::SameDirectory);
        if format == Format::Ova {
            return Self::over_archive(path, &source, None, options);
        }
        Self::over(path, source, directory, format, options)
    }

    /// Opens a disk of the archive at `path`: the one with an identifier or file name, or the only one.
    pub fn open_ova(path: &Path, disk: Option<&str>, options: &FormatOptions) -> Result<Self, BlockError> {
        Self::over_archive(path, &open_host(path, options)?, disk, options)
    }

    /// The image, for reading it without a queue.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// What the image at `path` says about itself. Opens no other file, needs no lock.
    pub fn describe(path: &Path, format: Format) -> Result<FormatInfo, BlockError> {
        let options = FormatOptions { locking: Locking::Shared, ..FormatOptions::default() };
        super::describe::describe(format, &open_host(path, &options)?)
            .map_err(|source| refuse(path, format, source))
    }

    /// The disks of the archive at `path`.
    pub fn list_ova(path: &Path) -> Result<Vec<OvaDisk>, BlockError> {
        let options = FormatOptions { locking: Locking::Shared, ..FormatOptions::default() };
        ova::disks(&open_host(path, &options)?).map_err(|source| refuse(path, Format::Ova, source))
    }

    fn over_archive(
        path: &Path,
        archive: &SharedSource,
        disk: Option<&str>,
        options: &FormatOptions,
    ) -> Result<Self, BlockError> {
        let source = ova_disk(archive, disk).map_err(|source| refuse(path, Format::Ova, source))?;
        Self::over(path, source, None, Format::Vmdk, options)
    }

    fn over(
        path: &Path,
        source: SharedSource,
        directory: Option<&OwnedFd>,
        format: Format,
        options: &FormatOptions,
    ) -> Result<Self, BlockError> {
        let mut opener = |name: &str| match directory {
            Some(directory) => open_extent(path, directory, name, options),
            None => Err(refused_extent()),
        };
        let image =
            Image::open(format, source, &mut opener).map_err(|source| refuse(path, format, source))?;
        Ok(Self { path: path.to_owned(), image: Arc::new(image), engine: options.engine })
    }
}

fn refuse(path: &Path, format: Format, source: ImageError) -> BlockError {
    let source = io::Error::new(io::ErrorKind::InvalidData, source);
    error(path, &format!("cannot open the {format} image"), source)
}

fn refused_extent() -> io::Error {
    let advice = "the image consists of several files, and opening others than the one named is not allowed here: allow those of \
         its directory with backing_files=on";
    io::Error::new(io::ErrorKind::PermissionDenied, advice)
}

fn open_host(path: &Path, options: &FormatOptions) -> Result<SharedSource, BlockError> {
    host_source(HostFile::open(path, &options.file())?)
}

fn host_source(file: HostFile) -> Result<SharedSource, BlockError> {
    let path = file.path.clone();
    let source = HostSource::new(file).map_err(|source| error(&path, "cannot find its size", source))?;
    Ok(Arc::new(source))
}

/// The directory that a path names its file in.
fn open_directory(path: &Path) -> Result<OwnedFd, BlockError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, directory, flags, Mode::empty())
        .map_err(|errno| error(directory, "cannot open the image's directory", errno.into()))
}

/// Opens a file beside the image. The name is a plain one (the descriptor's parser sees to that); the kernel is told not to
/// leave the directory all the same.
fn open_extent(
    image: &Path,
    directory: &OwnedFd,
    name: &str,
    options: &FormatOptions,
) -> io::Result<SharedSource> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd =
        rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve).map_err(|errno| match errno {
            Errno::LOOP => io::Error::other("it is a symbolic link, which is not followed"),
            errno => errno.into(),
        })?;
    let file =
        HostFile::adopt(&image.with_file_name(name), fd, &options.file()).map_err(|error| error.source)?;
    if file.access.layout.kind != Kind::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device, not a regular file"));
    }
    Ok(Arc::new(HostSource::new(file)?))
}

impl BlockBackend for FormatDisk {
    fn geometry(&self) -> BlockGeometry {
        let logical = self.image.sector_bytes();
        BlockGeometry {
            logical_block_bytes: logical,
            physical_block_bytes: PHYSICAL_BLOCK_BYTES.max(logical),
            discard_bytes: 0,
        }
    }

    fn capacity(&self) -> u64 {
        self.image.capacity()
    }

    fn read_only(&self) -> bool {
        true
    }

    fn write_cache(&self) -> bool {
        false
    }

    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        let mut targets = Vec::new();
        for source in self.image.sources() {
            let Some((file, start)) = source.host() else {
                return Err(error(&self.path, "cannot open a queue", io::ErrorKind::Unsupported.into()));
            };
            // A file that became shorter since it was opened must not read as zeroes.
            targets.push((Target { file, zeroes_beyond_end: false }, start));
        }
        let queue = FormatQueue::open(&self.path, Arc::clone(&self.image), targets, depth, self.engine)
            .map_err(|source| error(&self.path, "cannot open a queue", source))?;
        Ok(Box::new(queue))
    }

    fn resize(&self, bytes: u64) -> Result<(), BlockError> {
        Err(error(&self.path, &format!("cannot resize to {bytes} bytes"), Errno::ROFS.into()))
    }
}
