//! What can be changed of a running machine's network cards: the cable, limits of what passes, VLANs. The live document says what there is.

use host_network::{Bandwidth, Error as HostError, PortVlans};
use libvirt_xml::Uuid;
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::check;
use libvirt_xml::domain::edit::Device;
use libvirt_xml::domain::interface::{Interface, InterfaceType};

use super::Machines;
use super::watch::control_error;
use crate::domain::machine::{machine, net_id};
use crate::domain::{Affected, Domain, DomainError, Form, device};
use crate::machine_process::ControlClient;
use crate::network::Port;

/// A card on the host.
struct Card {
    /// Its place in the machine's description.
    index: usize,
    /// Its interface.
    interface: String,
    link_up: bool,
    limits: Bandwidth,
    vlans: Option<PortVlans>,
}

impl Card {
    /// Makes what was `before` like this.
    async fn replace(&self, before: &Self, control: &ControlClient) -> Result<(), DomainError> {
        if self.limits != before.limits {
            host_network::limit(&self.interface, self.limits).await.map_err(host_error)?;
        }
        if self.vlans != before.vlans {
            host_network::set_vlans(&self.interface, self.vlans.as_ref()).await.map_err(host_error)?;
        }
        if self.link_up != before.link_up {
            let body = serde_json::json!({ "id": net_id(self.index), "up": self.link_up });
            let done = control.put("vm.set-link", Some(&body)).await;
            done.map_err(|error| control_error(&error))?;
        }
        Ok(())
    }
}

fn host_error(error: HostError) -> DomainError {
    match error {
        HostError::Refused(refused) => DomainError::Unsupported(refused.to_string()),
        error @ HostError::Host { .. } => DomainError::Machine(error.to_string()),
    }
}

impl Machines {
    /// What a live document says of a card, with the same refusals as at a start.
    fn card(&self, uuid: Uuid, document: &Definition, index: usize) -> Result<Card, DomainError> {
        let plan = machine(document, &self.places(uuid, document));
        let plan = plan.map_err(|refusal| DomainError::Unsupported(refusal.to_string()))?;
        let missing = || DomainError::NoDevice(format!("the machine has no network card {index}"));
        let demand = plan.taps.into_iter().find(|demand| demand.index == index).ok_or_else(missing)?;
        let config = plan.config.net.iter().flatten().nth(index).ok_or_else(missing)?;
        let card = document.devices.interfaces.get(index);
        let interface = card.and_then(|card| card.target.as_ref());
        // As the host sees it.
        let on_device = card.is_some_and(|card| card.kind == InterfaceType::Direct);
        Ok(Card {
            index,
            interface: interface.and_then(|target| target.dev.clone()).ok_or_else(missing)?,
            link_up: config.link_up,
            limits: if on_device { demand.limits.reversed() } else { demand.limits },
            vlans: demand.vlans,
        })
    }

    /// Changes a network card in a domain's documents; that of a running machine is so when this returns. `edit` says which card of the
    /// document it has changed.
    pub(crate) async fn change_card(
        &self,
        domain: &Domain,
        affected: Affected,
        mut edit: impl FnMut(&mut Definition, Form) -> Result<usize, DomainError>,
    ) -> Result<(), DomainError> {
        let (uuid, mut changed) = (domain.uuid(), None);
        let _job = if affected.live { Some(self.jobs.begin(domain).await?) } else { None };
        if affected.live {
            let domain = self.domains.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
            // Whatever speaks against it is said before anything is done.
            if affected.defined {
                edit(&mut domain.definition(Form::Defined)?, Form::Defined)?;
            }
            let document = domain.definition(Form::Live)?;
            let mut edited = document.clone();
            let index = edit(&mut edited, Form::Live)?;
            check::check(&edited)?;
            let (before, after) = (self.card(uuid, &document, index)?, self.card(uuid, &edited, index)?);
            let control = domain.running()?.machine.control();
            if let Err(error) = after.replace(&before, &control).await {
                take_back(&domain, &before, &after, &control).await;
                return Err(error);
            }
            changed = Some((domain, before, after, control));
        }
        let mut live = affected.live;
        let edited = self.domains.edit(&self.store, uuid, affected, |document| {
            // The machine's document comes first.
            let form = if std::mem::take(&mut live) { Form::Live } else { Form::Defined };
            edit(document, form).map(drop)
        });
        let edited = match edited {
            Ok(change) => self.domains.settle(change).await.map(drop),
            Err(error) => Err(error),
        };
        if let Some((domain, before, after, control)) = changed {
            match &edited {
                Ok(()) => self.know_ports(uuid),
                Err(_) => take_back(&domain, &before, &after, &control).await,
            }
        }
        edited
    }

    /// Ports are what the live document says now.
    fn know_ports(&self, uuid: Uuid) {
        let domain = self.domains.by_uuid(uuid);
        let document = domain.as_ref().and_then(|domain| Some((domain, domain.definition(Form::Live).ok()?)));
        if let Some((domain, document)) = document {
            self.networks.found(Port::all_of(uuid, domain.name(), &document));
        }
    }

    /// Makes a card of a domain, running or not, what a client describes anew.
    pub(crate) async fn update_card(
        &self,
        domain: &Domain,
        affected: Affected,
        wanted: &Interface,
    ) -> Result<(), DomainError> {
        self.change_card(domain, affected, |document, form| {
            if form == Form::Defined {
                device::update(document, Device::Interface(Box::new(wanted.clone())))?;
                return Ok(0);
            }
            let (index, after) = device::changed_card(document, wanted, |after| self.complete_card(after))?;
            if let Some(card) = document.devices.interfaces.get_mut(index) {
                *card = after;
            }
            Ok(index)
        })
        .await
    }

    /// What a network says of a card counts where the client says nothing. One that does not run says nothing.
    fn complete_card(&self, card: &mut Interface) {
        if card.kind == InterfaceType::Network
            && let Err(error) = self.networks.complete_interface(card)
        {
            tracing::debug!("settings of a card are those that a client has given: {error}");
        }
    }
}

async fn take_back(domain: &Domain, before: &Card, after: &Card, control: &ControlClient) {
    if let Err(error) = before.replace(after, control).await {
        tracing::error!("domain '{}' keeps a network card as it was not to be: {error}", domain.name());
    }
}
