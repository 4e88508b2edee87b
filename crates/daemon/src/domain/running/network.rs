//! The interfaces that machines have on the host: made before a process that opens them, removed after its end.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::interface::InterfaceType;
use tokio::runtime::Handle;

use super::{Machines, user_network};
use crate::domain::machine::{MachinePlan, TapDemand, TapSource};
use crate::domain::{Domain, DomainError};
use crate::host_network::{Connected, HostNetworkError, lasting};
use crate::network::{NetworkError, Port, Uplink};

fn network_error(error: NetworkError) -> DomainError {
    match error {
        NetworkError::Invalid(text) => DomainError::Invalid(text),
        NetworkError::Unsupported(text) => DomainError::Unsupported(text),
        error @ NetworkError::NoSuchName(_) => DomainError::NoNetwork(error.to_string()),
        other => DomainError::Machine(other.to_string()),
    }
}

/// Writes into a machine's document which interfaces its cards have on the host, and which ports of which bridges they are.
fn show(document: &mut Definition, connected: &[Connected], demands: &[TapDemand]) {
    for (Connected { index, name, device, .. }, demand) in connected.iter().zip(demands) {
        let Some(interface) = document.devices.interfaces.get_mut(*index) else { continue };
        interface.target.get_or_insert_default().dev = Some(name.clone());
        let Some(source) = &mut interface.source else { continue };
        source.port_id = source.network.as_ref().map(|_| Port::new_uuid());
        match &demand.source {
            TapSource::Bridge { name } if interface.kind == InterfaceType::Network => {
                source.bridge = Some(name.clone());
            }
            // As libvirt shows a card of a network that shares the host's interfaces.
            TapSource::Direct { mode, .. } => {
                interface.kind = InterfaceType::Direct;
                (source.dev, source.mode) = (device.clone(), Some(*mode));
            }
            _ => {}
        }
    }
}

/// Whether a name is the document's: others are of an earlier start.
fn is_chosen(name: &str) -> bool {
    !["vnet", "macvtap"].iter().any(|prefix| name.starts_with(prefix))
}

/// What a machine has on the host.
#[derive(Debug)]
pub(super) struct Connections {
    /// Names of interfaces that have to be removed when it is gone.
    pub(super) lasting: Vec<String>,
    /// What its process is handed.
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Machines {
    /// Connects a machine's network cards, and writes into its plan and its document how. One that goes on in another process has the
    /// names that it had.
    pub(super) async fn connect(
        &self,
        domain: &Domain,
        plan: &mut MachinePlan,
        document: &mut Definition,
    ) -> Result<Connections, DomainError> {
        let directory = self.directory(domain.uuid());
        if !domain.is_active() {
            plan.taps
                .iter_mut()
                .for_each(|demand| demand.target = demand.target.take().filter(|name| is_chosen(name)));
        }
        let sockets = user_network::start(plan).await?;
        let of_host = plan.taps.iter().filter(|demand| !matches!(demand.source, TapSource::User(_)));
        let demands = of_host.map(|demand| self.uplink(demand)).collect::<Result<Vec<_>, _>>()?;
        let connected = self.network.connect(&directory, &demands).await.map_err(|error| match error {
            HostNetworkError::Unsupported { .. } => DomainError::Unsupported(error.to_string()),
            HostNetworkError::Host { .. } => DomainError::Machine(error.to_string()),
        })?;
        show(document, &connected, &demands);
        user_network::show(document);
        if let Err(error) = self.attach(domain, document).await {
            self.network.remove(&directory, &lasting(&connected)).await;
            return Err(error);
        }
        let lasting = lasting(&connected);
        let mut descriptors = sockets;
        for interface in connected {
            if let Some(card) = plan.config.net.iter_mut().flatten().nth(interface.index) {
                card.fds = Some(interface.numbers());
            }
            descriptors.extend(interface.queues);
        }
        Ok(Connections { lasting, descriptors })
    }

    /// What a card of a virtual network is connected to: the network's bridge, or one of its devices.
    fn uplink(&self, demand: &TapDemand) -> Result<TapDemand, DomainError> {
        let TapSource::Network { name, .. } = &demand.source else { return Ok(demand.clone()) };
        let source = match self.networks.uplink(name).map_err(network_error)? {
            Uplink::Bridge(name) => TapSource::Bridge { name },
            Uplink::Devices(devices, mode) => TapSource::Direct { devices, mode },
        };
        Ok(TapDemand { source, ..demand.clone() })
    }

    /// Makes interfaces ports of their virtual networks.
    async fn attach(&self, domain: &Domain, document: &Definition) -> Result<(), DomainError> {
        for port in Port::all_of(domain.uuid(), domain.name(), document) {
            if let Err(error) = self.networks.attach(port).await {
                self.networks.detach(domain.uuid()).await;
                return Err(network_error(error));
            }
        }
        Ok(())
    }

    /// Writes into the document of a machine that is to start what virtual networks say of its cards.
    pub(super) fn complete_cards(&self, document: &mut Definition) -> Result<(), DomainError> {
        let interfaces = document.devices.interfaces.iter_mut();
        interfaces
            .filter(|interface| interface.kind == InterfaceType::Network)
            .try_for_each(|interface| self.networks.complete_interface(interface).map_err(network_error))
    }

    /// Interfaces that daemons before this one have made, and that are not gone with a process, by the UUID of the machine's domain.
    /// Blocks.
    pub(super) fn left_interfaces(&self) -> HashMap<String, Vec<String>> {
        let found = Handle::current().block_on(self.network.left(&self.layout.machines));
        found.unwrap_or_else(|error| {
            tracing::warn!("interfaces that machines have left on the host can't be found: {error}");
            HashMap::new()
        })
    }

    /// Removes interfaces of machines that nobody remembers. Blocks.
    pub(super) fn remove_interfaces(&self, left: HashMap<String, Vec<String>>) {
        for (machine, names) in left {
            tracing::warn!("interfaces {names:?} of a machine that nobody remembers are removed");
            let directory = self.layout.machines.join(machine);
            Handle::current().block_on(self.network.remove(&directory, &names));
        }
    }
}
