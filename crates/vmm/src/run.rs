//! The whole process: worker, signals, driver, control socket, in the order that gets a guest going soonest.

use std::io;
use std::os::fd::OwnedFd;

use platform::worker::{Attached, Interest, Poller, Task, Worker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::api::ApiServer;
use crate::driver::{ExitStatus, SignalSink, VmDriver};
use crate::event_monitor::{Event, EventMonitor};
use crate::options::VmmOptions;

/// Why no guest was started: one line that names the option, the object, the reason and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// Runs until the guest has powered off or crashed, or the process is told to end. Called on the main thread, once. After
/// a refusal nothing is left behind.
pub fn run(options: VmmOptions) -> Result<ExitStatus, Refusal> {
    start(options).map(Process::run).map_err(Refusal)
}

/// Dropped in the order of the fields: clients first, then the machine, its worker last.
struct Process {
    api: Option<ApiServer>,
    driver: VmDriver,
    signals: Attached<SignalTask>,
    worker: Worker,
}

impl Process {
    fn run(self) -> ExitStatus {
        let Self { api, driver, signals, worker } = self;
        let status = driver.run();
        drop(api);
        drop(signals);
        drop(worker);
        status
    }
}

fn start(options: VmmOptions) -> Result<Process, String> {
    let failed = |error| format!("starting the device thread: {error}");
    let mut worker = Worker::prepare("devices").map_err(failed)?;
    let monitor = options
        .event_monitor
        .map(|path| {
            EventMonitor::append(&path)
                .map_err(|error| format!("--event-monitor: cannot open {path:?}: {error}"))
        })
        .transpose()?;
    let mut driver = VmDriver::new(worker.handle(), monitor);
    let signals = SignalTask::new(driver.signals())
        .and_then(|task| worker.handle().attach(task).map_err(|(_, error)| error))
        .map_err(|error| format!("waiting for signals: {error}"))?;
    // Before the machine: a socket that cannot be had is a reason not to start it. Clients wait until it has been built.
    let api = options
        .api_socket
        .map(|path| {
            ApiServer::start(&path, driver.controller()).map_err(|error| format!("--api-socket: {error}"))
        })
        .transpose()?;
    driver.tell(&Event::Starting);
    if let Some(spec) = options.spec {
        driver.start(spec).map_err(|error| error.to_string())?;
    }
    worker.start().map_err(failed)?;
    Ok(Process { api, driver, signals, worker })
}

/// Signals that end the process, and their names.
const SIGNALS: [(i32, &str); 3] = [(SIGTERM, "SIGTERM"), (SIGINT, "SIGINT"), (SIGHUP, "SIGHUP")];

/// Waits for signals on pipes that their handlers write to.
struct SignalTask {
    pipes: Vec<(OwnedFd, &'static str)>,
    sink: SignalSink,
}

impl SignalTask {
    fn new(sink: SignalSink) -> io::Result<Self> {
        let mut pipes = Vec::with_capacity(SIGNALS.len());
        for (signal, name) in SIGNALS {
            use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (ours, handlers) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            signal_hook::low_level::pipe::register(signal, handlers)?;
            pipes.push((ours, name));
        }
        Ok(Self { pipes, sink })
    }
}

impl Task for SignalTask {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        for (token, (pipe, _)) in (0..).zip(&self.pipes) {
            poller.watch(pipe, token, Interest::Read)?;
        }
        Ok(())
    }

    fn ready(&mut self, token: u16, _poller: &mut Poller<'_>) {
        if let Some((pipe, name)) = self.pipes.get(usize::from(token))
            && let Ok(1..) = rustix::io::read(pipe, &mut [0u8; 16])
        {
            self.sink.send(name);
        }
    }

    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        true
    }
}
