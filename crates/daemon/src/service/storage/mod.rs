//! Storage: libvirt's procedures over `host_storage`, which does the work.
//!
//! What is remembered of a pool is written after each change of it, before the change is answered. Whatever looks at disks or
//! runs programs does so on a blocking thread.

mod pools;
mod transfer;
mod volumes;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use host_storage::{Pool, Storage, StorageError, StorageOptions, VolumeSummary};
use libvirt_rpc::server::Table;
use libvirt_rpc::types::{RemoteStoragePool, RemoteStorageVol};
use libvirt_rpc::{ErrorCode, ErrorDomain, RpcError};
use libvirt_xml::domain::disk::ImageFormat;
use libvirt_xml::storage::PoolDefinition;
use libvirt_xml::{Value, XmlError};
use parking_lot::Mutex;
use uuid::Uuid;

use super::events::Subject;
use super::{Daemon, document_error, only};
use crate::domain::machine::Volume;
use crate::instance::Settings;
use crate::store::{Change, Kind, Receipt, Record, Store};

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    [pools::register, volumes::register, transfer::register]
        .into_iter()
        .fold(table, |table, register| register(table))
}

/// The host's pools, and the order in which they are written down.
#[derive(Debug)]
pub(super) struct Pools {
    storage: Arc<Storage>,
    /// The pools that the store knows of once it has done what it was asked. Held from looking at a pool until what was seen is in
    /// the store's queue, so that nothing older overtakes it.
    noted: Mutex<BTreeSet<Uuid>>,
}

impl Pools {
    /// The pools that the store remembers; what was active is found again. Blocks.
    pub(super) fn restore(settings: &Settings, records: Vec<Record>) -> Self {
        let options = StorageOptions {
            state_directory: Some(settings.state_directory.clone()),
            ..StorageOptions::default()
        };
        let storage = Storage::new(options);
        let mut noted = BTreeSet::new();
        for record in records {
            let (name, uuid) = (record.name.clone(), Uuid::from_bytes(record.uuid));
            match restore(&storage, record) {
                // Also one that is gone because it was transient.
                Ok(()) => drop(noted.insert(uuid)),
                Err(error) => {
                    // The others are there all the same. What can't be understood stays in the store, for whoever can.
                    tracing::error!("storage pool '{name}' is not as it was: {error}");
                    if storage.pool_by_uuid(uuid).is_ok() {
                        noted.insert(uuid);
                    }
                }
            }
        }
        Self { storage: Arc::new(storage), noted: Mutex::new(noted) }
    }

    /// The volume of an active pool, as machines want it.
    pub(super) fn volume(&self, pool: &str, name: &str) -> Option<Volume> {
        let pool = self.storage.pool_by_name(pool).ok()?;
        let (format, _) = self.storage.volume_format(&pool, name).ok()?;
        let path = pool.volume(name).ok()?.path;
        // What no disk can be is served as it lies there.
        let format = ImageFormat::read(format.name()).unwrap_or(ImageFormat::Raw);
        Some(Volume { path, format })
    }

    /// Directories of active pools: images may be based on others there.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        self.storage.directories()
    }

    /// Starts the pools that start with the daemon. Blocks.
    pub(super) fn start_marked(&self) {
        for pool in self.storage.pools() {
            if pool.autostart()
                && !pool.is_active()
                && let Err(error) = self.storage.start(&pool, None)
            {
                tracing::error!("storage pool '{}' does not start: {error}", pool.name());
            }
        }
    }

    /// Writes down what the pool is now, or that it is gone. Others that are gone are forgotten before, whose names it may have:
    /// who removed them is about to say so.
    fn note(&self, store: &Store, uuid: Uuid) -> Receipt {
        let mut noted = self.noted.lock();
        let mut changes = Vec::new();
        noted.retain(|noted| {
            let there = self.storage.pool_by_uuid(*noted).is_ok();
            if !there {
                changes.push(Change::Remove(Kind::Pool, *noted.as_bytes()));
            }
            there
        });
        if let Ok(pool) = self.storage.pool_by_uuid(uuid) {
            noted.insert(uuid);
            changes.push(Change::Put(Record {
                kind: Kind::Pool,
                uuid: *uuid.as_bytes(),
                name: pool.name().to_owned(),
                definition: pool.is_persistent().then(|| pool.describe_inactive().element().to_string()),
                autostart: pool.autostart(),
                live: pool.is_active().then(|| pool.describe().element().to_string()),
            }));
        }
        store.submit(changes)
    }
}

fn restore(storage: &Storage, record: Record) -> Result<(), StorageError> {
    let Record { uuid, definition, live, autostart, .. } = record;
    let read = |document: String| PoolDefinition::from_element(&libvirt_xml::parse(&document)?);
    let (definition, live) = (definition.map(read).transpose()?, live.map(read).transpose()?);
    let persistent = definition.is_some();
    let restored = storage.restore(definition, live).map(drop);
    // Also of a pool that is there, but not up as it was.
    if persistent && let Ok(pool) = storage.pool_by_uuid(Uuid::from_bytes(uuid)) {
        pool.set_autostart(autostart)?;
    }
    restored
}

impl Daemon {
    /// Does what may block.
    async fn with_storage<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Storage) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, RpcError> {
        let storage = Arc::clone(&self.pools.storage);
        match tokio::task::spawn_blocking(move || work(&storage)).await {
            Ok(result) => result.map_err(|error| storage_error(&error)),
            Err(error) => Err(RpcError::internal(format!("the work on storage ended: {error}"))),
        }
    }

    /// Returns when the pool, as it is now, is remembered.
    async fn remember_pool(&self, uuid: Uuid) -> Result<(), RpcError> {
        self.pools.note(&self.store, uuid).remembered().await.map_err(|error| {
            RpcError::internal(format!(
                "the change of the storage pool holds, but not for the next start: {error}"
            ))
        })
    }

    /// The pool that a client means.
    fn pool(&self, pool: &RemoteStoragePool) -> Result<Arc<Pool>, RpcError> {
        let found = self.pools.storage.pool_by_uuid(Uuid::from_bytes(pool.uuid.0));
        // The name is for the message: the UUID alone decides.
        found.map_err(|_| {
            RpcError::no_storage_pool(format!(
                "no storage pool with matching uuid '{}' ({})",
                pool.uuid, pool.name
            ))
        })
    }

    /// The pool of the volume that a client means, and the volume's name in it.
    fn pool_of(&self, volume: &RemoteStorageVol) -> Result<Arc<Pool>, RpcError> {
        self.pools.storage.pool_by_name(&volume.pool).map_err(|error| storage_error(&error))
    }

    /// Tells who wants to hear of pools.
    fn tell_pool(&self, pool: &Pool, event: PoolEvent) {
        use libvirt_rpc::events::{StoragePoolEventLifecycle, StoragePoolEventRefresh};
        let subject = Subject::Pool(if event == PoolEvent::Refreshed { 1 } else { 0 });
        for (client, callback_id) in self.subscriptions.listeners(subject, pool.uuid().as_bytes()) {
            let pool = remote_pool(pool);
            match event {
                PoolEvent::Refreshed => client.event(&StoragePoolEventRefresh { callback_id, pool }),
                _ => {
                    let event = event as i32;
                    client.event(&StoragePoolEventLifecycle { callback_id, pool, event, detail: 0 });
                }
            }
        }
    }
}

/// What happens to a pool, with the numbers of virStoragePoolEventLifecycleType.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PoolEvent {
    Defined = 0,
    Undefined = 1,
    Started = 2,
    Stopped = 3,
    Created = 4,
    Deleted = 5,
    /// An event of its own kind.
    Refreshed = -1,
}

fn remote_pool(pool: &Pool) -> RemoteStoragePool {
    let uuid = libvirt_rpc::xdr::Uuid(*pool.uuid().as_bytes());
    RemoteStoragePool { name: pool.name().to_owned(), uuid }
}

fn remote_volume(pool: &Pool, volume: VolumeSummary) -> RemoteStorageVol {
    RemoteStorageVol { pool: pool.name().to_owned(), name: volume.name, key: volume.key }
}

/// Work that nobody watches.
fn unwatched() -> impl FnMut(u64, u64) -> ControlFlow<()> {
    |_, _| ControlFlow::Continue(())
}

fn document(xml: &str) -> Result<libvirt_xml::Element, RpcError> {
    libvirt_xml::parse(xml).map_err(|error| xml_error(&error))
}

/// The one way from a faulty document to libvirt's errors.
fn xml_error(error: &XmlError) -> RpcError {
    document_error(error).from_part(ErrorDomain::Storage)
}

/// The one way from `host_storage`'s errors to libvirt's.
fn storage_error(error: &StorageError) -> RpcError {
    let text = error.to_string();
    let rpc = match error {
        StorageError::NoSuchPool(_) => RpcError::no_storage_pool(text),
        StorageError::NoSuchVolume(_) => RpcError::no_storage_volume(text),
        StorageError::VolumeExists(_) => RpcError::storage_volume_exists(text),
        StorageError::AlreadyActive(_)
        | StorageError::NotActive(_)
        | StorageError::InvalidOperation(_)
        | StorageError::InUse { .. } => RpcError::invalid_operation(text),
        StorageError::InvalidArgument(_) => RpcError::invalid_argument(text),
        StorageError::Unsupported(_) => RpcError::unsupported_operation(text),
        // VIR_ERR_STORAGE_POOL_BUILT.
        StorageError::AlreadyBuilt(_) => RpcError::new(ErrorCode::Other(93), ErrorDomain::Storage, "", text),
        StorageError::Xml(error) => xml_error(error),
        StorageError::ProgramMissing { .. } => RpcError::unsupported_configuration(text),
        StorageError::ProgramFailed { .. } => RpcError::internal(text),
        StorageError::System { .. } => RpcError::system(text),
        StorageError::PoolConflict(_) | StorageError::Image(_) | StorageError::Copy(_) => {
            RpcError::operation_failed(text)
        }
        StorageError::Interrupted => RpcError::aborted(text),
    };
    rpc.from_part(ErrorDomain::Storage)
}
