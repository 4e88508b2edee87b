//! The disks of a copy.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use block_io::RawOptions;
use block_io::operations::{ImageAccess, ImageFormat as Opened, OpenImage};
use guest_identity::cloud_init::{MOST_DOCUMENT_BYTES, Seed, check_host_name};
use guest_identity::renewal::{NewIdentity, Renewal, RenewalError, describe};
use libvirt_rpc::procedures::{StoragePoolLookupByName, StorageVolLookupByName};
use libvirt_rpc::types::{RemoteStoragePool, RemoteStorageVol};
use libvirt_xml::domain::Domain;
use libvirt_xml::domain::disk::{Disk, DiskSource, DiskType, ImageFormat};
use libvirt_xml::storage::{
    BackingStore, Permissions, Preallocated, VolumeDefinition, VolumeFormat, check_volume_name,
};
use serde_json::{Value, json};

use super::document::renamed_path;
use super::{Arguments, Disks};
use crate::connection::{Error, Exit};
use crate::storage_client::{REFLINK, Session, spinner};

/// Most that a seed has: two documents of the user's own, and what is around them.
const MOST_SEED_BYTES: u64 = 2 * MOST_DOCUMENT_BYTES as u64 + (1 << 20);

/// A disk that will be copied.
pub(super) struct Planned {
    /// Its place among the domain's disks.
    index: usize,
    target: String,
    volume: RemoteStorageVol,
    path: String,
    definition: VolumeDefinition,
    /// Where the copy goes.
    pool: RemoteStoragePool,
    name: String,
    directory: PathBuf,
    /// What the copy has instead of the source's content.
    content: Option<Vec<u8>>,
}

/// A disk that was copied.
pub(super) struct Copy {
    index: usize,
    target: String,
    from: String,
    path: String,
    format: Opened,
}

impl Copy {
    pub(super) fn as_json(&self) -> Value {
        json!({ "target": self.target, "source": self.from, "path": self.path })
    }
}

/// An open source with the changes that its copy gets. While it is open, nobody can write to it.
pub(super) struct Prepared {
    index: usize,
    renewal: Renewal,
    directories: Vec<PathBuf>,
    _source: OpenImage,
}

/// Decides which disks are copied, and where to.
pub(super) fn plan(
    arguments: &Arguments,
    session: &mut Session<'_>,
    source_name: &str,
    domain: &Domain,
    notes: &mut Vec<String>,
) -> Result<Vec<Planned>, Error> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut files = arguments.file.iter();
    let targets: Vec<&str> = domain.devices.disks.iter().map(|disk| disk.target.dev.as_str()).collect();
    if let Some(unknown) = arguments.force_copy.iter().find(|target| !targets.contains(&target.as_str())) {
        return Err(Error::usage(format!(
            "--force-copy: there is no disk {unknown}: the disks are {}",
            targets.join(", ")
        )));
    }
    for (index, disk) in domain.devices.disks.iter().enumerate() {
        let target = disk.target.dev.clone();
        if disk.source.is_none() {
            continue;
        }
        let forced = arguments.force_copy.contains(&target);
        let shared = !forced && (disk.is_read_only() || disk.shareable || disk.is_removable());
        let content = if shared { seed(arguments, session, domain, disk)? } else { None };
        if shared && content.is_none() {
            let kind = if disk.shareable { "shareable" } else { "read-only" };
            let which = disk.path().map_or_else(String::new, |path| format!(" ({path})"));
            notes.push(format!(
                "The {kind} disk {target}{which} is used by both domains (--force-copy {target} copies it)"
            ));
            continue;
        }
        let how = if content.is_some() { Disks::Copy } else { arguments.disks };
        let volume = volume_of(session, disk, how)?;
        let path = session.path(&volume)?;
        let definition = session.describe(&volume)?;
        let file = if content.is_none() { files.next() } else { None };
        let (pool, name) = match file {
            Some(file) => place(session, file)?,
            None => {
                let pool = session.pool_of(&volume)?;
                let taken = session.volume_names(&pool)?;
                let here = planned.iter().filter(|one| one.pool == pool).map(|one| one.name.clone());
                let taken: Vec<String> = taken.into_iter().chain(here).collect();
                let name = own_name(&definition.name, source_name, &arguments.name, &target, how, &taken);
                (pool, name)
            }
        };
        let directory = session.directory(&pool)?;
        if content.is_some() {
            notes.push(format!(
                "The cloud-init seed {target} is made anew for an instance of its own: the new machine's first start is one"
            ));
        }
        planned.push(Planned { index, target, volume, path, definition, pool, name, directory, content });
    }
    let left = files.count();
    if left > 0 {
        return Err(Error::usage(format!("--file: {left} more than there are disks to copy")));
    }
    Ok(planned)
}

/// The content of a new seed, if a disk is one that `vireo create` has made: with the same instance, cloud-init would take the copy
/// for the source.
fn seed(
    arguments: &Arguments,
    session: &mut Session<'_>,
    domain: &Domain,
    disk: &Disk,
) -> Result<Option<Vec<u8>>, Error> {
    let raw =
        disk.driver.as_ref().and_then(|driver| driver.format).is_none_or(|format| format == ImageFormat::Raw);
    if disk.shareable || disk.is_removable() || !raw {
        return Ok(None);
    }
    // Whatever can't be looked at is no reason not to copy the others.
    let Ok(volume) = volume_of(session, disk, Disks::Copy) else { return Ok(None) };
    let Ok(Some(content)) = session.content(&volume, MOST_SEED_BYTES) else { return Ok(None) };
    let own_name = Some(&arguments.name).filter(|name| check_host_name(name).is_ok());
    let host_name = arguments.hostname.as_ref().or(own_name).map(String::as_str);
    let instance = domain.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
    Seed::of_copy(&content, &instance, host_name).map_err(|error| Error::usage(error.to_string()))
}

/// The volume of a disk.
fn volume_of(session: &mut Session<'_>, disk: &Disk, how: Disks) -> Result<RemoteStorageVol, Error> {
    let source = disk.source.clone().unwrap_or_default();
    if let (DiskType::Volume, Some(pool), Some(name)) = (disk.kind, source.pool, source.volume) {
        let found = session.call(&StoragePoolLookupByName { name: pool.clone() }, || {
            format!("cannot look up the pool {pool}")
        })?;
        let call = StorageVolLookupByName { pool: found.pool, name: name.clone() };
        return Ok(session.call(&call, || format!("cannot look up the volume {name}"))?.vol);
    }
    match (disk.kind, disk.path()) {
        (DiskType::File, Some(path)) if how == Disks::Overlay && session.volume_at(path)?.is_none() => {
            // The daemon opens files below disks only where pools are: this one has to stay.
            let directory = Path::new(path).parent().unwrap_or(Path::new("/"));
            session.pool_of_directory(directory)?;
            session.volume_or_file(path)
        }
        (DiskType::File | DiskType::Block, Some(path)) => session.volume_or_file(path),
        _ => {
            let message = format!("the disk {} is neither a file, a device nor a volume", disk.target.dev);
            Err(Error::trouble(Exit::Unsupported, message, "remove it from the source first"))
        }
    }
}

/// Pool and name of a path that is to be made.
fn place(session: &mut Session<'_>, file: &str) -> Result<(RemoteStoragePool, String), Error> {
    let path = std::path::absolute(file).map_err(|error| Error::usage(format!("--file: {file}: {error}")))?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Err(Error::usage(format!("--file: {file} is not the path of a file")));
    };
    check_volume_name(name).map_err(|rule| Error::usage(format!("--file: {file}: {rule}")))?;
    if path.exists() {
        return Err(Error::usage(format!("--file: {file} is there already")));
    }
    let pool = session.reach_directory(directory)?;
    Ok((pool, name.to_owned()))
}

/// A name for the copy of a volume: the source's name in it becomes the new one's, and it is nobody else's.
fn own_name(volume: &str, source: &str, new: &str, target: &str, how: Disks, taken: &[String]) -> String {
    let (stem, suffix) = volume
        .rsplit_once('.')
        .map_or((volume, String::new()), |(stem, suffix)| (stem, format!(".{suffix}")));
    let suffix = if how == Disks::Overlay { ".qcow2".to_owned() } else { suffix };
    let stem = match renamed_path(&format!("/{stem}"), source, new) {
        Some(path) => path[1..].to_owned(),
        None => format!("{new}-{target}"),
    };
    let mut name = format!("{stem}{suffix}");
    let mut number = 1;
    while taken.contains(&name) {
        number += 1;
        name = format!("{stem}-{number}{suffix}");
    }
    name
}

/// Puts the paths of what would be copied into a document.
pub(super) fn set_foreseen(plan: &[Planned], domain: &mut Domain) {
    for one in plan {
        let path = one.directory.join(&one.name).to_string_lossy().into_owned();
        set_source(&mut domain.devices.disks[one.index], one, path);
    }
}

fn set_source(disk: &mut Disk, planned: &Planned, path: String) {
    let labels = disk.source.take().map(|source| source.labels).unwrap_or_default();
    disk.backing_store = None;
    let mut source = DiskSource { labels, ..DiskSource::default() };
    match disk.kind {
        DiskType::Volume => {
            source.pool = Some(planned.pool.name.clone());
            source.volume = Some(planned.name.clone());
        }
        DiskType::Block => source.dev = Some(path),
        _ => source.file = Some(path),
    }
    disk.source = Some(source);
}

/// Copies the disks, and puts the copies into the document.
pub(super) fn copy(
    arguments: &Arguments,
    session: &mut Session<'_>,
    plan: &[Planned],
    domain: &mut Domain,
) -> Result<Vec<Copy>, Error> {
    let mut copies = Vec::new();
    for one in plan {
        session.undo.step()?;
        if let Some(content) = &one.content {
            copies.push(write_seed(session, one, content, domain)?);
            continue;
        }
        let mut volume = VolumeDefinition::new(&one.name, one.definition.capacity.unwrap_or(0));
        volume.allocation = Preallocated::Bytes(0);
        let source_format = one.definition.target.format.unwrap_or(VolumeFormat::Raw);
        volume.target.format =
            Some(if arguments.disks == Disks::Overlay { VolumeFormat::Qcow2 } else { source_format });
        let made = match arguments.disks {
            Disks::Overlay => overlay(session, one, volume.clone(), source_format)?,
            how => {
                let flags = if how == Disks::Reflink { REFLINK } else { 0 };
                session.create_from(&one.pool, &volume, &one.volume, flags).map_err(|error| {
                    Error::daemon(format!("cannot copy the disk {} ({})", one.target, one.path), error)
                })?
            }
        };
        let path = session.path(&made)?;
        let disk = &mut domain.devices.disks[one.index];
        set_source(disk, one, path.clone());
        if arguments.disks == Disks::Overlay {
            // An overlay of a device is a file.
            if disk.kind == DiskType::Block {
                disk.kind = DiskType::File;
                disk.source = Some(DiskSource { file: Some(path.clone()), ..DiskSource::default() });
            }
            disk.driver.get_or_insert_default().format = Some(ImageFormat::Qcow2);
        }
        let format =
            if volume.target.format == Some(VolumeFormat::Qcow2) { Opened::Qcow2 } else { Opened::Raw };
        copies.push(Copy {
            index: one.index,
            target: one.target.clone(),
            from: one.path.clone(),
            path,
            format,
        });
    }
    Ok(copies)
}

fn write_seed(
    session: &mut Session<'_>,
    one: &Planned,
    content: &[u8],
    domain: &mut Domain,
) -> Result<Copy, Error> {
    let mut volume = VolumeDefinition::new(&one.name, content.len() as u64);
    volume.target.format = Some(VolumeFormat::Raw);
    let made = session.create(&one.pool, &volume)?;
    session.upload(&made, content, content.len() as u64)?;
    let path = session.path(&made)?;
    set_source(&mut domain.devices.disks[one.index], one, path.clone());
    let (target, from) = (one.target.clone(), one.path.clone());
    Ok(Copy { index: one.index, target, from, path, format: Opened::Raw })
}

fn overlay(
    session: &mut Session<'_>,
    one: &Planned,
    mut volume: VolumeDefinition,
    format: VolumeFormat,
) -> Result<RemoteStorageVol, Error> {
    volume.backing = Some(BackingStore {
        path: one.path.clone(),
        format: Some(format),
        permissions: Permissions::default(),
        timestamps: None,
    });
    session.create(&one.pool, &volume)
}

/// Copies the variables of the firmware, which are never shared.
pub(super) fn copy_nvram(
    session: &mut Session<'_>,
    source: &str,
    new: &str,
    domain: &mut Domain,
) -> Result<(), Error> {
    let Some(nvram) = &mut domain.os.nvram else { return Ok(()) };
    let in_source = nvram.source.as_ref().and_then(|source| source.file.clone());
    let Some(path) = nvram.path.clone().or(in_source) else { return Ok(()) };
    let there = session.volume_or_file(&path);
    let directory = Path::new(&path).parent().unwrap_or(Path::new("/"));
    let other = renamed_path(&path, source, new)
        .unwrap_or_else(|| directory.join(format!("{new}_VARS.fd")).to_string_lossy().into_owned());
    if let Ok(volume) = there {
        let pool = session.pool_of(&volume)?;
        let name =
            Path::new(&other).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let described = session.describe(&volume)?;
        let mut definition = VolumeDefinition::new(name, described.capacity.unwrap_or(0));
        definition.target.format = described.target.format;
        session
            .create_from(&pool, &definition, &volume, 0)
            .map_err(|error| Error::daemon(format!("cannot copy the firmware's variables {path}"), error))?;
    } else if nvram.template.is_none() && domain.os.firmware.is_none() {
        let message =
            format!("the firmware's variables {path} can't be copied, and there is no template for new ones");
        return Err(Error::trouble(
            Exit::Failed,
            message,
            "start the source once, or do it where the daemon is",
        ));
    }
    // A file that is not there yet is made from its template at the first start.
    match &mut nvram.source {
        Some(source) => source.file = Some(other),
        None => nvram.path = Some(other),
    }
    Ok(())
}

fn renewal_failed(path: &str, error: RenewalError) -> Error {
    let advice = match &error {
        RenewalError::Missing { .. } | RenewalError::Damaged { .. } => "",
        _ => "clone without --renew-identity, and renew it inside the guest",
    };
    Error::trouble(Exit::Failed, format!("cannot renew the identity on {path}: {error}"), advice)
}

fn open(path: &str, format: Opened, read_only: bool, directories: &[PathBuf]) -> Result<OpenImage, Error> {
    let file = RawOptions { read_only, ..RawOptions::default() };
    let access = ImageAccess { file, directories: directories.to_vec() };
    OpenImage::open(Path::new(path), format, &access).map_err(|error| {
        let advice = "identities are renewed by this program: it has to be able to open the disks, as the daemon's user or root is";
        Error::trouble(Exit::Failed, format!("cannot renew the identity: {error}"), advice)
    })
}

/// Prepares new identities out of the sources, if they are wanted.
pub(super) fn prepare_identity(
    arguments: &Arguments,
    session: &mut Session<'_>,
    plan: &[Planned],
) -> Result<Vec<Prepared>, Error> {
    if !arguments.renew_identity {
        return Ok(Vec::new());
    }
    let identity = NewIdentity { host_name: arguments.hostname.clone() };
    let (mut prepared, mut seen) = (Vec::new(), Vec::new());
    for one in plan.iter().filter(|one| one.content.is_none()) {
        let format = match one.definition.target.format {
            Some(VolumeFormat::Qcow2) => Opened::Qcow2,
            Some(VolumeFormat::Raw | VolumeFormat::Iso) | None => Opened::Raw,
            Some(other) => {
                seen.push(format!("{} is an image of the format {other}", one.path));
                continue;
            }
        };
        let below = one.definition.backing.as_ref().and_then(|backing| Path::new(&backing.path).parent());
        let own = Path::new(&one.path).parent();
        let directories: Vec<PathBuf> = below.into_iter().chain(own).map(Path::to_owned).collect();
        let source = open(&one.path, format, true, &directories)?;
        let shown = session
            .shown
            .then(|| spinner(&format!("looking for a root file system on {}", one.path)))
            .flatten();
        let renewal = Renewal::prepare(&source, &identity, &mut |_, _| flow(session));
        if let Some(shown) = shown {
            shown.finish_and_clear();
        }
        session.undo.step()?;
        let renewal = renewal.map_err(|error| renewal_failed(&one.path, error))?;
        if renewal.is_empty() {
            seen.push(format!("{}: {}", one.path, describe(&renewal.partitions)));
        } else {
            prepared.push(Prepared { index: one.index, renewal, directories, _source: source });
        }
    }
    if prepared.is_empty() {
        let found = if seen.is_empty() { "there is no disk to copy".to_owned() } else { seen.join("; ") };
        let message = format!("there is no Linux root file system whose identity can be renewed: {found}");
        let advice = "only ext2, ext3 and ext4 can be changed from outside: clone without --renew-identity, and renew it inside the guest";
        return Err(Error::trouble(Exit::Unsupported, message, advice));
    }
    Ok(prepared)
}

fn flow(session: &Session<'_>) -> ControlFlow<()> {
    if session.undo.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Makes the prepared changes on the copies.
pub(super) fn renew(
    session: &mut Session<'_>,
    prepared: &[Prepared],
    copies: &[Copy],
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    for one in prepared {
        let Some(copy) = copies.iter().find(|copy| copy.index == one.index) else { continue };
        let disk = open(&copy.path, copy.format, false, &one.directories)?;
        let result = one.renewal.apply(&disk, &mut |_, _| flow(session));
        session.undo.step()?;
        result.map_err(|error| renewal_failed(&copy.path, error))?;
        notes.extend(
            one.renewal.changes().into_iter().map(|change| format!("Renewed on {}, {change}", copy.target)),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_called_as_the_new_domain_and_as_nobody_else() {
        let name = |volume: &str, how, taken: &[&str]| {
            let taken: Vec<String> = taken.iter().map(|name| (*name).to_owned()).collect();
            own_name(volume, "web", "new", "vda", how, &taken)
        };
        assert_eq!(name("web.qcow2", Disks::Copy, &[]), "new.qcow2");
        assert_eq!(name("web.img", Disks::Overlay, &[]), "new.qcow2");
        assert_eq!(name("web-data.img", Disks::Copy, &["new-data.img"]), "new-data-2.img");
        assert_eq!(name("disk", Disks::Reflink, &[]), "new-vda");
        assert_eq!(name("website.img", Disks::Copy, &[]), "new-vda.img");
    }
}
