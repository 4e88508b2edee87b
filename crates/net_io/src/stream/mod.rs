//! Frames over a connected stream socket, as QEMU's `-netdev stream` and passt(1) speak: each frame follows its length, four bytes,
//! highest first. No virtio-net header goes over the wire, so nothing is left to the other side: no offloads.
//!
//! The other side is trusted to carry frames and with nothing else: what it announces is bounded, and once it makes no sense, or
//! is gone, the wire is broken for good ([`std::io::ErrorKind::UnexpectedEof`]).
//!
//! The state of a stream (a frame that is half here, or half gone) outlives the device that it is used by: handles to one stream
//! share it. Lock: the state's, held for a copy and a few system calls that don't wait.

mod framing;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketType, recv, send, sockopt};
use vm_memory::VolatileSlice;

use self::framing::{Assembler, LEAST_FRAME_BYTES, LENGTH_BYTES, MOST_FRAME_BYTES};
use crate::backend::{NetBackend, NetError, Offloads, VNET_HEADER_BYTES};
use crate::vectors::{gather, scatter, total_bytes, zero_start};

/// A frame on its way out.
#[derive(Default)]
struct Leaving {
    /// Length and frame.
    bytes: Vec<u8>,
    /// How much the socket has taken; all of it when nothing is left to send.
    gone: usize,
    /// Its sender was told to try again, and comes back with it.
    owed: bool,
}

struct State {
    arriving: Assembler,
    leaving: Leaving,
    /// Nothing comes or goes any more.
    broken: bool,
}

struct Wire {
    socket: OwnedFd,
    state: Mutex<State>,
}

/// A handle to one end of a stream.
#[derive(Clone)]
pub struct Stream {
    wire: Arc<Wire>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("socket", &self.wire.socket).finish_non_exhaustive()
    }
}

impl Stream {
    /// Takes a connected socket.
    ///
    /// # Errors
    /// It is not one.
    pub fn adopt(socket: OwnedFd) -> Result<Self, NetError> {
        let fail = |source| NetError {
            name: "(stream)".to_owned(),
            operation: "cannot use the open descriptor".to_owned(),
            source,
        };
        let unusable = |advice: &str| fail(io::Error::new(io::ErrorKind::InvalidInput, advice));
        match sockopt::socket_type(&socket) {
            Ok(SocketType::STREAM) => {}
            Ok(_) => return Err(unusable("it is a socket, but not a stream")),
            Err(Errno::NOTSOCK) => return Err(unusable("it is not a socket")),
            Err(error) => return Err(fail(error.into())),
        }
        match rustix::net::getpeername(&socket) {
            Ok(_) => {}
            Err(Errno::NOTCONN) => return Err(unusable("it is not connected")),
            Err(error) => return Err(fail(error.into())),
        }
        let state = State { arriving: Assembler::new(), leaving: Leaving::default(), broken: false };
        Ok(Self { wire: Arc::new(Wire { socket, state: Mutex::new(state) }) })
    }
}

impl Wire {
    /// Lets the other side know that this is the end, and returns how it is told here.
    fn end(&self, state: &mut State, reason: &str) -> io::Error {
        state.broken = true;
        // The other side may be gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        io::Error::new(io::ErrorKind::UnexpectedEof, reason)
    }

    /// Reads until a frame is there; `false` when the socket has no more now.
    fn fetch(&self, state: &mut State) -> io::Result<bool> {
        loop {
            match state.arriving.frame() {
                Ok(Some(_)) => return Ok(true),
                Ok(None) => {}
                Err(error) => return Err(self.end(state, &error.to_string())),
            }
            let room = match state.arriving.room() {
                Ok(room) => room,
                Err(error) => return Err(self.end(state, &error.to_string())),
            };
            match recv(&self.socket, room, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(self.end(state, "the other side has hung up")),
                Ok((_, bytes)) => state.arriving.arrived(bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(self.end(state, &error.to_string())),
            }
        }
    }

    /// Sends what is left of the frame that leaves; `WouldBlock` while something is.
    fn flush(&self, state: &mut State) -> io::Result<()> {
        while state.leaving.gone < state.leaving.bytes.len() {
            let rest = &state.leaving.bytes[state.leaving.gone..];
            match send(&self.socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(bytes) => state.leaving.gone += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::WouldBlock.into()),
                // Receiving finds out that nothing comes any more, and says so.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl NetBackend for Stream {
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn set_guest_offloads(&mut self, _offloads: Offloads) -> Result<(), NetError> {
        // Frames that use none are what every guest accepts. Whoever waited to send a frame may not come back with it.
        self.wire.state.lock().leaving.owed = false;
        Ok(())
    }

    fn receive(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<Option<usize>> {
        let state = &mut *self.wire.state.lock();
        if state.broken {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side is gone"));
        }
        if !self.wire.fetch(state)? {
            return Ok(None);
        }
        let Ok(Some(frame)) = state.arriving.frame() else { return Ok(None) };
        zero_start(buffers, VNET_HEADER_BYTES);
        let received = VNET_HEADER_BYTES + scatter(buffers, VNET_HEADER_BYTES, frame);
        state.arriving.next();
        Ok(Some(received.min(total_bytes(buffers))))
    }

    fn send(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        let total = total_bytes(buffers);
        let frame_bytes = total.saturating_sub(VNET_HEADER_BYTES);
        if !(LEAST_FRAME_BYTES..=MOST_FRAME_BYTES).contains(&frame_bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame of a length that none has"));
        }
        let state = &mut *self.wire.state.lock();
        if state.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.wire.flush(state)?;
        if std::mem::take(&mut state.leaving.owed) {
            // It was this one.
            return Ok(());
        }
        // Copied first: a guest that changes it meanwhile changes nothing.
        let frame = gather(buffers, total, VNET_HEADER_BYTES, frame_bytes);
        let leaving = &mut state.leaving;
        leaving.bytes.clear();
        leaving.bytes.reserve_exact(LENGTH_BYTES + frame.len());
        // Bounded above.
        leaving.bytes.extend(u32::try_from(frame.len()).unwrap_or(0).to_be_bytes());
        leaving.bytes.extend(frame);
        leaving.gone = 0;
        let sent = self.wire.flush(state);
        let leaving = &mut state.leaving;
        match &sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && leaving.gone > 0 => {
                leaving.owed = true
            }
            Ok(()) => {}
            // Nothing of it is on the wire, or nothing matters any more.
            Err(_) => leaving.bytes.clear(),
        }
        if leaving.bytes.is_empty() {
            leaving.gone = 0;
        }
        sent
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.wire.socket.as_fd()
    }

    fn set_enabled(&mut self, _enabled: bool) -> Result<(), NetError> {
        // The only queue pair is the first, which is never disabled.
        Ok(())
    }
}

#[cfg(test)]
mod tests;
