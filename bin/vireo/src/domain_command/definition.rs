//! `vireo define`, `undefine`, `dumpxml`, `autostart`, `rename`: a domain's definition as a whole.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{
    DomainDefineXml, DomainDefineXmlFlags, DomainGetXmlDesc, DomainRename, DomainSetAutostart,
    DomainUndefine, DomainUndefineFlags,
};
use libvirt_rpc::types::RemoteDomain;
use serde_json::json;

use super::{DomainArgument, answer, as_json};
use crate::connection::{Attempt, Error, Options, connect};
use crate::documents;
use crate::output::print_json;

/// Define a domain, or change its definition, from an XML file; it is not started
#[derive(Debug, Args)]
pub(crate) struct DefineArguments {
    /// The definition in libvirt's domain XML; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check it against the schema as well
    #[arg(long)]
    validate: bool,
}

/// Remove the definition of a domain; its disks stay, and if it runs it runs on
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, as virsh has them")]
pub(crate) struct UndefineArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Remove a saved state as well
    #[arg(long)]
    managed_save: bool,
    /// Forget its snapshots as well
    #[arg(long)]
    snapshots_metadata: bool,
    /// Forget its checkpoints as well
    #[arg(long)]
    checkpoints_metadata: bool,
    /// Remove the variables of its firmware as well
    #[arg(long, conflicts_with = "keep_nvram")]
    nvram: bool,
    /// Keep the variables of its firmware
    #[arg(long)]
    keep_nvram: bool,
    /// Remove the state of its TPM as well
    #[arg(long, conflicts_with = "keep_tpm")]
    tpm: bool,
    /// Keep the state of its TPM
    #[arg(long)]
    keep_tpm: bool,
}

/// Print the XML of a domain
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, as virsh has them")]
pub(crate) struct DumpxmlArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// What is defined, even while something else runs
    #[arg(long)]
    inactive: bool,
    /// With passwords
    #[arg(long)]
    security_info: bool,
    /// With the host's processor filled in
    #[arg(long)]
    update_cpu: bool,
    /// As other hosts and versions understand it
    #[arg(long)]
    migratable: bool,
}

/// Start a domain together with the daemon, or no longer
#[derive(Debug, Args)]
pub(crate) struct AutostartArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// No longer
    #[arg(long)]
    disable: bool,
}

/// Give a domain another name
#[derive(Debug, Args)]
pub(crate) struct RenameArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// The new name
    #[arg(value_name = "NAME")]
    name: String,
}

/// The XML of what is defined, with passwords: what is edited (VIR_DOMAIN_XML_SECURE and _INACTIVE).
pub(super) const EDITABLE: u32 = 1 | 2;

/// The flags that are given.
fn flags<const N: usize>(given: [(u32, bool); N]) -> u32 {
    given.into_iter().filter(|(_, given)| *given).fold(0, |flags, (flag, _)| flags | flag)
}

pub(super) fn define(arguments: &DefineArguments, options: &Options) -> Result<ExitCode, Error> {
    let document = documents::read(&arguments.file)?;
    let mut connection = connect(options)?;
    let what = || format!("cannot define a domain from {}", arguments.file.display());
    let domain = define_as(&mut connection, document, arguments.validate).attempt(what)?;
    answer(options, &domain, &format!("defined from {}", arguments.file.display()))
}

/// Defines what the document says.
pub(super) fn define_as(
    connection: &mut Connection,
    xml: String,
    validate: bool,
) -> Result<RemoteDomain, libvirt_rpc::client::ClientError> {
    /// VIR_DOMAIN_DEFINE_VALIDATE.
    const VALIDATE: u32 = 1;
    if validate {
        connection.call(&DomainDefineXmlFlags { xml, flags: VALIDATE }).map(|reply| reply.dom)
    } else {
        connection.call(&DomainDefineXml { xml }).map(|reply| reply.dom)
    }
}

pub(super) fn undefine(arguments: &UndefineArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    // virDomainUndefineFlagsValues.
    let flags = flags([
        (1, arguments.managed_save),
        (2, arguments.snapshots_metadata),
        (4, arguments.nvram),
        (8, arguments.keep_nvram),
        (16, arguments.checkpoints_metadata),
        (32, arguments.tpm),
        (64, arguments.keep_tpm),
    ]);
    let dom = domain.clone();
    let undefined = match flags {
        0 => connection.call(&DomainUndefine { dom }),
        flags => connection.call(&DomainUndefineFlags { dom, flags }),
    };
    undefined.attempt(|| format!("cannot undefine domain {}", domain.name))?;
    answer(options, &domain, "has been undefined")
}

pub(super) fn dumpxml(arguments: &DumpxmlArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    // virDomainXMLFlags.
    let flags = flags([
        (1, arguments.security_info),
        (2, arguments.inactive),
        (4, arguments.update_cpu),
        (8, arguments.migratable),
    ]);
    let xml = connection
        .call(&DomainGetXmlDesc { dom: domain.clone(), flags })
        .attempt(|| format!("cannot get the XML of domain {}", domain.name))?
        .xml;
    if options.json {
        let mut told = as_json(&domain);
        told["xml"] = json!(xml);
        print_json(&told)?;
    } else {
        documents::print(&xml)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn autostart(arguments: &AutostartArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let (verb, done) = if arguments.disable {
        ("unmark", "unmarked as autostarted")
    } else {
        ("mark", "marked as autostarted")
    };
    connection
        .call(&DomainSetAutostart { dom: domain.clone(), autostart: i32::from(!arguments.disable) })
        .attempt(|| format!("cannot {verb} domain {} as autostarted", domain.name))?;
    answer(options, &domain, done)
}

pub(super) fn rename(arguments: &RenameArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let new_name = Some(arguments.name.clone());
    connection
        .call(&DomainRename { dom: domain.clone(), new_name, flags: 0 })
        .attempt(|| format!("cannot rename domain {} to {}", domain.name, arguments.name))?;
    answer(options, &domain, &format!("renamed to '{}'", crate::output::harmless(&arguments.name)))
}
