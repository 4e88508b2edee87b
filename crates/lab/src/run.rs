//! Runs a command in the emulated host: hands over the job, passes the streams on in both directions, hands back the exit code.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::LabError;
use crate::machine::{Machine, Start};
use crate::qmp::Qmp;
use crate::report::Verbosity;
use crate::run_folder::RunFolder;
use crate::session::Session;
use crate::shape::{Files, Memory, SHARES, Shape};
use crate::snapshot::Snapshot;
use crate::{Context, INSIDE, command, setup};

/// Said at the start of a run that somebody watches.
const NOTICE: &str = "an emulated AMD-V host (QEMU's software CPU): programs and guests run 3 to 30 times slower than on a real one";

/// How to run a command.
#[derive(Debug, Clone)]
pub struct Options {
    /// The machine.
    pub shape: Shape,
    /// Huge pages of 2 MiB to reserve.
    pub huge_pages_2m: u32,
    /// Huge pages of 1 GiB to reserve.
    pub huge_pages_1g: u32,
    /// Directories of this machine that the command can write to, at most [`SHARES`]; created if they are missing.
    pub shares: Vec<PathBuf>,
    /// The run is ended when it takes longer. Setting up and making a snapshot do not count.
    pub time_limit: Duration,
    /// Pass standard input on.
    pub standard_input: bool,
    /// Resume from a snapshot; otherwise start cold.
    pub snapshot: bool,
    /// Wait until no other run with this set goes on: two of them only slow each other down.
    pub alone: bool,
    /// Keep the console's output in this file.
    pub console: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            shape: Shape::default(),
            huge_pages_2m: 0,
            huge_pages_1g: 0,
            shares: Vec::new(),
            time_limit: Duration::from_secs(300),
            standard_input: false,
            snapshot: true,
            alone: true,
            console: None,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this exit code (128 + n when signal n ended it).
    Exited(u8),
    /// The time limit was exceeded.
    TimedOut,
    /// There is no such command.
    NotFound,
    /// Nobody reads standard output or standard error any more.
    OutputClosed,
}

impl Outcome {
    /// The exit code for the caller: as a shell and timeout(1) have them.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Exited(code) => code,
            Outcome::TimedOut => 124,
            Outcome::NotFound => 127,
            Outcome::OutputClosed => 141,
        }
    }
}

/// Runs `command` (program and arguments) in the emulated host; sets up what is missing first.
///
/// # Errors
/// When the machine can't be set up, started or dies, or a signal comes ([`LabError::Interrupted`]).
pub fn run(context: &Context, options: &Options, command: &[OsString]) -> Result<Outcome, LabError> {
    options.shape.check()?;
    options.shape.check_huge_pages(options.huge_pages_2m, options.huge_pages_1g)?;
    let Some((program, arguments)) = command.split_first() else {
        return Err(LabError::Shape("no command".to_owned()));
    };
    let Some(program) = command::find(program) else {
        context.report.say(format_args!("{}: command not found", program.display()));
        return Ok(Outcome::NotFound);
    };
    let shares = shares(&options.shares)?;
    let kernel = setup::ready_host(context)?;
    if std::io::stderr().is_terminal() || context.report.verbosity() == Verbosity::Timings {
        context.report.say(NOTICE);
    }
    let _alone = if options.alone {
        Some(context.cache.lock(setup::RUN_LOCK, "another lab", &context.report, &context.interrupt)?)
    } else {
        None
    };
    let folder = RunFolder::create()?;
    folder.write("job", &job(context, &program, arguments)?)?;
    folder.write("settings", &settings(&kernel.folder.join("lib/modules"), options, &shares))?;
    let (kernel, initramfs) = (kernel.vmlinux(), context.cache.path(setup::HOST_IMAGE));
    let files = Files { kernel: &kernel, initramfs: &initramfs, shares: &shares, empty: &folder.empty() };
    let result = execute(context, options, &files, &folder);
    match &result {
        Ok(Outcome::TimedOut) => tail(context, &folder, 12),
        Err(LabError::Died(_) | LabError::Qemu(_)) => tail(context, &folder, 25),
        _ => {}
    }
    if let Some(to) = &options.console
        && folder.console().exists()
    {
        std::fs::copy(folder.console(), to).map_err(LabError::file("writing", to))?;
    }
    result
}

fn execute(
    context: &Context,
    options: &Options,
    files: &Files<'_>,
    folder: &RunFolder,
) -> Result<Outcome, LabError> {
    let wanted = options.snapshot && options.shape.can_be_saved();
    let snapshot = match wanted.then(|| Snapshot::of(context, &options.shape, files, folder)) {
        Some(Err(LabError::Interrupted)) => return Err(LabError::Interrupted),
        Some(Err(error)) => {
            context.report.say(format_args!("no snapshot ({error}): starting cold"));
            None
        }
        Some(Ok(snapshot)) => Some(snapshot),
        None => None,
    };
    let until = Instant::now() + options.time_limit;
    // Held until the end: pruning leaves a snapshot that is in use alone.
    let resumed = snapshot.as_ref().map(|snapshot| snapshot.resume(context, &options.shape, files, folder));
    let (machine, qmp) = match resumed {
        Some(Ok(resumed)) => resumed,
        Some(Err(LabError::Interrupted)) => return Err(LabError::Interrupted),
        Some(Err(error)) => {
            context.report.say(format_args!("the snapshot can't be resumed ({error}): starting cold"));
            snapshot.into_iter().for_each(Snapshot::discard);
            cold(context, options, files, folder)?
        }
        None => cold(context, options, files, folder)?,
    };
    context.report.detail("the emulated host runs");
    Session::new(context, machine, qmp, options, until).serve(folder)
}

fn cold<'c>(
    context: &'c Context,
    options: &Options,
    files: &Files<'_>,
    folder: &RunFolder,
) -> Result<(Machine, Qmp<'c>), LabError> {
    let (machine, monitor) = Machine::start(&options.shape, files, Memory::Anonymous, Start::Cold, folder)?;
    let qmp = Qmp::connect(monitor, &context.interrupt)?;
    Ok((machine, qmp))
}

/// The directories to share, as absolute paths that exist.
fn shares(wanted: &[PathBuf]) -> Result<Vec<PathBuf>, LabError> {
    if wanted.len() > SHARES {
        return Err(LabError::Shape(format!(
            "{} directories to share: at most {SHARES} can be",
            wanted.len()
        )));
    }
    let absolute = |path: &PathBuf| {
        std::fs::create_dir_all(path).map_err(LabError::file("creating", path))?;
        std::path::absolute(path).map_err(LabError::file("resolving", path))
    };
    wanted.iter().map(absolute).collect()
}

/// `text` as one word of a shell script.
fn quoted(text: &OsStr) -> Vec<u8> {
    let mut word = vec![b'\''];
    for &byte in text.as_bytes() {
        if byte == b'\'' {
            word.extend_from_slice(b"'\\''");
        } else {
            word.push(byte);
        }
    }
    word.push(b'\'');
    word
}

/// A shell script that becomes the command, with this process's environment and working directory.
fn job(context: &Context, program: &Path, arguments: &[OsString]) -> Result<Vec<u8>, LabError> {
    let here = std::env::current_dir().map_err(LabError::file("finding", "the working directory"))?;
    let mut script = [b"cd ", quoted(here.as_os_str()).as_slice(), b" || exit 125\n"].concat();
    let ours = [
        (OsString::from(INSIDE), OsString::from("1")),
        (OsString::from("VIREO_LAB_CACHE"), context.cache.root().into()),
    ];
    for (name, value) in std::env::vars_os().chain(ours) {
        if is_shell_name(name.as_bytes()) {
            script.extend([b"export ", name.as_bytes(), b"=", &quoted(&value), b"\n"].concat());
        }
    }
    script.extend(b"exec setsid ");
    script.extend(quoted(program.as_os_str()));
    for argument in arguments {
        script.push(b' ');
        script.extend(quoted(argument));
    }
    script.push(b'\n');
    Ok(script)
}

fn is_shell_name(name: &[u8]) -> bool {
    let starts = name.first().is_some_and(|&first| first == b'_' || first.is_ascii_alphabetic());
    starts && name.iter().all(|&byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// What `lab/host-init` reads.
fn settings(modules: &Path, options: &Options, shares: &[PathBuf]) -> Vec<u8> {
    let standard_input = if options.standard_input { "1" } else { "" };
    let mut text = [b"MODULES=", quoted(modules.as_os_str()).as_slice(), b"\n"].concat();
    text.extend(
        format!(
            "HUGEPAGES_2M={}\nHUGEPAGES_1G={}\nSTDIN={standard_input}\nSHARE_CACHE=mmap\nSHARES={}\n",
            options.huge_pages_2m,
            options.huge_pages_1g,
            shares.len()
        )
        .bytes(),
    );
    for (index, share) in shares.iter().enumerate() {
        text.extend([format!("SHARE{index}=").as_bytes(), &quoted(share.as_os_str()), b"\n"].concat());
    }
    text
}

/// Shows the end of what QEMU and the console wrote.
fn tail(context: &Context, folder: &RunFolder, lines: usize) {
    for (name, path) in [("qemu", folder.qemu_log()), ("the console", folder.console())] {
        let Ok(bytes) = std::fs::read(path) else { continue };
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let all: Vec<&str> = text.lines().collect();
        if !all.is_empty() {
            context.report.say(format_args!("the last lines of {name}:"));
            for line in &all[all.len().saturating_sub(lines)..] {
                context.report.say(format_args!("  {line}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_through_a_shell_as_they_were() {
        for word in ["plain", "", "it's", "a b", "$HOME `id` \\ \" \n *", "'", "\u{e4}"] {
            let script = [b"printf %s ", quoted(OsStr::new(word)).as_slice()].concat();
            let output =
                std::process::Command::new("sh").arg("-c").arg(OsStr::from_bytes(&script)).output().unwrap();
            assert_eq!(output.stdout, word.as_bytes());
        }
    }

    #[test]
    fn only_names_that_a_shell_can_export_are_exported() {
        assert!(is_shell_name(b"PATH") && is_shell_name(b"_x1"));
        for name in [b"".as_slice(), b"1a", b"a-b", b"a.b", b"BASH_FUNC_x%%", b"\xc3"] {
            assert!(!is_shell_name(name), "{name:?}");
        }
    }

    #[test]
    fn settings_are_shell_assignments() {
        let options = Options { huge_pages_2m: 7, standard_input: true, ..Options::default() };
        let shares = [PathBuf::from("/a b"), PathBuf::from("/c")];
        let text = String::from_utf8(settings(Path::new("/m"), &options, &shares)).unwrap();
        let wanted = "MODULES='/m'\nHUGEPAGES_2M=7\nHUGEPAGES_1G=0\nSTDIN=1\nSHARE_CACHE=mmap\nSHARES=2\n\
                      SHARE0='/a b'\nSHARE1='/c'\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn more_shares_than_slots_are_refused() {
        let five = vec![PathBuf::from("/tmp"); 5];
        assert!(shares(&five).unwrap_err().to_string().contains("at most 4"));
    }
}
