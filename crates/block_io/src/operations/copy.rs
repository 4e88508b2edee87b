//! Copying a disk into a new image, without its zeroes.

use std::ops::{ControlFlow, Range};

use super::transfer::{BUFFER_BYTES, DEPTH, Direction, Failed, Transfer};
use super::{OpenImage, OperationError, Progress};
use crate::backend::BlockBackend;

/// Runs of zeroes shorter than this are written: holes that small cost more than they save.
const LEAST_HOLE_BYTES: usize = 4096;
const SOURCE: usize = 0;
const TARGET: usize = 1;

/// Copies `source` to `target`, which has at least its size and reads as zeroes everywhere, and makes that durable.
/// Zeroes are not written: neither what the source knows to be zero (holes, unallocated clusters) nor what is found to be.
///
/// Eight buffers of 1 MiB are on their way at the same time. `progress` is told bytes done and in all, and may end the copy
/// with [`OperationError::Interrupted`].
pub fn copy_to_new(
    source: &OpenImage,
    target: &dyn BlockBackend,
    progress: Progress<'_>,
) -> Result<(), OperationError> {
    let total = source.disk().capacity();
    if target.capacity() < total {
        return Err(OperationError::TooSmall { needed: total, found: target.capacity() });
    }
    let failed = |failed: Failed| {
        let operation = if failed.disk == SOURCE { "read the source" } else { "write to the target" };
        OperationError::Transfer { operation, offset: failed.offset, source: failed.errno.into() }
    };
    let unit = usize::try_from(target.geometry().physical_block_bytes).unwrap_or(LEAST_HOLE_BYTES);
    let unit = unit.clamp(LEAST_HOLE_BYTES, BUFFER_BYTES);
    let mut transfer = Transfer::open(&[source.disk(), target], DEPTH)?;
    let mut states = [State::Free; DEPTH];
    let (mut next, mut done) = (0, 0);
    loop {
        for (buffer, state) in states.iter_mut().enumerate() {
            if !transfer.is_idle(buffer) {
                continue;
            }
            if let State::Reading { offset, bytes } = *state {
                for part in used_parts(&transfer.content(buffer)[..bytes], offset, unit) {
                    let at = offset + part.start as u64;
                    transfer.add(TARGET, buffer, part, at, Direction::Write);
                }
                *state = State::Writing { bytes };
            }
            if !transfer.is_idle(buffer) {
                continue;
            }
            if let State::Writing { bytes } = *state {
                done += bytes as u64;
                *state = State::Free;
            }
            while next < total {
                let (zero, run) = source.zero_run(next, total - next)?;
                if zero {
                    (next, done) = (next + run, done + run);
                    continue;
                }
                let bytes = usize::try_from(run).unwrap_or(usize::MAX).min(BUFFER_BYTES);
                transfer.add(SOURCE, buffer, 0..bytes, next, Direction::Read);
                *state = State::Reading { offset: next, bytes };
                next += bytes as u64;
                break;
            }
        }
        if progress(done, total) == ControlFlow::Break(()) {
            return Err(OperationError::Interrupted);
        }
        if done == total {
            return transfer.flush(TARGET).map_err(failed);
        }
        transfer.wait().map_err(failed)?;
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Free,
    Reading { offset: u64, bytes: usize },
    Writing { bytes: usize },
}

/// The parts of what begins at `offset` of the disk that are not zero, in whole units of the disk (a power of two).
fn used_parts(content: &[u8], offset: u64, unit: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < content.len() {
        // The remainder is less than the unit.
        let into = usize::try_from(offset % unit as u64).unwrap_or(0);
        let end = (at + unit - (into + at) % unit).min(content.len());
        if content[at..end].iter().any(|byte| *byte != 0) {
            match parts.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => parts.push(at..end),
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
    fn parts_without_zeroes_are_whole_units_of_the_disk() {
        let mut content = vec![0; 4096 * 4];
        assert_eq!(used_parts(&content, 512, 4096), []);
        content[3583] = 1;
        content[3584] = 1;
        assert_eq!(used_parts(&content, 512, 4096), [Range { start: 0, end: 7680 }]);
        content[16383] = 1;
        assert_eq!(used_parts(&content, 512, 4096), [0..7680, 15872..16384]);
    }
}
