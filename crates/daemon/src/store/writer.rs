//! The thread that writes: it takes what waits, commits it at once and answers each.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, ErrorCode, Savepoint, params};
use tokio::sync::oneshot;

use super::{Change, Record, StoreError, host};

/// Most batches that are committed together; bounds how long the first of them waits.
const MOST_TOGETHER: usize = 256;

/// Changes that belong together, and who waits for them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    pub(super) answer: oneshot::Sender<Result<(), StoreError>>,
}

pub(super) struct Writer {
    connection: Connection,
    path: PathBuf,
}

impl Writer {
    pub(super) fn new(connection: Connection, path: PathBuf) -> Self {
        Self { connection, path }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, batches: &Receiver<Batch>) {
        while let Ok(first) = batches.recv() {
            let waiting = std::iter::once(first).chain(batches.try_iter()).take(MOST_TOGETHER).collect();
            self.commit(waiting);
        }
    }

    fn commit(&mut self, waiting: Vec<Batch>) {
        let (mut answers, mut results) = (Vec::new(), Vec::new());
        let committed = self.connection.transaction().and_then(|mut transaction| {
            for Batch { changes, answer } in waiting {
                answers.push(answer);
                results.push(apply(transaction.savepoint()?, &changes)?);
            }
            transaction.commit()
        });
        if let Err(error) = committed {
            let error = host(&self.path, "write it", error);
            results = vec![Err(error); answers.len()];
        }
        for (answer, result) in answers.into_iter().zip(results) {
            // Nobody has to wait.
            let _ = answer.send(result);
        }
    }
}

/// Makes the changes, or none of them: the inner result is the caller's fault, the outer one ends the whole transaction.
fn apply(savepoint: Savepoint<'_>, changes: &[Change]) -> rusqlite::Result<Result<(), StoreError>> {
    for change in changes {
        let done = match change {
            Change::Put(record) => put(&savepoint, record),
            Change::Remove(kind, uuid) => savepoint
                .prepare_cached("DELETE FROM object WHERE kind = ?1 AND uuid = ?2")?
                .execute(params![kind.number(), uuid])
                .map(drop),
        };
        match (done, change) {
            (Ok(()), _) => {}
            (Err(rusqlite::Error::SqliteFailure(failure, _)), Change::Put(record))
                if failure.code == ErrorCode::ConstraintViolation =>
            {
                // Dropping the savepoint takes back what was done under it.
                return Ok(Err(StoreError::NameTaken(record.name.clone())));
            }
            (Err(error), _) => return Err(error),
        }
    }
    savepoint.commit().map(Ok)
}

fn put(savepoint: &Savepoint<'_>, record: &Record) -> rusqlite::Result<()> {
    let Record { kind, uuid, name, definition, autostart, live } = record;
    savepoint
        .prepare_cached(
            "INSERT INTO object (kind, uuid, name, definition, autostart, live) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (kind, uuid) DO UPDATE SET name = ?3, definition = ?4, autostart = ?5, live = ?6",
        )?
        .execute(params![kind.number(), uuid, name, definition, autostart, live])
        .map(drop)
}
