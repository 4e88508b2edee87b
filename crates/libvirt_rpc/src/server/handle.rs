//! A client as the daemon sees it: who it is, and what waits to be written to it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::stream::OpenStream;
use super::{Access, Limits};
use crate::call::Event;
use crate::frame::{Header, value_frame};

/// Who is at the other end, as the kernel says (SO_PEERCRED), at the time of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, where the kernel knows it.
    pub pid: Option<i32>,
}

/// A connected client. Cheap to clone; what is sent to a client that is gone is dropped.
#[derive(Debug, Clone)]
pub struct ClientHandle {
    pub(super) shared: Arc<Shared>,
}

/// What the connection's task and everybody who sends to the client share.
#[derive(Debug)]
pub(super) struct Shared {
    id: u64,
    credentials: Credentials,
    pub(super) limits: Arc<Limits>,
    read_only: AtomicBool,
    writer: OwnedWriteHalf,
    reader: Mutex<Option<OwnedReadHalf>>,
    queue: Mutex<Queue>,
    /// The connection's task has to look: something waits to be written, or the client is to be closed.
    pub(super) attention: Notify,
    /// The queue has become short, or the client is gone.
    pub(super) drained: Notify,
    pub(super) streams: Mutex<HashMap<u32, OpenStream>>,
}

/// Frames that the socket didn't take yet.
#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    /// Bytes of the first frame that are written.
    written: usize,
    /// Bytes that wait.
    bytes: usize,
    closed: bool,
}

/// While more than this many bytes wait, no new call of the client is started and streams to it pause.
pub(super) const QUEUE_SHORT: usize = 1 << 20;

/// Locks, also after a panic of another holder: what these locks guard is consistent between any two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientHandle {
    pub(super) fn new(id: u64, socket: UnixStream, access: Access, limits: &Arc<Limits>) -> io::Result<Self> {
        let peer = socket.peer_cred()?;
        let credentials = Credentials { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
        let (reader, writer) = socket.into_split();
        Ok(Self {
            shared: Arc::new(Shared {
                id,
                credentials,
                limits: Arc::clone(limits),
                read_only: AtomicBool::new(access == Access::ReadOnly),
                writer,
                reader: Mutex::new(Some(reader)),
                queue: Mutex::default(),
                attention: Notify::new(),
                drained: Notify::new(),
                streams: Mutex::default(),
            }),
        })
    }

    /// A number that no other client of this process has or had.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// Who it is.
    pub fn credentials(&self) -> Credentials {
        self.shared.credentials
    }

    /// Whether it may change nothing, because of its socket or because it asked for that.
    pub fn read_only(&self) -> bool {
        self.shared.read_only.load(Ordering::Relaxed)
    }

    pub(super) fn make_read_only(&self) {
        self.shared.read_only.store(true, Ordering::Relaxed);
    }

    /// Whether the client is gone or being closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.shared.queue).closed
    }

    /// Sends an event. A client for which too much waits already is closed instead: it doesn't read, and events that are left
    /// out would lie to it.
    pub fn event<E: Event>(&self, event: &E) {
        if self.unsent_bytes() > self.shared.limits.unsent_bytes {
            tracing::warn!(client = self.id(), "closed: it doesn't read its events");
            return self.close();
        }
        match value_frame(Header::message(E::NUMBER), event) {
            Ok(frame) => self.send(frame),
            Err(error) => tracing::error!(event = E::NUMBER, %error, "an event that can't be sent"),
        }
    }

    /// Closes the connection. Calls in flight go on; their answers are dropped.
    pub fn close(&self) {
        {
            let mut queue = lock(&self.shared.queue);
            if std::mem::replace(&mut queue.closed, true) {
                return;
            }
            queue.frames.clear();
            queue.bytes = 0;
        }
        lock(&self.shared.streams).clear();
        // The descriptor itself stays open while anybody holds this handle.
        let _ = rustix::net::shutdown(self.shared.writer.as_ref(), rustix::net::Shutdown::Both);
        self.shared.attention.notify_one();
        self.shared.drained.notify_waiters();
    }

    /// Writes a frame, or queues what the socket doesn't take at once.
    pub(super) fn send(&self, frame: Vec<u8>) {
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            return;
        }
        let mut written = 0;
        if queue.frames.is_empty() {
            while written < frame.len() {
                match self.shared.writer.try_write(&frame[written..]) {
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // Errors show again, and end the connection, when its task writes.
                    Err(_) => break,
                }
            }
            if written == frame.len() {
                return;
            }
            queue.written = written;
        }
        queue.bytes += frame.len() - written;
        queue.frames.push_back(frame);
        drop(queue);
        self.shared.attention.notify_one();
    }

    /// Writes what the socket takes. Returns how many bytes it took.
    pub(super) fn flush(&self) -> io::Result<usize> {
        let mut total = 0;
        let mut queue = lock(&self.shared.queue);
        let was_long = queue.bytes > QUEUE_SHORT;
        while let Some(frame) = queue.frames.front() {
            let length = frame.len();
            match self.shared.writer.try_write(&frame[queue.written..]) {
                Ok(count) => {
                    total += count;
                    queue.bytes -= count;
                    queue.written += count;
                    if queue.written == length {
                        queue.frames.pop_front();
                        queue.written = 0;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let short = queue.bytes <= QUEUE_SHORT;
        drop(queue);
        if was_long && short {
            self.shared.drained.notify_waiters();
        }
        Ok(total)
    }

    /// Bytes that the client didn't take yet.
    pub(super) fn unsent_bytes(&self) -> usize {
        lock(&self.shared.queue).bytes
    }

    /// Waits until little enough waits to be written; false when the client is gone.
    pub(super) async fn room(&self) -> bool {
        loop {
            // Made before the look, so that a change between look and wait is not lost.
            let drained = self.shared.drained.notified();
            {
                let queue = lock(&self.shared.queue);
                if queue.closed {
                    return false;
                }
                if queue.bytes <= QUEUE_SHORT {
                    return true;
                }
            }
            drained.await;
        }
    }

    /// Waits until the socket may take more.
    pub(super) async fn writable(&self) {
        // An error shows when it is written to.
        let _ = self.shared.writer.writable().await;
    }

    /// The half that reads; there for the connection's task once.
    pub(super) fn take_reader(&self) -> Option<OwnedReadHalf> {
        lock(&self.shared.reader).take()
    }
}
