//! Frames in a stream of bytes: each follows its length, four bytes, highest first.

/// Bytes of a frame's length.
pub(super) const LENGTH_BYTES: usize = 4;

/// Two addresses and a type (IEEE 802.3): nothing shorter is a frame.
pub(super) const LEAST_FRAME_BYTES: usize = 14;

/// The longest frame: the largest IP packet, with an Ethernet header and a VLAN tag.
pub(super) const MOST_FRAME_BYTES: usize = 14 + 4 + 65_535;

// What is read ahead is never a whole frame.
const _: () = assert!(LENGTH_BYTES < LEAST_FRAME_BYTES);

/// What the other side sent is no frame, so where the next one begins can't be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes was announced, {LEAST_FRAME_BYTES} to {MOST_FRAME_BYTES} are possible")]
pub(super) struct OutOfStep(u32);

/// Puts the pieces of a stream together, a frame at a time. Never takes a whole frame ahead: as long as one is left, it is in the
/// socket, whose descriptor tells.
pub(super) struct Assembler {
    bytes: Box<[u8]>,
    /// How much of `bytes` has arrived.
    arrived: usize,
}

impl Assembler {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; LENGTH_BYTES + MOST_FRAME_BYTES + LENGTH_BYTES].into(), arrived: 0 }
    }

    /// Length of the frame that comes next, once that is known.
    fn length(&self) -> Result<Option<usize>, OutOfStep> {
        let Some(length) = self.bytes[..self.arrived].first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let announced = u32::from_be_bytes(*length);
        let possible = usize::try_from(announced)
            .ok()
            .filter(|length| (LEAST_FRAME_BYTES..=MOST_FRAME_BYTES).contains(length));
        possible.map(Some).ok_or(OutOfStep(announced))
    }

    /// The frame, if all of it is there.
    pub(super) fn frame(&self) -> Result<Option<&[u8]>, OutOfStep> {
        let Some(length) = self.length()? else { return Ok(None) };
        let end = LENGTH_BYTES + length;
        Ok((self.arrived >= end).then(|| &self.bytes[LENGTH_BYTES..end]))
    }

    /// Where the next bytes of the stream go: what the frame lacks, and the length of the one after it.
    pub(super) fn room(&mut self) -> Result<&mut [u8], OutOfStep> {
        let end = match self.length()? {
            None => LENGTH_BYTES,
            Some(length) => LENGTH_BYTES + length + LENGTH_BYTES,
        };
        Ok(&mut self.bytes[self.arrived..end])
    }

    /// So many bytes have been put into the room.
    pub(super) fn arrived(&mut self, bytes: usize) {
        self.arrived = (self.arrived + bytes).min(self.bytes.len());
    }

    /// Makes place for the next frame; does nothing while none is whole.
    pub(super) fn next(&mut self) {
        if let Ok(Some(frame)) = self.frame() {
            let end = LENGTH_BYTES + frame.len();
            self.bytes.copy_within(end..self.arrived, 0);
            self.arrived -= end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
        let frame =
            |frame: &Vec<u8>| [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame[..]].concat();
        frames.iter().flat_map(frame).collect()
    }

    /// Feeds a stream in pieces of these lengths, in turn, and returns the frames and why it ended.
    fn assemble(mut stream: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Option<OutOfStep>) {
        let (mut assembler, mut frames) = (Assembler::new(), Vec::new());
        let mut pieces = pieces.iter().cycle();
        loop {
            match assembler.frame() {
                Ok(Some(frame)) => {
                    frames.push(frame.to_vec());
                    assembler.next();
                    assert_eq!(assembler.frame().ok().flatten(), None, "a whole frame was read ahead");
                    continue;
                }
                Ok(None) => {}
                Err(error) => return (frames, Some(error)),
            }
            let room = assembler.room().unwrap();
            assert!(!room.is_empty(), "it asks for nothing and has no frame");
            let bytes = room.len().min(stream.len()).min(*pieces.next().unwrap());
            if stream.is_empty() {
                return (frames, None);
            }
            room[..bytes].copy_from_slice(&stream[..bytes]);
            stream = &stream[bytes..];
            assembler.arrived(bytes);
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 14..300), 0..20),
            pieces in prop::collection::vec(1usize..400, 1..8),
        ) {
            prop_assert_eq!(assemble(&stream(&frames), &pieces), (frames, None));
        }

        #[test]
        fn any_stream_is_frames_of_possible_lengths_and_perhaps_a_refusal(
            stream in prop::collection::vec(any::<u8>(), 0..2000),
            pieces in prop::collection::vec(1usize..400, 1..8),
        ) {
            let (frames, _) = assemble(&stream, &pieces);
            prop_assert!(frames.iter().all(|frame| (14..=65_553).contains(&frame.len())));
        }
    }

    #[test]
    fn the_longest_frame_passes_and_one_more_byte_is_refused() {
        let longest = vec![vec![7; 65_553]];
        assert_eq!(assemble(&stream(&longest), &[5000]), (longest, None));
        for length in [65_554, u32::MAX, 13, 0] {
            let (frames, error) = assemble(&length.to_be_bytes(), &[4]);
            assert_eq!((frames, error), (vec![], Some(OutOfStep(length))));
        }
    }
}
