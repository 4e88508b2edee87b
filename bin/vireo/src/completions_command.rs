//! `vireo completions`: what makes shells complete verbs, options and names of domains.
//!
//! The shell's script asks this program itself each time, by the variable COMPLETE, so it never goes out of date.

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::Args;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;
use libvirt_rpc::procedures::{ConnectListAllDomains, ConnectListAllStoragePools};

use crate::connection::{Options, connect};
use crate::output::print;

const AFTER_HELP: &str = "\
  bash: vireo completions bash > ~/.local/share/bash-completion/completions/vireo
  zsh:  vireo completions zsh > DIR/_vireo, where DIR is one of $fpath
  fish: vireo completions fish > ~/.config/fish/completions/vireo.fish";

/// Print what makes a shell complete verbs, options and names of domains
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// Prints it.
pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    let name = match arguments.shell {
        Shell::Bash => "bash",
        Shell::Fish => "fish",
        Shell::Zsh => "zsh",
    };
    let mut script = Vec::new();
    let written = Shells::builtins()
        .completer(name)
        .map(|shell| shell.write_registration("COMPLETE", "vireo", "vireo", "vireo", &mut script));
    match written {
        Some(Ok(())) if print(&String::from_utf8_lossy(&script)).is_ok() => ExitCode::SUCCESS,
        _ => {
            eprintln!("vireo completions: cannot print what {name} needs");
            ExitCode::FAILURE
        }
    }
}

/// Names of storage pools that begin with what is there; none when no daemon answers.
pub(crate) fn pools(current: &OsStr) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let listed = connect(&Options::default()).ok().and_then(|mut connection| {
        connection.call(&ConnectListAllStoragePools { need_results: 1, flags: 0 }).ok()
    });
    let pools = listed.map(|reply| reply.pools).unwrap_or_default();
    pools
        .into_iter()
        .filter(|pool| pool.name.starts_with(&*begun) && !pool.name.contains(char::is_control))
        .map(|pool| CompletionCandidate::new(pool.name))
        .collect()
}

/// Names of domains that begin with what is there; none when no daemon answers.
pub(crate) fn domains(current: &OsStr) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let listed = connect(&Options::default()).ok().and_then(|mut connection| {
        connection.call(&ConnectListAllDomains { need_results: 1, flags: 0 }).ok()
    });
    let domains = listed.map(|reply| reply.domains).unwrap_or_default();
    domains
        .into_iter()
        .filter(|domain| domain.name.starts_with(&*begun) && !domain.name.contains(char::is_control))
        .map(|domain| CompletionCandidate::new(domain.name))
        .collect()
}
