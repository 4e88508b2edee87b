//! `vireo completions`: what makes shells complete verbs, options and names.
//!
//! The shell's script asks this program itself each time, by the variable COMPLETE, so it never goes out of date.

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::Args;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;
use libvirt_rpc::Call;
use libvirt_rpc::procedures::{ConnectListAllDomains, ConnectListAllNetworks, ConnectListAllStoragePools};

use crate::connection::{Options, connect};
use crate::output::print;

const AFTER_HELP: &str = "\
  bash: vireo completions bash > ~/.local/share/bash-completion/completions/vireo
  zsh:  vireo completions zsh > DIR/_vireo, where DIR is one of $fpath
  fish: vireo completions fish > ~/.config/fish/completions/vireo.fish";

/// Print what makes a shell complete verbs, options and names
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
    let call = ConnectListAllStoragePools { need_results: 1, flags: 0 };
    begun(current, &call, |reply| reply.pools.into_iter().map(|pool| pool.name).collect())
}

/// Names of domains.
pub(crate) fn domains(current: &OsStr) -> Vec<CompletionCandidate> {
    let call = ConnectListAllDomains { need_results: 1, flags: 0 };
    begun(current, &call, |reply| reply.domains.into_iter().map(|domain| domain.name).collect())
}

/// Names of networks.
pub(crate) fn networks(current: &OsStr) -> Vec<CompletionCandidate> {
    let call = ConnectListAllNetworks { need_results: 1, flags: 0 };
    begun(current, &call, |reply| reply.nets.into_iter().map(|network| network.name).collect())
}

/// Names that the daemon lists and that begin with what is there.
fn begun<C: Call>(
    current: &OsStr,
    call: &C,
    names: impl FnOnce(C::Reply) -> Vec<String>,
) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let listed = connect(&Options::default()).ok().and_then(|mut connection| connection.call(call).ok());
    let names = listed.map(names).unwrap_or_default().into_iter();
    // One that a terminal would obey is not offered.
    let fitting = names.filter(|name| name.starts_with(&*begun) && !name.contains(char::is_control));
    fitting.map(CompletionCandidate::new).collect()
}
