//! Volumes: what can be done with them. Every operation names a pool and a volume in it, claims the volume (`jobs`), opens it
//! through its pool's directory, and locks it against the rest of the host.

mod create;
mod delete;
mod describe;
mod resize;
mod transfer;
mod wipe;

use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use block_io::FileLock;
use libvirt_xml::storage::{PoolDefinition, PoolSource, VolumeFormat, VolumeKind};
use rustix::fs::{FileType, Mode, OFlags};

pub use self::create::CreateOptions;
pub(crate) use self::create::{ImageSpec, fill_partial, make_image};
pub use self::delete::DeleteMode;
pub use self::describe::VolumeInfo;
pub use self::resize::ResizeOptions;
pub use self::transfer::{Download, Piece, Upload};
pub use self::wipe::WipeAlgorithm;
use crate::backend::{Known, directory_of, logical};
use crate::directory::PoolDirectory;
use crate::error::StorageError;
use crate::image;
use crate::jobs::Job;
use crate::pool::Pool;
use crate::storage::Storage;

/// A volume that a job has claimed, opened and locked. The order of the fields is the order of letting go.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) lock: FileLock,
    pub(crate) known: Known,
    pub(crate) definition: PoolDefinition,
    /// The directory, if volumes of the pool are files.
    pub(crate) directory: Option<Arc<PoolDirectory>>,
    _job: Job,
}

impl Claimed {
    pub(crate) fn file(&self) -> &File {
        self.lock.file()
    }
}

/// Whether volumes that are based on this one stand in a job's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dependents {
    /// What they see stays as it is.
    Unharmed,
    /// They would be damaged.
    Refused,
}

impl Storage {
    /// Claims a volume for a job that reads it. Nobody may be writing to it.
    pub(crate) fn claim_to_read(&self, pool: &Pool, name: &str) -> Result<Claimed, StorageError> {
        let job = pool.jobs.share(name)?;
        let (known, definition, directory, file) = open(pool, name, OFlags::RDONLY)?;
        let lock = FileLock::shared(Arc::new(file)).map_err(|error| StorageError::lock(name, error))?;
        Ok(Claimed { lock, known, definition, directory, _job: job })
    }

    /// Claims a volume for a job that changes it. Nobody else may have it open.
    pub(crate) fn claim_to_change(
        &self,
        pool: &Pool,
        name: &str,
        what: &'static str,
        dependents: Dependents,
    ) -> Result<Claimed, StorageError> {
        let job = pool.jobs.claim(name, what)?;
        let (known, definition, directory, file) = open(pool, name, OFlags::RDWR)?;
        let lock = FileLock::exclusive(Arc::new(file)).map_err(|error| StorageError::lock(name, error))?;
        let claimed = Claimed { lock, known, definition, directory, _job: job };
        if dependents == Dependents::Refused {
            self.refuse_dependents(&claimed.known, &claimed.definition)?;
        }
        Ok(claimed)
    }

    /// Refuses if another volume is based on this one: changing what is below a disk damages the disk.
    fn refuse_dependents(&self, known: &Known, definition: &PoolDefinition) -> Result<(), StorageError> {
        let refuse = |other: &str| {
            let holder = format!("volume '{other}' is based on it");
            Err(StorageError::InUse { object: format!("volume '{}'", known.name), holder })
        };
        if let PoolSource::Logical { volume_group, .. } = &definition.source {
            let snapshots = logical::snapshots(self.commands(), volume_group)?;
            if let Some((snapshot, _)) = snapshots.iter().find(|(_, origin)| *origin == known.name) {
                return refuse(snapshot);
            }
        }
        for pool in self.pools() {
            for other in pool.all_known().into_iter().filter(|other| other.format == VolumeFormat::Qcow2) {
                if other.path != known.path && paths_below(&pool, &other).contains(&known.path) {
                    return refuse(&other.name);
                }
            }
        }
        Ok(())
    }
}

/// Paths of the files that a volume names as those it needs. Nothing there is opened.
fn paths_below(pool: &Pool, known: &Known) -> Vec<PathBuf> {
    let Ok((_, _, _, file)) = open(pool, &known.name, OFlags::RDONLY) else { return Vec::new() };
    let Ok(info) = image::qcow2_info(&file, &known.path) else { return Vec::new() };
    let names = info.backing.into_iter().chain(info.data_file);
    names.filter_map(|name| resolve_backing(&known.path, &name)).collect()
}

/// The path that a name in an image means, by its words alone; `None` for the name of a protocol.
pub(crate) fn resolve_backing(image: &Path, name: &str) -> Option<PathBuf> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    if name.is_empty() || name.split_once(':').is_some_and(|(protocol, _)| !protocol.contains('/')) {
        return None;
    }
    let mut path = PathBuf::new();
    for component in image.parent()?.join(name).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            other => path.push(other),
        }
    }
    Some(path)
}

type Found = (Known, PoolDefinition, Option<Arc<PoolDirectory>>, File);

/// Opens a volume of an active pool, without claim and lock.
fn open(pool: &Pool, name: &str, flags: OFlags) -> Result<Found, StorageError> {
    let known = pool.known(name)?;
    let definition = pool.active_definition()?;
    match directory_of(&definition) {
        Some(path) => {
            if !matches!(known.kind, VolumeKind::File | VolumeKind::Block) {
                let rule = format!("volume '{name}' is a directory: it has no content of its own");
                return Err(StorageError::Unsupported(rule));
            }
            let directory = PoolDirectory::open(path)?;
            let file = directory.open_volume(name, flags)?;
            Ok((known, definition, Some(directory), file))
        }
        None => {
            let file = open_device(&known.path, flags)?;
            Ok((known, definition, None, file))
        }
    }
}

/// Opens a logical volume, whose path is made by LVM of links.
pub(crate) fn open_device(path: &Path, flags: OFlags) -> Result<File, StorageError> {
    let fd = rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
        .map_err(StorageError::on("open", path))?;
    let stat = rustix::fs::fstat(&fd).map_err(StorageError::on("look at", path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        let rule = format!("{} is not a block device", path.display());
        return Err(StorageError::Unsupported(rule));
    }
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_images_are_understood_by_their_words() {
        let resolve = |name: &str| resolve_backing(Path::new("/p/v"), name);
        assert_eq!(resolve("base"), Some("/p/base".into()));
        assert_eq!(resolve("./x/../base"), Some("/p/base".into()));
        assert_eq!(resolve("file:/q/base"), Some("/q/base".into()));
        assert_eq!(resolve("../../../etc/passwd"), Some("/etc/passwd".into()));
        for name in ["nbd:host:1", "json:{}", "", "https://x"] {
            assert_eq!(resolve(name), None, "{name}");
        }
    }
}
