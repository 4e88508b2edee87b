//! Calling a vCPU's thread out of the guest.
//!
//! Protocol: the caller first makes known what it wants (a message, a flag), then kicks. The vCPU's thread looks for
//! wishes after every [`crate::Exit::Interrupted`]. No kick is lost, whatever the vCPU does meanwhile:
//!
//! - A kick sets `immediate_exit` in the vCPU's run area, then sends a signal to its thread.
//! - In the guest, the signal ends KVM_RUN. On the way to it, the signal does nothing but `immediate_exit` is set, so that
//!   KVM_RUN returns at once. Elsewhere in user space likewise at the next KVM_RUN, which first completes the access
//!   that the last exit reported (KVM API, "immediate_exit").
//! - `run` takes `immediate_exit` back before it returns `Interrupted`, so before the thread looks for wishes.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::host::KvmError;

/// The right to call one vCPU out of the guest. Harmless once the vCPU is gone.
#[derive(Debug, Clone)]
pub struct Kick {
    target: Arc<Mutex<Target>>,
}

#[derive(Debug)]
struct Target {
    /// The byte in the run area; `None` when the vCPU is gone.
    immediate_exit: Option<NonNull<AtomicU8>>,
    /// The thread that runs the vCPU; `None` before its first run.
    thread: Option<libc::pid_t>,
}

#[expect(unsafe_code, reason = "a pointer into the vCPU's run area")]
// SAFETY: the byte is only reached as an atomic, under the mutex that `Kick::retire` takes before the area is unmapped.
unsafe impl Send for Target {}

impl Kick {
    /// `immediate_exit` must stay mapped until [`Kick::retire`].
    pub(crate) fn new(immediate_exit: NonNull<AtomicU8>) -> Self {
        Self { target: Arc::new(Mutex::new(Target { immediate_exit: Some(immediate_exit), thread: None })) }
    }

    /// Makes the vCPU's thread return from its current or next run with [`crate::Exit::Interrupted`].
    pub fn kick(&self) {
        let target = self.target.lock();
        let Some(byte) = target.immediate_exit else { return };
        set(byte);
        if let Some(thread) = target.thread {
            signal(thread);
        }
    }

    /// From now on this thread runs the vCPU. Cheap when it did before.
    pub(crate) fn follow(&self, known: &mut libc::pid_t) -> Result<(), KvmError> {
        let here = this_thread();
        if *known != here {
            prepare_signal()?;
            self.target.lock().thread = Some(here);
            *known = here;
        }
        Ok(())
    }

    /// The vCPU is about to go.
    pub(crate) fn retire(&self) {
        *self.target.lock() = Target { immediate_exit: None, thread: None };
    }
}

#[expect(unsafe_code, reason = "a pointer into the vCPU's run area")]
fn set(byte: NonNull<AtomicU8>) {
    // SAFETY: the caller holds the target's mutex and saw the pointer there, so the area is still mapped.
    unsafe { byte.as_ref() }.store(1, Ordering::SeqCst);
}

/// The signal that ends KVM_RUN; its handler does nothing.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

#[expect(unsafe_code, reason = "no library sends a signal to a thread by its number")]
fn signal(thread: libc::pid_t) {
    // SAFETY: plain system calls. Should the thread be gone and its number used again by another thread of this process,
    // that one runs an empty handler; tgkill reaches no other process.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal());
    }
}

#[expect(unsafe_code, reason = "libc")]
fn this_thread() -> libc::pid_t {
    thread_local!(static NUMBER: Cell<libc::pid_t> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            // SAFETY: gettid has no preconditions.
            number.set(unsafe { libc::gettid() });
        }
        number.get()
    })
}

/// Installs the handler once for the process and lets the signal through to this thread.
#[expect(unsafe_code, reason = "signal handling has no safe interface in the libraries used here")]
fn prepare_signal() -> Result<(), KvmError> {
    static HANDLER: OnceLock<Option<i32>> = OnceLock::new();

    extern "C" fn nothing(_signal: libc::c_int) {}

    let error = |source| KvmError::Refused {
        what: "preparing the signal that calls vCPUs out of the guest".into(),
        source,
    };
    let failure = HANDLER.get_or_init(|| {
        // SAFETY: an all-zero sigaction is a valid value: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        // KVM_RUN returns EINTR all the same; other system calls of the thread need not notice.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing, so it is safe at any point of any thread.
        let code = unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) };
        if code == 0 { None } else { std::io::Error::last_os_error().raw_os_error() }
    });
    if let Some(code) = failure {
        return Err(error(std::io::Error::from_raw_os_error(*code)));
    }
    // SAFETY: the set is a local that sigemptyset initialises before it is used.
    let code = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, kick_signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
    };
    if code == 0 { Ok(()) } else { Err(error(std::io::Error::from_raw_os_error(code))) }
}
