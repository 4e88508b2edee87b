//! The command line, read by hand.
//!
//! The options that describe the machine belong to [`machine_spec::flags`]; here are the few that are about the process.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use machine_spec::SpecError;
use machine_spec::flags::{FlagError, MachineFlags, MachineOption, OPTIONS};
use machine_spec::wire::VmConfig;
use vmm::Refusal;

/// Why nothing was started. Exit code 2.
#[derive(Debug)]
pub(crate) enum UsageError {
    /// An argument that is not text.
    NotText(OsString),
    /// An argument that is no option.
    Stray(String),
    /// An option at the end, without its value.
    NoValue(String),
    /// An option of the process given twice.
    Twice(&'static str),
    /// Neither a machine nor a way to be told of one.
    Nothing,
    /// An option that describes the machine is wrong.
    Flag(FlagError),
    /// The machine can't be.
    Spec(SpecError),
    /// The host can't have the machine.
    Refused(Refusal),
    /// Messages have nowhere to go.
    LogFile {
        /// Where they should go.
        path: PathBuf,
        /// Why they can't.
        error: std::io::Error,
    },
}

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotText(word) => write!(f, "argument {word:?} is not UTF-8 text: rename what it names"),
            Self::Stray(word) => write!(
                f,
                "argument {word:?} belongs to no option: give a repeatable option once for each value, see --help"
            ),
            Self::NoValue(option) => write!(f, "{option}: no value: see --help for what it takes"),
            Self::Twice(option) => write!(f, "{option}: given twice: give it once"),
            Self::Nothing => f.write_str(
                "nothing to do: describe a machine (--kernel FILE) or give --api-socket PATH, see --help",
            ),
            Self::Flag(error) => error.fmt(f),
            Self::Spec(error) => f.write_str(&as_option(error.to_string())),
            Self::Refused(error) => error.fmt(f),
            Self::LogFile { path, error } => {
                write!(f, "--log-file: cannot open {path:?}: {error}: choose a file that can be written")
            }
        }
    }
}

impl std::error::Error for UsageError {}

impl From<FlagError> for UsageError {
    fn from(error: FlagError) -> Self {
        Self::Flag(error)
    }
}

impl From<SpecError> for UsageError {
    fn from(error: SpecError) -> Self {
        Self::Spec(error)
    }
}

impl From<Refusal> for UsageError {
    fn from(error: Refusal) -> Self {
        Self::Refused(error)
    }
}

/// Descriptions name what is wrong as the control API does (`net[0]`); a person on the command line knows the option.
fn as_option(message: String) -> String {
    let Some(end) = message.find([':', '[']) else { return message };
    let (field, rest) = message.split_at(end);
    let option = match field {
        "disks" => "disk",
        "console_ports" => "console",
        other => other,
    };
    if OPTIONS.iter().any(|known| known.name == option) { format!("--{option}{rest}") } else { message }
}

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Version,
    Run(Box<Arguments>),
}

/// How to run.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    /// The machine, if one is described.
    pub(crate) machine: Option<VmConfig>,
    pub(crate) api_socket: Option<PathBuf>,
    pub(crate) event_monitor: Option<PathBuf>,
    pub(crate) log_file: Option<PathBuf>,
    /// How often `-v` was given.
    pub(crate) verbosity: u8,
}

/// Reads `words`, the arguments without the program's name.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut words = words.map(|word| word.into_string().map_err(UsageError::NotText));
    let mut arguments = Arguments::default();
    let mut machine = MachineFlags::default();
    while let Some(word) = words.next().transpose()? {
        let Some(option) = word.strip_prefix("--").filter(|option| !option.is_empty()) else {
            match word.as_str() {
                "-h" => return Ok(Command::Help),
                "-V" => return Ok(Command::Version),
                _ => match word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                    Some(letters) if letters.bytes().all(|letter| letter == b'v') => {
                        let times = u8::try_from(letters.len()).unwrap_or(u8::MAX);
                        arguments.verbosity = arguments.verbosity.saturating_add(times);
                    }
                    _ => return Err(UsageError::Stray(word)),
                },
            }
            continue;
        };
        let (option, attached) = match option.split_once('=') {
            Some((option, value)) => (option, Some(value.to_owned())),
            None => (option, None),
        };
        match option {
            "help" => return Ok(Command::Help),
            "version" => return Ok(Command::Version),
            "api-socket" | "event-monitor" | "log-file" => {}
            other if MachineOption::by_name(other).is_some() => {}
            // Before its value is looked for, so that the message is about the option.
            other => return Err(FlagError::UnknownOption { option: other.to_owned() }.into()),
        }
        let value = match attached {
            Some(value) => value,
            None => words.next().transpose()?.ok_or_else(|| UsageError::NoValue(format!("--{option}")))?,
        };
        match option {
            "api-socket" => take_path(&mut arguments.api_socket, "--api-socket", value)?,
            "event-monitor" => take_path(&mut arguments.event_monitor, "--event-monitor", value)?,
            "log-file" => take_path(&mut arguments.log_file, "--log-file", value)?,
            option => machine.take(option, &value)?,
        }
    }
    if !machine.is_empty() {
        arguments.machine = Some(machine.into_config());
    } else if arguments.api_socket.is_none() {
        return Err(UsageError::Nothing);
    }
    Ok(Command::Run(Box::new(arguments)))
}

fn take_path(place: &mut Option<PathBuf>, option: &'static str, value: String) -> Result<(), UsageError> {
    if value.is_empty() {
        return Err(UsageError::NoValue(option.to_owned()));
    }
    match place.replace(value.into()) {
        None => Ok(()),
        Some(_) => Err(UsageError::Twice(option)),
    }
}

/// The help text.
pub(crate) fn help() -> String {
    let mut text = String::from(
        "vireo-vmm: one virtual machine, one process\n\n\
         Usage: vireo-vmm --kernel FILE [MACHINE OPTIONS] [PROCESS OPTIONS]\n       \
         vireo-vmm --api-socket PATH [PROCESS OPTIONS]\n\n\
         Machine options:\n",
    );
    for option in OPTIONS {
        text.push_str(&format!("  --{} {}\n          {}\n", option.name, option.value, option.help));
    }
    text.push_str(
        "\n\
         A value with a comma in it goes between double quotes: --disk 'path=\"a,b.raw\",readonly=on'.\n\n\
         Process options:\n  \
           --api-socket PATH\n          \
             Listen there for requests (HTTP and JSON, as Cloud Hypervisor's API v1)\n  \
           --event-monitor FILE\n          \
             Append what happens to the machine to FILE, one line of JSON an event\n  \
           --log-file FILE\n          \
             Append messages to FILE [default: standard error]\n  \
           -v\n          \
             Say more: -v informs, -vv debugs, -vvv traces [default: warnings and errors]\n  \
           -h, --help\n          \
             Print this\n  \
           -V, --version\n          \
             Print the version\n\n\
         Exit codes:\n  \
           0  the guest powered off, or reset with --on-reset exit, or the process was told to end\n  \
           1  the guest crashed, or the host failed it while it ran\n  \
           2  what was asked for was refused before a guest started\n",
    );
    text
}

/// Prints to standard output; whoever reads may stop reading.
pub(crate) fn print(text: &str) {
    let mut output = std::io::stdout();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Arguments, String> {
        match parse(words.iter().map(OsString::from)) {
            Ok(Command::Run(arguments)) => Ok(*arguments),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_machine_and_the_process_are_described_in_any_order() {
        let words = [
            "-v",
            "--disk",
            "a",
            "--api-socket=/s",
            "--kernel=/k=1",
            "-vv",
            "--log-file",
            "/l",
            "--disk=path=b",
        ];
        let arguments = run(&words).unwrap();
        let machine = arguments.machine.unwrap();
        assert_eq!(machine.payload.kernel, Some("/k=1".into()));
        assert_eq!(machine.disks.unwrap().len(), 2);
        assert_eq!(arguments.api_socket, Some("/s".into()));
        assert_eq!(arguments.log_file, Some("/l".into()));
        assert_eq!(arguments.verbosity, 3);
    }

    #[test]
    fn a_process_with_a_socket_needs_no_machine() {
        assert!(run(&["--api-socket", "/s"]).unwrap().machine.is_none());
        assert!(run(&[]).unwrap_err().contains("nothing to do"));
        assert!(run(&["-v"]).unwrap_err().contains("nothing to do"));
    }

    #[test]
    fn a_value_may_look_like_an_option() {
        let arguments = run(&["--kernel", "--weird", "--cmdline", "-- init"]).unwrap();
        assert_eq!(arguments.machine.unwrap().payload.cmdline.as_deref(), Some("-- init"));
    }

    #[test]
    fn mistakes_are_named_in_one_line() {
        for (words, expected) in [
            (vec!["--floppy", "a"], "--floppy: unknown option"),
            (vec!["--kernel"], "--kernel: no value"),
            (vec!["--kernel="], "--kernel: no value"),
            (vec!["--api-socket", ""], "--api-socket: no value"),
            (vec!["--api-socket", "a", "--api-socket", "b"], "--api-socket: given twice"),
            (vec!["--kernel", "a", "--kernel", "b"], "--kernel: given twice"),
            (vec!["--disk", "path=a", "path=b"], "argument \"path=b\" belongs to no option"),
            (vec!["-x"], "argument \"-x\""),
            (vec!["-"], "argument \"-\""),
            (vec!["--"], "argument \"--\""),
            (vec!["--memory", "lots"], "--memory: size \"lots\" is not understood"),
        ] {
            let text = run(&words).unwrap_err();
            assert!(text.contains(expected) && !text.contains('\n'), "{words:?}: {text}");
        }
    }

    #[test]
    fn an_argument_that_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let error = parse([OsString::from_vec(vec![b'-', 0xff])].into_iter()).unwrap_err();
        assert!(error.to_string().contains("is not UTF-8"), "{error}");
    }

    #[test]
    fn help_has_every_option_and_exit_code() {
        let help = help();
        for option in OPTIONS {
            assert!(help.contains(&format!("\n  --{} {}\n", option.name, option.value)), "{}", option.name);
        }
        for part in [
            "\n  --api-socket PATH\n",
            "\n  --event-monitor FILE\n",
            "\n  --log-file FILE\n",
            "\n  0  ",
            "\n  1  ",
            "\n  2  ",
        ] {
            assert!(help.contains(part), "{part:?} in {help}");
        }
    }
}
