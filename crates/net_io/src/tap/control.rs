//! The ioctl(2)s of TAP devices (linux/if_tun.h, Documentation/networking/tuntap.rst) and of interfaces (netdevice(7)).

use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::backend::Offloads;

const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNGETIFF: u32 = 0x8004_54d2;
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
const TUNSETQUEUE: u32 = 0x4004_54d9;

pub(super) const IFF_TAP: u16 = 0x0002;
pub(super) const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_ATTACH_QUEUE: u16 = 0x0200;
const IFF_DETACH_QUEUE: u16 = 0x0400;
pub(super) const IFF_NO_PI: u16 = 0x1000;
pub(super) const IFF_VNET_HDR: u16 = 0x4000;
/// Makes an interface, and never takes one that exists.
pub(super) const IFF_TUN_EXCL: u16 = 0x8000;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// Longest name of an interface, bytes, without the terminating zero.
pub(super) const MOST_NAME_BYTES: usize = libc::IFNAMSIZ - 1;

/// `struct ifreq`: a name, then 24 bytes whose meaning depends on the request.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

impl Request {
    /// The name is cut to what fits; callers have checked it.
    fn for_interface(name: &str) -> Self {
        let mut request = Self { name: [0; libc::IFNAMSIZ], value: [0; 24] };
        let bytes = name.as_bytes();
        let length = bytes.len().min(MOST_NAME_BYTES);
        request.name[..length].copy_from_slice(&bytes[..length]);
        request
    }

    fn set(mut self, value: &[u8]) -> Self {
        self.value[..value.len()].copy_from_slice(value);
        self
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.value[0], self.value[1]])
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }
}

#[expect(unsafe_code, reason = "ioctl(2) with an interface request")]
fn with_request(fd: BorrowedFd<'_>, number: u32, request: &mut Request) -> io::Result<()> {
    // SAFETY: every number that is used here reads and writes one `struct ifreq`, which `Request` is as long as; it
    // lives across the call and its pointer-valued members are not used by these requests.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number.into(), &raw mut *request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the descriptor a queue of the interface. Returns the name, which the kernel completes where it has "%d".
pub(super) fn attach(fd: BorrowedFd<'_>, name: &str, flags: u16) -> io::Result<String> {
    let mut request = Request::for_interface(name).set(&flags.to_ne_bytes());
    with_request(fd, TUNSETIFF, &mut request)?;
    Ok(request.name())
}

/// Lets a queue of an interface with several take part again, or no more. The kernel gives one that does not no frames.
pub(super) fn set_queue_enabled(fd: BorrowedFd<'_>, enabled: bool) -> io::Result<()> {
    let flags = if enabled { IFF_ATTACH_QUEUE } else { IFF_DETACH_QUEUE };
    with_request(fd, TUNSETQUEUE, &mut Request::for_interface("").set(&flags.to_ne_bytes()))
}

/// Name and flags of the interface that the descriptor is a queue of.
pub(super) fn attached(fd: BorrowedFd<'_>) -> io::Result<(String, u16)> {
    let mut request = Request::for_interface("");
    with_request(fd, TUNGETIFF, &mut request)?;
    Ok((request.name(), request.flags()))
}

/// Sets the length of the header that precedes each frame, bytes.
#[expect(unsafe_code, reason = "ioctl(2) with a number")]
pub(super) fn set_header_bytes(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: reads one int from the address given.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ.into(), &raw const bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Tells the kernel what frames it may hand over.
#[expect(unsafe_code, reason = "ioctl(2) with a number")]
pub(super) fn set_offloads(fd: BorrowedFd<'_>, offloads: Offloads) -> io::Result<()> {
    let flag = |wanted: bool, bits: u32| if wanted { bits } else { 0 };
    // Everything else builds on checksums (virtio 1.2, 5.1.3.1 asks drivers for the same).
    let bits = if offloads.checksum {
        TUN_F_CSUM
            | flag(offloads.tso4, TUN_F_TSO4)
            | flag(offloads.tso6, TUN_F_TSO6)
            | flag(offloads.ecn && (offloads.tso4 || offloads.tso6), TUN_F_TSO_ECN)
            | flag(offloads.uso, TUN_F_USO4 | TUN_F_USO6)
    } else {
        0
    };
    // SAFETY: takes the number itself, no address.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD.into(), libc::c_ulong::from(bits)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket through which interfaces are configured.
#[derive(Debug)]
pub(super) struct Interface<'a> {
    socket: OwnedFd,
    name: &'a str,
}

impl<'a> Interface<'a> {
    pub(super) fn named(name: &'a str) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, name })
    }

    fn control(&self, number: libc::c_ulong, value: &[u8]) -> io::Result<Request> {
        let mut request = Request::for_interface(self.name).set(value);
        let number = u32::try_from(number).map_err(io::Error::other)?;
        with_request(self.socket.as_fd(), number, &mut request)?;
        Ok(request)
    }

    /// Sets the interface's IPv4 address and the length of its network's prefix.
    pub(super) fn set_address(&self, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        self.control(libc::SIOCSIFADDR, &socket_address(address))?;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        self.control(libc::SIOCSIFNETMASK, &socket_address(Ipv4Addr::from_bits(mask)))?;
        Ok(())
    }

    /// Sets the largest payload of a frame, bytes.
    pub(super) fn set_mtu(&self, bytes: u16) -> io::Result<()> {
        self.control(libc::SIOCSIFMTU, &libc::c_int::from(bytes).to_ne_bytes()).map(|_| ())
    }

    /// Brings the interface up.
    pub(super) fn set_up(&self) -> io::Result<()> {
        let flags = self.control(libc::SIOCGIFFLAGS, &[])?.flags();
        let up = flags | u16::try_from(libc::IFF_UP).unwrap_or(1);
        if up == flags {
            return Ok(());
        }
        self.control(libc::SIOCSIFFLAGS, &up.to_ne_bytes()).map(|_| ())
    }
}

/// `struct sockaddr_in` without a port.
fn socket_address(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    let family = u16::try_from(libc::AF_INET).unwrap_or(2);
    bytes[..2].copy_from_slice(&family.to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}
