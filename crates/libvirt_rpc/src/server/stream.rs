//! Streams: bytes that go with a call, after its reply, in either direction or both.
//!
//! Source: libvirt's src/rpc/virnetprotocol.x and src/remote/remote_daemon_stream.c. Data travels as STREAM packets with
//! status CONTINUE; an empty one says that the server has no more. The client ends a stream with status OK or ERROR, and the
//! server confirms either with OK, or reports an ERROR of its own instead.
//!
//! Backpressure is the socket's: the server pauses while too much waits to be written, and doesn't read from a client whose
//! packets nobody takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, watch};

use super::handle::{ClientHandle, QUEUE_SHORT, lock};
use crate::error::RpcError;
use crate::frame::{
    FrameStatus, FrameType, Header, STREAM_PAYLOAD_MAX, data_frame, error_frame, value_frame,
};
use crate::xdr::{Reader, Xdr};

const _: () = assert!(QUEUE_SHORT >= STREAM_PAYLOAD_MAX);

/// Packets of a stream that wait for the daemon before its client is not read any more.
const WAITING_PACKETS: usize = 4;

/// What a client sent on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamInput {
    /// Bytes.
    Data(Vec<u8>),
    /// A run of zeroes of this many bytes.
    Hole(u64),
    /// The client has sent or got everything: the server has to end the stream as well.
    Finish,
}

/// A stream that is over before it was finished: the client aborted it or is gone, or the call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream was aborted, or its client is gone")]
pub struct StreamEnd;

/// A stream as its connection has it. With it goes the only way in: the daemon's receiver ends when it is dropped.
#[derive(Debug)]
pub(super) struct OpenStream {
    state: Arc<StreamState>,
    input: mpsc::Sender<StreamInput>,
}

/// What a stream's two ends, the connection and the call share.
#[derive(Debug)]
pub(super) struct StreamState {
    header: Header,
    /// True once the reply to the call is on its way.
    answered: watch::Sender<bool>,
    /// The daemon's side ended it without a word before the reply was on its way. Changed with the streams locked.
    abandoned: AtomicBool,
    over: AtomicBool,
}

/// What a client is told when the daemon's side ends without a word.
const TERMINATED: &str = "stream had unexpected termination";

impl StreamState {
    pub(super) fn open(client: &ClientHandle, header: Header) -> Result<Stream, RpcError> {
        let (input, receiver) = mpsc::channel(WAITING_PACKETS);
        let (answered, ready) = watch::channel(false);
        let state = Arc::new(Self { header, answered, abandoned: false.into(), over: false.into() });
        {
            let mut streams = lock(&client.shared.streams);
            if streams.len() >= client.shared.limits.streams {
                return Err(RpcError::busy("too many streams of this connection"));
            }
            if streams.contains_key(&header.serial) {
                return Err(RpcError::invalid_stream(format!(
                    "serial {} has a stream already",
                    header.serial
                )));
            }
            streams.insert(header.serial, OpenStream { state: Arc::clone(&state), input });
        }
        let sender = StreamSender { client: client.clone(), state, ready };
        Ok(Stream { receiver: StreamReceiver { input: receiver }, sender })
    }

    /// The reply to the call `serial` is on its way: its stream, if it has one, may send, or ends with a failed call.
    pub(super) fn answered(client: &ClientHandle, serial: u32, good: bool) {
        let mut streams = lock(&client.shared.streams);
        let Some(open) = streams.get(&serial) else { return };
        let state = Arc::clone(&open.state);
        if !good {
            streams.remove(&serial);
            state.over.store(true, Ordering::Release);
        } else if state.abandoned.load(Ordering::Relaxed) {
            drop(streams);
            state.fail(client, &RpcError::rpc(TERMINATED));
        } else {
            state.answered.send_replace(true);
        }
    }

    /// Takes a packet from the client. The sender of a full stream is returned: the packet has to come again when it has room.
    pub(super) fn packet(
        client: &ClientHandle,
        header: Header,
        body: &[u8],
    ) -> Result<(), mpsc::Sender<StreamInput>> {
        let found = lock(&client.shared.streams)
            .get(&header.serial)
            .map(|open| (Arc::clone(&open.state), open.input.clone()));
        let Some((state, sender)) = found else {
            // What was under way when the stream ended.
            return Ok(());
        };
        if (state.header.program, state.header.procedure) != (header.program, header.procedure) {
            return Ok(());
        }
        let input = match (header.kind, header.status) {
            (FrameType::StreamHole, FrameStatus::Continue) => match hole(body) {
                Some(length) => StreamInput::Hole(length),
                None => {
                    state.fail(client, &RpcError::rpc("bad hole in a stream"));
                    return Ok(());
                }
            },
            (_, FrameStatus::Continue) => StreamInput::Data(body.to_vec()),
            (_, FrameStatus::Ok) => StreamInput::Finish,
            (_, FrameStatus::Error) => {
                if state.leave(client) {
                    client.send(data_frame(header.answer(FrameType::Stream, FrameStatus::Ok), &[]));
                }
                return Ok(());
            }
        };
        match sender.try_send(input) {
            // A stream whose daemon side takes nothing more goes on until the client ends it.
            Err(mpsc::error::TrySendError::Full(_)) => Err(sender),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Takes the stream out of the connection; false when it was out already.
    fn leave(&self, client: &ClientHandle) -> bool {
        let mut streams = lock(&client.shared.streams);
        let ours =
            streams.get(&self.header.serial).is_some_and(|open| std::ptr::eq(&raw const *open.state, self));
        if ours {
            streams.remove(&self.header.serial);
        }
        self.over.store(true, Ordering::Release);
        ours
    }

    fn fail(&self, client: &ClientHandle, error: &RpcError) {
        if self.leave(client) {
            client.send(error_frame(self.header.answer(FrameType::Stream, FrameStatus::Error), error));
        }
    }
}

/// The body of a hole: its length and flags, of which there are none.
fn hole(body: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(body);
    let length = u64::try_from(i64::decode(&mut reader).ok()?).ok()?;
    (u32::decode(&mut reader) == Ok(0) && reader.remaining() == 0).then_some(length)
}

/// A stream. Dropped without an end, it fails at the client. Both directions can be used apart from each other.
#[derive(Debug)]
pub struct Stream {
    /// From the client.
    pub receiver: StreamReceiver,
    /// To the client, and the end.
    pub sender: StreamSender,
}

/// What comes from the client.
#[derive(Debug)]
pub struct StreamReceiver {
    input: mpsc::Receiver<StreamInput>,
}

/// What goes to the client. Dropped without an end, the stream fails at the client.
#[derive(Debug)]
pub struct StreamSender {
    client: ClientHandle,
    state: Arc<StreamState>,
    ready: watch::Receiver<bool>,
}

impl StreamReceiver {
    /// The next packet.
    ///
    /// # Errors
    /// The client aborted the stream or is gone.
    pub async fn receive(&mut self) -> Result<StreamInput, StreamEnd> {
        self.input.recv().await.ok_or(StreamEnd)
    }
}

impl StreamSender {
    /// Waits until the call is answered and little enough waits to be written.
    async fn turn(&mut self) -> Result<(), StreamEnd> {
        if self.ready.wait_for(|answered| *answered).await.is_err() || !self.client.room().await {
            return Err(StreamEnd);
        }
        if self.state.over.load(Ordering::Acquire) { Err(StreamEnd) } else { Ok(()) }
    }

    fn header(&self, status: FrameStatus) -> Header {
        self.state.header.answer(FrameType::Stream, status)
    }

    /// Sends bytes, in as many packets as they need; waits while the client doesn't read.
    ///
    /// # Errors
    /// The client aborted the stream or is gone.
    pub async fn send(&mut self, data: &[u8]) -> Result<(), StreamEnd> {
        for piece in data.chunks(STREAM_PAYLOAD_MAX) {
            self.turn().await?;
            self.client.send(data_frame(self.header(FrameStatus::Continue), piece));
        }
        Ok(())
    }

    /// Sends a run of `length` zeroes. Only for clients that asked for holes (flag 1 of the volume procedures).
    ///
    /// # Errors
    /// The client aborted the stream or is gone.
    pub async fn send_hole(&mut self, length: u64) -> Result<(), StreamEnd> {
        let mut rest = length;
        while rest > 0 {
            // Lengths are signed on the wire.
            let part = rest.min(i64::MAX.cast_unsigned());
            rest -= part;
            self.turn().await?;
            let header = self.state.header.answer(FrameType::StreamHole, FrameStatus::Continue);
            if let Ok(frame) = value_frame(header, &Hole { length: part.cast_signed(), flags: 0 }) {
                self.client.send(frame);
            }
        }
        Ok(())
    }

    /// Says that nothing more comes. The client ends the stream then.
    ///
    /// # Errors
    /// The client aborted the stream or is gone.
    pub async fn end_of_data(&mut self) -> Result<(), StreamEnd> {
        self.turn().await?;
        self.client.send(data_frame(self.header(FrameStatus::Continue), &[]));
        Ok(())
    }

    /// Confirms the end that the client asked for ([`StreamInput::Finish`]).
    ///
    /// # Errors
    /// The client aborted the stream or is gone.
    pub async fn finish(mut self) -> Result<(), StreamEnd> {
        self.turn().await?;
        if self.state.leave(&self.client) {
            self.client.send(data_frame(self.header(FrameStatus::Ok), &[]));
        }
        Ok(())
    }

    /// Ends the stream with an error.
    pub async fn fail(mut self, error: &RpcError) {
        if self.turn().await.is_ok() {
            self.state.fail(&self.client, error);
        }
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        let streams = lock(&self.client.shared.streams);
        if !*self.ready.borrow() {
            self.state.abandoned.store(true, Ordering::Relaxed);
            return;
        }
        drop(streams);
        self.state.fail(&self.client, &RpcError::rpc(TERMINATED));
    }
}

impl Stream {
    /// Says that nothing more comes, waits for the client's end and confirms it: how a download ends well. Bytes that the client
    /// still sends are dropped.
    ///
    /// # Errors
    /// The client aborted the stream or is gone.
    pub async fn complete(mut self) -> Result<(), StreamEnd> {
        self.sender.end_of_data().await?;
        while self.receiver.receive().await? != StreamInput::Finish {}
        self.sender.finish().await
    }
}

crate::xdr::structures! {
    /// A run of zeroes (virNetStreamHole).
    pub(super) struct Hole { length: i64, flags: u32 }
}
