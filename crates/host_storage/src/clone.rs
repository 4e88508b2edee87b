//! Copies of disks: with storage of their own, with shared storage (reflinks, ioctl_ficlone(2)), or as a qcow2 overlay that holds
//! only what changes.
//!
//! The source is locked against writers while it is read. An overlay needs its source unchanged for ever, which no lock can promise;
//! so an overlay is made only when it is asked for, and `Storage` refuses to change or delete what a volume is based on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use block_io::operations::{CopyOptions, OpenImage, copy};
use block_io::qcow2::BackingName;
use block_io::{BlockBackend, BlockOperation, BlockRequest, FileLock, RawDisk, RawOptions, Segment};
use libvirt_xml::storage::{Permissions, Preallocated, VolumeFormat, VolumeTarget};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::directory::{PoolDirectory, check_name};
use crate::error::StorageError;
use crate::image;
use crate::volume::{ImageSpec, fill_partial, make_image};

/// How a copy is to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CloneMode {
    /// A reflink where that is possible, or else a full copy.
    #[default]
    Automatic,
    /// Storage of its own.
    FullCopy,
    /// Shared storage, or an error.
    Reflink,
    /// A qcow2 image on top of the source, which must not be changed from then on.
    Overlay,
}

/// How a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneMethod {
    /// The copy has storage of its own.
    FullCopy,
    /// The file system shares the storage until one of both is changed.
    Reflink,
    /// The copy is based on the source.
    Overlay,
}

impl std::fmt::Display for CloneMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FullCopy => "full copy",
            Self::Reflink => "reflink",
            Self::Overlay => "overlay",
        })
    }
}

/// A disk to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneSource {
    /// The file or device, whose path is absolute.
    pub path: PathBuf,
    /// Its format, which whoever defined the disk knows: raw or qcow2.
    pub format: VolumeFormat,
    /// Directories in which its backing files may lie.
    pub directories: Vec<PathBuf>,
}

/// Where a copy goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneTarget {
    /// A file that is not there yet, in a directory that is.
    pub path: PathBuf,
    /// The format of the copy; that of the source if it is not said, and qcow2 for an overlay.
    pub format: Option<VolumeFormat>,
    /// Owners and mode.
    pub permissions: Permissions,
}

/// Copies a disk without any pool, and says how. The target appears when it is whole, or not at all.
pub fn clone_disk(
    source: &CloneSource,
    target: &CloneTarget,
    mode: CloneMode,
    progress: crate::Progress<'_>,
) -> Result<CloneMethod, StorageError> {
    let path = std::fs::canonicalize(&source.path)
        .map_err(|error| StorageError::system("find", &source.path, error))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
        .map_err(StorageError::on("open", &source.path))?;
    let file = Arc::new(File::from(fd));
    let _lock = FileLock::shared(Arc::clone(&file))
        .map_err(|error| StorageError::lock(&source.path.display().to_string(), error))?;
    let own = path.parent().map(Path::to_owned);
    let directories = source.directories.iter().cloned().chain(own).collect();
    let image = SourceImage { file, path, format: source.format, directories };
    let parent = target.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Some(name) = target.path.file_name().and_then(|name| name.to_str()) else {
        let rule = format!("{} is not the path of a file", target.path.display());
        return Err(StorageError::InvalidArgument(rule));
    };
    check_name(name)?;
    let directory = PoolDirectory::open(parent.unwrap_or(Path::new(".")))?;
    let default = if mode == CloneMode::Overlay { VolumeFormat::Qcow2 } else { source.format };
    let spec = ImageSpec {
        format: target.format.unwrap_or(default),
        capacity: image.capacity()?.next_multiple_of(512),
        allocation: Preallocated::Bytes(0),
        target: &VolumeTarget::default(),
        backing: None,
        preallocate_metadata: false,
    };
    fill_partial(
        &directory,
        name,
        &target.permissions,
        |partial| fill_copy(&image, &directory, partial, name, &spec, mode, progress),
        |_, _| Ok(()),
    )
}

/// An open disk to be copied, locked by its maker.
#[derive(Debug)]
pub(crate) struct SourceImage {
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
    pub(crate) format: VolumeFormat,
    pub(crate) directories: Vec<PathBuf>,
}

impl SourceImage {
    /// Size of the disk, bytes.
    pub(crate) fn capacity(&self) -> Result<u64, StorageError> {
        image::capacity(&self.file, &self.path, self.format, &self.directories)
    }

    fn open(&self) -> Result<OpenImage, StorageError> {
        image::open_for_reading(&self.file, &self.path, self.format, &self.directories)
    }

    /// Whether the bytes of the file could be the copy's.
    fn is_copy_of_bytes(&self, spec: &ImageSpec<'_>) -> Result<bool, StorageError> {
        if image::is_raw(self.format) && image::is_raw(spec.format) {
            return Ok(true);
        }
        if (self.format, spec.format) != (VolumeFormat::Qcow2, VolumeFormat::Qcow2) {
            return Ok(false);
        }
        let info = image::qcow2_info(&self.file, &self.path)?;
        let clusters =
            spec.target.cluster_bytes.is_none_or(|bytes| bytes == 0 || bytes == info.cluster_bytes);
        // What is below is flattened by a copy, and another file can't be shared. Lazy refcounts only allow something.
        Ok(info.backing.is_none()
            && info.data_file.is_none()
            && !info.dirty
            && !info.corrupt
            && clusters
            && (!spec.target.wanted_features().extended_l2 || info.extended_l2)
            && !spec.preallocate_metadata)
    }
}

/// Makes a file of the name `partial` that is a copy.
pub(crate) fn fill_copy(
    source: &SourceImage,
    directory: &PoolDirectory,
    partial: &str,
    name: &str,
    spec: &ImageSpec<'_>,
    mode: CloneMode,
    progress: crate::Progress<'_>,
) -> Result<CloneMethod, StorageError> {
    if mode == CloneMode::Overlay {
        return overlay(source, directory, partial, name, spec, progress);
    }
    if mode != CloneMode::FullCopy {
        if source.is_copy_of_bytes(spec)? && reflink(source, directory, partial, name, spec, progress)? {
            return Ok(CloneMethod::Reflink);
        }
        if mode == CloneMode::Reflink {
            let rule = format!(
                "{} can't share its storage with a copy there: that takes the same format without a backing file, \
                 and a file system that knows reflinks (xfs, btrfs)",
                source.path.display()
            );
            return Err(StorageError::Unsupported(rule));
        }
    }
    full_copy(source, directory, partial, name, spec, progress)?;
    Ok(CloneMethod::FullCopy)
}

fn overlay(
    source: &SourceImage,
    directory: &PoolDirectory,
    partial: &str,
    name: &str,
    spec: &ImageSpec<'_>,
    progress: crate::Progress<'_>,
) -> Result<CloneMethod, StorageError> {
    if spec.format != VolumeFormat::Qcow2 {
        let rule = format!("an overlay is a qcow2 image, not {}", spec.format);
        return Err(StorageError::InvalidArgument(rule));
    }
    let format = if image::is_raw(source.format) { VolumeFormat::Raw } else { source.format };
    // Opened once, so that what could never be read is refused now.
    drop(source.open()?);
    let Some(path) = source.path.to_str() else {
        let rule = format!("the path {} can't be written into an image", source.path.display());
        return Err(StorageError::InvalidArgument(rule));
    };
    let backing = Some(BackingName { name: path.to_owned(), format: format.name().to_owned() });
    make_image(directory, partial, name, &ImageSpec { backing, ..spec.clone() }, progress)?;
    Ok(CloneMethod::Overlay)
}

/// Shares the storage. False, and no file, if the file system can't.
fn reflink(
    source: &SourceImage,
    directory: &PoolDirectory,
    partial: &str,
    name: &str,
    spec: &ImageSpec<'_>,
    progress: crate::Progress<'_>,
) -> Result<bool, StorageError> {
    let path = directory.path_of(name);
    let file = directory.create_file(partial)?;
    match rustix::fs::ioctl_ficlone(&file, &*source.file) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::TXTBSY) => {
            directory.remove(partial).map_err(StorageError::on("remove", directory.path_of(partial)))?;
            return Ok(false);
        }
        Err(errno) => return Err(StorageError::system("copy to", path, errno)),
    }
    if image::is_raw(spec.format) {
        if spec.capacity > image::length(&file, &path)? {
            rustix::fs::ftruncate(&file, spec.capacity).map_err(StorageError::on("resize", &path))?;
        }
    } else {
        let disk = image::open_qcow2(&file, &path, false, &[])?;
        if spec.capacity > disk.capacity() {
            disk.resize(spec.capacity).map_err(|error| StorageError::image(error, &path))?;
        }
    }
    image::advance(progress, spec.capacity, spec.capacity)?;
    Ok(true)
}

fn full_copy(
    source: &SourceImage,
    directory: &PoolDirectory,
    partial: &str,
    name: &str,
    spec: &ImageSpec<'_>,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    let path = directory.path_of(name);
    let raw = image::is_raw(source.format) && image::is_raw(spec.format);
    // Opened first: what can't be read leaves nothing.
    let image = if raw { None } else { Some(source.open()?) };
    make_image(directory, partial, name, spec, progress)?;
    let file = directory.open_volume(partial, OFlags::RDWR)?;
    let Some(image) = image else {
        return copy_bytes(source, &file, &path, progress);
    };
    if image::is_raw(spec.format) {
        copy_to_device(source, &file, &path, progress)
    } else {
        let disk = image::open_qcow2(&file, &path, false, &[])?;
        Ok(copy(&image, &OpenImage::Qcow2(disk), &CopyOptions::default(), progress)?)
    }
}

/// Copies a disk to a file that reads as zeroes, or to a device, which is made to.
pub(crate) fn copy_to_device(
    source: &SourceImage,
    target: &File,
    path: &Path,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    let fail = || StorageError::on("clear", path);
    let stat = rustix::fs::fstat(target).map_err(fail())?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::BlockDevice {
        // On a device this zeroes, by hardware or by writing.
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let bytes = image::length(target, path)?;
        rustix::fs::fallocate(target, mode, 0, bytes)
            .or_else(|errno| match errno {
                Errno::OPNOTSUPP => {
                    let mode = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(target, mode, 0, bytes)
                }
                other => Err(other),
            })
            .map_err(fail())?;
    }
    let duplicate = target.try_clone().map_err(|error| StorageError::system("use", path, error))?;
    let disk = RawDisk::adopt(path, duplicate.into(), &RawOptions::default())
        .map_err(|error| StorageError::image(error, path))?;
    Ok(copy(&source.open()?, &OpenImage::Raw(disk), &CopyOptions::default(), progress)?)
}

/// Block in which zeroes are looked for, bytes.
const BLOCK_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 1 << 20;

/// Copies the bytes of a file of any length to a file that reads as zeroes: neither holes nor zeroes are written.
fn copy_bytes(
    source: &SourceImage,
    target: &File,
    path: &Path,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    let total = image::length(&source.file, &source.path)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while let Some((data, end)) =
        image::next_piece(&source.file, at, total).map_err(StorageError::on("read", &source.path))?
    {
        while data && at < end {
            let length = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let part = &mut buffer[..length];
            source
                .file
                .read_exact_at(part, at)
                .map_err(|error| StorageError::system("read", &source.path, error))?;
            for (number, block) in part.chunks(BLOCK_BYTES).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    let place = at + (number * BLOCK_BYTES) as u64;
                    target
                        .write_all_at(block, place)
                        .map_err(|error| StorageError::system("write", path, error))?;
                }
            }
            at += length as u64;
            image::advance(progress, at, total)?;
        }
        at = end;
    }
    image::advance(progress, total, total)
}

/// Makes the tables of a new qcow2 image for its whole disk, so that no request of a guest has to wait for them. The clusters
/// that they name are holes of the file.
pub(crate) fn preallocate(
    file: &File,
    path: &Path,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    let cluster = image::qcow2_info(file, path)?.cluster_bytes;
    {
        let disk = image::open_qcow2(file, path, false, &[])?;
        touch_clusters(&disk, cluster, path, progress)?;
    }
    file.sync_all().map_err(|error| StorageError::system("sync", path, error))?;
    dig_holes(file, path)
}

/// Requests in flight.
const DEPTH: u32 = 32;

/// Writes one block of zeroes to each cluster, which allocates it.
#[expect(unsafe_code, reason = "names a buffer of our own for a queue")]
fn touch_clusters(
    disk: &dyn BlockBackend,
    cluster: u64,
    path: &Path,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    let block = disk.geometry().logical_block_bytes as usize;
    let mut zeroes = vec![0u8; block];
    let Some(start) = NonNull::new(zeroes.as_mut_ptr()) else { return Ok(()) };
    let fail = |errno: Errno| StorageError::system("preallocate", path, errno);
    let mut queue = disk.open_queue(DEPTH).map_err(|error| StorageError::image(error, path))?;
    let (mut next, mut completions, mut flushed) = (0, Vec::new(), false);
    loop {
        while next < disk.capacity() && queue.in_flight() < DEPTH as usize {
            // SAFETY: `zeroes` outlives the queue, which is dropped first (declared later) and waits for its requests; nothing
            // else uses the buffer meanwhile, and a write only reads it.
            let segment = unsafe { Segment::new(start, block) };
            let operation = BlockOperation::Write { offset: next, segments: vec![segment], durable: false };
            queue.submit(BlockRequest { tag: next, operation }).map_err(|_| fail(Errno::BUSY))?;
            next = next.saturating_add(cluster);
        }
        if queue.in_flight() == 0 {
            if flushed {
                return Ok(());
            }
            flushed = true;
            let request = BlockRequest { tag: 0, operation: BlockOperation::Flush };
            queue.submit(request).map_err(|_| fail(Errno::BUSY))?;
        }
        queue.kick();
        match poll(&mut [PollFd::from_borrowed_fd(queue.ready_fd(), PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(fail(errno)),
        }
        queue.reap(&mut completions);
        for completion in completions.drain(..) {
            completion.result.map_err(fail)?;
        }
        image::advance(progress, next.min(disk.capacity()), disk.capacity())?;
    }
}

/// Gives blocks of zeroes in a file back; they read the same as holes.
fn dig_holes(file: &File, path: &Path) -> Result<(), StorageError> {
    const BLOCK: usize = 4096;
    let total = image::length(file, path)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while let Some((data, end)) =
        image::next_piece(file, at, total).map_err(StorageError::on("look at", path))?
    {
        while data && at < end {
            let length = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let part = &mut buffer[..length];
            file.read_exact_at(part, at).map_err(|error| StorageError::system("read", path, error))?;
            for (number, block) in part.chunks(BLOCK).enumerate() {
                if block.len() == BLOCK && block.iter().all(|byte| *byte == 0) {
                    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    match rustix::fs::fallocate(file, mode, at + (number * BLOCK) as u64, BLOCK as u64) {
                        Ok(()) => {}
                        // More storage than needed is used there.
                        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                        Err(errno) => return Err(StorageError::system("trim", path, errno)),
                    }
                }
            }
            at += length as u64;
        }
        at = end;
    }
    file.sync_all().map_err(|error| StorageError::system("sync", path, error))
}
