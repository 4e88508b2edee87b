//! One QEMU process with the emulated host in it, and the sockets that lead there.
//!
//! Ports of the emulated host (virtio-serial, by name): `vireo.control` carries lines in both directions, `vireo.out`,
//! `vireo.err` and `vireo.in` the command's standard streams.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::io::FdFlags;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use crate::command::{OwnedChild, pidfd, tool};
use crate::error::LabError;
use crate::run_folder::RunFolder;
use crate::shape::{Files, Memory, Shape, option_with_path};

/// How the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Boots and waits for the job.
    Cold,
    /// Boots, and says `snap` on the control port when it can be saved.
    ToBeSaved,
    /// Waits for a saved state to be loaded. It must have the command line that was saved.
    Resumed,
}

/// A running machine, killed when dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    exited: OwnedFd,
    child: OwnedChild,
    pub(crate) control: UnixStream,
    pub(crate) output: UnixStream,
    pub(crate) errors: UnixStream,
    pub(crate) input: UnixStream,
}

/// The sockets of a machine in the making.
struct Sockets {
    arguments: Vec<OsString>,
    inherited: Vec<OwnedFd>,
}

impl Sockets {
    /// A socket that QEMU calls `name`; returns our end.
    fn pair(&mut self, name: &str) -> Result<UnixStream, LabError> {
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| LabError::System("creating a socket pair", error))?;
        let theirs = OwnedFd::from(theirs);
        self.arguments.push("-chardev".into());
        self.arguments.push(format!("socket,id={name},fd={}", theirs.as_raw_fd()).into());
        self.inherited.push(theirs);
        Ok(ours)
    }

    fn port(&mut self, name: &str) -> Result<UnixStream, LabError> {
        let ours = self.pair(name)?;
        ours.set_nonblocking(true).map_err(|error| LabError::System("preparing a socket", error))?;
        self.arguments.push("-device".into());
        self.arguments.push(format!("virtserialport,bus=ports.0,chardev={name},name=vireo.{name}").into());
        Ok(ours)
    }
}

impl Machine {
    /// Starts QEMU; returns the machine and the socket of its monitor.
    pub(crate) fn start(
        shape: &Shape,
        files: &Files<'_>,
        memory: Memory<'_>,
        start: Start,
        folder: &RunFolder,
    ) -> Result<(Machine, UnixStream), LabError> {
        let mut sockets = Sockets { arguments: shape.arguments(files, memory), inherited: Vec::new() };
        let control = sockets.port("control")?;
        let output = sockets.port("out")?;
        let errors = sockets.port("err")?;
        let input = sockets.port("in")?;
        let monitor = sockets.pair("monitor")?;
        let mut command = tool("qemu-system-x86_64", "qemu-system-x86")?;
        command.args(&sockets.arguments).args(["-mon", "chardev=monitor,mode=control", "-chardev"]);
        command.arg(option_with_path("file,id=console,path=", &folder.console()));
        let mut command_line = shape.kernel_command_line();
        if start != Start::Cold {
            command_line.push_str(" vireo.snap");
        }
        command.args(["-serial", "chardev:console", "-append", &command_line]);
        if start == Start::Resumed {
            command.args(["-incoming", "defer", "-S"]);
        }
        let log = folder.qemu_log();
        let log =
            File::options().create(true).append(true).open(&log).map_err(LabError::file("creating", &log))?;
        let log_too = log.try_clone().map_err(|error| LabError::System("duplicating a descriptor", error))?;
        command.stdin(Stdio::null()).stdout(log).stderr(log_too);
        inherit(&mut command, sockets.inherited);
        let child = OwnedChild(command.spawn().map_err(LabError::file("starting", "qemu-system-x86_64"))?);
        let exited = pidfd(&child.0)?;
        Ok((Machine { exited, child, control, output, errors, input }, monitor))
    }

    /// Becomes readable when QEMU ends.
    pub(crate) fn exited(&self) -> BorrowedFd<'_> {
        self.exited.as_fd()
    }

    /// How QEMU ended. To be called when it has, or nearly.
    pub(crate) fn status(&mut self) -> Result<String, LabError> {
        let status = self.child.0.wait();
        status.map(|status| status.to_string()).map_err(|error| LabError::System("waiting for qemu", error))
    }
}

/// Lets the child of `command` keep `descriptors`, puts it out of reach of the terminal's Ctrl-C (this process decides when
/// it ends), and has it killed if this process dies without a chance to do so.
#[expect(
    unsafe_code,
    reason = "only a hook that runs in the child can clear close-on-exec for that child alone"
)]
fn inherit(command: &mut Command, descriptors: Vec<OwnedFd>) {
    command.process_group(0);
    let parent = getpid();
    let hook = move || {
        for descriptor in &descriptors {
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() == Some(parent) { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec the hook makes system calls only: it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(hook);
    }
}
