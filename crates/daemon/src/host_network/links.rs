//! What is asked of the kernel about its interfaces (rtnetlink(7), Documentation/netlink/specs/rt_link.yaml).

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use rustix::io::Errno;

/// Longest name of an interface, bytes (IFNAMSIZ - 1 of linux/if.h).
const MOST_NAME_BYTES: usize = 15;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Its number, which no other gets as long as it is there.
    pub(super) index: u32,
    pub(super) name: String,
    /// Free text that an administrator has given it.
    pub(super) alias: Option<String>,
    /// Largest payload of a frame, bytes.
    pub(super) mtu: Option<u32>,
    kind: Option<InfoKind>,
}

impl Link {
    /// What the kernel tells of an interface.
    fn of(message: LinkMessage) -> Self {
        let index = message.header.index;
        let mut link = Self { index, name: String::new(), alias: None, mtu: None, kind: None };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }

    /// Whether it is a TUN or TAP interface.
    pub(super) fn is_tun(&self) -> bool {
        self.kind == Some(InfoKind::Tun)
    }

    /// Whether it is a bridge of the kernel's own.
    pub(super) fn is_bridge(&self) -> bool {
        self.kind == Some(InfoKind::Bridge)
    }
}

/// A connection to the kernel's tables of interfaces, in the network namespace in which it was opened.
pub(super) struct Links {
    handle: Handle,
}

impl Links {
    /// Opens a connection; its task ends with it.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The interface with a name; a name that none can have, none has.
    pub(super) async fn by_name(&self, name: &str) -> io::Result<Option<Link>> {
        if name.is_empty() || name.len() > MOST_NAME_BYTES || name.contains('\0') {
            return Ok(None);
        }
        match self.handle.link().get().match_name(name.to_owned()).execute().try_next().await {
            Ok(found) => Ok(found.map(Link::of)),
            Err(error) => match io_error(error) {
                error if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
                error => Err(error),
            },
        }
    }

    /// All interfaces.
    pub(super) async fn all(&self) -> io::Result<Vec<Link>> {
        self.handle.link().get().execute().map_ok(Link::of).try_collect().await.map_err(io_error)
    }

    /// Gives an interface its alias.
    pub(super) async fn set_alias(&self, index: u32, alias: &str) -> io::Result<()> {
        self.set(change(index).alias(alias)).await
    }

    /// Gives an interface its Ethernet address.
    pub(super) async fn set_mac(&self, index: u32, address: [u8; 6]) -> io::Result<()> {
        self.set(change(index).address(address.to_vec())).await
    }

    /// Sets the largest payload of a frame, bytes.
    pub(super) async fn set_mtu(&self, index: u32, bytes: u32) -> io::Result<()> {
        self.set(change(index).mtu(bytes)).await
    }

    /// Makes an interface a port of a bridge.
    pub(super) async fn set_controller(&self, index: u32, bridge: u32) -> io::Result<()> {
        self.set(change(index).controller(bridge)).await
    }

    /// Brings an interface up.
    pub(super) async fn set_up(&self, index: u32) -> io::Result<()> {
        self.set(change(index).up()).await
    }

    async fn set(&self, change: LinkMessageBuilder<LinkUnspec>) -> io::Result<()> {
        self.handle.link().set(change.build()).execute().await.map_err(io_error)
    }

    /// Removes an interface; one that is gone is fine.
    pub(super) async fn remove(&self, index: u32) -> io::Result<()> {
        match self.handle.link().del(index).execute().await.map_err(io_error) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(()),
            removed => removed,
        }
    }
}

fn change(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
