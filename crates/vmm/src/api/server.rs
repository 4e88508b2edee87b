//! The threads of the API: one accepts, one serves each connection.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::connection;
use super::listener::{SocketError, SocketFile, listen};
use crate::control::Controller;

/// Most connections that are served at a time; more wait in the socket's backlog. Bounds threads and memory.
const MAX_CONNECTIONS: usize = 16;
/// How long nobody is accepted after the host has run out of descriptors or threads.
const EXHAUSTED_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// To begin a request on an open connection.
    pub(super) idle: Duration,
    /// From the first byte of a request to its last.
    pub(super) request: Duration,
    /// To take a response.
    pub(super) response: Duration,
    /// To stop sending after an error has been answered.
    pub(super) linger: Duration,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self {
        idle: Duration::from_secs(30),
        request: Duration::from_secs(10),
        response: Duration::from_secs(5),
        linger: Duration::from_secs(1),
    };
}

/// What all threads of a server know.
pub(super) struct Shared {
    pub(super) controller: Controller,
    pub(super) limits: Limits,
    /// Readable once the server is to end; never read.
    pub(super) stop: OwnedFd,
    /// Rung by a connection's thread as the last thing it does.
    done: OwnedFd,
    open: AtomicUsize,
}

impl Shared {
    /// No further connection is accepted until one ends.
    pub(super) fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= MAX_CONNECTIONS
    }
}

/// The API on a socket. Dropping it ends every connection (a response that is being written is finished first), joins
/// the threads and removes the socket's file.
///
/// Never drop it on the driver's own thread while the driver has requests to answer: it waits for connections that
/// wait for answers.
pub struct ApiServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    file: SocketFile,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("file", &self.file).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Serves `controller` on a new socket at `path`, with mode 0600. A socket that nobody answers on any more is
    /// replaced.
    ///
    /// # Errors
    /// Something at `path` that must not be replaced, or the host's refusal.
    pub fn start(path: &Path, controller: Controller) -> Result<Self, SocketError> {
        Self::start_with(path, controller, Limits::DEFAULT)
    }

    pub(super) fn start_with(
        path: &Path,
        controller: Controller,
        limits: Limits,
    ) -> Result<Self, SocketError> {
        let (socket, file) = listen(path)?;
        let failed = |error| SocketError::Host { path: path.to_owned(), attempt: "start its thread", error };
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from);
        let (stop, done) = (event().map_err(failed)?, event().map_err(failed)?);
        let shared = Arc::new(Shared { controller, limits, stop, done, open: AtomicUsize::new(0) });
        let (leaving, left) = mpsc::channel();
        let acceptor = Acceptor {
            socket,
            shared: Arc::clone(&shared),
            connections: BTreeMap::new(),
            leaving,
            left,
            exhausted: false,
        };
        let thread = std::thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || acceptor.run())
            .map_err(failed)?;
        Ok(Self { shared, thread: Some(thread), file })
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // A full counter is readable too.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

struct Acceptor {
    socket: OwnedFd,
    shared: Arc<Shared>,
    connections: BTreeMap<u64, JoinHandle<()>>,
    leaving: mpsc::Sender<u64>,
    left: mpsc::Receiver<u64>,
    exhausted: bool,
}

/// Says at the end of a connection's thread, however it ends, that it can be joined.
struct Farewell {
    id: u64,
    leaving: mpsc::Sender<u64>,
    shared: Arc<Shared>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        // The acceptor has gone only if it has joined this thread, which it can't have.
        let _ = self.leaving.send(self.id);
        let _ = rustix::io::write(&self.shared.done, &1u64.to_ne_bytes());
    }
}

impl Acceptor {
    fn run(mut self) {
        let mut next_id = 0;
        loop {
            let mut fds = vec![
                PollFd::new(&self.shared.stop, PollFlags::IN),
                PollFd::new(&self.shared.done, PollFlags::IN),
            ];
            if !self.exhausted && !self.shared.is_full() {
                fds.push(PollFd::new(&self.socket, PollFlags::IN));
            }
            let ready = poll(&mut fds, self.exhausted.then_some(&EXHAUSTED_PAUSE));
            let is_ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            let (stop, done, arrived) = (is_ready(0), is_ready(1), is_ready(2));
            self.exhausted = false;
            match ready {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!("the API ends: cannot wait for clients: {error}");
                    break;
                }
            }
            if stop {
                break;
            }
            if done {
                self.join_finished();
            }
            if arrived {
                next_id += 1;
                self.accept(next_id);
            }
        }
        for (_, thread) in std::mem::take(&mut self.connections) {
            let _ = thread.join();
        }
    }

    fn join_finished(&mut self) {
        let _ = rustix::io::read(&self.shared.done, &mut [0u8; 8]);
        while let Ok(id) = self.left.try_recv() {
            if let Some(thread) = self.connections.remove(&id) {
                let _ = thread.join();
            }
        }
    }

    fn accept(&mut self, id: u64) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.socket, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(error) => return self.exhaust("accept a client", &error.into()),
        };
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        let farewell = Farewell { id, leaving: self.leaving.clone(), shared: Arc::clone(&self.shared) };
        let spawned = std::thread::Builder::new().name("api-client".to_owned()).spawn(move || {
            connection::serve(socket, &farewell.shared);
        });
        match spawned {
            Ok(thread) => {
                self.connections.insert(id, thread);
            }
            // The closure has been dropped: the client's socket is closed and the count is right again.
            Err(error) => self.exhaust("start a thread for a client", &error),
        }
    }

    fn exhaust(&mut self, attempt: &str, error: &io::Error) {
        tracing::warn!("API: cannot {attempt}: {error}");
        self.exhausted = true;
    }
}
