//! The parts of a VHDX file that have structure: 4 KiB each of a header, the region table, the metadata table, its items and
//! the block allocation table where qemu-img puts them, then the start of the log.
#![no_main]

use std::sync::Arc;

use block_io::formats::Format;
use libfuzzer_sys::fuzz_target;
use vireo_fuzz::{Pieces, no_extents, read};

const PLACES: [u64; 6] = [64 << 10, 192 << 10, 3 << 20, (3 << 20) + (64 << 10), 2 << 20, 1 << 20];
const PIECE_BYTES: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let mut pieces = vec![(0, b"vhdxfile".to_vec())];
    let mut rest = input;
    for (number, place) in PLACES.into_iter().enumerate() {
        let length = if number + 1 == PLACES.len() { rest.len() } else { rest.len().min(PIECE_BYTES) };
        let (piece, next) = rest.split_at(length);
        pieces.push((place, piece.to_vec()));
        rest = next;
    }
    let file = Pieces { pieces, bytes: 8 << 20 };
    read(Format::Vhdx, Arc::new(file), &mut no_extents);
});
