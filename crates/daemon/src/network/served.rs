//! The process that serves one network: started, found again, told of changes, ended.
//!
//! It is this daemon's own program with another task (`vireod network-services`), outlives the daemon, and is known by its process number
//! and the time at which it started. Its end is seen by whoever [supervises](super::supervision) the network. What belongs to it:
//!
//! | place | what |
//! |---|---|
//! | `networks/UUID/description` in the runtime directory | what it offers, JSON |
//! | `networks/UUID/control` in the runtime directory | its socket |
//! | `networks/UUID/log` in the runtime directory | messages |
//! | `networks/UUID` in the state directory | leases |

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libvirt_xml::Uuid;
use network_services::Control;
use network_services::description::Description;

use super::description::DNS_PORT;
use super::{NetworkError, Served};
use crate::machine_process::{MachineProcess, ProcessIdentity};

/// How long a new process may take until it serves guests: it opens sockets and a database.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Time between two looks at whether a process that has just been started hears.
const LOOK: Duration = Duration::from_millis(5);

/// Where the processes' files are, and the program.
#[derive(Debug)]
pub(crate) struct Places {
    /// The program.
    pub(crate) program: PathBuf,
    /// Directory for what is gone with the host.
    pub(crate) runtime: PathBuf,
    /// Directory for leases.
    pub(crate) state: PathBuf,
}

fn failed(what: &Path, operation: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let text = format!("{}: cannot {operation}", what.display());
    move |error| NetworkError::Host(format!("{text}: {error}"))
}

fn make_directory(path: &Path) -> Result<(), NetworkError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path, "make the directory"))
}

async fn in_time<T, E: std::fmt::Display>(
    socket: &Path,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, NetworkError> {
    let place = socket.display();
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(|error| NetworkError::Host(error.to_string())),
        Err(_) => Err(NetworkError::Host(format!("{place}: no answer in {} s", ANSWER.as_secs()))),
    }
}

impl Places {
    fn of(&self, uuid: Uuid) -> PathBuf {
        self.runtime.join(uuid.to_string())
    }

    pub(super) fn socket(&self, uuid: Uuid) -> PathBuf {
        self.of(uuid).join("control")
    }

    /// Starts the process of a network and waits until it serves guests. On failure it is not left behind.
    pub(crate) async fn start(&self, uuid: Uuid, description: &Description) -> Result<Served, NetworkError> {
        let directory = self.of(uuid);
        let leases = self.state.join(uuid.to_string());
        make_directory(&directory)?;
        make_directory(&leases)?;
        self.describe(uuid, description)?;
        let socket = self.socket(uuid);
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&socket, "remove what was left")(error));
            }
            _ => {}
        }
        let path = directory.join("log");
        let log = File::create(&path).map_err(failed(&path, "make it"))?;
        let output = log.try_clone().map_err(failed(&path, "share it"))?;
        let mut child = Command::new(&self.program)
            .arg("network-services")
            .arg("--description")
            .arg(directory.join("description"))
            .arg("--state")
            .arg(&leases)
            .arg("--control")
            .arg(&socket)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            // Keys that end the daemon on a terminal are not for what outlives it.
            .process_group(0)
            .spawn()
            .map_err(failed(&self.program, "start it"))?;
        let (process, identity) = match self.watched(uuid, &child) {
            Ok(watched) => watched,
            Err(error) => {
                // It can't be watched, so it is nobody's: it goes, and is waited for, which takes no time then.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let heard = async {
            // The socket is there when guests are served.
            loop {
                if let Ok(mut control) = Control::connect(&socket).await
                    && let Ok(status) = control.status().await
                {
                    return status;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let why = tokio::select! {
            status = heard => {
                let dns_port = status.dns_port.filter(|port| *port != DNS_PORT);
                return Ok(Served { process: identity, dns_port });
            }
            _ = process.ended() => "ended at once",
            () = tokio::time::sleep(PATIENCE) => "does not answer",
        };
        let said = process.last_words();
        self.end(uuid, Some(&identity)).await?;
        Err(NetworkError::Host(format!("the process of its services {why}: {said}")))
    }

    /// A child of which nothing is known yet.
    fn watched(&self, uuid: Uuid, child: &Child) -> Result<(MachineProcess, ProcessIdentity), NetworkError> {
        let failed = |operation| failed(&self.program, operation);
        let pid = i32::try_from(child.id()).map_err(io::Error::other).map_err(failed("number it"))?;
        // It can't be gone from the process table: nobody has waited for it.
        let identity = ProcessIdentity::of(pid).map_err(failed("look at it"))?;
        let gone = || NetworkError::Host("the process of its services is gone".to_owned());
        let process = self.find(uuid, &identity)?.ok_or_else(gone)?;
        Ok((process, identity))
    }

    fn describe(&self, uuid: Uuid, description: &Description) -> Result<(), NetworkError> {
        let path = self.of(uuid).join("description");
        let text =
            serde_json::to_vec(description).map_err(|error| NetworkError::Broken(error.to_string()))?;
        let new = path.with_extension("new");
        std::fs::write(&new, text).map_err(failed(&new, "write it"))?;
        std::fs::rename(&new, &path).map_err(failed(&path, "replace it"))
    }

    /// The process, if it still runs.
    pub(crate) fn find(
        &self,
        uuid: Uuid,
        identity: &ProcessIdentity,
    ) -> Result<Option<MachineProcess>, NetworkError> {
        let directory = self.of(uuid);
        MachineProcess::find(&directory, identity.clone()).map_err(failed(&directory, "watch its process"))
    }

    /// Offers something else from now on.
    pub(crate) async fn change(&self, uuid: Uuid, description: &Description) -> Result<(), NetworkError> {
        let socket = self.socket(uuid);
        let told = async { Control::connect(&socket).await?.reload(description.clone()).await };
        in_time(&socket, told).await?;
        self.describe(uuid, description)
    }

    /// What guests have been given.
    pub(crate) async fn leases(&self, uuid: Uuid) -> Result<Vec<network_services::Lease>, NetworkError> {
        let socket = self.socket(uuid);
        in_time(&socket, async { Control::connect(&socket).await?.leases().await }).await
    }

    /// Ends the process, if there is one, and removes what it had; it is asked first. Leases stay.
    pub(crate) async fn end(
        &self,
        uuid: Uuid,
        identity: Option<&ProcessIdentity>,
    ) -> Result<(), NetworkError> {
        let directory = self.of(uuid);
        let process = identity.map(|identity| self.find(uuid, identity)).transpose()?.flatten();
        if let Some(process) = process {
            process.terminate().map_err(failed(&directory, "end its process"))?;
            if tokio::time::timeout(FAREWELL, process.ended()).await.is_err() {
                tracing::warn!("{}: the process of its services does not end: killed", directory.display());
                process.kill().map_err(failed(&directory, "end its process"))?;
                process.ended().await;
            }
        }
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(&directory, "remove it")(error))
            }
            _ => Ok(()),
        }
    }

    /// Ends processes of networks that nobody remembers to run: their daemon died before it could write them down.
    pub(crate) async fn end_others(&self, known: &[Uuid]) {
        let Ok(entries) = std::fs::read_dir(&self.runtime) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let uuid = name.to_str().and_then(|name| <Uuid as libvirt_xml::Value>::read(name).ok());
            let Some(uuid) = uuid.filter(|uuid| !known.contains(uuid)) else { continue };
            let socket = self.socket(uuid);
            let status = in_time(&socket, async { Control::connect(&socket).await?.status().await }).await;
            let pid = status.ok().and_then(|status| i32::try_from(status.pid).ok());
            let Some(identity) = pid.and_then(|pid| ProcessIdentity::of(pid).ok()) else {
                let _ = std::fs::remove_dir_all(entry.path());
                continue;
            };
            tracing::warn!("services of network {uuid}, which nobody remembers to run, are ended");
            if let Err(error) = self.end(uuid, Some(&identity)).await {
                tracing::warn!("services of network {uuid}: {error}");
            }
        }
    }

    /// Forgets what guests of a network had.
    pub(crate) fn forget(&self, uuid: Uuid) {
        let leases = self.state.join(uuid.to_string());
        match std::fs::remove_dir_all(&leases) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}: cannot remove it: {error}", leases.display());
            }
            _ => {}
        }
    }
}
