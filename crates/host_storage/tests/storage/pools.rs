//! The life of a pool.

use host_storage::{BuildMode, PoolState, StorageError};
use libvirt_xml::storage::{PoolKind, SourceQuery};

use super::*;

#[test]
fn a_pool_is_defined_built_started_stopped_deleted_and_undefined() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let storage = Storage::new(StorageOptions::default());
    let pool = storage.define(pool_at("p", &path)).unwrap();
    assert!(!path.exists(), "defining touches nothing");
    assert!(storage.start(&pool, None).is_err(), "there is no directory yet");
    assert_eq!(pool.info().state, PoolState::Inactive);
    assert!(matches!(pool.volumes(), Err(StorageError::NotActive(_))));
    storage.build(&pool, BuildMode::Plain).unwrap();
    storage.start(&pool, None).unwrap();
    assert_eq!(storage.start(&pool, None).unwrap_err().to_string(), "storage pool 'p' is already active");
    let info = pool.info();
    assert_eq!(info.state, PoolState::Running);
    assert!(info.sizes.capacity > 0);
    assert_eq!(info.sizes.capacity, info.sizes.allocation + info.sizes.available);
    let message = storage.undefine(&pool).unwrap_err().to_string();
    assert_eq!(message, "storage pool 'p' is still active");
    assert!(storage.delete(&pool).is_err());
    storage.stop(&pool).unwrap();
    assert!(matches!(storage.stop(&pool), Err(StorageError::NotActive(_))));
    storage.delete(&pool).unwrap();
    assert!(!path.exists());
    storage.undefine(&pool).unwrap();
    let message = storage.pool_by_name("p").unwrap_err().to_string();
    assert_eq!(message, "no storage pool with matching name 'p'");
}

#[test]
fn a_directory_with_files_in_it_is_not_deleted() {
    let host = Host::new();
    host.create(&raw("v", MIB)).unwrap();
    host.storage.stop(&host.pool).unwrap();
    assert!(host.storage.delete(&host.pool).is_err());
    assert!(host.path("v").exists());
}

#[test]
fn pools_do_not_take_each_others_name_uuid_or_place() {
    let host = Host::new();
    let conflict = |definition| match host.storage.define(definition) {
        Err(StorageError::PoolConflict(why)) => why,
        other => panic!("{other:?}"),
    };
    let uuid = host.pool.uuid();
    assert_eq!(
        conflict(pool_at("images", Path::new("/elsewhere"))),
        format!("pool 'images' already exists with uuid {uuid}")
    );
    let other = PoolDefinition { uuid: Some(uuid), ..pool_at("other", Path::new("/elsewhere")) };
    assert_eq!(conflict(other), format!("pool 'images' is already defined with uuid {uuid}"));
    let why = conflict(pool_at("other", &host.directory.path().join("images")));
    assert_eq!(why, "Storage source conflict with pool: 'images'");
}

#[test]
fn a_new_definition_holds_from_the_next_start_on() {
    let host = Host::new();
    let new = host.directory.path().join("new");
    std::fs::create_dir(&new).unwrap();
    let definition = PoolDefinition { uuid: Some(host.pool.uuid()), ..pool_at("images", &new) };
    let same = host.storage.define(definition).unwrap();
    assert!(Arc::ptr_eq(&same, &host.pool));
    assert!(host.pool.describe().target.path.ends_with("/images"));
    assert!(host.pool.describe_inactive().target.path.ends_with("/new"));
    host.storage.stop(&host.pool).unwrap();
    host.storage.start(&host.pool, None).unwrap();
    assert!(host.pool.describe().target.path.ends_with("/new"));
}

#[test]
fn a_transient_pool_is_gone_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::new(StorageOptions::default());
    let failed = storage.create(pool_at("t", &directory.path().join("missing")), None);
    assert!(failed.is_err() && storage.pools().is_empty(), "what can't start is not there");
    let path = directory.path().join("t");
    let pool = storage.create(pool_at("t", &path), Some(BuildMode::Plain)).unwrap();
    assert!(pool.is_active() && !pool.is_persistent());
    assert!(pool.set_autostart(true).is_err());
    storage.stop(&pool).unwrap();
    assert!(storage.pools().is_empty());
}

#[test]
fn what_the_caller_remembers_is_restored() {
    let host = Host::new();
    host.create(&raw("v", MIB)).unwrap();
    host.pool.set_autostart(true).unwrap();
    let again = storage(host.directory.path());
    let pool = again.restore(Some(host.pool.describe_inactive()), Some(host.pool.describe())).unwrap();
    assert_eq!((pool.uuid(), pool.is_active(), pool.is_persistent()), (host.pool.uuid(), true, true));
    assert_eq!(pool.volumes().unwrap().len(), 1);
    let missing = pool_at("gone", &host.directory.path().join("gone"));
    assert!(
        !again.restore(Some(missing.clone()), Some(missing)).unwrap().is_active(),
        "its directory is gone"
    );
}

#[test]
fn a_definition_that_a_pool_is_created_with_holds_until_it_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    std::fs::create_dir(place("state")).unwrap();
    let hosts = storage(directory.path());
    let pool = hosts.define(pool_at("p", &place("kept"))).unwrap();
    let passing = pool_at("p", &place("passing"));
    let passing = libvirt_xml::storage::PoolDefinition { uuid: Some(pool.uuid()), ..passing };
    assert!(hosts.create(passing.clone(), None).is_err(), "its directory is not there");
    assert_eq!(pool.describe().target.path, place("kept").display().to_string());
    hosts.create(passing, Some(BuildMode::Plain)).unwrap();
    let path = |pool: &Pool| (pool.describe().target.path, pool.describe_inactive().target.path);
    let both = (place("passing").display().to_string(), place("kept").display().to_string());
    assert_eq!(path(&pool), both);
    let again = storage(directory.path());
    let restored = again.restore(Some(pool.describe_inactive()), Some(pool.describe())).unwrap();
    assert!(restored.is_active() && restored.is_persistent());
    assert_eq!(path(&restored), both, "the next process sees what is up, and what will be");
    for (storage, pool) in [(hosts, pool), (again, restored)] {
        storage.stop(&pool).unwrap();
        assert_eq!(path(&pool), (both.1.clone(), both.1.clone()));
    }
}

#[test]
fn a_transient_pool_whose_storage_is_gone_is_not_restored() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::new(StorageOptions::default());
    let gone = pool_at("gone", &directory.path().join("gone"));
    assert!(!storage.restore(None, Some(gone)).unwrap().is_active());
    assert!(storage.pools().is_empty());
}

#[test]
fn a_flag_about_file_systems_is_refused_where_there_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::new(StorageOptions::default());
    let pool = storage.define(pool_at("p", &directory.path().join("a/b"))).unwrap();
    let error = storage.build(&pool, BuildMode::Overwrite).unwrap_err();
    assert!(matches!(error, StorageError::InvalidArgument(_)), "{error}");
    assert!(!directory.path().join("a").exists(), "what was made is taken back");
}

#[test]
fn a_pool_gets_the_mode_that_it_asks_for() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p");
    let storage = Storage::new(StorageOptions::default());
    let definition = pool(&format!(
        "<pool type='dir'><name>p</name><target><path>{}</path><permissions><mode>0750</mode></permissions></target></pool>",
        path.display()
    ));
    let pool = storage.define(definition).unwrap();
    storage.build(&pool, BuildMode::Plain).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o750);
    storage.start(&pool, None).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    storage.refresh(&pool).unwrap();
    assert_eq!(pool.describe().target.permissions.mode, Some(0o700), "what is there");
    assert_eq!(pool.describe_inactive().target.permissions.mode, Some(0o750), "what was asked for");
}

#[test]
fn programs_that_are_missing_are_named_with_their_package() {
    let storage = Storage::new(StorageOptions {
        commands: host_storage::Commands::within(Vec::new()),
        ..StorageOptions::default()
    });
    let message = storage.find_sources(PoolKind::Logical, &SourceQuery::default()).unwrap_err().to_string();
    assert_eq!(message, "the program pvs is not installed: it comes with the package lvm2");
    let kinds = storage.capabilities().supported;
    assert_eq!(kinds, [PoolKind::Directory]);
    let query = SourceQuery { host: Some("h".into()) };
    let message = storage.find_sources(PoolKind::NetworkFileSystem, &query).unwrap_err().to_string();
    assert!(message.contains("nfs-common"), "{message}");
}

/// A server is not at hand: programs that write down how they were called stand in for mount(8).
#[test]
fn a_network_file_system_is_mounted_as_asked_for_and_taken_down_when_it_can_not_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let (programs, target) = (directory.path().join("bin"), directory.path().join("target"));
    let log = directory.path().join("log");
    std::fs::create_dir(&programs).unwrap();
    let commands = host_storage::Commands::within(vec![programs.clone(), "/usr/bin".into(), "/bin".into()]);
    let storage = Storage::new(StorageOptions { commands, ..StorageOptions::default() });
    let pool = storage
        .define(pool(&format!(
            "<pool type='netfs'><name>n</name><source><host name='server'/><dir path='/export'/><format type='nfs'/>\
             <protocol ver='4.1'/></source><target><path>{}</path></target></pool>",
            target.display()
        )))
        .unwrap();
    storage.build(&pool, BuildMode::Plain).unwrap();
    let message = storage.start(&pool, None).unwrap_err().to_string();
    assert!(message.contains("mount.nfs") && message.contains("nfs-common"), "{message}");
    logical::program_at(&programs, "mount.nfs", "", &log);
    logical::program_at(&programs, "mount", &format!("rmdir '{}'", target.display()), &log);
    logical::program_at(&programs, "umount", "", &log);
    // What was mounted can't be looked at.
    assert!(storage.start(&pool, None).is_err());
    let calls = std::fs::read_to_string(&log).unwrap();
    let expected = format!(
        "mount -t nfs -o nodev,nosuid,noexec,nfsvers=4.1 -- server:/export {0}\numount -- {0}\n",
        target.display()
    );
    assert_eq!(calls, expected);
    assert!(!pool.is_active());
    logical::program_at(&programs, "mount", "", &log);
    std::fs::create_dir(&target).unwrap();
    storage.start(&pool, None).unwrap();
    assert!(pool.is_active());
}
