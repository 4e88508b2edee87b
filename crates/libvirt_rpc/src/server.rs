//! The server's half: listeners, limits, connections.
//!
//! A daemon makes a [`Table`] of typed functions over its [`Service`] and starts a [`Server`] with both. One task a connection
//! reads frames, starts calls and writes what can't be written at once; a call is polled once in that task, and becomes a
//! task of its own only when it has to wait, so that a quick call costs no hop between threads and slow ones of the same
//! client run beside each other. A function must therefore not block its thread: what takes long (disks, other
//! processes) is awaited.
//!
//! **What one client can take.** Calls in flight ([`Limits::calls_in_flight`]), then it is not read from; the memory of one frame
//! of its own; streams, each with a few packets that wait; and answers that it doesn't read, after which it is closed. Clients
//! are counted for each listener, so that a crowd at the read-only socket doesn't shut out the other one.

mod connection;
mod handle;
mod stream;
mod table;

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, watch};

pub use handle::{ClientHandle, Credentials};
pub use stream::{Stream, StreamEnd, StreamInput, StreamReceiver, StreamSender};
pub use table::{CallContext, Service, Table};

use connection::Connection;

/// What clients may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Clients of one listener at a time; more are closed at once.
    pub clients: usize,
    /// Calls of one client at a time (libvirtd's max_client_requests); more are not read yet.
    pub calls_in_flight: usize,
    /// Streams of one client at a time.
    pub streams: usize,
    /// Bytes that wait for one client before events close it.
    pub unsent_bytes: usize,
    /// How long a client may read nothing of what waits for it.
    pub stall: Duration,
    /// How long a client may take until it has opened a connection.
    pub handshake: Duration,
    /// Silence after which a client is asked for a sign of life, once it has said that it can answer.
    pub keepalive_interval: Duration,
    /// Questions without an answer after which a client is closed.
    pub keepalive_count: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 1000,
            calls_in_flight: 5,
            streams: 64,
            unsent_bytes: 8 << 20,
            stall: Duration::from_secs(60),
            handshake: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 5,
        }
    }
}

/// What the clients of a socket may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything that they don't give up when they open the connection.
    ReadWrite,
    /// Only calls that change nothing.
    ReadOnly,
}

/// How far the shutdown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Serving.
    Open,
    /// Calls in flight end and are answered; nothing new is read.
    Draining,
    /// Connections are closed.
    Closed,
}

/// A server: its listeners and connections. Dropped, it closes them all.
#[derive(Debug)]
pub struct Server<S: Service> {
    service: Arc<S>,
    table: Arc<Table<S>>,
    limits: Arc<Limits>,
    phase: watch::Sender<Phase>,
    /// Every task holds a sender of this channel: it ends when all of them have.
    alive: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

/// Names of connections in logs; unique in the process.
static NEXT_CLIENT: AtomicU64 = AtomicU64::new(1);

impl<S: Service> Server<S> {
    /// A server without listeners.
    pub fn new(service: Arc<S>, table: Table<S>, limits: Limits) -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self {
            service,
            table: Arc::new(table),
            limits: Arc::new(limits),
            phase: watch::Sender::new(Phase::Open),
            alive,
            ended,
        }
    }

    /// Accepts clients from `listener`, in a task of the current runtime.
    ///
    /// # Errors
    /// The listener can't be registered with the runtime.
    pub fn listen(&self, listener: StdUnixListener, access: Access) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let acceptor = Acceptor {
            service: Arc::clone(&self.service),
            table: Arc::clone(&self.table),
            limits: Arc::clone(&self.limits),
            phase: self.phase.subscribe(),
            alive: self.alive.clone(),
            slots: Arc::new(Semaphore::new(self.limits.clients)),
            access,
        };
        tokio::spawn(acceptor.run(listener));
        Ok(())
    }

    /// Accepts and reads nothing more, lets calls in flight end, and closes every connection: at the latest after `patience`.
    pub async fn shut_down(mut self, patience: Duration) {
        self.phase.send_replace(Phase::Draining);
        let (unused, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.alive, unused));
        if tokio::time::timeout(patience, self.ended.recv()).await.is_err() {
            self.phase.send_replace(Phase::Closed);
            self.ended.recv().await;
        }
    }
}

struct Acceptor<S: Service> {
    service: Arc<S>,
    table: Arc<Table<S>>,
    limits: Arc<Limits>,
    phase: watch::Receiver<Phase>,
    alive: mpsc::Sender<()>,
    slots: Arc<Semaphore>,
    access: Access,
}

/// How long to wait before the next try when the process has no descriptor left for a client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<S: Service> Acceptor<S> {
    async fn run(mut self, listener: UnixListener) {
        let mut full = false;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // The server is shut down, or dropped.
                _ = self.phase.changed() => return,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                // Said once for each time that it fills up: clients can make this happen as often as they like.
                if !std::mem::replace(&mut full, true) {
                    tracing::warn!(limit = self.limits.clients, "too many clients: closing new ones");
                }
                continue;
            };
            full = false;
            let id = NEXT_CLIENT.fetch_add(1, Ordering::Relaxed);
            let handle = match ClientHandle::new(id, socket, self.access, &self.limits) {
                Ok(handle) => handle,
                Err(error) => {
                    tracing::debug!(client = id, %error, "a client went before it was served");
                    continue;
                }
            };
            let connection = Connection::new(
                handle,
                Arc::clone(&self.service),
                Arc::clone(&self.table),
                self.phase.clone(),
            );
            let alive = self.alive.clone();
            tokio::spawn(async move {
                connection.run().await;
                drop((slot, alive));
            });
        }
    }
}
