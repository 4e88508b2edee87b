//! The client's end of a stream.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::{ClientError, Connection};
use crate::error::RpcError;
use crate::frame::{FrameStatus, FrameType, Header, STREAM_PAYLOAD_MAX, data_frame, frame};
use crate::xdr::{Reader, Xdr, XdrError};

/// What the daemon sent on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes.
    Data(Vec<u8>),
    /// A run of zeroes of this many bytes.
    Hole(u64),
    /// Nothing more comes.
    End,
    /// Nothing came in the time given.
    Nothing,
}

/// A stream. It is over after [`Self::finish`] or an error; dropped before that, it is aborted.
#[derive(Debug)]
pub struct ClientStream<'a> {
    connection: &'a mut Connection,
    header: Header,
    over: bool,
}

impl<'a> ClientStream<'a> {
    pub(super) fn new(connection: &'a mut Connection, reply: Header) -> Self {
        let header = reply.answer(FrameType::Stream, FrameStatus::Continue);
        Self { connection, header, over: false }
    }

    /// Sends bytes; blocks while the daemon doesn't read.
    ///
    /// # Errors
    /// The connection broke. What the daemon says against it shows at the next read.
    pub fn send(&mut self, data: &[u8]) -> Result<(), ClientError> {
        for piece in data.chunks(STREAM_PAYLOAD_MAX) {
            self.connection.write(&data_frame(self.header, piece))?;
        }
        Ok(())
    }

    /// Sends a run of `length` zeroes, where the call asked for holes.
    ///
    /// # Errors
    /// The length is beyond what the wire takes, or the connection broke.
    pub fn send_hole(&mut self, length: u64) -> Result<(), ClientError> {
        let length = i64::try_from(length).map_err(|_| XdrError::Invalid { what: "hole", value: length })?;
        let header = self.header.answer(FrameType::StreamHole, FrameStatus::Continue);
        let hole = frame(header, |out| {
            length.encode(out)?;
            0u32.encode(out)
        })?;
        self.connection.write(&hole)
    }

    /// What comes next, waiting for it up to `timeout`, or as long as it takes.
    ///
    /// # Errors
    /// The daemon ended the stream with an error, or the connection broke.
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Input, ClientError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let Some((header, body)) = self.connection.next_frame(deadline)? else {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok(Input::Nothing);
                }
                continue;
            };
            if header.serial != self.header.serial {
                continue;
            }
            match (header.kind, header.status) {
                (FrameType::Stream, FrameStatus::Error) => {
                    self.over = true;
                    return Err(RpcError::from_bytes(&body)?.into());
                }
                (FrameType::Stream, _) if body.is_empty() => return Ok(Input::End),
                (FrameType::Stream, _) => return Ok(Input::Data(body)),
                (FrameType::StreamHole, FrameStatus::Continue) => {
                    let mut reader = Reader::new(&body);
                    let length = i64::decode(&mut reader)?;
                    let length = u64::try_from(length)
                        .map_err(|_| XdrError::Invalid { what: "hole", value: length.cast_unsigned() })?;
                    return Ok(Input::Hole(length));
                }
                _ => {}
            }
        }
    }

    /// Ends the stream: everything is sent or received. Waits until the daemon confirms.
    ///
    /// # Errors
    /// The daemon reports that it couldn't do what the stream was for, or the connection broke.
    pub fn finish(mut self) -> Result<(), ClientError> {
        let header = self.header.answer(FrameType::Stream, FrameStatus::Ok);
        self.connection.write(&data_frame(header, &[]))?;
        self.confirmed()
    }

    /// Waits for the confirmation of an end; data that was under way is dropped.
    fn confirmed(&mut self) -> Result<(), ClientError> {
        while !self.over {
            let Some((header, body)) = self.connection.next_frame(None)? else { continue };
            if header.serial != self.header.serial || header.kind != FrameType::Stream {
                continue;
            }
            match header.status {
                FrameStatus::Continue => {}
                FrameStatus::Ok => self.over = true,
                FrameStatus::Error => {
                    self.over = true;
                    return Err(RpcError::from_bytes(&body)?.into());
                }
            }
        }
        Ok(())
    }

    /// Ends the stream without finishing what it was for. Waits until the daemon confirms.
    ///
    /// # Errors
    /// The connection broke.
    pub fn abort(mut self) -> Result<(), ClientError> {
        self.send_abort()?;
        match self.confirmed() {
            Err(ClientError::Daemon(_)) => Ok(()),
            other => other,
        }
    }

    fn send_abort(&mut self) -> Result<(), ClientError> {
        self.connection.write(&data_frame(self.header.answer(FrameType::Stream, FrameStatus::Error), &[]))
    }
}

impl AsFd for ClientStream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl Drop for ClientStream<'_> {
    fn drop(&mut self) {
        if !self.over {
            // What still comes is dropped by its serial.
            let _ = self.send_abort();
        }
    }
}
