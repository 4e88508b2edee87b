//! Interfaces of the host that running machines use.
//!
//! A machine's network card needs a TAP interface, which [`HostNetwork`] makes before the machine's process starts, sets up,
//! connects, and removes when the machine has ended. The interface is persistent: the process opens it by name, and it outlives
//! both the process and the daemon.
//!
//! Whose an interface is, the kernel remembers: its alias (IFLA_IFALIAS) is the directory of the machine. It has this alias before it is persistent, so a daemon can be killed at any moment and the next one finds every interface that was left, also
//! those that nobody had written down. What does not have the alias is never changed or removed: names can be taken by others.
//!
//! | document | interface |
//! |---|---|
//! | `type='bridge'` | made, a port of the bridge with the bridge's MTU unless the document has another, up |
//! | `type='ethernet'` | made, up; what it is connected to is somebody else's business |
//! | `type='ethernet'` with `managed='no'` | has to be there, and is left alone |
//! | other types | refused |
//!
//! Names are the document's, or `vnetN` with numbers that go up, as libvirt's. Interfaces that are made have the guest's address
//! with FEh as its first byte: a bridge takes the lowest address of its ports for its own, and would change it with each machine.
//!
//! No threads; requests to the kernel (rtnetlink(7)) are tasks of the daemon's runtime. The kernel is trusted, documents are not.

mod links;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use libvirt_xml::MacAddress;

use net_io::{NetError, NewTap};

use self::links::{Link, Links};
use crate::domain::machine::{TapDemand, TapSource};

/// Beginning of names that are chosen here, as libvirt's.
const GENERATED: &str = "vnet";

/// Most names that are tried before it is given up; others may have taken some.
const MOST_TRIES: u32 = 65_536;

/// Beginning of the alias of interfaces that were made by a daemon; the machine's directory follows.
const MARK: &str = "vireo ";

/// Longest alias, bytes (IFALIASZ - 1 of linux/if.h).
const MOST_ALIAS_BYTES: usize = 255;

/// First byte of the host's address of an interface, and of one whose guest has the first.
const HOST_MAC: [u8; 2] = [0xfe, 0xfa];

/// Why a machine has no interface.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostNetworkError {
    /// Not possible here.
    #[error("{path}: {reason}")]
    Unsupported {
        /// Where it is in the document.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The host does not have what the document names, or does not do it.
    #[error("{path}: {operation}: {reason}")]
    Host {
        /// Where it is in the document.
        path: String,
        /// What was tried, on which interface.
        operation: String,
        /// Why it failed.
        reason: String,
    },
}

/// The interface of a network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connected {
    /// The card's place in the machine's description.
    pub(crate) index: usize,
    /// The interface's name.
    pub(crate) name: String,
    /// Whether it was made for the machine, and has to be removed.
    pub(crate) made: bool,
}

/// Makes and removes interfaces of machines. A machine is named by its directory, an absolute path.
#[derive(Debug, Default)]
pub(crate) struct HostNetwork {
    /// Of the next name that is chosen.
    next: AtomicU32,
}

/// What an interface of a machine is marked with.
fn mark(machine: &Path) -> String {
    format!("{MARK}{}", machine.display())
}

/// An interface that is gone when something fails.
struct Made {
    index: usize,
    tap: NewTap,
}

impl HostNetwork {
    /// Gives each of a machine's network cards its interface. When that fails, none of them is left.
    ///
    /// # Errors
    /// What can't be had, and why.
    pub(crate) async fn connect(
        &self,
        machine: &Path,
        demands: &[TapDemand],
    ) -> Result<Vec<Connected>, HostNetworkError> {
        if demands.is_empty() {
            return Ok(Vec::new());
        }
        for demand in demands {
            supported(demand)?;
        }
        let at = |path: &str| {
            let path = path.to_owned();
            move |error: io::Error| host(&path, "cannot ask the kernel for interfaces (netlink)", &error)
        };
        let links = Links::open().map_err(at(&demands[0].path))?;
        let (mut connected, mut made) = (Vec::new(), Vec::new());
        for demand in demands {
            if demand.managed {
                made.push(self.make(&links, machine, demand).await?);
            } else {
                connected.push(existing(&links, demand).await?);
            }
        }
        let mut kept = Vec::new();
        for Made { index, tap } in made {
            let name = tap.name().to_owned();
            if let Err(error) = tap.keep() {
                // Those that follow go by themselves.
                self.remove_with(&links, machine, &kept).await;
                return Err(failed(path_of(demands, index), &error));
            }
            kept.push(name.clone());
            connected.push(Connected { index, name, made: true });
        }
        connected.sort_by_key(|connected| connected.index);
        Ok(connected)
    }

    /// Makes an interface and sets it up; it is not persistent yet.
    async fn make(
        &self,
        links: &Links,
        machine: &Path,
        demand: &TapDemand,
    ) -> Result<Made, HostNetworkError> {
        let path = demand.path.as_str();
        let bridge = match &demand.source {
            TapSource::Bridge { name } => Some(bridge(links, path, name).await?),
            _ => None,
        };
        let tap = self.create(demand)?;
        let name = tap.name();
        let step = |operation: &str| {
            let operation = format!("interface {name}: {operation}");
            move |error: io::Error| host(path, &operation, &error)
        };
        let found = links.by_name(name).await.map_err(step("cannot find it"))?;
        let Some(Link { index, .. }) = found else {
            return Err(step("cannot find it")(io::ErrorKind::NotFound.into()));
        };
        let mark = mark(machine);
        if mark.len() > MOST_ALIAS_BYTES {
            let advice = "the path of the runtime directory is too long: choose a shorter one";
            return Err(step("cannot mark it")(io::Error::other(advice)));
        }
        links.set_alias(index, &mark).await.map_err(step("cannot mark it"))?;
        if let Some(mac) = demand.mac {
            links.set_mac(index, host_side(mac)).await.map_err(step("cannot set its address"))?;
        }
        let mtu = demand.mtu.map(u32::from).or(bridge.as_ref().and_then(|bridge| bridge.mtu));
        if let Some(mtu) = mtu {
            links.set_mtu(index, mtu).await.map_err(step(&format!("cannot set its MTU to {mtu}")))?;
        }
        if let Some(bridge) = bridge {
            let operation = format!("cannot make it a port of bridge '{}'", bridge.name);
            links.set_controller(index, bridge.index).await.map_err(step(&operation))?;
        }
        links.set_up(index).await.map_err(step("cannot bring it up"))?;
        Ok(Made { index: demand.index, tap })
    }

    fn create(&self, demand: &TapDemand) -> Result<NewTap, HostNetworkError> {
        let queue_pairs = u16::try_from(demand.queue_pairs).unwrap_or(u16::MAX);
        // What begins like this was chosen for another start.
        if let Some(name) = demand.target.as_deref().filter(|name| !name.starts_with(GENERATED)) {
            return NewTap::create(name, queue_pairs).map_err(|error| failed(&demand.path, &error));
        }
        for _ in 0..MOST_TRIES {
            let name = format!("{GENERATED}{}", self.next.fetch_add(1, Ordering::Relaxed));
            match NewTap::create(&name, queue_pairs) {
                Err(NetError { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map_err(|error| failed(&demand.path, &error)),
            }
        }
        let reason = format!("{MOST_TRIES} names are taken, {GENERATED}0 and so on");
        let operation = "cannot name an interface".to_owned();
        Err(HostNetworkError::Host { path: demand.path.clone(), operation, reason })
    }

    /// Removes interfaces that were made for a machine that has ended. It logs by itself what stays.
    pub(crate) async fn remove(&self, machine: &Path, names: &[String]) {
        if names.is_empty() {
            return;
        }
        match Links::open() {
            Ok(links) => self.remove_with(&links, machine, names).await,
            Err(error) => tracing::warn!("interfaces {names:?} stay: no netlink: {error}"),
        }
    }

    async fn remove_with(&self, links: &Links, machine: &Path, names: &[String]) {
        let mark = mark(machine);
        for name in names {
            let removed = match links.by_name(name).await {
                Ok(Some(link)) if link.is_tun() && link.alias.as_ref() == Some(&mark) => {
                    links.remove(link.index).await
                }
                Ok(Some(_)) => {
                    tracing::warn!(
                        "interface {name} stays: it has not the alias of the one that was made ({mark})"
                    );
                    continue;
                }
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                tracing::warn!("interface {name} ({mark}) can't be removed: {error}");
            }
        }
    }

    /// All interfaces that were made for machines whose directories are, or were, in this one; by the name of the machine's
    /// directory. Numbers of their names are not chosen again soon.
    pub(crate) async fn made(&self, machines: &Path) -> io::Result<HashMap<String, Vec<String>>> {
        let prefix = mark(&machines.join(""));
        let mut made: HashMap<String, Vec<String>> = HashMap::new();
        for link in Links::open()?.all().await? {
            let machine = link.alias.as_deref().and_then(|alias| alias.strip_prefix(&prefix));
            let Some(machine) = machine.filter(|_| link.is_tun()) else { continue };
            let number = link.name.strip_prefix(GENERATED).and_then(|number| number.parse::<u32>().ok());
            if let Some(number) = number {
                self.next.fetch_max(number.saturating_add(1), Ordering::Relaxed);
            }
            made.entry(machine.to_owned()).or_default().push(link.name);
        }
        Ok(made)
    }
}

/// The host's address for a guest's: another one, that no bridge takes for its own.
fn host_side(guest: MacAddress) -> [u8; 6] {
    let MacAddress(mut address) = guest;
    let [usual, other] = HOST_MAC;
    address[0] = if address[0] == usual { other } else { usual };
    address
}

/// Refuses what an interface of the host can't be connected to.
fn supported(demand: &TapDemand) -> Result<(), HostNetworkError> {
    let reason = match &demand.source {
        TapSource::Ethernet if demand.managed || demand.target.is_some() => return Ok(()),
        TapSource::Ethernet => {
            "an interface that is there already has to be named: add <target dev='...'/>".to_owned()
        }
        TapSource::Bridge { .. } if demand.managed => return Ok(()),
        TapSource::Bridge { .. } => {
            "interfaces that are there already are not connected to bridges: use type='ethernet'".to_owned()
        }
        TapSource::Network { name, .. } => {
            format!("network '{name}' can't be used: networks are not kept by this daemon yet: use a bridge")
        }
        TapSource::Direct { device, .. } => {
            format!(
                "interface '{device}' can't be shared by macvtap: make it a port of a bridge, and use the bridge"
            )
        }
        TapSource::User { .. } => {
            "addresses are not translated by a process of the user's: use a bridge".to_owned()
        }
    };
    Err(HostNetworkError::Unsupported { path: demand.path.clone(), reason })
}

/// The bridge that a document names.
async fn bridge(links: &Links, path: &str, name: &str) -> Result<Link, HostNetworkError> {
    let refused = |reason: &str| HostNetworkError::Host {
        path: path.to_owned(),
        operation: format!("bridge '{name}'"),
        reason: reason.to_owned(),
    };
    match links.by_name(name).await {
        Ok(Some(link)) if link.is_bridge() => Ok(link),
        Ok(Some(_)) => Err(refused("the interface of this name is not a bridge")),
        Ok(None) => {
            Err(refused("there is no such interface: make it (ip link add ... type bridge), or name another"))
        }
        Err(error) => Err(refused(&error.to_string())),
    }
}

/// The interface that a document names and that stays as it is.
async fn existing(links: &Links, demand: &TapDemand) -> Result<Connected, HostNetworkError> {
    let name = demand.target.clone().unwrap_or_default();
    let refused = |reason: &str| HostNetworkError::Host {
        path: demand.path.clone(),
        operation: format!("interface '{name}'"),
        reason: reason.to_owned(),
    };
    match links.by_name(&name).await {
        // A machine's own goes away with that machine.
        Ok(Some(link))
            if link.is_tun() && !link.alias.as_ref().is_some_and(|alias| alias.starts_with(MARK)) =>
        {
            Ok(Connected { index: demand.index, name, made: false })
        }
        Ok(Some(link)) if link.is_tun() => Err(refused("it was made for another domain")),
        Ok(Some(_)) => Err(refused("it is not a TAP interface")),
        Ok(None) => Err(refused(
            "there is no such interface: make it (ip tuntap add ... mode tap vnet_hdr), or use managed='yes'",
        )),
        Err(error) => Err(refused(&error.to_string())),
    }
}

fn path_of(demands: &[TapDemand], index: usize) -> &str {
    demands
        .iter()
        .find(|demand| demand.index == index)
        .map_or("domain/devices/interface", |demand| &demand.path)
}

fn host(path: &str, operation: &str, error: &io::Error) -> HostNetworkError {
    HostNetworkError::Host { path: path.to_owned(), operation: operation.to_owned(), reason: reason(error) }
}

fn failed(path: &str, error: &NetError) -> HostNetworkError {
    let operation = format!("interface {}: {}", error.name, error.operation);
    host(path, &operation, &error.source)
}

fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return "making interfaces takes CAP_NET_ADMIN: run the daemon as root, or have an interface made (ip tuntap add ... \
                mode tap user $USER vnet_hdr) and name it in <target dev='...' managed='no'/> of type='ethernet'"
            .to_owned();
    }
    error.to_string()
}
