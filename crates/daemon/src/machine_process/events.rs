//! The machine's life as its process tells it, read while it is written.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use serde_json::Value;
use tokio::io::unix::AsyncFd;

/// Longest line that is an event; longer ones are skipped.
const LONGEST_LINE: usize = 64 << 10;

/// Who caused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The guest.
    Guest,
    /// A request on the control socket.
    Client,
    /// A signal to the process.
    Signal,
}

/// A step of a machine's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// The process hears requests.
    Starting,
    /// vCPUs run.
    Booted,
    /// vCPUs stand still.
    Paused,
    /// vCPUs run again.
    Resumed,
    /// The machine was reset.
    Rebooted(Cause),
    /// The guest has so many bytes in its balloon.
    BalloonChanged(u64),
    /// The machine is off.
    Shutdown(Cause),
    /// The guest, or the host under it, could not go on.
    Crashed {
        /// What was found, for people.
        report: String,
    },
    /// The guest has the channels of these names open now, and no others.
    Channels(Vec<String>),
    /// Something that nobody here needs.
    Other,
}

impl MachineEvent {
    /// Reads a line; what is not understood is [`MachineEvent::Other`].
    fn parse(line: &[u8]) -> Self {
        let Ok(event) = serde_json::from_slice::<Value>(line) else { return Self::Other };
        let properties = &event["properties"];
        let cause = match properties["cause"].as_str() {
            Some("guest") => Cause::Guest,
            Some("signal") => Cause::Signal,
            _ => Cause::Client,
        };
        match (event["source"].as_str(), event["event"].as_str()) {
            (Some("vmm"), Some("starting")) => Self::Starting,
            (Some("vm"), Some("booted")) => Self::Booted,
            (Some("vm"), Some("paused")) => Self::Paused,
            (Some("vm"), Some("resumed")) => Self::Resumed,
            (Some("vm"), Some("rebooted")) => Self::Rebooted(cause),
            (Some("vm"), Some("balloon-changed")) => {
                properties["actual_bytes"].as_u64().map_or(Self::Other, Self::BalloonChanged)
            }
            (Some("vm"), Some("shutdown")) => Self::Shutdown(cause),
            (Some("vm"), Some("channels")) => {
                let open = properties["open"].as_array().map(Vec::as_slice).unwrap_or_default();
                Self::Channels(open.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            (Some("vm"), Some("crashed")) => {
                Self::Crashed { report: properties["report"].as_str().unwrap_or_default().to_owned() }
            }
            _ => Self::Other,
        }
    }
}

/// Reads events from the beginning of a file, and waits for more.
#[derive(Debug)]
pub struct EventTail {
    file: File,
    /// How much of the file has been read, bytes.
    read: u64,
    /// What has been read and is not a whole line yet.
    partial: Vec<u8>,
    changes: AsyncFd<OwnedFd>,
}

impl EventTail {
    /// The events that a machine has left in its directory.
    pub fn of_machine(directory: &Path) -> io::Result<Self> {
        Self::open(&directory.join("events"))
    }

    /// Opens the file at `path`, which must exist.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        // Before the first look at the file, so that no change falls between.
        inotify::add_watch(&changes, path, inotify::WatchFlags::MODIFY)?;
        let changes = super::watched(changes)?;
        Ok(Self { file: File::open(path)?, read: 0, partial: Vec::new(), changes })
    }

    /// The next event; waits until there is one. Nothing is lost when the waiting is given up.
    pub async fn next(&mut self) -> io::Result<MachineEvent> {
        loop {
            if let Some(event) = self.available()? {
                return Ok(event);
            }
            let mut ready = self.changes.readable().await?;
            let mut rubbish = [MaybeUninit::<u8>::uninit(); 4096];
            match rustix::io::read(self.changes.get_ref(), &mut rubbish) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next event if it is there already.
    pub fn available(&mut self) -> io::Result<Option<MachineEvent>> {
        loop {
            if let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                return Ok(Some(MachineEvent::parse(&line)));
            }
            if self.partial.len() > LONGEST_LINE {
                self.partial.clear();
            }
            if self.file.metadata()?.len() < self.read {
                // It was emptied and begun anew.
                self.file.rewind()?;
                self.read = 0;
                self.partial.clear();
            }
            let mut chunk = [0; 4096];
            let count = self.file.read(&mut chunk)?;
            if count == 0 {
                return Ok(None);
            }
            self.read += count as u64;
            self.partial.extend_from_slice(&chunk[..count]);
        }
    }
}
