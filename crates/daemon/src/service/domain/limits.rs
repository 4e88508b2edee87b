//! Limits of processors and memory (virsh schedinfo, memtune).
//!
//! The numbers are libvirt's with cgroup v2: shares are a weight from 1 to 10000, of which 100 are usual, periods and quotas
//! microseconds. What is not set is shown as the kernel has it of a running machine, and as nothing of a definition.

use std::sync::Arc;

use libvirt_rpc::RpcError;
use libvirt_rpc::procedures::*;
use libvirt_rpc::server::{CallContext, Table};
use libvirt_rpc::types::{TypedParam, TypedValue};
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::tuning::{CpuTune, MemTune};
use libvirt_xml::size::Kib;

use super::{AFFECT_CONFIG, AFFECT_LIVE, domain_error, form, only};
use crate::domain::{Domain, DomainError, Form};
use crate::service::{Daemon, asked, count};

/// VIR_TYPED_PARAM_STRING_OKAY.
const STRINGS: u32 = 4;

/// VIR_DOMAIN_MEMORY_PARAM_UNLIMITED, KiB.
const UNLIMITED: u64 = 9_007_199_254_740_991;

/// What the kernel has of a machine of which nobody says more: its weight, and the microseconds of a period.
const USUAL_SHARES: u64 = 100;
const USUAL_PERIOD: u64 = 100_000;
/// No quota.
const NO_QUOTA: i64 = -1;
/// Weights that the kernel takes.
const SHARES: std::ops::RangeInclusive<u64> = 1..=10_000;
/// Largest quota that the kernel takes, microseconds.
const MOST_QUOTA: i64 = 17_592_186_044_415;

pub(super) fn register(table: Table<Daemon>) -> Table<Daemon> {
    table
        .on(scheduler)
        .on(scheduler_parameters)
        .on(scheduler_parameters_of)
        .on(set_scheduler_parameters)
        .on(set_scheduler_parameters_of)
        .on(memory_parameters)
        .on(set_memory_parameters)
}

/// A number of the scheduler's.
#[derive(Clone, Copy)]
enum Field {
    Shares(fn(&mut CpuTune) -> &mut Option<u64>),
    Period(fn(&mut CpuTune) -> &mut Option<u64>),
    Quota(fn(&mut CpuTune) -> &mut Option<i64>),
}

/// The scheduler's parameters, in libvirt's order.
const SCHEDULER: [(&str, Field); 9] = [
    ("cpu_shares", Field::Shares(|tune| &mut tune.shares)),
    ("vcpu_period", Field::Period(|tune| &mut tune.period)),
    ("vcpu_quota", Field::Quota(|tune| &mut tune.quota)),
    ("emulator_period", Field::Period(|tune| &mut tune.emulator_period)),
    ("emulator_quota", Field::Quota(|tune| &mut tune.emulator_quota)),
    ("global_period", Field::Period(|tune| &mut tune.global_period)),
    ("global_quota", Field::Quota(|tune| &mut tune.global_quota)),
    ("iothread_period", Field::Period(|tune| &mut tune.iothread_period)),
    ("iothread_quota", Field::Quota(|tune| &mut tune.iothread_quota)),
];

type MemoryField = fn(&mut MemTune) -> &mut Option<Kib>;

/// Limits of memory, in libvirt's order.
const MEMORY: [(&str, MemoryField); 3] = [
    ("hard_limit", |tune| &mut tune.hard_limit),
    ("soft_limit", |tune| &mut tune.soft_limit),
    ("swap_hard_limit", |tune| &mut tune.swap_hard_limit),
];

pub(super) fn unsupported(name: &str) -> RpcError {
    RpcError::unsupported_argument(format!("parameter '{name}' not supported"))
}

pub(super) fn wrong_type(name: &str, expected: &str) -> RpcError {
    RpcError::invalid_argument(format!("invalid type for parameter '{name}', expected '{expected}'"))
}

fn out_of_range(name: &str, value: impl std::fmt::Display, least: u64, most: i64) -> RpcError {
    RpcError::invalid_argument(format!("value of '{name}' is out of range [{least}, {most}]: {value}"))
}

/// Refuses a parameter that is there twice.
pub(super) fn each_once(params: &[TypedParam]) -> Result<(), RpcError> {
    let twice = params
        .iter()
        .enumerate()
        .find(|(at, param)| params[..*at].iter().any(|before| before.field == param.field));
    twice.map_or(Ok(()), |(_, param)| {
        Err(RpcError::invalid_argument(format!("parameter '{}' occurs multiple times", param.field)))
    })
}

/// How CPU time is shared out.
fn shares(mut tune: CpuTune, live: bool) -> Vec<TypedParam> {
    let usual = |live_value: u64| if live { live_value } else { 0 };
    let value = |field: Field, tune: &mut CpuTune| match field {
        Field::Shares(of) => TypedValue::ULLong(of(tune).unwrap_or(usual(USUAL_SHARES))),
        Field::Period(of) => TypedValue::ULLong(of(tune).unwrap_or(usual(USUAL_PERIOD))),
        Field::Quota(of) => TypedValue::LLong(of(tune).unwrap_or(if live { NO_QUOTA } else { 0 })),
    };
    SCHEDULER.into_iter().map(|(name, field)| TypedParam::new(name, value(field, &mut tune))).collect()
}

/// Checks parameters; what they do to a definition. A period or quota of 0 is left as it is, as libvirt leaves it.
fn share_out(params: Vec<TypedParam>) -> Result<impl Fn(&mut CpuTune), RpcError> {
    each_once(&params)?;
    let mut changes = Vec::new();
    for TypedParam { field: name, value } in params {
        let known = SCHEDULER.iter().find(|(known, _)| **known == name);
        let (_, field) = *known.ok_or_else(|| unsupported(&name))?;
        match (field, &value) {
            (Field::Shares(_), TypedValue::ULLong(shares)) if !SHARES.contains(shares) => {
                let (least, most) = (SHARES.start(), SHARES.end());
                let message = format!("shares '{shares}' must be in range [{least}, {most}]");
                return Err(RpcError::invalid_argument(message));
            }
            (Field::Period(_), TypedValue::ULLong(0)) | (Field::Quota(_), TypedValue::LLong(0)) => continue,
            (Field::Period(_), TypedValue::ULLong(period)) if !(1000..=1_000_000).contains(period) => {
                return Err(out_of_range(&name, period, 1000, 1_000_000));
            }
            (Field::Quota(_), TypedValue::LLong(quota))
                if *quota > 0 && !(1000..=MOST_QUOTA).contains(quota) =>
            {
                return Err(out_of_range(&name, quota, 1000, MOST_QUOTA));
            }
            (Field::Shares(_) | Field::Period(_), TypedValue::ULLong(_))
            | (Field::Quota(_), TypedValue::LLong(_)) => changes.push((field, value)),
            (Field::Shares(_) | Field::Period(_), _) => return Err(wrong_type(&name, "ullong")),
            (Field::Quota(_), _) => return Err(wrong_type(&name, "llong")),
        }
    }
    Ok(move |tune: &mut CpuTune| {
        for change in &changes {
            match change {
                (Field::Shares(of) | Field::Period(of), TypedValue::ULLong(value)) => {
                    *of(tune) = Some(*value)
                }
                (Field::Quota(of), TypedValue::LLong(value)) => *of(tune) = Some(*value),
                // Its type has been checked.
                _ => {}
            }
        }
    })
}

/// Limits of memory, KiB.
fn memory_limits(mut tune: MemTune) -> Vec<TypedParam> {
    let value = |of: MemoryField, tune: &mut MemTune| of(tune).map_or(UNLIMITED, |limit| limit.0);
    let limit =
        |(name, of): (&str, MemoryField)| TypedParam::new(name, TypedValue::ULLong(value(of, &mut tune)));
    MEMORY.into_iter().map(limit).collect()
}

/// Checks parameters; what they do to a definition.
fn limit_memory(
    params: Vec<TypedParam>,
) -> Result<impl Fn(&mut MemTune) -> Result<(), DomainError>, RpcError> {
    each_once(&params)?;
    let mut limits = Vec::new();
    for TypedParam { field: name, value } in params {
        let known = MEMORY.iter().find(|(known, _)| **known == name);
        let (_, of) = *known.ok_or_else(|| unsupported(&name))?;
        let TypedValue::ULLong(kib) = value else { return Err(wrong_type(&name, "ullong")) };
        limits.push((of, Some(Kib(kib)).filter(|_| kib < UNLIMITED)));
    }
    Ok(move |tune: &mut MemTune| {
        for (of, limit) in &limits {
            *of(tune) = *limit;
        }
        match (tune.hard_limit, tune.swap_hard_limit) {
            (hard, Some(both)) if hard.is_none_or(|hard| hard > both) => Err(DomainError::Argument(
                "memory hard_limit tunable value must be lower than or equal to swap_hard_limit".to_owned(),
            )),
            _ => Ok(()),
        }
    })
}

/// CPU time is shared out by cgroups, in libvirt's words `posix`.
async fn scheduler(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetSchedulerType,
) -> Result<DomainGetSchedulerTypeReply, RpcError> {
    daemon.domain(&call.dom)?;
    Ok(DomainGetSchedulerTypeReply { kind: "posix".to_owned(), nparams: count(SCHEDULER.len()) })
}

fn shares_of(domain: &Domain, flags: u32) -> Result<Vec<TypedParam>, RpcError> {
    let form = form(domain, flags)?;
    let definition = domain.definition(form).map_err(|error| domain_error(&error))?;
    let live = domain.is_active() && form != Form::Defined;
    Ok(shares(definition.cputune.unwrap_or_default(), live))
}

async fn scheduler_parameters(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetSchedulerParameters,
) -> Result<DomainGetSchedulerParametersReply, RpcError> {
    let most = asked(call.nparams)?;
    let params = shares_of(&*daemon.domain(&call.dom)?, 0)?.into_iter().take(most).collect();
    Ok(DomainGetSchedulerParametersReply { params })
}

async fn scheduler_parameters_of(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetSchedulerParametersFlags,
) -> Result<DomainGetSchedulerParametersFlagsReply, RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG | STRINGS)?;
    let most = asked(call.nparams)?;
    let params = shares_of(&*daemon.domain(&call.dom)?, call.flags)?.into_iter().take(most).collect();
    Ok(DomainGetSchedulerParametersFlagsReply { params })
}

/// An edit of how CPU time is shared out. What is empty then is not there.
fn edit_cpu(definition: &mut Definition, edit: impl Fn(&mut CpuTune)) {
    edit(definition.cputune.get_or_insert_default());
    definition.cputune = definition.cputune.take().filter(|tune| *tune != CpuTune::default());
}

async fn set_scheduler_parameters(
    daemon: Arc<Daemon>,
    context: CallContext,
    call: DomainSetSchedulerParameters,
) -> Result<(), RpcError> {
    let DomainSetSchedulerParameters { dom, params } = call;
    set_scheduler_parameters_of(daemon, context, DomainSetSchedulerParametersFlags { dom, params, flags: 0 })
        .await
}

async fn set_scheduler_parameters_of(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetSchedulerParametersFlags,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let edit = share_out(call.params)?;
    let edit = |definition: &mut Definition| {
        edit_cpu(definition, &edit);
        Ok(())
    };
    daemon.tune_domain(&call.dom, call.flags, edit).await
}

async fn memory_parameters(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainGetMemoryParameters,
) -> Result<DomainGetMemoryParametersReply, RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG | STRINGS)?;
    let most = asked(call.nparams)?;
    let domain = daemon.domain(&call.dom)?;
    let form = form(&domain, call.flags)?;
    let definition = domain.definition(form).map_err(|error| domain_error(&error))?;
    let params = memory_limits(definition.memtune.unwrap_or_default());
    let nparams = count(params.len());
    Ok(DomainGetMemoryParametersReply { params: params.into_iter().take(most).collect(), nparams })
}

async fn set_memory_parameters(
    daemon: Arc<Daemon>,
    _: CallContext,
    call: DomainSetMemoryParameters,
) -> Result<(), RpcError> {
    only(call.flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let edit = limit_memory(call.params)?;
    let edit = |definition: &mut Definition| {
        edit(definition.memtune.get_or_insert_default())?;
        definition.memtune = definition.memtune.take().filter(|tune| *tune != MemTune::default());
        Ok(())
    };
    daemon.tune_domain(&call.dom, call.flags, edit).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ullong(name: &str, value: u64) -> TypedParam {
        TypedParam::new(name, TypedValue::ULLong(value))
    }

    fn llong(name: &str, value: i64) -> TypedParam {
        TypedParam::new(name, TypedValue::LLong(value))
    }

    #[test]
    fn what_is_set_is_shown_and_the_rest_is_as_usual_of_what_runs() {
        let edit =
            share_out(vec![ullong("cpu_shares", 300), llong("vcpu_quota", -1), llong("global_quota", 5000)]);
        let mut tune = CpuTune::default();
        edit.unwrap()(&mut tune);
        let expected =
            CpuTune { shares: Some(300), quota: Some(-1), global_quota: Some(5000), ..CpuTune::default() };
        assert_eq!(tune, expected);
        let live = shares(tune.clone(), true);
        assert_eq!(
            live[..3],
            [ullong("cpu_shares", 300), ullong("vcpu_period", 100_000), llong("vcpu_quota", -1)]
        );
        assert_eq!((&live[4], &live[6]), (&llong("emulator_quota", -1), &llong("global_quota", 5000)));
        assert_eq!(shares(CpuTune::default(), false)[0], ullong("cpu_shares", 0));
        // Clients give everything back that they were shown.
        let mut again = CpuTune::default();
        share_out(live.clone()).unwrap()(&mut again);
        assert_eq!(shares(again, true), live);
        let defined = shares(CpuTune::default(), false);
        assert!(share_out(defined[1..].to_vec()).is_ok());
    }

    #[test]
    fn parameters_that_make_no_sense_are_refused() {
        let refused = |params: Vec<TypedParam>, text: &str| {
            let error = share_out(params).err().unwrap();
            assert!(error.to_string().contains(text), "{error}");
        };
        refused(vec![ullong("speed", 1)], "'speed' not supported");
        refused(vec![llong("cpu_shares", 1)], "invalid type");
        refused(vec![ullong("vcpu_quota", 1000)], "invalid type");
        refused(vec![ullong("cpu_shares", 0)], "must be in range [1, 10000]");
        refused(vec![ullong("cpu_shares", 10_001)], "must be in range [1, 10000]");
        refused(vec![ullong("vcpu_period", 999)], "out of range [1000, 1000000]");
        refused(vec![ullong("vcpu_period", 1_000_001)], "out of range [1000, 1000000]");
        refused(vec![llong("vcpu_quota", 999)], "out of range [1000, ");
        refused(vec![llong("vcpu_quota", i64::MAX)], "out of range [1000, ");
        refused(vec![ullong("cpu_shares", 1), ullong("cpu_shares", 2)], "multiple times");
        assert!(limit_memory(vec![ullong("min_guarantee", 1)]).is_err());
        assert!(limit_memory(vec![llong("hard_limit", 1)]).is_err());
        assert!(limit_memory(vec![ullong("hard_limit", 1), ullong("hard_limit", 1)]).is_err());
    }

    #[test]
    fn limits_of_memory_are_set_and_taken_away() {
        let mut tune = MemTune::default();
        let limits = vec![ullong("hard_limit", 2048), ullong("swap_hard_limit", 4096)];
        limit_memory(limits).unwrap()(&mut tune).unwrap();
        let shown =
            [ullong("hard_limit", 2048), ullong("soft_limit", UNLIMITED), ullong("swap_hard_limit", 4096)];
        assert_eq!(memory_limits(tune.clone()), shown);
        assert!(limit_memory(vec![ullong("hard_limit", 4097)]).unwrap()(&mut tune.clone()).is_err());
        assert!(limit_memory(vec![ullong("hard_limit", UNLIMITED)]).unwrap()(&mut tune.clone()).is_err());
        let none = vec![ullong("hard_limit", UNLIMITED), ullong("swap_hard_limit", u64::MAX)];
        limit_memory(none).unwrap()(&mut tune).unwrap();
        assert_eq!(tune, MemTune::default());
    }
}
