//! `vireo stop`, and virsh's two halves of it: `shutdown` and `destroy`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{DomainDestroy, DomainDestroyFlags, DomainShutdownFlags};
use libvirt_rpc::types::RemoteDomain;

use super::lifecycle::ModeArgument;
use super::waiting::Watch;
use super::{DomainArgument, answer, seconds};
use crate::connection::{Attempt, Error, Exit, Options, connect};

/// Ask a domain to shut down, as its power button does
///
/// With --force it is ended at once. With --force and --timeout it is asked, and ended if it is still up after that time.
#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// End it at once, as by pulling the plug; what the guest has not written is lost
    #[arg(short, long)]
    force: bool,
    /// Return only when it is down
    #[arg(short, long)]
    wait: bool,
    /// Return when it is down, or with an error after this many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    #[command(flatten)]
    mode: ModeArgument,
}

/// Ask a domain to shut down, as its power button does
#[derive(Debug, Args)]
pub(crate) struct ShutdownArguments {
    #[command(flatten)]
    domain: DomainArgument,
    #[command(flatten)]
    mode: ModeArgument,
}

/// End a domain at once, as by pulling the plug
#[derive(Debug, Args)]
pub(crate) struct DestroyArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Only if the machine's process ends when it is asked to
    #[arg(long)]
    graceful: bool,
}

/// Stops it.
pub(super) fn run(arguments: &StopArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    if arguments.force && arguments.timeout.is_none() {
        end(&mut connection, &domain, 0)?;
        return answer(options, &domain, "destroyed");
    }
    if !arguments.wait && arguments.timeout.is_none() {
        ask(&mut connection, &domain, &arguments.mode)?;
        return answer(options, &domain, "is being shutdown");
    }
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    // Listening begins before it can happen.
    let mut watch = Watch::begin(&mut connection, &domain);
    ask(watch.connection(), &domain, &arguments.mode)?;
    let down = watch.until(deadline, |watch| Ok((!watch.state()?.is_active()).then_some(())))?;
    if down.is_some() {
        return answer(options, &domain, "shut down");
    }
    if arguments.force {
        end(&mut connection, &domain, 0)?;
        return answer(options, &domain, "destroyed");
    }
    let waited = arguments.timeout.unwrap_or_default();
    Err(Error::trouble(
        Exit::TimedOut,
        format!("domain {} is still up after {waited:?}", domain.name),
        "the guest may not listen to its power button; `vireo stop --force` ends it at once",
    ))
}

pub(super) fn shutdown(arguments: &ShutdownArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    ask(&mut connection, &domain, &arguments.mode)?;
    answer(options, &domain, "is being shutdown")
}

pub(super) fn destroy(arguments: &DestroyArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    end(&mut connection, &domain, u32::from(arguments.graceful))?;
    answer(options, &domain, "destroyed")
}

fn ask(connection: &mut Connection, domain: &RemoteDomain, mode: &ModeArgument) -> Result<(), Error> {
    let call = DomainShutdownFlags { dom: domain.clone(), flags: mode.flags() };
    connection.call(&call).attempt(|| format!("cannot shut down domain {}", domain.name))
}

/// With virDomainDestroyFlagsValues. Without any it is the older call, which every daemon has.
fn end(connection: &mut Connection, domain: &RemoteDomain, flags: u32) -> Result<(), Error> {
    let dom = domain.clone();
    let ended = match flags {
        0 => connection.call(&DomainDestroy { dom }),
        flags => connection.call(&DomainDestroyFlags { dom, flags }),
    };
    ended.attempt(|| format!("cannot end domain {}", domain.name))
}
