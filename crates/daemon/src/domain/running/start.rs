//! From a definition to a machine that is watched. What fails on the way is undone: no process, no interface, no trace but the
//! error.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use libvirt_xml::Uuid;
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::assign;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::network::Connections;
use super::watch::{FAILED, Request, STOPPED, STOPPED_FAILED, Watch};
use super::{MOST_WAITING, Machine, Machines, Notice, present};
use crate::console;
use crate::domain::machine::{MachinePlan, machine};
use crate::domain::{Document, Domain, DomainError, PAUSED, RUNNING, Status};
use crate::machine_process::{ControlError, MachineProcess, launch};

/// VIR_DOMAIN_PAUSED_STARTING_UP.
pub(super) const STARTING_UP: Status = Status { state: PAUSED, reason: 11 };
/// VIR_DOMAIN_RUNNING_BOOTED.
const BOOTED: Status = Status { state: RUNNING, reason: 1 };
/// VIR_DOMAIN_PAUSED_USER.
const BOOTED_PAUSED: Status = Status { state: PAUSED, reason: 1 };

/// A domain that is to run.
#[derive(Debug)]
pub(crate) struct Start {
    /// The domain; one that nobody knows yet is forgotten when its machine ends.
    pub(crate) domain: Arc<Domain>,
    /// What the machine is made from.
    pub(crate) definition: Definition,
    /// Whether the guest waits before its first instruction.
    pub(crate) paused: bool,
}

/// Starts a domain; nobody else changes its life meanwhile.
pub(super) async fn start(machines: &Arc<Machines>, start: Start) -> Result<Arc<Domain>, DomainError> {
    machines.domains.startable(&start.domain)?;
    let paused = start.paused;
    let domain = bring_up(machines, start, machines.new_id(), 0).await?;
    if !paused {
        machines.tell(&domain, Notice::Lifecycle(4, 0));
    }
    machines.tell(&domain, Notice::Lifecycle(2, 0));
    if paused {
        machines.tell(&domain, Notice::Lifecycle(3, 0));
    }
    Ok(domain)
}

/// A process for a machine that has ended by itself and is to go on, in place of its former one.
pub(super) async fn again(
    machines: &Arc<Machines>,
    domain: Arc<Domain>,
    restarts: u32,
) -> Result<Arc<Domain>, DomainError> {
    let live = domain.running()?;
    let (id, definition) = (live.id, domain.definition(crate::domain::Form::Live)?);
    bring_up(machines, Start { domain, definition, paused: false }, id, restarts).await
}

/// A machine on its way up.
struct Ascent {
    machine: Arc<Machine>,
    plan: MachinePlan,
    document: Definition,
    requests: mpsc::Receiver<Request>,
}

async fn bring_up(
    machines: &Arc<Machines>,
    start: Start,
    id: i32,
    restarts: u32,
) -> Result<Arc<Domain>, DomainError> {
    let Start { domain, definition, paused } = start;
    let Ascent { machine, plan, mut document, requests } =
        prepare(machines, &domain, definition, id, restarts).await?;
    let watch = match Watch::new(machines, domain.uuid(), Arc::clone(&machine), requests) {
        Ok(watch) => watch,
        Err(error) => {
            clear_away(machines, domain.uuid(), &machine).await;
            return Err(error);
        }
    };
    // From here on the machine may be seen, and the next daemon finds it.
    let starting = |domain: &Domain| domain.with_live(id, STARTING_UP, Document::of(&document), &machine);
    let change = if domain.is_active() {
        machines.domains.change(&machines.store, domain.uuid(), |before| Ok(Some(starting(before))))
    } else {
        machines.domains.start(&machines.store, &domain, starting)
    };
    let change = match change {
        Ok(change) => change,
        Err(error) => {
            clear_away(machines, domain.uuid(), &machine).await;
            return Err(error);
        }
    };
    let up = async {
        machines.domains.settle(change).await?;
        let info = boot(&machine, &plan, paused).await?;
        let consoles = present::consoles(&plan, &info);
        present::complete(&mut document, &consoles);
        let status = if paused { BOOTED_PAUSED } else { BOOTED };
        let change = machines.domains.change(&machines.store, domain.uuid(), |before| {
            let live = before.running()?;
            let after = before.with_live(live.id, status, Document::of(&document), &live.machine);
            Ok(Some(after.with_consoles(consoles)))
        })?;
        let (_, after) = machines.domains.settle(change).await?;
        after.ok_or_else(|| DomainError::Broken("a started domain is gone".to_owned()))
    };
    match up.await {
        Ok(domain) => {
            watch.spawn();
            Ok(domain)
        }
        Err(error) => {
            give_up(machines, &domain, &machine).await;
            Err(error)
        }
    }
}

/// Plans the machine and starts its process, which knows nothing of it yet.
async fn prepare(
    machines: &Arc<Machines>,
    domain: &Domain,
    mut document: Definition,
    id: i32,
    restarts: u32,
) -> Result<Ascent, DomainError> {
    assign::start(&mut document, id);
    machines.networks.begun().await;
    machines.complete_cards(&mut document)?;
    // Volumes may lie on disks that are slow.
    let (uuid, looking) = (domain.uuid(), Arc::clone(machines));
    let looked = tokio::task::spawn_blocking(move || (looking.places(uuid, &document), document));
    let looked =
        looked.await.map_err(|error| DomainError::Broken(format!("looking for volumes ended: {error}")));
    let (places, mut document) = looked?;
    let mut plan =
        machine(&document, &places).map_err(|refusal| DomainError::Unsupported(refusal.to_string()))?;
    if plan.consoles.iter().any(|console| console.place.log(&plan.config).is_some()) {
        let directory = console::log_directory(&machines.layout.consoles, uuid);
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| DomainError::Host(format!("cannot make '{}': {error}", directory.display())))?;
    }
    // A machine that goes on in another process adds to its logs.
    if !domain.is_active() {
        empty_logs(&plan).await?;
    }
    let directory = machines.directory(uuid);
    let Connections { lasting, descriptors } = machines.connect(domain, &mut plan, &mut document).await?;
    let confinement = match machines.prepare_confinement(uuid, &plan.host).await {
        Ok(confinement) => confinement,
        Err(error) => {
            machines.forget(uuid, &lasting).await;
            return Err(error);
        }
    };
    let process = match launch(&machines.layout.program, &directory, descriptors).await {
        Ok(process) => process,
        Err(error) => {
            machines.forget(uuid, &lasting).await;
            return Err(DomainError::Machine(error.to_string()));
        }
    };
    let (ask, requests) = mpsc::channel(MOST_WAITING);
    let machine = Machine {
        process,
        interfaces: lasting,
        lifecycle: plan.lifecycle,
        started: SystemTime::now(),
        restarts,
        requests: ask,
        over: watch::Sender::new(false),
        intent: Mutex::new(None),
        confinement,
        confining: AtomicBool::new(false),
    };
    if let Err(error) = machine.confine(&plan.host).await {
        clear_away(machines, uuid, &machine).await;
        return Err(error);
    }
    Ok(Ascent { machine: Arc::new(machine), plan, document, requests })
}

/// Empties the logs whose devices want it at each start.
async fn empty_logs(plan: &MachinePlan) -> Result<(), DomainError> {
    let anew = plan.consoles.iter().filter(|console| console.log_anew);
    let logs: Vec<PathBuf> =
        anew.filter_map(|console| console.place.log(&plan.config).map(Path::to_owned)).collect();
    let emptied =
        tokio::task::spawn_blocking(move || logs.iter().try_for_each(|log| console::empty_log(log)));
    let emptied =
        emptied.await.map_err(|error| DomainError::Broken(format!("emptying logs ended: {error}")))?;
    emptied.map_err(|error| DomainError::Host(error.to_string()))
}

/// Gives the process its machine, and returns what it says of it once the guest runs or waits.
async fn boot(machine: &Machine, plan: &MachinePlan, paused: bool) -> Result<Value, DomainError> {
    let failed = |error: ControlError| DomainError::Machine(error.to_string());
    let control = machine.control();
    let booting = async {
        let config = serde_json::to_value(&plan.config)
            .map_err(|error| DomainError::Broken(format!("a machine that can't be described: {error}")))?;
        control.put("vm.create", Some(&config)).await.map_err(failed)?;
        control.put(if paused { "vm.boot-paused" } else { "vm.boot" }, None).await.map_err(failed)?;
        machine.confine_threads(plan.config.cpus.boot_vcpus, &plan.host).await?;
        control.get("vm.info").await.map_err(failed)
    };
    tokio::select! {
        biased;
        booted = booting => booted,
        ending = machine.process.ended() => Err(ended(&machine.process, &format!("{ending:?}"))),
    }
}

/// What is said of a process that ended before its machine ran.
fn ended(process: &MachineProcess, how: &str) -> DomainError {
    let said = process.last_words();
    DomainError::Machine(format!("the machine's process ended while it started ({how}): {said}"))
}

/// Takes back a start that has been seen.
async fn give_up(machines: &Machines, domain: &Domain, machine: &Arc<Machine>) {
    clear_away(machines, domain.uuid(), machine).await;
    let change =
        machines.domains.change(&machines.store, domain.uuid(), |before| Ok(before.without_live(FAILED)));
    match change {
        Ok(change) => {
            if let Err(error) = machines.domains.settle(change).await {
                tracing::error!(
                    "domain '{}' did not start, and that can't be written down: {error}",
                    domain.name()
                );
            }
        }
        Err(error) => tracing::error!("domain '{}' did not start: {error}", domain.name()),
    }
    machines.tell(domain, Notice::Lifecycle(STOPPED, STOPPED_FAILED));
    machine.over.send_replace(true);
}

/// Ends a process whatever it does, and removes what was made for it.
async fn clear_away(machines: &Machines, uuid: Uuid, machine: &Machine) {
    if let Err(error) = machine.process.kill() {
        tracing::error!("a machine's process that did not start can't be ended: {error}");
        return;
    }
    machine.process.ended().await;
    machines.forget(uuid, &machine.interfaces).await;
}

impl Machines {
    /// Removes what a machine that is gone has left on the host.
    pub(super) async fn forget(&self, uuid: Uuid, interfaces: &[String]) {
        // Nobody can send any more, and the names of its interfaces may be another's as soon as they are gone.
        self.networks.detach(uuid).await;
        let directory = self.directory(uuid);
        self.network.remove(&directory, interfaces).await;
        let limits = self.limits.clone();
        let removed = tokio::task::spawn_blocking(move || {
            // Its group has the same name.
            if let Some(name) = directory.file_name().and_then(|name| name.to_str()) {
                limits.forget(name);
            }
            match std::fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!("{}: cannot remove it: {error}", directory.display());
                }
                _ => {}
            }
        });
        // It logs by itself; the next machine removes what is left.
        let _ = removed.await;
    }
}
