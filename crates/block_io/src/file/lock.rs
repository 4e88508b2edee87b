//! Locks that keep a disk from being opened twice, and the search for who holds one.
//!
//! Open file description locks (fcntl(2), F_OFD_SETLK): they belong to the open file, not to the process, so they survive
//! being handed to another process and end with the last descriptor. Who opened the file itself lets go of the lock when the
//! disk is closed: the kernel may keep a file open for a moment longer (io_uring's workers).
//!
//! The bytes are QEMU's (block/file-posix.c, `RAW_LOCK_PERM_BASE` and `RAW_LOCK_SHARED_BASE`, with the bits of `BLK_PERM_*`), so
//! that each notices the other, and a tool of QEMU's that is told to look at an image in use (`-U`) can. Somebody who does
//! something holds a read lock on that something's byte, and on another byte for whatever nobody else may do meanwhile; then
//! looks whether anybody else does what is not allowed, or forbids what is done. Two who come at once both see each other.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

/// Descriptors that the search for a lock's holder looks at: bounds its time on hosts with very many.
const MOST_DESCRIPTORS: usize = 50_000;

/// What can be done to an image, each with the byte that says that it is done, and the byte that says that nobody else may.
#[derive(Debug, Clone, Copy)]
struct Use {
    done: libc::off_t,
    forbidden: libc::off_t,
}

const READ: Use = Use { done: 100, forbidden: 200 };
const WRITE: Use = Use { done: 101, forbidden: 201 };
const RESIZE: Use = Use { done: 103, forbidden: 203 };

/// Takes a lock for a reader or for the only writer, without waiting.
pub(super) fn lock(fd: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let taken = take(fd, read_only).inspect_err(|_| {
        // What was taken of it.
        let _ = control(fd, libc::F_OFD_SETLK, libc::F_UNLCK);
    });
    match taken {
        Ok(()) => Ok(()),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let holder = holder(fd).map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
            let advice = if read_only { "" } else { ", or open it read-only if it does so too" };
            let message = format!("{holder} has it open: stop that first{advice}");
            Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
        }
        // A file system without locks (some network ones): as safe as it can be.
        Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => {
            tracing::warn!(
                "the file system does not support locks: nothing keeps the disk from being opened twice"
            );
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

fn take(fd: BorrowedFd<'_>, read_only: bool) -> Result<(), Errno> {
    let done: &[Use] = if read_only { &[READ] } else { &[READ, WRITE, RESIZE] };
    let forbidden = [WRITE, RESIZE];
    let own = done.iter().map(|one| one.done).chain(forbidden.iter().map(|one| one.forbidden));
    for byte in own {
        control_range(fd, libc::F_OFD_SETLK, libc::F_RDLCK, byte, 1)?;
    }
    let others = done.iter().map(|one| one.forbidden).chain(forbidden.iter().map(|one| one.done));
    for byte in others {
        let conflict = control_range(fd, libc::F_OFD_GETLK, libc::F_WRLCK, byte, 1)?;
        if i32::from(conflict.l_type) != libc::F_UNLCK {
            return Err(Errno::AGAIN);
        }
    }
    Ok(())
}

/// A lock on an open file, as disks have it: many readers or one writer on the whole host, QEMU's included. Held until dropped.
#[derive(Debug)]
pub struct FileLock(HeldLock);

impl FileLock {
    /// Takes the lock for a reader, without waiting. An error says who writes to the file.
    pub fn shared(file: Arc<File>) -> io::Result<Self> {
        lock(file.as_fd(), true)?;
        Ok(Self(HeldLock(file)))
    }

    /// Takes the lock for the only user, without waiting; the file must be open for writing. An error says who else uses it.
    pub fn exclusive(file: Arc<File>) -> io::Result<Self> {
        lock(file.as_fd(), false)?;
        Ok(Self(HeldLock(file)))
    }

    /// The locked file.
    pub fn file(&self) -> &Arc<File> {
        &self.0.0
    }
}

/// Lets go of a file's lock when dropped, even if somebody still has the file open.
#[derive(Debug)]
pub(crate) struct HeldLock(pub(crate) Arc<File>);

impl Drop for HeldLock {
    fn drop(&mut self) {
        // There is nothing to be done about an error, and closing the file unlocks it as well.
        let _ = control(self.0.as_fd(), libc::F_OFD_SETLK, libc::F_UNLCK);
    }
}

/// A process that has the file open.
#[derive(Debug)]
struct Holder {
    pid: i32,
    command: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pid.unsigned_abs() == std::process::id() {
            write!(f, "this process ({})", self.command)
        } else {
            write!(f, "process {} ({})", self.pid, self.command)
        }
    }
}

/// Does something with locks on the whole file.
fn control(fd: BorrowedFd<'_>, command: i32, kind: i32) -> Result<libc::flock, Errno> {
    control_range(fd, command, kind, 0, 0)
}

#[expect(unsafe_code, reason = "fcntl(2) with a structure")]
fn control_range(
    fd: BorrowedFd<'_>,
    command: i32,
    kind: i32,
    start: libc::off_t,
    bytes: libc::off_t,
) -> Result<libc::flock, Errno> {
    // SAFETY: a structure of plain numbers, for which zero is a value; start 0 and length 0 mean the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_start, lock.l_len) = (start, bytes);
    lock.l_type = libc::c_short::try_from(kind).map_err(|_| Errno::INVAL)?;
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).map_err(|_| Errno::INVAL)?;
    // SAFETY: both lock commands take a pointer to `flock`, which lives across the call.
    if unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut lock) } == 0 {
        return Ok(lock);
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Who holds a lock that conflicts, as far as that can be found out.
fn holder(fd: BorrowedFd<'_>) -> Option<Holder> {
    let conflict = control(fd, libc::F_OFD_GETLK, libc::F_WRLCK).ok()?;
    if i32::from(conflict.l_type) != libc::F_UNLCK && conflict.l_pid > 0 {
        // A classic lock knows its process; an open file description's says -1.
        return Some(Holder { pid: conflict.l_pid, command: command_of(conflict.l_pid) });
    }
    search(fd)
}

fn command_of(pid: i32) -> String {
    let path = format!("/proc/{pid}/comm");
    std::fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |name| name.trim_end().to_owned())
}

/// Looks for a process that has the file open and a lock on it.
fn search(fd: BorrowedFd<'_>) -> Option<Holder> {
    let ours = rustix::fs::fstat(fd).ok()?;
    let mut looked_at = 0;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            looked_at += 1;
            if looked_at > MOST_DESCRIPTORS {
                return None;
            }
            let Ok(theirs) = rustix::fs::statat(CWD, descriptor.path(), AtFlags::empty()) else { continue };
            if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
                && holds_lock(&process.path().join("fdinfo").join(descriptor.file_name()))
            {
                return Some(Holder { pid, command: command_of(pid) });
            }
        }
    }
    None
}

/// Whether an open file has a lock on it: its fdinfo (proc(5)) lists them.
fn holds_lock(information: &Path) -> bool {
    std::fs::read_to_string(information).is_ok_and(|text| text.lines().any(|line| line.starts_with("lock:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Arc<File> {
        Arc::new(File::options().read(true).write(true).open(path).unwrap())
    }

    #[test]
    fn readers_share_a_file_and_a_writer_has_it_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let first = FileLock::shared(open(file.path())).unwrap();
        let second = FileLock::shared(open(file.path())).unwrap();
        let message = FileLock::exclusive(open(file.path())).unwrap_err().to_string();
        assert!(message.contains("this process (") && message.contains("has it open"), "{message}");
        drop((first, second));
        let writer = FileLock::exclusive(open(file.path())).unwrap();
        assert!(FileLock::shared(open(file.path())).is_err());
        drop(writer);
        FileLock::shared(open(file.path())).unwrap();
    }

    /// An image: of the raw files that QEMU reads it lets others write.
    fn image() -> tempfile::TempPath {
        use crate::qcow2::{Qcow2Disk, Qcow2Parameters};
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::remove_file(&path).unwrap();
        Qcow2Disk::create(&path, &Qcow2Parameters::new(1 << 20)).unwrap();
        path
    }

    /// `qemu-io` with the file open, until it is dropped; none where it is not installed.
    struct QemuIo(std::process::Child);

    impl QemuIo {
        fn open(path: &Path, read_only: bool) -> Option<Self> {
            use std::io::Read;
            use std::process::{Command, Stdio};
            let mut command = Command::new("qemu-io");
            command.args(["-f", "qcow2"]).args(read_only.then_some("-r")).arg(path);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let Ok(mut child) = child else {
                eprintln!("skipped: qemu-io (package qemu-utils) can't be run");
                return None;
            };
            // Its prompt: the file is open, and locked.
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
            Some(Self(child))
        }
    }

    impl Drop for QemuIo {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_file_that_qemu_uses_is_written_by_nobody_else() {
        let file = image();
        let Some(writer) = QemuIo::open(&file, false) else { return };
        let error = FileLock::shared(open(&file)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("(qemu-io)"), "{error}");
        FileLock::exclusive(open(&file)).unwrap_err();
        drop(writer);
        let reader = QemuIo::open(&file, true);
        drop(FileLock::shared(open(&file)).unwrap());
        FileLock::exclusive(open(&file)).unwrap_err();
        drop(reader);
        FileLock::exclusive(open(&file)).unwrap();
    }

    #[test]
    fn qemu_looks_at_a_file_in_use_only_when_told_to() {
        let file = image();
        let read = |arguments: &[&str]| {
            let mut command = std::process::Command::new("qemu-io");
            command.args(["-f", "qcow2", "-r", "-c", "read 0 512"]).args(arguments).arg(&file).output().ok()
        };
        let Some(free) = read(&[]) else {
            eprintln!("skipped: qemu-io (package qemu-utils) can't be run");
            return;
        };
        assert!(free.status.success());
        let writer = FileLock::exclusive(open(&file)).unwrap();
        let refused = read(&[]).unwrap();
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(message.contains("Failed to get shared \"write\" lock"), "{message}");
        assert!(read(&["-U"]).unwrap().status.success());
        drop(writer);
        let _reader = FileLock::shared(open(&file)).unwrap();
        assert!(read(&[]).unwrap().status.success());
    }
}
