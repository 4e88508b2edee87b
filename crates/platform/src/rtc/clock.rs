//! The clock's registers, as a function of the time that it is told: no timer, no lock, no host clock.

use std::time::Duration;

use super::MemorySize;
use super::calendar::{Date, date, seconds};

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// Register A: an update of the time is in progress.
const A_UPDATING: u8 = 1 << 7;
/// Register B.
const B_SET: u8 = 1 << 7;
const B_PERIODIC: u8 = 1 << 6;
const B_ALARM: u8 = 1 << 5;
const B_UPDATE_ENDED: u8 = 1 << 4;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
/// Register C: the flags have the positions of the enables in register B.
const C_INTERRUPT: u8 = 1 << 7;
/// Register D: the battery is good.
const D_VALID: u8 = 1 << 7;
/// An alarm register with these bits set matches any value.
const ANY: u8 = 0xc0;
const AFTERNOON: u8 = 0x80;

/// How long before the change of the second the update-in-progress bit is set (datasheet, figure 15).
const UPDATE: Duration = Duration::from_micros(244);
const SECONDS_PER_DAY: i64 = 86_400;

/// The state of the clock and its memory.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    memory: [u8; 128],
    /// What the guest's time is ahead of the host's, in seconds.
    offset: i64,
    /// The time in the registers while the guest holds them (register B bit 7).
    held: Option<Date>,
    flags: u8,
    /// Up to when flags have been raised, by the host's time.
    seen: Duration,
}

impl Clock {
    pub(super) fn new(now: Duration, size: MemorySize) -> Self {
        let mut memory = [0; 128];
        memory[usize::from(REGISTER_A)] = 0x26; // 32.768 kHz, 1024 Hz periodic rate
        memory[usize::from(REGISTER_B)] = B_24_HOURS;
        let mut put = |at: usize, value: u64, bytes: usize| {
            let limit = (1u64 << (bytes * 8)) - 1;
            memory[at..at + bytes].copy_from_slice(&value.min(limit).to_le_bytes()[..bytes]);
        };
        put(0x15, 640, 2); // KiB below 640 KiB
        let extended = size.below_4g.saturating_sub(1 << 20) >> 10;
        put(0x17, extended, 2); // KiB above 1 MiB
        put(0x30, extended, 2);
        put(0x34, size.below_4g.saturating_sub(16 << 20) >> 16, 2); // 64 KiB units above 16 MiB
        put(0x5b, size.above_4g >> 16, 3); // 64 KiB units above 4 GiB
        Self { memory, offset: 0, held: None, flags: 0, seen: now }
    }

    fn register(&self, index: u8) -> u8 {
        self.memory[usize::from(index & 0x7f)]
    }

    fn guest_seconds(&self, now: Duration) -> i64 {
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_add(self.offset)
    }

    fn date(&self, now: Duration) -> Date {
        self.held.unwrap_or_else(|| date(self.guest_seconds(now)))
    }

    /// A number as the registers show it: binary or packed decimal.
    fn encode(&self, value: u8) -> u8 {
        if self.register(REGISTER_B) & B_BINARY != 0 { value } else { (value / 10 % 10) << 4 | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.register(REGISTER_B) & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf).min(9)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.register(REGISTER_B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { AFTERNOON } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.register(REGISTER_B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let hour = self.decode(value & !AFTERNOON) % 12;
        hour + if value & AFTERNOON != 0 { 12 } else { 0 }
    }

    pub(super) fn read(&mut self, index: u8, now: Duration) -> u8 {
        self.advance(now);
        let date = self.date(now);
        let two_digits = |value: i64| u8::try_from(value.rem_euclid(100)).unwrap_or(0);
        match index & 0x7f {
            SECONDS => self.encode(date.second),
            MINUTES => self.encode(date.minute),
            HOURS => self.encode_hour(date.hour),
            WEEKDAY => self.encode(date.weekday),
            DAY => self.encode(date.day),
            MONTH => self.encode(date.month),
            YEAR => self.encode(two_digits(date.year)),
            CENTURY => self.encode(two_digits(date.year.div_euclid(100))),
            REGISTER_A => self.register(REGISTER_A) | self.updating(now),
            REGISTER_C => {
                let flags = self.flags | if self.interrupts() { C_INTERRUPT } else { 0 };
                self.flags = 0;
                flags
            }
            REGISTER_D => D_VALID,
            other => self.register(other),
        }
    }

    fn updating(&self, now: Duration) -> u8 {
        let soon = Duration::from_nanos(u64::from(now.subsec_nanos())) + UPDATE >= Duration::from_secs(1);
        if soon && self.held.is_none() { A_UPDATING } else { 0 }
    }

    pub(super) fn write(&mut self, index: u8, value: u8, now: Duration) {
        self.advance(now);
        match index & 0x7f {
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                self.set_time(index & 0x7f, value, now);
            }
            REGISTER_A => self.memory[usize::from(REGISTER_A)] = value & !A_UPDATING,
            REGISTER_B => self.set_register_b(value, now),
            REGISTER_C | REGISTER_D => {}
            other => self.memory[usize::from(other)] = value,
        }
    }

    fn set_time(&mut self, index: u8, value: u8, now: Duration) {
        let mut date = self.date(now);
        let number = self.decode(value);
        match index {
            SECONDS => date.second = number,
            MINUTES => date.minute = number,
            HOURS => date.hour = self.decode_hour(value),
            WEEKDAY => date.weekday = number,
            DAY => date.day = number,
            MONTH => date.month = number,
            YEAR => date.year = date.year.div_euclid(100) * 100 + i64::from(number % 100),
            _ => date.year = i64::from(number % 100) * 100 + date.year.rem_euclid(100),
        }
        if self.held.is_some() {
            self.held = Some(date);
        } else {
            self.set_offset(&date, now);
        }
    }

    fn set_offset(&mut self, date: &Date, now: Duration) {
        self.offset = seconds(date).saturating_sub(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    fn set_register_b(&mut self, value: u8, now: Duration) {
        // The datasheet: setting SET clears the update-ended enable.
        let value = if value & B_SET != 0 { value & !B_UPDATE_ENDED } else { value };
        match (value & B_SET != 0, self.held) {
            (true, None) => self.held = Some(self.date(now)),
            (false, Some(date)) => {
                self.set_offset(&date, now);
                self.held = None;
            }
            _ => {}
        }
        self.memory[usize::from(REGISTER_B)] = value;
    }

    /// Whether the clock holds its interrupt line.
    pub(super) fn interrupts(&self) -> bool {
        self.flags & self.register(REGISTER_B) & (B_PERIODIC | B_ALARM | B_UPDATE_ENDED) != 0
    }

    /// The period of the periodic interrupt (datasheet, table 5); `None` when it is off.
    fn period(&self) -> Option<Duration> {
        let rate = self.register(REGISTER_A) & 0x0f;
        let shift = match rate {
            0 => return None,
            1 | 2 => rate + 6, // as rates 8 and 9
            other => other - 1,
        };
        Some(Duration::from_nanos((1_000_000_000u64 << shift) / 32_768))
    }

    /// The second of a day at which the alarm goes off next after `second` of it; up to a day later.
    fn next_alarm(&self, second: i64) -> Option<i64> {
        let fields = |at: i64| {
            let date = date(at);
            [
                (SECONDS_ALARM, date.second, self.decode(self.register(SECONDS_ALARM))),
                (MINUTES_ALARM, date.minute, self.decode(self.register(MINUTES_ALARM))),
                (HOURS_ALARM, date.hour, self.decode_hour(self.register(HOURS_ALARM))),
            ]
        };
        let matches =
            |register: u8, shown: u8, wanted: u8| self.register(register) & ANY == ANY || shown == wanted;
        let mut at = second + 1;
        while at <= second + SECONDS_PER_DAY {
            let [seconds, minutes, hours] =
                fields(at).map(|(register, shown, wanted)| matches(register, shown, wanted));
            if !hours {
                at += 3600 - at.rem_euclid(3600);
            } else if !minutes {
                at += 60 - at.rem_euclid(60);
            } else if !seconds {
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }

    /// Raises the flags of what has happened since the last call.
    pub(super) fn advance(&mut self, now: Duration) {
        let before = std::mem::replace(&mut self.seen, now);
        if now <= before {
            return;
        }
        if let Some(period) = self.period()
            && now.as_nanos() / period.as_nanos() != before.as_nanos() / period.as_nanos()
        {
            self.flags |= B_PERIODIC;
        }
        let (from, to) = (self.guest_seconds(before), self.guest_seconds(now));
        if self.held.is_none() && from < to {
            self.flags |= B_UPDATE_ENDED;
            if self.next_alarm(from).is_some_and(|at| at <= to) {
                self.flags |= B_ALARM;
            }
        }
    }

    /// When the next enabled interrupt is due, by the host's time; `None` when none is enabled.
    pub(super) fn next_event(&self, now: Duration) -> Option<Duration> {
        let enabled = self.register(REGISTER_B);
        let periodic = self.period().filter(|_| enabled & B_PERIODIC != 0).map(|period| {
            let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
            let since_second = u64::from(now.subsec_nanos());
            // Counted from the epoch as `advance` does; the remainder of whole seconds is taken with 128 bits.
            let phase = u64::try_from(now.as_nanos() % u128::from(period)).unwrap_or(since_second);
            now + Duration::from_nanos(period - phase)
        });
        let update = (enabled & B_UPDATE_ENDED != 0 && self.held.is_none())
            .then(|| Duration::from_secs(now.as_secs() + 1));
        let second = self.guest_seconds(now);
        let alarm = (enabled & B_ALARM != 0 && self.held.is_none())
            .then(|| self.next_alarm(second))
            .flatten()
            .and_then(|at| u64::try_from(at - second).ok())
            .map(|wait| Duration::from_secs(now.as_secs().saturating_add(wait)));
        [periodic, update, alarm].into_iter().flatten().min()
    }
}
