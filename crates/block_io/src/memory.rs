//! Disks without storage: RAM, and nothing. For tests, benchmarks and scratch disks.
//!
//! Requests are done by the thread that submits them, before `submit` returns. Lock: the RAM disk's content, held for one
//! request.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::backend::{
    BlockBackend, BlockError, BlockGeometry, BlockOperation, BlockQueue, BlockRequest, Completion, QueueFull,
};
use crate::request::{Limits, check};
use crate::segment::{Cursor, total_bytes};

const GEOMETRY: BlockGeometry =
    BlockGeometry { logical_block_bytes: 512, physical_block_bytes: 4096, discard_bytes: 4096 };

/// A disk in RAM, zeroed at first. Pages that were never written take no memory.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    content: Arc<RwLock<Vec<u8>>>,
    read_only: bool,
}

impl MemoryDisk {
    /// A disk of `bytes` zero bytes, a multiple of 512.
    pub fn new(bytes: u64) -> Result<Self, BlockError> {
        let size = size_in_memory(bytes)?;
        Ok(Self { content: Arc::new(RwLock::new(vec![0; size])), read_only: false })
    }

    /// The same disk, with writes refused.
    pub fn to_read_only(&self) -> Self {
        Self { content: Arc::clone(&self.content), read_only: true }
    }
}

/// A disk that reads as zeroes and forgets what is written: the cost of everything but storage.
#[derive(Debug, Clone)]
pub struct NullDisk {
    bytes: Arc<AtomicU64>,
}

impl NullDisk {
    /// A disk of `bytes` bytes, a multiple of 512.
    pub fn new(bytes: u64) -> Result<Self, BlockError> {
        check_size(bytes)?;
        Ok(Self { bytes: Arc::new(AtomicU64::new(bytes)) })
    }
}

fn fail(operation: String, advice: &str) -> BlockError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, advice);
    BlockError { path: Path::new("memory").to_owned(), operation, source }
}

fn check_size(bytes: u64) -> Result<(), BlockError> {
    if bytes == 0 || !bytes.is_multiple_of(u64::from(GEOMETRY.logical_block_bytes)) {
        return Err(fail(format!("cannot make a disk of {bytes} bytes"), "use a positive multiple of 512"));
    }
    Ok(())
}

fn size_in_memory(bytes: u64) -> Result<usize, BlockError> {
    check_size(bytes)?;
    usize::try_from(bytes).ok().filter(|size| *size <= isize::MAX.unsigned_abs()).ok_or_else(|| {
        fail(format!("cannot make a disk of {bytes} bytes"), "that is more than the address space")
    })
}

impl BlockBackend for MemoryDisk {
    fn geometry(&self) -> BlockGeometry {
        GEOMETRY
    }

    fn capacity(&self) -> u64 {
        self.content.read().len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn write_cache(&self) -> bool {
        false
    }

    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        InstantQueue::open(self.clone(), depth)
    }

    fn resize(&self, bytes: u64) -> Result<(), BlockError> {
        if self.read_only {
            return Err(fail(format!("cannot resize to {bytes} bytes"), "the disk is read-only"));
        }
        let size = size_in_memory(bytes)?;
        self.content.write().resize(size, 0);
        Ok(())
    }
}

impl BlockBackend for NullDisk {
    fn geometry(&self) -> BlockGeometry {
        GEOMETRY
    }

    fn capacity(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    fn read_only(&self) -> bool {
        false
    }

    fn write_cache(&self) -> bool {
        false
    }

    fn open_queue(&self, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        InstantQueue::open(self.clone(), depth)
    }

    fn resize(&self, bytes: u64) -> Result<(), BlockError> {
        check_size(bytes)?;
        self.bytes.store(bytes, Ordering::Release);
        Ok(())
    }
}

/// What an [`InstantQueue`] works on.
trait Instant: Send {
    fn perform(&self, operation: &BlockOperation) -> Result<(), Errno>;
}

impl Instant for MemoryDisk {
    fn perform(&self, operation: &BlockOperation) -> Result<(), Errno> {
        // Checked under the lock that a resize takes too, so that the range still holds when it is accessed.
        let check = |capacity: usize| {
            let limits = Limits { geometry: GEOMETRY, capacity: capacity as u64, read_only: self.read_only };
            check(operation, &limits)
        };
        let position = |offset: u64| usize::try_from(offset).map_err(|_| Errno::INVAL);
        match operation {
            BlockOperation::Flush => Ok(()),
            BlockOperation::Read { offset, segments } => {
                let content = self.content.read();
                let (start, end) = (position(*offset)?, position(check(content.len())?)?);
                Cursor::new(segments).scatter(&content[start..end]);
                Ok(())
            }
            BlockOperation::Write { offset, segments, .. } => {
                let mut content = self.content.write();
                let (start, end) = (position(*offset)?, position(check(content.len())?)?);
                Cursor::new(segments).gather(&mut content[start..end]);
                Ok(())
            }
            BlockOperation::Discard { offset, .. } | BlockOperation::WriteZeroes { offset, .. } => {
                let mut content = self.content.write();
                let (start, end) = (position(*offset)?, position(check(content.len())?)?);
                content[start..end].fill(0);
                Ok(())
            }
        }
    }
}

impl Instant for NullDisk {
    fn perform(&self, operation: &BlockOperation) -> Result<(), Errno> {
        let limits = Limits { geometry: GEOMETRY, capacity: self.capacity(), read_only: false };
        check(operation, &limits)?;
        if let BlockOperation::Read { segments, .. } = operation {
            Cursor::new(segments).fill_zeroes(total_bytes(segments).unwrap_or(0));
        }
        Ok(())
    }
}

/// A queue whose requests are done when `submit` returns.
struct InstantQueue<T> {
    disk: T,
    depth: usize,
    done: Vec<Completion>,
    bell: OwnedFd,
}

impl<T: Instant + 'static> InstantQueue<T> {
    fn open(disk: T, depth: u32) -> Result<Box<dyn BlockQueue>, BlockError> {
        let bell =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| BlockError {
                path: Path::new("memory").to_owned(),
                operation: "cannot open a queue".to_owned(),
                source: errno.into(),
            })?;
        let depth = usize::try_from(depth.max(1)).unwrap_or(usize::MAX);
        Ok(Box::new(Self { disk, depth, done: Vec::new(), bell }))
    }
}

impl<T: Instant> BlockQueue for InstantQueue<T> {
    fn submit(&mut self, request: BlockRequest) -> Result<(), QueueFull> {
        if self.done.len() >= self.depth {
            return Err(QueueFull(request));
        }
        let result = self.disk.perform(&request.operation);
        self.done.push(Completion { tag: request.tag, result });
        // The only failure is a full counter: the bell rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        Ok(())
    }

    fn kick(&mut self) {}

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
        completions.append(&mut self.done);
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Subject;

    fn memory(bytes: u64, read_only: bool) -> Box<dyn BlockBackend> {
        let disk = MemoryDisk::new(bytes).unwrap();
        if read_only { Box::new(disk.to_read_only()) } else { Box::new(disk) }
    }

    fn null(bytes: u64, _read_only: bool) -> Box<dyn BlockBackend> {
        Box::new(NullDisk::new(bytes).unwrap())
    }

    crate::block_conformance!(memory_disk, Subject::new(memory));
    crate::block_conformance!(null_disk, Subject::new(null).forgetful());

    #[test]
    fn a_size_that_is_not_made_of_sectors_is_refused() {
        for bytes in [0, 1, 511, 513] {
            let error = MemoryDisk::new(bytes).unwrap_err().to_string();
            assert!(error.contains(&format!("{bytes} bytes")), "{error}");
            assert!(NullDisk::new(bytes).is_err());
        }
        assert!(MemoryDisk::new(u64::MAX - 511).is_err());
    }
}
