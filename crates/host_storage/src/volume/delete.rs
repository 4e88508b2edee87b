//! Deleting volumes.

use libvirt_xml::storage::{PoolSource, VolumeKind};

use super::wipe::{Pattern, overwrite};
use super::{Claimed, Dependents};
use crate::backend::{directory_of, logical};
use crate::directory::PoolDirectory;
use crate::error::StorageError;
use crate::formats::Identity;
use crate::pool::Pool;
use crate::storage::Storage;

/// What becomes of the content (virStorageVolDeleteFlags).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeleteMode {
    /// Its storage is free, whatever is in it.
    #[default]
    Normal,
    /// It is overwritten with zeroes before.
    Zeroed,
}

impl Storage {
    /// Deletes a volume that nobody uses and on which no other is based.
    pub fn delete_volume(
        &self,
        pool: &Pool,
        name: &str,
        mode: DeleteMode,
        progress: crate::Progress<'_>,
    ) -> Result<(), StorageError> {
        if pool.known(name)?.kind == VolumeKind::Directory {
            return self.delete_directory(pool, name);
        }
        let claimed = self.claim_to_change(pool, name, "delete", Dependents::Refused)?;
        if claimed.directory.is_some() && claimed.known.kind == VolumeKind::Block {
            return Err(StorageError::Unsupported(
                "removing block or network volumes is not supported".into(),
            ));
        }
        if mode == DeleteMode::Zeroed {
            overwrite(claimed.file(), &claimed.known.path, Pattern::Zero, progress)?;
        }
        match &claimed.definition.source {
            PoolSource::Logical { volume_group, .. } => {
                let (group, path) = (volume_group.clone(), claimed.known.path.clone());
                // LVM wants it closed.
                let Claimed { lock, _job, .. } = claimed;
                drop(lock);
                logical::remove(self.commands(), &group, name)
                    .inspect_err(|_| tracing::warn!("{} is still there", path.display()))?;
                pool.take(name);
            }
            _ => delete_file(&claimed, name, pool)?,
        }
        self.update_sizes(pool);
        Ok(())
    }

    fn delete_directory(&self, pool: &Pool, name: &str) -> Result<(), StorageError> {
        let _job = pool.jobs.claim(name, "delete")?;
        let definition = pool.active_definition()?;
        let Some(path) = directory_of(&definition) else {
            return Err(StorageError::NoSuchVolume(format!("name '{name}'")));
        };
        let directory = PoolDirectory::open(path)?;
        directory
            .remove_directory(name)
            .map_err(StorageError::on("remove directory", directory.path_of(name)))?;
        pool.take(name);
        Ok(())
    }
}

fn delete_file(claimed: &Claimed, name: &str, pool: &Pool) -> Result<(), StorageError> {
    let Some(directory) = &claimed.directory else { return Ok(()) };
    let path = directory.path_of(name);
    let fail = || StorageError::on("remove", &path);
    let ours = rustix::fs::fstat(claimed.file()).map_err(fail())?;
    let there = directory.stat(name)?;
    if there.is_none_or(|there| (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)) {
        let rule = format!("{} was replaced meanwhile: refresh the pool", path.display());
        return Err(StorageError::InvalidOperation(rule));
    }
    let identity = Identity::of(claimed.file()).map_err(fail())?;
    directory.remove(name).map_err(fail())?;
    pool.take(name);
    directory.sync()?;
    pool.record.forget(identity)
}
