//! Why a verb failed: what was tried on what, why it failed, what to do about it, and the exit code that tells scripts.

use std::path::PathBuf;
use std::process::ExitCode;

use libvirt_rpc::client::ClientError;
use libvirt_rpc::{ErrorCode, RpcError};
use serde_json::json;

use crate::output::{harmless, in_one_line};

/// For the help of every verb that asks the daemon.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it was tried and failed
  2  the options make no sense
  3  no daemon could be reached, or the connection broke
  4  there is no such domain (or pool, volume, network)
  5  the domain is in the wrong state for it (running or not, for example)
  6  this user or connection may not do it
  7  it took longer than it may
  8  this daemon can't do it
or 128 + n when signal n ended this command.";

/// The exit codes of verbs that ask the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was tried and failed.
    Failed = 1,
    /// The options make no sense.
    Usage = 2,
    /// No daemon could be reached, or the connection broke.
    Unreachable = 3,
    /// No such object.
    NoSuchObject = 4,
    /// The object is in the wrong state.
    WrongState = 5,
    /// Not allowed.
    Denied = 6,
    /// It took too long.
    TimedOut = 7,
    /// The daemon can't do this.
    Unsupported = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// Its name in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::NoSuchObject => "no-such-object",
            Self::WrongState => "wrong-state",
            Self::Denied => "denied",
            Self::TimedOut => "timed-out",
            Self::Unsupported => "unsupported",
        }
    }

    /// What libvirt's error numbers mean to a script.
    fn of(error: &RpcError) -> Self {
        use ErrorCode::*;
        match error.code {
            NoDomain | NoNetwork | NoNetworkPort | NoStoragePool | NoStorageVolume | NoNodeDevice
            | NoInterface | NoNetworkFilter | NoSecret | NoSnapshot | NoMetadata | DeviceMissing => {
                Self::NoSuchObject
            }
            OperationInvalid => Self::WrongState,
            OperationDenied | AccessDenied | AuthFailed => Self::Denied,
            OperationTimeout | AgentUnresponsive => Self::TimedOut,
            NoSupport | ArgumentUnsupported | ConfigUnsupported | OperationUnsupported | CpuIncompatible => {
                Self::Unsupported
            }
            // What daemons answer to procedures that are newer than they are.
            Rpc if error.message.contains("unknown procedure") => Self::Unsupported,
            _ => Self::Failed,
        }
    }
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The daemon that was named can't be reached, or refuses the connection.
    #[error("cannot connect to the daemon: {0}")]
    Connect(ClientError),
    /// There is no daemon of this project at these places.
    #[error("no vireod answers at {}", listed(.0))]
    NoDaemon(Vec<PathBuf>),
    /// The daemon could not do it, or went away meanwhile.
    #[error("{action}: {source}")]
    Daemon {
        /// What was tried on what, as in `cannot start domain demo`.
        action: String,
        /// What the daemon says.
        source: ClientError,
    },
    /// There is no such object.
    #[error("there is no {kind} {given:?}")]
    NoSuch {
        /// `domain`, `pool`...
        kind: &'static str,
        /// What was asked for.
        given: String,
        /// Names that may have been meant.
        near: Vec<String>,
    },
    /// Something else: what failed on what, and why.
    #[error("{message}")]
    Trouble {
        /// What it means to a script.
        exit: Exit,
        /// The whole message.
        message: String,
        /// What to do.
        advice: Option<String>,
    },
    /// Something failed at this side.
    #[error("{}", in_one_line(.0))]
    Local(#[from] anyhow::Error),
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" or ")
}

impl Error {
    /// The daemon could not do `action`.
    pub(crate) fn daemon(action: String, source: ClientError) -> Self {
        Self::Daemon { action, source }
    }

    /// There is no `kind` that is called `given`, of those with `names`.
    pub(crate) fn no_such(kind: &'static str, given: &str, names: Vec<String>) -> Self {
        Self::NoSuch { kind, given: given.to_owned(), near: super::near(given, names) }
    }

    /// An error of the verb itself.
    pub(crate) fn trouble(exit: Exit, message: String, advice: &str) -> Self {
        let advice = (!advice.is_empty()).then(|| advice.to_owned());
        Self::Trouble { exit, message, advice }
    }

    /// The options make no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::trouble(Exit::Usage, message.into(), "")
    }

    /// What it means to a script.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Connect(ClientError::Daemon(error)) => match Exit::of(error) {
                Exit::Denied => Exit::Denied,
                _ => Exit::Unreachable,
            },
            Self::Connect(ClientError::Uri(_)) => Exit::Usage,
            Self::Connect(ClientError::Connect { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Exit::Denied
            }
            Self::Daemon { source: ClientError::Daemon(error), .. } => Exit::of(error),
            Self::Daemon { source: ClientError::Message(_), .. } | Self::Local(_) => Exit::Failed,
            Self::Connect(_) | Self::NoDaemon(_) | Self::Daemon { .. } => Exit::Unreachable,
            Self::NoSuch { .. } => Exit::NoSuchObject,
            Self::Trouble { exit, .. } => *exit,
        }
    }

    /// The number of the daemon's own error (virErrorNumber), where there is one.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Connect(ClientError::Daemon(error))
            | Self::Daemon { source: ClientError::Daemon(error), .. } => Some(error.code),
            Self::NoSuch { kind: "domain", .. } => Some(ErrorCode::NoDomain),
            Self::NoSuch { kind: "network", .. } => Some(ErrorCode::NoNetwork),
            Self::NoSuch { kind: "storage pool", .. } => Some(ErrorCode::NoStoragePool),
            Self::NoSuch { kind: "volume", .. } => Some(ErrorCode::NoStorageVolume),
            _ => None,
        }
    }

    /// What to do, where that is known.
    pub(crate) fn advice(&self) -> Option<String> {
        let advice = match self {
            Self::NoDaemon(_) => "start vireod, or name another daemon with -c URI or VIREO_URI",
            Self::NoSuch { near, .. } if !near.is_empty() => {
                return Some(format!("did you mean {}?", near.join(" or ")));
            }
            Self::NoSuch { kind: "domain", .. } => "`vireo list --all` shows which there are",
            Self::NoSuch { kind: "network", .. } => "`vireo network list --all` shows which there are",
            Self::NoSuch { kind: "storage pool", .. } => "`vireo pool list --all` shows which there are",
            Self::Trouble { advice, .. } => return advice.clone(),
            Self::Connect(ClientError::Connect { .. }) if self.exit() == Exit::Denied => {
                "become a member of the group libvirt, look only with --readonly, or do it as root"
            }
            Self::Daemon { source: ClientError::Daemon(error), .. } => return daemon_advice(error),
            Self::Daemon { source: ClientError::Closed | ClientError::Unresponsive, .. } => {
                "see what the daemon's log says; what it was asked may or may not have been done"
            }
            _ => return None,
        };
        Some(advice.to_owned())
    }
}

/// What to do about an error of the daemon.
fn daemon_advice(error: &RpcError) -> Option<String> {
    let says = |words: &str| error.message.contains(words);
    let advice = match error.code {
        ErrorCode::NoDomain => "it may just have gone: `vireo list --all` shows which there are",
        ErrorCode::OperationDenied => "connect without --readonly",
        ErrorCode::NoNetwork => "it may just have gone: `vireo network list --all` shows which there are",
        ErrorCode::OperationInvalid if says("network") && (says("not active") || says("not running")) => {
            "`vireo network start` starts a network"
        }
        ErrorCode::OperationInvalid if says("network is already active") => {
            "`vireo network list` shows which are active"
        }
        ErrorCode::OperationInvalid if says("not running") => "`vireo start` starts a domain",
        ErrorCode::OperationInvalid if says("already running") || says("already active") => {
            "`vireo list` shows what runs"
        }
        ErrorCode::ResourceBusy | ErrorCode::OperationTimeout => "another job is at it: try again later",
        ErrorCode::AgentUnresponsive => "see that qemu-guest-agent runs in the guest",
        _ => return None,
    };
    Some(advice.to_owned())
}

/// Adds what was tried to what the daemon answers.
pub(crate) trait Attempt<T> {
    /// `action` says what was tried on what, as in `cannot start domain demo`.
    fn attempt(self, action: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<ClientError>> Attempt<T> for Result<T, E> {
    fn attempt(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::daemon(action(), source.into()))
    }
}

/// Tells the person, or the program, why `verb` failed.
pub(crate) fn report(verb: &str, json: bool, error: &Error) -> ExitCode {
    let exit = error.exit();
    let advice = error.advice();
    if json {
        let code = error.code().map(ErrorCode::number);
        let told = json!({ "error": {
            "kind": exit.name(), "message": error.to_string(), "advice": advice, "libvirt_code": code,
        } });
        eprintln!("{told}");
    } else {
        // A message may have lines, as those of XML have.
        let lines: Vec<_> = error.to_string().lines().map(harmless).collect();
        eprintln!("vireo {verb}: {}", lines.join("\n"));
        if let Some(advice) = advice {
            eprintln!("{}", harmless(&advice));
        }
    }
    exit.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(error: RpcError) -> Error {
        Error::daemon("cannot start domain demo".into(), error.into())
    }

    #[test]
    fn an_error_tells_what_failed_on_what_and_why() {
        let error = daemon(RpcError::invalid_operation("domain is already running"));
        assert_eq!(
            error.to_string(),
            "cannot start domain demo: Requested operation is not valid: domain is already running"
        );
        assert_eq!(error.exit(), Exit::WrongState);
        assert_eq!(error.advice().unwrap(), "`vireo list` shows what runs");
    }

    #[test]
    fn exit_codes_tell_kinds_of_errors_apart() {
        for (error, exit) in [
            (RpcError::no_domain("x"), Exit::NoSuchObject),
            (RpcError::read_only("virDomainCreate"), Exit::Denied),
            (RpcError::not_supported("virDomainCreate"), Exit::Unsupported),
            (RpcError::unknown_procedure(9999), Exit::Unsupported),
            (RpcError::timeout("x"), Exit::TimedOut),
            (RpcError::rpc("x"), Exit::Failed),
            (RpcError::internal("x"), Exit::Failed),
        ] {
            assert_eq!(daemon(error.clone()).exit(), exit, "{error}");
        }
        assert_eq!(Error::daemon(String::new(), ClientError::Closed).exit(), Exit::Unreachable);
        let refused = Error::Connect(RpcError::access_denied("no").into());
        assert_eq!(refused.exit(), Exit::Denied);
        assert_eq!(Error::NoDaemon(vec![]).exit(), Exit::Unreachable);
    }

    #[test]
    fn every_exit_code_is_in_the_help() {
        for exit in [
            Exit::Failed,
            Exit::Usage,
            Exit::Unreachable,
            Exit::NoSuchObject,
            Exit::WrongState,
            Exit::Denied,
            Exit::TimedOut,
            Exit::Unsupported,
        ] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}
