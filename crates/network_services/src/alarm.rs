//! A clock that wakes once at a given time of day, and not before.
//!
//! Leases end by the calendar, which is set now and then, and goes on while a host sleeps: timerfd(2) on CLOCK_REALTIME follows both, where a
//! time that is slept does not.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The clock.
#[derive(Debug)]
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// One that does not ring. Takes a runtime.
    #[expect(unsafe_code, reason = "a descriptor that the runtime watches")]
    pub(crate) fn new() -> io::Result<Self> {
        let clock = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // SAFETY: the descriptor is the same and open until it is dropped, after its registration.
        let clock = unsafe { AsyncFd::register_with_interest(clock, Interest::READABLE)? };
        Ok(Self(clock))
    }

    /// Rings at this time, seconds since 1970, and whenever the clock is set to another time; never if there is none.
    pub(crate) fn set(&self, at: Option<u64>) -> io::Result<()> {
        // A time of zero stops it.
        let seconds = at.map_or(0, |at| i64::try_from(at.max(1)).unwrap_or(i64::MAX));
        let value = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(self.0.get_ref(), flags, &once)?;
        Ok(())
    }

    /// Returns when it rings.
    pub(crate) async fn rings(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|clock| Ok(rustix::io::read(clock.get_ref(), &mut [0; 8])?));
            match read {
                // Set to another time: as good as a ring.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ECANCELED) => return Ok(()),
                Ok(result) => return result.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::now;

    #[tokio::test]
    async fn it_rings_at_its_time_also_when_that_is_over_and_not_without_one() {
        let alarm = Alarm::new().unwrap();
        alarm.set(Some(now() - 5)).unwrap();
        alarm.rings().await.unwrap();
        let soon = now() + 1;
        alarm.set(Some(soon)).unwrap();
        alarm.rings().await.unwrap();
        assert!(now() >= soon);
        alarm.set(Some(0)).unwrap();
        alarm.set(None).unwrap();
        let silence = tokio::time::timeout(std::time::Duration::from_millis(50), alarm.rings());
        assert!(silence.await.is_err());
    }
}
