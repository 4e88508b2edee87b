//! From the head of a chain to its buffers (virtio 1.2, 2.7.5).

use vm_memory::{Bytes as _, GuestAddress};

use super::layout::{DESCRIPTOR_BYTES, check_range};
use super::{Buffer, QueueFault, QueueLayout};
use crate::device::GuestMemory;

const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
const FLAG_INDIRECT: u16 = 4;

/// The most buffers in a chain that goes through an indirect table. The specification allows the queue's size, but Linux
/// fills indirect tables without regard to it. Stops a guest from making the device collect millions of buffers.
pub const MAX_INDIRECT_DESCRIPTORS: u16 = 1024;

/// A descriptor, copied out of guest memory in one go.
struct Descriptor {
    address: GuestAddress,
    bytes: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(memory: &GuestMemory, table: GuestAddress, index: u16) -> Result<Self, QueueFault> {
        let offset = DESCRIPTOR_BYTES * u64::from(index);
        let fault = QueueFault::OutsideMemory {
            what: "descriptor",
            address: table,
            bytes: offset + DESCRIPTOR_BYTES,
        };
        let address = GuestAddress(table.0.checked_add(offset).ok_or(fault)?);
        let mut raw = [0u8; 16];
        memory.read_slice(&mut raw, address).map_err(|_| fault)?;
        let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, f0, f1, n0, n1] = raw;
        Ok(Self {
            address: GuestAddress(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            bytes: u32::from_le_bytes([b0, b1, b2, b3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }
}

/// What a walk has found.
pub(super) struct Walked {
    /// How many of the buffers, from the first, are device-readable.
    pub(super) readable: usize,
    pub(super) readable_bytes: u32,
    pub(super) writable_bytes: u32,
}

/// Follows the chain that starts at `head` and appends its buffers to `buffers`, which is empty.
///
/// Takes at most `layout.size` steps in the ring's table and at most [`MAX_INDIRECT_DESCRIPTORS`] (or the queue's size,
/// if that is more) in all, whatever the table says.
pub(super) fn walk(
    memory: &GuestMemory,
    layout: &QueueLayout,
    indirect_allowed: bool,
    head: u16,
    buffers: &mut Vec<Buffer>,
) -> Result<Walked, QueueFault> {
    let mut table = layout.descriptors;
    let mut entries = u32::from(layout.size);
    let mut most = usize::from(layout.size);
    let mut in_indirect = false;
    let mut index = head;
    let mut found = Walked { readable: 0, readable_bytes: 0, writable_bytes: 0 };
    loop {
        if u32::from(index) >= entries {
            return Err(QueueFault::DescriptorIndex { index, entries });
        }
        if buffers.len() >= most {
            return Err(QueueFault::ChainLength { most: u32::try_from(most).unwrap_or(u32::MAX) });
        }
        let descriptor = Descriptor::read(memory, table, index)?;
        if descriptor.flags & FLAG_INDIRECT != 0 {
            if !indirect_allowed {
                return Err(QueueFault::IndirectNotNegotiated);
            }
            if in_indirect {
                return Err(QueueFault::NestedIndirect);
            }
            if descriptor.flags & FLAG_NEXT != 0 {
                return Err(QueueFault::IndirectWithNext);
            }
            let bytes = u64::from(descriptor.bytes);
            entries = descriptor.bytes / 16;
            if entries == 0 || !bytes.is_multiple_of(DESCRIPTOR_BYTES) {
                return Err(QueueFault::IndirectBytes { bytes: descriptor.bytes });
            }
            check_range(memory, "indirect table", descriptor.address, bytes)?;
            table = descriptor.address;
            most = most.max(usize::from(MAX_INDIRECT_DESCRIPTORS));
            in_indirect = true;
            index = 0;
            continue;
        }
        add_buffer(memory, &descriptor, buffers, &mut found)?;
        if descriptor.flags & FLAG_NEXT == 0 {
            return Ok(found);
        }
        index = descriptor.next;
    }
}

fn add_buffer(
    memory: &GuestMemory,
    descriptor: &Descriptor,
    buffers: &mut Vec<Buffer>,
    found: &mut Walked,
) -> Result<(), QueueFault> {
    let Descriptor { address, bytes, flags, .. } = *descriptor;
    if bytes == 0 {
        return Err(QueueFault::EmptyBuffer { address });
    }
    check_range(memory, "buffer", address, u64::from(bytes))?;
    let total = found.readable_bytes.checked_add(found.writable_bytes).and_then(|sum| sum.checked_add(bytes));
    if total.is_none() {
        return Err(QueueFault::ChainBytes);
    }
    if flags & FLAG_WRITE != 0 {
        found.writable_bytes += bytes;
    } else if found.writable_bytes != 0 {
        return Err(QueueFault::ReadableAfterWritable);
    } else {
        found.readable_bytes += bytes;
        found.readable += 1;
    }
    buffers.push(Buffer { address, bytes });
    Ok(())
}
