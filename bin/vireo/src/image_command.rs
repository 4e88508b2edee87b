//! `vireo image`: makes, describes, checks and changes disk images, with the verbs, options and JSON keys of qemu-img.
//!
//! Differences that are meant: the format of an image whose content is used is never guessed (`-f`; raw has to be named
//! too), names are paths (no `json:`, no protocols), backing files are opened only below the image's own directory or one
//! named with `--backing-directory`, and new images appear under their name only when they are whole. A disk of an OVA
//! archive with several is named `FILE.ova:DISK`. Called as `qemu-img`, see `qemu_img`.

mod arguments;
mod bench;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod info;
mod map;
mod measure;
mod progress;
pub(crate) mod qemu_img;
mod rebase;
mod resize;
mod snapshot;

use std::process::ExitCode;

pub(crate) use arguments::{image_path, size};

use clap::{Args, Subcommand};

const EXIT_CODES: &str = "\
Exit codes, as qemu-img's: 0 when done, 1 when not; of check also
  2  the image is corrupt
  3  the image has leaked clusters, which waste space and are harmless
  63 the format can't be checked
and of compare
  1  the disks differ
  2  they could not be compared
Long work that is interrupted (SIGINT, SIGTERM, SIGHUP) ends with 130, options that are wrong with 2 (called as
qemu-img: with 1).";

/// Make, describe, check and change disk images.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Bench(bench::BenchArguments),
    Check(check::CheckArguments),
    Commit(commit::CommitArguments),
    Compare(compare::CompareArguments),
    Convert(convert::ConvertArguments),
    Create(create::CreateArguments),
    Info(info::InfoArguments),
    Map(map::MapArguments),
    Measure(measure::MeasureArguments),
    Rebase(rebase::RebaseArguments),
    Resize(resize::ResizeArguments),
    Snapshot(snapshot::SnapshotArguments),
}

/// Does what the arguments ask for.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    run(arguments.verb)
}

fn run(verb: Verb) -> ExitCode {
    let (name, result) = match verb {
        Verb::Bench(arguments) => ("bench", bench::run(&arguments)),
        Verb::Check(arguments) => ("check", check::run(&arguments)),
        Verb::Commit(arguments) => ("commit", commit::run(&arguments)),
        Verb::Compare(arguments) => ("compare", compare::run(&arguments)),
        Verb::Convert(arguments) => ("convert", convert::run(&arguments)),
        Verb::Create(arguments) => ("create", create::run(&arguments)),
        Verb::Info(arguments) => ("info", info::run(&arguments)),
        Verb::Map(arguments) => ("map", map::run(&arguments)),
        Verb::Measure(arguments) => ("measure", measure::run(&arguments)),
        Verb::Rebase(arguments) => ("rebase", rebase::run(&arguments)),
        Verb::Resize(arguments) => ("resize", resize::run(&arguments)),
        Verb::Snapshot(arguments) => ("snapshot", snapshot::run(&arguments)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{}: {}", qemu_img::prefix(name), crate::output::in_one_line(&error));
        ExitCode::FAILURE
    })
}
