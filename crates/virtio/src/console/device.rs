//! The console as the transport core and the machine see it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use platform::character::{CharacterBackend, CharacterFrontend};
use platform::worker::WorkerHandle;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{Immutable, IntoBytes};

use super::port::{Kicks, Port, PortCounters, PortWatcher, WindowSize, pending};
use super::task::ConsoleTask;
use super::{
    CONTROL_RX, DEVICE_ID, FEATURE_MULTIPORT, FEATURE_SIZE, MAX_NAME_BYTES, MAX_PORTS, QUEUE_SIZE, Role, role,
};
use crate::build::{BuildError, check_count, check_text};
use crate::config_space;
use crate::device::{Activation, ActiveQueue, DeviceEvents, DeviceTraits, StartError, VirtioDevice};
use crate::running::Running;

/// `struct virtio_console_config` (5.3.4).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ConfigSpace {
    cols: U16,
    rows: U16,
    max_nr_ports: U32,
    emerg_wr: U32,
}

const CONFIG_BYTES: u32 = 12;
const _: () = assert!(size_of::<ConfigSpace>() == CONFIG_BYTES as usize);

/// A port to be.
pub struct PortConfig {
    /// Name by which the guest finds the port, at most [`MAX_NAME_BYTES`] bytes; `None` for a console.
    pub name: Option<String>,
    /// What is at the other end. The device connects itself to it.
    pub backend: Arc<CharacterBackend>,
    /// Who wants to know when the guest opens or closes it.
    pub watcher: Option<PortWatcher>,
}

impl std::fmt::Debug for PortConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a console is built from.
#[derive(Debug)]
pub struct ConsoleConfig {
    /// The ports, at least one; the first is hvc0 unless it has a name.
    pub ports: Vec<PortConfig>,
    /// Who works on the queues.
    pub worker: WorkerHandle,
}

struct Shared {
    ports: Arc<[Arc<Port>]>,
    /// The driver runs with control queues.
    multiport: AtomicBool,
    /// Held for a clone or a store only.
    events: Mutex<Option<Arc<dyn DeviceEvents>>>,
}

/// A running or stopped console, for whoever resizes its windows or reads its counters. Any thread.
#[derive(Clone)]
pub struct ConsoleHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for ConsoleHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleHandle").field("ports", &self.shared.ports.len()).finish_non_exhaustive()
    }
}

impl ConsoleHandle {
    /// The window of a console's terminal has a new size. A port that does not exist or is no console has none. Not to be
    /// called with the function's lock held.
    pub fn resize(&self, port: usize, size: WindowSize) {
        let Some(console) = self.shared.ports.get(port).filter(|port| port.name.is_none()) else { return };
        if !console.set_window(size) {
            return;
        }
        if self.shared.multiport.load(Ordering::Relaxed) {
            if console.ready.load(Ordering::Relaxed) {
                console.announce(pending::RESIZE);
            }
        } else if port == 0 {
            // The guard is dropped at the end of this statement: the core may take locks of its own.
            let events = self.shared.events.lock().clone();
            if let Some(events) = events {
                events.config_changed();
            }
        }
    }

    /// Names of the channels that somebody in the guest has open.
    pub fn open_channels(&self) -> Vec<String> {
        let open = self.shared.ports.iter().filter(|port| port.is_guest_open());
        open.filter_map(|port| port.name.clone()).collect()
    }

    /// What went through a port; `None` when there is no such port.
    pub fn counters(&self, port: usize) -> Option<&PortCounters> {
        self.shared.ports.get(port).map(|port| &port.counters)
    }
}

/// A console.
pub struct Console {
    traits: DeviceTraits,
    shared: Arc<Shared>,
    worker: WorkerHandle,
    running: Running<ConsoleTask>,
    /// Queues that the driver has enabled and that have no use.
    idle: Vec<ActiveQueue>,
    /// Kept alive: input comes from here.
    _backends: Vec<Arc<CharacterBackend>>,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("traits", &self.traits).finish_non_exhaustive()
    }
}

impl Console {
    /// A console that no driver uses yet, connected to its backends.
    ///
    /// # Errors
    /// What is wrong with `config`.
    pub fn build(config: ConsoleConfig) -> Result<Self, BuildError> {
        let ConsoleConfig { ports: configs, worker } = config;
        check_count("console ports", configs.len(), 1, MAX_PORTS)?;
        let multiport = configs.len() > 1 || configs.iter().any(|port| port.name.is_some());
        let mut ports = Vec::new();
        let mut backends = Vec::new();
        for PortConfig { name, backend, watcher } in configs {
            if let Some(name) = &name {
                check_text("port name", name, MAX_NAME_BYTES)?;
            }
            ports.push(Arc::new(Port::new(name, backend.output(), watcher)));
            backends.push(backend);
        }
        for (port, backend) in ports.iter().zip(&backends) {
            backend.connect(&(Arc::clone(port) as Arc<dyn CharacterFrontend>));
        }
        let queues = if multiport { 2 * (ports.len() + 1) } else { 2 };
        let traits = DeviceTraits {
            device_id: DEVICE_ID,
            features: FEATURE_SIZE | if multiport { FEATURE_MULTIPORT } else { 0 },
            queue_sizes: vec![QUEUE_SIZE; queues],
            config_bytes: CONFIG_BYTES,
        };
        let shared =
            Shared { ports: ports.into(), multiport: AtomicBool::new(false), events: Mutex::new(None) };
        Ok(Self {
            traits,
            shared: Arc::new(shared),
            worker,
            running: Running::new(),
            idle: Vec::new(),
            _backends: backends,
        })
    }

    /// A handle for window sizes and counters.
    pub fn handle(&self) -> ConsoleHandle {
        ConsoleHandle { shared: Arc::clone(&self.shared) }
    }

    /// Tells each port how to wake the task.
    fn wire(&self, queues: &[ActiveQueue]) {
        let kick = |wanted: Role| -> Option<Arc<OwnedFd>> {
            queues.iter().find(|queue| role(queue.index) == wanted).map(|queue| Arc::clone(&queue.kick))
        };
        for (number, port) in self.shared.ports.iter().enumerate() {
            port.set_kicks(Kicks {
                input: kick(Role::Input(number)),
                output: kick(Role::Output(number)),
                control: kick(Role::ControlRx),
            });
        }
    }
}

impl VirtioDevice for Console {
    fn traits(&self) -> &DeviceTraits {
        &self.traits
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let ports = &self.shared.ports;
        let window = ports.first().map(|port| port.window()).unwrap_or_default();
        let space = ConfigSpace {
            cols: U16::new(window.columns),
            rows: U16::new(window.rows),
            max_nr_ports: U32::new(u32::try_from(ports.len()).unwrap_or(u32::MAX)),
            emerg_wr: U32::new(0),
        };
        config_space::read(space.as_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u32, _data: &[u8]) {
        // Only the emergency write would be writable, which is not offered.
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { memory, features, queues, events } = activation;
        let multiport = features & FEATURE_MULTIPORT != 0;
        self.shared.multiport.store(multiport, Ordering::Relaxed);
        *self.shared.events.lock() = Some(Arc::clone(&events));
        let (used, idle): (Vec<_>, Vec<_>) =
            queues.into_iter().partition(|queue| multiport || queue.index < CONTROL_RX);
        self.idle = idle;
        self.wire(&used);
        if !multiport && let Some(first) = self.shared.ports.first() {
            // Without control queues nobody tells when a port is opened (5.3.5).
            first.set_guest_open(true);
        }
        let size = features & FEATURE_SIZE != 0;
        let task = ConsoleTask::new(Arc::clone(&self.shared.ports), size, memory, events, used);
        self.running.attach(&self.worker, task).map_err(|source| StartError {
            device_id: DEVICE_ID,
            what: "cannot attach the task".to_owned(),
            source,
        })
    }

    fn request_stop(&mut self) {
        self.running.request_stop();
    }

    fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<ActiveQueue>> {
        let tasks = self.running.poll_stopped(patience)?;
        *self.shared.events.lock() = None;
        let mut queues = std::mem::take(&mut self.idle);
        queues.extend(tasks.into_iter().flat_map(ConsoleTask::into_queues));
        Some(queues)
    }

    fn reset(&mut self) {
        let Self { traits: _, shared, worker: _, running, idle, _backends: _ } = self;
        let Shared { ports, multiport, events } = &**shared;
        ports.iter().for_each(|port| port.reset());
        multiport.store(false, Ordering::Relaxed);
        *events.lock() = None;
        *running = Running::new();
        idle.clear();
    }
}
