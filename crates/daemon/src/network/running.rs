//! Networks that run: started, changed, stopped, found again.
//!
//! A network runs when its bridge with rules is there (`host_network`), its services answer (`super::served`), and the store says so; in
//! that order. What a daemon had made and not written down when it was killed is removed by the next one; what was written down is put in
//! order, and services that still run are left alone.
//!
//! One change of any network's life at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use host_network::{HostNetwork, Options, Watcher};
use libvirt_rpc::types::NetworkDhcpLease;
use libvirt_xml::domain::interface::SourceMode;
use libvirt_xml::network::Network as Definition;
use libvirt_xml::network::assign;
use libvirt_xml::{MacAddress, Uuid, Value};
use tokio::sync::{Mutex, MutexGuard, OnceCell, watch};

use super::ports::{Keeper, Ports};
use super::served::Places;
use super::supervision::{self, Watched};
use super::{Affected, Live, Network, NetworkError, Networks, Served, description};
use crate::instance::Settings;
use crate::machine_process::ProcessIdentity;
use crate::store::Store;

/// Name of the tables of rules of the host's daemon.
const TABLE: &str = "vireo";

/// Where the host's daemon has its runtime directory.
const USUAL: &str = "/run/vireo";

/// libvirt's default network (its src/network/default.xml.in).
const DEFAULT: &str = "<network>
  <name>default</name>
  <forward mode='nat'/>
  <bridge name='virbr%d'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.2' end='192.168.122.254'/>
    </dhcp>
  </ip>
</network>";

/// virIPAddrType.
const IPV4: i32 = 0;
/// The other.
const IPV6: i32 = 1;

/// What guests of a network are connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Uplink {
    /// A bridge.
    Bridge(String),
    /// One of these interfaces of the host.
    Devices(Vec<String>, SourceMode),
}

/// What makes networks run.
#[derive(Debug)]
pub(crate) struct Running {
    /// For tasks, which do not keep it.
    pub(super) myself: Weak<Self>,
    pub(super) networks: Arc<Networks>,
    store: Arc<Store>,
    pub(super) places: Places,
    options: Options,
    /// Opened when it is needed first.
    host: OnceCell<Host>,
    /// Held by whoever changes what runs.
    turn: Mutex<()>,
    /// Whether it is known what runs, guests' interfaces too.
    found: watch::Sender<bool>,
    /// Whether the host is known to be as the store says: until then nothing is changed.
    ordered: AtomicBool,
    /// Whether what starts with the daemon has been started.
    begun: watch::Sender<bool>,
    pub(super) ports: Ports,
    /// Of running networks.
    pub(super) keepers: parking_lot::Mutex<HashMap<Uuid, Arc<Keeper>>>,
}

/// The host, and what puts rules back.
#[derive(Debug)]
struct Host {
    network: HostNetwork,
    /// None before the first network: the kernel may have no tables of rules until then.
    watcher: parking_lot::Mutex<Option<Watcher>>,
}

impl From<host_network::Error> for NetworkError {
    fn from(error: host_network::Error) -> Self {
        match error {
            host_network::Error::Refused(refused) => Self::Unsupported(refused.to_string()),
            error @ host_network::Error::Host { .. } => Self::Host(error.to_string()),
        }
    }
}

impl Running {
    /// Nothing runs yet; [`Self::find`] finds what does.
    pub(crate) fn new(settings: &Settings, networks: Arc<Networks>, store: Arc<Store>) -> Arc<Self> {
        let runtime = settings.runtime_directory.join("networks");
        // Daemons beside each other have tables of their own, told apart by a digest of the directory.
        let digest = settings.runtime_directory.as_os_str().as_encoded_bytes().iter();
        let digest = digest.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let usual = settings.runtime_directory == Path::new(USUAL);
        let table = if usual { TABLE.to_owned() } else { format!("{TABLE}_{digest:016x}") };
        Arc::new_cyclic(|myself| Self {
            myself: myself.clone(),
            networks,
            store,
            places: Places {
                program: settings.services_program.clone(),
                runtime: runtime.clone(),
                state: settings.state_directory.join("networks"),
            },
            options: Options { table, state: runtime },
            host: OnceCell::new(),
            turn: Mutex::default(),
            found: watch::Sender::new(false),
            ordered: AtomicBool::new(false),
            begun: watch::Sender::new(false),
            ports: Ports::default(),
            keepers: parking_lot::Mutex::default(),
        })
    }

    pub(super) async fn host(&self) -> Result<&HostNetwork, NetworkError> {
        let open = || async {
            let network = HostNetwork::open(self.options.clone())
                .map_err(|error| NetworkError::Host(format!("{}: {error}", self.options.state.display())))?;
            Ok::<_, NetworkError>(Host { network, watcher: parking_lot::Mutex::default() })
        };
        self.host.get_or_try_init(open).await.map(|host| &host.network)
    }

    /// Has rules put back when somebody removes them, from now on.
    fn watch(&self) {
        let Some(host) = self.host.get() else { return };
        let mut watcher = host.watcher.lock();
        if watcher.is_none() {
            match host.network.watch() {
                Ok(watches) => *watcher = Some(watches),
                Err(error) => {
                    tracing::warn!("rules of networks are not put back when somebody removes them: {error}");
                }
            }
        }
    }

    /// Waits until the host is in order after the start of the daemon.
    pub(super) async fn in_order(&self) -> Result<(), NetworkError> {
        if self.ordered.load(Ordering::Acquire) { Ok(()) } else { self.turn().await.map(drop) }
    }

    /// Waits until nobody else changes what runs, and puts in order what is not: rules of all networks are made together, so a change of
    /// one would take away those of others that are not known yet.
    pub(super) async fn turn(&self) -> Result<MutexGuard<'_, ()>, NetworkError> {
        // The sender is in `self`.
        let _ = self.found.subscribe().wait_for(|found| *found).await;
        let turn = self.turn.lock().await;
        if !self.ordered.load(Ordering::Acquire) {
            self.put_in_order().await?;
            self.ordered.store(true, Ordering::Release);
        }
        Ok(turn)
    }

    fn known(&self, uuid: Uuid) -> Result<Arc<Network>, NetworkError> {
        self.networks.by_uuid(uuid).ok_or(NetworkError::NoSuchUuid(uuid))
    }

    /// What runs, as the host knows it, but for one network.
    fn others(&self, uuid: Uuid) -> Vec<host_network::Network> {
        let all = self.networks.all();
        let others = all.iter().filter(|network| network.uuid() != uuid).filter_map(|network| network.live());
        others.filter_map(|live| live.on_host().ok()).collect()
    }

    /// Makes all of a network, or nothing.
    async fn make(&self, uuid: Uuid, document: Definition) -> Result<Live, NetworkError> {
        let (wanted, services) = (description::host(&document)?, self.services(&document)?);
        let host = self.host().await?;
        host.check(&wanted, &self.others(uuid)).await?;
        host.start(&wanted).await?;
        self.watch();
        let mut live = Live { document: Arc::new(document), services: None };
        let Some(services) = services else { return Ok(live) };
        let made = match self.places.start(uuid, &services).await {
            Ok(served) => {
                let led = self.lead_names(&live, served.dns_port).await;
                live.services = Some(served);
                led
            }
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            if let Err(left) = self.unmake(uuid, &live).await {
                tracing::warn!("what was made of network '{}' stays: {left}", wanted.name);
            }
            return Err(error);
        }
        Ok(live)
    }

    /// Leads questions for names to where they are answered now, if that is another port than before.
    pub(super) async fn lead_names(&self, before: &Live, dns_port: Option<u16>) -> Result<(), NetworkError> {
        let known = before.services.as_ref().and_then(|served| served.dns_port);
        if known == dns_port {
            return Ok(());
        }
        let wanted = description::with_names_at(before.on_host()?, dns_port);
        self.host().await?.start(&wanted).await?;
        Ok(())
    }

    /// Removes all of a network.
    async fn unmake(&self, uuid: Uuid, live: &Live) -> Result<(), NetworkError> {
        self.places.end(uuid, live.services.as_ref().map(|served| &served.process)).await?;
        self.host().await?.stop(&live.on_host()?).await?;
        Ok(())
    }

    /// Starts a network that is defined.
    pub(crate) async fn start(&self, uuid: Uuid) -> Result<Arc<Network>, NetworkError> {
        let _turn = self.turn().await?;
        let network = self.known(uuid)?;
        if network.is_active() {
            return Err(NetworkError::Invalid("network is already active".to_owned()));
        }
        let mut document = network.definition().cloned().ok_or_else(NetworkError::not_running)?;
        assign::start(&mut document);
        self.bring_up(uuid, document, |before, live| {
            let before = before.ok_or(NetworkError::NoSuchUuid(uuid))?;
            Ok(Some(before.with_live(live)))
        })
        .await
    }

    /// Starts a network that is forgotten when it ends, or a defined one with another document.
    pub(crate) async fn create(&self, document: &str) -> Result<Arc<Network>, NetworkError> {
        let _turn = self.turn().await?;
        let mut document = self.networks.read(document)?;
        let network = Network::transient(&document)?;
        let before = self.networks.known(&network, &document)?;
        if before.is_some_and(|before| before.is_active()) {
            return Err(NetworkError::Invalid(format!("network is already active as '{}'", network.name())));
        }
        assign::start(&mut document);
        let checked = document.clone();
        let created = self.bring_up(network.uuid(), document, |before, live| {
            // Another may have been defined meanwhile.
            self.networks.known(&network, &checked)?;
            Ok(Some(before.unwrap_or(&network).with_live(live)))
        });
        let created = created.await;
        if created.is_err() && self.networks.by_uuid(network.uuid()).is_none() {
            self.places.forget(network.uuid());
        }
        created
    }

    async fn bring_up(
        &self,
        uuid: Uuid,
        document: Definition,
        put: impl FnOnce(Option<&Network>, Live) -> Result<Option<Network>, NetworkError>,
    ) -> Result<Arc<Network>, NetworkError> {
        let live = self.make(uuid, document).await?;
        self.keep(uuid, &live.document);
        let put = self.networks.change(&self.store, uuid, |before| put(before, live.clone()));
        let remembered = match put {
            Ok(change) => self.networks.settle(change).await,
            Err(error) => Err(error),
        };
        match remembered {
            Ok(after) => {
                self.supervise(uuid, &live, 0);
                self.attach_again(&live.document).await;
                after.ok_or_else(|| NetworkError::Broken("a started network is gone".to_owned()))
            }
            Err(error) => {
                self.keep_no_more(uuid);
                if let Err(left) = self.unmake(uuid, &live).await {
                    tracing::warn!("what was made of network {uuid} stays: {left}");
                }
                Err(error)
            }
        }
    }

    /// Stops a network.
    pub(crate) async fn stop(&self, uuid: Uuid) -> Result<(), NetworkError> {
        let _turn = self.turn().await?;
        let network = self.known(uuid)?;
        let Some(live) = network.live() else {
            return Err(NetworkError::Invalid(format!("network '{}' is not active", network.name())));
        };
        self.unmake(uuid, live).await?;
        self.keep_no_more(uuid);
        let change = self.networks.change_known(&self.store, uuid, |before| Ok(before.without_live()))?;
        let after = self.networks.settle(change).await?;
        if after.is_none() {
            self.places.forget(uuid);
        }
        Ok(())
    }

    /// Forgets a network's definition; what runs of it runs on.
    pub(crate) async fn undefine(&self, uuid: Uuid) -> Result<(), NetworkError> {
        // What runs is not touched, so it may be in any order.
        let _turn = self.turn.lock().await;
        let change = self.networks.undefine(&self.store, uuid)?;
        if self.networks.settle(change).await?.is_none() {
            self.places.forget(uuid);
        }
        Ok(())
    }

    /// Changes documents of a network, and what runs of it. `edit` must leave name and UUID alone, and give what is completed and
    /// checked.
    pub(crate) async fn update(
        &self,
        uuid: Uuid,
        flags: u32,
        edit: impl Fn(&Definition) -> Result<Definition, NetworkError>,
    ) -> Result<(), NetworkError> {
        let _turn = self.turn().await?;
        let network = self.known(uuid)?;
        let Affected { live, defined } = network.affected(flags)?;
        let redefine = |network: &Network| -> Result<Option<Definition>, NetworkError> {
            let definition = network.definition().filter(|_| defined).map(&edit).transpose()?;
            definition.as_ref().map_or(Ok(()), description::check)?;
            Ok(definition)
        };
        // Whether the definition can be changed is found out before what runs is.
        redefine(&network)?;
        let before = network.live().filter(|_| live);
        let after = match before {
            Some(before) => Some(Live { document: Arc::new(edit(&before.document)?), ..before.clone() }),
            None => None,
        };
        let applied = match (before, &after) {
            (Some(before), Some(after)) => self.apply(uuid, before, after).await,
            _ => Ok(()),
        };
        let put = |network: &Network| {
            if defined && !network.is_persistent() {
                return Err(NetworkError::transient());
            }
            // It may have been defined anew meanwhile: that is what is changed.
            let changed = match redefine(network)? {
                Some(definition) => network.with_definition(Some(definition)),
                None => network.clone(),
            };
            Ok(Some(match after.clone() {
                Some(live) => changed.with_live(live),
                None => changed,
            }))
        };
        let change = applied.and_then(|()| self.networks.change_known(&self.store, uuid, put));
        let settled = match change {
            Ok(change) => self.networks.settle(change).await.map(drop),
            Err(error) => Err(error),
        };
        // What was done of it is taken back.
        if settled.is_err()
            && let (Some(before), Some(after)) = (before, &after)
            && let Err(error) = self.apply(uuid, after, before).await
        {
            tracing::error!("network '{}' stays as it was not to be: {error}", network.name());
        }
        settled
    }

    /// Makes what runs by one document run by another.
    async fn apply(&self, uuid: Uuid, before: &Live, after: &Live) -> Result<(), NetworkError> {
        let (old, new) = (before.on_host()?, after.on_host()?);
        description::services(&after.document)?;
        if old != new {
            self.host().await?.start(&new).await?;
        }
        self.redescribe(uuid, &after.document).await
    }

    /// What guests of a network have been given, or one of them.
    pub(crate) async fn leases(
        &self,
        network: &Network,
        mac: Option<&str>,
    ) -> Result<Vec<NetworkDhcpLease>, NetworkError> {
        let mac = mac.map(MacAddress::read).transpose();
        let mac = mac.map_err(|fault| NetworkError::Argument(fault.to_string()))?;
        let Some(live) = network.live().filter(|live| live.services.is_some()) else { return Ok(Vec::new()) };
        let bridge = live.document.bridge_name().unwrap_or_default();
        let leases = self.places.leases(network.uuid()).await?;
        let wanted = leases.iter().filter(|lease| mac.is_none_or(|mac| mac.0 == lease.mac.0));
        let lease = |lease: &network_services::Lease| NetworkDhcpLease {
            iface: bridge.to_owned(),
            // For ever is 0, as libvirt has it.
            expirytime: lease.expires.map_or(0, |expires| i64::try_from(expires).unwrap_or(i64::MAX)),
            kind: if matches!(lease.address, IpAddr::V4(_)) { IPV4 } else { IPV6 },
            mac: Some(lease.mac.to_string()),
            iaid: lease.iaid.map(|iaid| iaid.to_string()),
            ipaddr: lease.address.to_string(),
            prefix: lease.prefix.into(),
            hostname: lease.hostname.clone(),
            clientid: lease.client_id.clone(),
        };
        Ok(wanted.map(lease).collect())
    }

    /// Defines the network that clients expect on a new host, as libvirt's packages do, and has it start with the daemon: a guest that
    /// names it gets an address without anybody having done anything.
    pub(crate) async fn define_default(&self) -> Result<(), NetworkError> {
        let change = self.networks.define(&self.store, DEFAULT)?;
        let defined = self.networks.settle(change).await?;
        let Some(network) = defined else { return Ok(()) };
        let change = self.networks.set_autostart(&self.store, network.uuid(), true)?;
        self.networks.settle(change).await.map(drop)
    }

    /// What guests of a network are connected to.
    pub(crate) fn uplink(&self, name: &str) -> Result<Uplink, NetworkError> {
        let live = self.live(name)?;
        description::uplink(&live.document)
    }

    pub(super) fn live(&self, name: &str) -> Result<Live, NetworkError> {
        let network = self.networks.by_name(name);
        let network = network.ok_or_else(|| NetworkError::NoSuchName(name.to_owned()))?;
        let inactive = || NetworkError::Invalid(format!("network '{name}' is not active"));
        network.live().cloned().ok_or_else(inactive)
    }

    /// Puts in order what runs, as the store says it, and starts what starts with the daemon.
    pub(crate) async fn find(&self) {
        self.found.send_replace(true);
        if let Err(error) = self.turn().await.map(drop) {
            tracing::error!("{error}: tried again before the next change of a network");
        }
        for network in
            self.networks.all().into_iter().filter(|network| network.autostart() && !network.is_active())
        {
            if let Err(error) = self.start(network.uuid()).await {
                tracing::error!("network '{}' does not start: {error}", network.name());
            }
        }
        self.begun.send_replace(true);
    }

    /// Waits until networks that start with the daemon have been started: whoever connects to a daemon that has just begun finds them.
    pub(crate) async fn begun(&self) {
        // The sender is in `self`.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// Makes the host what the store says. Fails when it can't even be asked: what runs is left as it is then.
    async fn put_in_order(&self) -> Result<(), NetworkError> {
        let all = self.networks.all();
        let live: Vec<_> = all.iter().filter_map(|network| Some((network, network.live()?))).collect();
        let (mut running, mut known) = (Vec::new(), Vec::new());
        for (network, live) in &live {
            known.push(network.uuid());
            match live.on_host() {
                Ok(described) => running.push(described),
                Err(error) => tracing::error!("network '{}' is not as it was: {error}", network.name()),
            }
        }
        self.places.end_others(&known).await;
        // A host on which no network has been started is left alone. One that was started anew has lost what the store remembers.
        if known.is_empty() && !self.options.state.exists() {
            return Ok(());
        }
        let guards = self.guards().await;
        let failed = match self.host().await?.repair(&running, guards).await {
            Ok(failed) => failed,
            // Who may not make networks has none, and hears of it from who tries.
            Err(error) if known.is_empty() && error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Ok(());
            }
            Err(error) => {
                return Err(NetworkError::Host(format!("networks can't be put in order: {error}")));
            }
        };
        self.watch();
        for (network, live) in live {
            let uuid = network.uuid();
            let on_host = failed.iter().find(|(failed, _)| failed.as_bytes() == &uuid.0);
            let result = match on_host {
                Some((_, error)) => Err(NetworkError::Host(error.to_string())),
                None => self.serve_again(uuid, live).await,
            };
            if let Err(error) = result {
                tracing::error!("network '{}' does not run any more: {error}", network.name());
                self.gone(uuid, live).await;
                continue;
            }
            self.attach_again(&live.document).await;
        }
        Ok(())
    }

    /// Sees to it that a running network is served, and stays so.
    async fn serve_again(&self, uuid: Uuid, live: &Live) -> Result<(), NetworkError> {
        // What is not understood any more has lost its bridge.
        description::host(&live.document)?;
        let services = self.services(&live.document)?;
        if let (Some(served), Some(services)) = (&live.services, services)
            && self.places.find(uuid, &served.process)?.is_some()
        {
            // Its daemon may have died between telling it of a change and writing that down.
            match self.places.change(uuid, &services).await {
                Ok(()) => {
                    self.supervise(uuid, live, 0);
                    return Ok(());
                }
                Err(error) => tracing::warn!("services of network {uuid} are started anew: {error}"),
            }
        }
        self.start_services(uuid, live, 0).await
    }

    /// Starts the services of a running network, whose process is gone, if it has any; after so many attempts in a row that did not last.
    pub(super) async fn start_services(
        &self,
        uuid: Uuid,
        live: &Live,
        attempts: u32,
    ) -> Result<(), NetworkError> {
        let Some(services) = self.services(&live.document)? else { return Ok(()) };
        // What the former left behind.
        self.places.end(uuid, live.services.as_ref().map(|served| &served.process)).await?;
        let served = self.places.start(uuid, &services).await?;
        let process = served.process.clone();
        let settled = match self.lead_names(live, served.dns_port).await {
            Ok(()) => self.remember(uuid, served).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(live) => {
                self.supervise(uuid, &live, attempts);
                self.served_anew(uuid);
                Ok(())
            }
            Err(error) => {
                // Nobody would find it.
                self.places.end(uuid, Some(&process)).await?;
                Err(error)
            }
        }
    }

    /// Writes down who serves a running network.
    async fn remember(&self, uuid: Uuid, served: Served) -> Result<Live, NetworkError> {
        let change = self.networks.change_known(&self.store, uuid, |network| {
            let live = network.live().ok_or_else(NetworkError::not_running)?;
            Ok(Some(network.with_live(Live { services: Some(served), ..live.clone() })))
        })?;
        let after = self.networks.settle(change).await?;
        let live = after.and_then(|after| after.live().cloned());
        live.ok_or_else(NetworkError::not_running)
    }

    /// Has the services of a running network started again when they end by themselves.
    fn supervise(&self, uuid: Uuid, live: &Live, attempts: u32) {
        let Some(Served { process: identity, .. }) = live.services.clone() else { return };
        match self.places.find(uuid, &identity) {
            Ok(process) => {
                supervision::begin(self.myself.clone(), Watched { uuid, identity, process, attempts });
            }
            Err(error) => tracing::error!("services of network {uuid} are not watched: {error}"),
        }
    }

    /// The running network that is served by this process, and not by another by now.
    pub(super) fn served_by(&self, uuid: Uuid, process: &ProcessIdentity) -> Option<(Arc<Network>, Live)> {
        let network = self.networks.by_uuid(uuid)?;
        let live = network.live()?.clone();
        live.services.as_ref().is_some_and(|served| served.process == *process).then_some((network, live))
    }

    /// A network that ran does not any more.
    async fn gone(&self, uuid: Uuid, live: &Live) {
        self.keep_no_more(uuid);
        if let Err(error) = self.unmake(uuid, live).await {
            tracing::warn!("what was made of network {uuid} stays: {error}");
        }
        let change = self.networks.change_known(&self.store, uuid, |before| Ok(before.without_live()));
        let settled = match change {
            Ok(change) => self.networks.settle(change).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(None) => self.places.forget(uuid),
            Ok(Some(_)) => {}
            Err(error) => tracing::warn!("network {uuid}: {error}"),
        }
    }
}

impl From<std::io::Error> for NetworkError {
    fn from(error: std::io::Error) -> Self {
        Self::Host(error.to_string())
    }
}
