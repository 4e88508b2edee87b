//! Networks that are there, and the one place that changes the host for them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use uuid::Uuid;

use crate::guard::{self, Guard, Guards};
use crate::links::{Link, Links, Statistics};
use crate::network::{Kind, MacvtapMode, Network, Refused, Subnet};
use crate::nftables::{self, Chain, Family, Hook, Transaction};
use crate::rules::Table;
use crate::sysctl::{self, Record};
use crate::{bandwidth, foreign, legacy, programs};

/// Alias of bridges; the network's UUID and the maker's directory follow. Taps of machines have an absolute path there.
const MARK: &str = "vireo network ";
/// Name of a bridge that has no alias yet; ten digits of the network's UUID follow.
const UNMARKED: &str = "vireo";
const UNMARKED_DIGITS: usize = 10;
/// Longest alias, bytes (IFALIASZ - 1 of linux/if.h).
const MOST_ALIAS_BYTES: usize = 255;
/// Beginning of addresses of bridges that have none in their description (QEMU's, as libvirt's).
const MAC: [u8; 3] = [0x52, 0x54, 0x00];
/// How often rules are made anew because others changed theirs meanwhile.
const MOST_TRIES: usize = 50;

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

#[derive(Debug)]
pub(crate) struct Shared {
    options: Options,
    state: Mutex<State>,
}

/// What should be there.
#[derive(Debug)]
struct State {
    networks: BTreeMap<Uuid, Network>,
    guards: Guards,
    record: Record,
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

    /// Whether a bridge was made for this network from here.
    pub(crate) fn made_for(&self, link: &Link, uuid: &Uuid) -> bool {
        self.ours(link).as_ref() == Some(uuid)
    }

    /// Starts a network, or completes one that is half there. When it fails, nothing of it is left.
    ///
    /// Call [`check`](Self::check) before: what collides is not looked for again.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub async fn start(&self, network: &Network) -> Result<Running, Error> {
        network.check()?;
        match self.make(network).await {
            Ok(running) => Ok(running),
            Err(error) => {
                if let Err(left) = self.stop(network).await {
                    tracing::warn!("what was made of network '{}' stays: {left}", network.name);
                }
                Err(error)
            }
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
        let temporary = temporary_name(&network.uuid);
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
        let temporary = temporary_name(&network.uuid);
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
    /// guests' interfaces are guarded. Returns what could not be done; the rest is.
    ///
    /// # Errors
    /// The host can't be asked at all.
    pub async fn repair(&self, networks: &[Network], guards: Vec<Guard>) -> io::Result<Vec<(Uuid, Error)>> {
        let links = Links::open()?;
        for link in links.all().await? {
            let wanted = |uuid: &Uuid| networks.iter().any(|network| network.uuid == *uuid);
            let ours = self.ours(&link);
            if half_made(&link) || ours.is_some_and(|uuid| !wanted(&uuid)) {
                tracing::info!("bridge {} is of no network any more: removed", link.name);
                links.remove(link.index).await?;
            }
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let mut state = shared.state.lock();
            state.networks.clear();
            state.guards = guards.into_iter().map(|guard| (guard.interface.clone(), guard)).collect();
        })
        .await?;
        let mut failed = Vec::new();
        for network in networks {
            if let Err(error) = self.start(network).await {
                failed.push((network.uuid, error));
            }
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.put_back(true)).await??;
        Ok(failed)
    }

    fn links(&self, network: &Network) -> Result<Links, Error> {
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

    /// Keeps a guest from pretending to be another: only these addresses pass from its interface from now on.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub async fn guard(&self, guard: Guard) -> Result<(), Error> {
        let interface = guard.interface.clone();
        let object = format!("interface {interface}");
        crate::network::interface_name(&interface)
            .map_err(|reason| Refused { network: interface.clone(), reason })?;
        self.change_guard(interface, move |_| Some(guard))
            .await
            .map_err(Error::host(&object, "cannot guard its addresses"))
    }

    /// Changes the addresses of a guest that is guarded, like at a new lease.
    ///
    /// # Errors
    /// It is not guarded, or the kernel does not take it.
    pub async fn set_addresses(&self, interface: &str, addresses: Vec<Subnet>) -> Result<(), Error> {
        let object = format!("interface {interface}");
        let mut missing = false;
        if !self.shared.state.lock().guards.contains_key(interface) {
            missing = true;
        }
        if missing {
            let reason = io::Error::new(io::ErrorKind::NotFound, "it is not guarded");
            return Err(Error::host(&object, "cannot change its addresses")(reason));
        }
        self.change_guard(interface.to_owned(), move |guard| {
            guard.map(|guard| Guard { addresses, ..guard.clone() })
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
        self.change_guard(interface.to_owned(), |_| None)
            .await
            .map_err(Error::host(&object, "cannot stop guarding its addresses"))
    }

    async fn change_guard(
        &self,
        interface: String,
        change: impl FnOnce(Option<&Guard>) -> Option<Guard> + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let mut state = shared.state.lock();
            let before = state.guards.get(&interface).cloned();
            let after = change(before.as_ref());
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

    /// Makes a guest's interface a port of a network's bridge, with what the network says of ports.
    ///
    /// # Errors
    /// The interface or the bridge is not there, or the kernel does not do it.
    pub async fn connect(&self, network: &Network, interface: &str) -> Result<(), Error> {
        let object = format!("interface {interface}");
        let at = |operation: &str| Error::host(&object, operation);
        let links = self.links(network)?;
        let port = named(&links, interface).await?;
        let bridge = named(&links, &network.bridge).await?;
        let operation = format!("cannot make it a port of bridge '{}'", bridge.name);
        links.set_controller(port.index, bridge.index).await.map_err(at(&operation))?;
        if network.isolated_ports {
            links.set_port(port.index, true).await.map_err(at("cannot isolate it"))?;
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

    /// Limits what passes a guest's interface; without limits everything passes again.
    ///
    /// # Errors
    /// There is no such interface, a limit makes no sense, or the kernel does not do it.
    pub async fn limit(&self, interface: &str, limits: crate::Bandwidth) -> Result<(), Error> {
        let object = format!("interface {interface}");
        for limit in [limits.inbound, limits.outbound].into_iter().flatten() {
            limit.check().map_err(|reason| Refused { network: interface.to_owned(), reason })?;
        }
        let links = Links::open().map_err(Error::host(&object, "cannot ask the kernel (netlink)"))?;
        let index = named(&links, interface).await?.index;
        blocking(move || bandwidth::set(index, &limits))
            .await
            .and_then(|set| set)
            .map_err(Error::host(&object, "cannot limit its bandwidth"))
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

fn temporary_name(uuid: &Uuid) -> String {
    let digits: String = uuid.simple().to_string().chars().take(UNMARKED_DIGITS).collect();
    format!("{UNMARKED}{digits}")
}

/// A bridge that nobody has marked yet: its maker is dead, for nobody else makes networks meanwhile.
fn half_made(link: &Link) -> bool {
    let digits = link.name.strip_prefix(UNMARKED).unwrap_or_default();
    link.is_bridge()
        && !link.up
        && link.alias.is_none()
        && digits.len() == UNMARKED_DIGITS
        && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// A bridge takes the lowest address of its ports unless it has one of its own.
fn mac_of(network: &Network) -> [u8; 6] {
    let [.., a, b, c] = *network.uuid.as_bytes();
    let [x, y, z] = MAC;
    [x, y, z, a, b, c]
}

impl Shared {
    /// Makes rules and settings of the host what the state says.
    fn apply(&self, state: &mut State) -> io::Result<()> {
        let networks: Vec<Network> = state.networks.values().cloned().collect();
        let networks: Vec<&Network> = networks.iter().collect();
        let forwarding = networks.iter().any(|network| network.forwards_packets());
        if forwarding {
            forward_packets(&mut state.record, &networks)?;
        }
        let chains = self.commit(&networks)?;
        let own = &self.options.table;
        let legacy = legacy::apply(own, &networks)?;
        if !legacy.is_empty() {
            tracing::info!(
                "{} rules were added to the old packet filter, which refuses packets",
                legacy.len()
            );
        }
        programs::firewalld(&networks)?;
        if !forwarding && !state.record.is_empty() {
            if others_forward(own, &chains) {
                tracing::info!("forwarding of packets stays on: others have rules for it");
                state.record.forget()?;
            } else {
                state.record.restore()?;
            }
        }
        Ok(())
    }

    /// Replaces all rules of networks in one transaction.
    fn commit(&self, networks: &[&Network]) -> io::Result<Vec<Chain>> {
        let own = &self.options.table;
        let table = Table::of(networks);
        for _ in 0..MOST_TRIES {
            let generation = nftables::generation()?;
            let chains = nftables::list_chains()?;
            let changes = foreign::Changes::of(own, &chains, &nftables::owned_tables()?, networks);
            let there = chains.iter().any(|chain| chain.family == Family::Inet && chain.table == *own);
            let mut transaction = Transaction::new(Some(generation));
            if there || !table.is_empty() {
                table.write(Family::Inet, own, &mut transaction);
            }
            changes.write(&mut transaction);
            match transaction.commit() {
                Ok(()) => {
                    for table in changes.tables() {
                        tracing::info!("rules were added where packets are refused: {table}");
                    }
                    return Ok(chains);
                }
                // Others have changed theirs meanwhile.
                Err(error) if matches!(Errno::from_io_error(&error), Some(RESTART | Errno::NOENT)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("others change their rules all the time"))
    }

    /// Puts back what somebody has removed; all of it when `whole`. Returns whether there was something to do.
    pub(crate) fn put_back(&self, whole: bool) -> io::Result<bool> {
        let mut state = self.state.lock();
        if !whole && self.is_complete(&state)? {
            return Ok(false);
        }
        self.apply(&mut state)?;
        let chains = nftables::list_chains()?;
        let there =
            chains.iter().any(|chain| chain.family == Family::Bridge && chain.table == self.options.table);
        if there || !state.guards.is_empty() {
            let mut transaction = Transaction::new(None);
            guard::write(&state.guards, &self.options.table, &mut transaction);
            transaction.commit()?;
        }
        Ok(true)
    }

    /// Whether the kernel has all rules.
    fn is_complete(&self, state: &State) -> io::Result<bool> {
        let own = &self.options.table;
        let networks: Vec<&Network> = state.networks.values().collect();
        let chains = nftables::list_chains()?;
        let count = |family| -> usize {
            let ours = chains.iter().filter(|chain| chain.family == family && chain.table == *own);
            ours.map(|chain| chain.rules.len()).sum()
        };
        let complete = count(Family::Inet) == Table::of(&networks).count()
            && count(Family::Bridge) == guard::count(&state.guards)
            && foreign::Changes::of(own, &chains, &nftables::owned_tables()?, &networks).is_empty();
        Ok(complete)
    }
}

/// `ERESTART`: the tables changed since they were read. Programs see it from netlink only.
const RESTART: Errno = Errno::from_raw_os_error(85);

/// Has the host forward packets.
fn forward_packets(record: &mut Record, networks: &[&Network]) -> io::Result<()> {
    let forwarding: Vec<&&Network> = networks.iter().filter(|network| network.forwards_packets()).collect();
    if forwarding.iter().any(|network| network.has(true)) {
        record.change("ipv4/ip_forward", "1")?;
    }
    if forwarding.iter().any(|network| network.has(false)) && sysctl::read("ipv6/conf/all/forwarding")? != "1"
    {
        // A router ignores the advertisements that a host has its own addresses from, unless told (accept_ra 2).
        for interface in fs::read_dir("/proc/sys/net/ipv6/conf")? {
            let name = interface?.file_name().to_string_lossy().into_owned();
            let ours = networks.iter().any(|network| network.bridge == name);
            let key = format!("ipv6/conf/{name}/accept_ra");
            if !ours && !["all", "default", "lo"].contains(&name.as_str()) && sysctl::read(&key)? == "1" {
                record.change(&key, "2")?;
            }
        }
        record.change("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Whether somebody else has rules for packets that are forwarded.
fn others_forward(own: &str, chains: &[Chain]) -> bool {
    let forwards = |chain: &Chain| {
        matches!(
            (chain.kind.as_deref(), chain.hook),
            (Some("filter"), Some(Hook::Forward)) | (Some("nat"), Some(Hook::Postrouting))
        )
    };
    let mark = format!("{own}: ");
    let theirs = |chain: &Chain| {
        let ours = |comment: &Option<String>| comment.as_deref().is_some_and(|text| text.starts_with(&mark));
        chain.drops || chain.rules.iter().any(|rule| !ours(&rule.comment))
    };
    chains.iter().any(|chain| chain.table != own && forwards(chain) && theirs(chain)) || legacy::in_use("nat")
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
