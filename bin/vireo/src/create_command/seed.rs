//! The cloud-init seed of a new machine, out of the command line.

use std::path::{Path, PathBuf};

use anyhow::Context;
use guest_identity::cloud_init::{Seed, SeedError, SeedNetwork, SshKey, check_host_name};

use super::Arguments;
use crate::connection::{Error, Exit};

/// Longest file that is read into a seed.
const MOST_BYTES: u64 = guest_identity::cloud_init::MOST_DOCUMENT_BYTES as u64;

/// The volume, if anything is to be told.
pub(super) fn volume(arguments: &Arguments, instance: &str, has_nic: bool) -> Result<Option<Vec<u8>>, Error> {
    if !arguments.has_seed() {
        return Ok(None);
    }
    let wrong = |error: SeedError| Error::usage(error.to_string());
    let own_name = || Some(arguments.name.clone()).filter(|name| check_host_name(name).is_ok());
    let network = match arguments.network_config.as_deref() {
        Some("none") => SeedNetwork::Unsaid,
        Some("dhcp") => SeedNetwork::Dhcp,
        Some(file) => SeedNetwork::Document(read(Path::new(file), "--network-config")?),
        None if has_nic => SeedNetwork::Dhcp,
        None => SeedNetwork::Unsaid,
    };
    let seed = Seed {
        instance_id: instance.to_owned(),
        host_name: arguments.hostname.clone().or_else(own_name),
        user: arguments.user.clone(),
        keys: keys(arguments)?,
        password_hash: arguments.password_hash.clone(),
        network,
        user_data: arguments.user_data.as_deref().map(|path| read(path, "--user-data")).transpose()?,
    };
    seed.volume().map(Some).map_err(wrong)
}

/// The keys that are named; for a user without any and without a password, those of the caller.
fn keys(arguments: &Arguments) -> Result<Vec<SshKey>, Error> {
    let mut found = Vec::new();
    let parse = |text: &str, origin: &str| {
        SshKey::parse_all(text, origin).map_err(|error| Error::usage(format!("--ssh-key: {error}")))
    };
    for given in &arguments.ssh_key {
        if given.contains(' ') && !Path::new(given).exists() {
            found.extend(parse(given, "the argument")?);
        } else {
            found.extend(parse(&read(Path::new(given), "--ssh-key")?, given)?);
        }
    }
    if arguments.user.is_none() || !found.is_empty() || arguments.password_hash.is_some() {
        return Ok(found);
    }
    for path in own_keys() {
        // Not every file of that name is a key.
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        found.extend(SshKey::parse_all(&text, "").unwrap_or_default());
    }
    if found.is_empty() {
        let advice = "give a key with --ssh-key FILE, or a password with --password-hash HASH";
        let message = "nobody could log in: there is no key, and none in ~/.ssh";
        return Err(Error::trouble(Exit::Usage, message.to_owned(), advice));
    }
    Ok(found)
}

fn own_keys() -> Vec<PathBuf> {
    let Some(home) = std::env::var_os("HOME") else { return Vec::new() };
    let entries = std::fs::read_dir(Path::new(&home).join(".ssh"));
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "pub")).collect();
    found.sort();
    found
}

fn read(path: &Path, option: &str) -> Result<String, Error> {
    use std::io::Read;
    let context = || format!("{option}: cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(context)?;
    let mut text = String::new();
    file.take(MOST_BYTES + 1).read_to_string(&mut text).with_context(context)?;
    Ok(text)
}
