//! What is made of repeated measurements.

use std::time::Duration;

use serde::Serialize;

/// A summary of one quantity, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Least.
    pub minimum: f64,
    /// Middle.
    pub median: f64,
    /// Nine of ten are not above it.
    pub p90: f64,
}

/// Summarises measurements; `None` of no measurements.
pub fn summarise(samples: &[Duration]) -> Option<Summary> {
    let mut micros: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e6).collect();
    micros.sort_by(f64::total_cmp);
    Some(Summary { minimum: *micros.first()?, median: quantile(&micros, 50)?, p90: quantile(&micros, 90)? })
}

/// The median over rounds of how much longer `ours` took than `base` in the same round: rounds in which the whole host was
/// slow count no more than others. `None` of no rounds.
pub fn paired_ratio(ours: &[Duration], base: &[Duration]) -> Option<f64> {
    let ratios: Vec<f64> =
        ours.iter().zip(base).map(|(ours, base)| ours.as_secs_f64() / base.as_secs_f64()).collect();
    median(&ratios)
}

/// The middle one; `None` of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 50)
}

/// The value in sorted `values` that `percent` of them do not exceed; the mean of the middle two for an even median.
fn quantile(values: &[f64], percent: usize) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let (lower, rest) = (last * percent / 100, last * percent % 100);
    let upper = if rest == 0 { lower } else { lower + 1 };
    Some(values[lower] + (values[upper] - values[lower]) * rest as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|value| Duration::from_micros(*value)).collect()
    }

    #[test]
    fn the_median_is_in_the_middle_and_outliers_do_not_move_it() {
        let summary = summarise(&micros(&[5, 1, 3, 1_000_000, 4])).unwrap();
        assert_eq!((summary.minimum.round(), summary.median.round()), (1.0, 4.0));
        assert_eq!(summarise(&micros(&[2, 4])).unwrap().median.round(), 3.0);
        assert_eq!(summarise(&[]), None);
    }

    #[test]
    fn a_slow_round_does_not_change_a_ratio() {
        let base = micros(&[100, 100, 900]);
        let ours = micros(&[150, 150, 1350]);
        assert_eq!(paired_ratio(&ours, &base).map(|ratio| (ratio * 100.0).round()), Some(150.0));
    }
}
