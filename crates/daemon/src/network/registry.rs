//! All networks: by UUID and by name.
//!
//! Changes are made one at a time: computed from the network as it is, put into the index, and put into the store's queue in the same
//! order. Nobody who only looks waits for that. What the store then refuses is taken back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use libvirt_rpc::limits::NETWORK_LIST_MAX;
use libvirt_xml::Uuid;
use libvirt_xml::network::Network as Definition;
use libvirt_xml::network::{assign, check};
use parking_lot::{Mutex, RwLock};

use super::{Network, NetworkError};
use crate::store::{self, Kind, Receipt, Record, Store};

/// The host's networks.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    index: RwLock<BTreeMap<Uuid, Arc<Network>>>,
    /// Held from looking at a network until its change is in the store's queue.
    writing: Mutex<()>,
}

/// A change that holds; it is kept once it is [settled](Networks::settle).
#[derive(Debug)]
#[must_use]
pub(crate) struct Change {
    uuid: Uuid,
    /// What was there; none if the network is new.
    before: Option<Arc<Network>>,
    /// What is there now; none if it is gone.
    after: Option<Arc<Network>>,
    receipt: Receipt,
}

impl Networks {
    /// The networks that the store remembers. What can't be understood stays in the store, for whoever can.
    pub(crate) fn restore(records: &[Record]) -> Self {
        let mut index = BTreeMap::new();
        for record in records {
            match Network::remembered(record) {
                Ok(network) => drop(index.insert(network.uuid(), Arc::new(network))),
                Err(error) => tracing::error!("network '{}' is not as it was: {error}", record.name),
            }
        }
        Self { index: RwLock::new(index), writing: Mutex::default() }
    }

    /// The network with this UUID.
    pub(crate) fn by_uuid(&self, uuid: Uuid) -> Option<Arc<Network>> {
        self.index.read().get(&uuid).cloned()
    }

    /// The network with this name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Network>> {
        self.index.read().values().find(|network| network.name() == name).cloned()
    }

    /// All networks, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Network>> {
        let mut all: Vec<_> = self.index.read().values().cloned().collect();
        all.sort_by(|one, other| one.name().cmp(other.name()));
        all
    }

    /// A client's document, completed and checked, beside the networks that are there.
    pub(crate) fn read(&self, document: &str) -> Result<Definition, NetworkError> {
        let mut definition = Definition::parse(document)?.without_live_details();
        let before = definition.uuid.and_then(|uuid| self.by_uuid(uuid));
        let others: Vec<_> = self.all();
        let mut taken = |bridge: &str| {
            let used = |network: &Arc<Network>| {
                [network.definition(), network.live().map(|live| &*live.document)]
                    .into_iter()
                    .flatten()
                    .any(|document| document.bridge_name() == Some(bridge))
            };
            others.iter().any(used) || Path::new("/sys/class/net").join(bridge).exists()
        };
        let known = before.as_ref().and_then(|before| before.definition().or(before.present()));
        assign::define(&mut definition, known, &mut taken, &mut crate::domain::registry::random);
        check::check(&definition)?;
        Ok(definition)
    }

    /// Defines a network, or defines it anew.
    pub(crate) fn define(&self, store: &Store, document: &str) -> Result<Change, NetworkError> {
        let _order = self.writing.lock();
        let definition = self.read(document)?;
        super::description::check(&definition)?;
        let network = Network::defined(definition.clone())?;
        let before = self.known(&network, &definition)?;
        let network = match &before {
            Some(before) => before.with_definition(Some(definition)),
            None => network,
        };
        Ok(self.put(store, network.uuid(), before, Some(network)))
    }

    /// The network with a new one's name and UUID, if there is; neither may be another's, nor may the bridge be.
    pub(crate) fn known(
        &self,
        network: &Network,
        definition: &Definition,
    ) -> Result<Option<Arc<Network>>, NetworkError> {
        let before = self.by_uuid(network.uuid());
        match &before {
            Some(before) if before.name() != network.name() => {
                return Err(NetworkError::UuidTaken { name: before.name().to_owned(), uuid: before.uuid() });
            }
            Some(_) => {}
            None => {
                if let Some(other) = self.by_name(network.name()) {
                    return Err(NetworkError::NameTaken {
                        name: other.name().to_owned(),
                        uuid: other.uuid(),
                    });
                }
                let count = self.index.read().len();
                if count >= NETWORK_LIST_MAX {
                    return Err(NetworkError::TooMany(count));
                }
            }
        }
        let Some(bridge) = definition.bridge_name().filter(|_| definition.has_own_bridge()) else {
            return Ok(before);
        };
        let has_it = |other: &&Arc<Network>| {
            other.uuid() != network.uuid()
                && [other.definition(), other.present()]
                    .into_iter()
                    .flatten()
                    .any(|document| document.has_own_bridge() && document.bridge_name() == Some(bridge))
        };
        match self.all().iter().find(has_it) {
            Some(other) => {
                Err(NetworkError::BridgeTaken { bridge: bridge.to_owned(), network: other.name().to_owned() })
            }
            None => Ok(before),
        }
    }

    /// Puts what `change` makes of a network, known or not, into its place; nothing if it makes nothing of it.
    pub(crate) fn change(
        &self,
        store: &Store,
        uuid: Uuid,
        change: impl FnOnce(Option<&Network>) -> Result<Option<Network>, NetworkError>,
    ) -> Result<Change, NetworkError> {
        let _order = self.writing.lock();
        let before = self.by_uuid(uuid);
        let after = change(before.as_deref())?;
        Ok(self.put(store, uuid, before, after))
    }

    /// As [`Networks::change`], of a network that has to be there.
    pub(crate) fn change_known(
        &self,
        store: &Store,
        uuid: Uuid,
        change: impl FnOnce(&Network) -> Result<Option<Network>, NetworkError>,
    ) -> Result<Change, NetworkError> {
        self.change(store, uuid, |before| change(before.ok_or(NetworkError::NoSuchUuid(uuid))?))
    }

    /// Forgets a network's definition; what runs of it runs on.
    pub(crate) fn undefine(&self, store: &Store, uuid: Uuid) -> Result<Change, NetworkError> {
        self.change_known(store, uuid, |before| {
            if !before.is_persistent() {
                return Err(NetworkError::Invalid("can't undefine transient network".to_owned()));
            }
            Ok(before.is_active().then(|| before.with_definition(None)))
        })
    }

    /// Marks a network to start with the daemon, or not to.
    pub(crate) fn set_autostart(
        &self,
        store: &Store,
        uuid: Uuid,
        autostart: bool,
    ) -> Result<Change, NetworkError> {
        self.change_known(store, uuid, |before| {
            if !before.is_persistent() {
                return Err(NetworkError::Invalid("cannot set autostart for transient network".to_owned()));
            }
            Ok(Some(Network { autostart, ..before.clone() }))
        })
    }

    /// Puts a network into its place. To be called with `writing` held.
    fn put(&self, store: &Store, uuid: Uuid, before: Option<Arc<Network>>, after: Option<Network>) -> Change {
        let after = after.map(Arc::new);
        let written = match &after {
            Some(network) => {
                self.index.write().insert(uuid, Arc::clone(network));
                store::Change::Put(network.record())
            }
            None => {
                self.index.write().remove(&uuid);
                store::Change::Remove(Kind::Network, uuid.0)
            }
        };
        Change { uuid, before, after, receipt: store.submit(vec![written]) }
    }

    /// Returns when the change is on stable storage. If it can't be, the network is again what it was, unless it was changed once
    /// more since.
    pub(crate) async fn settle(&self, change: Change) -> Result<Option<Arc<Network>>, NetworkError> {
        let Change { uuid, before, after, receipt } = change;
        let Err(error) = receipt.remembered().await else { return Ok(after) };
        let _order = self.writing.lock();
        let mut index = self.index.write();
        let ours = match (index.get(&uuid), &after) {
            (Some(present), Some(after)) => Arc::ptr_eq(present, after),
            (None, None) => true,
            _ => false,
        };
        if ours {
            index.remove(&uuid);
            // Its name may have been taken since.
            let free = |before: &Arc<Network>| !index.values().any(|other| other.name() == before.name());
            if let Some(before) = before.filter(free) {
                index.insert(uuid, before);
            }
        }
        Err(error.into())
    }
}
