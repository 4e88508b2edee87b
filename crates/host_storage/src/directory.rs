//! The directory of a pool, and the names in it.
//!
//! A directory is opened once for a job; everything in it is reached through that descriptor by names of one component, and links
//! are not followed (openat2(2): RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS), so that neither a name nor a change of the tree meanwhile
//! leads out of it.
//!
//! A new volume is made under a name that begins with ".vireo-" and tells which process makes it, and renamed when it is whole.
//! Such names are no volumes. What a process left behind that is gone, and that nobody has locked, is removed ([`PoolDirectory::sweep`]).

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block_io::FileLock;
use libvirt_xml::storage::check_volume_name;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::StorageError;

const PARTIAL_PREFIX: &str = ".vireo-";
const PARTIAL_SUFFIX: &str = ".partial";

/// Most entries of a directory that a pool looks at: bounds memory and time.
const MOST_ENTRIES: usize = 100_000;

/// An open directory of volumes.
#[derive(Debug)]
pub(crate) struct PoolDirectory {
    fd: OwnedFd,
    path: PathBuf,
}

/// Checks a name that came from outside.
pub(crate) fn check_name(name: &str) -> Result<(), StorageError> {
    let refuse = |rule: &str| Err(StorageError::InvalidArgument(format!("{name:?} is not {rule}")));
    match check_volume_name(name) {
        Err(rule) => refuse(rule),
        Ok(()) if is_partial(name) => refuse("a volume's name: it is kept for volumes that are being made"),
        Ok(()) => Ok(()),
    }
}

fn is_partial(name: &str) -> bool {
    name.starts_with(PARTIAL_PREFIX) && name.ends_with(PARTIAL_SUFFIX)
}

impl PoolDirectory {
    /// Opens the directory of a pool, which the pool's definition names: links in its path are followed.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(path, flags, Mode::empty()).map_err(StorageError::on("open directory", path))?;
        Ok(Arc::new(Self { fd, path: path.to_owned() }))
    }

    /// What the directory itself is.
    pub(crate) fn own_stat(&self) -> Result<Stat, StorageError> {
        rustix::fs::fstat(&self.fd).map_err(StorageError::on("look at", &self.path))
    }

    /// What people call an entry.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A path to an entry of exactly this directory, whatever its path leads to by now.
    pub(crate) fn pinned(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
    }

    /// Opens a file or block device. Anything else, links included, is refused.
    pub(crate) fn open_volume(&self, name: &str, flags: OFlags) -> Result<File, StorageError> {
        let path = self.path_of(name);
        // Not blocking: a FIFO would wait for its other end.
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = match rustix::fs::openat2(&self.fd, name, flags, Mode::empty(), resolve) {
            // A sandbox without openat2; a name of one component needs no more than O_NOFOLLOW.
            Err(Errno::NOSYS) => rustix::fs::openat(&self.fd, name, flags, Mode::empty()),
            result => result,
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                return Err(StorageError::NoSuchVolume(format!("name '{name}'")));
            }
            Err(Errno::LOOP) => {
                let rule = format!("{} is a symbolic link, which is not followed", path.display());
                return Err(StorageError::InvalidOperation(rule));
            }
            Err(errno) => return Err(StorageError::system("open", path, errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(StorageError::on("look at", &path))?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::BlockDevice) {
            let rule = format!("{} is neither a file nor a block device", path.display());
            return Err(StorageError::Unsupported(rule));
        }
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(StorageError::on("use", &path))?;
        rustix::fs::fcntl_setfl(&fd, flags - OFlags::NONBLOCK).map_err(StorageError::on("use", &path))?;
        Ok(File::from(fd))
    }

    /// Makes a new, empty file for its owner only.
    pub(crate) fn create_file(&self, name: &str) -> Result<File, StorageError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(StorageError::on("make", self.path_of(name)))
    }

    /// What an entry is; `None` if there is none.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<Stat>, StorageError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StorageError::system("look at", self.path_of(name), errno)),
        }
    }

    /// Names that can be volumes' names, in no order.
    pub(crate) fn names(&self) -> Result<Vec<String>, StorageError> {
        let names = self.all_names()?;
        Ok(names.into_iter().filter(|name| check_name(name).is_ok()).collect())
    }

    fn all_names(&self) -> Result<Vec<String>, StorageError> {
        let fail = |errno| StorageError::system("read directory", &self.path, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // A name that is no text can't be in a document.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !matches!(name, "." | "..") {
                names.push(name.to_owned());
            }
            if names.len() > MOST_ENTRIES {
                let rule = format!("{} has more than {MOST_ENTRIES} entries", self.path.display());
                return Err(StorageError::Unsupported(rule));
            }
        }
        Ok(names)
    }

    /// A name that nobody uses, for a volume that is being made by this process.
    pub(crate) fn partial_name(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{PARTIAL_PREFIX}{}-{number}{PARTIAL_SUFFIX}", std::process::id());
            // What an earlier process of the same number left behind keeps its name until it is swept.
            if !matches!(self.stat(&name), Ok(Some(_))) {
                return name;
            }
        }
    }

    /// Gives a partial file its name, where nothing may be, and makes that durable.
    pub(crate) fn publish(&self, partial: &str, name: &str) -> Result<(), StorageError> {
        let directory = &self.fd;
        let renamed =
            match rustix::fs::renameat_with(directory, partial, directory, name, RenameFlags::NOREPLACE) {
                // A file system that can't: a link is never made over something either.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    rustix::fs::linkat(directory, partial, directory, name, AtFlags::empty())
                        .and_then(|()| rustix::fs::unlinkat(directory, partial, AtFlags::empty()))
                }
                result => result,
            };
        match renamed {
            Ok(()) => self.sync(),
            Err(Errno::EXIST) => Err(StorageError::VolumeExists(name.to_owned())),
            Err(errno) => Err(StorageError::system("make", self.path_of(name), errno)),
        }
    }

    /// Removes a file.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub(crate) fn remove_directory(&self, name: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }

    /// Makes changes of names durable.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        match rustix::fs::fsync(&self.fd) {
            // File systems that have nothing to write.
            Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(StorageError::system("sync directory", &self.path, errno)),
        }
    }

    /// Removes what processes that are gone have left half made.
    pub(crate) fn sweep(&self) -> Result<(), StorageError> {
        for name in self.all_names()?.into_iter().filter(|name| is_partial(name)) {
            let maker = name.strip_prefix(PARTIAL_PREFIX).and_then(|rest| rest.split('-').next());
            let alive = maker.is_some_and(|maker| {
                maker.parse::<u32>().is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
            });
            let Ok(file) = self.open_volume(&name, OFlags::RDWR) else { continue };
            // The lock tells about makers on other hosts and in other containers.
            if !alive && FileLock::exclusive(Arc::new(file)).is_ok() {
                tracing::info!("removing {}, which was never finished", self.path_of(&name).display());
                let _ = self.remove(&name);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b", "a\nb", ".vireo-1-1.partial"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", ".hidden", "...", "..a", "a b", "disk.qcow2", "\u{e4}", "~", "$(x)", "-f"] {
            check_name(name).unwrap();
        }
        assert!(check_name(&"x".repeat(256)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_file_of_an_accepted_name_lies_in_the_directory(name in r"[./a\\\x00\n -]{0,6}|\PC{0,12}") {
            let outer = tempfile::tempdir().unwrap();
            let pool = outer.path().join("pool");
            std::fs::create_dir(&pool).unwrap();
            if check_name(&name).is_ok() {
                PoolDirectory::open(&pool).unwrap().create_file(&name).unwrap();
                proptest::prop_assert_eq!(std::fs::read_dir(&pool).unwrap().count(), 1);
            }
            proptest::prop_assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn links_fifos_and_directories_are_not_opened() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let pool = tempfile::tempdir().unwrap();
        let at = |name: &str| pool.path().join(name);
        std::os::unix::fs::symlink(outside.path().join("secret"), at("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), at("tree")).unwrap();
        std::os::unix::fs::symlink("file", at("inner")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        std::fs::write(at("file"), "f").unwrap();
        let directory = PoolDirectory::open(pool.path()).unwrap();
        for name in ["link", "inner", "tree", "tree/secret", "../secret", "directory", "fifo", "missing"] {
            assert!(directory.open_volume(name, OFlags::RDONLY).is_err(), "{name}");
        }
        directory.open_volume("file", OFlags::RDWR).unwrap();
    }

    #[test]
    fn a_volume_is_never_put_over_something() {
        let pool = tempfile::tempdir().unwrap();
        let directory = PoolDirectory::open(pool.path()).unwrap();
        let partial = directory.partial_name();
        std::fs::write(pool.path().join(&partial), "new").unwrap();
        std::fs::write(pool.path().join("v"), "old").unwrap();
        assert!(matches!(directory.publish(&partial, "v"), Err(StorageError::VolumeExists(_))));
        assert_eq!(std::fs::read(pool.path().join("v")).unwrap(), b"old");
        directory.publish(&partial, "w").unwrap();
        assert_eq!(directory.names().unwrap().len(), 2);
    }

    #[test]
    fn what_a_dead_process_left_is_swept_and_what_is_being_made_is_not() {
        let pool = tempfile::tempdir().unwrap();
        let directory = PoolDirectory::open(pool.path()).unwrap();
        let ours = directory.partial_name();
        // No process has a number above the limit of the kernel (2^22).
        let [dead, locked] = [1, 2].map(|number| format!(".vireo-4194305-{number}.partial"));
        for name in [&ours, &dead, &locked] {
            std::fs::write(pool.path().join(name), "x").unwrap();
        }
        let file = File::options().read(true).write(true).open(pool.path().join(&locked)).unwrap();
        let lock = FileLock::exclusive(Arc::new(file)).unwrap();
        directory.sweep().unwrap();
        let left = |name: &str| pool.path().join(name).exists();
        assert!(left(&ours) && !left(&dead) && left(&locked));
        drop(lock);
        directory.sweep().unwrap();
        assert!(!left(&locked));
        assert!(directory.names().unwrap().is_empty(), "partial files are no volumes");
    }
}
