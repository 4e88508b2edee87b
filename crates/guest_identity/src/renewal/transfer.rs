//! A file system on its way out of a disk into a file, and what has changed in it on its way back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use block_io::operations::OpenImage;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{Progress, RenewalError};

/// Bytes that are moved at a time.
const CHUNK: u64 = 1 << 20;
/// Bytes that are compared and written at a time.
const BLOCK: usize = 4096;

/// Copies `bytes` bytes of a disk into a new sparse file.
pub(super) fn copy_out(
    disk: &OpenImage,
    start: u64,
    bytes: u64,
    path: &Path,
    progress: Progress<'_>,
) -> Result<File, RenewalError> {
    let fail = || RenewalError::host(format!("write {}", path.display()));
    let file = File::options().read(true).write(true).create_new(true).open(path).map_err(fail())?;
    file.set_len(bytes).map_err(fail())?;
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < bytes {
        let (status, run) = disk.status(start + at, bytes - at)?;
        let run = if status.zero { run } else { run.min(CHUNK) };
        if !status.zero {
            buffer.resize(chunk(run), 0);
            disk.read_waiting(start + at, &mut buffer).map_err(RenewalError::host("read the disk"))?;
            file.write_all_at(&buffer, at).map_err(fail())?;
        }
        at += run;
        advance(progress, at, bytes)?;
    }
    Ok(file)
}

/// Writes what differs between a file and its place on a disk.
pub(super) fn copy_back(
    file: &File,
    disk: &OpenImage,
    start: u64,
    bytes: u64,
    progress: Progress<'_>,
) -> Result<(), RenewalError> {
    let fail = || RenewalError::host("read the changed file system");
    let (mut new, mut old) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < bytes {
        let (zero, run) = zero_run(file, at, bytes).map_err(|errno| fail()(errno.into()))?;
        let (status, run) = disk.status(start + at, run)?;
        let both_zero = zero && status.zero;
        let run = if both_zero { run } else { run.min(CHUNK) };
        if !both_zero {
            new.resize(chunk(run), 0);
            old.resize(chunk(run), 0);
            file.read_exact_at(&mut new, at).map_err(fail())?;
            disk.read_waiting(start + at, &mut old).map_err(RenewalError::host("read the disk"))?;
            let mut place = start + at;
            for (new, old) in new.chunks(BLOCK).zip(old.chunks(BLOCK)) {
                if new != old {
                    disk.write_waiting(place, new)
                        .map_err(|errno| RenewalError::host("write the disk")(errno.into()))?;
                }
                place += new.len() as u64;
            }
        }
        at += run;
        advance(progress, at, bytes)?;
    }
    Ok(())
}

/// At most [`CHUNK`].
fn chunk(run: u64) -> usize {
    usize::try_from(run).unwrap_or(BLOCK)
}

fn advance(progress: Progress<'_>, done: u64, total: u64) -> Result<(), RenewalError> {
    if progress(done, total).is_break() { Err(RenewalError::Interrupted) } else { Ok(()) }
}

/// Whether a file has a hole at `at`, and for how many bytes up to `end` that holds.
fn zero_run(file: &File, at: u64, end: u64) -> Result<(bool, u64), Errno> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data > at => Ok((true, data.min(end) - at)),
        Ok(_) => {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(at))?;
            Ok((false, hole.clamp(at + 1, end) - at))
        }
        Err(Errno::NXIO) => Ok((true, end - at)),
        Err(errno) => Err(errno),
    }
}
