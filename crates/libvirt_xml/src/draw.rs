//! Arbitrary models for tests, drawn from bytes: no bytes left means the smallest model, so that shorter inputs are simpler ones.

use crate::size::{Bytes as ByteSize, Kib};
use crate::tree::Kept;
use crate::value::{Hex, MAX_SET_MEMBER, MacAddress, NumberSet, Uuid};

/// Where models are drawn from.
pub(crate) struct Bytes {
    left: std::vec::IntoIter<u8>,
    depth: usize,
}

impl Bytes {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { left: bytes.into_iter(), depth: 0 }
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.left.next().unwrap_or(0)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[usize::from(self.byte()) % choice.len()]
    }

    pub(crate) fn nested<T>(&mut self, draw: impl FnOnce(&mut Self) -> T) -> T {
        self.depth += 1;
        if self.depth > 24 {
            self.left = Vec::new().into_iter();
        }
        let drawn = draw(self);
        self.depth -= 1;
        drawn
    }
}

/// A type with arbitrary values.
pub(crate) trait Draw {
    fn draw(bytes: &mut Bytes) -> Self;
}

macro_rules! draw_numbers {
    ($($type:ty),*) => {$(
        impl Draw for $type {
            fn draw(bytes: &mut Bytes) -> Self {
                Self::from_le_bytes(bytes.array())
            }
        }
    )*};
}

draw_numbers!(u8, u16, u32, u64, i32, i64);

impl Draw for bool {
    fn draw(bytes: &mut Bytes) -> Self {
        bytes.byte() % 2 == 1
    }
}

impl Draw for String {
    /// Never empty, and with no blank at the ends.
    fn draw(bytes: &mut Bytes) -> Self {
        let length = bytes.byte() % 4;
        let inner: String = (0..length)
            .map(|_| bytes.one_of(&['x', '<', '&', '\'', '"', ' ', 'é', '>', '\n', '\r']))
            .collect();
        format!("a{inner}b")
    }
}

impl<T: Draw> Draw for Option<T> {
    fn draw(bytes: &mut Bytes) -> Self {
        (bytes.byte() % 4 == 1).then(|| T::draw(bytes))
    }
}

impl<T: Draw> Draw for Box<T> {
    fn draw(bytes: &mut Bytes) -> Self {
        Self::new(T::draw(bytes))
    }
}

impl<T: Draw> Draw for Vec<T> {
    fn draw(bytes: &mut Bytes) -> Self {
        let length = [0, 1, 0, 2][usize::from(bytes.byte() % 4)];
        (0..length).map(|_| T::draw(bytes)).collect()
    }
}

impl<const DIGITS: usize> Draw for Hex<DIGITS> {
    fn draw(bytes: &mut Bytes) -> Self {
        Self(Draw::draw(bytes))
    }
}

impl Draw for Uuid {
    fn draw(bytes: &mut Bytes) -> Self {
        Self(bytes.array())
    }
}

impl Draw for MacAddress {
    fn draw(bytes: &mut Bytes) -> Self {
        Self(bytes.array())
    }
}

impl Draw for NumberSet {
    fn draw(bytes: &mut Bytes) -> Self {
        let length = bytes.byte() % 4 + 1;
        (0..length).map(|_| u32::from(u16::draw(bytes)) % (MAX_SET_MEMBER + 1)).collect()
    }
}

impl Draw for Kib {
    fn draw(bytes: &mut Bytes) -> Self {
        Self(u64::draw(bytes) >> 10)
    }
}

impl Draw for ByteSize {
    fn draw(bytes: &mut Bytes) -> Self {
        Self(Draw::draw(bytes))
    }
}

impl Draw for Kept {
    /// Nothing: only certain names are kept, and samples cover them.
    fn draw(_: &mut Bytes) -> Self {
        Self::default()
    }
}
