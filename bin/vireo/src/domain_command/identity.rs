//! `vireo domid`, `domname`, `domuuid`, `domstate`: one word about a domain.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::procedures::DomainGetState;
use libvirt_rpc::types::RemoteDomain;
use serde_json::json;

use super::state::State;
use super::{DomainArgument, as_json};
use crate::connection::{Attempt, Error, Options, connect};
use crate::output::{harmless, print, print_json};

/// Print the number of a running domain
#[derive(Debug, Args)]
pub(crate) struct NumberArguments {
    #[command(flatten)]
    domain: DomainArgument,
}

/// Print the name of a domain
#[derive(Debug, Args)]
pub(crate) struct NameArguments {
    #[command(flatten)]
    domain: DomainArgument,
}

/// Print the UUID of a domain
#[derive(Debug, Args)]
pub(crate) struct UuidArguments {
    #[command(flatten)]
    domain: DomainArgument,
}

/// Print the state of a domain
#[derive(Debug, Args)]
pub(crate) struct StateArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Print also how it came to it
    #[arg(long)]
    reason: bool,
}

/// `-` for a domain that does not run.
pub(super) fn number(arguments: &NumberArguments, options: &Options) -> Result<ExitCode, Error> {
    show(&arguments.domain, options, |domain| match domain.id {
        id if id >= 0 => id.to_string(),
        _ => "-".to_owned(),
    })
}

pub(super) fn name(arguments: &NameArguments, options: &Options) -> Result<ExitCode, Error> {
    show(&arguments.domain, options, |domain| domain.name.clone())
}

pub(super) fn uuid(arguments: &UuidArguments, options: &Options) -> Result<ExitCode, Error> {
    show(&arguments.domain, options, |domain| domain.uuid.to_string())
}

fn show(
    domain: &DomainArgument,
    options: &Options,
    word: impl FnOnce(&RemoteDomain) -> String,
) -> Result<ExitCode, Error> {
    let domain = domain.find(&mut connect(options)?)?;
    if options.json {
        print_json(&as_json(&domain))?;
    } else {
        print(&format!("{}\n", harmless(&word(&domain))))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn state(arguments: &StateArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let status = connection
        .call(&DomainGetState { dom: domain.clone(), flags: 0 })
        .attempt(|| format!("cannot learn the state of domain {}", domain.name))?;
    let state = State::from_number(status.state);
    let reason = state.reason(status.reason);
    if options.json {
        let mut told = as_json(&domain);
        told["state"] = json!(state.name());
        told["reason"] = json!(reason);
        print_json(&told)?;
    } else if arguments.reason {
        print(&format!("{} ({reason})\n", state.name()))?;
    } else {
        print(&format!("{}\n", state.name()))?;
    }
    Ok(ExitCode::SUCCESS)
}
