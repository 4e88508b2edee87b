//! A directory of its own, and processes in it that can do nothing else.
//!
//! When root works, e2fsprogs run as a user that nobody else is: a number between those that systemd's "Users, Groups, UIDs and
//! GIDs on systemd Systems" gives to containers and those that it gives to foreign images. Such a process owns the copy of
//! the file system, an empty directory and nothing else on the host, gains no privileges (PR_SET_NO_NEW_PRIVS), and is bounded in CPU time, memory, length of
//! files and real time. When a user works, the process is that user's with the same bounds.

use std::fs::{File, Permissions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use tempfile::TempDir;

use super::RenewalError;

/// Where programs are; a user's own search path may lack the administrator's directories.
const SEARCH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// First and number of the users that a sandbox may have.
const USERS: (u32, u32) = (0x7000_0000, 0x0e00_0000);
/// The directory of files that processes are given: they can't make or replace any there, so that no name in it leads elsewhere.
const GIVEN: &str = "given";
/// The processes' own directory, in which they start.
const SCRATCH: &str = "scratch";
/// The user where those are not mapped (in a container): nobody.
const NOBODY: u32 = 65534;
/// Seconds of CPU time and of real time that a process has.
const CPU_SECONDS: u32 = 600;
const REAL_TIME: Duration = Duration::from_secs(1200);
/// Address space: e2fsck keeps bitmaps of all blocks.
const MEMORY_BYTES: u64 = 4 << 30;
/// Beside the copy of the file system, there are only small files.
const SMALL_FILES: u64 = 1 << 20;
/// Most that a process may say.
const MOST_OUTPUT: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Sandbox {
    directory: TempDir,
    user: Option<u32>,
    most_file_bytes: u64,
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) said: Vec<u8>,
    /// Why it was ended, if it did not end by itself.
    pub(super) stopped: Option<&'static str>,
}

impl Ended {
    /// The exit code; none when a signal ended it.
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The last line that says something, or how it ended: what a message can hold.
    pub(super) fn last_words(&self) -> String {
        if let Some(reason) = self.stopped {
            return reason.to_owned();
        }
        let text = String::from_utf8_lossy(&self.said);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let line: String = line.chars().filter(|character| !character.is_control()).take(200).collect();
        match self.status.signal() {
            Some(signal) => format!("ended by signal {signal}, {line}"),
            None if line.is_empty() => self.status.to_string(),
            None => line,
        }
    }
}

impl Sandbox {
    pub(super) fn new() -> Result<Self, RenewalError> {
        let parent = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let fail = || RenewalError::host(format!("make a directory in {}", parent.display()));
        let directory = tempfile::Builder::new()
            .prefix("vireo-identity-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir_in(&parent)
            .map_err(fail())?;
        for name in [GIVEN, SCRATCH] {
            std::fs::create_dir(directory.path().join(name)).map_err(fail())?;
        }
        let set = |name: &str, mode| {
            std::fs::set_permissions(directory.path().join(name), Permissions::from_mode(mode))
        };
        set(GIVEN, 0o711).map_err(fail())?;
        set(SCRATCH, 0o700).map_err(fail())?;
        let root = rustix::process::geteuid().is_root();
        let user = root.then(|| own(&directory.path().join(SCRATCH))).transpose().map_err(fail())?;
        Ok(Self { directory, user, most_file_bytes: 0 })
    }

    /// Where a file is that processes are given. They can't replace it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(GIVEN).join(name)
    }

    /// What processes call it.
    pub(super) fn inside(name: &str) -> String {
        format!("../{GIVEN}/{name}")
    }

    /// Where a file is that processes make in their own directory: it can be anything.
    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(SCRATCH).join(name)
    }

    /// What processes have made of a file, at most `most` bytes; nothing when it is no regular file.
    pub(super) fn read_scratch(&self, name: &str, most: u64) -> Vec<u8> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut content = Vec::new();
        if let Ok(fd) = rustix::fs::open(self.scratch(name), flags, Mode::empty()) {
            let file = File::from(fd);
            if file.metadata().is_ok_and(|metadata| metadata.is_file())
                && file.take(most).read_to_end(&mut content).is_err()
            {
                content.clear();
            }
        }
        content
    }

    /// Gives a file to the processes for writing.
    pub(super) fn hand_over(&self, name: &str) -> Result<(), RenewalError> {
        let path = self.path(name);
        std::os::unix::fs::chown(&path, self.user, self.user)
            .map_err(RenewalError::host(format!("give away {}", path.display())))
    }

    /// Lets the processes read a file.
    pub(super) fn show(&self, name: &str) -> Result<(), RenewalError> {
        let path = self.path(name);
        std::os::unix::fs::chown(&path, None, self.user)
            .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o640)))
            .map_err(RenewalError::host(format!("show {}", path.display())))
    }

    /// A file with content that the processes can read.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), RenewalError> {
        let path = self.path(name);
        std::fs::write(&path, content).map_err(RenewalError::host(format!("write {}", path.display())))?;
        self.show(name)
    }

    /// Processes may write files of this length.
    pub(super) fn allow_files_of(&mut self, bytes: u64) {
        self.most_file_bytes = self.most_file_bytes.max(bytes);
    }

    /// Runs a program of a package in the directory, as far from everything else as possible.
    pub(super) fn run(
        &self,
        program: &'static str,
        package: &'static str,
        arguments: &[&str],
    ) -> Result<Ended, RenewalError> {
        let program = find(program, package)?;
        let mut command = Command::new(find("setpriv", "util-linux")?);
        if let Some(user) = self.user {
            command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
        }
        let most = self.most_file_bytes.saturating_add(SMALL_FILES);
        command.args(["--no-new-privs", "--"]).arg(find("prlimit", "util-linux")?);
        command.args([
            format!("--cpu={CPU_SECONDS}"),
            format!("--as={MEMORY_BYTES}"),
            format!("--fsize={most}"),
            "--nofile=64".to_owned(),
            "--core=0".to_owned(),
            "--".to_owned(),
        ]);
        command.arg(&program).args(arguments);
        self.finish(command, SCRATCH).map_err(RenewalError::host(format!("run {}", program.display())))
    }

    /// Runs a program that has nothing to do with the guest, as who we are and among the files that are given.
    pub(super) fn run_trusted(
        &self,
        program: &'static str,
        package: &'static str,
        arguments: &[&str],
    ) -> Result<Ended, RenewalError> {
        let program = find(program, package)?;
        let mut command = Command::new(&program);
        command.args(arguments);
        self.finish(command, GIVEN).map_err(RenewalError::host(format!("run {}", program.display())))
    }

    fn finish(&self, mut command: Command, place: &str) -> std::io::Result<Ended> {
        let (mut output, input) = std::io::pipe()?;
        let errors = input.try_clone()?;
        command
            .env_clear()
            .env("PATH", SEARCH)
            .env("LC_ALL", "C")
            .current_dir(self.directory.path().join(place));
        command.stdin(Stdio::null()).stdout(input).stderr(errors);
        let mut child = command.spawn()?;
        // Our ends of the pipe for writing.
        drop(command);
        let mut said = Vec::new();
        let stopped = watch(&mut child, &mut output, &mut said);
        // Whatever happened: it does not go on without us. A process that has ended can't be killed.
        let _ = child.kill();
        let status = child.wait()?;
        Ok(Ended { status, said, stopped: stopped? })
    }
}

/// Gives a directory to a user that nobody else is.
fn own(path: &Path) -> std::io::Result<u32> {
    // The names of temporary directories are as random as this has to be.
    let (first, count) = USERS;
    let name = path.as_os_str().as_encoded_bytes();
    let number =
        name.iter().fold(0_u32, |number, byte| number.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let user = first + number % count;
    match std::os::unix::fs::chown(path, Some(user), Some(user)) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).map(|()| NOBODY)
        }
        result => result.map(|()| user),
    }
}

/// Reads what a process says until it ends; why it has to be ended, if it does not.
fn watch(
    child: &mut Child,
    output: &mut std::io::PipeReader,
    said: &mut Vec<u8>,
) -> std::io::Result<Option<&'static str>> {
    let ended = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + REAL_TIME;
    let mut buffer = [0; 4096];
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some("it took too long"));
        }
        let mut set = vec![PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN)];
        if open {
            set.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
        }
        let wait = Timespec::try_from(left).map_err(std::io::Error::other)?;
        match poll(&mut set, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let over = !set[0].revents().is_empty();
        if set.get(1).is_some_and(|pipe| !pipe.revents().is_empty()) {
            let count = output.read(&mut buffer)?;
            said.extend_from_slice(&buffer[..count]);
            if said.len() as u64 > MOST_OUTPUT {
                return Ok(Some("it said too much"));
            }
            // Closed, although the process may go on.
            open = count > 0;
        } else if over {
            return Ok(None);
        }
    }
}

fn find(program: &'static str, package: &'static str) -> Result<PathBuf, RenewalError> {
    let mut places = SEARCH.split(':').map(|directory| Path::new(directory).join(program));
    places.find(|path| path.is_file()).ok_or(RenewalError::Missing { program, package })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_owns_its_directory_and_nothing_else_and_writes_no_more_than_allowed() {
        let mut sandbox = Sandbox::new().unwrap();
        sandbox.write("file", b"content").unwrap();
        sandbox.allow_files_of(1 << 20);
        let run = |script: &str| sandbox.run("sh", "dash", &["-c", script]).unwrap();
        let ended =
            run("id -u; cat ../given/file; rm -f ../given/file; grep -i nonewprivs /proc/self/status");
        let said = String::from_utf8(ended.said).unwrap();
        assert!(
            ended.status.success() && said.contains("content") && said.contains("NoNewPrivs:\t1"),
            "{said}"
        );
        if rustix::process::geteuid().is_root() {
            assert!(!said.starts_with("0\n"), "{said}");
            assert_ne!(run("cat /etc/shadow").code(), Some(0));
            assert!(sandbox.path("file").exists());
        }
        let ended = run("head -c 8000000 /dev/zero > large");
        assert!(!ended.status.success());
        assert!(std::fs::metadata(sandbox.scratch("large")).unwrap().len() <= (1 << 20) + SMALL_FILES);
    }

    #[test]
    fn a_process_that_says_too_much_is_cut_off() {
        let sandbox = Sandbox::new().unwrap();
        let ended = sandbox.run("head", "coreutils", &["-c", "8000000", "/dev/zero"]).unwrap();
        assert!(ended.said.len() < 2 << 20, "{}", ended.said.len());
        assert_eq!(ended.last_words(), "it said too much");
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = Sandbox::new().unwrap().run("no-such-program", "some-package", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the program no-such-program is not installed: install the package some-package"
        );
    }
}
