//! Chains that break a rule, and random ones.

use proptest::prelude::*;

use super::super::request::{Command, Limits};
use super::*;

#[test]
fn a_frame_without_header_or_content_is_not_sent() {
    let mut rig = Rig::simple();
    for bytes in [1, 11, 12] {
        let used = rig.driver.request(TX, &[Piece::Out(&vec![0; bytes])]);
        assert_eq!(used.written, 0);
    }
    let used = rig.driver.request(TX, &[Piece::In(100)]);
    assert_eq!(used.written, 0);
    let long = vec![0; MAX_FRAME_BYTES as usize + 1];
    rig.driver.request(TX, &[Piece::Out(&long)]);
    assert_eq!(rig.handle.counters().tx_errors.get(), 5);
    assert!(rig.nets[0].state().from_guest.is_empty());
    rig.driver.request(TX, &[Piece::Out(&long[1..])]);
    assert_eq!(rig.nets[0].state().from_guest.len(), 1);
}

#[test]
fn a_receive_buffer_without_room_for_the_header_breaks_the_queue_until_reset() {
    for pieces in [&[Piece::In(11)][..], &[Piece::Out(&[0; 100])]] {
        let mut rig = Rig::simple();
        rig.driver.add(RX, pieces);
        rig.driver.kick(RX);
        rig.driver.wait_needs_reset();
        rig.driver.initialize(FEATURE_MAC);
        rig.add_rx(1530);
        rig.nets[0].send(&[1; 60]);
        assert_eq!(frame(&rig.driver.wait_used(RX)).0, [1; 60]);
    }
}

#[test]
fn a_command_without_room_for_an_answer_has_no_effect() {
    let mut rig = Rig::new(1, None, ALL);
    rig.driver.add(2, &[Piece::Out(&[1, 1, 2, 9, 9, 9, 9, 9])]);
    rig.driver.kick(2);
    rig.driver.wait_needs_reset();
    let mut mac = [0; 6];
    rig.driver.read_config(0, &mut mac);
    assert_eq!(mac, MAC);
}

proptest! {
    #[test]
    fn what_the_parser_accepts_is_allowed(
        class in 0..7u8,
        command in 0..3u8,
        data in prop::collection::vec(any::<u8>(), 0..40),
        features in any::<u64>(),
        pairs in 1..65u16,
    ) {
        let bytes = [&[class, command], &data[..]].concat();
        match Command::parse(&bytes, &Limits { features, pairs }) {
            Some(Command::SetPairs(wanted)) => prop_assert!((1..=pairs).contains(&wanted)),
            Some(Command::SetGuestOffloads(wanted)) => prop_assert_eq!(wanted & !features, 0),
            Some(Command::SetMac(_)) => prop_assert_eq!(data.len(), 6),
            Some(Command::Filter) | None => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Buffers of any shape and frames of any length: each frame arrives whole and in order, or is counted as dropped.
    #[test]
    fn frames_arrive_whole_or_are_counted(
        mergeable in any::<bool>(),
        buffers in prop::collection::vec(prop::collection::vec(120..1200u32, 1..4), 1..40),
        frames in prop::collection::vec(1..4000usize, 1..20),
    ) {
        let features = if mergeable { ALL } else { ALL & !FEATURE_MRG_RXBUF };
        let mut rig = Rig::new(1, None, features);
        for (seed, bytes) in frames.iter().enumerate() {
            rig.nets[0].send(&pattern(*bytes, seed));
        }
        let mut buffers = buffers.iter().cycle();
        let handle = rig.handle.clone();
        let mut expected = frames.iter().enumerate();
        let mut arrived = 0u64;
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            prop_assert!(std::time::Instant::now() < deadline, "the frames do not arrive");
            let Some(first) = rig.driver.ring(RX).take_used() else {
                let (delivered, dropped) = (handle.counters().rx_frames.get(), handle.counters().rx_dropped.get());
                if delivered + dropped == frames.len() as u64 && arrived == delivered {
                    break;
                }
                // Enough for the longest frame, and few enough descriptors.
                if rig.driver.ring(RX).in_flight() < 40 {
                    let pieces: Vec<_> = buffers.next().unwrap().iter().map(|bytes| Piece::In(*bytes)).collect();
                    rig.driver.add(RX, &pieces);
                    rig.driver.kick(RX);
                }
                std::thread::yield_now();
                continue;
            };
            let mut got = first.data[..first.written as usize].to_vec();
            for _ in 1..u16::from_le_bytes([first.data[10], first.data[11]]) {
                let next = rig.driver.ring(RX).take_used().expect("the buffers of a frame come together");
                got.extend_from_slice(&next.data[..next.written as usize]);
            }
            arrived += 1;
            // Frames before it that are not the same were dropped.
            prop_assert!(expected.any(|(seed, bytes)| pattern(*bytes, seed) == got[12..]));
        }
        prop_assert!(!mergeable || handle.counters().rx_dropped.get() == 0);
    }
}
