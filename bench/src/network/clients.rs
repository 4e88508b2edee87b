//! Guests that want addresses and names: sockets in a guest's network namespace.

use std::collections::VecDeque;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType};
use dhcproto::{Decodable, Encodable};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::HOST;

/// Between two questions of a guest that wants to know when it is answered first.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// After so long without any answer all who wait ask again.
const LOST: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long somebody may wait.
const PATIENCE: Duration = Duration::from_secs(180);
/// Guests that ask at the same time.
const AT_ONCE: usize = 32;

/// A question for the address of name.bench (RFC 1035, 4.1).
const QUESTION: &[u8] =
    b"\x77\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04name\x05bench\x00\x00\x01\x00\x01";

/// The hardware address of a guest.
pub(super) fn mac(batch: u8, guest: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0x78, batch, guest]
}

/// What is sent and received in a guest's network namespace.
pub(super) struct Guests {
    dhcp: UdpSocket,
    dns: UdpSocket,
}

impl Guests {
    pub(super) fn new(namespace: &File) -> Result<Self> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<Self> {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                let dhcp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
                dhcp.set_broadcast(true)?;
                set_socket_recv_buffer_size_force(&dhcp, 8 << 20)?;
                let dns = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                dns.connect((Ipv4Addr::from(HOST), 53))?;
                dhcp.set_nonblocking(true)?;
                dns.set_nonblocking(true)?;
                Ok(Self { dhcp, dns })
            });
            inside.join().unwrap_or_else(|_| bail!("the thread in the guest's namespace has failed"))
        })
        .context("a guest's sockets")
    }

    fn send(&self, mac: [u8; 6], kind: MessageType, options: &[DhcpOption]) -> Result<()> {
        let any = Ipv4Addr::UNSPECIFIED;
        let identifier = u32::from_be_bytes([0x77, 0, mac[4], mac[5]]);
        let mut message = Message::new_with_id(identifier, any, any, any, any, &mac);
        message.set_flags(Flags::default().set_broadcast());
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for option in options {
            message.opts_mut().insert(option.clone());
        }
        let everybody = SocketAddr::from((Ipv4Addr::BROADCAST, 67));
        // A packet that is lost is sent again.
        let _ = self.dhcp.send_to(&message.to_vec()?, everybody);
        Ok(())
    }

    /// The next answer that is there; to whom, and what.
    fn receive(&self) -> Option<(u32, Message)> {
        let mut buffer = [0; 2048];
        loop {
            let (length, _) = self.dhcp.recv_from(&mut buffer).ok()?;
            if let Ok(message) = Message::from_bytes(&buffer[..length]) {
                return Some((message.xid(), message));
            }
        }
    }

    /// Has all guests of a batch get addresses; how long that took.
    pub(super) fn lease_all(&self, batch: u8, guests: u8) -> Result<Duration> {
        let start = Instant::now();
        let mut waiting: VecDeque<u8> = (0..guests).collect();
        // What each said last.
        let mut asking: Vec<(u8, MessageType, Vec<DhcpOption>)> = Vec::new();
        let mut served = 0;
        while served < guests {
            while asking.len() < AT_ONCE
                && let Some(guest) = waiting.pop_front()
            {
                self.send(mac(batch, guest), MessageType::Discover, &[])?;
                asking.push((guest, MessageType::Discover, Vec::new()));
            }
            ensure!(start.elapsed() < PATIENCE, "{served} of {guests} have an address after {PATIENCE:?}");
            if poll(&mut [PollFd::new(&self.dhcp, PollFlags::IN)], Some(&LOST))? == 0 {
                for (guest, kind, options) in &asking {
                    self.send(mac(batch, *guest), *kind, options)?;
                }
            }
            while let Some((_, reply)) = self.receive() {
                let Some(at) = asking.iter().position(|(guest, ..)| reply.chaddr() == mac(batch, *guest))
                else {
                    continue;
                };
                let (guest, said, _) = &asking[at];
                match (said, reply.opts().msg_type()) {
                    (MessageType::Discover, Some(MessageType::Offer)) => {
                        let options = vec![
                            DhcpOption::RequestedIpAddress(reply.yiaddr()),
                            DhcpOption::ServerIdentifier(HOST.into()),
                        ];
                        self.send(mac(batch, *guest), MessageType::Request, &options)?;
                        asking[at] = (*guest, MessageType::Request, options);
                    }
                    (MessageType::Request, Some(MessageType::Ack)) => {
                        asking.swap_remove(at);
                        served += 1;
                    }
                    // dnsmasq offers an address to several guests, and gives it to the first that wants it: the others begin again.
                    (MessageType::Request, Some(MessageType::Nak)) => {
                        self.send(mac(batch, *guest), MessageType::Discover, &[])?;
                        asking[at] = (*guest, MessageType::Discover, Vec::new());
                    }
                    // To what it has asked twice.
                    _ => {}
                }
            }
        }
        Ok(start.elapsed())
    }

    /// Asks until an address is offered and a name is told; how long each took since `start`.
    pub(super) fn until_answered(&self, mac: [u8; 6], start: Instant) -> Result<(Duration, Duration)> {
        let Self { dhcp, dns } = self;
        let (mut offered, mut named) = (None, None);
        loop {
            if offered.is_none() {
                self.send(mac, MessageType::Discover, &[])?;
            }
            if named.is_none() {
                // Before anybody listens there is an error of the question before.
                let _ = dns.send(QUESTION);
            }
            let mut sockets = [PollFd::new(dhcp, PollFlags::IN), PollFd::new(dns, PollFlags::IN)];
            poll(&mut sockets, Some(&AGAIN))?;
            while let Some((_, reply)) = self.receive() {
                if reply.chaddr() == mac && reply.opts().msg_type() == Some(MessageType::Offer) {
                    offered.get_or_insert_with(|| start.elapsed());
                }
            }
            let mut answer = [0; 512];
            while let Ok(length) = dns.recv(&mut answer) {
                // No error, and an answer (RFC 1035, 4.1.1).
                if length > 12 && answer[..2] == QUESTION[..2] && answer[3] & 15 == 0 && answer[7] > 0 {
                    named.get_or_insert_with(|| start.elapsed());
                }
            }
            if let (Some(offered), Some(named)) = (offered, named) {
                return Ok((offered, named));
            }
            let missing = if named.is_none() { "no name is told" } else { "no address is offered" };
            ensure!(start.elapsed() < PATIENCE, "{missing} in {PATIENCE:?}");
        }
    }
}
