//! What a driver can do wrong with a virtqueue.

use vm_memory::GuestAddress;

/// A rule of the virtqueue that the driver broke. The queue can't go on: the device tells
/// [`crate::device::DeviceEvents::needs_reset`] and touches the queue no more (virtio 1.2, 2.1.2).
///
/// Section numbers are those of virtio 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueFault {
    /// The size is zero, no power of two or larger than the device allows (2.7).
    #[error("queue size {size} is no power of two between 1 and {most}")]
    Size {
        /// What the driver asked for.
        size: u16,
        /// The device's limit.
        most: u16,
    },
    /// One of the three areas is not aligned (2.7).
    #[error("{area} at {address:#x} is not aligned to {alignment} bytes", address = address.0)]
    Alignment {
        /// The area's name in the specification.
        area: &'static str,
        /// Its address.
        address: GuestAddress,
        /// What the specification asks for.
        alignment: u64,
    },
    /// Something lies, wholly or in part, outside guest memory or wraps around the end of the address space.
    #[error("{what} at {address:#x} ({bytes} bytes) is not in guest memory", address = address.0)]
    OutsideMemory {
        /// What lies there.
        what: &'static str,
        /// Where it starts.
        address: GuestAddress,
        /// How long it is.
        bytes: u64,
    },
    /// The available index ran ahead of the device by more than the queue's size (2.7.6).
    #[error("available index {index} is more than {size} ahead of {next}")]
    AvailableIndex {
        /// The index that the driver wrote.
        index: u16,
        /// The next entry that the device would take.
        next: u16,
        /// Size of the queue.
        size: u16,
    },
    /// The driver made more chains available than the queue has descriptors, without waiting for their completion (2.7.6).
    #[error("more than {size} chains in flight")]
    TooManyInFlight {
        /// Size of the queue.
        size: u16,
    },
    /// A descriptor index is not below the table's length (2.7.5).
    #[error("descriptor {index} in a table of {entries}")]
    DescriptorIndex {
        /// The index.
        index: u16,
        /// Entries of the table.
        entries: u32,
    },
    /// A chain has a loop, or more descriptors than a chain may have (2.7.5.1).
    #[error("chain of more than {most} descriptors")]
    ChainLength {
        /// The most descriptors that this chain may have.
        most: u32,
    },
    /// A chain's buffers add up to more than 2^32 - 1 bytes (2.7.5.1).
    #[error("chain of 2^32 bytes or more")]
    ChainBytes,
    /// A buffer of no bytes.
    #[error("empty buffer at {address:#x}", address = address.0)]
    EmptyBuffer {
        /// Its address.
        address: GuestAddress,
    },
    /// A device-readable buffer follows a device-writable one (2.7.4.2).
    #[error("readable buffer after a writable one")]
    ReadableAfterWritable,
    /// An indirect descriptor although VIRTIO_F_INDIRECT_DESC was not negotiated (2.7.5.3.1).
    #[error("indirect descriptor without the feature")]
    IndirectNotNegotiated,
    /// An indirect descriptor in an indirect table (2.7.5.3.1).
    #[error("indirect descriptor in an indirect table")]
    NestedIndirect,
    /// An indirect descriptor with a successor (2.7.5.3.1).
    #[error("indirect descriptor with a next descriptor")]
    IndirectWithNext,
    /// An indirect table whose length is no positive multiple of a descriptor's (2.7.5.3).
    #[error("indirect table of {bytes} bytes")]
    IndirectBytes {
        /// The length.
        bytes: u32,
    },
    /// A chain is too short for what the device has to read from it or write to it.
    #[error("chain has {available} bytes left where {needed} are needed")]
    TooShort {
        /// Bytes that the device needs.
        needed: usize,
        /// Bytes that are left.
        available: u32,
    },
    /// A saved state whose indices are further apart than the queue is long.
    #[error(
        "saved queue has taken {next_available} and completed {next_used} chains, more than {size} apart"
    )]
    State {
        /// Next entry of the available ring to take.
        next_available: u16,
        /// Next entry of the used ring to fill.
        next_used: u16,
        /// Size of the queue.
        size: u16,
    },
}
