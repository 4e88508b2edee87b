//! The kernel's command line: checked text that is passed on as it is.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

/// Where the command line lies in guest memory.
pub(super) const ADDRESS: u64 = 0x2_0000;

/// The longest command line in bytes, without the terminating zero. A kernel may take less and says so in its header;
/// this bound is for those that say nothing or anything.
pub const MAXIMUM_LENGTH: usize = 0xffff;

/// Why a command line can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// A zero byte would end it early.
    #[error(
        "the command line has a zero byte at position {0}, where the kernel would stop reading: remove it"
    )]
    Zero(usize),
    /// Too long.
    #[error("the command line is {length} bytes long and the kernel takes {limit}: shorten it")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The most that fits.
        limit: usize,
    },
}

/// A command line without zero bytes that fits into its place in guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine(String);

impl CommandLine {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<Self, CommandLineError> {
        if let Some(position) = text.find('\0') {
            return Err(CommandLineError::Zero(position));
        }
        let line = Self(text.to_owned());
        line.check_length(MAXIMUM_LENGTH)?;
        Ok(line)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks that a kernel which takes `limit` bytes takes this line.
    pub(super) fn check_length(&self, limit: usize) -> Result<(), CommandLineError> {
        let length = self.0.len();
        if length > limit { Err(CommandLineError::TooLong { length, limit }) } else { Ok(()) }
    }

    /// Writes the line with its terminating zero at [`ADDRESS`].
    pub(super) fn write(&self, memory: &GuestMemoryMmap<()>) -> Result<(), GuestMemoryError> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1);
        bytes.extend_from_slice(self.0.as_bytes());
        bytes.push(0);
        memory.write_slice(&bytes, GuestAddress(ADDRESS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kept_as_it_is() {
        let text = " console=ttyS0  root=\"/dev/vda\"\n";
        assert_eq!(CommandLine::new(text).unwrap().as_str(), text);
    }

    #[test]
    fn a_zero_byte_is_refused_where_it_is() {
        assert_eq!(CommandLine::new("ab\0c"), Err(CommandLineError::Zero(2)));
    }

    #[test]
    fn the_limit_itself_fits_and_one_more_byte_does_not() {
        assert!(CommandLine::new(&"x".repeat(MAXIMUM_LENGTH)).is_ok());
        let error = CommandLine::new(&"x".repeat(MAXIMUM_LENGTH + 1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the command line is 65536 bytes long and the kernel takes 65535: shorten it"
        );
    }
}
