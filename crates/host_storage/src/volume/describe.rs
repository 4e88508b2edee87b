//! What a volume is, as numbers and as a document. Nothing is locked: this works on volumes in use, and of those it may be out
//! of date a moment later.

use std::fs::File;

use libvirt_xml::storage::{
    BackingStore, Compatibility, Permissions, Preallocated, Timestamp, Timestamps, VolumeDefinition,
    VolumeFeatures, VolumeFormat, VolumeKind, VolumeTarget,
};
use rustix::fs::{OFlags, Statx, StatxFlags, StatxTimestamp};

use super::{open, resolve_backing};
use crate::backend::Known;
use crate::error::StorageError;
use crate::image;
use crate::pool::Pool;
use crate::storage::Storage;

/// Sizes of a volume (virStorageVolInfo).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeInfo {
    /// What it is.
    pub kind: VolumeKind,
    /// Size of the disk, bytes.
    pub capacity: u64,
    /// Storage that it takes, bytes.
    pub allocation: u64,
    /// Length of the file or device, bytes.
    pub physical: u64,
}

impl Storage {
    /// Sizes of a volume, now.
    pub fn volume_info(&self, pool: &Pool, name: &str) -> Result<VolumeInfo, StorageError> {
        let definition = self.describe_volume(pool, name)?;
        Ok(VolumeInfo {
            kind: definition.kind.unwrap_or(VolumeKind::File),
            capacity: definition.capacity.unwrap_or(0),
            allocation: match definition.allocation {
                Preallocated::All => 0,
                Preallocated::Bytes(bytes) => bytes,
            },
            physical: definition.physical.unwrap_or(0),
        })
    }

    /// How a volume's format is known.
    pub fn volume_format(
        &self,
        pool: &Pool,
        name: &str,
    ) -> Result<(VolumeFormat, crate::FormatOrigin), StorageError> {
        pool.known(name).map(|known| (known.format, known.origin))
    }

    /// Says which format a volume has that came from elsewhere, or whose content was replaced from outside.
    pub fn set_volume_format(
        &self,
        pool: &Pool,
        name: &str,
        format: VolumeFormat,
    ) -> Result<(), StorageError> {
        let _job = pool.jobs.claim(name, "change of the format")?;
        let (mut known, _, directory, file) = open(pool, name, OFlags::RDONLY)?;
        if directory.is_none() {
            let rule = "logical volumes have no format: they are raw".to_owned();
            return Err(StorageError::Unsupported(rule));
        }
        let identity =
            crate::formats::Identity::of(&file).map_err(StorageError::on("look at", &known.path))?;
        pool.record.remember(identity, name, format, crate::FormatOrigin::Told)?;
        (known.format, known.origin) = (format, crate::FormatOrigin::Told);
        pool.add(known);
        Ok(())
    }

    /// A volume's document, as libvirt tells it.
    pub fn describe_volume(&self, pool: &Pool, name: &str) -> Result<VolumeDefinition, StorageError> {
        let known = pool.known(name)?;
        let mut definition = VolumeDefinition::new(&known.name, 0);
        definition.kind = Some(known.kind);
        definition.key = Some(known.key.clone());
        definition.target.path = Some(known.path.display().to_string());
        definition.target.format = Some(known.format);
        if known.kind == VolumeKind::Directory {
            definition.allocation = Preallocated::Bytes(0);
            definition.physical = Some(0);
            return Ok(definition);
        }
        let (_, _, _, file) = open(pool, name, OFlags::RDONLY)?;
        let status = status_of(&file, &known)?;
        let length = image::length(&file, &known.path)?;
        let allocated = match known.kind {
            VolumeKind::Block => length,
            _ => status.stx_blocks.saturating_mul(512),
        };
        definition.capacity = Some(length);
        definition.physical = Some(length);
        definition.allocation = Preallocated::Bytes(allocated);
        definition.target.permissions = permissions(&status);
        definition.target.timestamps = Some(timestamps(&status));
        if known.format == VolumeFormat::Qcow2 {
            self.add_qcow2(&mut definition, &file, &known);
        } else if !image::is_raw(known.format)
            && let Ok(capacity) = image::capacity(&file, &known.path, known.format, &[])
        {
            definition.capacity = Some(capacity);
        }
        Ok(definition)
    }

    /// Adds what a qcow2 image says. One that is damaged is described as a file.
    fn add_qcow2(&self, definition: &mut VolumeDefinition, file: &File, known: &Known) {
        let info = match image::qcow2_info(file, &known.path) {
            Ok(info) => info,
            Err(error) => {
                tracing::warn!("volume '{}' can't be described in full: {error}", known.name);
                return;
            }
        };
        definition.capacity = Some(info.virtual_bytes);
        let target: &mut VolumeTarget = &mut definition.target;
        target.cluster_bytes = Some(info.cluster_bytes);
        // As libvirt tells them: of version 3 only.
        if info.version >= 3 {
            target.compatibility = Some(Compatibility::New);
            target.features =
                Some(VolumeFeatures { lazy_refcounts: info.lazy_refcounts, extended_l2: info.extended_l2 });
        }
        let Some(name) = info.backing else { return };
        let path = resolve_backing(&known.path, &name);
        let format = info.backing_format.as_deref().and_then(VolumeFormat::from_name);
        let mut backing = BackingStore {
            path: path.as_ref().map_or(name, |path| path.display().to_string()),
            format,
            permissions: Permissions::default(),
            timestamps: None,
        };
        // Only what is a volume of ours is looked at: the name is the image's word.
        let below = path.and_then(|path| self.find_volume(|other| other.path == path));
        if let Some((pool, other)) = below
            && let Ok((_, _, _, file)) = open(&pool, &other.name, OFlags::RDONLY)
            && let Ok(status) = status_of(&file, &other)
        {
            backing.permissions = permissions(&status);
            backing.timestamps = Some(timestamps(&status));
        }
        definition.backing = Some(backing);
    }
}

fn status_of(file: &File, known: &Known) -> Result<Statx, StorageError> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    rustix::fs::statx(file, "", rustix::fs::AtFlags::EMPTY_PATH, wanted)
        .map_err(StorageError::on("look at", &known.path))
}

fn permissions(status: &Statx) -> Permissions {
    Permissions {
        mode: Some(u32::from(status.stx_mode) & 0o7777),
        owner: Some(status.stx_uid),
        group: Some(status.stx_gid),
        label: None,
    }
}

fn timestamps(status: &Statx) -> Timestamps {
    let stamp = |stamp: StatxTimestamp| Timestamp {
        seconds: u64::try_from(stamp.tv_sec).unwrap_or(0),
        nanoseconds: stamp.tv_nsec.min(999_999_999),
    };
    let known = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::BTIME);
    Timestamps {
        access: stamp(status.stx_atime),
        modification: stamp(status.stx_mtime),
        change: stamp(status.stx_ctime),
        birth: Some(if known { stamp(status.stx_btime) } else { Timestamp::default() }),
    }
}
