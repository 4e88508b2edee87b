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
use std::sync::{Arc, Weak};

use host_network::{HostNetwork, Options, Watcher};
use libvirt_rpc::types::NetworkDhcpLease;
use libvirt_xml::network::Network as Definition;
use libvirt_xml::network::assign;
use libvirt_xml::{MacAddress, Uuid, Value};
use tokio::sync::{Mutex, MutexGuard, OnceCell, watch};

use super::ports::{Keeper, Ports};
use super::served::Places;
use super::{Affected, Live, Network, NetworkError, Networks, description};
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
    turn: Mutex<()>,
    /// Whether what was left by the daemon before this one is in order.
    ordered: watch::Sender<bool>,
    pub(super) ports: Ports,
    /// Of running networks.
    pub(super) keepers: parking_lot::Mutex<HashMap<Uuid, Arc<Keeper>>>,
}

/// The host, and what puts rules back.
#[derive(Debug)]
struct Host {
    network: HostNetwork,
    _watcher: Option<Watcher>,
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
            ordered: watch::Sender::new(false),
            ports: Ports::default(),
            keepers: parking_lot::Mutex::default(),
        })
    }

    pub(super) async fn host(&self) -> Result<&HostNetwork, NetworkError> {
        let open = || async {
            let network = HostNetwork::open(self.options.clone())
                .map_err(|error| NetworkError::Host(format!("{}: {error}", self.options.state.display())))?;
            let watcher = network.watch().inspect_err(|error| {
                tracing::warn!("rules of networks are not put back when somebody removes them: {error}");
            });
            Ok::<_, NetworkError>(Host { network, _watcher: watcher.ok() })
        };
        self.host.get_or_try_init(open).await.map(|host| &host.network)
    }

    /// Waits until the host is in order after the start of the daemon.
    pub(super) async fn in_order(&self) {
        // The sender is in `self`.
        let _ = self.ordered.subscribe().wait_for(|ordered| *ordered).await;
    }

    /// Waits until nobody else changes what runs.
    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.in_order().await;
        self.turn.lock().await
    }

    fn known(&self, uuid: Uuid) -> Result<Arc<Network>, NetworkError> {
        self.networks.by_uuid(uuid).ok_or(NetworkError::NoSuchUuid(uuid))
    }

    /// What runs, as the host knows it, but for one network.
    fn others(&self, uuid: Uuid) -> Vec<host_network::Network> {
        let all = self.networks.all();
        let others = all.iter().filter(|network| network.uuid() != uuid).filter_map(|network| network.live());
        others.filter_map(|live| description::host(&live.document).ok()).collect()
    }

    /// Makes all of a network, or nothing.
    async fn make(&self, uuid: Uuid, document: &Definition) -> Result<Option<ProcessIdentity>, NetworkError> {
        let (wanted, services) = (description::host(document)?, self.services(document)?);
        let host = self.host().await?;
        host.check(&wanted, &self.others(uuid)).await?;
        host.start(&wanted).await?;
        let Some(services) = services else { return Ok(None) };
        match self.places.start(uuid, &services).await {
            Ok(identity) => Ok(Some(identity)),
            Err(error) => {
                if let Err(left) = host.stop(&wanted).await {
                    tracing::warn!("what was made of network '{}' stays: {left}", wanted.name);
                }
                Err(error)
            }
        }
    }

    /// Removes all of a network.
    async fn unmake(&self, uuid: Uuid, live: &Live) -> Result<(), NetworkError> {
        if let Some(services) = &live.services {
            self.places.end(uuid, services).await?;
        }
        self.host().await?.stop(&description::host(&live.document)?).await?;
        Ok(())
    }

    /// Starts a network that is defined.
    pub(crate) async fn start(&self, uuid: Uuid) -> Result<Arc<Network>, NetworkError> {
        let _turn = self.turn().await;
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
        let _turn = self.turn().await;
        let mut document = self.networks.read(document)?;
        let network = Network::transient(&document)?;
        let before = self.networks.known(&network, &document)?;
        if before.is_some_and(|before| before.is_active()) {
            return Err(NetworkError::Invalid(format!("network is already active as '{}'", network.name())));
        }
        assign::start(&mut document);
        let checked = document.clone();
        self.bring_up(network.uuid(), document, |before, live| {
            // Another may have been defined meanwhile.
            self.networks.known(&network, &checked)?;
            Ok(Some(before.unwrap_or(&network).with_live(live)))
        })
        .await
    }

    async fn bring_up(
        &self,
        uuid: Uuid,
        document: Definition,
        put: impl FnOnce(Option<&Network>, Live) -> Result<Option<Network>, NetworkError>,
    ) -> Result<Arc<Network>, NetworkError> {
        let services = self.make(uuid, &document).await?;
        let live = Live { document: Arc::new(document), services };
        self.keep(uuid, &live.document);
        let put = self.networks.change(&self.store, uuid, |before| put(before, live.clone()));
        let remembered = match put {
            Ok(change) => self.networks.settle(change).await,
            Err(error) => Err(error),
        };
        match remembered {
            Ok(after) => {
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
        let _turn = self.turn().await;
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
        let _turn = self.turn().await;
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
        let _turn = self.turn().await;
        let network = self.known(uuid)?;
        let Affected { live, defined } = network.affected(flags)?;
        // Whether the definition can be changed is found out before what runs is.
        let definition = network.definition().filter(|_| defined).map(&edit).transpose()?;
        if let Some(definition) = &definition {
            description::host(definition)?;
            description::services(definition)?;
        }
        let before = network.live().filter(|_| live);
        let document = before.map(|live| edit(&live.document)).transpose()?;
        if let (Some(before), Some(document)) = (before, &document)
            && let Err(error) = self.apply(uuid, &before.document, document).await
        {
            // What was done of it is taken back.
            if let Err(left) = self.apply(uuid, document, &before.document).await {
                tracing::error!("network '{}' stays as it was not to be: {left}", network.name());
            }
            return Err(error);
        }
        let change = self.networks.change_known(&self.store, uuid, |network| {
            let mut after = network.clone();
            if let (Some(live), Some(document)) = (network.live(), document.clone()) {
                after = after.with_live(Live { document: Arc::new(document), ..live.clone() });
            }
            if definition.is_some() {
                after = after.with_definition(definition);
            }
            Ok(Some(after))
        })?;
        let settled = self.networks.settle(change).await;
        if settled.is_err()
            && let (Some(before), Some(document)) = (before, &document)
            && let Err(error) = self.apply(uuid, document, &before.document).await
        {
            tracing::error!("network '{}' stays as it was not to be: {error}", network.name());
        }
        settled.map(drop)
    }

    /// Makes what runs by one document run by another.
    async fn apply(&self, uuid: Uuid, before: &Definition, after: &Definition) -> Result<(), NetworkError> {
        let (old, new) = (description::host(before)?, description::host(after)?);
        description::services(after)?;
        if old != new {
            self.host().await?.start(&new).await?;
        }
        self.redescribe(uuid, after).await
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

    /// The bridge that guests of a network are connected to.
    pub(crate) fn bridge(&self, name: &str) -> Result<String, NetworkError> {
        let live = self.live(name)?;
        match live.document.bridge_name() {
            Some(bridge) => Ok(bridge.to_owned()),
            None => Err(NetworkError::Unsupported(format!(
                "network '{name}' shares interfaces of the host by macvtap, which guests can't use yet: use a bridge"
            ))),
        }
    }

    fn live(&self, name: &str) -> Result<Live, NetworkError> {
        let network = self.networks.by_name(name);
        let network = network.ok_or_else(|| NetworkError::NoSuchName(name.to_owned()))?;
        let inactive = || NetworkError::Invalid(format!("network '{name}' is not active"));
        network.live().cloned().ok_or_else(inactive)
    }

    /// Puts in order what runs, as the store says it, and starts what starts with the daemon.
    pub(crate) async fn find(&self) {
        let turn = self.turn.lock().await;
        let (mut running, mut known) = (Vec::new(), Vec::new());
        for network in self.networks.all() {
            if let Some(live) = network.live() {
                known.push(network.uuid());
                match description::host(&live.document) {
                    Ok(described) => running.push(described),
                    Err(error) => tracing::error!("network '{}' is not as it was: {error}", network.name()),
                }
            }
        }
        self.places.end_others(&known).await;
        // A host on which no network has been started is left alone. One that was started anew has lost what the store remembers.
        if !known.is_empty() || self.options.state.exists() {
            self.repair(running).await;
        }
        self.ordered.send_replace(true);
        drop(turn);
        for network in
            self.networks.all().into_iter().filter(|network| network.autostart() && !network.is_active())
        {
            if let Err(error) = self.start(network.uuid()).await {
                tracing::error!("network '{}' does not start: {error}", network.name());
            }
        }
    }

    async fn repair(&self, running: Vec<host_network::Network>) {
        let guards = self.guards().await;
        let repaired = match self.host().await {
            Ok(host) => host.repair(&running, guards).await.map_err(NetworkError::from),
            Err(error) => Err(error),
        };
        let failed = repaired.unwrap_or_else(|error| {
            tracing::error!("networks can't be put in order: {error}");
            Vec::new()
        });
        for network in self.networks.all() {
            let Some(live) = network.live() else { continue };
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
    }

    /// Sees to it that a running network is served.
    async fn serve_again(&self, uuid: Uuid, live: &Live) -> Result<(), NetworkError> {
        // What is not understood any more has lost its bridge.
        description::host(&live.document)?;
        let Some(services) = self.services(&live.document)? else { return Ok(()) };
        if let Some(identity) = &live.services {
            if self.places.find(uuid, identity)?.is_some() {
                return Ok(());
            }
            // What it left behind.
            self.places.end(uuid, identity).await?;
        }
        let identity = self.places.start(uuid, &services).await?;
        let change = self.networks.change_known(&self.store, uuid, |network| {
            let live = network.live().ok_or_else(NetworkError::not_running)?;
            Ok(Some(network.with_live(Live { services: Some(identity.clone()), ..live.clone() })))
        });
        let settled = match change {
            Ok(change) => self.networks.settle(change).await.map(drop),
            Err(error) => Err(error),
        };
        if settled.is_err() {
            // Nobody would find it.
            self.places.end(uuid, &identity).await?;
        } else {
            self.served_anew(uuid);
        }
        settled
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
