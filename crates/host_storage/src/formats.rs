//! Which format a volume has: remembered, because its content can't be asked.
//!
//! A guest with a raw disk can write the header of another format into it; whoever then believes the header opens the files that it
//! names (CVE-2008-2004). So the format is written down when a volume is made, or when a file that came from elsewhere is first
//! seen, and stays until the file is replaced. A file is recognised by its inode and its time of birth, which no guest can change,
//! so that a renamed file keeps its format and another file of the same name does not inherit it.
//!
//! The record of a pool is a small JSON file in the caller's directory of state, replaced as a whole. Without such a directory it
//! lives as long as the process.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libvirt_xml::storage::VolumeFormat;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::StorageError;

/// Largest record that is read, bytes.
const MOST_BYTES: u64 = 64 << 20;

/// How a volume's format is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatOrigin {
    /// Whoever made the volume, or an administrator, has said it.
    Told,
    /// The file came from elsewhere, and its content was looked at when it was first seen.
    Probed,
}

/// What a file is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Identity {
    inode: u64,
    birth_seconds: i64,
    birth_nanoseconds: u32,
}

impl Identity {
    /// Of an open file. File systems that know no times of birth say zero.
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let found = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
        let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        let (birth_seconds, birth_nanoseconds) =
            if known { (found.stx_btime.tv_sec, found.stx_btime.tv_nsec) } else { (0, 0) };
        Ok(Self { inode: found.stx_ino, birth_seconds, birth_nanoseconds })
    }
}

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownFormat {
    pub(crate) format: VolumeFormat,
    pub(crate) origin: FormatOrigin,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// For whoever reads the file.
    name: String,
    #[serde(flatten)]
    identity: Identity,
    format: String,
    origin: FormatOrigin,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    volumes: Vec<Entry>,
}

/// The formats of a pool's files.
#[derive(Debug)]
pub(crate) struct FormatRecord {
    path: Option<PathBuf>,
    known: Mutex<HashMap<Identity, (String, KnownFormat)>>,
    /// Held by whoever writes the file, so that an older state never replaces a newer one.
    saving: Mutex<()>,
}

impl FormatRecord {
    /// Reads the record of a pool. What is damaged is an error: forgetting formats would be dangerous.
    pub(crate) fn open(directory: Option<&Path>, pool: Uuid) -> Result<Self, StorageError> {
        let path = directory.map(|directory| directory.join(format!("{pool}.volumes.json")));
        let mut known = HashMap::new();
        if let Some(path) = &path {
            match File::open(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StorageError::system("read", path, error)),
                Ok(file) => {
                    let text = std::io::read_to_string(std::io::Read::take(file, MOST_BYTES))
                        .map_err(|error| StorageError::system("read", path, error))?;
                    known = parse(&text).map_err(|error| StorageError::system("understand", path, error))?;
                }
            }
        }
        Ok(Self { path, known: Mutex::new(known), saving: Mutex::default() })
    }

    /// The format of a file, if it is known.
    pub(crate) fn get(&self, identity: Identity) -> Option<KnownFormat> {
        self.known.lock().get(&identity).map(|(_, known)| *known)
    }

    /// Remembers a file's format, durably.
    pub(crate) fn remember(
        &self,
        identity: Identity,
        name: &str,
        format: VolumeFormat,
        origin: FormatOrigin,
    ) -> Result<(), StorageError> {
        let known = KnownFormat { format, origin };
        self.known.lock().insert(identity, (name.to_owned(), known));
        self.save()
    }

    /// Forgets a file that is gone.
    pub(crate) fn forget(&self, identity: Identity) -> Result<(), StorageError> {
        self.known.lock().remove(&identity);
        self.save()
    }

    /// After a look at the whole directory: remembers what is new in it and forgets what is gone from it. Files that appeared
    /// meanwhile are kept if they were remembered after `before` was taken.
    pub(crate) fn replace(
        &self,
        before: &[Identity],
        found: &[(Identity, String, KnownFormat)],
    ) -> Result<(), StorageError> {
        {
            let mut known = self.known.lock();
            for identity in before {
                if !found.iter().any(|(present, _, _)| present == identity) {
                    known.remove(identity);
                }
            }
            let mut changed = known.len() != before.len();
            for (identity, name, format) in found {
                let entry = known.entry(*identity).or_insert_with(|| {
                    changed = true;
                    (name.clone(), *format)
                });
                changed |= entry.0 != *name;
                entry.0.clone_from(name);
            }
            if !changed {
                return Ok(());
            }
        }
        self.save()
    }

    /// All files that are known now.
    pub(crate) fn identities(&self) -> Vec<Identity> {
        self.known.lock().keys().copied().collect()
    }

    /// Forgets the pool.
    pub(crate) fn remove(&self) {
        self.known.lock().clear();
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }

    fn save(&self) -> Result<(), StorageError> {
        let Some(path) = &self.path else { return Ok(()) };
        let _one_at_a_time = self.saving.lock();
        let mut volumes: Vec<Entry> = self
            .known
            .lock()
            .iter()
            .map(|(identity, (name, known))| Entry {
                name: name.clone(),
                identity: *identity,
                format: known.format.name().to_owned(),
                origin: known.origin,
            })
            .collect();
        volumes.sort_by(|first, second| first.name.cmp(&second.name));
        let fail = |error| StorageError::system("write", path, error);
        let text = serde_json::to_string_pretty(&Document { version: 1, volumes })
            .map_err(|error| fail(error.into()))?;
        let new = path.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(fail)
    }
}

fn parse(text: &str) -> Result<HashMap<Identity, (String, KnownFormat)>, std::io::Error> {
    let refuse = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let document: Document = serde_json::from_str(text)?;
    if document.version != 1 {
        return Err(refuse(format!("its version is {}", document.version)));
    }
    let entry = |entry: Entry| {
        let format = VolumeFormat::from_name(&entry.format)
            .ok_or_else(|| refuse(format!("{:?} is no format of volumes", entry.format)))?;
        Ok((entry.identity, (entry.name, KnownFormat { format, origin: entry.origin })))
    };
    document.volumes.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_survive_the_process_and_a_damaged_record_is_an_error() {
        let state = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile().unwrap();
        let (identity, pool) = (Identity::of(&file).unwrap(), Uuid::from_u128(7));
        let record = FormatRecord::open(Some(state.path()), pool).unwrap();
        assert_eq!(record.get(identity), None);
        record.remember(identity, "v", VolumeFormat::Raw, FormatOrigin::Probed).unwrap();
        let record = FormatRecord::open(Some(state.path()), pool).unwrap();
        let known = KnownFormat { format: VolumeFormat::Raw, origin: FormatOrigin::Probed };
        assert_eq!(record.get(identity), Some(known));
        record.replace(&record.identities(), &[]).unwrap();
        assert_eq!(FormatRecord::open(Some(state.path()), pool).unwrap().get(identity), None);
        let path = record.path.clone().unwrap();
        std::fs::write(&path, "{}").unwrap();
        assert!(FormatRecord::open(Some(state.path()), pool).is_err());
    }
}
