//! Making volumes: new ones, and copies of others.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_io::operations::NewImage;
use block_io::qcow2::{BackingName, Compression, Qcow2Parameters};
use libvirt_xml::storage::{
    BackingStore, Compatibility, Permissions, PoolDefinition, PoolSource, Preallocated, VolumeDefinition,
    VolumeFormat, VolumeKind, VolumeTarget,
};
use rustix::fs::{FallocateFlags, Gid, IFlags, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{open_device, resolve_backing};
use crate::backend::{Known, directory_of, logical};
use crate::clone::{CloneMethod, CloneMode, SourceImage, copy_to_device, fill_copy, preallocate};
use crate::directory::{PoolDirectory, check_name};
use crate::error::StorageError;
use crate::formats::{FormatOrigin, FormatRecord, Identity};
use crate::image;
use crate::pool::{Pool, VolumeSummary, summary};
use crate::storage::Storage;
use crate::undo::UndoStack;

/// Mode of a new volume, as libvirt has it.
const VOLUME_MODE: u32 = 0o600;

/// How a volume is made (virStorageVolCreateFlags).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// The tables of a qcow2 image are made for the whole disk.
    pub preallocate_metadata: bool,
    /// A copy shares storage with what it is copied from, or is refused.
    pub reflink: bool,
}

/// What a new image is like.
#[derive(Debug, Clone)]
pub(crate) struct ImageSpec<'a> {
    pub(crate) format: VolumeFormat,
    /// Bytes: whole sectors.
    pub(crate) capacity: u64,
    pub(crate) allocation: Preallocated,
    pub(crate) target: &'a VolumeTarget,
    pub(crate) backing: Option<BackingName>,
    pub(crate) preallocate_metadata: bool,
}

impl Storage {
    /// Makes a volume. It is there when it is whole, or not at all.
    pub fn create_volume(
        &self,
        pool: &Pool,
        definition: &VolumeDefinition,
        options: CreateOptions,
        progress: crate::Progress<'_>,
    ) -> Result<VolumeSummary, StorageError> {
        let name = definition.name.as_str();
        let of_pool = pool.active_definition()?;
        let _job = claim_new(pool, &of_pool, name)?;
        let known = match directory_of(&of_pool) {
            None => self.create_logical(&of_pool, definition)?,
            Some(path) => {
                let directory = PoolDirectory::open(path)?;
                let below = definition.backing.as_ref().map(|backing| self.backing(backing)).transpose()?;
                let capacity = match (definition.capacity, &below) {
                    (Some(capacity), _) => capacity,
                    (None, Some((_, capacity))) => *capacity,
                    (None, None) => return Err(no_capacity(name)),
                };
                let spec = ImageSpec {
                    format: definition.target.format.unwrap_or(VolumeFormat::Raw),
                    capacity: whole_sectors(capacity)?,
                    allocation: definition.allocation,
                    target: &definition.target,
                    backing: below.map(|(backing, _)| backing),
                    preallocate_metadata: options.preallocate_metadata,
                };
                let (known, ()) = make_volume(
                    &directory,
                    name,
                    spec.format,
                    &definition.target.permissions,
                    &pool.record,
                    |partial| make_image(&directory, partial, name, &spec, progress),
                )?;
                known
            }
        };
        pool.add(known.clone());
        self.update_sizes(pool);
        Ok(summary(&known))
    }

    /// Makes a volume with the content of another, which nobody may be writing to, and says how that was done.
    pub fn create_volume_from(
        &self,
        pool: &Pool,
        definition: &VolumeDefinition,
        source_pool: &Pool,
        source_name: &str,
        options: CreateOptions,
        progress: crate::Progress<'_>,
    ) -> Result<(VolumeSummary, CloneMethod), StorageError> {
        let mode = if options.reflink { CloneMode::Reflink } else { CloneMode::FullCopy };
        self.clone_volume(pool, definition, source_pool, source_name, mode, options, progress)
    }

    /// As [`Storage::create_volume_from`], with a choice of how.
    #[expect(clippy::too_many_arguments, reason = "two volumes of two pools, and how")]
    pub fn clone_volume(
        &self,
        pool: &Pool,
        definition: &VolumeDefinition,
        source_pool: &Pool,
        source_name: &str,
        mode: CloneMode,
        options: CreateOptions,
        progress: crate::Progress<'_>,
    ) -> Result<(VolumeSummary, CloneMethod), StorageError> {
        let name = definition.name.as_str();
        let of_pool = pool.active_definition()?;
        let _job = claim_new(pool, &of_pool, name)?;
        let claimed = self.claim_to_read(source_pool, source_name)?;
        let source = SourceImage {
            file: Arc::clone(claimed.lock.file()),
            path: claimed.known.path.clone(),
            format: claimed.known.format,
            directories: self.directories(),
        };
        if let Some(backing) = &definition.backing {
            check_backing_of_copy(&source, backing, mode)?;
        }
        // As libvirt has it: a copy is at least as large as what is copied.
        let capacity = definition.capacity.unwrap_or(0).max(source.capacity()?);
        let (known, method) = match directory_of(&of_pool) {
            None => {
                if !matches!(mode, CloneMode::Automatic | CloneMode::FullCopy) {
                    let rule = "a logical volume can only be a full copy".to_owned();
                    return Err(StorageError::Unsupported(rule));
                }
                self.copy_to_logical(&of_pool, definition, &source, capacity, progress)?
            }
            Some(path) => {
                let directory = PoolDirectory::open(path)?;
                let default = if mode == CloneMode::Overlay { VolumeFormat::Qcow2 } else { source.format };
                let spec = ImageSpec {
                    format: definition.target.format.unwrap_or(default),
                    capacity: whole_sectors(capacity)?,
                    allocation: definition.allocation,
                    target: &definition.target,
                    backing: None,
                    preallocate_metadata: options.preallocate_metadata,
                };
                make_volume(
                    &directory,
                    name,
                    spec.format,
                    &definition.target.permissions,
                    &pool.record,
                    |partial| fill_copy(&source, &directory, partial, name, &spec, mode, progress),
                )?
            }
        };
        pool.add(known.clone());
        self.update_sizes(pool);
        Ok((summary(&known), method))
    }

    /// What is to be below a new volume, as it will be written down, and its size.
    fn backing(&self, backing: &BackingStore) -> Result<(BackingName, u64), StorageError> {
        let refuse = |why: String| {
            Err(StorageError::InvalidArgument(format!(
                "cannot use {:?} as a backing file: {why}",
                backing.path
            )))
        };
        let path = Path::new(&backing.path);
        if !path.is_absolute() {
            return refuse("the path is not absolute".into());
        }
        let real = std::fs::canonicalize(path).map_err(|error| StorageError::system("find", path, error))?;
        let directories = self.directories();
        let within = |directory: &PathBuf| {
            std::fs::canonicalize(directory).is_ok_and(|allowed| real.starts_with(allowed))
        };
        let volume = self.find_volume(|known| known.path == path || known.path == real);
        if volume.is_none() && !directories.iter().any(within) {
            return refuse("it lies in no directory of an active storage pool".into());
        }
        let told = volume.as_ref().filter(|(_, known)| known.origin == FormatOrigin::Told);
        let format = match backing.format.or(told.map(|(_, known)| known.format)) {
            Some(VolumeFormat::Qcow2) => VolumeFormat::Qcow2,
            Some(format) if image::is_raw(format) => VolumeFormat::Raw,
            Some(other) => return refuse(format!("its format {other} is neither raw nor qcow2")),
            None => return refuse("its format is not given, and guessing it is unsafe".into()),
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&real, flags, Mode::empty()).map_err(StorageError::on("open", &real))?;
        let file = Arc::new(File::from(fd));
        let _lock = block_io::FileLock::shared(Arc::clone(&file))
            .map_err(|error| StorageError::lock(&backing.path, error))?;
        let image = image::open_for_reading(&file, &real, format, &directories)?;
        let capacity = image.disk().capacity();
        Ok((BackingName { name: backing.path.clone(), format: format.name().to_owned() }, capacity))
    }

    fn create_logical(
        &self,
        pool: &PoolDefinition,
        definition: &VolumeDefinition,
    ) -> Result<Known, StorageError> {
        let PoolSource::Logical { volume_group, .. } = &pool.source else {
            return Err(StorageError::Unsupported("not a pool of logical volumes".into()));
        };
        if definition.target.format.is_some_and(|format| format != VolumeFormat::Raw) {
            return Err(StorageError::Unsupported("logical volumes have no format: they are raw".into()));
        }
        let Some(capacity) = definition.capacity else { return Err(no_capacity(&definition.name)) };
        let reserved = match definition.allocation {
            Preallocated::All => capacity,
            Preallocated::Bytes(bytes) => bytes.min(capacity),
        };
        let origin = match &definition.backing {
            None => None,
            Some(backing) => {
                let place = logical::path_of(volume_group, "");
                let name = Path::new(&backing.path).strip_prefix(&place).ok().and_then(Path::to_str);
                let Some(name) = name.filter(|name| logical::check_name(name).is_ok()) else {
                    let rule = format!("{:?} is no logical volume of {volume_group}", backing.path);
                    return Err(StorageError::InvalidArgument(rule));
                };
                Some(name)
            }
        };
        let name = &definition.name;
        logical::create(self.commands(), volume_group, name, whole_sectors(capacity)?, reserved, origin)?;
        self.known_logical(pool, volume_group, name)
    }

    /// The new volume as LVM tells it.
    fn known_logical(&self, pool: &PoolDefinition, group: &str, name: &str) -> Result<Known, StorageError> {
        let record = FormatRecord::open(None, uuid::Uuid::nil())?;
        let seen = crate::backend::scan(self.commands(), pool, &record)?;
        let found = seen.volumes.into_iter().find(|known| known.name == name);
        found.ok_or_else(|| StorageError::NoSuchVolume(format!("name '{name}' in the volume group {group}")))
    }

    fn copy_to_logical(
        &self,
        pool: &PoolDefinition,
        definition: &VolumeDefinition,
        source: &SourceImage,
        capacity: u64,
        progress: crate::Progress<'_>,
    ) -> Result<(Known, CloneMethod), StorageError> {
        let definition = VolumeDefinition { capacity: Some(capacity), ..definition.clone() };
        let known = self.create_logical(pool, &definition)?;
        let mut undo = UndoStack::new(format!("copy to {}", known.path.display()));
        if let PoolSource::Logical { volume_group, .. } = &pool.source {
            let (commands, group, name) = (self.commands().clone(), volume_group.clone(), known.name.clone());
            undo.push(format!("remove {}", known.path.display()), move || {
                Ok(logical::remove(&commands, &group, &name)?)
            });
        }
        let device = open_device(&known.path, OFlags::RDWR)?;
        let lock = block_io::FileLock::exclusive(Arc::new(device))
            .map_err(|error| StorageError::lock(&known.name, error))?;
        copy_to_device(source, lock.file(), &known.path, progress)?;
        undo.commit();
        Ok((known, CloneMethod::FullCopy))
    }
}

/// Clients make the document of a copy from that of its source, what the source is based on included (`virsh vol-clone`). That
/// chooses nothing: an overlay is based on its source, every other copy is independent of what its source is based on, as
/// documented for `virStorageVolCreateXMLFrom`. Another file could only be meant as a choice, which a copy does not have.
fn check_backing_of_copy(
    source: &SourceImage,
    backing: &BackingStore,
    mode: CloneMode,
) -> Result<(), StorageError> {
    let below = match (mode, source.format) {
        (CloneMode::Overlay, _) => Some(source.path.clone()),
        (_, VolumeFormat::Qcow2) => image::qcow2_info(&source.file, &source.path)?
            .backing
            .and_then(|name| resolve_backing(&source.path, &name)),
        _ => None,
    };
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if below.is_some_and(|below| real(&below) == real(Path::new(&backing.path))) {
        return Ok(());
    }
    let rule = format!(
        "the backing store {:?} is not what {} is based on: a copy can't be based on another file",
        backing.path,
        source.path.display()
    );
    Err(StorageError::InvalidArgument(rule))
}

fn no_capacity(name: &str) -> StorageError {
    StorageError::InvalidArgument(format!("the capacity of volume '{name}' is missing"))
}

fn whole_sectors(bytes: u64) -> Result<u64, StorageError> {
    bytes.checked_next_multiple_of(512).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| {
        StorageError::InvalidArgument(format!("{bytes} bytes are more than a volume can have"))
    })
}

/// Claims a name for a new volume.
fn claim_new(pool: &Pool, definition: &PoolDefinition, name: &str) -> Result<crate::jobs::Job, StorageError> {
    check_name(name)?;
    if matches!(definition.source, PoolSource::Logical { .. }) {
        logical::check_name(name)?;
    }
    let job = pool.jobs.claim(name, "create")?;
    match pool.known(name) {
        Ok(_) => Err(StorageError::VolumeExists(name.to_owned())),
        Err(StorageError::NoSuchVolume(_)) => Ok(job),
        Err(error) => Err(error),
    }
}

/// Makes a volume in a directory: `fill` makes a file of the name that it is given; then the file gets its owners and its name.
fn make_volume<T>(
    directory: &Arc<PoolDirectory>,
    name: &str,
    format: VolumeFormat,
    permissions: &Permissions,
    record: &Arc<FormatRecord>,
    fill: impl FnOnce(&str) -> Result<T, StorageError>,
) -> Result<(Known, T), StorageError> {
    let path = directory.path_of(name);
    fill_partial(directory, name, permissions, fill, |file, undo| {
        let identity = Identity::of(file).map_err(StorageError::on("look at", &path))?;
        record.remember(identity, name, format, FormatOrigin::Told)?;
        let record = Arc::clone(record);
        undo.push(format!("forget the format of {}", path.display()), move || Ok(record.forget(identity)?));
        Ok(())
    })
    .map(|value| {
        let known = Known {
            name: name.to_owned(),
            key: path.display().to_string(),
            path: path.clone(),
            kind: VolumeKind::File,
            format,
            origin: FormatOrigin::Told,
        };
        (known, value)
    })
}

/// Makes a file in a directory that has its name only when it is whole and durable. `fill` makes it, under the name that it is
/// given; `before` is called when it is whole.
pub(crate) fn fill_partial<T>(
    directory: &Arc<PoolDirectory>,
    name: &str,
    permissions: &Permissions,
    fill: impl FnOnce(&str) -> Result<T, StorageError>,
    before: impl FnOnce(&File, &mut UndoStack) -> Result<(), StorageError>,
) -> Result<T, StorageError> {
    if directory.stat(name)?.is_some() {
        return Err(StorageError::VolumeExists(name.to_owned()));
    }
    let path = directory.path_of(name);
    let partial = directory.partial_name();
    let mut undo = UndoStack::new(format!("make {}", path.display()));
    {
        let (directory, partial) = (Arc::clone(directory), partial.clone());
        undo.push(format!("remove {partial}"), move || match directory.remove(&partial) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        });
    }
    let value = fill(&partial)?;
    let file = directory.open_volume(&partial, OFlags::RDWR)?;
    let owner = permissions.owner.map(Uid::from_raw);
    let group = permissions.group.map(Gid::from_raw);
    if owner.is_some() || group.is_some() {
        rustix::fs::fchown(&file, owner, group).map_err(StorageError::on("change the owner of", &path))?;
    }
    let mode = Mode::from_raw_mode(permissions.mode.unwrap_or(VOLUME_MODE));
    rustix::fs::fchmod(&file, mode).map_err(StorageError::on("change the mode of", &path))?;
    before(&file, &mut undo)?;
    file.sync_all().map_err(|error| StorageError::system("sync", &path, error))?;
    directory.publish(&partial, name)?;
    undo.commit();
    Ok(value)
}

/// Makes an empty image of a name; messages call it `name`.
pub(crate) fn make_image(
    directory: &PoolDirectory,
    partial: &str,
    name: &str,
    spec: &ImageSpec<'_>,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    let path = directory.path_of(name);
    match spec.format {
        VolumeFormat::Raw | VolumeFormat::Iso => make_raw(directory, partial, &path, spec, progress),
        VolumeFormat::Qcow2 => {
            let parameters = parameters(spec)?;
            NewImage::Qcow2(parameters)
                .create(&directory.pinned(partial))
                .map_err(|error| StorageError::image(error, &path))?;
            if spec.preallocate_metadata {
                let file = directory.open_volume(partial, OFlags::RDWR)?;
                preallocate(&file, &path, progress)?;
            }
            Ok(())
        }
        other => {
            let rule = format!("volumes of the format {other} can't be made: use raw or qcow2");
            Err(StorageError::Unsupported(rule))
        }
    }
}

fn parameters(spec: &ImageSpec<'_>) -> Result<Qcow2Parameters, StorageError> {
    if spec.preallocate_metadata && spec.backing.is_some() {
        let rule = "a volume with a backing store can't be preallocated".to_owned();
        return Err(StorageError::Unsupported(rule));
    }
    let defaults = Qcow2Parameters::new(spec.capacity);
    Ok(Qcow2Parameters {
        cluster_bytes: spec.target.cluster_bytes.filter(|bytes| *bytes > 0).unwrap_or(defaults.cluster_bytes),
        extended_l2: spec.target.wanted_features().extended_l2,
        lazy_refcounts: spec.target.wanted_features().lazy_refcounts,
        compression: Compression::Zlib,
        backing: spec.backing.clone(),
        version: if spec.target.compatibility == Some(Compatibility::Old) { 2 } else { 3 },
        no_copy_on_write: spec.target.no_copy_on_write,
        ..defaults
    })
}

fn make_raw(
    directory: &PoolDirectory,
    partial: &str,
    path: &Path,
    spec: &ImageSpec<'_>,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    if spec.backing.is_some() {
        let rule = "a raw volume can't have a backing store: use qcow2".to_owned();
        return Err(StorageError::Unsupported(rule));
    }
    if spec.preallocate_metadata {
        let rule = "metadata preallocation is only available with qcow2".to_owned();
        return Err(StorageError::Unsupported(rule));
    }
    let file = directory.create_file(partial)?;
    if spec.target.no_copy_on_write
        && let Ok(flags) = rustix::fs::ioctl_getflags(&file)
    {
        // A wish about speed: file systems without the flag don't copy on write.
        let _ = rustix::fs::ioctl_setflags(&file, flags | IFlags::NOCOW);
    }
    rustix::fs::ftruncate(&file, spec.capacity).map_err(StorageError::on("resize", path))?;
    let bytes = match spec.allocation {
        Preallocated::All => spec.capacity,
        Preallocated::Bytes(bytes) => bytes.min(spec.capacity),
    };
    reserve(&file, path, bytes, progress)
}

/// Reserves the storage of a file's first bytes, which are zero.
pub(crate) fn reserve(
    file: &File,
    path: &Path,
    bytes: u64,
    progress: crate::Progress<'_>,
) -> Result<(), StorageError> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Ok(()) => Ok(()),
        // A file system without reservation: content has to be written.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeroes = vec![0; 1 << 20];
            let mut done = 0;
            while let Some((data, end)) =
                image::next_piece(file, done, bytes).map_err(StorageError::on("look at", path))?
            {
                while !data && done < end {
                    let length = usize::try_from(end - done).unwrap_or(zeroes.len()).min(zeroes.len());
                    std::os::unix::fs::FileExt::write_all_at(file, &zeroes[..length], done)
                        .map_err(|error| StorageError::system("reserve storage for", path, error))?;
                    done += length as u64;
                    image::advance(progress, done, bytes)?;
                }
                done = end;
            }
            Ok(())
        }
        Err(errno) => Err(StorageError::system("reserve storage for", path, errno)),
    }
}
