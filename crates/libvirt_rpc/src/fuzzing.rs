//! Doors for fuzz targets; there in fuzzing builds only.

use crate::Procedure;
use crate::error::RpcError;
use crate::events::recode_event;
use crate::frame::{FrameBuffer, Header};
use crate::xdr::{Xdr, XdrError};

/// Reads `bytes` as arguments of `procedure` and writes them again.
pub fn recode_arguments(procedure: Procedure, bytes: &[u8]) -> Result<Vec<u8>, XdrError> {
    procedure.recode_arguments(bytes)
}

/// Reads `bytes` as reply of `procedure` and writes it again.
pub fn recode_reply(procedure: Procedure, bytes: &[u8]) -> Result<Vec<u8>, XdrError> {
    procedure.recode_reply(bytes)
}

/// Reads `bytes` as the event `number` and as an error, and writes them again.
pub fn recode_message(number: u32, bytes: &[u8]) -> Option<Result<Vec<u8>, XdrError>> {
    if let Ok(error) = RpcError::from_bytes(bytes) {
        let mut out = Vec::new();
        error.wire().encode(&mut out).expect("an error can always be sent");
    }
    recode_event(number, bytes)
}

/// Gives `bytes` to a frame buffer in pieces whose lengths are in `pieces`, and returns what came out, and whether it broke off.
pub fn frames(bytes: &[u8], pieces: &[u8], limit: usize) -> (Vec<(Header, Vec<u8>)>, bool) {
    let mut buffer = FrameBuffer::default();
    let mut out = Vec::new();
    let mut rest = bytes;
    let mut lengths = pieces.iter().map(|length| usize::from(*length) + 1).chain(std::iter::repeat(4096));
    while !rest.is_empty() {
        let space = buffer.space();
        let count = lengths.next().unwrap_or(1).min(space.len()).min(rest.len());
        space[..count].copy_from_slice(&rest[..count]);
        buffer.filled(count);
        rest = &rest[count..];
        loop {
            match buffer.peek(limit) {
                Ok(Some((header, body))) => out.push((header, body.to_vec())),
                Ok(None) => break,
                Err(_) => return (out, true),
            }
            buffer.consume();
        }
    }
    (out, false)
}
