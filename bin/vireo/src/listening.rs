//! Events of the daemon's objects, printed as they happen: what `vireo events` and `vireo network events` have in common.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use libvirt_rpc::client::{Connection, Message};
use libvirt_rpc::xdr::XdrError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::connection::{Attempt, Error, Exit, Options, connect, near};
use crate::domain_command::seconds;
use crate::output::{harmless, print, print_json};
use crate::signals::{Arrived, Signals};

/// What is listened to, how long and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
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

/// Kinds of events that can be listened to.
pub(crate) struct Kinds<'a> {
    /// Numbers and names.
    pub(crate) known: &'a [(i32, &'static str)],
    /// The command that lists them.
    pub(crate) list: &'static str,
}

impl Kinds<'_> {
    /// Numbers of those that are wanted.
    fn numbers(&self, wanted: &Wanted) -> Result<Vec<i32>, Error> {
        let all = || self.known.iter().map(|(number, _)| *number);
        if wanted.event.is_empty() || wanted.event.iter().any(|name| name == "all") {
            return Ok(all().collect());
        }
        let number = |name: &String| {
            let found = self.known.iter().find(|(_, known)| known == name);
            found.map(|(number, _)| *number).ok_or_else(|| {
                let names = self.known.iter().map(|(_, name)| (*name).to_owned()).collect();
                let advice = match near(name, names).first() {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("{} shows which there are", self.list),
                };
                Error::trouble(Exit::Usage, format!("there is no kind of event {name:?}"), &advice)
            })
        };
        wanted.event.iter().map(number).collect()
    }
}

/// An event in words.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) kind: &'static str,
    /// What it happened to: `domain`, `network`...
    pub(crate) about: &'static str,
    /// Its name.
    pub(crate) name: String,
    /// Who it is, in JSON.
    pub(crate) who: Value,
    pub(crate) details: Vec<(&'static str, Value)>,
}

impl Told {
    /// A detail for people: texts as they are, other things by name.
    fn word(&self, name: &str, value: &Value) -> String {
        match value {
            Value::String(text) if self.kind == "lifecycle" => text.clone(),
            Value::String(text) => format!("{name}={}", harmless(text)),
            other => format!("{name}={other}"),
        }
    }
}

/// Prints events: `find` finds the object that they have to be of, if any; `register` asks the daemon for those of one kind; `told` says what
/// a message means.
pub(crate) fn listen<O>(
    wanted: &Wanted,
    count: Option<u64>,
    options: &Options,
    kinds: &Kinds<'_>,
    find: impl FnOnce(&mut Connection) -> Result<O, Error>,
    register: impl Fn(&mut Connection, i32, &O) -> Result<(), Error>,
    told: impl Fn(&Message) -> Result<Option<Told>, XdrError>,
) -> Result<ExitCode, Error> {
    if wanted.list {
        let names: Vec<_> = kinds.known.iter().map(|(_, name)| *name).collect();
        if options.json {
            print_json(&json!(names))?;
        } else {
            print(&format!("{}\n", names.join("\n")))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let numbers = kinds.numbers(wanted)?;
    let signals = Signals::hold().context("cannot hold signals back")?;
    let mut connection = connect(options)?;
    let object = find(&mut connection)?;
    // Where all kinds are meant, those that the daemon doesn't know are done without.
    let (mut known, mut refused) = (false, None);
    for number in numbers {
        match register(&mut connection, number, &object) {
            Ok(()) => known = true,
            Err(error) if wanted.event.is_empty() && error.exit() != Exit::Unreachable => {
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    refused.filter(|_| !known).map_or(Ok(()), Err)?;
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
        line[event.about] = event.who.clone();
        for (name, value) in &event.details {
            line[*name] = value.clone();
        }
        return Ok(print(&format!("{line}\n"))?);
    }
    let time =
        if timestamp { format!("{}.{:03}: ", now.as_secs(), now.subsec_millis()) } else { String::new() };
    let words: Vec<_> = event.details.iter().map(|(name, value)| event.word(name, value)).collect();
    let words = words.join(" ");
    let end = if words.is_empty() { String::new() } else { format!(": {words}") };
    let (about, name) = (event.about, harmless(&event.name));
    Ok(print(&format!("{time}event '{}' for {about} '{name}'{end}\n", event.kind))?)
}
