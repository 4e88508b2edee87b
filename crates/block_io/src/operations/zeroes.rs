//! Finding zeroes in what was read.

use std::ops::Range;

/// Bytes that are looked at in one step: what compilers make vector instructions of.
const STEP: usize = 128;

/// Whether all bytes are zero.
pub(super) fn is_zero(content: &[u8]) -> bool {
    let (steps, rest) = content.as_chunks::<STEP>();
    let any = |bytes: &[u8]| bytes.iter().fold(0, |any, byte| any | byte);
    steps.iter().all(|step| any(step) == 0) && any(rest) == 0
}

/// The parts of what begins at `offset` of the disk that are not zero, in whole units of the disk (a power of two). Zeroes
/// between two of them count only if there are at least `least` bytes.
pub(super) fn used_parts(content: &[u8], offset: u64, unit: usize, least: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at < content.len() {
        // The remainder is less than the unit.
        let into = usize::try_from(offset % unit as u64).unwrap_or(0);
        let end = (at + unit - (into + at) % unit).min(content.len());
        if !is_zero(&content[at..end]) {
            match parts.last_mut() {
                Some(last) if at == last.end || at - last.end < least => last.end = end,
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
        assert_eq!(used_parts(&content, 512, 4096, 4096), []);
        content[3583] = 1;
        content[3584] = 1;
        assert_eq!(used_parts(&content, 512, 4096, 4096), [Range { start: 0, end: 7680 }]);
        content[16383] = 1;
        assert_eq!(used_parts(&content, 512, 4096, 4096), [0..7680, 15872..16384]);
        assert_eq!(used_parts(&content, 512, 4096, 8192), [0..7680, 15872..16384]);
        assert_eq!(used_parts(&content, 512, 4096, 8193), [Range { start: 0, end: 16384 }]);
    }

    #[test]
    fn a_single_bit_anywhere_is_not_zero() {
        for length in [1, 127, 128, 129, 4096] {
            let mut content = vec![0; length];
            assert!(is_zero(&content));
            for at in 0..length {
                content[at] = 0x80;
                assert!(!is_zero(&content), "{at} of {length}");
                content[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }
}
