//! `vireo reboot`, `reset`, `pause`, `resume`: one call to a running machine, and what has come of it.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::Call;
use libvirt_rpc::procedures::{DomainReboot, DomainReset, DomainResume, DomainSuspend};
use libvirt_rpc::types::RemoteDomain;

use super::{DomainArgument, answer};
use crate::connection::{Attempt, Error, Options, connect};

/// Ask the guest to reboot
#[derive(Debug, Args)]
pub(crate) struct RebootArguments {
    #[command(flatten)]
    domain: DomainArgument,
    #[command(flatten)]
    mode: ModeArgument,
}

/// Reset the machine at once, as its button does: the guest is not asked
#[derive(Debug, Args)]
pub(crate) struct ResetArguments {
    #[command(flatten)]
    domain: DomainArgument,
}

/// Pause the machine: it stays in memory and does nothing
#[derive(Debug, Args)]
pub(crate) struct PauseArguments {
    #[command(flatten)]
    domain: DomainArgument,
}

/// Let a paused machine go on
#[derive(Debug, Args)]
pub(crate) struct ResumeArguments {
    #[command(flatten)]
    domain: DomainArgument,
}

/// How the guest is asked.
#[derive(Debug, Args)]
pub(super) struct ModeArgument {
    /// How the guest is asked; several with commas are tried in the daemon's order [default: the daemon's choice]
    #[arg(long, value_enum, value_name = "HOW", value_delimiter = ',')]
    mode: Vec<Mode>,
}

/// virDomainShutdownFlagValues and virDomainRebootFlagValues, which are the same.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Mode {
    /// The power button
    Acpi,
    /// The agent in the guest
    Agent,
    /// A message to the guest's init
    Initctl,
    /// A signal to the guest's init
    Signal,
    /// The hypervisor's own way
    Paravirt,
}

impl ModeArgument {
    /// As flags of the calls.
    pub(super) fn flags(&self) -> u32 {
        self.mode.iter().fold(0, |flags, mode| {
            flags
                | match mode {
                    Mode::Acpi => 1,
                    Mode::Agent => 2,
                    Mode::Initctl => 4,
                    Mode::Signal => 8,
                    Mode::Paravirt => 16,
                }
        })
    }
}

pub(super) fn reboot(arguments: &RebootArguments, options: &Options) -> Result<ExitCode, Error> {
    let call = |dom| DomainReboot { dom, flags: arguments.mode.flags() };
    act(&arguments.domain, options, call, "reboot", "is being rebooted")
}

pub(super) fn reset(arguments: &ResetArguments, options: &Options) -> Result<ExitCode, Error> {
    act(&arguments.domain, options, |dom| DomainReset { dom, flags: 0 }, "reset", "was reset")
}

pub(super) fn pause(arguments: &PauseArguments, options: &Options) -> Result<ExitCode, Error> {
    act(&arguments.domain, options, |dom| DomainSuspend { dom }, "pause", "suspended")
}

pub(super) fn resume(arguments: &ResumeArguments, options: &Options) -> Result<ExitCode, Error> {
    act(&arguments.domain, options, |dom| DomainResume { dom }, "resume", "resumed")
}

/// Makes the call about the domain; `done` is what virsh says then.
fn act<C: Call>(
    domain: &DomainArgument,
    options: &Options,
    call: impl FnOnce(RemoteDomain) -> C,
    verb: &str,
    done: &str,
) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = domain.find(&mut connection)?;
    connection.call(&call(domain.clone())).attempt(|| format!("cannot {verb} domain {}", domain.name))?;
    answer(options, &domain, done)
}
