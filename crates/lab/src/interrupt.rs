//! SIGINT, SIGTERM and SIGHUP as a descriptor to poll, so that every wait of this crate ends at once and everything that
//! was started or created is cleaned up by ordinary drops.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::LabError;

const SIGNALS: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];

/// How many [`Interrupt`]s live in this process.
static LIVING: Mutex<u32> = Mutex::new(0);
/// Whether none does: the signals end the process then, as they do by default. signal-hook leaves a handler in place for good, so
/// without this they would be ignored from then on.
static DEFAULT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Catches the terminating signals while it lives. Once raised, it stays raised.
#[derive(Debug)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    readable: UnixStream,
    registered: Vec<SigId>,
}

impl Interrupt {
    /// Starts to catch the signals.
    ///
    /// # Errors
    /// When no socket pair or handler can be made.
    pub fn catch() -> Result<Interrupt, LabError> {
        let failed = |error: io::Error| LabError::System("catching signals", error);
        let mut living = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
        let default = match DEFAULT.get() {
            Some(default) => Arc::clone(default),
            None => {
                let default = Arc::new(AtomicBool::new(false));
                for signal in SIGNALS {
                    signal_hook::flag::register_conditional_default(signal, Arc::clone(&default))
                        .map_err(failed)?;
                }
                Arc::clone(DEFAULT.get_or_init(|| default))
            }
        };
        let raised = Arc::new(AtomicBool::new(false));
        let (readable, writable) = UnixStream::pair().map_err(failed)?;
        default.store(false, Ordering::SeqCst);
        *living += 1;
        drop(living);
        let mut interrupt = Interrupt { raised: Arc::clone(&raised), readable, registered: Vec::new() };
        for signal in SIGNALS {
            let flag = signal_hook::flag::register(signal, Arc::clone(&raised)).map_err(failed)?;
            interrupt.registered.push(flag);
            let end = writable.try_clone().map_err(failed)?;
            let pipe = signal_hook::low_level::pipe::register(signal, end).map_err(failed)?;
            interrupt.registered.push(pipe);
        }
        Ok(interrupt)
    }

    /// Fails with [`LabError::Interrupted`] once a signal has come.
    ///
    /// # Errors
    /// Only that one.
    pub fn check(&self) -> Result<(), LabError> {
        if self.raised.load(Ordering::SeqCst) { Err(LabError::Interrupted) } else { Ok(()) }
    }

    /// Becomes readable when a signal comes.
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
        let mut living = LIVING.lock().unwrap_or_else(PoisonError::into_inner);
        *living -= 1;
        if let (0, Some(default)) = (*living, DEFAULT.get()) {
            default.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    const CHILD: &str = "VIREO_LAB_TEST_CHILD";

    /// Runs this test alone in a process of its own, whose signals are its own too.
    fn in_a_process(test: &str) -> std::process::ExitStatus {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("interrupt::tests::{test}")]).env(CHILD, "1");
        command.output().unwrap().status
    }

    fn raise() {
        kill_process(getpid(), Signal::TERM).unwrap();
    }

    #[test]
    fn a_caught_signal_does_not_end_the_process() {
        if std::env::var_os(CHILD).is_none() {
            assert!(in_a_process("a_caught_signal_does_not_end_the_process").success());
            return;
        }
        drop(Interrupt::catch().unwrap());
        let interrupt = Interrupt::catch().unwrap();
        assert!(interrupt.check().is_ok());
        raise();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        assert!(matches!(crate::wait::ready(&[], until, &interrupt), Err(LabError::Interrupted)));
        assert!(matches!(interrupt.check(), Err(LabError::Interrupted)));
    }

    #[test]
    fn signals_end_the_process_again_once_nothing_catches_them() {
        if std::env::var_os(CHILD).is_none() {
            let status = in_a_process("signals_end_the_process_again_once_nothing_catches_them");
            assert_eq!(status.signal(), Some(SIGTERM));
            return;
        }
        drop(Interrupt::catch().unwrap());
        raise();
        // The signal may be delivered to another thread a moment later.
        std::thread::park_timeout(std::time::Duration::from_secs(60));
    }
}
