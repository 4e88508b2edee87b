#![expect(clippy::cast_possible_truncation, reason = "sizes in the tests are small")]

use std::sync::Condvar;

use proptest::prelude::*;

use super::*;
use crate::worker::Worker;

/// 2024-02-29 13:59:58 UTC, a Thursday.
const LEAP_DAY: u64 = 1_709_215_198;
const SIZE: MemorySize = MemorySize { below_4g: 3 << 30, above_4g: 5 << 30 };

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn clock() -> Clock {
    Clock::new(at(LEAP_DAY), SIZE)
}

fn shown(clock: &mut Clock, now: Duration) -> [u8; 8] {
    [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32].map(|index| clock.read(index, now))
}

#[test]
fn the_time_is_shown_in_each_format() {
    let mut clock = clock();
    let now = at(LEAP_DAY);
    assert_eq!(shown(&mut clock, now), [0x58, 0x59, 0x13, 0x05, 0x29, 0x02, 0x24, 0x20]);
    clock.write(0x0b, 0x06, now);
    assert_eq!(shown(&mut clock, now), [58, 59, 13, 5, 29, 2, 24, 20]);
    clock.write(0x0b, 0x00, now);
    assert_eq!(clock.read(0x04, now), 0x81, "one in the afternoon");
    assert_eq!(clock.read(0x04, at(LEAP_DAY + 10 * 3600 + 120)), 0x12, "midnight");
    assert_eq!(clock.read(0x04, at(LEAP_DAY + 22 * 3600 + 120)), 0x92, "noon");
}

#[test]
fn the_guest_sets_the_time_and_it_goes_on_from_there() {
    let mut clock = clock();
    let now = at(LEAP_DAY);
    clock.write(0x0b, 0x82, now);
    for (index, value) in [(0, 0x59), (2, 0x59), (4, 0x23), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x19)] {
        clock.write(index, value, now);
    }
    assert_eq!(clock.read(0x00, at(LEAP_DAY + 5)), 0x59, "held while SET is on");
    clock.write(0x0b, 0x02, at(LEAP_DAY + 10));
    assert_eq!(shown(&mut clock, at(LEAP_DAY + 11)), [0, 0, 0, 0x07, 0x01, 0x01, 0x00, 0x20]);
}

#[test]
fn an_update_is_announced_before_the_second_changes() {
    let mut clock = clock();
    assert_eq!(clock.read(0x0a, at(LEAP_DAY)), 0x26);
    let before = Duration::new(LEAP_DAY, 999_900_000);
    assert_eq!(clock.read(0x0a, before), 0xa6);
    clock.write(0x0b, 0x82, before);
    assert_eq!(clock.read(0x0a, before), 0x26, "a held clock does not update");
}

#[test]
fn flags_are_raised_as_time_goes_by_and_cleared_by_reading() {
    let mut clock = clock();
    let _ = clock.read(0x0c, at(LEAP_DAY));
    assert_eq!(clock.read(0x0c, at(LEAP_DAY)), 0);
    assert_eq!(clock.read(0x0c, at(LEAP_DAY) + Duration::from_millis(2)), 0x40);
    assert_eq!(clock.read(0x0c, at(LEAP_DAY + 1)), 0x50);
    for (index, value) in [(1, 0x05), (3, 0x00), (5, 0x14)] {
        clock.write(index, value, at(LEAP_DAY + 1));
    }
    clock.write(0x0a, 0x20, at(LEAP_DAY + 1));
    assert_eq!(clock.read(0x0c, at(LEAP_DAY + 6)), 0x10);
    assert_eq!(clock.read(0x0c, at(LEAP_DAY + 7)), 0x30);
    assert_eq!(clock.read(0x0c, at(LEAP_DAY + 8)), 0x10);
}

#[test]
fn the_next_event_is_the_earliest_of_those_enabled() {
    let mut clock = clock();
    let now = at(LEAP_DAY) + Duration::from_millis(100);
    assert_eq!(clock.next_event(now), None);
    for (index, value) in [(1, 0x05), (3, 0x00), (5, 0x14)] {
        clock.write(index, value, now);
    }
    clock.write(0x0b, 0x22, now);
    assert_eq!(clock.next_event(now), Some(at(LEAP_DAY + 7)));
    assert_eq!(clock.next_event(at(LEAP_DAY + 7)), Some(at(LEAP_DAY + 7 + 86_400)));
    clock.write(0x03, 0xff, now);
    assert_eq!(clock.next_event(now), Some(at(LEAP_DAY + 7)), "any minute of that hour");
    clock.write(0x01, 0x75, now);
    assert_eq!(clock.next_event(now), None, "there is no such second");
    clock.write(0x0b, 0x32, now);
    assert_eq!(clock.next_event(now), Some(at(LEAP_DAY + 1)));
    clock.write(0x0b, 0x72, now);
    let soon = clock.next_event(now).unwrap();
    assert!(soon > now && soon - now <= Duration::from_nanos(976_563));
}

#[test]
fn the_memory_bytes_tell_the_memory_size() {
    let mut clock = clock();
    let mut word = |low: u8| [low, low + 1].map(|index| clock.read(index, at(LEAP_DAY)));
    assert_eq!(u16::from_le_bytes(word(0x34)), ((3u64 << 30) / 65_536 - 256) as u16);
    assert_eq!((word(0x15), word(0x17), word(0x30)), ([0x80, 0x02], [0xff; 2], [0xff; 2]));
    assert_eq!((word(0x5b), word(0x5d)[0]), ([0x00, 0x40], 0x01));
}

#[derive(Default)]
struct Line(std::sync::Mutex<bool>, Condvar);

impl InterruptLine for Line {
    fn set_level(&self, high: bool) {
        *self.0.lock().unwrap() = high;
        self.1.notify_all();
    }
}

#[test]
fn an_enabled_interrupt_arrives_by_itself_and_again_after_it_was_answered() {
    let worker = Worker::spawn("test").unwrap();
    let line = Arc::new(Line::default());
    let mut rtc = Rtc::new(Arc::clone(&line) as Arc<dyn InterruptLine>, SIZE, &worker.handle()).unwrap();
    let _ = rtc.write(0, &[0x0b, 0x42]);
    let _ = rtc.write(0, &[0x8c]);
    for _ in 0..3 {
        let guard = line.0.lock().unwrap();
        let patience = Duration::from_secs(20);
        let (guard, _) = line.1.wait_timeout_while(guard, patience, |high| !*high).unwrap();
        assert!(*guard, "no periodic interrupt");
        drop(guard);
        let mut data = [0];
        rtc.read(1, &mut data);
        assert_eq!(data[0] & 0xc0, 0xc0);
    }
}

proptest! {
    #[test]
    fn no_access_panics(
        steps in proptest::collection::vec((any::<bool>(), 0u8..128, any::<u8>(), 0u64..1 << 34, 0u32..1_000_000_000), 0..100)
    ) {
        let mut clock = clock();
        for (is_read, index, value, second, nanosecond) in steps {
            // Time may jump either way: it is the host's clock.
            let now = Duration::new(second, nanosecond);
            if is_read {
                clock.read(index, now);
            } else {
                clock.write(index, value, now);
            }
            if let Some(next) = clock.next_event(now) {
                prop_assert!(next > now);
            }
        }
    }
}
