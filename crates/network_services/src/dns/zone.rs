//! What is known here: names and addresses of guests, of the description and of leases, without input or output.
//!
//! A name of one label and the same label in the network's domain are the same name. Of those who claim one, the description's host records
//! come first, then virtual machines by their names, then hosts with fixed addresses, then what guests call themselves, where
//! the one that had the name first has it: no guest can take the name of another.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::lease::{Lease, LeaseChange, LeaseEvent};
use crate::mac::MacAddress;
use crate::plan::{Plan, contains, domain_name, label, service_name};

/// What is said to a question.
#[derive(Debug, PartialEq)]
pub(super) enum Local {
    /// The name is known here, with these records of the type that was asked for.
    Here(Vec<RData>),
    /// There is no such name.
    Nowhere,
    /// Others are to be asked.
    Elsewhere,
    /// Nobody is asked for it.
    Refused,
}

/// Names and addresses.
#[derive(Debug)]
pub(super) struct Zone {
    plan: Arc<Plan>,
    /// Records that the description has.
    fixed: HashMap<String, Vec<RData>>,
    /// Names of addresses that the description has.
    named: HashMap<IpAddr, Name>,
    machines: HashMap<String, Vec<MacAddress>>,
    machine_of: HashMap<MacAddress, String>,
    /// Addresses of hosts with names or hardware addresses.
    hosts: HashMap<String, Vec<IpAddr>>,
    host_of: HashMap<IpAddr, String>,
    reserved: HashMap<MacAddress, Vec<IpAddr>>,
    leases: HashMap<IpAddr, Lease>,
    leased_to: HashMap<MacAddress, BTreeSet<IpAddr>>,
    /// Who call themselves so, those who did so first at the beginning.
    called: HashMap<String, BTreeSet<(u64, MacAddress, IpAddr)>>,
}

impl Zone {
    pub(super) fn new<'a>(plan: &Arc<Plan>, leases: impl IntoIterator<Item = &'a Lease>) -> Self {
        let mut zone = Self {
            plan: Arc::clone(plan),
            fixed: HashMap::new(),
            named: HashMap::new(),
            machines: HashMap::new(),
            machine_of: HashMap::new(),
            hosts: HashMap::new(),
            host_of: HashMap::new(),
            reserved: HashMap::new(),
            leases: HashMap::new(),
            leased_to: HashMap::new(),
            called: HashMap::new(),
        };
        zone.describe(plan);
        leases.into_iter().for_each(|lease| zone.add(lease));
        zone
    }

    /// The same leases under another plan.
    pub(super) fn replan(&mut self, plan: &Arc<Plan>) {
        let leases: Vec<Lease> = std::mem::take(&mut self.leases).into_values().collect();
        *self = Self::new(plan, &leases);
    }

    fn describe(&mut self, plan: &Plan) {
        let description = &plan.description;
        for (name, macs) in &description.machines {
            // One whose name is no host's name can't be asked for.
            let Some(name) = label(name).filter(|label| label.eq_ignore_ascii_case(name)) else { continue };
            for mac in macs {
                self.machine_of.insert(*mac, name.clone());
            }
            self.machines.insert(name, macs.clone());
        }
        let hosts4 = description.dhcp4.iter().flat_map(|dhcp| &dhcp.hosts);
        let hosts4 = hosts4.map(|host| (host.mac, &host.name, host.address.map(IpAddr::from)));
        let hosts6 = description.dhcp6.iter().flat_map(|dhcp| &dhcp.hosts);
        let hosts6 = hosts6.map(|host| (host.mac, &host.name, host.address.map(IpAddr::from)));
        for (mac, name, address) in hosts4.chain(hosts6) {
            let Some(address) = address else { continue };
            if let Some(mac) = mac {
                self.reserved.entry(mac).or_default().push(address);
            }
            if let Some(name) = name.as_ref().and_then(|name| label(name)) {
                self.hosts.entry(name.clone()).or_default().push(address);
                self.host_of.insert(address, name);
            }
        }
        let Some(dns) = &description.dns else { return };
        for record in &dns.hosts {
            for name in &record.names {
                let Ok(name) = domain_name(name) else { continue };
                self.add_fixed(&name, of_address(record.address));
                self.named.entry(record.address).or_insert(name);
            }
        }
        for text in &dns.texts {
            let Ok(name) = domain_name(&text.name) else { continue };
            let pieces: Vec<&[u8]> = text.value.as_bytes().chunks(255).collect();
            self.add_fixed(&name, RData::TXT(TXT::from_bytes(pieces)));
        }
        for service in &dns.services {
            let Ok(name) = service_name(service, plan.domain.as_ref()) else { continue };
            let target = service.target.as_ref().and_then(|target| domain_name(target).ok());
            let target = target.map_or_else(Name::root, |target| self.in_domain(target));
            let record = SRV::new(service.priority, service.weight, service.port, target);
            self.add_fixed(&name, RData::SRV(record));
        }
    }

    fn add_fixed(&mut self, name: &Name, record: RData) {
        let key = self.key(name);
        self.fixed.entry(key).or_default().push(record);
    }

    /// Whether who has this address is on the network.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
            || self.plan.description.addresses.iter().any(|own| contains(own, address))
    }

    /// Whether it is the host's own address.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.plan.description.addresses.iter().any(|own| own.address == address)
    }

    /// Follows what happened to a lease.
    pub(super) fn follow(&mut self, event: &LeaseEvent) {
        self.remove(&event.lease.address);
        if matches!(event.change, LeaseChange::Added | LeaseChange::Renewed) {
            self.add(&event.lease);
        }
    }

    fn add(&mut self, lease: &Lease) {
        self.leased_to.entry(lease.mac).or_default().insert(lease.address);
        if let Some(name) = &lease.hostname {
            let claim = (lease.since, lease.mac, lease.address);
            self.called.entry(name.clone()).or_default().insert(claim);
        }
        self.leases.insert(lease.address, lease.clone());
    }

    fn remove(&mut self, address: &IpAddr) {
        let Some(lease) = self.leases.remove(address) else { return };
        if let Some(addresses) = self.leased_to.get_mut(&lease.mac) {
            addresses.remove(address);
            if addresses.is_empty() {
                self.leased_to.remove(&lease.mac);
            }
        }
        if let Some(name) = &lease.hostname
            && let Some(claims) = self.called.get_mut(name)
        {
            claims.remove(&(lease.since, lease.mac, lease.address));
            if claims.is_empty() {
                self.called.remove(name);
            }
        }
    }

    /// Under what a name is kept: without the network's domain, if one label is left then.
    fn key(&self, name: &Name) -> String {
        let domain = self.plan.domain.as_ref();
        let plain =
            domain.filter(|domain| domain.zone_of(name) && name.num_labels() == domain.num_labels() + 1);
        let name = if plain.is_some() { name.trim_to_first() } else { name.clone() };
        name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
    }

    /// A name of one label as one of the network's domain.
    fn in_domain(&self, name: Name) -> Name {
        match &self.plan.domain {
            Some(domain) if name.num_labels() == 1 => name.clone().append_domain(domain).unwrap_or(name),
            _ => name,
        }
    }

    pub(super) fn look_up(&self, name: &Name, kind: RecordType) -> Local {
        if let Some(address) = reverse(name) {
            return self.name_of(address, kind);
        }
        let key = self.key(name);
        let fixed = self.fixed.get(&key);
        let addresses = self.addresses(&key);
        if fixed.is_some() || !addresses.is_empty() {
            let known = fixed.into_iter().flatten().cloned().chain(addresses.into_iter().map(of_address));
            let asked = |record: &RData| kind == RecordType::ANY || record.record_type() == kind;
            return Local::Here(known.filter(asked).collect());
        }
        self.unknown(name, &key)
    }

    fn unknown(&self, name: &Name, key: &str) -> Local {
        let description = &self.plan.description;
        let local_only = description.domain.as_ref().is_some_and(|domain| domain.local_only);
        if let Some(domain) = self.plan.domain.as_ref().filter(|domain| local_only && domain.zone_of(name)) {
            // The domain itself is there.
            return if domain == name { Local::Here(Vec::new()) } else { Local::Nowhere };
        }
        let Some(dns) = &description.dns else { return Local::Refused };
        if name.num_labels() == 1 && !dns.forward_plain_names
            // A machine's name is here alone, also while the machine has no address. A host's always has one.
            || self.machines.contains_key(key)
        {
            return Local::Nowhere;
        }
        if dns.forward { Local::Elsewhere } else { Local::Refused }
    }

    /// The addresses of a guest.
    fn addresses(&self, key: &str) -> Vec<IpAddr> {
        if self.fixed.get(key).is_some_and(|records| records.iter().any(|record| record.ip_addr().is_some()))
        {
            return Vec::new();
        }
        if let Some(macs) = self.machines.get(key) {
            let of_mac = |mac: &MacAddress| {
                let leased = self.leased_to.get(mac).into_iter().flatten().copied();
                leased.chain(self.reserved.get(mac).into_iter().flatten().copied()).collect::<Vec<_>>()
            };
            let addresses: BTreeSet<IpAddr> = macs.iter().flat_map(of_mac).collect();
            return addresses.into_iter().collect();
        }
        if let Some(addresses) = self.hosts.get(key) {
            return addresses.clone();
        }
        let Some(claims) = self.called.get(key) else { return Vec::new() };
        let Some((_, first, _)) = claims.first() else { return Vec::new() };
        claims.iter().filter(|(_, mac, _)| mac == first).map(|(_, _, address)| *address).collect()
    }

    /// Who has an address.
    fn name_of(&self, address: IpAddr, kind: RecordType) -> Local {
        let lease = self.leases.get(&address);
        let machine = || self.machine_of.get(&lease?.mac).cloned();
        let guest = || self.host_of.get(&address).cloned().or_else(|| lease?.hostname.clone());
        let called = || {
            let label = machine().or_else(guest)?;
            // Only a name that leads back.
            self.addresses(&label).contains(&address).then(|| domain_name(&label).ok()).flatten()
        };
        if let Some(name) = self.named.get(&address).cloned().or_else(called) {
            let record = RData::PTR(PTR(self.in_domain(name)));
            let asked = matches!(kind, RecordType::PTR | RecordType::ANY);
            return Local::Here(asked.then_some(record).into_iter().collect());
        }
        let description = &self.plan.description;
        let mut foreign = description.dns.iter().flat_map(|dns| &dns.foreign_pointers);
        let here = description.addresses.iter().any(|own| contains(own, address));
        if here && !foreign.any(|subnet| contains(subnet, address)) {
            return Local::Nowhere;
        }
        match &description.dns {
            Some(dns) if dns.forward => Local::Elsewhere,
            _ => Local::Refused,
        }
    }
}

fn of_address(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// The address that a name below in-addr.arpa or ip6.arpa stands for.
fn reverse(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

trait FirstLabel {
    fn trim_to_first(&self) -> Name;
}

impl FirstLabel for Name {
    fn trim_to_first(&self) -> Name {
        Name::from_labels(self.iter().take(1)).unwrap_or_else(|_| self.clone())
    }
}
