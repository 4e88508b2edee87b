//! What the kinds of pools do differently: how storage is made, brought up, looked at and taken down.
//!
//! Three kinds are directories that differ in what is mounted there (`filesystem`); the fourth is LVM (`logical`).

pub(crate) mod filesystem;
pub(crate) mod logical;

use std::path::{Path, PathBuf};

use libvirt_xml::storage::{
    Permissions, PoolDefinition, PoolKind, PoolSizes, PoolSource, VolumeFormat, VolumeKind,
};

use crate::command::Commands;
use crate::error::StorageError;
use crate::formats::{FormatOrigin, FormatRecord};
use crate::undo::UndoStack;

/// What building a pool may do to what is on its devices (virStoragePoolBuildFlags).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BuildMode {
    /// Makes the directory; makes a volume group. No file system is made.
    #[default]
    Plain,
    /// As `VIR_STORAGE_POOL_BUILD_NO_OVERWRITE`: makes a file system if there is nothing on the device.
    NoOverwrite,
    /// As `VIR_STORAGE_POOL_BUILD_OVERWRITE`: makes a file system whatever is on the device.
    Overwrite,
}

/// A volume that was found in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) path: PathBuf,
    pub(crate) kind: VolumeKind,
    pub(crate) format: VolumeFormat,
    pub(crate) origin: FormatOrigin,
}

/// What a look at a pool has found.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) volumes: Vec<Known>,
    pub(crate) sizes: PoolSizes,
    /// Of the directory, if there is one.
    pub(crate) permissions: Option<Permissions>,
}

/// The directory of a pool whose volumes are files; `None` for a volume group.
pub(crate) fn directory_of(definition: &PoolDefinition) -> Option<&Path> {
    match definition.source.kind() {
        PoolKind::Directory | PoolKind::FileSystem | PoolKind::NetworkFileSystem => {
            Some(Path::new(&definition.target.path))
        }
        PoolKind::Logical => None,
    }
}

/// Makes the storage of a pool that is not active.
pub(crate) fn build(
    commands: &Commands,
    definition: &PoolDefinition,
    mode: BuildMode,
) -> Result<(), StorageError> {
    match &definition.source {
        PoolSource::Logical { volume_group, devices } => {
            logical::build(commands, volume_group, devices, mode)
        }
        _ => filesystem::build(commands, definition, mode),
    }
}

/// Removes the storage of a pool that is not active.
pub(crate) fn delete(commands: &Commands, definition: &PoolDefinition) -> Result<(), StorageError> {
    match &definition.source {
        PoolSource::Logical { volume_group, devices } => logical::delete(commands, volume_group, devices),
        _ => filesystem::delete(definition),
    }
}

/// Whether the storage is up already: after a restart of the caller.
pub(crate) fn is_up(definition: &PoolDefinition) -> Result<bool, StorageError> {
    match &definition.source {
        PoolSource::Directory => Ok(Path::new(&definition.target.path).is_dir()),
        PoolSource::Logical { .. } => Ok(Path::new(&definition.target.path).exists()),
        _ => filesystem::is_mounted(definition),
    }
}

/// Brings the storage up.
pub(crate) fn start(
    commands: &Commands,
    definition: &PoolDefinition,
    undo: &mut UndoStack,
) -> Result<(), StorageError> {
    match &definition.source {
        PoolSource::Logical { volume_group, .. } => logical::start(commands, volume_group, undo),
        _ => filesystem::start(commands, definition, undo),
    }
}

/// Takes the storage down.
pub(crate) fn stop(commands: &Commands, definition: &PoolDefinition) -> Result<(), StorageError> {
    match &definition.source {
        PoolSource::Logical { volume_group, .. } => logical::stop(commands, volume_group),
        _ => filesystem::stop(commands, definition),
    }
}

/// Looks at all volumes of a pool that is up.
pub(crate) fn scan(
    commands: &Commands,
    definition: &PoolDefinition,
    record: &FormatRecord,
) -> Result<Seen, StorageError> {
    match &definition.source {
        PoolSource::Logical { volume_group, .. } => logical::scan(commands, volume_group),
        _ => filesystem::scan(Path::new(&definition.target.path), record),
    }
}

/// Asks for the sizes of a pool that is up.
pub(crate) fn sizes(commands: &Commands, definition: &PoolDefinition) -> Result<PoolSizes, StorageError> {
    match &definition.source {
        PoolSource::Logical { volume_group, .. } => logical::sizes(commands, volume_group),
        _ => filesystem::sizes(Path::new(&definition.target.path)),
    }
}
