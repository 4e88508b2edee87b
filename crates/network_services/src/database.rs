//! Leases on stable storage: one SQLite database (write-ahead log, `synchronous=FULL`) with one writer thread.
//!
//! What was acknowledged to a guest is there after a kill or a power failure. Changes that wait together are committed together, so that
//! many guests at once wait for few transactions. The daemon's own database is set up much the same way by itself: these few lines are no
//! reason for the two, which are changed for reasons of their own, to share a crate.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Row, Transaction, params};
use tokio::sync::oneshot;

use crate::lease::{Lease, LeaseChange, LeaseEvent};
use crate::pool::MOST_LEASES;

/// What brings a database from version N to version N + 1, N being the place in the list. Steps are never changed once released.
const MIGRATIONS: &[&str] = &["CREATE TABLE lease (
        address TEXT NOT NULL PRIMARY KEY,
        mac TEXT NOT NULL,
        prefix INTEGER NOT NULL,
        hostname TEXT,
        client_id TEXT,
        iaid INTEGER,
        since INTEGER NOT NULL,
        expires INTEGER
    ) STRICT;"];

/// Most batches that are committed together; bounds how long the first of them waits.
const MOST_TOGETHER: usize = 256;

/// Pages of the log after which it is written back.
const LOG_PAGES: i64 = 1000;

/// Why leases are not remembered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{path}: cannot {operation}: {reason}", path = path.display())]
pub struct DatabaseError {
    path: PathBuf,
    operation: &'static str,
    reason: String,
}

/// Changes that belong together, and who waits for them.
struct Batch {
    events: Vec<LeaseEvent>,
    answer: oneshot::Sender<bool>,
}

/// The open database: opened before the process gives up its rights, and used by a thread that is started after.
pub(crate) struct Opened {
    connection: Connection,
    path: PathBuf,
    /// The leases that are remembered, in force or over.
    pub(crate) leases: Vec<Lease>,
}

/// The writer. Dropping it ends its thread after what was asked of it.
#[derive(Debug)]
pub(crate) struct Database {
    queue: Option<mpsc::Sender<Batch>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Opens the database, which is made if need be, and reads it.
pub(crate) fn open(path: &Path) -> Result<Opened, DatabaseError> {
    let failed = |operation| move |error: rusqlite::Error| database_error(path, operation, &error);
    let mut connection = Connection::open(path).map_err(failed("open it"))?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed("set it up"))?;
    for (name, value) in [
        // Nobody else opens it: its index can stay in this process, and all its files are open before rights are given up.
        ("locking_mode", "EXCLUSIVE"),
        ("journal_mode", "WAL"),
        ("synchronous", "FULL"),
        ("temp_store", "MEMORY"),
        ("trusted_schema", "OFF"),
    ] {
        connection.pragma_update(None, name, value).map_err(failed("set it up"))?;
    }
    for (name, value) in [("cache_size", -1024), ("wal_autocheckpoint", LOG_PAGES)] {
        connection.pragma_update(None, name, value).map_err(failed("set it up"))?;
    }
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed("read it"))?;
    let steps = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..));
    let Some(steps) = steps else {
        let reason = format!("its schema is {found}, which a newer version wrote");
        return Err(DatabaseError { path: path.to_owned(), operation: "read it", reason });
    };
    // Written to in any case: its log is there then.
    let transaction = connection.transaction().map_err(failed("bring it up to date"))?;
    for step in steps {
        transaction.execute_batch(step).map_err(failed("bring it up to date"))?;
    }
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    transaction.pragma_update(None, "user_version", known).map_err(failed("bring it up to date"))?;
    transaction.commit().map_err(failed("bring it up to date"))?;
    let leases = load(&connection).map_err(failed("read it"))?;
    Ok(Opened { connection, path: path.to_owned(), leases })
}

fn load(connection: &Connection) -> rusqlite::Result<Vec<Lease>> {
    let mut statement = connection.prepare(
        "SELECT address, mac, prefix, hostname, client_id, iaid, since, expires FROM lease ORDER BY expires IS NOT NULL, expires DESC LIMIT ?1",
    )?;
    statement.query_map([MOST_LEASES * 2], lease)?.filter_map(Result::transpose).collect()
}

/// A row; none when it does not say what we would have written.
fn lease(row: &Row<'_>) -> rusqlite::Result<Option<Lease>> {
    let (address, mac): (String, String) = (row.get(0)?, row.get(1)?);
    let (Ok(address), Ok(mac)) = (address.parse(), mac.parse()) else { return Ok(None) };
    let seconds = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Some(Lease {
        address,
        mac,
        prefix: row.get(2)?,
        hostname: row.get(3)?,
        client_id: row.get(4)?,
        iaid: row.get(5)?,
        since: seconds(row.get(6)?),
        expires: row.get::<_, Option<i64>>(7)?.map(seconds),
    }))
}

impl Opened {
    /// From now on nothing can be written.
    #[cfg(test)]
    pub(crate) fn lose(&self) {
        self.connection.execute_batch("DROP TABLE lease").unwrap();
    }

    /// Starts the writer.
    pub(crate) fn start(self) -> Result<Database, DatabaseError> {
        let (queue, batches) = mpsc::channel();
        let (mut connection, path) = (self.connection, self.path.clone());
        let thread = std::thread::Builder::new().name("leases".into()).spawn(move || {
            while let Ok(first) = batches.recv() {
                let waiting: Vec<Batch> =
                    std::iter::once(first).chain(batches.try_iter()).take(MOST_TOGETHER).collect();
                let written = commit(&mut connection, &waiting);
                if let Err(error) = &written {
                    platform::guest_warn!(
                        "{}: leases can't be written, so none is given: {error}",
                        path.display()
                    );
                }
                for batch in waiting {
                    // Nobody has to wait.
                    let _ = batch.answer.send(written.is_ok());
                }
            }
        });
        let thread = thread.map_err(|error| database_error(&self.path, "start its writer", &error))?;
        Ok(Database { queue: Some(queue), thread: Some(thread) })
    }
}

impl Database {
    /// Asks for changes, in the order of these calls; the receipt says whether they are on stable storage.
    pub(crate) fn submit(&self, events: Vec<LeaseEvent>) -> oneshot::Receiver<bool> {
        let (answer, answered) = oneshot::channel();
        if let Some(queue) = &self.queue {
            // The writer ends only after this sender.
            let _ = queue.send(Batch { events, answer });
        }
        answered
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn commit(connection: &mut Connection, waiting: &[Batch]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for event in waiting.iter().flat_map(|batch| &batch.events) {
        write(&transaction, event)?;
    }
    transaction.commit()
}

fn write(transaction: &Transaction<'_>, LeaseEvent { change, lease }: &LeaseEvent) -> rusqlite::Result<()> {
    let address = lease.address.to_string();
    if *change == LeaseChange::Forgotten {
        let mut statement = transaction.prepare_cached("DELETE FROM lease WHERE address = ?1")?;
        return statement.execute([address]).map(drop);
    }
    let seconds = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO lease (address, mac, prefix, hostname, client_id, iaid, since, expires)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            address,
            lease.mac.to_string(),
            lease.prefix,
            lease.hostname,
            lease.client_id,
            lease.iaid,
            seconds(lease.since),
            lease.expires.map(seconds),
        ])
        .map(drop)
}

fn database_error(path: &Path, operation: &'static str, reason: &dyn std::fmt::Display) -> DatabaseError {
    DatabaseError { path: path.to_owned(), operation, reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::MacAddress;

    fn event(change: LeaseChange, last: u8, expires: u64) -> LeaseEvent {
        let lease = Lease {
            mac: MacAddress([2, 0, 0, 0, 0, last]),
            address: [10, 0, 0, last].into(),
            prefix: 24,
            hostname: (last == 1).then(|| "one".to_owned()),
            client_id: Some("01:02".into()),
            iaid: (last == 2).then_some(u32::MAX),
            since: 5,
            expires: (last != 3).then_some(expires),
        };
        LeaseEvent { change, lease }
    }

    #[test]
    fn what_was_answered_is_there_after_a_kill_and_what_was_forgotten_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.sqlite");
        let opened = open(&path).unwrap();
        assert_eq!(opened.leases, []);
        let database = opened.start().unwrap();
        let kept = [
            event(LeaseChange::Renewed, 1, 70),
            event(LeaseChange::Expired, 2, 60),
            event(LeaseChange::Added, 3, 0),
        ];
        let mut first: Vec<LeaseEvent> = kept.to_vec();
        first.extend([event(LeaseChange::Added, 1, 9), event(LeaseChange::Added, 4, 9)]);
        first.reverse();
        let receipts = [database.submit(first), database.submit(vec![event(LeaseChange::Forgotten, 4, 9)])];
        for receipt in receipts {
            assert!(receipt.blocking_recv().unwrap());
        }
        // As a kill would leave the files.
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let mut leases = open(&copy.path().join("leases.sqlite")).unwrap().leases;
        leases.sort_by_key(|lease| lease.address);
        assert_eq!(leases, kept.map(|event| event.lease));
    }

    #[test]
    fn rubbish_and_newer_databases_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases.sqlite");
        std::fs::write(&path, [7; 8192]).unwrap();
        assert!(open(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        let opened = open(&path).unwrap();
        opened.connection.pragma_update(None, "user_version", 99).unwrap();
        drop(opened);
        let refusal = open(&path).err().unwrap().to_string();
        assert!(refusal.contains("newer version"), "{refusal}");
    }
}
