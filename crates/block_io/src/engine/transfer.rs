//! A read, write or sync in progress: where it goes on after the kernel did a part of it.

use std::os::fd::AsRawFd;

use rustix::io::Errno;

use super::Target;
use crate::segment::Segment;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the file.
    Read,
    /// To the file; `durable` waits for stable storage.
    Write { durable: bool },
    /// Nowhere: what was written becomes stable.
    Sync,
}

/// Most pieces of memory that the kernel takes in one call (UIO_MAXIOV).
const PIECES_PER_CALL: usize = 1024;

/// What to do after the kernel has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask the kernel again, for the rest.
    Again,
    /// It has ended.
    Ended(Result<(), Errno>),
}

/// An operation and how far it has come.
pub(crate) struct Transfer {
    direction: Direction,
    offset: u64,
    pieces: Box<[libc::iovec]>,
    first: usize,
}

#[expect(unsafe_code, reason = "holds segments as the kernel's iovec")]
// SAFETY: the pieces were made from `Segment`s, which may move between threads for the reason given there.
unsafe impl Send for Transfer {}

impl Transfer {
    pub(crate) fn new(direction: Direction, offset: u64, segments: &[Segment]) -> Self {
        let pieces = segments
            .iter()
            .filter(|segment| segment.bytes() > 0)
            .map(|segment| libc::iovec {
                iov_base: segment.pointer().as_ptr().cast(),
                iov_len: segment.bytes(),
            })
            .collect();
        Self { direction, offset, pieces, first: 0 }
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// What is left, as far as one call takes it.
    pub(crate) fn pieces(&self) -> &[libc::iovec] {
        let left = &self.pieces[self.first..];
        &left[..left.len().min(PIECES_PER_CALL)]
    }

    /// Whether there is nothing to do (a transfer of no bytes).
    pub(crate) fn is_done(&self) -> bool {
        self.direction != Direction::Sync && self.first == self.pieces.len()
    }

    /// Takes the kernel's answer to a call for [`Transfer::pieces`]: bytes done, or an error.
    pub(crate) fn answer(&mut self, result: Result<usize, Errno>, zeroes_beyond_end: bool) -> Next {
        match (result, self.direction) {
            // The ring cancels what a thread that ends had in flight; the queue may have moved on to another thread.
            (Err(Errno::INTR | Errno::AGAIN | Errno::CANCELED), _) => Next::Again,
            (Err(error), _) => Next::Ended(Err(error)),
            (Ok(_), Direction::Sync) => Next::Ended(Ok(())),
            (Ok(0), Direction::Read) if zeroes_beyond_end => {
                self.zero_rest();
                Next::Ended(Ok(()))
            }
            (Ok(0), _) => Next::Ended(Err(Errno::IO)),
            (Ok(bytes), _) => {
                self.advance(bytes);
                if self.is_done() { Next::Ended(Ok(())) } else { Next::Again }
            }
        }
    }

    fn advance(&mut self, mut bytes: usize) {
        self.offset += bytes as u64;
        while bytes > 0
            && let Some(piece) = self.pieces.get_mut(self.first)
        {
            if bytes < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(bytes);
                piece.iov_len -= bytes;
                return;
            }
            bytes -= piece.iov_len;
            self.first += 1;
        }
    }

    #[expect(unsafe_code, reason = "fills memory that is named by pointers")]
    fn zero_rest(&mut self) {
        for piece in &self.pieces[self.first..] {
            // SAFETY: a piece is what is left of a segment, whose memory is mapped and not borrowed (`Segment::new`).
            unsafe { std::ptr::write_bytes(piece.iov_base.cast::<u8>(), 0, piece.iov_len) };
        }
        self.first = self.pieces.len();
    }

    /// Does all of it, waiting.
    pub(crate) fn run(&mut self, target: &Target) -> Result<(), Errno> {
        if self.is_done() {
            return Ok(());
        }
        loop {
            let result = self.call(target);
            if let Next::Ended(result) = self.answer(result, target.zeroes_beyond_end) {
                return result;
            }
        }
    }

    #[expect(unsafe_code, reason = "vectored I/O on memory that is named by pointers")]
    fn call(&self, target: &Target) -> Result<usize, Errno> {
        let fd = target.file.as_raw_fd();
        let pieces = self.pieces();
        let Ok(offset) = libc::off64_t::try_from(self.offset) else { return Err(Errno::INVAL) };
        // At most PIECES_PER_CALL.
        let count = libc::c_int::try_from(pieces.len()).map_err(|_| Errno::INVAL)?;
        let result = match self.direction {
            Direction::Sync => return rustix::fs::fdatasync(&*target.file).map(|()| 0),
            // SAFETY: the array is ours, of `count` entries, each naming memory that its segment's maker keeps mapped.
            Direction::Read => unsafe { libc::preadv2(fd, pieces.as_ptr(), count, offset, 0) },
            Direction::Write { durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                // SAFETY: as for reading.
                unsafe { libc::pwritev2(fd, pieces.as_ptr(), count, offset, flags) }
            }
        };
        usize::try_from(result).map_err(|_| last_errno())
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
