//! The entropy source as the transport core and the machine see it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use platform::worker::WorkerHandle;

use super::DEVICE_ID;
use super::task::RngTask;
use crate::build::{BuildError, check_queue_size};
use crate::config_space;
use crate::counter::Counter;
use crate::device::{Activation, ActiveQueue, DeviceTraits, StartError, VirtioDevice};
use crate::running::Running;

/// What an entropy source is built from.
#[derive(Debug)]
pub struct RngConfig {
    /// A file that yields random bytes.
    pub source: PathBuf,
    /// Entries in the queue, a power of two.
    pub queue_size: u16,
    /// Who works on the queue.
    pub worker: WorkerHandle,
}

/// What an entropy source has done since it was built.
#[derive(Debug, Default)]
pub struct RngCounters {
    /// Requests that got bytes.
    pub requests: Counter,
    /// Bytes that they got.
    pub bytes: Counter,
}

/// An entropy source's counters. Any thread.
#[derive(Debug, Clone)]
pub struct RngHandle {
    counters: Arc<RngCounters>,
}

impl RngHandle {
    /// What the device has done.
    pub fn counters(&self) -> &RngCounters {
        &self.counters
    }
}

/// An entropy source.
pub struct Rng {
    traits: DeviceTraits,
    source: Arc<File>,
    counters: Arc<RngCounters>,
    worker: WorkerHandle,
    running: Running<RngTask>,
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rng").field("traits", &self.traits).finish_non_exhaustive()
    }
}

impl Rng {
    /// An entropy source that no driver uses yet.
    ///
    /// # Errors
    /// What is wrong with `config`, a source that can't be opened for one.
    pub fn build(config: RngConfig) -> Result<Self, BuildError> {
        let RngConfig { source: path, queue_size, worker } = config;
        check_queue_size(queue_size)?;
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let source = match File::options().read(true).custom_flags(nonblocking).open(&path) {
            Ok(file) => Arc::new(file),
            Err(source) => return Err(BuildError::Source { path, source }),
        };
        let traits = DeviceTraits {
            device_id: DEVICE_ID,
            features: 0,
            queue_sizes: vec![queue_size],
            config_bytes: 0,
        };
        Ok(Self { traits, source, counters: Arc::default(), worker, running: Running::new() })
    }

    /// A handle for counters.
    pub fn handle(&self) -> RngHandle {
        RngHandle { counters: Arc::clone(&self.counters) }
    }
}

impl VirtioDevice for Rng {
    fn traits(&self) -> &DeviceTraits {
        &self.traits
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        config_space::read(&[], offset, data);
    }

    fn write_config(&mut self, _offset: u32, _data: &[u8]) {}

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { memory, features: _, queues, events } = activation;
        for queue in queues {
            let task = RngTask::new(
                Arc::clone(&self.source),
                Arc::clone(&self.counters),
                queue,
                Arc::clone(&memory),
                Arc::clone(&events),
            );
            self.running.attach(&self.worker, task).map_err(|source| StartError {
                device_id: DEVICE_ID,
                what: "cannot attach the task".to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    fn request_stop(&mut self) {
        self.running.request_stop();
    }

    fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<ActiveQueue>> {
        let tasks = self.running.poll_stopped(patience)?;
        Some(tasks.into_iter().map(RngTask::into_queue).collect())
    }

    fn reset(&mut self) {
        let Self { traits: _, source: _, counters: _, worker: _, running } = self;
        *running = Running::new();
    }
}
