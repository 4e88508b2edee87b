//! The network's names, and what is let through.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;

use super::*;
use crate::description::Description;
use crate::lease::LeaseChange;
use crate::mac::MacAddress;

fn description() -> Description {
    serde_json::from_str(include_str!("../plan/everything.json")).unwrap()
}

fn lease(last: u8, address: &str, hostname: &str, since: u64) -> Lease {
    Lease {
        mac: MacAddress([0x52, 0x54, 0, 0, 0, last]),
        address: address.parse().unwrap(),
        prefix: 24,
        hostname: Some(hostname.into()),
        client_id: None,
        iaid: None,
        since,
        expires: None,
    }
}

fn zone_of(description: Description) -> Zone {
    let leases = [
        lease(0x0a, "10.7.0.110", "localhost", 5),
        lease(0x0a, "fd00:7::110", "localhost", 5),
        lease(0x20, "10.7.0.120", "guest", 6),
        lease(0x21, "10.7.0.121", "guest", 7),
        lease(0x22, "10.7.0.122", "alpha", 1),
        lease(0x23, "10.7.0.123", "printer", 1),
    ];
    Zone::new(&Arc::new(description.check().unwrap()), &leases)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(zone: &Zone, message: &Message) -> Option<Message> {
    match answer::answer(&message.to_vec().unwrap(), Transport::Udp, zone, true) {
        Action::Answer(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        Action::Forward(_) | Action::Ignore => None,
    }
}

/// What the zone says, as text: the records, the error, or that others are asked.
fn said(zone: &Zone, name: &str, kind: RecordType) -> String {
    let Some(answer) = ask(zone, &query(name, kind)) else { return "elsewhere".into() };
    assert_eq!((answer.metadata.id, answer.queries.len()), (77, 1));
    match answer.metadata.response_code {
        ResponseCode::NoError => {
            let mut records: Vec<String> =
                answer.answers.iter().map(|record| record.data.to_string()).collect();
            records.sort();
            records.join(" ")
        }
        code => format!("{code:?}"),
    }
}

#[test]
fn guests_hosts_and_machines_have_their_names_with_and_without_the_domain() {
    let zone = zone_of(description());
    for (name, kind, expected) in [
        ("alpha.", RecordType::A, "10.7.0.110"),
        ("ALPHA.seven.test.", RecordType::AAAA, "fd00:7::110"),
        ("guest.seven.test.", RecordType::A, "10.7.0.120"),
        ("guest.", RecordType::AAAA, ""),
        ("static.", RecordType::A, "10.7.0.20"),
        ("static.seven.test.", RecordType::AAAA, "fd00:7::20 fd00:7::21"),
        ("printer.", RecordType::A, "10.7.0.200"),
        ("lp.example.org.", RecordType::A, "10.7.0.200"),
        ("motto.", RecordType::TXT, "it just works"),
        ("_ldap._tcp.seven.test.", RecordType::SRV, "1 2 389 static.seven.test."),
        ("seven.test.", RecordType::SOA, ""),
        ("nobody.seven.test.", RecordType::A, "NXDomain"),
        ("nobody.", RecordType::A, "NXDomain"),
        ("x.guest.seven.test.", RecordType::A, "NXDomain"),
        ("example.org.", RecordType::A, "elsewhere"),
    ] {
        assert_eq!(said(&zone, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn addresses_lead_back_to_the_name_that_leads_to_them() {
    let zone = zone_of(description());
    for (name, expected) in [
        ("110.0.7.10.in-addr.arpa.", "alpha.seven.test."),
        ("120.0.7.10.in-addr.arpa.", "guest.seven.test."),
        ("20.0.7.10.in-addr.arpa.", "static.seven.test."),
        ("200.0.7.10.in-addr.arpa.", "printer.seven.test."),
        // Those who call themselves as others do.
        ("121.0.7.10.in-addr.arpa.", "NXDomain"),
        ("122.0.7.10.in-addr.arpa.", "NXDomain"),
        ("123.0.7.10.in-addr.arpa.", "NXDomain"),
        ("0.1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.0.0.0.0.0.d.f.ip6.arpa.", "alpha.seven.test."),
        ("1.2.0.192.in-addr.arpa.", "elsewhere"),
    ] {
        assert_eq!(said(&zone, name, RecordType::PTR), expected, "{name}");
    }
}

#[test]
fn names_follow_leases_at_once() {
    let mut zone = zone_of(description());
    let event = |change, lease| LeaseEvent { change, lease };
    zone.follow(&event(LeaseChange::Added, lease(0x30, "10.7.0.130", "fresh", 9)));
    assert_eq!(said(&zone, "fresh.", RecordType::A), "10.7.0.130");
    zone.follow(&event(LeaseChange::Renewed, lease(0x30, "10.7.0.130", "renamed", 9)));
    assert_eq!(said(&zone, "fresh.", RecordType::A), "NXDomain");
    assert_eq!(said(&zone, "renamed.", RecordType::A), "10.7.0.130");
    zone.follow(&event(LeaseChange::Expired, lease(0x20, "10.7.0.120", "guest", 6)));
    assert_eq!(said(&zone, "guest.", RecordType::A), "10.7.0.121", "the next one has the name");
    zone.follow(&event(LeaseChange::Released, lease(0x0a, "10.7.0.110", "localhost", 5)));
    assert_eq!(said(&zone, "alpha.", RecordType::A), "");
    zone.replan(&Arc::new(Description { machines: Default::default(), ..description() }.check().unwrap()));
    assert_eq!(said(&zone, "alpha.", RecordType::A), "10.7.0.122");
}

#[test]
fn without_forwarding_nothing_leaves_the_network() {
    let mut closed = description();
    closed.dns.as_mut().unwrap().forward = false;
    assert_eq!(said(&zone_of(closed), "example.org.", RecordType::A), "Refused");
    let mut open = description();
    open.dns.as_mut().unwrap().forward_plain_names = true;
    open.domain.as_mut().unwrap().local_only = false;
    let zone = zone_of(open);
    assert_eq!(said(&zone, "nobody.", RecordType::A), "elsewhere");
    assert_eq!(said(&zone, "nobody.seven.test.", RecordType::A), "elsewhere");
    let bytes = query("example.org.", RecordType::A).to_vec().unwrap();
    let Action::Answer(refused) = answer::answer(&bytes, Transport::Udp, &zone, false) else {
        panic!("asked others")
    };
    assert_eq!(Message::from_vec(&refused).unwrap().metadata.response_code, ResponseCode::Refused);
}

#[test]
fn what_is_no_plain_question_is_refused_by_its_own_error() {
    let zone = zone_of(description());
    let code = |message: &Message| ask(&zone, message).unwrap().metadata.response_code;
    assert_eq!(code(&query("guest.", RecordType::AXFR)), ResponseCode::Refused);
    let mut update = query("guest.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut two = query("guest.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut newer = query("guest.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    let answer = ask(&zone, &newer).unwrap();
    assert_eq!(u16::from(answer.metadata.response_code), 16, "BADVERS");
    let mut response = query("guest.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert!(matches!(
        answer::answer(&response.to_vec().unwrap(), Transport::Udp, &zone, true),
        Action::Ignore
    ));
    let cut = &query("guest.", RecordType::A).to_vec().unwrap()[..15];
    let Action::Answer(error) = answer::answer(cut, Transport::Udp, &zone, true) else { panic!("silence") };
    assert_eq!(error[..4], [0, 77, 0x80, 1]);
}

#[test]
fn answers_that_do_not_fit_are_cut_and_say_so() {
    let mut large = description();
    let record = large.dns.as_ref().unwrap().texts[0].clone();
    large.dns.as_mut().unwrap().texts = (0..4)
        .map(|number| crate::description::TextRecord {
            value: format!("{number}").repeat(200),
            ..record.clone()
        })
        .collect();
    let zone = zone_of(large);
    let mut message = query("motto.", RecordType::TXT);
    let short = ask(&zone, &message).unwrap();
    assert!(short.metadata.truncation && short.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let long = ask(&zone, &message).unwrap();
    assert!(!long.metadata.truncation && long.answers.len() == 4 && long.edns.is_some());
}

#[test]
fn only_an_answer_to_the_same_question_is_relayed_under_the_guest_s_number() {
    let zone = zone_of(description());
    let asked = query("Example.org.", RecordType::A).to_vec().unwrap();
    let Action::Forward(question) = answer::answer(&asked, Transport::Udp, &zone, true) else {
        panic!("answered")
    };
    let ours = question.to_ask(0x1234).unwrap();
    assert_eq!(ours[..2], [0x12, 0x34]);
    let mut reply = Message::from_vec(&ours).unwrap();
    reply.metadata.message_type = MessageType::Response;
    let name = Name::from_ascii("example.org.").unwrap();
    let data = RData::A("192.0.2.80".parse::<std::net::Ipv4Addr>().unwrap().into());
    reply.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
    let reply = reply.to_vec().unwrap();
    let relayed = question.relay(&ours, reply.clone()).expect("it is the answer");
    assert_eq!((&relayed[..2], &relayed[2..]), (&[0, 77][..], &reply[2..]));
    let other = |place: usize, byte: u8| {
        let mut other = reply.clone();
        other[place] ^= byte;
        question.relay(&ours, other)
    };
    assert!(other(0, 1).is_none(), "another number");
    assert!(other(2, 0x80).is_none(), "a question");
    assert!(other(5, 1).is_none(), "no question in it");
    assert!(other(14, 1).is_none(), "another name");
    assert!(other(13, 0x20).is_some(), "the same name in other letters");
    assert!(other(ours.len() - 3, 1).is_none(), "another type");
    let long = [reply.clone(), vec![0; 2000]].concat();
    let cut = question.relay(&ours, long).unwrap();
    assert_eq!((cut.len(), cut[2] & 2, &cut[6..12]), (ours.len(), 2, &[0; 6][..]));
}

#[tokio::test]
async fn without_a_server_the_guest_is_told_at_once_and_a_dead_server_does_not_hold_up_the_next() {
    let zone = zone_of(description());
    let asked = query("example.org.", RecordType::A).to_vec().unwrap();
    let Action::Forward(question) = answer::answer(&asked, Transport::Udp, &zone, true) else {
        panic!("answered")
    };
    let mut none = description();
    none.dns.as_mut().unwrap().forwarders.clear();
    let forwarding = |plan: Description| {
        Forwarding::new(&Arc::new(plan.check().unwrap()), ResolvConf::new("/nonexistent"))
    };
    let failed = Message::from_vec(&forwarding(none).ask(&question).await).unwrap();
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);

    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut two = description();
    let mut forwarder = two.dns.as_ref().unwrap().forwarders[0].clone();
    forwarder.address = Some(dead);
    let alive =
        crate::description::Forwarder { address: Some(upstream.local_addr().unwrap()), ..forwarder.clone() };
    two.dns.as_mut().unwrap().forwarders = vec![forwarder, alive];
    let served = tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
        buffer[2] |= 0x80;
        // Somebody else's answer first.
        let mut wrong = buffer;
        wrong[0] ^= 1;
        upstream.send_to(&wrong[..length], from).await.unwrap();
        upstream.send_to(&buffer[..length], from).await.unwrap();
    });
    let answer = forwarding(two).ask(&question).await;
    served.await.unwrap();
    assert_eq!((answer[..2].to_vec(), answer[3] & 0xf), (vec![0, 77], 0));
}

#[test]
fn addresses_that_nobody_here_has_are_asked_of_others_only_where_that_is_wanted() {
    let name = "77.0.7.10.in-addr.arpa.";
    assert_eq!(said(&zone_of(description()), name, RecordType::PTR), "NXDomain");
    let mut foreign = description();
    let dns = foreign.dns.as_mut().unwrap();
    dns.foreign_pointers = vec![foreign.addresses[0]];
    let zone = zone_of(foreign);
    assert_eq!(said(&zone, name, RecordType::PTR), "elsewhere");
    assert_eq!(said(&zone, "200.0.7.10.in-addr.arpa.", RecordType::PTR), "printer.seven.test.");
    let of_version6 = format!("1.9.{}7.0.0.0.0.0.d.f.ip6.arpa.", "0.".repeat(22));
    assert_eq!(said(&zone, &of_version6, RecordType::PTR), "NXDomain");
}

#[test]
fn one_guest_can_not_take_all_places() {
    let all = Places::new(6, 4);
    let (one, other) = ("10.7.0.5".parse().unwrap(), "10.7.0.6".parse().unwrap());
    let of_one: Vec<_> = (0..100).map_while(|_| all.take(one)).collect();
    let of_others: Vec<_> = (0..100).map_while(|_| all.take(other)).collect();
    assert_eq!((of_one.len(), of_others.len(), all.taken()), (4, 2, 6));
    drop((of_one, of_others));
    assert_eq!(all.taken(), 0);
    assert!(all.take(one).is_some());
}

proptest! {
    #[test]
    fn anything_at_all_is_answered_or_left(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let zone = zone_of(description());
        let plan = Arc::new(description().check().unwrap());
        answer_alone(&plan, &[], &bytes, false, &bytes);
        let mut changed = query("guest.seven.test.", RecordType::A).to_vec().unwrap();
        for (place, byte) in bytes.iter().enumerate() {
            let place = place * 7 % changed.len();
            changed[place] = *byte;
            answer::answer(&changed, Transport::Tcp, &zone, true);
        }
    }
}
