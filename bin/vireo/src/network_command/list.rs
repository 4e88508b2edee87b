//! Which networks there are, and what each is.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{ConnectListAllNetworks, NetworkGetAutostart, NetworkGetBridgeName};
use libvirt_rpc::types::RemoteNetwork;
use serde_json::{Value, json};

use super::shape::Shape;
use super::{NetworkArgument, as_json, document, is_active, is_persistent};
use crate::connection::{Attempt, Error, Exit, Options, connect};
use crate::output::{harmless, print, print_json, yes_no};
use crate::table::Table;

/// List networks: those that are active, or as asked for
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, as virsh has them")]
pub(crate) struct ListArguments {
    /// All networks, active or not
    #[arg(short, long)]
    all: bool,
    /// Only networks that are not active
    #[arg(long)]
    inactive: bool,
    /// Only persistent networks
    #[arg(long)]
    persistent: bool,
    /// Only transient networks
    #[arg(long)]
    transient: bool,
    /// Only networks that start with the daemon
    #[arg(long)]
    autostart: bool,
    /// Only networks that do not start with the daemon
    #[arg(long)]
    no_autostart: bool,
    /// Show kinds, bridges and addresses as well
    #[arg(long)]
    details: bool,
    /// Print only names
    #[arg(long)]
    name: bool,
    /// Print only UUIDs (with --name: names as well)
    #[arg(long)]
    uuid: bool,
    /// Print the table (which is so without --name and --uuid)
    #[arg(long, conflicts_with_all = ["name", "uuid"])]
    table: bool,
}

impl ListArguments {
    /// virConnectListAllNetworksFlags.
    fn filters(&self) -> u32 {
        let given = [
            (1, self.inactive && !self.all),
            (2, !self.inactive && !self.all),
            (4, self.persistent),
            (8, self.transient),
            (16, self.autostart),
            (32, self.no_autostart),
        ];
        given.into_iter().filter(|(_, given)| *given).fold(0, |flags, (flag, _)| flags | flag)
    }
}

/// Show what a network is and how it is
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    #[command(flatten)]
    network: NetworkArgument,
}

/// What is known of a network.
pub(super) struct Known {
    network: RemoteNetwork,
    active: bool,
    persistent: bool,
    autostart: bool,
    bridge: Option<String>,
    pub(super) shape: Shape,
}

impl Known {
    pub(super) fn ask(connection: &mut Connection, net: RemoteNetwork) -> Result<Self, Error> {
        let action = || format!("cannot look at the network {}", net.name);
        let autostart = connection.call(&NetworkGetAutostart { net: net.clone() }).attempt(action)?;
        let bridge = match connection.call(&NetworkGetBridgeName { net: net.clone() }).attempt(action) {
            Ok(reply) => Some(reply.name),
            Err(error) if error.exit() == Exit::Unreachable => return Err(error),
            // One that shares interfaces of the host has none.
            Err(_) => None,
        };
        Ok(Self {
            active: is_active(connection, &net)?,
            persistent: is_persistent(connection, &net)?,
            autostart: autostart.autostart != 0,
            bridge,
            shape: Shape::of(&document(connection, &net, 0)?),
            network: net,
        })
    }

    pub(super) fn as_json(&self) -> Value {
        let mut told = as_json(&self.network);
        told["active"] = json!(self.active);
        told["persistent"] = json!(self.persistent);
        told["autostart"] = json!(self.autostart);
        told["bridge"] = json!(self.bridge);
        self.shape.add_to(&mut told);
        told
    }

    /// What leads a guest's packets: its bridge, or interfaces of the host.
    fn way(&self) -> String {
        self.bridge.clone().unwrap_or_else(|| self.shape.devices.join(" "))
    }
}

/// Prints the list.
pub(super) fn list(arguments: &ListArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let call = ConnectListAllNetworks { need_results: 1, flags: arguments.filters() };
    let mut networks = connection.call(&call).attempt(|| "cannot list the networks".to_owned())?.nets;
    networks.sort_by(|one, other| one.name.cmp(&other.name));
    if !options.json && (arguments.name || arguments.uuid) {
        let line = |network: &RemoteNetwork| {
            let words = [
                arguments.uuid.then(|| network.uuid.to_string()),
                arguments.name.then(|| harmless(&network.name)),
            ];
            format!("{}\n", words.into_iter().flatten().collect::<Vec<_>>().join(" "))
        };
        print(&networks.iter().map(line).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut known = Vec::new();
    for network in networks {
        match Known::ask(&mut connection, network) {
            Ok(one) => known.push(one),
            // It has gone meanwhile.
            Err(error) if error.exit() == Exit::NoSuchObject => {}
            Err(error) => return Err(error),
        }
    }
    if options.json {
        let all: Vec<_> = known.iter().map(Known::as_json).collect();
        print_json(&json!({ "networks": all }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut heading = vec!["Name", "State", "Autostart", "Persistent"];
    if arguments.details {
        heading.extend(["Kind", "Bridge", "Addresses"]);
    }
    let mut table = Table::new(&heading);
    for one in &known {
        let state = if one.active { "active" } else { "inactive" };
        let mut row = vec![one.network.name.as_str().into(), state.into()];
        row.extend([one.autostart, one.persistent].map(|value| yes_no(value).into()));
        if arguments.details {
            row.extend([one.shape.kind.clone(), one.way(), one.shape.addresses.join(" ")].map(Into::into));
        }
        table.row(row);
    }
    print(&table.text(false))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what is known of a network.
pub(super) fn info(arguments: &InfoArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    let known = Known::ask(&mut connection, network)?;
    if options.json {
        print_json(&known.as_json())?;
        return Ok(ExitCode::SUCCESS);
    }
    let shape = &known.shape;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<16}{}\n", harmless(value)));
    // virsh's lines, and ours after them.
    line("Name:", &known.network.name);
    line("UUID:", &known.network.uuid.to_string());
    line("Active:", yes_no(known.active));
    line("Persistent:", yes_no(known.persistent));
    line("Autostart:", yes_no(known.autostart));
    if let Some(bridge) = &known.bridge {
        line("Bridge:", bridge);
    }
    line("Kind:", &shape.kind);
    let all = [
        ("Interface:", &shape.devices),
        ("Address:", &shape.addresses),
        ("DHCP:", &shape.ranges),
        ("DHCP host:", &shape.hosts),
        ("Port forward:", &shape.forwards),
    ];
    for (name, values) in all {
        values.iter().for_each(|value| line(name, value));
    }
    if let Some(domain) = &shape.domain {
        line("Domain:", domain);
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
