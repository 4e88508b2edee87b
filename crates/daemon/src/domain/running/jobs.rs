//! One change of a domain's life at a time; others wait, for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use libvirt_xml::Uuid;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::domain::{Domain, DomainError};

/// How long somebody waits for somebody else's change (libvirt's own patience).
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The changes that are under way, by domain.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>>);

/// The right to change a domain's life, until it is dropped.
#[derive(Debug)]
pub(super) struct Job<'a> {
    jobs: &'a Jobs,
    uuid: Uuid,
    /// Always there until it is dropped.
    guard: Option<OwnedMutexGuard<()>>,
}

impl Jobs {
    /// Waits until nobody else changes the domain's life.
    pub(super) async fn begin(&self, domain: &Domain) -> Result<Job<'_>, DomainError> {
        let turn = Arc::clone(self.0.lock().entry(domain.uuid()).or_default());
        let guard = tokio::time::timeout(PATIENCE, turn.lock_owned()).await;
        let guard = guard.map_err(|_| DomainError::Busy(domain.name().to_owned()))?;
        Ok(Job { jobs: self, uuid: domain.uuid(), guard: Some(guard) })
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let mut all = self.jobs.0.lock();
        self.guard = None;
        // Nobody waits: only the map has it. Whoever comes later makes another.
        if all.get(&self.uuid).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            all.remove(&self.uuid);
        }
    }
}
