//! `vireo delete`: a domain goes, and the volumes that are its own: virsh's `undefine --remove-all-storage`, with more care.
//!
//! A volume is its own when nobody else uses it: no other domain, as a disk or below one, and no other volume of a running pool that is
//! based on it. Read-only and shareable disks and media of drives are somebody else's unless `--remove-all-storage` says otherwise; the seed
//! that `vireo create` made is its own. The definition goes first: when that can't be, nothing is lost.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{
    ConnectListAllDomains, ConnectListAllStoragePools, DomainDestroy, DomainGetXmlDesc, DomainUndefineFlags,
    StoragePoolListAllVolumes, StorageVolDelete,
};
use libvirt_rpc::types::{RemoteDomain, RemoteStorageVol};
use libvirt_xml::Element;
use serde_json::json;

use crate::completions_command::domains;
use crate::connection::{EXIT_CODES, Error, Exit, Options, connect, find_domain};
use crate::output::{harmless, print, print_json};
use crate::storage_client::{Session, same};
use crate::undo::Undo;

/// VIR_DOMAIN_XML_INACTIVE: as it is defined.
const INACTIVE: u32 = 2;
/// VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE.
const ACTIVE_POOLS: u32 = 2;
/// What goes with a definition (virDomainUndefineFlagsValues): its saved state, what is known of snapshots.
const WITH_STATE: u32 = 1 | 2;
/// The variables of its firmware go, or stay.
const NVRAM: u32 = 4;
const KEEP_NVRAM: u32 = 8;

/// Remove a domain, and the disks that nobody else uses.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The domain: its name, UUID or number
    #[arg(value_name = "DOMAIN", add = ArgValueCompleter::new(domains))]
    domain: String,
    /// Keep all disks
    #[arg(long, conflicts_with = "remove_all_storage")]
    keep_disks: bool,
    /// Remove read-only and shareable disks and media of drives too, unless somebody else uses them
    #[arg(long)]
    remove_all_storage: bool,
    /// Stop it at once if it runs
    #[arg(short, long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// What a document says of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct DiskUse {
    target: String,
    /// `disk`, `cdrom`, …
    device: String,
    source: Option<Source>,
    read_only: bool,
    shareable: bool,
    /// Everything below it.
    below: Vec<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Path(String),
    Volume { pool: String, name: String },
}

/// Volumes that go, and disks that stay and why.
#[derive(Debug, Default)]
struct Storage {
    goes: Vec<(RemoteStorageVol, String)>,
    stays: Vec<(String, String)>,
}

/// Removes it.
pub(crate) fn run(arguments: &Arguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let mut undo = Undo::new()?;
    let mut session = Session { connection: &mut connection, undo: &mut undo, shown: !options.json };
    let domain = find_domain(session.connection, &arguments.domain)?;
    if domain.id >= 0 && !arguments.force {
        let message = format!("domain {} is running", domain.name);
        let advice = "shut it down first, or stop it at once with --force";
        return Err(Error::trouble(Exit::WrongState, message, advice));
    }
    let storage = if arguments.keep_disks {
        Storage::default()
    } else {
        own_storage(arguments, &mut session, &domain)?
    };
    if !arguments.yes && !options.json && std::io::stdin().is_terminal() && !asked(&domain, &storage)? {
        eprintln!("nothing was done");
        return Ok(ExitCode::FAILURE);
    }
    let done = remove(arguments, &mut session, &domain, storage);
    let (removed, kept, failed) = match undo.end(&mut connection, done, true)? {
        Ok(done) => done,
        Err(code) => return Ok(code),
    };
    if options.json {
        let kept: Vec<_> = kept.iter().map(|(path, why)| json!({ "path": path, "reason": why })).collect();
        let failed: Vec<_> =
            failed.iter().map(|(path, why)| json!({ "path": path, "reason": why })).collect();
        print_json(&json!({
            "domain": { "name": domain.name, "uuid": domain.uuid.to_string() },
            "done": "deleted", "removed": removed, "kept": kept, "failed": failed,
        }))?;
    } else {
        for path in &removed {
            print(&format!("Removed {}\n", harmless(path)))?;
        }
        for (path, why) in &kept {
            print(&format!("Kept {}: {}\n", harmless(path), harmless(why)))?;
        }
        for (path, why) in &failed {
            eprintln!("cannot remove {}: {}", harmless(path), harmless(why));
        }
        print(&format!("Domain '{}' deleted\n", harmless(&domain.name)))?;
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Outcome = (Vec<String>, Vec<(String, String)>, Vec<(String, String)>);

fn remove(
    arguments: &Arguments,
    session: &mut Session<'_>,
    domain: &RemoteDomain,
    storage: Storage,
) -> Result<Outcome, Error> {
    if domain.id >= 0 {
        session
            .call(&DomainDestroy { dom: domain.clone() }, || format!("cannot stop domain {}", domain.name))?;
    }
    let nvram = if arguments.keep_disks { KEEP_NVRAM } else { NVRAM };
    // A domain that was only running is gone with its process.
    let gone = domain.id >= 0 && find_domain(session.connection, &domain.uuid.to_string()).is_err();
    if !gone {
        let call = DomainUndefineFlags { dom: domain.clone(), flags: WITH_STATE | nvram };
        session.call(&call, || format!("cannot undefine domain {}", domain.name))?;
    }
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for (vol, path) in storage.goes {
        match session.connection.call(&StorageVolDelete { vol, flags: 0 }) {
            Ok(()) => removed.push(path),
            Err(error) => failed.push((path, error.to_string())),
        }
    }
    Ok((removed, storage.stays, failed))
}

/// Asks the person who is there.
fn asked(domain: &RemoteDomain, storage: &Storage) -> Result<bool, Error> {
    let mut text = format!("Domain '{}' is deleted", harmless(&domain.name));
    if domain.id >= 0 {
        text += ", although it runs";
    }
    for (_, path) in &storage.goes {
        text += &format!("\n  with {}", harmless(path));
    }
    print(&format!("{text}\nGo on? [y/N] "))?;
    let failed = |error| anyhow::anyhow!("cannot ask: {error}");
    std::io::stdout().flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Finds out which disks go and which stay.
fn own_storage(
    arguments: &Arguments,
    session: &mut Session<'_>,
    domain: &RemoteDomain,
) -> Result<Storage, Error> {
    let disks = disks_of(session.connection, domain)?;
    let mut storage = Storage::default();
    let wanted: Vec<&DiskUse> = disks.iter().filter(|disk| disk.source.is_some()).collect();
    if wanted.is_empty() {
        return Ok(storage);
    }
    let mut others = Vec::new();
    let listed = session.call(&ConnectListAllDomains { need_results: 1, flags: 0 }, || {
        "cannot list the domains".to_owned()
    })?;
    for other in listed.domains.into_iter().filter(|other| other.uuid != domain.uuid) {
        let Ok(uses) = disks_of(session.connection, &other) else {
            let message = format!("cannot find out which disks domain {} uses", other.name);
            return Err(Error::trouble(
                Exit::Failed,
                message,
                "use --keep-disks, and remove the disks yourself",
            ));
        };
        for source in uses.into_iter().flat_map(|disk| disk.source.into_iter().chain(disk.below)) {
            others.push((other.name.clone(), source));
        }
    }
    let based = bases(session)?;
    let mut seen = BTreeSet::new();
    for disk in wanted {
        let Some(source) = &disk.source else { continue };
        if !seen.insert(source.clone()) {
            continue;
        }
        let (volume, path) = match find_volume(session, source)? {
            (Some(volume), path) => (volume, path),
            (None, path) => {
                storage.stays.push((path, "no running storage pool has it".to_owned()));
                continue;
            }
        };
        let seed = volume.name == format!("{}-seed.iso", domain.name);
        let kind = match disk.device.as_str() {
            "cdrom" | "floppy" => Some("a medium of a drive"),
            _ if disk.shareable => Some("a shareable disk"),
            _ if disk.read_only && !seed => Some("a read-only disk"),
            _ => None,
        };
        if let Some(kind) = kind.filter(|_| !arguments.remove_all_storage) {
            storage
                .stays
                .push((path, format!("{kind} may be somebody else's (--remove-all-storage removes it)")));
            continue;
        }
        let used = others.iter().find(|(_, other)| match other {
            Source::Path(other) => same(Path::new(other), Path::new(&path)),
            Source::Volume { pool, name } => *pool == volume.pool && *name == volume.name,
        });
        if let Some((user, _)) = used {
            storage.stays.push((path, format!("domain {user} uses it")));
        } else if let Some((user, _)) = based.iter().find(|(_, base)| same(Path::new(base), Path::new(&path)))
        {
            storage.stays.push((path, format!("{user} is based on it")));
        } else {
            storage.goes.push((volume, path));
        }
    }
    // What is based on another one that goes as well goes first.
    storage.goes.sort_by_key(|(_, path)| !based.iter().any(|(user, _)| user == path));
    Ok(storage)
}

/// The volume of a source, and its path.
fn find_volume(
    session: &mut Session<'_>,
    source: &Source,
) -> Result<(Option<RemoteStorageVol>, String), Error> {
    match source {
        Source::Path(path) => Ok((session.volume_at(path)?, path.clone())),
        Source::Volume { pool, name } => {
            let call = libvirt_rpc::procedures::StoragePoolLookupByName { name: pool.clone() };
            let pool = session.call(&call, || format!("cannot look up the pool {pool}"))?.pool;
            let call = libvirt_rpc::procedures::StorageVolLookupByName { pool, name: name.clone() };
            let volume = session.call(&call, || format!("cannot look up the volume {name}"))?.vol;
            let path = session.path(&volume)?;
            Ok((Some(volume), path))
        }
    }
}

/// Which volumes of running pools are based on what: their paths, and the paths below them.
fn bases(session: &mut Session<'_>) -> Result<Vec<(String, String)>, Error> {
    let call = ConnectListAllStoragePools { need_results: 1, flags: ACTIVE_POOLS };
    let pools = session.call(&call, || "cannot list the pools".to_owned())?.pools;
    let mut found = Vec::new();
    for pool in pools {
        // A pool or volume that has just gone is based on nothing.
        let call = StoragePoolListAllVolumes { pool, need_results: 1, flags: 0 };
        let Ok(listed) = session.connection.call(&call) else { continue };
        for volume in listed.vols {
            let Ok(described) = session.describe(&volume) else { continue };
            if let (Some(backing), Some(own)) = (described.backing, described.target.path) {
                found.push((own, backing.path));
            }
        }
    }
    Ok(found)
}

/// The disks of a domain's definition, and of the running machine where that is another.
fn disks_of(connection: &mut Connection, domain: &RemoteDomain) -> Result<Vec<DiskUse>, Error> {
    let mut found = Vec::new();
    let documents: &[u32] = if domain.id >= 0 { &[INACTIVE, 0] } else { &[INACTIVE] };
    for flags in documents {
        let call = DomainGetXmlDesc { dom: domain.clone(), flags: *flags };
        let action = || format!("cannot look at domain {}", domain.name);
        let reply = connection.call(&call).map_err(|error| Error::daemon(action(), error))?;
        let root = libvirt_xml::parse(&reply.xml)
            .map_err(|error| Error::trouble(Exit::Failed, format!("{}: {error}", action()), ""))?;
        for disk in disk_uses(&root) {
            if !found.contains(&disk) {
                found.push(disk);
            }
        }
    }
    Ok(found)
}

/// The disks in a document. Read from the tree and not by the model: documents of other daemons may have more than that knows, and a
/// disk that is overlooked would be lost.
fn disk_uses(root: &Element) -> Vec<DiskUse> {
    let disks = root.first("devices").into_iter().flat_map(Element::children);
    disks.filter(|child| child.name == "disk").map(disk_use).collect()
}

fn disk_use(disk: &Element) -> DiskUse {
    let mut below = Vec::new();
    let mut next = disk.first("backingStore");
    while let Some(store) = next {
        below.extend(store.first("source").and_then(source));
        next = store.first("backingStore");
    }
    let target = disk.first("target").and_then(|target| target.attribute("dev"));
    DiskUse {
        target: target.unwrap_or_default().to_owned(),
        device: disk.attribute("device").unwrap_or("disk").to_owned(),
        source: disk.first("source").and_then(source),
        read_only: disk.first("readonly").is_some(),
        shareable: disk.first("shareable").is_some(),
        below,
    }
}

fn source(element: &Element) -> Option<Source> {
    if let (Some(pool), Some(name)) = (element.attribute("pool"), element.attribute("volume")) {
        return Some(Source::Volume { pool: pool.to_owned(), name: name.to_owned() });
    }
    let path = element.attribute("file").or_else(|| element.attribute("dev"))?;
    Some(Source::Path(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_in_documents_that_no_model_knows() {
        let root = libvirt_xml::parse(
            "<domain type='new'><devices><disk type='file' device='cdrom'><target dev='sda'/></disk>
             <disk type='file'><source file='/a'/><target dev='vda'/><backingStore type='file'><source file='/b'/>
             <backingStore type='file'><source file='/c'/></backingStore></backingStore><unknown/></disk>
             <disk type='volume'><source pool='p' volume='v'/><target dev='vdb'/><readonly/><shareable/></disk>
             <disk type='network'><source protocol='rbd' name='x'/><target dev='vdc'/></disk></devices></domain>",
        )
        .unwrap();
        let disks = disk_uses(&root);
        assert_eq!(disks.len(), 4);
        assert_eq!((disks[0].device.as_str(), &disks[0].source), ("cdrom", &None));
        assert_eq!(disks[1].source, Some(Source::Path("/a".into())));
        assert_eq!(disks[1].below, [Source::Path("/b".into()), Source::Path("/c".into())]);
        assert_eq!(disks[2].source, Some(Source::Volume { pool: "p".into(), name: "v".into() }));
        assert!(disks[2].read_only && disks[2].shareable && disks[3].source.is_none());
    }
}
