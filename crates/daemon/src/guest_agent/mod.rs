//! A client of the agent in a guest, `qemu-ga` (QEMU, docs/interop/qemu-ga.rst and qga/qapi-schema.json): JSON, one command and one
//! answer a line, over the channel [`CHANNEL`] of the virtio console.
//!
//! A connection lives for one command. It begins with `guest-sync-delimited`, which throws away what was left of others: answers
//! that came too late, and what the agent said while nobody listened. Commands to one agent wait for each other, for a while;
//! whatever an agent does delays nobody else.
//!
//! Trust: none. The guest may answer with anything, in pieces, late, or never. An answer has at most [`LONGEST_ANSWER`] bytes
//! and comes in time; what it says is checked for its form and is otherwise the guest's own claim.
//!
//! No threads and no tasks of its own.

mod commands;
mod connection;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use libvirt_xml::Uuid;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

pub(crate) use self::commands::{
    Disk, FileSystem, GuestDisk, Interface, Load, OperatingSystem, ShutdownMode, TimeZone, User,
};
use self::connection::Connection;

/// Name of the channel.
pub(crate) const CHANNEL: &str = "org.qemu.guest_agent.0";

/// Longest answer, bytes: more can't be handed on, a string of libvirt's protocol has no more.
const LONGEST_ANSWER: usize = 4 << 20;

/// How long an agent may take to say that it is there, as in libvirt.
const SYNCHRONIZING: Duration = Duration::from_secs(5);

/// How long a command waits for another one to the same agent, as in libvirt.
const TURN: Duration = Duration::from_secs(30);

/// How long the answer to a command may take that does not say.
const ANSWER: Duration = Duration::from_secs(60);

/// How long the answer to a command may take that waits for the guest's disks, or without an end. The agent's next command can't come
/// before.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long an agent that shuts its guest down may take to say that it can't: it says nothing when it can.
const REFUSAL: Duration = Duration::from_secs(5);

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// So long.
    For(Duration),
    /// Not at all.
    NoAnswer,
}

impl Patience {
    /// As `timeout` of virDomainQemuAgentCommand says: -2 without end (of which there is one here), -1 as usual, 0 not at all, or
    /// seconds. `None`: it makes no sense.
    pub(crate) fn of_libvirt(timeout: i32) -> Option<Self> {
        match timeout {
            -2 => Some(Self::For(LONGEST)),
            -1 => Some(Self::For(SYNCHRONIZING)),
            0 => Some(Self::NoAnswer),
            seconds => Some(Self::For(Duration::from_secs(seconds.try_into().ok()?).min(LONGEST))),
        }
    }
}

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The domain has no channel for one. The words are libvirt's.
    #[error("QEMU guest agent is not configured")]
    NotConfigured,
    /// The channel has no other end. The words are libvirt's.
    #[error("QEMU guest agent is not connected")]
    NotConnected(#[source] io::Error),
    /// No agent reads the channel, or it hangs.
    #[error("guest agent didn't answer the synchronization request in {} s: is qemu-guest-agent running in the guest?", SYNCHRONIZING.as_secs())]
    Silent,
    /// It has taken the command and has not answered.
    #[error("guest agent didn't answer command '{command}' in {seconds} s")]
    Hung {
        /// The command.
        command: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The connection ended before the answer.
    #[error("the connection to the guest agent ended: {0}")]
    Gone(#[source] io::Error),
    /// It can't, or won't. The words are libvirt's, but for those of the guest.
    #[error("unable to execute QEMU agent command '{command}': {description}")]
    Refused {
        /// The command.
        command: String,
        /// Its words.
        description: String,
        /// Whether it doesn't know the command or may not carry it out.
        unsupported: bool,
    },
    /// Its answer is none.
    #[error("guest agent's answer to command '{command}' makes no sense: {what}")]
    Senseless {
        /// The command.
        command: String,
        /// What is wrong with it.
        what: String,
    },
    /// The client's command is none.
    #[error("cannot parse agent command: {0}")]
    Command(String),
    /// Other commands take too long.
    #[error("cannot acquire state change lock: another guest agent command is under way")]
    Busy,
}

/// Whose turn it is, at the agents of all machines.
#[derive(Debug, Default)]
pub(crate) struct GuestAgents(Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>);

/// The right to ask the agent of one machine, until it is dropped.
#[derive(Debug)]
pub(crate) struct GuestAgent<'a> {
    agents: &'a GuestAgents,
    domain: Uuid,
    socket: PathBuf,
    /// Always there until it is dropped.
    turn: Option<OwnedMutexGuard<()>>,
}

impl GuestAgents {
    /// The agent of `domain`, on the machine's `socket`, once nobody else asks it.
    pub(crate) async fn agent(&self, domain: Uuid, socket: &Path) -> Result<GuestAgent<'_>, AgentError> {
        let turn = Arc::clone(self.0.lock().entry(domain).or_default());
        let turn = tokio::time::timeout(TURN, turn.lock_owned()).await.map_err(|_| AgentError::Busy)?;
        Ok(GuestAgent { agents: self, domain, socket: socket.to_owned(), turn: Some(turn) })
    }
}

impl Drop for GuestAgent<'_> {
    fn drop(&mut self) {
        let mut all = self.agents.0.lock();
        self.turn = None;
        // Nobody waits: only the map has it. Whoever comes later makes another.
        if all.get(&self.domain).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            all.remove(&self.domain);
        }
    }
}

impl GuestAgent<'_> {
    /// Gives a client's own command to the agent and returns its answer as it came; nothing if it is not waited for.
    pub(crate) async fn command(
        &self,
        command: &str,
        patience: Patience,
    ) -> Result<Option<String>, AgentError> {
        let parsed: Value =
            serde_json::from_str(command).map_err(|error| AgentError::Command(error.to_string()))?;
        let Some(name) = parsed["execute"].as_str().or(parsed["exec-oob"].as_str()) else {
            return Err(AgentError::Command("it has no member execute".to_owned()));
        };
        let mut connection = self.connect(patience).await?;
        match patience {
            Patience::NoAnswer => connection.send(&parsed).await.map(|()| None),
            Patience::For(patience) => {
                let (_, text) = connection.ask(name, &parsed, patience).await?;
                Ok(Some(text))
            }
        }
    }

    /// What the agent returns.
    async fn call(&self, name: &str, arguments: Value, patience: Duration) -> Result<Value, AgentError> {
        let mut connection = self.connect(Patience::For(patience)).await?;
        let (value, _) = connection.ask(name, &request(name, arguments), patience).await?;
        Ok(value)
    }

    /// A command that is answered only if it fails, and otherwise ends the guest or puts it to sleep.
    async fn call_and_leave(&self, name: &str, arguments: Value) -> Result<(), AgentError> {
        let mut connection = self.connect(Patience::For(REFUSAL)).await?;
        match connection.ask(name, &request(name, arguments), REFUSAL).await {
            Ok(_) | Err(AgentError::Hung { .. } | AgentError::Gone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn connect(&self, patience: Patience) -> Result<Connection, AgentError> {
        let mut connection = Connection::open(&self.socket).await?;
        let shorter = match patience {
            Patience::For(patience) => patience.min(SYNCHRONIZING),
            Patience::NoAnswer => SYNCHRONIZING,
        };
        connection.synchronize(shorter).await?;
        Ok(connection)
    }
}

fn request(name: &str, arguments: Value) -> Value {
    match arguments {
        Value::Null => serde_json::json!({ "execute": name }),
        arguments => serde_json::json!({ "execute": name, "arguments": arguments }),
    }
}

#[cfg(test)]
mod tests;
