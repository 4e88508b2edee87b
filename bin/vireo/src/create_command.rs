//! `vireo create`: a machine from nothing but words: its disk, its interface, its cloud-init seed and its definition, and its start.
//!
//! Everything is done by the daemon, over libvirt's protocol, so that any daemon of libvirt's does as well. A step that fails takes back
//! the ones before it, unless `--keep-on-failure` is given. The domain's document is built from `libvirt_xml`'s models (`document`),
//! the disk from an image or empty (`disk`), the seed by `guest_identity` (`seed`).

mod arguments;
mod disk;
mod document;
mod seed;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use libvirt_rpc::ErrorCode;
use libvirt_rpc::procedures::{
    ConnectGetCapabilities, DomainCreate, DomainCreateWithFlags, DomainDefineXml, DomainLookupByName,
    DomainSetAutostart,
};
use libvirt_rpc::types::RemoteDomain;
use serde_json::json;

use arguments::NetworkChoice;
pub(crate) use arguments::{Arguments, check_name, interface_name, mac};
use document::{DiskFile, Nic, Plan};

use crate::connection::{Error, Exit, Options, connect};
use crate::network_command::{find_network, is_active};
use crate::output::{harmless, print, print_json};
use crate::storage_client::{Session, is};
use crate::undo::{Made, Undo};

/// VIR_DOMAIN_START_PAUSED.
const START_PAUSED: u32 = 1;

/// What was made.
struct Created {
    domain: RemoteDomain,
    disks: Vec<DiskFile>,
    notes: Vec<String>,
}

/// Makes the machine.
pub(crate) fn run(arguments: &Arguments, options: &Options) -> Result<ExitCode, Error> {
    arguments.check()?;
    let mut connection = connect(options)?;
    let mut undo = Undo::new()?;
    let mut session = Session { connection: &mut connection, undo: &mut undo, shown: !options.json };
    if arguments.print_xml {
        let document = print_only(arguments, &mut session);
        if let Ok(document) = undo.end(&mut connection, document, false)? {
            print(&format!("{document}\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let created = create(arguments, &mut session);
    let created = match undo.end(&mut connection, created, arguments.keep_on_failure)? {
        Ok(created) => created,
        Err(code) => return Ok(code),
    };
    let done = match (arguments.no_start, arguments.paused) {
        (true, _) => "defined",
        (false, true) => "created and started paused",
        (false, false) => "created and started",
    };
    if options.json {
        let disks: Vec<_> = created.disks.iter().map(DiskFile::as_json).collect();
        print_json(&json!({
            "domain": { "name": created.domain.name, "uuid": created.domain.uuid.to_string() },
            "done": done, "disks": disks, "notes": created.notes,
        }))?;
    } else {
        for note in &created.notes {
            eprintln!("{}", harmless(note));
        }
        print(&format!("Domain '{}' {done}\n", harmless(&created.domain.name)))?;
    }
    if arguments.console { attach(&created.domain, options) } else { Ok(ExitCode::SUCCESS) }
}

/// The document as it would be, without making anything.
fn print_only(arguments: &Arguments, session: &mut Session<'_>) -> Result<String, Error> {
    let mut notes = Vec::new();
    let uuid = uuid::Uuid::new_v4();
    let nic = nic(arguments, session, &mut notes)?;
    let seed = seed::volume(arguments, &uuid.to_string(), nic.is_some())?;
    let mut disks = disk::foreseen(arguments, session)?;
    if seed.is_some() {
        disks.push(disk::foreseen_seed(arguments, session)?);
    }
    let kvm = has_kvm(session)?;
    for note in notes {
        eprintln!("{}", harmless(&note));
    }
    Ok(document::build(&Plan { arguments, uuid, disks: &disks, nic: nic.as_ref(), kvm }).to_xml())
}

fn create(arguments: &Arguments, session: &mut Session<'_>) -> Result<Created, Error> {
    let name = &arguments.name;
    match session.connection.call(&DomainLookupByName { name: name.clone() }) {
        Ok(_) => {
            let message = format!("there is a domain {name:?} already");
            let advice = "choose another name, or remove it first: `vireo delete` does";
            return Err(Error::trouble(Exit::Failed, message, advice));
        }
        Err(error) if is(&error, &[ErrorCode::NoDomain]) => {}
        Err(error) => return Err(Error::daemon(format!("cannot look up domain {name}"), error)),
    }
    let mut notes = Vec::new();
    let uuid = uuid::Uuid::new_v4();
    // What can be wrong without anything being made comes first.
    let nic = nic(arguments, session, &mut notes)?;
    let seed = seed::volume(arguments, &uuid.to_string(), nic.is_some())?;
    let kvm = has_kvm(session)?;
    let mut disks = disk::make(arguments, session, &mut notes)?;
    if let Some(content) = seed {
        disks.push(disk::make_seed(arguments, session, &content)?);
    }
    session.undo.step()?;
    let xml = document::build(&Plan { arguments, uuid, disks: &disks, nic: nic.as_ref(), kvm }).to_xml();
    let domain = session.call(&DomainDefineXml { xml }, || format!("cannot define domain {name}"))?.dom;
    session.undo.push(Made::Domain(domain.clone()));
    if arguments.autostart {
        let call = DomainSetAutostart { dom: domain.clone(), autostart: 1 };
        session.call(&call, || format!("cannot have domain {name} started with the host"))?;
    }
    session.undo.step()?;
    if !arguments.no_start {
        start(arguments, session, &domain)?;
    }
    if matches!(nic, Some(Nic::Network(_))) && !arguments.console {
        notes.push(format!("Its address, when it has one: vireo wait {name} --address"));
    }
    Ok(Created { domain, disks, notes })
}

fn start(arguments: &Arguments, session: &mut Session<'_>, domain: &RemoteDomain) -> Result<(), Error> {
    let dom = domain.clone();
    let result = if arguments.paused {
        session.connection.call(&DomainCreateWithFlags { dom, flags: START_PAUSED }).map(|_| ())
    } else {
        session.connection.call(&DomainCreate { dom })
    };
    match result {
        Ok(()) => {
            session.undo.push(Made::Running(domain.clone()));
            Ok(())
        }
        Err(error) if arguments.kernel.is_none() && is(&error, &[ErrorCode::ConfigUnsupported]) => {
            let message = format!("cannot start domain {}: {error}", arguments.name);
            let advice =
                "without firmware a machine boots a kernel: give it with --kernel, or use --no-start";
            Err(Error::trouble(Exit::Unsupported, message, advice))
        }
        Err(error) => Err(Error::daemon(format!("cannot start domain {}", arguments.name), error)),
    }
}

/// The interface that the machine gets.
fn nic(
    arguments: &Arguments,
    session: &mut Session<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<Nic>, Error> {
    let network = match &arguments.network {
        Some(NetworkChoice::None) => return Ok(None),
        Some(NetworkChoice::Bridge(name)) => return Ok(Some(Nic::Bridge(name.clone()))),
        Some(NetworkChoice::Tap(name)) => return Ok(Some(Nic::Tap(name.clone()))),
        Some(NetworkChoice::User(forwards)) => return Ok(Some(Nic::User(forwards.clone()))),
        Some(NetworkChoice::Network(name)) => Some(name.clone()),
        None => None,
    };
    let name = network.clone().unwrap_or_else(|| "default".to_owned());
    let found = match find_network(session.connection, &name) {
        Ok(found) => found,
        Err(error) if network.is_none() && error.exit() == Exit::Unsupported => {
            notes.push(
                "This daemon has no networks: the machine has no network interface (--network bridge=NAME or tap=NAME \
                 gives it one)"
                    .to_owned(),
            );
            return Ok(None);
        }
        Err(Error::NoSuch { .. }) if network.is_none() => {
            notes.push(
                "There is no network \"default\": the machine has no network interface (--network names another)".to_owned(),
            );
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // A start without it would fail, after everything has been made.
    if !arguments.no_start && !arguments.print_xml && !is_active(session.connection, &found)? {
        let message = format!("the network {} is not active", found.name);
        let advice = format!("start it (`vireo network start {}`), or use --no-start", found.name);
        return Err(Error::trouble(Exit::WrongState, message, &advice));
    }
    Ok(Some(Nic::Network(found.name)))
}

/// Whether the daemon's machines run on KVM; others are emulated.
fn has_kvm(session: &mut Session<'_>) -> Result<bool, Error> {
    let reply =
        session.call(&ConnectGetCapabilities {}, || "cannot learn what the host can do".to_owned())?;
    let Ok(root) = libvirt_xml::parse(&reply.capabilities) else { return Ok(true) };
    let guests = root.children().filter(|child| child.name == "guest");
    let domains = guests.filter_map(|guest| guest.first("arch")).flat_map(|arch| arch.children());
    let kinds: Vec<_> = domains
        .filter(|child| child.name == "domain")
        .filter_map(|domain| domain.attribute("type"))
        .collect();
    Ok(kinds.is_empty() || kinds.contains(&"kvm"))
}

/// Becomes `vireo console`.
fn attach(domain: &RemoteDomain, options: &Options) -> Result<ExitCode, Error> {
    let own = std::env::current_exe()
        .map_err(|error| anyhow::anyhow!("cannot find this program's own file: {error}"))?;
    let mut command = std::process::Command::new(own);
    if let Some(uri) = &options.connect {
        command.args(["--connect", uri]);
    }
    let error = command.args(["console", &domain.name]).exec();
    Err(anyhow::anyhow!("cannot run vireo console: {error}").into())
}
