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

use super::{Affected, Domain, DomainError, Form};
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
    /// The domains that the store remembers, none of them running, on a host with these defaults; and what the store says of
    /// those that ran.
    pub(crate) fn restore(host: HostDefaults, records: Vec<Record>) -> (Self, Vec<(Uuid, String)>) {
        let mut index = Index::default();
        let mut lives = Vec::new();
        for mut record in records {
            lives.extend(record.live.take().map(|live| (Uuid(record.uuid), live)));
            index.insert(&Arc::new(Domain::remembered(record)));
        }
        (Self { index: RwLock::new(index), writing: Mutex::default(), host }, lives)
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
        if let Some(arch) = definition.os.kind.arch.as_ref().filter(|arch| **arch != self.host.arch) {
            let message = format!("Unknown architecture {arch}: machines here are {}", self.host.arch);
            return Err(DomainError::Unsupported(message));
        }
        assign::define(definition, &self.host, &mut random)?;
        check::check(definition)?;
        Ok(())
    }

    /// A client's document, completed and checked.
    pub(crate) fn read(&self, document: &str) -> Result<Definition, DomainError> {
        let mut definition = Definition::parse(document)?.without_live_details();
        self.complete(&mut definition)?;
        Ok(definition)
    }

    /// Defines a domain, or defines it anew.
    pub(crate) fn define(&self, store: &Store, document: &str) -> Result<Change, DomainError> {
        let definition = self.read(document)?;
        let domain = Domain::defined(&definition, false)?;
        let _order = self.writing.lock();
        let before = self.known(&domain)?;
        let domain = match &before {
            Some(before) => Domain { definition: domain.definition, ..Domain::clone(before) },
            None => domain,
        };
        Ok(self.put(store, domain.uuid(), before, Some(domain)))
    }

    /// Gives a domain, known or new, its machine.
    pub(crate) fn start(
        &self,
        store: &Store,
        domain: &Domain,
        live: impl FnOnce(&Domain) -> Domain,
    ) -> Result<Change, DomainError> {
        let _order = self.writing.lock();
        let before = self.startable(domain)?;
        let after = live(before.as_deref().unwrap_or(domain));
        Ok(self.put(store, domain.uuid(), before, Some(after)))
    }

    /// The domain that is to start as it is known now, if it is; it must not run.
    pub(crate) fn startable(&self, domain: &Domain) -> Result<Option<Arc<Domain>>, DomainError> {
        let before = self.known(domain)?;
        if before.as_ref().is_some_and(|before| before.is_active()) {
            let message = format!("domain '{}' is already active", domain.name());
            return Err(DomainError::Invalid(message));
        }
        Ok(before)
    }

    /// The domain with a new one's name and UUID, if there is; neither may be another's.
    fn known(&self, domain: &Domain) -> Result<Option<Arc<Domain>>, DomainError> {
        let before = self.by_uuid(domain.uuid());
        match &before {
            Some(before) if before.name() != domain.name() => {
                return Err(DomainError::UuidTaken { name: before.name().to_owned(), uuid: before.uuid() });
            }
            Some(_) => {}
            None => self.room_for(domain.name())?,
        }
        Ok(before)
    }

    fn room_for(&self, name: &str) -> Result<(), DomainError> {
        let index = self.index.read();
        match index.by_name.get(name) {
            Some(uuid) => Err(DomainError::NameTaken { name: name.to_owned(), uuid: *uuid }),
            None if index.by_uuid.len() >= DOMAIN_LIST_MAX => Err(DomainError::TooMany(index.by_uuid.len())),
            None => Ok(()),
        }
    }

    /// Puts what `change` makes of a domain into its place; nothing if it makes nothing of it.
    pub(crate) fn change(
        &self,
        store: &Store,
        uuid: Uuid,
        change: impl FnOnce(&Domain) -> Result<Option<Domain>, DomainError>,
    ) -> Result<Change, DomainError> {
        let _order = self.writing.lock();
        let before = self.by_uuid(uuid).ok_or(DomainError::NoSuchUuid(uuid))?;
        let after = change(&before)?;
        Ok(self.put(store, uuid, Some(before), after))
    }

    /// Forgets a domain's definition; what runs of it runs on. `allowed` looks at it first.
    pub(crate) fn undefine(
        &self,
        store: &Store,
        uuid: Uuid,
        allowed: impl FnOnce(&Domain) -> Result<(), DomainError>,
    ) -> Result<Change, DomainError> {
        self.change(store, uuid, |before| {
            if !before.is_persistent() {
                return Err(DomainError::Invalid("cannot undefine transient domain".to_owned()));
            }
            allowed(before)?;
            Ok(before.is_active().then(|| before.with_definition(None)))
        })
    }

    /// Gives a domain another name.
    pub(crate) fn rename(&self, store: &Store, uuid: Uuid, name: &str) -> Result<Change, DomainError> {
        check::check_name(name)?;
        self.change(store, uuid, |before| {
            if before.is_active() {
                let message = "cannot rename active domain";
                return Err(DomainError::Invalid(message.to_owned()));
            }
            if before.name() == name {
                return Err(DomainError::Invalid("Can't rename domain to itself".to_owned()));
            }
            if self.by_name(name).is_some() {
                return Err(DomainError::Invalid(format!("domain with name '{name}' already exists")));
            }
            let mut definition = before.definition(Form::Defined)?;
            definition.name = Some(name.to_owned());
            Ok(Some(Domain::defined(&definition, before.autostart())?))
        })
    }

    /// Marks a domain to start with the daemon, or not to.
    pub(crate) fn set_autostart(
        &self,
        store: &Store,
        uuid: Uuid,
        autostart: bool,
    ) -> Result<Change, DomainError> {
        self.change(store, uuid, |before| {
            if !before.is_persistent() {
                let message = "cannot set autostart for transient domain";
                return Err(DomainError::Invalid(message.to_owned()));
            }
            Ok(Some(Domain { autostart, ..before.clone() }))
        })
    }

    /// Changes a domain's documents; a changed definition is completed and checked. `edit` must leave name and UUID alone.
    pub(crate) fn edit(
        &self,
        store: &Store,
        uuid: Uuid,
        affected: Affected,
        mut edit: impl FnMut(&mut Definition) -> Result<(), DomainError>,
    ) -> Result<Change, DomainError> {
        self.change(store, uuid, |before| {
            let mut after = before.clone();
            if affected.live {
                let mut document = before.definition(Form::Live)?;
                edit(&mut document)?;
                check::check(&document)?;
                after = after.with_live_document(&document);
            }
            if affected.defined {
                let mut definition = before.definition(Form::Defined)?;
                edit(&mut definition)?;
                self.complete(&mut definition)?;
                after = after.with_definition(Some(&definition));
            }
            Ok(Some(after))
        })
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
pub(crate) fn random(buffer: &mut [u8]) {
    // The first six bytes of a random UUID are random as a whole (RFC 9562, 5.4).
    for part in buffer.chunks_mut(6) {
        part.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..part.len()]);
    }
}
