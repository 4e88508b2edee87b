//! The balloon as the transport core and the machine see it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use platform::timer;
use platform::worker::WorkerHandle;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::statistics::Statistics;
use super::task::BalloonTask;
use super::{
    DEVICE_ID, FEATURE_DEFLATE_ON_OOM, FEATURE_REPORTING, FEATURE_STATISTICS, HostPages, PAGE_BYTES,
    QUEUE_SIZE, Role, role,
};
use crate::config_space;
use crate::counter::Counter;
use crate::device::{
    Activation, ActiveQueue, DeviceEvents, DeviceTraits, GuestMemory, StartError, VirtioDevice,
};
use crate::running::{Running, wake};

/// `struct virtio_balloon_config` (5.5.4): `num_pages` and `actual`. What follows belongs to features that are not offered.
const CONFIG_BYTES: u32 = 8;
/// Where `actual` lies.
const ACTUAL: u32 = 4;

/// What a balloon is built from.
pub struct BalloonConfig {
    /// How the host gets pages.
    pub pages: Arc<dyn HostPages>,
    /// Guest memory, which bounds the balloon.
    pub memory: Arc<GuestMemory>,
    /// How large the balloon is to be, in bytes; rounded down to pages and at most as large as guest memory.
    pub target_bytes: u64,
    /// The driver may take pages out when the guest runs out of memory.
    pub deflate_on_oom: bool,
    /// The driver may report free pages.
    pub free_page_reporting: bool,
    /// How often figures are asked for; zero: only by [`BalloonHandle::request_statistics`].
    pub statistics_period: Duration,
    /// Called when the driver has said that the balloon has another size, on whichever thread that was seen, with the function's
    /// lock held; then not again before [`BalloonHandle::take_change`] was.
    pub changed: Option<Box<dyn Fn() + Send + Sync>>,
    /// Who works on the queues.
    pub worker: WorkerHandle,
}

impl std::fmt::Debug for BalloonConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BalloonConfig").field("target_bytes", &self.target_bytes).finish_non_exhaustive()
    }
}

/// What a balloon has done since it was built.
#[derive(Debug, Default)]
pub struct BalloonCounters {
    /// Pages that were put in; one that is put in twice counts twice.
    pub inflated_pages: Counter,
    /// Pages that were taken out.
    pub deflated_pages: Counter,
    /// Bytes that were reported free.
    pub reported_bytes: Counter,
    /// Page numbers that are not of guest memory.
    pub refused_pages: Counter,
    /// Times that the host did not take pages.
    pub errors: Counter,
}

/// What device, task and handles have in common.
pub(super) struct Shared {
    /// How many pages the host wants (`num_pages`).
    target: AtomicU32,
    /// How many the driver says that it has given (`actual`).
    actual: AtomicU32,
    /// How many there are.
    memory_pages: u32,
    /// The target was set while nobody could tell the driver.
    target_untold: AtomicBool,
    /// Who hears of another size, and whether they have not looked since.
    changed: Option<Box<dyn Fn() + Send + Sync>>,
    change_untaken: AtomicBool,
    /// How often figures are asked for; held for a copy, or while the timer is set.
    statistics_period: Mutex<Duration>,
    pub(super) counters: BalloonCounters,
    /// Held for a copy only.
    pub(super) statistics: Mutex<Option<Statistics>>,
    /// The next figures are to be asked for.
    pub(super) statistics_wanted: AtomicBool,
    /// The buffer that comes next is one whose figures have been taken.
    pub(super) statistics_known: AtomicBool,
    /// Held for a clone or a store only.
    wires: Mutex<Wires>,
}

/// How a driver and the task are reached while they are there.
#[derive(Default)]
struct Wires {
    events: Option<Arc<dyn DeviceEvents>>,
    statistics: Option<Arc<OwnedFd>>,
    timer: Option<Arc<OwnedFd>>,
}

impl Shared {
    /// Has figures asked for, unless new ones arrive before that.
    pub(super) fn request_statistics(&self) {
        self.statistics_wanted.store(true, Ordering::Relaxed);
        let kick = self.wires.lock().statistics.clone();
        if let Some(kick) = kick {
            wake(&kick);
        }
    }

    fn set_actual(&self, pages: u32) {
        let before = self.actual.swap(pages, Ordering::Relaxed);
        if before != pages
            && let Some(changed) = &self.changed
            && !self.change_untaken.swap(true, Ordering::AcqRel)
        {
            changed();
        }
    }

    fn pages_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX).min(self.memory_pages)
    }
}

/// A balloon, for whoever sets its size or asks about it. Any thread.
#[derive(Clone)]
pub struct BalloonHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for BalloonHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BalloonHandle")
            .field("target_bytes", &self.target_bytes())
            .field("actual_bytes", &self.actual_bytes())
            .finish_non_exhaustive()
    }
}

impl BalloonHandle {
    /// How large the balloon is to be, in bytes.
    pub fn target_bytes(&self) -> u64 {
        u64::from(self.shared.target.load(Ordering::Relaxed)) * PAGE_BYTES
    }

    /// Sets how large the balloon is to be, in bytes, and tells the driver; rounded down to pages and at most as large as
    /// guest memory. Not to be called with the function's lock held.
    pub fn set_target(&self, bytes: u64) {
        self.shared.target.store(self.shared.pages_of(bytes), Ordering::Relaxed);
        self.shared.target_untold.store(true, Ordering::Relaxed);
        self.tell_target();
    }

    /// Tells the driver a target that was set while the device was paused. Not to be called with the function's lock held.
    pub fn tell_target(&self) {
        // The guard is dropped at the end of this statement: the core may take locks of its own.
        let events = self.shared.wires.lock().events.clone();
        if let Some(events) = events
            && self.shared.target_untold.swap(false, Ordering::Relaxed)
        {
            events.config_changed();
        }
    }

    /// How large the balloon is after a change, in bytes; the next change is told again.
    pub fn take_change(&self) -> u64 {
        self.shared.change_untaken.store(false, Ordering::Release);
        self.actual_bytes()
    }

    /// Sets how often figures are asked for from now on; zero: only by [`BalloonHandle::request_statistics`].
    pub fn set_statistics_period(&self, period: Duration) {
        let mut current = self.shared.statistics_period.lock();
        *current = period;
        let timer = self.shared.wires.lock().timer.clone();
        if let Some(timer) = timer {
            timer::set(&*timer, period, period);
        }
    }

    /// How large the balloon is, in bytes, by what its driver says; at most as large as guest memory.
    pub fn actual_bytes(&self) -> u64 {
        let pages = self.shared.actual.load(Ordering::Relaxed).min(self.shared.memory_pages);
        u64::from(pages) * PAGE_BYTES
    }

    /// The newest figures; `None` until a driver has told any.
    pub fn statistics(&self) -> Option<Statistics> {
        *self.shared.statistics.lock()
    }

    /// Asks the driver for new figures, which arrive when it has them. Returns at once.
    pub fn request_statistics(&self) {
        self.shared.request_statistics();
    }

    /// What the device has done.
    pub fn counters(&self) -> &BalloonCounters {
        &self.shared.counters
    }
}

/// A balloon.
pub struct Balloon {
    traits: DeviceTraits,
    shared: Arc<Shared>,
    pages: Arc<dyn HostPages>,
    worker: WorkerHandle,
    running: Running<BalloonTask>,
    /// Queues that the driver has enabled and that have no use.
    idle: Vec<ActiveQueue>,
}

impl std::fmt::Debug for Balloon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balloon").field("traits", &self.traits).finish_non_exhaustive()
    }
}

impl Balloon {
    /// A balloon that no driver uses yet.
    pub fn new(config: BalloonConfig) -> Self {
        let BalloonConfig {
            pages,
            memory,
            target_bytes,
            deflate_on_oom,
            free_page_reporting,
            statistics_period,
            changed,
            worker,
        } = config;
        let offered = [
            (true, FEATURE_STATISTICS),
            (deflate_on_oom, FEATURE_DEFLATE_ON_OOM),
            (free_page_reporting, FEATURE_REPORTING),
        ];
        let traits = DeviceTraits {
            device_id: DEVICE_ID,
            features: offered.into_iter().filter(|(on, _)| *on).map(|(_, feature)| feature).sum(),
            queue_sizes: vec![QUEUE_SIZE; if free_page_reporting { 5 } else { 3 }],
            config_bytes: CONFIG_BYTES,
        };
        let bytes: u64 = memory.iter().map(|region| region.len()).sum();
        let shared = Shared {
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            memory_pages: u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX),
            target_untold: AtomicBool::new(false),
            changed,
            change_untaken: AtomicBool::new(false),
            statistics_period: Mutex::new(statistics_period),
            counters: BalloonCounters::default(),
            statistics: Mutex::new(None),
            statistics_wanted: AtomicBool::new(false),
            statistics_known: AtomicBool::new(false),
            wires: Mutex::default(),
        };
        shared.target.store(shared.pages_of(target_bytes), Ordering::Relaxed);
        Self { traits, shared: Arc::new(shared), pages, worker, running: Running::new(), idle: Vec::new() }
    }

    /// A handle for size, figures and counters.
    pub fn handle(&self) -> BalloonHandle {
        BalloonHandle { shared: Arc::clone(&self.shared) }
    }
}

impl VirtioDevice for Balloon {
    fn traits(&self) -> &DeviceTraits {
        &self.traits
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let mut space = [0; CONFIG_BYTES as usize];
        let (target, actual) = space.split_at_mut(ACTUAL as usize);
        target.copy_from_slice(&self.shared.target.load(Ordering::Relaxed).to_le_bytes());
        actual.copy_from_slice(&self.shared.actual.load(Ordering::Relaxed).to_le_bytes());
        config_space::read(&space, offset, data);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        // The function's lock is held, so nobody else writes.
        let mut actual = self.shared.actual.load(Ordering::Relaxed).to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            let place = at.checked_sub(ACTUAL).and_then(|at| usize::try_from(at).ok());
            if let Some(place) = place.and_then(|at| actual.get_mut(at)) {
                *place = *byte;
            }
        }
        self.shared.set_actual(u32::from_le_bytes(actual));
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { memory, features, queues, events } = activation;
        let error = |what: &str| {
            let what = what.to_owned();
            move |source| StartError { device_id: DEVICE_ID, what, source }
        };
        let mut used = Vec::new();
        for queue in queues {
            match role(queue.index, features) {
                Some(role) => used.push((queue, role)),
                None => self.idle.push(queue),
            }
        }
        let statistics = used.iter().find(|(_, role)| *role == Role::Statistics);
        let statistics = statistics.map(|(queue, _)| Arc::clone(&queue.kick));
        // Without a period it stands still until there is one.
        let timer = statistics.is_some().then(timer::idle).transpose();
        let (timer, failed) = match timer {
            Ok(timer) => (timer.map(Arc::new), None),
            Err(source) => (None, Some(source)),
        };
        {
            let period = self.shared.statistics_period.lock();
            if let Some(timer) = timer.as_ref().filter(|_| !period.is_zero()) {
                timer::set(&**timer, *period, *period);
            }
            let (events, timer) = (Some(Arc::clone(&events)), timer.clone());
            *self.shared.wires.lock() = Wires { events, statistics, timer };
        }
        let task =
            BalloonTask::new(Arc::clone(&self.shared), Arc::clone(&self.pages), memory, events, used, timer);
        // Attached in any case, so that the queues come back.
        self.running.attach(&self.worker, task).map_err(error("cannot attach the task"))?;
        failed.map_or(Ok(()), |source| Err(error("cannot make a timer")(source)))
    }

    fn request_stop(&mut self) {
        self.running.request_stop();
    }

    fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<ActiveQueue>> {
        let tasks = self.running.poll_stopped(patience)?;
        *self.shared.wires.lock() = Wires::default();
        let mut queues = std::mem::take(&mut self.idle);
        queues.extend(tasks.into_iter().flat_map(BalloonTask::into_queues));
        Some(queues)
    }

    fn reset(&mut self) {
        let Self { traits: _, shared, pages, worker: _, running, idle } = self;
        let Shared {
            target: _,
            actual: _,
            memory_pages: _,
            target_untold,
            changed: _,
            change_untaken: _,
            statistics_period: _,
            counters: _,
            statistics,
            statistics_wanted,
            statistics_known,
            wires,
        } = &**shared;
        shared.set_actual(0);
        // The next driver reads it anyway.
        target_untold.store(false, Ordering::Relaxed);
        *statistics.lock() = None;
        statistics_wanted.store(false, Ordering::Relaxed);
        statistics_known.store(false, Ordering::Relaxed);
        *wires.lock() = Wires::default();
        pages.take_all_again();
        *running = Running::new();
        idle.clear();
    }
}
