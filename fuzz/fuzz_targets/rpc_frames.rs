//! What a peer of libvirt's protocol sends, taken apart into frames.
//!
//! Held true: frames come out the same however the bytes were cut, none is longer than the limit, and made again they are the
//! bytes that came in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libvirt_rpc::frame::{FRAME_MAX, HANDSHAKE_FRAME_MAX, HEAD_BYTES, data_frame};
use libvirt_rpc::fuzzing::frames;

fuzz_target!(|input: &[u8]| {
    let Some((control, bytes)) = input.split_at_checked(9) else { return };
    let limit = if control[0] & 1 == 0 { FRAME_MAX } else { HANDSHAKE_FRAME_MAX };
    let (whole, broke) = frames(bytes, &[], limit);
    let (pieces, broke_in_pieces) = frames(bytes, &control[1..], limit);
    assert_eq!(broke, broke_in_pieces);
    assert_eq!(whole, pieces);
    let mut at = 0;
    for (header, body) in whole {
        assert!(HEAD_BYTES + body.len() <= limit);
        let frame = data_frame(header, &body);
        assert_eq!(frame, bytes[at..at + frame.len()]);
        at += frame.len();
    }
});
