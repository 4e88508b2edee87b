//! Between a person's terminal and a machine's: a pseudo-terminal, and a loop that carries bytes.
//!
//! One thread and one wait. Nothing here blocks but that wait, so a guest that floods and a person who does not look
//! stop each other and nobody else: signals and the end of the machine are noticed at once.
//!
//! The pseudo-terminal is not the controlling one of the machine's process: when the leader of a session exits, the kernel
//! hangs up its terminal and throws away what has not been read, which would be the guest's last words. So the process
//! gets SIGWINCH from here, and SIGTERM from the kernel should this process vanish.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::signals::{Arrived, Signals};
use crate::terminal::{RawTerminal, screen};

/// Ctrl-].
const LEAVE: u8 = 0x1d;
/// How long the machine's process has to end after it has been asked to.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last output may take to be shown after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes carried at a time.
const CHUNK_BYTES: usize = 4096;
/// Exit code of a machine whose process has been killed: the host failed it.
const FAILED: u8 = 1;

/// Runs `command` on a pseudo-terminal that is connected to this process's terminal. Returns its exit code, or 128 + n if
/// signal n ended this command.
pub(super) fn attend(mut command: Command) -> anyhow::Result<ExitCode> {
    let program = command.get_program().display().to_string();
    let input = std::io::stdin();
    // Before the child exists: from here on no signal ends this process without the terminal being restored.
    let signals = Signals::hold().context("cannot hold signals back")?;
    let (master, slave) = pseudo_terminal(input.as_fd()).context("cannot make a pseudo-terminal")?;
    let errors = if isatty(std::io::stderr()) { Stdio::piped() } else { Stdio::inherit() };
    command.stdin(slave.try_clone()?).stdout(slave).stderr(errors);
    bind_to_parent(&mut command, &signals);
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    // Its copies of the pseudo-terminal must not keep it open.
    drop(command);
    say(format_args!("vireo run: Ctrl-] leaves and ends the machine"));
    let raw = RawTerminal::enter(&input).context("cannot set up the terminal");
    let (status, reason) = match &raw {
        Ok(_) => Relay::new(input.as_fd(), &master, &signals, &mut child)?.run()?,
        Err(_) => {
            let _ = child.kill();
            (child.wait()?, None)
        }
    };
    drop(raw?);
    Ok(conclude(&program, status, reason))
}

/// Tells the person, if there still is one: a terminal that has been hung up takes no words, and that is no reason to
/// panic.
fn say(words: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// Says how it ended, on a terminal that is as before.
fn conclude(program: &str, status: ExitStatus, reason: Option<Reason>) -> ExitCode {
    match reason {
        Some(Reason::Key) => say(format_args!("\nvireo run: left; the machine has been ended")),
        Some(Reason::Signal(number)) => {
            say(format_args!("\nvireo run: signal {number}: the machine has been ended"));
            return ExitCode::from(128u8.saturating_add(number));
        }
        None => {}
    }
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(FAILED)),
        // Asked for, in the end.
        (None, Some(_)) if reason == Some(Reason::Key) => ExitCode::SUCCESS,
        (None, signal) => {
            say(format_args!("\nvireo run: {program} was ended by signal {}", signal.unwrap_or_default()));
            ExitCode::from(FAILED)
        }
    }
}

/// A raw pseudo-terminal with the window of `terminal`: the machine's end does no line editing of its own.
fn pseudo_terminal(terminal: BorrowedFd<'_>) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut modes = tcgetattr(&slave)?;
    modes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    pass_window_size(terminal, &master);
    Ok((master, slave))
}

fn pass_window_size(from: BorrowedFd<'_>, to: &OwnedFd) {
    if let Ok(size) = tcgetwinsize(from) {
        // A window of the wrong size is a blemish, not a reason to end.
        let _ = tcsetwinsize(to, size);
    }
}

/// Asks the kernel to end the child when this process does, and keeps signals to this process's group from it: it is
/// ended by one that is meant for it.
#[expect(unsafe_code, reason = "there is no other way to run something between fork and exec")]
fn bind_to_parent(command: &mut Command, signals: &Signals) {
    let release_signals = signals.release_in_child();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe things may be done; these are two system calls, and no memory
    // is allocated.
    unsafe {
        command.pre_exec(move || {
            release_signals();
            Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)
        });
    }
}

/// Why the machine is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The person pressed the key.
    Key,
    /// This signal arrived, or would have: a terminal that is gone counts as SIGHUP.
    Signal(u8),
}

/// SIGHUP.
const HANGUP: Reason = Reason::Signal(1);

struct Relay<'a> {
    input: BorrowedFd<'a>,
    /// `None` once the machine's process has closed its side.
    master: Option<&'a OwnedFd>,
    window: &'a OwnedFd,
    screen: OwnedFd,
    signals: &'a Signals,
    process: OwnedFd,
    errors: Option<ChildStderr>,
    child: &'a mut Child,
    to_machine: Vec<u8>,
    to_screen: Vec<u8>,
    leaving: Option<Reason>,
    status: Option<ExitStatus>,
    /// What happens if nothing else does: the process is killed, or the last output is given up.
    deadline: Option<Instant>,
}

/// Who may be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Signals,
    Process,
    Input,
    Machine,
    Screen,
    Errors,
}

impl<'a> Relay<'a> {
    fn new(
        input: BorrowedFd<'a>,
        master: &'a OwnedFd,
        signals: &'a Signals,
        child: &'a mut Child,
    ) -> anyhow::Result<Self> {
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child without a number")?;
        let process = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the machine's process")?;
        let screen = screen(std::io::stdout()).context("cannot use standard output")?;
        Ok(Self {
            input,
            master: Some(master),
            window: master,
            screen,
            signals,
            process,
            errors: child.stderr.take(),
            child,
            to_machine: Vec::new(),
            to_screen: Vec::new(),
            leaving: None,
            status: None,
            deadline: None,
        })
    }

    fn run(mut self) -> anyhow::Result<(ExitStatus, Option<Reason>)> {
        loop {
            if let Some(status) = self.status
                && self.master.is_none()
                && self.to_screen.is_empty()
                && self.errors.is_none()
            {
                return Ok((status, self.leaving));
            }
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    let _ = self.child.kill();
                    self.child.wait()?;
                    return Err(error).context("cannot wait for the terminal");
                }
            };
            if ready.is_empty() {
                match self.status {
                    Some(status) => return Ok((status, self.leaving)),
                    None => {
                        self.deadline = None;
                        let _ = pidfd_send_signal(&self.process, Signal::KILL);
                    }
                }
            }
            for (who, flags) in ready {
                match who {
                    Who::Signals => self.take_signals(),
                    Who::Process => self.reap()?,
                    Who::Input => self.take_input(),
                    Who::Machine => self.exchange(flags),
                    Who::Screen => self.show(),
                    Who::Errors => self.tell_errors(),
                }
            }
        }
    }

    /// Waits for whatever can be worked on. Empty: the deadline has passed.
    fn wait(&self) -> rustix::io::Result<Vec<(Who, PollFlags)>> {
        let mut who = vec![Who::Signals];
        let mut fds = vec![PollFd::new(self.signals, PollFlags::IN)];
        let mut add = |name, fd| {
            who.push(name);
            fds.push(fd);
        };
        if self.status.is_none() {
            add(Who::Process, PollFd::new(&self.process, PollFlags::IN));
            if self.leaving.is_none() && self.to_machine.is_empty() {
                add(Who::Input, PollFd::from_borrowed_fd(self.input, PollFlags::IN));
            }
        }
        if let Some(master) = self.master {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.to_screen.is_empty());
            flags.set(PollFlags::OUT, !self.to_machine.is_empty());
            // With nothing to wait for, a closed side would still be reported, again and again.
            if !flags.is_empty() {
                add(Who::Machine, PollFd::new(master, flags));
            }
        }
        if !self.to_screen.is_empty() {
            add(Who::Screen, PollFd::new(&self.screen, PollFlags::OUT));
        }
        if let Some(errors) = &self.errors {
            add(Who::Errors, PollFd::new(errors, PollFlags::IN));
        }
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        poll(&mut fds, left.as_ref())?;
        let flags = fds.iter().map(PollFd::revents);
        Ok(who.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn leave(&mut self, reason: Reason) {
        if self.leaving.is_none() {
            self.leaving = Some(reason);
            self.to_machine.clear();
            if self.status.is_none() {
                // It fails only if the process has ended, which is noticed by itself.
                let _ = pidfd_send_signal(&self.process, Signal::TERM);
                self.deadline = Some(Instant::now() + PATIENCE);
            }
        }
    }

    fn take_signals(&mut self) {
        while let Some(arrived) = self.signals.next() {
            match arrived {
                Arrived::WindowSize => {
                    pass_window_size(self.input, self.window);
                    // Fails only if the process has ended.
                    let _ = pidfd_send_signal(&self.process, Signal::WINCH);
                }
                Arrived::End(number) => self.leave(Reason::Signal(number)),
            }
        }
    }

    fn reap(&mut self) -> anyhow::Result<()> {
        self.status = Some(self.child.wait().context("cannot learn how the machine ended")?);
        self.to_machine.clear();
        self.deadline = Some(Instant::now() + LAST_WORDS);
        Ok(())
    }

    fn take_input(&mut self) {
        let mut chunk = [0; CHUNK_BYTES];
        match rustix::io::read(self.input, &mut chunk) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => self.leave(HANGUP),
            Ok(bytes) => {
                let typed = &chunk[..bytes];
                match typed.iter().position(|byte| *byte == LEAVE) {
                    Some(_) => self.leave(Reason::Key),
                    None => self.to_machine.extend_from_slice(typed),
                }
            }
        }
    }

    fn exchange(&mut self, flags: PollFlags) {
        let Some(master) = self.master else { return };
        if flags.contains(PollFlags::OUT) && !self.to_machine.is_empty() {
            match rustix::io::write(master, &self.to_machine) {
                Ok(written) => {
                    self.to_machine.drain(..written);
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The machine has closed its side; reading will tell.
                Err(_) => self.to_machine.clear(),
            }
        }
        if !self.to_screen.is_empty() {
            return;
        }
        let mut chunk = [0; CHUNK_BYTES];
        match rustix::io::read(master, &mut chunk) {
            // Once the process is gone, what is there is all there is, even if a child of it lives on.
            Err(Errno::AGAIN) if self.status.is_none() => {}
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => {
                self.master = None;
                self.to_machine.clear();
            }
            Ok(bytes) => {
                self.to_screen.extend_from_slice(&chunk[..bytes]);
                self.show();
            }
        }
    }

    fn show(&mut self) {
        match rustix::io::write(&self.screen, &self.to_screen) {
            Ok(written) => {
                self.to_screen.drain(..written);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody looks any more.
            Err(_) => {
                self.to_screen.clear();
                self.leave(HANGUP);
            }
        }
    }

    /// Passes messages on to a raw terminal, on which a new line has to begin at the left by itself.
    fn tell_errors(&mut self) {
        let Some(errors) = &self.errors else { return };
        let mut chunk = [0; CHUNK_BYTES];
        match rustix::io::read(errors, &mut chunk) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => self.errors = None,
            Ok(bytes) => {
                let mut text = Vec::new();
                for byte in &chunk[..bytes] {
                    if *byte == b'\n' {
                        text.push(b'\r');
                    }
                    text.push(*byte);
                }
                let _ = std::io::stderr().write_all(&text);
            }
        }
    }
}
