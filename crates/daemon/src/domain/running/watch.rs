//! The task of a running machine: events become states, requests are passed on, and the end is the end.

use std::sync::Arc;
use std::time::Duration;

use libvirt_xml::Uuid;
use libvirt_xml::domain::{CrashAction, LifecycleAction};
use tokio::sync::{mpsc, oneshot};

use super::present::{self, is_channel_open};
use super::{Intent, Machine, Machines, Notice, start};
use crate::domain::{Domain, DomainError, Form, PAUSED, RUNNING, Status};
use crate::guest_agent::CHANNEL;
use crate::machine_process::{Cause, ControlError, Ending, EventTail, MachineEvent};

/// VIR_DOMAIN_EVENT_SUSPENDED and _RESUMED; nothing more is said of why.
const SUSPENDED: i32 = 3;
const RESUMED: i32 = 4;
/// VIR_DOMAIN_EVENT_STOPPED.
pub(super) const STOPPED: i32 = 5;
/// VIR_DOMAIN_EVENT_STOPPED_FAILED.
pub(super) const STOPPED_FAILED: i32 = 5;
/// VIR_DOMAIN_EVENT_SHUTDOWN, and who wanted it.
const SHUTDOWN: i32 = 6;
const BY_GUEST: i32 = 1;
const BY_HOST: i32 = 2;
/// VIR_DOMAIN_EVENT_CRASHED.
const CRASHED: i32 = 8;
/// VIR_DOMAIN_SHUTOFF_FAILED.
pub(super) const FAILED: i32 = 6;

/// How long an event may take that follows an answer. It is written before the answer.
const EVENT_PATIENCE: Duration = Duration::from_secs(10);

/// How long after a failed attempt a machine's events are opened again.
const ANOTHER_TRY: Duration = Duration::from_secs(1);

/// A machine that ends sooner after its start than this has not come up.
const SHORT_LIFE: Duration = Duration::from_secs(2);

/// Short lives in a row after which a machine is not started again.
const MOST_SHORT_LIVES: u32 = 5;

/// What shows that a request has been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The answer.
    Answered,
    /// The answer, or that the guest has powered off before it came.
    AnsweredOrOff,
    /// The guest stands still.
    Paused,
    /// It runs.
    Running,
    /// It starts anew.
    Rebooted,
}

impl Outcome {
    /// What is answered when the machine has ended meanwhile.
    fn after_the_end(self) -> Result<(), DomainError> {
        if self == Self::AnsweredOrOff { Ok(()) } else { Err(DomainError::not_running()) }
    }

    fn shows(self, event: &MachineEvent) -> bool {
        match self {
            Self::Answered | Self::AnsweredOrOff => true,
            Self::Paused => *event == MachineEvent::Paused,
            Self::Running => *event == MachineEvent::Resumed,
            Self::Rebooted => matches!(event, MachineEvent::Rebooted(_)),
        }
    }
}

/// Something that is asked of a machine.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) path: &'static str,
    pub(super) outcome: Outcome,
    pub(super) answer: oneshot::Sender<Result<(), DomainError>>,
}

/// Why a machine is not there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Farewell {
    /// virDomainShutoffReason.
    pub(super) reason: i32,
    /// Event and detail before the last one, if any.
    pub(super) before: Option<(i32, i32)>,
    /// Detail of the last event, virDomainEventStoppedDetailType.
    pub(super) stopped: i32,
}

/// What follows the end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Off(Farewell),
    Again,
}

/// What follows from how a process ended, from the last that it said, and from what was meant.
pub(super) fn verdict(
    machine: &super::Lifecycle,
    intent: Option<Intent>,
    last: Option<&MachineEvent>,
    ending: Ending,
) -> Verdict {
    let crashed = Farewell { reason: 3, before: None, stopped: STOPPED_FAILED };
    match (intent, last, ending) {
        (Some(Intent::Destroy), ..) => {
            Verdict::Off(Farewell { reason: 2, before: Some((SHUTDOWN, BY_HOST)), stopped: 1 })
        }
        (intent, Some(MachineEvent::Shutdown(Cause::Guest)), _) => {
            if intent == Some(Intent::Restart) || machine.poweroff == LifecycleAction::Restart {
                return Verdict::Again;
            }
            Verdict::Off(Farewell { reason: 1, before: Some((SHUTDOWN, BY_GUEST)), stopped: 0 })
        }
        (_, Some(MachineEvent::Shutdown(_)), _) => {
            Verdict::Off(Farewell { reason: 1, before: Some((SHUTDOWN, BY_HOST)), stopped: 0 })
        }
        (_, Some(MachineEvent::Crashed { .. }), _) => match machine.crash {
            CrashAction::Restart => Verdict::Again,
            _ => Verdict::Off(Farewell { reason: 3, before: Some((CRASHED, 0)), stopped: 2 }),
        },
        // It said nothing: somebody has killed it, or it has a fault.
        (_, _, Ending::Exited(_) | Ending::Killed(_) | Ending::Unknown) => Verdict::Off(crashed),
    }
}

/// A machine's events. A machine whose events can't be read runs all the same: they are opened again and again.
struct Events {
    uuid: Uuid,
    tail: Option<EventTail>,
}

impl Events {
    /// The next event; `None`: they have been opened anew, and begin with the first that their file has. Nothing is lost when the
    /// waiting is given up.
    async fn next(&mut self, machine: &Machine) -> Option<MachineEvent> {
        loop {
            let Some(tail) = &mut self.tail else {
                tokio::time::sleep(ANOTHER_TRY).await;
                self.tail = machine.process.events().ok();
                if self.tail.is_some() {
                    return None;
                }
                continue;
            };
            match tail.next().await {
                Ok(event) => return Some(event),
                Err(error) => {
                    tracing::error!("domain {}: the machine's events can't be read: {error}", self.uuid);
                    self.tail = None;
                }
            }
        }
    }

    fn available(&mut self) -> Option<MachineEvent> {
        self.tail.as_mut()?.available().ok()?
    }
}

/// The task's state.
pub(super) struct Watch {
    machines: Arc<Machines>,
    uuid: Uuid,
    machine: Arc<Machine>,
    events: Events,
    requests: mpsc::Receiver<Request>,
    /// The last word on how it ends.
    last: Option<MachineEvent>,
}

impl Watch {
    pub(super) fn new(
        machines: &Arc<Machines>,
        uuid: Uuid,
        machine: Arc<Machine>,
        requests: mpsc::Receiver<Request>,
    ) -> Result<Self, DomainError> {
        let tail = machine.process.events();
        let tail = tail.map_err(|error| DomainError::Machine(format!("the machine's events: {error}")))?;
        let events = Events { uuid, tail: Some(tail) };
        Ok(Self { machines: Arc::clone(machines), uuid, machine, events, requests, last: None })
    }

    /// For a machine that runs already, which is not left alone because its events can't be read now.
    pub(super) fn found(
        machines: &Arc<Machines>,
        uuid: Uuid,
        machine: Arc<Machine>,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let tail = machine.process.events().inspect_err(|error| {
            tracing::error!("domain {uuid} runs, but its machine's events can't be read yet: {error}");
        });
        let events = Events { uuid, tail: tail.ok() };
        Self { machines: Arc::clone(machines), uuid, machine, events, requests, last: None }
    }

    /// Whether its events can be read.
    pub(super) fn sees(&self) -> bool {
        self.events.tail.is_some()
    }

    /// Takes what has been told so far, without telling anybody; whether the machine has ever been built.
    pub(super) fn catch_up(&mut self) -> bool {
        let mut built = false;
        while let Some(event) = self.events.available() {
            if let Some((status, _)) = status_after(&event) {
                built = true;
                self.set(status);
            }
            self.show_channels(&event);
            if let Some(ballooned) = ballooned_after(&event) {
                self.set_ballooned(ballooned);
            }
            self.remember(event);
        }
        built
    }

    pub(super) fn spawn(self) {
        tokio::spawn(self.run());
    }

    async fn run(mut self) {
        let ending = loop {
            tokio::select! {
                biased;
                ending = self.machine.process.ended() => break ending,
                event = self.events.next(&self.machine) => match event {
                    Some(event) => self.note(event),
                    None => {
                        self.catch_up();
                    }
                },
                Some(request) = self.requests.recv() => {
                    if let Some(ending) = self.perform(request).await {
                        break ending;
                    }
                }
            }
        };
        self.finish(ending).await;
    }

    /// Passes a request on; an ending if the machine ends meanwhile.
    async fn perform(&mut self, request: Request) -> Option<Ending> {
        let Request { path, outcome, answer } = request;
        if answer.is_closed() {
            // Whoever asked has lost patience; doing it now would surprise them.
            return None;
        }
        let control = self.machine.control();
        let asked = tokio::select! {
            biased;
            asked = control.put(path, None) => asked,
            ending = self.machine.process.ended() => {
                let _ = answer.send(outcome.after_the_end());
                return Some(ending);
            }
        };
        let (result, ending) = match asked {
            Ok(_) => self.until(outcome).await,
            // The connection of a process that ends breaks a moment before its end is seen.
            Err(error @ ControlError::Gone { .. }) => {
                match tokio::time::timeout(EVENT_PATIENCE, self.machine.process.ended()).await {
                    Ok(ending) => (outcome.after_the_end(), Some(ending)),
                    Err(_) => (Err(control_error(&error)), None),
                }
            }
            Err(error) => (Err(control_error(&error)), None),
        };
        let _ = answer.send(result);
        ending
    }

    async fn until(&mut self, outcome: Outcome) -> (Result<(), DomainError>, Option<Ending>) {
        if matches!(outcome, Outcome::Answered | Outcome::AnsweredOrOff) {
            return (Ok(()), None);
        }
        let deadline = tokio::time::Instant::now() + EVENT_PATIENCE;
        loop {
            let event = tokio::select! {
                biased;
                event = tokio::time::timeout_at(deadline, self.events.next(&self.machine)) => event,
                ending = self.machine.process.ended() => {
                    return (Err(DomainError::not_running()), Some(ending));
                }
            };
            let event = match event {
                Ok(Some(event)) => event,
                Ok(None) => {
                    self.catch_up();
                    continue;
                }
                Err(_) => {
                    let message = "the machine has answered, but did not tell that it was done";
                    return (Err(DomainError::Machine(message.to_owned())), None);
                }
            };
            let done = outcome.shows(&event);
            self.note(event);
            if done {
                return (Ok(()), None);
            }
        }
    }

    fn remember(&mut self, event: MachineEvent) {
        if matches!(event, MachineEvent::Shutdown(_) | MachineEvent::Crashed { .. }) {
            self.last = Some(event);
        }
    }

    fn note(&mut self, event: MachineEvent) {
        if matches!(event, MachineEvent::Rebooted(_)) {
            self.machines.confine_again(self.uuid, &self.machine);
        }
        if let Some((domain, connected)) = self.show_channels(&event) {
            self.machines.tell(&domain, Notice::Agent(connected));
        }
        if let Some((status, notice)) = status_after(&event) {
            let (before, after) = self.set(status);
            let changed = before != Some(status.state);
            if let (Some(domain), Some(notice)) = (after, notice)
                && (changed || notice == Notice::Reboot)
            {
                self.machines.tell(&domain, notice);
            }
        }
        if let Some(ballooned) = ballooned_after(&event)
            && let Some((domain, current)) = self.set_ballooned(ballooned)
        {
            self.machines.tell(&domain, Notice::Balloon(current));
        }
        self.remember(event);
    }

    /// Shows which channels the guest has open; the domain, and whether its agent is there, when that is another than before.
    fn show_channels(&self, event: &MachineEvent) -> Option<(Arc<Domain>, bool)> {
        let open: &[String] = match event {
            MachineEvent::Channels(open) => open,
            MachineEvent::Rebooted(_) => &[],
            _ => return None,
        };
        let mut agent = (false, false);
        let change = self.machines.domains.change(&self.machines.store, self.uuid, |before| {
            let present = before.definition(Form::Live)?;
            let mut after = present.clone();
            present::set_channels(&mut after, open);
            agent = (is_channel_open(&present, CHANNEL), is_channel_open(&after, CHANNEL));
            Ok(Some(if after == present { before.clone() } else { before.with_live_document(&after) }))
        });
        let (before, now) = agent;
        change.ok()?.after.filter(|_| before != now).map(|domain| (domain, now))
    }

    /// Shows how much the guest has in its balloon, KiB; the domain and its current memory if that is new.
    fn set_ballooned(&self, ballooned: u64) -> Option<(Arc<Domain>, u64)> {
        let domains = &self.machines.domains;
        if domains.by_uuid(self.uuid)?.live()?.ballooned == ballooned {
            return None;
        }
        // As the state is: the next daemon reads it from the events.
        let change = |before: &Domain| Ok(Some(before.with_ballooned(ballooned)));
        let domain = domains.change(&self.machines.store, self.uuid, change).ok()?.after?;
        let current = domain.current_memory().ok()?;
        Some((domain, current))
    }

    /// Shows what the machine does; what it did before, and the domain as it is now.
    fn set(&self, status: Status) -> (Option<u8>, Option<Arc<Domain>>) {
        let domains = &self.machines.domains;
        let before = domains.by_uuid(self.uuid);
        let shown = before.as_ref().and_then(|domain| domain.live()).map(|live| live.status);
        let state = shown.map(|shown| shown.state);
        if state.is_none() || state == Some(status.state) && shown != Some(start::STARTING_UP) {
            return (state, before);
        }
        // Nobody is promised that it is remembered: the next daemon reads it from the events.
        let change =
            domains.change(&self.machines.store, self.uuid, |before| Ok(Some(before.with_status(status))));
        (state, change.ok().and_then(|change| change.after))
    }

    async fn finish(mut self, ending: Ending) {
        if !self.sees() {
            self.events.tail = self.machine.process.events().ok();
        }
        while let Some(event) = self.events.available() {
            self.note(event);
        }
        if let Some(MachineEvent::Crashed { report }) = &self.last {
            tracing::warn!("domain {}: the guest crashed: {report}", self.uuid);
        }
        let intent = *self.machine.intent.lock();
        let verdict = verdict(&self.machine.lifecycle, intent, self.last.as_ref(), ending);
        self.machines.forget(self.uuid, &self.machine.interfaces).await;
        let farewell = match verdict {
            Verdict::Off(farewell) => farewell,
            Verdict::Again => match self.again().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!("domain {} can't be started again: {error}", self.uuid);
                    Farewell { reason: FAILED, before: None, stopped: STOPPED_FAILED }
                }
            },
        };
        // A restart that failed half-way has said so already.
        if self.machines.domains.by_uuid(self.uuid).is_some_and(|domain| domain.is_active()) {
            self.machines.switch_off(self.uuid, farewell).await;
        }
        self.machine.over.send_replace(true);
    }

    /// Another process for the same machine.
    async fn again(&self) -> Result<(), DomainError> {
        let short = self.machine.started.elapsed().is_ok_and(|life| life < SHORT_LIFE);
        let restarts = if short { self.machine.restarts + 1 } else { 0 };
        if restarts >= MOST_SHORT_LIVES {
            let message = format!("it has ended at once {restarts} times in a row");
            return Err(DomainError::Machine(message));
        }
        let domain = self.machines.domains.by_uuid(self.uuid).ok_or(DomainError::NoSuchUuid(self.uuid))?;
        if let Some((domain, connected)) = self.show_channels(&MachineEvent::Channels(Vec::new())) {
            self.machines.tell(&domain, Notice::Agent(connected));
        }
        let domain = start::again(&self.machines, domain, restarts).await?;
        self.machines.tell(&domain, Notice::Reboot);
        self.machine.over.send_replace(true);
        Ok(())
    }
}

impl Machines {
    /// Shows that a machine is gone, and tells everybody.
    pub(super) async fn switch_off(&self, uuid: Uuid, farewell: Farewell) {
        let Some(domain) = self.domains.by_uuid(uuid) else { return };
        let change =
            self.domains.change(&self.store, uuid, |before| Ok(before.without_live(farewell.reason)));
        let settled = match change {
            Ok(change) => self.domains.settle(change).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            tracing::error!("domain '{}' has ended, and that can't be written down: {error}", domain.name());
        }
        if self.domains.by_uuid(uuid).is_none() {
            self.forget_consoles(uuid);
        }
        for (event, detail) in farewell.before.into_iter().chain([(STOPPED, farewell.stopped)]) {
            self.tell(&domain, Notice::Lifecycle(event, detail));
        }
    }
}

/// The state that an event shows, and what is told when that is new.
fn status_after(event: &MachineEvent) -> Option<(Status, Option<Notice>)> {
    let (state, reason, notice) = match event {
        MachineEvent::Booted => (RUNNING, 1, None),
        MachineEvent::Paused => (PAUSED, 1, Some(Notice::Lifecycle(SUSPENDED, 0))),
        MachineEvent::Resumed => (RUNNING, 5, Some(Notice::Lifecycle(RESUMED, 0))),
        MachineEvent::Rebooted(_) => (RUNNING, 1, Some(Notice::Reboot)),
        _ => return None,
    };
    Some((Status { state, reason }, notice))
}

/// What the balloon has after an event, KiB: a guest that starts anew has all of its memory.
fn ballooned_after(event: &MachineEvent) -> Option<u64> {
    match event {
        MachineEvent::BalloonChanged(bytes) => Some(bytes / 1024),
        MachineEvent::Booted | MachineEvent::Rebooted(_) => Some(0),
        _ => None,
    }
}

/// A request that the machine has not carried out.
pub(super) fn control_error(error: &ControlError) -> DomainError {
    match error {
        ControlError::Refused { status: 405, message, .. } => DomainError::Invalid(message.clone()),
        error => DomainError::Machine(error.to_string()),
    }
}
