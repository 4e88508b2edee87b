//! The database's tables, and how older ones become the present ones.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Row};

use super::{Kind, Record, StoreError, host};

/// What brings a database from version N to version N + 1, N being the place in the list. Steps are never changed once
/// released, only added.
pub(super) const MIGRATIONS: &[&str] = &[
    "CREATE TABLE object (
        kind INTEGER NOT NULL,
        uuid BLOB NOT NULL CHECK (length(uuid) = 16),
        name TEXT NOT NULL,
        definition TEXT,
        autostart INTEGER NOT NULL CHECK (autostart IN (0, 1)),
        live TEXT,
        PRIMARY KEY (kind, uuid),
        UNIQUE (kind, name)
    ) STRICT, WITHOUT ROWID;",
    // With rows of their own: a look at a key reads no definitions.
    "ALTER TABLE object RENAME TO former;
    CREATE TABLE object (
        kind INTEGER NOT NULL,
        uuid BLOB NOT NULL CHECK (length(uuid) = 16),
        name TEXT NOT NULL,
        definition TEXT,
        autostart INTEGER NOT NULL CHECK (autostart IN (0, 1)),
        live TEXT,
        PRIMARY KEY (kind, uuid),
        UNIQUE (kind, name)
    ) STRICT;
    INSERT INTO object (kind, uuid, name, definition, autostart, live)
        SELECT kind, uuid, name, definition, autostart, live FROM former;
    DROP TABLE former;",
];

/// Pages in the log after which it is written back into the database and begins anew.
const LOG_PAGES: u64 = 2000;

/// What the log takes with these pages and those of the last change: a page with its header, and as much again as the largest
/// document has.
pub(super) const LOG_BYTES: u64 = LOG_PAGES * (4096 + 24) + (1 << 20);

/// Opens the database and brings it to the present version. The directory is locked.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed = |operation| move |error: rusqlite::Error| host(path, operation, error);
    let mut connection = Connection::open(path).map_err(failed("open it"))?;
    // The log stays when the database is closed, with the room that it has.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed("set it up"))?;
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
    for (name, value) in [("cache_size", -1024), ("wal_autocheckpoint", LOG_PAGES.cast_signed())] {
        connection.pragma_update(None, name, value).map_err(failed("set it up"))?;
    }
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
    // Now that it is there: a new database takes no log that was there before it.
    let log = path.with_file_name("state.sqlite-wal");
    if let Err(error) = reserve(&log) {
        // It can be used all the same, and machines of a host with a full disk can be looked after.
        tracing::warn!("{}: no room is reserved for changes, which take longer: {error}", log.display());
    }
    Ok(connection)
}

/// Gives the log its room, written with zeroes: what is overwritten later reaches the disk without a change of the file system's
/// own books, which would be waited for as well. SQLite writes where it left off, whatever the file's length is, and reads its log
/// up to the first page that does not belong there.
fn reserve(log: &Path) -> io::Result<()> {
    let mut file = File::options().create(true).truncate(false).write(true).open(log)?;
    let used = file.seek(SeekFrom::End(0))?;
    let missing = LOG_BYTES.saturating_sub(used);
    if missing == 0 {
        return Ok(());
    }
    let filled = io::copy(&mut io::repeat(0).take(missing), &mut file).and_then(|_| file.sync_all());
    if filled.is_err() {
        // A part of it would be of no use, and may be the disk's last room.
        file.set_len(used)?;
    }
    filled
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
