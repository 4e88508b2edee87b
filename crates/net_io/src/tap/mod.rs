//! TAP: the kernel's Ethernet interfaces that a program is the wire of (Documentation/networking/tuntap.rst).
//!
//! One [`Tap`] is one queue of an interface. The kernel sees the virtio-net header (IFF_VNET_HDR) and checks it: a guest's
//! header is passed on as it is. Whoever opens an interface by name needs CAP_NET_ADMIN, unless the interface exists and
//! belongs to the user; a sandboxed program is handed an open descriptor instead. An interface is gone with its last descriptor,
//! unless somebody has made it persistent.

mod control;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use self::control::{
    IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN_EXCL, IFF_VNET_HDR, Interface, MOST_NAME_BYTES,
};
use crate::backend::{NetBackend, NetError, Offloads, VNET_HEADER_BYTES};
use crate::vectors::{read_frame, write_frame};

/// Queues that the kernel gives one interface (MAX_TAP_QUEUES).
const MOST_QUEUE_PAIRS: u16 = 256;

/// How to open an interface by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapOptions {
    /// Name of the interface; made if there is none. "%d" becomes a number that is free.
    pub name: String,
    /// Queue pairs, at least 1.
    pub queue_pairs: u16,
    /// The host's IPv4 address and prefix length on this network. With one, the interface is brought up as well.
    pub address: Option<(Ipv4Addr, u8)>,
    /// Largest payload of a frame, bytes.
    pub mtu: Option<u16>,
}

impl TapOptions {
    /// An interface with one queue pair that is configured by somebody else.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), queue_pairs: 1, address: None, mtu: None }
    }
}

/// One queue of a TAP interface.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    offloads: Offloads,
    /// The interface has IFF_MULTI_QUEUE: queues can be left out.
    multi_queue: bool,
}

fn fail(name: &str, operation: &str, source: io::Error) -> NetError {
    NetError { name: name.to_owned(), operation: operation.to_owned(), source }
}

fn invalid(advice: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, advice.into())
}

impl Tap {
    /// Opens the interface and as many of its queues as asked for.
    pub fn open(options: &TapOptions) -> Result<Vec<Self>, NetError> {
        let flags = flags_for(&options.name, options.queue_pairs)?;
        if let Some((_, prefix)) = options.address
            && prefix > 32
        {
            let advice = format!("prefix length {prefix}: an IPv4 address has 32 bits");
            return Err(fail(&options.name, "cannot set the address", invalid(advice)));
        }
        let queues = Self::attach(&options.name, options.queue_pairs, flags, |name, error| {
            fail(name, "cannot open", advice_for_attach(error, name, flags))
        })?;
        if let Some(first) = queues.first() {
            configure(&first.name, options)?;
        }
        Ok(queues)
    }

    /// Makes an interface with so many queue pairs, by whose `name` none exists yet; "%d" in it becomes a number that is free. It
    /// is gone with the last of its queues, so also with the process: it can be set up before anybody has to remember it.
    ///
    /// # Errors
    /// Of kind `AlreadyExists` when there is an interface with that name, `PermissionDenied` without CAP_NET_ADMIN.
    pub fn create(name: &str, queue_pairs: u16) -> Result<Vec<Self>, NetError> {
        let flags = flags_for(name, queue_pairs)? | IFF_TUN_EXCL;
        Self::attach(name, queue_pairs, flags, |name, error| {
            let error = match Errno::from_io_error(&error) {
                Some(Errno::BUSY | Errno::EXIST) => {
                    io::Error::new(io::ErrorKind::AlreadyExists, "an interface with this name exists")
                }
                _ => error,
            };
            fail(name, "cannot make it", error)
        })
    }

    fn attach(
        name: &str,
        queue_pairs: u16,
        mut flags: u16,
        failed: impl Fn(&str, io::Error) -> NetError,
    ) -> Result<Vec<Self>, NetError> {
        let mut name = name.to_owned();
        let mut queues = Vec::new();
        for _ in 0..queue_pairs {
            let fd = open_device().map_err(|source| fail(&name, "cannot open /dev/net/tun", source))?;
            name = control::attach(fd.as_fd(), &name, flags).map_err(|error| failed(&name, error))?;
            // The others are queues of the one that has been made.
            flags &= !IFF_TUN_EXCL;
            queues.push(Self::prepare(fd, &name, flags)?);
        }
        Ok(queues)
    }

    /// Another handle to the same queue of the same interface. Only one of the two may be used at a time.
    pub fn try_clone(&self) -> Result<Self, NetError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|source| fail(&self.name, "cannot duplicate the descriptor", source))?;
        Ok(Self { fd, name: self.name.clone(), offloads: self.offloads, multi_queue: self.multi_queue })
    }

    /// Takes an open queue of an interface, made with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR.
    pub fn adopt(fd: OwnedFd) -> Result<Self, NetError> {
        let unusable =
            |name: &str, advice: &str| fail(name, "cannot use the open descriptor", invalid(advice));
        let (name, flags) = match control::attached(fd.as_fd()) {
            Ok(attached) => attached,
            Err(error) if error.raw_os_error() == Some(Errno::BADFD.raw_os_error()) => {
                return Err(unusable("(none)", "it is not attached to an interface (TUNSETIFF)"));
            }
            Err(_) => return Err(unusable("(none)", "it is not a TAP device")),
        };
        if flags & IFF_TAP == 0 {
            return Err(unusable(&name, "it is a TUN, not a TAP: it carries IP packets without Ethernet"));
        }
        if flags & IFF_VNET_HDR == 0 {
            return Err(unusable(&name, "it was opened without IFF_VNET_HDR (vnet_hdr=on)"));
        }
        // Whether it has IFF_NO_PI can't be told: the kernel reports "no filter" in the same bit.
        Self::prepare(fd, &name, flags)
    }

    /// Takes the open device of an interface that lies on another one (macvtap), and makes it one of so many queues of it.
    pub fn of_macvtap(fd: OwnedFd, name: &str, queue_pairs: u16) -> Result<Self, NetError> {
        let flags = flags_for(name, queue_pairs)?;
        control::attach(fd.as_fd(), name, flags)
            .map_err(|source| fail(name, "cannot make the open device a queue of it", source))?;
        Self::prepare(fd, name, flags)
    }

    fn prepare(fd: OwnedFd, name: &str, flags: u16) -> Result<Self, NetError> {
        let nonblocking = rustix::fs::fcntl_getfl(&fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK));
        nonblocking.map_err(|errno| fail(name, "cannot make it non-blocking", errno.into()))?;
        control::set_header_bytes(fd.as_fd(), VNET_HEADER_BYTES)
            .map_err(|source| fail(name, "cannot set the length of its header", source))?;
        let offloads =
            find_offloads(fd.as_fd()).map_err(|source| fail(name, "cannot set offloads", source))?;
        Ok(Self { fd, name: name.to_owned(), offloads, multi_queue: flags & IFF_MULTI_QUEUE != 0 })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<Tap> for OwnedFd {
    /// The open queue, to be [adopted](Tap::adopt) by another process.
    fn from(tap: Tap) -> Self {
        tap.fd
    }
}

impl NetBackend for Tap {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn set_guest_offloads(&mut self, offloads: Offloads) -> Result<(), NetError> {
        control::set_offloads(self.fd.as_fd(), offloads)
            .map_err(|source| fail(&self.name, "cannot set offloads", source))
    }

    fn receive(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<Option<usize>> {
        read_frame(self.fd.as_fd(), buffers)
    }

    fn send(&mut self, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
        write_frame(self.fd.as_fd(), buffers)
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn set_enabled(&mut self, enabled: bool) -> Result<(), NetError> {
        if !self.multi_queue {
            // The only queue of its interface is the first pair's.
            return Ok(());
        }
        control::set_queue_enabled(self.fd.as_fd(), enabled)
            .map_err(|source| fail(&self.name, "cannot enable or disable a queue", source))
    }
}

/// How an interface with a name and so many queue pairs is opened, if it can be.
fn flags_for(name: &str, queue_pairs: u16) -> Result<u16, NetError> {
    check_name(name).map_err(|source| fail(name, "not a name for an interface", source))?;
    if queue_pairs == 0 || queue_pairs > MOST_QUEUE_PAIRS {
        let advice = format!("{queue_pairs} queue pairs: use 1 to {MOST_QUEUE_PAIRS}");
        return Err(fail(name, "cannot open", invalid(advice)));
    }
    let several = if queue_pairs > 1 { IFF_MULTI_QUEUE } else { 0 };
    Ok(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | several)
}

/// Whether the kernel can take `name` as an interface's (dev_valid_name of its networking core, and one "%d" at most).
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() {
        return Err(invalid("it is empty"));
    }
    if name.len() > MOST_NAME_BYTES {
        return Err(invalid(format!("it has {} bytes, {MOST_NAME_BYTES} are allowed", name.len())));
    }
    if name == "." || name == ".." {
        return Err(invalid("it is reserved"));
    }
    if let Some(bad) = name.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':')) {
        return Err(invalid(format!("it contains {bad:?}")));
    }
    if name.replacen("%d", "", 1).contains('%') {
        return Err(invalid("a percent sign is allowed once, as in vireo%d"));
    }
    Ok(())
}

fn open_device() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            io::Error::new(io::ErrorKind::NotFound, "the kernel has no TAP support loaded: modprobe tun")
        }
        _ => errno.into(),
    })
}

fn advice_for_attach(error: io::Error, name: &str, flags: u16) -> io::Error {
    let with = |advice: String| io::Error::new(error.kind(), advice);
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => with(format!(
            "permission denied: an administrator can make it for you with: ip tuntap add dev {name} mode tap user \
             $USER vnet_hdr"
        )),
        Some(Errno::BUSY) => with("another process uses it".to_owned()),
        Some(Errno::INVAL) if flags & IFF_MULTI_QUEUE != 0 => {
            with("it exists and is not a TAP with multi_queue (ip tuntap add ... multi_queue)".to_owned())
        }
        Some(Errno::INVAL) => with("it exists and is not a TAP with one queue".to_owned()),
        _ => error,
    }
}

/// The most that the kernel does here, and leaves all of it switched off.
fn find_offloads(fd: BorrowedFd<'_>) -> io::Result<Offloads> {
    let without_uso = Offloads { checksum: true, tso4: true, tso6: true, ecn: true, uso: false };
    // USO came with Linux 6.2; an older kernel refuses the whole set.
    let candidates = [Offloads { uso: true, ..without_uso }, without_uso];
    let found = candidates.into_iter().find(|offloads| control::set_offloads(fd, *offloads).is_ok());
    control::set_offloads(fd, Offloads::default())?;
    Ok(found.unwrap_or_default())
}

fn configure(name: &str, options: &TapOptions) -> Result<(), NetError> {
    if options.address.is_none() && options.mtu.is_none() {
        return Ok(());
    }
    let interface = Interface::named(name).map_err(|source| fail(name, "cannot configure", source))?;
    if let Some(mtu) = options.mtu {
        let purpose = format!("cannot set the MTU to {mtu}");
        interface.set_mtu(mtu).map_err(|source| fail(name, &purpose, source))?;
    }
    if let Some((address, prefix)) = options.address {
        let purpose = format!("cannot set the address to {address}/{prefix}");
        interface.set_address(address, prefix).map_err(|source| fail(name, &purpose, source))?;
        interface.set_up().map_err(|source| fail(name, "cannot bring it up", source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
