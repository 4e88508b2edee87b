//! `vireo clone`: another domain like one that is there, with disks of its own, as virt-clone makes it.
//!
//! The definition is changed by its model (`document`), the disks are copied by the daemon (`disks`), and the identity of a Linux inside is
//! renewed by `guest_identity`. Nothing is shared by accident: what can be written is copied; read-only and shareable disks and
//! media of drives stay the same, which is said. A step that fails takes back the ones before it.

mod disks;
mod document;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::procedures::{DomainDefineXml, DomainGetState, DomainGetXmlDesc, DomainLookupByName};
use libvirt_rpc::types::RemoteDomain;
use libvirt_xml::MacAddress;
use libvirt_xml::domain::Domain;
use libvirt_xml::domain::interface::{Interface, InterfaceType};
use serde_json::json;

use crate::completions_command::{domains, networks};
use crate::connection::{EXIT_CODES, Error, Exit, Options, connect, find_domain};
use crate::create_command::{check_name, mac};
use crate::network_command::find_network;
use crate::output::{harmless, print, print_json};
use crate::storage_client::{Session, is};
use crate::undo::{Made, Undo};

/// VIR_DOMAIN_XML_SECURE and VIR_DOMAIN_XML_INACTIVE: as it is defined, with passwords, which a copy has as well.
const WHOLE_DEFINITION: u32 = 3;
/// virDomainState.
const PAUSED: i32 = 3;
const SHUT_OFF: i32 = 5;
const CRASHED: i32 = 6;

/// Make another domain like one that is there, with disks of its own.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The domain to copy: its name, UUID or number; it is shut off or paused
    #[arg(value_name = "SOURCE", add = ArgValueCompleter::new(domains))]
    source: String,
    /// Name of the new domain
    #[arg(value_name = "NEW")]
    name: String,
    /// How disks are copied: with storage of their own, sharing storage (the file system has to know how), or as overlays that
    /// hold only what changes: then the source must not be started any more
    #[arg(long, value_name = "HOW", default_value = "copy")]
    disks: Disks,
    /// Where the copy of a disk goes, in the order of the disks; can be repeated [default: beside the source's]
    #[arg(long, value_name = "PATH")]
    file: Vec<String>,
    /// Copy this disk too, although it is read-only or shareable (its target, as in vdb); can be repeated
    #[arg(long, value_name = "TARGET")]
    force_copy: Vec<String>,
    /// Address of a network interface, in their order; can be repeated [default: assigned]
    #[arg(long, value_name = "ADDRESS", value_parser = mac)]
    mac: Vec<MacAddress>,
    /// Connect the new domain's interfaces to this network [default: to what the source's are connected to]
    #[arg(long, value_name = "NETWORK", add = ArgValueCompleter::new(networks))]
    network: Option<String>,
    /// Give the Linux on the disks a new machine-id and new ssh host keys
    #[arg(long)]
    renew_identity: bool,
    /// Host name that the Linux on the disks gets
    #[arg(long, value_name = "NAME", requires = "renew_identity")]
    hostname: Option<String>,
    /// Print the new definition, and make nothing
    #[arg(long, visible_alias = "dry-run")]
    print_xml: bool,
    /// Keep what was made when a later step fails
    #[arg(long)]
    keep_on_failure: bool,
}

/// How disks are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Disks {
    Copy,
    Reflink,
    Overlay,
}

struct Cloned {
    domain: RemoteDomain,
    copies: Vec<disks::Copy>,
    notes: Vec<String>,
}

/// Makes it.
pub(crate) fn run(arguments: &Arguments, options: &Options) -> Result<ExitCode, Error> {
    check_name(&arguments.name)?;
    if let Some(name) = &arguments.hostname {
        guest_identity::cloud_init::check_host_name(name).map_err(|error| Error::usage(error.to_string()))?;
    }
    let mut connection = connect(options)?;
    let mut undo = Undo::new()?;
    let mut session = Session { connection: &mut connection, undo: &mut undo, shown: !options.json };
    let cloned = clone(arguments, &mut session);
    let cloned = match undo.end(&mut connection, cloned, arguments.keep_on_failure)? {
        Ok(Some(cloned)) => cloned,
        Ok(None) => return Ok(ExitCode::SUCCESS),
        Err(code) => return Ok(code),
    };
    if options.json {
        let copies: Vec<_> = cloned.copies.iter().map(disks::Copy::as_json).collect();
        print_json(&json!({
            "domain": { "name": cloned.domain.name, "uuid": cloned.domain.uuid.to_string() },
            "done": "cloned", "disks": copies, "notes": cloned.notes,
        }))?;
    } else {
        for note in &cloned.notes {
            eprintln!("{}", harmless(note));
        }
        print(&format!("Domain '{}' cloned\n", harmless(&cloned.domain.name)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn clone(arguments: &Arguments, session: &mut Session<'_>) -> Result<Option<Cloned>, Error> {
    let name = &arguments.name;
    let source = find_domain(session.connection, &arguments.source)?;
    match session.connection.call(&DomainLookupByName { name: name.clone() }) {
        Ok(_) => {
            let message = format!("there is a domain {name:?} already");
            return Err(Error::trouble(Exit::Failed, message, "choose another name"));
        }
        Err(error) if is(&error, &[ErrorCode::NoDomain]) => {}
        Err(error) => return Err(Error::daemon(format!("cannot look up domain {name}"), error)),
    }
    check_state(arguments, session, &source)?;
    let action = || format!("cannot look at domain {}", source.name);
    let xml = session.call(&DomainGetXmlDesc { dom: source.clone(), flags: WHOLE_DEFINITION }, action)?.xml;
    let old = Domain::parse(&xml).map_err(|error| {
        Error::trouble(
            Exit::Unsupported,
            format!("{}: {error}", action()),
            "virt-clone may know what this program does not",
        )
    })?;
    let mut notes = Vec::new();
    let mut new = document::renamed(&old, name, &arguments.mac, &mut notes)?;
    if let Some(network) = &arguments.network {
        let network = find_network(session.connection, network)?;
        document::connect(&mut new, &network.name)?;
    }
    let plan = disks::plan(arguments, session, &source.name, &new, &mut notes)?;
    if arguments.print_xml {
        disks::set_foreseen(&plan, &mut new);
        for note in &notes {
            eprintln!("{}", harmless(note));
        }
        print(&format!("{}\n", new.to_xml()))?;
        return Ok(None);
    }
    // Everything that can be wrong inside of the disks is known before anything is made.
    let renewals = disks::prepare_identity(arguments, session, &plan)?;
    let copies = disks::copy(arguments, session, &plan, &mut new)?;
    disks::copy_nvram(session, &source.name, name, &mut new)?;
    disks::renew(session, &renewals, &copies, &mut notes)?;
    session.undo.step()?;
    let domain =
        session.call(&DomainDefineXml { xml: new.to_xml() }, || format!("cannot define domain {name}"))?.dom;
    session.undo.push(Made::Domain(domain.clone()));
    if arguments.disks == Disks::Overlay && !copies.is_empty() {
        notes.push(format!(
            "The disks of {name} hold only what differs from those of {}: that must not be started or changed any more",
            source.name
        ));
    }
    let on_network = |interface: &Interface| interface.kind == InterfaceType::Network;
    if new.devices.interfaces.iter().any(on_network) {
        notes.push(format!("Its address, when it runs and has one: vireo wait {name} --address"));
    }
    Ok(Some(Cloned { domain, copies, notes }))
}

/// Disks that somebody writes to can't be copied.
fn check_state(arguments: &Arguments, session: &mut Session<'_>, source: &RemoteDomain) -> Result<(), Error> {
    let call = DomainGetState { dom: source.clone(), flags: 0 };
    let state = session.call(&call, || format!("cannot learn the state of domain {}", source.name))?.state;
    let message = match state {
        SHUT_OFF | CRASHED => return Ok(()),
        PAUSED if arguments.renew_identity => {
            format!(
                "domain {} is paused: its file systems are in use, and can't be given a new identity",
                source.name
            )
        }
        PAUSED => return Ok(()),
        _ => format!("domain {} is running: its disks change while they are copied", source.name),
    };
    Err(Error::trouble(Exit::WrongState, message, "shut it down first"))
}
