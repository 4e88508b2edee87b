//! The VM driver: one thread that owns the machine and is its only mutator.
//!
//! Requests (control API, command line), what guests do and signals arrive in one queue and are handled in order, one at
//! a time, so every request sees a machine at rest. Life of a machine:
//!
//! ```text
//!   vm.create          vm.boot            vm.pause
//!  ──────────▶ Created ───────▶ Running ◀─────────▶ Paused
//!                 ▲               │  │   vm.resume    │
//!                 └── vm.shutdown ┴──┼────────────────┘
//!                                    ├─ guest resets: the machine is built anew and runs (or the process ends)
//!                                    └─ guest powers off or crashes: the process ends
//! ```
//!
//! A reboot tears the live machine down and builds another from the same specification, around the same host resources
//! (open disks, network interfaces, terminals), so that no device can forget to reset a field.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use machine_spec::MachineSpec;
use machine_spec::spec::OnReset;
use platform::VmRequest;
use platform::worker::WorkerHandle;
use virtio::balloon::BalloonHandle;

use crate::admission::admit;
use crate::control::{Action, ControlError, Controller, Reply, Request, VmState};
use crate::event_monitor::{Cause, Event, EventMonitor};
use crate::machine::{BuildError, HostResources, Machine};
use crate::vcpu_thread::{EventSink, First, GuestEvent};

/// The balloon's size is told at most this often: its guest may change it all the time.
const BALLOON_NEWS: Duration = Duration::from_secs(1);

/// How the life of the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// The guest powered off, reset with `--on-reset exit`, or the process was told to end. Exit code 0.
    Ended,
    /// The guest crashed, or the host failed it while it ran. Exit code 1.
    Failed,
    /// What was asked for was refused before a guest started. Exit code 2.
    Refused,
}

impl ExitStatus {
    /// The process's exit code.
    pub fn code(self) -> i32 {
        match self {
            Self::Ended => 0,
            Self::Failed => 1,
            Self::Refused => 2,
        }
    }
}

/// What arrives in the driver's queue.
enum Input {
    /// A client asks for something.
    Request(Request),
    /// A vCPU of the machine number `machine` reports.
    Guest {
        /// Events of machines that are gone are stale and ignored.
        machine: u64,
        event: GuestEvent,
    },
    /// The process was told to end by the signal.
    Signal(&'static str),
}

/// The driver's queue and everything behind it.
pub(crate) struct VmDriver {
    inputs: Receiver<Input>,
    post: Sender<Input>,
    description: Option<Description>,
    /// Counts machines built, to tell events of the live one from stale ones.
    machines: u64,
    worker: WorkerHandle,
    monitor: Option<EventMonitor>,
    channels: Channels,
    /// When the balloon's size was told last, and when it is to be told next.
    balloon_told: Option<Instant>,
    balloon_due: Option<Instant>,
}

/// Least time between two tellings of which channels are open.
const CHANNELS_PAUSE: Duration = Duration::from_millis(100);

/// The channels that the guest has open, as they are told.
#[derive(Default)]
struct Channels {
    told: Vec<String>,
    /// When they were told last, and when it is time again.
    last: Option<Instant>,
    due: Option<Instant>,
}

/// A machine that has been created, and what of it lives.
struct Description {
    spec: MachineSpec,
    live: Option<Live>,
}

struct Live {
    /// Dropped before the resources that it borrows from.
    machine: Machine,
    resources: HostResources,
    paused: bool,
}

impl Description {
    /// Guest memory without what the balloon holds.
    fn memory_actual_bytes(&self) -> u64 {
        let ballooned = self.live.as_ref().map_or(0, |live| live.machine.balloon_bytes());
        self.spec.memory.bytes.saturating_sub(ballooned)
    }

    fn state(&self) -> VmState {
        match &self.live {
            None => VmState::Created,
            Some(live) if live.paused => VmState::Paused,
            Some(_) => VmState::Running,
        }
    }
}

/// Tells the driver that the process is to end.
#[derive(Clone)]
pub(crate) struct SignalSink(Sender<Input>);

impl SignalSink {
    pub(crate) fn send(&self, signal: &'static str) {
        // No receiver: the driver has ended already.
        let _ = self.0.send(Input::Signal(signal));
    }
}

impl VmDriver {
    /// A driver whose machines' devices work on `worker`, and which tells `monitor` what happens.
    pub(crate) fn new(worker: WorkerHandle, monitor: Option<EventMonitor>) -> Self {
        let (post, inputs) = mpsc::channel();
        Self {
            inputs,
            post,
            description: None,
            machines: 0,
            worker,
            monitor,
            channels: Channels::default(),
            balloon_told: None,
            balloon_due: None,
        }
    }

    /// The door for clients.
    pub(crate) fn controller(&self) -> Controller {
        let post = self.post.clone();
        Controller::new(move |request| {
            post.send(Input::Request(request)).map_err(|mpsc::SendError(input)| match input {
                Input::Request(request) => request,
                Input::Guest { .. } | Input::Signal(_) => unreachable!("a request was sent"),
            })
        })
    }

    /// The door for signals.
    pub(crate) fn signals(&self) -> SignalSink {
        SignalSink(self.post.clone())
    }

    /// Creates and boots a machine before any client is heard.
    pub(crate) fn start(&mut self, spec: MachineSpec) -> Result<(), BuildError> {
        self.tell(&Event::Created);
        let live = self.boot(&spec, First::Run)?;
        self.description = Some(Description { spec, live: Some(live) });
        self.tell(&Event::Booted);
        Ok(())
    }

    /// The next input; none when it is time to tell of channels or the balloon.
    fn next(&self) -> Option<Input> {
        let due = [self.channels.due, self.balloon_due].into_iter().flatten().min();
        let received = match due {
            None => self.inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => self.inputs.recv_timeout(due.saturating_duration_since(Instant::now())),
        };
        match received {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the driver holds a sender of its own queue")
            }
        }
    }

    /// Says what it is time for.
    fn tell_due(&mut self) {
        let now = Instant::now();
        if self.channels.due.is_some_and(|due| due <= now) {
            self.tell_channels();
        }
        if self.balloon_due.is_some_and(|due| due <= now) {
            self.tell_balloon();
        }
    }

    /// Says which channels the guest has open, if they are others than before.
    fn tell_channels(&mut self) {
        self.channels.due = None;
        let live = self.description.as_ref().and_then(|description| description.live.as_ref());
        let Some(open) = live.map(|live| live.machine.open_channels()) else { return };
        if open != self.channels.told {
            self.tell(&Event::Channels(&open));
            self.channels = Channels { told: open, last: Some(Instant::now()), due: None };
        }
    }

    /// Says what happens to the machine.
    pub(crate) fn tell(&mut self, event: &Event<'_>) {
        if matches!(event, Event::Rebooted(_) | Event::Booted) {
            // Whoever hears that knows that none is open.
            self.channels.told.clear();
        }
        if let Some(monitor) = &mut self.monitor {
            monitor.tell(event);
        }
    }

    /// Whether there is a machine with vCPUs.
    fn lives(&self) -> bool {
        self.description.as_ref().is_some_and(|description| description.live.is_some())
    }

    /// Handles inputs until the process is to end.
    pub(crate) fn run(mut self) -> ExitStatus {
        loop {
            let Some(input) = self.next() else {
                self.tell_due();
                continue;
            };
            let ended = match input {
                Input::Request(Request { action, reply }) => {
                    let ends = matches!(action, Action::ShutdownVmm);
                    let answer = self.handle(action);
                    // The client may have gone away.
                    let _ = reply.send(answer);
                    ends.then_some(ExitStatus::Ended)
                }
                Input::Guest { machine, event } if machine == self.machines => self.guest(event),
                Input::Guest { .. } => None,
                Input::Signal(name) => {
                    tracing::info!(signal = name, "told to end");
                    if self.lives() {
                        self.tell(&Event::Shutdown(Cause::Signal(name)));
                    }
                    Some(ExitStatus::Ended)
                }
            };
            if let Some(status) = ended {
                return status;
            }
        }
    }

    /// The balloon's size has changed: it is told, now or when it may be.
    fn balloon_changed(&mut self) {
        let now = Instant::now();
        self.balloon_due = Some(self.balloon_told.map_or(now, |told| now.max(told + BALLOON_NEWS)));
    }

    fn tell_balloon(&mut self) {
        self.balloon_due = None;
        let live = self.description.as_ref().and_then(|description| description.live.as_ref());
        if let Some(bytes) = live.and_then(|live| live.machine.balloon()).map(BalloonHandle::take_change) {
            self.balloon_told = Some(Instant::now());
            self.tell(&Event::BalloonChanged(bytes));
        }
    }

    fn handle(&mut self, action: Action) -> Result<Reply, ControlError> {
        admit(self.description.as_ref().map(Description::state), &action)?;
        let fail = |error: BuildError| ControlError::Failed(error.to_string());
        match action {
            Action::Create(spec) => {
                self.description = Some(Description { spec: *spec, live: None });
                self.tell(&Event::Created);
            }
            Action::Delete | Action::ShutdownVmm => {
                if self.lives() {
                    self.tell(&Event::Shutdown(Cause::Client));
                }
                if self.description.take().is_some() {
                    self.tell(&Event::Deleted);
                }
            }
            Action::Boot => {
                let spec = self.spec()?.clone();
                let live = self.boot(&spec, First::Run).map_err(fail)?;
                self.description = Some(Description { spec, live: Some(live) });
                self.tell(&Event::Booted);
            }
            Action::BootPaused => {
                let spec = self.spec()?.clone();
                let mut live = self.boot(&spec, First::Wait).map_err(fail)?;
                live.pause().map_err(ControlError::Failed)?;
                self.description = Some(Description { spec, live: Some(live) });
                self.tell(&Event::Paused);
            }
            Action::Reboot => self.reboot(Cause::Client).map_err(fail)?,
            Action::Shutdown => {
                if let Some(description) = &mut self.description {
                    description.live = None;
                }
                self.tell(&Event::Shutdown(Cause::Client));
            }
            Action::Info => {
                let description = self.description.as_ref().ok_or(ControlError::NotCreated)?;
                return Ok(Reply::Info {
                    spec: Box::new(description.spec.clone()),
                    state: description.state(),
                    memory_actual_bytes: description.memory_actual_bytes(),
                    pseudo_terminals: description
                        .live
                        .as_ref()
                        .map_or_else(Vec::new, |live| live.resources.pseudo_terminals()),
                });
            }
            Action::Pause => {
                self.live()?.pause().map_err(ControlError::Failed)?;
                self.tell(&Event::Paused);
            }
            Action::Resume => {
                self.live()?.resume().map_err(ControlError::Failed)?;
                self.tell(&Event::Resumed);
            }
            Action::PowerButton => self.live()?.machine.press_power_button(),
            Action::Nmi => self.live()?.machine.inject_nmi().map_err(ControlError::Failed)?,
            Action::ChangeBalloon { bytes, statistics_period } => {
                self.change_balloon(bytes, statistics_period).map_err(ControlError::Failed)?;
            }
            Action::ResizeDisk { id, bytes } => {
                self.live()?.machine.resize_disk(&id, bytes).map_err(ControlError::Failed)?;
            }
            Action::SetLink { id, up } => self.set_link(&id, up).map_err(ControlError::Failed)?,
            Action::Counters => return Ok(Reply::Counters(self.live()?.machine.counters())),
        }
        Ok(Reply::Done)
    }

    /// Tells the guest how large its balloon is to be. The description has the new size and period, so a reboot keeps them.
    fn change_balloon(&mut self, bytes: Option<u64>, statistics_period: Option<u32>) -> Result<(), String> {
        let Some(Description { spec, live: Some(live) }) = &mut self.description else {
            return Err("the machine does not run".to_owned());
        };
        let balloon = spec.balloon.as_mut().ok_or(
            "the machine has no balloon: describe one when it is created, also if it is to be empty at first",
        )?;
        let handle = live.machine.balloon().ok_or("the machine has no balloon")?;
        if let Some(bytes) = bytes {
            *balloon = balloon.resized(bytes, &spec.memory).map_err(|error| error.to_string())?;
            handle.set_target(bytes);
        }
        if let Some(seconds) = statistics_period {
            balloon.statistics_period = seconds;
            handle.set_statistics_period(Duration::from_secs(seconds.into()));
        }
        Ok(())
    }

    /// Plugs or pulls a cable. The description has its new state, so a reboot keeps it.
    fn set_link(&mut self, id: &str, up: bool) -> Result<(), String> {
        let Some(Description { spec, live: Some(live) }) = &mut self.description else {
            return Err("the machine does not run".to_owned());
        };
        let net = spec.nets.iter_mut().find(|net| net.id == id);
        let net = net.ok_or_else(|| {
            format!("there is no network interface {id:?}: vm.info has the identifiers of all")
        })?;
        net.link_up = up;
        live.machine.set_link(id, up);
        Ok(())
    }

    fn spec(&self) -> Result<&MachineSpec, ControlError> {
        self.description.as_ref().map(|description| &description.spec).ok_or(ControlError::NotCreated)
    }

    /// The live machine; admission has checked that there is one.
    fn live(&mut self) -> Result<&mut Live, ControlError> {
        self.description
            .as_mut()
            .and_then(|description| description.live.as_mut())
            .ok_or(ControlError::WrongState { action: "reach", state: VmState::Created })
    }

    /// Opens what the machine needs of the host and builds it; unless it is to wait, it runs.
    fn boot(&mut self, spec: &MachineSpec, first: First) -> Result<Live, BuildError> {
        let resources = HostResources::open(spec, &self.worker)?;
        let machine = self.build(spec, &resources, first)?;
        Ok(Live { machine, resources, paused: false })
    }

    fn build(
        &mut self,
        spec: &MachineSpec,
        resources: &HostResources,
        first: First,
    ) -> Result<Machine, BuildError> {
        self.machines += 1;
        let (number, post) = (self.machines, self.post.clone());
        let events: EventSink = Arc::new(move |event| {
            // No receiver: the process is ending.
            let _ = post.send(Input::Guest { machine: number, event });
        });
        Machine::build(spec, resources, &events, first)
    }

    /// Ends the live machine and starts another in its place; the host resources stay open.
    fn reboot(&mut self, cause: Cause) -> Result<(), BuildError> {
        let Some(Description { spec, live: Some(Live { machine, resources, .. }) }) = self.description.take()
        else {
            unreachable!("admission and the machine's number have shown that a machine lives");
        };
        drop(machine);
        match self.build(&spec, &resources, First::Run) {
            Ok(machine) => {
                self.description =
                    Some(Description { spec, live: Some(Live { machine, resources, paused: false }) });
                self.tell(&Event::Rebooted(cause));
                Ok(())
            }
            Err(error) => {
                self.description = Some(Description { spec, live: None });
                Err(error)
            }
        }
    }

    /// What a guest did; a status if the process is to end.
    fn guest(&mut self, event: GuestEvent) -> Option<ExitStatus> {
        match event {
            GuestEvent::Ask(VmRequest::PowerOff) => {
                tracing::info!("the guest powered off");
                self.tell(&Event::Shutdown(Cause::Guest));
                Some(ExitStatus::Ended)
            }
            GuestEvent::Ask(VmRequest::Reset) => self.guest_reset(),
            GuestEvent::Channels => {
                let earliest = self.channels.last.map(|last| last + CHANNELS_PAUSE);
                let now = Instant::now();
                self.channels.due.get_or_insert(earliest.map_or(now, |earliest| earliest.max(now)));
                None
            }
            GuestEvent::BalloonChanged => {
                self.balloon_changed();
                None
            }
            GuestEvent::Crashed(report) => {
                tracing::error!("the guest crashed: {report}");
                self.tell(&Event::Crashed(&report.to_string()));
                Some(ExitStatus::Failed)
            }
        }
    }

    fn guest_reset(&mut self) -> Option<ExitStatus> {
        let on_reset =
            self.description.as_ref().map_or(OnReset::Exit, |description| description.spec.on_reset);
        match on_reset {
            OnReset::Exit => {
                tracing::info!("the guest reset");
                self.tell(&Event::Shutdown(Cause::Guest));
                Some(ExitStatus::Ended)
            }
            OnReset::Reboot => {
                tracing::info!("the guest reset: starting it again");
                self.reboot(Cause::Guest).err().map(|error| {
                    tracing::error!("the guest could not be started again: {error}");
                    self.tell(&Event::Crashed(&error.to_string()));
                    ExitStatus::Failed
                })
            }
        }
    }
}

impl Live {
    fn pause(&mut self) -> Result<(), String> {
        self.machine.pause()?;
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), String> {
        self.machine.resume()?;
        self.paused = false;
        Ok(())
    }
}
