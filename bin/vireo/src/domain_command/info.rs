//! `vireo info`: what a domain is and how it is.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::Call;
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{
    DomainGetAutostart, DomainGetInfo, DomainGetMetadata, DomainGetOsType, DomainHasManagedSaveImage,
    DomainIsPersistent,
};
use serde_json::json;

use super::state::State;
use super::{DomainArgument, METADATA_DESCRIPTION, METADATA_TITLE, as_json};
use crate::connection::{Attempt, Error, Exit, Options, connect};
use crate::output::{harmless, print, print_json};

/// Print what a domain is and how it is
#[derive(Debug, Args)]
pub(crate) struct InfoArguments {
    #[command(flatten)]
    domain: DomainArgument,
}

/// Prints it.
pub(super) fn run(arguments: &InfoArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let asked = || format!("cannot learn about domain {}", domain.name);
    let dom = || domain.clone();
    let info = connection.call(&DomainGetInfo { dom: dom() }).attempt(asked)?;
    let state = State::from_number(info.state.into());
    let mut ask = Ask(&mut connection, &domain.name);
    let os_type = ask.if_supported(&DomainGetOsType { dom: dom() })?.map(|reply| reply.kind);
    let persistent = ask.if_supported(&DomainIsPersistent { dom: dom() })?.map(|reply| reply.persistent != 0);
    let autostart = ask.if_supported(&DomainGetAutostart { dom: dom() })?.map(|reply| reply.autostart != 0);
    let saved =
        ask.if_supported(&DomainHasManagedSaveImage { dom: dom(), flags: 0 })?.map(|reply| reply.result != 0);
    let mut text_of = |kind| {
        let call = DomainGetMetadata { dom: dom(), kind, uri: None, flags: 0 };
        ask.if_supported(&call).map(|reply| reply.map(|reply| reply.metadata))
    };
    let (title, description) = (text_of(METADATA_TITLE)?, text_of(METADATA_DESCRIPTION)?);
    let addresses = super::addresses::known(&mut connection, &domain);
    if options.json {
        let mut told = as_json(&domain);
        told["addresses"] = json!(addresses);
        told["os_type"] = json!(os_type);
        told["state"] = json!(state.name());
        told["vcpus"] = json!(info.nr_virt_cpu);
        told["cpu_time_ns"] = json!(info.cpu_time);
        told["max_memory_kib"] = json!(info.max_mem);
        told["memory_kib"] = json!(info.memory);
        told["persistent"] = json!(persistent);
        told["autostart"] = json!(autostart);
        told["managed_save"] = json!(saved);
        told["title"] = json!(title);
        told["description"] = json!(description);
        print_json(&told)?;
        return Ok(ExitCode::SUCCESS);
    }
    let yes = |value: Option<bool>| value.map(|value| if value { "yes" } else { "no" }.to_owned());
    let enabled = |value| if value { "enable" } else { "disable" }.to_owned();
    let id = if domain.id < 0 { "-".to_owned() } else { domain.id.to_string() };
    // virsh's lines, and ours after them.
    let lines = [
        ("Id", Some(id)),
        ("Name", Some(domain.name.clone())),
        ("UUID", Some(domain.uuid.to_string())),
        ("OS Type", os_type),
        ("State", Some(state.name().to_owned())),
        ("CPU(s)", Some(info.nr_virt_cpu.to_string())),
        ("CPU time", (info.cpu_time != 0).then(|| seconds(info.cpu_time))),
        ("Max memory", Some(format!("{} KiB", info.max_mem))),
        ("Used memory", Some(format!("{} KiB", info.memory))),
        ("Persistent", yes(persistent)),
        ("Autostart", autostart.map(enabled)),
        ("Managed save", yes(saved)),
        ("Title", title),
        ("Addresses", (!addresses.is_empty()).then(|| addresses.join(" "))),
    ];
    let line = |(name, value): (&str, Option<String>)| {
        value.map(|value| format!("{:<15} {}\n", format!("{name}:"), harmless(&value)))
    };
    print(&lines.into_iter().filter_map(line).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// Nanoseconds as `1.2s`.
pub(super) fn seconds(nanoseconds: u64) -> String {
    format!("{}.{}s", nanoseconds / 1_000_000_000, nanoseconds / 100_000_000 % 10)
}

/// Questions about a domain that not every daemon can answer.
struct Ask<'a>(&'a mut Connection, &'a str);

impl Ask<'_> {
    /// The answer; none when this daemon has none, or the domain has no such thing.
    fn if_supported<C: Call>(&mut self, call: &C) -> Result<Option<C::Reply>, Error> {
        match self.0.call(call).attempt(|| format!("cannot learn about domain {}", self.1)) {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => match (error.exit(), error.code()) {
                (_, Some(libvirt_rpc::ErrorCode::NoMetadata)) | (Exit::Unsupported, _) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_cut_to_tenths() {
        assert_eq!(seconds(1_999_999_999), "1.9s");
        assert_eq!(seconds(50_000_000), "0.0s");
    }
}
