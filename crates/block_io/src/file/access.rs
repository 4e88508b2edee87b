//! The parts of a raw disk's work that wait: bounced I/O, discards, zeroes. They run on an engine's threads.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::CacheMode;
use super::layout::{Kind, Layout};
use crate::engine::{Direction, Target, Transfer};
use crate::segment::{Cursor, Segment};

/// Largest bounce buffer, bytes: what one misaligned request may cost of memory.
const BOUNCE_BYTES: usize = 1 << 20;
/// Alignment of bounce buffers, bytes: a page is enough for every device.
const BOUNCE_ALIGNMENT: usize = 4096;
/// `BLKDISCARD`, `_IO(0x12, 119)`, and `BLKZEROOUT`, `_IO(0x12, 127)`, of linux/fs.h.
const BLKDISCARD: u32 = 0x1277;
const BLKZEROOUT: u32 = 0x127f;

/// A buffer that begins at a multiple of a given alignment.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

impl AlignedBuffer {
    /// `bytes` zeroes at a multiple of `alignment`, a power of two.
    pub(crate) fn new(bytes: usize, alignment: usize) -> Self {
        let memory = vec![0; bytes + alignment];
        let start = memory.as_ptr().align_offset(alignment).min(alignment);
        Self { memory, start, bytes }
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

/// A part of a request, and the whole blocks around it.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where the first block begins.
    start: u64,
    /// Bytes of the blocks.
    whole: usize,
    /// Where the part begins in them.
    within: usize,
    /// Bytes of the part.
    bytes: usize,
}

/// Whether a file is known to read as zeroes from `offset` on (a hole), and for how many of `bytes` bytes that holds. The
/// range lies within the file. lseek(2): SEEK_DATA, SEEK_HOLE.
pub(crate) fn zero_run(file: &File, offset: u64, bytes: u64) -> Result<(bool, u64), Errno> {
    let cut = |end: u64| end.saturating_sub(offset).min(bytes);
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => Ok((true, bytes)),
        // A device, or a file system that can't tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((false, bytes)),
        Err(errno) => Err(errno),
        // Holes end with blocks of the file system: whole sectors.
        Ok(data) if data > offset => Ok((true, cut(data))),
        Ok(_) => Ok((false, cut(rustix::fs::seek(file, SeekFrom::Hole(offset))?).max(1))),
    }
}

/// An open disk file: everything that a thread needs to work on it.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) file: Arc<File>,
    pub(crate) layout: Layout,
    pub(crate) cache: CacheMode,
}

impl Access {
    /// What an engine works on.
    pub(crate) fn target(&self) -> Target {
        Target { file: Arc::clone(&self.file), zeroes_beyond_end: self.layout.kind == Kind::RegularFile }
    }

    /// Whether memory is not aligned as O_DIRECT wants it.
    pub(crate) fn needs_bounce(&self, segments: &[Segment]) -> bool {
        self.cache.direct()
            && segments.iter().any(|segment| {
                !segment.pointer().as_ptr().addr().is_multiple_of(self.layout.memory_alignment as usize)
                    || !segment.bytes().is_multiple_of(self.layout.geometry.logical_block_bytes as usize)
            })
    }

    /// Whether a range does not consist of whole blocks of the file, so that only a read-modify-write can change it.
    pub(crate) fn splits_blocks(&self, offset: u64, bytes: u64) -> bool {
        let block = u64::from(self.layout.geometry.logical_block_bytes);
        self.cache.direct() && !(offset.is_multiple_of(block) && bytes.is_multiple_of(block))
    }

    fn must_bounce(&self, offset: u64, segments: &[Segment]) -> bool {
        let bytes = segments.iter().map(|segment| segment.bytes() as u64).sum();
        self.needs_bounce(segments) || self.splits_blocks(offset, bytes)
    }

    /// Whether a write must reach stable storage before it completes.
    pub(crate) fn durable(&self, asked: bool) -> bool {
        self.cache != CacheMode::Unsafe && (asked || self.cache.write_through())
    }

    /// Fills the segments from `offset`, whatever their alignment. Waits.
    pub(crate) fn read(&self, offset: u64, segments: &[Segment]) -> Result<(), Errno> {
        if self.must_bounce(offset, segments) {
            return self.read_bounced(offset, segments);
        }
        Transfer::new(Direction::Read, offset, segments).run(&self.target())
    }

    /// Stores the segments at `offset`, whatever their alignment. Waits. Of a block of the file that is not written whole, the
    /// rest is read and written back: nobody else may write to it meanwhile.
    pub(crate) fn write(&self, offset: u64, segments: &[Segment]) -> Result<(), Errno> {
        if self.must_bounce(offset, segments) {
            return self.write_bounced(offset, segments, false);
        }
        Transfer::new(Direction::Write { durable: false }, offset, segments).run(&self.target())
    }

    pub(crate) fn read_bounced(&self, mut offset: u64, segments: &[Segment]) -> Result<(), Errno> {
        let mut left: usize = segments.iter().map(Segment::bytes).sum();
        let mut buffer = self.bounce_buffer(left);
        let mut cursor = Cursor::new(segments);
        while left > 0 {
            let piece = self.piece(offset, left);
            let bytes = &mut buffer.bytes()[..piece.whole];
            self.transfer(Direction::Read, piece.start, bytes)?;
            cursor.scatter(&bytes[piece.within..piece.within + piece.bytes]);
            left -= piece.bytes;
            offset += piece.bytes as u64;
        }
        Ok(())
    }

    /// A buffer for the pieces of a request of `bytes` bytes, with the rest of its first and last blocks.
    fn bounce_buffer(&self, bytes: usize) -> AlignedBuffer {
        let blocks = 2 * self.layout.geometry.logical_block_bytes as usize;
        AlignedBuffer::new(bytes.min(BOUNCE_BYTES) + blocks, BOUNCE_ALIGNMENT)
    }

    /// The first bytes of a range, with the whole blocks that they lie in.
    fn piece(&self, offset: u64, left: usize) -> Piece {
        let block = u64::from(self.layout.geometry.logical_block_bytes);
        // Less than a block.
        let within = usize::try_from(offset % block).unwrap_or(0);
        let bytes = left.min(BOUNCE_BYTES - within);
        let block = self.layout.geometry.logical_block_bytes as usize;
        let whole =
            if self.cache.direct() { (within + bytes).next_multiple_of(block) } else { within + bytes };
        Piece { start: offset - within as u64, whole, within, bytes }
    }

    pub(crate) fn write_bounced(
        &self,
        mut offset: u64,
        segments: &[Segment],
        durable: bool,
    ) -> Result<(), Errno> {
        let mut left: usize = segments.iter().map(Segment::bytes).sum();
        let mut buffer = self.bounce_buffer(left);
        let mut cursor = Cursor::new(segments);
        let block = self.layout.geometry.logical_block_bytes as usize;
        while left > 0 {
            let piece = self.piece(offset, left);
            let bytes = &mut buffer.bytes()[..piece.whole];
            let end = piece.within + piece.bytes;
            if piece.within > 0 {
                self.transfer(Direction::Read, piece.start, &mut bytes[..block])?;
            }
            if end < piece.whole && (piece.within == 0 || piece.whole > block) {
                let last = piece.whole - block;
                self.transfer(Direction::Read, piece.start + last as u64, &mut bytes[last..])?;
            }
            cursor.gather(&mut bytes[piece.within..end]);
            self.transfer(Direction::Write { durable }, piece.start, bytes)?;
            left -= piece.bytes;
            offset += piece.bytes as u64;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "names a buffer for the kernel")]
    fn transfer(&self, direction: Direction, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let Some(pointer) = NonNull::new(bytes.as_mut_ptr()) else { return Err(Errno::FAULT) };
        // SAFETY: `bytes` is borrowed for longer than the transfer, which ends before this function does, and is not
        // looked at meanwhile.
        let segment = unsafe { Segment::new(pointer, bytes.len()) };
        let target =
            Target { file: Arc::clone(&self.file), zeroes_beyond_end: self.layout.kind == Kind::RegularFile };
        Transfer::new(direction, offset, &[segment]).run(&target)
    }

    /// As [`zero_run`] of its file.
    pub(crate) fn zero_run(&self, offset: u64, bytes: u64) -> Result<(bool, u64), Errno> {
        zero_run(&self.file, offset, bytes)
    }

    /// Reserves storage for a range without writing to it.
    pub(crate) fn reserve(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        self.allocate(FallocateFlags::empty(), offset, bytes)
    }

    /// Gives storage back where that is possible; a disk that can't is no error.
    pub(crate) fn discard(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        let result = match self.layout.kind {
            Kind::RegularFile => self.allocate(FallocateFlags::PUNCH_HOLE, offset, bytes),
            Kind::BlockDevice => self.device_range(BLKDISCARD, offset, bytes),
        };
        match result {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY) => Ok(()),
            Ok(()) => self.settle(),
            Err(errno) => Err(errno),
        }
    }

    pub(crate) fn write_zeroes(&self, offset: u64, bytes: u64, may_unmap: bool) -> Result<(), Errno> {
        // On a block device these mean: zero, deallocating; zero, keeping it allocated (since Linux 4.9).
        let punch = || self.allocate(FallocateFlags::PUNCH_HOLE, offset, bytes);
        let zero = || self.allocate(FallocateFlags::ZERO_RANGE, offset, bytes);
        let device = || match self.layout.kind {
            Kind::RegularFile => Err(Errno::OPNOTSUPP),
            Kind::BlockDevice => self.device_range(BLKZEROOUT, offset, bytes),
        };
        let unmapped = if may_unmap { punch() } else { Err(Errno::OPNOTSUPP) };
        unmapped
            .or_else(|errno| if cannot(errno) { zero() } else { Err(errno) })
            .or_else(|errno| if cannot(errno) { device() } else { Err(errno) })
            .or_else(|errno| if cannot(errno) { self.write_zero_bytes(offset, bytes) } else { Err(errno) })?;
        self.settle()
    }

    pub(crate) fn write_zero_bytes(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        let most = usize::try_from(bytes).unwrap_or(BOUNCE_BYTES).min(BOUNCE_BYTES);
        let mut buffer = AlignedBuffer::new(most, BOUNCE_ALIGNMENT);
        let mut done = 0;
        while done < bytes {
            let chunk = usize::try_from(bytes - done).unwrap_or(most).min(most);
            let direction = Direction::Write { durable: false };
            self.transfer(direction, offset + done, &mut buffer.bytes()[..chunk])?;
            done += chunk as u64;
        }
        Ok(())
    }

    /// Where completed means durable, makes it so.
    fn settle(&self) -> Result<(), Errno> {
        if self.cache.write_through() { rustix::fs::fdatasync(&*self.file) } else { Ok(()) }
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, bytes: u64) -> Result<(), Errno> {
        loop {
            match rustix::fs::fallocate(&*self.file, mode | FallocateFlags::KEEP_SIZE, offset, bytes) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    #[expect(unsafe_code, reason = "an ioctl(2) of block devices")]
    fn device_range(&self, request: u32, offset: u64, bytes: u64) -> Result<(), Errno> {
        let range = [offset, bytes];
        // SAFETY: both requests read two 64-bit numbers, the range, from the address given.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request.into(), range.as_ptr()) };
        if result == 0 {
            return Ok(());
        }
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Whether an error says that a way of doing something does not exist here, so that another is worth trying.
fn cannot(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY | Errno::INVAL)
}
