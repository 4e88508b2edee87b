//! Networks that are there, and the one place that changes the host for them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use uuid::Uuid;

use crate::guard::{Guard, Guards};
use crate::interfaces::not_filtering;
use crate::links::{Link, Links};
use crate::network::{Kind, MacvtapMode, Network, Refused, Subnet};
use crate::state::{Shared, State};
use crate::sysctl::{self, Record};
use crate::{bandwidth, programs};

/// Alias of bridges; the network's UUID and the maker's directory follow. Taps of machines have an absolute path there.
const MARK: &str = "vireo network ";
/// Name of a bridge that has no alias yet; digits that tell its maker from others follow, and digits of the network's UUID.
const UNMARKED: &str = "vireo";
const OWNER_DIGITS: usize = 4;
const UUID_DIGITS: usize = 6;
/// Longest alias, bytes (IFALIASZ - 1 of linux/if.h).
const MOST_ALIAS_BYTES: usize = 255;
/// Beginning of addresses of bridges that have none in their description (QEMU's, as libvirt's).
const MAC: [u8; 3] = [0x52, 0x54, 0x00];

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The description is wrong, or collides with what is there. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The host did not do it.
    #[error("{object}: {operation}: {reason}", reason = reason(source))]
    Host {
        /// The network or interface.
        object: String,
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn host(object: &str, operation: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let object = object.to_owned();
        let operation = operation.to_owned();
        move |source| Self::Host { object, operation, source }
    }
}

fn reason(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            format!("{error} (networks take CAP_NET_ADMIN: run the daemon as root)")
        }
        _ => error.to_string(),
    }
}

/// Who makes networks.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of tables, and the beginning of comments in others' chains.
    pub table: String,
    /// A directory for what has to be remembered until the host is booted again, like one in /run. Also the owner's name: of two
    /// that make networks on one host, neither touches the other's bridges.
    pub state: PathBuf,
}

/// A network that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The bridge that guests' interfaces become ports of; the lower interfaces of macvtap have none.
    pub bridge: Option<String>,
    /// The bridge's number, which no other interface gets as long as it is there.
    pub index: Option<u32>,
    /// Largest payload of a frame, bytes, when the description has one.
    pub mtu: Option<u32>,
}

/// Makes and removes networks of a host.
///
/// Changes of one network have to come one after the other; those of several may be made at the same time.
#[derive(Debug, Clone)]
pub struct HostNetwork {
    shared: Arc<Shared>,
}

impl HostNetwork {
    /// Begins with nothing; [`repair`](Self::repair) says what should be there.
    ///
    /// # Errors
    /// The directory can't be made, or what was written down there can't be read.
    pub fn open(options: Options) -> io::Result<Self> {
        fs::create_dir_all(&options.state)?;
        let record = Record::open(&options.state)?;
        let state = State { networks: BTreeMap::new(), guards: Guards::new(), record };
        Ok(Self { shared: Arc::new(Shared { options, state: Mutex::new(state) }) })
    }

    /// Whose bridges are ours, and of which network.
    fn mark(&self, uuid: &Uuid) -> String {
        format!("{MARK}{uuid} {}", self.shared.options.state.display())
    }

    /// Whether an interface is a bridge that was made from here, and for which network.
    fn ours(&self, link: &Link) -> Option<Uuid> {
        let rest = link.alias.as_deref()?.strip_prefix(MARK)?;
        let (uuid, owner) = rest.split_once(' ')?;
        let ours = link.is_bridge() && owner == self.shared.options.state.display().to_string();
        ours.then(|| uuid.parse().ok()).flatten()
    }

    /// Beginning of names of bridges that were made from here and have no alias yet.
    fn temporary_prefix(&self) -> String {
        let owner = self.shared.options.state.as_os_str().as_encoded_bytes().iter();
        // FNV-1a: it only has to be the same the next time.
        let digest =
            owner.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        let digits: String = format!("{digest:08x}").chars().take(OWNER_DIGITS).collect();
        format!("{UNMARKED}{digits}")
    }

    pub(crate) fn temporary_name(&self, uuid: &Uuid) -> String {
        let digits: String = uuid.simple().to_string().chars().take(UUID_DIGITS).collect();
        format!("{}{digits}", self.temporary_prefix())
    }

    /// A bridge from here that nobody has marked yet: its maker is dead, for nobody else makes networks here meanwhile.
    fn half_made(&self, link: &Link) -> bool {
        let prefix = self.temporary_prefix();
        let digits = link.name.strip_prefix(&prefix).unwrap_or_default();
        link.is_bridge()
            && !link.up
            && link.alias.is_none()
            && digits.len() == UUID_DIGITS
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    }

    /// Whether a bridge was made for this network from here.
    pub(crate) fn made_for(&self, link: &Link, uuid: &Uuid) -> bool {
        self.ours(link).as_ref() == Some(uuid)
    }

    /// Starts a network, or completes one that is there or half there. When it fails, nothing is left of what was not there
    /// before; guests of one that was there keep what works.
    ///
    /// Call [`check`](Self::check) before: what collides is not looked for again.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub async fn start(&self, network: &Network) -> Result<Running, Error> {
        network.check()?;
        let links = self.links(network)?;
        let object = format!("network '{}'", network.name);
        let before = links.by_name(&network.bridge).await;
        let before = before.map_err(Error::host(&object, "cannot list interfaces"))?;
        let there = before.is_some_and(|link| self.made_for(&link, &network.uuid));
        match self.make(network).await {
            Err(error) if !there => {
                if let Err(left) = self.stop(network).await {
                    tracing::warn!("what was made of network '{}' stays: {left}", network.name);
                }
                Err(error)
            }
            made => made,
        }
    }

    async fn make(&self, network: &Network) -> Result<Running, Error> {
        let links = self.links(network)?;
        let mtu = network.settings.mtu;
        if !network.makes_bridge() {
            return existing(&links, network).await;
        }
        let index = self.bridge(&links, network).await?;
        let at = |operation: &str| Error::host(&format!("bridge {}", network.bridge), operation);
        interface_settings(network).map_err(at("cannot set its sysctls"))?;
        // Before packets can pass.
        self.with_rules(network.clone(), "cannot make its rules", |state, network| {
            state.networks.insert(network.uuid, network);
        })
        .await?;
        for subnet in &network.addresses {
            let operation = format!("cannot give it the address {subnet}");
            links.add_address(index, *subnet).await.map_err(at(&operation))?;
        }
        links.set_up(index, true).await.map_err(at("cannot bring it up"))?;
        for route in &network.routes {
            let operation = format!("cannot route {} by {}", route.destination, route.gateway);
            links.add_route(index, route).await.map_err(at(&operation))?;
        }
        if network.bandwidth != crate::Bandwidth::default() {
            bandwidth::set_bridge(index, &network.bandwidth).map_err(at("cannot limit its bandwidth"))?;
        }
        Ok(Running { bridge: Some(network.bridge.clone()), index: Some(index), mtu })
    }

    /// The bridge, with everything but its addresses and rules.
    async fn bridge(&self, links: &Links, network: &Network) -> Result<u32, Error> {
        let at = |operation: &str| Error::host(&format!("bridge {}", network.bridge), operation);
        let mut settings = network.settings.clone();
        settings.mac.get_or_insert_with(|| mac_of(network));
        let mark = self.mark(&network.uuid);
        if mark.len() > MOST_ALIAS_BYTES {
            let reason =
                io::Error::other("the path of the state directory is too long: choose a shorter one");
            return Err(at("cannot mark it")(reason));
        }
        let temporary = self.temporary_name(&network.uuid);
        let found = links.all().await.map_err(at("cannot list interfaces"))?;
        let ours: Vec<&Link> = found.iter().filter(|link| self.made_for(link, &network.uuid)).collect();
        if let Some(link) = ours.iter().find(|link| link.name == network.bridge) {
            links.set_bridge(link.index, &settings).await.map_err(at("cannot change its settings"))?;
            self.tidy_addresses(links, link.index, network).await.map_err(at("cannot list its addresses"))?;
            return Ok(link.index);
        }
        // Half made, or of a definition with another name.
        for link in found.iter().filter(|link| {
            link.is_bridge() && link.alias.is_none() && link.name == temporary
                || self.made_for(link, &network.uuid)
        }) {
            links.remove(link.index).await.map_err(at("cannot remove what is half made"))?;
        }
        if let Some(taken) = found.iter().find(|link| link.name == network.bridge) {
            let of = taken.alias.as_deref().map(|alias| format!(" ({alias})")).unwrap_or_default();
            let reason = format!("there is an interface '{}' that is not its bridge{of}", taken.name);
            return Err(network.refused(reason).into());
        }
        links.add_bridge(&temporary, &settings).await.map_err(at("cannot make it"))?;
        let made = links.by_name(&temporary).await.map_err(at("cannot find it"))?;
        let index = made.map(|link| link.index).ok_or(io::ErrorKind::NotFound.into());
        let index = index.map_err(at("cannot find it"))?;
        links.set_alias(index, &mark).await.map_err(at("cannot mark it"))?;
        links.rename(index, &network.bridge).await.map_err(at("cannot name it"))?;
        Ok(index)
    }

    /// Removes addresses that a bridge had by an older definition; the kernel's own stay.
    async fn tidy_addresses(&self, links: &Links, index: u32, network: &Network) -> io::Result<()> {
        for reached in links.addresses().await? {
            let Subnet { address, .. } = reached.subnet;
            let kernels = matches!(address, std::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
            if reached.index == Some(index) && !kernels && !network.addresses.contains(&reached.subnet) {
                links.remove_address(index, reached.subnet).await?;
            }
        }
        Ok(())
    }

    /// Removes a network and everything that was made for it. One that is not there is fine. Ports of the bridge stay, without it.
    ///
    /// # Errors
    /// What could not be removed, and why; the rest is gone.
    pub async fn stop(&self, network: &Network) -> Result<(), Error> {
        let links = self.links(network)?;
        let at = |operation: &str| Error::host(&format!("bridge {}", network.bridge), operation);
        let temporary = self.temporary_name(&network.uuid);
        let mut removed = Ok(());
        for link in links.all().await.map_err(at("cannot list interfaces"))? {
            let half = link.is_bridge() && link.alias.is_none() && link.name == temporary;
            if (half || self.made_for(&link, &network.uuid))
                && let Err(error) = links.remove(link.index).await
            {
                removed = Err(at("cannot remove it")(error));
            }
        }
        self.with_rules(network.clone(), "cannot remove its rules", |state, network| {
            state.networks.remove(&network.uuid);
        })
        .await?;
        let bridge = network.bridge.clone();
        let forgotten = blocking(move || programs::forget(&bridge)).await.and_then(|forgotten| forgotten);
        forgotten.map_err(at("firewalld does not forget it"))?;
        removed
    }

    /// Makes the host as it should be after whatever has happened: these networks are there, no others of ours, with all rules; these
    /// guests' interfaces are guarded. Returns what could not be done; the rest is. A network whose bridge is gone, as after the host
    /// was booted, is [checked](Self::check) as if it were started for the first time.
    ///
    /// # Errors
    /// The host can't be asked at all.
    pub async fn repair(&self, networks: &[Network], guards: Vec<Guard>) -> io::Result<Vec<(Uuid, Error)>> {
        let links = Links::open()?;
        let mut there = Vec::new();
        for link in links.all().await? {
            let wanted = |uuid: &Uuid| networks.iter().any(|network| network.uuid == *uuid);
            let ours = self.ours(&link);
            there.extend(ours);
            if self.half_made(&link) || ours.is_some_and(|uuid| !wanted(&uuid)) {
                tracing::info!("bridge {} is of no network any more: removed", link.name);
                links.remove(link.index).await?;
            }
        }
        let shared = Arc::clone(&self.shared);
        let all = networks.iter().map(|network| (network.uuid, network.clone())).collect();
        blocking(move || {
            let mut state = shared.state.lock();
            // All at once: the first that is completed should not take away the rules of those that follow.
            state.networks = all;
            state.guards = guards.into_iter().map(|guard| (guard.interface.clone(), guard)).collect();
        })
        .await?;
        let mut failed = Vec::new();
        for network in networks {
            let done = if there.contains(&network.uuid) {
                self.start(network).await.map(drop)
            } else {
                self.start_anew(network, networks).await
            };
            if let Err(error) = done {
                failed.push((network.uuid, error));
            }
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.put_back(true)).await??;
        Ok(failed)
    }

    async fn start_anew(&self, network: &Network, others: &[Network]) -> Result<(), Error> {
        if let Err(error) = self.check(network, others).await {
            // Its rules are not to come back.
            self.stop(network).await?;
            return Err(error);
        }
        self.start(network).await.map(drop)
    }

    pub(crate) fn links(&self, network: &Network) -> Result<Links, Error> {
        let object = format!("network '{}'", network.name);
        Links::open().map_err(Error::host(&object, "cannot ask the kernel for interfaces (netlink)"))
    }

    /// Changes what should be there, and the rules with it; changes nothing when that fails.
    async fn with_rules(
        &self,
        network: Network,
        operation: &str,
        change: impl FnOnce(&mut State, Network) + Send + 'static,
    ) -> Result<(), Error> {
        let object = format!("network '{}'", network.name);
        let shared = Arc::clone(&self.shared);
        let changed = blocking(move || {
            let mut state = shared.state.lock();
            let before = state.networks.clone();
            change(&mut state, network);
            let applied = shared.apply(&mut state);
            if applied.is_err() {
                state.networks = before;
            }
            applied
        });
        changed.await.and_then(|applied| applied).map_err(Error::host(&object, operation))
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

/// Runs what makes system calls that take a while.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// An interface that has to be there.
pub(crate) async fn named(links: &Links, name: &str) -> Result<Link, Error> {
    let at = |operation: &str| Error::host(&format!("interface {name}"), operation);
    let found = links.by_name(name).await.map_err(at("cannot find it"))?;
    found.ok_or_else(|| {
        at("cannot find it")(io::Error::new(io::ErrorKind::NotFound, "there is no such interface"))
    })
}

/// A bridge, or lower interfaces, that are somebody else's.
async fn existing(links: &Links, network: &Network) -> Result<Running, Error> {
    if let Kind::Macvtap { devices, .. } = &network.kind {
        for device in devices {
            named(links, device).await?;
        }
        return Ok(Running { bridge: None, index: None, mtu: None });
    }
    let link = named(links, &network.bridge).await?;
    if !link.is_bridge() {
        return Err(network.refused(format!("interface '{}' is not a bridge", link.name)).into());
    }
    if network.settings.vlan_filtering && !link.vlan_filtering {
        return Err(network.refused(not_filtering(&link.name)).into());
    }
    Ok(Running { bridge: Some(link.name), index: Some(link.index), mtu: None })
}

/// Settings of a bridge that are no part of the interface itself.
fn interface_settings(network: &Network) -> io::Result<()> {
    let bridge = &network.bridge;
    let forwarding = if network.forwards_packets() { "1" } else { "0" };
    let local = network.forwards.iter().any(|forward| forward.guest_address.is_ipv4());
    let ipv6 = network.has(false);
    sysctl::ensure(&format!("ipv4/conf/{bridge}/forwarding"), forwarding)?;
    sysctl::ensure(&format!("ipv4/conf/{bridge}/route_localnet"), if local { "1" } else { "0" })?;
    // Guests are no routers for the host.
    sysctl::ensure(&format!("ipv6/conf/{bridge}/accept_ra"), "0")?;
    sysctl::ensure(&format!("ipv6/conf/{bridge}/autoconf"), "0")?;
    sysctl::ensure(&format!("ipv6/conf/{bridge}/forwarding"), if ipv6 { forwarding } else { "0" })?;
    sysctl::ensure(&format!("ipv6/conf/{bridge}/disable_ipv6"), if ipv6 { "0" } else { "1" })
}

/// A bridge takes the lowest address of its ports unless it has one of its own.
fn mac_of(network: &Network) -> [u8; 6] {
    let [.., a, b, c] = *network.uuid.as_bytes();
    let [x, y, z] = MAC;
    [x, y, z, a, b, c]
}

/// How a lower interface is used, for the log and for messages.
pub(crate) fn mode_name(mode: MacvtapMode) -> &'static str {
    match mode {
        MacvtapMode::Bridge => "bridge",
        MacvtapMode::Private => "private",
        MacvtapMode::Vepa => "vepa",
        MacvtapMode::Passthrough => "passthrough",
    }
}
