//! How much of its memory a running machine is to have, and how often its guest tells figures about it. The machine's document says
//! what is demanded; how far the guest has followed is told by the machine's events.

use std::sync::Arc;

use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::check;

use super::watch::control_error;
use super::{Machine, Machines};
use crate::domain::machine::{BalloonDemands, balloon_demands};
use crate::domain::{Affected, Domain, DomainError, Form};

/// libvirt's words for a machine whose memory stays as it is.
const NO_BALLOON: &str =
    "Unable to change memory of active domain without the balloon device and guest OS balloon driver";

impl Machine {
    /// Orders what is demanded; the guest follows as far and as fast as it can.
    async fn inflate(&self, demands: BalloonDemands) -> Result<(), DomainError> {
        let BalloonDemands { bytes, statistics_period } = demands;
        let body =
            serde_json::json!({ "desired_balloon": bytes, "balloon_statistics_period": statistics_period });
        self.control().put("vm.resize", Some(&body)).await.map(drop).map_err(|error| control_error(&error))
    }
}

impl Machines {
    /// Changes what a domain's documents demand of the balloon; a running machine has been told when this returns.
    pub(crate) async fn change_balloon(
        &self,
        domain: &Domain,
        affected: Affected,
        mut edit: impl FnMut(&mut Definition) -> Result<(), DomainError>,
    ) -> Result<(), DomainError> {
        let uuid = domain.uuid();
        let _job = if affected.live { Some(self.jobs.begin(domain).await?) } else { None };
        let mut ordered = None;
        if affected.live {
            let domain = self.domains.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
            // Whatever speaks against it is said before the guest is told.
            if affected.defined {
                edit(&mut domain.definition(Form::Defined)?)?;
            }
            let before = domain.definition(Form::Live)?;
            let mut after = before.clone();
            edit(&mut after)?;
            check::check(&after)?;
            let demands = balloon_demands(&before).zip(balloon_demands(&after));
            let (before, after) = demands.ok_or_else(|| DomainError::Invalid(NO_BALLOON.to_owned()))?;
            let machine = Arc::clone(&domain.running()?.machine);
            machine.inflate(after).await?;
            ordered = Some((machine, before));
        }
        let edited = match self.domains.edit(&self.store, uuid, affected, edit) {
            Ok(change) => self.domains.settle(change).await.map(drop),
            Err(error) => Err(error),
        };
        if let (Err(_), Some((machine, before))) = (&edited, ordered)
            && let Err(error) = machine.inflate(before).await
        {
            tracing::error!("domain '{}' keeps a balloon that was taken back: {error}", domain.name());
        }
        edited
    }
}
