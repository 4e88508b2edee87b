//! A terminal in raw mode for as long as a guest's console is on it.
//!
//! The settings to return to are kept in one list of the process, because a terminal must be restored on every way out:
//! when the backend is dropped, and by [`restore_terminals`] from a panic hook or a signal's orderly exit.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};

struct Saved {
    id: u64,
    terminal: OwnedFd,
    settings: Termios,
}

struct Registry {
    next: u64,
    saved: Vec<Saved>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { next: 0, saved: Vec::new() });

/// Raw mode, undone when dropped.
#[derive(Debug)]
pub(super) struct RawMode {
    id: u64,
}

impl RawMode {
    /// Puts `terminal` into raw mode: every key goes to the guest, as the guest's own terminal driver expects. Output
    /// processing stays as it is, so that this process's own messages keep their line ends. `None` for what is not a
    /// terminal and for a process in the background, which the kernel would stop for trying.
    pub(super) fn enter(terminal: &OwnedFd) -> io::Result<Option<Self>> {
        if !rustix::termios::isatty(terminal) {
            return Ok(None);
        }
        let foreground = rustix::termios::tcgetpgrp(terminal);
        if foreground.is_ok_and(|group| group != rustix::process::getpgrp()) {
            return Ok(None);
        }
        let settings = tcgetattr(terminal)?;
        let mut raw = settings.clone();
        raw.make_raw();
        raw.output_modes = settings.output_modes;
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        let mut registry = REGISTRY.lock();
        let id = registry.next;
        registry.next += 1;
        registry.saved.push(Saved { id, terminal: terminal.try_clone()?, settings });
        Ok(Some(Self { id }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let mut registry = REGISTRY.lock();
        if let Some(index) = registry.saved.iter().position(|saved| saved.id == self.id) {
            restore(&registry.saved.swap_remove(index));
        }
    }
}

fn restore(saved: &Saved) {
    // A terminal that is gone needs no settings.
    let _ = tcsetattr(&saved.terminal, OptionalActions::Now, &saved.settings);
}

/// Restores every terminal that is in raw mode. For a panic hook and other ways out of the process that run no
/// destructors; does nothing when a thread holds the list at that moment.
pub fn restore_terminals() {
    if let Some(mut registry) = REGISTRY.try_lock() {
        registry.saved.drain(..).for_each(|saved| restore(&saved));
    }
}

/// Turns echo and all processing off at the slave side of a new pseudo-terminal, so that what the guest prints does not
/// come back as its input.
pub(super) fn make_raw(slave: impl AsFd) -> io::Result<()> {
    let mut settings = tcgetattr(&slave)?;
    settings.make_raw();
    settings.output_modes -= OutputModes::OPOST;
    Ok(tcsetattr(&slave, OptionalActions::Now, &settings)?)
}
