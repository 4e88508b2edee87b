//! The driver's side of a split virtqueue (virtio 1.2, 2.7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes as _, GuestAddress};

use crate::device::GuestMemory;
use crate::queue::QueueLayout;

/// Flags of a descriptor.
pub mod flags {
    /// There is a next descriptor.
    pub const NEXT: u16 = 1;
    /// The device writes the buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// A descriptor, without any rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Address of the buffer.
    pub address: u64,
    /// Its length.
    pub bytes: u32,
    /// See [`flags`].
    pub flags: u16,
    /// Index of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    /// Stores the descriptor as entry `index` of the table at `table`.
    pub fn store(&self, memory: &GuestMemory, table: GuestAddress, index: u16) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&self.address.to_le_bytes());
        raw[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        raw[12..14].copy_from_slice(&self.flags.to_le_bytes());
        raw[14..].copy_from_slice(&self.next.to_le_bytes());
        memory
            .write_slice(&raw, GuestAddress(table.0 + 16 * u64::from(index)))
            .expect("the table is in guest memory");
    }
}

/// A buffer of a request: what the driver says or how much it wants to hear.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    /// Device-readable, with this content.
    Out(&'a [u8]),
    /// Device-writable, of so many bytes, filled with `0xa5` first.
    In(u32),
}

/// A chain that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// What [`DriverRing::add`] returned.
    pub head: u16,
    /// The length in the used ring.
    pub written: u32,
    /// Content of the writable buffers, joined, in whole (also what lies beyond `written`).
    pub data: Vec<u8>,
}

/// The driver's side of a queue.
#[derive(Debug)]
pub struct DriverRing {
    memory: Arc<GuestMemory>,
    layout: QueueLayout,
    event_index: bool,
    next_available: u16,
    last_used: u16,
    free: Vec<u16>,
    in_flight: BTreeMap<u16, Flight>,
}

#[derive(Debug)]
struct Flight {
    descriptors: Vec<u16>,
    inputs: Vec<(GuestAddress, u32)>,
}

impl DriverRing {
    /// Bytes that a queue of `size` takes, all areas together.
    pub fn bytes(size: u16) -> u64 {
        let size = u64::from(size);
        (16 * size + 2 * size + 6).next_multiple_of(4) + 8 * size + 6
    }

    /// A cleared queue at `base`, a multiple of 16, in guest memory.
    pub fn new(memory: Arc<GuestMemory>, base: u64, size: u16, event_index: bool) -> Self {
        let available = base + 16 * u64::from(size);
        let used = (available + 6 + 2 * u64::from(size)).next_multiple_of(4);
        let zeroes = vec![0; usize::try_from(Self::bytes(size)).expect("a queue is less than a mebibyte")];
        memory.write_slice(&zeroes, GuestAddress(base)).expect("the queue is in guest memory");
        let layout = QueueLayout {
            size,
            descriptors: GuestAddress(base),
            available: GuestAddress(available),
            used: GuestAddress(used),
        };
        Self {
            memory,
            layout,
            event_index,
            next_available: 0,
            last_used: 0,
            free: (0..size).rev().collect(),
            in_flight: BTreeMap::new(),
        }
    }

    /// Where it lies.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    /// Guest memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Stores a descriptor in the queue's own table, whatever it says.
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        descriptor.store(&self.memory, self.layout.descriptors, index);
    }

    /// Makes the chain that starts at `head` available, whatever it says.
    pub fn publish(&mut self, head: u16) {
        self.publish_all(&[head]);
    }

    /// Makes several chains available at once.
    pub fn publish_all(&mut self, heads: &[u16]) {
        for head in heads {
            let slot = u64::from(self.next_available % self.layout.size);
            let entry = GuestAddress(self.layout.available.0 + 4 + 2 * slot);
            self.memory.write_slice(&head.to_le_bytes(), entry).expect("the ring is in guest memory");
            self.next_available = self.next_available.wrapping_add(1);
        }
        self.set_available_index(self.next_available);
    }

    /// Writes the available index, whatever it says.
    pub fn set_available_index(&self, index: u16) {
        self.store(self.layout.available.0 + 2, index);
    }

    /// Writes the available ring's flags (1: no interrupts, please).
    pub fn set_available_flags(&self, flags: u16) {
        self.store(self.layout.available.0, flags);
    }

    /// Writes `used_event`: the used index after which an interrupt is wanted.
    pub fn set_used_event(&self, index: u16) {
        self.store(self.layout.available.0 + 4 + 2 * u64::from(self.layout.size), index);
    }

    /// The used index.
    pub fn used_index(&self) -> u16 {
        self.load(self.layout.used.0 + 2)
    }

    /// The used ring's flags (1: no notifications, please).
    pub fn used_flags(&self) -> u16 {
        self.load(self.layout.used.0)
    }

    /// `avail_event`: the available index after which the device wants a notification.
    pub fn available_event(&self) -> u16 {
        self.load(self.layout.used.0 + 4 + 8 * u64::from(self.layout.size))
    }

    /// Whether the device wants to be notified of chains made available since `before` (a former
    /// [`DriverRing::next_available`]).
    pub fn wants_kick(&self, before: u16) -> bool {
        fence(Ordering::SeqCst);
        if !self.event_index {
            return self.used_flags() & 1 == 0;
        }
        let moved = self.next_available.wrapping_sub(before);
        self.next_available.wrapping_sub(self.available_event()).wrapping_sub(1) < moved
    }

    /// The index of the next chain to be made available.
    pub fn next_available(&self) -> u16 {
        self.next_available
    }

    /// Chains that have not come back.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Makes a chain of `pieces` available, whose buffers come from `allocate` (bytes to address); returns its head.
    pub fn add(&mut self, pieces: &[Piece<'_>], mut allocate: impl FnMut(u32) -> GuestAddress) -> u16 {
        assert!(
            !pieces.is_empty() && pieces.len() <= self.free.len(),
            "no descriptors left for {} buffers",
            pieces.len()
        );
        let indices: Vec<u16> = self.free.split_off(self.free.len() - pieces.len());
        let mut inputs = Vec::new();
        for (place, piece) in pieces.iter().enumerate() {
            let bytes = piece_bytes(piece);
            let address = allocate(bytes);
            let next = indices.get(place + 1).copied();
            let write = fill_piece(&self.memory, piece, address, &mut inputs);
            let flags = write | if next.is_some() { flags::NEXT } else { 0 };
            self.set_descriptor(
                indices[place],
                Descriptor { address: address.0, bytes, flags, next: next.unwrap_or(0) },
            );
        }
        self.launch(indices, inputs)
    }

    /// As [`DriverRing::add`], with the buffers in an indirect table.
    pub fn add_indirect(
        &mut self,
        pieces: &[Piece<'_>],
        mut allocate: impl FnMut(u32) -> GuestAddress,
    ) -> u16 {
        let index = self.free.pop().expect("a descriptor is left");
        let bytes = u32::try_from(16 * pieces.len()).expect("a small table");
        let table = allocate(bytes);
        let mut inputs = Vec::new();
        for (place, piece) in (0u16..).zip(pieces) {
            let bytes = piece_bytes(piece);
            let address = allocate(bytes);
            let write = fill_piece(&self.memory, piece, address, &mut inputs);
            let last = usize::from(place) + 1 == pieces.len();
            let flags = write | if last { 0 } else { flags::NEXT };
            Descriptor { address: address.0, bytes, flags, next: place + 1 }.store(
                &self.memory,
                table,
                place,
            );
        }
        self.set_descriptor(index, Descriptor { address: table.0, bytes, flags: flags::INDIRECT, next: 0 });
        self.launch(vec![index], inputs)
    }

    fn launch(&mut self, descriptors: Vec<u16>, inputs: Vec<(GuestAddress, u32)>) -> u16 {
        let head = descriptors[0];
        self.in_flight.insert(head, Flight { descriptors, inputs });
        self.publish(head);
        head
    }

    /// The next chain that came back. Checks that it is one that was added.
    pub fn take_used(&mut self) -> Option<Used> {
        let index = self.used_index();
        fence(Ordering::SeqCst);
        if index == self.last_used {
            return None;
        }
        let slot = u64::from(self.last_used % self.layout.size);
        let mut raw = [0; 8];
        let entry = GuestAddress(self.layout.used.0 + 4 + 8 * slot);
        self.memory.read_slice(&mut raw, entry).expect("the ring is in guest memory");
        let [i0, i1, i2, i3, w0, w1, w2, w3] = raw;
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let written = u32::from_le_bytes([w0, w1, w2, w3]);
        let head = u16::try_from(id).expect("the used ring names a descriptor");
        let flight = self.in_flight.remove(&head).expect("the used ring names a chain in flight");
        self.free.extend(flight.descriptors);
        let mut data = Vec::new();
        for (address, bytes) in flight.inputs {
            let mut piece = vec![0; bytes as usize];
            self.memory.read_slice(&mut piece, address).expect("the buffer is in guest memory");
            data.extend(piece);
        }
        assert!(written as usize <= data.len(), "the device wrote {written} bytes into {}", data.len());
        self.last_used = self.last_used.wrapping_add(1);
        if self.event_index {
            self.set_used_event(self.last_used);
            fence(Ordering::SeqCst);
        }
        Some(Used { head, written, data })
    }

    fn store(&self, address: u64, value: u16) {
        self.memory
            .store(value.to_le(), GuestAddress(address), Ordering::SeqCst)
            .expect("the ring is in guest memory");
    }

    fn load(&self, address: u64) -> u16 {
        let value = self.memory.load::<u16>(GuestAddress(address), Ordering::SeqCst);
        u16::from_le(value.expect("the ring is in guest memory"))
    }
}

fn piece_bytes(piece: &Piece<'_>) -> u32 {
    match piece {
        Piece::Out(data) => u32::try_from(data.len()).expect("a buffer of a test is small"),
        Piece::In(bytes) => *bytes,
    }
}

/// Fills a buffer; returns its descriptor's direction flag.
fn fill_piece(
    memory: &GuestMemory,
    piece: &Piece<'_>,
    address: GuestAddress,
    inputs: &mut Vec<(GuestAddress, u32)>,
) -> u16 {
    match piece {
        Piece::Out(data) => {
            memory.write_slice(data, address).expect("the buffer is in guest memory");
            0
        }
        Piece::In(bytes) => {
            memory.write_slice(&vec![0xa5; *bytes as usize], address).expect("the buffer is in guest memory");
            inputs.push((address, *bytes));
            flags::WRITE
        }
    }
}
