//! `vireo pool` and `vireo volume`: pools and volumes of the daemon, for people and for scripts; virsh's names of the same verbs
//! (`pool-list`, `vol-create-as`, ...) are understood as well.
//!
//! Each family is a module that owns its arguments and makes the calls, with what `storage_client` has.

mod pool;
mod volume;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::connection::{EXIT_CODES, Error, Options, With, run_verb};
use crate::output;

/// Look at storage pools, make them and remove them
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct PoolCommand {
    #[command(subcommand)]
    verb: PoolVerb,
}

#[derive(Debug, Subcommand)]
enum PoolVerb {
    Autostart(With<pool::AutostartArguments>),
    Define(With<pool::DefineArguments>),
    Delete(With<pool::DeleteArguments>),
    Info(With<pool::InfoArguments>),
    List(With<pool::ListArguments>),
    Refresh(With<pool::RefreshArguments>),
    Start(With<pool::StartArguments>),
    Stop(With<pool::StopArguments>),
}

/// Look at volumes of storage pools, make, fill and remove them
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct VolumeCommand {
    #[command(subcommand)]
    verb: VolumeVerb,
}

#[derive(Debug, Subcommand)]
enum VolumeVerb {
    Clone(With<volume::CloneArguments>),
    Create(With<volume::CreateArguments>),
    Delete(With<volume::DeleteArguments>),
    Download(With<volume::DownloadArguments>),
    Info(With<volume::InfoArguments>),
    List(With<volume::ListArguments>),
    Resize(With<volume::ResizeArguments>),
    Upload(With<volume::UploadArguments>),
}

/// The verbs by virsh's names.
#[derive(Debug, Subcommand)]
pub(crate) enum VirshVerb {
    #[command(hide = true)]
    PoolAutostart(With<pool::AutostartArguments>),
    #[command(hide = true)]
    PoolDefineAs(With<pool::DefineArguments>),
    #[command(hide = true)]
    PoolDestroy(With<pool::StopArguments>),
    #[command(hide = true)]
    PoolInfo(With<pool::InfoArguments>),
    #[command(hide = true)]
    PoolList(With<pool::ListArguments>),
    #[command(hide = true)]
    PoolRefresh(With<pool::RefreshArguments>),
    #[command(hide = true)]
    PoolStart(With<pool::StartArguments>),
    #[command(hide = true)]
    VolClone(With<volume::CloneArguments>),
    #[command(hide = true)]
    VolCreateAs(With<volume::CreateArguments>),
    #[command(hide = true)]
    VolDelete(With<volume::DeleteArguments>),
    #[command(hide = true)]
    VolDownload(With<volume::DownloadArguments>),
    #[command(hide = true)]
    VolInfo(With<volume::InfoArguments>),
    #[command(hide = true)]
    VolList(With<volume::ListArguments>),
    #[command(hide = true)]
    VolResize(With<volume::ResizeArguments>),
    #[command(hide = true)]
    VolUpload(With<volume::UploadArguments>),
}

/// Does what the arguments of `vireo pool` ask for.
pub(crate) fn pool(command: PoolCommand, before: &Options) -> ExitCode {
    use PoolVerb as Verb;
    run_verb! { command.verb, before,
        Verb::Autostart, "pool autostart", pool::autostart;
        Verb::Define, "pool define", pool::define;
        Verb::Delete, "pool delete", pool::delete;
        Verb::Info, "pool info", pool::info;
        Verb::List, "pool list", pool::list;
        Verb::Refresh, "pool refresh", pool::refresh;
        Verb::Start, "pool start", pool::start;
        Verb::Stop, "pool stop", pool::stop;
    }
}

/// Does what the arguments of `vireo volume` ask for.
pub(crate) fn volume(command: VolumeCommand, before: &Options) -> ExitCode {
    use VolumeVerb as Verb;
    run_verb! { command.verb, before,
        Verb::Clone, "volume clone", volume::clone;
        Verb::Create, "volume create", volume::create;
        Verb::Delete, "volume delete", volume::delete;
        Verb::Download, "volume download", volume::download;
        Verb::Info, "volume info", volume::info;
        Verb::List, "volume list", volume::list;
        Verb::Resize, "volume resize", volume::resize;
        Verb::Upload, "volume upload", volume::upload;
    }
}

/// The same by virsh's names.
pub(crate) fn virsh(verb: VirshVerb, before: &Options) -> ExitCode {
    use VirshVerb as Verb;
    run_verb! { verb, before,
        Verb::PoolAutostart, "pool-autostart", pool::autostart;
        Verb::PoolDefineAs, "pool-define-as", pool::define;
        Verb::PoolDestroy, "pool-destroy", pool::stop;
        Verb::PoolInfo, "pool-info", pool::info;
        Verb::PoolList, "pool-list", pool::list;
        Verb::PoolRefresh, "pool-refresh", pool::refresh;
        Verb::PoolStart, "pool-start", pool::start;
        Verb::VolClone, "vol-clone", volume::clone;
        Verb::VolCreateAs, "vol-create-as", volume::create;
        Verb::VolDelete, "vol-delete", volume::delete;
        Verb::VolDownload, "vol-download", volume::download;
        Verb::VolInfo, "vol-info", volume::info;
        Verb::VolList, "vol-list", volume::list;
        Verb::VolResize, "vol-resize", volume::resize;
        Verb::VolUpload, "vol-upload", volume::upload;
    }
}

/// Tells what has been done to a pool or a volume.
fn answer(options: &Options, kind: &str, name: &str, done: &str) -> Result<ExitCode, Error> {
    Ok(output::done(options.json, kind, name, name.into(), done)?)
}
