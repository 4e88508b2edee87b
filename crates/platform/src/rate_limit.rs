//! Logging that a guest can trigger, limited per call site so that a guest can neither fill the host's disk nor slow its
//! own neighbours by making this process write.
//!
//! [`guest_warn!`](crate::guest_warn) is the only way in which code reached by a guest logs.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Messages that one call site may log in [`PERIOD`].
const BURST: u32 = 10;

/// The period after which a call site may log again.
const PERIOD: Duration = Duration::from_secs(5);

/// The budget of one call site; use through [`guest_warn!`](crate::guest_warn).
#[derive(Debug)]
pub struct RateLimit {
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    since: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl RateLimit {
    /// A call site that has not logged yet.
    #[expect(clippy::new_without_default, reason = "made in statics only, where Default is not const")]
    pub const fn new() -> Self {
        Self { window: Mutex::new(Window { since: None, admitted: 0, suppressed: 0 }) }
    }

    /// Whether to log now: the number of messages that were suppressed since the last one that was admitted.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock();
        if window.since.is_none_or(|since| now.duration_since(since) >= PERIOD) {
            window.since = Some(now);
            window.admitted = 0;
        }
        if window.admitted == BURST {
            window.suppressed = window.suppressed.saturating_add(1);
            return None;
        }
        window.admitted += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

/// `tracing::warn!` for what a guest can trigger: each call site logs at most 10 messages in 5 seconds and then tells how
/// many were suppressed (field `suppressed`).
#[macro_export]
macro_rules! guest_warn {
    ($($argument:tt)+) => {{
        static LIMIT: $crate::rate_limit::RateLimit = $crate::rate_limit::RateLimit::new();
        if let Some(suppressed) = LIMIT.admit() {
            $crate::tracing::warn!(suppressed, $($argument)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_site_logs_ten_messages_a_period_and_counts_the_rest() {
        let limit = RateLimit::new();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limit.admit_at(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(limit.admit_at(start + PERIOD / 2), None);
        }
        assert_eq!(limit.admit_at(start + PERIOD), Some(7));
        assert_eq!(limit.admit_at(start + PERIOD), Some(0));
    }
}
