//! Host files that hold images: opening, locking, alignment, and the parts of I/O that wait.
//!
//! Trusts the host's kernel and the one who opens an image. An open file holds a lock (`lock`), knows its alignment
//! (`layout`) and does bounced I/O, discards and zeroes on the calling thread (`access`).

mod access;
mod layout;
mod lock;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

pub(crate) use self::access::{Access, AlignedBuffer, zero_run};
pub(crate) use self::layout::{Kind, Layout};
pub use self::lock::FileLock;
use crate::backend::BlockError;
use crate::engine::{EngineChoice, Target};

/// How the host's page cache and the disk's own cache are used; the names are those of QEMU and libvirt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Through the page cache; durable when flushed.
    #[default]
    Writeback,
    /// Past the page cache (O_DIRECT); durable when flushed.
    None,
    /// Through the page cache; durable when completed.
    Writethrough,
    /// Past the page cache; durable when completed.
    Directsync,
    /// Through the page cache; never flushed. A host crash loses the disk.
    Unsafe,
}

impl CacheMode {
    pub(crate) fn direct(self) -> bool {
        matches!(self, Self::None | Self::Directsync)
    }

    pub(crate) fn write_through(self) -> bool {
        matches!(self, Self::Writethrough | Self::Directsync)
    }
}

/// Whether an open disk keeps others from opening it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Locking {
    /// One writer or many readers (open file description locks, which QEMU heeds too).
    #[default]
    Enforced,
    /// Nobody is kept out: for disks with a cluster file system on them.
    Shared,
}

/// How to open the file of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawOptions {
    /// Refuse writes; the file is opened for reading only.
    pub read_only: bool,
    /// Use of caches.
    pub cache: CacheMode,
    /// Protection against a second user.
    pub locking: Locking,
    /// How I/O is submitted.
    pub engine: EngineChoice,
}

/// A file or device that holds an image's bytes, locked for as long as it is open.
#[derive(Debug)]
pub(crate) struct HostFile {
    pub(crate) path: PathBuf,
    /// `None` if others may share the open file, and the lock with it.
    held_lock: Option<lock::HeldLock>,
    pub(crate) access: Access,
    pub(crate) options: RawOptions,
}

impl HostFile {
    /// Opens the file or device at `path`.
    pub(crate) fn open(path: &Path, options: &RawOptions) -> Result<Self, BlockError> {
        let access = if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let purpose = if options.read_only { "cannot open for reading" } else { "cannot open for writing" };
        // Not blocking: a FIFO would wait for a writer. `adopt` takes the flag away again.
        let mut flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        if options.cache.direct() {
            flags |= OFlags::DIRECT;
        }
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| error(path, purpose, advice_for_open(path, errno, options)))?;
        Self::opened(path, fd, options)
    }

    /// Takes a file that was opened for this disk alone: its lock ends with the disk.
    pub(crate) fn opened(path: &Path, fd: OwnedFd, options: &RawOptions) -> Result<Self, BlockError> {
        let mut file = Self::adopt(path, fd, options)?;
        if options.locking == Locking::Enforced {
            file.held_lock = Some(lock::HeldLock(Arc::clone(&file.access.file)));
        }
        Ok(file)
    }

    /// Takes an open file or device; `path` is what messages call it.
    pub(crate) fn adopt(path: &Path, fd: OwnedFd, options: &RawOptions) -> Result<Self, BlockError> {
        prepare_flags(&fd, options).map_err(|source| error(path, "cannot use the open file", source))?;
        let layout = Layout::of(&fd, options.cache.direct())
            .map_err(|source| error(path, "not usable as a disk image", source))?;
        if options.locking == Locking::Enforced {
            let purpose =
                if options.read_only { "cannot lock for reading" } else { "cannot lock for writing" };
            lock::lock(fd.as_fd(), options.read_only).map_err(|source| error(path, purpose, source))?;
        }
        let access = Access { file: Arc::new(File::from(fd)), layout, cache: options.cache };
        Ok(Self { path: path.to_owned(), held_lock: None, access, options: *options })
    }

    /// What a [`crate::engine::FileEngine`] works on.
    pub(crate) fn target(&self) -> Target {
        self.access.target()
    }

    /// Size in bytes, now.
    pub(crate) fn bytes(&self) -> std::io::Result<u64> {
        Ok(rustix::fs::seek(&*self.access.file, SeekFrom::End(0))?)
    }
}

pub(crate) fn error(path: &Path, operation: &str, source: io::Error) -> BlockError {
    BlockError { path: path.to_owned(), operation: operation.to_owned(), source }
}

/// Says more than the kernel's error where that is known to puzzle people.
fn advice_for_open(path: &Path, errno: Errno, options: &RawOptions) -> io::Error {
    let advice = match errno {
        Errno::ISDIR => "it is a directory, not a disk image",
        Errno::INVAL if options.cache.direct() => {
            "its file system does not support direct I/O (use cache mode writeback)"
        }
        Errno::NXIO if path.exists() => "it is a FIFO, a socket or a device that is not there",
        Errno::NOENT => "it does not exist: check the path, or make the image first",
        Errno::ACCESS | Errno::PERM if !options.read_only => {
            "permission denied: give this user write access, or open it read-only"
        }
        Errno::ACCESS | Errno::PERM => "permission denied: give this user access",
        Errno::TXTBSY => "it is in use as a program or as swap space",
        _ => return errno.into(),
    };
    io::Error::new(io::Error::from(errno).kind(), advice)
}

/// Checks how the file was opened and sets the status flags that the engine needs.
fn prepare_flags(fd: &OwnedFd, options: &RawOptions) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    let refuse = |advice: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, advice));
    match flags & OFlags::RWMODE {
        _ if flags.contains(OFlags::PATH) => return refuse("it was opened with O_PATH: open it for I/O"),
        OFlags::WRONLY => return refuse("it is open for writing only: open it for reading too"),
        OFlags::RDONLY if !options.read_only => return refuse("it is open for reading only"),
        _ => {}
    }
    if flags.contains(OFlags::APPEND) {
        return refuse("it is open for appending, where writes ignore their offset");
    }
    // Without waiting, buffered I/O would fail with EAGAIN whenever a page is not in memory.
    let mut wanted = flags - OFlags::NONBLOCK;
    wanted.set(OFlags::DIRECT, options.cache.direct());
    if wanted != flags {
        rustix::fs::fcntl_setfl(fd, wanted)?;
    }
    Ok(())
}
