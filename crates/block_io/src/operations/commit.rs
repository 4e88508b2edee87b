//! Writing what an image has of its own into an image below it.
//!
//! The image is emptied only after the one below is durable, so that its disk reads the same at every moment: whenever this
//! ends early, it can be done again. All files of the chain are locked by this module first and then opened without locks of
//! their own: the image below is written to while the chain above reads what it holds.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::layers::{Mover, PartKind, Parts};
use super::rebase::refuse_snapshots;
use super::{ImageAccess, ImageFormat, OpenImage, OperationError, Progress, map, refuse};
use crate::backend::BlockError;
use crate::file::{HostFile, Locking, RawOptions, error};
use crate::qcow2::Qcow2Disk;

const OPERATION: &str = "cannot commit";

/// What happens to the image whose content has been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCommit {
    /// It gives up its clusters. Only possible if its own backing file is what was written to: any image between would come
    /// to light.
    Emptied,
    /// It stays as it is.
    Kept,
}

/// Writes what the qcow2 image at `path`, and images between, have into the file `base` of its chain; by default, its own
/// backing file. A base that is smaller grows to the image's size. Images between are no longer of use afterwards, nor is
/// any other image that is based on what was written to. `rate` is in bytes a second. `progress` as for a copy; ended early, it
/// can be done again.
pub fn commit(
    path: &Path,
    base: Option<&Path>,
    after: AfterCommit,
    rate: Option<NonZeroU64>,
    access: &ImageAccess,
    progress: Progress<'_>,
) -> Result<(), OperationError> {
    let shared = |read_only| ImageAccess {
        file: RawOptions { read_only, locking: Locking::Shared, ..access.file },
        directories: access.directories.clone(),
    };
    let own = HostFile::open(path, &RawOptions { read_only: false, ..access.file })?;
    let chain = Qcow2Disk::chain(path, &shared(true).qcow2(path))?;
    let Some(index) = find(path, &chain, base)? else {
        return Err(refuse(path, OPERATION, "it has no backing file").into());
    };
    if index > 0 && after == AfterCommit::Emptied {
        return Err(refuse(path, OPERATION, "only an image right above the base can be emptied").into());
    }
    let mut locks = vec![own];
    for (number, (file, _)) in chain.iter().enumerate() {
        locks.push(HostFile::open(file, &RawOptions { read_only: number != index, ..access.file })?);
    }
    // Now nobody can change it any more.
    if Qcow2Disk::chain(path, &shared(true).qcow2(path))? != chain {
        return Err(refuse(path, OPERATION, "its chain was changed by somebody else meanwhile").into());
    }
    for changing in std::iter::once(path).chain(chain[..index].iter().map(|(file, _)| file.as_path())) {
        refuse_snapshots(changing, OPERATION)?;
    }
    let top = OpenImage::open(path, ImageFormat::Qcow2, &shared(true))?;
    let (base_path, format) = &chain[index];
    let format = if *format == "raw" { ImageFormat::Raw } else { ImageFormat::Qcow2 };
    let mut base_access = shared(false);
    base_access.directories = access.allowed(path);
    let base = OpenImage::open(base_path, format, &base_access)?;
    if base.disk().capacity() < top.disk().capacity() {
        base.disk().resize(top.disk().capacity())?;
    }
    copy_down(&top, &base, index, rate, progress)?;
    drop((top, base));
    if after == AfterCommit::Emptied {
        Qcow2Disk::open(path, &shared(false).qcow2(path))?.make_empty()?;
    }
    drop(locks);
    Ok(())
}

/// Number of the base in the chain below the image; `None` if there is no chain.
fn find(
    path: &Path,
    chain: &[(PathBuf, &'static str)],
    base: Option<&Path>,
) -> Result<Option<usize>, BlockError> {
    let Some(base) = base else { return Ok((!chain.is_empty()).then_some(0)) };
    let real = |path: &Path| std::fs::canonicalize(path).map_err(|source| error(path, OPERATION, source));
    // As it is named in the image, beside it, or from here.
    let beside = path.parent().unwrap_or(Path::new("")).join(base);
    for wanted in [base, &beside] {
        let Ok(wanted) = real(wanted) else { continue };
        for (number, (file, _)) in chain.iter().enumerate() {
            if real(file)? == wanted {
                return Ok(Some(number));
            }
        }
    }
    Err(refuse(path, OPERATION, format!("{} is not in its chain of backing files", base.display())))
}

/// Copies what the layers down to number `index` have into the base, which is the layer below them.
fn copy_down(
    top: &OpenImage,
    base: &OpenImage,
    index: usize,
    rate: Option<NonZeroU64>,
    progress: Progress<'_>,
) -> Result<(), OperationError> {
    let total = top.disk().capacity();
    let all = |_: u64, contents: &[&[u8]]| -> Parts {
        contents.first().map(|content| (0..content.len(), PartKind::Data)).into_iter().collect()
    };
    let mut mover = Mover::open(&[top.disk(), base.disk()], 1, 1, &all, progress)?.at_rate(rate);
    let mut failed = Ok(());
    let result = map::map(top, 0..total, &mut |entry| {
        let status = entry.status;
        let hides = match status.layer.cmp(&index) {
            std::cmp::Ordering::Greater => false,
            // Beyond the end of the base there is nothing to be hidden.
            std::cmp::Ordering::Equal => status.present,
            // The next image is shorter and hides what is below it.
            std::cmp::Ordering::Less => true,
        };
        failed = match (hides, status.zero) {
            (false, _) => Ok(()),
            (true, true) => mover.zero(entry.start, entry.bytes),
            (true, false) => mover.add(entry.start, entry.bytes),
        }
        .and_then(|()| mover.reached(entry.start + entry.bytes));
        if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    failed.and(result)?;
    mover.finish()
}
