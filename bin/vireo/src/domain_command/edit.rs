//! `vireo edit`, and the person's editor.
//!
//! The connection is closed while the person thinks: it would have to answer the daemon's keepalive messages.

use std::io::{IsTerminal, Read, Seek, Write};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use libvirt_rpc::procedures::DomainGetXmlDesc;
use libvirt_rpc::types::RemoteDomain;
use libvirt_rpc::xdr::STRING_MAX;

use super::definition::{EDITABLE, define_as};
use super::{DomainArgument, answer};
use crate::connection::{Attempt, Error, Exit, Options, connect, find_domain};
use crate::output::print;

const AFTER_HELP: &str = "\
The editor is what VISUAL or EDITOR say, or else vi. Nothing happens to a definition that is left as it is. If the daemon refuses the
new one, it can be edited again; what a running machine has stays as it is until it is started again.";

/// Edit the XML of a domain's definition
#[derive(Debug, Args)]
#[command(before_help = AFTER_HELP)]
pub(crate) struct EditArguments {
    #[command(flatten)]
    domain: DomainArgument,
    /// Do not check it against the schema (accepted for scripts; the daemon's own checks are always made)
    #[arg(long)]
    skip_validate: bool,
}

/// Edits it.
pub(super) fn run(arguments: &EditArguments, options: &Options) -> Result<ExitCode, Error> {
    let mut connection = connect(options)?;
    let domain = arguments.domain.find(&mut connection)?;
    let before = document(&mut connection, &domain)?;
    drop(connection);
    let mut edited = before.clone();
    loop {
        edited = edit(&edited, ".xml")?;
        if edited == before {
            if options.json {
                return answer(options, &domain, "not changed");
            }
            print(&format!("Domain '{}' XML configuration not changed.\n", domain.name))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut connection = connect(options)?;
        // Who has changed it meanwhile must not be overruled.
        let now = find_domain(&mut connection, &domain.uuid.to_string())?;
        let trouble = if document(&mut connection, &now)? == before {
            let what = || format!("cannot define domain {}", domain.name);
            match define_as(&mut connection, edited.clone(), false).attempt(what) {
                Ok(domain) if options.json => return answer(options, &domain, "edited"),
                Ok(domain) => {
                    print(&format!("Domain '{}' XML configuration edited.\n", domain.name))?;
                    return Ok(ExitCode::SUCCESS);
                }
                Err(error) => error,
            }
        } else {
            let message = format!("the definition of domain {} was changed by another user", domain.name);
            return Err(Error::trouble(Exit::Failed, message, "edit it again"));
        };
        drop(connection);
        if trouble.exit() == Exit::Unreachable || !again(&trouble)? {
            return Err(trouble);
        }
    }
}

fn document(
    connection: &mut libvirt_rpc::client::Connection,
    domain: &RemoteDomain,
) -> Result<String, Error> {
    connection
        .call(&DomainGetXmlDesc { dom: domain.clone(), flags: EDITABLE })
        .attempt(|| format!("cannot get the XML of domain {}", domain.name))
        .map(|reply| reply.xml)
}

/// Asks whether to go on; nobody is asked who isn't there.
fn again(error: &Error) -> Result<bool, Error> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprintln!("{error}");
    loop {
        eprint!("Try again? [y,n]: ");
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).context("cannot read the answer")?;
        match line.trim() {
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ if read == 0 => return Ok(false),
            _ => {}
        }
    }
}

/// Has the person edit `text`; the file's name ends with `suffix`, by which editors know what it is.
pub(super) fn edit(text: &str, suffix: &str) -> anyhow::Result<String> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // Readable by this user only: there may be passwords in it.
    let mut file = tempfile::Builder::new().prefix("vireo").suffix(suffix).tempfile();
    let file = file.as_mut().map_err(|error| anyhow::anyhow!("cannot make a file to edit: {error}"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.flush()).context("cannot write the file to edit")?;
    // Editors are named with options (`code --wait`), so a shell reads it, as git and virsh have it read.
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{editor} \"$@\""))
        .arg(&editor)
        .arg(file.path())
        .status()
        .with_context(|| format!("cannot run the editor {editor}"))?;
    if !status.success() {
        bail!("the editor {editor} ended with {status}: nothing was changed; VISUAL or EDITOR name another");
    }
    // Some editors write another file under its name.
    let mut edited = std::fs::File::open(file.path()).context("cannot read what was edited")?;
    edited.rewind().context("cannot read what was edited")?;
    let limit = u64::try_from(STRING_MAX).unwrap_or(u64::MAX);
    let mut text = String::new();
    edited.take(limit + 1).read_to_string(&mut text).context("cannot read what was edited")?;
    if text.len() > STRING_MAX {
        bail!("what was edited is longer than {STRING_MAX} bytes");
    }
    Ok(text)
}
