//! The contract of [`NetBackend`] as tests that every backend runs: `net_conformance!(name, subject)`.
//!
//! A [`Subject`] is a backend and what is at the other end of its wire, which is a backend as well.

#![expect(clippy::unwrap_used, reason = "these are tests: a panic is how a check fails")]

use std::io;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::VolatileSlice;

use crate::backend::{NetBackend, Offloads, VNET_HEADER_BYTES};

/// Type of the frames that are sent: reserved for local experiments (IEEE 802), so that nobody answers.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
/// Beyond this, a frame is taken to be lost.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// What is checked.
pub struct Subject {
    near: Box<dyn NetBackend>,
    far: Box<dyn NetBackend>,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}

impl Subject {
    /// `near` is checked, `far` is on the other end of its wire.
    pub fn new(near: Box<dyn NetBackend>, far: Box<dyn NetBackend>) -> Self {
        Self { near, far }
    }
}

/// A frame with its header, in memory that can be cut into pieces.
#[derive(Debug)]
pub struct Frame {
    /// Header and frame.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// A broadcast frame of `length` bytes (at least 15) with an empty header; `number` makes it different from others.
    pub fn numbered(number: u8, length: usize) -> Self {
        let mut bytes = vec![number; VNET_HEADER_BYTES + length];
        bytes[..VNET_HEADER_BYTES].fill(0);
        let frame = &mut bytes[VNET_HEADER_BYTES..];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&[0x52, 0x54, 0, 0, 0, number]);
        frame[12..14].copy_from_slice(&EXPERIMENTAL);
        for (place, byte) in frame[14..].iter_mut().enumerate() {
            *byte = number.wrapping_add(place.to_le_bytes()[0]);
        }
        Self { bytes }
    }

    /// Room for `length` bytes.
    pub fn empty(length: usize) -> Self {
        Self { bytes: vec![0xee; length] }
    }

    /// The memory in pieces of these lengths, the last one as long as there is memory.
    pub fn slices(&mut self, lengths: &[usize]) -> Vec<VolatileSlice<'_>> {
        let mut rest = self.bytes.as_mut_slice();
        let mut slices = Vec::new();
        for length in lengths {
            let (piece, after) = rest.split_at_mut((*length).min(rest.len()));
            slices.push(VolatileSlice::from(piece));
            rest = after;
        }
        slices
    }
}

/// Makes one test of each check, in a module `$name`, for the subject that `$subject` makes out of what is in scope.
#[macro_export]
macro_rules! net_conformance {
    ($name:ident, $subject:expr) => {
        $crate::net_conformance!(@tests $name, $subject,
            frames_pass_in_both_directions_in_order,
            frames_may_lie_in_many_pieces,
            a_silent_wire_has_nothing_and_does_not_wait,
            a_frame_longer_than_the_buffers_is_cut,
            what_is_shorter_than_a_frame_is_refused,
            offloads_can_be_switched_on_and_off
        );
    };
    (@tests $name:ident, $subject:expr, $($check:ident),+) => {
        mod $name {
            use super::*;
            $(
                #[test]
                fn $check() {
                    $crate::conformance::$check($subject);
                }
            )+
        }
    };
}

fn is_ready(backend: &dyn NetBackend, wait: bool) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut set = [PollFd::from_borrowed_fd(backend.ready_fd(), PollFlags::IN)];
    poll(&mut set, Some(if wait { &PATIENCE } else { &now })).unwrap() > 0
}

/// The next of our frames, its header cut off.
fn receive(backend: &mut dyn NetBackend, lengths: &[usize]) -> Vec<u8> {
    loop {
        assert!(is_ready(backend, true), "a frame was lost");
        let mut frame = Frame::empty(70_000);
        let Some(bytes) = backend.receive(&frame.slices(lengths)).unwrap() else { continue };
        let frame = frame.bytes[VNET_HEADER_BYTES..bytes].to_vec();
        if frame[12..14] == EXPERIMENTAL {
            return frame;
        }
    }
}

/// What was sent is what arrives, first come first served, in the usual sizes.
pub fn frames_pass_in_both_directions_in_order(mut subject: Subject) {
    for (number, length) in [(1, 60), (2, 1514), (3, 61), (4, 100)] {
        let mut frame = Frame::numbered(number, length);
        subject.near.send(&frame.slices(&[usize::MAX])).unwrap();
        frame.bytes[VNET_HEADER_BYTES + 6] ^= 2;
        subject.far.send(&frame.slices(&[usize::MAX])).unwrap();
    }
    for (number, length) in [(1, 60), (2, 1514), (3, 61), (4, 100)] {
        let mut frame = Frame::numbered(number, length);
        assert_eq!(receive(&mut *subject.far, &[70_000]), frame.bytes[VNET_HEADER_BYTES..], "to the far end");
        frame.bytes[VNET_HEADER_BYTES + 6] ^= 2;
        assert_eq!(
            receive(&mut *subject.near, &[70_000]),
            frame.bytes[VNET_HEADER_BYTES..],
            "to the near end"
        );
    }
}

/// Pieces of any length, cut inside the header too, and more of them than fit on a stack.
pub fn frames_may_lie_in_many_pieces(mut subject: Subject) {
    let many = [&[1; 300][..], &[70_000]].concat();
    for (number, lengths) in [(1, &[1, 10, 3, 500, 70_000][..]), (2, &[12, 70_000]), (3, &many)] {
        let mut frame = Frame::numbered(number, 1000);
        subject.near.send(&frame.slices(lengths)).unwrap();
        assert_eq!(receive(&mut *subject.far, &[70_000]), frame.bytes[VNET_HEADER_BYTES..]);
        subject.far.send(&frame.slices(&[70_000])).unwrap();
        assert_eq!(receive(&mut *subject.near, lengths), frame.bytes[VNET_HEADER_BYTES..]);
    }
}

/// `None` at once, and a descriptor that is not readable.
pub fn a_silent_wire_has_nothing_and_does_not_wait(mut subject: Subject) {
    let mut frame = Frame::empty(2000);
    while subject.near.receive(&frame.slices(&[2000])).unwrap().is_some() {}
    assert!(!is_ready(&*subject.near, false));
    subject.far.send(&Frame::numbered(1, 60).slices(&[2000])).unwrap();
    assert!(is_ready(&*subject.near, true));
    assert_eq!(receive(&mut *subject.near, &[2000]).len(), 60);
    assert_eq!(subject.near.receive(&frame.slices(&[2000])).unwrap(), None);
    assert!(!is_ready(&*subject.near, false));
}

/// The rest of it is gone: the next frame is the next one.
pub fn a_frame_longer_than_the_buffers_is_cut(mut subject: Subject) {
    let mut long = Frame::numbered(1, 1000);
    subject.far.send(&long.slices(&[2000])).unwrap();
    subject.far.send(&Frame::numbered(2, 60).slices(&[2000])).unwrap();
    assert_eq!(receive(&mut *subject.near, &[100, 100]), long.bytes[VNET_HEADER_BYTES..200]);
    assert_eq!(receive(&mut *subject.near, &[2000]), Frame::numbered(2, 60).bytes[VNET_HEADER_BYTES..]);
}

/// Nothing, a part of a header, a header alone: an error that is not "try again", and no harm done.
pub fn what_is_shorter_than_a_frame_is_refused(mut subject: Subject) {
    for length in [0, 1, VNET_HEADER_BYTES - 1, VNET_HEADER_BYTES, VNET_HEADER_BYTES + 13] {
        let mut frame = Frame::empty(length);
        frame.bytes.fill(0);
        let error = subject.near.send(&frame.slices(&[length])).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{length} bytes");
    }
    let mut frame = Frame::numbered(1, 60);
    subject.near.send(&frame.slices(&[2000])).unwrap();
    assert_eq!(receive(&mut *subject.far, &[2000]), frame.bytes[VNET_HEADER_BYTES..]);
}

/// All that the backend says it can do, and nothing, and frames still pass.
pub fn offloads_can_be_switched_on_and_off(mut subject: Subject) {
    let all = subject.near.offloads();
    for offloads in [all, Offloads::default(), Offloads { checksum: all.checksum, ..Offloads::default() }] {
        subject.near.set_guest_offloads(offloads).unwrap();
        let mut frame = Frame::numbered(1, 60);
        subject.far.send(&frame.slices(&[2000])).unwrap();
        assert_eq!(receive(&mut *subject.near, &[2000]), frame.bytes[VNET_HEADER_BYTES..]);
    }
}
