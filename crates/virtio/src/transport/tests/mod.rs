//! The core with a device that does as the test says, and no transport.

mod lifecycle;
mod random;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use vm_memory::GuestAddress;

use super::*;
use crate::device::{Activation, ActiveQueue, StartError};

const FEATURE_OF_DEVICE: u64 = 1 << 5;
const QUEUE_SIZES: [u16; 2] = [16, 64];
const NEGOTIATED: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;

/// What the device was told and what it is to answer.
#[derive(Default)]
struct Script {
    /// The activation that the device holds while it runs.
    running: Option<Activation>,
    stop_requested: bool,
    /// Answers `poll_stopped` only when it is asked with patience.
    slow: bool,
    /// Never answers `poll_stopped`.
    stuck: bool,
    /// How often `poll_stopped` was asked with patience.
    patient_polls: u32,
    fail_start: bool,
    starts: u32,
    resets: u32,
    config: [u8; 4],
}

/// A device without a worker that follows a script.
struct Scripted {
    traits: DeviceTraits,
    script: Arc<Mutex<Script>>,
}

impl VirtioDevice for Scripted {
    fn traits(&self) -> &DeviceTraits {
        &self.traits
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        let offset = offset as usize;
        data.copy_from_slice(&self.script.lock().config[offset..offset + data.len()]);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let offset = offset as usize;
        self.script.lock().config[offset..offset + data.len()].copy_from_slice(data);
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let mut script = self.script.lock();
        assert!(script.running.is_none(), "a device is started only when it is stopped");
        if script.fail_start {
            let source = std::io::Error::other("told to fail");
            return Err(StartError { device_id: 0, what: "starting".to_owned(), source });
        }
        script.starts += 1;
        script.stop_requested = false;
        script.running = Some(activation);
        Ok(())
    }

    fn request_stop(&mut self) {
        let mut script = self.script.lock();
        assert!(script.running.is_some(), "only a running device is asked to stop");
        script.stop_requested = true;
    }

    fn poll_stopped(&mut self, patience: Duration) -> Option<Vec<ActiveQueue>> {
        let mut script = self.script.lock();
        assert!(script.stop_requested, "a device is asked to stop before it is polled");
        script.patient_polls += u32::from(!patience.is_zero());
        if script.stuck || script.slow && patience.is_zero() {
            return None;
        }
        // In any order: here the last first.
        script.running.take().map(|activation| activation.queues.into_iter().rev().collect())
    }

    fn reset(&mut self) {
        let mut script = self.script.lock();
        assert!(script.running.is_none(), "a device is stopped before it is reset");
        script.resets += 1;
        script.config = [0; 4];
    }
}

#[derive(Default)]
struct Count {
    config: AtomicU32,
    queue: AtomicU32,
}

impl Interrupts for Count {
    fn queue(&self, _index: u16) {
        self.queue.fetch_add(1, Ordering::SeqCst);
    }
    fn config(&self) {
        self.config.fetch_add(1, Ordering::SeqCst);
    }
}

struct Bench {
    transport: Transport,
    script: Arc<Mutex<Script>>,
    interrupts: Arc<Count>,
}

impl Bench {
    fn new() -> Self {
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
        let script = Arc::<Mutex<Script>>::default();
        let interrupts = Arc::<Count>::default();
        let traits = DeviceTraits {
            device_id: 42,
            features: FEATURE_OF_DEVICE,
            queue_sizes: QUEUE_SIZES.to_vec(),
            config_bytes: 4,
        };
        let device = Scripted { traits, script: Arc::clone(&script) };
        let transport = Transport::new(Box::new(device), memory, Arc::clone(&interrupts) as _);
        Self { transport, script, interrupts }
    }

    fn negotiate(&mut self) {
        let transport = &mut self.transport;
        transport.write_status(status::ACKNOWLEDGE | status::DRIVER);
        transport.write_driver_features(FeatureHalf::High, 1);
        transport.write_status(NEGOTIATED);
        assert_eq!(transport.read_status(), NEGOTIATED);
    }

    fn enable(&mut self, index: u16) {
        let base = 0x1000 + 0x4000 * u64::from(index);
        self.transport.configure_queue(index, |queue| {
            queue.descriptors = base;
            queue.available = base + 0x1000;
            queue.used = base + 0x2000;
        });
        self.transport.enable_queue(index);
        assert!(self.transport.queue(index).unwrap().enabled());
    }

    fn start(&mut self) {
        self.negotiate();
        self.enable(0);
        self.enable(1);
        self.transport.write_status(NEGOTIATED | status::DRIVER_OK);
    }

    fn status(&mut self) -> u8 {
        self.transport.read_status()
    }
}

#[test]
fn the_status_takes_steps_in_order_only() {
    let (a, d, f, o) = (status::ACKNOWLEDGE, status::DRIVER, status::FEATURES_OK, status::DRIVER_OK);
    for (current, wanted, allowed) in [
        (0, a, true),
        (0, a | d, true),
        (0, d, false),
        (0, f, false),
        (0, o, false),
        (0, status::FAILED, true),
        (a, a | d, true),
        (a, a | o, false),
        (a, d, false),
        (a | d, a | d | f, true),
        (a | d, a | d | o, false),
        (a | d, a, false),
        (a | d | f, a | d | f | o, true),
        (a | d | f, a | d | o, false),
        (a | d | f | o, a | d | f | o | status::FAILED, true),
        (a | d | f | o, a | d | f, false),
    ] {
        assert_eq!(status::follows(current, wanted), allowed, "{current:#x} to {wanted:#x}");
    }
    let mut bench = Bench::new();
    for wrong in [d, f, o, a | o, a | f] {
        bench.transport.write_status(wrong);
        assert_eq!(bench.status(), 0, "{wrong:#x}");
    }
    // Reserved bits and the device's own are not the driver's to set.
    bench.transport.write_status(a | status::NEEDS_RESET | 0x30);
    assert_eq!(bench.status(), a);
}

#[test]
fn features_that_are_not_offered_are_refused() {
    for (low, high) in [(1 << 6, 1), (0, 0), (u32::try_from(FEATURE_OF_DEVICE).unwrap(), 0), (0, 1 | 1 << 8)]
    {
        let mut bench = Bench::new();
        bench.transport.write_status(status::ACKNOWLEDGE | status::DRIVER);
        bench.transport.write_driver_features(FeatureHalf::Low, low);
        bench.transport.write_driver_features(FeatureHalf::High, high);
        bench.transport.write_status(NEGOTIATED | status::DRIVER_OK);
        assert_eq!(bench.status(), status::ACKNOWLEDGE | status::DRIVER, "{low:#x} {high:#x}");
        assert_eq!(bench.script.lock().starts, 0);
        // The driver may choose again.
        bench.transport.write_driver_features(FeatureHalf::Low, u32::try_from(FEATURE_OF_DEVICE).unwrap());
        bench.transport.write_driver_features(FeatureHalf::High, 1);
        bench.transport.write_status(NEGOTIATED);
        assert_eq!(bench.status(), NEGOTIATED);
    }
}

#[test]
fn the_core_adds_its_features_to_those_of_the_device() {
    let bench = Bench::new();
    let low = FEATURE_OF_DEVICE | FEATURE_EVENT_INDEX | FEATURE_INDIRECT_DESCRIPTORS;
    assert_eq!(u64::from(bench.transport.device_features(FeatureHalf::Low)), low);
    assert_eq!(bench.transport.device_features(FeatureHalf::High), 1);
    assert_eq!(bench.transport.device_features(FeatureHalf::None), 0);
}

#[test]
fn features_are_frozen_by_features_ok() {
    let mut bench = Bench::new();
    bench.negotiate();
    bench.transport.write_driver_features(FeatureHalf::Low, 0xffff_ffff);
    bench.transport.write_driver_features(FeatureHalf::High, 0);
    assert_eq!(bench.transport.driver_features(FeatureHalf::Low), 0);
    assert_eq!(bench.transport.driver_features(FeatureHalf::High), 1);
}

#[test]
fn an_enabled_queue_is_frozen() {
    let mut bench = Bench::new();
    bench.negotiate();
    bench.enable(0);
    let before = *bench.transport.queue(0).unwrap();
    bench.transport.configure_queue(0, |queue| queue.descriptors = 0x5000);
    assert_eq!(*bench.transport.queue(0).unwrap(), before);
    bench.transport.configure_queue(1, |queue| queue.size = 8);
    assert_eq!(bench.transport.queue(1).unwrap().size, 8);
}

#[test]
fn every_queue_is_frozen_while_the_device_runs() {
    let mut bench = Bench::new();
    bench.negotiate();
    bench.enable(0);
    bench.transport.write_status(NEGOTIATED | status::DRIVER_OK);
    let before = *bench.transport.queue(1).unwrap();
    bench.transport.configure_queue(1, |queue| {
        queue.descriptors = 0x1000;
        queue.available = 0x2000;
        queue.used = 0x3000;
    });
    bench.transport.enable_queue(1);
    assert_eq!(*bench.transport.queue(1).unwrap(), before);
    let script = bench.script.lock();
    let queues: Vec<u16> = script.running.as_ref().unwrap().queues.iter().map(|queue| queue.index).collect();
    assert_eq!(queues, [0]);
}

#[test]
fn a_queue_that_does_not_exist_can_be_neither_read_nor_changed() {
    let mut bench = Bench::new();
    bench.negotiate();
    for index in [2, 100, u16::MAX] {
        assert_eq!(bench.transport.queue(index), None);
        bench.transport.configure_queue(index, |_| panic!("there is nothing to change"));
        bench.transport.enable_queue(index);
        bench.transport.kick(index);
    }
    assert_eq!(bench.status(), NEGOTIATED);
}

#[test]
fn a_queue_outside_memory_is_not_enabled_and_the_device_needs_a_reset() {
    let mut bench = Bench::new();
    bench.negotiate();
    bench.transport.configure_queue(0, |queue| queue.used = 1 << 20);
    bench.transport.enable_queue(0);
    assert!(!bench.transport.queue(0).unwrap().enabled());
    assert_eq!(bench.status(), NEGOTIATED | status::NEEDS_RESET);
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 0, "no interrupts before DRIVER_OK");
    bench.transport.write_status(NEGOTIATED | status::DRIVER_OK);
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 1);
}

#[test]
fn a_queue_larger_than_the_device_allows_is_not_enabled() {
    let mut bench = Bench::new();
    bench.negotiate();
    for size in [0, 3, 32] {
        bench.transport.configure_queue(0, |queue| queue.size = size);
        bench.transport.enable_queue(0);
        assert!(!bench.transport.queue(0).unwrap().enabled(), "{size}");
    }
}

#[test]
fn configuration_accesses_are_cut_to_its_length() {
    let mut bench = Bench::new();
    bench.transport.write_config(2, &[1, 2, 3, 4]);
    bench.transport.write_config(4, &[9]);
    bench.transport.write_config(u32::MAX, &[9]);
    assert_eq!(bench.script.lock().config, [0, 0, 1, 2]);
    let mut data = [0xff; 4];
    bench.transport.read_config(3, &mut data);
    assert_eq!(data, [2, 0, 0, 0]);
    data = [0xff; 4];
    bench.transport.read_config(u32::MAX, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn a_change_of_the_configuration_moves_the_generation_and_interrupts_a_ready_driver() {
    let mut bench = Bench::new();
    let events = bench.transport.events();
    let before = bench.transport.config_generation();
    events.config_changed();
    assert_eq!(bench.transport.config_generation(), before.wrapping_add(1));
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 0);
    bench.start();
    events.config_changed();
    assert_eq!(bench.transport.config_generation(), before.wrapping_add(2));
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 1);
}

#[test]
fn a_broken_device_interrupts_once() {
    let mut bench = Bench::new();
    bench.start();
    let events = bench.transport.events();
    for _ in 0..3 {
        events.needs_reset();
    }
    assert_eq!(bench.status(), NEGOTIATED | status::DRIVER_OK | status::NEEDS_RESET);
    assert_eq!(bench.interrupts.config.load(Ordering::SeqCst), 1);
    bench.transport.write_status(0);
    assert_eq!(bench.status(), 0);
}
