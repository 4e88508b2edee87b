//! `vireo network create`: a network from nothing but words.
//!
//! The document is built from `libvirt_xml`'s model. Which subnets are taken is the daemon's to say: by the definitions that it has, and by
//! refusing to start what overlaps a route or an address of the host. A subnet that was not asked for is then another one.

mod subnet;
pub(super) mod words;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use libvirt_rpc::ErrorCode;
use libvirt_rpc::procedures::{ConnectListAllNetworks, NetworkLookupByName};
use libvirt_rpc::types::RemoteNetwork;
use libvirt_xml::domain::interface::IpFamily;
use libvirt_xml::network::addresses::{Address, Dhcp, DhcpHost, DhcpRange, Ip};
use libvirt_xml::network::extension::{Extension, PortForward, Spoofing};
use libvirt_xml::network::{Bridge, DomainName, Forward, ForwardInterface, ForwardMode, Mtu, Nat, Network};
use libvirt_xml::{YesNo, network::dns::Dns};
use serde_json::json;

use self::subnet::{Subnet, candidates, unique_local};
use self::words::{Kind, forward, host, range};
use super::definition::define_as;
use super::lifecycle::{set_autostart, start_network};
use super::list::Known;
use super::shape::Shape;
use super::{INACTIVE, document};
use crate::connection::{Attempt, EXIT_CODES, Error, Exit, Options};
use crate::create_command::{check_name, interface_name};
use crate::output::{harmless, print, print_json};
use crate::storage_client::{Session, is, work};
use crate::undo::Made;

/// Subnets that are tried where none is asked for.
const ATTEMPTS: usize = 24;

const EXAMPLES: &str = "\
Examples:
  vireo network create lan
  vireo network create web --subnet 10.1.2.0/24 --forward tcp:8080=10.1.2.10:80 --host 52:54:00:12:34:56=10.1.2.10,web
  vireo network create lab --kind isolated --domain lab.test --ipv6 auto
  vireo network create office --kind bridge=br0";

/// Make a network and start it: guests get addresses and names in it, and by default the way outside
#[derive(Debug, Args)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), after_help = EXIT_CODES)]
pub(crate) struct CreateArguments {
    /// The new network's name
    #[arg(value_name = "NAME")]
    name: String,
    /// How guests reach what is outside: nat, routed, isolated, open, bridge=BRIDGE (one that is there), or on top of an interface
    /// by macvtap=INTERFACE (private=, vepa= and passthrough= are its other modes)
    #[arg(long, value_name = "KIND", default_value = "nat", value_parser = Kind::parse)]
    kind: Kind,
    /// Its subnet as in 10.1.2.0/24, of which the host has the first address, or the one that is written [default: one that is free]
    #[arg(long, value_name = "SUBNET", value_parser = Subnet::parse)]
    subnet: Option<Subnet>,
    /// Its subnet of IPv6 as in fd00:1:2:3::/64; auto is a private one [default: none]
    #[arg(long, value_name = "SUBNET", value_parser = ipv6)]
    ipv6: Option<Subnet>,
    /// Addresses that guests are given as in 10.1.2.50-10.1.2.99; one range of each family [default: all that are left]
    #[arg(long, value_name = "RANGE", value_parser = range)]
    dhcp: Vec<DhcpRange>,
    /// Give guests no addresses
    #[arg(long, conflicts_with_all = ["dhcp", "host"])]
    no_dhcp: bool,
    /// A guest that always gets the same address, as in 52:54:00:12:34:56=10.1.2.10,NAME; can be repeated
    #[arg(long, value_name = "GUEST", value_parser = host)]
    host: Vec<DhcpHost>,
    /// The domain of guests' names
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Answer for no names
    #[arg(long, conflicts_with = "domain")]
    no_dns: bool,
    /// A port of the host that leads to a guest as in tcp:8080=10.1.2.10:80; can be repeated
    #[arg(long, value_name = "FORWARD", value_parser = forward)]
    forward: Vec<PortForward>,
    /// Whether guests may send with addresses that are not theirs [default: the daemon's choice]
    #[arg(long, value_name = "WHETHER")]
    spoofing: Option<Whether>,
    /// The only interface of the host by which guests reach what is outside
    #[arg(long, value_name = "INTERFACE", value_parser = interface_name)]
    dev: Option<String>,
    /// Name of its bridge [default: assigned]
    #[arg(long, value_name = "BRIDGE", value_parser = interface_name)]
    bridge_name: Option<String>,
    /// Size of frames
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65535))]
    mtu: Option<u32>,
    /// Do not start it
    #[arg(long)]
    no_start: bool,
    /// Do not have it started with the daemon
    #[arg(long)]
    no_autostart: bool,
    /// Print the definition, and make nothing
    #[arg(long, visible_alias = "dry-run")]
    print_xml: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whether {
    Allow,
    Refuse,
}

fn ipv6(text: &str) -> Result<Subnet, String> {
    if text == "auto" { Ok(unique_local()) } else { Subnet::parse(text) }
}

impl CreateArguments {
    /// What clap can't see.
    fn check(&self) -> Result<(), Error> {
        check_name(&self.name)
            .map_err(|_| Error::usage(format!("{:?} is not a name for a network", self.name)))?;
        if let Some(subnet) = self.subnet.filter(|subnet| !subnet.address.is_ipv4()) {
            return Err(Error::usage(format!("--subnet: {subnet} is of IPv6: give it with --ipv6")));
        }
        if let Some(subnet) = self.ipv6.filter(|subnet| subnet.address.is_ipv4()) {
            return Err(Error::usage(format!("--ipv6: {subnet} is of IPv4: give it with --subnet")));
        }
        let own = [
            ("--subnet", self.subnet.is_some()),
            ("--ipv6", self.ipv6.is_some()),
            ("--dhcp", !self.dhcp.is_empty()),
            ("--host", !self.host.is_empty()),
            ("--domain", self.domain.is_some()),
            ("--forward", !self.forward.is_empty()),
            ("--dev", self.dev.is_some()),
            ("--bridge-name", self.bridge_name.is_some()),
            ("--mtu", self.mtu.is_some()),
        ];
        if let Some((option, _)) = own.iter().find(|(_, given)| *given && !self.kind.has_own_bridge()) {
            return Err(Error::usage(format!(
                "{option}: the network has neither addresses nor a bridge of its own, for it uses what the host has"
            )));
        }
        if self.dev.is_some() && !matches!(self.kind, Kind::Own(ForwardMode::Nat | ForwardMode::Route)) {
            return Err(Error::usage("--dev: only nat and routed networks choose an interface"));
        }
        for family in [true, false] {
            let ranges = self.dhcp.iter().filter(|range| is_ipv4(range) == family);
            if ranges.count() > 1 {
                return Err(Error::usage("--dhcp: give one range of IPv4 and one of IPv6 at most"));
            }
        }
        let given = self.dhcp.iter().flat_map(|range| [range.start, range.end]).flatten();
        let given = given.map(|address| ("--dhcp", address));
        let hosts = self.host.iter().filter_map(|host| host.ip).map(|address| ("--host", address));
        let ports = self.forward.iter().map(|forward| ("--forward", forward.to.0));
        for (option, address) in given.chain(hosts).chain(ports) {
            let (name, subnet) =
                if address.is_ipv4() { ("--subnet", self.subnet) } else { ("--ipv6", self.ipv6) };
            let Some(subnet) = subnet else {
                return Err(Error::usage(format!(
                    "{option}: to name {address}, choose the subnet as well, by {name}"
                )));
            };
            if !subnet.contains(address) {
                return Err(Error::usage(format!("{option}: {address} is not in the subnet {subnet}")));
            }
        }
        Ok(())
    }

    /// The network's document.
    fn document(&self, subnet: Option<Subnet>) -> Network {
        let forward = |mode| Forward { mode, dev: self.dev.clone(), ..Forward::default() };
        let forward = match &self.kind {
            Kind::Isolated => None,
            Kind::Own(ForwardMode::Nat) if self.ipv6.is_some() => {
                let nat = Nat { ipv6: Some(YesNo::Yes), ..Nat::default() };
                Some(Forward { nat: Some(nat), ..forward(ForwardMode::Nat) })
            }
            Kind::Own(mode) => Some(forward(*mode)),
            Kind::Bridge(_) => Some(forward(ForwardMode::Bridge)),
            Kind::Shared(mode, device) => {
                let interface = ForwardInterface { dev: Some(device.clone()), connections: None };
                Some(Forward { interfaces: vec![interface], ..forward(*mode) })
            }
        };
        let bridge = match &self.kind {
            Kind::Bridge(name) => Some(name.clone()),
            _ => self.bridge_name.clone(),
        };
        let spoofing = self.spoofing.map(|whether| Spoofing { allow: (whether == Whether::Allow).into() });
        let extended = spoofing.is_some() || !self.forward.is_empty();
        Network {
            name: Some(self.name.clone()),
            forward,
            bridge: bridge.map(|name| Bridge { name: Some(name), ..Bridge::default() }),
            mtu: self.mtu.map(|size| Mtu { size }),
            domain: self.domain.clone().map(|name| DomainName { name, ..DomainName::default() }),
            dns: self.no_dns.then(|| Dns { enable: Some(YesNo::No), ..Dns::default() }),
            ips: subnet.into_iter().chain(self.ipv6).map(|subnet| self.ip(subnet)).collect(),
            extension: extended.then(|| Extension {
                port_forwards: self.forward.clone(),
                spoofing,
                ..Extension::default()
            }),
            ..Network::default()
        }
    }

    fn ip(&self, subnet: Subnet) -> Ip {
        let ipv4 = subnet.address.is_ipv4();
        let mut ranges: Vec<_> = self.dhcp.iter().filter(|range| is_ipv4(range) == ipv4).cloned().collect();
        if ranges.is_empty() {
            let (start, end) = subnet.range();
            ranges.push(DhcpRange { start: Some(start), end: Some(end), lease: None });
        }
        let hosts = self.host.iter().filter(|host| host.ip.is_some_and(|ip| ip.is_ipv4() == ipv4));
        let hosts = hosts.cloned().collect();
        Ip {
            family: (!ipv4).then_some(IpFamily::Ipv6),
            address: Address(subnet.address),
            prefix: Some(subnet.prefix),
            dhcp: (!self.no_dhcp).then_some(Dhcp { ranges, hosts, bootp: None }),
            ..Ip::default()
        }
    }
}

fn is_ipv4(range: &DhcpRange) -> bool {
    range.start.is_some_and(|start| start.is_ipv4())
}

/// Makes the network.
pub(super) fn run(arguments: &CreateArguments, options: &Options) -> Result<ExitCode, Error> {
    arguments.check()?;
    let made = work(options, |session| {
        let mut subnets = subnets(arguments, session)?;
        if arguments.print_xml {
            let subnet = subnets.drain(..).next().unwrap_or_default();
            print(&format!("{}\n", arguments.document(subnet).to_xml()))?;
            return Ok(None);
        }
        refuse_taken_name(arguments, session)?;
        let network = create(arguments, session, &subnets)?;
        if !arguments.no_autostart {
            set_autostart(session.connection, &network, true)?;
        }
        session.undo.step()?;
        Ok(Some(Known::ask(session.connection, network)?))
    })?;
    let known = match made {
        Ok(Some(known)) => known,
        Ok(None) => return Ok(ExitCode::SUCCESS),
        Err(code) => return Ok(code),
    };
    let done = if arguments.no_start { "defined" } else { "created and started" };
    if options.json {
        print_json(&json!({ "network": known.as_json(), "done": done }))?;
    } else {
        let addresses: Vec<_> = known.shape.addresses.iter().map(|address| harmless(address)).collect();
        let at = if addresses.is_empty() {
            String::new()
        } else {
            format!(", the host is {}", addresses.join(" and "))
        };
        print(&format!("Network '{}' {done}{at}\n", harmless(&arguments.name)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse_taken_name(arguments: &CreateArguments, session: &mut Session<'_>) -> Result<(), Error> {
    let name = &arguments.name;
    match session.connection.call(&NetworkLookupByName { name: name.clone() }) {
        Ok(_) => {
            let message = format!("there is a network {name:?} already");
            let advice = "choose another name, or remove it first: `vireo network delete` does";
            Err(Error::trouble(Exit::Failed, message, advice))
        }
        Err(error) if is(&error, &[ErrorCode::NoNetwork]) => Ok(()),
        Err(error) => Err(Error::daemon(format!("cannot look up the network {name}"), error)),
    }
}

/// Subnets of IPv4 to try, one after another; none is an attempt without.
fn subnets(arguments: &CreateArguments, session: &mut Session<'_>) -> Result<Vec<Option<Subnet>>, Error> {
    if !arguments.kind.has_own_bridge() {
        return Ok(vec![None]);
    }
    if arguments.subnet.is_some() {
        return Ok(vec![arguments.subnet]);
    }
    let call = ConnectListAllNetworks { need_results: 1, flags: 0 };
    let networks = session.call(&call, || "cannot list the networks".to_owned())?.nets;
    let mut taken = Vec::new();
    for network in networks {
        for flags in [0, INACTIVE] {
            // One that has just gone takes nothing.
            let Ok(xml) = document(session.connection, &network, flags) else { continue };
            let addresses = Shape::of(&xml).addresses;
            taken.extend(addresses.iter().filter_map(|address| Subnet::parse(address).ok()));
        }
    }
    let free = candidates().filter(|one| !taken.iter().any(|taken| taken.overlaps(*one)));
    let free: Vec<_> = free.take(ATTEMPTS).map(Some).collect();
    if free.is_empty() {
        let message = "the daemon's networks take all private subnets that were tried".to_owned();
        return Err(Error::trouble(Exit::Failed, message, "choose one with --subnet"));
    }
    Ok(free)
}

/// Defines and starts the network with the first of the subnets that is free.
fn create(
    arguments: &CreateArguments,
    session: &mut Session<'_>,
    subnets: &[Option<Subnet>],
) -> Result<RemoteNetwork, Error> {
    let name = &arguments.name;
    for (number, subnet) in subnets.iter().enumerate() {
        session.undo.step()?;
        let wanted = arguments.document(*subnet);
        let defined = define_as(session.connection, wanted.to_xml(), false);
        let network = defined.attempt(|| format!("cannot define the network {name}"))?;
        session.undo.push(Made::NetworkDefinition(network.clone()));
        check_extension(session, &network, &wanted)?;
        if arguments.no_start {
            return Ok(network);
        }
        match start_network(session.connection, &network) {
            Ok(()) => {
                session.undo.push(Made::ActiveNetwork(network.clone()));
                return Ok(network);
            }
            Err(error) if number + 1 < subnets.len() && collides(&error) => {
                session.undo.take_back(session.connection)?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::trouble(
        Exit::Failed,
        format!("there is no subnet for the network {name}"),
        "choose one with --subnet",
    ))
}

/// Whether a network does not start because its subnet is somebody else's: in the words of vireod and of libvirtd.
fn collides(error: &Error) -> bool {
    let text = error.to_string();
    text.contains("its subnet ") && text.contains(" overlaps ")
        || text.contains("is already in use by interface")
}

/// What is in this project's own namespace is lost by other daemons, without a word.
pub(super) fn check_extension(
    session: &mut Session<'_>,
    network: &RemoteNetwork,
    wanted: &Network,
) -> Result<(), Error> {
    if wanted.extension.is_none() {
        return Ok(());
    }
    let defined = document(session.connection, network, INACTIVE)?;
    let kept = Network::parse(&defined).ok().and_then(|network| network.extension);
    if kept == wanted.extension {
        return Ok(());
    }
    let message =
        format!("this daemon can't forward ports or guard addresses in the network {}", network.name);
    Err(Error::trouble(Exit::Unsupported, message, "only vireod can: leave --forward and --spoofing out"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: CreateArguments,
    }

    fn arguments(words: &[&str]) -> CreateArguments {
        Line::try_parse_from([&["x", "n"], words].concat()).unwrap().arguments
    }

    fn xml(words: &[&str]) -> String {
        let arguments = arguments(words);
        arguments.check().unwrap();
        arguments.document(arguments.subnet).to_xml()
    }

    #[test]
    fn words_become_a_document_that_libvirt_knows() {
        let document =
            xml(&["--subnet", "10.1.2.0/24", "--domain", "lan", "--host", "52:54:00:00:00:01=10.1.2.7,web"]);
        for part in [
            "<forward mode='nat'/>",
            "<domain name='lan'/>",
            "<ip address='10.1.2.1' prefix='24'>",
            "<range start='10.1.2.2' end='10.1.2.254'/>",
            "<host mac='52:54:00:00:00:01' name='web' ip='10.1.2.7'/>",
        ] {
            assert!(document.contains(part), "no {part} in {document}");
        }
        assert!(!document.contains("vireo"), "{document}");
        let six = xml(&["--subnet", "10.1.2.0/24", "--ipv6", "fd00:1::/64", "--dhcp", "fd00:1::5-fd00:1::9"]);
        assert!(
            six.contains("<nat ipv6='yes'/>") && six.contains("<range start='fd00:1::5' end='fd00:1::9'/>"),
            "{six}"
        );
        assert!(six.contains("<ip family='ipv6' address='fd00:1::1' prefix='64'>"), "{six}");
        let bridge = xml(&["--kind", "bridge=br0"]);
        assert!(
            bridge.contains("<forward mode='bridge'/>") && bridge.contains("<bridge name='br0'/>"),
            "{bridge}"
        );
        let shared = xml(&["--kind", "vepa=eth0"]);
        assert!(
            shared.contains("<forward dev='eth0' mode='vepa'>") || shared.contains("<interface dev='eth0'/>"),
            "{shared}"
        );
        let isolated = xml(&["--kind", "isolated", "--subnet", "10.1.2.0/24", "--no-dhcp", "--no-dns"]);
        assert!(
            !isolated.contains("<forward")
                && !isolated.contains("<dhcp")
                && isolated.contains("<dns enable='no'/>")
        );
        let ports = xml(&["--subnet", "10.1.2.0/24", "--forward", "tcp:80=10.1.2.7", "--spoofing", "refuse"]);
        assert!(ports.contains("<vireo:portForward proto='tcp' port='80' to='10.1.2.7'/>"), "{ports}");
        assert!(ports.contains("<vireo:spoofing allow='no'/>"), "{ports}");
    }

    #[test]
    fn words_that_do_not_fit_together_are_refused() {
        for wrong in [
            &["--subnet", "fd00::/64"][..],
            &["--ipv6", "10.1.2.0/24"],
            &["--kind", "bridge=br0", "--subnet", "10.1.2.0/24"],
            &["--kind", "isolated", "--dev", "eth0"],
            &["--forward", "tcp:80=10.1.2.7"],
            &["--subnet", "10.1.2.0/24", "--forward", "tcp:80=10.1.3.7"],
            &["--subnet", "10.1.2.0/24", "--dhcp", "10.1.3.2-10.1.3.9"],
            &["--subnet", "10.1.2.0/24", "--dhcp", "10.1.2.2-10.1.2.9", "--dhcp", "10.1.2.22-10.1.2.29"],
        ] {
            arguments(wrong).check().unwrap_err();
        }
        for wrong in
            [&["--no-dhcp", "--dhcp", "10.1.2.2-10.1.2.9"][..], &["--mtu", "67"], &["--kind", "hostdev"]]
        {
            assert!(Line::try_parse_from([&["x", "n"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_subnet_that_is_taken_is_told_from_other_reasons() {
        let error = |text: &str| Error::trouble(Exit::Failed, text.to_owned(), "");
        assert!(collides(&error(
            "network 'n': its subnet 10.1.2.1/24 overlaps the route 10.0.0.0/8 of eth0: choose"
        )));
        assert!(collides(&error("internal error: Network is already in use by interface virbr0")));
        assert!(!collides(&error("network is already active")));
    }
}
