//! Comparing the disks in two images.

use std::ops::ControlFlow;

use super::transfer::{BUFFER_BYTES, DEPTH, Direction, Failed, Transfer};
use super::{OpenImage, OperationError, Progress};
use crate::status::RangeStatus;

/// Ranges that are looked up between two reports of progress: looking through the tables of a huge image can take long.
const MOST_LOOKUPS: usize = 256;

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// First byte of the disks that differs; where one disk is longer, its rest is compared with zeroes.
    pub first_difference: Option<u64>,
    /// Sizes of the disks, bytes.
    pub sizes: (u64, u64),
}

/// Compares two disks byte for byte. What both know to be zero is not read. `progress` as for a copy.
pub fn compare(
    first: &OpenImage,
    second: &OpenImage,
    progress: Progress<'_>,
) -> Result<Comparison, OperationError> {
    let images = [first, second];
    let sizes = images.map(|image| image.disk().capacity());
    let total = sizes[0].max(sizes[1]);
    let failed = |failed: Failed| {
        let operation = ["read the first image", "read the second image"][failed.disk];
        OperationError::Transfer { operation, offset: failed.offset, source: failed.errno.into() }
    };
    // Buffers 2n and 2n + 1 are a pair.
    let mut transfer = Transfer::open(&images.map(OpenImage::disk), 2 * DEPTH)?;
    let mut pairs = [None; DEPTH];
    let mut first_difference: Option<u64> = None;
    let (mut next, mut done) = (0, 0);
    loop {
        let mut unfinished = false;
        for (number, pair) in pairs.iter_mut().enumerate() {
            let buffers = [2 * number, 2 * number + 1];
            if buffers.iter().any(|buffer| !transfer.is_idle(*buffer)) {
                unfinished = true;
                continue;
            }
            if let Some(Pair { offset, bytes, zero }) = pair.take() {
                let found = difference(&transfer, buffers, bytes, zero).map(|at| offset + at as u64);
                first_difference = [first_difference, found].into_iter().flatten().min();
                done += bytes as u64;
            }
            let mut looked_at = 0;
            // What comes before a difference has been asked for already.
            while next < total && first_difference.is_none() {
                looked_at += 1;
                if looked_at > MOST_LOOKUPS {
                    // Time to say how far this has come.
                    unfinished = true;
                    break;
                }
                let mut run = total - next;
                let mut zero = [true; 2];
                for (image, (size, zero)) in images.iter().zip(sizes.iter().zip(&mut zero)) {
                    if let Some(left) = size.checked_sub(next).filter(|left| *left > 0) {
                        (*zero, run) = image.zero_run(next, run.min(left))?;
                    }
                }
                if zero == [true; 2] {
                    (next, done) = (next + run, done + run);
                    continue;
                }
                let bytes = usize::try_from(run).unwrap_or(usize::MAX).min(BUFFER_BYTES);
                for disk in (0..2).filter(|disk| !zero[*disk]) {
                    transfer.add(disk, buffers[disk], 0..bytes, next, Direction::Read);
                }
                *pair = Some(Pair { offset: next, bytes, zero });
                next += bytes as u64;
                unfinished = true;
                break;
            }
        }
        if progress(done, total) == ControlFlow::Break(()) {
            return Err(OperationError::Interrupted);
        }
        if !unfinished && (next == total || first_difference.is_some()) {
            return Ok(Comparison { first_difference, sizes: (sizes[0], sizes[1]) });
        }
        transfer.wait().map_err(failed)?;
    }
}

/// Where what the images store begins to differ, whatever it is: what is allocated, known to be zero, compressed, or has a
/// place of its own. To be called for disks of one size. `progress` as for a copy.
pub fn compare_allocation(
    first: &OpenImage,
    second: &OpenImage,
    progress: Progress<'_>,
) -> Result<Option<u64>, OperationError> {
    let total = first.disk().capacity().min(second.disk().capacity());
    let kind = |status: RangeStatus| {
        (status.present, status.zero, status.data, status.compressed, status.offset.is_some())
    };
    let mut at = 0;
    while at < total {
        let (left, run) = first.status(at, total - at)?;
        let (right, run) = second.status(at, run)?;
        if kind(left) != kind(right) {
            return Ok(Some(at));
        }
        at += run;
        if progress(at, total) == ControlFlow::Break(()) {
            return Err(OperationError::Interrupted);
        }
    }
    Ok(None)
}

/// A range whose content is being read, as far as it is not known to be zero.
#[derive(Debug, Clone, Copy)]
struct Pair {
    offset: u64,
    bytes: usize,
    zero: [bool; 2],
}

/// Where the contents of a pair differ first.
fn difference(transfer: &Transfer, buffers: [usize; 2], bytes: usize, zero: [bool; 2]) -> Option<usize> {
    let [left, right] = buffers.map(|buffer| transfer.content(buffer));
    match zero {
        [false, false] if left[..bytes] == right[..bytes] => None,
        [false, false] => left[..bytes].iter().zip(&right[..bytes]).position(|(left, right)| left != right),
        [true, _] => right[..bytes].iter().position(|byte| *byte != 0),
        [_, true] => left[..bytes].iter().position(|byte| *byte != 0),
    }
}
