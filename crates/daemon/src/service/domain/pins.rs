//! Processors of the host that vCPUs and everything else of a machine may use, as definitions say.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::limits::{CPUMAP_MAX, CPUMAPS_MAX};
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::DomainIoThreadInfo;
use libvirt_rpc::xdr::Opaque;
use libvirt_xml::NumberSet;

use super::{AFFECT_CONFIG, AFFECT_LIVE, domain_error, form, only};
use crate::domain::tune;
use crate::service::{Daemon, asked, count};

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(vcpu_places)
        .on(emulator_places)
        .on(io_threads)
        .on(pin_vcpu)
        .on(pin_vcpu_with_flags)
        .on(pin_emulator)
}

impl Daemon {
    /// Processors of the host, as one bit each in bytes.
    pub(super) fn all_places(&self) -> Result<NumberSet, RpcError> {
        let processors = self.processors()?;
        Ok(processors.iter().filter(|processor| processor.online).map(|processor| processor.id).collect())
    }

    /// What a client's bits say; nothing when they are all of the host's processors.
    fn places(&self, bits: &[u8]) -> Result<Option<NumberSet>, RpcError> {
        let all = self.all_places()?;
        let numbers = (0..).zip(bits).flat_map(|(at, byte): (u32, &u8)| {
            (0..8).filter(move |bit| byte & 1 << bit != 0).map(move |bit| at * 8 + bit)
        });
        // Clients set bits of processors that are not there when they mean all.
        let chosen: NumberSet = numbers.filter(|number| all.contains(*number)).collect();
        if chosen.is_empty() {
            return Err(RpcError::invalid_argument("Empty cpu list for pinning"));
        }
        Ok(Some(chosen).filter(|chosen| *chosen != all))
    }
}

/// One bit a processor, cut or filled to `length` bytes.
pub(super) fn bits(places: &NumberSet, length: usize) -> Vec<u8> {
    let mut bits = vec![0; length];
    for number in places.iter().map(|number| number as usize) {
        if let Some(byte) = bits.get_mut(number / 8) {
            *byte |= 1 << (number % 8);
        }
    }
    bits
}

pub(super) fn map_length(length: i32) -> Result<usize, RpcError> {
    let length = asked(length)?;
    if length > CPUMAP_MAX {
        return Err(RpcError::invalid_argument(format!("a CPU map of {length} bytes")));
    }
    Ok(length)
}

async fn vcpu_places(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetVcpuPinInfo,
) -> Result<DomainGetVcpuPinInfoReply, RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let (maps, length) = (asked(call.ncpumaps)?, map_length(call.maplen)?);
    let domain = daemon.domain(&call.dom)?;
    let form = form(&domain, call.flags)?;
    let definition = domain.definition(form).map_err(|error| domain_error(&error))?;
    let vcpus = (definition.max_vcpus() as usize).min(maps);
    if vcpus.saturating_mul(length) > CPUMAPS_MAX {
        return Err(RpcError::invalid_argument("more CPU maps than an answer has room for"));
    }
    let all = daemon.all_places()?;
    let places = (0..).take(vcpus).map(|vcpu| tune::vcpu_places(&definition, vcpu).unwrap_or(&all));
    let cpumaps = places.flat_map(|places| bits(places, length)).collect();
    Ok(DomainGetVcpuPinInfoReply { cpumaps: Opaque(cpumaps), num: count(vcpus) })
}

async fn emulator_places(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetEmulatorPinInfo,
) -> Result<DomainGetEmulatorPinInfoReply, RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let length = map_length(call.maplen)?;
    let domain = daemon.domain(&call.dom)?;
    let form = form(&domain, call.flags)?;
    let definition = domain.definition(form).map_err(|error| domain_error(&error))?;
    let all = daemon.all_places()?;
    let cpumaps = bits(tune::emulator_places(&definition).unwrap_or(&all), length);
    Ok(DomainGetEmulatorPinInfoReply { cpumaps: Opaque(cpumaps), ret: 1 })
}

async fn io_threads(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetIoThreadInfo,
) -> Result<DomainGetIoThreadInfoReply, RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let domain = daemon.domain(&call.dom)?;
    let form = form(&domain, call.flags)?;
    let definition = domain.definition(form).map_err(|error| domain_error(&error))?;
    let all = daemon.all_places()?;
    let length = all.max().map_or(0, |last| last as usize + 1).div_ceil(8);
    let ids: Vec<u32> = match &definition.iothread_ids[..] {
        [] => (1..=definition.iothreads.unwrap_or(0)).collect(),
        listed => listed.iter().map(|thread| thread.id).collect(),
    };
    let pins = definition.cputune.as_ref().map_or(&[][..], |tune| &tune.iothread_pins);
    let info: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let pin = pins.iter().find(|pin| pin.iothread == id).map(|pin| &pin.cpuset);
            let places =
                pin.or(definition.vcpu.as_ref().and_then(|vcpu| vcpu.cpuset.as_ref())).unwrap_or(&all);
            DomainIoThreadInfo { io_thread_id: id, cpumap: Opaque(bits(places, length)) }
        })
        .collect();
    Ok(DomainGetIoThreadInfoReply { ret: u32::try_from(info.len()).unwrap_or(u32::MAX), info })
}

async fn pin_vcpu(daemon: Arc<Daemon>, _: CallContext, call: DomainPinVcpu) -> Result<(), RpcError> {
    let places = daemon.places(&call.cpumap)?;
    let edit = |definition: &mut _| tune::pin_vcpu(definition, call.vcpu, places.clone());
    daemon.tune_domain(&call.dom, AFFECT_LIVE, edit).await
}

async fn pin_vcpu_with_flags(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainPinVcpuFlags,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let places = daemon.places(&call.cpumap)?;
    let edit = |definition: &mut _| tune::pin_vcpu(definition, call.vcpu, places.clone());
    daemon.tune_domain(&call.dom, call.flags, edit).await
}

async fn pin_emulator(daemon: Arc<Daemon>, _: CallContext, call: DomainPinEmulator) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let places = daemon.places(&call.cpumap)?;
    let edit = |definition: &mut _| {
        tune::pin_emulator(definition, places.clone());
        Ok(())
    };
    daemon.tune_domain(&call.dom, call.flags, edit).await
}
