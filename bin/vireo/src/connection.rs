//! The connection of a verb to the daemon: options that every such verb has, how the daemon is found, how a domain is.
//!
//! The daemon is this project's own, or any other of libvirt's protocol. What it answers is checked and bounded by
//! [`libvirt_rpc`]; its words are shown without control characters. A daemon that doesn't answer any more is noticed by
//! keepalive messages, so that no verb waits forever.

mod error;

use std::io;
use std::time::Duration;

use clap::Args;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::client::{ClientError, Connection, Keepalive, own_sockets};
use libvirt_rpc::procedures::{
    ConnectListAllDomains, DomainLookupById, DomainLookupByName, DomainLookupByUuid,
};
use libvirt_rpc::types::RemoteDomain;
use libvirt_rpc::xdr::Uuid;

pub(crate) use error::{Attempt, EXIT_CODES, Error, Exit, report};

/// Where the daemon is found when no option says it.
const URI_VARIABLE: &str = "VIREO_URI";

/// How a daemon that is stuck is noticed: virsh's numbers.
const KEEPALIVE: Keepalive = Keepalive { interval: Duration::from_secs(5), count: 6 };

/// Names with a distance up to this, and a third of their length, are offered for one that is unknown.
const NEAR: usize = 3;
/// As many of them at most.
const NEAR_NAMES: usize = 3;

// No doc comment: clap would take it for the verb's description.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every verb that asks the daemon")]
pub(crate) struct Options {
    /// The daemon: a libvirt URI such as qemu:///system (libvirt's own default place) or qemu:///system?socket=PATH
    /// [default: VIREO_URI, or else vireod where it listens by default]
    #[arg(short, long, value_name = "URI")]
    pub(crate) connect: Option<String>,
    /// Connect for looking only: nothing can be changed
    #[arg(short, long)]
    pub(crate) readonly: bool,
    /// Answer in JSON, errors too
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    /// These, and what was said before the verb.
    pub(crate) fn or(self, before: &Self) -> Self {
        Self {
            connect: self.connect.or_else(|| before.connect.clone()),
            readonly: self.readonly || before.readonly,
            json: self.json || before.json,
        }
    }

    /// Whether any is given.
    pub(crate) fn any(&self) -> bool {
        self.connect.is_some() || self.readonly || self.json
    }
}

// A verb's own arguments, and the options of every verb.
#[derive(Debug, Args)]
pub(crate) struct With<V: Args> {
    #[command(flatten)]
    pub(crate) verb: V,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// Runs one of an enumeration's verbs; `$before` are the options in front of it.
macro_rules! run_verb {
    ($verb:expr, $before:expr, $($variant:path, $text:literal, $run:path;)*) => {{
        let (name, json, result) = match $verb {
            $($variant($crate::connection::With { verb, options }) => {
                let options = options.or($before);
                ($text, options.json, $run(&verb, &options))
            })*
        };
        result.unwrap_or_else(|error| $crate::connection::report(name, json, &error))
    }};
}
pub(crate) use run_verb;

/// Connects to the daemon that the options name, or VIREO_URI, or that is found at the default places.
///
/// # Errors
/// No daemon answers, or it refuses.
pub(crate) fn connect(options: &Options) -> Result<Connection, Error> {
    let variable = || std::env::var(URI_VARIABLE).ok().filter(|uri| !uri.is_empty());
    let mut connection = match options.connect.clone().or_else(variable) {
        Some(uri) => Connection::open(&uri, options.readonly).map_err(Error::Connect)?,
        None => connect_to_own(options.readonly)?,
    };
    connection.keep_alive(KEEPALIVE).map_err(Error::Connect)?;
    Ok(connection)
}

/// The first daemon of this project that answers. One that is there and refuses is not passed over.
fn connect_to_own(read_only: bool) -> Result<Connection, Error> {
    let mut tried = Vec::new();
    for path in own_sockets(read_only) {
        match Connection::open_socket(&path, None, read_only) {
            Err(ClientError::Connect { path, source })
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                tried.push(path);
            }
            other => return other.map_err(Error::Connect),
        }
    }
    Err(Error::NoDaemon(tried))
}

/// The domain that a person means: by number if it is one, by UUID if it looks like one, by name otherwise, as virsh does.
///
/// # Errors
/// There is none, with names that are nearly this one; or the daemon can't be asked.
pub(crate) fn find_domain(connection: &mut Connection, given: &str) -> Result<RemoteDomain, Error> {
    let missing = |error: &ClientError| matches!(error, ClientError::Daemon(error) if error.code == ErrorCode::NoDomain);
    if let Ok(id) = given.parse::<i32>()
        && id >= 0
    {
        match connection.call(&DomainLookupById { id }) {
            Ok(reply) => return Ok(reply.dom),
            Err(error) if missing(&error) => {}
            Err(error) => return Err(Error::daemon(format!("cannot look up domain {id}"), error)),
        }
    }
    if let Some(uuid) = uuid(given) {
        match connection.call(&DomainLookupByUuid { uuid }) {
            Ok(reply) => return Ok(reply.dom),
            Err(error) if missing(&error) => {}
            Err(error) => return Err(Error::daemon(format!("cannot look up domain {given}"), error)),
        }
    }
    match connection.call(&DomainLookupByName { name: given.to_owned() }) {
        Ok(reply) => Ok(reply.dom),
        Err(error) if missing(&error) => {
            // That there is no such domain is what matters: without the list nothing is offered.
            let all = connection.call(&ConnectListAllDomains { need_results: 1, flags: 0 });
            let names = all.map(|all| all.domains.into_iter().map(|domain| domain.name).collect());
            Err(Error::no_such("domain", given, names.unwrap_or_default()))
        }
        Err(error) => Err(Error::daemon(format!("cannot look up domain {given}"), error)),
    }
}

/// A UUID as it is printed.
pub(crate) fn uuid(text: &str) -> Option<Uuid> {
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (groups == [8, 4, 4, 4, 12] && digits.len() == 32).then(|| Uuid(number.to_be_bytes()))
}

/// Those of `names` that somebody may have meant who wrote `given`, the nearest first.
pub(crate) fn near(given: &str, names: Vec<String>) -> Vec<String> {
    let given_lower = given.to_lowercase();
    let most = NEAR.min(given.chars().count().div_ceil(3));
    let distance = |name: &String| {
        let lower = name.to_lowercase();
        let begins = given.len() > 2 && lower.starts_with(&given_lower);
        let edits = strsim::damerau_levenshtein(&lower, &given_lower);
        if begins { edits.min(1) } else { edits }
    };
    let mut found: Vec<_> = names
        .into_iter()
        .map(|name| (distance(&name), name))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    found.sort();
    found.into_iter().map(|(_, name)| name).take(NEAR_NAMES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let names = || ["demo", "demo-2", "Demos", "web", "db"].map(str::to_owned).to_vec();
        assert_eq!(near("dmeo", names()), ["demo", "Demos"]);
        assert_eq!(near("DEMO", names()), ["demo", "Demos", "demo-2"]);
        assert_eq!(near("wbe", names()), ["web"]);
        assert!(near("mail", names()).is_empty());
    }

    #[test]
    fn only_a_whole_uuid_is_one() {
        let text = "0c4b8f6e-12d3-4c5b-9e7a-0000000000ff";
        assert_eq!(uuid(text).unwrap().to_string(), text);
        assert_eq!(uuid(&text.to_uppercase()).unwrap().to_string(), text);
        for wrong in
            ["", &text[1..], &text.replace('-', ""), &text.replace('c', "x"), &text.replace('c', "é")]
        {
            assert_eq!(uuid(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_said_at_the_verb_counts_before_what_is_said_before_it() {
        let before = Options { connect: Some("a:///".into()), readonly: true, json: false };
        let own = Options { connect: Some("b:///".into()), ..Options::default() };
        let both = own.or(&before);
        assert_eq!((both.connect.as_deref(), both.readonly, both.json), (Some("b:///"), true, false));
        assert_eq!(Options::default().or(&before).connect.as_deref(), Some("a:///"));
        assert!(before.any() && !Options::default().any());
    }
}
