//! Requests that break a rule, and random ones.

use proptest::prelude::*;
use zerocopy::little_endian::{U32, U64};

use super::super::request::{Header, Limits, Request};
use super::*;
use crate::transport::status::NEEDS_RESET;

#[test]
fn a_request_that_is_malformed_is_answered_with_an_error() {
    let mut rig = default_rig();
    let short = rig.driver.request(0, &[Piece::Out(&[0; 15]), Piece::In(1)]);
    assert_eq!(short.data, [IOERR]);
    let headless = rig.driver.request(0, &[Piece::In(513)]);
    assert_eq!((headless.written, status(&headless)), (0, IOERR));
    for bytes in [1, 511, 513] {
        assert_eq!(status(&into(&mut rig, IN, 0, bytes)), IOERR, "a read of {bytes} bytes");
        assert_eq!(
            status(&out(&mut rig, OUT, 0, &pattern(bytes as usize))),
            IOERR,
            "a write of {bytes} bytes"
        );
    }
    for sector in [u64::MAX, 1 << 55, u64::MAX / 512] {
        assert_eq!(status(&into(&mut rig, IN, sector, 512)), IOERR, "a read at sector {sector:#x}");
    }
    assert_eq!(status(&into(&mut rig, GET_ID, 0, 19)), IOERR);
    assert!(rig.disk.records().is_empty(), "nothing of this reaches the disk");
    // Whether a range is on the disk is for the disk to say.
    assert_eq!(status(&into(&mut rig, IN, DISK_BYTES as u64 / 512, 512)), IOERR);
    assert_eq!(status(&out(&mut rig, OUT, DISK_BYTES as u64 / 512 - 1, &[0; 1024])), IOERR);
    assert_eq!(rig.handle.counters().errors.get(), 14);
}

#[test]
fn an_unknown_request_is_unsupported() {
    let mut rig = default_rig();
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 15, 99, u32::MAX] {
        assert_eq!(out(&mut rig, kind, 0, &[]).data, [UNSUPP], "type {kind}");
    }
    let mut rig = super::rig(FakeDisk::new(DISK_BYTES), ALL & !FEATURE_DISCARD & !FEATURE_WRITE_ZEROES);
    assert_eq!(out(&mut rig, DISCARD, 0, &range(0, 8, 0)).data, [UNSUPP], "not negotiated");
    assert_eq!(out(&mut rig, WRITE_ZEROES, 0, &range(0, 8, 0)).data, [UNSUPP], "not negotiated");
}

#[test]
fn ranges_that_break_a_rule_are_refused_before_the_first_is_acted_on() {
    let mut rig = default_rig();
    let good = range(0, 8, 0);
    let mut refused = |kind, data: &[u8]| out(&mut rig, kind, 0, data).data[0];
    assert_eq!(refused(DISCARD, &[]), IOERR, "no range");
    assert_eq!(refused(DISCARD, &good[..15]), IOERR, "part of a range");
    assert_eq!(refused(DISCARD, &good.repeat(MAX_RANGES as usize + 1)), IOERR, "too many");
    assert_eq!(refused(DISCARD, &[good, range(0, MAX_RANGE_SECTORS + 1, 0)].concat()), IOERR, "too long");
    assert_eq!(refused(DISCARD, &[good, range(u64::MAX, 1, 0)].concat()), IOERR, "overflow");
    assert_eq!(refused(DISCARD, &[good, range(8, 8, 1)].concat()), UNSUPP, "unmap is for write zeroes");
    assert_eq!(refused(WRITE_ZEROES, &[good, range(8, 8, 2)].concat()), UNSUPP, "unknown flag");
    assert!(rig.disk.records().is_empty());
}

#[test]
fn a_disk_of_large_blocks_refuses_parts_of_them() {
    let mut disk = FakeDisk::new(DISK_BYTES);
    disk.geometry.logical_block_bytes = 4096;
    let mut rig = super::rig(disk, ALL);
    assert_eq!(status(&into(&mut rig, IN, 1, 4096)), IOERR);
    assert_eq!(status(&into(&mut rig, IN, 8, 512)), IOERR);
    assert_eq!(out(&mut rig, DISCARD, 0, &range(8, 9, 0)).data, [IOERR]);
    assert!(rig.disk.records().is_empty());
    assert_eq!(status(&into(&mut rig, IN, 8, 4096)), OK);
}

#[test]
fn a_read_only_disk_refuses_to_change() {
    let mut disk = FakeDisk::new(DISK_BYTES);
    disk.read_only = true;
    let mut rig = super::rig(disk, ALL);
    assert_eq!(out(&mut rig, OUT, 0, &[0; 512]).data, [IOERR]);
    assert_eq!(out(&mut rig, WRITE_ZEROES, 0, &range(0, 8, 0)).data, [UNSUPP]);
    assert!(rig.disk.records().is_empty());
    assert_eq!(status(&into(&mut rig, IN, 0, 512)), OK);
}

#[test]
fn a_request_without_room_for_a_status_breaks_the_queue_until_reset() {
    let mut rig = default_rig();
    rig.disk.hold();
    rig.driver.add(0, &[Piece::Out(&header(IN, 0)), Piece::In(512), Piece::In(1)]);
    rig.driver.kick(0);
    rig.disk.wait_for_held(1);
    rig.driver.add(0, &[Piece::Out(&header(FLUSH, 0))]);
    rig.driver.kick(0);
    rig.driver.wait_needs_reset();
    rig.disk.release();
    rig.driver.initialize(ALL);
    assert_eq!(out(&mut rig, FLUSH, 0, &[]).data, [OK]);
}

fn kinds() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(IN),
        Just(OUT),
        Just(FLUSH),
        Just(GET_ID),
        Just(DISCARD),
        Just(WRITE_ZEROES),
        any::<u32>()
    ]
}

fn sectors() -> impl Strategy<Value = u64> {
    prop_oneof![0..4096u64, any::<u64>()]
}

proptest! {
    #[test]
    fn what_the_parser_accepts_is_aligned_and_does_not_overflow(
        kind in kinds(),
        sector in sectors(),
        readable in prop_oneof![0..9000u32, any::<u32>()],
        writable in prop_oneof![0..9000u32, any::<u32>()],
        features in any::<u64>(),
        block_bits in 9..13u32,
    ) {
        let limits = Limits { features, block_bytes: 1 << block_bits };
        let header = Header { kind: U32::new(kind), reserved: U32::new(0), sector: U64::new(sector) };
        match Request::parse(&header, readable, writable, &limits) {
            Ok(Request::Read { offset }) => {
                prop_assert_eq!((offset | u64::from(writable)) % limits.block_bytes, 0);
                prop_assert!(offset.checked_add(u64::from(writable)).is_some());
            }
            Ok(Request::Write { offset }) => {
                prop_assert_eq!((offset | u64::from(readable)) % limits.block_bytes, 0);
                prop_assert_eq!(features & FEATURE_RO, 0);
            }
            Ok(Request::Discard { ranges } | Request::WriteZeroes { ranges }) => {
                prop_assert!(ranges != 0 && ranges <= MAX_RANGES && ranges * 16 == readable);
                prop_assert_eq!(features & FEATURE_RO, 0);
            }
            Ok(Request::Flush | Request::GetId) | Err(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_request_is_answered_or_breaks_the_queue(
        requests in prop::collection::vec((kinds(), sectors(), 0..3000usize, 0..3000u32, 1..40usize), 1..12),
    ) {
        let mut rig = default_rig();
        for (kind, sector, readable, writable, cut) in requests {
            let mut bytes = header(kind, sector).to_vec();
            bytes.extend(pattern(readable));
            // A header may be short, or continue in another buffer.
            let (first, rest) = bytes.split_at(cut.min(bytes.len()));
            let mut pieces = vec![Piece::Out(first)];
            if !rest.is_empty() {
                pieces.push(Piece::Out(rest));
            }
            if writable == 0 {
                rig.driver.add(0, &pieces);
                rig.driver.kick(0);
                rig.driver.wait_needs_reset();
                rig.driver.initialize(ALL);
                continue;
            }
            pieces.push(Piece::In(writable));
            let used = rig.driver.request(0, &pieces);
            prop_assert!(status(&used) <= UNSUPP);
            prop_assert!(used.written <= writable);
            prop_assert_eq!(rig.driver.status() & NEEDS_RESET, 0);
        }
    }
}
