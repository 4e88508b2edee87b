//! Timers as descriptors, for tasks on a [`crate::worker::Worker`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer that is not running.
///
/// # Errors
/// The process has no descriptor left.
pub fn idle() -> io::Result<OwnedFd> {
    Ok(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?)
}

/// A timer that is readable every `period`.
///
/// # Errors
/// As [`idle`].
pub fn periodic(period: Duration) -> io::Result<OwnedFd> {
    let timer = idle()?;
    set(&timer, period, period);
    Ok(timer)
}

/// Lets `timer` run out after `first`, then every `period`; a zero `first` stops it, a zero `period` makes it run once.
pub fn set(timer: impl AsFd, first: Duration, period: Duration) {
    let timespec = |duration: Duration| Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    };
    let spec = Itimerspec { it_interval: timespec(period), it_value: timespec(first) };
    if let Err(error) = timerfd_settime(timer, TimerfdTimerFlags::empty(), &spec) {
        tracing::error!(%error, "a timer could not be set");
    }
}

/// Takes what has run out; returns whether anything has.
pub fn expired(timer: impl AsFd) -> bool {
    rustix::io::read(timer, &mut [0u8; 8]).is_ok()
}
