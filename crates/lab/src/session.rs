//! One run of a started machine: the poll loop between the caller's standard streams and the machine's ports.
//!
//! A stream is read only when what was read before is written, so a slow reader slows the command down as a pipe would, and
//! nothing is buffered without bound. Writes never block, so the time limit and signals work with a reader that has stopped.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::event::PollFlags;
use rustix::io::Errno;
use serde_json::json;

use crate::error::LabError;
use crate::machine::Machine;
use crate::qmp::Qmp;
use crate::run::{Options, Outcome};
use crate::run_folder::RunFolder;
use crate::{Context, wait};

/// The control port's lines are shorter than this.
const LONGEST_LINE: usize = 4096;
/// Written at once to the caller's output: as much as a pipe that is ready takes without blocking (PIPE_BUF).
const WRITE: usize = 4096;
const READ: usize = 64 * 1024;

/// Bytes on their way from one side to the other.
#[derive(Debug, Default)]
struct Pump {
    pending: Vec<u8>,
    written: usize,
    ended: bool,
}

/// Why a pump stopped for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    /// Something was read or written, or nothing could be.
    Fine,
    /// The reader is gone.
    Closed,
}

impl Pump {
    fn is_empty(&self) -> bool {
        self.written == self.pending.len()
    }

    /// What to poll for: the source when there is room, the sink when there is something for it.
    fn wanted<'d>(
        &self,
        source: BorrowedFd<'d>,
        sink: BorrowedFd<'d>,
    ) -> Option<(BorrowedFd<'d>, PollFlags)> {
        if !self.is_empty() {
            Some((sink, PollFlags::OUT))
        } else if self.ended {
            None
        } else {
            Some((source, PollFlags::IN))
        }
    }

    /// Reads if there is room. An error counts as the end.
    fn fill(&mut self, source: BorrowedFd<'_>) {
        if !self.is_empty() || self.ended {
            return;
        }
        self.pending.resize(READ, 0);
        self.written = 0;
        match rustix::io::read(source, &mut self.pending) {
            Ok(count) => {
                self.ended = count == 0;
                self.pending.truncate(count);
            }
            Err(error) => {
                self.ended = error != Errno::AGAIN && error != Errno::INTR;
                self.pending.clear();
            }
        }
    }

    /// Writes a part of what is pending.
    fn drain(&mut self, sink: BorrowedFd<'_>) -> Moved {
        let end = self.pending.len().min(self.written + WRITE);
        match rustix::io::write(sink, &self.pending[self.written..end]) {
            Ok(count) => self.written += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Moved::Closed,
        }
        Moved::Fine
    }
}

/// A machine at work.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    context: &'a Context,
    machine: Machine,
    qmp: Qmp<'a>,
    options: &'a Options,
    until: Instant,
    output: Pump,
    errors: Pump,
    input: Pump,
    control: Vec<u8>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        context: &'a Context,
        machine: Machine,
        qmp: Qmp<'a>,
        options: &'a Options,
        until: Instant,
    ) -> Session<'a> {
        let (output, errors, control) = (Pump::default(), Pump::default(), Vec::new());
        let input = Pump { ended: !options.standard_input, ..Pump::default() };
        Session { context, machine, qmp, options, until, output, errors, input, control }
    }

    /// Sends the job that lies in `folder` and serves it to its end.
    pub(crate) fn serve(mut self, folder: &RunFolder) -> Result<Outcome, LabError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Rounded: the machine's clock takes whole seconds.
        let seconds = (now.as_millis() + 500) / 1000;
        let path = folder.path().as_os_str().as_bytes();
        let line = [format!("go {seconds} ").as_bytes(), path, b"\n"].concat();
        (&self.machine.control)
            .write_all(&line)
            .map_err(|error| LabError::Died(format!("the job can't be sent: {error}")))?;
        let standard = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let (source, out, err) = (standard.0.as_fd(), standard.1.as_fd(), standard.2.as_fd());
        let code = loop {
            if Instant::now() >= self.until {
                return Ok(self.timed_out());
            }
            let died = self.turn(source, out, err)?;
            match died {
                Turn::Goes => {}
                Turn::Exited(code) => break code,
                Turn::OutputClosed => return Ok(Outcome::OutputClosed),
            }
        };
        self.flush(code, out, err)
    }

    fn timed_out(&self) -> Outcome {
        let limit = self.options.time_limit.as_secs_f64();
        self.context.report.say(format_args!("not done after {limit} s: ended"));
        Outcome::TimedOut
    }

    /// Waits for one thing to happen and does what it asks for.
    fn turn(
        &mut self,
        source: BorrowedFd<'_>,
        out: BorrowedFd<'_>,
        err: BorrowedFd<'_>,
    ) -> Result<Turn, LabError> {
        let machine = &self.machine;
        let mut wanted = vec![(machine.control.as_fd(), PollFlags::IN), (machine.exited(), PollFlags::IN)];
        wanted.extend(self.output.wanted(machine.output.as_fd(), out));
        wanted.extend(self.errors.wanted(machine.errors.as_fd(), err));
        wanted.extend(self.input.wanted(source, machine.input.as_fd()));
        let ready = wait::ready(&wanted, self.until, &self.context.interrupt)?;
        let is_ready = |descriptor: BorrowedFd<'_>| {
            let raw = |one: BorrowedFd<'_>| std::os::fd::AsRawFd::as_raw_fd(&one);
            let found = wanted.iter().position(|(one, _)| raw(*one) == raw(descriptor));
            found.is_some_and(|index| !ready[index].is_empty())
        };
        let (control, exited) = (!ready[0].is_empty(), !ready[1].is_empty());
        for (pump, port, sink) in
            [(&mut self.output, &machine.output, out), (&mut self.errors, &machine.errors, err)]
        {
            if pump.is_empty() && is_ready(port.as_fd()) {
                pump.fill(port.as_fd());
            } else if !pump.is_empty() && is_ready(sink) && pump.drain(sink) == Moved::Closed {
                return Ok(Turn::OutputClosed);
            }
        }
        if self.input.is_empty() && is_ready(source) {
            self.input.fill(source);
            if self.input.ended {
                // Fails only when QEMU is gone, which is noticed by itself.
                let _ = machine.input.shutdown(Shutdown::Write);
            }
        } else if !self.input.is_empty() && is_ready(machine.input.as_fd()) {
            self.input.drain(machine.input.as_fd());
        }
        if control && let Some(code) = self.read_control()? {
            return Ok(Turn::Exited(code));
        }
        if exited && !control {
            return Err(LabError::Died(format!("qemu ended ({})", self.machine.status()?)));
        }
        Ok(Turn::Goes)
    }

    /// Reads lines; returns the exit code if one is there.
    fn read_control(&mut self) -> Result<Option<u8>, LabError> {
        let mut buffer = [0; 1024];
        match (&self.machine.control).read(&mut buffer) {
            Ok(count) if count > 0 => self.control.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // A socket whose other end was closed with something unread in it is reset.
            Ok(_) | Err(_) => return Err(LabError::Died(format!("qemu ended ({})", self.machine.status()?))),
        }
        while let Some(end) = self.control.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.control.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            self.context.report.detail(format_args!("the emulated host says: {line}"));
            match parse(&line) {
                Some(Said::Exit(code)) => return Ok(Some(code)),
                Some(Said::FewerPages { size_kib, got, wanted }) => self.context.report.say(format_args!(
                    "the emulated host has room for {got} of {wanted} huge pages of {size_kib} KiB only: give it more --mem"
                )),
                None => {}
            }
        }
        if self.control.len() > LONGEST_LINE {
            return Err(LabError::Died("an endless line from the control port".to_owned()));
        }
        Ok(None)
    }

    /// Passes on what was written before the command's end and is still in QEMU.
    ///
    /// A command to QEMU's monitor is answered by the same loop that empties the ports, so that whatever the machine wrote
    /// before is in the sockets when the answer comes; a socket that was full may take two rounds.
    fn flush(mut self, code: u8, out: BorrowedFd<'_>, err: BorrowedFd<'_>) -> Result<Outcome, LabError> {
        loop {
            // Another error means that QEMU is gone: what is in the sockets is all there is then.
            if let Err(LabError::Interrupted) = self.qmp.execute("query-status", json!({})) {
                return Err(LabError::Interrupted);
            }
            let mut moved = false;
            loop {
                self.output.fill(self.machine.output.as_fd());
                self.errors.fill(self.machine.errors.as_fd());
                if self.output.is_empty() && self.errors.is_empty() {
                    break;
                }
                moved = true;
                if Instant::now() >= self.until {
                    return Ok(self.timed_out());
                }
                for (pump, sink) in [(&mut self.output, out), (&mut self.errors, err)] {
                    while !pump.is_empty() {
                        let ready =
                            wait::ready(&[(sink, PollFlags::OUT)], self.until, &self.context.interrupt)?;
                        if ready[0].is_empty() {
                            break;
                        }
                        if pump.drain(sink) == Moved::Closed {
                            return Ok(Outcome::OutputClosed);
                        }
                    }
                }
            }
            if !moved {
                return Ok(Outcome::Exited(code));
            }
        }
    }
}

/// What one turn brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Goes,
    Exited(u8),
    OutputClosed,
}

/// A line from the control port that matters here; the others only tell times.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Exit(u8),
    FewerPages { size_kib: u64, got: u64, wanted: u64 },
}

fn parse(line: &str) -> Option<Said> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["exit", code, ..] => Some(Said::Exit(code.parse().ok()?)),
        ["short", size, got, wanted] => Some(Said::FewerPages {
            size_kib: size.parse().ok()?,
            got: got.parse().ok()?,
            wanted: wanted.parse().ok()?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn control_lines_are_understood_or_passed_over() {
        assert_eq!(parse("exit 7 6.48"), Some(Said::Exit(7)));
        assert_eq!(parse("short 2048 3 9"), Some(Said::FewerPages { size_kib: 2048, got: 3, wanted: 9 }));
        for line in ["up 5.4 5.9 6.3", "exit 256", "exit -1", "exit", "short 2048 3", ""] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_pump_reads_only_when_it_is_empty_and_loses_nothing() {
        let (source, mut feeder) = UnixStream::pair().unwrap();
        let (sink, mut reader) = UnixStream::pair().unwrap();
        source.set_nonblocking(true).unwrap();
        let contents: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        feeder.write_all(&contents).unwrap();
        drop(feeder);
        let mut pump = Pump::default();
        let mut received = Vec::new();
        while !(pump.ended && pump.is_empty()) {
            pump.fill(source.as_fd());
            let before = pump.pending.len();
            pump.fill(source.as_fd());
            assert_eq!(pump.pending.len(), before, "a second read has to wait");
            while !pump.is_empty() {
                assert_eq!(pump.drain(sink.as_fd()), Moved::Fine);
                let mut buffer = [0; WRITE];
                let count = reader.read(&mut buffer).unwrap();
                received.extend_from_slice(&buffer[..count]);
            }
        }
        assert_eq!(received, contents);
        drop(reader);
        pump = Pump { pending: vec![1], ..Pump::default() };
        assert_eq!(pump.drain(sink.as_fd()), Moved::Closed);
    }

    #[test]
    fn a_pump_polls_the_side_that_it_waits_for() {
        let (source, sink) = UnixStream::pair().unwrap();
        let mut pump = Pump::default();
        assert_eq!(pump.wanted(source.as_fd(), sink.as_fd()).unwrap().1, PollFlags::IN);
        pump.pending.push(1);
        assert_eq!(pump.wanted(source.as_fd(), sink.as_fd()).unwrap().1, PollFlags::OUT);
        pump = Pump { ended: true, ..Pump::default() };
        assert!(pump.wanted(source.as_fd(), sink.as_fd()).is_none());
    }
}
