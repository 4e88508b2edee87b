//! The verbs about domains: clients of the daemon, with virsh's names, options and output where virsh has the verb.
//!
//! Each verb is a module, or shares one with its family; it owns its arguments and makes the calls. What they have in common is
//! here: the domain that is meant, and the answer to an action.

mod addresses;
mod console;
mod definition;
mod description;
mod edit;
pub(crate) mod events;
mod identity;
mod info;
mod lifecycle;
mod list;
mod start;
mod state;
mod stats;
mod stop;
mod top;
mod vcpuinfo;
mod wait;
mod waiting;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use libvirt_rpc::client::Connection;
use libvirt_rpc::types::RemoteDomain;
use serde_json::{Value, json};

use crate::completions_command::domains;
use crate::connection::{EXIT_CODES, Error, Options, With, find_domain, run_verb};
use crate::output;

/// What verbs do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    #[command(after_help = EXIT_CODES, visible_alias = "domifaddr")]
    Addresses(With<addresses::AddressesArguments>),
    #[command(after_help = EXIT_CODES)]
    Autostart(With<definition::AutostartArguments>),
    Clone(With<crate::clone_command::Arguments>),
    #[command(after_help = EXIT_CODES)]
    Console(With<console::ConsoleArguments>),
    Create(With<Box<crate::create_command::Arguments>>),
    #[command(after_help = EXIT_CODES)]
    Define(With<definition::DefineArguments>),
    Delete(With<crate::delete_command::Arguments>),
    #[command(after_help = EXIT_CODES)]
    Desc(With<description::DescArguments>),
    #[command(after_help = EXIT_CODES)]
    Destroy(With<stop::DestroyArguments>),
    #[command(after_help = EXIT_CODES)]
    Domid(With<identity::NumberArguments>),
    #[command(after_help = EXIT_CODES)]
    Domname(With<identity::NameArguments>),
    #[command(after_help = EXIT_CODES)]
    Domstate(With<identity::StateArguments>),
    #[command(after_help = EXIT_CODES)]
    Domuuid(With<identity::UuidArguments>),
    #[command(after_help = EXIT_CODES)]
    Dumpxml(With<definition::DumpxmlArguments>),
    #[command(after_help = EXIT_CODES)]
    Edit(With<edit::EditArguments>),
    #[command(after_help = EXIT_CODES)]
    Event(With<events::EventArguments>),
    #[command(after_help = EXIT_CODES)]
    Events(With<events::EventsArguments>),
    #[command(after_help = EXIT_CODES, visible_alias = "dominfo")]
    Info(With<info::InfoArguments>),
    #[command(after_help = EXIT_CODES)]
    List(With<list::ListArguments>),
    #[command(after_help = EXIT_CODES, visible_alias = "suspend")]
    Pause(With<lifecycle::PauseArguments>),
    #[command(after_help = EXIT_CODES)]
    Reboot(With<lifecycle::RebootArguments>),
    #[command(after_help = EXIT_CODES, visible_alias = "domrename")]
    Rename(With<definition::RenameArguments>),
    #[command(after_help = EXIT_CODES)]
    Reset(With<lifecycle::ResetArguments>),
    #[command(after_help = EXIT_CODES)]
    Resume(With<lifecycle::ResumeArguments>),
    #[command(after_help = EXIT_CODES)]
    Shutdown(With<stop::ShutdownArguments>),
    #[command(after_help = EXIT_CODES)]
    Start(With<start::StartArguments>),
    #[command(after_help = EXIT_CODES, visible_alias = "domstats")]
    Stats(With<stats::StatsArguments>),
    #[command(after_help = EXIT_CODES)]
    Stop(With<stop::StopArguments>),
    #[command(after_help = EXIT_CODES)]
    Title(With<description::TitleArguments>),
    #[command(after_help = EXIT_CODES)]
    Top(With<top::TopArguments>),
    #[command(after_help = EXIT_CODES)]
    Undefine(With<definition::UndefineArguments>),
    #[command(after_help = EXIT_CODES)]
    Vcpuinfo(With<vcpuinfo::VcpuinfoArguments>),
    #[command(after_help = EXIT_CODES)]
    Wait(With<wait::WaitArguments>),
}

/// Does what the arguments ask for; `before` are the options in front of the verb.
pub(crate) fn main(verb: Verb, before: &Options) -> ExitCode {
    run_verb! { verb, before,
        Verb::Addresses, "addresses", addresses::run;
        Verb::Autostart, "autostart", definition::autostart;
        Verb::Clone, "clone", crate::clone_command::run;
        Verb::Console, "console", console::run;
        Verb::Create, "create", crate::create_command::run;
        Verb::Define, "define", definition::define;
        Verb::Delete, "delete", crate::delete_command::run;
        Verb::Desc, "desc", description::description;
        Verb::Destroy, "destroy", stop::destroy;
        Verb::Domid, "domid", identity::number;
        Verb::Domname, "domname", identity::name;
        Verb::Domstate, "domstate", identity::state;
        Verb::Domuuid, "domuuid", identity::uuid;
        Verb::Dumpxml, "dumpxml", definition::dumpxml;
        Verb::Edit, "edit", edit::run;
        Verb::Event, "event", events::once;
        Verb::Events, "events", events::run;
        Verb::Info, "info", info::run;
        Verb::List, "list", list::run;
        Verb::Pause, "pause", lifecycle::pause;
        Verb::Reboot, "reboot", lifecycle::reboot;
        Verb::Rename, "rename", definition::rename;
        Verb::Reset, "reset", lifecycle::reset;
        Verb::Resume, "resume", lifecycle::resume;
        Verb::Shutdown, "shutdown", stop::shutdown;
        Verb::Start, "start", start::run;
        Verb::Stats, "stats", stats::run;
        Verb::Stop, "stop", stop::run;
        Verb::Title, "title", description::title;
        Verb::Top, "top", top::run;
        Verb::Undefine, "undefine", definition::undefine;
        Verb::Vcpuinfo, "vcpuinfo", vcpuinfo::run;
        Verb::Wait, "wait", wait::run;
    }
}

/// The domain that a verb is about.
#[derive(Debug, Args)]
struct DomainArgument {
    /// The domain: its name, UUID or number
    #[arg(value_name = "DOMAIN", add = ArgValueCompleter::new(domains))]
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
    Ok(output::done(options.json, "domain", &domain.name, as_json(domain), done)?)
}

/// Who a domain is; the number is null while it does not run.
fn as_json(domain: &RemoteDomain) -> Value {
    let id = (domain.id >= 0).then_some(domain.id);
    json!({ "name": domain.name, "uuid": domain.uuid.to_string(), "id": id })
}

/// virDomainMetadataType.
const METADATA_DESCRIPTION: i32 = 0;
const METADATA_TITLE: i32 = 1;

/// The longest time that somebody can mean, in seconds: thirty years.
const SECONDS_MAX: f64 = 1e9;

/// A number of seconds, with or without a fraction.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=SECONDS_MAX).contains(&value) => Ok(Duration::from_secs_f64(value)),
        _ => Err("a number of seconds is expected, such as 30 or 0.5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_and_nothing_else() {
        assert_eq!(seconds("30"), Ok(Duration::from_secs(30)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "-1", "NaN", "inf", "1e300", "5s"] {
            seconds(wrong).unwrap_err();
        }
    }
}
