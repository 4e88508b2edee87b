//! `vireo wait`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use libvirt_rpc::client::ClientError;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::DomainInterfaceAddresses;
use libvirt_rpc::types::{DomainInterface, RemoteDomain};
use serde_json::json;

use super::state::State;
use super::waiting::Watch;
use super::{DomainArgument, as_json, seconds};
use crate::connection::{Error, Exit, Options, connect};
use crate::output::{harmless, print, print_json};

/// Wait until a domain is in a state, or has an address
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["state", "address"])))]
pub(crate) struct WaitArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Wait until it is in this state
    #[arg(short, long, value_enum, value_name = "STATE")]
    state: Option<Awaited>,
    /// Wait until a network interface of it has an address, and print it
    #[arg(short, long)]
    address: bool,
    /// Where addresses are looked for [default: everywhere]
    #[arg(long, value_enum, value_name = "WHERE", requires = "address")]
    source: Option<Source>,
    /// Give up after this many seconds [default: never]
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// States that somebody may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Awaited {
    Running,
    #[value(alias = "shut-off", alias = "stopped")]
    Shutoff,
    Paused,
    Crashed,
}

/// virDomainInterfaceAddressesSource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// What the host's DHCP server gave out
    Lease,
    /// What the agent in the guest says
    Agent,
    /// What the host's kernel has seen
    Arp,
}

impl Awaited {
    fn is(self, state: State) -> bool {
        match self {
            Self::Running => matches!(state, State::Running | State::Blocked),
            Self::Shutoff => state == State::ShutOff,
            Self::Paused => state == State::Paused,
            Self::Crashed => state == State::Crashed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Shutoff => "shut off",
            Self::Paused => "paused",
            Self::Crashed => "crashed",
        }
    }
}

/// Waits.
pub(super) fn run(arguments: &WaitArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    let late = |what: String| {
        let waited = arguments.timeout.unwrap_or_default();
        let message = format!("domain {} {what} after {waited:?}", domain.name);
        Error::trouble(Exit::TimedOut, message, "`vireo domstate --reason` shows how it is")
    };
    let mut watch = Watch::begin(&mut connection, &domain);
    if let Some(awaited) = arguments.state {
        let found = watch.until(deadline, |watch| {
            let state = watch.state()?;
            Ok(awaited.is(state).then_some(state))
        })?;
        let state = found.ok_or_else(|| late(format!("is not {}", awaited.name())))?;
        if options.json {
            let mut told = as_json(&domain);
            told["state"] = json!(state.name());
            print_json(&told)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let found = watch.until(deadline, |watch| {
        if !watch.state()?.is_active() {
            let message = format!("domain {} is not running", domain.name);
            return Err(Error::trouble(Exit::WrongState, message, "`vireo start` starts a domain"));
        }
        addresses(watch.connection(), &domain, arguments.source)
    })?;
    let found = found.ok_or_else(|| late("has no address".to_owned()))?;
    if options.json {
        let mut told = as_json(&domain);
        told["addresses"] = found.iter().map(|(interface, address)| {
            json!({ "interface": interface.name, "mac": interface.hwaddr, "address": address })
        }).collect();
        print_json(&told)?;
    } else {
        print(&found.iter().map(|(_, address)| format!("{}\n", harmless(address))).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Addresses by which the guest can be reached, from the first place that knows any.
fn addresses(
    connection: &mut Connection,
    domain: &RemoteDomain,
    source: Option<Source>,
) -> Result<Option<Vec<(DomainInterface, String)>>, Error> {
    let everywhere = [Source::Lease, Source::Agent, Source::Arp];
    let sources = source.as_ref().map_or(&everywhere[..], std::slice::from_ref);
    for source in sources {
        let call = DomainInterfaceAddresses { dom: domain.clone(), source: *source as u32, flags: 0 };
        match connection.call(&call) {
            Ok(reply) => {
                let found: Vec<_> = reply.ifaces.iter().flat_map(reachable).collect();
                if !found.is_empty() {
                    return Ok(Some(found));
                }
            }
            // No agent, no server, no permission: another place may know, or this one later.
            Err(ClientError::Daemon(_)) if sources.len() > 1 => {}
            Err(error) => {
                return Err(Error::daemon(format!("cannot learn addresses of {}", domain.name), error));
            }
        }
    }
    Ok(None)
}

/// Those that lead to the guest from elsewhere: not to itself, and not only on one link.
fn reachable(interface: &DomainInterface) -> impl Iterator<Item = (DomainInterface, String)> {
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
