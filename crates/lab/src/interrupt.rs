//! SIGINT, SIGTERM and SIGHUP as a descriptor to poll, so that every wait of this crate ends at once and everything that
//! was started or created is cleaned up by ordinary drops.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::LabError;

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
        let raised = Arc::new(AtomicBool::new(false));
        let (readable, writable) = UnixStream::pair().map_err(failed)?;
        let mut interrupt = Interrupt { raised: Arc::clone(&raised), readable, registered: Vec::new() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
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
    }
}
