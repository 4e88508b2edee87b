//! What the process hears and speaks through: all of it bound to the bridge, opened before rights are given up.
//!
//! DHCP and router solicitations come by packet sockets, so that neither another server's port nor the host's filters are in the way; the ports
//! are held beside them where they can be, so that the kernel tells no guest that nobody is there. Names are asked of port 53 of the bridge's own
//! addresses: from the bridge, and from the host itself.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use crate::dhcpv4::Datagram4;
use crate::mac::MacAddress;
use crate::packet_socket::{Kind, PacketSocket, nothing};
use crate::packets;
use crate::plan::Plan;

/// All DHCP servers and relays of a link, and all routers (RFC 8415, section 7.1; RFC 4291, section 2.7.1).
pub(crate) const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// All hosts of a link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Why a socket is not there.
#[derive(Debug, thiserror::Error)]
#[error("network {network:?}: cannot {operation} on {bridge}: {source}")]
pub struct SocketError {
    network: String,
    bridge: String,
    operation: String,
    source: io::Error,
}

/// Names and where they are asked.
#[derive(Debug)]
pub(crate) struct DnsSockets {
    pub(crate) datagrams: Vec<UdpSocket>,
    pub(crate) listeners: Vec<TcpListener>,
    /// The port; another one than 53 when that is taken by somebody who listens at all addresses of the host.
    pub(crate) port: u16,
}

/// All sockets of a network.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) dhcp4: Option<Dhcp4Socket>,
    pub(crate) version6: Option<Version6Sockets>,
    pub(crate) dns: Option<DnsSockets>,
}

/// DHCP for IPv4.
#[derive(Debug)]
pub(crate) struct Dhcp4Socket {
    pub(crate) packets: PacketSocket,
    own: Ipv4Addr,
    /// Holds port 67, if nobody else does.
    _port: Option<Socket>,
}

/// DHCP for IPv6 and router advertisements.
#[derive(Debug)]
pub(crate) struct Version6Sockets {
    pub(crate) packets: PacketSocket,
    dhcp: Socket,
    advertisements: Socket,
    interface: u32,
}

impl Sockets {
    /// Opens all that the plan needs. Takes a runtime, and rights as root has them.
    pub(crate) fn open(plan: &Plan) -> Result<Self, SocketError> {
        let description = &plan.description;
        let bridge = description.bridge.as_str();
        let failed = |operation: String| {
            let (network, bridge) = (description.name.clone(), bridge.to_owned());
            move |source| SocketError { network, bridge, operation, source }
        };
        let interface = interface_number(bridge).map_err(failed("find the interface".into()))?;
        let dhcp4 = match (&description.dhcp4, plan.own4) {
            (Some(_), Some((own, _))) => Some(Dhcp4Socket::open(bridge, interface, own)),
            _ => None,
        };
        let version6 = (description.dhcp6.is_some() || description.router_advertisements.is_some())
            .then(|| Version6Sockets::open(bridge, interface));
        let own: Vec<IpAddr> = description.addresses.iter().map(|own| own.address).collect();
        let dns = description.dns.is_some().then(|| DnsSockets::open(bridge, interface, &own));
        Ok(Self {
            dhcp4: dhcp4.transpose().map_err(failed("hear DHCP".into()))?,
            version6: version6.transpose().map_err(failed("hear DHCPv6 and router solicitations".into()))?,
            dns: dns.transpose().map_err(failed("answer questions for names".into()))?,
        })
    }
}

fn interface_number(name: &str) -> io::Result<u32> {
    let any = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
    Ok(rustix::net::netdevice::name_to_index(&any, name)?)
}

/// A socket of the bridge that does not block.
fn socket(domain: Domain, kind: Type, protocol: Option<Protocol>, device: &str) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), protocol)?;
    socket.bind_device(Some(device.as_bytes()))?;
    Ok(socket)
}

impl Dhcp4Socket {
    fn open(bridge: &str, interface: u32, own: Ipv4Addr) -> io::Result<Self> {
        let port = || -> io::Result<Socket> {
            let port = socket(Domain::IPV4, Type::DGRAM, None, bridge)?;
            port.attach_filter(&nothing())?;
            port.set_reuse_address(true)?;
            port.bind(&SockAddr::from(SocketAddr::from((own, 67))))?;
            Ok(port)
        };
        let port = port()
            .inspect_err(|error| tracing::info!("port 67 of {own} is somebody else's as well: {error}"));
        Ok(Self { packets: PacketSocket::open(interface, Kind::Version4)?, own, _port: port.ok() })
    }

    /// Sends a reply.
    pub(crate) fn send(&self, reply: &Datagram4) -> io::Result<()> {
        let packet =
            packets::version4(self.own, reply.address, &reply.message).ok_or(ErrorKind::InvalidInput)?;
        self.packets.send(&packet, reply.mac)
    }
}

impl Version6Sockets {
    fn open(bridge: &str, interface: u32) -> io::Result<Self> {
        let dhcp = socket(Domain::IPV6, Type::DGRAM, None, bridge)?;
        dhcp.set_only_v6(true)?;
        dhcp.attach_filter(&nothing())?;
        dhcp.set_reuse_address(true)?;
        let bound = dhcp.bind(&SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 547))));
        if let Err(error) = bound {
            // Guests take replies from any port.
            tracing::info!("port 547 is somebody else's: {error}");
            dhcp.bind(&SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))))?;
        }
        dhcp.join_multicast_v6(&ALL_SERVERS, interface)?;
        let advertisements = socket(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6), bridge)?;
        advertisements.attach_filter(&nothing())?;
        advertisements.join_multicast_v6(&ALL_ROUTERS, interface)?;
        advertisements.set_multicast_if_v6(interface)?;
        // Guests take nothing that may have come from another link (RFC 4861, section 6.1.2).
        advertisements.set_multicast_hops_v6(255)?;
        advertisements.set_unicast_hops_v6(255)?;
        advertisements.set_multicast_loop_v6(false)?;
        let packets = PacketSocket::open(interface, Kind::Version6)?;
        Ok(Self { packets, dhcp, advertisements, interface })
    }

    /// Sends a DHCP reply to the guest that asked.
    pub(crate) fn reply(&self, message: &[u8], guest: Ipv6Addr) -> io::Result<()> {
        self.dhcp.send_to(message, &SocketAddrV6::new(guest, 546, 0, self.interface).into()).map(drop)
    }

    /// Sends an advertisement to one guest or all.
    pub(crate) fn advertise(&self, message: &[u8], guest: Option<Ipv6Addr>) -> io::Result<()> {
        let to = SocketAddrV6::new(guest.unwrap_or(ALL_NODES), 0, 0, self.interface);
        self.advertisements.send_to(message, &to.into()).map(drop)
    }
}

impl DnsSockets {
    fn open(bridge: &str, interface: u32, own: &[IpAddr]) -> io::Result<Self> {
        match Self::at(bridge, interface, own, 53) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            result => return result,
        }
        // Somebody listens at all addresses of the host: the packet filter leads questions to another port, which `status` tells.
        for port in (0..64).map(|step| FIRST_OTHER_PORT + step) {
            match Self::at(bridge, interface, own, port) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                result => {
                    tracing::warn!(
                        "port 53 is taken by another program of the host: names are asked at port {port}"
                    );
                    return result;
                }
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }

    fn at(bridge: &str, interface: u32, own: &[IpAddr], port: u16) -> io::Result<Self> {
        let mut sockets = Self { datagrams: Vec::new(), listeners: Vec::new(), port };
        for address in own {
            let scope = match address {
                IpAddr::V6(address) if address.is_unicast_link_local() => interface,
                _ => 0,
            };
            let address = match *address {
                IpAddr::V4(address) => SocketAddr::from((address, port)),
                IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, scope).into(),
            };
            for device in [bridge, "lo"] {
                if device == "lo" && scope != 0 {
                    continue;
                }
                sockets
                    .datagrams
                    .push(UdpSocket::from_std(name_socket(address, Type::DGRAM, device)?.into())?);
                let listener = name_socket(address, Type::STREAM, device)?;
                listener.listen(128)?;
                sockets.listeners.push(TcpListener::from_std(listener.into())?);
            }
        }
        Ok(sockets)
    }
}

/// The first of the ports that stand in for port 53; none that the kernel gives to others by itself.
const FIRST_OTHER_PORT: u16 = 15_353;

fn name_socket(address: SocketAddr, kind: Type, device: &str) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = socket(domain, kind, None, device)?;
    socket.set_reuse_address(true)?;
    // Addresses that the kernel still makes sure of can be bound to.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether a message comes from a guest: from one station, with an address of the link (RFC 8415, section 17.1).
pub(crate) fn is_guest(mac: MacAddress, address: Ipv6Addr) -> bool {
    mac.is_station() && address.is_unicast_link_local()
}
