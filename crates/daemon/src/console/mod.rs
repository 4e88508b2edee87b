//! The console of a running machine as clients see it: the log is the screen, the device's other end is the keyboard.
//!
//! The machine's process adds everything that the guest prints to a log: [`log_path`], or the file that the document names. Whoever looks reads that file, each by
//! itself ([`LogTail`]), so any number of readers see the same, one who is slow delays nobody, and one who comes late, or comes
//! back to a new daemon, has missed nothing that the log still has. Whoever types writes to the pseudo-terminal or the socket
//! of the device ([`Line`]), and does not read there. One client at a time types; another may take over.
//!
//! Trust: the process of a machine may have been taken over by its guest. The terminal that it names is opened only if it is a
//! pseudo-terminal and belongs to its user; its log is bytes that are passed on.
//!
//! No threads and no tasks of its own; nothing is held open for a console that nobody looks at.

mod line;
mod tail;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use libvirt_xml::Uuid;
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use self::line::Line;
pub(crate) use self::tail::{LogTail, empty_log};

/// How much of the log a client gets first who asks for what was before it came, bytes.
const HISTORY: u64 = 64 << 10;

/// How long somebody who takes over waits for who had it.
const HANDING_OVER: Duration = Duration::from_secs(5);

/// A serial port, a console or a channel of a running machine, and what is at the host's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its alias, as in `serial0`.
    pub(crate) alias: String,
    /// Name of a channel in the guest.
    pub(crate) name: Option<String>,
    /// The host's end.
    pub(crate) end: End,
    /// The log of everything that the guest prints.
    pub(crate) log: Option<PathBuf>,
}

/// The host's end of a [`Port`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// A pseudo-terminal.
    Terminal(PathBuf),
    /// A socket on which the machine listens, for one client at a time.
    Socket(PathBuf),
    /// A file, or nothing.
    Other,
}

/// What a client wants of a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To look.
    Reader,
    /// To look and to type, if nobody else types.
    Writer,
    /// To look and to type; who typed before is sent away.
    WriterByForce,
}

/// Where a client begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// With what is printed from now on.
    Now,
    /// With some of what was printed before, at most [`HISTORY`] bytes.
    History,
}

/// Why there is no console for a client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// Somebody else types. The words are libvirt's.
    #[error("Active console session exists for this domain")]
    Active,
    /// The same for a channel. The words are libvirt's.
    #[error("Active channel stream exists for this domain")]
    ActiveChannel,
    /// There is no such device. The words are libvirt's.
    #[error("cannot find {kind} {name}")]
    NoSuchPort {
        /// `character device` or `channel`.
        kind: &'static str,
        /// As the client named it.
        name: String,
    },
    /// It can't be looked at.
    #[error("character device {alias} has no log: its output goes to {instead}")]
    NoLog {
        /// The device.
        alias: String,
        /// Where it goes.
        instead: &'static str,
    },
    /// There is nothing to type into.
    #[error("character device {alias} is not using a PTY or UNIX socket")]
    NoLine {
        /// The device.
        alias: String,
    },
    /// The host refuses.
    #[error("character device {alias}: cannot {what}: {source}")]
    Host {
        /// The device.
        alias: String,
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Directory of a domain's logs under the daemon's state directory. They outlive the machine, the daemon and the host, until the
/// domain is no more.
pub(crate) fn log_directory(consoles: &Path, domain: Uuid) -> PathBuf {
    consoles.join(domain.to_string())
}

/// The log of the device `alias` in a domain's directory of logs.
pub(crate) fn log_path(directory: &Path, alias: &str) -> PathBuf {
    // Aliases are assigned by the daemon; whatever one says, it stays in its directory.
    directory.join(format!("{}.log", alias.replace('/', "_")))
}

/// The console that is meant: by alias, or the first.
pub(crate) fn console<'a>(ports: &'a [Port], name: Option<&str>) -> Result<&'a Port, ConsoleError> {
    let found = match name {
        // Channels, too, have aliases, as in libvirt.
        Some(name) => ports.iter().find(|port| port.alias == name),
        None => ports.iter().find(|port| port.name.is_none()),
    };
    found.ok_or_else(|| no_such("character device", name))
}

/// The channel that is meant: by alias, by its name in the guest, or the first.
pub(crate) fn channel<'a>(ports: &'a [Port], name: Option<&str>) -> Result<&'a Port, ConsoleError> {
    let mut channels = ports.iter().filter(|port| port.name.is_some());
    let found = match name {
        Some(name) => channels.find(|port| port.alias == name || port.name.as_deref() == Some(name)),
        None => channels.next(),
    };
    found.ok_or_else(|| no_such("channel", name))
}

fn no_such(kind: &'static str, name: Option<&str>) -> ConsoleError {
    ConsoleError::NoSuchPort { kind, name: name.unwrap_or("(null)").to_owned() }
}

/// Opens the host's end of a device of a machine whose process belongs to the user `owner`.
pub(crate) async fn line(port: &Port, owner: u32) -> Result<Line, ConsoleError> {
    let alias = || port.alias.clone();
    let host = |what| move |source| ConsoleError::Host { alias: alias(), what, source };
    match &port.end {
        End::Terminal(path) => Line::terminal(path, owner).map_err(host("open its terminal")),
        End::Socket(path) => Line::socket(path).await.map_err(host("connect to its socket")),
        End::Other => Err(ConsoleError::NoLine { alias: alias() }),
    }
}

/// Who types on which device, of all machines.
#[derive(Debug, Default)]
pub(crate) struct Consoles {
    writers: Writers,
}

type Key = (Uuid, String);
type Writers = Arc<Mutex<HashMap<Key, Arc<watch::Sender<Hold>>>>>;

/// What has become of a [`Lease`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    Held,
    /// Somebody else waits for it.
    Taken,
    Released,
}

/// The right to type on a device, until it is dropped or taken away.
#[derive(Debug)]
pub(crate) struct Lease {
    key: Key,
    hold: Arc<watch::Sender<Hold>>,
    writers: Writers,
}

impl Lease {
    /// Returns when somebody else takes over, who waits until this is dropped.
    pub(crate) async fn lost(&self) {
        // The sender is in `self`.
        let _ = self.hold.subscribe().wait_for(|hold| *hold != Hold::Held).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut writers = self.writers.lock();
        if writers.get(&self.key).is_some_and(|present| Arc::ptr_eq(present, &self.hold)) {
            writers.remove(&self.key);
        }
        drop(writers);
        self.hold.send_replace(Hold::Released);
    }
}

/// A client's console: the screen, and the keyboard of one who types.
#[derive(Debug)]
pub(crate) struct Attached {
    /// What the guest prints.
    pub(crate) screen: LogTail,
    /// For one who types.
    pub(crate) typing: Option<Typing>,
}

/// The keyboard, and the right to it.
#[derive(Debug)]
pub(crate) struct Typing {
    /// Where keys go.
    pub(crate) keyboard: Line,
    /// Goes with it.
    pub(crate) lease: Lease,
}

impl Consoles {
    /// Gives a client a console of the machine of `domain`, whose process belongs to the user `owner`.
    pub(crate) async fn attach(
        &self,
        domain: Uuid,
        owner: u32,
        port: &Port,
        mode: Mode,
        from: From,
    ) -> Result<Attached, ConsoleError> {
        let alias = || port.alias.clone();
        let host = |what| move |source| ConsoleError::Host { alias: port.alias.clone(), what, source };
        let Some(log) = &port.log else {
            let instead = if port.name.is_some() { "a channel" } else { "a file or nowhere" };
            return Err(ConsoleError::NoLog { alias: alias(), instead });
        };
        let typing = if mode == Mode::Reader {
            None
        } else {
            let lease = self.lease(domain, &port.alias, mode == Mode::WriterByForce).await;
            let lease = lease.ok_or(ConsoleError::Active)?;
            let keyboard = line(port, owner).await?;
            Some(Typing { keyboard, lease })
        };
        let history = if from == From::History { HISTORY } else { 0 };
        let screen = LogTail::open(log, history).map_err(host("read its log"))?;
        Ok(Attached { screen, typing })
    }

    /// The right to use a device; `None` when somebody else has it, who loses it when it is taken by force.
    pub(crate) async fn lease(&self, domain: Uuid, alias: &str, by_force: bool) -> Option<Lease> {
        let key = (domain, alias.to_owned());
        let hold = Arc::new(watch::Sender::new(Hold::Held));
        let former = {
            let mut writers = self.writers.lock();
            if writers.contains_key(&key) && !by_force {
                return None;
            }
            writers.insert(key.clone(), Arc::clone(&hold))
        };
        let lease = Lease { key, hold, writers: Arc::clone(&self.writers) };
        if let Some(former) = former {
            former.send_if_modified(|hold| std::mem::replace(hold, Hold::Taken.max(*hold)) == Hold::Held);
            // A socket of the machine takes one client at a time.
            let released =
                async { former.subscribe().wait_for(|hold| *hold == Hold::Released).await.is_ok() };
            if !tokio::time::timeout(HANDING_OVER, released).await.unwrap_or(false) {
                tracing::warn!("{alias} of domain {domain}: who had it does not let go");
            }
        }
        Some(lease)
    }
}

#[cfg(test)]
mod tests;
