//! Interfaces of machines: open descriptors that carry a guest's frames, for the machine's process.
//!
//! | uplink | interface | gone |
//! |---|---|---|
//! | bridge | a tap that is a port of the bridge, with the bridge's MTU unless another is wanted | with the last descriptor |
//! | somebody else's | a tap, up | with the last descriptor |
//! | device | a macvtap on an interface of the host | when it is [removed](Taps::remove) |
//!
//! A machine is named by its directory, an absolute path: that is in the alias (IFLA_IFALIAS) of its interfaces before they have their
//! names, so that whoever comes after a crash finds what the kernel does not remove by itself. What does not have the alias is never
//! changed or removed.
//!
//! Taps have the guest's address with FEh as its first byte: a bridge takes the lowest address of its ports for its own, and would
//! change it with each machine. Names are `vnetN` and `macvtapN` with numbers that go up, as libvirt's, so that nobody mistakes one
//! machine's figures for another's.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use net_io::{NetError, Tap, TapOptions};
use rustix::io::Errno;
use tokio::sync::Mutex;

use crate::host::Error;
use crate::interfaces::{limit, set_vlans};
use crate::links::{Link, Links};
use crate::macvtap;
use crate::network::{Bandwidth, MacvtapMode};
use crate::vlan::PortVlans;

/// Beginning of names that are chosen here.
const TAP: &str = "vnet";
/// The same of interfaces on others.
const MACVTAP: &str = "macvtap";

/// Most names that are tried before it is given up; others may have taken some.
const MOST_TRIES: u32 = 65_536;

/// Beginning of the alias; the machine's directory follows.
const MARK: &str = "vireo ";

/// Longest alias, bytes (IFALIASZ - 1 of linux/if.h).
const MOST_ALIAS_BYTES: usize = 255;

/// First byte of the host's address of an interface, and of one whose guest has the first.
const HOST_MAC: [u8; 2] = [0xfe, 0xfa];

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
#[error("{object}: {reason}")]
pub struct TapError {
    /// The interface or the bridge.
    pub object: String,
    /// What was tried, why it failed, and what to do.
    pub reason: String,
}

/// What a guest's interface is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// A bridge.
    Bridge(String),
    /// Whatever somebody else connects it to.
    Others,
    /// One of these interfaces of the host: that with the fewest guests, the first of several.
    Device {
        /// Their names.
        devices: Vec<String>,
        /// How guests on it reach each other.
        mode: MacvtapMode,
    },
}

/// The interface that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedTap {
    /// What it is connected to.
    pub uplink: Uplink,
    /// The guest's Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Its name. One like those that are chosen here is a wish; any other has to be free.
    pub name: Option<String>,
    /// Pairs of queues, which is how many descriptors there will be.
    pub queue_pairs: u16,
    /// Largest payload of a frame, bytes; the bridge's or the device's if nothing is said.
    pub mtu: Option<u32>,
    /// Limits of what passes, as the guest sees it.
    pub limits: Bandwidth,
    /// Its VLANs on the bridge.
    pub vlans: Option<PortVlans>,
}

impl WantedTap {
    /// Makes what passes an interface as it is wanted, before anything does.
    pub(crate) async fn settle(&self, name: &str) -> Result<(), TapError> {
        let refused =
            |error: Error| TapError { object: format!("interface {name}"), reason: error.to_string() };
        if self.vlans.is_some() {
            set_vlans(name, self.vlans.as_ref()).await.map_err(refused)?;
        }
        if self.limits != Bandwidth::default() {
            // What comes from an interface of the host comes to the guest; from a tap it comes from the guest.
            let on_device = matches!(self.uplink, Uplink::Device { .. });
            let limits = if on_device { self.limits.reversed() } else { self.limits };
            limit(name, limits).await.map_err(refused)?;
        }
        Ok(())
    }
}

/// An interface that is there.
#[derive(Debug)]
pub struct OpenTap {
    /// Its name.
    pub name: String,
    /// The interface of the host that it lies on.
    pub device: Option<String>,
    /// A descriptor for each pair of queues. They carry frames behind virtio-net headers, and do not wait.
    pub queues: Vec<OwnedFd>,
}

/// Makes interfaces of machines, in the network namespace of the thread that asks.
#[derive(Debug, Default)]
pub struct Taps {
    /// Number of the next name, of taps and of those on other interfaces.
    next: [AtomicU32; 2],
    /// Devices are chosen and used one after the other.
    turn: Mutex<()>,
}

/// What an interface of a machine is marked with.
fn mark(machine: &Path) -> String {
    format!("{MARK}{}", machine.display())
}

/// An error about an object, for `map_err`.
pub(crate) fn at<'a>(object: &'a str, operation: &'a str) -> impl FnOnce(io::Error) -> TapError + 'a {
    move |error| {
        let reason = match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS) => permission().to_owned(),
            _ if error.kind() == io::ErrorKind::PermissionDenied => permission().to_owned(),
            _ => error.to_string(),
        };
        TapError { object: object.to_owned(), reason: format!("{operation}: {reason}") }
    }
}

fn permission() -> &'static str {
    "making interfaces takes CAP_NET_ADMIN: run the daemon as root, or have an interface made (ip tuntap add ... mode tap user \
     $USER vnet_hdr) and name it in <target dev='...' managed='no'/> of type='ethernet'"
}

fn of_tap(error: NetError) -> TapError {
    at(&format!("interface {}", error.name), &error.operation)(error.source)
}

impl Taps {
    /// Makes an interface for a machine and sets it up. When that fails, nothing is left.
    ///
    /// # Errors
    /// What can't be had, and why.
    pub async fn make(&self, machine: &Path, wanted: &WantedTap) -> Result<OpenTap, TapError> {
        let links = links()?;
        let mark = mark(machine);
        if mark.len() > MOST_ALIAS_BYTES {
            let reason = "the path of the runtime directory is too long: choose a shorter one";
            return Err(TapError { object: machine.display().to_string(), reason: reason.to_owned() });
        }
        match &wanted.uplink {
            Uplink::Device { devices, mode } => {
                let _turn = self.turn.lock().await;
                let device = macvtap::choose(&links, devices, *mode).await?;
                self.on_device(&links, &mark, &device, *mode, wanted).await
            }
            Uplink::Bridge(name) => {
                let bridge = bridge(&links, name).await?;
                self.tap(&links, &mark, Some(&bridge), wanted).await
            }
            Uplink::Others => self.tap(&links, &mark, None, wanted).await,
        }
    }

    async fn tap(
        &self,
        links: &Links,
        mark: &str,
        bridge: Option<&Link>,
        wanted: &WantedTap,
    ) -> Result<OpenTap, TapError> {
        let queues = self.create(wanted)?;
        let name = queues.first().map(|tap| tap.name().to_owned()).unwrap_or_default();
        let object = format!("interface {name}");
        let found = links.by_name(&name).await.map_err(at(&object, "cannot find it"))?;
        let gone = || at(&object, "cannot find it")(io::ErrorKind::NotFound.into());
        let index = found.ok_or_else(gone)?.index;
        links.set_alias(index, mark).await.map_err(at(&object, "cannot mark it"))?;
        if let Some(mac) = wanted.mac {
            links.set_mac(index, host_side(mac)).await.map_err(at(&object, "cannot set its address"))?;
        }
        if let Some(mtu) = wanted.mtu.or(bridge.and_then(|bridge| bridge.mtu)) {
            let operation = format!("cannot set its MTU to {mtu}");
            links.set_mtu(index, mtu).await.map_err(at(&object, &operation))?;
        }
        if let Some(bridge) = bridge {
            let operation = format!("cannot make it a port of bridge '{}'", bridge.name);
            links.set_controller(index, bridge.index).await.map_err(at(&object, &operation))?;
        }
        wanted.settle(&name).await?;
        links.set_up(index, true).await.map_err(at(&object, "cannot bring it up"))?;
        Ok(OpenTap { name, device: None, queues: queues.into_iter().map(OwnedFd::from).collect() })
    }

    fn create(&self, wanted: &WantedTap) -> Result<Vec<Tap>, TapError> {
        let pairs = wanted.queue_pairs;
        if let Some(name) = wanted.name.as_deref() {
            match Tap::create(name, pairs) {
                Err(error) if is_taken(&error.source) && name.starts_with(TAP) => {}
                made => return made.map_err(of_tap),
            }
        }
        for _ in 0..MOST_TRIES {
            match Tap::create(&self.name(TAP), pairs) {
                Err(error) if is_taken(&error.source) => {}
                made => return made.map_err(of_tap),
            }
        }
        Err(exhausted(TAP))
    }

    async fn on_device(
        &self,
        links: &Links,
        mark: &str,
        device: &Link,
        mode: MacvtapMode,
        wanted: &WantedTap,
    ) -> Result<OpenTap, TapError> {
        let make = async |name: &str| {
            let made = macvtap::make(links, name, mark, device, mode, wanted).await;
            made.map(|queues| OpenTap { name: name.to_owned(), device: Some(device.name.clone()), queues })
        };
        // Looked up before: that a name is taken is found out late.
        let free = async |name: &str| {
            let found = links.by_name(name).await;
            found.map(|found| found.is_none()).map_err(at(&format!("interface {name}"), "cannot look for it"))
        };
        if let Some(name) = wanted.name.as_deref()
            && (!name.starts_with(MACVTAP) || free(name).await?)
        {
            return make(name).await;
        }
        for _ in 0..MOST_TRIES {
            let name = self.name(MACVTAP);
            if free(&name).await? {
                return make(&name).await;
            }
        }
        Err(exhausted(MACVTAP))
    }

    fn counter(&self, prefix: &str) -> &AtomicU32 {
        &self.next[usize::from(prefix == MACVTAP)]
    }

    fn name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.counter(prefix).fetch_add(1, Ordering::Relaxed))
    }

    /// Opens a tap that is there, and leaves it as it is.
    ///
    /// # Errors
    /// There is none, or it can't be opened with so many queues.
    pub async fn open(name: &str, queue_pairs: u16) -> Result<OpenTap, TapError> {
        let object = format!("interface '{name}'");
        let refused = |reason: &str| Err(TapError { object: object.clone(), reason: reason.to_owned() });
        match links()?.by_name(name).await.map_err(at(&object, "cannot look for it"))? {
            Some(Link { alias: Some(alias), .. }) if alias.starts_with(MARK) => {
                return refused("it was made for another domain: name one of your own");
            }
            Some(link) if link.is_tun() => {}
            Some(_) => return refused("it is not a TAP interface"),
            None => {
                return refused(
                    "there is no such interface: make it (ip tuntap add ... mode tap vnet_hdr), or use managed='yes'",
                );
            }
        }
        let queues = Tap::open(&TapOptions { queue_pairs, ..TapOptions::new(name) }).map_err(of_tap)?;
        let queues = queues.into_iter().map(OwnedFd::from).collect();
        Ok(OpenTap { name: name.to_owned(), device: None, queues })
    }

    /// Removes interfaces that were made for a machine and stay without it. It logs by itself what can't be removed.
    pub async fn remove(&self, machine: &Path, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let mark = mark(machine);
        let links = match Links::open() {
            Ok(links) => links,
            Err(error) => return tracing::warn!("interfaces {names:?} stay: no netlink: {error}"),
        };
        for name in names {
            let removed = match links.by_name(name).await {
                Ok(Some(link)) if link.is_macvtap() && link.alias.as_ref() == Some(&mark) => {
                    links.remove(link.index).await
                }
                Ok(Some(_)) => {
                    tracing::warn!("interface {name} stays: it is not the one that was made ({mark})");
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

    /// All interfaces that [stay](Self::remove) and were made for machines whose directories are, or were, in this one; by the name of
    /// the machine's directory. What was half made is removed. Numbers of names that are in use are not chosen again soon.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub async fn left(&self, machines: &Path) -> io::Result<HashMap<String, Vec<String>>> {
        let prefix = mark(&machines.join(""));
        let mut left: HashMap<String, Vec<String>> = HashMap::new();
        let links = Links::open()?;
        for link in links.all().await? {
            if macvtap::is_half_made(&link) {
                links.remove(link.index).await?;
                continue;
            }
            let Some(machine) = link.alias.as_deref().and_then(|alias| alias.strip_prefix(&prefix)) else {
                continue;
            };
            for prefix in [TAP, MACVTAP] {
                let number = link.name.strip_prefix(prefix).and_then(|number| number.parse::<u32>().ok());
                if let Some(number) = number {
                    self.counter(prefix).fetch_max(number.saturating_add(1), Ordering::Relaxed);
                }
            }
            if link.is_macvtap() {
                left.entry(machine.to_owned()).or_default().push(link.name);
            }
        }
        Ok(left)
    }
}

fn links() -> Result<Links, TapError> {
    Links::open().map_err(at("interfaces", "cannot ask the kernel (netlink)"))
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}

fn exhausted(prefix: &str) -> TapError {
    let reason = format!("{MOST_TRIES} names are taken, {prefix}0 and so on");
    TapError { object: "cannot name an interface".to_owned(), reason }
}

/// The host's address for a guest's: another one, that no bridge takes for its own.
fn host_side(mut guest: [u8; 6]) -> [u8; 6] {
    let [usual, other] = HOST_MAC;
    guest[0] = if guest[0] == usual { other } else { usual };
    guest
}

async fn bridge(links: &Links, name: &str) -> Result<Link, TapError> {
    let object = format!("bridge '{name}'");
    let refused = |reason: &str| TapError { object: object.clone(), reason: reason.to_owned() };
    match links.by_name(name).await.map_err(at(&object, "cannot look for it"))? {
        Some(link) if link.is_bridge() => Ok(link),
        Some(_) => Err(refused("the interface of this name is not a bridge")),
        None => {
            Err(refused("there is no such interface: make it (ip link add ... type bridge), or name another"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_right_to_it_the_message_says_what_to_do() {
        let error = at("interface a", "cannot make it")(io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(error.contains("CAP_NET_ADMIN") && error.contains("managed='no'"), "{error}");
    }
}
