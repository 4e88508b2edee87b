//! Where a guest's Ethernet frames go: TAP, a stream to a process of the user's (passt), a loopback for tests, a
//! decorator that captures to pcap.
//!
//! A [`NetBackend`] is one queue pair's worth of a network: frames in, frames out, none of them buffered here. Every frame
//! starts with a virtio-net header ([`VNET_HEADER_BYTES`]); the backend carries it to the kernel where that understands it
//! (offloads) and otherwise makes it say "nothing to do". Frames come from a guest: their content is not trusted, only
//! their length is looked at.

pub mod backend;
pub mod capture;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod loopback;
pub mod passt;
pub mod stream;
pub mod tap;
mod vectors;

pub use backend::{NetBackend, NetError, Offloads, VNET_HEADER_BYTES};
pub use capture::{Capture, CaptureFile};
pub use loopback::Loopback;
pub use stream::Stream;
pub use tap::{Tap, TapOptions};
