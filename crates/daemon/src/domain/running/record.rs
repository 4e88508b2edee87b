//! What the next daemon has to know of running machines, and how it finds them.

use std::collections::HashSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use libvirt_xml::Uuid;
use libvirt_xml::domain::Domain as Definition;
use parking_lot::Mutex;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch as watching};

use super::watch::{Farewell, Verdict, Watch, verdict};
use super::{Console, Lifecycle, MOST_WAITING, Machine, Machines, Start};
use crate::domain::machine::lifecycle;
use crate::domain::{Document, DomainError, Form, Live, Status};
use crate::machine_process::{Ending, EventTail, MachineEvent, MachineProcess, ProcessIdentity};
use crate::network::Port;

/// A running machine as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct LiveRecord {
    id: i32,
    state: u8,
    reason: i32,
    document: String,
    process: ProcessIdentity,
    #[serde(default)]
    consoles: Vec<Console>,
    /// KiB.
    #[serde(default)]
    ballooned: u64,
    /// Seconds since 1970.
    started: u64,
}

/// What is written down of a running machine.
pub(in crate::domain) fn text(live: &Live) -> String {
    let machine = &live.machine;
    let started = machine.started.duration_since(SystemTime::UNIX_EPOCH);
    let record = LiveRecord {
        id: live.id,
        state: live.status.state,
        reason: live.status.reason,
        document: live.document.text.to_string(),
        process: machine.process.identity().clone(),
        consoles: live.consoles.to_vec(),
        ballooned: live.ballooned,
        started: started.map_or(0, |started| started.as_secs()),
    };
    // Names, numbers and texts always have a form in JSON.
    serde_json::to_string(&record).unwrap_or_default()
}

impl Machines {
    /// The directory of a domain's machine.
    pub(super) fn directory(&self, uuid: Uuid) -> PathBuf {
        self.layout.machines.join(uuid.to_string())
    }

    /// Finds the machines that the store remembers, clears away those that have ended, and ends processes that nobody remembers.
    /// To be called before anybody asks, on a runtime. Blocks.
    ///
    /// # Errors
    /// The host does not say whether a machine runs. Nothing has become of it, and the next daemon may ask again.
    pub(crate) fn find(self: &Arc<Self>, lives: Vec<(Uuid, String)>) -> Result<(), DomainError> {
        let machines = &self.layout.machines;
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(machines) {
            tracing::error!("{}: cannot make the directory of machines: {error}", machines.display());
        }
        let known: HashSet<String> = lives.iter().map(|(uuid, _)| uuid.to_string()).collect();
        let mut left = self.left_interfaces();
        for (uuid, text) in lives {
            let interfaces = left.remove(&uuid.to_string()).unwrap_or_default();
            match self.adopt(uuid, &text, &interfaces) {
                Ok(()) => {}
                Err(error @ DomainError::Host(_)) => return Err(error),
                Err(error) => {
                    tracing::error!(
                        "domain {uuid} is remembered as running, and can't be found again: {error}"
                    );
                    // Nobody could do anything with it, and its disks must not get a second user.
                    end_unknown(&self.directory(uuid));
                    self.lost(uuid, None, interfaces);
                }
            }
        }
        self.remove_interfaces(left);
        let Ok(entries) = std::fs::read_dir(&self.layout.machines) else { return Ok(()) };
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                end_orphan(&entry.path());
                entry.file_name().to_str().inspect(|name| self.limits.forget(name));
            }
        }
        Ok(())
    }

    /// Takes over a machine that a daemon before this one has started. A process that runs is kept, whatever is not as it should be
    /// around it. Errors: nothing is known of it, or ([`DomainError::Host`]) the host does not say whether it runs.
    fn adopt(self: &Arc<Self>, uuid: Uuid, text: &str, interfaces: &[String]) -> Result<(), DomainError> {
        let broken = |reason: String| DomainError::Broken(reason);
        let record: LiveRecord = serde_json::from_str(text).map_err(|error| broken(error.to_string()))?;
        self.next_id.fetch_max(record.id.saturating_add(1), Ordering::Relaxed);
        let definition = Definition::parse(&record.document).inspect_err(|error| {
            tracing::error!("the document of the running domain {uuid} can't be read: {error}");
        });
        let definition = definition.ok();
        let domain = self.domains.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        let directory = self.directory(uuid);
        let found = MachineProcess::find(&directory, record.process.clone());
        let unknown = |error| DomainError::Host(format!("whether domain {uuid} runs is not known: {error}"));
        let Some(process) = found.map_err(unknown)? else {
            let left = definition.as_ref().map(|definition| (definition, &*directory));
            self.lost(uuid, left, interfaces.to_vec());
            return Ok(());
        };
        let (ask, requests) = mpsc::channel(MOST_WAITING);
        let confinement = self.limits.reopen(&uuid.to_string(), process.identity().pid);
        let machine = Arc::new(Machine {
            process,
            interfaces: interfaces.to_vec(),
            lifecycle: definition.as_ref().map_or(Lifecycle::default(), lifecycle),
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(record.started),
            restarts: 0,
            requests: ask,
            over: watching::Sender::new(false),
            intent: Mutex::new(None),
            confinement,
            confining: AtomicBool::new(false),
        });
        if let Some(definition) = &definition {
            self.networks.found(Port::all_of(uuid, domain.name(), definition));
        }
        let status = Status { state: record.state, reason: record.reason };
        let document = Document::remembered(record.document);
        let live = domain.with_live(record.id, status, document, &machine).with_consoles(record.consoles);
        let live = live.with_ballooned(record.ballooned);
        self.domains.change(&self.store, uuid, |_| Ok(Some(live)))?;
        let mut watch = Watch::found(self, uuid, Arc::clone(&machine), requests);
        let starting = status == super::start::STARTING_UP;
        if !watch.catch_up() && starting && watch.sees() {
            // Nobody was told that it runs, and its guest has not begun.
            if let Err(error) = machine.process.kill() {
                tracing::error!("domain {uuid} was about to start, and can't be ended: {error}");
            }
        }
        // Its guest may have rebooted while nobody looked.
        self.confine_again(uuid, &machine);
        watch.spawn();
        Ok(())
    }

    /// A machine that ended while no daemon looked; `interfaces` are still on the host.
    fn lost(self: &Arc<Self>, uuid: Uuid, left: Option<(&Definition, &Path)>, interfaces: Vec<String>) {
        let last = left.and_then(|(_, directory)| last_event(directory));
        let lifecycle = left.map_or(Lifecycle::default(), |(definition, _)| lifecycle(definition));
        let again =
            last.is_some() && verdict(&lifecycle, None, last.as_ref(), Ending::Unknown) == Verdict::Again;
        // Everything about it is gone with the host's last start.
        let unknown = Farewell { reason: 0, before: None, stopped: 0 };
        let gone = left.is_none_or(|(_, directory)| !directory.exists());
        let farewell = match verdict(&lifecycle, None, last.as_ref(), Ending::Unknown) {
            Verdict::Off(_) if gone => unknown,
            Verdict::Off(farewell) => farewell,
            Verdict::Again => Farewell { reason: 1, before: None, stopped: 0 },
        };
        let definition = left.map(|(definition, _)| definition.clone().without_live_details());
        let machines = Arc::clone(self);
        tokio::spawn(async move {
            machines.forget(uuid, &interfaces).await;
            let domain = machines.domains.by_uuid(uuid);
            machines.switch_off(uuid, farewell).await;
            let (Some(domain), Some(definition), true) = (domain, definition, again) else { return };
            let name = domain.name().to_owned();
            if let Err(error) = machines.start(Start { domain, definition, paused: false }).await {
                tracing::error!("domain '{name}' can't be started again: {error}");
            }
        });
    }

    /// Starts the domains that start with the daemon, once after each start of the host.
    pub(crate) async fn start_marked(self: Arc<Self>) {
        let marker = self.layout.machines.join("autostarted");
        match std::fs::File::create_new(&marker) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return,
            Err(error) => tracing::warn!("{}: cannot make it: {error}", marker.display()),
        }
        for domain in self.domains.all() {
            if !domain.autostart() || domain.is_active() {
                continue;
            }
            let started = match domain.definition(Form::Defined) {
                Ok(definition) => {
                    let domain = Arc::clone(&domain);
                    self.start(Start { domain, definition, paused: false }).await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                tracing::error!("domain '{}' does not start with the daemon: {error}", domain.name());
            }
        }
    }
}

/// What a machine said last of its end.
fn last_event(directory: &Path) -> Option<MachineEvent> {
    let mut events = EventTail::of_machine(directory).ok()?;
    let mut last = None;
    while let Ok(Some(event)) = events.available() {
        if matches!(event, MachineEvent::Shutdown(_) | MachineEvent::Crashed { .. }) {
            last = Some(event);
        }
    }
    last
}

/// Ends the process in a directory that nobody remembers: its machine was never told to boot.
fn end_orphan(directory: &Path) {
    if directory.is_dir() {
        end_unknown(directory);
        let _ = std::fs::remove_dir_all(directory);
    }
}

/// Ends the process that serves a directory's socket, if there is one.
fn end_unknown(directory: &Path) {
    if let Ok(socket) = UnixStream::connect(directory.join("api"))
        && let Ok(peer) = rustix::net::sockopt::socket_peercred(&socket)
        && let Ok(process) = pidfd_open(peer.pid, PidfdFlags::empty())
    {
        tracing::warn!("{}: a machine's process that nobody remembers is ended", directory.display());
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}
