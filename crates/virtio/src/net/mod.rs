//! A network interface (virtio 1.2, section 5.1).
//!
//! A [`Net`] has one [`net_io::NetBackend`] for each queue pair and works on each pair with a task of its own: received
//! frames go from the backend straight into the guest's buffers ([`receive`]), sent ones straight from them ([`send`]).
//! The control queue ([`control`]) has a task too; what the driver changes there takes effect in every pair before the
//! command is acknowledged. The virtio-net header at the front of every frame is the backend's to interpret.
//!
//! Back-pressure: a frame that the backend can't take now waits in its queue until the backend is writable. While the
//! guest has no buffers, frames wait in the backend, whose own limit is the bound. The device filters nothing: it is
//! promiscuous whatever the driver asks for, which 5.1.6.5.1 allows.
//!
//! Trust: none in the guest; frames and headers are passed on unseen, only lengths are looked at.
//!
//! Threads: none of its own; [`NetHandle`] may be used from any.

mod control;
mod device;
mod receive;
mod request;
mod send;
mod task;
#[cfg(test)]
mod tests;

pub use device::{Net, NetConfig, NetCounters, NetHandle};

use net_io::{Offloads, VNET_HEADER_BYTES};

/// Virtio device ID (5.1.1).
pub const DEVICE_ID: u16 = 1;

/// VIRTIO_NET_F_CSUM: the device takes frames without a checksum.
const FEATURE_CSUM: u64 = 1 << 0;
/// VIRTIO_NET_F_GUEST_CSUM: the driver does.
const FEATURE_GUEST_CSUM: u64 = 1 << 1;
/// VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: the driver may switch the GUEST features.
const FEATURE_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// VIRTIO_NET_F_MTU: the largest packet is told.
const FEATURE_MTU: u64 = 1 << 3;
/// VIRTIO_NET_F_MAC: the MAC address is told.
const FEATURE_MAC: u64 = 1 << 5;
/// VIRTIO_NET_F_GUEST_TSO4.
const FEATURE_GUEST_TSO4: u64 = 1 << 7;
/// VIRTIO_NET_F_GUEST_TSO6.
const FEATURE_GUEST_TSO6: u64 = 1 << 8;
/// VIRTIO_NET_F_GUEST_ECN.
const FEATURE_GUEST_ECN: u64 = 1 << 9;
/// VIRTIO_NET_F_HOST_TSO4.
const FEATURE_HOST_TSO4: u64 = 1 << 11;
/// VIRTIO_NET_F_HOST_TSO6.
const FEATURE_HOST_TSO6: u64 = 1 << 12;
/// VIRTIO_NET_F_HOST_ECN.
const FEATURE_HOST_ECN: u64 = 1 << 13;
/// VIRTIO_NET_F_MRG_RXBUF: a received frame may take several buffers.
const FEATURE_MRG_RXBUF: u64 = 1 << 15;
/// VIRTIO_NET_F_STATUS: the link's state is told.
const FEATURE_STATUS: u64 = 1 << 16;
/// VIRTIO_NET_F_CTRL_VQ: there is a control queue.
const FEATURE_CTRL_VQ: u64 = 1 << 17;
/// VIRTIO_NET_F_CTRL_RX: it takes receive modes.
const FEATURE_CTRL_RX: u64 = 1 << 18;
/// VIRTIO_NET_F_MQ: there are several queue pairs.
const FEATURE_MQ: u64 = 1 << 22;
/// VIRTIO_NET_F_CTRL_MAC_ADDR: the control queue takes a MAC address.
const FEATURE_CTRL_MAC_ADDR: u64 = 1 << 23;
/// VIRTIO_NET_F_GUEST_USO4 (virtio 1.3, 5.1.3).
const FEATURE_GUEST_USO4: u64 = 1 << 54;
/// VIRTIO_NET_F_GUEST_USO6 (virtio 1.3).
const FEATURE_GUEST_USO6: u64 = 1 << 55;
/// VIRTIO_NET_F_HOST_USO (virtio 1.3).
const FEATURE_HOST_USO: u64 = 1 << 56;

/// The features that VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET may switch, at the same bits (5.1.6.5.6).
const GUEST_OFFLOAD_FEATURES: u64 = FEATURE_GUEST_CSUM
    | FEATURE_GUEST_TSO4
    | FEATURE_GUEST_TSO6
    | FEATURE_GUEST_ECN
    | FEATURE_GUEST_USO4
    | FEATURE_GUEST_USO6;

/// The most queue pairs.
pub const MAX_QUEUE_PAIRS: u16 = 64;
/// Entries of the control queue.
const CONTROL_QUEUE_SIZE: u16 = 64;
/// Smallest MTU (5.1.4, as RFC 791 has it).
const MIN_MTU: u16 = 68;

/// Length of the virtio-net header; frames are counted without it.
#[expect(clippy::cast_possible_truncation, reason = "it is 12")]
const HEADER_BYTES: u32 = VNET_HEADER_BYTES as u32;
/// Ethernet header and a VLAN tag.
const LINK_BYTES: u32 = 14 + 4;
/// The longest frame, with segmentation left to the receiver, virtio-net header included. Stops a guest from making the
/// host's kernel copy a chain of gigabytes.
const MAX_FRAME_BYTES: u32 = HEADER_BYTES + LINK_BYTES + 65535;

/// Frames that are received or sent in one go, so that a flood does not keep the worker from other devices.
const BATCH: usize = 64;

/// What the device tells the backend that the guest accepts, given GUEST features.
fn guest_offloads(features: u64) -> Offloads {
    let has = |feature| features & feature != 0;
    let checksum = has(FEATURE_GUEST_CSUM);
    let tso4 = checksum && has(FEATURE_GUEST_TSO4);
    let tso6 = checksum && has(FEATURE_GUEST_TSO6);
    Offloads {
        checksum,
        tso4,
        tso6,
        ecn: (tso4 || tso6) && has(FEATURE_GUEST_ECN),
        // The backend knows one switch for both address families.
        uso: checksum && has(FEATURE_GUEST_USO4) && has(FEATURE_GUEST_USO6),
    }
}

/// The features that a backend makes possible, in both directions.
fn offload_features(offloads: Offloads) -> u64 {
    let Offloads { checksum, tso4, tso6, ecn, uso } = offloads;
    if !checksum {
        return 0;
    }
    let mut features = FEATURE_CSUM | FEATURE_GUEST_CSUM | FEATURE_CTRL_GUEST_OFFLOADS;
    for (on, pair) in [
        (tso4, FEATURE_GUEST_TSO4 | FEATURE_HOST_TSO4),
        (tso6, FEATURE_GUEST_TSO6 | FEATURE_HOST_TSO6),
        (ecn && (tso4 || tso6), FEATURE_GUEST_ECN | FEATURE_HOST_ECN),
        (uso, FEATURE_GUEST_USO4 | FEATURE_GUEST_USO6 | FEATURE_HOST_USO),
    ] {
        if on {
            features |= pair;
        }
    }
    features
}
