//! What can be wrong with the description of a device.

use std::path::PathBuf;

use crate::queue::MAX_QUEUE_SIZE;

/// The smallest queue that a device of ours can work with: a header, one buffer and a status make a request.
pub const MIN_QUEUE_SIZE: u16 = 4;

/// Why a device could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A queue's size.
    #[error("queue size {0} is not a power of two between {MIN_QUEUE_SIZE} and {MAX_QUEUE_SIZE}")]
    QueueSize(u16),
    /// Too many or too few of something.
    #[error("{count} {what}: must be between {least} and {most}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The fewest that are allowed.
        least: usize,
        /// The most that are allowed.
        most: usize,
    },
    /// A text that the guest is to see.
    #[error("{what} {text:?} is longer than {most} bytes or contains a zero byte")]
    Text {
        /// What the text is.
        what: &'static str,
        /// The text.
        text: String,
        /// The most bytes it may have.
        most: usize,
    },
    /// The source of entropy.
    #[error("cannot open entropy source {path}: {source}", path = path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Checks a queue's size.
pub(crate) fn check_queue_size(size: u16) -> Result<(), BuildError> {
    if size.is_power_of_two() && (MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&size) {
        Ok(())
    } else {
        Err(BuildError::QueueSize(size))
    }
}

/// Checks how many of something there are.
pub(crate) fn check_count(
    what: &'static str,
    count: usize,
    least: usize,
    most: usize,
) -> Result<(), BuildError> {
    if (least..=most).contains(&count) { Ok(()) } else { Err(BuildError::Count { what, count, least, most }) }
}

/// Checks a text that the guest is to see.
pub(crate) fn check_text(what: &'static str, text: &str, most: usize) -> Result<(), BuildError> {
    if text.len() > most || text.contains('\0') {
        return Err(BuildError::Text { what, text: text.to_owned(), most });
    }
    Ok(())
}
