//! The few commands of QEMU's monitor protocol (docs/interop/qmp-spec.rst of QEMU) that snapshots and an orderly end need.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde_json::{Value, json};

use crate::error::LabError;
use crate::interrupt::Interrupt;
use crate::wait;

/// QEMU answers within milliseconds, on a loaded machine within seconds.
const ANSWER: Duration = Duration::from_secs(60);
const MIGRATION: Duration = Duration::from_secs(120);
const MIGRATION_INTERVAL: Duration = Duration::from_millis(10);
/// QEMU's longest line here is its greeting, below a kilobyte.
const LONGEST_LINE: usize = 1 << 20;

/// A connected monitor.
#[derive(Debug)]
pub(crate) struct Qmp<'a> {
    socket: UnixStream,
    received: Vec<u8>,
    interrupt: &'a Interrupt,
}

impl<'a> Qmp<'a> {
    /// Reads the greeting and leaves the negotiation mode.
    pub(crate) fn connect(socket: UnixStream, interrupt: &'a Interrupt) -> Result<Qmp<'a>, LabError> {
        socket.set_nonblocking(true).map_err(|error| LabError::System("connecting to qemu", error))?;
        let mut qmp = Qmp { socket, received: Vec::new(), interrupt };
        qmp.message(Instant::now() + ANSWER)?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs `command` and returns what it returns. Events that come first are passed over.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, LabError> {
        let until = Instant::now() + ANSWER;
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        // A command is far shorter than a socket's buffer, and QEMU reads them one by one.
        (&self.socket)
            .write_all(line.as_bytes())
            .map_err(|error| LabError::Qemu(format!("{command}: {error}")))?;
        loop {
            let mut message = self.message(until)?;
            if let Some(result) = message.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = message.get("error") {
                let why = error.get("desc").and_then(Value::as_str).unwrap_or("failed");
                return Err(LabError::Qemu(format!("{command}: {why}")));
            }
        }
    }

    /// Memory that is shared with a file is in the snapshot without being copied.
    pub(crate) fn ignore_shared_memory(&mut self) -> Result<(), LabError> {
        let capability = json!({ "capability": "x-ignore-shared", "state": true });
        self.execute("migrate-set-capabilities", json!({ "capabilities": [capability] })).map(drop)
    }

    /// Waits until the migration that was started is completed.
    pub(crate) fn migrated(&mut self) -> Result<(), LabError> {
        let until = Instant::now() + MIGRATION;
        loop {
            let answer = self.execute("query-migrate", json!({}))?;
            match answer.get("status").and_then(Value::as_str) {
                Some("completed") => return Ok(()),
                Some(status @ ("failed" | "cancelled")) => {
                    let why = answer.get("error-desc").and_then(Value::as_str).unwrap_or_default();
                    return Err(LabError::Qemu(format!("migration {status} {why}").trim_end().to_owned()));
                }
                _ if Instant::now() >= until => {
                    return Err(LabError::Qemu("the migration does not end".to_owned()));
                }
                // The monitor tells of the end only by an event that has to be asked for by polling anyway.
                _ => wait::ready(&[], Instant::now() + MIGRATION_INTERVAL, self.interrupt)?,
            };
        }
    }

    fn message(&mut self, until: Instant) -> Result<Value, LabError> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| LabError::Qemu(format!("an answer that is no JSON: {error}")));
            }
            if self.received.len() > LONGEST_LINE {
                return Err(LabError::Qemu("an endless answer".to_owned()));
            }
            let ready = wait::ready(&[(self.socket.as_fd(), PollFlags::IN)], until, self.interrupt)?;
            if ready.iter().all(|flags| flags.is_empty()) {
                return Err(LabError::Qemu("no answer".to_owned()));
            }
            let mut buffer = [0; 4096];
            match (&self.socket).read(&mut buffer) {
                Ok(0) => return Err(LabError::Qemu("ended without an answer".to_owned())),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(LabError::Qemu(error.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    /// A monitor that greets, then answers each command with the next of `answers`; returns the commands it got.
    fn with_monitor<T>(
        answers: &[&str],
        test: impl FnOnce(Result<Qmp<'_>, LabError>) -> T,
    ) -> (T, Vec<String>) {
        let interrupt = Interrupt::catch().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            let monitor = scope.spawn(move || {
                let mut commands = Vec::new();
                (&theirs).write_all(b"{\"QMP\": {}}\n").unwrap();
                let mut answers = std::iter::once(&"{\"return\": {}}").chain(answers);
                for line in BufReader::new(&theirs).lines() {
                    commands.push(line.unwrap());
                    let Some(answer) = answers.next() else { break };
                    (&theirs).write_all(format!("{answer}\n").as_bytes()).unwrap();
                }
                commands
            });
            let result = test(Qmp::connect(ours, &interrupt));
            (result, monitor.join().unwrap())
        })
    }

    #[test]
    fn events_before_an_answer_are_passed_over() {
        let answers = ["{\"event\": \"STOP\"}\n{\"return\": {\"status\": \"paused\"}}"];
        let (status, commands) =
            with_monitor(&answers, |qmp| qmp.unwrap().execute("query-status", json!({})).unwrap());
        assert_eq!(status["status"], "paused");
        assert!(commands[0].contains("qmp_capabilities") && commands[1].contains("query-status"));
    }

    #[test]
    fn errors_carry_what_qemu_says() {
        let answers = ["{\"error\": {\"class\": \"GenericError\", \"desc\": \"State blocked\"}}"];
        let (error, _) = with_monitor(&answers, |qmp| qmp.unwrap().ignore_shared_memory().unwrap_err());
        assert_eq!(error.to_string(), "qemu: migrate-set-capabilities: State blocked");
    }

    #[test]
    fn a_migration_is_waited_for_until_it_is_completed_or_failed() {
        let answers = ["{\"return\": {\"status\": \"active\"}}", "{\"return\": {\"status\": \"completed\"}}"];
        let (result, commands) = with_monitor(&answers, |qmp| qmp.unwrap().migrated());
        assert!(result.is_ok());
        assert_eq!(commands.len(), 3);
        let answers = ["{\"return\": {\"status\": \"failed\", \"error-desc\": \"no space\"}}"];
        let (result, _) = with_monitor(&answers, |qmp| qmp.unwrap().migrated());
        assert_eq!(result.unwrap_err().to_string(), "qemu: migration failed no space");
    }

    #[test]
    fn garbage_is_an_error() {
        let (result, _) = with_monitor(&["not JSON"], |qmp| qmp.unwrap().migrated());
        assert!(result.unwrap_err().to_string().contains("no JSON"));
    }
}
