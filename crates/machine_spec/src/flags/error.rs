//! What is wrong with an option.

/// Why an option is refused: one line with the option, the reason and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// There is no such option.
    #[error("--{option}: unknown option: see --help")]
    UnknownOption {
        /// Its name.
        option: String,
    },
    /// It describes something that there is once.
    #[error("--{option}: given twice: give it once")]
    DuplicateOption {
        /// Its name.
        option: &'static str,
    },
    /// It has no value, or an empty one.
    #[error("--{option}: no value: see --help for what it takes")]
    NoValue {
        /// Its name.
        option: &'static str,
    },
    /// The value has a part that is not known.
    #[error("--{option}: unknown key {key:?}: the keys are {known}")]
    UnknownKey {
        /// Its name.
        option: &'static str,
        /// The key.
        key: String,
        /// What would be one.
        known: String,
    },
    /// The value has the same key twice.
    #[error("--{option}: key {key} is there twice: give it once")]
    DuplicateKey {
        /// Its name.
        option: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A key has no value.
    #[error("--{option}: key {key} has no value: write {key}=VALUE or leave it out")]
    MissingValue {
        /// Its name.
        option: &'static str,
        /// The key.
        key: String,
    },
    /// A key that is needed is missing.
    #[error("--{option}: no {key}: add {key}=VALUE")]
    MissingKey {
        /// Its name.
        option: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A part has no key and is not the first.
    #[error("--{option}: {part:?} has no key: write KEY=VALUE, where KEY is one of {known}")]
    NoKey {
        /// Its name.
        option: &'static str,
        /// The part.
        part: String,
        /// What would be a key.
        known: String,
    },
    /// The value of a key is of the wrong kind.
    #[error("--{option}: {key} {value:?} is not understood: write {expected}")]
    Value {
        /// Its name.
        option: &'static str,
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The value is of the wrong kind.
    #[error("--{option}: {value:?} is not understood: write {expected}")]
    Plain {
        /// Its name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A quote or bracket is not closed, or closed without having been opened.
    #[error(
        "--{option}: unbalanced {delimiter} in {value:?}: close it, or put the part between double quotes"
    )]
    Unbalanced {
        /// Its name.
        option: &'static str,
        /// Which one.
        delimiter: char,
        /// What was given.
        value: String,
    },
}
