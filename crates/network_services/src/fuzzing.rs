//! Doors to the state machines, for fuzz targets: each a network of its own with everything that a description has.

use std::sync::{Arc, LazyLock};

use crate::description::Description;
use crate::dhcpv4::{Dhcp4Server, Outcome4};
use crate::dhcpv6::{Dhcp6Server, Outcome6};
use crate::lease::Lease;
use crate::mac::MacAddress;
use crate::packets;
use crate::plan::Plan;

static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
    let description: Description =
        serde_json::from_str(include_str!("plan/everything.json")).unwrap_or_else(|error| panic!("{error}"));
    Arc::new(description.check().unwrap_or_else(|error| panic!("{error}")))
});

/// Packets of guests for a new server of DHCPv4: each a guest's number, seconds that pass, and an IPv4 packet or a message. Returns the leases
/// at the end with what was replied.
pub fn dhcpv4<'a>(packets: impl Iterator<Item = (u8, u8, &'a [u8])>) -> (Vec<Lease>, Vec<Vec<u8>>) {
    let Some(mut server) = Dhcp4Server::new(&PLAN, [], 0) else { return Default::default() };
    let (mut now, mut replies) = (0, Vec::new());
    for (guest, seconds, packet) in packets {
        now += u64::from(seconds) * 8;
        server.pool.expire(now);
        let message = packets::udp_in_version4(packet).unwrap_or(packet);
        let Outcome4 { reply, .. } = server.handle(message, MacAddress([2, 0, 0, 0, 0, guest]), now);
        replies.extend(reply.map(|reply| reply.message));
    }
    (server.pool.leases().cloned().collect(), replies)
}

/// The same for DHCPv6.
pub fn dhcpv6<'a>(packets: impl Iterator<Item = (u8, u8, &'a [u8])>) -> (Vec<Lease>, Vec<Vec<u8>>) {
    let Some(mut server) = Dhcp6Server::new(&PLAN, [], 0) else { return Default::default() };
    let (mut now, mut replies) = (0, Vec::new());
    for (guest, seconds, packet) in packets {
        now += u64::from(seconds) * 8;
        server.pool.expire(now);
        let message = match packets::in_version6(packet) {
            Some((_, _, packets::Carried::Udp(message))) => message,
            Some((_, _, packets::Carried::Icmp(message))) => {
                crate::router_advertisement::is_solicitation(message);
                message
            }
            None => packet,
        };
        let Outcome6 { reply, .. } = server.handle(message, MacAddress([2, 0, 0, 0, 0, guest]), now);
        replies.extend(reply);
    }
    (server.pool.leases().cloned().collect(), replies)
}

/// What is answered to a question; `foreign` is what others say if they are asked.
pub fn dns(question: &[u8], stream: bool, foreign: &[u8]) -> Option<Vec<u8>> {
    crate::dns::answer_alone(&PLAN, &[], question, stream, foreign)
}
