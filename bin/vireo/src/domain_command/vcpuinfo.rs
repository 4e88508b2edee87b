//! `vireo vcpuinfo`: where vCPUs run and may run.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::{DomainGetInfo, DomainGetVcpuPinInfo, DomainGetVcpus, NodeGetCpuMap};
use libvirt_rpc::types::{RemoteDomain, VcpuInfo};
use serde_json::{Value, json};

use super::info::seconds;
use super::{DomainArgument, as_json};
use crate::connection::{Attempt, Error, Options, connect};
use crate::output::{print, print_json};

/// Show where the vCPUs of a domain run, and may run
#[derive(Debug, Args)]
pub(crate) struct VcpuinfoArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Print where they may run as a list of processors
    #[arg(long)]
    pretty: bool,
}

/// A vCPU.
struct Vcpu {
    number: usize,
    /// None of a machine that does not run.
    running: Option<VcpuInfo>,
    /// For each processor of the host whether the vCPU may run there.
    affinity: Vec<bool>,
}

/// VIR_DOMAIN_AFFECT_CONFIG.
const CONFIG: u32 = 2;

/// Prints it.
pub(super) fn run(arguments: &VcpuinfoArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let vcpus = vcpus(&mut connection, &domain)?;
    if options.json {
        let mut told = as_json(&domain);
        told["vcpus"] = vcpus.iter().map(json_of).collect();
        print_json(&told)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut blocks = Vec::new();
    for vcpu in &vcpus {
        let running = vcpu.running.as_ref();
        let not = || "N/A".to_owned();
        let on = |info: &VcpuInfo| if info.cpu < 0 { not() } else { info.cpu.to_string() };
        let mut lines = vec![
            ("VCPU", vcpu.number.to_string()),
            ("CPU", running.map_or_else(not, on)),
            ("State", running.map_or_else(not, |info| state(info.state).to_owned())),
        ];
        lines.push(("CPU time", running.map_or_else(not, |info| seconds(info.cpu_time))));
        let affinity = if arguments.pretty { list(&vcpu.affinity) } else { letters(&vcpu.affinity) };
        lines.push(("CPU Affinity", affinity));
        let line = |(name, value)| format!("{:<15} {value}\n", format!("{name}:"));
        blocks.push(lines.into_iter().map(line).collect::<String>());
    }
    print(&blocks.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn vcpus(connection: &mut Connection, domain: &RemoteDomain) -> Result<Vec<Vcpu>, Error> {
    let what = || format!("cannot learn about the vCPUs of domain {}", domain.name);
    let map = connection.call(&NodeGetCpuMap { need_map: 0, need_online: 0, flags: 0 }).attempt(what)?;
    let processors = usize::try_from(map.ret).unwrap_or(0);
    let bytes = i32::try_from(processors.div_ceil(8)).unwrap_or(i32::MAX);
    let info = connection.call(&DomainGetInfo { dom: domain.clone() }).attempt(what)?;
    let count = i32::from(info.nr_virt_cpu);
    let call = DomainGetVcpus { dom: domain.clone(), maxinfo: count, maplen: bytes };
    let (running, maps) = match connection.call(&call) {
        Ok(reply) => (Some(reply.info), reply.cpumaps.0),
        Err(ClientError::Daemon(error)) if error.code == ErrorCode::OperationInvalid => {
            let call =
                DomainGetVcpuPinInfo { dom: domain.clone(), ncpumaps: count, maplen: bytes, flags: CONFIG };
            (None, connection.call(&call).attempt(what)?.cpumaps.0)
        }
        Err(error) => return Err(Error::daemon(what(), error)),
    };
    let count = running.as_ref().map_or(usize::from(info.nr_virt_cpu), Vec::len);
    let width = processors.div_ceil(8).max(1);
    let mut maps = maps.chunks(width);
    let vcpu = |number| {
        let map = maps.next().unwrap_or_default();
        let may = |cpu: usize| map.get(cpu / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 == 1);
        let running = running.as_ref().and_then(|all| all.get(number)).cloned();
        Vcpu { number, running, affinity: (0..processors).map(may).collect() }
    };
    Ok((0..count).map(vcpu).collect())
}

/// virVcpuState.
fn state(number: i32) -> &'static str {
    match number {
        0 => "offline",
        1 => "running",
        2 => "blocked",
        _ => "no state",
    }
}

/// `yy--`: a letter for each processor.
fn letters(affinity: &[bool]) -> String {
    affinity.iter().map(|may| if *may { 'y' } else { '-' }).collect()
}

/// `0-3,6 (out of 8)`: ranges of processors.
fn list(affinity: &[bool]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in affinity.iter().enumerate().filter_map(|(cpu, may)| may.then_some(cpu)) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text = |(first, last): (usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let ranges: Vec<_> = ranges.into_iter().map(text).collect();
    format!("{} (out of {})", ranges.join(","), affinity.len())
}

fn json_of(vcpu: &Vcpu) -> Value {
    let running = vcpu.running.as_ref();
    let allowed = vcpu.affinity.iter().enumerate().filter_map(|(cpu, may)| may.then_some(cpu));
    json!({
        "vcpu": vcpu.number,
        "cpu": running.map(|info| info.cpu).filter(|cpu| *cpu >= 0),
        "state": running.map(|info| state(info.state)),
        "cpu_time_ns": running.map(|info| info.cpu_time),
        "affinity": allowed.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed_as_ranges_and_as_letters() {
        let affinity = [true, true, false, true, false];
        assert_eq!(list(&affinity), "0-1,3 (out of 5)");
        assert_eq!(letters(&affinity), "yy-y-");
        assert_eq!(list(&[]), " (out of 0)");
    }
}
