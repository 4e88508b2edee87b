//! One connection to an agent.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{AgentError, LONGEST_ANSWER, SYNCHRONIZING};

/// Before a command it makes the agent forget half a command; before an answer it says that what came before is of others
/// (guest-sync-delimited). It is in no UTF-8 text.
const SENTINEL: u8 = 0xFF;

/// How much is read at a time, bytes.
const CHUNK: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    /// What has come and was not used yet.
    received: Vec<u8>,
}

/// What becomes of bytes that come before the wanted one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Kept,
    Dropped,
}

impl Connection {
    /// Connects to the socket of the machine.
    pub(super) async fn open(socket: &Path) -> Result<Self, AgentError> {
        let connected = tokio::time::timeout(SYNCHRONIZING, UnixStream::connect(socket)).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = connected.map_err(AgentError::NotConnected)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Makes sure that an agent is there, and that what comes next is the answer to what is asked next.
    pub(super) async fn synchronize(&mut self, patience: Duration) -> Result<(), AgentError> {
        let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
        let id = u32::from_le_bytes([a, b, c, d]);
        let request = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
        let exchange = async {
            self.stream.write_all(&[SENTINEL]).await?;
            self.stream.write_all(format!("{request}\n").as_bytes()).await?;
            loop {
                self.until(SENTINEL, Before::Dropped).await?;
                let answer = self.until(b'\n', Before::Kept).await?;
                // Any other one is to a request that was given up.
                if serde_json::from_slice::<Value>(&answer).is_ok_and(|answer| answer["return"] == id) {
                    return Ok(());
                }
            }
        };
        let synchronized = tokio::time::timeout(patience, exchange).await.map_err(|_| AgentError::Silent)?;
        synchronized.map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => senseless("guest-sync-delimited", &error),
            _ => AgentError::NotConnected(error),
        })
    }

    /// Sends a command.
    pub(super) async fn send(&mut self, request: &Value) -> Result<(), AgentError> {
        let line = format!("{request}\n");
        let sent = tokio::time::timeout(SYNCHRONIZING, self.stream.write_all(line.as_bytes())).await;
        sent.map_err(|_| AgentError::Silent)?.map_err(AgentError::Gone)
    }

    /// Sends a command and returns what the agent returns, and the whole line that says so.
    pub(super) async fn ask(
        &mut self,
        name: &str,
        request: &Value,
        patience: Duration,
    ) -> Result<(Value, String), AgentError> {
        let hung = || AgentError::Hung { command: name.to_owned(), seconds: patience.as_secs() };
        let exchange = async {
            self.stream.write_all(format!("{request}\n").as_bytes()).await?;
            loop {
                let line = self.until(b'\n', Before::Kept).await?;
                if !line.trim_ascii().is_empty() {
                    return Ok(line);
                }
            }
        };
        let answered = tokio::time::timeout(patience, exchange).await.map_err(|_| hung())?;
        let line = answered.map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => senseless(name, &error),
            _ => AgentError::Gone(error),
        })?;
        let text = String::from_utf8(line).map_err(|error| senseless(name, &error))?;
        // A guest-sync-delimited of the client's own.
        let mut answer: Value = serde_json::from_str(&text).map_err(|error| senseless(name, &error))?;
        if let Some(error) = answer.get("error") {
            let class = error["class"].as_str().unwrap_or_default();
            return Err(AgentError::Refused {
                command: name.to_owned(),
                description: error["desc"].as_str().unwrap_or("it does not say why").to_owned(),
                unsupported: matches!(class, "CommandNotFound" | "CommandDisabled"),
            });
        }
        match answer.get_mut("return") {
            Some(value) => Ok((value.take(), text.trim_ascii().to_owned())),
            None => Err(senseless(name, &"it has neither return nor error")),
        }
    }

    /// Reads up to and with `end`, which is not returned.
    async fn until(&mut self, end: u8, before: Before) -> io::Result<Vec<u8>> {
        let mut looked = 0;
        loop {
            if let Some(found) = self.received[looked..].iter().position(|byte| *byte == end) {
                let mut line: Vec<u8> = self.received.drain(..=looked + found).collect();
                line.pop();
                // Of the agent's answer to a sentinel of the client's own command.
                line.retain(|byte| *byte != SENTINEL);
                return Ok(line);
            }
            match before {
                Before::Dropped => self.received.clear(),
                Before::Kept if self.received.len() > LONGEST_ANSWER => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
                }
                Before::Kept => {}
            }
            looked = self.received.len();
            self.received.reserve(CHUNK);
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn senseless(command: &str, what: &impl ToString) -> AgentError {
    AgentError::Senseless { command: command.to_owned(), what: what.to_string() }
}
