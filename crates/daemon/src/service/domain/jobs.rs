//! Long work on machines, and disks that grow. There is no long work yet (no migration, no copies of disks in use), and whoever asks
//! is told so.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::RemoteDomain;

use super::{domain_error, only};
use crate::domain::{Domain, Form};
use crate::service::Daemon;

/// VIR_DOMAIN_BLOCK_RESIZE_BYTES: the size is not in KiB.
const RESIZE_BYTES: u32 = 1;

/// virDomainGetJobStatsFlags: of the last one that is over; and keep it.
const JOB_COMPLETED: u32 = 1 | 2;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(information)
        .on(statistics)
        .on(abort)
        .on(control)
        .on(disk_errors)
        .on(block_job)
        .on(abort_block_job)
        .on(resize_disk)
}

impl Daemon {
    /// The running domain that a client means.
    pub(super) fn running_domain(&self, domain: &RemoteDomain) -> Result<Arc<Domain>, RpcError> {
        let domain = self.domain(domain)?;
        domain.running().map_err(|error| domain_error(&error))?;
        Ok(domain)
    }
}

/// The target of the disk that a client names by its target or path; `missing` is what libvirt says of one that is not there.
fn disk(domain: &Domain, name: &str, missing: &str) -> Result<String, RpcError> {
    let summary = domain.summary(Form::Live).map_err(|error| domain_error(&error))?;
    let missing = || RpcError::invalid_argument(format!("disk '{name}' {missing}"));
    Ok(summary.disk(name).ok_or_else(missing)?.target.clone())
}

async fn information(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetJobInfo,
) -> Result<DomainGetJobInfoReply, RpcError> {
    daemon.running_domain(&call.dom)?;
    Ok(DomainGetJobInfoReply {
        kind: 0,
        time_elapsed: 0,
        time_remaining: 0,
        data_total: 0,
        data_processed: 0,
        data_remaining: 0,
        mem_total: 0,
        mem_processed: 0,
        mem_remaining: 0,
        file_total: 0,
        file_processed: 0,
        file_remaining: 0,
    })
}

async fn statistics(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetJobStats,
) -> Result<DomainGetJobStatsReply, RpcError> {
    only(call.flags, JOB_COMPLETED)?;
    if call.flags & JOB_COMPLETED == 0 {
        daemon.running_domain(&call.dom)?;
    } else {
        daemon.domain(&call.dom)?;
    }
    Ok(DomainGetJobStatsReply { kind: 0, params: Vec::new() })
}

async fn abort(daemon: Arc<Daemon>, _: CallContext, call: DomainAbortJob) -> Result<(), RpcError> {
    daemon.running_domain(&call.dom)?;
    Err(RpcError::invalid_operation("no job is active on the domain"))
}

/// Whether the machine's process can be asked: requests of different clients do not wait for each other.
async fn control(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetControlInfo,
) -> Result<DomainGetControlInfoReply, RpcError> {
    only(call.flags, 0)?;
    daemon.running_domain(&call.dom)?;
    Ok(DomainGetControlInfoReply { state: 0, details: 0, state_time: 0 })
}

/// A guest is told of each error of its disks, and goes on: no disk is stopped because of one.
async fn disk_errors(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetDiskErrors,
) -> Result<DomainGetDiskErrorsReply, RpcError> {
    only(call.flags, 0)?;
    daemon.running_domain(&call.dom)?;
    Ok(DomainGetDiskErrorsReply { errors: Vec::new(), nerrors: 0 })
}

async fn block_job(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetBlockJobInfo,
) -> Result<DomainGetBlockJobInfoReply, RpcError> {
    only(call.flags, 1)?;
    disk(&*daemon.running_domain(&call.dom)?, &call.path, "not found in domain")?;
    Ok(DomainGetBlockJobInfoReply { found: 0, kind: 0, bandwidth: 0, cur: 0, end: 0 })
}

async fn abort_block_job(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainBlockJobAbort,
) -> Result<(), RpcError> {
    only(call.flags, 3)?;
    let disk = disk(&*daemon.running_domain(&call.dom)?, &call.path, "not found in domain")?;
    Err(RpcError::invalid_operation(format!("disk {disk} does not have an active block job")))
}

async fn resize_disk(daemon: Arc<Daemon>, _: CallContext, call: DomainBlockResize) -> Result<(), RpcError> {
    only(call.flags, RESIZE_BYTES)?;
    let domain = daemon.running_domain(&call.dom)?;
    let disk = disk(&domain, &call.disk, "was not found in the domain config")?;
    let bytes = if call.flags & RESIZE_BYTES == 0 { call.size.checked_mul(1024) } else { Some(call.size) };
    let bytes = bytes.ok_or_else(|| RpcError::invalid_argument(format!("a size of {} KiB", call.size)))?;
    daemon.machines.resize_disk(&domain, &disk, bytes).await.map_err(|error| domain_error(&error))
}
