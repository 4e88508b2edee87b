//! Signals as something to wait for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// What ends the command.
const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// One that ends the command, by its number.
    End(u8),
    /// The terminal's window has another size.
    WindowSize,
}

/// The signals of interest, held back from their usual effect as long as this exists.
pub(crate) struct Signals {
    descriptor: OwnedFd,
    before: libc::sigset_t,
}

impl Signals {
    /// Holds them back for this thread and those that it starts from now on.
    #[expect(unsafe_code, reason = "signal sets and signalfd have no safe interface here")]
    pub(crate) fn hold() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initializes `set`, the calls after it get that set and valid signal numbers, and
        // `pthread_sigmask` fills in `before` when it returns 0, which is checked before `before` is used.
        let (set, before) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in ENDING.into_iter().chain([libc::SIGWINCH]) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) {
                0 => (set.assume_init(), before.assume_init()),
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        };
        // SAFETY: `set` is an initialized set; -1 asks for a new descriptor.
        let descriptor =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            let error = io::Error::last_os_error();
            restore(&before);
            return Err(error);
        }
        // SAFETY: the descriptor has just been made and nobody else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor, before })
    }

    /// What gives a child, before it becomes another program, the signals as they were: a mask outlives exec. It does one
    /// system call and allocates nothing, as befits the time between fork and exec.
    pub(crate) fn release_in_child(&self) -> impl Fn() + Send + Sync + 'static {
        let before = self.before;
        move || restore(&before)
    }

    /// The next one that has arrived.
    pub(crate) fn next(&self) -> Option<Arrived> {
        // signalfd(2): one struct signalfd_siginfo a signal, which starts with ssi_signo.
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(&self.descriptor, &mut record) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(bytes) if bytes == record.len() => break,
                Ok(_) | Err(_) => return None,
            }
        }
        let [a, b, c, d, ..] = record;
        let number = u32::from_ne_bytes([a, b, c, d]);
        if i32::try_from(number) == Ok(libc::SIGWINCH) {
            return Some(Arrived::WindowSize);
        }
        u8::try_from(number).ok().map(Arrived::End)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

#[expect(unsafe_code, reason = "the signal mask has no safe interface here")]
fn restore(mask: &libc::sigset_t) {
    // SAFETY: `mask` is a set that the kernel filled in; no old mask is asked for.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut());
    }
}
