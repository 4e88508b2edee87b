//! The task of one connection: frames in, calls started, keepalive, deadlines, what couldn't be written at once.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::handle::{ClientHandle, QUEUE_SHORT};
use super::stream::{StreamInput, StreamState};
use super::table::{Answer, CallContext, Service, Table};
use super::{Limits, Phase};
use crate::error::RpcError;
use crate::frame::{
    DESCRIPTORS_MAX, FRAME_MAX, FrameBuffer, FrameError, FrameStatus, FrameType, HANDSHAKE_FRAME_MAX, Header,
    KEEPALIVE_PING, KEEPALIVE_PONG, KEEPALIVE_PROGRAM, PROGRAM_VERSION, QEMU_PROGRAM, REMOTE_PROGRAM,
    data_frame, error_frame,
};
use crate::procedures::{
    AuthList, AuthListReply, ConnectClose, ConnectOpen, ConnectRegisterCloseCallback, ConnectSupportsFeature,
    ConnectSupportsFeatureReply, ConnectUnregisterCloseCallback, Procedure,
};
use crate::xdr::Xdr;
use crate::{OPEN_READ_ONLY, feature};

/// Flags of CONNECT_OPEN that only concern the client's own side: VIR_CONNECT_NO_ALIASES, and what libvirt's library sends when it
/// opens a user's own connection (qemu:///session) and would start a daemon for it.
const OPEN_CLIENT_SIDE: u32 = 2 | 4;

/// Frames after which other tasks of the thread get a turn.
const FRAMES_A_TURN: usize = 32;

/// Why nothing more is read for now.
#[derive(Debug)]
enum Blocked {
    /// As many calls as a client may have.
    Calls,
    /// Too much waits to be written.
    Backlog,
    /// A stream whose packets nobody takes.
    Stream(mpsc::Sender<StreamInput>),
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client has closed it")]
    Closed,
    #[error("the server shuts down")]
    Shutdown,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0} descriptors with one frame")]
    Descriptors(u32),
    #[error("no answer to keepalive messages")]
    Keepalive,
    #[error("it reads nothing of what waits for it")]
    Stalled,
    #[error("no connection was opened in time")]
    Handshake,
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// What is known of a client's life since it asked for keepalive messages.
#[derive(Debug)]
struct Keepalive {
    /// When it was last heard of or asked.
    since: Instant,
    /// Questions left.
    left: u32,
}

pub(super) struct Connection<S: Service> {
    client: ClientHandle,
    service: Arc<S>,
    table: Arc<Table<S>>,
    limits: Arc<Limits>,
    phase: watch::Receiver<Phase>,
    buffer: FrameBuffer,
    calls: Arc<Semaphore>,
    blocked: Option<Blocked>,
    /// Bytes to drop: each descriptor comes with one behind its frame, and none is taken.
    skip: usize,
    opened: bool,
    close_callback: bool,
    /// It asked to be closed.
    closing: bool,
    keepalive: Option<Keepalive>,
    started: Instant,
    /// When bytes that wait began to wait, or were last taken.
    stalled: Option<Instant>,
}

impl<S: Service> Connection<S> {
    pub(super) fn new(
        client: ClientHandle,
        service: Arc<S>,
        table: Arc<Table<S>>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let limits = Arc::clone(&client.shared.limits);
        Self {
            client,
            service,
            table,
            phase,
            buffer: FrameBuffer::default(),
            calls: Arc::new(Semaphore::new(limits.calls_in_flight)),
            blocked: None,
            skip: 0,
            opened: false,
            close_callback: false,
            closing: false,
            keepalive: None,
            started: Instant::now(),
            stalled: None,
            limits,
        }
    }

    pub(super) async fn run(mut self) {
        let Some(mut reader) = self.client.take_reader() else { return };
        let end = self.serve(&mut reader).await;
        tracing::debug!(client = self.client.id(), %end, "connection ends");
        self.client.close();
        if self.opened {
            self.service.closed(&self.client);
        }
    }

    async fn serve(&mut self, reader: &mut OwnedReadHalf) -> End {
        loop {
            if let Err(end) = self.process().await {
                return end;
            }
            match self.write() {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(end)) => return end,
                Err(error) => return End::Socket(error),
            }
            if let Err(end) = self.wait(reader).await {
                return end;
            }
        }
    }

    /// Handles every whole frame that is there, until something blocks.
    async fn process(&mut self) -> Result<(), End> {
        let mut frames = 0;
        loop {
            self.skip -= self.buffer.skip(self.skip);
            if self.blocked.is_some() || self.closing || *self.phase.borrow() != Phase::Open {
                return Ok(());
            }
            let limit = if self.opened { FRAME_MAX } else { HANDSHAKE_FRAME_MAX };
            // The buffer is out of `self` while a frame in it is handled.
            let buffer = std::mem::take(&mut self.buffer);
            let handled = match buffer.peek(limit) {
                Ok(Some((header, body))) => self.frame(header, body).await.map(|()| true),
                Ok(None) => Ok(false),
                Err(error) => Err(End::Frame(error)),
            };
            self.buffer = buffer;
            if !handled? {
                return Ok(());
            }
            if self.blocked.is_none() {
                self.buffer.consume();
            }
            frames += 1;
            if frames % FRAMES_A_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Handles one frame. A frame that has to wait sets `blocked` and comes again.
    async fn frame(&mut self, header: Header, body: &[u8]) -> Result<(), End> {
        if header.program == KEEPALIVE_PROGRAM {
            let known = header.version == PROGRAM_VERSION && header.kind == FrameType::Message;
            if known && header.procedure == KEEPALIVE_PING {
                self.client.send(data_frame(Header::keepalive(KEEPALIVE_PONG), &[]));
            }
            return Ok(());
        }
        match header.kind {
            FrameType::Call => {
                if self.client.unsent_bytes() > QUEUE_SHORT {
                    self.blocked = Some(Blocked::Backlog);
                } else if let Ok(permit) = Arc::clone(&self.calls).try_acquire_owned() {
                    self.call(header, body, permit).await;
                } else {
                    self.blocked = Some(Blocked::Calls);
                }
            }
            FrameType::CallWithDescriptors => {
                let count = body.first_chunk().map_or(0, |count| u32::from_be_bytes(*count));
                if count > DESCRIPTORS_MAX {
                    return Err(End::Descriptors(count));
                }
                self.skip = count as usize;
                let error = RpcError::not_supported("file descriptor passing");
                self.client.send(error_frame(header.answer(FrameType::Reply, FrameStatus::Error), &error));
            }
            FrameType::Stream | FrameType::StreamHole => {
                if let Err(full) = StreamState::packet(&self.client, header, body) {
                    self.blocked = Some(Blocked::Stream(full));
                }
            }
            // Nothing that a client may send, and nothing that could be answered.
            FrameType::Reply | FrameType::ReplyWithDescriptors | FrameType::Message => {}
        }
        Ok(())
    }

    /// Starts a call. One that is quick is answered here; one that waits goes on in a task of its own.
    async fn call(&mut self, header: Header, body: &[u8], permit: OwnedSemaphorePermit) {
        let started = match self.own_procedure(header, body) {
            Some(answer) => return self.client.send(answer.frame),
            None => self.admit(header).and_then(|()| {
                let context = CallContext::new(self.client.clone(), header);
                self.table.start(&self.service, context, body)
            }),
        };
        let mut running = match started {
            Ok(running) => running,
            Err(error) => {
                StreamState::answered(&self.client, header.serial, false);
                return self.client.send(Answer::new::<()>(header, Err(error)).frame);
            }
        };
        let first = std::future::poll_fn(|context| Poll::Ready(running.as_mut().poll(context))).await;
        match first {
            Poll::Ready(answer) => deliver(&self.client, header, answer),
            Poll::Pending => {
                let client = self.client.clone();
                tokio::spawn(async move {
                    let answer = running.await;
                    deliver(&client, header, answer);
                    drop(permit);
                });
            }
        }
    }

    /// Whether a call is for the table at all.
    fn admit(&self, header: Header) -> Result<(), RpcError> {
        let Header { program, version, status, .. } = header;
        if !matches!(program, REMOTE_PROGRAM | QEMU_PROGRAM) || version != PROGRAM_VERSION {
            return Err(RpcError::rpc(format!("Cannot find program {program} version {version}")));
        }
        if status != FrameStatus::Ok {
            return Err(RpcError::rpc(format!("Unexpected message status {}", status as u32)));
        }
        if Procedure::find(program, header.procedure).is_none() {
            let name = crate::names::of(header.procedure).filter(|_| program == REMOTE_PROGRAM);
            return Err(
                name.map_or_else(|| RpcError::unknown_procedure(header.procedure), RpcError::not_supported)
            );
        }
        if self.opened { Ok(()) } else { Err(RpcError::internal("connection not open")) }
    }

    /// Answers the procedures that belong to the connection itself; none for all others.
    fn own_procedure(&mut self, header: Header, body: &[u8]) -> Option<Answer> {
        if header.program != REMOTE_PROGRAM
            || header.version != PROGRAM_VERSION
            || header.status != FrameStatus::Ok
        {
            return None;
        }
        let answer = match Procedure::find(header.program, header.procedure)? {
            Procedure::AuthList => {
                // Who the peer is, the kernel has said: there is nothing to negotiate (REMOTE_AUTH_NONE).
                Answer::new(header, decoded::<AuthList>(body).map(|_| AuthListReply { types: vec![0] }))
            }
            Procedure::ConnectSupportsFeature => {
                Answer::new(header, decoded(body).and_then(|asked| self.supports(&asked)))
            }
            Procedure::ConnectOpen => {
                Answer::new(header, decoded(body).and_then(|wanted| self.open(&wanted)))
            }
            Procedure::ConnectClose => {
                self.closing = true;
                Answer::new(header, decoded::<ConnectClose>(body).map(|_| ()))
            }
            Procedure::ConnectRegisterCloseCallback => {
                let reply =
                    decoded::<ConnectRegisterCloseCallback>(body).and_then(|_| self.watch_close(true));
                Answer::new(header, reply)
            }
            Procedure::ConnectUnregisterCloseCallback => {
                let reply =
                    decoded::<ConnectUnregisterCloseCallback>(body).and_then(|_| self.watch_close(false));
                Answer::new(header, reply)
            }
            _ => return None,
        };
        Some(answer)
    }

    fn supports(&mut self, asked: &ConnectSupportsFeature) -> Result<ConnectSupportsFeatureReply, RpcError> {
        let supported = match asked.feature {
            feature::PROGRAM_KEEPALIVE => {
                self.keepalive = Some(Keepalive { since: Instant::now(), left: self.limits.keepalive_count });
                true
            }
            _ if !self.opened => return Err(RpcError::internal("connection not open")),
            feature::TYPED_PARAM_STRING
            | feature::REMOTE_EVENT_CALLBACK
            | feature::REMOTE_CLOSE_CALLBACK
            | feature::NETWORK_UPDATE_HAS_CORRECT_ORDER => true,
            _ => false,
        };
        Ok(ConnectSupportsFeatureReply { supported: i32::from(supported) })
    }

    fn open(&mut self, wanted: &ConnectOpen) -> Result<(), RpcError> {
        if self.opened {
            return Err(RpcError::internal("connection already open"));
        }
        let unknown = wanted.flags & !(OPEN_READ_ONLY | OPEN_CLIENT_SIDE);
        if unknown != 0 {
            return Err(RpcError::invalid_argument(format!(
                "unsupported flags ({unknown:#x}) in function virConnectOpen"
            )));
        }
        if wanted.flags & OPEN_READ_ONLY != 0 {
            self.client.make_read_only();
        }
        self.service.open(&self.client, wanted.name.as_deref())?;
        self.opened = true;
        Ok(())
    }

    fn watch_close(&mut self, on: bool) -> Result<(), RpcError> {
        if !self.opened {
            return Err(RpcError::internal("connection not open"));
        }
        if self.close_callback == on {
            let state = if on { "already" } else { "not" };
            return Err(RpcError::internal(format!("a close callback is {state} registered")));
        }
        self.close_callback = on;
        Ok(())
    }

    /// Writes what waits, and says whether the connection has come to its end.
    fn write(&mut self) -> io::Result<ControlFlow<End>> {
        let taken = self.client.flush()?;
        let waiting = self.client.unsent_bytes() > 0;
        self.stalled = match self.stalled {
            _ if !waiting => None,
            Some(since) if taken == 0 => Some(since),
            _ => Some(Instant::now()),
        };
        if self.client.is_closed() {
            return Ok(ControlFlow::Break(End::Closed));
        }
        let idle = !waiting && self.calls.available_permits() == self.limits.calls_in_flight;
        Ok(match *self.phase.borrow() {
            Phase::Closed => ControlFlow::Break(End::Shutdown),
            Phase::Draining if idle => ControlFlow::Break(End::Shutdown),
            _ if self.closing && idle => ControlFlow::Break(End::Closed),
            _ => ControlFlow::Continue(()),
        })
    }

    /// The next moment at which something is to be done without a client's doing.
    fn deadline(&self) -> Option<Instant> {
        let handshake = (!self.opened).then(|| self.started + self.limits.handshake);
        let alive = self.keepalive.as_ref().map(|alive| alive.since + self.limits.keepalive_interval);
        let stalled = self.stalled.map(|since| since + self.limits.stall);
        [handshake, alive, stalled].into_iter().flatten().min()
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self, reader: &mut OwnedReadHalf) -> Result<(), End> {
        let deadline = self.deadline();
        let draining = self.closing || *self.phase.borrow() != Phase::Open;
        let running = self.calls.available_permits() < self.limits.calls_in_flight;
        let free = !draining && self.blocked.is_none();
        tokio::select! {
            biased;
            count = reader.read(self.buffer.space()), if free => {
                let count = count?;
                if count == 0 {
                    return Err(End::Closed);
                }
                self.buffer.filled(count);
                self.heard();
            }
            () = self.client.shared.attention.notified() => {}
            () = self.client.writable(), if self.stalled.is_some() => {}
            () = unblocked(&self.client, &self.calls, self.blocked.as_ref()), if self.blocked.is_some() => {
                self.blocked = None;
                // Signs of life may wait behind what blocked.
                self.heard();
            }
            // All calls are answered: nothing else may be left to wait for.
            () = all_answered(&self.calls, self.limits.calls_in_flight), if draining && running => {}
            changed = self.phase.changed() => {
                if changed.is_err() {
                    return Err(End::Shutdown);
                }
            }
            () = tokio::time::sleep_until(deadline.unwrap_or(self.started).into()), if deadline.is_some() => {
                return self.due(Instant::now());
            }
        }
        Ok(())
    }

    fn heard(&mut self) {
        if let Some(alive) = &mut self.keepalive {
            *alive = Keepalive { since: Instant::now(), left: self.limits.keepalive_count };
        }
    }

    /// Does what is due: asks for a sign of life, or gives up.
    fn due(&mut self, now: Instant) -> Result<(), End> {
        let late = |since: Instant, limit: Duration| now.duration_since(since) >= limit;
        if !self.opened && late(self.started, self.limits.handshake) {
            return Err(End::Handshake);
        }
        if self.stalled.is_some_and(|since| late(since, self.limits.stall)) {
            return Err(End::Stalled);
        }
        if let Some(alive) = &mut self.keepalive
            && late(alive.since, self.limits.keepalive_interval)
        {
            if self.blocked.is_none() {
                alive.left = alive.left.checked_sub(1).ok_or(End::Keepalive)?;
                self.client.send(data_frame(Header::keepalive(KEEPALIVE_PING), &[]));
            }
            alive.since = now;
        }
        Ok(())
    }
}

fn decoded<C: Xdr>(body: &[u8]) -> Result<C, RpcError> {
    C::from_bytes(body).map_err(|error| RpcError::rpc(format!("Unable to decode message payload: {error}")))
}

fn deliver(client: &ClientHandle, header: Header, answer: Answer) {
    client.send(answer.frame);
    StreamState::answered(client, header.serial, answer.good);
}

/// Waits until the reason for not reading is gone.
async fn unblocked(client: &ClientHandle, calls: &Semaphore, blocked: Option<&Blocked>) {
    match blocked {
        Some(Blocked::Calls) => drop(calls.acquire().await),
        Some(Blocked::Stream(sender)) => drop(sender.reserve().await),
        Some(Blocked::Backlog) => {
            client.room().await;
        }
        None => {}
    }
}

/// Waits until no call is in flight.
async fn all_answered(calls: &Semaphore, limit: usize) {
    drop(calls.acquire_many(u32::try_from(limit).unwrap_or(u32::MAX)).await);
}
