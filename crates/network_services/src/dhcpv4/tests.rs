//! Guests get what RFC 2131 promises them, in its own words: see its sections 3 and 4.3.

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, OptionCode, UnknownOption};
use dhcproto::{Decodable, Encodable};
use proptest::prelude::*;

use super::*;
use crate::description::{Description, LeaseTime, OptionValue};
use crate::lease::LeaseChange;

const OWN: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);

fn description() -> Description {
    serde_json::from_str(include_str!("../plan/everything.json")).unwrap()
}

fn server_of(description: Description) -> Dhcp4Server {
    Dhcp4Server::new(&Arc::new(description.check().unwrap()), [], 0).unwrap()
}

fn server() -> Dhcp4Server {
    server_of(description())
}

fn mac(number: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 1, number])
}

fn message(guest: MacAddress, kind: MessageType, options: &[DhcpOption]) -> Message {
    let any = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x0102_0304, any, any, any, any, &guest.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    let list = [1, 3, 6, 15, 26, 28, 42, 66, 67, 121, 252].map(OptionCode::from).to_vec();
    message.opts_mut().insert(DhcpOption::ParameterRequestList(list));
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message
}

fn say(
    server: &mut Dhcp4Server,
    message: &Message,
    now: u64,
) -> (Option<(Datagram4, Message)>, Vec<LeaseChange>) {
    let source = MacAddress(message.chaddr().try_into().unwrap());
    let Outcome4 { reply, events } = server.handle(&message.to_vec().unwrap(), source, now);
    let reply = reply.map(|datagram| {
        let message = Message::from_bytes(&datagram.message).unwrap();
        (datagram, message)
    });
    (reply, events.iter().map(|event| event.change).collect())
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

/// All four messages.
fn obtain(server: &mut Dhcp4Server, guest: MacAddress, options: &[DhcpOption], now: u64) -> Ipv4Addr {
    let (offer, events) = say(server, &message(guest, MessageType::Discover, options), now);
    let offer = offer.expect("an offer").1;
    assert_eq!((kind(&offer), events), (MessageType::Offer, vec![]));
    let mut taken = options.to_vec();
    taken.extend([DhcpOption::RequestedIpAddress(offer.yiaddr()), DhcpOption::ServerIdentifier(OWN)]);
    let (reply, _) = say(server, &message(guest, MessageType::Request, &taken), now);
    let reply = reply.expect("an acknowledgement").1;
    assert_eq!((kind(&reply), reply.yiaddr()), (MessageType::Ack, offer.yiaddr()));
    reply.yiaddr()
}

fn bytes(message: &Message, number: u8) -> Option<Vec<u8>> {
    let option = message.opts().get(OptionCode::from(number))?;
    Some(option.to_vec().unwrap()[2..].to_vec())
}

#[test]
fn an_acknowledgement_says_all_that_the_network_has() {
    let mut server = server();
    let request = message(mac(1), MessageType::Discover, &[DhcpOption::ClientIdentifier(vec![255, 1, 2])]);
    let (Some((datagram, offer)), _) = say(&mut server, &request, 0) else { panic!("no offer") };
    assert_eq!(
        (datagram.mac, datagram.address),
        (mac(1), offer.yiaddr()),
        "it has no address: to its hardware's"
    );
    assert_eq!(offer.siaddr(), Ipv4Addr::new(10, 7, 0, 3));
    assert_eq!((offer.sname(), offer.fname()), (Some(&b"boots\0"[..]), Some(&b"pxelinux.0\0"[..])));
    let expected: [(u8, &[u8]); 17] = [
        (1, &[255, 255, 255, 0]),
        (3, &[10, 7, 0, 1]),
        (6, &[10, 7, 0, 1]),
        (15, b"seven.test"),
        (26, &[5, 120]),
        (28, &[10, 7, 0, 255]),
        (42, &[10, 7, 0, 1]),
        (43, &[1, 2]),
        (51, &600u32.to_be_bytes()),
        (54, &[10, 7, 0, 1]),
        (58, &300u32.to_be_bytes()),
        (59, &525u32.to_be_bytes()),
        (61, &[255, 1, 2]),
        (66, b"boots"),
        (67, b"pxelinux.0"),
        (121, &[16, 10, 9, 10, 7, 0, 2, 0, 10, 7, 0, 1]),
        (252, b"http://wpad/"),
    ];
    for (number, value) in expected {
        assert_eq!(bytes(&offer, number).as_deref(), Some(value), "option {number}");
    }
}

#[test]
fn an_isolated_network_has_no_router() {
    let mut server = server_of(Description { gateway: false, ..description() });
    let (Some((_, offer)), _) = say(&mut server, &message(mac(1), MessageType::Discover, &[]), 0) else {
        panic!()
    };
    assert_eq!(bytes(&offer, 3), None);
    assert_eq!(bytes(&offer, 121).unwrap(), [16, 10, 9, 10, 7, 0, 2]);
}

#[test]
fn clones_with_one_client_identifier_get_addresses_of_their_own_and_keep_them() {
    let mut server = server();
    let id = [DhcpOption::ClientIdentifier(vec![255, 9, 9, 9, 9, 0, 2])];
    let first = obtain(&mut server, mac(1), &id, 0);
    let second = obtain(&mut server, mac(2), &id, 0);
    assert_ne!(first, second);
    assert_eq!(obtain(&mut server, mac(1), &[], 10), first, "firmware and system differ in identifier");
    assert_eq!(obtain(&mut server, mac(2), &id, 10_000), second, "long after it was over");
}

#[test]
fn a_renewal_is_sent_to_the_address_and_makes_the_lease_longer() {
    let mut server = server();
    let address = obtain(&mut server, mac(1), &[], 0);
    let mut renew = message(mac(1), MessageType::Request, &[]);
    renew.set_ciaddr(address);
    let (Some((datagram, reply)), events) = say(&mut server, &renew, 300) else { panic!("no answer") };
    assert_eq!((kind(&reply), datagram.address, datagram.mac), (MessageType::Ack, address, mac(1)));
    assert_eq!(events, [LeaseChange::Renewed]);
    assert_eq!(server.pool.leases().next().unwrap().expires, Some(900));
    assert_eq!(server.pool.expire(899), []);
    assert_eq!(server.pool.expire(900)[0].change, LeaseChange::Expired);
}

#[test]
fn who_asks_for_an_address_of_another_network_or_guest_is_refused_by_everybody_s_address() {
    let mut server = server();
    let taken = obtain(&mut server, mac(1), &[], 0);
    for wrong in
        [taken, Ipv4Addr::new(192, 168, 1, 5), Ipv4Addr::new(10, 7, 0, 20), Ipv4Addr::new(10, 7, 0, 1)]
    {
        let request = message(mac(2), MessageType::Request, &[DhcpOption::RequestedIpAddress(wrong)]);
        let (Some((datagram, reply)), events) = say(&mut server, &request, 0) else { panic!("silence") };
        assert_eq!((kind(&reply), reply.yiaddr()), (MessageType::Nak, Ipv4Addr::UNSPECIFIED), "{wrong}");
        assert_eq!(
            (datagram.mac, datagram.address, events),
            (MacAddress::BROADCAST, Ipv4Addr::BROADCAST, vec![])
        );
        assert_eq!(bytes(&reply, 51), None);
    }
}

#[test]
fn who_comes_back_to_a_server_that_forgot_keeps_its_address() {
    let mut server = server();
    let address = Ipv4Addr::new(10, 7, 0, 150);
    let reboot = message(mac(1), MessageType::Request, &[DhcpOption::RequestedIpAddress(address)]);
    let (Some((_, reply)), events) = say(&mut server, &reboot, 0) else { panic!("silence") };
    assert_eq!((kind(&reply), reply.yiaddr(), events), (MessageType::Ack, address, vec![LeaseChange::Added]));
}

#[test]
fn another_server_s_guest_is_let_alone() {
    let mut server = server();
    let options = [
        DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 7, 0, 150)),
        DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 7, 0, 9)),
    ];
    assert_eq!(say(&mut server, &message(mac(1), MessageType::Request, &options), 0), (None, vec![]));
}

#[test]
fn fixed_addresses_are_given_by_hardware_address_identifier_and_name() {
    let mut server = server();
    let fixed = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(obtain(&mut server, fixed, &[], 0), Ipv4Addr::new(10, 7, 0, 20));
    assert_eq!(server.pool.leases().next().unwrap().hostname.as_deref(), Some("static"));
    let id = [DhcpOption::ClientIdentifier(vec![1, 2, 3])];
    assert_eq!(obtain(&mut server, mac(1), &id, 0), Ipv4Addr::new(10, 7, 0, 30));
    let name = [DhcpOption::Hostname("ByName".into())];
    assert_eq!(obtain(&mut server, mac(2), &name, 0), Ipv4Addr::new(10, 7, 0, 40));
}

#[test]
fn another_plan_keeps_leases_and_moves_who_has_a_fixed_address_now() {
    let mut server = server();
    let address = obtain(&mut server, mac(1), &[], 0);
    let mut changed = description();
    let host = Host {
        mac: Some(mac(1)),
        client_id: None,
        name: None,
        address: Some(Ipv4Addr::new(10, 7, 0, 77)),
        lease: None,
    };
    changed.dhcp4.as_mut().unwrap().hosts.push(host);
    let mut server = Dhcp4Server::of(&Arc::new(changed.check().unwrap()), server.pool).unwrap();
    assert_eq!(server.pool.leases().count(), 1);
    let mut renew = message(mac(1), MessageType::Request, &[]);
    renew.set_ciaddr(address);
    let (reply, _) = say(&mut server, &renew, 10);
    assert_eq!(kind(&reply.unwrap().1), MessageType::Nak);
    assert_eq!(obtain(&mut server, mac(1), &[], 10), Ipv4Addr::new(10, 7, 0, 77));
    assert_eq!(server.pool.leases().count(), 1);
}

#[test]
fn a_released_or_declined_address_is_no_lease_and_nobody_gives_back_another_s() {
    let mut server = server();
    let address = obtain(&mut server, mac(1), &[], 0);
    let mut release = message(mac(1), MessageType::Release, &[DhcpOption::ServerIdentifier(OWN)]);
    release.set_ciaddr(address);
    assert_eq!(server.handle(&release.to_vec().unwrap(), mac(2), 1), Outcome4::default());
    assert_eq!(say(&mut server, &release, 1), (None, vec![LeaseChange::Released]));
    let address = obtain(&mut server, mac(1), &[], 2);
    let options = [DhcpOption::RequestedIpAddress(address), DhcpOption::ServerIdentifier(OWN)];
    let (reply, events) = say(&mut server, &message(mac(1), MessageType::Decline, &options), 3);
    assert_eq!((reply, events), (None, vec![LeaseChange::Released, LeaseChange::Forgotten]));
    assert_ne!(obtain(&mut server, mac(1), &[], 4), address);
}

#[test]
fn inform_is_answered_without_an_address_or_a_time() {
    let mut server = server();
    let mut inform = message(mac(1), MessageType::Inform, &[]);
    inform.set_ciaddr(Ipv4Addr::new(10, 7, 0, 222));
    let (Some((datagram, reply)), events) = say(&mut server, &inform, 0) else { panic!("silence") };
    assert_eq!((kind(&reply), reply.yiaddr(), events), (MessageType::Ack, Ipv4Addr::UNSPECIFIED, vec![]));
    assert_eq!((bytes(&reply, 51), datagram.address), (None, Ipv4Addr::new(10, 7, 0, 222)));
}

#[test]
fn the_broadcast_flag_is_heeded_and_relays_are_not() {
    let mut server = server();
    let mut discover = message(mac(1), MessageType::Discover, &[]);
    discover.set_flags(Flags::default().set_broadcast());
    let (reply, _) = say(&mut server, &discover, 0);
    assert_eq!(reply.unwrap().0.mac, MacAddress::BROADCAST);
    discover.set_giaddr(Ipv4Addr::new(10, 7, 0, 9));
    assert_eq!(say(&mut server, &discover, 0), (None, vec![]));
}

#[test]
fn a_guest_is_named_by_its_fqdn_option_and_told_its_whole_name() {
    let mut server = server();
    let value = b"\x04\0\0\x05Guest\x05other\x03org\0".to_vec();
    let fqdn = DhcpOption::Unknown(UnknownOption::new(OptionCode::from(81), value));
    obtain(&mut server, mac(1), std::slice::from_ref(&fqdn), 0);
    assert_eq!(server.pool.leases().next().unwrap().hostname.as_deref(), Some("guest"));
    let (reply, _) = say(&mut server, &message(mac(1), MessageType::Discover, &[fqdn]), 0);
    assert_eq!(bytes(&reply.unwrap().1, 81).unwrap(), b"\x07\xff\xff\x05guest\x05seven\x04test\0");
}

#[test]
fn a_rapid_commit_takes_one_exchange() {
    let mut server = server();
    let (reply, events) =
        say(&mut server, &message(mac(1), MessageType::Discover, &[DhcpOption::RapidCommit]), 0);
    let reply = reply.unwrap().1;
    assert_eq!((kind(&reply), events), (MessageType::Ack, vec![LeaseChange::Added]));
    assert!(reply.opts().contains(OptionCode::from(80)));
}

#[test]
fn a_rapid_commit_means_nothing_but_in_a_discovery() {
    let mut server = server();
    let options = [DhcpOption::RapidCommit, DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 7, 0, 150))];
    let (reply, _) = say(&mut server, &message(mac(1), MessageType::Request, &options), 0);
    let reply = reply.unwrap().1;
    assert_eq!((kind(&reply), reply.opts().contains(OptionCode::RapidCommit)), (MessageType::Ack, false));
}

#[test]
fn what_a_lease_is_made_of_is_said_however_much_else_there_is() {
    let mut crowded = description();
    let dhcp = crowded.dhcp4.as_mut().unwrap();
    let servers = vec![OWN; 60];
    dhcp.options =
        [(6, servers.clone()), (42, servers)].map(|(n, all)| (n, OptionValue::Addresses(all))).into();
    let mut server = server_of(crowded);
    let mut request = message(mac(1), MessageType::Discover, &[DhcpOption::ClientIdentifier(vec![7; 255])]);
    let list = [51, 54, 1, 3, 6, 42, 53, 61].map(OptionCode::from).to_vec();
    request.opts_mut().insert(DhcpOption::ParameterRequestList(list));
    let (Some((datagram, offer)), _) = say(&mut server, &request, 0) else { panic!("no offer") };
    assert!(datagram.message.len() <= 548);
    let said = |number| bytes(&offer, number).is_some();
    assert_eq!([51, 53, 54, 61, 1, 3].map(said), [true; 6]);
    assert_eq!([6, 42].map(said), [false; 2], "there is no room for them");
}

#[test]
fn one_guest_s_own_time_is_that_of_its_lease() {
    let mut own = description();
    let hosts = &mut own.dhcp4.as_mut().unwrap().hosts;
    (hosts[0].mac, hosts[0].lease) = (Some(mac(1)), Some(LeaseTime::Seconds(90)));
    (hosts[1].client_id, hosts[1].mac, hosts[1].lease) = (None, Some(mac(2)), Some(LeaseTime::Forever));
    // A name is enough to have a time.
    (hosts[1].address, hosts[1].name) = (None, Some("other".into()));
    let mut server = server_of(own);
    let times = [1, 2, 3].map(|guest| {
        let reply = say(&mut server, &message(mac(guest), MessageType::Discover, &[]), 0).0.unwrap().1;
        bytes(&reply, 51).unwrap()
    });
    assert_eq!(times, [90_u32, u32::MAX, 600].map(|seconds| seconds.to_be_bytes().to_vec()));
}

#[test]
fn a_reply_fits_what_the_guest_takes() {
    let mut wordy = description();
    let options = (200..203).map(|number| (number, crate::description::OptionValue::Text("x".repeat(230))));
    wordy.dhcp4.as_mut().unwrap().options = options.collect();
    let mut server = server_of(wordy);
    let (reply, _) = say(&mut server, &message(mac(1), MessageType::Discover, &[]), 0);
    let (datagram, short) = reply.unwrap();
    assert!(datagram.message.len() <= 548 && bytes(&short, 51).is_some() && bytes(&short, 3).is_some());
    let (reply, _) =
        say(&mut server, &message(mac(1), MessageType::Discover, &[DhcpOption::MaxMessageSize(1500)]), 0);
    assert!(bytes(&reply.unwrap().1, 202).is_some());
}

proptest! {
    #[test]
    fn anything_at_all_is_taken_or_left(bytes in proptest::collection::vec(any::<u8>(), 0..600), options in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut server = server();
        server.handle(&bytes, mac(1), 0);
        let mut sound = message(mac(1), MessageType::Discover, &[]).to_vec().unwrap();
        sound.truncate(240);
        sound.extend(options);
        server.handle(&sound, mac(1), 0);
        let mut changed = message(mac(1), MessageType::Request, &[]).to_vec().unwrap();
        for (place, byte) in bytes.iter().enumerate() {
            let place = place * 7 % changed.len();
            changed[place] = *byte;
            server.handle(&changed, mac(2), 0);
        }
    }
}
