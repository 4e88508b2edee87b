//! The store forgets nothing that it answered, and nothing half.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::{Change, Kind, Record, Store, StoreError, schema};

fn domain(number: u8, name: &str) -> Record {
    Record {
        kind: Kind::Domain,
        uuid: [number; 16],
        name: name.into(),
        definition: Some(format!("<domain>{number}</domain>")),
        autostart: false,
        live: None,
    }
}

fn apply(store: &Store, changes: Vec<Change>) -> Result<(), StoreError> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(store.submit(changes).remembered())
}

fn reopened(directory: &Path) -> Vec<Record> {
    Store::open(directory).unwrap().1
}

#[test]
fn what_was_put_is_there_when_the_store_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let (store, records) = Store::open(&directory.path().join("new")).unwrap();
    assert_eq!(records, []);
    let network = Record { kind: Kind::Network, autostart: true, live: Some("{}".into()), ..domain(1, "a") };
    apply(&store, vec![Change::Put(domain(1, "a")), Change::Put(network.clone())]).unwrap();
    apply(&store, vec![Change::Put(domain(2, "b"))]).unwrap();
    apply(&store, vec![Change::Put(domain(1, "c")), Change::Remove(Kind::Domain, [2; 16])]).unwrap();
    drop(store);
    assert_eq!(reopened(&directory.path().join("new")), [domain(1, "c"), network]);
}

#[test]
fn a_name_belongs_to_one_object_and_the_whole_change_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path()).unwrap();
    apply(&store, vec![Change::Put(domain(1, "a"))]).unwrap();
    let refused = apply(&store, vec![Change::Put(domain(3, "b")), Change::Put(domain(2, "a"))]);
    assert_eq!(refused, Err(StoreError::NameTaken("a".into())));
    drop(store);
    assert_eq!(reopened(directory.path()), [domain(1, "a")]);
}

#[test]
fn a_second_daemon_is_told_who_has_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let first = Store::open(directory.path()).unwrap();
    let Err(StoreError::InUse { pid, .. }) = Store::open(directory.path()) else { panic!("opened twice") };
    assert_eq!(pid, std::process::id().to_string());
    drop(first);
    Store::open(directory.path()).unwrap();
}

#[test]
fn a_newer_database_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(Store::open(directory.path()).unwrap());
    let path = directory.path().join("state.sqlite");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 1000).unwrap();
    drop(connection);
    assert!(matches!(Store::open(directory.path()), Err(StoreError::Newer { found: 1000, .. })));
}

#[test]
fn a_database_of_the_first_version_keeps_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(directory.path().join("state.sqlite")).unwrap();
    connection.execute_batch(schema::MIGRATIONS[0]).unwrap();
    let insert = "INSERT INTO object VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let network = Record { kind: Kind::Network, autostart: true, live: Some("{}".into()), ..domain(3, "a") };
    let records = [domain(1, "a"), domain(2, "b"), network];
    for Record { kind, uuid, name, definition, autostart, live } in &records {
        let values = rusqlite::params![kind.number(), uuid, name, definition, autostart, live];
        connection.execute(insert, values).unwrap();
    }
    connection.pragma_update(None, "user_version", 1).unwrap();
    drop(connection);
    assert_eq!(reopened(directory.path()), records);
    let (store, _) = Store::open(directory.path()).unwrap();
    assert_eq!(apply(&store, vec![Change::Put(domain(4, "b"))]), Err(StoreError::NameTaken("b".into())));
}

#[test]
fn the_log_has_its_room_from_the_beginning_and_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let length = || directory.path().join("state.sqlite-wal").metadata().unwrap().len();
    for round in 0..2 {
        let (store, _) = Store::open(directory.path()).unwrap();
        let before = length();
        assert!(before >= schema::LOG_BYTES, "{before}");
        for number in 0..50 {
            let name = format!("name{number}");
            let definition = Some("x".repeat(20_000));
            apply(&store, vec![Change::Put(Record { definition, ..domain(number, &name) })]).unwrap();
        }
        drop(store);
        assert_eq!(length(), before, "round {round}");
    }
    assert_eq!(reopened(directory.path()).len(), 50);
}

#[test]
fn rubbish_in_place_of_the_database_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("state.sqlite"), [7; 8192]).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(StoreError::Host { .. })));
}

/// What a copy of the files shows, as it would be found after a kill: without the store having been closed.
fn after_a_kill(directory: &Path) -> Vec<Record> {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    reopened(copy.path())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn every_answered_change_survives_a_kill(steps in proptest::collection::vec((0..4u8, 0..4u8, any::<bool>()), 1..24)) {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path()).unwrap();
        let mut model: BTreeMap<[u8; 16], Record> = BTreeMap::new();
        for (number, name, remove) in steps {
            let record = domain(number, &format!("name{name}"));
            if remove {
                apply(&store, vec![Change::Remove(Kind::Domain, record.uuid)]).unwrap();
                model.remove(&record.uuid);
                continue;
            }
            let taken = model.values().any(|other| other.name == record.name && other.uuid != record.uuid);
            let result = apply(&store, vec![Change::Put(record.clone())]);
            prop_assert_eq!(result.is_err(), taken);
            if !taken {
                model.insert(record.uuid, record);
            }
        }
        let mut expected: Vec<Record> = model.into_values().collect();
        expected.sort_by(|one, other| one.name.cmp(&other.name));
        prop_assert_eq!(after_a_kill(directory.path()), expected);
    }
}
