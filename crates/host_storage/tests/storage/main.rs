//! Pools and volumes on real file systems.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clones;
mod file_systems;
mod logical;
mod pools;
mod volumes;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host_storage::{CreateOptions, Pool, Storage, StorageError, StorageOptions, VolumeSummary};
use libvirt_xml::parse;
use libvirt_xml::storage::{PoolDefinition, VolumeDefinition};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A host with one active pool of the type dir, and a directory of state.
struct Host {
    directory: TempDir,
    storage: Storage,
    pool: Arc<Pool>,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("state")).unwrap();
        let storage = storage(directory.path());
        let pool = storage.define(pool_at("images", &directory.path().join("images"))).unwrap();
        storage.build(&pool, host_storage::BuildMode::Plain).unwrap();
        storage.start(&pool, None).unwrap();
        Self { directory, storage, pool }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("images").join(name)
    }

    fn create(&self, document: &str) -> Result<VolumeSummary, StorageError> {
        self.storage.create_volume(&self.pool, &volume(document), CreateOptions::default(), &mut go_on)
    }

    /// Names in the directory, also those that are no volumes.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("images")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn volumes(&self) -> Vec<String> {
        self.pool.volumes().unwrap().into_iter().map(|volume| volume.name).collect()
    }
}

fn storage(directory: &Path) -> Storage {
    Storage::new(StorageOptions {
        state_directory: Some(directory.join("state")),
        ..StorageOptions::default()
    })
}

fn pool(document: &str) -> PoolDefinition {
    PoolDefinition::from_element(&parse(document).unwrap()).unwrap()
}

fn pool_at(name: &str, path: &Path) -> PoolDefinition {
    pool(&format!(
        "<pool type='dir'><name>{name}</name><target><path>{}</path></target></pool>",
        path.display()
    ))
}

fn volume(document: &str) -> VolumeDefinition {
    VolumeDefinition::from_element(&parse(document).unwrap()).unwrap()
}

fn raw(name: &str, bytes: u64) -> String {
    format!("<volume><name>{name}</name><capacity>{bytes}</capacity><allocation>0</allocation></volume>")
}

fn qcow2(name: &str, bytes: u64) -> String {
    format!(
        "<volume><name>{name}</name><capacity>{bytes}</capacity><target><format type='qcow2'/></target></volume>"
    )
}

fn go_on(_done: u64, _total: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
