//! The disk as the transport core and the machine see it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use block_io::{BlockBackend, BlockError};
use parking_lot::Mutex;
use platform::worker::WorkerHandle;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::request::Limits;
use super::task::BlockTask;
use super::{
    DEVICE_ID, FEATURE_BLK_SIZE, FEATURE_CONFIG_WCE, FEATURE_DISCARD, FEATURE_FLUSH, FEATURE_MQ, FEATURE_RO,
    FEATURE_SEG_MAX, FEATURE_TOPOLOGY, FEATURE_WRITE_ZEROES, MAX_PHYSICAL_BLOCK_BYTES, MAX_QUEUES,
    MAX_RANGE_SECTORS, MAX_RANGES, MAX_SEGMENTS, SECTOR_BYTES, SERIAL_BYTES,
};
use crate::build::{BuildError, check_count, check_queue_size, check_text};
use crate::config_space;
use crate::counter::Counter;
use crate::device::{Activation, ActiveQueue, DeviceEvents, DeviceTraits, StartError, VirtioDevice};
use crate::running::Running;

/// `struct virtio_blk_config` (5.2.4) as far as the offered features reach.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ConfigSpace {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    cylinders: U16,
    heads: u8,
    sectors: u8,
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

/// Where `writeback` is.
const CONFIG_WRITEBACK: u32 = 32;
const CONFIG_BYTES: u32 = 60;
const _: () = assert!(size_of::<ConfigSpace>() == CONFIG_BYTES as usize);
const _: () = assert!(std::mem::offset_of!(ConfigSpace, writeback) == CONFIG_WRITEBACK as usize);

/// What a disk is built from.
pub struct BlockConfig {
    /// What stores the blocks.
    pub backend: Arc<dyn BlockBackend>,
    /// Number of virtqueues.
    pub queues: u16,
    /// Entries in each, a power of two.
    pub queue_size: u16,
    /// Serial number that the guest sees, at most [`SERIAL_BYTES`] bytes.
    pub serial: String,
    /// Whether storage may be given back where the backend can: by discards, and by zeroes where the driver allows it.
    pub discard: bool,
    /// Who works on the queues: queue i on worker i modulo their number. At least one.
    pub workers: Vec<WorkerHandle>,
    /// Where it counts: on, when another disk has counted there before (a machine that reboots has new devices).
    pub counters: Arc<BlockCounters>,
}

impl std::fmt::Debug for BlockConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockConfig").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// What a disk has done, and the ones before it that counted in the same place.
#[derive(Debug, Default)]
pub struct BlockCounters {
    /// Reads that succeeded.
    pub reads: Counter,
    /// Bytes that they transferred.
    pub read_bytes: Counter,
    /// Time from taking each of them to its completion, summed up.
    pub read_nanoseconds: Counter,
    /// Writes that succeeded.
    pub writes: Counter,
    /// Bytes that they transferred.
    pub write_bytes: Counter,
    /// Time from taking each of them to its completion, summed up.
    pub write_nanoseconds: Counter,
    /// Flushes that succeeded.
    pub flushes: Counter,
    /// Time from taking each of them to its completion, summed up.
    pub flush_nanoseconds: Counter,
    /// Discard requests that succeeded.
    pub discards: Counter,
    /// Write-zeroes requests that succeeded.
    pub write_zeroes: Counter,
    /// Requests that were answered with an error, the guest's malformed and unsupported ones included.
    pub errors: Counter,
}

/// What the device, its tasks and its handles share.
pub(super) struct Shared {
    pub(super) backend: Arc<dyn BlockBackend>,
    pub(super) counters: Arc<BlockCounters>,
    pub(super) serial: [u8; SERIAL_BYTES],
    /// Storage may be given back.
    pub(super) discard: bool,
    /// Writes are completed only once they are on stable storage.
    pub(super) durable_writes: AtomicBool,
    /// In bytes, as last told to the driver.
    capacity: AtomicU64,
    /// Who to tell about a change; set while the device runs. Held for a clone or a store only.
    events: Mutex<Option<Arc<dyn DeviceEvents>>>,
}

/// A running or stopped disk, for whoever resizes it or reads its counters. Any thread.
#[derive(Clone)]
pub struct BlockHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for BlockHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockHandle").field("counters", &self.shared.counters).finish_non_exhaustive()
    }
}

impl BlockHandle {
    /// Changes the size of the disk, in bytes, and tells the driver. Not to be called with the function's lock held.
    ///
    /// # Errors
    /// Why the backend can't.
    pub fn resize(&self, bytes: u64) -> Result<(), BlockError> {
        self.shared.backend.resize(bytes)?;
        self.resized();
        Ok(())
    }

    /// Size of the disk in bytes, as the driver was last told.
    pub fn capacity(&self) -> u64 {
        self.shared.capacity.load(Ordering::Acquire)
    }

    /// The backend's capacity has changed: the configuration space shows it from now on and the driver is told. Not to be
    /// called with the function's lock held.
    pub fn resized(&self) {
        self.shared.capacity.store(self.shared.backend.capacity(), Ordering::Release);
        // The guard is dropped at the end of this statement: the core may take locks of its own.
        let events = self.shared.events.lock().clone();
        if let Some(events) = events {
            events.config_changed();
        }
    }

    /// What the disk has done.
    pub fn counters(&self) -> &BlockCounters {
        &self.shared.counters
    }
}

/// A disk.
pub struct Block {
    traits: DeviceTraits,
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    running: Running<BlockTask>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("traits", &self.traits).finish_non_exhaustive()
    }
}

impl Block {
    /// A disk that no driver uses yet. The backend is asked for its properties; its queues are opened by `start`.
    ///
    /// # Errors
    /// What is wrong with `config`.
    pub fn build(config: BlockConfig) -> Result<Self, BuildError> {
        let BlockConfig { backend, queues, queue_size, serial: text, discard, workers, counters } = config;
        check_queue_size(queue_size)?;
        check_count("disk queues", usize::from(queues), 1, usize::from(MAX_QUEUES))?;
        check_count("workers of a disk", workers.len(), 1, usize::MAX)?;
        check_text("serial number", &text, SERIAL_BYTES)?;
        let mut serial = [0; SERIAL_BYTES];
        for (to, from) in serial.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        let traits = DeviceTraits {
            device_id: DEVICE_ID,
            features: offered_features(backend.as_ref(), queues, discard),
            queue_sizes: vec![queue_size; usize::from(queues)],
            config_bytes: CONFIG_BYTES,
        };
        let shared = Shared {
            capacity: AtomicU64::new(backend.capacity()),
            backend,
            counters,
            serial,
            discard,
            durable_writes: AtomicBool::new(false),
            events: Mutex::new(None),
        };
        Ok(Self { traits, shared: Arc::new(shared), workers, running: Running::new() })
    }

    /// A handle for resizing and counters.
    pub fn handle(&self) -> BlockHandle {
        BlockHandle { shared: Arc::clone(&self.shared) }
    }

    fn config_space(&self) -> ConfigSpace {
        let geometry = self.shared.backend.geometry();
        // A cluster of an image is no physical block to a guest: file systems and databases refuse or waste such sizes.
        let logical = geometry.logical_block_bytes;
        let physical = geometry.physical_block_bytes.min(MAX_PHYSICAL_BLOCK_BYTES).max(logical);
        let blocks = (physical / logical.max(1)).max(1);
        let queue_size = self.traits.queue_sizes.first().copied().unwrap_or(0);
        let discard_sectors = u64::from(geometry.discard_bytes).div_ceil(SECTOR_BYTES);
        let queues = self.traits.queue_sizes.len();
        ConfigSpace {
            capacity: U64::new(self.shared.capacity.load(Ordering::Acquire) / SECTOR_BYTES),
            size_max: U32::new(0),
            seg_max: U32::new(u32::from(queue_size.saturating_sub(2).min(MAX_SEGMENTS))),
            cylinders: U16::new(0),
            heads: 0,
            sectors: 0,
            blk_size: U32::new(logical),
            physical_block_exp: u8::try_from(blocks.ilog2()).unwrap_or(0),
            alignment_offset: 0,
            min_io_size: U16::new(u16::try_from(blocks).unwrap_or(0)),
            opt_io_size: U32::new(0),
            writeback: u8::from(
                self.shared.backend.write_cache() && !self.shared.durable_writes.load(Ordering::Relaxed),
            ),
            unused0: 0,
            num_queues: U16::new(u16::try_from(queues).unwrap_or(MAX_QUEUES)),
            max_discard_sectors: U32::new(MAX_RANGE_SECTORS),
            max_discard_seg: U32::new(MAX_RANGES),
            discard_sector_alignment: U32::new(u32::try_from(discard_sectors).unwrap_or(0)),
            max_write_zeroes_sectors: U32::new(MAX_RANGE_SECTORS),
            max_write_zeroes_seg: U32::new(MAX_RANGES),
            write_zeroes_may_unmap: u8::from(self.shared.discard && geometry.discard_bytes != 0),
            unused1: [0; 3],
        }
    }

    fn start_queue(
        &mut self,
        active: ActiveQueue,
        features: u64,
        activation: &Common,
    ) -> Result<(), StartError> {
        let index = active.index;
        let failed = |what: &str, source| StartError {
            device_id: DEVICE_ID,
            what: format!("{what} of queue {index}"),
            source,
        };
        let depth = u32::from(active.queue.layout().size);
        let io = self
            .shared
            .backend
            .open_queue(depth)
            .map_err(|error| failed("cannot open the disk's side", io::Error::other(error)))?;
        let read_only = if self.shared.backend.read_only() { FEATURE_RO } else { 0 };
        let block_bytes = u64::from(self.shared.backend.geometry().logical_block_bytes).max(SECTOR_BYTES);
        let limits = Limits { features: features | read_only, block_bytes };
        let Common { memory, events } = activation;
        let task = BlockTask::new(
            Arc::clone(&self.shared),
            limits,
            active,
            io,
            Arc::clone(memory),
            Arc::clone(events),
        );
        // `build` made sure that there is a worker.
        let worker = &self.workers[usize::from(index) % self.workers.len()];
        self.running.attach(worker, task).map_err(|error| failed("cannot attach the task", error))
    }
}

/// What all queues of an activation share.
struct Common {
    memory: Arc<crate::device::GuestMemory>,
    events: Arc<dyn DeviceEvents>,
}

fn offered_features(backend: &dyn BlockBackend, queues: u16, discard: bool) -> u64 {
    let mut features = FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_TOPOLOGY;
    if queues > 1 {
        features |= FEATURE_MQ;
    }
    if backend.write_cache() {
        // The cache is switched by making every write durable, which every backend can.
        features |= FEATURE_FLUSH | FEATURE_CONFIG_WCE;
    }
    if backend.read_only() {
        features |= FEATURE_RO;
    } else {
        features |= FEATURE_WRITE_ZEROES;
        if discard && backend.geometry().discard_bytes != 0 {
            features |= FEATURE_DISCARD;
        }
    }
    features
}

impl VirtioDevice for Block {
    fn traits(&self) -> &DeviceTraits {
        &self.traits
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        config_space::read(self.config_space().as_bytes(), offset, data);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        // `writeback` is the only field that a driver may write, and only if the cache can be switched (5.2.5.1).
        if offset == CONFIG_WRITEBACK
            && let [writeback] = data
            && self.traits.features & FEATURE_CONFIG_WCE != 0
        {
            self.shared.durable_writes.store(*writeback == 0, Ordering::Relaxed);
        }
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { memory, features, queues, events } = activation;
        if self.traits.features & FEATURE_FLUSH != 0 && features & FEATURE_FLUSH == 0 {
            // A driver that never flushes expects every completed write to be stable (5.2.6.2).
            self.shared.durable_writes.store(true, Ordering::Relaxed);
        }
        *self.shared.events.lock() = Some(Arc::clone(&events));
        let common = Common { memory, events };
        for queue in queues {
            if let Err(error) = self.start_queue(queue, features, &common) {
                self.request_stop();
                return Err(error);
            }
        }
        Ok(())
    }

    fn request_stop(&mut self) {
        self.running.request_stop();
    }

    fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<ActiveQueue>> {
        let tasks = self.running.poll_stopped(patience)?;
        *self.shared.events.lock() = None;
        Some(tasks.into_iter().map(BlockTask::into_queue).collect())
    }

    fn reset(&mut self) {
        // Capacity and counters are the host's, not the driver's.
        let Self { traits: _, shared, workers: _, running } = self;
        let Shared { backend: _, counters: _, serial: _, discard: _, durable_writes, capacity: _, events } =
            &**shared;
        durable_writes.store(false, Ordering::Relaxed);
        *events.lock() = None;
        *running = Running::new();
    }
}
