//! The client's half: a connection to any daemon of libvirt's protocol, for programs that wait for their answers.
//!
//! Calls block the caller's thread; there is no other thread. Events that come while a call waits are kept (a bounded number)
//! for [`Connection::next_event`], and the daemon's keepalive messages are answered whenever the connection is read. What
//! comes from the daemon is checked as strictly as what comes from clients.

mod stream;
mod uri;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::call::{Call, Event};
use crate::error::RpcError;
use crate::feature;
use crate::frame::{
    FRAME_MAX, FrameBuffer, FrameError, FrameStatus, FrameType, Header, KEEPALIVE_PING, KEEPALIVE_PONG,
    KEEPALIVE_PROGRAM, PROGRAM_VERSION, REMOTE_PROGRAM, data_frame, value_frame,
};
use crate::procedures::{
    AuthList, ConnectClose, ConnectGetUri, ConnectOpen, ConnectSupportsFeature, ConnectSupportsFeatureReply,
};
use crate::xdr::{Xdr, XdrError};

pub use stream::{ClientStream, Input};
pub use uri::{Target, UriError, own_sockets};

/// What can go wrong at the client's side.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon answered with an error.
    #[error("{0}")]
    Daemon(#[from] RpcError),
    /// No socket of the URI has a daemon behind it.
    #[error("can't connect to {}: {source}: is the daemon running?", path.display())]
    Connect {
        /// The socket that was tried last.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The URI can't be used.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The connection broke.
    #[error("the connection to the daemon broke: {0}")]
    Socket(#[from] io::Error),
    /// The daemon has closed the connection.
    #[error("the daemon has closed the connection")]
    Closed,
    /// The daemon doesn't answer keepalive messages.
    #[error("the daemon doesn't answer any more")]
    Unresponsive,
    /// The daemon breaks the protocol.
    #[error("the daemon sends what it must not: {0}")]
    Frame(#[from] FrameError),
    /// The daemon's answer, or our own call, isn't what the protocol says.
    #[error("bad message: {0}")]
    Message(#[from] XdrError),
    /// The daemon wants the client to prove who it is in a way that there is not.
    #[error("the daemon wants authentication of kind {0:?}; only the socket's own is known")]
    Authentication(Vec<i32>),
}

/// An event or another message from the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub number: u32,
    /// Its body.
    pub body: Vec<u8>,
}

impl Message {
    /// The message as an `E`; none when it is something else.
    ///
    /// # Errors
    /// The body is not that of an `E`.
    pub fn event<E: Event>(&self) -> Option<Result<E, XdrError>> {
        (self.number == E::NUMBER).then(|| E::from_bytes(&self.body))
    }
}

/// How to notice a daemon that is stuck: a question each `interval`, and `count` of them without an answer.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Silence after which the daemon is asked.
    pub interval: Duration,
    /// Questions without an answer after which the connection is given up.
    pub count: u32,
}

/// Messages that nobody asked for yet are kept up to this number; older ones go first.
const MESSAGES_KEPT: usize = 4096;

/// A connection.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    buffer: FrameBuffer,
    serial: u32,
    messages: VecDeque<Message>,
    keepalive: Option<Keepalive>,
    unanswered: u32,
}

impl Connection {
    /// Connects to the daemon of `uri` (`qemu:///system`, with `?socket=PATH` where it is elsewhere; see [`Target`]) and opens it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn open(uri: &str, read_only: bool) -> Result<Self, ClientError> {
        let target = Target::parse(uri)?;
        let mut last = None;
        for path in target.sockets(read_only)? {
            match UnixStream::connect(&path) {
                Ok(socket) => return Self::start(socket, Some(target.name()), read_only),
                Err(source) => last = Some(ClientError::Connect { path, source }),
            }
        }
        Err(last.unwrap_or(ClientError::Closed))
    }

    /// Connects to the daemon at the socket `path` and opens `name`, or what the daemon opens by default.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn open_socket(path: &Path, name: Option<&str>, read_only: bool) -> Result<Self, ClientError> {
        let socket = UnixStream::connect(path)
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        Self::start(socket, name.map(str::to_owned), read_only)
    }

    /// The handshake over a connected socket.
    fn start(socket: UnixStream, name: Option<String>, read_only: bool) -> Result<Self, ClientError> {
        let mut connection = Self {
            socket,
            buffer: FrameBuffer::default(),
            serial: 0,
            messages: VecDeque::new(),
            keepalive: None,
            unanswered: 0,
        };
        let kinds = connection.call(&AuthList {})?.types;
        if !kinds.is_empty() && !kinds.contains(&0) {
            return Err(ClientError::Authentication(kinds));
        }
        connection.call(&ConnectOpen { name, flags: u32::from(read_only) })?;
        Ok(connection)
    }

    /// Asks the daemon whether it knows keepalive messages, and uses them from now on. The daemon then expects this connection to
    /// be read (by calls or [`Self::next_event`]) at least every few seconds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn keep_alive(&mut self, keepalive: Keepalive) -> Result<bool, ClientError> {
        let ConnectSupportsFeatureReply { supported } =
            self.call(&ConnectSupportsFeature { feature: feature::PROGRAM_KEEPALIVE })?;
        self.keepalive = (supported != 0).then_some(keepalive);
        Ok(supported != 0)
    }

    /// The URI as the daemon has it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn uri(&mut self) -> Result<String, ClientError> {
        Ok(self.call(&ConnectGetUri {})?.uri)
    }

    /// Makes a call and waits for the reply.
    ///
    /// # Errors
    /// The daemon's own error, or what went wrong on the way.
    pub fn call<C: Call>(&mut self, call: &C) -> Result<C::Reply, ClientError> {
        let (_, body) = self.exchange(call)?;
        Ok(C::Reply::from_bytes(&body)?)
    }

    /// Makes a call that opens a stream. While the stream is used, the connection is the stream's.
    ///
    /// # Errors
    /// See [`Self::call`].
    pub fn open_stream<C: Call>(&mut self, call: &C) -> Result<(C::Reply, ClientStream<'_>), ClientError> {
        let (header, body) = self.exchange(call)?;
        Ok((C::Reply::from_bytes(&body)?, ClientStream::new(self, header)))
    }

    fn exchange<C: Call>(&mut self, call: &C) -> Result<(Header, Vec<u8>), ClientError> {
        let serial = self.serial;
        self.serial = self.serial.wrapping_add(1);
        let header = Header {
            program: C::PROCEDURE.program(),
            version: PROGRAM_VERSION,
            procedure: C::PROCEDURE.number(),
            kind: FrameType::Call,
            serial,
            status: FrameStatus::Ok,
        };
        self.write(&value_frame(header, call)?)?;
        loop {
            // Without a deadline this ends with a frame or an error.
            let Some((header, body)) = self.next_frame(None)? else { continue };
            if header.kind == FrameType::Reply && header.serial == serial {
                return match header.status {
                    FrameStatus::Error => Err(RpcError::from_bytes(&body)?.into()),
                    _ => Ok((header, body)),
                };
            }
        }
    }

    /// The next event or other message, waiting for it up to `timeout`. None when none came.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<Message>, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            if self.next_frame(Some(deadline))?.is_none()
                && Instant::now() >= deadline
                && self.messages.is_empty()
            {
                return Ok(None);
            }
        }
    }

    /// Ends the connection in the daemon's way. Dropping it does as well, without a word.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn close(mut self) -> Result<(), ClientError> {
        self.call(&ConnectClose {})
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), ClientError> {
        match self.socket.write_all(frame) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClientError::Closed),
            result => Ok(result?),
        }
    }

    /// The next frame that is an answer or belongs to a stream. Messages are kept and keepalive answered on the way. None when
    /// `deadline` has come, or a message came.
    fn next_frame(&mut self, deadline: Option<Instant>) -> Result<Option<(Header, Vec<u8>)>, ClientError> {
        loop {
            if let Some((header, body)) = self.buffer.peek(FRAME_MAX)? {
                let body = body.to_vec();
                self.buffer.consume();
                if header.program == KEEPALIVE_PROGRAM {
                    if header.procedure == KEEPALIVE_PING {
                        self.write(&data_frame(Header::keepalive(KEEPALIVE_PONG), &[]))?;
                    }
                    continue;
                }
                if header.kind != FrameType::Message {
                    return Ok(Some((header, body)));
                }
                if header.program == REMOTE_PROGRAM {
                    if self.messages.len() == MESSAGES_KEPT {
                        self.messages.pop_front();
                    }
                    self.messages.push_back(Message { number: header.procedure, body });
                }
                return Ok(None);
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there, or waits for it until `deadline`; false when that has come.
    fn fill(&mut self, deadline: Option<Instant>) -> Result<bool, ClientError> {
        loop {
            let now = Instant::now();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            let alive = self.keepalive.map(|keepalive| keepalive.interval);
            let wait = [left, alive].into_iter().flatten().min();
            // A timeout of zero would mean none at all: a moment instead.
            self.socket.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
            match self.socket.read(self.buffer.space()) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => {
                    self.unanswered = 0;
                    self.buffer.filled(count);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Ok(false);
                    }
                    self.ask()?;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ClientError::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The daemon was silent for an interval.
    fn ask(&mut self) -> Result<(), ClientError> {
        let Some(keepalive) = self.keepalive else { return Ok(()) };
        if self.unanswered >= keepalive.count {
            return Err(ClientError::Unresponsive);
        }
        self.unanswered += 1;
        self.write(&data_frame(Header::keepalive(KEEPALIVE_PING), &[]))
    }
}

impl AsFd for Connection {
    /// Readable when something has come that was not read yet: what a program with other things to wait for polls.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
