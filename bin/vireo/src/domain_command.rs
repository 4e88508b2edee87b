//! The verbs about domains: clients of the daemon, with virsh's names, options and output where virsh has the verb.
//!
//! Each verb is a module, or shares one with its family; it owns its arguments and makes the calls. What they have in common is
//! here: the domain that is meant, and the answer to an action.

mod identity;
mod state;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use libvirt_rpc::client::Connection;
use libvirt_rpc::types::RemoteDomain;
use serde_json::{Value, json};

use crate::connection::{EXIT_CODES, Error, Options, With, find_domain, report};
use crate::output::{harmless, print, print_json};

/// What verbs do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    #[command(after_help = EXIT_CODES)]
    Domid(With<identity::NumberArguments>),
    #[command(after_help = EXIT_CODES)]
    Domname(With<identity::NameArguments>),
    #[command(after_help = EXIT_CODES)]
    Domstate(With<identity::StateArguments>),
    #[command(after_help = EXIT_CODES)]
    Domuuid(With<identity::UuidArguments>),
}

/// Does what the arguments ask for; `before` are the options in front of the verb.
pub(crate) fn main(verb: Verb, before: &Options) -> ExitCode {
    macro_rules! verbs {
        ($($name:ident $text:literal $run:path;)*) => {
            match verb {
                $(Verb::$name(With { verb, options }) => {
                    let options = options.or(before);
                    ($text, options.json, $run(&verb, &options))
                })*
            }
        };
    }
    let (name, json, result) = verbs! {
        Domid "domid" identity::number;
        Domname "domname" identity::name;
        Domstate "domstate" identity::state;
        Domuuid "domuuid" identity::uuid;
    };
    result.unwrap_or_else(|error| report(name, json, &error))
}

/// The domain that a verb is about.
#[derive(Debug, Args)]
struct DomainArgument {
    /// The domain: its name, UUID or number
    #[arg(value_name = "DOMAIN")]
    domain: String,
}

impl DomainArgument {
    /// The domain itself.
    fn find(&self, connection: &mut Connection) -> Result<RemoteDomain, Error> {
        find_domain(connection, &self.domain)
    }
}

/// Tells what has been done to a domain: `Domain 'demo' started`, or in JSON who it is and `done`.
fn answer(options: &Options, domain: &RemoteDomain, done: &str) -> Result<ExitCode, Error> {
    if options.json {
        print_json(&json!({ "domain": as_json(domain), "done": done }))?;
    } else {
        print(&format!("Domain '{}' {done}\n", harmless(&domain.name)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Who a domain is; the number is null while it does not run.
fn as_json(domain: &RemoteDomain) -> Value {
    let id = (domain.id >= 0).then_some(domain.id);
    json!({ "name": domain.name, "uuid": domain.uuid.to_string(), "id": id })
}
