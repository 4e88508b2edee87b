//! `vireo volume`.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::procedures::{
    StoragePoolListAllVolumes, StorageVolDelete, StorageVolGetInfo, StorageVolGetPath,
    StorageVolLookupByName, StorageVolResize,
};
use libvirt_rpc::types::RemoteStorageVol;
use libvirt_xml::storage::{Preallocated, VolumeDefinition, VolumeFormat, check_volume_name};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::answer;
use crate::completions_command::pools;
use crate::connection::{Error, Options};
use crate::image_command::size;
use crate::output::{harmless, print, print_json, readable};
use crate::storage_client::{REFLINK, Session, find_pool, is, work};
use crate::table::Table;

/// virStorageVolResizeFlags: make it smaller.
const SHRINK: u32 = 4;
/// Formats of new volumes, by virsh's names.
const FORMATS: [&str; 2] = ["raw", "qcow2"];

/// List the volumes of a pool
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// The pool
    #[arg(value_name = "POOL", default_value = "default", add = ArgValueCompleter::new(pools))]
    pool: String,
    /// Show kinds and sizes as well
    #[arg(long)]
    details: bool,
}

/// Show a volume's sizes
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    #[command(flatten)]
    volume: VolumeArgument,
    /// Sizes in bytes
    #[arg(long)]
    bytes: bool,
}

/// Make an empty volume
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The pool
    #[arg(value_name = "POOL", add = ArgValueCompleter::new(pools))]
    pool: String,
    /// The new volume's name
    #[arg(value_name = "NAME")]
    name: String,
    /// Its size, in bytes or with one of the suffixes k, M, G, T
    #[arg(value_name = "CAPACITY", value_parser = size)]
    capacity: u64,
    /// Storage that it takes at once [default: none for what is not written]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    allocation: Option<u64>,
    /// Format of the image
    #[arg(long, value_name = "FORMAT", default_value = "raw", value_parser = FORMATS)]
    format: String,
}

/// Remove a volume and what is on it
#[derive(Debug, Args)]
pub(crate) struct DeleteArguments {
    #[command(flatten)]
    volume: VolumeArgument,
}

/// Make a volume larger, or smaller
#[derive(Debug, Args)]
pub(crate) struct ResizeArguments {
    #[command(flatten)]
    volume: VolumeArgument,
    /// Its new size, in bytes or with one of the suffixes k, M, G, T
    #[arg(value_name = "CAPACITY", value_parser = size)]
    capacity: u64,
    /// Let it become smaller: what is beyond the new end is lost
    #[arg(long)]
    shrink: bool,
}

/// Make a volume with the content of another, in the same pool
#[derive(Debug, Args)]
pub(crate) struct CloneArguments {
    #[command(flatten)]
    volume: VolumeArgument,
    /// The new volume's name
    #[arg(value_name = "NEW")]
    name: String,
    /// Share storage until one of them is written: the file system has to know how
    #[arg(long)]
    reflink: bool,
}

/// Write a file's content into a volume
#[derive(Debug, Args)]
pub(crate) struct UploadArguments {
    #[command(flatten)]
    volume: VolumeArgument,
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Write a volume's content into a file
#[derive(Debug, Args)]
pub(crate) struct DownloadArguments {
    #[command(flatten)]
    volume: VolumeArgument,
    /// The file, which is made or written anew
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct VolumeArgument {
    /// The volume: its name in the pool, or its path
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// The pool in which the name is
    #[arg(long, value_name = "POOL", default_value = "default", add = ArgValueCompleter::new(pools))]
    pool: String,
}

impl VolumeArgument {
    fn find(&self, session: &mut Session<'_>) -> Result<RemoteStorageVol, Error> {
        let given = &self.volume;
        if given.starts_with('/') {
            return session.volume_at(given)?.ok_or_else(|| Error::no_such("volume", given, Vec::new()));
        }
        let pool = find_pool(session.connection, &self.pool)?;
        let by_name = StorageVolLookupByName { pool: pool.clone(), name: given.clone() };
        match session.connection.call(&by_name) {
            Ok(reply) => Ok(reply.vol),
            Err(error) if is(&error, &[ErrorCode::NoStorageVolume]) => {
                let names = session.volume_names(&pool).unwrap_or_default();
                Err(Error::no_such("volume", given, names))
            }
            Err(error) => Err(Error::daemon(format!("cannot look up the volume {given}"), error)),
        }
    }
}

/// virsh's word for a virStorageVolType.
fn kind(number: i8) -> &'static str {
    match number {
        0 => "file",
        1 => "block",
        2 => "dir",
        3 => "network",
        4 => "net-dir",
        5 => "ploop",
        _ => "unknown",
    }
}

/// What is known of a volume.
struct Known {
    volume: RemoteStorageVol,
    path: String,
    kind: &'static str,
    capacity: u64,
    allocation: u64,
}

impl Known {
    fn ask(session: &mut Session<'_>, volume: RemoteStorageVol) -> Result<Self, Error> {
        let action = || format!("cannot look at the volume {}", volume.name);
        let info = session.call(&StorageVolGetInfo { vol: volume.clone() }, action)?;
        let path = session.call(&StorageVolGetPath { vol: volume.clone() }, action)?.name;
        let (capacity, allocation) = (info.capacity, info.allocation);
        Ok(Self { volume, path, kind: kind(info.kind), capacity, allocation })
    }

    fn as_json(&self) -> Value {
        json!({
            "name": self.volume.name, "pool": self.volume.pool, "key": self.volume.key, "path": self.path,
            "type": self.kind, "capacity": self.capacity, "allocation": self.allocation,
        })
    }
}

/// What a verb prints when it was not interrupted.
fn done<T>(
    worked: Result<T, ExitCode>,
    tell: impl FnOnce(T) -> Result<ExitCode, Error>,
) -> Result<ExitCode, Error> {
    match worked {
        Ok(value) => tell(value),
        Err(code) => Ok(code),
    }
}

/// Prints the list.
pub(super) fn list(arguments: &ListArguments, options: &Options) -> Result<ExitCode, Error> {
    let listed = work(options, |session| {
        let pool = find_pool(session.connection, &arguments.pool)?;
        let all = StoragePoolListAllVolumes { pool: pool.clone(), need_results: 1, flags: 0 };
        let mut volumes = session.call(&all, || format!("cannot list the volumes of {}", pool.name))?.vols;
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        let mut known = Vec::new();
        for volume in volumes {
            session.undo.step()?;
            match Known::ask(session, volume) {
                Ok(one) => known.push(one),
                // It has gone meanwhile.
                Err(error) if error.exit() == crate::connection::Exit::NoSuchObject => {}
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    })?;
    done(listed, |known| {
        if options.json {
            let all: Vec<_> = known.iter().map(Known::as_json).collect();
            print_json(&json!({ "pool": arguments.pool, "volumes": all }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut heading = vec!["Name", "Path"];
        if arguments.details {
            heading.extend(["Type", "Capacity", "Allocation"]);
        }
        let mut table = Table::new(&heading);
        for one in &known {
            let mut row = vec![one.volume.name.as_str().into(), one.path.as_str().into()];
            if arguments.details {
                row.push(one.kind.into());
                row.extend([one.capacity, one.allocation].map(|bytes| readable(bytes).into()));
            }
            table.row(row);
        }
        print(&table.text(false))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints what is known of a volume.
pub(super) fn info(arguments: &InfoArguments, options: &Options) -> Result<ExitCode, Error> {
    let known = work(options, |session| {
        let volume = arguments.volume.find(session)?;
        Known::ask(session, volume)
    })?;
    done(known, |known| {
        if options.json {
            print_json(&known.as_json())?;
            return Ok(ExitCode::SUCCESS);
        }
        let size = |bytes: u64| if arguments.bytes { bytes.to_string() } else { readable(bytes) };
        let mut text = String::new();
        for (name, value) in [
            ("Name:", known.volume.name.clone()),
            ("Type:", known.kind.to_owned()),
            ("Capacity:", size(known.capacity)),
            ("Allocation:", size(known.allocation)),
        ] {
            text.push_str(&format!("{name:<16}{}\n", harmless(&value)));
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Makes a volume.
pub(super) fn create(arguments: &CreateArguments, options: &Options) -> Result<ExitCode, Error> {
    let CreateArguments { pool, name, capacity, allocation, format } = arguments;
    check_volume_name(name).map_err(|rule| Error::usage(format!("{name}: {rule}")))?;
    let mut volume = VolumeDefinition::new(name, *capacity);
    volume.allocation = Preallocated::Bytes(allocation.unwrap_or(0));
    volume.target.format = Some(if format == "qcow2" { VolumeFormat::Qcow2 } else { VolumeFormat::Raw });
    let made = work(options, |session| {
        let pool = find_pool(session.connection, pool)?;
        session.create(&pool, &volume)
    })?;
    done(made, |made| answer(options, "volume", &made.name, "created"))
}

/// Removes a volume.
pub(super) fn delete(arguments: &DeleteArguments, options: &Options) -> Result<ExitCode, Error> {
    let gone = work(options, |session| {
        let volume = arguments.volume.find(session)?;
        let action = || format!("cannot delete the volume {}", volume.name);
        session.call(&StorageVolDelete { vol: volume.clone(), flags: 0 }, action)?;
        Ok(volume.name)
    })?;
    done(gone, |name| answer(options, "volume", &name, "deleted"))
}

/// Changes a volume's size.
pub(super) fn resize(arguments: &ResizeArguments, options: &Options) -> Result<ExitCode, Error> {
    let resized = work(options, |session| {
        let volume = arguments.volume.find(session)?;
        let flags = if arguments.shrink { SHRINK } else { 0 };
        let call = StorageVolResize { vol: volume.clone(), capacity: arguments.capacity, flags };
        session.call(&call, || format!("cannot resize the volume {}", volume.name))?;
        Ok(volume.name)
    })?;
    done(resized, |name| answer(options, "volume", &name, "resized"))
}

/// Copies a volume.
pub(super) fn clone(arguments: &CloneArguments, options: &Options) -> Result<ExitCode, Error> {
    let name = &arguments.name;
    check_volume_name(name).map_err(|rule| Error::usage(format!("{name}: {rule}")))?;
    let made = work(options, |session| {
        let source = arguments.volume.find(session)?;
        let pool = session.pool_of(&source)?;
        let described = session.describe(&source)?;
        let mut volume = VolumeDefinition::new(name, described.capacity.unwrap_or(0));
        volume.allocation = Preallocated::Bytes(0);
        volume.target.format = described.target.format;
        let flags = if arguments.reflink { REFLINK } else { 0 };
        session
            .create_from(&pool, &volume, &source, flags)
            .map_err(|error| Error::daemon(format!("cannot copy the volume {}", source.name), error))
    })?;
    done(made, |made| answer(options, "volume", &made.name, "cloned"))
}

/// Fills a volume.
pub(super) fn upload(arguments: &UploadArguments, options: &Options) -> Result<ExitCode, Error> {
    let path = &arguments.file;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    if !metadata.is_file() {
        return Err(Error::usage(format!("{} is not a regular file", path.display())));
    }
    let sent = work(options, |session| {
        let volume = arguments.volume.find(session)?;
        session.upload(&volume, file, metadata.len())?;
        Ok(volume.name)
    })?;
    done(sent, |name| answer(options, "volume", &name, "uploaded"))
}

/// Fetches a volume's content.
pub(super) fn download(arguments: &DownloadArguments, options: &Options) -> Result<ExitCode, Error> {
    let path = &arguments.file;
    let fetched = work(options, |session| {
        let volume = arguments.volume.find(session)?;
        // Not before it is known that there is something to write.
        match Target::of(path)? {
            Target::Beside(mut file, path) => {
                session.download(&volume, &mut file)?;
                file.persist(&path).with_context(|| format!("cannot make {}", path.display()))?;
            }
            Target::Directly(mut file) => session.download(&volume, &mut file)?,
        }
        Ok(volume.name)
    })?;
    done(fetched, |name| answer(options, "volume", &name, "downloaded"))
}

/// Where what is fetched goes.
enum Target {
    /// A file that becomes the one at the path when it is whole: until then, what is there stays.
    Beside(NamedTempFile, PathBuf),
    /// A device, a pipe or the like.
    Directly(File),
}

impl Target {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot make {}", path.display());
        let there = match std::fs::metadata(path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(anyhow::Error::from(error).context(failed())),
        };
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Ok(Self::Directly(File::create(path).with_context(failed)?));
        }
        // A link stays one: what it leads to is replaced.
        let path = if there.is_some() { path.canonicalize().with_context(failed)? } else { path.to_owned() };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // As open(2) makes files: what others may do with it is a matter of the umask.
        let mode = there.as_ref().map_or(0o666, |there| there.permissions().mode() & 0o7777);
        let mut file = tempfile::Builder::new();
        let file = file.prefix(".vireo-download-").permissions(Permissions::from_mode(mode));
        let file = file.tempfile_in(directory.unwrap_or(Path::new("."))).with_context(failed)?;
        if let Some(there) = there {
            // Its owner as it was, where this user may do that; without the umask's opinion.
            let _ = std::os::unix::fs::fchown(file.as_file(), Some(there.uid()), Some(there.gid()));
            file.as_file().set_permissions(Permissions::from_mode(mode)).with_context(failed)?;
        }
        Ok(Self::Beside(file, path))
    }
}
