//! One entry of a network changed, as virNetworkUpdate does it.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::feature::NETWORK_UPDATE_HAS_CORRECT_ORDER;
use libvirt_rpc::procedures::{ConnectSupportsFeature, NetworkUpdate};
use libvirt_rpc::types::RemoteNetwork;

use super::{NetworkArgument, answer};
use crate::connection::{Attempt, Error, Options, connect};
use crate::documents;

/// virNetworkUpdateFlags.
pub(super) const LIVE: u32 = 1;
pub(super) const CONFIG: u32 = 2;

/// Change one entry of a network: of what runs, of its definition, or of both
#[derive(Debug, Args)]
pub(crate) struct UpdateArguments {
    #[command(flatten)]
    network: NetworkArgument,
    /// What is done with the entry
    #[arg(value_enum, value_name = "COMMAND")]
    command: Command,
    /// Where it belongs
    #[arg(value_enum, value_name = "SECTION")]
    section: Section,
    /// The entry: its element in XML, or a file with it
    #[arg(value_name = "XML")]
    xml: String,
    /// Which of the network's <ip> elements it belongs to, from 0 [default: the one with DHCP]
    #[arg(long, value_name = "NUMBER")]
    parent_index: Option<i32>,
    /// Change the definition
    #[arg(long, conflicts_with = "current")]
    config: bool,
    /// Change what runs
    #[arg(long, conflicts_with = "current")]
    live: bool,
    /// Change what runs if it is active, and the definition otherwise (which is so without --live and --config)
    #[arg(long)]
    current: bool,
}

/// virNetworkUpdateCommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[repr(u32)]
pub(super) enum Command {
    Modify = 1,
    Delete = 2,
    #[value(alias = "add")]
    AddLast = 3,
    AddFirst = 4,
}

/// virNetworkUpdateSection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[repr(u32)]
pub(super) enum Section {
    Bridge = 1,
    Domain = 2,
    Ip = 3,
    IpDhcpHost = 4,
    IpDhcpRange = 5,
    Forward = 6,
    ForwardInterface = 7,
    ForwardPf = 8,
    Portgroup = 9,
    DnsHost = 10,
    DnsTxt = 11,
    DnsSrv = 12,
}

/// A change of one entry.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) command: Command,
    pub(super) section: Section,
    pub(super) parent_index: i32,
    pub(super) xml: String,
    pub(super) flags: u32,
}

impl Change {
    /// Makes it.
    pub(super) fn make(self, connection: &mut Connection, net: &RemoteNetwork) -> Result<(), ClientError> {
        // Daemons of old take the two in the other order; those that don't say that they have this feature.
        let asked = ConnectSupportsFeature { feature: NETWORK_UPDATE_HAS_CORRECT_ORDER };
        let in_order = match connection.call(&asked) {
            Ok(reply) => reply.supported != 0,
            Err(ClientError::Daemon(_)) => false,
            Err(error) => return Err(error),
        };
        let (mut command, mut section) = (self.command as u32, self.section as u32);
        if !in_order {
            std::mem::swap(&mut command, &mut section);
        }
        let Self { parent_index, xml, flags, .. } = self;
        connection.call(&NetworkUpdate { net: net.clone(), command, section, parent_index, xml, flags })
    }
}

/// Makes the change.
pub(super) fn run(arguments: &UpdateArguments, options: &Options) -> Result<ExitCode, Error> {
    let xml = if arguments.xml.trim_start().starts_with('<') {
        arguments.xml.clone()
    } else {
        documents::read(Path::new(&arguments.xml))?
    };
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    let live = if arguments.live { LIVE } else { 0 };
    let config = if arguments.config { CONFIG } else { 0 };
    let change = Change {
        command: arguments.command,
        section: arguments.section,
        parent_index: arguments.parent_index.unwrap_or(-1),
        xml,
        flags: live | config,
    };
    let made = change.make(&mut connection, &network);
    made.attempt(|| format!("cannot update the network {}", network.name))?;
    let done = match (arguments.live, arguments.config) {
        (true, true) => "updated: live state and persistent config",
        (true, false) => "updated: live state",
        (false, true) => "updated: persistent config",
        (false, false) => "updated",
    };
    answer(options, &network, done)
}
