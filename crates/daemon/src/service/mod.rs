//! What clients can ask: one file a family of procedures, one function a procedure.
//!
//! A function takes the daemon, the call and its arguments and gives the reply or libvirt's error; it awaits whatever takes time.
//! What no function answers is refused as not supported by the table itself.

mod capabilities;
mod connection;
mod domain;
mod events;
mod network;
mod node;
mod storage;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use host_tune::{Host, HostError};
use libvirt_rpc::server::{ClientHandle, Service, Table};
use libvirt_rpc::{ErrorDomain, RpcError};
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::{KnownAs, Uuid, XmlError};
use parking_lot::Mutex;

use self::events::Subscriptions;
use self::storage::Pools;
use crate::console::Consoles;
use crate::domain::running::{Layout, Notice};
use crate::domain::{Domain, DomainError, Domains, Form, Machines};
use crate::guest_agent::GuestAgents;
use crate::instance::Settings;
use crate::machine_process::confinement::Limits;
use crate::network::{Networks, Running};
use crate::store::{Kind, Record, Store};

/// Everything that the daemon knows and does, behind its procedures.
#[derive(Debug)]
pub(crate) struct Daemon {
    settings: Settings,
    host: Host,
    store: Arc<Store>,
    subscriptions: Arc<Subscriptions>,
    pools: Arc<Pools>,
    networks: Arc<Networks>,
    running_networks: Arc<Running>,
    domains: Arc<Domains>,
    machines: Arc<Machines>,
    consoles: Consoles,
    agents: GuestAgents,
    /// Domains that end with the connection that started them, by connection.
    attended: Mutex<HashMap<u64, Vec<Uuid>>>,
}

impl Daemon {
    /// A daemon that remembers `records`, and finds what of it runs. Blocks.
    ///
    /// # Errors
    /// What runs can't be found.
    pub(crate) fn restore(
        settings: Settings,
        store: Store,
        records: Vec<Record>,
    ) -> Result<Self, DomainError> {
        let (domains, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.kind == Kind::Domain);
        let (domains, lives) = Domains::restore(domain::host_defaults(&settings), domains);
        let (pools, networks): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|record| record.kind == Kind::Pool);
        let networks = Arc::new(Networks::restore(&networks));
        let pools = Arc::new(Pools::restore(&settings, pools));
        let (store, domains, subscriptions) = (Arc::new(store), Arc::new(domains), Arc::default());
        let running_networks = Running::new(&settings, Arc::clone(&networks), Arc::clone(&store));
        let layout = Layout {
            program: settings.machine_program.clone(),
            machines: settings.runtime_directory.join("machines"),
            consoles: settings.state_directory.join("consoles"),
        };
        let limits = Limits::find(&settings.runtime_directory);
        let places = {
            let pools = Arc::clone(&pools);
            Box::new(move |document: &Definition| domain::places(&pools, document))
        };
        let listener = {
            let subscriptions = Arc::clone(&subscriptions);
            Box::new(move |domain: &Domain, notice: Notice| domain::tell(&subscriptions, domain, notice))
        };
        let (networks_of_guests, known) = (Arc::clone(&running_networks), Arc::clone(&domains));
        let machines =
            Machines::new(known, Arc::clone(&store), layout, limits, places, listener, networks_of_guests);
        let machines = Arc::new(machines);
        machines.find(lives)?;
        Ok(Self {
            settings,
            host: Host::this(),
            store,
            subscriptions,
            pools,
            networks,
            running_networks,
            domains,
            machines,
            consoles: Consoles::default(),
            agents: GuestAgents::default(),
            attended: Mutex::default(),
        })
    }

    /// Reads what the definitions say that nobody has asked for yet, as long as the daemon is there. Blocks.
    pub(crate) fn read_ahead(daemon: &Weak<Self>) {
        let Some(domains) = daemon.upgrade().map(|daemon| daemon.domains.all()) else { return };
        // From the end, so that a client that asks for all of them from the start meets this half-way.
        for domain in domains.into_iter().rev() {
            if daemon.strong_count() == 0 {
                return;
            }
            // Whoever asks for it is told what is wrong with it.
            let _ = domain.summary(Form::Present);
            std::thread::yield_now();
        }
    }

    /// Starts what starts with the daemon. Blocks as long as pools take; networks, then domains come after, in a task of their own.
    pub(crate) fn start_marked(&self) {
        self.pools.start_marked();
        let (networks, machines) = (Arc::clone(&self.running_networks), Arc::clone(&self.machines));
        tokio::spawn(async move {
            networks.find().await;
            machines.start_marked().await;
        });
    }

    /// Defines the network that clients expect on a new host. Blocks.
    pub(crate) fn define_default_network(&self) {
        let defined = tokio::runtime::Handle::current().block_on(self.running_networks.define_default());
        if let Err(error) = defined {
            tracing::warn!("there is no network 'default': {error}");
        }
    }
}

impl Service for Daemon {
    fn open(&self, _client: &ClientHandle, name: Option<&str>) -> Result<(), RpcError> {
        let own = self.settings.instance.uri();
        match name {
            None => Ok(()),
            Some(name) if name == own => Ok(()),
            Some(name) => Err(RpcError::invalid_argument(format!("this daemon is {own}, not {name}"))),
        }
    }

    fn closed(&self, client: &ClientHandle) {
        self.subscriptions.forget(client);
        let attended = self.attended.lock().remove(&client.id());
        for domain in attended.into_iter().flatten().filter_map(|uuid| self.domains.by_uuid(uuid)) {
            let machines = Arc::clone(&self.machines);
            tokio::spawn(async move {
                if let Err(error) = machines.destroy(&domain, false).await {
                    tracing::warn!("domain '{}' does not end with its client: {error}", domain.name());
                }
            });
        }
    }
}

/// All functions, by procedure.
pub(crate) fn table() -> Table<Daemon> {
    let families = [
        connection::register,
        node::register,
        events::register,
        storage::register,
        network::register,
        domain::register,
        capabilities::register,
    ];
    families.into_iter().fold(Table::new(), |table, register| register(table))
}

/// The one way from a faulty document to libvirt's errors: libvirt's sentence where it has one, then where the fault is and what
/// should be there.
fn document_error(error: &XmlError) -> RpcError {
    let (code, sentence) = error.known_as();
    let text = match sentence {
        Some(sentence) if sentence.ends_with('.') => format!("{sentence} {error}"),
        Some(sentence) => format!("{sentence}: {error}"),
        None => error.to_string(),
    };
    match code {
        KnownAs::Xml => RpcError::xml(text),
        KnownAs::Unsupported => RpcError::unsupported_configuration(text),
        KnownAs::Argument => RpcError::invalid_argument(text),
        KnownAs::Operation => RpcError::invalid_operation(text),
        KnownAs::Internal => RpcError::internal(text),
        KnownAs::NoName => RpcError::no_name(text),
    }
    .from_part(ErrorDomain::Domain)
}

/// The one way from a fault of the host to libvirt's errors.
fn host_error(error: &HostError) -> RpcError {
    match error {
        HostError::Unknown(_) => RpcError::invalid_argument(error.to_string()),
        HostError::Unreadable { .. } | HostError::Senseless { .. } => RpcError::internal(error.to_string()),
    }
}

/// As many as fit into the protocol's numbers.
fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// How many a client has room for.
fn asked(number: i32) -> Result<usize, RpcError> {
    usize::try_from(number).map_err(|_| RpcError::invalid_argument(format!("a negative number ({number})")))
}

/// Refuses flags that are not among the known ones.
fn only(flags: u32, known: u32) -> Result<(), RpcError> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(RpcError::invalid_argument(format!("unsupported flags (0x{unknown:x})"))),
    }
}

/// What a client gets of a list, and how long the list is: who asks for no results wants to know only that.
fn listed<T>(all: Vec<T>, need_results: i32) -> (Vec<T>, u32) {
    let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
    (if need_results == 0 { Vec::new() } else { all }, count)
}
