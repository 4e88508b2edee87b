//! The person's terminal in raw mode, and back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

type Hook = dyn Fn(&PanicHookInfo<'_>) + Send + Sync;

/// A terminal in raw mode. It is as before when this is dropped, and before a panic is reported: with `panic = "abort"`
/// nothing is dropped any more.
pub(crate) struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
    farewell: &'static [u8],
    hook: Arc<Hook>,
}

impl RawTerminal {
    /// Makes `terminal` raw.
    pub(crate) fn enter(terminal: impl AsFd) -> io::Result<Self> {
        Self::enter_until(terminal, b"")
    }

    /// Makes `terminal` raw; `farewell` is written to it when it becomes as before, to undo what its user has written to it.
    pub(crate) fn enter_until(terminal: impl AsFd, farewell: &'static [u8]) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        let hook: Arc<Hook> = std::panic::take_hook().into();
        let for_panic = (terminal.try_clone()?, before.clone(), Arc::clone(&hook));
        std::panic::set_hook(Box::new(move |panic| {
            let (terminal, before, hook) = &for_panic;
            leave(terminal, before, farewell);
            hook(panic);
        }));
        let guard = Self { terminal, before, farewell, hook };
        tcsetattr(&guard.terminal, OptionalActions::Now, &raw)?;
        Ok(guard)
    }
}

/// A terminal that has been hung up cannot be set and need not be.
fn leave(terminal: &OwnedFd, before: &Termios, farewell: &[u8]) {
    if !farewell.is_empty() {
        let _ = rustix::io::write(terminal, farewell);
    }
    let _ = tcsetattr(terminal, OptionalActions::Now, before);
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        leave(&self.terminal, &self.before, self.farewell);
        if !std::thread::panicking() {
            let hook = Arc::clone(&self.hook);
            std::panic::set_hook(Box::new(move |panic| hook(panic)));
        }
    }
}

/// The terminal that `output` is, opened anew: it can be written to without blocking, and without changing that for
/// everybody else who has it. What is not a terminal, or can't be opened anew, is used as it is.
pub(crate) fn screen(output: impl AsFd) -> io::Result<OwnedFd> {
    let output = output.as_fd();
    if isatty(output) {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&output));
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(screen) = rustix::fs::open(path, flags, Mode::empty()) {
            return Ok(screen);
        }
    }
    output.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    fn echoes(terminal: &OwnedFd) -> bool {
        tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    #[test]
    fn a_terminal_is_as_before_after_an_end_of_any_kind() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
        assert!(echoes(&terminal));
        let raw = RawTerminal::enter(&terminal).unwrap();
        assert!(!echoes(&terminal));
        drop(raw);
        assert!(echoes(&terminal));
        // As with panic = "abort": the guard is never dropped.
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            std::mem::forget(RawTerminal::enter(&terminal).unwrap());
            assert!(echoes(&terminal), "expected by this test");
        }));
        assert!(panicked.is_err());
        assert!(echoes(&terminal));
    }
}
