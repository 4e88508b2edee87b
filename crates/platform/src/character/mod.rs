//! Character backends: what is on the other end of a serial port or a console.
//!
//! Output is written by the thread that makes it (a vCPU) as long as the other end takes it, and queued otherwise; a
//! pump on a [`crate::worker::Worker`] empties the queue when the other end has room and brings input to the
//! device as fast as the device takes it. Nobody ever blocks on the other end:
//! - With somebody at the other end, a full queue makes [`CharacterOutput::write`] take less than it was given; the
//!   device makes the guest wait and is told when there is room again. Nothing is lost.
//! - With nobody at the other end (a pty that is not open, a socket without a client) the queue keeps the most recent
//!   output, which a late reader gets first, and the oldest is dropped.
//! - With a log (module `log`), which has everything, a reader of a pty or a client of a socket who is too slow is
//!   treated likewise; the guest waits for neither. It waits for the log as for any file, but never for a full disk.
//! - Files, logs too, are written by the pump only, because a write to a file can wait for a disk.
//!
//! Descriptors that other processes share (standard input and output) never get `O_NONBLOCK`, which would change them
//! for those processes too (module `stream`).
//!
//! Trust: the guest chooses the output, whoever is at the other end the input; both are bytes that are not interpreted.
//! Locks: the device's own, then the state here; the frontend is called with no lock held.

mod endpoint;
mod log;
mod pump;
mod stream;
mod terminal;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use endpoint::{Endpoint, Existing};
pub use log::LOG_BYTES;
pub use terminal::restore_terminals;

use crate::guest_warn;
use crate::worker::{Attached, WorkerHandle};
use endpoint::Ends;
use log::Log;
use pump::Pump;
use stream::Stream;

/// The most output that waits for the other end: bounds what a guest can make this process keep.
pub const QUEUE_BYTES: usize = 64 * 1024;

/// A device that has a character backend: what the pump calls, with no lock held.
pub trait CharacterFrontend: Send + Sync {
    /// How many bytes of input the device takes now. When it is zero the pump stops reading until
    /// [`CharacterOutput::input_wanted`] is called.
    fn receive_space(&self) -> usize;

    /// Takes input, at most what [`CharacterFrontend::receive_space`] has said; what does not fit is lost.
    fn receive(&self, bytes: &[u8]);

    /// There is room again after [`CharacterOutput::write`] took less than it was given. May be called spuriously.
    fn output_ready(&self);
}

/// Why a character backend could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("character device {endpoint}: {what}: {source}")]
pub struct CharacterError {
    /// The other end, for people.
    pub endpoint: String,
    /// What was tried.
    pub what: &'static str,
    /// Why the host refused.
    pub source: io::Error,
}

/// Where output goes at the moment.
enum Route {
    /// Nowhere, for good.
    Discard,
    /// To a descriptor that never blocks.
    Direct(Arc<Stream>),
    /// To the queue, for the pump to write.
    Queued,
    /// To the queue, of which the oldest is dropped.
    Nobody,
}

struct State {
    route: Route,
    queue: VecDeque<u8>,
    /// What the log has not got yet, where there is a log.
    log: Option<Vec<u8>>,
    /// Somebody at the other end who is too slow loses the oldest output instead of making the guest wait.
    sheds_oldest: bool,
    /// The pump has been woken and has not looked yet.
    rung: bool,
    /// The device was refused bytes and waits to be told of room.
    starved: bool,
}

struct Shared {
    state: Mutex<State>,
    bell: OwnedFd,
    frontend: Mutex<Option<Weak<dyn CharacterFrontend>>>,
}

impl Shared {
    /// Wakes the pump.
    fn ring(&self) {
        // A full counter means that it is awake already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn frontend(&self) -> Option<Arc<dyn CharacterFrontend>> {
        self.frontend.lock().as_ref().and_then(Weak::upgrade)
    }

    fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        let log_room = state.log.as_ref().map_or(usize::MAX, |log| QUEUE_BYTES.saturating_sub(log.len()));
        let offered = &bytes[..bytes.len().min(log_room)];
        let taken = self.send(&mut state, offered);
        if let Some(log) = &mut state.log {
            log.extend_from_slice(&offered[..taken]);
        }
        state.starved |= taken < bytes.len();
        let waiting = state.log.as_ref().is_some_and(|log| !log.is_empty())
            || !(state.queue.is_empty() || matches!(state.route, Route::Nobody));
        if waiting && !state.rung {
            state.rung = true;
            drop(state);
            self.ring();
        }
        taken
    }

    /// Gives `bytes` to the other end, or to its queue; returns how many were taken.
    fn send(&self, state: &mut State, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if let (Route::Direct(stream), true) = (&state.route, state.queue.is_empty()) {
            match stream.write(bytes) {
                Ok(written) => taken = written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The pump meets the same error when it writes the queue, and decides what follows from it.
                Err(error) => guest_warn!(%error, "the other end of a character device is gone"),
            }
        }
        let rest = &bytes[taken..];
        let room = QUEUE_BYTES - state.queue.len();
        match (&state.route, state.sheds_oldest) {
            (Route::Discard, _) => return bytes.len(),
            (Route::Nobody, _) | (_, true) => {
                let newest = &rest[rest.len().saturating_sub(QUEUE_BYTES)..];
                state.queue.drain(..newest.len().saturating_sub(room));
                state.queue.extend(newest);
                return bytes.len();
            }
            (Route::Direct(_) | Route::Queued, false) => {}
        }
        let queued = rest.len().min(room);
        state.queue.extend(&rest[..queued]);
        taken + queued
    }
}

/// A device's way to its character backend; any number of clones, on any thread.
#[derive(Clone)]
pub struct CharacterOutput {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for CharacterOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CharacterOutput").finish_non_exhaustive()
    }
}

impl CharacterOutput {
    /// Sends `bytes` and returns how many were taken; the caller keeps the rest until
    /// [`CharacterFrontend::output_ready`]. Never blocks.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.shared.write(bytes)
    }

    /// The device takes input again after [`CharacterFrontend::receive_space`] was zero.
    pub fn input_wanted(&self) {
        self.shared.ring();
    }
}

/// A live character backend. Dropping it sends what is queued to a file or to standard output, lets a client go, and
/// restores the terminal.
pub struct CharacterBackend {
    shared: Arc<Shared>,
    pump: Option<Attached<Pump>>,
    pty: Option<PathBuf>,
}

impl std::fmt::Debug for CharacterBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CharacterBackend").field("pty", &self.pty).finish_non_exhaustive()
    }
}

impl CharacterBackend {
    /// Opens `endpoint` and pumps it on `worker`; all output is added to the file `log` as well, of which at most
    /// [`LOG_BYTES`] are kept, and as much before that in the file of that name with `.1` behind it.
    pub fn open(
        endpoint: Endpoint,
        log: Option<&Path>,
        worker: &WorkerHandle,
    ) -> Result<Self, CharacterError> {
        let name = endpoint.to_string();
        let failure = |what, source| CharacterError { endpoint: name.clone(), what, source };
        let log = match log.map(|path| (path, Log::open(path))) {
            None => None,
            Some((_, Ok(log))) => Some(log),
            Some((path, Err(source))) => {
                let endpoint = format!("{name}: log {}", path.display());
                return Err(CharacterError { endpoint, what: "open it for writing", source });
            }
        };
        let bell = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )
        .map_err(|error| failure("create an event descriptor", error.into()))?;
        let opened = endpoint.open().map_err(|(what, source)| failure(what, source))?;
        let state = State {
            route: opened.route,
            queue: VecDeque::new(),
            log: log.is_some().then(Vec::new),
            sheds_oldest: log.is_some() && opened.ends.as_ref().is_some_and(Ends::come_and_go),
            rung: false,
            starved: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), bell, frontend: Mutex::new(None) });
        let pump = match (opened.ends, log) {
            (None, None) => None,
            (ends, log) => {
                let pump = Pump::new(Arc::clone(&shared), ends.unwrap_or(Ends::Nothing), log);
                Some(worker.attach(pump).map_err(|(_, error)| failure("wait for it", error))?)
            }
        };
        Ok(Self { shared, pump, pty: opened.pty })
    }

    /// The device's way in.
    pub fn output(&self) -> CharacterOutput {
        CharacterOutput { shared: Arc::clone(&self.shared) }
    }

    /// From now on `frontend` gets the input; before, it is left unread. A device that is dropped gets no more.
    pub fn connect(&self, frontend: &Arc<dyn CharacterFrontend>) {
        *self.shared.frontend.lock() = Some(Arc::downgrade(frontend));
        self.shared.ring();
    }

    /// Path of the pseudo-terminal that a reader opens, for [`Endpoint::Pty`].
    pub fn pty_path(&self) -> Option<&Path> {
        self.pty.as_deref()
    }
}

impl Drop for CharacterBackend {
    fn drop(&mut self) {
        if let Some(pump) = self.pump.take() {
            drop(pump.detach());
        }
    }
}

#[cfg(test)]
mod tests;
