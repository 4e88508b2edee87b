//! The proleptic Gregorian calendar, as far as a clock needs it: seconds since 1970 to a date and back.
//!
//! The arithmetic counts in eras of 400 years (146,097 days) with years that begin in March, so that the leap day is the
//! last of its year.

/// A moment, as the clock's registers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 1 (Sunday) to 7.
    pub(super) weekday: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

const SECONDS_PER_DAY: i64 = 86_400;
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

fn small(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

/// The date of `seconds` since 1970-01-01 00:00:00.
pub(super) fn date(seconds: i64) -> Date {
    let days = seconds.div_euclid(SECONDS_PER_DAY);
    let in_day = seconds.rem_euclid(SECONDS_PER_DAY);
    let shifted = days + EPOCH;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    Date {
        year: era * 400 + year_of_era + i64::from(month <= 2),
        month: small(month),
        day: small(day_of_year - (153 * month_from_march + 2) / 5 + 1),
        // 1970-01-01 was a Thursday.
        weekday: small((days + 4).rem_euclid(7) + 1),
        hour: small(in_day / 3600),
        minute: small(in_day / 60 % 60),
        second: small(in_day % 60),
    }
}

/// Seconds since 1970-01-01 00:00:00 of `date`; fields out of their range carry over. The weekday is not looked at.
pub(super) fn seconds(date: &Date) -> i64 {
    let month = i64::from(date.month.clamp(1, 12));
    let year = date.year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(date.day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * DAYS_PER_ERA + day_of_era - EPOCH;
    days * SECONDS_PER_DAY
        + i64::from(date.hour) * 3600
        + i64::from(date.minute) * 60
        + i64::from(date.second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_dates() {
        for (time, year, month, day, weekday, hour) in [
            (0, 1970, 1, 1, 5, 0),
            (951_782_400, 2000, 2, 29, 3, 0),
            (951_868_800, 2000, 3, 1, 4, 0),
            (1_735_689_599, 2024, 12, 31, 3, 23),
            (4_107_542_400, 2100, 3, 1, 2, 0),
            (-1, 1969, 12, 31, 4, 23),
        ] {
            let found = date(time);
            let found = (found.year, found.month, found.day, found.weekday, found.hour);
            assert_eq!(found, (year, month, day, weekday, hour), "{time}");
        }
    }

    proptest! {
        #[test]
        fn a_date_and_its_seconds_are_inverse(time in -200_000_000_000i64..200_000_000_000) {
            prop_assert_eq!(seconds(&date(time)), time);
        }
    }
}
