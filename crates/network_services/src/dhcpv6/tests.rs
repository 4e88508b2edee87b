//! Guests get what RFC 8415 promises them: see its section 18.3.

use dhcproto::Decodable;
use dhcproto::v6::ORO;
use proptest::prelude::*;

use super::*;
use crate::description::Description;
use crate::lease::LeaseChange;

fn description() -> Description {
    serde_json::from_str(include_str!("../plan/everything.json")).unwrap()
}

fn server() -> Dhcp6Server {
    Dhcp6Server::new(&Arc::new(description().check().unwrap()), [], 0).unwrap()
}

fn mac(number: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 1, number])
}

const DUID: [u8; 14] = [0, 2, 0, 0, 0xab, 0x11, 1, 2, 3, 4, 5, 6, 7, 8];

fn association(id: u32, addresses: &[Ipv6Addr]) -> DhcpOption {
    let entry = |addr: &Ipv6Addr| {
        DhcpOption::IAAddr(IAAddr { addr: *addr, preferred_life: 0, valid_life: 0, opts: DhcpOptions::new() })
    };
    DhcpOption::IANA(IANA { id, t1: 0, t2: 0, opts: addresses.iter().map(entry).collect() })
}

fn message(kind: MessageType, options: &[DhcpOption]) -> Message {
    let mut message = Message::new_with_id(kind, [1, 2, 3]);
    let opts = [DNS_SERVERS, DOMAIN_LIST, CLIENT_FQDN].map(OptionCode::from).to_vec();
    let always = [DhcpOption::ClientId(DUID.to_vec()), DhcpOption::ORO(ORO { opts })];
    message.set_opts(always.into_iter().chain(options.iter().cloned()).collect());
    message
}

fn ours() -> DhcpOption {
    DhcpOption::ServerId(server().duid())
}

fn say(
    server: &mut Dhcp6Server,
    guest: MacAddress,
    message: &Message,
    now: u64,
) -> (Option<Message>, Vec<LeaseChange>) {
    let Outcome6 { reply, events } = server.handle(&message.to_vec().unwrap(), guest, now);
    let reply = reply.map(|bytes| Message::from_bytes(&bytes).unwrap());
    (reply, events.iter().map(|event| event.change).collect())
}

/// Addresses of all associations with their valid times.
fn addresses(message: &Message) -> Vec<(Ipv6Addr, u32)> {
    let associations = message.opts().iter().filter_map(|option| match option {
        DhcpOption::IANA(association) => Some(association),
        _ => None,
    });
    let entry = |option: &DhcpOption| match option {
        DhcpOption::IAAddr(address) => Some((address.addr, address.valid_life)),
        _ => None,
    };
    associations
        .flat_map(|association| association.opts.iter().filter_map(entry).collect::<Vec<_>>())
        .collect()
}

fn status_of(options: &DhcpOptions) -> Option<Status> {
    match options.get(OptionCode::StatusCode) {
        Some(DhcpOption::StatusCode(code)) => Some(code.status),
        _ => None,
    }
}

fn status_of_association(message: &Message) -> Option<Status> {
    match message.opts().get(OptionCode::IANA) {
        Some(DhcpOption::IANA(association)) => status_of(&association.opts),
        _ => None,
    }
}

/// All four messages.
fn obtain(server: &mut Dhcp6Server, guest: MacAddress, now: u64) -> Ipv6Addr {
    let solicit = message(MessageType::Solicit, &[association(7, &[])]);
    let (Some(advertise), events) = say(server, guest, &solicit, now) else { panic!("silence") };
    assert_eq!((advertise.msg_type(), events), (MessageType::Advertise, vec![]));
    let offered = addresses(&advertise)[0].0;
    let (reply, _) =
        say(server, guest, &message(MessageType::Request, &[ours(), association(7, &[offered])]), now);
    let reply = reply.unwrap();
    assert_eq!((reply.msg_type(), addresses(&reply)), (MessageType::Reply, vec![(offered, 600)]));
    offered
}

#[test]
fn an_advertisement_names_the_server_its_preference_and_what_was_asked_for() {
    let mut server = server();
    let solicit = message(MessageType::Solicit, &[association(7, &[])]);
    let (Some(reply), _) = say(&mut server, mac(1), &solicit, 0) else { panic!("silence") };
    let opts = reply.opts();
    assert_eq!(reply.xid(), [1, 2, 3]);
    assert_eq!(opts.get(OptionCode::ClientId), Some(&DhcpOption::ClientId(DUID.to_vec())));
    assert_eq!(opts.get(OptionCode::ServerId), Some(&ours()));
    assert_eq!(opts.get(OptionCode::Preference), Some(&DhcpOption::Preference(255)));
    let dns = DhcpOption::DomainNameServers(vec!["fd00:7::1".parse().unwrap()]);
    assert_eq!(opts.get(OptionCode::DomainNameServers), Some(&dns));
    let Some(DhcpOption::DomainSearchList(domains)) = opts.get(OptionCode::DomainSearchList) else {
        panic!()
    };
    assert_eq!(domains[0].to_ascii(), "seven.test.");
    let Some(DhcpOption::IANA(association)) = opts.get(OptionCode::IANA) else { panic!("no address") };
    assert_eq!((association.id, association.t1, association.t2), (7, 300, 480));
}

#[test]
fn clones_with_one_duid_get_addresses_of_their_own_and_keep_them() {
    let mut server = server();
    let (first, second) = (obtain(&mut server, mac(1), 0), obtain(&mut server, mac(2), 0));
    assert_ne!(first, second);
    assert_eq!(obtain(&mut server, mac(1), 10_000), first);
    let lease = server.pool.leases().find(|lease| lease.mac == mac(1)).unwrap();
    assert_eq!(
        (lease.iaid, lease.client_id.as_deref()),
        (Some(7), Some("00:02:00:00:ab:11:01:02:03:04:05:06:07:08"))
    );
}

#[test]
fn rapid_commit_is_one_exchange() {
    let mut server = server();
    let solicit = message(MessageType::Solicit, &[DhcpOption::RapidCommit, association(7, &[])]);
    let (Some(reply), events) = say(&mut server, mac(1), &solicit, 0) else { panic!("silence") };
    assert_eq!((reply.msg_type(), events), (MessageType::Reply, vec![LeaseChange::Added]));
    assert_eq!(reply.opts().get(OptionCode::RapidCommit), Some(&DhcpOption::RapidCommit));
}

#[test]
fn fixed_addresses_are_given_by_hardware_address_and_duid() {
    let mut server = server();
    let fixed = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(obtain(&mut server, fixed, 0), "fd00:7::21".parse::<Ipv6Addr>().unwrap());
    let mut solicit = message(MessageType::Solicit, &[association(1, &[])]);
    solicit.opts_mut().remove(OptionCode::ClientId);
    solicit.opts_mut().insert(DhcpOption::ClientId(vec![0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, 1]));
    let (reply, _) = say(&mut server, mac(9), &solicit, 0);
    assert_eq!(addresses(&reply.unwrap())[0].0, "fd00:7::20".parse::<Ipv6Addr>().unwrap());
}

#[test]
fn renewals_extend_and_take_away_what_is_not_the_guest_s() {
    let mut server = server();
    let own = obtain(&mut server, mac(1), 0);
    let foreign: Ipv6Addr = "fd00:9::5".parse().unwrap();
    let renew = message(MessageType::Renew, &[ours(), association(7, &[foreign, own])]);
    let (reply, events) = say(&mut server, mac(1), &renew, 300);
    assert_eq!(events, [LeaseChange::Renewed]);
    let mut given = addresses(&reply.unwrap());
    given.sort_unstable();
    assert_eq!(given, [(own, 600), (foreign, 0)]);
    // After a loss of the database.
    let mut forgetful = super::tests::server();
    let (reply, events) =
        say(&mut forgetful, mac(1), &message(MessageType::Rebind, &[association(7, &[own])]), 0);
    assert_eq!((addresses(&reply.unwrap()), events), (vec![(own, 600)], vec![LeaseChange::Added]));
}

#[test]
fn a_guest_is_told_whether_it_is_still_where_it_was() {
    let mut server = server();
    let confirm =
        |address: &str| message(MessageType::Confirm, &[association(7, &[address.parse().unwrap()])]);
    let mut status =
        |address| say(&mut server, mac(1), &confirm(address), 0).0.and_then(|reply| status_of(reply.opts()));
    assert_eq!(status("fd00:7::150"), Some(Status::Success));
    assert_eq!(status("fd00:8::150"), Some(Status::NotOnLink));
}

#[test]
fn what_is_given_back_is_free_and_what_was_not_had_is_no_binding() {
    let mut server = server();
    let address = obtain(&mut server, mac(1), 0);
    let release = message(MessageType::Release, &[ours(), association(7, &[address])]);
    let (reply, events) = say(&mut server, mac(2), &release, 0);
    assert_eq!((status_of_association(&reply.unwrap()), events), (Some(Status::NoBinding), vec![]));
    let (reply, events) = say(&mut server, mac(1), &release, 0);
    assert_eq!(
        (status_of(reply.unwrap().opts()), events),
        (Some(Status::Success), vec![LeaseChange::Released])
    );
    let address = obtain(&mut server, mac(1), 0);
    let decline = message(MessageType::Decline, &[ours(), association(7, &[address])]);
    assert_eq!(say(&mut server, mac(1), &decline, 0).1, [LeaseChange::Released, LeaseChange::Forgotten]);
    assert_ne!(obtain(&mut server, mac(1), 0), address);
}

#[test]
fn prefixes_are_refused_and_a_full_range_is_said_to_be() {
    let mut small = description();
    let dhcp = small.dhcp6.as_mut().unwrap();
    dhcp.ranges[0].end = dhcp.ranges[0].start;
    let mut server = Dhcp6Server::new(&Arc::new(small.check().unwrap()), [], 0).unwrap();
    obtain(&mut server, mac(1), 0);
    let wish = DhcpOption::IAPD(IAPD { id: 3, t1: 0, t2: 0, opts: DhcpOptions::new() });
    let (reply, _) =
        say(&mut server, mac(2), &message(MessageType::Solicit, &[association(7, &[]), wish]), 0);
    let reply = reply.unwrap();
    assert_eq!(status_of_association(&reply), Some(Status::NoAddrsAvail));
    let Some(DhcpOption::IAPD(prefix)) = reply.opts().get(OptionCode::IAPD) else {
        panic!("nothing is said")
    };
    assert_eq!(status_of(&prefix.opts), Some(Status::NoPrefixAvail));
}

#[test]
fn messages_for_other_servers_and_without_what_they_need_are_left() {
    let mut server = server();
    let other = DhcpOption::ServerId(vec![0, 4, 9]);
    for wrong in [
        message(MessageType::Request, &[other.clone(), association(7, &[])]),
        message(MessageType::Request, &[association(7, &[])]),
        message(MessageType::Solicit, &[ours(), association(7, &[])]),
        message(MessageType::InformationRequest, &[other]),
        message(MessageType::Advertise, &[association(7, &[])]),
        Message::new_with_id(MessageType::Solicit, [0; 3]),
    ] {
        assert_eq!(say(&mut server, mac(1), &wrong, 0), (None, vec![]));
    }
    let (reply, _) = say(&mut server, mac(1), &message(MessageType::InformationRequest, &[]), 0);
    assert!(reply.unwrap().opts().get(OptionCode::DomainNameServers).is_some());
}

proptest! {
    #[test]
    fn anything_at_all_is_taken_or_left(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut server = server();
        server.handle(&bytes, mac(1), 0);
        let mut changed = message(MessageType::Request, &[ours(), association(7, &["fd00:7::123".parse().unwrap()])]).to_vec().unwrap();
        for (place, byte) in bytes.iter().enumerate() {
            let place = place * 7 % changed.len();
            changed[place] = *byte;
            server.handle(&changed, mac(2), 0);
        }
    }
}
