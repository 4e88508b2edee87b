//! The interfaces that machines have on the host: made before a process that opens them, removed after its end.

use std::collections::HashMap;

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::edit::Device;
use libvirt_xml::domain::interface::{Interface, InterfaceType, Link, LinkState};
use tokio::runtime::Handle;

use super::Machines;
use super::watch::control_error;
use crate::domain::machine::{MachinePlan, TapDemand, TapSource, net_id};
use crate::domain::{Affected, Domain, DomainError, Form, device};
use crate::host_network::{Connected, HostNetworkError};
use crate::machine_process::ControlClient;
use crate::network::{NetworkError, Port};

fn network_error(error: NetworkError) -> DomainError {
    match error {
        NetworkError::Invalid(text) => DomainError::Invalid(text),
        NetworkError::Unsupported(text) => DomainError::Unsupported(text),
        error @ NetworkError::NoSuchName(_) => DomainError::NoNetwork(error.to_string()),
        other => DomainError::Machine(other.to_string()),
    }
}

async fn set_link(control: &ControlClient, card: usize, link: Option<&Link>) -> Result<(), DomainError> {
    let up = link.is_none_or(|link| link.state == LinkState::Up);
    let body = serde_json::json!({ "id": net_id(card), "up": up });
    let done = control.put("vm.set-link", Some(&body)).await;
    done.map(drop).map_err(|error| control_error(&error))
}

/// Writes into a machine's document which interfaces its cards have on the host, and which ports of which bridges they are.
fn show(document: &mut Definition, connected: &[Connected], demands: &[TapDemand]) {
    for Connected { index, name, .. } in connected {
        let Some(interface) = document.devices.interfaces.get_mut(*index) else { continue };
        interface.target.get_or_insert_default().dev = Some(name.clone());
        let demand = demands.iter().find(|demand| demand.index == *index);
        if let (InterfaceType::Network, Some(source)) = (interface.kind, &mut interface.source) {
            source.port_id = Some(Port::new_uuid());
            source.bridge = demand.and_then(|demand| match &demand.source {
                TapSource::Bridge { name } => Some(name.clone()),
                _ => None,
            });
        }
    }
}

impl Machines {
    /// Connects a machine's network cards, and writes into its plan and its document how. The names of interfaces that were made for it.
    pub(super) async fn connect(
        &self,
        domain: &Domain,
        plan: &mut MachinePlan,
        document: &mut Definition,
    ) -> Result<Vec<String>, DomainError> {
        let directory = self.directory(domain.uuid());
        let demands = plan.taps.iter().map(|demand| self.on_bridge(demand)).collect::<Result<Vec<_>, _>>()?;
        let connected = self.network.connect(&directory, &demands).await.map_err(|error| match error {
            HostNetworkError::Unsupported { .. } => DomainError::Unsupported(error.to_string()),
            HostNetworkError::Host { .. } => DomainError::Machine(error.to_string()),
        })?;
        show(document, &connected, &demands);
        if let Err(error) = self.attach(domain, document).await {
            let made: Vec<_> = connected.into_iter().filter(|one| one.made).map(|one| one.name).collect();
            self.network.remove(&directory, &made).await;
            return Err(error);
        }
        let mut made = Vec::new();
        for interface in connected {
            if interface.made {
                made.push(interface.name.clone());
            }
            if let Some(card) = plan.config.net.iter_mut().flatten().nth(interface.index) {
                card.tap = Some(interface.name);
            }
        }
        Ok(made)
    }

    /// What a card of a virtual network is connected to: the network's bridge.
    fn on_bridge(&self, demand: &TapDemand) -> Result<TapDemand, DomainError> {
        let TapSource::Network { name, .. } = &demand.source else { return Ok(demand.clone()) };
        let name = self.networks.bridge(name).map_err(network_error)?;
        Ok(TapDemand { source: TapSource::Bridge { name }, ..demand.clone() })
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

    /// Changes a network card of a running machine, of which only the cable can be.
    pub(crate) async fn update_interface(
        &self,
        domain: &Domain,
        affected: Affected,
        wanted: &Interface,
    ) -> Result<(), DomainError> {
        let uuid = domain.uuid();
        let _job = self.jobs.begin(domain).await?;
        let domain = self.domains.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        let control = domain.running()?.machine.control();
        let document = domain.definition(Form::Live)?;
        let card = device::cable(&document, wanted)?;
        let before = document.devices.interfaces.get(card).and_then(|interface| interface.link.clone());
        set_link(&control, card, wanted.link.as_ref()).await?;
        let mut live = affected.live;
        let edited = self.domains.edit(&self.store, uuid, affected, |document| {
            // The machine's document comes first.
            match (std::mem::take(&mut live), document.devices.interfaces.get_mut(card)) {
                (true, Some(interface)) => {
                    interface.link.clone_from(&wanted.link);
                    Ok(())
                }
                _ => device::update(document, Device::Interface(Box::new(wanted.clone()))),
            }
        });
        let edited = match edited {
            Ok(change) => self.domains.settle(change).await.map(drop),
            Err(error) => Err(error),
        };
        if edited.is_err()
            && let Err(error) = set_link(&control, card, before.as_ref()).await
        {
            tracing::error!("domain '{}' keeps a cable as it was not to be: {error}", domain.name());
        }
        edited
    }

    /// Interfaces that daemons before this one have made, by the UUID of the machine's domain. Blocks.
    pub(super) fn left_taps(&self) -> HashMap<String, Vec<String>> {
        let found = Handle::current().block_on(self.network.made(&self.layout.machines));
        found.unwrap_or_else(|error| {
            tracing::warn!("interfaces that machines have left on the host can't be found: {error}");
            HashMap::new()
        })
    }

    /// Removes interfaces of machines that nobody remembers. Blocks.
    pub(super) fn remove_taps(&self, left: HashMap<String, Vec<String>>) {
        for (machine, taps) in left {
            tracing::warn!("interfaces {taps:?} of a machine that nobody remembers are removed");
            let directory = self.layout.machines.join(machine);
            Handle::current().block_on(self.network.remove(&directory, &taps));
        }
    }
}
