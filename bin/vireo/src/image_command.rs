//! `vireo image`: makes, describes, checks and changes disk images, with the verbs, options and JSON keys of qemu-img.
//!
//! Differences that are meant: the format of an image whose content is used is never guessed (`-f`; raw has to be named
//! too), names are paths (no `json:`, no protocols), backing files are opened only below the image's own directory or one
//! named with `--backing-directory`, and new images appear under their name only when they are whole.

mod arguments;
mod check;
mod compare;
mod convert;
mod create;
mod info;
mod output;
mod progress;
mod resize;
mod snapshot;

use std::process::ExitCode;

use clap::{Args, Subcommand};

const EXIT_CODES: &str = "\
Exit codes, as qemu-img's: 0 when done, 1 when not; of check also
  2  the image is corrupt
  3  the image has leaked clusters, which waste space and are harmless
  63 the format can't be checked
and of compare
  1  the disks differ
  2  they could not be compared
A copy or comparison that is interrupted (SIGINT, SIGTERM, SIGHUP) ends with 130.
Options that are wrong are refused with 2 by the command line's own parser.";

/// Make, describe, check and change disk images.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Check(check::CheckArguments),
    Compare(compare::CompareArguments),
    Convert(convert::ConvertArguments),
    Create(create::CreateArguments),
    Info(info::InfoArguments),
    Resize(resize::ResizeArguments),
    Snapshot(snapshot::SnapshotArguments),
}

/// Does what the arguments ask for.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    let (name, result) = match arguments.verb {
        Verb::Check(arguments) => ("check", check::run(&arguments)),
        Verb::Compare(arguments) => ("compare", compare::run(&arguments)),
        Verb::Convert(arguments) => ("convert", convert::run(&arguments)),
        Verb::Create(arguments) => ("create", create::run(&arguments)),
        Verb::Info(arguments) => ("info", info::run(&arguments)),
        Verb::Resize(arguments) => ("resize", resize::run(&arguments)),
        Verb::Snapshot(arguments) => ("snapshot", snapshot::run(&arguments)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("vireo image {name}: {error:#}");
        ExitCode::FAILURE
    })
}
