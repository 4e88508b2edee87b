use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::*;
use crate::conformance::{Frame, Subject};

fn pair() -> (Stream, Stream) {
    let (one, other) = UnixStream::pair().unwrap();
    (Stream::adopt(one.into()).unwrap(), Stream::adopt(other.into()).unwrap())
}

/// A stream and the bare socket at its other end, which does not wait.
fn bare() -> (Stream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    (Stream::adopt(near.into()).unwrap(), far)
}

crate::net_conformance!(stream, {
    let (one, other) = pair();
    Subject::new(Box::new(one), Box::new(other))
});

#[test]
fn a_frame_follows_its_length_and_carries_no_header() {
    let (mut near, mut far) = bare();
    let mut frame = Frame::numbered(9, 60);
    frame.bytes[..VNET_HEADER_BYTES].fill(0xff);
    near.send(&frame.slices(&[5, 30, 200])).unwrap();
    let mut bytes = [0; 100];
    let read = far.read(&mut bytes).unwrap();
    assert_eq!(bytes[..4], [0, 0, 0, 60]);
    assert_eq!(bytes[4..read], frame.bytes[VNET_HEADER_BYTES..]);
}

#[test]
fn a_frame_that_comes_in_pieces_is_given_out_whole_also_to_another_handle() {
    let (near, mut far) = bare();
    let frame = &Frame::numbered(1, 100).bytes[VNET_HEADER_BYTES..];
    let stream = [&100u32.to_be_bytes()[..], frame, &[0, 0]].concat();
    let mut received = Frame::empty(200);
    let mut whole = None;
    for byte in &stream[..104] {
        far.write_all(&[*byte]).unwrap();
        assert_eq!(whole, None, "not all of it was sent");
        whole = near.clone().receive(&received.slices(&[200])).unwrap();
    }
    assert_eq!(whole, Some(112));
    assert_eq!(received.bytes[..VNET_HEADER_BYTES], [0; VNET_HEADER_BYTES]);
    assert_eq!(&received.bytes[VNET_HEADER_BYTES..112], frame);
    far.write_all(&stream[104..]).unwrap();
    assert_eq!(near.clone().receive(&received.slices(&[200])).unwrap(), None);
}

#[test]
fn a_full_wire_takes_each_frame_once_and_whole() {
    let (mut near, mut far) = bare();
    let (mut sent, mut bytes) = (0u8, Vec::new());
    // So long that the socket takes a part of one.
    let length = 60_000;
    let mut blocked = 0;
    while sent < 40 {
        let mut frame = Frame::numbered(sent, length);
        match near.send(&frame.slices(&[70_000])) {
            Ok(()) => sent += 1,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                blocked += 1;
                let mut chunk = vec![0; 50_000];
                let read = far.read(&mut chunk).unwrap();
                bytes.extend_from_slice(&chunk[..read]);
            }
        }
    }
    assert!(blocked > 0, "the wire was never full");
    while let Ok(read @ 1..) = far.read(bytes.spare(100_000)) {
        bytes.truncate(bytes.len() - 100_000 + read);
    }
    bytes.truncate(40 * (4 + length));
    for number in 0..40u8 {
        let at = usize::from(number) * (4 + length);
        let frame = Frame::numbered(number, length);
        assert_eq!(bytes[at..at + 4], u32::try_from(length).unwrap().to_be_bytes());
        assert!(bytes[at + 4..][..length] == frame.bytes[VNET_HEADER_BYTES..], "frame {number}");
    }
}

/// Room at the end of a vector.
trait Spare {
    fn spare(&mut self, bytes: usize) -> &mut [u8];
}

impl Spare for Vec<u8> {
    fn spare(&mut self, bytes: usize) -> &mut [u8] {
        let before = self.len();
        self.resize(before + bytes, 0);
        &mut self[before..]
    }
}

#[test]
fn after_the_device_began_anew_what_is_half_sent_is_finished_first_and_no_frame_is_swallowed() {
    let (mut near, far) = bare();
    let mut long = Frame::numbered(1, 60_000);
    while near.send(&long.slices(&[70_000])).is_ok() {}
    if !near.wire.state.lock().leaving.owed {
        // This kernel takes frames of this length whole or not at all.
        near.wire.state.lock().leaving = Leaving { bytes: vec![0, 0, 0, 14], gone: 2, owed: true };
    }
    near.set_guest_offloads(Offloads::default()).unwrap();
    let left = near.wire.state.lock().leaving.bytes.len();
    assert!(left > 0);
    let mut short = Frame::numbered(2, 60);
    let mut read = Vec::new();
    while near.send(&short.slices(&[100])).is_err() {
        let got = (&far).read(read.spare(1 << 20)).unwrap();
        read.truncate(read.len() - (1 << 20) + got);
    }
    let got = (&far).read(read.spare(1 << 20)).unwrap();
    read.truncate(read.len() - (1 << 20) + got);
    assert_eq!(read[read.len() - 60..], short.bytes[VNET_HEADER_BYTES..]);
}

#[test]
fn the_end_of_the_other_side_is_told_for_good() {
    let (mut near, far) = bare();
    (&far).write_all(&[0, 0, 0, 60, 1, 2, 3]).unwrap();
    drop(far);
    let mut frame = Frame::empty(200);
    for _ in 0..2 {
        let error = near.receive(&frame.slices(&[200])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    let error = near.send(&Frame::numbered(1, 60).slices(&[200])).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_side_that_is_out_of_step_is_hung_up_on() {
    for length in [0u32, 13, 65_554, u32::MAX] {
        let (mut near, mut far) = bare();
        far.write_all(&length.to_be_bytes()).unwrap();
        let error = near.receive(&Frame::empty(200).slices(&[200])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        assert_eq!(far.read(&mut [0; 10]).unwrap(), 0, "it is told");
    }
}

#[test]
fn a_frame_longer_than_any_is_refused_before_it_leaves() {
    let (mut near, mut far) = bare();
    let error = near.send(&Frame::numbered(1, 65_554).slices(&[100_000])).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(far.read(&mut [0; 10]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn what_is_not_a_connected_stream_is_refused() {
    let refusal = |fd: OwnedFd| Stream::adopt(fd).unwrap_err().to_string();
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(refusal(file.into()).contains("not a socket"));
    let (datagram, _other) = UnixDatagram::pair().unwrap();
    assert!(refusal(datagram.into()).contains("not a stream"));
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    assert!(refusal(listener.into()).contains("not connected"));
}
