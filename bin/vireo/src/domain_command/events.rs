//! `vireo events`: what happens to domains, as it happens.

pub(crate) mod kinds;

use std::process::ExitCode;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use libvirt_rpc::procedures::ConnectDomainEventCallbackRegisterAny;

use self::kinds::{KINDS, told};
use crate::completions_command::domains;
use crate::connection::{Attempt, Error, Options, find_domain};
use crate::listening::{Kinds, Wanted, listen};

/// Print what happens to domains as it happens
///
/// With --json each event is a line.
#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    of: DomainOption,
    #[command(flatten)]
    wanted: Wanted,
    /// End after this many events
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Print the next thing that happens to a domain, or with --loop all
#[derive(Debug, Args)]
pub(crate) struct EventArguments {
    #[command(flatten)]
    of: DomainOption,
    #[command(flatten)]
    wanted: Wanted,
    /// Go on after the first
    #[arg(long = "loop")]
    go_on: bool,
}

#[derive(Debug, Args)]
struct DomainOption {
    /// Only of this domain
    #[arg(short, long, value_name = "DOMAIN", add = ArgValueCompleter::new(domains))]
    domain: Option<String>,
}

pub(super) fn run(arguments: &EventsArguments, options: &Options) -> Result<ExitCode, Error> {
    watch(&arguments.of, &arguments.wanted, arguments.count, options)
}

pub(super) fn once(arguments: &EventArguments, options: &Options) -> Result<ExitCode, Error> {
    watch(&arguments.of, &arguments.wanted, (!arguments.go_on).then_some(1), options)
}

fn watch(
    of: &DomainOption,
    wanted: &Wanted,
    count: Option<u64>,
    options: &Options,
) -> Result<ExitCode, Error> {
    let kinds = Kinds { known: &KINDS, list: "`vireo events --list`" };
    let find =
        |connection: &mut _| of.domain.as_ref().map(|given| find_domain(connection, given)).transpose();
    listen(
        wanted,
        count,
        options,
        &kinds,
        find,
        |connection, kind, domain| {
            let call = ConnectDomainEventCallbackRegisterAny { event_id: kind, dom: domain.clone() };
            connection.call(&call).attempt(|| "cannot listen to events".to_owned()).map(drop)
        },
        told,
    )
}
