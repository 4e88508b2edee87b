//! Why an image is refused: one line that names the field and its value.

use std::io;

/// Why an image cannot be used, or a part of it not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is something else.
    #[error("not a {format} image: {field} is missing")]
    Magic {
        /// Name of the format that was expected.
        format: &'static str,
        /// What identifies it.
        field: &'static str,
    },
    /// A number has a value that it may not have.
    #[error("{field} is {value}: {rule}")]
    Field {
        /// Name in the specification.
        field: &'static str,
        /// Value found.
        value: u64,
        /// What is allowed.
        rule: String,
    },
    /// A string has a value that it may not have.
    #[error("{field} is {value:?}: {rule}")]
    Text {
        /// Name in the specification.
        field: &'static str,
        /// Value found, cut to a readable length.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A structure does not lie within the file.
    #[error("{what} at byte {offset} does not fit: the file has {bytes} bytes")]
    Cut {
        /// The structure.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// Size of the file.
        bytes: u64,
    },
    /// A structure does not have the checksum that it names.
    #[error("{what} at byte {offset} is damaged: its checksum is wrong")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// Where it begins.
        offset: u64,
    },
    /// The file could not be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// The structure.
        what: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// Something that the format knows and that is not supported here.
    #[error("{0}")]
    Unsupported(String),
    /// A file that the image consists of is at fault.
    #[error("extent {name:?}: {source}")]
    Extent {
        /// Its name in the descriptor.
        name: String,
        /// What is wrong with it.
        source: Box<ImageError>,
    },
}

/// Longest part of a string from an image that messages repeat, characters.
const MOST_QUOTED: usize = 80;

impl ImageError {
    /// A number that breaks a rule.
    pub(super) fn field(field: &'static str, value: impl Into<u64>, rule: impl Into<String>) -> Self {
        Self::Field { field, value: value.into(), rule: rule.into() }
    }

    /// A string that breaks a rule.
    pub(super) fn text(field: &'static str, value: &str, rule: &'static str) -> Self {
        Self::Text { field, value: value.chars().take(MOST_QUOTED).collect(), rule }
    }
}

/// `Err` with [`ImageError::field`] unless the condition holds.
pub(super) fn require(
    holds: bool,
    field: &'static str,
    value: impl Into<u64>,
    rule: impl Into<String>,
) -> Result<(), ImageError> {
    if holds { Ok(()) } else { Err(ImageError::field(field, value, rule)) }
}
