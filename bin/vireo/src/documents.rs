//! Documents of the daemon's objects as people read and write them: in files, and in their editor.
//!
//! While the person thinks the connection is closed: it would have to answer the daemon's keepalive messages.

use std::io::{IsTerminal, Read, Seek, Write};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use libvirt_rpc::client::Connection;
use libvirt_rpc::xdr::STRING_MAX;
use serde_json::Value;

use crate::connection::{Error, Exit, Options, connect};
use crate::output;

/// A document, as long as the protocol can carry.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let limit = u64::try_from(STRING_MAX).unwrap_or(u64::MAX);
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if text.len() > STRING_MAX {
        let message =
            format!("{}: longer than the {STRING_MAX} bytes that a document may have", path.display());
        return Err(Error::usage(message));
    }
    Ok(text)
}

/// Prints a document, with a line's end after it.
pub(crate) fn print(xml: &str) -> anyhow::Result<()> {
    let end = if xml.ends_with('\n') { "" } else { "\n" };
    output::print(&format!("{xml}{end}"))
}

/// How editing goes, for the help of verbs that do it.
pub(crate) const EDITING: &str = "\
The editor is what VISUAL or EDITOR say, or else vi. Nothing happens to a definition that is left as it is. If the daemon refuses the
new one, it can be edited again; what runs stays as it is until it is started again.";

/// An object whose definition is edited.
pub(crate) struct Edited<'a> {
    /// `domain`, `network`...
    pub(crate) kind: &'static str,
    /// Its name.
    pub(crate) name: &'a str,
    /// Who it is, in JSON.
    pub(crate) who: Value,
}

/// Has the person edit what `fetch` gives until the daemon takes it by `define`, or the person gives up.
///
/// # Errors
/// The definition can't be had, edited or defined, or was changed by somebody else meanwhile.
pub(crate) fn edit_definition(
    object: &Edited<'_>,
    options: &Options,
    fetch: impl Fn(&mut Connection) -> Result<String, Error>,
    define: impl Fn(&mut Connection, String) -> Result<(), Error>,
) -> Result<ExitCode, Error> {
    let answer = |words: &str, done: &str| {
        let done = if options.json { words } else { done };
        Ok(output::done(options.json, object.kind, object.name, object.who.clone(), done)?)
    };
    let before = fetch(&mut connect(options)?)?;
    let mut edited = before.clone();
    loop {
        edited = edit(&edited, ".xml")?;
        if edited == before {
            return answer("not changed", "XML configuration not changed.");
        }
        let mut connection = connect(options)?;
        // Who has changed it meanwhile must not be overruled.
        if fetch(&mut connection)? != before {
            let (kind, name) = (object.kind, object.name);
            let message = format!("the definition of {kind} {name} was changed by another user");
            return Err(Error::trouble(Exit::Failed, message, "edit it again"));
        }
        let trouble = match define(&mut connection, edited.clone()) {
            Ok(()) => return answer("edited", "XML configuration edited."),
            Err(error) => error,
        };
        drop(connection);
        if trouble.exit() == Exit::Unreachable || !again(&trouble)? {
            return Err(trouble);
        }
    }
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
pub(crate) fn edit(text: &str, suffix: &str) -> anyhow::Result<String> {
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
