//! What the host has and can do: processors and how they belong together, memory, NUMA cells, large pages, what its firmware is
//! called, what has gone through its network interfaces.
//!
//! Everything is read from /proc and /sys, changes nothing and needs no privilege. A [`Host`] reads below a directory, `/` for
//! this host, so that tests can show it hosts that they do not run on. Files that a kernel does not have (no NUMA, a virtual
//! machine without topology) are filled in as Linux itself would: one cell with everything, one socket.

mod interfaces;
mod memory;
mod processors;
mod smbios;

use std::io;
use std::path::{Path, PathBuf};

pub use self::interfaces::InterfaceStatistics;
pub use self::memory::{Cell, MemoryStatistics, PagePool};
pub use self::processors::{CpuTimes, Processor};
pub use self::smbios::SmbiosTable;

/// Why something about the host is not known.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file can't be read.
    #[error("{path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file says what it should not.
    #[error("{path}: {what}", path = path.display())]
    Senseless {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is no such processor or cell.
    #[error("this host has no {0}")]
    Unknown(String),
}

/// A host, seen through its /proc and /sys.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This host.
    pub fn this() -> Self {
        Self::at(Path::new("/"))
    }

    /// The host whose /proc and /sys are below `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The host's name for itself.
    pub fn name(&self) -> Result<String, HostError> {
        Ok(self.read("proc/sys/kernel/hostname")?.trim().to_owned())
    }

    fn read(&self, path: &str) -> Result<String, HostError> {
        let path = self.root.join(path);
        std::fs::read_to_string(&path).map_err(|source| HostError::Unreadable { path, source })
    }

    /// The file's content, or nothing if there is no such file.
    fn read_if_there(&self, path: &str) -> Result<Option<String>, HostError> {
        match self.read(path) {
            Err(HostError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn number_if_there(&self, path: &str) -> Result<Option<u64>, HostError> {
        let Some(text) = self.read_if_there(path)? else { return Ok(None) };
        let number = text.trim().parse();
        number.map(Some).map_err(|_| self.senseless(path, format!("{:?} is not a number", text.trim())))
    }

    /// The numbers N of the directory's entries PREFIXNSUFFIX, in order; none if there is no such directory.
    fn numbered(&self, directory: &str, prefix: &str, suffix: &str) -> Result<Vec<u32>, HostError> {
        let path = self.root.join(directory);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(HostError::Unreadable { path, source }),
        };
        let number = |entry: io::Result<std::fs::DirEntry>| -> Option<u32> {
            entry.ok()?.file_name().to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
        };
        let mut numbers: Vec<u32> = entries.filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn senseless(&self, path: &str, what: String) -> HostError {
        HostError::Senseless { path: self.root.join(path), what }
    }
}

/// Numbers in the kernel's list format, as in `0-3,8`.
fn number_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // More than any kernel numbers.
        if last > 1 << 16 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests;
