//! Settings of the kernel's network (Documentation/networking/ip-sysctl.rst).
//!
//! Settings of a network's own bridge go with the bridge. Those of the whole host are changed only when they have to be; what was
//! there before is written down first, so that whoever comes after a crash can put it back.
//!
//! Forwarding is what the host as a whole does: others may rely on it by the time that our last network stops. It is put back
//! when (1) it was changed by us, (2) it still has the value that we gave it, and (3) nobody else has rules for packets
//! that are forwarded or translated (see `crate::host`). Otherwise it stays, and is said to stay.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Whether the host forwards packets. With each change the kernel changes settings that belong to it, see [`Record::forward`].
pub(crate) const IPV4_FORWARDING: &str = "ipv4/ip_forward";
/// The same for IPv6.
pub(crate) const IPV6_FORWARDING: &str = "ipv6/conf/all/forwarding";
/// Whether redirects are believed; a router does not, so the kernel turns it off and on with forwarding.
const REDIRECTS: &str = "ipv4/conf/all/accept_redirects";

/// Where settings are, as the reading thread's network namespace has them.
const ROOT: &str = "/proc/sys/net";

/// Reads a setting.
pub(crate) fn read(key: &str) -> io::Result<String> {
    Ok(fs::read_to_string(Path::new(ROOT).join(key))?.trim().to_owned())
}

/// Changes a setting.
pub(crate) fn write(key: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new(ROOT).join(key), value)
}

/// Changes a setting that has another value; one that the kernel does not have is fine.
pub(crate) fn ensure(key: &str, value: &str) -> io::Result<()> {
    match read(key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(found) if found == value => Ok(()),
        _ => write(key, value),
    }
}

/// What the host had before.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    /// The value that was found and the value that was given, by setting.
    changed: BTreeMap<String, (String, String)>,
}

impl Record {
    /// Reads what was written down; a line that makes no sense is none.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("sysctls");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let changed = text.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (key, found, given) = (words.next()?, words.next()?, words.next()?);
            let known = Path::new(key).components().all(|part| matches!(part, Component::Normal(_)));
            known.then(|| (key.to_owned(), (found.to_owned(), given.to_owned())))
        });
        let changed = changed.collect();
        let record = Self { path, changed };
        remove(&record.new_path())?;
        Ok(record)
    }

    /// Has the host forward packets of a family. What the kernel forgets when that ends is written down as well: which interfaces
    /// forwarded packets before (`conf/*/forwarding`), and that redirects were not believed.
    pub(crate) fn forward(&mut self, ipv4: bool) -> io::Result<()> {
        let (key, family) = if ipv4 { (IPV4_FORWARDING, "ipv4") } else { (IPV6_FORWARDING, "ipv6") };
        if read(key)? == "1" {
            return Ok(());
        }
        for interface in fs::read_dir(Path::new(ROOT).join(family).join("conf"))? {
            let name = interface?.file_name().to_string_lossy().into_owned();
            let own = format!("{family}/conf/{name}/forwarding");
            if name != "all" && read(&own).is_ok_and(|value| value == "1") {
                self.remember(&own, "1", "0");
            }
        }
        if ipv4 && read(REDIRECTS)? == "0" {
            self.remember(REDIRECTS, "0", "1");
        }
        self.change(key, "1")
    }

    /// Notes what a setting has now and what it will have when it is to be put back; what was noted first is what counts.
    fn remember(&mut self, key: &str, found: &str, then: &str) {
        self.changed.entry(key.to_owned()).or_insert_with(|| (found.to_owned(), then.to_owned()));
    }

    /// Gives a setting of the host a value, and remembers what it had.
    pub(crate) fn change(&mut self, key: &str, value: &str) -> io::Result<()> {
        let found = read(key)?;
        if found == value {
            return Ok(());
        }
        // What was first is what counts.
        let first = self.changed.get(key).map_or(found, |(first, _)| first.clone());
        self.changed.insert(key.to_owned(), (first, value.to_owned()));
        self.store()?;
        write(key, value)
    }

    /// Puts back what still has the value that was given.
    pub(crate) fn restore(&mut self) -> io::Result<()> {
        // In the order in which they depend on each other: what follows from a change of forwarding is put back after it.
        let mut keys: Vec<String> = self.changed.keys().cloned().collect();
        keys.sort_by_key(|key| ![IPV4_FORWARDING, IPV6_FORWARDING].contains(&key.as_str()));
        for key in keys {
            let Some((found, given)) = self.changed.get(&key) else { continue };
            match read(&key) {
                Ok(now) if now == *given => write(&key, found)?,
                Ok(_) => tracing::info!("sysctl {key} stays as somebody else has set it"),
                // An interface that is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.changed.remove(&key);
            self.store()?;
        }
        Ok(())
    }

    /// Whether there is something to put back.
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// Forgets what was there before: it belongs to somebody else now.
    pub(crate) fn forget(&mut self) -> io::Result<()> {
        self.changed.clear();
        self.store()
    }

    /// Writes it down, whole or not at all.
    fn store(&self) -> io::Result<()> {
        if self.changed.is_empty() {
            return remove(&self.path);
        }
        let lines: String =
            self.changed.iter().map(|(key, (found, given))| format!("{key} {found} {given}\n")).collect();
        let new = self.new_path();
        fs::write(&new, lines)?;
        fs::rename(&new, &self.path)
    }

    fn new_path(&self) -> PathBuf {
        self.path.with_extension("new")
    }
}

/// Removes a file; one that is not there is fine.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
