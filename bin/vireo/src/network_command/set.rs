//! `vireo network set`: entries that people change most, in words; what runs is changed as well as the definition.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::types::RemoteNetwork;
use libvirt_xml::Element;
use libvirt_xml::domain::interface::ForwardProtocol;
use libvirt_xml::network::Network;
use libvirt_xml::network::addresses::DhcpHost;
use libvirt_xml::network::dns::HostNames;
use libvirt_xml::network::extension::PortForward;
use serde_json::json;

use super::create::check_extension;
use super::create::words::{forward, host, host_port};
use super::definition::define_as;
use super::update::{CONFIG, Change, Command, LIVE, Section};
use super::{INACTIVE, NetworkArgument, as_json, document, is_active, is_persistent};
use crate::connection::{Attempt, Error, Exit, Options};
use crate::output::{harmless, print, print_json};
use crate::storage_client::{Session, is, work};

/// Change addresses, names and ports of a network's guests
///
/// Addresses and names change at once, and in the definition; ports change in the definition, and count from the network's next start on.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["host", "remove_host", "dns", "remove_dns", "forward", "remove_forward"])))]
pub(crate) struct SetArguments {
    #[command(flatten)]
    network: NetworkArgument,
    /// A guest that always gets the same address, as in 52:54:00:12:34:56=10.1.2.10,NAME; can be repeated
    #[arg(long, value_name = "GUEST", value_parser = host)]
    host: Vec<DhcpHost>,
    /// Such a guest no longer: the address of its interface
    #[arg(long, value_name = "ADDRESS", value_parser = crate::create_command::mac)]
    remove_host: Vec<libvirt_xml::MacAddress>,
    /// Names of an address, as in 10.1.2.10=web,www; can be repeated
    #[arg(long, value_name = "NAMES", value_parser = names)]
    dns: Vec<HostNames>,
    /// No longer names of this address
    #[arg(long, value_name = "ADDRESS")]
    remove_dns: Vec<IpAddr>,
    /// A port of the host that leads to a guest as in tcp:8080=10.1.2.10:80; can be repeated
    #[arg(long, value_name = "FORWARD", value_parser = forward)]
    forward: Vec<PortForward>,
    /// No longer such a port, as in tcp:8080
    #[arg(long, value_name = "PORT", value_parser = port)]
    remove_forward: Vec<Port>,
}

/// A port of the host.
type Port = (ForwardProtocol, Option<IpAddr>, u16);

fn port(text: &str) -> Result<Port, String> {
    host_port(text).ok_or_else(|| format!("{text:?} is not a port as in tcp:8080 or udp:192.0.2.1:53"))
}

/// Names of an address, as in `10.1.2.10=web,www`.
fn names(text: &str) -> Result<HostNames, String> {
    let wrong = || format!("{text:?} is not an address with names as in 10.1.2.10=web,www");
    let (address, names) = text.split_once('=').ok_or_else(wrong)?;
    let ip: IpAddr = address.parse().map_err(|_| wrong())?;
    let names: Vec<_> = names.split(',').map(str::to_owned).collect();
    if names.iter().any(|name| name.trim().is_empty() || name.contains(char::is_whitespace)) {
        return Err(wrong());
    }
    Ok(HostNames { ip: Some(ip), names })
}

/// A change, and what is said of it.
type Step = (Change, String);

impl SetArguments {
    /// Changes of addresses and names; what goes, goes first.
    fn steps(&self, flags: u32) -> Vec<Step> {
        let change = |command, section, element: &Element| Change {
            command,
            section,
            parent_index: -1,
            xml: element.to_string(),
            flags,
        };
        let mut steps = Vec::new();
        for mac in &self.remove_host {
            let element = Element::new("host").with("mac", mac);
            steps.push((
                change(Command::Delete, Section::IpDhcpHost, &element),
                format!("{mac} has no address of its own any more"),
            ));
        }
        for ip in &self.remove_dns {
            let element = Element::new("host").with("ip", ip);
            steps.push((
                change(Command::Delete, Section::DnsHost, &element),
                format!("{ip} has no names any more"),
            ));
        }
        for host in &self.host {
            let (mac, ip) =
                (host.mac.unwrap_or_default(), host.ip.map(|ip| ip.to_string()).unwrap_or_default());
            let element = Element::new("host")
                .with("mac", mac)
                .with_optional("name", host.name.as_ref())
                .with("ip", &ip);
            steps.push((
                change(Command::AddLast, Section::IpDhcpHost, &element),
                format!("{mac} always gets {ip}"),
            ));
        }
        for entry in &self.dns {
            let ip = entry.ip.map(|ip| ip.to_string()).unwrap_or_default();
            let names = entry.names.iter().map(|name| Element::new("hostname").text(name));
            let element = Element::new("host").with("ip", &ip).children_from(names);
            let done = format!("{ip} is called {}", entry.names.join(", "));
            steps.push((change(Command::AddLast, Section::DnsHost, &element), done));
        }
        steps
    }

    fn has_ports(&self) -> bool {
        !self.forward.is_empty() || !self.remove_forward.is_empty()
    }
}

/// Makes the changes, one after another.
pub(super) fn run(arguments: &SetArguments, options: &Options) -> Result<ExitCode, Error> {
    let set = work(options, |session| {
        let network = arguments.network.find(session.connection)?;
        let active = is_active(session.connection, &network)?;
        let persistent = is_persistent(session.connection, &network)?;
        if arguments.has_ports() && !persistent {
            let message =
                format!("the network {} has no definition, to which ports could be added", network.name);
            return Err(Error::trouble(
                Exit::WrongState,
                message,
                "make a persistent one: `vireo network create`",
            ));
        }
        let flags = if active { LIVE } else { 0 } | if persistent { CONFIG } else { 0 };
        let mut done = Vec::new();
        if arguments.has_ports() {
            set_ports(arguments, session, &network)?;
            let from = if active { " from its next start on" } else { "" };
            done.push(format!("its ports are as you wish{from}"));
        }
        for (change, words) in arguments.steps(flags) {
            session.undo.step()?;
            let removes = change.command == Command::Delete;
            let made = change.make(session.connection, &network);
            if let Err(error) = made {
                return Err(failed(&network, &done, removes, error));
            }
            done.push(words);
        }
        Ok((network, done))
    })?;
    let (network, done) = match set {
        Ok(set) => set,
        Err(code) => return Ok(code),
    };
    if options.json {
        print_json(&json!({ "network": as_json(&network), "done": done }))?;
    } else {
        let line = |words: &String| format!("Network '{}': {}\n", harmless(&network.name), harmless(words));
        print(&done.iter().map(line).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Why a step failed, and what of the steps before it stays.
fn failed(
    network: &RemoteNetwork,
    done: &[String],
    removes: bool,
    error: libvirt_rpc::client::ClientError,
) -> Error {
    let before =
        if done.is_empty() { String::new() } else { format!(" (this was done: {})", done.join("; ")) };
    let action = format!("cannot change the network {}{before}", network.name);
    if removes && is(&error, &[ErrorCode::OperationInvalid]) {
        let advice = format!("`vireo network info {}` shows what there is", network.name);
        return Error::trouble(Exit::Failed, format!("{action}: {error}"), &advice);
    }
    Error::daemon(action, error)
}

/// Changes the definition's ports.
fn set_ports(
    arguments: &SetArguments,
    session: &mut Session<'_>,
    network: &RemoteNetwork,
) -> Result<(), Error> {
    let name = &network.name;
    let before = document(session.connection, network, INACTIVE)?;
    let mut wanted = Network::parse(&before).map_err(|error| {
        let message = format!("the definition of the network {name} can't be read: {error}");
        Error::trouble(Exit::Unsupported, message, "`vireo network edit` edits its XML")
    })?;
    let mut extension = wanted.extension.take().unwrap_or_default();
    for (protocol, address, port) in &arguments.remove_forward {
        let count = extension.port_forwards.len();
        extension.port_forwards.retain(|forward| {
            (forward.protocol, forward.address, forward.port) != (*protocol, *address, *port)
        });
        if extension.port_forwards.len() == count {
            let advice = format!("`vireo network info {name}` shows which there are");
            let message = format!("the network {name} does not forward the port {port}");
            return Err(Error::trouble(Exit::Failed, message, &advice));
        }
    }
    extension.port_forwards.extend(arguments.forward.iter().cloned());
    wanted.extension = (extension != Default::default()).then_some(extension);
    let defined = define_as(session.connection, wanted.to_xml(), false);
    let defined = defined.attempt(|| format!("cannot define the network {name}"))?;
    check_extension(session, &defined, &wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_belong_to_an_address() {
        assert_eq!(names("10.1.2.10=web,www").unwrap().names, ["web", "www"]);
        for wrong in ["", "10.1.2.10", "10.1.2.10=", "10.1.2.10=a,", "web=a", "10.1.2.10=a b"] {
            assert!(names(wrong).is_err(), "{wrong}");
        }
        assert!(port("tcp:80").is_ok() && port("80").is_err());
    }
}
