//! One system call for one frame that lies in pieces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use vm_memory::VolatileSlice;

use crate::backend::VNET_HEADER_BYTES;

/// Pieces that are named without allocating: the usual frame has one or two.
const ON_STACK: usize = 16;
/// Two addresses and a type (IEEE 802.3).
const ETHERNET_HEADER_BYTES: usize = 14;
/// Most pieces that the kernel takes (UIO_MAXIOV).
const MOST_PIECES: usize = 1024;

const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Runs `call` on the pieces' addresses. What is beyond the kernel's limit of pieces is left out.
fn with_pieces<R>(buffers: &[VolatileSlice<'_>], call: impl FnOnce(&[libc::iovec]) -> R) -> R {
    let buffers = &buffers[..buffers.len().min(MOST_PIECES)];
    let name = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    if buffers.len() <= ON_STACK {
        let mut pieces = [NOTHING; ON_STACK];
        for (piece, slice) in pieces.iter_mut().zip(buffers) {
            *piece = name(slice);
        }
        call(&pieces[..buffers.len()])
    } else {
        call(&buffers.iter().map(name).collect::<Vec<_>>())
    }
}

/// Repeats a system call that a signal interrupted.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(bytes) = usize::try_from(call()) {
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Reads one frame into the pieces; `None` when there is none.
#[expect(unsafe_code, reason = "vectored reading into a guest's memory")]
pub(crate) fn read_frame(fd: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>]) -> io::Result<Option<usize>> {
    let result = with_pieces(buffers, |pieces| {
        // At most MOST_PIECES.
        let count = libc::c_int::try_from(pieces.len()).unwrap_or(0);
        // SAFETY: each piece is a volatile slice's memory, valid for writes while the slice is borrowed, which is longer
        // than the call; nobody holds a reference to it, since it is a guest's.
        retry(|| unsafe { libc::readv(fd.as_raw_fd(), pieces.as_ptr(), count) })
    });
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the pieces as one frame. What is too short to be one is refused: a write of nothing would seem to succeed.
#[expect(unsafe_code, reason = "vectored writing out of a guest's memory")]
pub(crate) fn write_frame(fd: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>]) -> io::Result<()> {
    if total_bytes(buffers) < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame shorter than its headers"));
    }
    if buffers.len() > MOST_PIECES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame in more than 1024 pieces"));
    }
    with_pieces(buffers, |pieces| {
        let count = libc::c_int::try_from(pieces.len()).unwrap_or(0);
        // SAFETY: as in `read_frame`; the kernel only reads here.
        retry(|| unsafe { libc::writev(fd.as_raw_fd(), pieces.as_ptr(), count) }).map(|_| ())
    })
}

/// Sum of the lengths; what overflows is longer than any frame.
pub(crate) fn total_bytes(buffers: &[VolatileSlice<'_>]) -> usize {
    buffers.iter().fold(0, |sum, slice| sum.saturating_add(slice.len()))
}

/// Copies what is in the pieces from `skip` on, at most `most` bytes of the first `bytes`.
pub(crate) fn gather(buffers: &[VolatileSlice<'_>], bytes: usize, mut skip: usize, most: usize) -> Vec<u8> {
    let mut left = bytes.saturating_sub(skip).min(most);
    let mut copy = Vec::with_capacity(left);
    for slice in buffers {
        let from = skip.min(slice.len());
        skip -= from;
        let Ok(rest) = slice.offset(from) else { continue };
        let start = copy.len();
        copy.resize(start + rest.len().min(left), 0);
        left -= rest.copy_to(&mut copy[start..]);
    }
    copy
}

/// Copies `bytes` into the pieces from `skip` on, and returns how many there was room for.
pub(crate) fn scatter(buffers: &[VolatileSlice<'_>], mut skip: usize, bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for slice in buffers {
        let from = skip.min(slice.len());
        skip -= from;
        let Ok(room) = slice.offset(from) else { continue };
        let (here, later) = rest.split_at(rest.len().min(room.len()));
        room.copy_from(here);
        rest = later;
    }
    bytes.len() - rest.len()
}

/// Overwrites the first `bytes` bytes of the pieces with zeroes.
pub(crate) fn zero_start(buffers: &[VolatileSlice<'_>], mut bytes: usize) {
    const ZEROES: [u8; 64] = [0; 64];
    for slice in buffers {
        let mut within = 0;
        while bytes > 0 && within < slice.len() {
            let chunk = bytes.min(slice.len() - within).min(ZEROES.len());
            let Ok(part) = slice.subslice(within, chunk) else { return };
            part.copy_from(&ZEROES[..chunk]);
            within += chunk;
            bytes -= chunk;
        }
    }
}
