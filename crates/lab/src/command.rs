//! The programs that setup stands on (apt-get, dpkg, modprobe, xz ...): found in PATH and the system directories, run with
//! a time limit, ended by signals, their errors passed on.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::LabError;
use crate::interrupt::Interrupt;
use crate::wait;

/// A download or a build may take this long before it counts as hung.
const TIME_LIMIT: Duration = Duration::from_secs(20 * 60);
/// At most this much of a program's standard error is shown.
const DETAIL_BYTES: usize = 1500;

/// A child that is killed and waited for when dropped.
#[derive(Debug)]
pub(crate) struct OwnedChild(pub(crate) Child);

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // Both fail only when the child has ended and been waited for, which is the aim.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `program` is, as execvp would find it, or in the system directories, which users' PATHs often lack.
pub(crate) fn find(program: &OsStr) -> Option<PathBuf> {
    if Path::new(program).components().count() > 1 {
        return std::path::absolute(program).ok().filter(|path| is_executable(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A command for `program`, with a plain environment for messages that are parsed.
///
/// # Errors
/// [`LabError::MissingProgram`], naming `package`.
pub(crate) fn tool(program: &str, package: &str) -> Result<Command, LabError> {
    let path = find(OsStr::new(program)).ok_or_else(|| LabError::MissingProgram {
        program: program.to_owned(),
        packages: package.to_owned(),
    })?;
    let mut command = Command::new(path);
    command.env("LC_ALL", "C").stdin(Stdio::null());
    Ok(command)
}

/// Runs `command` to its end and returns its standard output, however it ended.
///
/// # Errors
/// When it can't be started, exceeds its time or a signal comes; it is killed then.
pub(crate) fn run(command: &mut Command, interrupt: &Interrupt) -> Result<Finished, LabError> {
    let temporary = |error| LabError::System("creating a temporary file", error);
    let (mut output, mut errors) =
        (tempfile::tempfile().map_err(temporary)?, tempfile::tempfile().map_err(temporary)?);
    command.stdout(output.try_clone().map_err(temporary)?).stderr(errors.try_clone().map_err(temporary)?);
    let name =
        Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    interrupt.check()?;
    let child = command.spawn().map_err(LabError::file("starting", command.get_program()))?;
    let status = finish(OwnedChild(child), &name, interrupt)?;
    let read = |file: &mut File| -> Result<Vec<u8>, LabError> {
        let mut bytes = Vec::new();
        let result = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
        result.map_err(LabError::file("reading the output of", &name))?;
        Ok(bytes)
    };
    Ok(Finished { status, output: read(&mut output)?, errors: read(&mut errors)?, name })
}

/// Runs `command` and returns its standard output.
///
/// # Errors
/// As [`run`], and when it does not end with 0.
pub(crate) fn check(command: &mut Command, interrupt: &Interrupt) -> Result<Vec<u8>, LabError> {
    let finished = run(command, interrupt)?;
    if finished.status.success() { Ok(finished.output) } else { Err(finished.failure()) }
}

fn finish(mut child: OwnedChild, name: &str, interrupt: &Interrupt) -> Result<ExitStatus, LabError> {
    let exited = pidfd(&child.0)?;
    let until = Instant::now() + TIME_LIMIT;
    let ready = wait::ready(&[(exited.as_fd(), PollFlags::IN)], until, interrupt)?;
    if ready.iter().all(|flags| flags.is_empty()) {
        let status = format!("no end after {} minutes", TIME_LIMIT.as_secs() / 60);
        return Err(LabError::Command { program: name.to_owned(), status, detail: String::new() });
    }
    child.0.wait().map_err(|error| LabError::System("waiting for a program", error))
}

/// A descriptor that becomes readable when `child` ends.
pub(crate) fn pidfd(child: &Child) -> Result<std::os::fd::OwnedFd, LabError> {
    let pid = Pid::from_child(child);
    pidfd_open(pid, PidfdFlags::empty()).map_err(|error| LabError::System("watching a program", error.into()))
}

/// A program that ran to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) output: Vec<u8>,
    errors: Vec<u8>,
    name: String,
}

impl Finished {
    /// The error that tells how it ended.
    pub(crate) fn failure(self) -> LabError {
        let errors = String::from_utf8_lossy(&self.errors);
        let errors = errors.trim();
        let mut from = errors.len().saturating_sub(DETAIL_BYTES);
        while !errors.is_char_boundary(from) {
            from += 1;
        }
        let detail = if errors.is_empty() { String::new() } else { format!(": {}", &errors[from..]) };
        LabError::Command { program: self.name, status: self.status.to_string(), detail }
    }
}
