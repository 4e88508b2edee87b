//! `vireo start`.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::procedures::DomainCreateWithFlags;

use super::{DomainArgument, answer, console};
use crate::connection::{Attempt, Error, Options, connect};

/// Start a domain that is defined
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, as virsh has them")]
pub(crate) struct StartArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Start it paused, before its first instruction
    #[arg(long)]
    paused: bool,
    /// Connect to its console at once, from its first word on; Ctrl-] leaves
    #[arg(long, conflicts_with = "json")]
    console: bool,
    /// Read a saved state around the host's cache
    #[arg(long)]
    bypass_cache: bool,
    /// Boot afresh, and forget a saved state
    #[arg(long)]
    force_boot: bool,
    /// Begin with fresh variables of the firmware
    #[arg(long)]
    reset_nvram: bool,
}

impl StartArguments {
    /// virDomainCreateFlags.
    fn flags(&self) -> u32 {
        let given = [(1, self.paused), (4, self.bypass_cache), (8, self.force_boot), (32, self.reset_nvram)];
        given.into_iter().filter(|(_, given)| *given).fold(0, |flags, (flag, _)| flags | flag)
    }
}

/// Starts it.
pub(super) fn run(arguments: &StartArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let started = connection
        .call(&DomainCreateWithFlags { dom: domain.clone(), flags: arguments.flags() })
        .attempt(|| format!("cannot start domain {}", domain.name))?;
    let code = answer(options, &started.dom, "started")?;
    if arguments.console {
        return console::attend(&mut connection, &started.dom, &console::Manner::from_the_start());
    }
    Ok(code)
}
