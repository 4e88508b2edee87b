//! Packets of guests for a network's DHCP server of IPv6: each a guest's number, time that passes, a length and that many bytes.
//!
//! Held true: nothing panics; each reply is a message of the server that is read again; no address is leased twice, and none that is
//! not the network's to give.
#![no_main]

use std::collections::HashSet;

use dhcproto::Decodable;
use dhcproto::v6::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let packets = std::iter::from_fn(|| {
        let (&[guest, seconds], after) = rest.split_first_chunk()?;
        let (packet, after) = vireo_fuzz::split(after)?;
        rest = after;
        Some((guest, seconds, packet))
    });
    let (leases, replies) = network_services::fuzzing::dhcpv6(packets);
    let addresses: HashSet<_> = leases.iter().map(|lease| lease.address).collect();
    assert_eq!(addresses.len(), leases.len(), "an address was leased twice");
    for lease in leases {
        assert!(lease.address.to_string().starts_with("fd00:7::") && lease.prefix == 64);
    }
    for reply in replies {
        Message::from_bytes(&reply).expect("our own message");
    }
});
