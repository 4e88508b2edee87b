//! Memory that takes part in a request, and copying between it and buffers of our own.
//!
//! The memory usually belongs to a guest that may change it at any time, so nothing here ever makes a reference to it:
//! bytes are copied through raw pointers, once.

use std::ptr::NonNull;

/// A piece of memory that takes part in a request.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pointer: NonNull<u8>,
    bytes: usize,
}

#[expect(unsafe_code, reason = "a segment is a pointer that moves to another thread with its request")]
// SAFETY: whoever made the segment promised (see `Segment::new`) that the memory stays valid, on any thread, until the
// request's completion has been reaped.
unsafe impl Send for Segment {}

impl Segment {
    /// Names `bytes` bytes of memory at `pointer`.
    ///
    /// # Safety
    /// Until the completion of every request that the segment is part of has been reaped, or that request's queue has
    /// been dropped, the memory must stay mapped and must not be borrowed as a Rust reference. It may be changed at any
    /// time by a guest.
    #[expect(unsafe_code, reason = "the caller vouches for the memory")]
    pub unsafe fn new(pointer: NonNull<u8>, bytes: usize) -> Self {
        Self { pointer, bytes }
    }

    /// Names a buffer for work that fills it and ends before this function does.
    #[expect(unsafe_code, reason = "names a buffer for the kernel")]
    pub(crate) fn over_mut<R>(buffer: &mut [u8], work: impl FnOnce(Segment) -> R) -> R {
        // SAFETY: the buffer is borrowed until the work, which waits for all I/O, has ended, and is not looked at meanwhile.
        work(unsafe { Self::new(NonNull::from(&mut *buffer).cast(), buffer.len()) })
    }

    /// Names a buffer for work that stores it and ends before this function does. The work must not write to it.
    #[expect(unsafe_code, reason = "names a buffer for the kernel")]
    pub(crate) fn over<R>(buffer: &[u8], work: impl FnOnce(Segment) -> R) -> R {
        // SAFETY: as in `over_mut`; work that stores data only reads the memory, which may be shared for that.
        work(unsafe { Self::new(NonNull::from(buffer).cast(), buffer.len()) })
    }

    /// Start of the memory.
    pub fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The piece's `bytes` bytes from `at`, both cut to what there is.
    fn part(&self, at: usize, bytes: usize) -> Self {
        let at = at.min(self.bytes);
        // `at` is within the piece, so the pointer stays inside (or one past the end of) its memory.
        let address = self.pointer.as_ptr().wrapping_add(at);
        let pointer = NonNull::new(address).unwrap_or(self.pointer);
        Self { pointer, bytes: bytes.min(self.bytes - at) }
    }
}

/// Sum of the lengths, or `None` on overflow.
pub(crate) fn total_bytes(segments: &[Segment]) -> Option<u64> {
    segments.iter().try_fold(0u64, |sum, segment| sum.checked_add(segment.bytes as u64))
}

/// Walks through a request's memory from its start.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    segments: &'a [Segment],
    within: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(segments: &'a [Segment]) -> Self {
        Self { segments, within: 0 }
    }

    /// The next piece of at most `bytes` bytes; `None` at the end.
    fn next_piece(&mut self, bytes: usize) -> Option<Segment> {
        loop {
            let first = self.segments.first()?;
            let piece = first.part(self.within, bytes);
            if piece.bytes == 0 && bytes != 0 {
                self.segments = &self.segments[1..];
                self.within = 0;
                continue;
            }
            self.within += piece.bytes;
            return Some(piece);
        }
    }

    /// The next `bytes` bytes as segments, and moves past them. Shorter at the end.
    pub(crate) fn take(&mut self, mut bytes: usize) -> Vec<Segment> {
        let mut taken = Vec::new();
        while bytes > 0
            && let Some(piece) = self.next_piece(bytes)
        {
            bytes -= piece.bytes;
            taken.push(piece);
        }
        taken
    }

    /// Moves past `bytes` bytes.
    pub(crate) fn skip(&mut self, mut bytes: u64) {
        while bytes > 0
            && let Some(piece) = self.next_piece(usize::try_from(bytes).unwrap_or(usize::MAX))
        {
            bytes -= piece.bytes as u64;
        }
    }

    /// Copies from the memory into `buffer`. Returns how much there was.
    #[expect(unsafe_code, reason = "copies out of memory that is named by pointers")]
    pub(crate) fn gather(&mut self, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len()
            && let Some(piece) = self.next_piece(buffer.len() - done)
        {
            let target = &mut buffer[done..done + piece.bytes];
            // SAFETY: the maker of the segment keeps its memory mapped (`Segment::new`) and not borrowed, so it can't
            // overlap `buffer`; `piece` is cut to lie inside the segment and to fit `target`.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.pointer.as_ptr(), target.as_mut_ptr(), piece.bytes)
            };
            done += piece.bytes;
        }
        done
    }

    /// Copies `buffer` into the memory. Returns how much there was room for.
    #[expect(unsafe_code, reason = "copies into memory that is named by pointers")]
    pub(crate) fn scatter(&mut self, buffer: &[u8]) -> usize {
        let mut done = 0;
        while done < buffer.len()
            && let Some(piece) = self.next_piece(buffer.len() - done)
        {
            let source = &buffer[done..done + piece.bytes];
            // SAFETY: as in `gather`, in the other direction.
            unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), piece.pointer.as_ptr(), piece.bytes) };
            done += piece.bytes;
        }
        done
    }

    /// Fills the next `bytes` bytes of the memory with zeroes.
    #[expect(unsafe_code, reason = "writes to memory that is named by pointers")]
    pub(crate) fn fill_zeroes(&mut self, mut bytes: u64) {
        while bytes > 0
            && let Some(piece) = self.next_piece(usize::try_from(bytes).unwrap_or(usize::MAX))
        {
            // SAFETY: as in `scatter`: mapped, not borrowed, and `piece` lies inside its segment.
            unsafe { std::ptr::write_bytes(piece.pointer.as_ptr(), 0, piece.bytes) };
            bytes -= piece.bytes as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "names a test's own buffer")]
    fn pieces(buffer: &mut [u8], lengths: &[usize]) -> Vec<Segment> {
        let mut at = 0;
        let start = NonNull::new(buffer.as_mut_ptr()).unwrap();
        lengths
            .iter()
            .map(|length| {
                assert!(at + length <= buffer.len());
                // SAFETY: inside `buffer`, which the test keeps and looks at only when it is done with the segments.
                let piece = unsafe { Segment::new(start.add(at), *length) };
                at += length;
                piece
            })
            .collect()
    }

    #[test]
    fn bytes_are_scattered_over_pieces_of_any_length_and_gathered_back() {
        let mut memory = [0u8; 10];
        let segments = pieces(&mut memory, &[1, 0, 4, 5]);
        let mut cursor = Cursor::new(&segments);
        assert_eq!(cursor.scatter(&[1, 2, 3]), 3);
        assert_eq!(cursor.scatter(&[4, 5, 6, 7]), 4);
        cursor.fill_zeroes(1);
        assert_eq!(cursor.scatter(&[9, 9, 9]), 2, "only two bytes are left");
        let mut copy = [0xff; 12];
        assert_eq!(Cursor::new(&segments).gather(&mut copy), 10);
        assert_eq!(copy, [1, 2, 3, 4, 5, 6, 7, 0, 9, 9, 0xff, 0xff]);
    }

    #[test]
    fn a_cursor_takes_and_skips_across_pieces() {
        let mut memory = [0, 1, 2, 3, 4, 5, 6, 7];
        let segments = pieces(&mut memory, &[3, 5]);
        let mut cursor = Cursor::new(&segments);
        cursor.skip(2);
        let middle = cursor.take(4);
        assert_eq!(middle.iter().map(Segment::bytes).collect::<Vec<_>>(), [1, 3]);
        let mut copy = [0; 4];
        Cursor::new(&middle).gather(&mut copy);
        assert_eq!(copy, [2, 3, 4, 5]);
        assert_eq!(total_bytes(&cursor.take(100)), Some(2));
    }
}
