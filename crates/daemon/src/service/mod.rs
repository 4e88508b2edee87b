//! What clients can ask: one file a family of procedures, one function a procedure.
//!
//! A function takes the daemon, the call and its arguments and gives the reply or libvirt's error; it awaits whatever takes time.
//! What no function answers is refused as not supported by the table itself.

mod capabilities;
mod connection;
mod domain;
mod events;
mod node;
mod storage;

use host_tune::{Host, HostError};
use libvirt_rpc::RpcError;
use libvirt_rpc::server::{ClientHandle, Service, Table};

use self::events::Subscriptions;
use self::storage::Pools;
use crate::domain::Domains;
use crate::instance::Settings;
use crate::store::{Kind, Record, Store};

/// Everything that the daemon knows and does, behind its procedures.
#[derive(Debug)]
pub(crate) struct Daemon {
    settings: Settings,
    host: Host,
    store: Store,
    subscriptions: Subscriptions,
    pools: Pools,
    domains: Domains,
}

impl Daemon {
    /// A daemon that remembers `records`, and finds what of it runs. Blocks.
    pub(crate) fn restore(settings: Settings, store: Store, records: Vec<Record>) -> Self {
        let (domains, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.kind == Kind::Domain);
        let domains = Domains::restore(domain::host_defaults(&settings), domains);
        let pools = others.into_iter().filter(|record| record.kind == Kind::Pool).collect();
        let pools = Pools::restore(&settings, pools);
        Self { settings, host: Host::this(), store, subscriptions: Subscriptions::default(), pools, domains }
    }

    /// Starts what starts with the daemon. Blocks.
    pub(crate) fn start_marked(&self) {
        self.pools.start_marked();
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
    }
}

/// All functions, by procedure.
pub(crate) fn table() -> Table<Daemon> {
    let families = [
        connection::register,
        node::register,
        events::register,
        storage::register,
        domain::register,
        capabilities::register,
    ];
    families.into_iter().fold(Table::new(), |table, register| register(table))
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
