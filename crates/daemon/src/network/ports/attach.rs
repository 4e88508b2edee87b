//! Ports come, go, and are made as their networks want them.
//!
//! A port is known before it is asked whether its network runs, and a network that has started looks for its ports after it is known to
//! run: whichever is later makes the port, and no lock is needed between them.

use std::sync::Arc;

use host_network::Guard;
use libvirt_xml::Uuid;
use libvirt_xml::domain::interface::Interface;
use libvirt_xml::network::Network as Definition;

use super::guard::{self, Leases};
use super::keeper::Keeper;
use super::{Port, Ports};
use crate::network::{NetworkError, Running, description, port_settings};

impl Running {
    /// All ports.
    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Writes into the interface of a guest that is to start what its network says of it.
    ///
    /// # Errors
    /// The network is not there or does not run, has no such port group, or can't be what is said.
    pub(crate) fn complete_interface(&self, interface: &mut Interface) -> Result<(), NetworkError> {
        let name = interface.source.as_ref().and_then(|source| source.network.as_deref()).unwrap_or_default();
        port_settings::complete(&self.live(name)?.document, interface)
    }

    /// Makes a guest's interface a port of its network, before the guest can send anything. When it fails, the port is not known; its
    /// interface is still there.
    ///
    /// # Errors
    /// The network is not there or does not run, has no such port group, can't hold the guest to its addresses as it should, or the
    /// host does not do it.
    pub(crate) async fn attach(&self, port: Port) -> Result<Arc<Port>, NetworkError> {
        self.in_order().await?;
        let port = self.ports.insert(port);
        let attached = match self.keeper(&port.network) {
            Ok(keeper) => self.settle(&keeper, &port).await.map(|()| keeper),
            Err(error) => Err(error),
        };
        match attached {
            Ok(keeper) => {
                self.tell_names(&keeper).await;
                Ok(port)
            }
            Err(error) => {
                self.ports.remove(port.uuid);
                self.let_go(&port).await;
                Err(error)
            }
        }
    }

    /// Knows ports of machines that run already; their networks are put in order after that.
    pub(crate) fn found(&self, ports: Vec<Port>) {
        for port in ports {
            self.ports.insert(port);
        }
    }

    /// Forgets the ports of a domain whose machine is gone, or was not made, and returns them. Its interfaces are still there.
    pub(crate) async fn detach(&self, domain: Uuid) -> Vec<Arc<Port>> {
        let gone = self.ports.remove_domain(domain);
        if !gone.is_empty()
            && let Err(error) = self.in_order().await
        {
            tracing::warn!("{error}");
        }
        for port in &gone {
            let keeper = self.let_go(port).await;
            // Nobody waits for the names of what is gone.
            if let (Some(keeper), Some(running)) = (keeper, self.myself.upgrade()) {
                tokio::spawn(async move { running.tell_names(&keeper).await });
            }
        }
        gone
    }

    /// Takes the guard from the interface of a port that is not known any more; the keeper of its network, if that runs.
    async fn let_go(&self, port: &Port) -> Option<Arc<Keeper>> {
        let keeper = self.keeper(&port.network).ok();
        let turn = match &keeper {
            Some(keeper) => Some(keeper.turn().await),
            None => None,
        };
        let let_go = match self.host().await {
            Ok(host) => host.unguard(&port.interface).await.map_err(NetworkError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = let_go {
            tracing::warn!("interface {} stays guarded: {error}", port.interface);
        }
        drop(turn);
        keeper
    }

    /// What follows the ports of a network that runs.
    fn keeper(&self, network: &str) -> Result<Arc<Keeper>, NetworkError> {
        let known = self.networks.by_name(network);
        let known = known.ok_or_else(|| NetworkError::NoSuchName(network.to_owned()))?;
        let keeper = self.keepers.lock().get(&known.uuid()).cloned();
        let inactive = || NetworkError::Invalid(format!("network '{network}' is not active"));
        keeper.filter(|_| known.is_active()).ok_or_else(inactive)
    }

    /// Follows the ports of a network that is about to run.
    pub(in crate::network) fn keep(&self, uuid: Uuid, document: &Arc<Definition>) {
        let keeper = Keeper::new(uuid, Arc::clone(document), Leases::default());
        self.keepers.lock().insert(uuid, Arc::new(keeper));
    }

    /// Follows the ports of a network that does not run any more no longer. They stay guarded: the network may start again.
    pub(in crate::network) fn keep_no_more(&self, uuid: Uuid) {
        self.keepers.lock().remove(&uuid);
    }

    /// Another process serves a network.
    pub(in crate::network) fn served_anew(&self, uuid: Uuid) {
        if let Some(keeper) = self.keepers.lock().get(&uuid) {
            keeper.served_anew();
        }
    }

    /// Makes all ports of a network that has started anew as it wants them: guests keep their cards. Ports whose interface is gone
    /// belong to machines that are about to end.
    pub(in crate::network) async fn attach_again(&self, document: &Definition) {
        let name = document.name.as_deref().unwrap_or_default();
        let Ok(keeper) = self.keeper(name) else { return };
        for port in self.ports.of_network(name) {
            if let Err(error) = self.settle(&keeper, &port).await {
                tracing::warn!("domain '{}' is not on network '{name}' any more: {error}", port.domain_name);
            }
        }
        self.tell_names(&keeper).await;
    }

    /// Makes the interface of a port as its network wants it, whatever it was before. It is guarded before it can reach anybody.
    async fn settle(&self, keeper: &Arc<Keeper>, port: &Port) -> Result<(), NetworkError> {
        let document = {
            let kept = keeper.turn().await;
            self.guard(keeper, &kept, port).await?;
            Arc::clone(&kept.document)
        };
        let described = description::host(&document)?;
        let host = self.host().await?;
        if document.bridge_name().is_some() {
            // Its limits are where they were.
            let vlans = port_settings::vlans(port.vlan.as_ref()).map_err(NetworkError::Unsupported)?;
            host.connect(&described, &port.interface, vlans.as_ref()).await?;
        }
        Ok(())
    }

    /// Guards of all ports of networks that run, for a host that is put in order: guests have the addresses that the services which
    /// outlived the former daemon tell. The networks' ports are followed from now on.
    pub(in crate::network) async fn guards(&self) -> Vec<Guard> {
        let mut guards = Vec::new();
        for network in self.networks.all() {
            let Some(live) = network.live() else { continue };
            let ports = self.ports.of_network(network.name());
            let leases = match live.services.as_ref().filter(|_| !ports.is_empty()) {
                Some(_) => self.places.leases(network.uuid()).await.unwrap_or_else(|error| {
                    tracing::warn!("leases of network '{}' are not known yet: {error}", network.name());
                    Vec::new()
                }),
                None => Vec::new(),
            };
            let leases = Leases::of(&leases);
            for port in ports {
                match guard::of(&live.document, &port, &leases) {
                    Ok(guard) => guards.extend(guard),
                    Err(error) => tracing::error!("domain '{}': {error}", port.domain_name),
                }
            }
            let keeper = Keeper::new(network.uuid(), Arc::clone(&live.document), leases);
            self.keepers.lock().insert(network.uuid(), Arc::new(keeper));
        }
        guards
    }
}
