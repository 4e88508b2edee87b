//! What the daemon has promised to remember: definitions of domains, networks and pools, and what of them runs.
//!
//! One SQLite database (write-ahead log, `synchronous=FULL`) with one writer thread. A change is answered when it is on stable
//! storage, so what was answered is there after a kill or a power failure. Changes that wait together are committed together.
//! The directory belongs to one daemon at a time.

mod schema;
mod writer;

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tokio::sync::oneshot;

use self::writer::{Batch, Writer};

/// Name of the database's file.
const DATABASE: &str = "state.sqlite";

/// Kinds of objects, each with names of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A virtual machine.
    Domain,
    /// A virtual network.
    Network,
    /// A storage pool.
    Pool,
}

/// An object as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Its identity for good; unique within its kind.
    pub uuid: [u8; 16],
    /// Its name, unique within its kind.
    pub name: String,
    /// The XML that it is made from; none for what is forgotten when it stops.
    pub definition: Option<String>,
    /// Whether it starts with the daemon.
    pub autostart: bool,
    /// What the next daemon needs to find it running, as JSON; none while it does not run.
    pub live: Option<String>,
}

/// A change of what is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Puts the object of this kind and UUID in the place of what was there.
    Put(Record),
    /// Forgets the object; nothing happens when it is not known.
    Remove(Kind, [u8; 16]),
}

/// Why something is not remembered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another object of the kind has the name.
    #[error("the name {0:?} is taken")]
    NameTaken(String),
    /// Another daemon works in the directory.
    #[error("{path}: in use by another daemon (process {pid}): stop it, or choose another --state-dir")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the other daemon wrote about itself.
        pid: String,
    },
    /// The database was written by a newer daemon.
    #[error("{path}: written by a newer version (schema {found}, this one knows {known}): update vireod")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// The host did not do what was asked of it.
    #[error("{path}: cannot {operation}: {reason}")]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        reason: String,
    },
}

/// Whether something was ever remembered in a directory.
pub fn is_in(directory: &Path) -> bool {
    directory.join(DATABASE).exists()
}

/// The open store. Dropping it ends the writer after what was asked of it.
#[derive(Debug)]
pub struct Store {
    // Declared in the order of dropping: the thread ends when nobody can ask any more, then the directory is free.
    queue: Option<mpsc::Sender<Batch>>,
    writer: Option<std::thread::JoinHandle<()>>,
    _lock: File,
}

impl Store {
    /// Opens the store in a directory, which is made if need be, and returns what it remembers.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Record>), StoreError> {
        std::fs::create_dir_all(directory).map_err(|error| host(directory, "make the directory", error))?;
        let lock = lock(directory)?;
        let path = directory.join(DATABASE);
        let connection = schema::open(&path)?;
        let records = schema::load(&connection).map_err(|error| host(&path, "read it", error))?;
        let (queue, batches) = mpsc::channel();
        let writer = Writer::new(connection, path.clone());
        let writer = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(&batches))
            .map_err(|error| host(&path, "start its writer", error))?;
        Ok((Self { queue: Some(queue), writer: Some(writer), _lock: lock }, records))
    }

    /// Asks for all changes or none, in the order of these calls; the receipt says when they are on stable storage. They are made
    /// even if nobody waits for it.
    pub fn submit(&self, changes: Vec<Change>) -> Receipt {
        let (answer, answered) = oneshot::channel();
        if let Some(queue) = &self.queue {
            // The writer ends only after this sender.
            let _ = queue.send(Batch { changes, answer });
        }
        Receipt(answered)
    }
}

/// Changes on their way.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<(), StoreError>>);

impl Receipt {
    /// Returns when the changes are on stable storage, or can't be made.
    pub async fn remembered(self) -> Result<(), StoreError> {
        let gone = || host(Path::new("state.sqlite"), "write it", "its writer has ended");
        self.0.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Takes the directory for this process; the lock goes with the file.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let failed = |operation| {
        let path = path.clone();
        move |error: std::io::Error| host(&path, operation, error)
    };
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed("open it"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&mut file).take(32).read_to_string(&mut pid);
            return Err(StoreError::InUse { path: directory.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock it")(error)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed("write it"))?;
    writeln!(file, "{}", std::process::id()).map_err(failed("write it"))?;
    Ok(file)
}

fn host(path: &Path, operation: &'static str, reason: impl ToString) -> StoreError {
    StoreError::Host { path: path.to_owned(), operation, reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
