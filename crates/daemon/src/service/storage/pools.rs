//! Procedures about storage pools.

use std::path::Path;
use std::sync::Arc;

use host_storage::{BuildMode, Pool, PoolState};
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::{ErrorDomain, RpcError};
use libvirt_xml::storage::{PoolDefinition, PoolKind, SourceQuery};

use super::{PoolEvent, document, only, remote_pool, storage_error, xml_error};
use crate::service::{Daemon, asked, count, listed};

/// VIR_STORAGE_POOL_DEFINE_VALIDATE: documents are always checked.
const VALIDATE: u32 = 1;
/// VIR_STORAGE_XML_INACTIVE.
const INACTIVE: u32 = 1;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(define)
        .on(create_xml)
        .on(create)
        .on(build)
        .on(destroy)
        .on(delete)
        .on(undefine)
        .on(refresh)
        .on(by_name)
        .on(by_uuid)
        .on(by_volume)
        .on(by_target_path)
        .on(information)
        .on(description)
        .on(autostart)
        .on(set_autostart)
        .on(is_active)
        .on(is_persistent)
        .on(list)
        .on(count_active)
        .on(list_active)
        .on(count_inactive)
        .on(list_inactive)
        .on(find_sources)
        .on(capabilities)
}

fn definition(xml: &str) -> Result<PoolDefinition, RpcError> {
    PoolDefinition::from_element(&document(xml)?).map_err(|error| xml_error(&error))
}

async fn define(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolDefineXml,
) -> Result<StoragePoolDefineXmlReply, RpcError> {
    only(call.flags, VALIDATE)?;
    let definition = definition(&call.xml)?;
    let known = daemon.pools.storage.pool_by_name(&definition.name).is_ok();
    let pool = daemon.with_storage(|storage| storage.define(definition)).await?;
    if let Err(error) = daemon.remember_pool(pool.uuid()).await {
        // What is not remembered was not defined; an older definition can't be brought back, and the error says so.
        if !known {
            let _ = daemon.with_storage(move |storage| storage.undefine(&pool)).await;
        }
        return Err(error);
    }
    daemon.tell_pool(&pool, PoolEvent::Defined);
    Ok(StoragePoolDefineXmlReply { pool: remote_pool(&pool) })
}

/// How a pool that is created is built before (virStoragePoolCreateFlags).
fn build_before(flags: u32) -> Result<Option<BuildMode>, RpcError> {
    only(flags, 7)?;
    match (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0) {
        (_, true, true) => Err(both()),
        (_, true, false) => Ok(Some(BuildMode::Overwrite)),
        (_, false, true) => Ok(Some(BuildMode::NoOverwrite)),
        (true, false, false) => Ok(Some(BuildMode::Plain)),
        (false, false, false) => Ok(None),
    }
}

fn both() -> RpcError {
    RpcError::invalid_argument("flags 'overwrite' and 'no-overwrite' are mutually exclusive")
}

async fn create_xml(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolCreateXml,
) -> Result<StoragePoolCreateXmlReply, RpcError> {
    let (definition, build) = (definition(&call.xml)?, build_before(call.flags)?);
    let pool = daemon.with_storage(move |storage| storage.create(definition, build)).await?;
    daemon.remember_pool(pool.uuid()).await?;
    daemon.tell_pool(&pool, PoolEvent::Started);
    Ok(StoragePoolCreateXmlReply { pool: remote_pool(&pool) })
}

async fn create(daemon: Arc<Daemon>, _: CallContext, call: StoragePoolCreate) -> Result<(), RpcError> {
    let (pool, build) = (daemon.pool(&call.pool)?, build_before(call.flags)?);
    let started = Arc::clone(&pool);
    daemon.with_storage(move |storage| storage.start(&started, build)).await?;
    daemon.remember_pool(pool.uuid()).await?;
    daemon.tell_pool(&pool, PoolEvent::Started);
    Ok(())
}

async fn build(daemon: Arc<Daemon>, _: CallContext, call: StoragePoolBuild) -> Result<(), RpcError> {
    // virStoragePoolBuildFlags; repairing and resizing is offered by no kind of pool.
    only(call.flags, 12)?;
    let mode = match call.flags {
        12 => return Err(both()),
        8 => BuildMode::Overwrite,
        4 => BuildMode::NoOverwrite,
        _ => BuildMode::Plain,
    };
    let pool = daemon.pool(&call.pool)?;
    let built = Arc::clone(&pool);
    daemon.with_storage(move |storage| storage.build(&built, mode)).await?;
    daemon.tell_pool(&pool, PoolEvent::Created);
    Ok(())
}

async fn destroy(daemon: Arc<Daemon>, _: CallContext, call: StoragePoolDestroy) -> Result<(), RpcError> {
    let pool = daemon.pool(&call.pool)?;
    let stopped = Arc::clone(&pool);
    daemon.with_storage(move |storage| storage.stop(&stopped)).await?;
    daemon.remember_pool(pool.uuid()).await?;
    daemon.tell_pool(&pool, PoolEvent::Stopped);
    Ok(())
}

async fn delete(daemon: Arc<Daemon>, _: CallContext, call: StoragePoolDelete) -> Result<(), RpcError> {
    if call.flags != 0 {
        let rule = "a pool's storage can't be overwritten when it is deleted: wipe its volumes before";
        only(call.flags, 1)?;
        return Err(RpcError::unsupported_operation(rule));
    }
    let pool = daemon.pool(&call.pool)?;
    let deleted = Arc::clone(&pool);
    daemon.with_storage(move |storage| storage.delete(&deleted)).await?;
    daemon.tell_pool(&pool, PoolEvent::Deleted);
    Ok(())
}

async fn undefine(daemon: Arc<Daemon>, _: CallContext, call: StoragePoolUndefine) -> Result<(), RpcError> {
    let pool = daemon.pool(&call.pool)?;
    let undefined = Arc::clone(&pool);
    daemon.with_storage(move |storage| storage.undefine(&undefined)).await?;
    daemon.remember_pool(pool.uuid()).await?;
    daemon.tell_pool(&pool, PoolEvent::Undefined);
    Ok(())
}

async fn refresh(daemon: Arc<Daemon>, _: CallContext, call: StoragePoolRefresh) -> Result<(), RpcError> {
    only(call.flags, 0)?;
    let pool = daemon.pool(&call.pool)?;
    let refreshed = Arc::clone(&pool);
    daemon.with_storage(move |storage| storage.refresh(&refreshed)).await?;
    daemon.tell_pool(&pool, PoolEvent::Refreshed);
    Ok(())
}

async fn by_name(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolLookupByName,
) -> Result<StoragePoolLookupByNameReply, RpcError> {
    let pool = daemon.pools.storage.pool_by_name(&call.name).map_err(|error| storage_error(&error))?;
    Ok(StoragePoolLookupByNameReply { pool: remote_pool(&pool) })
}

async fn by_uuid(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolLookupByUuid,
) -> Result<StoragePoolLookupByUuidReply, RpcError> {
    let uuid = uuid::Uuid::from_bytes(call.uuid.0);
    let pool = daemon.pools.storage.pool_by_uuid(uuid).map_err(|error| storage_error(&error))?;
    Ok(StoragePoolLookupByUuidReply { pool: remote_pool(&pool) })
}

async fn by_volume(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolLookupByVolume,
) -> Result<StoragePoolLookupByVolumeReply, RpcError> {
    Ok(StoragePoolLookupByVolumeReply { pool: remote_pool(daemon.pool_of(&call.vol)?.as_ref()) })
}

async fn by_target_path(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolLookupByTargetPath,
) -> Result<StoragePoolLookupByTargetPathReply, RpcError> {
    let pool = daemon.pools.storage.pool_by_target_path(Path::new(&call.path));
    let pool = pool.map_err(|error| storage_error(&error))?;
    Ok(StoragePoolLookupByTargetPathReply { pool: remote_pool(&pool) })
}

async fn information(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolGetInfo,
) -> Result<StoragePoolGetInfoReply, RpcError> {
    let information = daemon.pool(&call.pool)?.info();
    let state = match information.state {
        PoolState::Inactive => 0,
        PoolState::Building => 1,
        PoolState::Running => 2,
    };
    let sizes = information.sizes;
    Ok(StoragePoolGetInfoReply {
        state,
        capacity: sizes.capacity,
        allocation: sizes.allocation,
        available: sizes.available,
    })
}

async fn description(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolGetXmlDesc,
) -> Result<StoragePoolGetXmlDescReply, RpcError> {
    only(call.flags, INACTIVE)?;
    let pool = daemon.pool(&call.pool)?;
    let definition = if call.flags & INACTIVE == 0 { pool.describe() } else { pool.describe_inactive() };
    Ok(StoragePoolGetXmlDescReply { xml: definition.element().to_string() })
}

async fn autostart(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolGetAutostart,
) -> Result<StoragePoolGetAutostartReply, RpcError> {
    Ok(StoragePoolGetAutostartReply { autostart: daemon.pool(&call.pool)?.autostart().into() })
}

async fn set_autostart(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolSetAutostart,
) -> Result<(), RpcError> {
    let pool = daemon.pool(&call.pool)?;
    let before = pool.autostart();
    pool.set_autostart(call.autostart != 0).map_err(|error| storage_error(&error))?;
    if let Err(error) = daemon.remember_pool(pool.uuid()).await {
        // It was possible a moment ago.
        let _ = pool.set_autostart(before);
        return Err(error);
    }
    Ok(())
}

async fn is_active(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolIsActive,
) -> Result<StoragePoolIsActiveReply, RpcError> {
    Ok(StoragePoolIsActiveReply { active: daemon.pool(&call.pool)?.is_active().into() })
}

async fn is_persistent(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolIsPersistent,
) -> Result<StoragePoolIsPersistentReply, RpcError> {
    Ok(StoragePoolIsPersistentReply { persistent: daemon.pool(&call.pool)?.is_persistent().into() })
}

/// Whether a pool is among those that a client asks for (virConnectListAllStoragePoolsFlags): of each group of flags that is
/// given, one has to fit.
fn wanted(pool: &Pool, flags: u32) -> bool {
    let kind = match pool.describe_inactive().source.kind() {
        PoolKind::Directory => 1 << 6,
        PoolKind::FileSystem => 1 << 7,
        PoolKind::NetworkFileSystem => 1 << 8,
        PoolKind::Logical => 1 << 9,
    };
    let own = [
        if pool.is_active() { 2 } else { 1 },
        if pool.is_persistent() { 4 } else { 8 },
        if pool.autostart() { 16 } else { 32 },
        kind,
    ];
    let groups = [1 | 2, 4 | 8, 16 | 32, !63];
    groups.into_iter().zip(own).all(|(group, own)| flags & group == 0 || flags & own != 0)
}

async fn list(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListAllStoragePools,
) -> Result<ConnectListAllStoragePoolsReply, RpcError> {
    only(call.flags, (1 << 20) - 1)?;
    let pools = daemon.pools.storage.pools();
    let pools: Vec<_> = pools.iter().filter(|pool| wanted(pool, call.flags)).collect();
    let (pools, ret) = listed(pools, call.need_results);
    Ok(ConnectListAllStoragePoolsReply {
        pools: pools.into_iter().map(|pool| remote_pool(pool)).collect(),
        ret,
    })
}

impl Daemon {
    /// Names of the pools that are active, or of the others.
    fn pool_names(&self, active: bool) -> Vec<String> {
        let pools = self.pools.storage.pools();
        pools.iter().filter(|pool| pool.is_active() == active).map(|pool| pool.name().to_owned()).collect()
    }
}

async fn count_active(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfStoragePools,
) -> Result<ConnectNumOfStoragePoolsReply, RpcError> {
    Ok(ConnectNumOfStoragePoolsReply { num: count(daemon.pool_names(true).len()) })
}

async fn list_active(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListStoragePools,
) -> Result<ConnectListStoragePoolsReply, RpcError> {
    let most = asked(call.maxnames)?;
    Ok(ConnectListStoragePoolsReply { names: daemon.pool_names(true).into_iter().take(most).collect() })
}

async fn count_inactive(
    daemon: Arc<Daemon>,
    _: CallContext,
    _: ConnectNumOfDefinedStoragePools,
) -> Result<ConnectNumOfDefinedStoragePoolsReply, RpcError> {
    Ok(ConnectNumOfDefinedStoragePoolsReply { num: count(daemon.pool_names(false).len()) })
}

async fn list_inactive(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectListDefinedStoragePools,
) -> Result<ConnectListDefinedStoragePoolsReply, RpcError> {
    let most = asked(call.maxnames)?;
    Ok(ConnectListDefinedStoragePoolsReply {
        names: daemon.pool_names(false).into_iter().take(most).collect(),
    })
}

async fn find_sources(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectFindStoragePoolSources,
) -> Result<ConnectFindStoragePoolSourcesReply, RpcError> {
    only(call.flags, 0)?;
    let kind = PoolKind::from_name(&call.kind)
        .ok_or_else(|| RpcError::internal(format!("unknown storage pool type {}", call.kind)))?;
    if matches!(kind, PoolKind::Directory | PoolKind::FileSystem) {
        // libvirt has no function for it: clients see that from the code.
        let what = format!("pool type '{kind}' does not support source discovery");
        return Err(RpcError::not_supported(what).from_part(ErrorDomain::Storage));
    }
    let query = match &call.src_spec {
        Some(xml) => SourceQuery::from_element(&document(xml)?).map_err(|error| xml_error(&error))?,
        None => SourceQuery::default(),
    };
    let sources = daemon.with_storage(move |storage| storage.find_sources(kind, &query)).await?;
    Ok(ConnectFindStoragePoolSourcesReply { xml: sources.element().to_string() })
}

async fn capabilities(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: ConnectGetStoragePoolCapabilities,
) -> Result<ConnectGetStoragePoolCapabilitiesReply, RpcError> {
    only(call.flags, 0)?;
    let capabilities = daemon.with_storage(|storage| Ok(storage.capabilities())).await?;
    Ok(ConnectGetStoragePoolCapabilitiesReply { capabilities: capabilities.element().to_string() })
}
