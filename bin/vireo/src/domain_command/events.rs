//! `vireo events`: what happens to domains, as it happens.

mod kinds;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use libvirt_rpc::client::{Connection, Message};
use libvirt_rpc::procedures::ConnectDomainEventCallbackRegisterAny;
use libvirt_rpc::types::RemoteDomain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::json;

use self::kinds::{KINDS, Told, told};
use super::{as_json, seconds};
use crate::connection::{Attempt, Error, Exit, Options, connect, find_domain};
use crate::output::{harmless, print, print_json};
use crate::signals::{Arrived, Signals};

/// Print what happens to domains as it happens
///
/// With --json each event is a line.
#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    wanted: Wanted,
    /// End after this many events
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Print the next thing that happens to a domain, or with --loop all
#[derive(Debug, Args)]
pub(crate) struct EventArguments {
    #[command(flatten)]
    wanted: Wanted,
    /// Go on after the first
    #[arg(long = "loop")]
    go_on: bool,
}

#[derive(Debug, Args)]
struct Wanted {
    /// Only of this domain
    #[arg(short, long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Only of these kinds: names with commas, or all [default: all]
    #[arg(short, long, value_name = "KIND", value_delimiter = ',')]
    event: Vec<String>,
    /// Of all kinds
    #[arg(long, conflicts_with = "event")]
    all: bool,
    /// End after this many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Print when it happened as well
    #[arg(long)]
    timestamp: bool,
    /// Only print which kinds there are
    #[arg(long)]
    list: bool,
}

impl Wanted {
    /// Numbers of the kinds.
    fn kinds(&self) -> Result<Vec<i32>, Error> {
        let all = || KINDS.iter().map(|(number, _)| *number);
        if self.event.is_empty() || self.event.iter().any(|name| name == "all") {
            return Ok(all().collect());
        }
        let number = |name: &String| {
            let found = KINDS.iter().find(|(_, known)| known == name);
            found.map(|(number, _)| *number).ok_or_else(|| {
                let names = KINDS.iter().map(|(_, name)| (*name).to_owned()).collect();
                let near = crate::connection::near(name, names);
                let advice = match near.first() {
                    Some(near) => format!("did you mean {near}?"),
                    None => "`vireo events --list` shows which there are".to_owned(),
                };
                Error::trouble(Exit::Usage, format!("there is no kind of event {name:?}"), &advice)
            })
        };
        self.event.iter().map(number).collect()
    }
}

pub(super) fn run(arguments: &EventsArguments, options: &Options) -> Result<ExitCode, Error> {
    watch(&arguments.wanted, arguments.count, options)
}

pub(super) fn once(arguments: &EventArguments, options: &Options) -> Result<ExitCode, Error> {
    watch(&arguments.wanted, (!arguments.go_on).then_some(1), options)
}

fn watch(wanted: &Wanted, count: Option<u64>, options: &Options) -> Result<ExitCode, Error> {
    if wanted.list {
        let names: Vec<_> = KINDS.iter().map(|(_, name)| *name).collect();
        if options.json {
            print_json(&json!(names))?;
        } else {
            print(&format!("{}\n", names.join("\n")))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let kinds = wanted.kinds()?;
    let signals = Signals::hold().context("cannot hold signals back")?;
    let mut connection = connect(options)?;
    let domain = wanted.domain.as_ref().map(|given| find_domain(&mut connection, given)).transpose()?;
    register(&mut connection, &kinds, domain.as_ref(), wanted.event.is_empty())?;
    let deadline = wanted.timeout.map(|timeout| Instant::now() + timeout);
    let mut received: u64 = 0;
    let code = loop {
        if count.is_some_and(|count| received >= count) {
            break ExitCode::SUCCESS;
        }
        match next(&mut connection, &signals, deadline)? {
            Next::Message(message) => {
                if let Some(event) = told(&message).attempt(|| "cannot read an event".to_owned())? {
                    show(&event, wanted.timestamp, options.json)?;
                    received += 1;
                }
            }
            // Who asked for a number of events and gets fewer has to know.
            Next::Late if count.is_some() => break Exit::TimedOut.into(),
            Next::Late => break ExitCode::SUCCESS,
            Next::Signal(number) => break ExitCode::from(128u8.saturating_add(number)),
        }
    };
    if !options.json {
        print(&format!("events received: {received}\n"))?;
    }
    Ok(code)
}

/// Asks for events. Where all kinds are meant, those that the daemon doesn't know are done without.
fn register(
    connection: &mut Connection,
    kinds: &[i32],
    domain: Option<&RemoteDomain>,
    all: bool,
) -> Result<(), Error> {
    let mut known = false;
    let mut refused = None;
    for kind in kinds {
        let call = ConnectDomainEventCallbackRegisterAny { event_id: *kind, dom: domain.cloned() };
        match connection.call(&call).attempt(|| "cannot listen to events".to_owned()) {
            Ok(_) => known = true,
            Err(error) if all && error.exit() != Exit::Unreachable => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    refused.filter(|_| !known).map_or(Ok(()), Err)
}

enum Next {
    Message(Message),
    Signal(u8),
    /// The time is over.
    Late,
}

/// What comes next: an event, a signal, or the end of the time.
fn next(connection: &mut Connection, signals: &Signals, deadline: Option<Instant>) -> Result<Next, Error> {
    loop {
        while let Some(arrived) = signals.next() {
            if let Arrived::End(number) = arrived {
                return Ok(Next::Signal(number));
            }
        }
        let message = connection.next_event(Duration::ZERO);
        if let Some(message) = message.attempt(|| "cannot listen to events".to_owned())? {
            return Ok(Next::Message(message));
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Next::Late);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::new(&*connection, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(anyhow::Error::from(error).context("cannot wait for events").into()),
        }
    }
}

fn show(event: &Told, timestamp: bool, json: bool) -> Result<(), Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if json {
        let mut line = json!({ "event": event.kind, "time": now.as_secs_f64() });
        line["domain"] = event.domain.as_ref().map(as_json).into();
        for (name, value) in &event.details {
            line[*name] = value.clone();
        }
        return Ok(print(&format!("{line}\n"))?);
    }
    let time =
        if timestamp { format!("{}.{:03}: ", now.as_secs(), now.subsec_millis()) } else { String::new() };
    let name = event.domain.as_ref().map(|domain| harmless(&domain.name)).unwrap_or_default();
    let words: Vec<_> = event.details.iter().map(|(name, value)| event.word(name, value)).collect();
    let words = words.join(" ");
    let end = if words.is_empty() { String::new() } else { format!(": {words}") };
    Ok(print(&format!("{time}event '{}' for domain '{name}'{end}\n", event.kind))?)
}
