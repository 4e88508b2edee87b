//! All domains: by UUID, by name and by number.
//!
//! Changes are made one at a time: computed from the domain as it is, put into the index, and put into the store's queue in the
//! same order. Nobody who only looks waits for that. What the store then refuses is taken back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use libvirt_rpc::limits::DOMAIN_LIST_MAX;
use libvirt_xml::Uuid;
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::domain::assign::{self, HostDefaults};
use libvirt_xml::domain::check;
use parking_lot::{Mutex, RwLock};

use super::{Domain, DomainError};
use crate::store::{self, Kind, Receipt, Record, Store};

#[derive(Debug, Default)]
struct Index {
    by_uuid: HashMap<Uuid, Arc<Domain>>,
    by_name: BTreeMap<String, Uuid>,
}

impl Index {
    fn insert(&mut self, domain: &Arc<Domain>) {
        self.remove(domain.uuid());
        self.by_name.insert(domain.name().to_owned(), domain.uuid());
        self.by_uuid.insert(domain.uuid(), Arc::clone(domain));
    }

    fn remove(&mut self, uuid: Uuid) {
        if let Some(before) = self.by_uuid.remove(&uuid) {
            self.by_name.remove(before.name());
        }
    }
}

/// The host's domains.
#[derive(Debug)]
pub(crate) struct Domains {
    index: RwLock<Index>,
    /// Held from looking at a domain until its change is in the store's queue.
    writing: Mutex<()>,
    host: HostDefaults,
}

/// A change that holds; it is kept once it is [settled](Domains::settle).
#[derive(Debug)]
pub(crate) struct Change {
    uuid: Uuid,
    /// What was there; none if the domain is new.
    pub(crate) before: Option<Arc<Domain>>,
    /// What is there now; none if it is gone.
    pub(crate) after: Option<Arc<Domain>>,
    receipt: Receipt,
}

impl Domains {
    /// The domains that the store remembers, on a host with these defaults.
    pub(crate) fn restore(host: HostDefaults, records: Vec<Record>) -> Self {
        let mut index = Index::default();
        for record in records {
            let name = record.name.clone();
            match Domain::remembered(record) {
                Some(domain) => index.insert(&Arc::new(domain)),
                None => tracing::error!("domain '{name}' is remembered without a definition, and left out"),
            }
        }
        Self { index: RwLock::new(index), writing: Mutex::default(), host }
    }

    /// What definitions are completed with.
    pub(crate) fn host(&self) -> &HostDefaults {
        &self.host
    }

    /// The domain with this UUID.
    pub(crate) fn by_uuid(&self, uuid: Uuid) -> Option<Arc<Domain>> {
        self.index.read().by_uuid.get(&uuid).cloned()
    }

    /// The domain with this name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Domain>> {
        let index = self.index.read();
        index.by_uuid.get(index.by_name.get(name)?).cloned()
    }

    /// The running domain with this number.
    pub(crate) fn by_id(&self, id: i32) -> Option<Arc<Domain>> {
        self.index.read().by_uuid.values().find(|domain| domain.id() == Some(id)).cloned()
    }

    /// All domains, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Domain>> {
        let index = self.index.read();
        index.by_name.values().filter_map(|uuid| index.by_uuid.get(uuid)).cloned().collect()
    }

    /// Completes and checks a definition.
    pub(crate) fn complete(&self, definition: &mut Definition) -> Result<(), DomainError> {
        assign::define(definition, &self.host, &mut random)?;
        check::check(definition)?;
        Ok(())
    }

    /// Defines a domain, or defines it anew.
    pub(crate) fn define(&self, store: &Store, document: &str) -> Result<Change, DomainError> {
        let mut definition = Definition::parse(document)?.without_live_details();
        self.complete(&mut definition)?;
        let mut domain = Domain::defined(&definition, false)?;
        let writing = self.writing.lock();
        let before = self.by_uuid(domain.uuid());
        match &before {
            Some(before) if before.name() != domain.name() => {
                return Err(DomainError::UuidTaken { name: before.name().to_owned(), uuid: before.uuid() });
            }
            Some(before) => domain.autostart = before.autostart(),
            None => self.room_for(domain.name())?,
        }
        let change = self.put(store, domain.uuid(), before, Some(domain));
        drop(writing);
        Ok(change)
    }

    fn room_for(&self, name: &str) -> Result<(), DomainError> {
        let index = self.index.read();
        match index.by_name.get(name) {
            Some(uuid) => Err(DomainError::NameTaken { name: name.to_owned(), uuid: *uuid }),
            None if index.by_uuid.len() >= DOMAIN_LIST_MAX => Err(DomainError::TooMany(index.by_uuid.len())),
            None => Ok(()),
        }
    }

    /// Forgets a domain. `allowed` looks at it first.
    pub(crate) fn undefine(
        &self,
        store: &Store,
        uuid: Uuid,
        allowed: impl FnOnce(&Domain) -> Result<(), DomainError>,
    ) -> Result<Change, DomainError> {
        let _order = self.writing.lock();
        let before = self.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        allowed(&before)?;
        Ok(self.put(store, uuid, Some(before), None))
    }

    /// Gives a domain another name.
    pub(crate) fn rename(&self, store: &Store, uuid: Uuid, name: &str) -> Result<Change, DomainError> {
        check::check_name(name)?;
        let _order = self.writing.lock();
        let before = self.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        if before.is_active() {
            return Err(DomainError::Invalid("domain has to be shutoff before renaming".to_owned()));
        }
        if before.name() == name {
            return Err(DomainError::Invalid("Can't rename domain to itself".to_owned()));
        }
        if self.by_name(name).is_some() {
            return Err(DomainError::Invalid(format!("domain with name '{name}' already exists")));
        }
        let mut definition = before.definition()?;
        definition.name = Some(name.to_owned());
        let after = Domain::defined(&definition, before.autostart())?;
        Ok(self.put(store, uuid, Some(before), Some(after)))
    }

    /// Marks a domain to start with the daemon, or not to.
    pub(crate) fn set_autostart(
        &self,
        store: &Store,
        uuid: Uuid,
        autostart: bool,
    ) -> Result<Change, DomainError> {
        let _order = self.writing.lock();
        let before = self.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        let after = before.with_autostart(autostart);
        Ok(self.put(store, uuid, Some(before), Some(after)))
    }

    /// Changes a domain's definition; the result is completed and checked. `edit` must leave name and UUID alone.
    pub(crate) fn edit(
        &self,
        store: &Store,
        uuid: Uuid,
        edit: impl FnOnce(&mut Definition) -> Result<(), DomainError>,
    ) -> Result<Change, DomainError> {
        let _order = self.writing.lock();
        let before = self.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        let mut definition = before.definition()?;
        edit(&mut definition)?;
        self.complete(&mut definition)?;
        let after = Domain::defined(&definition, before.autostart())?;
        Ok(self.put(store, uuid, Some(before), Some(after)))
    }

    /// Puts a domain into its place. To be called with `writing` held.
    fn put(&self, store: &Store, uuid: Uuid, before: Option<Arc<Domain>>, after: Option<Domain>) -> Change {
        let after = after.map(Arc::new);
        let written = match &after {
            Some(domain) => {
                self.index.write().insert(domain);
                store::Change::Put(domain.record())
            }
            None => {
                self.index.write().remove(uuid);
                store::Change::Remove(Kind::Domain, uuid.0)
            }
        };
        Change { uuid, before, after, receipt: store.submit(vec![written]) }
    }

    /// Returns when the change is on stable storage. If it can't be, the domain is again what it was, unless it was changed
    /// once more since.
    pub(crate) async fn settle(
        &self,
        change: Change,
    ) -> Result<(Option<Arc<Domain>>, Option<Arc<Domain>>), DomainError> {
        let Change { uuid, before, after, receipt } = change;
        let Err(error) = receipt.remembered().await else { return Ok((before, after)) };
        let _order = self.writing.lock();
        let mut index = self.index.write();
        let ours = match (index.by_uuid.get(&uuid), &after) {
            (Some(present), Some(after)) => Arc::ptr_eq(present, after),
            (None, None) => true,
            _ => false,
        };
        if ours {
            index.remove(uuid);
            if let Some(before) = before.filter(|before| !index.by_name.contains_key(before.name())) {
                index.insert(&before);
            }
        }
        Err(error.into())
    }
}

/// Random bytes of the system.
fn random(buffer: &mut [u8]) {
    // The first six bytes of a random UUID are random as a whole (RFC 9562, 5.4).
    for part in buffer.chunks_mut(6) {
        part.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..part.len()]);
    }
}
