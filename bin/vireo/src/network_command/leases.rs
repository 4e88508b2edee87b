//! Addresses that a network has given to guests.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::procedures::NetworkGetDhcpLeases;
use libvirt_rpc::types::NetworkDhcpLease;
use serde_json::{Value, json};

use super::{NetworkArgument, as_json};
use crate::connection::{Attempt, Error, Options, connect};
use crate::create_command::mac;
use crate::output::{local_time, print, print_json};
use crate::table::Table;

/// virIPAddrType.
const IPV6: i32 = 1;

/// List the addresses that a network has given to guests
#[derive(Debug, Args)]
pub(crate) struct LeasesArguments {
    #[command(flatten)]
    network: NetworkArgument,
    /// Only of the guest with this address of its interface
    #[arg(long, value_name = "ADDRESS", value_parser = mac)]
    mac: Option<libvirt_xml::MacAddress>,
}

/// Prints them.
pub(super) fn run(arguments: &LeasesArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let network = arguments.network.find(&mut connection)?;
    let mac = arguments.mac.map(|mac| mac.to_string());
    let call = NetworkGetDhcpLeases { net: network.clone(), mac, need_results: 1, flags: 0 };
    let listed = connection.call(&call);
    let mut leases = listed.attempt(|| format!("cannot list the leases of {}", network.name))?.leases;
    let key = |lease: &NetworkDhcpLease| {
        let address: Result<std::net::IpAddr, _> = lease.ipaddr.parse();
        (address.ok(), lease.ipaddr.clone())
    };
    leases.sort_by_key(key);
    if options.json {
        let all: Vec<_> = leases.iter().map(told).collect();
        print_json(&json!({ "network": as_json(&network), "leases": all }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[
        "Expiry Time",
        "MAC address",
        "Protocol",
        "IP address",
        "Hostname",
        "Client ID or DUID",
    ]);
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned()).into();
    for lease in &leases {
        let expires = if lease.expirytime == 0 { "never".to_owned() } else { local_time(lease.expirytime) };
        table.row(vec![
            expires.into(),
            or_none(&lease.mac),
            protocol(lease).into(),
            format!("{}/{}", lease.ipaddr, lease.prefix).into(),
            or_none(&lease.hostname),
            or_none(&lease.clientid),
        ]);
    }
    print(&table.text(false))?;
    Ok(ExitCode::SUCCESS)
}

fn protocol(lease: &NetworkDhcpLease) -> &'static str {
    if lease.kind == IPV6 { "ipv6" } else { "ipv4" }
}

fn told(lease: &NetworkDhcpLease) -> Value {
    json!({
        "interface": lease.iface, "mac": lease.mac, "protocol": protocol(lease), "address": lease.ipaddr,
        "prefix": lease.prefix, "hostname": lease.hostname, "client_id": lease.clientid, "iaid": lease.iaid,
        // Seconds since 1970; null is never.
        "expires": (lease.expirytime != 0).then_some(lease.expirytime),
    })
}
