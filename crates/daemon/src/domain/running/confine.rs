//! What a running machine may use of its host: from the start on, after a reboot (vCPUs have new threads then), and when a client
//! changes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use libvirt_xml::Uuid;
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::check;

use super::{Machine, Machines};
use crate::domain::machine::{HostAbilities, HostDemands, machine};
use crate::domain::{Affected, Domain, DomainError, Form};
use crate::machine_process::confinement::{Confinement, ConfinementError};

fn failed(error: &ConfinementError) -> DomainError {
    DomainError::Machine(error.to_string())
}

/// Runs what may block, as the kernel does while it takes memory away.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConfinementError> + Send + 'static,
) -> Result<T, DomainError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| DomainError::Broken(format!("confining a machine ended: {error}")))?;
    done.map_err(|error| failed(&error))
}

impl Machine {
    /// What confines it.
    pub(crate) fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// Takes the process, before it has the guest's memory.
    pub(super) async fn confine(&self, demands: &HostDemands) -> Result<(), DomainError> {
        let (confinement, demands) = (self.confinement.clone(), demands.clone());
        let pid = self.process.identity().pid;
        blocking(move || confinement.attach(pid, &demands)).await
    }

    /// Places and limits its threads.
    pub(super) async fn confine_threads(&self, vcpus: u32, demands: &HostDemands) -> Result<(), DomainError> {
        let (confinement, demands) = (self.confinement.clone(), demands.clone());
        let pid = self.process.identity().pid;
        blocking(move || confinement.apply_threads(pid, vcpus, &demands)).await
    }

    async fn change(&self, before: &HostDemands, after: &HostDemands) -> Result<(), DomainError> {
        let (confinement, before, after) = (self.confinement.clone(), before.clone(), after.clone());
        let pid = self.process.identity().pid;
        blocking(move || confinement.change(pid, &before, &after)).await
    }
}

impl Machines {
    /// What the daemon is able to do around a machine's process.
    pub(super) fn confining_abilities(&self, others: HostAbilities) -> HostAbilities {
        let controllers = self.limits.controllers();
        HostAbilities {
            cpu_limits: controllers.cpu,
            memory_limits: controllers.memory,
            pinning: true,
            ..others
        }
    }

    /// Makes what a machine's process goes into.
    pub(super) async fn prepare_confinement(
        &self,
        uuid: Uuid,
        demands: &HostDemands,
    ) -> Result<Confinement, DomainError> {
        let (limits, demands) = (self.limits.clone(), demands.clone());
        blocking(move || limits.prepare(&uuid.to_string(), &demands)).await
    }

    /// Confines a machine that has rebooted, as its document says now. Reboots that come faster are one.
    pub(super) fn confine_again(self: &Arc<Self>, uuid: Uuid, machine: &Arc<Machine>) {
        if machine.confining.swap(true, Ordering::Relaxed) {
            return;
        }
        let (machines, machine) = (Arc::clone(self), Arc::clone(machine));
        tokio::spawn(async move {
            let done = machines.confine_now(uuid, &machine).await;
            if let Err(error) = done {
                // A guest that reboots again and again can cause this; the reboot that comes next is another occasion.
                tracing::debug!("domain {uuid}: its threads after a reboot: {error}");
            }
        });
    }

    async fn confine_now(&self, uuid: Uuid, machine: &Arc<Machine>) -> Result<(), DomainError> {
        let domain = self.domains.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        let job = self.jobs.begin(&domain).await;
        machine.confining.store(false, Ordering::Relaxed);
        let _job = job?;
        let domain = self.domains.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        if !Arc::ptr_eq(&domain.running()?.machine, machine) {
            return Ok(());
        }
        let document = domain.definition(Form::Live)?;
        machine.confine_threads(document.max_vcpus(), &HostDemands::of(&document)).await
    }

    /// Changes what a domain's documents demand of the host; a running machine is confined so when this returns.
    pub(crate) async fn tune(
        &self,
        domain: &Domain,
        affected: Affected,
        mut edit: impl FnMut(&mut Definition) -> Result<(), DomainError>,
    ) -> Result<(), DomainError> {
        let (uuid, mut changed) = (domain.uuid(), None);
        let _job = if affected.live { Some(self.jobs.begin(domain).await?) } else { None };
        if affected.live {
            let domain = self.domains.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
            let before = domain.definition(Form::Live)?;
            let mut after = before.clone();
            edit(&mut after)?;
            check::check(&after)?;
            // With the same refusals as at a start.
            let plan = machine(&after, &self.places(uuid, &after));
            let after = plan.map_err(|refusal| DomainError::Unsupported(refusal.to_string()))?.host;
            let before = HostDemands::of(&before);
            if after != before {
                let machine = Arc::clone(&domain.running()?.machine);
                machine.change(&before, &after).await?;
                changed = Some((machine, before, after));
            }
        }
        let edited = match self.domains.edit(&self.store, uuid, affected, edit) {
            Ok(change) => self.domains.settle(change).await.map(drop),
            Err(error) => Err(error),
        };
        if let (Err(_), Some((machine, before, after))) = (&edited, changed)
            && let Err(error) = machine.change(&after, &before).await
        {
            tracing::error!("domain '{}' keeps limits that were taken back: {error}", domain.name());
        }
        edited
    }
}
