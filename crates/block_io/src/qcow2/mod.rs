//! qcow2 images (versions 2 and 3) as disks: backing chains, compressed and zero clusters, subclusters, snapshots kept intact.
//!
//! Source: "qcow2 Image File Format", docs/interop/qcow2.rst of QEMU. Everything in an image is hostile until checked
//! (`header`, `entry`): a contradiction is an error value, tables and caches are bounded, and an image in which one is found
//! is no longer written to.
//!
//! Why our own engine and not the `imago` crate (0.2.6, MIT), the only well-kept one: it has no zstd, its discards need the
//! image to themselves, a request is a future over locks of an async runtime, and its lookups can't be asked "only if it is
//! in memory". Here requests whose mapping is in memory go from the device's thread straight to io_uring, also through the
//! backing chain; everything else runs on a queue's threads (`write`, `chain`). `image` tells in which order changes reach
//! the disk.
//!
//! An image that is marked dirty is repaired when it is opened for writing. Not supported and refused: encryption, writing
//! to images that are marked corrupt.

mod backing;
mod chain;
mod check;
mod compressed;
mod create;
mod entry;
mod header;
mod image;
mod info;
mod metadata_file;
mod queue;
mod range_locks;
mod rebase;
mod refcount;
mod resize;
mod snapshot_changes;
mod snapshots;
mod status;
mod tables;
mod uses;
mod waiting;
mod write;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

use self::chain::{Extent, Layer};
pub use self::check::{CheckReport, Repair};
pub use self::create::{BackingName, DataFileName, Preallocation, Qcow2Parameters};
pub(crate) use self::create::{avoid_copy_on_write, reserve_storage};
pub use self::header::{Compression, FormatError};
use self::image::{Image, Lookup};
pub use self::info::Qcow2Info;
use self::queue::Qcow2Queue;
pub use self::snapshots::Snapshot;
use crate::backend::{BlockBackend, BlockError, BlockGeometry, BlockQueue};
use crate::file::{HostFile, Locking, RawOptions, error};
use crate::status::RangeStatus;

/// Default of [`Qcow2Options::metadata_cache_bytes`]: 8 MiB, which map 64 GiB with clusters of 64 KiB (and 32 GiB with
/// extended L2 entries); of smaller disks everything that is used stays in memory.
const METADATA_CACHE_BYTES: u64 = 8 << 20;

/// Smallest block that guests know.
const SECTOR_BYTES: u32 = 512;

/// Which backing files and external data files may be opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BackingAccess {
    /// None: an image that needs one is refused.
    #[default]
    Refused,
    /// Those that really lie (symbolic links resolved) below one of these directories.
    Within(Vec<PathBuf>),
}

/// How to open a [`Qcow2Disk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Options {
    /// How to open the image's file. Backing files are opened alike, but for reading only.
    pub file: RawOptions,
    /// Which backing files may be opened.
    pub backing: BackingAccess,
    /// Most memory for L2 tables, bytes, for each image of the chain. Pieces of 4 KiB are read when they are needed; beyond the
    /// limit the one that was not used for longest makes room, and changed ones are written all together first, so nothing
    /// grows with the disk. Refcounts take at most 1 MiB beside it, in the image that is written to.
    pub metadata_cache_bytes: u64,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self {
            file: RawOptions::default(),
            backing: BackingAccess::default(),
            metadata_cache_bytes: METADATA_CACHE_BYTES,
        }
    }
}

/// A disk in a qcow2 image. It is flushed and unlocked when it and all of its queues are gone.
#[derive(Debug, Clone)]
pub struct Qcow2Disk {
    image: Arc<Image>,
    geometry: BlockGeometry,
    /// Held while the size changes.
    resizing: Arc<Mutex<()>>,
}

impl Qcow2Disk {
    /// Makes a new image at `path`, where no file may be yet. It is durable once the caller has synced it (an external data file is
    /// durable already).
    pub fn create(path: &Path, parameters: &Qcow2Parameters) -> Result<(), BlockError> {
        create::create(path, parameters)
    }

    /// What the image at `path` says about itself. Opens nothing else, needs no lock, and so works on a disk in use.
    pub fn info(path: &Path) -> Result<Qcow2Info, BlockError> {
        let options = RawOptions { read_only: true, locking: Locking::Shared, ..RawOptions::default() };
        let file = HostFile::open(path, &options)?;
        info::read(&file).map_err(|source| backing::open_error(path, source))
    }

    /// Takes a snapshot of the disk in the image at `path`, which nobody else may have open. `taken` is the time since 1970.
    /// Names need not be unique; the snapshot's number (id) is.
    pub fn take_snapshot(path: &Path, name: &str, taken: Duration) -> Result<(), BlockError> {
        snapshot_changes::change(path, "cannot take a snapshot", |image, meta| {
            image.take_snapshot(meta, name, taken)
        })
    }

    /// Makes the disk in the image at `path`, which nobody else may have open, what it was when the snapshot with this id, or
    /// else the first with this name, was taken; its size too.
    pub fn apply_snapshot(path: &Path, id_or_name: &str) -> Result<(), BlockError> {
        snapshot_changes::change(path, "cannot apply the snapshot", |image, meta| {
            image.apply_snapshot(meta, id_or_name)
        })
    }

    /// Deletes the first snapshot with this name from the image at `path`, which nobody else may have open.
    pub fn delete_snapshot(path: &Path, name: &str) -> Result<(), BlockError> {
        snapshot_changes::change(path, "cannot delete the snapshot", |image, meta| {
            image.delete_snapshot(meta, name)
        })
    }

    /// What is below the image at `path`, nearest first: path and format of each file. Opens them all, as for reading the
    /// disk, so that what may not be opened and loops are errors; takes no locks.
    pub fn chain(path: &Path, options: &Qcow2Options) -> Result<Vec<(PathBuf, &'static str)>, BlockError> {
        let file = RawOptions { read_only: true, locking: Locking::Shared, ..options.file };
        let image =
            backing::open_chain(HostFile::open(path, &file)?, &Qcow2Options { file, ..options.clone() })?;
        let described = |layer: &Layer| match layer {
            Layer::Raw { file, .. } => (file.path.clone(), "raw"),
            Layer::Qcow2(image) => (image.file.path.clone(), "qcow2"),
        };
        Ok(image.backing.iter().map(described).collect())
    }

    /// Checks the reference counts of the image at `path`, which nobody else may have open, and repairs them if told so.
    /// Backing files are not looked at.
    pub fn check(path: &Path, repair: Repair) -> Result<CheckReport, BlockError> {
        check::check(path, repair, Locking::Enforced)
    }

    /// Checks the image at `path` although somebody may have it open. What a writer has not written yet, or writes meanwhile,
    /// may look like leaks or corruptions.
    pub fn check_in_use(path: &Path) -> Result<CheckReport, BlockError> {
        check::check(path, Repair::Nothing, Locking::Shared)
    }

    /// Opens the image at `path` and its backing chain.
    pub fn open(path: &Path, options: &Qcow2Options) -> Result<Self, BlockError> {
        Self::over(HostFile::open(path, &options.file)?, options)
    }

    /// Takes an open image; `path` is what messages call it, and where relative names of backing files begin.
    pub fn adopt(path: &Path, fd: OwnedFd, options: &Qcow2Options) -> Result<Self, BlockError> {
        Self::over(HostFile::adopt(path, fd, &options.file)?, options)
    }

    /// Whether the disk is known to read as zeroes from `offset` on, and for how many of `bytes` bytes that holds. Waits.
    pub(crate) fn zero_run(&self, offset: u64, bytes: u64) -> Result<(bool, u64), Errno> {
        let found = self.image.resolve(offset, bytes, Lookup::Loading)?.ok_or(Errno::IO)?;
        Ok((found.0 == Extent::Zero, found.1))
    }

    /// Stores one whole cluster at `offset`, a multiple of [`Qcow2Disk::cluster_bytes`], compressed as the header says; the
    /// disk's last cluster may be shorter. What does not become smaller is stored as it is. Waits; may be called by any
    /// number of threads at once, and compresses without a lock. What was there before is replaced.
    ///
    /// `EINVAL` for another range, `EROFS` for a disk that is read-only, `EOPNOTSUPP` where guest data is in an external
    /// data file, which can't hold compressed clusters.
    pub fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if self.read_only() {
            return Err(Errno::ROFS);
        }
        let epoch = self.image.epochs.enter();
        let result = self.image.write_compressed_now(offset, data);
        self.image.epochs.leave(epoch);
        if result.is_ok() && !self.write_cache() { self.image.flush() } else { result }
    }

    /// Size of a cluster, bytes.
    pub fn cluster_bytes(&self) -> u64 {
        self.image.layout.cluster_bytes()
    }

    /// Which layer of the chain decides about the bytes from `offset` on, and for how many of `bytes` bytes. Waits.
    pub(crate) fn status(&self, offset: u64, bytes: u64) -> Result<(RangeStatus, u64), Errno> {
        self.image.status(offset, bytes)
    }

    /// The file that stores a layer's data; layer 0 is the image itself.
    pub(crate) fn data_path(&self, layer: usize) -> Option<&Path> {
        match layer.checked_sub(1) {
            None => Some(&self.image.data().path),
            Some(below) => self.image.backing.get(below).map(|layer| layer.file().path.as_path()),
        }
    }

    fn over(file: HostFile, options: &Qcow2Options) -> Result<Self, BlockError> {
        let path = file.path.clone();
        let image = backing::open_chain(file, options)?;
        let blocks =
            image.backing.iter().map(|layer| layer.file().access.layout.geometry.logical_block_bytes);
        let own = [&image.file, image.data()].map(|file| file.access.layout.geometry.logical_block_bytes);
        let file_block = blocks.chain(own).fold(0, u32::max);
        // A guest that was installed on blocks of 512 bytes needs them wherever its image lies. Only a raw data file must not
        // become longer than the disk, as it would where its last block is written whole.
        let logical = if image.external_raw { file_block } else { SECTOR_BYTES };
        // At most 2 MiB.
        let cluster = u32::try_from(image.layout.cluster_bytes()).unwrap_or(u32::MAX);
        let unit = u32::try_from(image.layout.subcluster_bytes()).unwrap_or(u32::MAX);
        if unit < file_block || !image.capacity().is_multiple_of(u64::from(logical)) {
            let advice =
                format!("another of its files needs blocks of {file_block} bytes: use cache mode writeback");
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, advice);
            return Err(error(&path, "cannot open the qcow2 image", source));
        }
        let geometry = BlockGeometry {
            logical_block_bytes: logical,
            physical_block_bytes: unit,
            discard_bytes: cluster,
        };
        Ok(Self { image: Arc::new(image), geometry, resizing: Arc::default() })
    }
}

impl BlockBackend for Qcow2Disk {
    fn geometry(&self) -> BlockGeometry {
        self.geometry
    }

    fn capacity(&self) -> u64 {
        self.image.capacity()
    }

    fn read_only(&self) -> bool {
        self.image.file.options.read_only
    }

    fn write_cache(&self) -> bool {
        !self.image.file.options.cache.write_through()
    }

    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        let choice = self.image.file.options.engine;
        let queue = Qcow2Queue::open(Arc::clone(&self.image), self.geometry, depth, choice)
            .map_err(|source| error(&self.image.file.path, "cannot open a queue", source))?;
        Ok(Box::new(queue))
    }

    fn resize(&self, bytes: u64) -> Result<(), BlockError> {
        let fail = |source| error(&self.image.file.path, &format!("cannot resize to {bytes} bytes"), source);
        if self.read_only() {
            return Err(fail(Errno::ROFS.into()));
        }
        self.image
            .check_size(bytes, self.geometry.logical_block_bytes)
            .map_err(|source| fail(std::io::Error::new(std::io::ErrorKind::InvalidInput, source)))?;
        let _one_at_a_time = self.resizing.lock();
        let epoch = self.image.epochs.enter();
        let result = self.image.resize_now(bytes);
        self.image.epochs.leave(epoch);
        result.map_err(|errno| fail(errno.into()))
    }
}

#[cfg(test)]
mod tests;
