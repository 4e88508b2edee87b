//! What a domain is and how it is: everything that only looks.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{DomainSecurityLabel, characters};

use super::measured::counted;
use super::usage::nanoseconds;
use super::{AFFECT_CONFIG, AFFECT_LIVE, domain_error, form, not_running, only};
use crate::domain::summary::DiskSummary;
use crate::domain::{Domain, DomainError, Form, Summary};
use crate::service::{Daemon, asked, count};

/// VIR_DOMAIN_VCPU_MAXIMUM.
const VCPU_MAXIMUM: u32 = 4;
/// VIR_DOMAIN_VCPU_GUEST: the guest itself is asked.
const VCPU_GUEST: u32 = 8;

/// All bits of virDomainSnapshotListFlags and of virDomainCheckpointListFlags.
const SNAPSHOT_FILTERS: u32 = (1 << 11) - 1;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(information)
        .on(state)
        .on(os_type)
        .on(max_memory)
        .on(max_vcpus)
        .on(vcpus)
        .on(is_active)
        .on(is_persistent)
        .on(is_updated)
        .on(security_label)
        .on(security_labels)
        .on(messages)
        .on(block_information)
        .on(has_managed_save)
        .on(managed_save_document)
        .on(count_snapshots)
        .on(snapshot_names)
        .on(snapshots)
        .on(has_current_snapshot)
        .on(snapshot)
        .on(checkpoints)
}

/// What a domain's present document says, or libvirt's error.
pub(super) fn summary(domain: &Domain) -> Result<&Summary, RpcError> {
    summary_of(domain, Form::Present)
}

fn summary_of(domain: &Domain, form: Form) -> Result<&Summary, RpcError> {
    domain.summary(form).map_err(|error| domain_error(&error))
}

async fn information(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetInfo,
) -> Result<DomainGetInfoReply, RpcError> {
    let domain = daemon.domain(&call.dom)?;
    // One that has just ended is shown as it was seen.
    let cpu_time = match domain.is_active() {
        true => counted(&domain).await.map_or(0, |usage| nanoseconds(usage.all.time)),
        false => 0,
    };
    let summary = summary(&domain)?;
    Ok(DomainGetInfoReply {
        state: domain.status().state,
        max_mem: summary.memory,
        memory: domain.current_memory().map_err(|error| domain_error(&error))?,
        nr_virt_cpu: u16::try_from(summary.vcpus).unwrap_or(u16::MAX),
        cpu_time,
    })
}

async fn state(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetState,
) -> Result<DomainGetStateReply, RpcError> {
    only(call.flags, 0)?;
    let status = daemon.domain(&call.dom)?.status();
    Ok(DomainGetStateReply { state: status.state.into(), reason: status.reason })
}

async fn os_type(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetOsType,
) -> Result<DomainGetOsTypeReply, RpcError> {
    Ok(DomainGetOsTypeReply { kind: summary(&*daemon.domain(&call.dom)?)?.os_type.clone() })
}

async fn max_memory(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetMaxMemory,
) -> Result<DomainGetMaxMemoryReply, RpcError> {
    Ok(DomainGetMaxMemoryReply { memory: summary(&*daemon.domain(&call.dom)?)?.memory })
}

/// Asks the running machine, as libvirt's does.
async fn max_vcpus(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetMaxVcpus,
) -> Result<DomainGetMaxVcpusReply, RpcError> {
    let domain = daemon.domain(&call.dom)?;
    let form = form(&domain, AFFECT_LIVE)?;
    Ok(DomainGetMaxVcpusReply { num: number(summary_of(&domain, form)?.max_vcpus) })
}

async fn vcpus(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetVcpusFlags,
) -> Result<DomainGetVcpusFlagsReply, RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG | VCPU_MAXIMUM | VCPU_GUEST)?;
    let domain = daemon.domain(&call.dom)?;
    let form = form(&domain, call.flags)?;
    if call.flags & VCPU_GUEST != 0 {
        return Err(not_running());
    }
    let summary = summary_of(&domain, form)?;
    let vcpus = if call.flags & VCPU_MAXIMUM == 0 { summary.vcpus } else { summary.max_vcpus };
    Ok(DomainGetVcpusFlagsReply { num: number(vcpus) })
}

fn number(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

async fn is_active(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainIsActive,
) -> Result<DomainIsActiveReply, RpcError> {
    Ok(DomainIsActiveReply { active: daemon.domain(&call.dom)?.is_active().into() })
}

/// Whether it stays when it ends.
async fn is_persistent(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainIsPersistent,
) -> Result<DomainIsPersistentReply, RpcError> {
    Ok(DomainIsPersistentReply { persistent: daemon.domain(&call.dom)?.is_persistent().into() })
}

/// Whether what runs is not what is defined.
async fn is_updated(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainIsUpdated,
) -> Result<DomainIsUpdatedReply, RpcError> {
    let updated = daemon.domain(&call.dom)?.is_updated().map_err(|error| domain_error(&error))?;
    Ok(DomainIsUpdatedReply { updated: updated.into() })
}

/// Machines are not labelled.
async fn security_label(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetSecurityLabel,
) -> Result<DomainGetSecurityLabelReply, RpcError> {
    daemon.domain(&call.dom)?;
    Ok(DomainGetSecurityLabelReply { label: characters(""), enforcing: 0 })
}

async fn security_labels(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetSecurityLabelList,
) -> Result<DomainGetSecurityLabelListReply, RpcError> {
    daemon.domain(&call.dom)?;
    let labels: Vec<DomainSecurityLabel> = Vec::new();
    Ok(DomainGetSecurityLabelListReply { ret: count(labels.len()), labels })
}

/// Nothing is deprecated, and nothing taints a machine.
async fn messages(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetMessages,
) -> Result<DomainGetMessagesReply, RpcError> {
    only(call.flags, 3)?;
    daemon.domain(&call.dom).map(|_| DomainGetMessagesReply { msgs: Vec::new() })
}

/// Sizes of a disk's image, bytes: what it takes on the host, what the guest sees, how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageSizes {
    pub(super) allocation: u64,
    pub(super) capacity: u64,
    pub(super) physical: u64,
}

/// Looks at the image of a disk of a machine that does not run. Blocks.
pub(super) fn image_sizes(disk: &DiskSummary) -> Result<Option<ImageSizes>, DomainError> {
    use block_io::operations::{ImageFormat, ImageInfo};
    use libvirt_xml::domain::disk::ImageFormat as Named;
    let Some(path) = &disk.path else { return Ok(None) };
    let metadata = std::fs::metadata(path).map_err(|error| {
        let reason = error.to_string();
        // Without the number, which libvirt's users never saw.
        let reason = reason.split(" (os error").next().unwrap_or_default();
        DomainError::Host(format!("Failed to open file '{path}': {reason}"))
    })?;
    if metadata.is_dir() {
        return Ok(None);
    }
    if let Some(capacity) = disk.capacity.get(&metadata) {
        let allocation = metadata.blocks().saturating_mul(512);
        return Ok(Some(ImageSizes { allocation, capacity, physical: metadata.len() }));
    }
    // What the format says of itself, never what the first bytes look like.
    let format = if disk.format == Named::Qcow2 { ImageFormat::Qcow2 } else { ImageFormat::Raw };
    let info =
        ImageInfo::read(path.as_ref(), Some(format)).map_err(|error| DomainError::Host(error.to_string()))?;
    disk.capacity.set(&metadata, info.virtual_bytes);
    Ok(Some(ImageSizes {
        allocation: if info.is_device { info.file_bytes } else { info.allocated_bytes },
        capacity: info.virtual_bytes,
        physical: info.file_bytes,
    }))
}

async fn block_information(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetBlockInfo,
) -> Result<DomainGetBlockInfoReply, RpcError> {
    only(call.flags, 0)?;
    let domain = daemon.domain(&call.dom)?;
    let disk = summary(&domain)?.disk(&call.path).cloned().ok_or_else(|| {
        RpcError::invalid_argument(format!("invalid path {} not assigned to domain", call.path))
    })?;
    let sizes = tokio::task::spawn_blocking(move || image_sizes(&disk)).await;
    let sizes = sizes.map_err(|error| RpcError::internal(format!("looking at the image ended: {error}")))?;
    let empty = || {
        RpcError::invalid_argument(format!("disk '{}' does not currently have a source assigned", call.path))
    };
    let sizes = sizes.map_err(|error| domain_error(&error))?.ok_or_else(empty)?;
    let ImageSizes { allocation, capacity, physical } = sizes;
    Ok(DomainGetBlockInfoReply { allocation, capacity, physical })
}

// States are not saved, snapshots and checkpoints not made: there are none.

async fn has_managed_save(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainHasManagedSaveImage,
) -> Result<DomainHasManagedSaveImageReply, RpcError> {
    only(call.flags, 0)?;
    daemon.domain(&call.dom).map(|_| DomainHasManagedSaveImageReply { result: 0 })
}

async fn managed_save_document(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainManagedSaveGetXmlDesc,
) -> Result<DomainManagedSaveGetXmlDescReply, RpcError> {
    daemon.domain(&call.dom)?;
    Err(RpcError::invalid_operation("domain does not have managed save image"))
}

async fn count_snapshots(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSnapshotNum,
) -> Result<DomainSnapshotNumReply, RpcError> {
    only(call.flags, SNAPSHOT_FILTERS)?;
    daemon.domain(&call.dom).map(|_| DomainSnapshotNumReply { num: 0 })
}

async fn snapshot_names(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSnapshotListNames,
) -> Result<DomainSnapshotListNamesReply, RpcError> {
    only(call.flags, SNAPSHOT_FILTERS)?;
    asked(call.maxnames)?;
    daemon.domain(&call.dom).map(|_| DomainSnapshotListNamesReply { names: Vec::new() })
}

async fn snapshots(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainListAllSnapshots,
) -> Result<DomainListAllSnapshotsReply, RpcError> {
    only(call.flags, SNAPSHOT_FILTERS)?;
    daemon.domain(&call.dom).map(|_| DomainListAllSnapshotsReply { snapshots: Vec::new(), ret: 0 })
}

async fn has_current_snapshot(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainHasCurrentSnapshot,
) -> Result<DomainHasCurrentSnapshotReply, RpcError> {
    only(call.flags, 0)?;
    daemon.domain(&call.dom).map(|_| DomainHasCurrentSnapshotReply { result: 0 })
}

async fn snapshot(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSnapshotLookupByName,
) -> Result<DomainSnapshotLookupByNameReply, RpcError> {
    only(call.flags, 0)?;
    daemon.domain(&call.dom)?;
    Err(RpcError::no_snapshot(format!("no domain snapshot with matching name '{}'", call.name)))
}

async fn checkpoints(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainListAllCheckpoints,
) -> Result<DomainListAllCheckpointsReply, RpcError> {
    only(call.flags, SNAPSHOT_FILTERS)?;
    daemon.domain(&call.dom).map(|_| DomainListAllCheckpointsReply { checkpoints: Vec::new(), ret: 0 })
}
