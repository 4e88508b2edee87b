//! The database's tables, and how older ones become the present ones.

use std::path::Path;

use rusqlite::{Connection, Row};

use super::{Kind, Record, StoreError, host};

/// What brings a database from version N to version N + 1, N being the place in the list. Steps are never changed once
/// released, only added.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE object (
        kind INTEGER NOT NULL,
        uuid BLOB NOT NULL CHECK (length(uuid) = 16),
        name TEXT NOT NULL,
        definition TEXT,
        autostart INTEGER NOT NULL CHECK (autostart IN (0, 1)),
        live TEXT,
        PRIMARY KEY (kind, uuid),
        UNIQUE (kind, name)
    ) STRICT, WITHOUT ROWID;
"];

/// Opens the database and brings it to the present version.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = |operation| move |error: rusqlite::Error| host(path, operation, error);
    let mut connection = Connection::open(path).map_err(failed("open it"))?;
    for (name, value) in [
        // Nobody else opens the database: its index can stay in this process.
        ("locking_mode", "EXCLUSIVE"),
        ("journal_mode", "WAL"),
        ("synchronous", "FULL"),
        ("temp_store", "MEMORY"),
        ("trusted_schema", "OFF"),
    ] {
        connection.pragma_update(None, name, value).map_err(failed("set it up"))?;
    }
    connection.pragma_update(None, "cache_size", -1024).map_err(failed("set it up"))?;
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed("read it"))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let Some(steps) = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..)) else {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    };
    if !steps.is_empty() {
        let transaction = connection.transaction().map_err(failed("bring it up to date"))?;
        for step in steps {
            transaction.execute_batch(step).map_err(failed("bring it up to date"))?;
        }
        transaction.pragma_update(None, "user_version", known).map_err(failed("bring it up to date"))?;
        transaction.commit().map_err(failed("bring it up to date"))?;
    }
    Ok(connection)
}

/// Everything that is remembered, by kind and name.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<Record>> {
    let mut statement = connection
        .prepare("SELECT kind, uuid, name, definition, autostart, live FROM object ORDER BY kind, name")?;
    statement.query_map([], record)?.collect()
}

fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let number: i64 = row.get(0)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.number() == number);
    Ok(Record {
        kind: kind.ok_or(rusqlite::Error::IntegralValueOutOfRange(0, number))?,
        uuid: row.get(1)?,
        name: row.get(2)?,
        definition: row.get(3)?,
        autostart: row.get(4)?,
        live: row.get(5)?,
    })
}

impl Kind {
    const ALL: [Self; 3] = [Self::Domain, Self::Network, Self::Pool];

    /// How the database calls the kind.
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Domain => 0,
            Self::Network => 1,
            Self::Pool => 2,
        }
    }
}
