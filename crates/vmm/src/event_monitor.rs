//! The machine's life, told as it happens: one line of JSON an event, in a file or a pipe that whoever started the process
//! chose (`--event-monitor`).
//!
//! Keys and names are those of Cloud Hypervisor's event monitor (docs/event-monitoring there): `timestamp` (since the process
//! started), `source`, `event`, `properties`. Additions: `crashed`, `channels` (those that the guest
//! has open; at most ten times a second), `balloon-changed` (at most once a second), and in `properties` who asked for a reboot or shutdown. A
//! supervisor that comes late, or comes back, finds in the file what it has missed, also how a process ended that was not its
//! child. A guest can restart without end, so a file that has grown long is emptied and begun anew.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

/// Length at which the file is begun anew: thousands of events, and no way for a guest to fill a disk.
const LONGEST: u64 = 1 << 20;

/// Who caused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The guest, by its reset or power registers.
    Guest,
    /// A client of the control API.
    Client,
    /// A signal to the process.
    Signal(&'static str),
}

/// A step of the machine's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// Requests are heard from now on.
    Starting,
    Created,
    Booted,
    Paused,
    Resumed,
    /// Built anew around the same host resources.
    Rebooted(Cause),
    /// The guest has changed how many bytes its balloon holds.
    BalloonChanged(u64),
    /// There are no vCPUs any more.
    Shutdown(Cause),
    Deleted,
    /// The guest, or the host under it, can't go on.
    Crashed(&'a str),
    /// The guest has these channels open now.
    Channels(&'a [String]),
}

/// Where events are written.
#[derive(Debug)]
pub(crate) struct EventMonitor {
    file: File,
    started: Instant,
    /// Whether a line was lost; said once.
    failed: bool,
}

impl EventMonitor {
    /// Appends to the file at `path`, which is made if need be; a pipe is waited for.
    pub(crate) fn append(path: &Path) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Self { file, started: Instant::now(), failed: false })
    }

    /// Writes an event, as one line with one system call.
    pub(crate) fn tell(&mut self, event: &Event<'_>) {
        let (name, properties) = match event {
            Event::Starting => ("starting", Value::Null),
            Event::Created => ("created", Value::Null),
            Event::Booted => ("booted", Value::Null),
            Event::Paused => ("paused", Value::Null),
            Event::Resumed => ("resumed", Value::Null),
            Event::Rebooted(cause) => ("rebooted", cause.properties()),
            Event::BalloonChanged(bytes) => ("balloon-changed", json!({ "actual_bytes": bytes })),
            Event::Shutdown(cause) => ("shutdown", cause.properties()),
            Event::Deleted => ("deleted", Value::Null),
            Event::Crashed(report) => ("crashed", json!({ "report": report })),
            Event::Channels(open) => ("channels", json!({ "open": open })),
        };
        let elapsed = self.started.elapsed();
        let timestamp = json!({ "secs": elapsed.as_secs(), "nanos": elapsed.subsec_nanos() });
        let source = if matches!(event, Event::Starting) { "vmm" } else { "vm" };
        let line =
            json!({ "timestamp": timestamp, "source": source, "event": name, "properties": properties });
        if let Err(error) = self.write(&format!("{line}\n"))
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::error!("--event-monitor: an event was lost: {error}");
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let file = self.file.metadata()?;
        if file.is_file() && file.len() >= LONGEST {
            self.file.set_len(0)?;
        }
        self.file.write_all(line.as_bytes())
    }
}

impl Cause {
    fn properties(self) -> Value {
        match self {
            Self::Guest => json!({ "cause": "guest" }),
            Self::Client => json!({ "cause": "client" }),
            Self::Signal(name) => json!({ "cause": "signal", "signal": name }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_that_are_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        EventMonitor::append(&path).unwrap().tell(&Event::Booted);
        let mut monitor = EventMonitor::append(&path).unwrap();
        monitor.tell(&Event::Rebooted(Cause::Guest));
        monitor.tell(&Event::Crashed("a\nb"));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(names, ["booted", "rebooted", "crashed"]);
        assert_eq!(lines[1]["properties"]["cause"], "guest");
        assert_eq!(lines[2]["properties"]["report"], "a\nb");
        assert!(lines.iter().all(|line| line["source"] == "vm" && line["timestamp"]["secs"] == 0));
    }

    #[test]
    fn a_guest_that_restarts_without_end_fills_no_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let mut monitor = EventMonitor::append(&path).unwrap();
        let mut longest = 0;
        for _ in 0..20_000 {
            monitor.tell(&Event::Rebooted(Cause::Guest));
            longest = longest.max(path.metadata().unwrap().len());
        }
        assert!((LONGEST..LONGEST + 200).contains(&longest), "{longest}");
    }
}
