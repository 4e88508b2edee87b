//! The seam between a network device and what carries its frames.

use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::VolatileSlice;

/// Length of `struct virtio_net_hdr_v1`, which precedes every frame in both directions (virtio 1.2, 5.1.6).
pub const VNET_HEADER_BYTES: usize = 12;

/// Why a network could not be opened or set up.
#[derive(Debug, thiserror::Error)]
#[error("network interface {name}: {operation}: {source}")]
pub struct NetError {
    /// The interface, as the user named it.
    pub name: String,
    /// What was tried.
    pub operation: String,
    /// Why it failed.
    pub source: io::Error,
}

/// Work that the guest leaves to us or takes from us: large frames and checksums (TUN_F_* of the kernel's TAP).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames without a checksum may be handed over.
    pub checksum: bool,
    /// TCP segmentation over IPv4.
    pub tso4: bool,
    /// TCP segmentation over IPv6.
    pub tso6: bool,
    /// TCP segments with explicit congestion notification.
    pub ecn: bool,
    /// UDP segmentation (USO).
    pub uso: bool,
}

/// One queue pair of a network.
pub trait NetBackend: Send {
    /// The most that the backend can do; constant.
    fn offloads(&self) -> Offloads;

    /// What the guest accepts in frames that it *receives*. Called before the first frame and after every reset.
    fn set_guest_offloads(&mut self, offloads: Offloads) -> Result<(), NetError>;

    /// Puts the next frame, virtio-net header first, into `buffers`. `None` when there is none now. A frame longer than
    /// the buffers is cut and counted as an error by the caller. `UnexpectedEof`: what carries the frames is gone for good, and
    /// so are the frames of every later call.
    fn receive(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<Option<usize>>;

    /// Sends one frame, virtio-net header first. `WouldBlock` when it has to be tried again once the descriptor is
    /// writable; any other error loses the frame.
    fn send(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<()>;

    /// Readable while frames wait to be received, writable while frames can be sent.
    fn ready_fd(&self) -> BorrowedFd<'_>;

    /// Takes part in the network or not: a queue pair that the driver does not use must get no frames. A backend starts
    /// enabled; the first pair is never disabled. While disabled, nothing is received, sent or waited for.
    fn set_enabled(&mut self, enabled: bool) -> Result<(), NetError>;
}
