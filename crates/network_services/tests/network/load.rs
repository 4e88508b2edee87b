//! Very many guests, and bad ones.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType};
use dhcproto::{Decodable, Encodable};
use socket2::{Domain, Socket, Type};

use super::laboratory::{Laboratory, Skipped, description};

const GUESTS: u8 = 250;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);

/// The guest's port 68 without an address.
fn client(laboratory: &Laboratory) -> std::net::UdpSocket {
    laboratory.guest.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into()).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.into()
    })
}

fn everybody() -> SocketAddr {
    (Ipv4Addr::BROADCAST, 67).into()
}

fn message(guest: u8, kind: MessageType, options: &[DhcpOption]) -> Vec<u8> {
    let any = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(guest.into(), any, any, any, any, &[0x52, 0x54, 0, 9, 9, guest]);
    message.set_flags(Flags::default().set_broadcast());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    // All are clones.
    message.opts_mut().insert(DhcpOption::ClientIdentifier(vec![255, 1, 2, 3, 4]));
    for option in options {
        message.opts_mut().insert(option.clone());
    }
    message.to_vec().unwrap()
}

pub(crate) fn two_hundred_and_fifty_guests_at_once_have_each_an_address() -> Result<(), Skipped> {
    let mut large = description();
    let dhcp = large.dhcp4.as_mut().unwrap();
    // As many addresses as there are guests: without the host's and three fixed ones.
    (dhcp.ranges[0].start, dhcp.ranges[0].end) = ("10.7.0.1".parse().unwrap(), "10.7.0.254".parse().unwrap());
    let laboratory = Laboratory::new(&large)?;
    let socket = client(&laboratory);
    let start = Instant::now();
    for guest in 0..GUESTS {
        socket.send_to(&message(guest, MessageType::Discover, &[]), everybody()).unwrap();
    }
    let mut addresses = HashMap::new();
    let mut buffer = [0; 2048];
    while addresses.len() < GUESTS.into() {
        let (length, _) = socket.recv_from(&mut buffer).expect("a guest has no answer");
        let reply = Message::from_bytes(&buffer[..length]).unwrap();
        let guest = u8::try_from(reply.xid()).unwrap();
        match reply.opts().msg_type() {
            Some(MessageType::Offer) => {
                let options =
                    [DhcpOption::RequestedIpAddress(reply.yiaddr()), DhcpOption::ServerIdentifier(SERVER)];
                socket.send_to(&message(guest, MessageType::Request, &options), everybody()).unwrap();
            }
            Some(MessageType::Ack) => assert_eq!(addresses.insert(guest, reply.yiaddr()), None),
            other => panic!("guest {guest} is told {other:?}"),
        }
    }
    let taken = start.elapsed();
    println!("{GUESTS} guests in {taken:?}: {:.0} leases a second", f64::from(GUESTS) / taken.as_secs_f64());
    let distinct: HashSet<_> = addresses.values().collect();
    assert_eq!(distinct.len(), usize::from(GUESTS), "an address was given twice");
    let leases = laboratory.control(async |mut control| control.leases().await).unwrap();
    assert_eq!(leases.len(), usize::from(GUESTS));
    for lease in leases {
        assert_eq!(addresses[&lease.mac.0[5]], lease.address, "what was told is what is known");
    }
    // One more has none, and is not told anything wrong; then one gives its own back.
    socket.send_to(&message(255, MessageType::Discover, &[]), everybody()).unwrap();
    let mac = "52:54:00:09:09:07".parse().unwrap();
    laboratory.control(async |mut control| control.release(mac).await).unwrap();
    socket.send_to(&message(255, MessageType::Discover, &[]), everybody()).unwrap();
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    let reply = Message::from_bytes(&buffer[..length]).unwrap();
    assert_eq!((reply.xid(), reply.opts().msg_type()), (255, Some(MessageType::Offer)));
    assert_eq!(reply.yiaddr(), addresses[&7]);
    Ok(())
}

/// Until the database's log was written back more than once, which the process has to do without its rights.
pub(crate) fn a_lease_is_renewed_for_years() -> Result<(), Skipped> {
    let laboratory = Laboratory::new(&description())?;
    let socket = client(&laboratory);
    let mut buffer = [0; 2048];
    let options = [DhcpOption::RequestedIpAddress(Ipv4Addr::new(10, 7, 0, 150))];
    let renew = message(1, MessageType::Request, &options);
    for renewal in 0..1500 {
        socket.send_to(&renew, everybody()).unwrap();
        let (length, _) = socket.recv_from(&mut buffer).expect("no answer");
        let reply = Message::from_bytes(&buffer[..length]).unwrap();
        assert_eq!(reply.opts().msg_type(), Some(MessageType::Ack), "{renewal}");
    }
    let written = std::fs::metadata(laboratory.path("leases.sqlite")).unwrap().len();
    let log = std::fs::metadata(laboratory.path("leases.sqlite-wal")).unwrap().len();
    assert!(log < 6 << 20, "the log is never written back: {log} bytes beside {written}");
    Ok(())
}

pub(crate) fn garbage_harms_nobody() -> Result<(), Skipped> {
    let laboratory = Laboratory::new(&description())?;
    let bound = laboratory.obtain(&[])?;
    let socket = client(&laboratory);
    let (version6, link) = laboratory.guest.inside(|| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        let link = rustix::net::netdevice::name_to_index(&socket, "eth0").unwrap();
        (std::net::UdpSocket::from(socket), link)
    });
    let servers = SocketAddrV6::new("ff02::1:2".parse().unwrap(), 547, 0, link);
    let sound = message(1, MessageType::Discover, &[]);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        // xorshift
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).unwrap()
    };
    for round in 0..2000_usize {
        let mut packet = if round % 2 == 0 { sound.clone() } else { vec![0; next() % 1400] };
        for _ in 0..8 {
            if let Some(length) = packet.len().checked_sub(1) {
                let place = next() % (length + 1);
                packet[place] = next().to_le_bytes()[0];
            }
        }
        packet.truncate(next() % 1400);
        socket.send_to(&packet, everybody()).unwrap();
        version6.send_to(&packet, servers).unwrap();
        version6
            .send_to(&[&[1, 3, 4, 5, 6, 8, 9, 11][round % 8..][..1], &packet[..]].concat(), servers)
            .unwrap();
        // Some time later ports are told that nobody is there, which is no error of sending.
        let _ = version6.send_to(&packet, "[fd00:7::1]:53".parse::<SocketAddr>().unwrap());
        let _ = socket.send_to(&packet, (SERVER, 53));
    }
    drop(socket);
    assert_eq!(laboratory.obtain(&[])?, bound, "the guest has what it had");
    let status = laboratory.control(async |mut control| control.status().await).unwrap();
    assert_eq!(status.pid, laboratory.service.as_ref().unwrap().0.id());
    Ok(())
}
