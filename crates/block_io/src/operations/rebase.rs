//! Putting an image on top of another backing file without a change of what its disk reads as.
//!
//! First everything in which the backing files differ is copied into the image, and made durable; only then does the header
//! name the new one. Whenever this ends early, the image is what it was, with more clusters of its own.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use super::layers::{Mover, PartKind, Parts};
use super::{ImageAccess, ImageFormat, OpenImage, OperationError, Progress, map, refuse};
use crate::backend::{BlockBackend, BlockError};
use crate::file::RawOptions;
use crate::qcow2::{BackingName, Qcow2Disk};

/// Makes the qcow2 image at `path` be based on another file, or on none; its disk stays as it is. The old chain and the new
/// one are opened where `access` allows it. Nobody else may have any of the images open for writing, nor the image itself
/// for reading. `progress` as for a copy.
pub fn rebase(
    path: &Path,
    new: Option<&BackingName>,
    access: &ImageAccess,
    progress: Progress<'_>,
) -> Result<(), OperationError> {
    refuse_snapshots(path, "cannot change its backing file")?;
    let image = Qcow2Disk::open(path, &access.qcow2(path))?;
    image.check_backing(new)?;
    let below = new.map(|new| open_new(path, new, access)).transpose()?;
    let top = OpenImage::Qcow2(image);
    copy_differences(&top, below.as_ref(), progress)?;
    drop(below);
    match top {
        OpenImage::Qcow2(image) => Ok(image.close_with_backing(new)?),
        OpenImage::Raw(_) | OpenImage::Foreign(_) => Ok(()),
    }
}

/// Refuses an image with internal snapshots, which would read otherwise once what is below them has changed.
pub(super) fn refuse_snapshots(path: &Path, operation: &str) -> Result<(), BlockError> {
    match Qcow2Disk::info(path)?.snapshots.len() {
        0 => Ok(()),
        count => {
            let advice = format!(
                "its {count} internal snapshots would no longer be what they were: delete them first"
            );
            Err(refuse(path, operation, advice))
        }
    }
}

/// Opens the new backing file and everything below it, as opening the image will.
fn open_new(path: &Path, new: &BackingName, access: &ImageAccess) -> Result<OpenImage, BlockError> {
    let format = if new.format == "raw" { ImageFormat::Raw } else { ImageFormat::Qcow2 };
    let access = ImageAccess {
        file: RawOptions { read_only: true, ..access.file },
        directories: access.allowed(path),
    };
    let below = path.parent().unwrap_or(Path::new("")).join(&new.name);
    let real = std::fs::canonicalize(&below)
        .map_err(|source| crate::file::error(&below, "cannot be the new backing file", source))?;
    let allowed = access
        .directories
        .iter()
        .any(|directory| std::fs::canonicalize(directory).is_ok_and(|directory| real.starts_with(directory)));
    if !allowed {
        let advice = "it is in no directory that is allowed: the image could not be opened with it";
        return Err(refuse(&below, "cannot be the new backing file", advice));
    }
    OpenImage::open(&below, format, &access)
}

/// Gives the image what it does not have itself and what reads otherwise in the new chain.
fn copy_differences(
    top: &OpenImage,
    below: Option<&OpenImage>,
    progress: Progress<'_>,
) -> Result<(), OperationError> {
    let total = top.disk().capacity();
    let geometry = top.disk().geometry();
    let bytes = |unit: u32| usize::try_from(unit).unwrap_or(1).max(1);
    let units = Units {
        data: bytes(geometry.physical_block_bytes),
        zeroes: matches!(top, OpenImage::Qcow2(image) if image.makes_zero_clusters())
            .then(|| bytes(geometry.discard_bytes)),
    };
    let decide = |offset: u64, contents: &[&[u8]]| differences(offset, contents, units);
    let disks: Vec<&dyn BlockBackend> =
        std::iter::once(top.disk()).chain(below.map(OpenImage::disk)).collect();
    let mut mover = Mover::open(&disks, disks.len(), 0, &decide, progress)?;
    let mut failed = Ok(());
    let result = map::map(top, 0..total, &mut |entry| {
        let own = entry.status.layer == 0 && entry.status.present;
        failed = if own { Ok(()) } else { add_unless_zero(&mut mover, below, entry) }
            .and_then(|()| mover.reached(entry.start + entry.bytes));
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    failed.and(result)?;
    mover.finish()
}

/// Adds the parts of a range that one of the chains does not know to be zero.
fn add_unless_zero(
    mover: &mut Mover<'_>,
    below: Option<&OpenImage>,
    entry: map::MapEntry,
) -> Result<(), OperationError> {
    if !entry.status.zero {
        return mover.add(entry.start, entry.bytes);
    }
    let Some(below) = below else { return Ok(()) };
    let (mut at, end) = (entry.start, (entry.start + entry.bytes).min(below.disk().capacity()));
    while at < end {
        let (zero, run) = below.zero_run(at, end - at)?;
        if !zero {
            mover.add(at, run)?;
        }
        at += run;
    }
    Ok(())
}

/// In what an image is written without copying what surrounds it, bytes.
#[derive(Debug, Clone, Copy)]
struct Units {
    /// Data.
    data: usize,
    /// Zeroes that take no storage, if it can have them. Only whole clusters are sure to hide what is below: where a part of
    /// one reads as zeroes already, a disk has nothing to do.
    zeroes: Option<usize>,
}

/// The parts of a piece, in whole units of the disk, in which the first content differs from the second (or from zeroes).
fn differences(offset: u64, contents: &[&[u8]], units: Units) -> Parts {
    let Some(old) = contents.first() else { return Parts::new() };
    let new = contents.get(1);
    let mut parts = Parts::new();
    let mut at = 0;
    let is_zero = |range: Range<usize>| old[range].iter().all(|byte| *byte == 0);
    // How far it is from the start of the piece's first unit.
    let into = |unit: usize| usize::try_from(offset % unit as u64).unwrap_or(0);
    while at < old.len() {
        let whole = units.zeroes.filter(|unit| {
            (into(*unit) + at).is_multiple_of(*unit) && at + unit <= old.len() && is_zero(at..at + unit)
        });
        let unit = whole.unwrap_or(units.data);
        let end = (at + unit - (into(unit) + at) % unit).min(old.len());
        let same = match new {
            Some(new) => new[at..end] == old[at..end],
            None => is_zero(at..end),
        };
        if !same {
            let kind = if whole.is_some() { PartKind::Zeroes } else { PartKind::Data };
            match parts.last_mut() {
                Some((last, before)) if last.end == at && *before == kind => last.end = end,
                _ => parts.push((at..end, kind)),
            }
        }
        at = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_whole_units_of_the_disk() {
        let units = Units { data: 1024, zeroes: None };
        let (old, mut new) = (vec![7; 4096], vec![7; 4096]);
        assert_eq!(differences(512, &[&old, &new], units), []);
        new[600] = 8;
        assert_eq!(differences(512, &[&old, &new], units), [(512..1536, PartKind::Data)]);
        assert_eq!(differences(0, &[&old], units), [(0..4096, PartKind::Data)]);
        assert_eq!(differences(0, &[&vec![0; 4096]], units), []);
    }

    #[test]
    fn only_whole_clusters_become_zeroes_without_storage() {
        let units = Units { data: 1024, zeroes: Some(2048) };
        let (old, new) = (vec![0; 5120], vec![7; 5120]);
        let expected = [(0..1024, PartKind::Data), (1024..5120, PartKind::Zeroes)];
        assert_eq!(differences(1024, &[&old, &new], units), expected);
        let expected = [(0..4096, PartKind::Zeroes), (4096..5120, PartKind::Data)];
        assert_eq!(differences(0, &[&old, &new], units), expected);
    }
}
