//! Answering as qemu-img: what `vireo` does when it is called by that name, through a link.
//!
//! The verbs are those of `vireo image`. What is different from it: usage errors end with 1 (of compare with 2, because 1
//! means that images differ there), messages begin with the program's name, `-p` prints qemu-img's line on standard output,
//! and the format of an image that is only read may be left out and is then probed.
//!
//! What is different from qemu-img, because callers must not be harmed by it:
//! - the format of an image that is written to is never probed (`check -r`, `commit`, `rebase`, `resize`, `snapshot`);
//! - names are paths: `json:`, protocols, `--image-opts` and `--object` are refused;
//! - backing files are opened only below the image's directory (or one given with `--backing-directory`), with the format
//!   that the image records;
//! - `rebase` and `commit` refuse images with internal snapshots, whose content would change with what is below them;
//! - `info` opens nothing but the file, unless `--backing-chain` is given, and needs no lock;
//! - `amend`, `bitmap` and `dd` are missing; so are formats that nobody has disks in.
//!
//! How it is called was looked up in libvirt (storage driver), virt-manager, OpenStack (oslo.utils, nova, glance, cinder),
//! oVirt and libguestfs: `info --output=json --force-share`, `convert -f X -O Y -t none -W -n -m N`, `create -f qcow2 -o
//! backing_file=..,backing_fmt=..`, `measure --output=json`, `map --output=json`, `resize -f`, `rebase -u -b`.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use super::{EXIT_CODES, Verb};
use crate::output::print;

/// The version of qemu-img whose options and keys these are: what callers compare with the versions that they know.
const COMPATIBLE_VERSION: &str = "10.0.0";
/// Options of qemu-img that name an image otherwise than by a path.
const REFUSED: [&str; 4] = ["--image-opts", "--source-image-opts", "--target-image-opts", "--object"];

/// Whether the program was called by qemu-img's name.
pub(crate) fn called_as_qemu_img() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name() == Some(OsStr::new("qemu-img"))
}

/// What the program calls itself in messages.
pub(crate) fn program() -> &'static str {
    if called_as_qemu_img() { "qemu-img" } else { "vireo image" }
}

/// What a message of a verb begins with.
pub(crate) fn prefix(verb: &str) -> String {
    if called_as_qemu_img() { program().to_owned() } else { format!("{} {verb}", program()) }
}

#[derive(Debug, Parser)]
#[command(name = "qemu-img", max_term_width = 110, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

/// Does what qemu-img would be asked for.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let mut rest = arguments.get(1..).unwrap_or_default();
    // Options before the verb.
    loop {
        match rest.first().and_then(|option| option.to_str()) {
            None => return misuse("not enough arguments"),
            Some("-h" | "--help") => return show(&help()),
            Some("-V" | "--version") => return show(&version()),
            // There is nothing to be traced.
            Some("-T" | "--trace") => rest = rest.get(2..).unwrap_or_default(),
            Some(option) if option.starts_with("--trace=") || option.starts_with("-T") => rest = &rest[1..],
            Some(option) if option.starts_with('-') => {
                return misuse(&format!("there is no option {option} before the command"));
            }
            Some(_) => break,
        }
    }
    let refused = |option: &OsString| {
        let option = option.to_str()?.split('=').next()?;
        REFUSED.contains(&option).then(|| option.to_owned())
    };
    if let Some(option) = rest.iter().take_while(|option| *option != "--").find_map(refused) {
        return misuse(&format!("{option} is not supported: images are named by their paths"));
    }
    let verb = rest.first().cloned().unwrap_or_default();
    let line = std::iter::once(OsString::from("qemu-img")).chain(rest.iter().cloned());
    match CommandLine::try_parse_from(line) {
        Ok(line) => super::run(line.verb),
        Err(error) => {
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                return show(&error.render().to_string());
            }
            eprint!("{}", error.render().to_string().replacen("error: ", "qemu-img: ", 1));
            if verb == "compare" { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn misuse(what: &str) -> ExitCode {
    eprintln!("qemu-img: {what}\nTry 'qemu-img --help' for more info");
    ExitCode::FAILURE
}

fn show(text: &str) -> ExitCode {
    match print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn version() -> String {
    format!("qemu-img version {COMPATIBLE_VERSION} (Vireo {})\n", env!("CARGO_PKG_VERSION"))
}

fn help() -> String {
    use clap::{CommandFactory, ValueEnum};

    let verbs = CommandLine::command().render_help();
    let mut formats: Vec<String> = super::arguments::SourceFormat::value_variants()
        .iter()
        .filter_map(|format| Some(format.to_possible_value()?.get_name().to_owned()))
        .collect();
    formats.sort();
    let formats = formats.join(" ");
    // Programs look for either of the two lines, the newer and the older one.
    format!("{}{verbs}\nSupported image formats:\n\n  {formats}\n\nSupported formats: {formats}\n", version())
}
