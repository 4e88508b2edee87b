//! Ports of networks: guests' interfaces that use them (libvirt's formatnetworkport).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{
    NetworkListAllPorts, NetworkPortCreateXml, NetworkPortDelete, NetworkPortGetXmlDesc,
    NetworkPortLookupByUuid,
};
use libvirt_rpc::types::{RemoteNetwork, RemoteNetworkPort};
use serde_json::{Value, json};

use super::{NetworkArgument, as_json};
use crate::connection::{Attempt, Error, Options, connect, uuid};
use crate::documents;
use crate::output::{print, print_json};
use crate::storage_client::is;
use crate::table::Table;

/// VIR_NETWORK_PORT_CREATE_VALIDATE.
const VALIDATE: u32 = 2;

/// List a network's ports: guests' interfaces that use it
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    network: NetworkArgument,
    /// Print only UUIDs
    #[arg(long)]
    uuid: bool,
}

/// Print the XML of a network's port
#[derive(Debug, Args)]
pub(crate) struct XmlArguments {
    #[command(flatten)]
    port: PortArgument,
}

/// Make a port of a network from an XML file, where the daemon lets clients do that
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    network: NetworkArgument,
    /// The port in libvirt's network port XML; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check it against the schema as well
    #[arg(long)]
    validate: bool,
}

/// Remove a port of a network, where the daemon lets clients do that
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    port: PortArgument,
}

#[derive(Debug, Args)]
struct PortArgument {
    #[command(flatten)]
    network: NetworkArgument,
    /// The port's UUID
    #[arg(value_name = "PORT")]
    port: String,
}

impl PortArgument {
    fn find(&self, connection: &mut Connection) -> Result<RemoteNetworkPort, Error> {
        let given = &self.port;
        let network = self.network.find(connection)?;
        let uuid = uuid(given)
            .ok_or_else(|| Error::usage(format!("{given:?} is not a UUID, by which ports are known")))?;
        match connection.call(&NetworkPortLookupByUuid { network, uuid }) {
            Ok(reply) => Ok(reply.port),
            Err(error) if is(&error, &[ErrorCode::NoNetworkPort]) => {
                Err(Error::no_such("network port", given, Vec::new()))
            }
            Err(error) => Err(Error::daemon(format!("cannot look up the port {given}"), error)),
        }
    }
}

/// What a port's document says.
#[derive(Debug, Default)]
struct Port {
    uuid: String,
    domain: Option<String>,
    mac: Option<String>,
}

impl Port {
    fn ask(connection: &mut Connection, port: &RemoteNetworkPort) -> Self {
        let uuid = port.uuid.to_string();
        // One that has just gone is still one of the list.
        let call = NetworkPortGetXmlDesc { port: port.clone(), flags: 0 };
        let document = connection.call(&call).ok().and_then(|reply| libvirt_xml::parse(&reply.xml).ok());
        let Some(root) = document else { return Self { uuid, ..Self::default() } };
        let name = root.first("owner").and_then(|owner| owner.first("name"));
        let mac = root.first("mac").and_then(|mac| mac.attribute("address"));
        Self { uuid, domain: name.map(|name| name.own_text()), mac: mac.map(str::to_owned) }
    }

    fn as_json(&self) -> Value {
        json!({ "uuid": self.uuid, "domain": self.domain, "mac": self.mac })
    }
}

/// Prints the list.
pub(super) fn list(arguments: &ListArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    let call = NetworkListAllPorts { network: network.clone(), need_results: 1, flags: 0 };
    let listed = connection.call(&call);
    let mut ports =
        listed.attempt(|| format!("cannot list the ports of the network {}", network.name))?.ports;
    ports.sort_by_key(|port| port.uuid.to_string());
    if arguments.uuid && !options.json {
        print(&ports.iter().map(|port| format!("{}\n", port.uuid)).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let ports: Vec<_> = ports.iter().map(|port| Port::ask(&mut connection, port)).collect();
    if options.json {
        let ports: Vec<_> = ports.iter().map(Port::as_json).collect();
        print_json(&json!({ "network": as_json(&network), "ports": ports }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["UUID", "Domain", "MAC address"]);
    for port in ports {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned()).into();
        table.row(vec![port.uuid.into(), or_none(port.domain), or_none(port.mac)]);
    }
    print(&table.text(false))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn xml(arguments: &XmlArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let port = arguments.port.find(&mut connection)?;
    let reply = connection.call(&NetworkPortGetXmlDesc { port: port.clone(), flags: 0 });
    let xml = reply.attempt(|| format!("cannot get the XML of the port {}", port.uuid))?.xml;
    if options.json {
        print_json(&json!({ "network": as_json(&port.net), "uuid": port.uuid.to_string(), "xml": xml }))?;
    } else {
        documents::print(&xml)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn create(arguments: &CreateArguments, options: &Options) -> Result<ExitCode, Error> {
    let file = &arguments.file;
    let xml = documents::read(file)?;
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    let flags = if arguments.validate { VALIDATE } else { 0 };
    let made = connection.call(&NetworkPortCreateXml { network, xml, flags });
    let port = made.attempt(|| format!("cannot make a port from {}", file.display()))?.port;
    answer(options, &port.net, &port, &format!("created from {}", file.display()))
}

pub(super) fn delete(arguments: &DeleteArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let port = arguments.port.find(&mut connection)?;
    let removed = connection.call(&NetworkPortDelete { port: port.clone(), flags: 0 });
    removed.attempt(|| format!("cannot remove the port {}", port.uuid))?;
    answer(options, &port.net, &port, "deleted")
}

fn answer(
    options: &Options,
    network: &RemoteNetwork,
    port: &RemoteNetworkPort,
    done: &str,
) -> Result<ExitCode, Error> {
    let uuid = port.uuid.to_string();
    let who = json!({ "uuid": uuid, "network": as_json(network) });
    Ok(crate::output::done(options.json, "port", &uuid, who, done)?)
}
