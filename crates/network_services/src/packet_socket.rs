//! Packet sockets (packet(7)): IP packets of the bridge as they come in, before the host's filters, with their hardware addresses; and
//! packets out to hardware addresses whose owners have no IP address yet.
//!
//! The only module with unsafe code: addresses of this family are C structures.

use std::io::{self, ErrorKind};
use std::mem::{offset_of, size_of};

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::mac::MacAddress;

/// Longest packet that is looked at, bytes.
pub(crate) const LONGEST: usize = 2048;

/// Room for packets that wait, bytes as the kernel counts them.
const ROOM: usize = 4 << 20;

/// Which packets a socket gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// UDP over IPv4 to port 67.
    Version4,
    /// UDP over IPv6 to port 547, and router solicitations that come from this link.
    Version6,
}

impl Kind {
    /// Its number (IEEE 802.3).
    fn ether_type(self) -> u16 {
        match self {
            Self::Version4 => 0x0800,
            Self::Version6 => 0x86dd,
        }
    }

    /// A program of the kernel's packet filter over packets that begin with the IP header.
    fn filter(self) -> Vec<SockFilter> {
        match self {
            Self::Version4 => vec![
                load_byte(9),
                jump_unless_equal(17, 6),
                // No fragments.
                step(LOAD | HALF | ABSOLUTE, 0, 0, 6),
                step(JUMP | SET, 4, 0, 0x3fff),
                step(LOAD_X | BYTE | HEADER_LENGTH, 0, 0, 0),
                step(LOAD | HALF | INDIRECT, 0, 0, 2),
                jump_unless_equal(67, 1),
                step(RETURN, 0, 0, u32::from(u16::MAX)),
                step(RETURN, 0, 0, 0),
            ],
            Self::Version6 => vec![
                load_byte(6),
                jump_unless_equal(17, 2),
                step(LOAD | HALF | ABSOLUTE, 0, 0, 42),
                step(JUMP | EQUAL, 5, 6, 547),
                jump_unless_equal(58, 5),
                load_byte(40),
                jump_unless_equal(133, 3),
                load_byte(7),
                jump_unless_equal(255, 1),
                step(RETURN, 0, 0, u32::from(u16::MAX)),
                step(RETURN, 0, 0, 0),
            ],
        }
    }
}

// The kernel's packet filter (Documentation/networking/filter.rst): what a step is made of.
const LOAD: u16 = 0x00;
const LOAD_X: u16 = 0x01;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
const HALF: u16 = 0x08;
const BYTE: u16 = 0x10;
const ABSOLUTE: u16 = 0x20;
const INDIRECT: u16 = 0x40;
const HEADER_LENGTH: u16 = 0xa0;
const EQUAL: u16 = 0x10;
const SET: u16 = 0x40;

fn step(code: u16, yes: u8, no: u8, value: u32) -> SockFilter {
    SockFilter::new(code, yes, no, value)
}

fn load_byte(place: u32) -> SockFilter {
    step(LOAD | BYTE | ABSOLUTE, 0, 0, place)
}

fn jump_unless_equal(value: u32, steps: u8) -> SockFilter {
    step(JUMP | EQUAL, 0, steps, value)
}

/// Lets nothing through: for sockets that only hold a port or a group, or send.
pub(crate) fn nothing() -> [SockFilter; 1] {
    [step(RETURN, 0, 0, 0)]
}

/// A socket for one kind of packets of one interface.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: AsyncFd<Socket>,
    interface: i32,
    kind: Kind,
}

impl PacketSocket {
    /// A socket on the interface with this number. Takes a runtime and CAP_NET_RAW.
    #[expect(unsafe_code, reason = "a descriptor that the runtime watches")]
    pub(crate) fn open(interface: u32, kind: Kind) -> io::Result<Self> {
        let interface = i32::try_from(interface).map_err(|_| ErrorKind::InvalidInput)?;
        // Nothing is received before it is bound: protocol 0.
        let socket =
            Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::from(0)))?;
        socket.attach_filter(&kind.filter())?;
        // Room for all guests of a network that start at once; less without the right to it.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, ROOM);
        rustix::net::bind(&socket, &LinkAddress::new(interface, kind, MacAddress([0; 6])))?;
        // SAFETY: the socket owns its descriptor, which is the same and open until the socket is dropped, after its registration.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self { socket, interface, kind })
    }

    /// Waits until there is something to receive.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        // Looked at without clearing: `receive` clears when there is nothing left.
        self.socket.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// The next packet that came from outside, if there is one: its length in `buffer` and where it came from.
    pub(crate) fn receive(&self, buffer: &mut [u8; LONGEST]) -> io::Result<Option<(usize, MacAddress)>> {
        loop {
            let received = self.socket.try_io(tokio::io::Interest::READABLE, |socket| {
                Ok(rustix::net::recvfrom(socket, &mut buffer[..], RecvFlags::empty())?)
            });
            let (length, address) = match received {
                Ok((_, length, address)) => (length.min(LONGEST), address),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(address) = address.as_ref().and_then(LinkAddress::read) else { continue };
            if !matches!(address.0.sll_pkttype, libc::PACKET_OUTGOING | libc::PACKET_OTHERHOST) {
                return Ok(Some((length, address.mac())));
            }
        }
    }

    /// Sends an IP packet to a hardware address.
    pub(crate) fn send(&self, packet: &[u8], mac: MacAddress) -> io::Result<()> {
        let address = LinkAddress::new(self.interface, self.kind, mac);
        rustix::net::sendto(self.socket.get_ref(), packet, SendFlags::empty(), &address)?;
        Ok(())
    }
}

/// An address of this family: an interface, a kind of packets, a hardware address.
struct LinkAddress(libc::sockaddr_ll);

impl LinkAddress {
    fn new(interface: i32, kind: Kind, MacAddress([a, b, c, d, e, f]): MacAddress) -> Self {
        Self(libc::sockaddr_ll {
            sll_family: FAMILY,
            sll_protocol: kind.ether_type().to_be(),
            sll_ifindex: interface,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [a, b, c, d, e, f, 0, 0],
        })
    }

    fn mac(&self) -> MacAddress {
        let [a, b, c, d, e, f, ..] = self.0.sll_addr;
        MacAddress([a, b, c, d, e, f])
    }

    /// The address, if it is of this family and that of an Ethernet station.
    #[expect(unsafe_code, reason = "an address of a family that the library does not know")]
    fn read(address: &SocketAddrAny) -> Option<Self> {
        let length = usize::try_from(address.addr_len()).ok()?;
        // The kernel leaves out what the hardware address does not fill.
        let mut bytes = [0; size_of::<libc::sockaddr_ll>()];
        if length < offset_of!(libc::sockaddr_ll, sll_addr) + 6
            || i32::from(address.address_family().as_raw()) != libc::AF_PACKET
        {
            return None;
        }
        let length = length.min(bytes.len());
        // SAFETY: the address has `addr_len` initialised bytes, of which no more are copied, to where there is room for as many.
        unsafe { std::ptr::copy_nonoverlapping(address.as_ptr().cast::<u8>(), bytes.as_mut_ptr(), length) };
        // SAFETY: the structure has integers only, and the array has its size.
        let read: libc::sockaddr_ll = unsafe { std::mem::transmute(bytes) };
        (read.sll_halen == 6).then_some(Self(read))
    }
}

/// AF_PACKET as it is in an address.
#[expect(clippy::cast_possible_truncation, reason = "17")]
const FAMILY: u16 = libc::AF_PACKET as u16;

// SAFETY: what the function is given is the address of a whole structure of this length, which lives as long as the call.
#[expect(unsafe_code, reason = "an address of a family that the library does not know")]
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, call: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        #[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
        let length = size_of::<libc::sockaddr_ll>() as SocketAddrLen;
        call(std::ptr::from_ref(&self.0).cast(), length)
    }
}
