//! All pools of a host, and what happens to a pool in its life.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use libvirt_xml::storage::{NetworkFileSystem, NetworkSource};
use libvirt_xml::storage::{
    PoolCapabilities, PoolDefinition, PoolKind, PoolSource, PoolSources, SourceQuery,
};
use parking_lot::RwLock;
use uuid::Uuid;

use crate::backend::{self, BuildMode, Known, logical};
use crate::command::Commands;
use crate::error::StorageError;
use crate::formats::FormatRecord;
use crate::pool::{Pool, VolumeSummary, summary};
use crate::undo::UndoStack;

/// What a [`Storage`] is given by its caller.
#[derive(Debug, Clone, Default)]
pub struct StorageOptions {
    /// An existing directory in which the formats of volumes are remembered. Without one they are forgotten with the process.
    pub state_directory: Option<PathBuf>,
    /// Programs of the host.
    pub commands: Commands,
}

/// The pools of a host. Shared by threads; pools are looked up here and worked on through this.
#[derive(Debug)]
pub struct Storage {
    options: StorageOptions,
    pools: RwLock<Vec<Arc<Pool>>>,
}

impl Storage {
    /// A host without pools.
    pub fn new(options: StorageOptions) -> Self {
        Self { options, pools: RwLock::default() }
    }

    pub(crate) fn commands(&self) -> &Commands {
        &self.options.commands
    }

    /// All pools, in the order of their names.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.pools.read().clone();
        pools.sort_by(|first, second| first.name().cmp(second.name()));
        pools
    }

    /// The pool of a name.
    pub fn pool_by_name(&self, name: &str) -> Result<Arc<Pool>, StorageError> {
        self.pool(|pool| pool.name() == name, || format!("name '{name}'"))
    }

    /// The pool of a UUID.
    pub fn pool_by_uuid(&self, uuid: Uuid) -> Result<Arc<Pool>, StorageError> {
        self.pool(|pool| pool.uuid() == uuid, || format!("uuid '{uuid}'"))
    }

    /// The pool whose directory is at a path.
    pub fn pool_by_target_path(&self, path: &Path) -> Result<Arc<Pool>, StorageError> {
        let path = clean(path);
        self.pool(|pool| pool.is_at(&path), || format!("target path '{}'", path.display()))
    }

    fn pool(
        &self,
        condition: impl Fn(&Pool) -> bool,
        what: impl Fn() -> String,
    ) -> Result<Arc<Pool>, StorageError> {
        let found = self.pools.read().iter().find(|pool| condition(pool)).cloned();
        found.ok_or_else(|| StorageError::NoSuchPool(what()))
    }

    /// The volume of a key in any active pool, with its pool.
    pub fn volume_by_key(&self, key: &str) -> Result<(Arc<Pool>, VolumeSummary), StorageError> {
        let found = self.find_volume(|known| known.key == key);
        let (pool, known) = found.ok_or_else(|| StorageError::NoSuchVolume(format!("key '{key}'")))?;
        Ok((pool, summary(&known)))
    }

    /// The volume at a path in any active pool, with its pool.
    pub fn volume_by_path(&self, path: &Path) -> Result<(Arc<Pool>, VolumeSummary), StorageError> {
        let path = clean(path);
        let found = self.find_volume(|known| known.path == path);
        let missing = || StorageError::NoSuchVolume(format!("path '{}'", path.display()));
        let (pool, known) = found.ok_or_else(missing)?;
        Ok((pool, summary(&known)))
    }

    pub(crate) fn find_volume(&self, condition: impl Fn(&Known) -> bool) -> Option<(Arc<Pool>, Known)> {
        let pools = self.pools.read().clone();
        pools.into_iter().find_map(|pool| pool.find(&condition).map(|known| (pool, known)))
    }

    /// Directories in which backing files may lie: those of all active pools.
    pub fn directories(&self) -> Vec<PathBuf> {
        let definitions = self.pools.read().clone();
        let definitions = definitions.iter().filter_map(|pool| pool.active_definition().ok());
        definitions.map(|definition| PathBuf::from(definition.target.path)).collect()
    }

    /// Defines a persistent pool, or changes the definition of one; nothing on the host is touched.
    pub fn define(&self, definition: PoolDefinition) -> Result<Arc<Pool>, StorageError> {
        let mut pools = self.pools.write();
        if let Some(pool) = same(&pools, &definition)? {
            pool.redefine(definition);
            return Ok(pool);
        }
        let pool = self.make(definition, true)?;
        pools.push(Arc::clone(&pool));
        Ok(pool)
    }

    /// Makes a transient pool and starts it, after building it if told so. A persistent pool that is not active is started with
    /// the new definition.
    pub fn create(
        &self,
        definition: PoolDefinition,
        build: Option<BuildMode>,
    ) -> Result<Arc<Pool>, StorageError> {
        let (pool, passing) = {
            let mut pools = self.pools.write();
            match same(&pools, &definition)? {
                Some(pool) => (pool, Some(definition)),
                None => {
                    let pool = self.make(definition, false)?;
                    pools.push(Arc::clone(&pool));
                    (pool, None)
                }
            }
        };
        let new = passing.is_none();
        self.start_as(&pool, passing, build).inspect_err(|_| {
            if new {
                self.remove_transient(&pool);
            }
        })?;
        Ok(pool)
    }

    /// Takes a pool that the caller remembers, after a restart: what it is defined as, if it is persistent, and what it was when
    /// it was active, if it was. It is active again if its storage is still there as it was; what is mounted stays mounted. The
    /// error is for the log: the pool is there in any case. One that is transient and can't be active is not.
    pub fn restore(
        &self,
        persistent: Option<PoolDefinition>,
        live: Option<PoolDefinition>,
    ) -> Result<Arc<Pool>, StorageError> {
        let (was_active, is_persistent) = (live.is_some(), persistent.is_some());
        let Some(definition) = live.or_else(|| persistent.clone()) else {
            return Err(StorageError::InvalidArgument("a pool without any definition".to_owned()));
        };
        let pool = {
            let mut pools = self.pools.write();
            if same(&pools, &definition)?.is_some() {
                return Err(StorageError::PoolConflict(format!(
                    "pool '{}' is there already",
                    definition.name
                )));
            }
            let pool = self.make(definition, is_persistent)?;
            pools.push(Arc::clone(&pool));
            pool
        };
        if was_active {
            let _job = pool.jobs.claim_pool(pool.name(), "restore")?;
            let found = self.find_up(&pool, persistent);
            if !pool.is_active() {
                pool.set_inactive();
                self.remove_transient(&pool);
            }
            found?;
        }
        Ok(pool)
    }

    /// Looks at a pool that is up already; from its next start on, `next` holds.
    fn find_up(&self, pool: &Pool, next: Option<PoolDefinition>) -> Result<(), StorageError> {
        let definition = pool.idle_definition()?;
        if let Some(next) = next {
            pool.hold_back(next);
        }
        if backend::is_up(&definition)? {
            self.look(pool, &definition)?;
        }
        Ok(())
    }

    fn make(&self, definition: PoolDefinition, persistent: bool) -> Result<Arc<Pool>, StorageError> {
        let uuid = definition.uuid.unwrap_or_else(Uuid::new_v4);
        let record = FormatRecord::open(self.options.state_directory.as_deref(), uuid)?;
        Ok(Arc::new(Pool::new(definition, uuid, persistent, record)))
    }

    fn remove(&self, pool: &Arc<Pool>) {
        self.pools.write().retain(|other| !Arc::ptr_eq(other, pool));
    }

    /// Forgets a pool unless it is, or has just been made, persistent.
    fn remove_transient(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.write();
        if !pool.is_persistent() {
            pools.retain(|other| !Arc::ptr_eq(other, pool));
        }
    }

    /// Forgets a pool that is not active. Its storage stays.
    pub fn undefine(&self, pool: &Arc<Pool>) -> Result<(), StorageError> {
        let _job = pool.jobs.claim_pool(pool.name(), "undefine")?;
        pool.idle_definition().map_err(|_| still_active(pool))?;
        self.remove(pool);
        // The formats stay known while the files are there: the pool may be defined again with its UUID.
        if !pool.record.identities().is_empty() {
            return Ok(());
        }
        pool.record.remove();
        Ok(())
    }

    /// Makes the storage of a pool that is not active.
    pub fn build(&self, pool: &Pool, mode: BuildMode) -> Result<(), StorageError> {
        let _job = pool.jobs.claim_pool(pool.name(), "build")?;
        backend::build(self.commands(), &pool.idle_definition()?, mode)
    }

    /// Starts a pool: mounts what is to be mounted, and looks at the volumes. If that fails, nothing stays mounted.
    pub fn start(&self, pool: &Pool, build: Option<BuildMode>) -> Result<(), StorageError> {
        self.start_as(pool, None, build)
    }

    /// Starts a pool with a definition that holds until it is stopped.
    fn start_as(
        &self,
        pool: &Pool,
        passing: Option<PoolDefinition>,
        build: Option<BuildMode>,
    ) -> Result<(), StorageError> {
        let _job = pool.jobs.claim_pool(pool.name(), "start")?;
        if !self.pools.read().iter().any(|known| std::ptr::eq(Arc::as_ptr(known), pool)) {
            return Err(StorageError::NoSuchPool(format!("uuid '{}'", pool.uuid())));
        }
        let mut definition = pool.idle_definition()?;
        if let Some(passing) = passing {
            definition = pool.pass(passing, definition);
        }
        pool.set_building();
        let result = self.bring_up(pool, &definition, build);
        if result.is_err() {
            pool.set_inactive();
        }
        result
    }

    fn bring_up(
        &self,
        pool: &Pool,
        definition: &PoolDefinition,
        build: Option<BuildMode>,
    ) -> Result<(), StorageError> {
        if let Some(mode) = build {
            backend::build(self.commands(), definition, mode)?;
        }
        let mut undo = UndoStack::new(format!("start storage pool '{}'", pool.name()));
        backend::start(self.commands(), definition, &mut undo)?;
        self.look(pool, definition)?;
        undo.commit();
        Ok(())
    }

    fn look(&self, pool: &Pool, definition: &PoolDefinition) -> Result<(), StorageError> {
        let look = pool.begin_look();
        let found = backend::scan(self.commands(), definition, &pool.record);
        pool.end_look(look, found.as_ref().ok());
        found.map(drop)
    }

    /// Looks at the volumes of an active pool again. Jobs on volumes may go on.
    pub fn refresh(&self, pool: &Pool) -> Result<(), StorageError> {
        let _job = pool.jobs.share_pool(pool.name())?;
        self.look(pool, &pool.active_definition()?)
    }

    /// Stops an active pool; a transient one is gone then.
    pub fn stop(&self, pool: &Arc<Pool>) -> Result<(), StorageError> {
        let _job = pool.jobs.claim_pool(pool.name(), "stop")?;
        backend::stop(self.commands(), &pool.active_definition()?)?;
        pool.set_inactive();
        self.remove_transient(pool);
        Ok(())
    }

    /// Removes the storage of a pool that is not active: its empty directory, or its volume group with all volumes.
    pub fn delete(&self, pool: &Pool) -> Result<(), StorageError> {
        let _job = pool.jobs.claim_pool(pool.name(), "delete")?;
        backend::delete(self.commands(), &pool.idle_definition().map_err(|_| still_active(pool))?)
    }

    /// Asks for the sizes of an active pool again, after something has changed: also for whoever has ended an upload. Nothing
    /// happens to a pool that has been stopped meanwhile.
    pub fn update_sizes(&self, pool: &Pool) {
        let sizes =
            pool.active_definition().and_then(|definition| backend::sizes(self.commands(), &definition));
        match sizes {
            Ok(sizes) => pool.set_sizes(sizes),
            Err(error) => {
                tracing::warn!("the sizes of storage pool '{}' are not known: {error}", pool.name())
            }
        }
    }

    /// Which kinds of pools work on this host.
    pub fn capabilities(&self) -> PoolCapabilities {
        let works = |kind: &PoolKind| match kind {
            PoolKind::Directory => true,
            PoolKind::FileSystem | PoolKind::NetworkFileSystem => self.commands().has("mount"),
            PoolKind::Logical => self.commands().has("lvs"),
        };
        PoolCapabilities { supported: PoolKind::ALL.iter().copied().filter(works).collect() }
    }

    /// Looks for storage of which pools could be made: volume groups of this host, directories that another host exports.
    pub fn find_sources(&self, kind: PoolKind, query: &SourceQuery) -> Result<PoolSources, StorageError> {
        match (kind, &query.host) {
            (PoolKind::Logical, _) => logical::sources(self.commands()).map(PoolSources),
            (PoolKind::NetworkFileSystem, Some(host)) => {
                let text = self.commands().run("showmount", &["--no-headers", "--exports", "--", host])?;
                let directories = text.lines().filter_map(|line| line.split_whitespace().next());
                let directories = directories.filter(|directory| directory.starts_with('/'));
                let source = |directory: &str| {
                    PoolSource::NetworkFileSystem(NetworkSource {
                        host: host.clone(),
                        directory: directory.to_owned(),
                        format: NetworkFileSystem::Nfs,
                        protocol_version: None,
                    })
                };
                Ok(PoolSources(directories.map(source).collect()))
            }
            (PoolKind::NetworkFileSystem, None) => {
                Err(StorageError::InvalidArgument("the host to be asked for its exports is missing".into()))
            }
            (PoolKind::Directory | PoolKind::FileSystem, _) => Err(StorageError::Unsupported(format!(
                "pool type '{kind}' does not support source discovery"
            ))),
        }
    }
}

fn still_active(pool: &Pool) -> StorageError {
    StorageError::InvalidOperation(format!("storage pool '{}' is still active", pool.name()))
}

/// The pool that a definition means, if it is there already. One that takes another's name, UUID or storage is refused.
fn same(pools: &[Arc<Pool>], definition: &PoolDefinition) -> Result<Option<Arc<Pool>>, StorageError> {
    let mut found = None;
    for pool in pools {
        let (name, uuid) = (pool.name() == definition.name, Some(pool.uuid()) == definition.uuid);
        if name && uuid {
            found = Some(Arc::clone(pool));
        } else if name {
            let rule = format!("pool '{}' already exists with uuid {}", pool.name(), pool.uuid());
            return Err(StorageError::PoolConflict(rule));
        } else if uuid {
            let rule = format!("pool '{}' is already defined with uuid {}", pool.name(), pool.uuid());
            return Err(StorageError::PoolConflict(rule));
        } else if shares_storage(&pool.describe_inactive(), definition) {
            let rule = format!("Storage source conflict with pool: '{}'", pool.name());
            return Err(StorageError::PoolConflict(rule));
        }
    }
    Ok(found)
}

/// Whether two pools would get in each other's way.
fn shares_storage(first: &PoolDefinition, second: &PoolDefinition) -> bool {
    first.target.path == second.target.path
        || (first.source == second.source && first.source != PoolSource::Directory)
}

/// A path without needless slashes and dots. Nothing is looked up.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}
