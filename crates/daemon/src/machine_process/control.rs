//! A client of a machine's control socket: HTTP/1.1, JSON, one request a connection.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest answer, bytes: the description of the largest machine has a tenth of that.
const LONGEST_ANSWER: usize = 4 << 20;

/// Most header fields of an answer.
const MOST_HEADERS: usize = 32;

/// How long a request may take. A pause waits for the machine's disks.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The machine refused it, or could not do it.
    #[error("the machine refused {request} ({status}): {message}")]
    Refused {
        /// What was asked.
        request: String,
        /// HTTP status.
        status: u16,
        /// The machine's own words.
        message: String,
    },
    /// The process is not there, or went away.
    #[error("the machine's process does not answer {request}: {source}")]
    Gone {
        /// What was asked.
        request: String,
        /// Why.
        source: io::Error,
    },
    /// It hangs.
    #[error("the machine's process has not answered {request} for {} s", PATIENCE.as_secs())]
    Hung {
        /// What was asked.
        request: String,
    },
}

/// The right to control a machine. Requests are independent; one that hangs delays no other.
#[derive(Debug, Clone)]
pub struct ControlClient {
    socket: PathBuf,
}

impl ControlClient {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for information.
    pub async fn get(&self, path: &str) -> Result<Value, ControlError> {
        self.request("GET", path, None).await
    }

    /// Asks for something to be done.
    pub async fn put(&self, path: &str, body: Option<&Value>) -> Result<Value, ControlError> {
        self.request("PUT", path, body).await
    }

    async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ControlError> {
        let request = || path.to_owned();
        let exchange = tokio::time::timeout(PATIENCE, self.exchange(method, path, body));
        let answered = exchange.await.map_err(|_| ControlError::Hung { request: request() })?;
        let (status, body) = answered.map_err(|source| ControlError::Gone { request: request(), source })?;
        let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if (200..300).contains(&status) {
            return Ok(value);
        }
        let message = match &value {
            Value::String(message) => message.clone(),
            Value::Array(messages) => {
                messages.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(": ")
            }
            _ => String::from_utf8_lossy(&body).trim().to_owned(),
        };
        Err(ControlError::Refused { request: request(), status, message })
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await?;
        let mut answer = Vec::new();
        loop {
            if let Some(found) = parse(&answer)? {
                return Ok(found);
            }
            if answer.len() > LONGEST_ANSWER {
                return Err(io::Error::other("its answer is too long"));
            }
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Status and body, once all of the answer is there.
fn parse(answer: &[u8]) -> io::Result<Option<(u16, Vec<u8>)>> {
    let senseless =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("its answer is not HTTP: {what}"));
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = response.parse(answer).map_err(|error| senseless(&error.to_string()))?;
    let httparse::Status::Complete(head) = head else { return Ok(None) };
    let status = response.code.ok_or_else(|| senseless("no status"))?;
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = match length {
        None => 0,
        Some(header) => std::str::from_utf8(header.value)
            .ok()
            .and_then(|value| value.trim().parse::<usize>().ok())
            .filter(|length| *length <= LONGEST_ANSWER)
            .ok_or_else(|| senseless("a senseless length"))?,
    };
    Ok(answer.get(head..head + length).map(|body| (status, body.to_vec())))
}
