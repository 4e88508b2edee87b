//! The process of a network: from its description to its end.
//!
//! One thread for all sockets, one for the database. The daemon starts it and may go: it outlives the daemon, and ends with SIGTERM. Its control
//! socket is there when guests are served.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};

use crate::alarm::Alarm;
use crate::confinement::{self, ConfinementError};
use crate::control::{Answer, LONGEST, Lines, Request, write_line};
use crate::database::{self, DatabaseError, Opened};
use crate::description::Description;
use crate::lease::LeaseEvent;
use crate::plan::{DescriptionError, Plan};
use crate::service::Service;
use crate::sockets::{SocketError, Sockets};

/// Most connections of daemons at a time.
const CONNECTIONS: usize = 32;

/// What the process is told when it starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file with the description, JSON.
    pub description_path: PathBuf,
    /// The database of leases; made if need be. A lock beside it keeps a second process away.
    pub database_path: PathBuf,
    /// Where the daemon connects; made, for its owner only.
    pub control_socket: PathBuf,
}

/// Why the services of a network do not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host did not do what was asked of it.
    #[error("{path}: cannot {operation}: {source}", path = path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The description is none.
    #[error("{path}: no description of a network: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The description can't be.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// Another process serves the network.
    #[error("{path}: process {pid} serves this network already", path = path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// What that process wrote about itself.
        pid: String,
    },
    /// The leases can't be had.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Guests can't be heard.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The process has more rights than it should.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
}

/// Serves a network until SIGTERM or SIGINT; says `ready` on standard output when it does. Takes a process with one thread, which it confines for good.
pub fn serve(options: &Options) -> Result<(), ServeError> {
    let plan = read(&options.description_path)?.check()?;
    let _lock = lock(&options.database_path.with_extension("lock"))?;
    let opened = database::open(&options.database_path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(host(&options.control_socket, "start the runtime"))?;
    runtime.block_on(run(plan, opened, &options.control_socket))
}

fn host(path: &Path, operation: &'static str) -> impl Fn(io::Error) -> ServeError {
    let path = path.to_owned();
    move |source| ServeError::Host { path: path.clone(), operation, source }
}

fn read(path: &Path) -> Result<Description, ServeError> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(host(path, "open it"))?;
    file.take(LONGEST).read_to_end(&mut text).map_err(host(path, "read it"))?;
    serde_json::from_slice(&text).map_err(|source| ServeError::Unreadable { path: path.to_owned(), source })
}

/// Takes the network for this process; the lock goes with the file.
fn lock(path: &Path) -> Result<File, ServeError> {
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let mut file = opened.map_err(host(path, "open it"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&mut file).take(32).read_to_string(&mut pid);
            return Err(ServeError::Locked { path: path.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(host(path, "lock it")(error)),
    }
    let written = file.set_len(0).and_then(|()| file.rewind());
    written.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(host(path, "write it"))?;
    Ok(file)
}

async fn run(plan: Plan, opened: Opened, control: &Path) -> Result<(), ServeError> {
    let mut signals = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        signals.push(signal(kind).map_err(host(control, "wait for signals"))?);
    }
    let [terminate, interrupt] = &mut signals[..] else { unreachable!("two signals") };
    let sockets = Sockets::open(&plan)?;
    let owner = rustix::process::geteuid().as_raw();
    let listener = listen(control).map_err(host(control, "listen there"))?;
    confinement::confine()?;
    let mut opened = opened;
    let leases = std::mem::take(&mut opened.leases);
    let database = opened.start()?;
    tracing::info!("network {:?} is served", plan.description.name);
    let alarm = Alarm::new().map_err(host(control, "have a clock"))?;
    let (service, mut tasks) = Service::start(plan, &leases, sockets, database, alarm);
    tasks.spawn(accept(Arc::clone(&service), listener, owner));
    // Whoever started it may not listen.
    let _ = writeln!(io::stdout(), "ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    service.send_advertisement(true, None);
    // Ends all tasks; the database's writer ends after what was asked of it.
    tasks.shutdown().await;
    Ok(())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody else can connect in between either.
    let former = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(former);
    let listener = listener?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept(service: Arc<Service>, listener: UnixListener, owner: u32) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("control: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let trusted = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == owner);
        if !trusted {
            tracing::warn!("control: a connection of another user is refused");
            continue;
        }
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            if let Err(error) = converse(&service, stream).await {
                tracing::debug!("control: {error}");
            }
            drop(place);
        });
    }
}

async fn converse(service: &Service, stream: UnixStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = Lines::new(reader);
    while let Some(line) = lines.next().await? {
        let answer = match serde_json::from_slice(&line) {
            Ok(Request::Subscribe) => {
                let (leases, events) = service.subscribe();
                write_line(&mut writer, &Answer::Leases(leases)).await?;
                return tell(events, lines, writer).await;
            }
            Ok(Request::Status) => Answer::Status(service.status()),
            Ok(Request::Leases) => Answer::Leases(service.leases()),
            Ok(Request::Reload(description)) => match service.reload(*description) {
                Ok(()) => Answer::Done,
                Err(why) => Answer::Refused(why),
            },
            Ok(Request::Release(mac)) => match service.release(mac).await {
                Ok(leases) => Answer::Leases(leases),
                Err(why) => Answer::Refused(why),
            },
            Err(error) => Answer::Refused(format!("no request: {error}")),
        };
        write_line(&mut writer, &answer).await?;
    }
    Ok(())
}

/// Tells a subscriber what happens, until it hangs up or falls behind.
async fn tell(
    mut events: broadcast::Receiver<LeaseEvent>,
    mut lines: Lines,
    mut writer: OwnedWriteHalf,
) -> io::Result<()> {
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => write_line(&mut writer, &Answer::Changed(event)).await?,
                Err(RecvError::Lagged(_) | RecvError::Closed) => return Ok(()),
            },
            line = lines.next() => if line?.is_none() {
                return Ok(());
            },
        }
    }
}
