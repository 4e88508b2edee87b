//! `vireo wait`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::addresses::{Source, addresses, reachable, sources};
use super::state::State;
use super::waiting::Watch;
use super::{DomainArgument, as_json, seconds};
use crate::connection::{Error, Exit, Options, connect};
use crate::output::{harmless, print, print_json};

/// Wait until a domain is in a state, or has an address
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["state", "address"])))]
pub(crate) struct WaitArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Wait until it is in this state
    #[arg(short, long, value_enum, value_name = "STATE")]
    state: Option<Awaited>,
    /// Wait until a network interface of it has an address, and print it
    #[arg(short, long)]
    address: bool,
    /// Where addresses are looked for [default: everywhere]
    #[arg(long, value_enum, value_name = "WHERE", requires = "address")]
    source: Option<Source>,
    /// Give up after this many seconds [default: never]
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
}

/// States that somebody may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Awaited {
    Running,
    #[value(alias = "shut-off", alias = "stopped")]
    Shutoff,
    Paused,
    Crashed,
}

impl Awaited {
    fn is(self, state: State) -> bool {
        match self {
            Self::Running => matches!(state, State::Running | State::Blocked),
            Self::Shutoff => state == State::ShutOff,
            Self::Paused => state == State::Paused,
            Self::Crashed => state == State::Crashed,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Shutoff => "shut off",
            Self::Paused => "paused",
            Self::Crashed => "crashed",
        }
    }
}

/// Waits.
pub(super) fn run(arguments: &WaitArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let deadline = arguments.timeout.map(|timeout| Instant::now() + timeout);
    let late = |what: String| {
        let waited = arguments.timeout.unwrap_or_default();
        let message = format!("domain {} {what} after {waited:?}", domain.name);
        Error::trouble(Exit::TimedOut, message, "`vireo domstate --reason` shows how it is")
    };
    let mut watch = Watch::begin(&mut connection, &domain);
    if let Some(awaited) = arguments.state {
        let found = watch.until(deadline, |watch| {
            let state = watch.state()?;
            Ok(awaited.is(state).then_some(state))
        })?;
        let state = found.ok_or_else(|| late(format!("is not {}", awaited.name())))?;
        if options.json {
            let mut told = as_json(&domain);
            told["state"] = json!(state.name());
            print_json(&told)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let found = watch.until(deadline, |watch| {
        if !watch.state()?.is_active() {
            let message = format!("domain {} is not running", domain.name);
            return Err(Error::trouble(Exit::WrongState, message, "`vireo start` starts a domain"));
        }
        let found = addresses(watch.connection(), &domain, sources(arguments.source.as_ref()))?;
        let found: Vec<_> = found.iter().flat_map(reachable).collect();
        Ok((!found.is_empty()).then_some(found))
    })?;
    let found = found.ok_or_else(|| late("has no address".to_owned()))?;
    if options.json {
        let mut told = as_json(&domain);
        told["addresses"] = found.iter().map(|(interface, address)| {
            json!({ "interface": interface.name, "mac": interface.hwaddr, "address": address })
        }).collect();
        print_json(&told)?;
    } else {
        print(&found.iter().map(|(_, address)| format!("{}\n", harmless(address))).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}
