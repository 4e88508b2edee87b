//! `vireo stats`: the figures of domains, under libvirt's names.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::ConnectGetAllDomainStats;
use libvirt_rpc::types::{DomainStatsRecord, RemoteDomain, TypedParam, TypedValue};
use serde_json::{Value, json};

use super::as_json;
use crate::connection::{Attempt, Error, Options, connect, find_domain};
use crate::output::{harmless, print, print_json};

/// Print figures of domains: all of them, or those that are named
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, as virsh has them")]
pub(crate) struct StatsArguments {
    /// Domains, by name, UUID or number [default: all]
    #[arg(value_name = "DOMAIN")]
    domains: Vec<String>,
    /// State and how it came to it
    #[arg(long)]
    state: bool,
    /// Processor time of the whole machine
    #[arg(long)]
    cpu_total: bool,
    /// Memory: the balloon and what the guest says
    #[arg(long)]
    balloon: bool,
    /// Processor time of each vCPU
    #[arg(long)]
    vcpu: bool,
    /// Network interfaces
    #[arg(long)]
    interface: bool,
    /// Disks
    #[arg(long)]
    block: bool,
    /// Performance counters
    #[arg(long)]
    perf: bool,
    /// I/O threads
    #[arg(long)]
    iothread: bool,
    /// Memory bandwidth
    #[arg(long)]
    memory: bool,
    /// How fast memory is written
    #[arg(long)]
    dirtyrate: bool,
    /// What the hypervisor counts
    #[arg(long)]
    vm: bool,
    /// Disks with the images below them
    #[arg(long)]
    backing: bool,
    /// Leave out what would have to be waited for
    #[arg(long)]
    nowait: bool,
    /// Fail when the daemon can't tell all that is asked for
    #[arg(long)]
    enforce: bool,
    /// Print numbers as they are (always so; accepted for scripts)
    #[arg(long)]
    raw: bool,
    /// Only domains that run
    #[arg(long, conflicts_with = "domains")]
    list_active: bool,
    /// Only domains that do not run
    #[arg(long, conflicts_with = "domains")]
    list_inactive: bool,
    /// Only domains in the state running
    #[arg(long, conflicts_with = "domains")]
    list_running: bool,
    /// Only domains in the state paused
    #[arg(long, conflicts_with = "domains")]
    list_paused: bool,
    /// Only domains in the state shut off
    #[arg(long, conflicts_with = "domains")]
    list_shutoff: bool,
}

impl StatsArguments {
    /// virDomainStatsTypes; none means all.
    fn kinds(&self) -> u32 {
        let given = [
            self.state,
            self.cpu_total,
            self.balloon,
            self.vcpu,
            self.interface,
            self.block,
            self.perf,
            self.iothread,
            self.memory,
            self.dirtyrate,
            self.vm,
        ];
        given.into_iter().enumerate().fold(0, |kinds, (bit, given)| kinds | u32::from(given) << bit)
    }

    /// virConnectGetAllDomainStatsFlags.
    fn flags(&self) -> u32 {
        let given = [
            (1, self.list_active),
            (2, self.list_inactive),
            (16, self.list_running),
            (32, self.list_paused),
            (64, self.list_shutoff),
            (1 << 29, self.nowait),
            (1 << 30, self.backing),
            (1 << 31, self.enforce),
        ];
        given.into_iter().filter(|(_, given)| *given).fold(0, |flags, (flag, _)| flags | flag)
    }
}

/// Prints them.
pub(super) fn run(arguments: &StatsArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let named: Result<Vec<_>, _> =
        arguments.domains.iter().map(|given| find_domain(&mut connection, given)).collect();
    let records = records(&mut connection, named?, arguments.kinds(), arguments.flags())?;
    if options.json {
        print_json(&records.iter().map(json_of).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for record in &records {
        text.push_str(&format!("Domain: '{}'\n", harmless(&record.dom.name)));
        for param in &record.params {
            let value = match &param.value {
                TypedValue::Int(value) => value.to_string(),
                TypedValue::UInt(value) => value.to_string(),
                TypedValue::LLong(value) => value.to_string(),
                TypedValue::ULLong(value) => value.to_string(),
                TypedValue::Double(value) => format!("{value:.6}"),
                TypedValue::Boolean(value) => if *value { "yes" } else { "no" }.to_owned(),
                TypedValue::String(value) => harmless(value),
            };
            text.push_str(&format!("  {}={value}\n", harmless(&param.field)));
        }
        text.push('\n');
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Figures of these domains, or of all when there are none.
pub(super) fn records(
    connection: &mut Connection,
    doms: Vec<RemoteDomain>,
    stats: u32,
    flags: u32,
) -> Result<Vec<DomainStatsRecord>, Error> {
    let call = ConnectGetAllDomainStats { doms, stats, flags };
    let reply = connection.call(&call).attempt(|| "cannot get the figures of domains".to_owned())?;
    Ok(reply.ret_stats)
}

/// Typed parameters by their names.
pub(super) fn as_object(params: &[TypedParam]) -> Value {
    let value = |value: &TypedValue| match value {
        TypedValue::Int(value) => json!(value),
        TypedValue::UInt(value) => json!(value),
        TypedValue::LLong(value) => json!(value),
        TypedValue::ULLong(value) => json!(value),
        TypedValue::Double(value) => json!(value),
        TypedValue::Boolean(value) => json!(value),
        TypedValue::String(value) => json!(value),
    };
    Value::Object(params.iter().map(|param| (param.field.clone(), value(&param.value))).collect())
}

fn json_of(record: &DomainStatsRecord) -> Value {
    let mut told = as_json(&record.dom);
    told["stats"] = as_object(&record.params);
    told
}
