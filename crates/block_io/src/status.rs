//! How ranges of a disk are stored: what maps of images, copies between layers and comparisons are made from.

/// How a range of a disk is stored. Layers are counted from the image down its backing chain, beginning with 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeStatus {
    /// The layer that decides about the range.
    pub layer: usize,
    /// Whether that layer has it; if not, nobody has, and it reads as zeroes.
    pub present: bool,
    /// Whether it is known to read as zeroes.
    pub zero: bool,
    /// Whether the layer stores data for it.
    pub data: bool,
    /// Whether the data is compressed.
    pub compressed: bool,
    /// Number of the file that stores it: the layer's, or of the image's files where there are several.
    pub file: usize,
    /// Where in that file, bytes, if it has a place of its own there.
    pub offset: Option<u64>,
}

impl RangeStatus {
    /// Zeroes because `layer` has nothing, and nothing is below it.
    pub(crate) fn absent(layer: usize) -> Self {
        Self { layer, present: false, zero: true, data: false, compressed: false, file: layer, offset: None }
    }

    /// Zeroes, because `layer` says so.
    pub(crate) fn zero(layer: usize, offset: Option<u64>) -> Self {
        Self { present: true, offset, ..Self::absent(layer) }
    }

    /// Data at a place in the layer's file.
    pub(crate) fn data(layer: usize, offset: u64) -> Self {
        Self { zero: false, data: true, ..Self::zero(layer, Some(offset)) }
    }

    /// Compressed data.
    pub(crate) fn compressed(layer: usize) -> Self {
        Self { zero: false, data: true, compressed: true, ..Self::zero(layer, None) }
    }

    /// Whether a range of this status that begins `bytes` after one of `self` is its continuation.
    pub fn continues(&self, bytes: u64, next: &Self) -> bool {
        let expected = self.offset.map(|offset| offset.saturating_add(bytes));
        *next == Self { offset: expected, ..*self }
    }
}
