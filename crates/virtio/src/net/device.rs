//! The interface as the transport core and the machine see it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use net_io::{NetBackend, NetError};
use parking_lot::Mutex;
use platform::worker::WorkerHandle;
use zerocopy::little_endian::U16;
use zerocopy::{Immutable, IntoBytes};

use super::control::ControlTask;
use super::receive::Receiver;
use super::request::Limits;
use super::send::Sender;
use super::task::PairTask;
use super::{
    CONTROL_QUEUE_SIZE, DEVICE_ID, FEATURE_CTRL_MAC_ADDR, FEATURE_CTRL_RX, FEATURE_CTRL_VQ,
    FEATURE_GUEST_TSO4, FEATURE_GUEST_TSO6, FEATURE_GUEST_USO4, FEATURE_GUEST_USO6, FEATURE_MAC, FEATURE_MQ,
    FEATURE_MRG_RXBUF, FEATURE_MTU, FEATURE_STATUS, GUEST_OFFLOAD_FEATURES, HEADER_BYTES, LINK_BYTES,
    MAX_FRAME_BYTES, MAX_QUEUE_PAIRS, MIN_MTU, offload_features,
};
use crate::build::{BuildError, check_count, check_queue_size};
use crate::config_space;
use crate::counter::Counter;
use crate::device::{
    Activation, ActiveQueue, DeviceEvents, DeviceTraits, GuestMemory, StartError, VirtioDevice,
};
use crate::running::{Running, wake};

/// `struct virtio_net_config` (5.1.4) as far as the offered features reach.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ConfigSpace {
    mac: [u8; 6],
    status: U16,
    max_virtqueue_pairs: U16,
    mtu: U16,
}

const CONFIG_BYTES: u32 = 12;
const _: () = assert!(size_of::<ConfigSpace>() == CONFIG_BYTES as usize);

/// VIRTIO_NET_S_LINK_UP.
const STATUS_LINK_UP: u16 = 1;

/// What an interface is built from.
pub struct NetConfig {
    /// What carries the frames: one for each queue pair, all with the same offloads.
    pub backends: Vec<Box<dyn NetBackend>>,
    /// The guest's address.
    pub mac: [u8; 6],
    /// Largest packet, told to the guest; at least 68.
    pub mtu: Option<u16>,
    /// Whether the cable is plugged in at first.
    pub link_up: bool,
    /// Entries in each receive and transmit queue, a power of two.
    pub queue_size: u16,
    /// Who works on the queues: pair i on worker i modulo their number. At least one.
    pub workers: Vec<WorkerHandle>,
}

impl std::fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetConfig").field("mac", &self.mac).finish_non_exhaustive()
    }
}

/// What an interface has done since it was built. Received and sent as the guest sees it; lengths without virtio-net header.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Frames that the guest received.
    pub rx_frames: Counter,
    /// Bytes in them.
    pub rx_bytes: Counter,
    /// Frames for the guest that were thrown away: too long for its buffers, or the link was down.
    pub rx_dropped: Counter,
    /// Failures of the backend to receive.
    pub rx_errors: Counter,
    /// Frames that the guest sent.
    pub tx_frames: Counter,
    /// Bytes in them.
    pub tx_bytes: Counter,
    /// Frames of the guest that were thrown away because the link was down.
    pub tx_dropped: Counter,
    /// Frames of the guest that were malformed or that the backend could not send.
    pub tx_errors: Counter,
}

/// What the driver has chosen while it runs. Kept over a pause, forgotten by a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    /// Queue pairs in use, from the first.
    pub(super) pairs: u16,
    /// GUEST features in force.
    pub(super) offloads: u64,
    /// Counts the changes, so that each pair can tell which it has applied.
    pub(super) version: u64,
}

/// A pair's task as the control task and the handle see it.
pub(super) struct Peer {
    /// Written to make the task look at the settings and the link.
    pub(super) kick: Arc<OwnedFd>,
    /// Version of the settings that the pair has applied.
    pub(super) applied: AtomicU64,
    /// Whether that failed.
    pub(super) failed: AtomicBool,
}

/// What the device, its tasks and its handles share. Locks are held for a copy, a store or a few wake-ups only.
pub(super) struct Shared {
    pub(super) counters: NetCounters,
    link_up: AtomicBool,
    /// Something carries the frames; once it is lost, it stays lost.
    pub(super) carrier: AtomicBool,
    /// The cable was touched while the device stood still: its driver hears of it when it goes on.
    link_untold: AtomicBool,
    pub(super) settings: Mutex<Settings>,
    pub(super) peers: Mutex<Vec<Arc<Peer>>>,
    /// The driver's address: six bytes, first one lowest.
    mac: AtomicU64,
    events: Mutex<Option<Arc<dyn DeviceEvents>>>,
}

impl Shared {
    pub(super) fn set_mac(&self, [a, b, c, d, e, f]: [u8; 6]) {
        self.mac.store(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), Ordering::Relaxed);
    }

    fn mac(&self) -> [u8; 6] {
        let [mac @ .., _, _] = self.mac.load(Ordering::Relaxed).to_le_bytes();
        mac
    }

    /// Whether frames pass, as the driver sees it.
    pub(super) fn is_link_up(&self) -> bool {
        self.link_up.load(Ordering::Relaxed) && self.carrier.load(Ordering::Relaxed)
    }

    /// Has every pair look at the settings and the link.
    pub(super) fn wake_pairs(&self) {
        for peer in self.peers.lock().iter() {
            wake(&peer.kick);
        }
    }
}

/// A running or stopped interface, for whoever plugs its cable or reads its counters. Any thread.
#[derive(Clone)]
pub struct NetHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for NetHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetHandle").field("counters", &self.shared.counters).finish_non_exhaustive()
    }
}

impl NetHandle {
    /// Plugs or pulls the cable; frames of a link that is down are thrown away in both directions. Not to be called with
    /// the function's lock held.
    pub fn set_link(&self, up: bool) {
        if self.shared.link_up.swap(up, Ordering::Relaxed) == up {
            return;
        }
        self.shared.wake_pairs();
        let events = {
            let events = self.shared.events.lock();
            // With the lock held, so that a start sees either the cable or that it has to tell.
            self.shared.link_untold.store(events.is_none(), Ordering::Relaxed);
            events.clone()
        };
        // Without the lock: the core may take locks of its own.
        if let Some(events) = events {
            events.config_changed();
        }
    }

    /// What the interface has done.
    pub fn counters(&self) -> &NetCounters {
        &self.shared.counters
    }
}

/// A backend and whether it takes part in the network.
pub(super) struct PairBackend {
    pub(super) backend: Box<dyn NetBackend>,
    enabled: bool,
}

impl PairBackend {
    pub(super) fn set_enabled(&mut self, enabled: bool) -> Result<(), NetError> {
        if self.enabled != enabled {
            self.backend.set_enabled(enabled)?;
            self.enabled = enabled;
        }
        Ok(())
    }
}

/// A network interface.
pub struct Net {
    traits: DeviceTraits,
    mac: [u8; 6],
    mtu: Option<u16>,
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    /// By pair; `None` while its task has it.
    backends: Vec<Option<PairBackend>>,
    pairs: Running<PairTask>,
    control: Running<ControlTask>,
    /// Queues that the driver has enabled and that have no use.
    idle: Vec<ActiveQueue>,
    /// The driver's choices survive until the next reset.
    started: bool,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("traits", &self.traits).finish_non_exhaustive()
    }
}

impl Net {
    /// An interface that no driver uses yet.
    ///
    /// # Errors
    /// What is wrong with `config`.
    pub fn build(config: NetConfig) -> Result<Self, BuildError> {
        let NetConfig { backends, mac, mtu, link_up, queue_size, workers } = config;
        check_queue_size(queue_size)?;
        check_count("queue pairs", backends.len(), 1, usize::from(MAX_QUEUE_PAIRS))?;
        check_count("workers of a network interface", workers.len(), 1, usize::MAX)?;
        check_count(
            "bytes of MTU",
            usize::from(mtu.unwrap_or(1500)),
            usize::from(MIN_MTU),
            usize::from(u16::MAX),
        )?;
        let mut features = FEATURE_MAC
            | FEATURE_STATUS
            | FEATURE_MRG_RXBUF
            | FEATURE_CTRL_VQ
            | FEATURE_CTRL_RX
            | FEATURE_CTRL_MAC_ADDR;
        if let Some(first) = backends.first() {
            features |= offload_features(first.offloads());
        }
        if backends.len() > 1 {
            features |= FEATURE_MQ;
        }
        if mtu.is_some() {
            features |= FEATURE_MTU;
        }
        let mut queue_sizes = vec![queue_size; backends.len() * 2];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let traits = DeviceTraits { device_id: DEVICE_ID, features, queue_sizes, config_bytes: CONFIG_BYTES };
        let shared = Shared {
            counters: NetCounters::default(),
            link_up: AtomicBool::new(link_up),
            carrier: AtomicBool::new(true),
            link_untold: AtomicBool::new(false),
            settings: Mutex::new(Settings { pairs: 1, offloads: 0, version: 0 }),
            peers: Mutex::default(),
            mac: AtomicU64::new(0),
            events: Mutex::new(None),
        };
        shared.set_mac(mac);
        let backends = backends.into_iter().map(|backend| Some(PairBackend { backend, enabled: true }));
        Ok(Self {
            traits,
            mac,
            mtu,
            shared: Arc::new(shared),
            workers,
            backends: backends.collect(),
            pairs: Running::new(),
            control: Running::new(),
            idle: Vec::new(),
            started: false,
        })
    }

    /// A handle for the link and the counters.
    pub fn handle(&self) -> NetHandle {
        NetHandle { shared: Arc::clone(&self.shared) }
    }

    fn max_pairs(&self) -> u16 {
        u16::try_from(self.backends.len()).unwrap_or(MAX_QUEUE_PAIRS)
    }

    fn worker(&self, pair: u16) -> &WorkerHandle {
        // `build` made sure that there is one.
        &self.workers[usize::from(pair) % self.workers.len()]
    }

    /// The longest frame that the driver may be sent, virtio-net header included.
    fn longest_frame(&self, features: u64) -> u32 {
        let segmentation = FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6 | FEATURE_GUEST_USO4 | FEATURE_GUEST_USO6;
        match self.mtu {
            Some(mtu) if features & segmentation == 0 => HEADER_BYTES + LINK_BYTES + u32::from(mtu),
            _ => MAX_FRAME_BYTES,
        }
    }

    fn start_pair(
        &mut self,
        pair: u16,
        rx: ActiveQueue,
        tx: ActiveQueue,
        driver: &Driver,
    ) -> Result<(), StartError> {
        let Some(backend) = self.backends.get_mut(usize::from(pair)).and_then(Option::take) else {
            self.idle.extend([rx, tx]);
            return Ok(());
        };
        let peer = Arc::new(Peer {
            kick: Arc::clone(&rx.kick),
            applied: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        });
        let Driver { memory, features, events, control_kick } = driver;
        let mergeable = features & FEATURE_MRG_RXBUF != 0;
        let longest = self.longest_frame(*features);
        let task = PairTask::new(
            pair,
            Arc::clone(&self.shared),
            Arc::clone(&peer),
            control_kick.clone(),
            backend,
            Receiver::new(rx, mergeable, longest),
            Sender::new(tx),
            Arc::clone(memory),
            Arc::clone(events),
        );
        self.shared.peers.lock().push(peer);
        let worker = self.worker(pair).clone();
        self.pairs.attach(&worker, task).map_err(|source| start_error("cannot attach a queue pair", source))
    }

    fn start_queues(&mut self, queues: Vec<ActiveQueue>, mut driver: Driver) -> Result<(), StartError> {
        let pairs = if driver.features & FEATURE_MQ != 0 { self.max_pairs() } else { 1 };
        let mut control = None;
        let mut halves: Vec<(Option<ActiveQueue>, Option<ActiveQueue>)> = Vec::new();
        halves.resize_with(usize::from(pairs), Default::default);
        for queue in queues {
            let index = queue.index;
            if index == 2 * pairs {
                driver.control_kick = Some(Arc::clone(&queue.kick));
                control = Some(queue);
            } else if let Some((rx, tx)) = halves.get_mut(usize::from(index / 2)) {
                *if index.is_multiple_of(2) { rx } else { tx } = Some(queue);
            } else {
                self.idle.push(queue);
            }
        }
        for (pair, halves) in (0..pairs).zip(halves) {
            match halves {
                (Some(rx), Some(tx)) => self.start_pair(pair, rx, tx, &driver)?,
                (rx, tx) => self.idle.extend(rx.into_iter().chain(tx)),
            }
        }
        // Backends that nobody works with must not be given a share of the frames.
        for backend in self.backends.iter_mut().skip(1).flatten() {
            backend.set_enabled(false).map_err(|error| {
                start_error("cannot disable an unused queue pair", std::io::Error::other(error))
            })?;
        }
        let Some(queue) = control else { return Ok(()) };
        let limits = Limits { features: driver.features, pairs };
        let task = ControlTask::new(Arc::clone(&self.shared), limits, queue, driver.memory, driver.events);
        let worker = self.worker(0).clone();
        self.control
            .attach(&worker, task)
            .map_err(|source| start_error("cannot attach the control queue", source))
    }
}

/// What all queues of an activation share.
struct Driver {
    memory: Arc<GuestMemory>,
    features: u64,
    events: Arc<dyn DeviceEvents>,
    control_kick: Option<Arc<OwnedFd>>,
}

fn start_error(what: &str, source: std::io::Error) -> StartError {
    StartError { device_id: DEVICE_ID, what: what.to_owned(), source }
}

impl VirtioDevice for Net {
    fn traits(&self) -> &DeviceTraits {
        &self.traits
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let status = if self.shared.is_link_up() { STATUS_LINK_UP } else { 0 };
        let space = ConfigSpace {
            mac: self.shared.mac(),
            status: U16::new(status),
            max_virtqueue_pairs: U16::new(self.max_pairs()),
            mtu: U16::new(self.mtu.unwrap_or(0)),
        };
        config_space::read(space.as_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u32, _data: &[u8]) {
        // Read-only to drivers of virtio 1 (5.1.4): the address is set by a control command.
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { memory, features, queues, events } = activation;
        // After a start that failed half-way, the tasks that had been attached still have their backends.
        if self.poll_stopped(Duration::ZERO).is_none() {
            let source = std::io::ErrorKind::ResourceBusy.into();
            return Err(start_error("the last start has not been wound up", source));
        }
        if !std::mem::replace(&mut self.started, true) {
            let mut settings = self.shared.settings.lock();
            settings.offloads = features & GUEST_OFFLOAD_FEATURES;
            settings.version += 1;
        }
        *self.shared.events.lock() = Some(Arc::clone(&events));
        // One that starts afresh reads the configuration anyway, and a second notice does no harm.
        if self.shared.link_untold.swap(false, Ordering::Relaxed) {
            events.config_changed();
        }
        let driver = Driver { memory, features, events, control_kick: None };
        let outcome = self.start_queues(queues, driver);
        if outcome.is_err() {
            self.request_stop();
        }
        outcome
    }

    fn request_stop(&mut self) {
        self.pairs.request_stop();
        self.control.request_stop();
    }

    fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<ActiveQueue>> {
        // Each waits at most half as long, so that both together keep within the caller's patience.
        for task in self.pairs.poll_stopped(patience / 2)? {
            let (pair, backend, rx, tx) = task.into_parts();
            if let Some(slot) = self.backends.get_mut(usize::from(pair)) {
                *slot = Some(backend);
            }
            self.idle.extend([rx, tx]);
        }
        let control = self.control.poll_stopped(patience / 2)?;
        self.idle.extend(control.into_iter().map(ControlTask::into_queue));
        self.shared.peers.lock().clear();
        *self.shared.events.lock() = None;
        Some(std::mem::take(&mut self.idle))
    }

    fn reset(&mut self) {
        // Collects what a start that failed half-way has left behind; whatever is still on its way, `start` waits for.
        let _ = self.poll_stopped(Duration::ZERO);
        // Backends, cable and counters are the host's, not the driver's.
        let Self {
            traits: _,
            mac,
            mtu: _,
            shared,
            workers: _,
            backends: _,
            pairs: _,
            control: _,
            idle,
            started,
        } = self;
        let Shared { counters: _, link_up: _, carrier: _, link_untold, settings, peers, mac: _, events } =
            &**shared;
        {
            let mut settings = settings.lock();
            let version = settings.version + 1;
            *settings = Settings { pairs: 1, offloads: 0, version };
        }
        link_untold.store(false, Ordering::Relaxed);
        peers.lock().clear();
        *events.lock() = None;
        shared.set_mac(*mac);
        idle.clear();
        *started = false;
    }
}
