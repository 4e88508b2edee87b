//! What is done to interfaces of guests: guarded, connected, counted, limited, put into VLANs.

use std::io;

use crate::guard::{self, Guard};
use crate::host::{Error, HostNetwork, blocking, named};
use crate::links::{Link, Links, Statistics};
use crate::network::{Bandwidth, Network, Refused, Subnet};
use crate::nftables::Transaction;
use crate::vlan::PortVlans;
use crate::{bandwidth, vlan};

impl HostNetwork {
    /// Keeps a guest from pretending to be another: only these addresses pass from its interface from now on.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub async fn guard(&self, guard: Guard) -> Result<(), Error> {
        let interface = guard.interface.clone();
        let object = format!("interface {interface}");
        crate::network::interface_name(&interface)
            .map_err(|reason| Refused::interface(&interface, reason))?;
        self.change_guard(interface, move |_| Ok(Some(guard)))
            .await
            .map_err(Error::host(&object, "cannot guard its addresses"))
    }

    /// Changes the addresses of a guest that is guarded, like at a new lease.
    ///
    /// # Errors
    /// It is not guarded, or the kernel does not take it.
    pub async fn set_addresses(&self, interface: &str, addresses: Vec<Subnet>) -> Result<(), Error> {
        let object = format!("interface {interface}");
        self.change_guard(interface.to_owned(), move |guard| {
            let unknown = || io::Error::new(io::ErrorKind::NotFound, "it is not guarded");
            Ok(Some(Guard { addresses, ..guard.ok_or_else(unknown)?.clone() }))
        })
        .await
        .map_err(Error::host(&object, "cannot change its addresses"))
    }

    /// Lets everything pass from an interface; one that is not guarded is fine.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub async fn unguard(&self, interface: &str) -> Result<(), Error> {
        let object = format!("interface {interface}");
        self.change_guard(interface.to_owned(), |_| Ok(None))
            .await
            .map_err(Error::host(&object, "cannot stop guarding its addresses"))
    }

    async fn change_guard(
        &self,
        interface: String,
        change: impl FnOnce(Option<&Guard>) -> io::Result<Option<Guard>> + Send + 'static,
    ) -> io::Result<()> {
        let shared = self.shared();
        blocking(move || {
            let mut state = shared.state.lock();
            let before = state.guards.get(&interface).cloned();
            let after = change(before.as_ref())?;
            let first = state.guards.is_empty();
            match after.clone() {
                Some(guard) => state.guards.insert(interface.clone(), guard),
                None => state.guards.remove(&interface),
            };
            let table = &shared.options.table;
            let mut transaction = Transaction::new(None);
            if first || state.guards.is_empty() {
                if before.is_none() && after.is_none() {
                    return Ok(());
                }
                guard::write(&state.guards, table, &mut transaction);
            } else {
                guard::change(before.as_ref(), after.as_ref(), table, &mut transaction);
            }
            let mut committed = transaction.commit();
            // Somebody has removed the table or an element: all of it, then.
            if committed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                let mut whole = Transaction::new(None);
                guard::write(&state.guards, table, &mut whole);
                committed = whole.commit();
            }
            if committed.is_err() {
                match before {
                    Some(guard) => state.guards.insert(interface, guard),
                    None => state.guards.remove(&interface),
                };
            }
            committed
        })
        .await?
    }

    /// Makes a guest's interface a port of a network's bridge, with what the network says of ports, in these VLANs. An
    /// interface for which the kernel does not do all of it stays down.
    ///
    /// # Errors
    /// The interface or the bridge is not there, the bridge keeps no VLANs apart, or the kernel does not do it.
    pub async fn connect(
        &self,
        network: &Network,
        interface: &str,
        vlans: Option<&PortVlans>,
    ) -> Result<(), Error> {
        let object = format!("interface {interface}");
        let at = |operation: &str| Error::host(&object, operation);
        let links = self.links(network)?;
        let port = named(&links, interface).await?;
        let bridge = named(&links, &network.bridge).await?;
        if vlans.is_some() && !bridge.vlan_filtering {
            return Err(Refused::interface(interface, not_filtering(&bridge.name)).into());
        }
        // Nothing passes before it is as it is wanted.
        let pauses = port.up && port.controller != Some(bridge.index);
        if pauses {
            links.set_up(port.index, false).await.map_err(at("cannot take it down"))?;
        }
        let operation = format!("cannot make it a port of bridge '{}'", bridge.name);
        links.set_controller(port.index, bridge.index).await.map_err(at(&operation))?;
        if network.isolated_ports {
            links.set_port(port.index, true).await.map_err(at("cannot isolate it"))?;
        }
        if bridge.vlan_filtering {
            put_into(port.index, &bridge, vlans).await.map_err(at("cannot put it into its VLANs"))?;
        }
        if pauses {
            links.set_up(port.index, true).await.map_err(at("cannot bring it up"))?;
        }
        Ok(())
    }

    /// Takes the link of a guest's interface down or brings it up.
    ///
    /// # Errors
    /// There is no such interface, or the kernel does not do it.
    pub async fn set_link(&self, interface: &str, up: bool) -> Result<(), Error> {
        let object = format!("interface {interface}");
        let at = |operation: &str| Error::host(&object, operation);
        let links = Links::open().map_err(at("cannot ask the kernel (netlink)"))?;
        let link = named(&links, interface).await?;
        links.set_up(link.index, up).await.map_err(at("cannot change its state"))
    }

    /// What has passed an interface, as the host sees it.
    ///
    /// # Errors
    /// There is no such interface, or the kernel can't be asked.
    pub async fn statistics(&self, interface: &str) -> Result<Statistics, Error> {
        let object = format!("interface {interface}");
        let links = Links::open().map_err(Error::host(&object, "cannot ask the kernel (netlink)"))?;
        Ok(named(&links, interface).await?.statistics)
    }
}

/// Limits what passes a guest's interface; without limits everything passes again.
///
/// # Errors
/// There is no such interface, a limit makes no sense, or the kernel does not do it.
pub async fn limit(interface: &str, limits: Bandwidth) -> Result<(), Error> {
    let object = format!("interface {interface}");
    for limit in [limits.inbound, limits.outbound].into_iter().flatten() {
        limit.check().map_err(|reason| Refused::interface(interface, reason))?;
    }
    let links = Links::open().map_err(Error::host(&object, "cannot ask the kernel (netlink)"))?;
    let index = named(&links, interface).await?.index;
    blocking(move || bandwidth::set(index, &limits))
        .await
        .and_then(|set| set)
        .map_err(Error::host(&object, "cannot limit its bandwidth"))
}

/// Puts a guest's interface, which is a port of a bridge, into VLANs; without any into that of ports of which nobody says more.
///
/// # Errors
/// There is no such interface, it is no port of a bridge that keeps VLANs apart, or the kernel does not do it.
pub async fn set_vlans(interface: &str, vlans: Option<&PortVlans>) -> Result<(), Error> {
    let object = format!("interface {interface}");
    let at = |operation: &str| Error::host(&object, operation);
    let links = Links::open().map_err(at("cannot ask the kernel (netlink)"))?;
    let port = named(&links, interface).await?;
    let bridge = match port.controller {
        Some(index) => links.by_index(index).await.map_err(at("cannot find its bridge"))?,
        None => None,
    };
    let bridge = bridge.filter(Link::is_bridge).ok_or_else(|| {
        Refused::interface(interface, "it is no port of a bridge, and only these can be in VLANs")
    })?;
    if !bridge.vlan_filtering {
        return match vlans {
            None => Ok(()),
            Some(_) => Err(Refused::interface(interface, not_filtering(&bridge.name)).into()),
        };
    }
    put_into(port.index, &bridge, vlans).await.map_err(at("cannot put it into its VLANs"))
}

/// Puts a port of a bridge that keeps VLANs apart into these.
async fn put_into(port: u32, bridge: &Link, vlans: Option<&PortVlans>) -> io::Result<()> {
    let vlans = vlans.cloned().or_else(|| PortVlans::access(bridge.default_pvid).ok());
    blocking(move || vlan::set(port, vlans.as_ref())).await?
}

/// Why ports of a bridge can't be in VLANs, and what to do.
pub(crate) fn not_filtering(bridge: &str) -> String {
    format!(
        "bridge '{bridge}' does not keep VLANs apart: leave <vlan> out, or have it do so (where it is of a virtual network, by a \
         <vlan> of the network or of one of its portgroups; otherwise by: ip link set {bridge} type bridge vlan_filtering 1)"
    )
}
