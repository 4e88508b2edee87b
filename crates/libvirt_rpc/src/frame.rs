//! Frames: a length, a header of six words, a body.
//!
//! Source: libvirt's src/rpc/virnetprotocol.x and virnetmessage.c. The length counts itself; a message without its length word is
//! at most 32 MiB.

use crate::error::RpcError;
use crate::xdr::{Reader, STRING_MAX, Xdr, XdrError};

/// The program of libvirt's remote protocol.
pub const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// The program of what only QEMU has.
pub const QEMU_PROGRAM: u32 = 0x2000_8087;
/// The program of keepalive messages.
pub const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
/// The version of all of them.
pub const PROGRAM_VERSION: u32 = 1;

/// Bytes of the length word and the header.
pub const HEAD_BYTES: usize = 28;
/// Longest frame, in bytes, with its length word.
pub const FRAME_MAX: usize = 33_554_432 + 4;
/// Longest frame of a client that has opened nothing yet: room for any handshake, in bytes.
pub const HANDSHAKE_FRAME_MAX: usize = 65_536;
/// Most bytes of a stream in one packet (VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX): what every client takes.
pub const STREAM_PAYLOAD_MAX: usize = 262_120;
/// Most file descriptors that go with a frame.
pub const DESCRIPTORS_MAX: u32 = 32;

const _: () = assert!(STRING_MAX < FRAME_MAX);

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FrameType {
    /// A call, from the client.
    Call = 0,
    /// The answer to a call.
    Reply = 1,
    /// A message that nobody answers: an event, a keepalive.
    Message = 2,
    /// Data or the end of a stream.
    Stream = 3,
    /// A call, with file descriptors behind it.
    CallWithDescriptors = 4,
    /// The answer to a call, with file descriptors behind it.
    ReplyWithDescriptors = 5,
    /// A run of zeroes in a stream.
    StreamHole = 6,
}

/// How the sender fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum FrameStatus {
    /// Calls; good answers; the end of a stream.
    Ok = 0,
    /// An error structure follows.
    Error = 1,
    /// A stream goes on.
    Continue = 2,
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which program's procedure it is.
    pub program: u32,
    /// The version of the program.
    pub version: u32,
    /// The number of the procedure in its program.
    pub procedure: u32,
    /// What the frame is.
    pub kind: FrameType,
    /// The number by which the client knows what is answered.
    pub serial: u32,
    /// How the sender fares.
    pub status: FrameStatus,
}

impl Header {
    /// The header of an answer to a frame with this one.
    #[must_use]
    pub fn answer(self, kind: FrameType, status: FrameStatus) -> Self {
        Self { kind, status, ..self }
    }

    /// The header of an event, or of another message of the remote program.
    pub fn message(procedure: u32) -> Self {
        Self {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure,
            kind: FrameType::Message,
            serial: 0,
            status: FrameStatus::Ok,
        }
    }

    /// The header of a keepalive message.
    pub fn keepalive(procedure: u32) -> Self {
        Self { program: KEEPALIVE_PROGRAM, ..Self::message(procedure) }
    }

    fn words(self) -> [u32; 6] {
        [self.program, self.version, self.procedure, self.kind as u32, self.serial, self.status as u32]
    }

    /// Reads a header from the words of the wire.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        let mut word = || u32::decode(reader);
        Ok(Self {
            program: word()?,
            version: word()?,
            procedure: word()?,
            kind: match word()? {
                0 => FrameType::Call,
                1 => FrameType::Reply,
                2 => FrameType::Message,
                3 => FrameType::Stream,
                4 => FrameType::CallWithDescriptors,
                5 => FrameType::ReplyWithDescriptors,
                6 => FrameType::StreamHole,
                value => return Err(XdrError::Invalid { what: "frame type", value: u64::from(value) }),
            },
            serial: word()?,
            status: match word()? {
                0 => FrameStatus::Ok,
                1 => FrameStatus::Error,
                2 => FrameStatus::Continue,
                value => return Err(XdrError::Invalid { what: "frame status", value: u64::from(value) }),
            },
        })
    }
}

/// The keepalive program's procedures.
pub const KEEPALIVE_PING: u32 = 1;
/// The answer to [`KEEPALIVE_PING`].
pub const KEEPALIVE_PONG: u32 = 2;

/// Makes one frame in one buffer: the head first, `body` behind it.
pub fn frame(
    header: Header,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), XdrError>,
) -> Result<Vec<u8>, XdrError> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&[0; 4]);
    for word in header.words() {
        out.extend_from_slice(&word.to_be_bytes());
    }
    body(&mut out)?;
    if out.len() > FRAME_MAX {
        return Err(XdrError::TooLong { length: out.len(), limit: FRAME_MAX });
    }
    let length =
        u32::try_from(out.len()).map_err(|_| XdrError::TooLong { length: out.len(), limit: FRAME_MAX })?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

/// A frame with a value for its body.
pub fn value_frame<T: Xdr>(header: Header, body: &T) -> Result<Vec<u8>, XdrError> {
    frame(header, |out| body.encode(out))
}

/// A frame with bytes for its body, which has to be shorter than a frame may be.
pub fn data_frame(header: Header, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(FRAME_MAX - HEAD_BYTES)];
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    let length = u32::try_from(HEAD_BYTES + body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    for word in header.words() {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(body);
    out
}

/// A frame that reports `error`.
pub fn error_frame(header: Header, error: &RpcError) -> Vec<u8> {
    let mut body = Vec::with_capacity(256);
    // The texts of an error are cut to what the wire takes.
    if error.wire().encode(&mut body).is_err() {
        tracing::error!(%error, "an error that can't be sent");
    }
    data_frame(header, &body)
}

/// Why what a peer sends can't be taken apart any more. The connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is shorter than a header.
    #[error("a frame of {0} bytes is shorter than its header")]
    TooShort(usize),
    /// The length is beyond the limit.
    #[error("a frame of {length} bytes, where {limit} are allowed")]
    TooLong {
        /// Bytes.
        length: usize,
        /// The limit in this state of the connection.
        limit: usize,
    },
    /// The header has values that there are none of.
    #[error("bad header: {0}")]
    Header(#[from] XdrError),
}

/// Bytes that came from a peer, taken apart into frames.
///
/// Memory follows what has come, not what a length word says: the buffer grows by doubling and is given back after a large frame.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// Room for one read, and what an idle connection keeps, in bytes.
const READ_BYTES: usize = 16 << 10;

impl FrameBuffer {
    /// Where the next bytes go; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > 4 * READ_BYTES {
                self.bytes = Vec::new();
            }
        }
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.bytes.len() - self.end < READ_BYTES / 4 {
            let grown = (self.bytes.len() * 2).max(READ_BYTES);
            self.bytes.resize(grown, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// `count` bytes were put into [`Self::space`].
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Whether bytes wait that no frame was made of yet.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next whole frame, header and body, without taking it. None when more bytes have to come first.
    pub fn peek(&self, limit: usize) -> Result<Option<(Header, &[u8])>, FrameError> {
        let bytes = &self.bytes[self.start..self.end];
        let Some(length) = bytes.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length < HEAD_BYTES {
            return Err(FrameError::TooShort(length));
        }
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        let Some(frame) = bytes.get(..length) else { return Ok(None) };
        let mut reader = Reader::new(&frame[4..]);
        let header = Header::decode(&mut reader)?;
        Ok(Some((header, &frame[HEAD_BYTES..])))
    }

    /// Drops the frame that [`Self::peek`] shows.
    pub fn consume(&mut self) {
        let bytes = &self.bytes[self.start..self.end];
        if let Some(length) = bytes.first_chunk() {
            self.skip(u32::from_be_bytes(*length) as usize);
        }
    }

    /// Drops up to `count` bytes and returns how many were there.
    pub fn skip(&mut self, count: usize) -> usize {
        let count = count.min(self.end - self.start);
        self.start += count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut FrameBuffer, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = buffer.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            buffer.filled(count);
            bytes = &bytes[count..];
        }
    }

    #[test]
    fn frames_come_out_whole_however_they_came_in() {
        let one = data_frame(Header::message(318), &[1; 20]);
        let two = data_frame(Header::keepalive(KEEPALIVE_PING), &[]);
        assert_eq!(two.len(), HEAD_BYTES);
        let all = [one, two].concat();
        for piece in [1, 3, 28, 1000] {
            let mut buffer = FrameBuffer::default();
            let mut seen = Vec::new();
            for chunk in all.chunks(piece) {
                fill(&mut buffer, chunk);
                while let Some((header, body)) = buffer.peek(FRAME_MAX).unwrap() {
                    seen.push((header.program, header.procedure, body.len()));
                    buffer.consume();
                }
            }
            assert_eq!(seen, [(REMOTE_PROGRAM, 318, 20), (KEEPALIVE_PROGRAM, 1, 0)]);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn lengths_that_lie_are_refused_before_memory_is_taken() {
        let mut buffer = FrameBuffer::default();
        fill(&mut buffer, &u32::MAX.to_be_bytes());
        assert!(matches!(buffer.peek(FRAME_MAX), Err(FrameError::TooLong { .. })));
        let mut buffer = FrameBuffer::default();
        fill(&mut buffer, &27u32.to_be_bytes());
        assert_eq!(buffer.peek(FRAME_MAX), Err(FrameError::TooShort(27)));
        let mut buffer = FrameBuffer::default();
        fill(&mut buffer, &33_000_000u32.to_be_bytes());
        assert_eq!(buffer.peek(FRAME_MAX), Ok(None));
        assert!(buffer.bytes.len() <= READ_BYTES, "a promise of 33 MB costs nothing");
        assert!(buffer.peek(HANDSHAKE_FRAME_MAX).is_err());
    }

    #[test]
    fn a_header_with_an_unknown_type_is_refused() {
        let mut bytes = data_frame(Header::message(1), &[]);
        bytes[19] = 7;
        let mut buffer = FrameBuffer::default();
        fill(&mut buffer, &bytes);
        assert!(matches!(buffer.peek(FRAME_MAX), Err(FrameError::Header(_))));
    }

    #[test]
    fn memory_of_a_large_frame_is_given_back() {
        let mut buffer = FrameBuffer::default();
        fill(&mut buffer, &data_frame(Header::message(1), &vec![7; 4 << 20]));
        assert!(buffer.bytes.len() < 16 << 20);
        buffer.consume();
        buffer.space();
        assert_eq!(buffer.bytes.len(), READ_BYTES);
    }
}
