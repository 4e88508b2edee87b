//! Networks that run: started, changed, stopped, found again.
//!
//! One change of any network's life at a time.

use std::sync::Arc;

use libvirt_rpc::types::NetworkDhcpLease;
use libvirt_xml::Uuid;
use tokio::sync::{Mutex, MutexGuard};

use super::{Network, NetworkError, Networks};
use crate::store::Store;

/// What makes networks run.
#[derive(Debug, Default)]
pub(crate) struct Running {
    turn: Mutex<()>,
}

fn not_yet() -> NetworkError {
    NetworkError::Unsupported("networks can't be started yet".to_owned())
}

impl Running {
    /// Waits until nobody else changes what runs.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Starts a network that is defined.
    pub(crate) async fn start(
        &self,
        networks: &Networks,
        _: &Store,
        uuid: Uuid,
    ) -> Result<Arc<Network>, NetworkError> {
        let _turn = self.turn().await;
        let network = networks.by_uuid(uuid).ok_or(NetworkError::NoSuchUuid(uuid))?;
        if network.is_active() {
            return Err(NetworkError::Invalid("network is already active".to_owned()));
        }
        Err(not_yet())
    }

    /// Starts a network that is forgotten when it ends.
    pub(crate) async fn create(
        &self,
        networks: &Networks,
        _: &Store,
        document: &str,
    ) -> Result<Arc<Network>, NetworkError> {
        let _turn = self.turn().await;
        let definition = networks.read(document)?;
        networks.known(&Network::transient(&definition)?, &definition)?;
        Err(not_yet())
    }

    /// Stops a network.
    pub(crate) async fn stop(&self, networks: &Networks, _: &Store, uuid: Uuid) -> Result<(), NetworkError> {
        let _turn = self.turn().await;
        let network = networks.by_uuid(uuid).ok_or(NetworkError::NoSuchUuid(uuid))?;
        if !network.is_active() {
            return Err(NetworkError::Invalid(format!("network '{}' is not active", network.name())));
        }
        Err(not_yet())
    }

    /// What guests of a network have been given.
    pub(crate) async fn leases(
        &self,
        _: &Network,
        _: Option<&str>,
    ) -> Result<Vec<NetworkDhcpLease>, NetworkError> {
        Ok(Vec::new())
    }
}
