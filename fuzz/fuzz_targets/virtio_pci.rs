//! A virtio device on PCI and a guest that does anything: registers of any width, rings and buffers of any content, resets and
//! pauses at any moment. The device works on its own thread meanwhile.
//!
//! Held true: nothing panics, on the device's thread either; no register asks anything of the machine; doorbells are bound once
//! and unbound as they were bound (the fake asserts it); whatever was done, a pause comes into effect, and a reset comes to an
//! end and leaves the status 0.
#![no_main]

mod devices;

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use platform::pci::{DeviceFunction, PciFunction as _, PciRoot};
use platform::worker::Worker;
use platform::{Bus, Effect};
use virtio::device::GuestMemory;
use virtio::pci::{PciPlace, PciWires, VirtioPciFunction};
use virtio::testing::common::{self, Register};
use virtio::testing::{Descriptor, DriverRing, FakeDoorbells, FakeLine, FakeMsi};
use vm_memory::{Bytes as _, GuestAddress};

use self::devices::MEMORY_BYTES;

const BAR: u64 = 0xe000_0000;
const NOTIFY: u64 = 0x3000;
const PLACE: DeviceFunction = DeviceFunction::device_zero(1);
/// Where the rings of queue n begin: at n times this.
const RING_STRIDE: u64 = 0x400;
const QUEUE_SIZE: u16 = 16;
/// A wait that takes longer has no end.
const PATIENCE: Duration = Duration::from_secs(8);

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    // Joined at the end, after the guest is gone: whatever the device still does belongs to this input.
    let worker = Worker::spawn("fuzz").expect("a thread");
    let (device, _other_end) = devices::device(input.arbitrary()?, worker.handle());
    let mut guest = Guest::new(device);
    let result = steps(&mut guest, input);
    guest.reset();
    result
}

fn steps(guest: &mut Guest, input: &mut Unstructured<'_>) -> Result<()> {
    while !input.is_empty() {
        match input.int_in_range(0..=15u8)? {
            0..=3 => {
                let (address, width) = (BAR + register(input)?, input.int_in_range(1..=8usize)?);
                let value = input.arbitrary::<u64>()?.to_le_bytes();
                assert_eq!(guest.memory_bus.write(address, &value[..width]), Effect::None);
            }
            4 => {
                let (address, width) = (BAR + register(input)?, input.int_in_range(1..=8usize)?);
                guest.memory_bus.read(address, &mut [0; 8][..width]);
            }
            5 => {
                let (offset, width) = (input.int_in_range(0..=0xffu16)?, input.int_in_range(1..=4usize)?);
                let value = input.arbitrary::<u32>()?.to_le_bytes();
                assert_eq!(guest.root.write_config(PLACE, offset, &value[..width]), Effect::None);
                guest.root.read_config(PLACE, offset, &mut [0; 4][..width]);
            }
            6 => {
                let at = u64::from(input.arbitrary::<u16>()?);
                guest
                    .memory
                    .write_slice(&input.arbitrary::<u64>()?.to_le_bytes(), GuestAddress(at))
                    .expect("RAM");
            }
            7 | 8 => guest.start(input.arbitrary()?),
            9..=13 => guest.request(input)?,
            14 => guest.pause(),
            _ => guest.reset(),
        }
    }
    Ok(())
}

/// An offset into the BAR, mostly where something is.
fn register(input: &mut Unstructured<'_>) -> Result<u64> {
    let (start, bytes) = *input.choose(&[
        (0, 0x40),
        (0, 0x40),
        (0x1000, 4),
        (0x2000, 0x40),
        (0x2000, 0x1000),
        (NOTIFY, 0x20),
        (0x4000, 0x80),
        (0x7000, 8),
        (0, 0x8000),
    ])?;
    Ok(start + u64::from(input.arbitrary::<u16>()?) % bytes)
}

struct Guest {
    memory_bus: Arc<Bus>,
    root: Arc<PciRoot>,
    function: Arc<Mutex<VirtioPciFunction>>,
    memory: Arc<GuestMemory>,
    doorbells: Arc<FakeDoorbells>,
    rings: Vec<DriverRing>,
}

impl Guest {
    fn new(device: Box<dyn virtio::device::VirtioDevice>) -> Self {
        let memory =
            GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES as usize)]).expect("guest memory");
        let (memory, doorbells) = (Arc::new(memory), Arc::<FakeDoorbells>::default());
        let wires = PciWires {
            memory: Arc::clone(&memory),
            msi: Arc::<FakeMsi>::default(),
            line: Arc::<FakeLine>::default(),
            doorbells: Arc::clone(&doorbells) as _,
        };
        let place = PciPlace { bar: Some(BAR), interrupt_line: 11 };
        let function = VirtioPciFunction::new(device, wires, place).expect("a function");
        let function = Arc::new(Mutex::new(function));
        let memory_bus = Arc::new(Bus::new());
        let root = PciRoot::new(Arc::clone(&memory_bus), None);
        root.insert(PLACE, Arc::clone(&function) as _).expect("a free slot");
        Self { memory_bus, root, function, memory, doorbells, rings: Vec::new() }
    }

    fn write(&self, (offset, width): Register, value: u64) {
        let effect = self.function.lock().write_bar(0, offset, &value.to_le_bytes()[..width]);
        assert_eq!(effect, Effect::None);
    }

    fn read(&self, (offset, width): Register) -> u64 {
        let mut raw = [0; 8];
        self.function.lock().read_bar(0, offset, &mut raw[..width]);
        u64::from_le_bytes(raw)
    }

    fn reset(&mut self) {
        self.write(common::STATUS, 0);
        let deadline = Instant::now() + PATIENCE;
        while self.read(common::STATUS) != 0 {
            assert!(Instant::now() < deadline, "the reset does not come to an end");
            std::thread::yield_now();
        }
        self.rings.clear();
    }

    /// What a driver does up to DRIVER_OK, with these of the features that are offered.
    fn start(&mut self, features: u64) {
        self.reset();
        // Memory decoding and bus mastering are on, as a driver leaves them.
        let _ = self.root.write_config(PLACE, 4, &[6]);
        for status in [1, 3] {
            self.write(common::STATUS, status);
        }
        for half in [0, 1] {
            self.write(common::DEVICE_FEATURE_SELECT, half);
            let offered = self.read(common::DEVICE_FEATURE);
            self.write(common::DRIVER_FEATURE_SELECT, half);
            self.write(common::DRIVER_FEATURE, offered & (features >> (32 * half) | half));
        }
        self.write(common::STATUS, 11);
        for queue in 0..self.read(common::QUEUE_COUNT) {
            let ring = DriverRing::new(Arc::clone(&self.memory), queue * RING_STRIDE, QUEUE_SIZE, false);
            let layout = ring.layout();
            self.rings.push(ring);
            self.write(common::QUEUE_SELECT, queue);
            self.write(common::QUEUE_SIZE, u64::from(QUEUE_SIZE));
            self.write(common::QUEUE_VECTOR, queue + 1);
            self.write(common::QUEUE_DESCRIPTORS, layout.descriptors.0);
            self.write(common::QUEUE_AVAILABLE, layout.available.0);
            self.write(common::QUEUE_USED, layout.used.0);
            self.write(common::QUEUE_ENABLE, 1);
        }
        self.write(common::STATUS, 15);
    }

    /// Up to three descriptors, made available and told to the device.
    fn request(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.rings.is_empty() {
            return Ok(());
        }
        let queue = input.choose_index(self.rings.len())?;
        let ring = &mut self.rings[queue];
        let first = u16::from(input.arbitrary::<u8>()?) % QUEUE_SIZE;
        let count = input.int_in_range(1..=4u16)?;
        for step in 0..count {
            let more = if step + 1 < count { 1 } else { 0 };
            let flags = u16::from(input.arbitrary::<u8>()?);
            let flags = if flags < 240 { flags & 2 | more } else { flags };
            let descriptor = Descriptor {
                address: 0x8000 + u64::from(input.arbitrary::<u16>()?),
                bytes: *input.choose(&[1, 2, 4, 8, 16, 20, 512, 1024, 4096, 0, u32::MAX])?,
                flags,
                next: (first + step + 1) % QUEUE_SIZE,
            };
            if step == 0 && input.arbitrary()? {
                // The head of a disk's request or a console's or interface's command: small numbers.
                let mut head = [0; 16];
                head[0] = input.arbitrary::<u8>()? % 16;
                head[4] = input.arbitrary::<u8>()? % 8;
                head[8] = input.arbitrary()?;
                self.memory.write_slice(&head, GuestAddress(descriptor.address)).ok();
            }
            ring.set_descriptor((first + step) % QUEUE_SIZE, descriptor);
        }
        ring.publish(first);
        let address = BAR + NOTIFY + 4 * queue as u64;
        if !self.doorbells.ring(address) {
            assert_eq!(self.memory_bus.write(address, &(queue as u16).to_le_bytes()), Effect::None);
        }
        Ok(())
    }

    /// Pauses and goes on, as the machine's driver does.
    fn pause(&mut self) {
        self.function.lock().request_pause();
        let deadline = Instant::now() + PATIENCE;
        while !self.function.lock().poll_paused() {
            assert!(Instant::now() < deadline, "the pause does not come into effect");
            std::thread::yield_now();
        }
        self.function.lock().resume().expect("the host has what the device needs");
    }
}
