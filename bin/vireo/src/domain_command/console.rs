//! `vireo console`: a person's terminal, or a pipe, connected to a machine's.
//!
//! One thread and one wait, in which nothing else blocks: what the machine says is read as it comes, what is typed is sent only
//! while the connection takes it, and what the terminal can't take yet is kept up to a bound. So neither a guest that floods nor
//! one that does not listen keeps the person from leaving. The terminal is as before whatever happens.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::client::{ClientError, ClientStream, Connection, Input};
use libvirt_rpc::procedures::DomainOpenConsole;
use libvirt_rpc::types::RemoteDomain;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::DomainArgument;
use crate::connection::{Attempt, Error, Options, connect};
use crate::output::harmless;
use crate::signals::{Arrived, Signals};
use crate::terminal::{RawTerminal, screen};

/// Connect to the console of a domain; Ctrl-] leaves
///
/// Without a terminal, standard input is typed and standard output gets what the machine says, until it ends.
#[derive(Debug, Args)]
pub(crate) struct ConsoleArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// The device, by its alias, such as serial0 [default: the first console]
    #[arg(long, value_name = "ALIAS")]
    devname: Option<String>,
    /// Take over from whoever is connected
    #[arg(long)]
    force: bool,
    /// Only where the hypervisor keeps others from connecting at the same time
    #[arg(long)]
    safe: bool,
    /// Only look: nothing is typed, and whoever is connected stays (vireod only)
    #[arg(long, conflicts_with = "force")]
    read_only: bool,
    /// Begin with what was said before (vireod only)
    #[arg(long)]
    history: bool,
    /// The key that leaves: ^ and a letter, or a character
    #[arg(short, long, value_name = "KEY", default_value = "^]", value_parser = key)]
    escape: u8,
}

/// How a console is opened and left.
#[derive(Debug, Default)]
pub(super) struct Manner {
    device: Option<String>,
    flags: u32,
    /// Asked for, and done without where the daemon doesn't know them.
    wished: u32,
    escape: Option<u8>,
}

/// virDomainConsoleFlags.
const FORCE: u32 = 1;
const SAFE: u32 = 2;
/// This project's own.
const READ_ONLY: u32 = 1 << 16;
const HISTORY: u32 = 1 << 17;

/// Ctrl-].
const ESCAPE: u8 = 0x1d;
/// Bytes read from the terminal at a time.
const CHUNK_BYTES: usize = 4096;
/// What may wait for a terminal that is slow, in bytes, before the machine is not listened to any more.
const WAITING_BYTES: usize = 1 << 20;

impl Manner {
    /// From the machine's first word on, as far as the daemon has kept it.
    pub(super) fn from_the_start() -> Self {
        Self { wished: HISTORY, ..Self::default() }
    }
}

/// A key: `^]`, `^A`, `~`.
fn key(text: &str) -> Result<u8, String> {
    match *text.as_bytes() {
        // Control characters are the upper-case letters and their neighbours without bit 6 (ASCII).
        [b'^', letter] if (b'@'..=b'_').contains(&letter.to_ascii_uppercase()) => {
            Ok(letter.to_ascii_uppercase() & 0x1f)
        }
        [letter] if letter.is_ascii_graphic() => Ok(letter),
        _ => Err("write ^ and a letter, as in ^], or one character".to_owned()),
    }
}

/// How a key is called.
fn key_name(key: u8) -> String {
    if key < 0x20 { format!("Ctrl-{}", char::from(key | 0x40)) } else { char::from(key).to_string() }
}

/// Connects to it.
pub(super) fn run(arguments: &ConsoleArguments, options: &Options) -> Result<ExitCode, Error> {
    if options.json {
        return Err(Error::usage("a console has no JSON: leave --json out"));
    }
    let given = [
        (FORCE, arguments.force),
        (SAFE, arguments.safe),
        (READ_ONLY, arguments.read_only),
        (HISTORY, arguments.history),
    ];
    let flags = given.into_iter().filter(|(_, given)| *given).fold(0, |flags, (flag, _)| flags | flag);
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let escape = Some(arguments.escape);
    let manner = Manner { device: arguments.devname.clone(), flags, wished: 0, escape };
    attend(&mut connection, &domain, &manner)
}

/// Connects standard input and output to the console of `domain` until the person leaves or it ends.
pub(super) fn attend(
    connection: &mut Connection,
    domain: &RemoteDomain,
    manner: &Manner,
) -> Result<ExitCode, Error> {
    // Before the terminal is raw: from here on no signal ends this process without the terminal being restored.
    let signals = Signals::hold().context("cannot hold signals back")?;
    let open = |flags| DomainOpenConsole { dom: domain.clone(), dev_name: manner.device.clone(), flags };
    let what = || format!("cannot open the console of domain {}", domain.name);
    if manner.wished != 0 {
        match connection.open_stream(&open(manner.flags | manner.wished)) {
            Ok(((), stream)) => return carry(stream, domain, manner, &signals),
            Err(ClientError::Daemon(error)) if error.code == ErrorCode::InvalidArgument => {}
            Err(error) => return Err(Error::daemon(what(), error)),
        }
    }
    let ((), stream) = connection.open_stream(&open(manner.flags)).attempt(what)?;
    carry(stream, domain, manner, &signals)
}

/// Carries bytes between the terminal and the console, with a terminal that is raw meanwhile.
fn carry(
    stream: ClientStream<'_>,
    domain: &RemoteDomain,
    manner: &Manner,
    signals: &Signals,
) -> Result<ExitCode, Error> {
    let on_terminal = std::io::stdin().is_terminal();
    let escape = on_terminal.then_some(manner.escape.unwrap_or(ESCAPE));
    if let Some(escape) = escape {
        say(&format!("Connected to domain '{}'; {} leaves\n", harmless(&domain.name), key_name(escape)));
    }
    let raw = on_terminal.then(|| RawTerminal::enter(std::io::stdin())).transpose();
    let raw = raw.context("cannot set up the terminal")?;
    let screen = screen(std::io::stdout()).context("cannot use standard output")?;
    let last = screen.try_clone().context("cannot use standard output")?;
    let relay =
        Relay { stream, signals, screen, to_screen: Vec::new(), to_machine: Vec::new(), input: true, escape };
    let left = relay.run();
    drop(raw);
    if on_terminal {
        // A terminal that takes nothing must not keep the person here.
        let _ = rustix::io::write(&last, b"\n");
    }
    match left {
        Ok(Left::Ended) => Ok(ExitCode::SUCCESS),
        Ok(Left::Signal(number)) => Ok(ExitCode::from(128u8.saturating_add(number))),
        Err(Trouble::Daemon(error)) => {
            Err(Error::daemon(format!("the console of domain {} ended", domain.name), error))
        }
        Err(Trouble::Terminal(error)) => {
            Err(anyhow::Error::from(error).context("cannot wait for the terminal").into())
        }
    }
}

/// A terminal that is gone takes no words.
fn say(words: &str) {
    let _ = std::io::stderr().write_all(words.as_bytes());
}

/// Why nothing is carried any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The person left, or the console is no more.
    Ended,
    /// This signal came.
    Signal(u8),
}

/// What broke.
enum Trouble {
    Daemon(ClientError),
    Terminal(Errno),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self::Daemon(error)
    }
}

struct Relay<'a> {
    stream: ClientStream<'a>,
    signals: &'a Signals,
    screen: OwnedFd,
    to_screen: Vec<u8>,
    to_machine: Vec<u8>,
    /// Whether there may be more to type.
    input: bool,
    escape: Option<u8>,
}

/// Who is ready.
#[derive(Debug, Default)]
struct Ready {
    signals: bool,
    daemon: bool,
    room: bool,
    screen: bool,
    input: bool,
}

impl Relay<'_> {
    fn run(mut self) -> Result<Left, Trouble> {
        // The first bytes may have been read together with the answer to the call.
        let mut ended = self.take_output()?;
        loop {
            if ended && self.to_screen.is_empty() {
                self.stream.finish()?;
                return Ok(Left::Ended);
            }
            let ready = match self.wait(ended) {
                Err(Errno::INTR) => continue,
                result => result.map_err(Trouble::Terminal)?,
            };
            if ready.signals
                && let Some(left) = self.take_signals()
            {
                return Ok(left);
            }
            if ready.screen && !self.show() {
                return Ok(Left::Ended);
            }
            if ready.daemon {
                ended |= self.take_output()?;
            }
            if ready.room {
                self.send()?;
            }
            if ready.input && self.take_input() {
                // What was typed before the key.
                self.send()?;
                return Ok(Left::Ended);
            }
        }
    }

    /// Waits for whatever can be worked on.
    fn wait(&self, ended: bool) -> rustix::io::Result<Ready> {
        let stdin = std::io::stdin();
        // A machine that says more than the screen takes is not listened to; nor is what hangs up noticed then.
        let listening = !ended && self.to_screen.len() < WAITING_BYTES;
        let mut daemon = PollFlags::empty();
        daemon.set(PollFlags::IN, listening);
        daemon.set(PollFlags::OUT, listening && !self.to_machine.is_empty());
        let mut screen = PollFlags::empty();
        screen.set(PollFlags::OUT, !self.to_screen.is_empty());
        let mut input = PollFlags::empty();
        input.set(PollFlags::IN, self.input && !ended && self.to_machine.len() < WAITING_BYTES);
        let all = [
            PollFd::new(self.signals, PollFlags::IN),
            PollFd::new(&self.stream, daemon),
            PollFd::new(&self.screen, screen),
            PollFd::new(&stdin, input),
        ];
        let asked = [PollFlags::IN, daemon, screen, input];
        // Whoever is not waited for would report a hangup again and again.
        let (mut fds, who): (Vec<_>, Vec<_>) = all
            .into_iter()
            .zip(asked)
            .zip(0..)
            .filter(|((_, flags), _)| !flags.is_empty())
            .map(|((fd, _), who)| (fd, who))
            .unzip();
        poll(&mut fds, None)?;
        let mut ready = Ready::default();
        for (fd, who) in fds.iter().zip(who) {
            let flags = fd.revents();
            let any = !flags.is_empty();
            match who {
                0 => ready.signals = any,
                1 => {
                    ready.daemon = flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
                    ready.room = flags.contains(PollFlags::OUT);
                }
                2 => ready.screen = any,
                _ => ready.input = any,
            }
        }
        Ok(ready)
    }

    fn take_signals(&self) -> Option<Left> {
        while let Some(arrived) = self.signals.next() {
            match arrived {
                Arrived::End(number) => return Some(Left::Signal(number)),
                // The machine's terminal has no size that could be told.
                Arrived::WindowSize => {}
            }
        }
        None
    }

    /// Takes what has come from the machine; true when nothing more will.
    fn take_output(&mut self) -> Result<bool, ClientError> {
        while self.to_screen.len() < WAITING_BYTES {
            match self.stream.receive(Some(Duration::ZERO))? {
                Input::Data(bytes) => self.to_screen.extend_from_slice(&bytes),
                Input::Hole(_) => {}
                Input::End => return Ok(true),
                Input::Nothing => break,
            }
        }
        self.show();
        Ok(false)
    }

    /// Sends a part of what was typed. A unix socket that is writable has room for more than a chunk (unix(7): it is so while
    /// three quarters of its buffer are free), so this does not block.
    fn send(&mut self) -> Result<(), ClientError> {
        let part = self.to_machine.len().min(CHUNK_BYTES);
        let part: Vec<u8> = self.to_machine.drain(..part).collect();
        if part.is_empty() { Ok(()) } else { self.stream.send(&part) }
    }

    /// Takes what was typed; true when that was the key that leaves.
    fn take_input(&mut self) -> bool {
        let mut chunk = [0; CHUNK_BYTES];
        match rustix::io::read(std::io::stdin().as_fd(), &mut chunk) {
            Err(Errno::INTR | Errno::AGAIN) => false,
            Ok(0) | Err(_) => {
                self.input = false;
                // A terminal that is gone: nobody is there. A pipe that ends: somebody may still read.
                self.escape.is_some()
            }
            Ok(bytes) => {
                let typed = &chunk[..bytes];
                let end = self.escape.and_then(|key| typed.iter().position(|byte| *byte == key));
                self.to_machine.extend_from_slice(&typed[..end.unwrap_or(bytes)]);
                end.is_some()
            }
        }
    }

    /// Shows what the screen takes; false when nobody looks any more.
    fn show(&mut self) -> bool {
        if self.to_screen.is_empty() {
            return true;
        }
        match rustix::io::write(&self.screen, &self.to_screen) {
            Ok(written) => {
                self.to_screen.drain(..written);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => {
                self.to_screen.clear();
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_virsh_has_them() {
        assert_eq!(key("^]"), Ok(ESCAPE));
        assert_eq!(key("^a"), Ok(1));
        assert_eq!(key("~"), Ok(b'~'));
        assert_eq!(key("^"), Ok(b'^'));
        for wrong in ["", "^é", "ab", " ", "^1"] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
        assert_eq!(key_name(ESCAPE), "Ctrl-]");
    }
}
