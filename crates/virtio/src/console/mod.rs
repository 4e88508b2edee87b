//! A console with ports (virtio 1.2, section 5.3).
//!
//! A [`Console`] has one character backend ([`platform::character`]) a port. The first port is a console (hvc0); others are
//! consoles too or, when they have a name, channels that the guest finds as /dev/virtio-ports/NAME. With one unnamed port
//! the device is a plain console without VIRTIO_CONSOLE_F_MULTIPORT, which needs no control queues. A driver that does
//! not accept that feature has the first port only.
//!
//! Output is handed to the backend as far as it takes it; the rest stays in the queue, and the guest waits, until there
//! is room. Input is taken from the backend as far as [`INPUT_BYTES`] allow, so it waits there while the guest has no
//! buffers or has not opened the port. What the device has to say on the control queue is kept as one bit for each message
//! and port, so a guest that asks without listening makes nothing grow.
//!
//! Trust: none in the guest. Threads: none of its own; [`ConsoleHandle`] may be used from any.

mod device;
mod port;
mod request;
mod task;
#[cfg(test)]
mod tests;

pub use device::{Console, ConsoleConfig, ConsoleHandle, PortConfig};
pub use port::{PortCounters, PortWatcher, WindowSize};

/// Virtio device ID (5.3.1).
pub const DEVICE_ID: u16 = 3;

/// VIRTIO_CONSOLE_F_SIZE: the window's size is told.
const FEATURE_SIZE: u64 = 1 << 0;
/// VIRTIO_CONSOLE_F_MULTIPORT: there are control queues and may be several ports.
const FEATURE_MULTIPORT: u64 = 1 << 1;

/// The most ports.
pub const MAX_PORTS: usize = 32;
/// The longest name of a port, in bytes: a Linux file name.
pub const MAX_NAME_BYTES: usize = 255;
/// Entries of every queue. Linux fills each receive queue with pages, so this costs the guest 256 KiB a port.
const QUEUE_SIZE: u16 = 64;

/// Input that is kept for a guest that has no buffers; more waits at the other end. Bounds what whoever is there can make
/// this process keep.
const INPUT_BYTES: usize = 4096;
/// Output is copied in pieces of so many bytes.
const PIECE_BYTES: usize = 4096;
/// Pieces, chains or messages that are dealt with in one go, so that a guest that prints without end does not keep the worker
/// from other devices.
const BATCH: usize = 64;

/// Queue to the guest with control messages (5.3.2).
const CONTROL_RX: u16 = 2;
/// Queue from the guest with control messages.
const CONTROL_TX: u16 = 3;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Input of a port.
    Input(usize),
    /// Output of a port.
    Output(usize),
    /// Control messages to the guest.
    ControlRx,
    /// Control messages from the guest.
    ControlTx,
}

/// What queue `index` is for: port 0 has the first pair, the control queues the second, port n the pair n + 1 (5.3.2).
fn role(index: u16) -> Role {
    let port = match index / 2 {
        0 => 0,
        pair => usize::from(pair) - 1,
    };
    match index {
        CONTROL_RX => Role::ControlRx,
        CONTROL_TX => Role::ControlTx,
        index if index.is_multiple_of(2) => Role::Input(port),
        _ => Role::Output(port),
    }
}
