//! How the daemon talks to the process of a network: lines of JSON over a unix socket, one answer a request, in order.
//!
//! A connection that subscribes is told of each change of a lease after that, when the change is on stable storage; of the end of a lease also
//! when that can't be written. Who falls far behind is disconnected, and subscribes again.

use std::io::{self, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::description::Description;
use crate::lease::{Lease, LeaseEvent};
use crate::mac::MacAddress;

/// Longest request, answer or description, bytes.
pub(crate) const LONGEST: u64 = 64 << 20;

/// What is asked of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How it is.
    Status,
    /// The leases in force.
    Leases,
    /// To offer what this description says from now on, all of it or nothing.
    Reload(Box<Description>),
    /// To end the leases of a guest, and tell which.
    Release(MacAddress),
    /// To tell the leases in force, and what happens to leases from now on.
    Subscribe,
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How it is.
    Status(Status),
    /// Leases.
    Leases(Vec<Lease>),
    /// It is done.
    Done,
    /// It can't be done.
    Refused(String),
    /// Something happened to a lease; only after a subscription.
    Changed(LeaseEvent),
}

/// How the process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The network's name.
    pub network: String,
    /// Its bridge.
    pub bridge: String,
    /// The process.
    pub pid: u32,
    /// Where names are asked. If it is not 53, that is taken by somebody who listens at all addresses of the host, and the packet
    /// filter has to lead what guests send to port 53 of the bridge's addresses to this port (UDP and TCP).
    pub dns_port: Option<u16>,
    /// Leases in force.
    pub leases: usize,
    /// Questions for names that others are being asked.
    pub questions: usize,
}

/// Why the process could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It is not there, or hung up.
    #[error("{socket}: cannot {operation} the process of the network: {source}")]
    Connection {
        /// Its socket.
        socket: String,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It can't be done.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the process of a network.
#[derive(Debug)]
pub struct Control {
    socket: String,
    lines: Lines,
    writer: OwnedWriteHalf,
}

/// Leases as they change.
#[derive(Debug)]
pub struct Subscription {
    control: Control,
    /// Leases that were in force when it began.
    pub leases: Vec<Lease>,
}

impl Control {
    /// Connects. The process takes connections as soon as it serves guests.
    pub async fn connect(socket: &Path) -> Result<Self, ControlError> {
        let name = socket.display().to_string();
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|source| ControlError::Connection {
            socket: name.clone(),
            operation: "reach",
            source,
        })?;
        let (reader, writer) = stream.into_split();
        Ok(Self { socket: name, lines: Lines::new(reader), writer })
    }

    /// How the process is.
    pub async fn status(&mut self) -> Result<Status, ControlError> {
        match self.ask(&Request::Status).await? {
            Answer::Status(status) => Ok(status),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The leases in force.
    pub async fn leases(&mut self) -> Result<Vec<Lease>, ControlError> {
        match self.ask(&Request::Leases).await? {
            Answer::Leases(leases) => Ok(leases),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Offers what this description says from now on, all of it or nothing.
    pub async fn reload(&mut self, description: Description) -> Result<(), ControlError> {
        match self.ask(&Request::Reload(Box::new(description))).await? {
            Answer::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Ends the leases of a guest; returns them.
    pub async fn release(&mut self, mac: MacAddress) -> Result<Vec<Lease>, ControlError> {
        match self.ask(&Request::Release(mac)).await? {
            Answer::Leases(leases) => Ok(leases),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Follows leases from now on.
    pub async fn subscribe(mut self) -> Result<Subscription, ControlError> {
        match self.ask(&Request::Subscribe).await? {
            Answer::Leases(leases) => Ok(Subscription { control: self, leases }),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, ControlError> {
        let asked = write_line(&mut self.writer, request).await;
        asked.map_err(|source| self.failed("ask", source))?;
        match self.answer().await? {
            Answer::Refused(why) => Err(ControlError::Refused(why)),
            answer => Ok(answer),
        }
    }

    async fn answer(&mut self) -> Result<Answer, ControlError> {
        let line =
            self.lines.next().await.and_then(|line| line.ok_or_else(|| ErrorKind::UnexpectedEof.into()));
        let answer = line.and_then(|line| serde_json::from_slice(&line).map_err(io::Error::from));
        answer.map_err(|source| self.failed("hear", source))
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> ControlError {
        ControlError::Connection { socket: self.socket.clone(), operation, source }
    }

    fn unexpected(&self, answer: &Answer) -> ControlError {
        tracing::debug!("{answer:?} is no answer to that");
        self.failed("understand", ErrorKind::InvalidData.into())
    }
}

impl Subscription {
    /// What happened next to a lease.
    pub async fn next(&mut self) -> Result<LeaseEvent, ControlError> {
        match self.control.answer().await? {
            Answer::Changed(event) => Ok(event),
            other => Err(self.control.unexpected(&other)),
        }
    }
}

/// Lines of a peer, none longer than is sensible. What has come of a line stays here when nobody waits for the rest any more.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<OwnedReadHalf>,
    begun: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(reader: OwnedReadHalf) -> Self {
        Self { reader: BufReader::new(reader), begun: Vec::new() }
    }

    /// The next line; none when the peer is gone.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let room = LONGEST.saturating_sub(u64::try_from(self.begun.len()).unwrap_or(LONGEST));
        (&mut self.reader).take(room).read_until(b'\n', &mut self.begun).await?;
        match self.begun.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(std::mem::take(&mut self.begun))),
            Some(_) => Err(ErrorKind::InvalidData.into()),
        }
    }
}

pub(crate) async fn write_line(writer: &mut OwnedWriteHalf, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
