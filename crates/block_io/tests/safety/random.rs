//! Numbers, ranges and bytes that follow from a seed, and cases that say theirs when they fail.

use std::fmt::Write as _;
use std::ops::Range;

/// Size of a sector, bytes: the unit of everything that is random here.
pub(crate) const SECTOR: usize = 512;

/// A generator (xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds give unlike sequences, and the state is never 0.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `most`, which is positive.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() >> 16) as usize % most
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Whole sectors among `bytes` bytes, short or long: at least one, and at most `most`.
    pub(crate) fn range(&mut self, bytes: usize, most: usize) -> Range<usize> {
        let first = self.below(bytes / SECTOR);
        let longest = self.choose(&[4, 40, most]).min(most);
        let sectors = (1 + self.below(longest)).min(bytes / SECTOR - first);
        first * SECTOR..(first + sectors) * SECTOR
    }

    /// Bytes with stretches of zeroes, of one value, and of noise.
    pub(crate) fn content(&mut self, bytes: usize) -> Vec<u8> {
        let mut content = vec![0; bytes];
        let mut at = 0;
        while at < bytes {
            at += self.below(300) * SECTOR;
            let end = (at + (1 + self.below(200)) * SECTOR).min(bytes);
            let kind = self.below(3);
            for byte in content.get_mut(at.min(end)..end).unwrap_or_default() {
                *byte = if kind == 0 { 0x5a } else { self.next().to_be_bytes()[0] };
            }
            at = end;
        }
        content
    }
}

/// What a case did, printed when it fails.
pub(crate) struct Case {
    seed: u64,
    log: String,
}

impl Case {
    pub(crate) fn note(&mut self, what: impl std::fmt::Display) {
        let _ = writeln!(self.log, "  {what}");
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("case {}: VIREO_SEED={} repeats it\n{}", self.seed, self.seed, self.log);
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// How many times as many cases as usual are wanted.
pub(crate) fn factor() -> u64 {
    setting("VIREO_CASES").unwrap_or(1)
}

/// Runs `count` cases (times `VIREO_CASES`), or the one that `VIREO_SEED` names.
pub(crate) fn for_each_case(count: u64, run: impl Fn(&mut Case, &mut Random)) {
    let seeds = match setting("VIREO_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * factor(),
    };
    for seed in seeds {
        run(&mut Case { seed, log: String::new() }, &mut Random::new(seed));
    }
}
