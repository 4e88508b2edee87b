//! The driver: registers, initialization (virtio 1.2, 3.1.1) and requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use platform::pci::PciFunction as _;
use vm_memory::GuestAddress;

use super::{DriverRing, FakeDoorbells, FakeLine, FakeMsi, PATIENCE, Piece, Used, common};
use crate::device::{GuestMemory, VirtioDevice};
use crate::pci::{PciPlace, PciWires, VirtioPciFunction, place};
use crate::queue::FEATURE_EVENT_INDEX;
use crate::transport::{FEATURE_VERSION_1, status};

/// Where the function's BAR is.
const BAR_ADDRESS: u64 = 0xe000_0000;
/// Guest memory: 32 MiB in two regions side by side, so that buffers can cross from one to the other.
const MEMORY: [(GuestAddress, usize); 2] = [(GuestAddress(0), 16 << 20), (GuestAddress(16 << 20), 16 << 20)];
/// Rings and buffers come from here, upwards.
const HEAP: u64 = 0x1_0000;
const HEAP_END: u64 = 32 << 20;

/// Plays the guest for one device.
#[derive(Debug)]
pub struct FakeDriver {
    /// The device under test.
    pub function: VirtioPciFunction,
    /// Its memory.
    pub memory: Arc<GuestMemory>,
    /// Its MSI-X vectors: the configuration's is 0, queue n's is n + 1.
    pub msi: Arc<FakeMsi>,
    /// Its INTx line.
    pub line: Arc<FakeLine>,
    /// Its doorbells.
    pub doorbells: Arc<FakeDoorbells>,
    rings: BTreeMap<u16, DriverRing>,
    features: u64,
    heap: u64,
}

impl FakeDriver {
    /// Puts `device` on PCI with 32 MiB of guest memory, its BAR placed.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let memory = Arc::new(GuestMemory::from_ranges(&MEMORY).expect("guest memory can be mapped"));
        let (msi, line) = (Arc::<FakeMsi>::default(), Arc::<FakeLine>::default());
        let doorbells = Arc::<FakeDoorbells>::default();
        let wires = PciWires {
            memory: Arc::clone(&memory),
            msi: Arc::clone(&msi) as _,
            line: Arc::clone(&line) as _,
            doorbells: Arc::clone(&doorbells) as _,
        };
        let place = PciPlace { bar: Some(BAR_ADDRESS), interrupt_line: 11 };
        let function = VirtioPciFunction::new(device, wires, place).expect("the device fits on PCI");
        Self { function, memory, msi, line, doorbells, rings: BTreeMap::new(), features: 0, heap: HEAP }
    }

    /// Reads a register of the common configuration.
    pub fn read(&mut self, (offset, width): common::Register) -> u64 {
        let mut raw = [0; 8];
        self.function.read_bar(place::BAR, place::COMMON + offset, &mut raw[..width]);
        u64::from_le_bytes(raw)
    }

    /// Writes a register of the common configuration.
    pub fn write(&mut self, (offset, width): common::Register, value: u64) {
        self.write_bar(place::COMMON + offset, &value.to_le_bytes()[..width]);
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.function.write_bar(place::BAR, offset, data), platform::Effect::None);
    }

    /// Reads the device's status.
    pub fn status(&mut self) -> u8 {
        u8::try_from(self.read(common::STATUS)).expect("one byte")
    }

    /// Sets further bits of the status, as drivers do; returns what it became.
    pub fn add_status(&mut self, bits: u8) -> u8 {
        let status = self.status() | bits;
        self.write(common::STATUS, u64::from(status));
        self.status()
    }

    /// Resets the device and waits until it says that it is done.
    pub fn reset(&mut self) {
        self.write(common::STATUS, 0);
        self.wait_reset();
    }

    /// Waits until a reset that was begun is done.
    pub fn wait_reset(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.status() != 0 {
            assert!(Instant::now() < deadline, "the reset does not come to an end");
            std::thread::yield_now();
        }
        self.rings.clear();
        self.features = 0;
    }

    /// The features that the device offers.
    pub fn offered(&mut self) -> u64 {
        let mut features = 0;
        for half in [0, 1] {
            self.write(common::DEVICE_FEATURE_SELECT, half);
            features |= self.read(common::DEVICE_FEATURE) << (32 * half);
        }
        features
    }

    /// Resets the device and goes through initialization up to FEATURES_OK with those of `features` that are offered, and
    /// VERSION_1. Returns the result.
    pub fn negotiate(&mut self, features: u64) -> u64 {
        self.reset();
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        let accepted = self.offered() & (features | FEATURE_VERSION_1);
        for half in [0, 1] {
            self.write(common::DRIVER_FEATURE_SELECT, half);
            self.write(common::DRIVER_FEATURE, (accepted >> (32 * half)) & 0xffff_ffff);
        }
        assert_ne!(self.add_status(status::FEATURES_OK) & status::FEATURES_OK, 0, "the features are refused");
        self.features = accepted;
        accepted
    }

    /// Turns MSI-X on with vector 0 for the configuration and n + 1 for queue n.
    pub fn enable_msix(&mut self) {
        let capability = self.find_capability(0x11).expect("the function has MSI-X");
        let vectors = self.read(common::QUEUE_COUNT) + 1;
        for vector in 0..vectors {
            let entry = place::MSIX_TABLE + 16 * vector;
            self.write_bar(entry, &0xfee0_0000u64.to_le_bytes());
            self.write_bar(entry + 8, &(0x40 + vector).to_le_bytes());
        }
        let effect = self.function.write_config(capability + 2, &0x8000u16.to_le_bytes());
        assert_eq!(effect, platform::Effect::None);
        self.write(common::CONFIG_VECTOR, 0);
        assert_eq!(self.read(common::CONFIG_VECTOR), 0);
    }

    /// Offset of the first PCI capability with this ID.
    pub fn find_capability(&mut self, id: u8) -> Option<u16> {
        let mut at = [0];
        self.function.read_config(0x34, &mut at);
        // As many as fit into configuration space: a list with a loop ends the test.
        for _ in 0..64 {
            let here = u16::from(at[0]);
            let mut header = [0; 2];
            if here == 0 {
                return None;
            }
            self.function.read_config(here, &mut header);
            if header[0] == id {
                return Some(here);
            }
            at[0] = header[1];
        }
        panic!("the capability list has no end");
    }

    /// Sets up queue `index` with the size that the device offers, or `size` if that is less, and enables it.
    pub fn enable_queue(&mut self, index: u16, size: u16) {
        self.write(common::QUEUE_SELECT, u64::from(index));
        let most = u16::try_from(self.read(common::QUEUE_SIZE)).expect("two bytes");
        assert_ne!(most, 0, "there is no queue {index}");
        let size = size.min(most);
        let base = self.allocate(u32::try_from(DriverRing::bytes(size)).expect("small"), 4096);
        let event_index = self.features & FEATURE_EVENT_INDEX != 0;
        let ring = DriverRing::new(Arc::clone(&self.memory), base.0, size, event_index);
        let layout = ring.layout();
        self.rings.insert(index, ring);
        self.write(common::QUEUE_SIZE, u64::from(size));
        self.write(common::QUEUE_VECTOR, u64::from(index) + 1);
        self.write(common::QUEUE_DESCRIPTORS, layout.descriptors.0);
        self.write(common::QUEUE_AVAILABLE, layout.available.0);
        self.write(common::QUEUE_USED, layout.used.0);
        self.write(common::QUEUE_ENABLE, 1);
        assert_eq!(self.read(common::QUEUE_ENABLE), 1, "queue {index} can't be enabled");
    }

    /// Everything: negotiates, turns MSI-X on, enables every queue (of 256 entries at most) and sets DRIVER_OK. Returns the
    /// negotiated features.
    pub fn initialize(&mut self, features: u64) -> u64 {
        let features = self.negotiate(features);
        self.enable_msix();
        let queues = u16::try_from(self.read(common::QUEUE_COUNT)).expect("two bytes");
        for index in 0..queues {
            self.enable_queue(index, 256);
        }
        let status = self.add_status(status::DRIVER_OK);
        assert_eq!(status & status::NEEDS_RESET, 0, "the device can't be activated");
        features
    }

    /// The rings of a queue that is enabled.
    pub fn ring(&mut self, queue: u16) -> &mut DriverRing {
        self.rings.get_mut(&queue).expect("the queue is enabled")
    }

    /// Guest memory that nobody uses. Starts over when it is all used up.
    pub fn allocate(&mut self, bytes: u32, alignment: u64) -> GuestAddress {
        allocate(&mut self.heap, bytes, alignment)
    }

    /// Makes a chain available without notifying the device; returns its head.
    pub fn add(&mut self, queue: u16, pieces: &[Piece<'_>]) -> u16 {
        let heap = &mut self.heap;
        let ring = self.rings.get_mut(&queue).expect("the queue is enabled");
        ring.add(pieces, |bytes| allocate(heap, bytes, 1))
    }

    /// As [`FakeDriver::add`], with an indirect table.
    pub fn add_indirect(&mut self, queue: u16, pieces: &[Piece<'_>]) -> u16 {
        let heap = &mut self.heap;
        let ring = self.rings.get_mut(&queue).expect("the queue is enabled");
        ring.add_indirect(pieces, |bytes| allocate(heap, bytes, 16))
    }

    /// Notifies the device: by the doorbell where one is bound, as the kernel does, else by the register.
    pub fn kick(&mut self, queue: u16) {
        let offset = place::NOTIFY + u64::from(queue) * u64::from(place::NOTIFY_MULTIPLIER);
        if !self.doorbells.ring(BAR_ADDRESS + offset) {
            self.write_bar(offset, &queue.to_le_bytes());
        }
    }

    /// Waits for the next chain of `queue` to come back, by its interrupt (MSI-X).
    pub fn wait_used(&mut self, queue: u16) -> Used {
        loop {
            let before = self.msi.sent(queue + 1);
            if let Some(used) = self.ring(queue).take_used() {
                return used;
            }
            self.msi.wait_more(queue + 1, before);
        }
    }

    /// One request from start to end.
    pub fn request(&mut self, queue: u16, pieces: &[Piece<'_>]) -> Used {
        let head = self.add(queue, pieces);
        self.kick(queue);
        let used = self.wait_used(queue);
        assert_eq!(used.head, head, "another request was answered");
        used
    }

    /// Waits until the device says that it needs a reset.
    pub fn wait_needs_reset(&mut self) {
        let before = self.msi.sent(0);
        if self.status() & status::NEEDS_RESET == 0 {
            self.msi.wait_more(0, before);
        }
        assert_ne!(
            self.status() & status::NEEDS_RESET,
            0,
            "the configuration changed, but no reset is needed"
        );
    }

    /// Reads the device-specific configuration.
    pub fn read_config(&mut self, offset: u64, data: &mut [u8]) {
        // In pieces of four bytes at most, as a driver does.
        for (at, piece) in (0u64..).step_by(4).zip(data.chunks_mut(4)) {
            self.function.read_bar(place::BAR, place::DEVICE + offset + at, piece);
        }
    }

    /// Writes the device-specific configuration.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (at, piece) in (0u64..).step_by(4).zip(data.chunks(4)) {
            self.write_bar(place::DEVICE + offset + at, piece);
        }
    }

    /// Pauses the device as the VM driver does and waits for the pause to come into effect.
    pub fn pause(&mut self) {
        self.function.request_pause();
        let deadline = Instant::now() + PATIENCE;
        while !self.function.poll_paused() {
            assert!(Instant::now() < deadline, "the pause does not come into effect");
            std::thread::yield_now();
        }
    }

    /// Ends a pause.
    pub fn resume(&mut self) {
        assert!(self.function.resume().expect("the device starts again"), "the device was not paused");
    }
}

fn allocate(heap: &mut u64, bytes: u32, alignment: u64) -> GuestAddress {
    let bytes = u64::from(bytes);
    let mut start = heap.next_multiple_of(alignment);
    if start + bytes > HEAP_END {
        start = HEAP.next_multiple_of(alignment);
    }
    assert!(start + bytes <= HEAP_END, "guest memory is too small for {bytes} bytes");
    *heap = start + bytes;
    GuestAddress(start)
}
