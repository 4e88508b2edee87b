//! `vireo network`: virtual networks of the daemon, for people and for scripts; virsh's names of the same verbs (`net-list`,
//! `net-dhcp-leases`, ...) are understood as well.
//!
//! Each family is a module that owns its arguments and makes the calls. Any daemon of libvirt's protocol is asked; what only this project's
//! can do (ports of the host that lead to guests, for example) is refused where the daemon has lost it of the definition.

mod create;
mod definition;
mod events;
mod leases;
mod lifecycle;
mod list;
mod ports;
mod set;
mod shape;
mod update;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{
    ConnectListAllNetworks, NetworkGetXmlDesc, NetworkIsActive, NetworkIsPersistent, NetworkLookupByName,
    NetworkLookupByUuid,
};
use libvirt_rpc::types::RemoteNetwork;
use serde_json::{Value, json};

use crate::completions_command::networks;
use crate::connection::{Attempt, EXIT_CODES, Error, Options, With, run_verb, uuid};
use crate::output;
use crate::storage_client::is;

/// The definition, and not what runs (VIR_NETWORK_XML_INACTIVE).
const INACTIVE: u32 = 1;

/// Look at virtual networks, make them, change them and remove them
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct NetworkCommand {
    #[command(subcommand)]
    verb: NetworkVerb,
}

#[derive(Debug, Subcommand)]
enum NetworkVerb {
    Autostart(With<lifecycle::AutostartArguments>),
    Create(With<create::CreateArguments>),
    Define(With<definition::DefineArguments>),
    Delete(With<lifecycle::DeleteArguments>),
    Edit(With<definition::EditArguments>),
    Events(With<events::EventsArguments>),
    Info(With<list::InfoArguments>),
    #[command(visible_alias = "dhcp-leases")]
    Leases(With<leases::LeasesArguments>),
    List(With<list::ListArguments>),
    Ports(With<ports::ListArguments>),
    Set(With<set::SetArguments>),
    Start(With<lifecycle::StartArguments>),
    #[command(visible_alias = "destroy")]
    Stop(With<lifecycle::StopArguments>),
    Undefine(With<lifecycle::UndefineArguments>),
    Update(With<update::UpdateArguments>),
    #[command(visible_alias = "dumpxml")]
    Xml(With<definition::XmlArguments>),
}

/// The verbs by virsh's names.
#[derive(Debug, Subcommand)]
#[expect(clippy::enum_variant_names, reason = "virsh's names begin so")]
pub(crate) enum VirshVerb {
    #[command(hide = true)]
    NetAutostart(With<lifecycle::AutostartArguments>),
    #[command(hide = true)]
    NetCreate(With<definition::TransientArguments>),
    #[command(hide = true)]
    NetDefine(With<definition::DefineArguments>),
    #[command(hide = true)]
    NetDestroy(With<lifecycle::StopArguments>),
    #[command(hide = true)]
    NetDhcpLeases(With<leases::LeasesArguments>),
    #[command(hide = true)]
    NetDumpxml(With<definition::XmlArguments>),
    #[command(hide = true)]
    NetEdit(With<definition::EditArguments>),
    #[command(hide = true)]
    NetEvent(With<events::EventArguments>),
    #[command(hide = true)]
    NetInfo(With<list::InfoArguments>),
    #[command(hide = true)]
    NetList(With<list::ListArguments>),
    #[command(hide = true)]
    NetName(With<lifecycle::NameArguments>),
    #[command(hide = true)]
    NetPortCreate(With<ports::CreateArguments>),
    #[command(hide = true)]
    NetPortDelete(With<ports::DeleteArguments>),
    #[command(hide = true)]
    NetPortDumpxml(With<ports::XmlArguments>),
    #[command(hide = true)]
    NetPortList(With<ports::ListArguments>),
    #[command(hide = true)]
    NetStart(With<lifecycle::StartArguments>),
    #[command(hide = true)]
    NetUndefine(With<lifecycle::UndefineArguments>),
    #[command(hide = true)]
    NetUpdate(With<update::UpdateArguments>),
    #[command(hide = true)]
    NetUuid(With<lifecycle::UuidArguments>),
}

/// Does what the arguments of `vireo network` ask for.
pub(crate) fn network(command: NetworkCommand, before: &Options) -> ExitCode {
    use NetworkVerb as Verb;
    run_verb! { command.verb, before,
        Verb::Autostart, "network autostart", lifecycle::autostart;
        Verb::Create, "network create", create::run;
        Verb::Define, "network define", definition::define;
        Verb::Delete, "network delete", lifecycle::delete;
        Verb::Edit, "network edit", definition::edit;
        Verb::Events, "network events", events::run;
        Verb::Info, "network info", list::info;
        Verb::Leases, "network leases", leases::run;
        Verb::List, "network list", list::list;
        Verb::Ports, "network ports", ports::list;
        Verb::Set, "network set", set::run;
        Verb::Start, "network start", lifecycle::start;
        Verb::Stop, "network stop", lifecycle::stop;
        Verb::Undefine, "network undefine", lifecycle::undefine;
        Verb::Update, "network update", update::run;
        Verb::Xml, "network xml", definition::xml;
    }
}

/// The same by virsh's names.
pub(crate) fn virsh(verb: VirshVerb, before: &Options) -> ExitCode {
    use VirshVerb as Verb;
    run_verb! { verb, before,
        Verb::NetAutostart, "net-autostart", lifecycle::autostart;
        Verb::NetCreate, "net-create", definition::create_transient;
        Verb::NetDefine, "net-define", definition::define;
        Verb::NetDestroy, "net-destroy", lifecycle::stop;
        Verb::NetDhcpLeases, "net-dhcp-leases", leases::run;
        Verb::NetDumpxml, "net-dumpxml", definition::xml;
        Verb::NetEdit, "net-edit", definition::edit;
        Verb::NetEvent, "net-event", events::once;
        Verb::NetInfo, "net-info", list::info;
        Verb::NetList, "net-list", list::list;
        Verb::NetName, "net-name", lifecycle::name;
        Verb::NetPortCreate, "net-port-create", ports::create;
        Verb::NetPortDelete, "net-port-delete", ports::delete;
        Verb::NetPortDumpxml, "net-port-dumpxml", ports::xml;
        Verb::NetPortList, "net-port-list", ports::list;
        Verb::NetStart, "net-start", lifecycle::start;
        Verb::NetUndefine, "net-undefine", lifecycle::undefine;
        Verb::NetUpdate, "net-update", update::run;
        Verb::NetUuid, "net-uuid", lifecycle::uuid;
    }
}

/// The network that a verb is about.
#[derive(Debug, Args)]
struct NetworkArgument {
    /// The network: its name or UUID
    #[arg(value_name = "NETWORK", add = ArgValueCompleter::new(networks))]
    network: String,
}

impl NetworkArgument {
    /// The network itself.
    fn find(&self, connection: &mut Connection) -> Result<RemoteNetwork, Error> {
        find_network(connection, &self.network)
    }
}

/// The network that a person means: by UUID if it looks like one, by name otherwise.
///
/// # Errors
/// There is none, with names that are nearly this one; or the daemon can't be asked.
pub(crate) fn find_network(connection: &mut Connection, given: &str) -> Result<RemoteNetwork, Error> {
    let action = || format!("cannot look up the network {given}");
    if let Some(uuid) = uuid(given) {
        match connection.call(&NetworkLookupByUuid { uuid }) {
            Ok(reply) => return Ok(reply.net),
            Err(error) if is(&error, &[ErrorCode::NoNetwork]) => {}
            Err(error) => return Err(Error::daemon(action(), error)),
        }
    }
    match connection.call(&NetworkLookupByName { name: given.to_owned() }) {
        Ok(reply) => Ok(reply.net),
        Err(error) if is(&error, &[ErrorCode::NoNetwork]) => {
            // That there is no such network is what matters: without the list nothing is offered.
            let all = connection.call(&ConnectListAllNetworks { need_results: 1, flags: 0 });
            let names = all.map(|all| all.nets.into_iter().map(|network| network.name).collect());
            Err(Error::no_such("network", given, names.unwrap_or_default()))
        }
        Err(error) => Err(Error::daemon(action(), error)),
    }
}

/// Whether a network is active.
///
/// # Errors
/// The daemon's.
pub(crate) fn is_active(connection: &mut Connection, net: &RemoteNetwork) -> Result<bool, Error> {
    let reply = connection.call(&NetworkIsActive { net: net.clone() });
    Ok(reply.attempt(|| format!("cannot look at the network {}", net.name))?.active != 0)
}

fn is_persistent(connection: &mut Connection, net: &RemoteNetwork) -> Result<bool, Error> {
    let reply = connection.call(&NetworkIsPersistent { net: net.clone() });
    Ok(reply.attempt(|| format!("cannot look at the network {}", net.name))?.persistent != 0)
}

fn document(connection: &mut Connection, net: &RemoteNetwork, flags: u32) -> Result<String, Error> {
    let mut reply = connection.call(&NetworkGetXmlDesc { net: net.clone(), flags });
    if flags != 0 && reply.as_ref().is_err_and(|error| is(error, &[ErrorCode::InvalidArgument])) {
        // A driver that does not know the flag has one document only.
        reply = connection.call(&NetworkGetXmlDesc { net: net.clone(), flags: 0 });
    }
    Ok(reply.attempt(|| format!("cannot get the XML of the network {}", net.name))?.xml)
}

/// Who a network is.
fn as_json(network: &RemoteNetwork) -> Value {
    json!({ "name": network.name, "uuid": network.uuid.to_string() })
}

/// Tells what has been done to a network.
fn answer(options: &Options, network: &RemoteNetwork, done: &str) -> Result<ExitCode, Error> {
    Ok(output::done(options.json, "network", &network.name, as_json(network), done)?)
}
