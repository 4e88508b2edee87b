//! A pool: its definition, its state, and the volumes that were last seen in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libvirt_xml::storage::{Permissions, PoolDefinition, PoolSizes, VolumeKind};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::backend::{Known, Seen};
use crate::error::StorageError;
use crate::formats::FormatRecord;
use crate::jobs::Jobs;

/// State of a pool (virStoragePoolState).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// Not running: 0.
    Inactive,
    /// Being initialised: 1.
    Building,
    /// Running: 2.
    Running,
}

/// State and sizes of a pool (virStoragePoolInfo).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolInfo {
    /// Whether it can be used.
    pub state: PoolState,
    /// Bytes; zero when it is not active.
    pub sizes: PoolSizes,
}

/// What identifies a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSummary {
    /// Name in its pool.
    pub name: String,
    /// Identity on the host.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub kind: VolumeKind,
}

#[derive(Debug)]
struct Inner {
    definition: PoolDefinition,
    /// What a new definition has changed while the pool is active; holds from the next start on.
    next: Option<PoolDefinition>,
    persistent: bool,
    autostart: bool,
    state: PoolState,
    /// By name; with the moment at which it was made by a job, so that a look at the pool that began before does not forget it.
    volumes: BTreeMap<String, (u64, Known)>,
    /// What was removed while somebody looked, and when.
    removed: BTreeMap<String, u64>,
    /// Counts changes.
    moment: u64,
    /// How many look at the pool now.
    looks: usize,
    /// What its directory has, while it is active.
    permissions: Option<Permissions>,
}

/// A storage pool of this host. What it tells is a snapshot; operations are [`crate::Storage`]'s.
#[derive(Debug)]
pub struct Pool {
    name: String,
    uuid: Uuid,
    inner: Mutex<Inner>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) record: Arc<FormatRecord>,
}

impl Pool {
    pub(crate) fn new(
        definition: PoolDefinition,
        uuid: Uuid,
        persistent: bool,
        record: FormatRecord,
    ) -> Self {
        let definition = PoolDefinition { uuid: Some(uuid), sizes: PoolSizes::default(), ..definition };
        Self {
            name: definition.name.clone(),
            uuid,
            inner: Mutex::new(Inner {
                definition,
                next: None,
                persistent,
                autostart: false,
                state: PoolState::Inactive,
                volumes: BTreeMap::new(),
                removed: BTreeMap::new(),
                moment: 0,
                looks: 0,
                permissions: None,
            }),
            jobs: Arc::default(),
            record: Arc::new(record),
        }
    }

    /// Its name, which never changes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its identity.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Whether its volumes can be used.
    pub fn is_active(&self) -> bool {
        self.inner.lock().state == PoolState::Running
    }

    /// Whether it is there when it is not active.
    pub fn is_persistent(&self) -> bool {
        self.inner.lock().persistent
    }

    /// Whether the caller starts it when the host starts.
    pub fn autostart(&self) -> bool {
        self.inner.lock().autostart
    }

    /// Says whether the caller is to start it when the host starts. The caller remembers that.
    pub fn set_autostart(&self, autostart: bool) -> Result<(), StorageError> {
        let mut inner = self.inner.lock();
        if !inner.persistent {
            let rule = format!("storage pool '{}' is transient: autostart is for persistent ones", self.name);
            return Err(StorageError::InvalidOperation(rule));
        }
        inner.autostart = autostart;
        Ok(())
    }

    /// Its definition as it holds now, with the sizes and permissions of the last look at it.
    pub fn describe(&self) -> PoolDefinition {
        let inner = self.inner.lock();
        let mut definition = inner.definition.clone();
        if let Some(permissions) = &inner.permissions {
            definition.target.permissions = permissions.clone();
        }
        definition
    }

    /// Its definition as it will hold from the next start on: what the caller keeps.
    pub fn describe_inactive(&self) -> PoolDefinition {
        let inner = self.inner.lock();
        let definition = inner.next.as_ref().unwrap_or(&inner.definition);
        PoolDefinition { sizes: PoolSizes::default(), ..definition.clone() }
    }

    /// Its state and sizes.
    pub fn info(&self) -> PoolInfo {
        let inner = self.inner.lock();
        PoolInfo { state: inner.state, sizes: inner.definition.sizes }
    }

    /// The volumes that were last seen, by name. The pool must be active.
    pub fn volumes(&self) -> Result<Vec<VolumeSummary>, StorageError> {
        let inner = self.inner.lock();
        if inner.state != PoolState::Running {
            return Err(StorageError::NotActive(self.name.clone()));
        }
        Ok(inner.volumes.values().map(|(_, known)| summary(known)).collect())
    }

    /// A volume that was last seen. The pool must be active.
    pub fn volume(&self, name: &str) -> Result<VolumeSummary, StorageError> {
        self.known(name).map(|known| summary(&known))
    }

    pub(crate) fn known(&self, name: &str) -> Result<Known, StorageError> {
        let inner = self.inner.lock();
        if inner.state != PoolState::Running {
            return Err(StorageError::NotActive(self.name.clone()));
        }
        let found = inner.volumes.get(name).map(|(_, known)| known.clone());
        found.ok_or_else(|| StorageError::NoSuchVolume(format!("name '{name}'")))
    }

    /// The first volume that a condition holds for; none in a pool that is not active.
    pub(crate) fn find(&self, condition: impl Fn(&Known) -> bool) -> Option<Known> {
        let inner = self.inner.lock();
        if inner.state != PoolState::Running {
            return None;
        }
        inner.volumes.values().map(|(_, known)| known).find(|known| condition(known)).cloned()
    }

    pub(crate) fn all_known(&self) -> Vec<Known> {
        let inner = self.inner.lock();
        if inner.state != PoolState::Running {
            return Vec::new();
        }
        inner.volumes.values().map(|(_, known)| known.clone()).collect()
    }

    /// The definition, if the pool is active.
    pub(crate) fn active_definition(&self) -> Result<PoolDefinition, StorageError> {
        let inner = self.inner.lock();
        if inner.state == PoolState::Running {
            Ok(inner.definition.clone())
        } else {
            Err(StorageError::NotActive(self.name.clone()))
        }
    }

    /// The definition, if the pool is not active.
    pub(crate) fn idle_definition(&self) -> Result<PoolDefinition, StorageError> {
        let inner = self.inner.lock();
        if inner.state == PoolState::Inactive {
            Ok(inner.definition.clone())
        } else {
            Err(StorageError::AlreadyActive(self.name.clone()))
        }
    }

    pub(crate) fn set_building(&self) {
        self.inner.lock().state = PoolState::Building;
    }

    /// Somebody begins to look at all volumes: the moment.
    pub(crate) fn begin_look(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.looks += 1;
        inner.moment += 1;
        inner.moment
    }

    /// A look that began at that moment has found these volumes, and the pool is up; or it has failed. What jobs have made and
    /// removed meanwhile counts for more than what was seen.
    pub(crate) fn end_look(&self, began: u64, found: Option<&Seen>) {
        let mut inner = self.inner.lock();
        if let Some(Seen { volumes, sizes, permissions }) = found {
            inner.volumes.retain(|_, (made, _)| *made >= began);
            for known in volumes {
                let removed = inner.removed.get(&known.name).is_some_and(|removed| *removed >= began);
                if !removed && !inner.volumes.contains_key(&known.name) {
                    inner.volumes.insert(known.name.clone(), (0, known.clone()));
                }
            }
            inner.state = PoolState::Running;
            inner.definition.sizes = *sizes;
            inner.permissions.clone_from(permissions);
        }
        inner.looks = inner.looks.saturating_sub(1);
        if inner.looks == 0 {
            inner.removed.clear();
        }
    }

    pub(crate) fn set_sizes(&self, sizes: PoolSizes) {
        self.inner.lock().definition.sizes = sizes;
    }

    /// The pool is down: a new definition holds from now on.
    pub(crate) fn set_inactive(&self) {
        let mut inner = self.inner.lock();
        inner.state = PoolState::Inactive;
        inner.volumes.clear();
        inner.permissions = None;
        if let Some(next) = inner.next.take() {
            inner.definition = next;
        }
        inner.definition.sizes = PoolSizes::default();
    }

    /// Takes a new definition of the same name and UUID, and becomes persistent.
    pub(crate) fn redefine(&self, definition: PoolDefinition) {
        let definition = PoolDefinition { uuid: Some(self.uuid), sizes: PoolSizes::default(), ..definition };
        let mut inner = self.inner.lock();
        inner.persistent = true;
        if inner.state == PoolState::Inactive {
            inner.definition = definition;
        } else {
            inner.next = Some(definition);
        }
    }

    /// Takes a definition of the same name and UUID that holds until the pool is stopped, when `back` holds again.
    pub(crate) fn pass(&self, definition: PoolDefinition, back: PoolDefinition) -> PoolDefinition {
        let definition = PoolDefinition { uuid: Some(self.uuid), sizes: PoolSizes::default(), ..definition };
        let mut inner = self.inner.lock();
        inner.definition = definition.clone();
        inner.next = Some(back);
        definition
    }

    /// Takes what holds from the next start on.
    pub(crate) fn hold_back(&self, next: PoolDefinition) {
        let next = PoolDefinition { uuid: Some(self.uuid), sizes: PoolSizes::default(), ..next };
        self.inner.lock().next = Some(next);
    }

    /// A volume was made.
    pub(crate) fn add(&self, known: Known) {
        let mut inner = self.inner.lock();
        inner.moment += 1;
        let moment = inner.moment;
        inner.removed.remove(&known.name);
        inner.volumes.insert(known.name.clone(), (moment, known));
    }

    /// A volume was removed.
    pub(crate) fn take(&self, name: &str) {
        let mut inner = self.inner.lock();
        inner.moment += 1;
        let moment = inner.moment;
        inner.volumes.remove(name);
        if inner.looks > 0 {
            inner.removed.insert(name.to_owned(), moment);
        }
    }

    /// Whether a path lies in the pool's directory.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        Path::new(&self.inner.lock().definition.target.path) == path
    }
}

pub(crate) fn summary(known: &Known) -> VolumeSummary {
    VolumeSummary {
        name: known.name.clone(),
        key: known.key.clone(),
        path: known.path.clone(),
        kind: known.kind,
    }
}

#[cfg(test)]
mod tests {
    use libvirt_xml::storage::{PoolSource, PoolTarget, VolumeFormat};

    use super::*;
    use crate::formats::FormatOrigin;

    fn known(name: &str) -> Known {
        Known {
            name: name.into(),
            key: name.into(),
            path: name.into(),
            kind: VolumeKind::File,
            format: VolumeFormat::Raw,
            origin: FormatOrigin::Told,
        }
    }

    #[test]
    fn what_is_made_and_removed_during_a_look_counts_for_more_than_what_was_seen() {
        let target = PoolTarget { path: "/p".into(), permissions: Permissions::default() };
        let definition = PoolDefinition {
            name: "p".into(),
            uuid: None,
            sizes: PoolSizes::default(),
            copy_on_write: None,
            source: PoolSource::Directory,
            target,
        };
        let record = FormatRecord::open(None, Uuid::nil()).unwrap();
        let pool = Pool::new(definition, Uuid::nil(), true, record);
        let seen = |names: &[&str]| Seen {
            volumes: names.iter().map(|name| known(name)).collect(),
            sizes: PoolSizes::default(),
            permissions: None,
        };
        let names = || pool.all_known().into_iter().map(|known| known.name).collect::<Vec<_>>();
        pool.end_look(pool.begin_look(), Some(&seen(&["kept", "removed", "gone"])));
        assert_eq!(names(), ["gone", "kept", "removed"]);
        let look = pool.begin_look();
        pool.add(known("made"));
        pool.take("removed");
        pool.end_look(look, Some(&seen(&["kept", "removed"])));
        assert_eq!(names(), ["kept", "made"]);
        pool.end_look(pool.begin_look(), Some(&seen(&["kept", "removed"])));
        assert_eq!(names(), ["kept", "removed"], "a later look sees what is there");
        pool.end_look(pool.begin_look(), None);
        assert_eq!(names(), ["kept", "removed"], "a look that failed changes nothing");
    }
}
