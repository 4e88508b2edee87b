//! A network's definition as a whole: defined, printed, edited.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::{
    NetworkCreateXml, NetworkCreateXmlFlags, NetworkDefineXml, NetworkDefineXmlFlags,
};
use libvirt_rpc::types::RemoteNetwork;
use serde_json::json;

use super::lifecycle::{set_autostart, start_network};
use super::{INACTIVE, NetworkArgument, answer, as_json, document, find_network, is_active};
use crate::connection::{Attempt, Error, Options, connect};
use crate::documents::{self, Edited, edit_definition};
use crate::output::print_json;

/// VIR_NETWORK_DEFINE_VALIDATE and VIR_NETWORK_CREATE_VALIDATE.
const VALIDATE: u32 = 1;

/// Define a network, or change its definition, from an XML file
#[derive(Debug, Args)]
pub(crate) struct DefineArguments {
    #[command(flatten)]
    file: FileArguments,
    /// Start it, now and with the daemon
    #[arg(long)]
    start: bool,
}

/// Start a network that is forgotten when it is stopped, from an XML file
#[derive(Debug, Args)]
pub(crate) struct TransientArguments {
    #[command(flatten)]
    file: FileArguments,
}

#[derive(Debug, Args)]
struct FileArguments {
    /// The definition in libvirt's network XML; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check it against the schema as well
    #[arg(long)]
    validate: bool,
}

/// Print the XML of a network
#[derive(Debug, Args)]
pub(crate) struct XmlArguments {
    #[command(flatten)]
    network: NetworkArgument,
    /// What is defined, even while something else runs
    #[arg(long)]
    inactive: bool,
}

/// Edit the XML of a network's definition
#[derive(Debug, Args)]
#[command(before_help = documents::EDITING)]
pub(crate) struct EditArguments {
    #[command(flatten)]
    network: NetworkArgument,
}

/// Defines what the document says.
pub(super) fn define_as(
    connection: &mut Connection,
    xml: String,
    validate: bool,
) -> Result<RemoteNetwork, ClientError> {
    if validate {
        connection.call(&NetworkDefineXmlFlags { xml, flags: VALIDATE }).map(|reply| reply.net)
    } else {
        connection.call(&NetworkDefineXml { xml }).map(|reply| reply.net)
    }
}

pub(super) fn define(arguments: &DefineArguments, options: &Options) -> Result<ExitCode, Error> {
    let FileArguments { file, validate } = &arguments.file;
    let xml = documents::read(file)?;
    let mut connection = connect(options)?;
    let defined = define_as(&mut connection, xml, *validate);
    let network = defined.attempt(|| format!("cannot define a network from {}", file.display()))?;
    if !arguments.start {
        return answer(options, &network, &format!("defined from {}", file.display()));
    }
    // What was defined stays: it may have been there before.
    if !is_active(&mut connection, &network)? {
        start_network(&mut connection, &network)?;
    }
    set_autostart(&mut connection, &network, true)?;
    answer(options, &network, &format!("defined from {} and started", file.display()))
}

pub(super) fn create_transient(arguments: &TransientArguments, options: &Options) -> Result<ExitCode, Error> {
    let FileArguments { file, validate } = &arguments.file;
    let xml = documents::read(file)?;
    let mut connection = connect(options)?;
    let created = if *validate {
        connection.call(&NetworkCreateXmlFlags { xml, flags: VALIDATE }).map(|reply| reply.net)
    } else {
        connection.call(&NetworkCreateXml { xml }).map(|reply| reply.net)
    };
    let network = created.attempt(|| format!("cannot create a network from {}", file.display()))?;
    answer(options, &network, &format!("created from {}", file.display()))
}

pub(super) fn xml(arguments: &XmlArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    let flags = if arguments.inactive { INACTIVE } else { 0 };
    let xml = document(&mut connection, &network, flags)?;
    if options.json {
        let mut told = as_json(&network);
        told["xml"] = json!(xml);
        print_json(&told)?;
    } else {
        documents::print(&xml)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn edit(arguments: &EditArguments, options: &Options) -> Result<ExitCode, Error> {
    let network = arguments.network.find(&mut connect(options)?)?;
    let object = Edited { kind: "network", name: &network.name, who: as_json(&network) };
    edit_definition(
        &object,
        options,
        |connection| {
            let network = find_network(connection, &network.uuid.to_string())?;
            document(connection, &network, INACTIVE)
        },
        |connection, xml| {
            let defined = define_as(connection, xml, false);
            defined.attempt(|| format!("cannot define the network {}", network.name)).map(drop)
        },
    )
}
