//! Waiting with a deadline that a signal cuts short: the one poll call behind everything in this crate.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::LabError;
use crate::interrupt::Interrupt;

/// Waits until a descriptor of `wanted` is ready for its flags or `until` has passed. Returns what each is ready for;
/// nothing but empty flags means that the time is over.
///
/// # Errors
/// [`LabError::Interrupted`], or poll's own failure.
pub(crate) fn ready(
    wanted: &[(BorrowedFd<'_>, PollFlags)],
    until: Instant,
    interrupt: &Interrupt,
) -> Result<Vec<PollFlags>, LabError> {
    let mut all: Vec<PollFd<'_>> =
        wanted.iter().map(|&(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
    all.push(interrupt.poll_fd());
    loop {
        interrupt.check()?;
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut all, Some(&left)) {
            Ok(_) => {
                interrupt.check()?;
                all.pop();
                return Ok(all.iter().map(PollFd::revents).collect());
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(LabError::System("waiting", error.into())),
        }
    }
}
