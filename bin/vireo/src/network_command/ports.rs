//! Which guests' interfaces are ports of a network.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::procedures::NetworkListAllPorts;
use serde_json::json;

use super::{NetworkArgument, as_json};
use crate::connection::{Attempt, Error, Options, connect};
use crate::output::{print, print_json};
use crate::table::Table;

/// List a network's ports: guests' interfaces that use it
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    network: NetworkArgument,
    /// Print only UUIDs
    #[arg(long)]
    uuid: bool,
}

/// Prints the list.
pub(super) fn list(arguments: &ListArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    let call = NetworkListAllPorts { network: network.clone(), need_results: 1, flags: 0 };
    let listed = connection.call(&call);
    let ports = listed.attempt(|| format!("cannot list the ports of the network {}", network.name))?.ports;
    let mut uuids: Vec<_> = ports.iter().map(|port| port.uuid.to_string()).collect();
    uuids.sort();
    if options.json {
        let ports: Vec<_> = uuids.iter().map(|uuid| json!({ "uuid": uuid })).collect();
        print_json(&json!({ "network": as_json(&network), "ports": ports }))?;
    } else if arguments.uuid {
        print(&uuids.iter().map(|uuid| format!("{uuid}\n")).collect::<String>())?;
    } else {
        let mut table = Table::new(&["UUID"]);
        uuids.iter().for_each(|uuid| table.row(vec![uuid.into()]));
        print(&table.text(false))?;
    }
    Ok(ExitCode::SUCCESS)
}
