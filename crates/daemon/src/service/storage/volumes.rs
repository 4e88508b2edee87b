//! Procedures about volumes.

use std::path::Path;
use std::sync::Arc;

use host_storage::{CreateOptions, DeleteMode, ResizeOptions, VolumeInfo, WipeAlgorithm};
use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::RemoteStorageVol;
use libvirt_xml::storage::{VolumeDefinition, VolumeKind};

use super::{document, only, remote_volume, storage_error, unwatched, xml_error};
use crate::service::{Daemon, asked, count, listed};

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(create)
        .on(create_from)
        .on(delete)
        .on(resize)
        .on(wipe)
        .on(wipe_with)
        .on(by_name)
        .on(by_key)
        .on(by_path)
        .on(information)
        .on(information_with_flags)
        .on(description)
        .on(path)
        .on(list)
        .on(count_all)
        .on(list_names)
}

fn definition(xml: &str) -> Result<VolumeDefinition, RpcError> {
    VolumeDefinition::from_element(&document(xml)?).map_err(|error| xml_error(&error))
}

/// virStorageVolCreateFlags; documents are always checked (VALIDATE, 4).
fn create_options(flags: u32) -> Result<CreateOptions, RpcError> {
    only(flags, 7)?;
    Ok(CreateOptions { preallocate_metadata: flags & 1 != 0, reflink: flags & 2 != 0 })
}

async fn create(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolCreateXml,
) -> Result<StorageVolCreateXmlReply, RpcError> {
    let (pool, options) = (daemon.pool(&call.pool)?, create_options(call.flags)?);
    let definition = definition(&call.xml)?;
    let vol = daemon
        .with_storage(move |storage| {
            let volume = storage.create_volume(&pool, &definition, options, &mut unwatched())?;
            Ok(remote_volume(&pool, volume))
        })
        .await?;
    Ok(StorageVolCreateXmlReply { vol })
}

async fn create_from(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolCreateXmlFrom,
) -> Result<StorageVolCreateXmlFromReply, RpcError> {
    let (pool, options) = (daemon.pool(&call.pool)?, create_options(call.flags)?);
    let (definition, source) = (definition(&call.xml)?, daemon.pool_of(&call.clonevol)?);
    let vol = daemon
        .with_storage(move |storage| {
            let name = &call.clonevol.name;
            let (volume, method) =
                storage.create_volume_from(&pool, &definition, &source, name, options, &mut unwatched())?;
            tracing::info!(volume = volume.name, source = name, ?method, "copied a volume");
            Ok(remote_volume(&pool, volume))
        })
        .await?;
    Ok(StorageVolCreateXmlFromReply { vol })
}

async fn delete(daemon: Arc<Daemon>, _: CallContext, call: StorageVolDelete) -> Result<(), RpcError> {
    // virStorageVolDeleteFlags: 2 asks for snapshots to go with it, which internal ones do anyway.
    only(call.flags, 3)?;
    let mode = if call.flags & 1 == 0 { DeleteMode::Normal } else { DeleteMode::Zeroed };
    let pool = daemon.pool_of(&call.vol)?;
    daemon
        .with_storage(move |storage| storage.delete_volume(&pool, &call.vol.name, mode, &mut unwatched()))
        .await
}

async fn resize(daemon: Arc<Daemon>, _: CallContext, call: StorageVolResize) -> Result<(), RpcError> {
    only(call.flags, 7)?;
    let options = ResizeOptions {
        allocate: call.flags & 1 != 0,
        delta: call.flags & 2 != 0,
        shrink: call.flags & 4 != 0,
    };
    let pool = daemon.pool_of(&call.vol)?;
    daemon
        .with_storage(move |storage| storage.resize_volume(&pool, &call.vol.name, call.capacity, options))
        .await
}

impl Daemon {
    async fn wipe_volume(
        &self,
        volume: RemoteStorageVol,
        algorithm: u32,
        flags: u32,
    ) -> Result<(), RpcError> {
        only(flags, 0)?;
        let algorithm = WipeAlgorithm::from_number(algorithm).map_err(|error| storage_error(&error))?;
        let pool = self.pool_of(&volume)?;
        self.with_storage(move |storage| {
            storage.wipe_volume(&pool, &volume.name, algorithm, &mut unwatched())
        })
        .await
    }

    async fn volume_information(&self, volume: RemoteStorageVol) -> Result<VolumeInfo, RpcError> {
        let pool = self.pool_of(&volume)?;
        self.with_storage(move |storage| storage.volume_info(&pool, &volume.name)).await
    }
}

async fn wipe(daemon: Arc<Daemon>, _: CallContext, call: StorageVolWipe) -> Result<(), RpcError> {
    daemon.wipe_volume(call.vol, 0, call.flags).await
}

async fn wipe_with(daemon: Arc<Daemon>, _: CallContext, call: StorageVolWipePattern) -> Result<(), RpcError> {
    daemon.wipe_volume(call.vol, call.algorithm, call.flags).await
}

async fn by_name(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolLookupByName,
) -> Result<StorageVolLookupByNameReply, RpcError> {
    let pool = daemon.pool(&call.pool)?;
    let volume = pool.volume(&call.name).map_err(|error| storage_error(&error))?;
    Ok(StorageVolLookupByNameReply { vol: remote_volume(&pool, volume) })
}

async fn by_key(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolLookupByKey,
) -> Result<StorageVolLookupByKeyReply, RpcError> {
    let found = daemon.pools.storage.volume_by_key(&call.key);
    let (pool, volume) = found.map_err(|error| storage_error(&error))?;
    Ok(StorageVolLookupByKeyReply { vol: remote_volume(&pool, volume) })
}

async fn by_path(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolLookupByPath,
) -> Result<StorageVolLookupByPathReply, RpcError> {
    let found = daemon.pools.storage.volume_by_path(Path::new(&call.path));
    let (pool, volume) = found.map_err(|error| storage_error(&error))?;
    Ok(StorageVolLookupByPathReply { vol: remote_volume(&pool, volume) })
}

/// virStorageVolType.
fn kind_number(kind: VolumeKind) -> i8 {
    match kind {
        VolumeKind::File => 0,
        VolumeKind::Block => 1,
        VolumeKind::Directory => 2,
        VolumeKind::Network => 3,
        VolumeKind::NetworkDirectory => 4,
    }
}

async fn information(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolGetInfo,
) -> Result<StorageVolGetInfoReply, RpcError> {
    let VolumeInfo { kind, capacity, allocation, .. } = daemon.volume_information(call.vol).await?;
    Ok(StorageVolGetInfoReply { kind: kind_number(kind), capacity, allocation })
}

async fn information_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolGetInfoFlags,
) -> Result<StorageVolGetInfoFlagsReply, RpcError> {
    // VIR_STORAGE_VOL_GET_PHYSICAL: the length of the file in the place of its allocation.
    only(call.flags, 1)?;
    let information = daemon.volume_information(call.vol).await?;
    let allocation = if call.flags == 0 { information.allocation } else { information.physical };
    let kind = kind_number(information.kind);
    Ok(StorageVolGetInfoFlagsReply { kind, capacity: information.capacity, allocation })
}

async fn description(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolGetXmlDesc,
) -> Result<StorageVolGetXmlDescReply, RpcError> {
    only(call.flags, 0)?;
    let pool = daemon.pool_of(&call.vol)?;
    let description =
        daemon.with_storage(move |storage| storage.describe_volume(&pool, &call.vol.name)).await?;
    Ok(StorageVolGetXmlDescReply { xml: description.element().to_string() })
}

async fn path(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StorageVolGetPath,
) -> Result<StorageVolGetPathReply, RpcError> {
    let volume = daemon.pool_of(&call.vol)?.volume(&call.vol.name);
    let path = volume.map_err(|error| storage_error(&error))?.path;
    Ok(StorageVolGetPathReply { name: path.to_string_lossy().into_owned() })
}

async fn list(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolListAllVolumes,
) -> Result<StoragePoolListAllVolumesReply, RpcError> {
    only(call.flags, 0)?;
    let pool = daemon.pool(&call.pool)?;
    let volumes = pool.volumes().map_err(|error| storage_error(&error))?;
    let (volumes, ret) = listed(volumes, call.need_results);
    let vols = volumes.into_iter().map(|volume| remote_volume(&pool, volume)).collect();
    Ok(StoragePoolListAllVolumesReply { vols, ret })
}

async fn count_all(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolNumOfVolumes,
) -> Result<StoragePoolNumOfVolumesReply, RpcError> {
    let volumes = daemon.pool(&call.pool)?.volumes().map_err(|error| storage_error(&error))?;
    Ok(StoragePoolNumOfVolumesReply { num: count(volumes.len()) })
}

async fn list_names(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: StoragePoolListVolumes,
) -> Result<StoragePoolListVolumesReply, RpcError> {
    let volumes = daemon.pool(&call.pool)?.volumes().map_err(|error| storage_error(&error))?;
    let names = volumes.into_iter().map(|volume| volume.name).take(asked(call.maxnames)?).collect();
    Ok(StoragePoolListVolumesReply { names })
}
