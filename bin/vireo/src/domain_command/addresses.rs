//! `vireo addresses` (virsh's `domifaddr`), and what else asks for addresses of guests.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::DomainInterfaceAddresses;
use libvirt_rpc::types::{DomainInterface, RemoteDomain};
use serde_json::json;

use super::{DomainArgument, as_json};
use crate::connection::{Error, Exit, Options, connect};
use crate::output::{print, print_json};
use crate::table::Table;

/// Print the addresses of a running domain's network interfaces
#[derive(Debug, Args)]
pub(crate) struct AddressesArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Only of this interface: its name, or its Ethernet address
    #[arg(value_name = "INTERFACE")]
    interface: Option<String>,
    /// Where addresses are looked for [default: the first place that knows any]
    #[arg(long, value_enum, value_name = "WHERE")]
    source: Option<Source>,
    /// Print the interface's name and Ethernet address with each of its addresses (which is always so)
    #[arg(long, hide = true)]
    full: bool,
}

/// virDomainInterfaceAddressesSource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Source {
    /// What the host's DHCP server gave out
    Lease,
    /// What the agent in the guest says
    Agent,
    /// What the host's kernel has seen
    Arp,
}

/// Places in which addresses are looked for, one after another.
pub(super) fn sources(chosen: Option<&Source>) -> &[Source] {
    chosen.map_or(&[Source::Lease, Source::Agent, Source::Arp], std::slice::from_ref)
}

/// Prints them.
pub(super) fn run(arguments: &AddressesArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    if domain.id < 0 {
        let message = format!("domain {} is not running", domain.name);
        return Err(Error::trouble(Exit::WrongState, message, "`vireo start` starts a domain"));
    }
    let mut found = addresses(&mut connection, &domain, sources(arguments.source.as_ref()))?;
    if let Some(wanted) = &arguments.interface {
        let is_wanted = |interface: &DomainInterface| {
            let mac = interface.hwaddr.as_deref();
            interface.name == *wanted || mac.is_some_and(|mac| mac.eq_ignore_ascii_case(wanted))
        };
        found.retain(is_wanted);
    }
    let mac = |interface: &DomainInterface| interface.hwaddr.clone().unwrap_or_else(|| "-".to_owned());
    let all =
        found.iter().flat_map(|interface| interface.addrs.iter().map(move |address| (interface, address)));
    if options.json {
        let mut told = as_json(&domain);
        told["addresses"] = all
            .map(|(interface, address)| {
                json!({
                    "interface": interface.name, "mac": interface.hwaddr,
                    "address": address.addr, "prefix": address.prefix,
                })
            })
            .collect();
        print_json(&told)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["Name", "MAC address", "Protocol", "Address"]);
    for (interface, address) in all {
        let protocol = if address.kind == 0 { "ipv4" } else { "ipv6" };
        let address = format!("{}/{}", address.addr, address.prefix);
        table.row(vec![
            interface.name.as_str().into(),
            mac(interface).into(),
            protocol.into(),
            address.into(),
        ]);
    }
    print(&table.text(false))?;
    Ok(ExitCode::SUCCESS)
}

/// Interfaces with addresses by which the guest can be reached, from the first of these places that knows any.
pub(super) fn addresses(
    connection: &mut Connection,
    domain: &RemoteDomain,
    sources: &[Source],
) -> Result<Vec<DomainInterface>, Error> {
    for source in sources {
        let call = DomainInterfaceAddresses { dom: domain.clone(), source: *source as u32, flags: 0 };
        match connection.call(&call) {
            Ok(reply) if sources.len() == 1 => return Ok(reply.ifaces),
            Ok(reply) if reply.ifaces.iter().any(|interface| reachable(interface).next().is_some()) => {
                return Ok(reply.ifaces);
            }
            Ok(_) => {}
            // No agent, no server, no permission: another place may know, or this one later.
            Err(ClientError::Daemon(_)) if sources.len() > 1 => {}
            Err(error) => {
                return Err(Error::daemon(format!("cannot learn addresses of {}", domain.name), error));
            }
        }
    }
    Ok(Vec::new())
}

/// Addresses of a domain for people; none if it doesn't run or nobody knows them. The guest is not asked: an agent that hangs would have
/// everybody wait.
pub(super) fn known(connection: &mut Connection, domain: &RemoteDomain) -> Vec<String> {
    if domain.id < 0 {
        return Vec::new();
    }
    let found = addresses(connection, domain, &[Source::Lease, Source::Arp]).unwrap_or_default();
    found.iter().flat_map(reachable).map(|(_, address)| address).collect()
}

/// Those that lead to the guest from elsewhere: not to itself, and not only on one link.
pub(super) fn reachable(interface: &DomainInterface) -> impl Iterator<Item = (DomainInterface, String)> {
    let is_reachable = |address: &str| match address.parse() {
        Ok(std::net::IpAddr::V4(address)) => !address.is_loopback() && !address.is_link_local(),
        Ok(std::net::IpAddr::V6(address)) => !address.is_loopback() && !address.is_unicast_link_local(),
        Err(_) => false,
    };
    interface
        .addrs
        .iter()
        .filter(move |address| is_reachable(&address.addr))
        .map(|address| (interface.clone(), address.addr.clone()))
}

#[cfg(test)]
mod tests {
    use libvirt_rpc::types::DomainIpAddr;

    use super::*;

    #[test]
    fn only_addresses_that_lead_somewhere_are_reachable() {
        let addrs = ["127.0.0.1", "::1", "fe80::1", "169.254.1.1", "nonsense", "192.0.2.7", "2001:db8::7"];
        let addrs = addrs.map(|addr| DomainIpAddr { kind: 0, addr: addr.to_owned(), prefix: 24 }).to_vec();
        let interface = DomainInterface { name: "eth0".into(), hwaddr: None, addrs };
        let found: Vec<_> = reachable(&interface).map(|(_, address)| address).collect();
        assert_eq!(found, ["192.0.2.7", "2001:db8::7"]);
    }
}
