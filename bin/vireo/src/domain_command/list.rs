//! `vireo list`.

use std::cmp::Ordering;
use std::process::ExitCode;

use clap::Args;
use crossterm::style::Color;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::{ConnectListAllDomains, DomainGetAutostart, DomainGetMetadata, DomainGetState};
use libvirt_rpc::types::RemoteDomain;
use serde_json::json;

use super::addresses::known;
use super::state::State;
use super::{METADATA_TITLE, as_json};
use crate::connection::{Attempt, Error, Options, connect};
use crate::output::{colours, harmless, print, print_json};
use crate::table::{Cell, Table};

/// List domains: those that run, or as asked for
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own, as virsh has them")]
pub(crate) struct ListArguments {
    /// All domains, running or not
    #[arg(short, long)]
    all: bool,
    /// Only domains that do not run
    #[arg(long)]
    inactive: bool,
    /// Only persistent domains
    #[arg(long)]
    persistent: bool,
    /// Only transient domains
    #[arg(long)]
    transient: bool,
    /// Only domains in the state running (may be combined with other states)
    #[arg(long)]
    state_running: bool,
    /// Only domains in the state paused
    #[arg(long)]
    state_paused: bool,
    /// Only domains in the state shut off
    #[arg(long)]
    state_shutoff: bool,
    /// Only domains in other states
    #[arg(long)]
    state_other: bool,
    /// Only domains that start with the daemon
    #[arg(long)]
    autostart: bool,
    /// Only domains that do not start with the daemon
    #[arg(long)]
    no_autostart: bool,
    /// Print only names
    #[arg(long)]
    name: bool,
    /// Print only UUIDs (with --name: names as well)
    #[arg(long)]
    uuid: bool,
    /// Print only numbers
    #[arg(long)]
    id: bool,
    /// Print the table (which is so without --name, --uuid and --id)
    #[arg(long, conflicts_with_all = ["name", "uuid", "id"])]
    table: bool,
    /// Show titles in the table
    #[arg(long, conflicts_with_all = ["name", "uuid", "id"])]
    title: bool,
    /// Show addresses of network interfaces in the table
    #[arg(long, conflicts_with_all = ["name", "uuid", "id"])]
    addresses: bool,
}

impl ListArguments {
    /// virConnectListAllDomainsFlags.
    fn filters(&self) -> u32 {
        const ACTIVE: u32 = 1;
        const INACTIVE: u32 = 2;
        let states = [self.state_running, self.state_paused, self.state_shutoff, self.state_other];
        let any_state = states.contains(&true);
        let given = [
            (INACTIVE, self.inactive || self.all),
            // Who asks for a state means all that are in it.
            (ACTIVE | INACTIVE, any_state),
            (ACTIVE, self.all || !self.inactive),
            (4, self.persistent),
            (8, self.transient),
            (16, self.state_running),
            (32, self.state_paused),
            (64, self.state_shutoff),
            (128, self.state_other),
            (1024, self.autostart),
            (2048, self.no_autostart),
        ];
        given.into_iter().filter(|(_, given)| *given).fold(0, |flags, (flag, _)| flags | flag)
    }
}

/// A domain and how it is.
struct Row {
    domain: RemoteDomain,
    state: State,
    reason: &'static str,
}

/// Prints the list.
pub(super) fn run(arguments: &ListArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let call = ConnectListAllDomains { need_results: 1, flags: arguments.filters() };
    let listed = connection.call(&call).attempt(|| "cannot list domains".to_owned())?;
    let mut domains = listed.domains;
    // As virsh: what runs in the order in which it was started, then the others by name.
    domains.sort_by(|a, b| match (a.id >= 0, b.id >= 0) {
        (true, true) => a.id.cmp(&b.id),
        (false, false) => a.name.cmp(&b.name),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    });
    if !options.json && (arguments.name || arguments.uuid || arguments.id) {
        print(&words(arguments, &domains))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::with_capacity(domains.len());
    for domain in domains {
        rows.extend(row(&mut connection, domain)?);
    }
    if options.json {
        let mut told = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut value = as_json(&row.domain);
            value["state"] = json!(row.state.name());
            value["reason"] = json!(row.reason);
            let autostart = connection.call(&DomainGetAutostart { dom: row.domain.clone() });
            value["autostart"] = json!(autostart.ok().map(|reply| reply.autostart != 0));
            value["title"] = json!(title(&mut connection, &row.domain));
            if arguments.addresses {
                value["addresses"] = json!(known(&mut connection, &row.domain));
            }
            told.push(value);
        }
        print_json(&told.into())?;
    } else {
        print(&table(arguments, &mut connection, &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How a domain is; none when it has just gone.
fn row(connection: &mut Connection, domain: RemoteDomain) -> Result<Option<Row>, Error> {
    match connection.call(&DomainGetState { dom: domain.clone(), flags: 0 }) {
        Ok(reply) => {
            let state = State::from_number(reply.state);
            Ok(Some(Row { domain, state, reason: state.reason(reply.reason) }))
        }
        Err(ClientError::Daemon(error)) if error.code == ErrorCode::NoDomain => Ok(None),
        Err(error) => Err(Error::daemon(format!("cannot learn the state of domain {}", domain.name), error)),
    }
}

/// Names, UUIDs and numbers, a line a domain.
fn words(arguments: &ListArguments, domains: &[RemoteDomain]) -> String {
    let mut text = String::new();
    for domain in domains {
        let id = || if domain.id < 0 { "-".to_owned() } else { domain.id.to_string() };
        let words = [
            arguments.id.then(id),
            arguments.uuid.then(|| domain.uuid.to_string()),
            arguments.name.then(|| harmless(&domain.name)),
        ];
        text.push_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "));
        text.push('\n');
    }
    text
}

fn table(arguments: &ListArguments, connection: &mut Connection, rows: &[Row]) -> String {
    let mut heading = vec!["Id", "Name", "State"];
    heading.extend(arguments.title.then_some("Title"));
    heading.extend(arguments.addresses.then_some("Addresses"));
    let mut table = Table::new(&heading);
    for row in rows {
        let id = if row.domain.id < 0 { "-".to_owned() } else { row.domain.id.to_string() };
        let mut cells = vec![
            id.into(),
            Cell::from(&row.domain.name),
            Cell::coloured(row.state.name(), colour(row.state)),
        ];
        if arguments.title {
            cells.push(title(connection, &row.domain).unwrap_or_default().into());
        }
        if arguments.addresses {
            cells.push(known(connection, &row.domain).join(" ").into());
        }
        table.row(cells);
    }
    table.text(colours())
}

/// What a domain is called for people; none as well when it can't be learnt.
fn title(connection: &mut Connection, domain: &RemoteDomain) -> Option<String> {
    let call = DomainGetMetadata { dom: domain.clone(), kind: METADATA_TITLE, uri: None, flags: 0 };
    connection.call(&call).ok().map(|reply| reply.metadata)
}

/// How states look on a terminal.
pub(super) fn colour(state: State) -> Option<Color> {
    match state {
        State::Running | State::Blocked => Some(Color::Green),
        State::Paused | State::ShuttingDown | State::Suspended => Some(Color::Yellow),
        State::Crashed => Some(Color::Red),
        State::ShutOff | State::Unknown => None,
    }
}
