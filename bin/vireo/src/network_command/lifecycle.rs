//! Networks started, stopped, marked and forgotten; and their names.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{NetworkCreate, NetworkDestroy, NetworkSetAutostart, NetworkUndefine};
use libvirt_rpc::types::RemoteNetwork;

use super::{NetworkArgument, answer, as_json, is_active, is_persistent};
use crate::connection::{Attempt, Error, Options, connect};
use crate::output::{harmless, print, print_json};

/// Start a network
#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    #[command(flatten)]
    network: NetworkArgument,
}

/// Stop a network; its guests lose their connection, its definition stays
#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    #[command(flatten)]
    network: NetworkArgument,
}

/// Have a network started with the daemon, or not
#[derive(Debug, Args)]
pub(crate) struct AutostartArguments {
    #[command(flatten)]
    network: NetworkArgument,
    /// Not
    #[arg(long)]
    disable: bool,
}

/// Forget a network's definition; one that is active goes on until it is stopped
#[derive(Debug, Args)]
pub(crate) struct UndefineArguments {
    #[command(flatten)]
    network: NetworkArgument,
}

/// Stop a network and forget its definition
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    network: NetworkArgument,
}

/// Print the name of a network
#[derive(Debug, Args)]
pub(crate) struct NameArguments {
    #[command(flatten)]
    network: NetworkArgument,
}

/// Print the UUID of a network
#[derive(Debug, Args)]
pub(crate) struct UuidArguments {
    #[command(flatten)]
    network: NetworkArgument,
}

pub(super) fn start(arguments: &StartArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    start_network(&mut connection, &network)?;
    answer(options, &network, "started")
}

pub(super) fn start_network(connection: &mut Connection, net: &RemoteNetwork) -> Result<(), Error> {
    let started = connection.call(&NetworkCreate { net: net.clone() });
    started.attempt(|| format!("cannot start the network {}", net.name))
}

pub(super) fn stop(arguments: &StopArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    stop_network(&mut connection, &network)?;
    answer(options, &network, "stopped")
}

fn stop_network(connection: &mut Connection, net: &RemoteNetwork) -> Result<(), Error> {
    let stopped = connection.call(&NetworkDestroy { net: net.clone() });
    stopped.attempt(|| format!("cannot stop the network {}", net.name))
}

pub(super) fn autostart(arguments: &AutostartArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    set_autostart(&mut connection, &network, !arguments.disable)?;
    let done = if arguments.disable { "unmarked as autostarted" } else { "marked as autostarted" };
    answer(options, &network, done)
}

pub(super) fn set_autostart(
    connection: &mut Connection,
    net: &RemoteNetwork,
    autostart: bool,
) -> Result<(), Error> {
    let set = connection.call(&NetworkSetAutostart { net: net.clone(), autostart: autostart.into() });
    set.attempt(|| format!("cannot change whether the network {} starts with the daemon", net.name))
}

pub(super) fn undefine(arguments: &UndefineArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    undefine_network(&mut connection, &network)?;
    answer(options, &network, "has been undefined")
}

fn undefine_network(connection: &mut Connection, net: &RemoteNetwork) -> Result<(), Error> {
    let undefined = connection.call(&NetworkUndefine { net: net.clone() });
    undefined.attempt(|| format!("cannot undefine the network {}", net.name))
}

pub(super) fn delete(arguments: &DeleteArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    // A transient one has gone when it is stopped.
    let persistent = is_persistent(&mut connection, &network)?;
    if is_active(&mut connection, &network)? {
        stop_network(&mut connection, &network)?;
    }
    if persistent {
        undefine_network(&mut connection, &network)?;
    }
    answer(options, &network, "deleted")
}

pub(super) fn name(arguments: &NameArguments, options: &Options) -> Result<ExitCode, Error> {
    show(&arguments.network, options, |network| network.name.clone())
}

pub(super) fn uuid(arguments: &UuidArguments, options: &Options) -> Result<ExitCode, Error> {
    show(&arguments.network, options, |network| network.uuid.to_string())
}

fn show(
    network: &NetworkArgument,
    options: &Options,
    word: impl FnOnce(&RemoteNetwork) -> String,
) -> Result<ExitCode, Error> {
    let network = network.find(&mut connect(options)?)?;
    if options.json {
        print_json(&as_json(&network))?;
    } else {
        print(&format!("{}\n", harmless(&word(&network))))?;
    }
    Ok(ExitCode::SUCCESS)
}
