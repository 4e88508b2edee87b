//! Machines that run: one task a machine watches its process, obeys requests and says what becomes of it.
//!
//! What a machine does is known from what its process tells in its event file, and from the end of the process; nothing is
//! believed to have happened because it was asked for. A request that hangs delays other requests to the same machine and nothing
//! else, and forced stop goes past it: it ends the process.
//!
//! ```text
//!  start: document ─▶ plan ─▶ taps, process ─▶ written down ─▶ vm.create, vm.boot ─▶ watched
//!  watched: events ─▶ status;  end of the process ─▶ cleared away ─▶ off, started again, or forgotten
//! ```
//!
//! A machine is written down before it is told to boot, so a daemon that comes after finds each guest that may have run: by its
//! process, or by the events that the process has left. Processes that were never written down are ended.
//!
//! | module | what |
//! |---|---|
//! | this one | all machines, and what is asked of one |
//! | `jobs` | one change of a domain's life at a time |
//! | `balloon` | how much of its memory it has |
//! | `card` | what is changed of its network cards |
//! | `confine` | what it may use of the host |
//! | `network` | the interfaces that it has on the host |
//! | `start` | from a definition to a machine that is watched |
//! | `user_network` | passt for its user-mode cards |
//! | `watch` | the task: events, requests, the end |
//! | `record` | what the next daemon has to know, and how it finds machines |
//! | `present` | the document of a running machine |

mod balloon;
mod card;
mod confine;
mod jobs;
mod network;
mod present;
pub(crate) mod record;
mod start;
mod user_network;
mod watch;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, SystemTime};

use libvirt_xml::Uuid;
use libvirt_xml::domain::Domain as Definition;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch as watching};

use self::jobs::Jobs;
pub(crate) use self::present::Console;
pub(crate) use self::start::Start;
use self::watch::Request;
use super::machine::{Lifecycle, Places};
use super::{Domain, DomainError, Domains, PAUSED, Status};
use crate::console;
use crate::host_network::HostNetwork;
use crate::machine_process::confinement::{Confinement, Limits};
use crate::machine_process::{ControlClient, MachineProcess};
use crate::store::Store;

/// How long a process that is told to end may take before it is killed: it has nothing to do but to close its images.
const FAREWELL: Duration = Duration::from_secs(15);

/// Requests that wait for one machine; more than that many clients at once are told that it is busy.
const MOST_WAITING: usize = 64;

/// What happens to running domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// With the numbers of virDomainEventType and of the details of each.
    Lifecycle(i32, i32),
    /// The guest starts anew on the same machine.
    Reboot,
    /// The agent in the guest has come (or gone): somebody there has opened its channel.
    Agent(bool),
    /// The balloon leaves the guest so many KiB.
    Balloon(u64),
}

/// Whoever wants to hear of it.
pub(crate) type Listener = Box<dyn Fn(&Domain, Notice) + Send + Sync>;

/// Looks up what a document names on the host. Does not block for long.
pub(crate) type Finder = Box<dyn Fn(&Definition) -> Places + Send + Sync>;

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The program that runs a machine.
    pub(crate) program: PathBuf,
    /// A directory for each running machine, by UUID.
    pub(crate) machines: PathBuf,
    /// A directory with console logs for each domain, by UUID.
    pub(crate) consoles: PathBuf,
}

/// All running machines.
pub(crate) struct Machines {
    pub(crate) domains: Arc<Domains>,
    pub(crate) store: Arc<Store>,
    layout: Layout,
    limits: Limits,
    finder: Finder,
    listener: Listener,
    jobs: Jobs,
    network: HostNetwork,
    /// Virtual networks.
    networks: Arc<crate::network::Running>,
    next_id: AtomicI32,
}

impl fmt::Debug for Machines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machines").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// What was meant when a machine is ended, or told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intent {
    /// It ends, whatever the guest does.
    Destroy,
    /// It starts again when the guest has powered off.
    Restart,
}

/// A machine and its process. Dropping it leaves the process alone.
#[derive(Debug)]
pub(crate) struct Machine {
    process: MachineProcess,
    /// Interfaces of the host that were made for it, and are not gone with its process.
    interfaces: Vec<String>,
    lifecycle: Lifecycle,
    /// When it was started.
    started: SystemTime,
    /// How often in a row it has ended at once and was started again.
    restarts: u32,
    requests: mpsc::Sender<Request>,
    /// Whether it is over, and everybody could know.
    over: watching::Sender<bool>,
    intent: Mutex<Option<Intent>>,
    /// What it may use of the host.
    confinement: Confinement,
    /// Its threads are new, and are about to be confined.
    confining: AtomicBool,
}

impl Machine {
    /// Its process.
    pub(crate) fn process(&self) -> &MachineProcess {
        &self.process
    }

    /// A client of its process.
    pub(crate) fn control(&self) -> ControlClient {
        self.process.control()
    }

    /// Returns when it is over, and its domain shows it.
    pub(crate) async fn over(&self) {
        // The sender is in `self`.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Asks for something; the answer comes when it has been done, and the domain shows it.
    async fn ask(&self, name: &str, path: &'static str, outcome: watch::Outcome) -> Result<(), DomainError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { path, outcome, answer };
        let asked = self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DomainError::Busy(name.to_owned()),
            mpsc::error::TrySendError::Closed(_) => DomainError::not_running(),
        });
        asked?;
        match tokio::time::timeout(jobs::PATIENCE, answered).await {
            Ok(Ok(done)) => done,
            // The task has ended with the machine.
            Ok(Err(_)) => Err(DomainError::not_running()),
            Err(_) => Err(DomainError::Busy(name.to_owned())),
        }
    }

    /// Ends the process; `gently` leaves it the choice of when. Returns when it is over.
    async fn end(&self, gently: bool) -> Result<(), DomainError> {
        let failed =
            |error: io::Error| DomainError::Machine(format!("cannot end the machine's process: {error}"));
        self.process.terminate().map_err(failed)?;
        if tokio::time::timeout(FAREWELL, self.process.ended()).await.is_err() {
            if gently {
                let message =
                    "the machine's process does not end when it is asked to: destroy it without --graceful";
                return Err(DomainError::Machine(message.to_owned()));
            }
            self.process.kill().map_err(failed)?;
        }
        self.over().await;
        Ok(())
    }
}

impl Machines {
    /// No machines yet; `finder` looks up what they are made from, `listener` hears what becomes of them.
    pub(crate) fn new(
        domains: Arc<Domains>,
        store: Arc<Store>,
        layout: Layout,
        limits: Limits,
        finder: Finder,
        listener: Listener,
        networks: Arc<crate::network::Running>,
    ) -> Self {
        let (jobs, next_id) = (Jobs::default(), AtomicI32::new(1));
        let network = HostNetwork::default();
        Self { domains, store, layout, limits, finder, listener, jobs, network, networks, next_id }
    }

    fn tell(&self, domain: &Domain, notice: Notice) {
        (self.listener)(domain, notice);
    }

    fn places(&self, uuid: Uuid, document: &Definition) -> Places {
        let places = (self.finder)(document);
        let abilities = self.confining_abilities(places.abilities);
        let consoles = Some(console::log_directory(&self.layout.consoles, uuid));
        Places { channels: self.directory(uuid), consoles, abilities, ..places }
    }

    /// Removes what the consoles of a domain that is no more have shown. Blocks for a moment.
    pub(crate) fn forget_consoles(&self, uuid: Uuid) {
        let directory = console::log_directory(&self.layout.consoles, uuid);
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}: cannot remove it: {error}", directory.display());
            }
            _ => {}
        }
    }

    fn new_id(&self) -> i32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Stops the guest where it is.
    pub(crate) async fn suspend(&self, domain: &Domain) -> Result<(), DomainError> {
        let _job = self.jobs.begin(domain).await?;
        let live = domain.running()?;
        if self.status(domain)?.state == PAUSED {
            return Ok(());
        }
        live.machine.ask(domain.name(), "vm.pause", watch::Outcome::Paused).await
    }

    /// Lets the guest go on.
    pub(crate) async fn resume(&self, domain: &Domain) -> Result<(), DomainError> {
        let _job = self.jobs.begin(domain).await?;
        let live = domain.running()?;
        if self.status(domain)?.state != PAUSED {
            return Err(DomainError::Invalid("domain is already running".to_owned()));
        }
        live.machine.ask(domain.name(), "vm.resume", watch::Outcome::Running).await
    }

    /// Presses the power button; what follows is the guest's business.
    pub(crate) async fn press_power_button(&self, domain: &Domain) -> Result<(), DomainError> {
        let live = self.awake(domain, "be asked to shut down")?;
        self.forget_restart(domain);
        live.machine.ask(domain.name(), "vm.power-button", watch::Outcome::AnsweredOrOff).await
    }

    /// Whoever asked for a restart before is overruled: what the guest does next is what is meant.
    pub(crate) fn forget_restart(&self, domain: &Domain) {
        if let Some(live) = domain.live() {
            let mut intent = live.machine.intent.lock();
            *intent = intent.filter(|intent| *intent != Intent::Restart);
        }
    }

    /// Presses the power button, and starts the guest again when it has powered off.
    pub(crate) async fn reboot(&self, domain: &Domain) -> Result<(), DomainError> {
        let live = self.awake(domain, "be asked to reboot")?;
        let before = live.machine.intent.lock().replace(Intent::Restart);
        let asked = live.machine.ask(domain.name(), "vm.power-button", watch::Outcome::AnsweredOrOff).await;
        asked.inspect_err(|_| *live.machine.intent.lock() = before)
    }

    /// Resets the machine: the guest is not asked.
    pub(crate) async fn reset(&self, domain: &Domain) -> Result<(), DomainError> {
        let _job = self.jobs.begin(domain).await?;
        domain.running()?.machine.ask(domain.name(), "vm.reboot", watch::Outcome::Rebooted).await
    }

    /// Sends a non-maskable interrupt to every vCPU.
    pub(crate) async fn inject_nmi(&self, domain: &Domain) -> Result<(), DomainError> {
        self.awake(domain, "be interrupted")?
            .machine
            .ask(domain.name(), "vm.nmi", watch::Outcome::Answered)
            .await
    }

    /// Makes a disk of a running machine larger.
    pub(crate) async fn resize_disk(
        &self,
        domain: &Domain,
        disk: &str,
        bytes: u64,
    ) -> Result<(), DomainError> {
        let _job = self.jobs.begin(domain).await?;
        let control = domain.running()?.machine.control();
        let body = serde_json::json!({ "id": disk, "desired_size": bytes });
        let resized = control.put("vm.resize-disk", Some(&body)).await;
        resized.map(drop).map_err(|error| watch::control_error(&error))
    }

    /// Ends the machine at once: the guest is not asked. No request that is under way is waited for.
    pub(crate) async fn destroy(&self, domain: &Domain, gently: bool) -> Result<(), DomainError> {
        domain.running()?;
        // It may be started again at this very moment, by another process.
        while let Some(domain) = self.domains.by_uuid(domain.uuid()) {
            let Some(live) = domain.live() else { break };
            let before = live.machine.intent.lock().replace(Intent::Destroy);
            live.machine.end(gently).await.inspect_err(|_| *live.machine.intent.lock() = before)?;
        }
        Ok(())
    }

    /// What the domain does now.
    fn status(&self, domain: &Domain) -> Result<Status, DomainError> {
        let now = self.domains.by_uuid(domain.uuid()).ok_or(DomainError::NoSuchUuid(domain.uuid()))?;
        now.running().map(|live| live.status)
    }

    /// The machine of a domain that can hear.
    fn awake<'a>(&self, domain: &'a Domain, what: &str) -> Result<&'a super::Live, DomainError> {
        let live = domain.running()?;
        if self.status(domain)?.state == PAUSED {
            return Err(DomainError::Invalid(format!(
                "domain is not running: it is paused and can't {what}: resume it first"
            )));
        }
        Ok(live)
    }

    /// Starts a domain; goes on even if nobody waits for it any more.
    pub(crate) async fn start(self: &Arc<Self>, start: Start) -> Result<Arc<Domain>, DomainError> {
        let machines = Arc::clone(self);
        let started = tokio::spawn(async move {
            let _job = machines.jobs.begin(&start.domain).await?;
            start::start(&machines, start).await
        });
        started.await.unwrap_or_else(|error| Err(DomainError::Broken(format!("starting ended: {error}"))))
    }
}
