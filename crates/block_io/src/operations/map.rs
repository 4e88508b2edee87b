//! Walking over how a disk is stored.

use std::ops::{ControlFlow, Range};

use super::{OpenImage, OperationError};
use crate::status::RangeStatus;

/// A range of a disk that is stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// Where it begins, bytes.
    pub start: u64,
    /// How long it is, bytes.
    pub bytes: u64,
    /// How it is stored.
    pub status: RangeStatus,
}

/// Tells how a range of the disk in an image is stored, from its start to its end, each time as far as one answer holds; a
/// break ends it with [`OperationError::Interrupted`]. What lies beyond the disk is left out.
pub fn map(
    image: &OpenImage,
    range: Range<u64>,
    each: &mut dyn FnMut(MapEntry) -> ControlFlow<()>,
) -> Result<(), OperationError> {
    let end = range.end.min(image.disk().capacity());
    let mut at = range.start;
    let mut held: Option<MapEntry> = None;
    while at < end {
        let (status, run) = image.status(at, end - at)?;
        match &mut held {
            Some(entry) if entry.status.continues(entry.bytes, &status) => entry.bytes += run,
            _ => {
                let next = MapEntry { start: at, bytes: run, status };
                tell(held.replace(next), each)?;
            }
        }
        at += run;
    }
    tell(held, each)
}

fn tell(
    entry: Option<MapEntry>,
    each: &mut dyn FnMut(MapEntry) -> ControlFlow<()>,
) -> Result<(), OperationError> {
    match entry.map(each) {
        Some(ControlFlow::Break(())) => Err(OperationError::Interrupted),
        _ => Ok(()),
    }
}
