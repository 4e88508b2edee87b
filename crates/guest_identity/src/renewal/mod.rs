//! A new identity for a copied Linux disk: an empty machine-id (which systemd fills at the next start), new ssh host keys of the same types, no
//! stored seed of the random number generator, and a host name when asked for.
//!
//! Everything is prepared on a copy of the source's root file system before the disk is copied, so that whatever can't be done is known
//! before anything is made: [`Renewal::prepare`] with the source, then [`Renewal::apply`] with the copy. The source's disk has to stay as it is in
//! between; an open image holds a lock that keeps writers away.
//!
//! File systems of guests are hostile. They are brought into a file of their own (`transfer`), which e2fsck(8) and debugfs(8) check and
//! change in processes without privileges (`sandbox`); what these say is read with care, and the result is checked once more (`tree`).
//! Only blocks that have changed go back, and never beyond the file system's place on the disk.

mod sandbox;
mod transfer;
mod tree;

use std::ops::ControlFlow;

use block_io::operations::{OpenImage, OperationError};
use std::fs::File;

use self::sandbox::Sandbox;
use crate::disk_layout::{self, Content, Partition, ReadDisk};

/// Told how many bytes are done and how many there are in all; a break ends the work.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Why an identity can't be renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// A program is missing.
    #[error("the program {program} is not installed: install the package {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// e2fsck found what it does not repair by itself.
    #[error(
        "the file system in {partition} has errors that need a decision: start the source once and check it there ({said})"
    )]
    Damaged {
        /// Where.
        partition: Partition,
        /// The program's last words.
        said: String,
    },
    /// A program failed.
    #[error("{program} failed on the copy of the file system in {partition}: {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Where.
        partition: Partition,
        /// Its last words, or how it ended.
        said: String,
    },
    /// The changed file system is not as it should be.
    #[error("the changes in {partition} did not come out as they should: {reason}")]
    Unchanged {
        /// Where.
        partition: Partition,
        /// What is wrong.
        reason: String,
    },
    /// The host can't do something.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A disk can't be used.
    #[error(transparent)]
    Disk(#[from] OperationError),
    /// The callback for progress said so.
    #[error("interrupted")]
    Interrupted,
}

impl RenewalError {
    fn host(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        |source| Self::Host { what, source }
    }
}

/// What a disk is to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewIdentity {
    /// The new host name; checked by [`crate::cloud_init::check_host_name`].
    pub host_name: Option<String>,
}

/// Changes of a disk that are ready to be made.
#[derive(Debug)]
pub struct Renewal {
    roots: Vec<Root>,
    /// What is on the disk.
    pub partitions: Vec<Partition>,
    /// Has the copies.
    _sandbox: Sandbox,
}

#[derive(Debug)]
struct Root {
    partition: Partition,
    bytes: u64,
    copy: File,
    changes: Vec<String>,
}

impl Renewal {
    /// Looks for root file systems on a disk, and prepares the changes of each.
    ///
    /// # Errors
    /// A program is missing, or a root file system can't be changed. That there is none is no error: see [`Renewal::is_empty`].
    pub fn prepare(
        disk: &OpenImage,
        identity: &NewIdentity,
        progress: Progress<'_>,
    ) -> Result<Self, RenewalError> {
        let partitions =
            disk_layout::survey(&Disk(disk)).map_err(RenewalError::host("read the disk's partitions"))?;
        let mut sandbox = Sandbox::new()?;
        let mut roots = Vec::new();
        for (number, partition) in partitions.iter().enumerate() {
            let Content::Ext { bytes } = partition.content else { continue };
            let file = format!("disk{number}");
            let copy = transfer::copy_out(disk, partition.start, bytes, &sandbox.path(&file), progress)?;
            sandbox.hand_over(&file)?;
            sandbox.allow_files_of(bytes);
            let tree = tree::Tree { sandbox: &sandbox, file: &file, partition: *partition };
            if let Some(changes) = tree.renew(identity)? {
                roots.push(Root { partition: *partition, bytes, copy, changes });
            } else {
                let path = sandbox.path(&file);
                std::fs::remove_file(&path).map_err(RenewalError::host("remove a temporary file"))?;
            }
        }
        Ok(Self { roots, partitions, _sandbox: sandbox })
    }

    /// Whether there is no root file system that can be changed.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// What is changed, for people.
    pub fn changes(&self) -> Vec<String> {
        let of_root = |root: &Root| -> Vec<String> {
            root.changes.iter().map(|change| format!("{}: {change}", root.partition)).collect()
        };
        self.roots.iter().flat_map(of_root).collect()
    }

    /// Makes the changes on a copy of the disk that was prepared, and makes them durable.
    ///
    /// # Errors
    /// The disk is smaller than the one that was prepared, or can't be written.
    pub fn apply(&self, disk: &OpenImage, progress: Progress<'_>) -> Result<(), RenewalError> {
        for root in &self.roots {
            let (needed, found) = (root.partition.start.saturating_add(root.bytes), disk.disk().capacity());
            if needed > found {
                return Err(OperationError::TooSmall { needed, found }.into());
            }
            transfer::copy_back(&root.copy, disk, root.partition.start, root.bytes, progress)?;
        }
        disk.flush_waiting().map_err(|errno| RenewalError::host("make the changes durable")(errno.into()))
    }
}

/// Why a disk without root file system can't be renewed, for people: what is there instead.
pub fn describe(partitions: &[Partition]) -> String {
    let known = partitions.iter().filter(|partition| partition.content != Content::Other);
    let list: Vec<String> = known.map(|partition| format!("{partition} has {}", partition.content)).collect();
    if list.is_empty() { "nothing that is known".to_owned() } else { list.join(", ") }
}

/// A disk as the survey reads it.
struct Disk<'a>(&'a OpenImage);

impl ReadDisk for Disk<'_> {
    fn bytes(&self) -> u64 {
        self.0.disk().capacity() / 512 * 512
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_waiting(offset, buffer)
    }
}
