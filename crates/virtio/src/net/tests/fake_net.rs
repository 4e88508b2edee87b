//! A network whose other end is the test.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use net_io::{NetBackend, NetError, Offloads};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{EventfdFlags, eventfd};
use vm_memory::VolatileSlice;

use crate::testing::PATIENCE;

#[derive(Default)]
pub(super) struct State {
    /// Frames on their way to the guest.
    pub(super) to_guest: VecDeque<Vec<u8>>,
    /// Frames that came from it.
    pub(super) from_guest: Vec<Vec<u8>>,
    /// Frames that fit until the network is full.
    pub(super) room: usize,
    /// The guest met a full network this often.
    pub(super) full: usize,
    pub(super) broken: bool,
    /// What carries the frames is gone.
    pub(super) gone: bool,
    pub(super) enabled: bool,
    pub(super) refuse_offloads: bool,
    pub(super) guest_offloads: Option<Offloads>,
    pub(super) receives: usize,
}

/// What a test sees of one queue pair's network.
pub(super) struct FakeNet {
    state: Mutex<State>,
    changed: Condvar,
    /// Two eventfds behind one epoll: readable when a frame waits, writable always, as far as the device can tell.
    readable: OwnedFd,
}

pub(super) const OFFLOADS: Offloads =
    Offloads { checksum: true, tso4: true, tso6: true, ecn: true, uso: true };

/// An eventfd's counter that leaves no room for one more: the descriptor is not writable.
const FULL: u64 = u64::MAX - 1;

impl FakeNet {
    pub(super) fn new() -> Arc<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let readable = eventfd(0, flags).unwrap();
        let state = State { room: usize::MAX, enabled: true, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new(), readable })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Makes the descriptor say what is the case: readable with a frame for the guest, not writable when full.
    fn show(&self, state: &State) {
        let _ = rustix::io::read(&self.readable, &mut [0u8; 8]);
        let level = match (state.to_guest.is_empty(), state.room) {
            // An eventfd that is full is readable as well; the device then looks in vain, as it may.
            (_, 0) => FULL,
            (false, _) => 1,
            (true, _) => return,
        };
        rustix::io::write(&self.readable, &level.to_ne_bytes()).unwrap();
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        self.show(&state);
        self.changed.notify_all();
    }

    /// Sends a frame to the guest, with an empty virtio-net header.
    pub(super) fn send(&self, frame: &[u8]) {
        let mut bytes = vec![0; 12];
        bytes.extend_from_slice(frame);
        self.change(|state| state.to_guest.push_back(bytes));
    }

    pub(super) fn wait(&self, condition: impl Fn(&State) -> bool) {
        let mut state = self.state.lock();
        let timeout = self.changed.wait_while_for(&mut state, |state| !condition(state), PATIENCE);
        assert!(!timeout.timed_out(), "the network does not get there");
    }
}

pub(super) struct Backend(pub(super) Arc<FakeNet>);

impl NetBackend for Backend {
    fn offloads(&self) -> Offloads {
        OFFLOADS
    }

    fn set_guest_offloads(&mut self, offloads: Offloads) -> Result<(), NetError> {
        let refuse = self.0.state().refuse_offloads;
        if refuse {
            return Err(NetError {
                name: "fake0".to_owned(),
                operation: "set offloads".to_owned(),
                source: io::Error::other("told to refuse"),
            });
        }
        self.0.change(|state| state.guest_offloads = Some(offloads));
        Ok(())
    }

    fn receive(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<Option<usize>> {
        let mut received = Ok(None);
        self.0.change(|state| {
            state.receives += 1;
            assert!(state.guest_offloads.is_some(), "offloads are set before the first frame");
            assert!(state.enabled, "a backend that is disabled is left alone");
            if state.gone {
                received = Err(io::ErrorKind::UnexpectedEof.into());
                return;
            }
            if state.broken {
                received = Err(io::Error::other("told to break"));
                return;
            }
            let Some(frame) = state.to_guest.pop_front() else { return };
            let mut rest = &frame[..];
            for buffer in buffers {
                let count = rest.len().min(buffer.len());
                buffer.copy_from(&rest[..count]);
                rest = &rest[count..];
            }
            received = Ok(Some(frame.len() - rest.len()));
        });
        received
    }

    fn send(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut frame = Vec::new();
        for buffer in buffers {
            let mut bytes = vec![0; buffer.len()];
            buffer.copy_to(&mut bytes[..]);
            frame.extend(bytes);
        }
        let mut sent = Ok(());
        self.0.change(|state| {
            if state.broken {
                sent = Err(io::Error::other("told to break"));
            } else if let Some(room) = state.room.checked_sub(1) {
                state.room = room;
                state.from_guest.push(frame);
            } else {
                state.full += 1;
                sent = Err(io::ErrorKind::WouldBlock.into());
            }
        });
        sent
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.0.readable.as_fd()
    }

    fn set_enabled(&mut self, enabled: bool) -> Result<(), NetError> {
        self.0.change(|state| state.enabled = enabled);
        Ok(())
    }
}
