//! Interfaces, addresses and routes of the host (rtnetlink(7)).

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMacVtap, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
};
use rustix::io::Errno;

use crate::network::{BridgeSettings, MOST_NAME_BYTES, MacvtapMode, Route, Subnet};
use crate::vlan;

/// Times of bridges are in hundredths of a second (`USER_HZ`).
const TICKS: u32 = 100;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number, which no other gets as long as it is there.
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Free text that an administrator has given it.
    pub(crate) alias: Option<String>,
    pub(crate) up: bool,
    pub(crate) mac: Vec<u8>,
    /// Largest payload of a frame, bytes.
    pub(crate) mtu: Option<u32>,
    /// Number of the interface that it lies on.
    pub(crate) lower: Option<u32>,
    pub(crate) statistics: Statistics,
    /// Number of the interface that it is a port of.
    pub(crate) controller: Option<u32>,
    /// Of a bridge: whether it keeps VLANs apart.
    pub(crate) vlan_filtering: bool,
    /// Of a bridge: the VLAN of ports that have no other; none is 0.
    pub(crate) default_pvid: u16,
    kind: Option<InfoKind>,
}

/// What has passed an interface, as the host sees it (`struct rtnl_link_stats64` of linux/if_link.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes that the host has received, which is what a guest has sent.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets that came broken.
    pub receive_errors: u64,
    /// Packets received and thrown away.
    pub receive_dropped: u64,
    /// Bytes that the host has sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Packets to be sent and thrown away.
    pub send_dropped: u64,
}

impl Link {
    fn of(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            up: message.header.flags.contains(LinkFlags::Up),
            mac: Vec::new(),
            mtu: None,
            lower: None,
            statistics: Statistics::default(),
            controller: None,
            vlan_filtering: false,
            default_pvid: 0,
            kind: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
                LinkAttribute::Link(lower) => link.lower = Some(lower),
                LinkAttribute::Stats64(of) => {
                    link.statistics = Statistics {
                        received_bytes: of.rx_bytes,
                        received_packets: of.rx_packets,
                        receive_errors: of.rx_errors,
                        receive_dropped: of.rx_dropped,
                        sent_bytes: of.tx_bytes,
                        sent_packets: of.tx_packets,
                        send_errors: of.tx_errors,
                        send_dropped: of.tx_dropped,
                    };
                }
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| link.learn(info)),
                _ => {}
            }
        }
        link
    }

    fn learn(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind),
            LinkInfo::Data(InfoData::Bridge(settings)) => {
                for setting in settings {
                    match setting {
                        InfoBridge::VlanFiltering(on) => self.vlan_filtering = on,
                        InfoBridge::VlanDefaultPvid(vlan) => self.default_pvid = vlan,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether it is a bridge of the kernel's own.
    pub(crate) fn is_bridge(&self) -> bool {
        self.kind == Some(InfoKind::Bridge)
    }

    /// Whether it is a TUN or TAP interface.
    pub(crate) fn is_tun(&self) -> bool {
        self.kind == Some(InfoKind::Tun)
    }

    /// Whether it is a tap on another interface.
    pub(crate) fn is_macvtap(&self) -> bool {
        self.kind == Some(InfoKind::MacVtap)
    }

    /// Whether it is one of several interfaces that share another one.
    pub(crate) fn is_on(&self, device: &Self) -> bool {
        matches!(self.kind, Some(InfoKind::MacVtap | InfoKind::MacVlan)) && self.lower == Some(device.index)
    }
}

/// A subnet that the host reaches, and by which interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) subnet: Subnet,
    pub(crate) index: Option<u32>,
}

/// A connection to the kernel, in the network namespace in which it was opened.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    handle: Handle,
}

impl Links {
    /// Opens a connection; its task ends with it.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The interface with a name; a name that none can have, none has.
    pub(crate) async fn by_name(&self, name: &str) -> io::Result<Option<Link>> {
        if name.is_empty() || name.len() > MOST_NAME_BYTES || name.contains('\0') {
            return Ok(None);
        }
        match self.handle.link().get().match_name(name.to_owned()).execute().try_next().await {
            Ok(found) => Ok(found.map(Link::of)),
            Err(error) => absent(io_error(error), None),
        }
    }

    /// The interface with a number.
    pub(crate) async fn by_index(&self, index: u32) -> io::Result<Option<Link>> {
        match self.handle.link().get().match_index(index).execute().try_next().await {
            Ok(found) => Ok(found.map(Link::of)),
            Err(error) => absent(io_error(error), None),
        }
    }

    /// All interfaces.
    pub(crate) async fn all(&self) -> io::Result<Vec<Link>> {
        self.handle.link().get().execute().map_ok(Link::of).try_collect().await.map_err(io_error)
    }

    /// Makes a bridge that is down.
    pub(crate) async fn add_bridge(&self, name: &str, settings: &BridgeSettings) -> io::Result<()> {
        let mut link = LinkBridge::new(name).down();
        for setting in bridge_settings(settings) {
            link = link.append_info_data(setting);
        }
        let added = self.handle.link().add(with_common(link, settings).build()).execute().await;
        added.map_err(io_error).map_err(explanation(settings))
    }

    /// Gives a bridge that is there its settings.
    pub(crate) async fn set_bridge(&self, index: u32, settings: &BridgeSettings) -> io::Result<()> {
        let mut link = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge).index(index);
        for setting in bridge_settings(settings) {
            link = link.append_info_data(setting);
        }
        self.set(link.build()).await.map_err(explanation(settings))?;
        self.set(with_common(change(index), settings).build()).await
    }

    /// Gives an interface that is down another name.
    pub(crate) async fn rename(&self, index: u32, name: &str) -> io::Result<()> {
        self.set(change(index).name(name).build()).await
    }

    /// Gives an interface its alias.
    pub(crate) async fn set_alias(&self, index: u32, alias: &str) -> io::Result<()> {
        self.set(change(index).alias(alias).build()).await
    }

    /// Gives an interface its Ethernet address.
    pub(crate) async fn set_mac(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.set(change(index).address(mac.to_vec()).build()).await
    }

    /// Sets the largest payload of a frame, bytes.
    pub(crate) async fn set_mtu(&self, index: u32, bytes: u32) -> io::Result<()> {
        self.set(change(index).mtu(bytes).build()).await
    }

    /// Lets an interface take frames to all groups, not only to those that the host is a member of.
    pub(crate) async fn set_all_multicast(&self, index: u32) -> io::Result<()> {
        let mut message = change(index).build();
        message.header.flags |= LinkFlags::Allmulti;
        message.header.change_mask |= LinkFlags::Allmulti;
        self.set(message).await
    }

    /// Brings an interface up or takes it down.
    pub(crate) async fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        let link = change(index);
        self.set(if up { link.up() } else { link.down() }.build()).await
    }

    /// Gives a port of a bridge the network's settings: whether it can reach other ports like it.
    pub(crate) async fn set_port(&self, index: u32, isolated: bool) -> io::Result<()> {
        self.set(LinkBridgePort::new(index).isolated(isolated).build()).await
    }

    /// Makes an interface a port of a bridge.
    pub(crate) async fn set_controller(&self, index: u32, bridge: u32) -> io::Result<()> {
        self.set(change(index).controller(bridge).build()).await
    }

    /// Makes a tap on another interface, down.
    pub(crate) async fn add_macvtap(
        &self,
        name: &str,
        lower: u32,
        mode: MacvtapMode,
        mac: [u8; 6],
    ) -> io::Result<()> {
        use rtnetlink::packet_route::link::MacVtapMode;
        let mode = match mode {
            MacvtapMode::Bridge => MacVtapMode::Bridge,
            MacvtapMode::Private => MacVtapMode::Private,
            MacvtapMode::Vepa => MacVtapMode::Vepa,
            MacvtapMode::Passthrough => MacVtapMode::Passthrough,
        };
        let link = LinkMacVtap::new(name, lower, mode).down().address(mac.to_vec());
        self.handle.link().add(link.build()).execute().await.map_err(io_error)
    }

    async fn set(&self, message: LinkMessage) -> io::Result<()> {
        // What RTM_SETLINK takes of bridges and their ports is less.
        self.handle.link().change(message).execute().await.map_err(io_error)
    }

    /// Removes an interface; one that is gone is fine.
    pub(crate) async fn remove(&self, index: u32) -> io::Result<()> {
        match self.handle.link().del(index).execute().await {
            Err(error) => absent(io_error(error), ()),
            Ok(()) => Ok(()),
        }
    }

    /// Addresses of all interfaces with their numbers.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<Reached>> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(io_error)?;
        Ok(messages.iter().filter_map(reached_address).collect())
    }

    /// Gives an interface an address; one that it has is fine.
    pub(crate) async fn add_address(&self, index: u32, subnet: Subnet) -> io::Result<()> {
        let mut request = self.handle.address().add(index, subnet.address, subnet.length());
        if subnet.address.is_ipv6() {
            // Ours alone: nobody else can have it, and it has to serve at once (IFA_F_NODAD).
            let message = request.message_mut();
            message.header.flags |= rtnetlink::packet_route::address::AddressHeaderFlags::Nodad;
        }
        match request.execute().await.map_err(io_error) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => Ok(()),
            added => added,
        }
    }

    /// Takes an address from an interface.
    pub(crate) async fn remove_address(&self, index: u32, subnet: Subnet) -> io::Result<()> {
        let message = match subnet.address {
            IpAddr::V4(ip) => rtnetlink::AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(index)
                .address(ip, subnet.length())
                .build(),
            IpAddr::V6(ip) => rtnetlink::AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(ip, subnet.length())
                .build(),
        };
        match self.handle.address().del(message).execute().await.map_err(io_error) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) => Ok(()),
            removed => removed,
        }
    }

    /// Subnets that the host has routes to, the default one not among them, nor the halves that VPNs make of it.
    pub(crate) async fn routes(&self) -> io::Result<Vec<Reached>> {
        let mut reached = Vec::new();
        for ipv4 in [true, false] {
            let mut request = RouteMessage::default();
            request.header.address_family = if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let list: Result<Vec<RouteMessage>, _> =
                self.handle.route().get(request).execute().try_collect().await;
            let routes = list.map_err(io_error)?;
            reached.extend(routes.iter().filter_map(reached_route));
        }
        Ok(reached)
    }

    /// Adds a route by an interface; one that is there is fine.
    pub(crate) async fn add_route(&self, index: u32, route: &Route) -> io::Result<()> {
        let wrong = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("{error:?}"));
        let (destination, length) = (route.destination.address, route.destination.length());
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(network_of(destination, length), length)
            .map_err(wrong)?
            .gateway(route.gateway)
            .map_err(wrong)?
            .output_interface(index);
        if let Some(metric) = route.metric {
            message = message.priority(metric);
        }
        match self.handle.route().add(message.build()).execute().await.map_err(io_error) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => Ok(()),
            added => added,
        }
    }
}

/// The first address of a subnet.
fn network_of(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

fn reached_address(message: &AddressMessage) -> Option<Reached> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // On links between two, the address of the other side is where packets go; the local one is what is asked for.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })?;
    let subnet = Subnet::new(address, message.header.prefix_len);
    Some(Reached { subnet, index: Some(message.header.index) })
}

fn reached_route(message: &RouteMessage) -> Option<Reached> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut destination, mut index) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => destination = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    let subnet = Subnet::new(destination?, message.header.destination_prefix_length);
    (!is_default(subnet)).then_some(Reached { subnet, index })
}

/// Whether a route is one to everywhere that nothing else has a route to, or a part of one: 0.0.0.0/1 and 128.0.0.0/1 are what VPNs
/// put before the host's own default route, and all of IPv6's global addresses are in 2000::/3 (RFC 4291, 2.4).
fn is_default(destination: Subnet) -> bool {
    destination.length() <= if destination.address.is_ipv4() { 1 } else { 3 }
}

fn bridge_settings(settings: &BridgeSettings) -> Vec<InfoBridge> {
    let stp = if settings.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    let mut list =
        vec![InfoBridge::ForwardDelay(u32::from(settings.forward_delay) * TICKS), InfoBridge::StpState(stp)];
    // Kernels without VLANs refuse to be told that there are none. A bridge that keeps them apart goes on while it is there: guests
    // that are in some would hear each other.
    if settings.vlan_filtering {
        list.push(InfoBridge::VlanFiltering(true));
    }
    list
}

/// What the kernel does not do may be VLANs.
fn explanation(settings: &BridgeSettings) -> impl FnOnce(io::Error) -> io::Error + use<> {
    let demanded = settings.vlan_filtering;
    move |error| if demanded { vlan::explained(error) } else { error }
}

fn with_common<T>(link: LinkMessageBuilder<T>, settings: &BridgeSettings) -> LinkMessageBuilder<T> {
    let link = match settings.mac {
        Some(mac) => link.address(mac.to_vec()),
        None => link,
    };
    match settings.mtu {
        Some(mtu) => link.mtu(mtu),
        None => link,
    }
}

fn change(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

/// What is not there any more is fine.
fn absent<T>(error: io::Error, nothing: T) -> io::Result<T> {
    match Errno::from_io_error(&error) {
        Some(Errno::NODEV) => Ok(nothing),
        _ => Err(error),
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
