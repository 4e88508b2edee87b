//! Sections of a network changed one entry at a time, as virNetworkUpdate does: what `virsh net-update` sends.
//!
//! A change is a pure function: it gives a new network, completed and checked, or says why there is none.

use super::addresses::{DhcpHost, DhcpRange, Ip};
use super::dns::{Dns, HostNames, Service, Text};
use super::{ForwardInterface, Network, NetworkError, PortGroup, assign, check};
use crate::fields::Fields;
use crate::model::Model;
use crate::value::YesNo;

/// What is done with the entry (virNetworkUpdateCommand).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The entry takes the place of the one that it is about.
    Modify,
    /// The entry that fits is removed.
    Delete,
    /// The entry is added as the last.
    AddLast,
    /// The entry is added as the first.
    AddFirst,
}

impl Command {
    /// The command of a number of the protocol.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Modify, Self::Delete, Self::AddLast, Self::AddFirst]
            .get(usize::try_from(number).ok()?.checked_sub(1)?)
            .copied()
    }

    fn adds(self) -> bool {
        matches!(self, Self::AddFirst | Self::AddLast)
    }
}

/// Names of sections by number (virNetworkUpdateSection), as messages have them.
const SECTIONS: [&str; 13] = [
    "none",
    "bridge",
    "domain",
    "ip",
    "ip-dhcp-host",
    "ip-dhcp-range",
    "forward",
    "forward interface",
    "forward pf",
    "portgroup",
    "dns host",
    "dns txt",
    "dns srv",
];

/// Where an entry belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `<host>` of `<dhcp>`.
    DhcpHost,
    /// `<range>` of `<dhcp>`.
    DhcpRange,
    /// `<interface>` of `<forward>`.
    ForwardInterface,
    /// `<portgroup>`.
    PortGroup,
    /// `<host>` of `<dns>`.
    DnsHost,
    /// `<txt>` of `<dns>`.
    DnsText,
    /// `<srv>` of `<dns>`.
    DnsService,
}

impl Section {
    /// The section of a number of the protocol; libvirt refuses changes of the others as well.
    pub fn from_number(number: u32, network: &Network) -> Result<Self, NetworkError> {
        Ok(match number {
            4 => Self::DhcpHost,
            5 => Self::DhcpRange,
            7 => Self::ForwardInterface,
            9 => Self::PortGroup,
            10 => Self::DnsHost,
            11 => Self::DnsText,
            12 => Self::DnsService,
            other => {
                let known = usize::try_from(other).ok().and_then(|at| SECTIONS.get(at));
                let name = known.map_or_else(|| other.to_string(), |name| (*name).to_owned());
                let text = format!("can't update '{name}' section of network '{}'", network.called());
                return Err(NetworkError::UnsupportedChange(text));
            }
        })
    }

    /// The element of its entries.
    fn element(self) -> &'static str {
        match self {
            Self::DhcpHost | Self::DnsHost => "host",
            Self::DhcpRange => "range",
            Self::ForwardInterface => "interface",
            Self::PortGroup => "portgroup",
            Self::DnsText => "txt",
            Self::DnsService => "srv",
        }
    }
}

/// The network with one entry changed. `parent` is the place of the `<ip>` that the entry belongs to; with none, or a negative one, it is the
/// one that has DHCP.
pub fn update(
    network: &Network,
    command: Command,
    section: Section,
    parent: Option<i32>,
    document: &str,
) -> Result<Network, NetworkError> {
    let mut changed = network.clone();
    let edit = Edit { command, called: network.called().to_owned() };
    let root = crate::parse(document)?;
    if root.name != section.element() {
        return Err(NetworkError::Contradiction(format!(
            "unexpected element <{}>, expecting <{}>, while updating network '{}'",
            root.name,
            section.element(),
            edit.called
        )));
    }
    let fields = Fields::under(&root, &root);
    match section {
        Section::DhcpHost => edit.dhcp_host(&mut changed, parent, DhcpHost::read(fields)?)?,
        Section::DhcpRange => edit.dhcp_range(&mut changed, parent, DhcpRange::read(fields)?)?,
        Section::ForwardInterface => edit.forward_interface(&mut changed, ForwardInterface::read(fields)?)?,
        Section::PortGroup => edit.port_group(&mut changed, PortGroup::read(fields)?)?,
        Section::DnsHost => edit.dns_host(dns(&mut changed), HostNames::read(fields)?)?,
        Section::DnsText => edit.dns_text(dns(&mut changed), Text::read(fields)?)?,
        Section::DnsService => edit.dns_service(dns(&mut changed), Service::read(fields)?)?,
    }
    assign::tidy(&mut changed);
    check::check(&changed)?;
    Ok(changed)
}

fn dns(network: &mut Network) -> &mut Dns {
    network.dns.get_or_insert_default()
}

/// One change of one network.
struct Edit {
    command: Command,
    /// The network's name.
    called: String,
}

fn invalid(text: String) -> NetworkError {
    NetworkError::Invalid(text)
}

/// Whether what is said agrees with what is there.
fn agrees<T: PartialEq>(said: Option<&T>, there: Option<&T>) -> bool {
    said.is_none() || said == there
}

/// Whether both are there and equal.
fn same<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
    one.is_some() && one == other
}

/// An element in one line, as messages have it.
fn inline(model: &impl Model, name: &str) -> String {
    let text = model.write(name).to_string();
    text.lines().map(str::trim).collect()
}

impl Edit {
    fn add<T>(&self, list: &mut Vec<T>, entry: T) {
        let at = if self.command == Command::AddFirst { 0 } else { list.len() };
        list.insert(at, entry);
    }

    /// What can only be added and removed.
    fn not_modified(&self, what: &str) -> Result<(), NetworkError> {
        if self.command == Command::Modify {
            let text = format!("{what} cannot be modified, only added or deleted");
            return Err(NetworkError::UnsupportedChange(text));
        }
        Ok(())
    }

    /// The subnet whose DHCP is changed.
    fn ip<'a>(&self, network: &'a mut Network, parent: Option<i32>) -> Result<&'a mut Ip, NetworkError> {
        let called = &self.called;
        let at = match parent.filter(|index| *index >= 0) {
            Some(index) => usize::try_from(index).ok().filter(|at| *at < network.ips.len()).ok_or_else(|| {
                invalid(format!(
                    "couldn't update dhcp host entry - no <ip> element found at index {index} in network '{called}'"
                ))
            })?,
            None => {
                let with_dhcp = network.ips.iter().position(|ip| ip.dhcp.is_some());
                let ipv4 = || network.ips.iter().position(|ip| ip.address.0.is_ipv4());
                with_dhcp.or_else(ipv4).or((!network.ips.is_empty()).then_some(0)).ok_or_else(|| {
                    invalid(format!("couldn't update dhcp host entry - no <ip> element found in network '{called}'"))
                })?
            }
        };
        Ok(&mut network.ips[at])
    }

    fn dhcp_host(
        &self,
        network: &mut Network,
        parent: Option<i32>,
        host: DhcpHost,
    ) -> Result<(), NetworkError> {
        let ip = self.ip(network, parent)?;
        if host.ip.is_some_and(|address| address.is_ipv4() != ip.address.0.is_ipv4()) {
            return Err(invalid(
                "the address family of a host entry IP must match the address family of the dhcp element's parent"
                    .to_owned(),
            ));
        }
        let hosts = &mut ip.dhcp_or_default().hosts;
        let conflicts = |there: &DhcpHost| {
            same(host.mac.as_ref(), there.mac.as_ref())
                || same(host.id.as_ref(), there.id.as_ref())
                || same(host.name.as_ref(), there.name.as_ref())
                || same(host.ip.as_ref(), there.ip.as_ref())
        };
        match self.command {
            Command::Modify => match hosts.iter().position(conflicts) {
                Some(at) => hosts[at] = host,
                None => {
                    return Err(invalid(format!(
                        "couldn't locate an existing dhcp host entry with \"{}\" in network '{}'",
                        inline(&host, "host"),
                        self.called
                    )));
                }
            },
            Command::Delete => {
                let fits = |there: &DhcpHost| {
                    agrees(host.mac.as_ref(), there.mac.as_ref())
                        && agrees(host.id.as_ref(), there.id.as_ref())
                        && agrees(host.name.as_ref(), there.name.as_ref())
                        && agrees(host.ip.as_ref(), there.ip.as_ref())
                };
                let said =
                    host.mac.is_some() || host.id.is_some() || host.name.is_some() || host.ip.is_some();
                let Some(at) = hosts.iter().position(|there| said && fits(there)) else {
                    return Err(invalid(format!(
                        "couldn't locate a matching dhcp host entry in network '{}'",
                        self.called
                    )));
                };
                hosts.remove(at);
            }
            Command::AddFirst | Command::AddLast => {
                if hosts.iter().any(conflicts) {
                    return Err(invalid(format!(
                        "there is an existing dhcp host entry in network '{}' that matches \"{}\"",
                        self.called,
                        inline(&host, "host")
                    )));
                }
                self.add(hosts, host);
            }
        }
        Ok(())
    }

    fn dhcp_range(
        &self,
        network: &mut Network,
        parent: Option<i32>,
        range: DhcpRange,
    ) -> Result<(), NetworkError> {
        self.not_modified("dhcp ranges")?;
        let ranges = &mut self.ip(network, parent)?.dhcp_or_default().ranges;
        let found = ranges.iter().position(|there| there.start == range.start && there.end == range.end);
        match (self.command.adds(), found) {
            (true, Some(_)) => {
                let bare = DhcpRange { lease: None, ..range };
                return Err(invalid(format!(
                    "there is an existing dhcp range entry in network '{}' that matches \"{}\"",
                    self.called,
                    inline(&bare, "range")
                )));
            }
            (true, None) => self.add(ranges, range),
            (false, Some(at)) => drop(ranges.remove(at)),
            (false, None) => {
                return Err(invalid(format!(
                    "couldn't locate a matching dhcp range entry in network '{}'",
                    self.called
                )));
            }
        }
        Ok(())
    }

    fn forward_interface(&self, network: &mut Network, entry: ForwardInterface) -> Result<(), NetworkError> {
        self.not_modified("forward interface entries")?;
        let Some(dev) = entry.dev.clone() else {
            let text = "missing dev attribute in <interface> element".to_owned();
            return Err(NetworkError::Contradiction(text));
        };
        let Some(forward) = &mut network.forward else {
            return Err(invalid(format!(
                "network '{}' is isolated: no interface leads outside",
                self.called
            )));
        };
        let interfaces = &mut forward.interfaces;
        let found = interfaces.iter().position(|there| there.dev == entry.dev);
        match (self.command.adds(), found) {
            (true, Some(_)) => {
                return Err(invalid(format!(
                    "there is an existing interface entry in network '{}' that matches \"<interface dev='{dev}'>\"",
                    self.called
                )));
            }
            (true, None) => self.add(interfaces, entry),
            (false, Some(at)) => {
                if let Some(guests) = interfaces[at].connections.filter(|guests| *guests > 0) {
                    return Err(invalid(format!(
                        "unable to delete interface '{dev}' in network '{}'. It is currently being used by {guests} domains.",
                        self.called
                    )));
                }
                interfaces.remove(at);
            }
            (false, None) => {
                return Err(invalid(format!(
                    "couldn't find an interface entry in network '{}' matching <interface dev='{dev}'>",
                    self.called
                )));
            }
        }
        forward.dev = forward.interfaces.first().and_then(|first| first.dev.clone());
        Ok(())
    }

    fn port_group(&self, network: &mut Network, group: PortGroup) -> Result<(), NetworkError> {
        let groups = &mut network.port_groups;
        let found = groups.iter().position(|there| there.name == group.name);
        if self.command.adds() && found.is_some() {
            return Err(invalid(format!(
                "there is an existing portgroup entry in network '{}' that matches \"<portgroup name='{}'>\"",
                self.called, group.name
            )));
        }
        let other_default =
            groups.iter().any(|there| there.default == Some(YesNo::Yes) && there.name != group.name);
        if self.command != Command::Delete && group.default == Some(YesNo::Yes) && other_default {
            return Err(invalid(format!(
                "a different portgroup entry in network '{}' is already set as the default. Only one default is allowed.",
                self.called
            )));
        }
        match (self.command, found) {
            (Command::AddFirst | Command::AddLast, _) => self.add(groups, group),
            (Command::Modify, Some(at)) => groups[at] = group,
            (Command::Delete, Some(at)) => drop(groups.remove(at)),
            (Command::Modify | Command::Delete, None) => {
                return Err(invalid(format!(
                    "couldn't find a portgroup entry in network '{}' matching <portgroup name='{}'>",
                    self.called, group.name
                )));
            }
        }
        Ok(())
    }

    /// Adds a record, or removes the one that fits.
    fn record<T>(
        &self,
        list: &mut Vec<T>,
        record: T,
        fits: impl Fn(&T) -> bool,
        kind: &str,
        existing: &str,
    ) -> Result<(), NetworkError> {
        let mut found = list.iter().enumerate().filter(|(_, there)| fits(there)).map(|(at, _)| at);
        let (first, further) = (found.next(), found.next());
        if self.command.adds() {
            if first.is_some() {
                return Err(invalid(format!("{existing} in network {}", self.called)));
            }
            self.add(list, record);
            return Ok(());
        }
        match (first, further) {
            (Some(at), None) => drop(list.remove(at)),
            (Some(_), Some(_)) => {
                return Err(invalid(format!(
                    "multiple matching {kind} records were found in network {}",
                    self.called
                )));
            }
            (None, _) => {
                return Err(invalid(format!(
                    "couldn't locate a matching {kind} record in network {}",
                    self.called
                )));
            }
        }
        Ok(())
    }

    fn dns_host(&self, dns: &mut Dns, host: HostNames) -> Result<(), NetworkError> {
        self.not_modified("DNS HOST records")?;
        if host.ip.is_none() && host.names.is_empty() {
            return Err(NetworkError::Contradiction(format!(
                "Missing ip and hostname in network '{}' DNS HOST record",
                self.called
            )));
        }
        let (ip, names) = (host.ip, host.names.clone());
        // A name may have several addresses, an address is said once.
        let adds = self.command.adds();
        let fits = |there: &HostNames| {
            agrees(ip.as_ref(), there.ip.as_ref())
                && (adds || names.iter().all(|name| there.names.contains(name)))
        };
        let existing = "there is already at least one DNS HOST record with a matching field";
        self.record(&mut dns.hosts, host, fits, "DNS HOST", existing)
    }

    fn dns_text(&self, dns: &mut Dns, text: Text) -> Result<(), NetworkError> {
        self.not_modified("DNS TXT records")?;
        let Some(name) = text.name.clone() else {
            return Err(NetworkError::Contradiction(format!(
                "missing required name attribute in DNS TXT record of network {}",
                self.called
            )));
        };
        let existing = format!("there is already a DNS TXT record with name '{name}'");
        let fits = |there: &Text| there.name.as_deref() == Some(&name);
        self.record(&mut dns.texts, text, fits, "DNS TXT", &existing)
    }

    fn dns_service(&self, dns: &mut Dns, service: Service) -> Result<(), NetworkError> {
        self.not_modified("DNS SRV records")?;
        let said = service.clone();
        if said == Service::default() {
            return Err(NetworkError::Contradiction(format!(
                "missing required service attribute in DNS SRV record of network '{}'",
                self.called
            )));
        }
        let fits = |there: &Service| {
            agrees(said.service.as_ref(), there.service.as_ref())
                && agrees(said.protocol.as_ref(), there.protocol.as_ref())
                && agrees(said.domain.as_ref(), there.domain.as_ref())
                && agrees(said.target.as_ref(), there.target.as_ref())
                && agrees(said.port.as_ref(), there.port.as_ref())
                && agrees(said.priority.as_ref(), there.priority.as_ref())
                && agrees(said.weight.as_ref(), there.weight.as_ref())
        };
        let existing = "there is already at least one DNS SRV record matching all specified fields";
        self.record(&mut dns.services, service, fits, "DNS SRV", existing)
    }
}

#[cfg(test)]
mod tests;
