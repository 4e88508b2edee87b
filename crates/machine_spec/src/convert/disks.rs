//! Disks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checked_path;
use super::devices::{Identifiers, checked_queue_size, queue_count};
use crate::error::SpecError;
use crate::spec::{BackingFiles, DiskCache, DiskFormat, DiskSpec, MAX_DISK_SERIAL_BYTES};
use crate::wire::{CacheMode, DiskConfig, ImageType};

pub(super) fn disk_spec(
    index: usize,
    config: DiskConfig,
    ids: &mut Identifiers,
) -> Result<DiskSpec, SpecError> {
    let object = format!("disks[{index}]");
    let format = format(&object, &config)?;
    let cache = cache(&object, &config)?;
    let DiskConfig { path, readonly, sparse, num_queues, queue_size, id, serial, .. } = config;
    let path = path.ok_or_else(|| SpecError::Missing {
        object: object.clone(),
        option: "path",
        advice: "give the image file with path=FILE",
    })?;
    let path = checked_path(&object, "path", path)?;
    if let Some(serial) = &serial {
        let printable = serial.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if serial.is_empty() || serial.len() > MAX_DISK_SERIAL_BYTES || !printable {
            return Err(SpecError::Value {
                object,
                option: "serial",
                value: serial.clone(),
                reason: "is not a serial number",
                advice: "use 1 to 20 printable ASCII characters",
            });
        }
    }
    Ok(DiskSpec {
        id: ids.settle(id, "disk", index),
        path,
        format,
        read_only: readonly,
        cache,
        discard: sparse,
        queues: queue_count(&object, num_queues)?,
        queue_size: checked_queue_size(&object, queue_size)?,
        serial,
    })
}

fn format(object: &str, config: &DiskConfig) -> Result<DiskFormat, SpecError> {
    let conflict = |conflict, advice| SpecError::Conflict { object: object.to_owned(), conflict, advice };
    let image_type = config.image_type.unwrap_or(ImageType::Raw);
    if !matches!(image_type, ImageType::Raw | ImageType::Qcow2) {
        if !config.readonly {
            return Err(conflict(
                "an image of another hypervisor without readonly",
                "such images are only read: add readonly=on, or convert it with vireo image convert",
            ));
        }
        if config.direct || config.cache.is_some() {
            return Err(conflict(
                "a cache mode with an image of another hypervisor",
                "such images are read through the host's page cache: leave direct and cache out",
            ));
        }
    }
    let directories = config.backing_directories.clone().unwrap_or_default();
    if !config.backing_files && !directories.is_empty() {
        let advice = "add backing_files=on, or leave the directories out";
        return Err(conflict("backing_directories without backing_files", advice));
    }
    let format = match image_type {
        ImageType::Raw => DiskFormat::Raw,
        ImageType::Qcow2 => DiskFormat::Qcow2(backing_files(object, config.backing_files, directories)?),
        ImageType::FlatVmdk if !directories.is_empty() => {
            let advice = "its extents must lie beside it: leave the directories out";
            return Err(conflict("backing_directories with a VMDK image", advice));
        }
        ImageType::FlatVmdk => DiskFormat::Vmdk { extents: config.backing_files },
        ImageType::FixedVhd => DiskFormat::Vhd,
        ImageType::Vhdx => DiskFormat::Vhdx,
        ImageType::Vdi => DiskFormat::Vdi,
    };
    match &format {
        DiskFormat::Qcow2(_) | DiskFormat::Vmdk { .. } => Ok(format),
        DiskFormat::Raw if config.backing_files => Err(conflict(
            "backing_files with a raw image",
            "name the image's format, as in image_type=qcow2, or leave backing_files out",
        )),
        _ if config.backing_files => {
            Err(conflict("backing_files with a format that names no other files", "leave backing_files out"))
        }
        _ => Ok(format),
    }
}

fn backing_files(object: &str, allowed: bool, directories: Vec<PathBuf>) -> Result<BackingFiles, SpecError> {
    if !allowed {
        return Ok(BackingFiles::Refused);
    }
    let checked = directories.into_iter().map(|path| checked_path(object, "backing_directories", path));
    Ok(BackingFiles::Within(checked.collect::<Result<_, _>>()?))
}

fn cache(object: &str, config: &DiskConfig) -> Result<DiskCache, SpecError> {
    let cache = match (config.cache, config.direct) {
        (None, false) | (Some(CacheMode::Writeback), false) => DiskCache::Writeback,
        (None, true) | (Some(CacheMode::None), _) => DiskCache::None,
        (Some(CacheMode::Directsync), _) => DiskCache::Directsync,
        (Some(CacheMode::Writethrough), false) => DiskCache::Writethrough,
        (Some(CacheMode::Unsafe), false) => DiskCache::Unsafe,
        (Some(CacheMode::Writeback | CacheMode::Writethrough | CacheMode::Unsafe), true) => {
            return Err(SpecError::Conflict {
                object: object.to_owned(),
                conflict: "direct with a cache mode that goes through the host's page cache",
                advice: "leave direct out, or use cache=none or cache=directsync",
            });
        }
    };
    Ok(cache)
}

/// An image may be used twice only if nobody writes. Compares the paths as they are written: links are found out by the
/// lock that the VMM takes on the image.
pub(super) fn check_images(disks: &[DiskSpec]) -> Result<(), SpecError> {
    let mut users: BTreeMap<&PathBuf, (usize, bool)> = BTreeMap::new();
    for (index, disk) in disks.iter().enumerate() {
        match users.get(&disk.path) {
            Some((other, read_only)) if !(disk.read_only && *read_only) => {
                return Err(SpecError::DuplicateDisk {
                    object: format!("disks[{index}]"),
                    other: format!("disks[{other}]"),
                    path: disk.path.clone(),
                });
            }
            _ => users.insert(&disk.path, (index, disk.read_only)),
        };
    }
    Ok(())
}

pub(super) fn describe_disk(spec: &DiskSpec) -> DiskConfig {
    let DiskSpec { id, path, format, read_only, cache, discard, queues, queue_size, serial } = spec;
    let (image_type, backing_files, directories) = match format {
        DiskFormat::Raw => (ImageType::Raw, false, None),
        DiskFormat::Qcow2(BackingFiles::Refused) => (ImageType::Qcow2, false, None),
        DiskFormat::Qcow2(BackingFiles::Within(directories)) => (ImageType::Qcow2, true, Some(directories)),
        DiskFormat::Vmdk { extents } => (ImageType::FlatVmdk, *extents, None),
        DiskFormat::Vhd => (ImageType::FixedVhd, false, None),
        DiskFormat::Vhdx => (ImageType::Vhdx, false, None),
        DiskFormat::Vdi => (ImageType::Vdi, false, None),
    };
    // The modes that Cloud Hypervisor has are said in its words.
    let (direct, cache) = match cache {
        DiskCache::Writeback => (false, None),
        DiskCache::None => (true, None),
        DiskCache::Writethrough => (false, Some(CacheMode::Writethrough)),
        DiskCache::Directsync => (true, Some(CacheMode::Directsync)),
        DiskCache::Unsafe => (false, Some(CacheMode::Unsafe)),
    };
    DiskConfig {
        path: Some(path.clone()),
        image_type: Some(image_type),
        backing_files,
        backing_directories: directories.filter(|directories| !directories.is_empty()).cloned(),
        readonly: *read_only,
        direct,
        cache,
        sparse: *discard,
        num_queues: (*queues).into(),
        queue_size: (*queue_size).into(),
        id: Some(id.clone()),
        serial: serial.clone(),
    }
}
