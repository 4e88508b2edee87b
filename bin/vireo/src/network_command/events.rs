//! What happens to networks, as it happens.

use std::process::ExitCode;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use libvirt_rpc::client::Message;
use libvirt_rpc::events::{NetworkEventLifecycle, NetworkEventMetadataChange};
use libvirt_rpc::procedures::ConnectNetworkEventRegisterAny;
use libvirt_rpc::xdr::XdrError;
use serde_json::json;

use super::{as_json, find_network};
use crate::completions_command::networks;
use crate::connection::{Attempt, Error, Options};
use crate::domain_command::events::kinds::metadata;
use crate::listening::{Kinds, Told, Wanted, listen};

/// virNetworkEventID.
const KINDS: [(i32, &str); 2] = [(0, "lifecycle"), (1, "metadata-change")];

/// Print what happens to networks as it happens
///
/// With --json each event is a line.
#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    of: NetworkOption,
    #[command(flatten)]
    wanted: Wanted,
    /// End after this many events
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Print the next thing that happens to a network, or with --loop all
#[derive(Debug, Args)]
pub(crate) struct EventArguments {
    #[command(flatten)]
    of: NetworkOption,
    #[command(flatten)]
    wanted: Wanted,
    /// Go on after the first
    #[arg(long = "loop")]
    go_on: bool,
}

#[derive(Debug, Args)]
struct NetworkOption {
    /// Only of this network
    #[arg(long, value_name = "NETWORK", add = ArgValueCompleter::new(networks))]
    network: Option<String>,
}

pub(super) fn run(arguments: &EventsArguments, options: &Options) -> Result<ExitCode, Error> {
    watch(&arguments.of, &arguments.wanted, arguments.count, options)
}

pub(super) fn once(arguments: &EventArguments, options: &Options) -> Result<ExitCode, Error> {
    watch(&arguments.of, &arguments.wanted, (!arguments.go_on).then_some(1), options)
}

fn watch(
    of: &NetworkOption,
    wanted: &Wanted,
    count: Option<u64>,
    options: &Options,
) -> Result<ExitCode, Error> {
    let kinds = Kinds { known: &KINDS, list: "`vireo network events --list`" };
    let find =
        |connection: &mut _| of.network.as_ref().map(|given| find_network(connection, given)).transpose();
    let register = |connection: &mut libvirt_rpc::client::Connection, event_id, net: &Option<_>| {
        let call = ConnectNetworkEventRegisterAny { event_id, net: net.clone() };
        connection.call(&call).attempt(|| "cannot listen to events".to_owned()).map(drop)
    };
    listen(wanted, count, options, &kinds, find, register, told)
}

/// What a message says; none when it is no event of a network.
fn told(message: &Message) -> Result<Option<Told>, XdrError> {
    let (network, kind, details) = if let Some(event) = message.event::<NetworkEventLifecycle>() {
        let event = event?;
        (event.net, "lifecycle", vec![("type", json!(lifecycle(event.event)))])
    } else if let Some(event) = message.event::<NetworkEventMetadataChange>() {
        let event = event?;
        let details = vec![("type", json!(metadata(event.kind))), ("uri", json!(event.nsuri))];
        (event.net, "metadata-change", details)
    } else {
        return Ok(None);
    };
    let who = as_json(&network);
    Ok(Some(Told { kind, about: "network", name: network.name, who, details }))
}

/// What happened (virNetworkEventLifecycleType).
fn lifecycle(event: i32) -> &'static str {
    match event {
        0 => "Defined",
        1 => "Undefined",
        2 => "Started",
        3 => "Stopped",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_than_this_program_is_unknown_and_no_panic() {
        assert_eq!(lifecycle(2), "Started");
        for number in [i32::MIN, -1, 4, i32::MAX] {
            assert_eq!(lifecycle(number), "Unknown");
        }
        assert!(told(&Message { number: 318, body: Vec::new() }).unwrap().is_none());
        told(&Message { number: 315, body: vec![0; 3] }).unwrap_err();
    }
}
