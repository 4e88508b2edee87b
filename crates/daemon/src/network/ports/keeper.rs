//! What follows the ports of one running network: guards on their interfaces, and the names of their machines in its services.
//!
//! All of it is done in turns, one at a time a network: what services are told is always newer than what they were told before, and a
//! guard is never set for a port that has just gone. Names that wait for their turn together are told together.
//!
//! A reload of names that fails does not fail the start of a guest: the guest has its network, and a process that is gone or hangs is
//! replaced by one that is told everything. The next change tells all as well.
//!
//! While guests are guarded, one task follows the leases. When the services' process is gone it waits until it is told of another one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use libvirt_xml::network::Network as Definition;
use libvirt_xml::{MacAddress, Uuid};
use network_services::{Control, ControlError, Description, LeaseEvent};
use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, MutexGuard, watch};
use tokio::task::AbortHandle;

use super::guard::{self, Leases};
use super::{Port, Ports};
use crate::network::{NetworkError, Running, description};

/// How long after a connection to the services has broken, or could not be made for another reason than their end, it is tried again.
const ANOTHER_TRY: Duration = Duration::from_secs(1);

/// What a network's ports are made by.
#[derive(Debug)]
pub(in crate::network) struct Keeper {
    uuid: Uuid,
    turn: Turn<Kept>,
    /// How many have wanted names to be told.
    wanted: AtomicU64,
    /// Changes with the process that serves the network.
    served: watch::Sender<()>,
    follower: Mutex<Option<AbortHandle>>,
}

/// What holds now.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) document: Arc<Definition>,
    pub(super) leases: Leases,
    /// How many of those who have wanted names to be told need not wait.
    told: u64,
}

impl Keeper {
    pub(super) fn new(uuid: Uuid, document: Arc<Definition>, leases: Leases) -> Self {
        let turn = Turn::new(Kept { document, leases, told: 0 });
        let (wanted, served, follower) = (AtomicU64::new(0), watch::Sender::new(()), Mutex::default());
        Self { uuid, turn, wanted, served, follower }
    }

    /// Waits until nobody else changes what follows the ports.
    pub(super) async fn turn(&self) -> MutexGuard<'_, Kept> {
        self.turn.lock().await
    }

    /// Another process serves the network.
    pub(super) fn served_anew(&self) {
        self.served.send_replace(());
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get_mut() {
            follower.abort();
        }
    }
}

impl Ports {
    /// Names of the machines on a network, with their hardware addresses.
    fn machines(&self, network: &str) -> BTreeMap<String, Vec<network_services::MacAddress>> {
        let mut machines: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for port in self.of_network(network) {
            let mac = network_services::MacAddress(port.mac.0);
            machines.entry(port.domain_name.clone()).or_default().push(mac);
        }
        machines
    }
}

impl Running {
    /// What is served in a network now: what its document says, and the machines that are on it; none if nothing is.
    pub(in crate::network) fn services(
        &self,
        document: &Definition,
    ) -> Result<Option<Description>, NetworkError> {
        let services = description::services(document)?;
        let name = document.name.as_deref().unwrap_or_default();
        Ok(services.map(|services| Description { machines: self.ports.machines(name), ..services }))
    }

    /// Holds the guest at a port to its addresses, or lets it do as it likes, as the network has it now. Nothing if the port is gone.
    pub(super) async fn guard(
        &self,
        keeper: &Arc<Keeper>,
        kept: &Kept,
        port: &Port,
    ) -> Result<(), NetworkError> {
        if self.ports.by_uuid(port.uuid).is_none() {
            return Ok(());
        }
        let host = self.host().await?;
        match guard::of(&kept.document, port, &kept.leases)? {
            Some(guard) => {
                if description::is_served(&kept.document) {
                    self.follow(keeper);
                }
                Ok(host.guard(guard).await?)
            }
            None => Ok(host.unguard(&port.interface).await?),
        }
    }

    /// Guards the ports of a network, or those of one guest.
    async fn guard_all(&self, keeper: &Arc<Keeper>, kept: &Kept, mac: Option<MacAddress>) {
        let name = kept.document.name.as_deref().unwrap_or_default();
        for port in self.ports.of_network(name) {
            if mac.is_none_or(|mac| port.mac == mac)
                && let Err(error) = self.guard(keeper, kept, &port).await
            {
                tracing::error!(
                    "domain '{}' on network '{name}' has not its addresses: {error}",
                    port.domain_name
                );
            }
        }
    }

    /// Has the network's services know the machines that are on it now.
    pub(super) async fn tell_names(&self, keeper: &Keeper) {
        let wanted = keeper.wanted.fetch_add(1, Ordering::Relaxed) + 1;
        let mut kept = keeper.turn().await;
        if kept.told >= wanted {
            return;
        }
        // Whoever has wanted it by now has changed the ports before, and need not tell them again.
        kept.told = keeper.wanted.load(Ordering::Relaxed);
        if let Err(error) = self.offer(keeper.uuid, &kept.document).await {
            let name = kept.document.name.as_deref().unwrap_or_default();
            tracing::warn!("network '{name}': names of its machines are not what they should be: {error}");
        }
    }

    async fn offer(&self, uuid: Uuid, document: &Definition) -> Result<(), NetworkError> {
        match self.services(document)? {
            Some(services) => self.places.change(uuid, &services).await,
            None => Ok(()),
        }
    }

    /// Has the services, guards and names of a running network follow another document. When that fails, they follow the former.
    pub(in crate::network) async fn redescribe(
        &self,
        uuid: Uuid,
        document: &Definition,
    ) -> Result<(), NetworkError> {
        let Some(keeper) = self.keepers.lock().get(&uuid).cloned() else {
            return self.offer(uuid, document).await;
        };
        let mut kept = keeper.turn().await;
        if description::services(document)? != description::services(&kept.document)? {
            self.offer(uuid, document).await?;
        }
        kept.document = Arc::new(document.clone());
        self.guard_all(&keeper, &kept, None).await;
        Ok(())
    }

    /// Follows a network's leases from now on, if nobody does.
    fn follow(&self, keeper: &Arc<Keeper>) {
        let mut follower = keeper.follower.lock();
        if follower.is_none() {
            let socket = self.places.socket(keeper.uuid);
            let task = follow(self.myself.clone(), Arc::downgrade(keeper), keeper.served.subscribe(), socket);
            *follower = Some(tokio::spawn(task).abort_handle());
        }
    }
}

/// Follows leases until the network is stopped.
async fn follow(
    running: Weak<Running>,
    keeper: Weak<Keeper>,
    mut served: watch::Receiver<()>,
    socket: PathBuf,
) {
    loop {
        served.mark_unchanged();
        let Err(error) = hear(&running, &keeper, &socket).await else { return };
        tracing::debug!("leases are not followed: {error}");
        // It may be there, and have hung up because this fell behind.
        let told = tokio::time::timeout(ANOTHER_TRY, served.changed()).await;
        if matches!(told, Ok(Err(_))) {
            return;
        }
    }
}

/// Follows leases until the services hang up, or (`Ok`) nobody wants to know any more.
async fn hear(running: &Weak<Running>, keeper: &Weak<Keeper>, socket: &Path) -> Result<(), ControlError> {
    let mut subscription = Control::connect(socket).await?.subscribe().await?;
    {
        let (Some(running), Some(keeper)) = (running.upgrade(), keeper.upgrade()) else { return Ok(()) };
        let mut kept = keeper.turn().await;
        kept.leases = Leases::of(&subscription.leases);
        running.guard_all(&keeper, &kept, None).await;
    }
    loop {
        let event: LeaseEvent = subscription.next().await?;
        let (Some(running), Some(keeper)) = (running.upgrade(), keeper.upgrade()) else { return Ok(()) };
        let mut kept = keeper.turn().await;
        kept.leases.follow(&event);
        running.guard_all(&keeper, &kept, Some(MacAddress(event.lease.mac.0))).await;
    }
}
