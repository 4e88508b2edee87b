//! A wire with two ends: what one sends the other receives. For tests, and for guests that talk only to each other.
//!
//! The wire is a pair of datagram sockets, so the kernel bounds what is under way. Nothing on it understands offloads:
//! whatever header a frame was sent with, it arrives with one that says "nothing to do".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vm_memory::VolatileSlice;

use crate::backend::{NetBackend, NetError, Offloads, VNET_HEADER_BYTES};
use crate::vectors::{read_frame, write_frame, zero_start};

/// One end of a wire.
#[derive(Debug)]
pub struct Loopback {
    socket: OwnedFd,
}

impl Loopback {
    /// Both ends of a new wire.
    pub fn pair() -> Result<(Self, Self), NetError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).map_err(|errno| NetError {
                name: "loopback".to_owned(),
                operation: "cannot make a pair".to_owned(),
                source: errno.into(),
            })?;
        Ok((Self { socket: one }, Self { socket: other }))
    }
}

impl NetBackend for Loopback {
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn set_guest_offloads(&mut self, _offloads: Offloads) -> Result<(), NetError> {
        // Frames that use none are what every guest accepts.
        Ok(())
    }

    fn receive(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<Option<usize>> {
        let received = read_frame(self.socket.as_fd(), buffers)?;
        if received.is_some() {
            zero_start(buffers, VNET_HEADER_BYTES);
        }
        Ok(received)
    }

    fn send(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        write_frame(self.socket.as_fd(), buffers)
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn set_enabled(&mut self, _enabled: bool) -> Result<(), NetError> {
        // Nobody shares the wire: what is not received waits in it.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Frame, Subject};

    crate::net_conformance!(loopback, {
        let (one, other) = Loopback::pair().unwrap();
        Subject::new(Box::new(one), Box::new(other))
    });

    #[test]
    fn headers_arrive_saying_that_nothing_is_to_be_done() {
        let (mut one, mut other) = Loopback::pair().unwrap();
        let mut frame = Frame::numbered(1, 100);
        frame.bytes[..VNET_HEADER_BYTES].fill(0xff);
        one.send(&frame.slices(&[5, 200])).unwrap();
        let mut received = Frame::empty(200);
        let bytes = other.receive(&received.slices(&[5, 5, 200])).unwrap();
        assert_eq!(bytes, Some(VNET_HEADER_BYTES + 100));
        assert_eq!(received.bytes[..VNET_HEADER_BYTES], [0; VNET_HEADER_BYTES]);
        assert_eq!(received.bytes[VNET_HEADER_BYTES..112], frame.bytes[VNET_HEADER_BYTES..112]);
    }

    #[test]
    fn a_full_wire_says_so_and_takes_more_when_it_has_been_emptied() {
        let (mut one, mut other) = Loopback::pair().unwrap();
        let mut frame = Frame::numbered(1, 1000);
        let mut sent = 0;
        let error = loop {
            match one.send(&frame.slices(&[2000])) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 1_000_000, "the wire is unbounded");
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut received = Frame::empty(2000);
        let mut arrived = 0;
        while other.receive(&received.slices(&[2000])).unwrap().is_some() {
            arrived += 1;
        }
        assert_eq!(arrived, sent);
        one.send(&frame.slices(&[2000])).unwrap();
    }
}
