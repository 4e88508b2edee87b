//! `vireo edit`.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::procedures::DomainGetXmlDesc;

use super::definition::{EDITABLE, define_as};
use super::{DomainArgument, as_json};
use crate::connection::{Attempt, Error, Options, connect, find_domain};
use crate::documents::{EDITING, Edited, edit_definition};

/// Edit the XML of a domain's definition
#[derive(Debug, Args)]
#[command(before_help = EDITING)]
pub(crate) struct EditArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Do not check it against the schema (accepted for scripts; the daemon's own checks are always made)
    #[arg(long)]
    skip_validate: bool,
}

/// Edits it.
pub(super) fn run(arguments: &EditArguments, options: &Options) -> Result<ExitCode, Error> {
    let domain = arguments.domain.find(&mut connect(options)?)?;
    let object = Edited { kind: "domain", name: &domain.name, who: as_json(&domain) };
    edit_definition(
        &object,
        options,
        |connection| {
            let dom = find_domain(connection, &domain.uuid.to_string())?;
            let call = DomainGetXmlDesc { dom, flags: EDITABLE };
            let reply = connection.call(&call);
            Ok(reply.attempt(|| format!("cannot get the XML of domain {}", domain.name))?.xml)
        },
        |connection, xml| {
            let defined = define_as(connection, xml, false);
            defined.attempt(|| format!("cannot define domain {}", domain.name)).map(drop)
        },
    )
}
