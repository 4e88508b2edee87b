//! The smallest device with a worker: answers each request with its own bytes, reversed. For tests of the transport, and to
//! read before writing a device.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use platform::worker::{Attached, Interest, Poller, Task, WorkerHandle};
use rustix::event::{EventfdFlags, eventfd};

use crate::device::{
    Activation, ActiveQueue, DeviceEvents, DeviceTraits, GuestMemory, StartError, VirtioDevice,
};
use crate::queue::{Chain, QueueFault};

/// A device ID that the specification leaves free.
const DEVICE_ID: u16 = 42;
/// Chains that one call of the worker serves.
const BATCH: usize = 32;
/// Length of the configuration: a number that the driver can write.
const CONFIG_BYTES: u32 = 8;

/// What a test can see of an [`EchoDevice`] and do to it.
#[derive(Debug)]
pub struct EchoControl {
    starts: AtomicUsize,
    resets: AtomicUsize,
    fail_start: AtomicBool,
    held: AtomicBool,
    released: OwnedFd,
}

impl EchoControl {
    /// How often the device was started.
    pub fn starts(&self) -> usize {
        self.starts.load(Ordering::SeqCst)
    }

    /// How often it was reset.
    pub fn resets(&self) -> usize {
        self.resets.load(Ordering::SeqCst)
    }

    /// Makes every start fail, or succeed again.
    pub fn fail_start(&self, fail: bool) {
        self.fail_start.store(fail, Ordering::SeqCst);
    }

    /// Makes the device claim that something is in flight.
    pub fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Ends that.
    pub fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
        rustix::io::write(&self.released, &1u64.to_ne_bytes()).expect("the eventfd takes a notification");
    }
}

/// Answers each request with its own bytes, reversed.
pub struct EchoDevice {
    traits: DeviceTraits,
    worker: WorkerHandle,
    control: Arc<EchoControl>,
    config: [u8; CONFIG_BYTES as usize],
    task: Option<Attached<EchoTask>>,
}

impl EchoDevice {
    /// A device with queues of these sizes, that works on `worker`.
    pub fn new(worker: WorkerHandle, queue_sizes: &[u16]) -> (Self, Arc<EchoControl>) {
        let released =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd can be made");
        let control = Arc::new(EchoControl {
            starts: AtomicUsize::new(0),
            resets: AtomicUsize::new(0),
            fail_start: AtomicBool::new(false),
            held: AtomicBool::new(false),
            released,
        });
        let traits = DeviceTraits {
            device_id: DEVICE_ID,
            features: 1,
            queue_sizes: queue_sizes.to_vec(),
            config_bytes: CONFIG_BYTES,
        };
        let config = [0; CONFIG_BYTES as usize];
        (Self { traits, worker, control: Arc::clone(&control), config, task: None }, control)
    }

    fn start_error(what: &str, source: io::Error) -> StartError {
        StartError { device_id: DEVICE_ID, what: what.to_owned(), source }
    }
}

impl VirtioDevice for EchoDevice {
    fn traits(&self) -> &DeviceTraits {
        &self.traits
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let offset = offset as usize;
        data.copy_from_slice(&self.config[offset..offset + data.len()]);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let offset = offset as usize;
        self.config[offset..offset + data.len()].copy_from_slice(data);
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        if self.control.fail_start.load(Ordering::SeqCst) {
            return Err(Self::start_error("starting as told to fail", io::Error::other("told to fail")));
        }
        let Activation { memory, features: _, queues, events } = activation;
        let broken = vec![false; queues.len()];
        let task =
            EchoTask { memory, queues, broken, events, control: Arc::clone(&self.control), leaving: false };
        let attached =
            self.worker.attach(task).map_err(|(_, error)| Self::start_error("attaching", error))?;
        self.control.starts.fetch_add(1, Ordering::SeqCst);
        self.task = Some(attached);
        Ok(())
    }

    fn request_stop(&mut self) {
        if let Some(task) = &mut self.task {
            task.request_detach();
        }
    }

    fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<ActiveQueue>> {
        let Some(task) = &mut self.task else { return Some(Vec::new()) };
        let task = task.take_within(patience)?;
        self.task = None;
        Some(task.queues)
    }

    fn reset(&mut self) {
        assert!(self.task.is_none(), "a device is stopped before it is reset");
        self.config = [0; CONFIG_BYTES as usize];
        self.control.resets.fetch_add(1, Ordering::SeqCst);
    }
}

/// What works on the queues.
struct EchoTask {
    memory: Arc<GuestMemory>,
    queues: Vec<ActiveQueue>,
    broken: Vec<bool>,
    events: Arc<dyn DeviceEvents>,
    control: Arc<EchoControl>,
    leaving: bool,
}

impl Task for EchoTask {
    fn watch(&mut self, poller: &mut Poller<'_>) -> io::Result<()> {
        poller.watch(&self.control.released, u16::MAX, Interest::ReadEdge)?;
        for (token, queue) in (0u16..).zip(&self.queues) {
            poller.watch(queue.kick.as_ref(), token, Interest::Read)?;
        }
        Ok(())
    }

    fn ready(&mut self, token: u16, _poller: &mut Poller<'_>) {
        let at = usize::from(token);
        if self.leaving || at >= self.queues.len() {
            return;
        }
        let queue = &mut self.queues[at];
        let _ = rustix::io::read(queue.kick.as_ref(), &mut [0; 8]);
        if self.broken[at] {
            return;
        }
        if serve(&self.memory, queue).is_err() {
            self.broken[at] = true;
            self.events.needs_reset();
        }
    }

    fn quiesce(&mut self, _poller: &mut Poller<'_>) -> bool {
        self.leaving = true;
        !self.control.held.load(Ordering::SeqCst)
    }
}

/// Serves what is available, up to a limit; what remains makes the eventfd ready again.
fn serve(memory: &GuestMemory, active: &mut ActiveQueue) -> Result<(), QueueFault> {
    let ActiveQueue { queue, interrupt, kick, .. } = active;
    for _ in 0..BATCH {
        let Some(chain) = queue.pop(memory)? else { break };
        let written = answer(memory, &chain)?;
        queue.complete(memory, chain, written)?;
    }
    if queue.enable_notifications(memory)? {
        let _ = rustix::io::write(kick.as_ref(), &1u64.to_ne_bytes());
    }
    if queue.wants_interrupt(memory)? {
        interrupt.signal();
    }
    Ok(())
}

/// Turns one request round; requests are cut to 4096 bytes, which bounds the buffer.
fn answer(memory: &GuestMemory, chain: &Chain) -> Result<u32, QueueFault> {
    let bytes = chain.readable_bytes().min(chain.writable_bytes()).min(4096);
    let mut data = vec![0; bytes as usize];
    chain.readable().read(memory, &mut data)?;
    data.reverse();
    chain.writable().write(memory, &data)?;
    Ok(bytes)
}
