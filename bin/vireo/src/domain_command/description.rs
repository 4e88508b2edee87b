//! `vireo desc` and `title`: what a domain is called for people.

use std::process::ExitCode;

use clap::Args;
use libvirt_rpc::ErrorCode;
use libvirt_rpc::procedures::{DomainGetMetadata, DomainSetMetadata};
use serde_json::json;

use super::{DomainArgument, METADATA_DESCRIPTION, METADATA_TITLE, as_json};
use crate::connection::{Attempt, Error, Options, connect};
use crate::documents::edit;
use crate::output::{harmless, print, print_json};

/// Show or set the description of a domain
#[derive(Debug, Args)]
pub(crate) struct DescArguments {
    #[command(flatten)]
    text: TextArguments,
    /// The title instead
    #[arg(long)]
    title: bool,
}

/// Show or set the title of a domain
#[derive(Debug, Args)]
pub(crate) struct TitleArguments {
    #[command(flatten)]
    text: TextArguments,
}

#[derive(Debug, Args)]
struct TextArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// The machine that runs
    #[arg(long)]
    live: bool,
    /// The definition
    #[arg(long)]
    config: bool,
    /// The machine if it runs, the definition otherwise (which is so without --live and --config)
    #[arg(long, conflicts_with_all = ["live", "config"])]
    current: bool,
    /// Edit it
    #[arg(long, conflicts_with = "new")]
    edit: bool,
    /// The new text; an empty one ('') removes it
    #[arg(value_name = "TEXT")]
    new: Vec<String>,
}

/// Which of the texts.
struct Which {
    kind: i32,
    name: &'static str,
}

const DESCRIPTION: Which = Which { kind: METADATA_DESCRIPTION, name: "description" };
const TITLE: Which = Which { kind: METADATA_TITLE, name: "title" };

pub(super) fn description(arguments: &DescArguments, options: &Options) -> Result<ExitCode, Error> {
    run(&arguments.text, options, &if arguments.title { TITLE } else { DESCRIPTION })
}

pub(super) fn title(arguments: &TitleArguments, options: &Options) -> Result<ExitCode, Error> {
    run(&arguments.text, options, &TITLE)
}

fn run(arguments: &TextArguments, options: &Options, which: &Which) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    // virDomainModificationImpact.
    let flags = u32::from(arguments.live) | u32::from(arguments.config) << 1;
    let about = || format!("the {} of domain {}", which.name, domain.name);
    let before = if arguments.new.is_empty() {
        let call = DomainGetMetadata { dom: domain.clone(), kind: which.kind, uri: None, flags };
        match connection.call(&call).attempt(|| format!("cannot get {}", about())) {
            Ok(reply) => Some(reply.metadata),
            Err(error) if error.code() == Some(ErrorCode::NoMetadata) => None,
            Err(error) => return Err(error),
        }
    } else {
        None
    };
    let new = match (arguments.edit, arguments.new.is_empty()) {
        (true, _) => {
            drop(connection);
            let before = before.clone().unwrap_or_default();
            let edited = edit(&before, ".txt")?;
            connection = connect(options)?;
            let edited = edited.trim_end_matches('\n').to_owned();
            if edited == before {
                print(&format!("Domain {} not changed\n", which.name))?;
                return Ok(ExitCode::SUCCESS);
            }
            edited
        }
        (false, false) => arguments.new.join(" "),
        (false, true) => {
            if options.json {
                let mut told = as_json(&domain);
                told[which.name] = json!(before);
                print_json(&told)?;
            } else {
                let nothing = || format!("No {} for domain: {}", which.name, domain.name);
                let shown: Vec<_> = before.unwrap_or_else(nothing).lines().map(harmless).collect();
                print(&format!("{}\n", shown.join("\n")))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    let metadata = (!new.is_empty()).then_some(new);
    let call =
        DomainSetMetadata { dom: domain.clone(), kind: which.kind, metadata, key: None, uri: None, flags };
    connection.call(&call).attempt(|| format!("cannot set {}", about()))?;
    if options.json {
        print_json(&json!({ "domain": as_json(&domain), "done": format!("{} updated", which.name) }))?;
    } else {
        print(&format!("Domain {} updated successfully\n", which.name))?;
    }
    Ok(ExitCode::SUCCESS)
}
