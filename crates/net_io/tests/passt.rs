//! A guest, as small as one can be, behind the real passt: DHCP, ARP, TCP in both directions. In a network namespace of its own.

#![expect(clippy::unwrap_used, reason = "these are tests: a panic is how a check fails")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use net_io::passt::{Forward, Passt, Ports, Transport, is_installed};
use net_io::{NetBackend as _, Stream, VNET_HEADER_BYTES};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::VolatileSlice;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const BROADCAST: [u8; 6] = [0xff; 6];
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Stands for the host itself, too: what is sent there arrives at its loopback.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const PUSH: u8 = 8;
const ACK: u8 = 16;

/// The sum of the internet's protocols (RFC 1071).
fn checksum(pieces: &[&[u8]]) -> u16 {
    let bytes = pieces.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap().to_be_bytes()
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut header =
        [&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0][..], &from.octets(), &to.octets()].concat();
    let all = u16::try_from(20 + payload.len()).unwrap();
    header[2..4].copy_from_slice(&all.to_be_bytes());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, payload].concat()
}

/// A segment of TCP.
struct Segment {
    from: u16,
    to: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    data: Vec<u8>,
}

impl Segment {
    fn packet(&self) -> Vec<u8> {
        let ports = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        let numbers = [self.sequence.to_be_bytes(), self.acknowledged.to_be_bytes()].concat();
        let mut bytes =
            [&ports[..], &numbers, &[0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0], &self.data].concat();
        let pseudo = [&GUEST.octets()[..], &GATEWAY.octets(), &[0, TCP], &length(&bytes)].concat();
        let sum = checksum(&[&pseudo, &bytes]);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        ipv4(TCP, GUEST, GATEWAY, &bytes)
    }

    fn read(packet: &[u8]) -> Option<Self> {
        if packet[9] != TCP {
            return None;
        }
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let tcp = &packet[usize::from(packet[0] & 15) * 4..total];
        let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        Some(Self {
            from: u16::from_be_bytes([tcp[0], tcp[1]]),
            to: u16::from_be_bytes([tcp[2], tcp[3]]),
            sequence: number(4),
            acknowledged: number(8),
            flags: tcp[13],
            data: tcp[usize::from(tcp[12] >> 4) * 4..].to_vec(),
        })
    }
}

struct Guest {
    wire: Stream,
    gateway: [u8; 6],
}

impl Guest {
    fn send(&mut self, to: [u8; 6], kind: u16, payload: &[u8]) {
        let mut frame = [&[0; VNET_HEADER_BYTES][..], &to, &MAC, &kind.to_be_bytes(), payload].concat();
        self.wire.send(&[VolatileSlice::from(&mut frame[..])]).unwrap();
    }

    /// The first packet of this kind that `wanted` makes something of.
    fn await_packet<T>(&mut self, kind: u16, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        loop {
            let mut frame = vec![0; 70_000];
            let received = self.wire.receive(&[VolatileSlice::from(&mut frame[..])]).unwrap();
            let Some(bytes) = received else {
                let mut set = [PollFd::from_borrowed_fd(self.wire.ready_fd(), PollFlags::IN)];
                assert!(poll(&mut set, Some(&patience)).unwrap() > 0, "passt says nothing");
                continue;
            };
            let frame = &frame[VNET_HEADER_BYTES..bytes];
            if frame[12..14] == kind.to_be_bytes()
                && let Some(found) = wanted(&frame[14..])
            {
                return found;
            }
        }
    }

    fn send_segment(&mut self, segment: &Segment) {
        self.send(self.gateway, IPV4, &segment.packet());
    }

    fn await_segment(&mut self, wanted: impl Fn(&Segment) -> bool) -> Segment {
        self.await_packet(IPV4, |packet| Segment::read(packet).filter(&wanted))
    }

    /// What DHCP (RFC 2131) offers.
    fn ask_for_address(&mut self) -> Ipv4Addr {
        let mut message = vec![0; 236];
        message[..4].copy_from_slice(&[1, 1, 6, 0]);
        message[4..8].copy_from_slice(b"abcd");
        message[28..34].copy_from_slice(&MAC);
        message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
        message.resize(300, 0);
        let length = u16::try_from(8 + message.len()).unwrap();
        let udp = [&[0, 68, 0, 67][..], &length.to_be_bytes(), &[0, 0], &message].concat();
        let packet = ipv4(UDP, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, &udp);
        self.send(BROADCAST, IPV4, &packet);
        self.await_packet(IPV4, |packet| {
            let message = (packet[9] == UDP).then(|| &packet[28..])?;
            let address: [u8; 4] = message[16..20].try_into().unwrap();
            (message[4..8] == *b"abcd").then_some(address.into())
        })
    }

    /// The gateway's hardware address (RFC 826).
    fn ask_for_gateway(&mut self) -> [u8; 6] {
        let question = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MAC, &GUEST.octets(), &[0; 6], &GATEWAY.octets()];
        self.send(BROADCAST, ARP, &question.concat());
        self.await_packet(ARP, |packet| {
            let is_answer = packet[7] == 2 && packet[14..18] == GATEWAY.octets();
            is_answer.then(|| packet[8..14].try_into().unwrap())
        })
    }
}

/// A namespace with an interface that has an address and a default route, for the thread; why not, if it can't be had.
#[expect(unsafe_code, reason = "unshare(2) of a thread")]
fn enter_namespace() -> Result<(), String> {
    // SAFETY: it changes what the calling thread sees of the network, and no memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .map_err(|error| format!("no network namespace of our own: {error}"))?;
    for line in [
        "link set lo up",
        "link add d0 type bridge",
        "address add 192.0.2.2/24 dev d0",
        "link set d0 up",
        "route add default via 192.0.2.1",
    ] {
        let ran = Command::new("ip").args(line.split(' ')).status();
        if !ran.as_ref().is_ok_and(std::process::ExitStatus::success) {
            return Err(format!("ip {line}: {ran:?}"));
        }
    }
    Ok(())
}

/// Runs a test in a network namespace of its own, where there is one and passt.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !is_installed(None) {
        eprintln!("skipped: passt is not installed");
        return;
    }
    let thread = std::thread::Builder::new().spawn(move || match enter_namespace() {
        Ok(()) => test(),
        Err(reason) => eprintln!("skipped: {reason}"),
    });
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test with a guest that has an address.
fn behind_passt(forwards: Vec<Forward>, test: impl FnOnce(Guest) + Send + 'static) {
    in_namespace(move || {
        let socket = Passt { forwards, ..Passt::default() }.start().unwrap();
        let mut guest = Guest { wire: Stream::adopt(socket).unwrap(), gateway: BROADCAST };
        assert_eq!(guest.ask_for_address(), GUEST);
        guest.gateway = guest.ask_for_gateway();
        test(guest);
    });
}

fn tcp(first: u16, guest: u16) -> Forward {
    let ports = vec![Ports { first, last: first, guest: Some(guest), excluded: false }];
    Forward { transport: Transport::Tcp, address: None, interface: None, ports }
}

#[test]
fn a_guest_gets_an_address_and_reaches_a_server_of_the_host() {
    behind_passt(vec![], |mut guest| {
        let listener = TcpListener::bind("127.0.0.1:7000").unwrap();
        let from_guest = |sequence, acknowledged, flags, data: &[u8]| Segment {
            from: 40_000,
            to: 7000,
            sequence,
            acknowledged,
            flags,
            data: data.to_vec(),
        };
        guest.send_segment(&from_guest(100, 0, SYN, b""));
        let answer = guest.await_segment(|segment| segment.flags == SYN | ACK && segment.from == 7000);
        assert_eq!(answer.acknowledged, 101);
        let next = answer.sequence.wrapping_add(1);
        guest.send_segment(&from_guest(101, next, ACK, b""));
        guest.send_segment(&from_guest(101, next, ACK | PUSH, b"hello"));
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        server.write_all(b"world").unwrap();
        assert_eq!(guest.await_segment(|segment| !segment.data.is_empty()).data, b"world");
    });
}

#[test]
fn a_forwarded_port_of_the_host_leads_to_the_guest() {
    behind_passt(vec![tcp(7001, 80)], |mut guest| {
        let mut client = TcpStream::connect("127.0.0.1:7001").unwrap();
        let call = guest.await_segment(|segment| segment.flags & (SYN | ACK) == SYN);
        assert_eq!(call.to, 80);
        let next = call.sequence.wrapping_add(1);
        let answer = Segment {
            from: 80,
            to: call.from,
            sequence: 500,
            acknowledged: next,
            flags: SYN | ACK,
            data: vec![],
        };
        guest.send_segment(&answer);
        client.write_all(b"ping").unwrap();
        let heard = guest.await_segment(|segment| !segment.data.is_empty());
        assert_eq!((heard.to, heard.data), (80, b"ping".to_vec()));
    });
}

#[test]
fn passt_ends_when_its_machine_does() {
    behind_passt(vec![tcp(7002, 80)], |guest| {
        // Its listening socket goes with it.
        drop(guest);
        while TcpStream::connect("127.0.0.1:7002").is_ok() {
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_port_is_forwarded_again_as_soon_as_its_machine_is_gone() {
    in_namespace(|| {
        let passt = Passt { forwards: vec![tcp(7003, 80)], ..Passt::default() };
        let first = passt.start().unwrap();
        assert!(passt.start().unwrap_err().to_string().contains("TCP port 7003"));
        drop(first);
        passt.start().unwrap();
    });
}

#[test]
fn a_host_without_a_route_is_told_in_passt_s_words() {
    in_namespace(|| {
        assert!(Command::new("ip").args(["link", "delete", "d0"]).status().unwrap().success());
        let error = Passt::default().start().unwrap_err().to_string();
        assert!(error.starts_with("passt did not start: ") && error.contains("interface"), "{error}");
    });
}
