//! Starting a process for a machine.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use command_fds::CommandFdExt;

use super::events::{EventTail, MachineEvent};
use super::identity::ProcessIdentity;
use super::{Ending, MachineProcess};

/// How long a new process may take until it hears requests. It takes milliseconds; a host that is out of memory takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most of the end of the log that is quoted, bytes.
const QUOTED: u64 = 2048;

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its directory can't be had.
    #[error("{path}: cannot {operation}: {source}", path = path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It ended before it heard a request.
    #[error("the machine's process ended at once ({ending:?}): {said}")]
    Ended {
        /// How.
        ending: Ending,
        /// The end of its log.
        said: String,
    },
    /// It did not come up.
    #[error("the machine's process did not answer in {} s: {said}", PATIENCE.as_secs())]
    Silent {
        /// The end of its log.
        said: String,
    },
}

/// Starts `program` in `directory`, which is made anew, and waits until it hears requests. On failure nothing is left behind.
///
/// The process gets `descriptors` under the numbers that they have here, which nothing else of this process can have meanwhile; they
/// are closed here. No other process that is started at the same time gets them.
pub async fn launch(
    program: &Path,
    directory: &Path,
    descriptors: Vec<OwnedFd>,
) -> Result<MachineProcess, LaunchError> {
    let prepared = Prepared::new(program, directory).and_then(|prepared| {
        let process = prepared.spawn(program, descriptors)?;
        Ok((process, prepared))
    });
    let (process, prepared) = prepared.inspect_err(|_| discard(directory))?;
    let result = prepared.wait(&process).await;
    if let Err(error) = result {
        let _ = process.kill();
        process.ended().await;
        discard(directory);
        return Err(error);
    }
    Ok(process)
}

fn discard(directory: &Path) {
    // What is left over is removed by the next launch.
    let _ = std::fs::remove_dir_all(directory);
}

struct Prepared {
    directory: PathBuf,
    log: File,
    events: EventTail,
}

impl Prepared {
    fn new(program: &Path, directory: &Path) -> Result<Self, LaunchError> {
        let failed = |path: &Path, operation| {
            let path = path.to_owned();
            move |source| LaunchError::Host { path, operation, source }
        };
        std::fs::metadata(program).map_err(failed(program, "find the machine's program"))?;
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(directory, "remove what an earlier machine left")(error));
            }
            _ => {}
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed(directory, "make the directory"))?;
        let make = |name: &str| {
            let path = directory.join(name);
            File::options().append(true).create(true).read(true).open(&path).map_err(failed(&path, "make it"))
        };
        let log = make("log")?;
        make("events")?;
        let events = EventTail::open(&directory.join("events"));
        let events = events.map_err(failed(&directory.join("events"), "watch it"))?;
        Ok(Self { directory: directory.to_owned(), log, events })
    }

    fn spawn(&self, program: &Path, descriptors: Vec<OwnedFd>) -> Result<MachineProcess, LaunchError> {
        let failed =
            |operation| move |source| LaunchError::Host { path: program.to_owned(), operation, source };
        let log = || self.log.try_clone().map(Stdio::from).map_err(failed("share the log with it"));
        let mut command = Command::new(program);
        // A process that gets none can be started in a faster way.
        if !descriptors.is_empty() {
            command.preserved_fds(descriptors);
        }
        let child = command
            .current_dir("/")
            .arg("--api-socket")
            .arg(self.directory.join("api"))
            .arg("--event-monitor")
            .arg(self.directory.join("events"))
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            // Keys that end the daemon on a terminal are not for the machines.
            .process_group(0)
            .spawn()
            .map_err(failed("start it"))?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other).map_err(failed("number it"))?;
        // It can't be gone from the process table: nobody has waited for it.
        let identity = ProcessIdentity::of(pid).map_err(failed("look at it"))?;
        MachineProcess::find(&self.directory, identity)
            .and_then(|found| found.ok_or_else(|| io::Error::other("it is gone")))
            .map_err(failed("watch it"))
    }

    async fn wait(mut self, process: &MachineProcess) -> Result<(), LaunchError> {
        let started = async {
            loop {
                match self.events.next().await {
                    Ok(MachineEvent::Starting) => return Ok(()),
                    Ok(_) => {}
                    Err(source) => {
                        let path = self.directory.join("events");
                        return Err(LaunchError::Host { path, operation: "read it", source });
                    }
                }
            }
        };
        tokio::select! {
            started = started => started,
            ending = process.ended() => Err(LaunchError::Ended { ending, said: said(&self.log) }),
            () = tokio::time::sleep(PATIENCE) => Err(LaunchError::Silent { said: said(&self.log) }),
        }
    }
}

/// The end of the log, as one line.
pub(super) fn said(mut log: &File) -> String {
    let mut text = Vec::new();
    let length = log.metadata().map_or(0, |log| log.len());
    let read = log
        .seek(SeekFrom::Start(length.saturating_sub(QUOTED)))
        .and_then(|_| log.take(QUOTED).read_to_end(&mut text));
    match read {
        Ok(0) => "it said nothing".to_owned(),
        Ok(_) => String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" "),
        Err(error) => format!("its log can't be read: {error}"),
    }
}
