//! The DHCP server for IPv4 (RFC 2131, RFC 2132) without its sockets: a message and the time make a reply and changes of leases.
//!
//! We are the only server of the network: whoever asks for an address that is not its own is told so (DHCPNAK), and whoever comes back
//! with one that was forgotten here, and that is free, keeps it. Guests are told apart by hardware address, not by client identifier.
//! Relayed messages are refused: the network is one link. Whether somebody answers at an address is not tried before it is given
//! (RFC 2131, section 2.2, has it as advice): a guest that finds somebody there declines it, and gets another at once.

mod reply;
mod request;

use std::net::Ipv4Addr;
use std::sync::Arc;

use platform::guest_warn;

use self::reply::Reply;
use self::request::{Kind, Request};
use crate::description::{Dhcp4, Host};
use crate::lease::{Holder, Lease, LeaseEvent};
use crate::mac::{MacAddress, hexadecimal};
use crate::plan::{Guest, Hosts, Plan, contains, lease_seconds, supply};
use crate::pool::{Pool, Supply, number, version4};

/// A message on its way to a guest, from port 67 to port 68.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram4 {
    /// To whom, or everybody.
    pub(crate) mac: MacAddress,
    /// To which address, or everybody's.
    pub(crate) address: Ipv4Addr,
    /// What.
    pub(crate) message: Vec<u8>,
}

/// What a message leads to. A reply is sent when the changes are on stable storage.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome4 {
    /// The answer, if there is one.
    pub(crate) reply: Option<Datagram4>,
    /// What happened to leases.
    pub(crate) events: Vec<LeaseEvent>,
}

/// The server's state.
#[derive(Debug)]
pub(crate) struct Dhcp4Server {
    plan: Arc<Plan>,
    dhcp: Dhcp4,
    own: Ipv4Addr,
    prefix: u8,
    hosts: Hosts<Ipv4Addr>,
    /// Who has what.
    pub(crate) pool: Pool,
}

impl Dhcp4Server {
    /// The server of a plan with the leases that are remembered; none if the plan has none. Time is in seconds since 1970.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        remembered: impl IntoIterator<Item = Lease>,
        now: u64,
    ) -> Option<Self> {
        let remembered = remembered.into_iter().filter(|lease| lease.address.is_ipv4());
        Self::of(plan, Pool::new(Supply::default(), remembered, now))
    }

    /// The server of a plan, with who has what already; none if the plan has none.
    pub(crate) fn of(plan: &Arc<Plan>, mut pool: Pool) -> Option<Self> {
        let (dhcp, (own, prefix)) = (plan.description.dhcp4.clone()?, plan.own4?);
        let own_addresses = &plan.description.addresses;
        pool.supply_from(supply(&dhcp.ranges, &dhcp.hosts, own_addresses, (own.into(), prefix)));
        Some(Self { hosts: Hosts::new(&dhcp.hosts), plan: Arc::clone(plan), dhcp, own, prefix, pool })
    }

    /// Answers a message that came in a frame from `source`.
    pub(crate) fn handle(&mut self, message: &[u8], source: MacAddress, now: u64) -> Outcome4 {
        let Some(request) = Request::parse(message) else { return Outcome4::default() };
        if !request.giaddr.is_unspecified() {
            guest_warn!("network {:?}: a relayed DHCP message is refused", self.plan.description.name);
            return Outcome4::default();
        }
        // Nobody gives away another's address.
        let spoofed = request.mac != source && matches!(request.kind, Kind::Release | Kind::Decline);
        if spoofed || request.server.is_some_and(|server| server != self.own) && request.kind != Kind::Request
        {
            return Outcome4::default();
        }
        match request.kind {
            Kind::Discover => self.discover(&request, now),
            Kind::Request => self.request(&request, now),
            Kind::Decline => {
                let Some(address) = request.requested else { return Outcome4::default() };
                let events = self.pool.decline(holder(&request), number(address.into()), now);
                if !events.is_empty() {
                    guest_warn!(
                        "network {:?}: {} has found {address} in use by somebody else",
                        self.plan.description.name,
                        request.mac
                    );
                }
                Outcome4 { reply: None, events }
            }
            Kind::Release => {
                let events = self.pool.release(holder(&request), number(request.ciaddr.into()), now);
                Outcome4 { reply: None, events: events.into_iter().collect() }
            }
            Kind::Inform if self.is_here(request.ciaddr) => {
                let host = self.host(&request).cloned();
                let reply = Reply::acknowledge(self, &request, host.as_ref(), None);
                Outcome4 { reply, events: Vec::new() }
            }
            Kind::Inform => Outcome4::default(),
        }
    }

    fn is_here(&self, address: Ipv4Addr) -> bool {
        let own = crate::description::OwnAddress { address: self.own.into(), prefix: self.prefix };
        contains(&own, address.into())
    }

    fn host(&self, request: &Request) -> Option<&Host<Ipv4Addr>> {
        let client_id = request.client_id.as_deref();
        self.hosts.find(&Guest { mac: request.mac, client_id, hostname: request.hostname.as_deref() })
    }

    fn discover(&mut self, request: &Request, now: u64) -> Outcome4 {
        let host = self.host(request).cloned();
        let reservation = host.as_ref().and_then(Host::reserved);
        let wanted = request.requested.map(|address| number(address.into()));
        let Some(address) = self.pool.offer(holder(request), wanted, reservation, now) else {
            guest_warn!(
                "network {:?}: no address is left for {}: make the range larger",
                self.plan.description.name,
                request.mac
            );
            return Outcome4::default();
        };
        let address = version4(address);
        if request.rapid_commit {
            // RFC 4039: one exchange instead of two.
            return self.grant(request, host.as_ref(), address, now);
        }
        let seconds = self.lease_seconds(host.as_ref(), address, request);
        let reply = Reply::offer(self, request, host.as_ref(), (address, seconds));
        Outcome4 { reply, events: Vec::new() }
    }

    /// RFC 2131, section 4.3.2.
    fn request(&mut self, request: &Request, now: u64) -> Outcome4 {
        let address = match (request.server, request.requested) {
            // Another server's offer was taken.
            (Some(server), _) if server != self.own => return Outcome4::default(),
            (_, Some(address)) => address,
            (_, None) => request.ciaddr,
        };
        let host = self.host(request).cloned();
        let wanted = number(address.into());
        let reservation = host.as_ref().and_then(Host::reserved);
        if self.pool.may_have(holder(request), wanted, reservation, now) {
            return self.grant(request, host.as_ref(), address, now);
        }
        Outcome4 { reply: Reply::refuse(self, request), events: Vec::new() }
    }

    fn grant(
        &mut self,
        request: &Request,
        host: Option<&Host<Ipv4Addr>>,
        address: Ipv4Addr,
        now: u64,
    ) -> Outcome4 {
        let seconds = self.lease_seconds(host, address, request);
        let named = host.and_then(Host::label);
        let events = self.pool.grant(Lease {
            mac: request.mac,
            address: address.into(),
            prefix: self.prefix,
            hostname: named.or_else(|| request.hostname.clone()),
            client_id: request.client_id.as_deref().map(hexadecimal),
            iaid: None,
            since: now,
            expires: seconds.map(|seconds| now.saturating_add(seconds.into())),
        });
        let reply = Reply::acknowledge(self, request, host, Some((address, seconds)));
        Outcome4 { reply, events }
    }

    /// For how long an address is given: the host's or range's time, or less if the guest asks for less.
    fn lease_seconds(
        &self,
        host: Option<&Host<Ipv4Addr>>,
        address: Ipv4Addr,
        request: &Request,
    ) -> Option<u32> {
        let most = lease_seconds(&self.dhcp.ranges, host, address);
        let asked =
            request.lease_seconds.filter(|seconds| *seconds != u32::MAX).map(|seconds| seconds.max(120));
        match (most, asked) {
            (Some(most), Some(asked)) => Some(most.min(asked)),
            (most, None) => most,
            (None, asked) => asked,
        }
    }
}

fn holder(request: &Request) -> Holder {
    Holder { mac: request.mac, iaid: None }
}

#[cfg(test)]
mod tests;
