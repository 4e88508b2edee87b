//! Storage pools and volumes of this host, without a daemon and without a protocol.
//!
//! A [`Storage`] holds [`Pool`]s: a directory, a file system that is mounted while the pool is active, a network file system, or
//! a volume group of LVM. Volumes are raw or qcow2 images in such a directory, or logical volumes. Documents are libvirt's
//! (`libvirt_xml::storage`), rules and errors as well ([`StorageError`]), so that a daemon only has to put the protocol on top.
//! What outlives the process (definitions, autostart) belongs to the caller; only the formats of volumes are written down here.
//!
//! Four rules that keep data:
//! - **Whole or not there.** A new volume is made under a hidden name that is locked, made durable, and then put in its place,
//!   where nothing may be. What a killed process left behind is removed by the next refresh (`directory`).
//! - **The format of a volume is never guessed twice.** It comes from whoever made the volume; a file that came from elsewhere is
//!   looked at once, read-only, and what was found is written down before a guest can write to it (`formats`).
//! - **One writer on the host.** Whatever changes a volume takes the lock that running guests hold too (`block_io::FileLock`),
//!   and an error names who has it. What other volumes are based on is not changed or deleted.
//! - **Names stay in their pool.** A volume's name is one component, and opening follows no links (`directory`).
//!
//! Trusts the host's administrators (definitions of pools, the directories that they name) and the programs of the host (mount, LVM).
//! Volumes' content, names and documents are hostile.
//!
//! Everything blocks and may be called from many threads; long work tells its progress and can be ended by the answer. No lock is
//! held while the host works: a volume is claimed for a job (`jobs`), and a second job on it is refused.
//!
//! Sources: libvirt's formatstorage and the documentation of its storage API (libvirt-storage), lvm(8), mount(8), openat2(2).

mod backend;
mod clone;
mod command;
mod directory;
mod error;
mod formats;
mod image;
mod jobs;
mod mounts;
mod pool;
mod storage;
pub mod undo;
mod volume;

pub use self::backend::BuildMode;
pub use self::clone::{CloneMethod, CloneMode, CloneSource, CloneTarget, clone_disk};
pub use self::command::Commands;
pub use self::error::StorageError;
pub use self::formats::FormatOrigin;
pub use self::pool::{Pool, PoolInfo, PoolState, VolumeSummary};
pub use self::storage::{Storage, StorageOptions};
pub use self::volume::{
    CreateOptions, DeleteMode, Download, Piece, ResizeOptions, Upload, VolumeInfo, WipeAlgorithm,
};
pub use block_io::operations::Progress;
