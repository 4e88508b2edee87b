//! The DHCP server for IPv6 (RFC 8415) without its sockets: a message and the time make a reply and changes of leases.
//!
//! Addresses only (IA_NA): prefixes and temporary addresses are refused, relays are not answered. Guests are told apart by hardware address and
//! identity association, not by DUID, which clones share. Our preference is the highest, so that no guest waits for another server.

mod request;

use std::net::Ipv6Addr;
use std::sync::Arc;

use dhcproto::Encodable;
use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, IAPD, Message, MessageType, OptionCode, Status, StatusCode,
    UnknownOption,
};
use platform::guest_warn;

use self::request::{Association, Kind, Request};
use crate::description::{Dhcp6, Host, OwnAddress};
use crate::lease::{Holder, Lease, LeaseEvent};
use crate::mac::{MacAddress, hexadecimal};
use crate::plan::{Guest, Hosts, Plan, contains, encoded, lease_seconds, supply};
use crate::pool::{Pool, Supply, number, version6};

/// Options by number (RFC 8415, section 24; RFC 3646; RFC 4704).
const DNS_SERVERS: u16 = 23;
const DOMAIN_LIST: u16 = 24;
const CLIENT_FQDN: u16 = 39;

/// What a message leads to. A reply, to port 546 of whom the message came from, is sent when the changes are on stable storage.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome6 {
    /// The answer, if there is one.
    pub(crate) reply: Option<Vec<u8>>,
    /// What happened to leases.
    pub(crate) events: Vec<LeaseEvent>,
}

/// The server's state.
#[derive(Debug)]
pub(crate) struct Dhcp6Server {
    plan: Arc<Plan>,
    dhcp: Dhcp6,
    own: Ipv6Addr,
    prefix: u8,
    hosts: Hosts<Ipv6Addr>,
    /// Who has what.
    pub(crate) pool: Pool,
}

impl Dhcp6Server {
    /// The server of a plan with the leases that are remembered; none if the plan has none. Time is in seconds since 1970.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        remembered: impl IntoIterator<Item = Lease>,
        now: u64,
    ) -> Option<Self> {
        let remembered = remembered.into_iter().filter(|lease| lease.address.is_ipv6());
        Self::of(plan, Pool::new(Supply::default(), remembered, now))
    }

    /// The server of a plan, with who has what already; none if the plan has none.
    pub(crate) fn of(plan: &Arc<Plan>, mut pool: Pool) -> Option<Self> {
        let (dhcp, (own, prefix)) = (plan.description.dhcp6.clone()?, plan.own6?);
        let own_addresses = &plan.description.addresses;
        pool.supply_from(supply(&dhcp.ranges, &dhcp.hosts, own_addresses, (own.into(), prefix)));
        Some(Self { hosts: Hosts::new(&dhcp.hosts), plan: Arc::clone(plan), dhcp, own, prefix, pool })
    }

    /// Answers a message that came in a frame from `source`.
    pub(crate) fn handle(&mut self, message: &[u8], source: MacAddress, now: u64) -> Outcome6 {
        let Some(request) = Request::parse(message).filter(|_| source.is_station()) else {
            return Outcome6::default();
        };
        let ours = request.server.as_ref().map(|server| *server == self.duid());
        // Section 16: who has to name a server and who must not.
        let sound = match request.kind {
            Kind::Solicit | Kind::Confirm | Kind::Rebind => {
                request.server.is_none() && request.client.is_some()
            }
            Kind::InformationRequest => ours != Some(false),
            _ => ours == Some(true) && request.client.is_some(),
        };
        if !sound {
            return Outcome6::default();
        }
        match request.kind {
            Kind::Solicit if !request.rapid_commit => self.advertise(&request, source, now),
            Kind::Solicit | Kind::Request | Kind::Renew | Kind::Rebind => self.assign(&request, source, now),
            Kind::Confirm => self.confirm(&request),
            Kind::Release | Kind::Decline => self.give_back(&request, source, now),
            Kind::InformationRequest => {
                let reply = self.reply(MessageType::Reply, &request, None, Vec::new());
                Outcome6 { reply, events: Vec::new() }
            }
        }
    }

    /// A DUID of the network's UUID (RFC 6355).
    fn duid(&self) -> Vec<u8> {
        [0, 4].into_iter().chain(self.plan.uuid).collect()
    }

    fn host(&self, request: &Request, mac: MacAddress) -> Option<&Host<Ipv6Addr>> {
        self.hosts.find(&Guest {
            mac,
            client_id: request.client.as_deref(),
            hostname: request.hostname.as_deref(),
        })
    }

    fn advertise(&mut self, request: &Request, mac: MacAddress, now: u64) -> Outcome6 {
        let host = self.host(request, mac).cloned();
        let mut options = Vec::new();
        for association in &request.associations {
            let holder = Holder { mac, iaid: Some(association.iaid) };
            let wanted = association.addresses.first().map(|address| number((*address).into()));
            let reservation = host.as_ref().and_then(Host::reserved);
            let offered = self.pool.offer(holder, wanted, reservation, now).map(version6);
            options.push(match offered {
                Some(address) => self.granted(association.iaid, host.as_ref(), address, &[]),
                None => self.nothing_left(association.iaid, mac),
            });
        }
        let reply = self.reply(MessageType::Advertise, request, host.as_ref(), options);
        Outcome6 { reply, events: Vec::new() }
    }

    /// Gives each association the address that it has or asks for if it may have it, or another (sections 18.3.2, 18.3.4, 18.3.5).
    fn assign(&mut self, request: &Request, mac: MacAddress, now: u64) -> Outcome6 {
        let host = self.host(request, mac).cloned();
        let reservation = host.as_ref().and_then(Host::reserved);
        let (mut options, mut events) = (Vec::new(), Vec::new());
        for association in &request.associations {
            let holder = Holder { mac, iaid: Some(association.iaid) };
            let present = self.pool.lease_of(holder).map(|lease| number(lease.address));
            let asked = association.addresses.iter().map(|address| number((*address).into()));
            let kept = present
                .into_iter()
                .chain(asked)
                .find(|address| self.pool.may_have(holder, *address, reservation, now));
            let address = kept.or_else(|| self.pool.offer(holder, None, reservation, now));
            let Some(address) = address.map(version6) else {
                options.push(self.nothing_left(association.iaid, mac));
                continue;
            };
            let named = host.as_ref().and_then(Host::label);
            let seconds = lease_seconds(&self.dhcp.ranges, host.as_ref(), address);
            events.extend(self.pool.grant(Lease {
                mac,
                address: address.into(),
                prefix: self.prefix,
                hostname: named.or_else(|| request.hostname.clone()),
                client_id: request.client.as_deref().map(hexadecimal),
                iaid: Some(association.iaid),
                since: now,
                expires: seconds.map(|seconds| now.saturating_add(seconds.into())),
            }));
            options.push(self.granted(association.iaid, host.as_ref(), address, &association.addresses));
        }
        let reply = self.reply(MessageType::Reply, request, host.as_ref(), options);
        Outcome6 { reply, events }
    }

    /// Says whether the addresses belong to this network (section 18.3.3).
    fn confirm(&self, request: &Request) -> Outcome6 {
        let own = OwnAddress { address: self.own.into(), prefix: self.prefix };
        let addresses: Vec<_> = request.associations.iter().flat_map(|one| &one.addresses).collect();
        if addresses.is_empty() {
            return Outcome6::default();
        }
        let here = addresses.iter().all(|address| contains(&own, (**address).into()));
        let status = status(if here { Status::Success } else { Status::NotOnLink });
        let reply = self.reply(MessageType::Reply, request, None, vec![status]);
        Outcome6 { reply, events: Vec::new() }
    }

    fn give_back(&mut self, request: &Request, mac: MacAddress, now: u64) -> Outcome6 {
        let (mut options, mut events) = (vec![status(Status::Success)], Vec::new());
        for Association { iaid, addresses } in &request.associations {
            let holder = Holder { mac, iaid: Some(*iaid) };
            let mut known = false;
            for address in addresses {
                let address = number((*address).into());
                let given_back: Vec<LeaseEvent> = if request.kind == Kind::Decline {
                    self.pool.decline(holder, address, now)
                } else {
                    self.pool.release(holder, address, now).into_iter().collect()
                };
                if request.kind == Kind::Decline && !given_back.is_empty() {
                    guest_warn!(
                        "network {:?}: {mac} has found {} in use by somebody else",
                        self.plan.description.name,
                        version6(address)
                    );
                }
                known |= !given_back.is_empty();
                events.extend(given_back);
            }
            if !known {
                let opts = [status(Status::NoBinding)].into_iter().collect();
                options.push(DhcpOption::IANA(IANA { id: *iaid, t1: 0, t2: 0, opts }));
            }
        }
        Outcome6 { reply: self.reply(MessageType::Reply, request, None, options), events }
    }

    /// An association with its address; others that the guest named are over.
    fn granted(
        &self,
        iaid: u32,
        host: Option<&Host<Ipv6Addr>>,
        address: Ipv6Addr,
        named: &[Ipv6Addr],
    ) -> DhcpOption {
        let seconds = lease_seconds(&self.dhcp.ranges, host, address).unwrap_or(u32::MAX);
        let part = |tenths: u32| if seconds == u32::MAX { seconds } else { seconds / 10 * tenths };
        let entry = |addr, seconds| {
            let opts = DhcpOptions::new();
            DhcpOption::IAAddr(IAAddr { addr, preferred_life: seconds, valid_life: seconds, opts })
        };
        let over = named.iter().filter(|other| **other != address).map(|other| entry(*other, 0));
        let opts = std::iter::once(entry(address, seconds)).chain(over).collect();
        DhcpOption::IANA(IANA { id: iaid, t1: part(5), t2: part(8), opts })
    }

    fn nothing_left(&self, iaid: u32, mac: MacAddress) -> DhcpOption {
        guest_warn!(
            "network {:?}: no IPv6 address is left for {mac}: make the range larger",
            self.plan.description.name
        );
        let opts = [status(Status::NoAddrsAvail)].into_iter().collect();
        DhcpOption::IANA(IANA { id: iaid, t1: 0, t2: 0, opts })
    }

    fn reply(
        &self,
        kind: MessageType,
        request: &Request,
        host: Option<&Host<Ipv6Addr>>,
        mut options: Vec<DhcpOption>,
    ) -> Option<Vec<u8>> {
        options.push(DhcpOption::ServerId(self.duid()));
        options.extend(request.client.clone().map(DhcpOption::ClientId));
        if kind == MessageType::Advertise {
            options.push(DhcpOption::Preference(u8::MAX));
        } else if request.kind == Kind::Solicit {
            options.push(DhcpOption::RapidCommit);
        }
        // Section 18.3.9: what can't be had is said of each.
        for id in &request.delegations {
            let opts = [status(Status::NoPrefixAvail)].into_iter().collect();
            options.push(DhcpOption::IAPD(IAPD { id: *id, t1: 0, t2: 0, opts }));
        }
        if self.plan.description.dns.is_some() && request.asked_for.contains(&DNS_SERVERS) {
            options.push(DhcpOption::DomainNameServers(vec![self.own]));
        }
        if let Some(domain) = self.plan.domain.as_ref().filter(|_| request.asked_for.contains(&DOMAIN_LIST)) {
            options.push(DhcpOption::DomainSearchList(vec![domain.clone()]));
        }
        let named = host.and_then(Host::label).or_else(|| request.hostname.clone());
        if let Some(name) = named.filter(|_| request.asked_for.contains(&CLIENT_FQDN)) {
            options.push(self.fqdn(&name));
        }
        let mut message = Message::new_with_id(kind, request.xid);
        message.set_opts(options.into_iter().collect());
        message.to_vec().ok()
    }

    /// RFC 4704, section 4: we name the guest, whatever it wants.
    fn fqdn(&self, name: &str) -> DhcpOption {
        let domain = self.plan.domain.iter().flat_map(|domain| domain.iter());
        let whole = encoded(std::iter::once(name.as_bytes()).chain(domain));
        let bytes = std::iter::once(3).chain(whole).collect();
        DhcpOption::Unknown(UnknownOption::new(OptionCode::from(CLIENT_FQDN), bytes))
    }
}

fn status(status: Status) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode { status, msg: String::new() })
}

#[cfg(test)]
mod tests;
